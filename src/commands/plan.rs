//! `tandem plan`: from models, a machine and a wish to a plan file.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use tandem_ir::plan::{Authored, Derived, Objective, Serving};
use tandem_ir::{Graph, Machine, Nanos, Plan, Profile, check, format};
use tandem_onnx::import::Model;
use tandem_planner::plan::{Caution, PlanInput, RebuildInput, TenantInput};
use tandem_planner::search::Method;
use tandem_planner::{PlanError, explain, joint, shares};

use crate::bench::seconds;
use crate::binding::{self, Wanted};
use crate::cli::PlanArgs;
use crate::commands::profile::{Gathered, Wish, gather};
use crate::context::{Context, negative, read_document, report};
use crate::output::write_out;
use crate::prepare;
use crate::verify::{self, Verdict};

/// tandem's version, as plans record it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Plans, or rebuilds, and writes.
pub fn run(context: &Context, args: &PlanArgs) -> Result<()> {
    let wish = Asked::read(args)?;
    let (plan, graphs) = match &args.from {
        Some(from) => again(context, args, from, &wish)?,
        None => fresh(context, args, &wish)?,
    };
    let pairs: Vec<(&str, &Graph)> = graphs.iter().map(|(n, g)| (n.as_str(), g)).collect();
    let made = "the plan just made";
    let mut findings = check::check_plan(&plan, made);
    findings.extend(check::check_plan_against(&plan, &pairs));
    report(made, findings)?;
    write_out(args.output.as_deref(), &format::plan::to_yaml(&plan))?;
    for (tenant, graph) in &graphs {
        context.say(&explain::summary(&plan, tenant, graph, None));
    }
    explain::together(&plan).iter().for_each(|line| context.say(line));
    if let Some(path) = args.output.as_deref().filter(|p| *p != Path::new("-")) {
        context.say(&format!("written to {}", path.display()));
    }
    Ok(())
}

/// Searches; of several tenants that are planned together, at each level of caution, and keeps what bears most in
/// simulation.
fn searched(mut input: PlanInput<'_>) -> Result<Plan> {
    let levels: &[Caution] = if joint::applies(&input) { &Caution::LEVELS } else { &Caution::LEVELS[..1] };
    let (mut searching, mut verifying) = (0.0, 0.0);
    let mut best: Option<(Plan, Option<Verdict>)> = None;
    let mut failure = None;
    for level in levels {
        input.caution = *level;
        let (took, plan) = seconds(|| tandem_planner::plan::plan(&input));
        searching += took;
        let plan = match plan {
            Ok(plan) => plan,
            // With more caution there is less to choose from; the first failure is the one that counts.
            Err(error) => {
                failure.get_or_insert(error);
                continue;
            }
        };
        if best.as_ref().is_some_and(|(known, _)| known.authored == plan.authored) {
            continue;
        }
        let (took, verdict) = seconds(|| verify::verify(&plan));
        verifying += took;
        let verdict = verdict?;
        let bears = |v: &Option<Verdict>| v.as_ref().map(|v| v.ppm);
        if best.as_ref().is_none_or(|(_, known)| bears(&verdict) > bears(known)) {
            best = Some((plan, verdict));
        }
        let Some((plan, Some(verdict))) = &best else { break };
        let together = plan.derived.together.as_ref();
        let is_asked = plan.authored.tenants().all(|t| t.millirate.is_some());
        if is_asked && verdict.ppm >= 1_000_000 || together.is_some_and(|t| verdict.ppm == t.carried_ppm) {
            break;
        }
    }
    tracing::info!("search and bound in {searching:.2} s, verification in {verifying:.2} s");
    let Some((mut plan, verdict)) = best else { return answered(Err(failure.context("a level was tried")?)) };
    if let Some(verdict) = verdict {
        note(&mut plan, &verdict)?;
    }
    Ok(plan)
}

/// Writes down what a plan bears; refuses one that does not bear what its tenants ask for.
fn note(plan: &mut Plan, verdict: &Verdict) -> Result<()> {
    let is_asked = plan.authored.tenants().all(|t| t.millirate.is_some());
    if is_asked && verdict.ppm < 1_000_000 {
        negative(format!(
            "infeasible: with random arrivals at these rates, in simulation, {} would miss the objective; all are met at \
             {:.1} % of the rates",
            verdict.misses.join(" and "),
            verdict.ppm as f64 / 1e4
        ))?;
    }
    if let Some(together) = &mut plan.derived.together {
        together.verified_ppm = Some(verdict.ppm);
    }
    Ok(())
}

