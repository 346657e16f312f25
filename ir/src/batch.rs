//! Which axis carries the batch: proposed from declared inputs, bound by people, observed in runs.
//!
//! A proposal is a guess from names and positions; only runs with rows that differ prove it (the profiler's business). What
//! is observed goes into the graph's facts: an axis whose size is the same multiple of the batch in every run is the batch.

use std::collections::{BTreeMap, HashMap};

use crate::check::Finding;
use crate::dtype::DType;
use crate::graph::{Dim, Fact, Graph, Kind, NodeId, Origin, Tensor, TensorId};
use crate::plan::BoundDim;

/// One observed run: the batch it ran at, and what it showed.
pub type Run = (u64, Seen);

/// What a run showed of a graph's values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Element type and shape of each dense tensor by name.
    pub values: BTreeMap<String, (DType, Vec<u64>)>,
    /// The same of the control-flow bodies that were seen, by the node that holds one and the attribute it is in.
    pub bodies: BTreeMap<(NodeId, String), Seen>,
}

/// Dimensions of each input as an author binds them.
pub type Binding = BTreeMap<String, Vec<BoundDim>>;

/// An axis that neither the file nor the batch decides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FreeAxis {
    /// Name of the input.
    pub input: String,
    /// Position of the axis.
    pub axis: usize,
    /// What the file calls it.
    pub symbol: Option<String>,
}

/// What the declared inputs suggest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchProposal {
    /// Dimensions by input; `None` where an axis is free. Inputs of unknown rank are left out.
    pub inputs: BTreeMap<String, Vec<Option<BoundDim>>>,
    /// Axes that must be bound (`--shape NAME=1x3x640x640`), in the graph's order of inputs.
    pub free: Vec<FreeAxis>,
    /// Inputs without a batch axis in a model that has one: requests share a batch only where these are equal.
    pub equal_only: Vec<String>,
    /// What people should know.
    pub notes: Vec<String>,
}

impl BatchProposal {
    /// Whether any input has a batch axis.
    pub fn batches(&self) -> bool {
        self.inputs.values().flatten().any(|d| matches!(d, Some(BoundDim::Batch(_))))
    }

    /// The binding, once nothing is free.
    pub fn binding(&self) -> Option<Binding> {
        let bound = |(name, dims): (&String, &Vec<Option<BoundDim>>)| {
            Some((name.clone(), dims.iter().copied().collect::<Option<Vec<_>>>()?))
        };
        self.inputs.iter().map(bound).collect()
    }
}

impl BatchProposal {
    /// After a change of [`BatchProposal::inputs`]: notes on what they are now, in the place of those on what they were.
    pub fn note_anew(&mut self, graph: &Graph) {
        self.notes.clear();
        self.equal_only.clear();
        let tensors: Vec<&Tensor> = graph.inputs.iter().map(|t| graph.tensor(*t)).collect();
        note_inputs(&tensors, self);
    }
}

/// What a symbol's name says about batches.
#[derive(Clone, Copy, PartialEq)]
enum Meaning {
    Batch,
    Open,
    /// Time, atoms, pixels: first axes that are no batch though they are free.
    Other,
}

fn meaning(symbol: &str) -> Meaning {
    let lower = symbol.to_lowercase();
    if lower.contains("batch") || ["n", "b", "bs", "bsz"].contains(&lower.as_str()) {
        return Meaning::Batch;
    }
    let others = [
        "seq", "time", "len", "frame", "atom", "point", "token", "height", "width", "node", "edge", "sample",
        "channel", "box", "step",
    ];
    match others.iter().any(|o| lower.contains(o)) || ["t", "h", "w", "l", "s"].contains(&lower.as_str()) {
        true => Meaning::Other,
        false => Meaning::Open,
    }
}

/// `2*batch` as (2, `batch`); any other symbol as (1, itself).
fn scaled(symbol: &str) -> (u64, &str) {
    let Some((a, b)) = symbol.split_once('*') else { return (1, symbol) };
    match (a.trim().parse(), b.trim().parse()) {
        (Ok(n), Err(_)) if n > 0 => (n, b.trim()),
        (Err(_), Ok(n)) if n > 0 => (n, a.trim()),
        _ => (1, symbol),
    }
}

