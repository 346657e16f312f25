//! From a model reference to a model that can be planned: located, imported, bound, its shapes observed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tandem_ir::batch::{self, BatchProposal, Binding};
use tandem_ir::check::Severity;
use tandem_ir::plan::{Authored, BoundDim, PlannedGraph};
use tandem_onnx::import::{self, Model};
use tandem_onnx::value::{TensorValue, Value};

use crate::binding;
use crate::cli::BindArgs;
use crate::context::Context;

/// Where a reference leads: `zoo:NAME` (built when first asked for), `fetched:NAME`, or a path, relative to `base`.
pub fn locate(context: &Context, reference: &str, base: Option<&Path>) -> Result<PathBuf> {
    if let Some(name) = reference.strip_prefix("zoo:") {
        return Ok(tandem_models::cached(name, &context.models_dir())?);
    }
    if let Some(name) = reference.strip_prefix("fetched:") {
        let found = tandem_models::fetched(name, &context.models_dir())?;
        let path = found.and_then(|paths| paths.into_iter().next());
        return path.with_context(|| format!("{reference}: not fetched yet; run `tandem models fetch {name}`"));
    }
    let path = Path::new(reference);
    let path = base.map_or_else(|| path.to_owned(), |base| base.join(path));
    // A folder is the usual layout of a model repository: its model.onnx is meant.
    Ok(if path.is_dir() { path.join("model.onnx") } else { path })
}

/// Imports a model.
pub fn open(context: &Context, reference: &str, base: Option<&Path>) -> Result<Model> {
    let path = locate(context, reference, base)?;
    let model = import::import(&path)?;
    model.warnings.iter().for_each(|w| tracing::warn!("{reference}: {w}"));
    Ok(model)
}

/// A plan's models by tenant, bound as the plan says: paths are relative to the plan file unless overridden. A model that is
/// not the one among `planned` stays unbound: the plan's shapes are another's, and it is the check's to say so.
pub fn plan_models(
    context: &Context,
    authored: &Authored,
    planned: &[PlannedGraph],
    plan: &Path,
    overrides: &[String],
) -> Result<Vec<(String, Model)>> {
    let mut overrides = binding::overrides(overrides)?;
    let base = plan.parent().unwrap_or(Path::new(""));
    let mut models = vec![];
    for tenant in authored.tenants() {
        let mut model = match overrides.remove(&tenant.name) {
            Some(path) => open(context, &path, None)?,
            None => open(context, &tenant.model, Some(base))
                .with_context(|| format!("tenant \"{0}\" (--model {0}=PATH names another place)", tenant.name))?,
        };
        let foreign = planned.iter().any(|p| p.tenant == tenant.name && p.fingerprint != model.graph.fingerprint);
        if !foreign {
            apply(&mut model, &tenant.shapes).with_context(|| format!("tenant \"{}\"", tenant.name))?;
        }
        models.push((tenant.name.clone(), model));
    }
    if let Some(name) = overrides.keys().next() {
        bail!("--model {name}=...: the plan has no tenant \"{name}\"");
    }
    Ok(models)
}

/// How a model's inputs are bound, and what people should know of that.
pub type Bound = (Binding, Vec<String>);

/// Decides every input's dimensions: what the file says, then the zoo's or manifest's suggestion, then samples, then
/// `--shape`, the last one deciding; and writes them into the graph.
///
/// # Errors
/// Axes that stay free, and shapes that contradict the file.
pub fn bind(model: &mut Model, reference: &str, args: &BindArgs) -> Result<Bound> {
    let mut proposal = batch::propose(&model.graph);
    let guessed = proposal.inputs.clone();
    suggest(&mut proposal, reference);
    if let Some(path) = &args.sample {
        let sample = crate::commands::run::read_inputs(path, model)?;
        let names = model.graph.inputs.iter().map(|t| model.graph.tensor(*t).name.clone());
        for (name, value) in names.zip(&sample) {
            if let Value::Tensor(tensor) = value {
                from_sample(&mut proposal, &name, tensor);
            }
        }
    }
    for (name, dims) in binding::shapes(&args.shapes)? {
        let known = model.graph.inputs.iter().any(|t| model.graph.tensor(*t).name == name);
        if !known {
            let names: Vec<&str> = model.graph.inputs.iter().map(|t| model.graph.tensor(*t).name.as_str()).collect();
            bail!("--shape {name}=..: no such input; expected one of {}", names.join(", "));
        }
        let proposed = proposal.inputs.get(&name).cloned().unwrap_or_default();
        // One item on the axis that carries the batch is one item, not a promise to never batch (--batch 1 is that).
        let keep = |(axis, dim): (usize, BoundDim)| match (proposed.get(axis), dim) {
            (Some(Some(BoundDim::Batch(k))), BoundDim::Fixed(n)) if n == *k => BoundDim::Batch(*k),
            _ => dim,
        };
        let dims = dims.into_iter().enumerate().map(keep).map(Some).collect();
        proposal.free.retain(|f| f.input != name);
        proposal.inputs.insert(name, dims);
    }
    if proposal.inputs != guessed {
        proposal.note_anew(&model.graph);
    }
    let unbound = unbound(model, &proposal);
    let Some(binding) = proposal.binding().filter(|_| unbound.is_empty()) else {
        bail!(
            "{reference}: these dimensions are free and must be bound:\n{}  bind them with --shape NAME=DIMS, or --sample",
            unbound.iter().map(|u| format!("  {u}\n")).collect::<String>()
        );
    };
    apply(model, &binding)?;
    Ok((binding, proposal.notes))
}