/// The options that change what is planned, read.
struct Asked {
    tenants: Vec<Wanted>,
    slo: Option<Nanos>,
    objective: Option<Objective>,
    search: Option<Method>,
}

impl Asked {
    fn read(args: &PlanArgs) -> Result<Self> {
        let tenants = binding::tenants(&args.models)?;
        if tenants.len() > 1 && !args.pin.is_empty() {
            bail!(
                "--pin: expected one model, found {}: pin nodes in the plan, and search again --from it",
                tenants.len()
            );
        }
        let slo = args.slo.as_deref().map(|s| binding::duration("--slo", s)).transpose()?;
        let search = args.search.as_deref().map(|s| s.parse().map_err(|e| anyhow!("--search: {e}"))).transpose()?;
        let objective = args.objective.as_deref().map(|o| match o {
            "latency" => Objective::Latency,
            _ => Objective::Throughput,
        });
        Ok(Self { tenants, slo, objective, search })
    }
}

type Made = (Plan, Vec<(String, Graph)>);

fn fresh(context: &Context, args: &PlanArgs, wish: &Asked) -> Result<Made> {
    let largest = args.batch.iter().max().copied().unwrap_or(0);
    let serving = binding::serving(&args.serving, &Serving::default(), largest)?;
    let machine = context.machine(&args.machine)?;
    let mut models = vec![];
    for tenant in &wish.tenants {
        models.push((tenant.name.clone(), prepare::open(context, &tenant.model, None)?));
    }
    let references: Vec<&str> = wish.tenants.iter().map(|t| t.model.as_str()).collect();
    let bound = prepare::bind_all(&mut models, &references, &args.bind)?;
    bound.iter().flat_map(|(_, notes)| notes).for_each(|n| context.say(&format!("note: {n}")));
    let gathered = costs(context, args, &machine, &mut models, args.batch.clone())?;
    let mut tenants = vec![];
    for (((wanted, (_, model)), (shapes, _)), batching) in
        wish.tenants.iter().zip(&models).zip(bound).zip(&gathered.batching)
    {
        tenants.push(TenantInput {
            model: stored_reference(&wanted.model, args.output.as_deref())?,
            slo: wanted.slo.or(wish.slo),
            millirate: wanted.millirate,
            batches: args.batch.clone(),
            shapes,
            batching: batching.clone(),
            pins: binding::pins(&args.pin)?,
            ..TenantInput::new(&wanted.name, &model.graph)
        });
    }
    let objective = wish.objective.unwrap_or_default();
    let mut input = input(&machine, &gathered, objective, wish.search.unwrap_or_default(), serving, tenants);
    if input.tenants.len() > 1 && !joint::applies(&input) {
        let cores = answered(shares::by_work(&input))?;
        input.tenants.iter_mut().zip(cores).for_each(|(tenant, cores)| tenant.cores = Some(cores));
    }
    Ok((searched(input)?, graphs(models)))
}

fn input<'a>(
    machine: &'a Machine,
    gathered: &'a Gathered,
    objective: Objective,
    search: Method,
    serving: Serving,
    tenants: Vec<TenantInput<'a>>,
) -> PlanInput<'a> {
    PlanInput {
        profile: gathered.profile.as_ref(),
        profile_fingerprint: gathered.fingerprint,
        objective,
        search,
        serving,
        tandem: VERSION.to_owned(),
        ..PlanInput::new(machine, tenants)
    }
}

fn graphs(models: Vec<(String, Model)>) -> Vec<(String, Graph)> {
    models.into_iter().map(|(name, model)| (name, model.graph)).collect()
}