/// Proposes a batch axis for each input, from what the file declares of the inputs alone:
/// - a symbol named like a batch (`N`, `batch`, `batch_size`, ...) is the batch wherever it occurs, on any axis;
/// - else the one symbol that every free first axis has, unless its name says it is time, atoms or pixels;
/// - unnamed first axes are the batch where every input of rank one and more has a free first axis.
///
/// Scalars and inputs without such an axis are equal-only; other free axes stay free.
pub fn propose(graph: &Graph) -> BatchProposal {
    let mut proposal = BatchProposal::default();
    let tensors: Vec<&Tensor> = graph.inputs.iter().map(|t| graph.tensor(*t)).collect();
    let shaped: Vec<(&str, &[Dim])> =
        tensors.iter().filter_map(|t| Some((t.name.as_str(), t.fact.shape.as_deref()?))).collect();
    let firsts: Vec<&Dim> = shaped.iter().filter_map(|(_, dims)| dims.first()).collect();
    let all_free = !firsts.is_empty() && firsts.iter().all(|d| !matches!(d, Dim::Known(_)));
    let symbol = batch_symbol(&shaped, &firsts, &mut proposal.notes);
    for (name, dims) in &shaped {
        let bind = |(axis, dim): (usize, &Dim)| match dim {
            Dim::Known(n) => Some(BoundDim::Fixed(*n)),
            Dim::Batch { per_item } => Some(BoundDim::Batch(*per_item)),
            Dim::Symbol(s) if symbol.as_deref() == Some(scaled(s).1) => Some(BoundDim::Batch(scaled(s).0)),
            Dim::Unknown if axis == 0 && all_free && !misleads(&firsts) => Some(BoundDim::Batch(1)),
            _ => None,
        };
        let bound: Vec<Option<BoundDim>> = dims.iter().enumerate().map(bind).collect();
        for (axis, dim) in dims.iter().enumerate().filter(|(axis, _)| bound[*axis].is_none()) {
            let symbol = if let Dim::Symbol(s) = dim { Some(s.clone()) } else { None };
            proposal.free.push(FreeAxis { input: (*name).to_owned(), axis, symbol });
        }
        proposal.inputs.insert((*name).to_owned(), bound);
    }
    note_inputs(&tensors, &mut proposal);
    proposal
}

/// Whether a first axis is named as something else than a batch: then unnamed ones are no batch either.
fn misleads(firsts: &[&Dim]) -> bool {
    firsts.iter().any(|d| matches!(d, Dim::Symbol(s) if meaning(scaled(s).1) == Meaning::Other))
}

fn batch_symbol(shaped: &[(&str, &[Dim])], firsts: &[&Dim], notes: &mut Vec<String>) -> Option<String> {
    let name = |d: &Dim| if let Dim::Symbol(s) = d { Some(scaled(s).1.to_owned()) } else { None };
    let first_names: Vec<String> = firsts.iter().filter_map(|d| name(d)).collect();
    let mut named: BTreeMap<String, usize> = BTreeMap::new();
    for symbol in shaped.iter().flat_map(|(_, dims)| dims.iter().filter_map(name)) {
        if meaning(&symbol) == Meaning::Batch {
            let first = first_names.iter().filter(|f| **f == symbol).count();
            named.insert(symbol, first);
        }
    }
    // The one that leads most inputs; the first by name among equals.
    if let Some(most) = named.values().max().copied() {
        if named.len() > 1 {
            let all: Vec<&str> = named.keys().map(String::as_str).collect();
            notes.push(format!("several axes are named like a batch ({}): one of them is taken", all.join(", ")));
        }
        return named.into_iter().find(|(_, first)| *first == most).map(|(symbol, _)| symbol);
    }
    let first = first_names.first()?;
    if first_names.iter().any(|f| f != first) {
        notes
            .push(format!("first axes have different names ({}): none is taken for the batch", first_names.join(", ")));
        return None;
    }
    if meaning(first) == Meaning::Other {
        notes.push(format!("the first axis \"{first}\" is free, but its name does not say batch: it must be bound"));
        return None;
    }
    Some(first.clone())
}

fn note_inputs(tensors: &[&Tensor], proposal: &mut BatchProposal) {
    for t in tensors {
        let batched = |dims: &Vec<Option<BoundDim>>| dims.iter().any(|d| matches!(d, Some(BoundDim::Batch(_))));
        match proposal.inputs.get(&t.name) {
            None if t.fact.kind != Kind::Tensor => {
                proposal.notes.push(format!("input \"{}\" is no tensor ({}): batch 1 only", t.name, t.fact));
            }
            None => proposal.notes.push(format!("input \"{}\" has an unknown rank: it must be bound", t.name)),
            Some(dims) if proposal.batches() && !batched(dims) => {
                let rank = if dims.is_empty() { "is a scalar" } else { "has no batch axis" };
                proposal
                    .notes
                    .push(format!("input \"{}\" {rank}: requests share a batch only where it is equal", t.name));
                proposal.equal_only.push(t.name.clone());
            }
            Some(_) => {}
        }
    }
    if !proposal.batches() && !tensors.is_empty() {
        proposal.notes.push("no input has a batch axis: batch 1 only".into());
    }
}