/// Binds several models as [`bind`] does one: a `--shape` is for every model that has its input.
///
/// # Errors
/// As [`bind`]; shapes of inputs that no model has; a sample, for it holds one model's inputs.
pub fn bind_all(models: &mut [(String, Model)], references: &[&str], args: &BindArgs) -> Result<Vec<Bound>> {
    if let [(_, model)] = models {
        return Ok(vec![bind(model, references[0], args)?]);
    }
    if args.sample.is_some() {
        bail!("--sample: expected one model, found {}: bind their inputs with --shape", models.len());
    }
    let has = |model: &Model, name: &str| model.graph.inputs.iter().any(|t| model.graph.tensor(*t).name == name);
    for name in binding::shapes(&args.shapes)?.keys() {
        if !models.iter().any(|(_, model)| has(model, name)) {
            bail!("--shape {name}=..: no model has such an input");
        }
    }
    let mut bound = vec![];
    for ((name, model), reference) in models.iter_mut().zip(references) {
        let own = |text: &&String| text.rsplit_once('=').is_some_and(|(input, _)| has(model, input));
        let own = BindArgs { shapes: args.shapes.iter().filter(own).cloned().collect(), sample: None };
        let (binding, notes) = bind(model, reference, &own).with_context(|| format!("tenant \"{name}\""))?;
        bound.push((binding, notes.iter().map(|n| format!("{name}: {n}")).collect()));
    }
    Ok(bound)
}

/// A line for each input that is not wholly bound.
fn unbound(model: &Model, proposal: &BatchProposal) -> Vec<String> {
    let inputs = model.graph.inputs.iter().map(|t| model.graph.tensor(*t));
    let free = inputs
        .filter(|t| t.fact.kind == tandem_ir::Kind::Tensor)
        .filter(|t| proposal.inputs.get(&t.name).is_none_or(|dims| dims.iter().any(Option::is_none)));
    free.map(|t| format!("input \"{}\": {}", t.name, t.fact)).collect()
}

/// The zoo's default dimensions by symbol; the manifest's suggested shapes by input.
fn suggest(proposal: &mut BatchProposal, reference: &str) {
    if let Some(zoo) = reference.strip_prefix("zoo:").and_then(tandem_models::find) {
        for free in std::mem::take(&mut proposal.free) {
            let size = zoo.default_dims.iter().find(|(s, _)| Some(*s) == free.symbol.as_deref()).map(|(_, n)| *n);
            match (size, proposal.inputs.get_mut(&free.input)) {
                (Some(n), Some(dims)) => dims[free.axis] = Some(BoundDim::Fixed(n)),
                _ => proposal.free.push(free),
            }
        }
    }
    let Some(fetched) = reference.strip_prefix("fetched:").and_then(tandem_models::find_fetchable) else { return };
    for input in &fetched.inputs {
        let dim = |(axis, n): (usize, &u64)| match input.batch_axis {
            Some(batch) if batch == axis => Some(BoundDim::Batch((*n).max(1))),
            _ => Some(BoundDim::Fixed(*n)),
        };
        proposal.free.retain(|f| f.input != input.name);
        proposal.inputs.insert(input.name.clone(), input.suggested.iter().enumerate().map(dim).collect());
    }
}

/// Free axes take the sample's sizes; the batch axis stays one where the sample's size is a multiple.
fn from_sample(proposal: &mut BatchProposal, name: &str, sample: &TensorValue) {
    let known = proposal.inputs.get(name).filter(|dims| dims.len() == sample.dims.len()).cloned();
    let bind = |(axis, size): (usize, &u64)| match known.as_ref().and_then(|dims| dims[axis]) {
        Some(BoundDim::Batch(k)) if size % k.max(1) == 0 && *size > 0 => Some(BoundDim::Batch(k)),
        _ => Some(BoundDim::Fixed(*size)),
    };
    proposal.free.retain(|f| f.input != name);
    proposal.inputs.insert(name.to_owned(), sample.dims.iter().enumerate().map(bind).collect());
}

/// Writes a binding into the graph's input facts.
pub fn apply(model: &mut Model, binding: &BTreeMap<String, Vec<BoundDim>>) -> Result<()> {
    match batch::bind(&mut model.graph, binding) {
        Ok(findings) => {
            for finding in findings.iter().filter(|f| f.severity != Severity::Note) {
                tracing::warn!("{finding}");
            }
            Ok(())
        }
        Err(findings) => {
            let lines: Vec<String> = findings.iter().map(|f| format!("  {f}")).collect();
            bail!("the shapes do not fit the model:\n{}", lines.join("\n"))
        }
    }
}

/// Takes types and shapes of the values between segments from the route: what planning observed need not be observed again.
/// Sizes are left open, for engines must take what really comes.
pub fn trust(model: &mut Model, route: &tandem_ir::Route) {
    let ids: BTreeMap<String, tandem_ir::TensorId> =
        model.graph.tensor_index().into_iter().map(|(name, id)| (name.to_owned(), id)).collect();
    for stated in &route.tensors {
        let Some(id) = ids.get(&stated.name) else { continue };
        let fact = &mut model.graph.tensors[id.index()].fact;
        fact.dtype = fact.dtype.or(stated.dtype);
        if let (None, Some(dims)) = (&fact.shape, &stated.dims) {
            fact.shape = Some(vec![tandem_ir::Dim::Unknown; dims.len()]);
        }
    }
}
