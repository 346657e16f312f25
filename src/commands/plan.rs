//! `tandem plan`: from a model, a machine and a wish to a plan file.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use tandem_ir::plan::{Authored, Batching, MethodReport, Objective};
use tandem_ir::{Graph, Machine, Nanos, Plan, Profile, check, format};
use tandem_onnx::import::Model;
use tandem_planner::PlanError;
use tandem_planner::plan::{BUDGET, PlanInput, RebuildInput};
use tandem_planner::search::Method;

use crate::cli::PlanArgs;
use crate::commands::profile::{Gathered, Wish, gather};
use crate::context::{Context, negative, read_document, report};
use crate::output::write_out;
use crate::{binding, prepare};

/// tandem's version, as plans record it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Plans, or rebuilds, and writes.
pub fn run(context: &Context, args: &PlanArgs) -> Result<()> {
    let wish = Asked::read(args)?;
    let (plan, graphs) = match &args.from {
        Some(from) => again(context, args, from, &wish)?,
        None => {
            let reference = args.model.clone().context("a model, or --from PLAN")?;
            fresh(context, args, &reference, &wish)?
        }
    };
    let pairs: Vec<(&str, &Graph)> = graphs.iter().map(|(n, g)| (n.as_str(), g)).collect();
    let made = "the plan just made";
    let mut findings = check::check_plan(&plan, made);
    findings.extend(check::check_plan_against(&plan, &pairs));
    report(made, findings)?;
    write_out(args.output.as_deref(), &format::plan::to_yaml(&plan))?;
    for (_, graph) in &graphs {
        context.say(&tandem_planner::explain::summary(&plan, graph, None));
    }
    if let Some(path) = args.output.as_deref().filter(|p| *p != Path::new("-")) {
        context.say(&format!("written to {}", path.display()));
    }
    Ok(())
}

/// The options that change what is planned, read.
struct Asked {
    slo: Option<Nanos>,
    objective: Option<Objective>,
    search: Option<Method>,
}

impl Asked {
    fn read(args: &PlanArgs) -> Result<Self> {
        let slo = args.slo.as_deref().map(|s| s.parse::<Nanos>().map_err(|e| anyhow!("--slo {s}: {e}"))).transpose()?;
        if slo == Some(Nanos::ZERO) {
            bail!("--slo 0: expected a positive duration");
        }
        let search = args.search.as_deref().map(|s| s.parse().map_err(|e| anyhow!("--search: {e}"))).transpose()?;
        let objective = args.objective.as_deref().map(|o| match o {
            "latency" => Objective::Latency,
            _ => Objective::Throughput,
        });
        Ok(Self { slo, objective, search })
    }
}

type Made = (Plan, Vec<(String, Graph)>);

fn fresh(context: &Context, args: &PlanArgs, reference: &str, wish: &Asked) -> Result<Made> {
    let machine = context.machine(&args.machine)?;
    let mut model = prepare::open(context, reference, None)?;
    let (shapes, notes) = prepare::bind(&mut model, reference, &args.bind)?;
    notes.iter().for_each(|n| context.say(&format!("note: {n}")));
    let name = binding::tenant_name(reference);
    let gathered = costs(context, args, &machine, &name, &mut model, args.batch.clone())?;
    let stored = stored_reference(reference, args.output.as_deref())?;
    let input = PlanInput {
        tenant: name.clone(),
        model: stored,
        graph: &model.graph,
        machine: &machine,
        profile: gathered.profile.as_ref(),
        profile_fingerprint: gathered.fingerprint,
        slo: wish.slo,
        batches: args.batch.clone(),
        objective: wish.objective.unwrap_or_default(),
        search: wish.search.unwrap_or(Method::Auto),
        shapes,
        batching: gathered.batching.first().cloned().unwrap_or(Batching::Inferred),
        pins: binding::pins(&args.pin)?,
        budget: BUDGET,
        lanes: None,
        tandem: VERSION.to_owned(),
    };
    let planned = tandem_planner::plan::plan(&input);
    let plan = answered(planned)?.0;
    Ok((plan, vec![(name, model.graph)]))
}

/// Infeasible is an answer; the rest are errors.
fn answered<T>(planned: Result<T, PlanError>) -> Result<T> {
    match planned {
        Ok(made) => Ok(made),
        Err(PlanError::Infeasible(why)) => negative(format!("infeasible: {why}")),
        Err(error) => Err(error.into()),
    }
}

/// A path as the plan file will read it: relative to the plan's folder. Zoo and fetched references stay.
fn stored_reference(reference: &str, output: Option<&Path>) -> Result<String> {
    if reference.starts_with("zoo:") || reference.starts_with("fetched:") {
        return Ok(reference.to_owned());
    }
    let full = Path::new(reference).canonicalize().with_context(|| reference.to_owned())?;
    let folder = output.and_then(Path::parent).filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
    let shared = full.components().zip(folder.components()).take_while(|(a, b)| a == b).count();
    let mut relative = std::path::PathBuf::new();
    folder.components().skip(shared).for_each(|_| relative.push(".."));
    full.components().skip(shared).for_each(|c| relative.push(c));
    Ok(relative.to_string_lossy().into_owned())
}