/// Binds the inputs: checks a binding against what the file declares, and sets the inputs' facts to it. Returns warnings:
/// a declared size that differs (files can be wrong), one symbol bound to two sizes.
///
/// # Errors
/// Findings, with nothing changed: an input that is no input, a rank that differs from the declared one, a batch of no
/// items, an input with free axes that is not bound.
pub fn bind(graph: &mut Graph, binding: &Binding) -> Result<Vec<Finding>, Vec<Finding>> {
    let (mut errors, mut warnings) = (vec![], vec![]);
    let by_name: HashMap<&str, TensorId> = graph.inputs.iter().map(|t| (graph.tensor(*t).name.as_str(), *t)).collect();
    let mut sizes: BTreeMap<&str, (BoundDim, &str)> = BTreeMap::new();
    for (name, dims) in binding {
        let Some(id) = by_name.get(name.as_str()) else {
            let known: Vec<String> = graph.inputs.iter().map(|t| format!("\"{}\"", graph.tensor(*t).name)).collect();
            let message = format!("expected an input of the model ({}), found \"{name}\"", known.join(", "));
            errors.push(Finding::error(format!("shape \"{name}\""), message));
            continue;
        };
        let component = format!("input \"{name}\"");
        if dims.contains(&BoundDim::Batch(0)) {
            errors.push(Finding::error(&component, "expected at least one element an item, found 0N"));
        }
        let Some(declared) = &graph.tensor(*id).fact.shape else { continue };
        if declared.len() != dims.len() {
            let fact = &graph.tensor(*id).fact;
            let message = format!("expected {} dimensions ({fact}), found {}", declared.len(), dims.len());
            errors.push(Finding::error(&component, message));
            continue;
        }
        for (axis, (was, is)) in declared.iter().zip(dims).enumerate() {
            match was {
                Dim::Known(n) if *is != BoundDim::Fixed(*n) => {
                    let message = format!("axis {axis} is declared {n} and bound to {}", text(*is));
                    warnings.push(Finding::warning(&component, message));
                }
                Dim::Symbol(s) => match sizes.get(s.as_str()) {
                    Some((other, input)) if other != is => {
                        let message =
                            format!("\"{s}\" is bound to {} here and to {} in \"{input}\"", text(*is), text(*other));
                        warnings.push(Finding::warning(&component, message));
                    }
                    _ => drop(sizes.insert(s, (*is, name))),
                },
                _ => {}
            }
        }
    }
    for id in graph.inputs.iter().filter(|t| !binding.contains_key(&graph.tensor(**t).name)) {
        let tensor = graph.tensor(*id);
        if tensor.fact.kind == Kind::Tensor && tensor.fact.dims_at(1).is_none() {
            let message = format!("expected its dimensions, found {}: give --shape {}=...", tensor.fact, tensor.name);
            errors.push(Finding::error(format!("input \"{}\"", tensor.name), message));
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let ids: Vec<(TensorId, &Vec<BoundDim>)> =
        binding.iter().map(|(name, dims)| (by_name[name.as_str()], dims)).collect();
    for (id, dims) in ids {
        let fact = &mut graph.tensors[id.index()].fact;
        fact.shape = Some(dims.iter().map(|d| dim(*d)).collect());
        fact.origin = fact.origin.max(Origin::Inferred);
    }
    Ok(warnings)
}

/// A bound dimension as a fact.
pub fn dim(bound: BoundDim) -> Dim {
    match bound {
        BoundDim::Fixed(n) => Dim::Known(n),
        BoundDim::Batch(per_item) => Dim::Batch { per_item },
    }
}

fn text(bound: BoundDim) -> String {
    dim(bound).to_string()
}

/// Sets facts from observed runs; see [`apply_runs`].
pub fn apply_observations(graph: &mut Graph, runs: &[Run]) -> Vec<Finding> {
    apply_runs(graph, runs, Origin::Observed)
}

/// Sets the facts of the graph's tensors, and of those of its bodies, from runs at one, two or more batch sizes: a size
/// that is `k * batch` in every run is [`Dim::Batch`], one that is equal in every run is [`Dim::Known`], any other is
/// [`Dim::Unknown`]. With a single batch size nothing tells the two apart: all sizes are known, at that batch alone. What
/// is not in every run stays as it was, and so do facts of a better origin, and constants. Returns a warning for each
/// declared fact of the graph's own tensors that the runs contradict.
pub fn apply_runs(graph: &mut Graph, runs: &[Run], origin: Origin) -> Vec<Finding> {
    let runs: Vec<(u64, &Seen)> = runs.iter().map(|(batch, seen)| (*batch, seen)).collect();
    apply(graph, &runs, origin)
}

fn apply(graph: &mut Graph, runs: &[(u64, &Seen)], origin: Origin) -> Vec<Finding> {
    let mut findings = vec![];
    let Some((_, first_run)) = runs.first() else { return findings };
    for tensor in graph.tensors.iter_mut().filter(|t| t.constant.is_none() && t.fact.origin <= origin) {
        let one = |(batch, run): &(u64, &Seen)| run.values.get(&tensor.name).cloned().map(|seen| (*batch, seen));
        let Some(seen) = runs.iter().map(one).collect::<Option<Vec<_>>>() else { continue };
        let (dtype, first) = &seen[0].1;
        let same_rank = seen.iter().all(|(_, (_, dims))| dims.len() == first.len());
        let axis =
            |a: usize| size_of_axis(&seen.iter().map(|(batch, (_, dims))| (*batch, dims[a])).collect::<Vec<_>>());
        let shape = same_rank.then(|| (0..first.len()).map(axis).collect());
        let fact = Fact { kind: Kind::Tensor, dtype: Some(*dtype), shape, origin };
        if tensor.fact.origin == Origin::Declared && contradicts(&tensor.fact, &fact, &seen) {
            let message = format!("the file declares {}, a run gave {fact}", tensor.fact);
            findings.push(Finding::warning(format!("tensor \"{}\"", tensor.name), message));
        }
        tensor.fact = fact;
    }
    open_data_sizes(graph, &first_run.values);
    for id in graph.node_ids() {
        for (name, body) in &mut graph.nodes[id.index()].bodies {
            let key = (id, name.clone());
            let inside: Option<Vec<_>> = runs.iter().map(|(b, run)| Some((*b, run.bodies.get(&key)?))).collect();
            // Cost models alone read what a body declares: where it is wrong is not worth a warning.
            inside.map(|runs| apply(body, &runs, origin));
        }
    }
    findings
}

/// Operators of the default domain whose outputs' sizes are known only after the run.
const DATA_SIZED: [&str; 5] = ["NonZero", "Unique", "NonMaxSuppression", "Compress", "StringSplit"];

/// Opens sizes that depend on the data, however often a run gave the same: those of such operators' outputs, and, in what is
/// made of them, those that equal one. That may open a size that only happens to be equal, which costs knowledge, not
/// soundness.
fn open_data_sizes(graph: &mut Graph, values: &BTreeMap<String, (DType, Vec<u64>)>) {
    let mut open: HashMap<TensorId, Vec<u64>> = HashMap::new();
    for id in graph.node_ids() {
        let node = graph.node(id);
        let own = node.op.domain.is_empty() && DATA_SIZED.contains(&node.op.name.as_str());
        let inherited: Vec<u64> = node.reads().iter().filter_map(|t| open.get(t)).flatten().copied().collect();
        if !own && inherited.is_empty() {
            continue;
        }
        let writes: Vec<TensorId> = node.writes().collect();
        // The first axis of NonZero is the rank of what it reads.
        let fixed = if own && node.op.is("NonZero") { 1 } else { 0 };
        for t in writes {
            let tensor = &mut graph.tensors[t.index()];
            let Some((_, seen)) = values.get(&tensor.name) else { continue };
            let Some(shape) = tensor.fact.shape.as_mut().filter(|s| s.len() == seen.len()) else { continue };
            let axes = (0..seen.len()).filter(|a| if own { *a >= fixed } else { inherited.contains(&seen[*a]) });
            let axes: Vec<usize> = axes.collect();
            axes.iter().for_each(|a| shape[*a] = Dim::Unknown);
            if !axes.is_empty() {
                open.insert(t, axes.iter().map(|a| seen[*a]).collect());
            }
        }
    }
}

/// What the sizes of one axis, each with its batch, say together.
fn size_of_axis(sizes: &[(u64, u64)]) -> Dim {
    let (batch, size) = sizes[0];
    if sizes.iter().all(|(_, s)| *s == size) {
        return Dim::Known(size);
    }
    let per_item = size.checked_div(batch).unwrap_or(0);
    match per_item > 0 && sizes.iter().all(|(b, s)| per_item.checked_mul(*b) == Some(*s)) {
        true => Dim::Batch { per_item },
        false => Dim::Unknown,
    }
}

fn contradicts(declared: &Fact, seen: &Fact, runs: &[(u64, (DType, Vec<u64>))]) -> bool {
    let dtype = declared.dtype.is_some() && declared.dtype != seen.dtype;
    let Some(shape) = &declared.shape else { return dtype };
    let fits = |dims: &[u64], batch: u64| {
        dims.len() == shape.len() && shape.iter().zip(dims).all(|(d, n)| d.at(batch).is_none_or(|k| k == *n))
    };
    dtype || !runs.iter().all(|(batch, (_, dims))| fits(dims, *batch))
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