/// Infeasible is an answer; the rest are errors.
fn answered<T>(planned: Result<T, PlanError>) -> Result<T> {
    match planned {
        Ok(made) => Ok(made),
        Err(error) if error.is_infeasible() => negative(format!("infeasible: {error}")),
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
    models: &mut [(String, Model)],
    batches: Vec<u64>,
) -> Result<Gathered> {
    let given = args.profile.as_deref().map(|p| context.profile(p)).transpose()?;
    let wish =
        Wish { batches, threads: vec![], segments: false, links: false, insist: args.insist_batch, bind: &args.bind };
    let mut named: Vec<(&str, &mut Model)> = models.iter_mut().map(|(n, m)| (n.as_str(), m)).collect();
    gather(context, machine, &mut named, given, &wish)
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
    if let Some(slo) = wish.slo {
        authored.applications.iter_mut().for_each(|a| a.slo = Some(slo));
    }
    if let Some(objective) = wish.objective {
        authored.objective = objective;
    }
    // All batches the plan may choose from, not only those of its routes: its bounds speak of them all.
    let mut batches: Vec<u64> = authored.tenants().flat_map(|t| t.batches.iter().copied()).collect();
    let largest = batches.iter().max().copied().unwrap_or(0);
    authored.serving = binding::serving(&args.serving, &authored.serving, largest)?;
    let mut models = prepare::plan_models(context, &authored, &[], from, &args.overrides)?;
    batches.extend(authored.tenants().flat_map(|t| t.routes.iter().map(|r| r.batch)));
    batches.sort_unstable();
    batches.dedup();
    let gathered = costs(context, args, &machine, &mut models, batches)?;
    match wish.search.unwrap_or_default() {
        Method::None => {
            // What the search once did is told again, where the derived part still reads.
            let known = format::plan::from_yaml(&text, &file).ok().map(|p| p.derived);
            rebuilt(authored, &machine, &gathered, known.as_ref(), models)
        }
        search => search_again(&authored, &machine, &gathered, search, models),
    }
}

fn rebuilt(
    authored: Authored,
    machine: &Machine,
    gathered: &Gathered,
    known: Option<&Derived>,
    models: Vec<(String, Model)>,
) -> Result<Made> {
    let every: Vec<&Graph> = models.iter().map(|(_, m)| &m.graph).collect();
    let input = RebuildInput {
        graphs: &every,
        machine,
        profile: gathered.profile.as_ref(),
        profile_fingerprint: gathered.fingerprint,
        tandem: VERSION,
        reports: known.map_or(&[], |d| &d.reports),
        bound_ppm: known.and_then(|d| d.together.as_ref()?.bound_ppm),
    };
    let derived = answered(tandem_planner::plan::rebuild(&authored, &input))?;
    let mut plan = Plan { authored, derived };
    if let Some(verdict) = verify::verify(&plan)? {
        note(&mut plan, &verdict)?;
    }
    Ok((plan, graphs(models)))
}

/// Searches again; of several tenants that are not planned together, each on the cores that its routes took.
fn search_again(
    authored: &Authored,
    machine: &Machine,
    gathered: &Gathered,
    search: Method,
    models: Vec<(String, Model)>,
) -> Result<Made> {
    if models.is_empty() {
        bail!("the plan has no tenant");
    }
    let mut tenants = vec![];
    for application in &authored.applications {
        let [tenant] = application.tenants.as_slice() else {
            let (name, count) = (&application.name, application.tenants.len());
            bail!(
                "application \"{name}\": expected one tenant to search for, found {count}: only --search none rebuilds it"
            );
        };
        let graph = &models[tenants.len()].1.graph;
        tenants.push(TenantInput {
            application: application.name.clone(),
            model: tenant.model.clone(),
            slo: application.slo,
            percentile_permille: application.percentile_permille,
            millirate: tenant.millirate,
            batches: tenant.batches.clone(),
            shapes: tenant.shapes.clone(),
            batching: tenant.batching.clone(),
            pins: tenant.pins.clone(),
            ..TenantInput::new(&tenant.name, graph)
        });
    }
    let mut input = input(machine, gathered, authored.objective, search, authored.serving.clone(), tenants);
    if input.tenants.len() > 1 && !joint::applies(&input) {
        let own: Vec<u32> = authored.tenants().map(|t| shares::of_routes(&t.routes, machine)).collect();
        // Tenants that took turns on the same cores have none of their own.
        let is_apart = own.iter().sum::<u32>() <= machine.devices.first().map_or(0, |host| host.cores);
        let cores = if is_apart { own } else { answered(shares::by_work(&input))? };
        input.tenants.iter_mut().zip(cores).for_each(|(tenant, cores)| tenant.cores = Some(cores));
    }
    Ok((searched(input)?, graphs(models)))
}

/// The fingerprint plans record of a profile.
pub fn profile_fingerprint(profile: Option<&Profile>) -> tandem_ir::Fingerprint {
    tandem_ir::Fingerprint::of(profile.map(format::profile::to_yaml).unwrap_or_default().as_bytes())
}