fn costs(
    context: &Context,
    args: &PlanArgs,
    machine: &Machine,
    name: &str,
    model: &mut Model,
    batches: Vec<u64>,
) -> Result<Gathered> {
    let given = args.profile.as_deref().map(|p| context.profile(p)).transpose()?;
    let wish =
        Wish { batches, threads: vec![], segments: false, links: false, insist: args.insist_batch, bind: &args.bind };
    gather(context, machine, &mut [(name, model)], given, &wish)
}

/// Plans again from a plan's authored part: with `--search none` its placement is kept.
fn again(context: &Context, args: &PlanArgs, from: &Path, wish: &Asked) -> Result<Made> {
    let file = from.display().to_string();
    let text = read_document(from)?;
    let mut authored = format::plan::authored_from_yaml(&text, &file)?;
    let machine = match (format::plan::machine_from_yaml(&text, &file), args.machine.as_str()) {
        (Some(planned), "auto") => planned,
        (_, choice) => context.machine(choice)?,
    };
    let mut models = prepare::plan_models(context, &authored, &[], from, &args.overrides)?;
    if let Some(slo) = wish.slo {
        authored.applications.iter_mut().for_each(|a| a.slo = Some(slo));
    }
    if let Some(objective) = wish.objective {
        authored.objective = objective;
    }
    let search = wish.search.unwrap_or(Method::Auto);
    if search != Method::None {
        return search_again(context, args, &machine, &authored, models, search);
    }
    let (name, model) = models.first_mut().context("the plan has no tenant")?;
    // All batches the plan may choose from, not only those of its routes: its bounds speak of them all.
    let mut batches: Vec<u64> = authored.tenants().flat_map(|t| t.batches.iter().copied()).collect();
    batches.extend(authored.tenants().flat_map(|t| t.routes.iter().map(|r| r.batch)));
    batches.sort_unstable();
    batches.dedup();
    let gathered = costs(context, args, &machine, name, model, batches)?;
    // What the search once did is told again, where the derived part still reads.
    let reports = format::plan::from_yaml(&text, &file).map(|p| p.derived.reports).unwrap_or_default();
    rebuilt(authored, &machine, &gathered, &reports, models)
}

fn rebuilt(
    authored: Authored,
    machine: &Machine,
    gathered: &Gathered,
    reports: &[MethodReport],
    models: Vec<(String, Model)>,
) -> Result<Made> {
    let graphs: Vec<&Graph> = models.iter().map(|(_, m)| &m.graph).collect();
    let input = RebuildInput {
        graphs: &graphs,
        machine,
        profile: gathered.profile.as_ref(),
        profile_fingerprint: gathered.fingerprint,
        tandem: VERSION,
        reports,
    };
    let derived = answered(tandem_planner::plan::rebuild(&authored, &input))?;
    Ok((Plan { authored, derived }, models.into_iter().map(|(n, m)| (n, m.graph)).collect()))
}

fn search_again(
    context: &Context,
    args: &PlanArgs,
    machine: &Machine,
    authored: &Authored,
    mut models: Vec<(String, Model)>,
    search: Method,
) -> Result<Made> {
    let application = authored.applications.first().context("the plan has no application")?;
    let tenant = application.tenants.first().context("the plan has no tenant")?;
    if authored.tenants().count() > 1 {
        bail!("plans of several tenants can only be rebuilt (--search none)");
    }
    let (name, mut model) = models.remove(0);
    let gathered = costs(context, args, machine, &name, &mut model, tenant.batches.clone())?;
    let input = PlanInput {
        tenant: name.clone(),
        model: tenant.model.clone(),
        graph: &model.graph,
        machine,
        profile: gathered.profile.as_ref(),
        profile_fingerprint: gathered.fingerprint,
        slo: application.slo,
        batches: tenant.batches.clone(),
        objective: authored.objective,
        search,
        shapes: tenant.shapes.clone(),
        batching: tenant.batching.clone(),
        pins: tenant.pins.clone(),
        budget: BUDGET,
        lanes: None,
        tandem: VERSION.to_owned(),
    };
    let plan = answered(tandem_planner::plan::plan(&input))?.0;
    Ok((plan, vec![(name, model.graph)]))
}

/// The fingerprint plans record of a profile.
pub fn profile_fingerprint(profile: Option<&Profile>) -> tandem_ir::Fingerprint {
    tandem_ir::Fingerprint::of(profile.map(format::profile::to_yaml).unwrap_or_default().as_bytes())
}
