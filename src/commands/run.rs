//! `tandem run`: executes a plan once or several times, compares, traces.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tandem_core::memory::Span;
use tandem_core::trace::{TraceKind, chrome_trace, route_events};
use tandem_ir::check::{self, Severity};
use tandem_ir::plan::{Action, Route};
use tandem_ir::{Graph, Kind, Nanos, Plan, Time};
use tandem_onnx::cut::{self, SegmentImage};
use tandem_onnx::import::Model;
use tandem_onnx::pb;
use tandem_onnx::value::{TensorValue, Value};
use tandem_runtime::compare::{Comparison, compare};
use tandem_runtime::driver::{RouteRunner, RunError, RunOutput, RunnerOptions};
use tandem_runtime::engine::SessionOptions;
use tandem_runtime::{npy, npz, sample};

use crate::bench::stats::median;
use crate::cli::RunArgs;
use crate::context::{Context, negative, read_document};
use crate::output::{print, print_as, write_file};
use crate::{cli::Format, prepare};

/// Loads a plan, refusing what is inconsistent; its text is kept for line numbers.
pub fn load_plan(path: &Path) -> Result<Plan> {
    let file = path.display().to_string();
    let plan = tandem_ir::format::plan::from_yaml(&read_document(path)?, &file)?;
    refuse(&file, check::check_plan(&plan, &file))?;
    Ok(plan)
}

/// Refuses errors among findings.
pub fn refuse(file: &str, findings: Vec<check::Finding>) -> Result<()> {
    let errors: Vec<String> =
        findings.iter().filter(|f| f.severity == Severity::Error).map(|f| format!("  {f}")).collect();
    if errors.is_empty() { Ok(()) } else { bail!("{file}: the plan is not consistent\n{}", errors.join("\n")) }
}

/// The route of a tenant (or the only one's) at a batch (or the preferred one).
pub fn choose<'p>(plan: &'p Plan, tenant: Option<&str>, batch: Option<u64>) -> Result<&'p Route> {
    let names: Vec<&str> = plan.authored.tenants().map(|t| t.name.as_str()).collect();
    let tenant = match (tenant, names.as_slice()) {
        (Some(name), names) if names.contains(&name) => name,
        (Some(name), names) => bail!("no tenant \"{name}\"; the plan has {}", names.join(", ")),
        (None, [only]) => only,
        (None, names) => bail!("the plan has several tenants: choose one with --tenant: {}", names.join(", ")),
    };
    let routes = plan.derived.routes.iter().filter(|r| r.tenant == tenant);
    let found = match batch {
        Some(batch) => routes.clone().find(|r| r.batch == batch),
        None => routes.clone().max_by_key(|r| r.share_permille),
    };
    found.with_context(|| {
        let batches: Vec<String> = routes.map(|r| r.batch.to_string()).collect();
        let owner = if names.len() > 1 { format!("tenant \"{tenant}\"") } else { "the plan".to_owned() };
        format!("no route of batch {}; {owner} has {}", batch.unwrap_or(0), batches.join(", "))
    })
}

/// Runs.
pub fn run(context: &Context, args: &RunArgs) -> Result<()> {
    let plan = load_plan(&args.plan)?;
    let file = args.plan.display().to_string();
    let mut models = prepare::plan_models(context, &plan.authored, &plan.derived.graphs, &args.plan, &args.overrides)?;
    let graphs: Vec<(&str, &Graph)> = models.iter().map(|(n, m)| (n.as_str(), &m.graph)).collect();
    refuse(&file, check::check_plan_against(&plan, &graphs))?;
    let route = choose(&plan, args.tenant.as_deref(), args.batch)?;
    let place = models.iter().position(|(name, _)| *name == route.tenant).context("the route's tenant has no model")?;
    let (_, mut model) = models.swap_remove(place);
    prepare::trust(&mut model, route);
    if args.format == Format::Text {
        print(
            &(tandem_planner::explain::summary(&plan, &route.tenant, &model.graph, Some(route.batch))
                .trim_end()
                .to_owned()
                + "\n"),
        )?;
    }
    let inputs = inputs(&args.input, args.seed, &model, route)?;
    let options = RunnerOptions { emulate: args.emulate, ..RunnerOptions::default() };
    let engines = context.engines()?;
    let mut runner = RouteRunner::prepare(route, &model, &plan.derived.machine, engines, &options)?;
    runner.notes().iter().for_each(|note| context.say(&format!("note: {note}")));
    // Once unmeasured: the first run pays for allocations, and for what engines put off until they know the sizes.
    runner.run(inputs.clone()).map_err(|error| of_input(error, &args.input))?;
    let mut outputs = vec![];
    for _ in 0..args.repeat.max(1) {
        outputs.push(runner.run(inputs.clone())?);
    }
    let last = outputs.last().context("no run")?;
    let compared = if args.verify { Some(verify(context, &model, &inputs, last, route)?) } else { None };
    if let Some(path) = &args.output {
        let names = names(&model.graph, &model.graph.outputs);
        npz::write(path, &names.into_iter().zip(last.outputs.iter().cloned()).collect::<Vec<_>>())?;
    }
    if let Some(path) = &args.trace {
        write_file(path, trace(route, last).as_bytes())?;
    }
    show(args, &plan, route, &outputs, compared.as_ref())?;
    match compared {
        Some(Verified { comparison: c, .. }) if !c.is_equal() => {
            negative(format!("the plan's outputs differ from the whole model's: {c}"))
        }
        _ => Ok(()),
    }
}

fn names(graph: &Graph, ids: &[tandem_ir::TensorId]) -> Vec<String> {
    ids.iter().map(|t| graph.tensor(*t).name.clone()).collect()
}

/// An input that does not fit is told with the file it came from.
fn of_input(error: RunError, choice: &str) -> anyhow::Error {
    let input = matches!(error, RunError::Input { .. } | RunError::InputCount { .. });
    let error = anyhow::Error::from(error);
    if input && choice != "random" { error.context(choice.to_owned()) } else { error }
}

/// What a run was compared with, in words, and what that gave.
struct Verified {
    with: &'static str,
    comparison: Comparison,
}

/// The original file, untouched, on the same engine.
fn verify(context: &Context, model: &Model, inputs: &[Value], run: &RunOutput, route: &Route) -> Result<Verified> {
    let used = run.devices.iter().find(|d| !d.is_empty()).cloned().unwrap_or_default();
    let engines = context.engines()?;
    let engine = engines.iter().find(|e| used.contains(e.name())).or(engines.first()).context("no engine")?;
    let options = SessionOptions { threads: route.threads, ..SessionOptions::default() };
    let outputs = names(&model.graph, &model.graph.outputs);
    let whole = |image: &SegmentImage| engine.load(image, &options)?.run(inputs);
    match whole(&cut::original(model)) {
        Ok(expected) => {
            let comparison = compare(&outputs, &expected, &run.outputs);
            Ok(Verified { with: "the whole model", comparison })
        }
        // Engines refuse such a file whole. Our own cut of it gives nodes names of their own, and lacks outputs that no
        // node makes.
        Err(_) if has_repeated_names(&model.graph) => {
            let image = cut::cut_whole(model)?;
            let expected = whole(&image)?;
            let made = image.outputs.iter().filter_map(|name| outputs.iter().position(|o| o == name));
            let found: Vec<Value> = made.map(|i| run.outputs[i].clone()).collect();
            let comparison = compare(&image.outputs, &expected, &found);
            Ok(Verified { with: "the whole model with its repeated names mended", comparison })
        }
        Err(error) => Err(error.into()),
    }
}

fn has_repeated_names(graph: &Graph) -> bool {
    let mut seen = HashSet::new();
    graph.nodes.iter().any(|n| !n.name.is_empty() && !seen.insert(&n.name))
}

/// Inputs of a run: files, or random ones at the route's shapes.
fn inputs(choice: &str, seed: u64, model: &Model, route: &Route) -> Result<Vec<Value>> {
    if choice != "random" {
        return read_inputs(Path::new(choice), model);
    }
    let graph = &model.graph;
    let shape = |t: &tandem_ir::TensorId| {
        let tensor = graph.tensor(*t);
        Some((tensor.name.clone(), tensor.fact.dims_at(route.batch)?))
    };
    let dims: BTreeMap<String, Vec<u64>> = graph.inputs.iter().filter_map(shape).collect();
    Ok(sample::random_inputs(graph, &dims, seed)?)
}

/// Reads inputs in the graph's order: an .npz by name, an .npy for a model of one input, a folder of input_N.pb.
pub fn read_inputs(path: &Path, model: &Model) -> Result<Vec<Value>> {
    let graph = &model.graph;
    let shown = path.display();
    if path.is_dir() {
        let read = |(i, t): (usize, &tandem_ir::TensorId)| -> Result<Value> {
            let file = path.join(format!("input_{i}.pb"));
            Ok(pb::read_pb(&file, &graph.tensor(*t).fact)?)
        };
        return graph.inputs.iter().enumerate().map(read).collect();
    }
    if path.extension().is_some_and(|e| e == "npy") {
        let [_] = graph.inputs.as_slice() else {
            bail!("{shown}: an .npy file feeds a model of one input; this one has {}", graph.inputs.len());
        };
        let file = std::fs::File::open(path).with_context(|| format!("{shown}"))?;
        return Ok(vec![Value::Tensor(
            npy::read(std::io::BufReader::new(file), None).with_context(|| format!("{shown}"))?,
        )]);
    }
    let mut arrays: BTreeMap<String, TensorValue> = npz::read(path)?.into_iter().collect();
    let mut values = vec![];
    for id in &graph.inputs {
        let tensor = graph.tensor(*id);
        if tensor.fact.kind != Kind::Tensor {
            bail!("{shown}: input \"{}\" is no tensor: give a folder of input_N.pb", tensor.name);
        }
        let array = arrays.remove(&tensor.name);
        let array = array.with_context(|| format!("{shown}: expected an array \"{}\", found none", tensor.name))?;
        values.push(Value::Tensor(array));
    }
    if let Some(name) = arrays.keys().next() {
        bail!("{shown}: array \"{name}\" is no input of the model");
    }
    Ok(values)
}

fn spans(run: &RunOutput) -> Vec<Span> {
    run.steps.iter().map(|(start, end)| Span { start: Time(*start), end: Time(*end) }).collect()
}

/// Predicted beside measured, a row a lane.
fn trace(route: &Route, run: &RunOutput) -> String {
    let emulated = tandem_core::emulate(route, &tandem_core::EmulationOptions::default());
    let predicted =
        emulated.map(|e| route_events(route, &e.spans, TraceKind::Predicted, Time::ZERO)).unwrap_or_default();
    let measured = route_events(route, &spans(run), TraceKind::Measured, Time::ZERO);
    chrome_trace(&[predicted, measured].concat())
}

fn show(args: &RunArgs, plan: &Plan, route: &Route, runs: &[RunOutput], compared: Option<&Verified>) -> Result<()> {
    let totals: Vec<f64> = runs.iter().map(|r| r.total_ns as f64).collect();
    let total = Nanos(median(&totals) as u64);
    let steps: Vec<(String, Nanos, Nanos)> = route
        .steps
        .iter()
        .enumerate()
        .map(|(i, step)| {
            let times: Vec<f64> = runs.iter().map(|r| (r.steps[i].1 - r.steps[i].0) as f64).collect();
            (step_name(plan, route, i), step.duration, Nanos(median(&times) as u64))
        })
        .collect();
    let devices: Vec<&String> = runs.last().map(|r| r.devices.iter().collect()).unwrap_or_default();
    let data = json!({
        "schema_version": 1,
        "tenant": route.tenant,
        "batch": route.batch,
        "devices": plan.derived.machine.devices.iter().map(|d| &d.name).zip(&devices).collect::<Vec<_>>(),
        "runs": runs.len(),
        "measured_ns": total.0,
        "bytes_copied": runs.last().map_or(0, |r| r.bytes_copied),
        "predicted_makespan_ns": route.prediction.makespan.0,
        "steps": steps.iter().map(|(name, p, m)| json!({"step": name, "predicted_ns": p.0, "measured_ns": m.0})).collect::<Vec<_>>(),
        "verified": compared.map(|Verified { with, comparison: c }| json!({
            "with": with, "equal": c.is_equal(), "elements": c.elements, "largest_error": c.largest_error, "at": c.at,
        })),
    });
    print_as(args.format, &data, || {
        let mut text = String::new();
        for (device, engine) in plan.derived.machine.devices.iter().zip(&devices).filter(|(_, e)| !e.is_empty()) {
            text += &format!("{}: {engine}\n", device.name);
        }
        let rows: Vec<Vec<String>> =
            steps.iter().map(|(name, p, m)| vec![name.clone(), p.to_string(), m.to_string()]).collect();
        text += &crate::output::table(&["step", "predicted", "measured"], &rows);
        let modelled = if route.prediction.modelled { " (modelled)" } else { "" };
        text += &format!(
            "batch {}: predicted {}{modelled}, measured {total} (median of {})\n",
            route.batch,
            route.prediction.makespan,
            runs.len()
        );
        if let Some(Verified { with, comparison }) = compared {
            text += &format!("verified against {with}: {comparison}\n");
        }
        text
    })
}

/// `run 0 on cpu (14 nodes)`, `copy x cpu>gpu0`.
fn step_name(plan: &Plan, route: &Route, step: usize) -> String {
    let device = |i: usize| plan.derived.machine.devices.get(i).map_or("?", |d| d.name.as_str());
    match route.steps[step].action {
        Action::Run(s) => {
            let segment = &route.segments[s];
            format!("run {s} on {} ({} nodes)", device(segment.device), segment.nodes.len())
        }
        Action::Copy { tensor, from, to } => {
            format!("copy {} {}>{}", route.tensors[tensor].name, device(from), device(to))
        }
        Action::Barrier => "barrier".into(),
    }
}
