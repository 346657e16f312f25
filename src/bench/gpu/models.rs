//! Models on the accelerator, whole and in pieces, against the whole model on the host: one batch at a time, and requests
//! through the driver.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value as Json, json};
use tandem_ir::batch::Binding;
use tandem_ir::plan::{Action, Objective, Plan, Policy, Route, Serving as ServingSection};
use tandem_onnx::cut;
use tandem_onnx::import::Model;
use tandem_onnx::value::Value;
use tandem_planner::plan::{PlanInput, TenantInput};
use tandem_planner::search::Method;
use tandem_runtime::compare::{Comparison, compare};
use tandem_runtime::driver::drive::{Answer, Ask};
use tandem_runtime::driver::{RouteRunner, RunnerOptions};
use tandem_runtime::engine::{Engine, SessionOptions};
use tandem_runtime::sample;
use tandem_runtime::serving::Serving;

use super::{Rig, Said};
use crate::cli::BindArgs;
use crate::{commands, prepare};

/// Placements that are tried: all on the accelerator, and 2 to 6 segments between both devices.
const SEARCHES: [Method; 4] = [Method::GpuOnly, Method::Random(1), Method::Random(2), Method::Random(3)];
/// Requests of a model, of one to three items each.
const REQUESTS: u64 = 30;

/// A model of the zoo, bound and observed.
pub fn open(rig: &Rig<'_>, name: &str) -> Result<(Model, Binding)> {
    let reference = format!("zoo:{name}");
    let mut model = prepare::open(rig.context, &reference, None)?;
    let (binding, _) = prepare::bind(&mut model, &reference, &BindArgs::default())?;
    commands::profile::observe(rig.context, &mut model, &BindArgs::default())?;
    Ok((model, binding))
}

/// A plan of one model.
pub fn plan(rig: &Rig<'_>, name: &str, of: &(Model, Binding), batches: &[u64], search: Method) -> Result<Plan> {
    let shapes: BTreeMap<_, _> = of.1.clone().into_iter().collect();
    let tenant = TenantInput { batches: batches.to_vec(), shapes, ..TenantInput::new(name, &of.0.graph) };
    let input = PlanInput {
        objective: Objective::Throughput,
        search,
        serving: ServingSection { policy: Policy::AdtFlow, queue_max: None },
        tandem: commands::plan::VERSION.to_owned(),
        ..PlanInput::new(&rig.machine, vec![tenant])
    };
    Ok(tandem_planner::plan::plan(&input)?)
}

/// Made-up inputs of so many items.
pub fn inputs(model: &Model, rows: u64, seed: u64) -> Result<Vec<Value>> {
    let shape = |t: &tandem_ir::TensorId| {
        let tensor = model.graph.tensor(*t);
        Some((tensor.name.clone(), tensor.fact.dims_at(rows)?))
    };
    Ok(sample::random_inputs(&model.graph, &model.graph.inputs.iter().filter_map(shape).collect(), seed)?)
}

fn outputs(model: &Model) -> Vec<String> {
    model.graph.outputs.iter().map(|t| model.graph.tensor(*t).name.clone()).collect()
}

/// One batch at a time, by every placement.
pub fn numbers(rig: &Rig<'_>, name: &str) -> Result<Said> {
    let of = open(rig, name)?;
    let engines = rig.engines()?;
    let mut figures = vec![];
    let mut worst = 0.0f64;
    for search in SEARCHES {
        let plan = plan(rig, name, &of, &[1, 2], search)?;
        for route in &plan.derived.routes {
            let (found, took) = run(rig, &of.0, route, &engines).with_context(|| format!("{search}"))?;
            worst = worst.max(found.largest_share);
            figures.push(json!({
                "placement": search.to_string(), "batch": route.batch, "segments": route.segments.len(),
                "copies": copies(route), "largest_error": found.largest_error, "share_of_tolerance": found.largest_share,
                "took_ns": took,
            }));
        }
    }
    let words = format!(
        "{} routes give the host's numbers, at most {:.2} % of the tolerance off",
        figures.len(),
        worst * 100.0
    );
    Ok((words, Json::Array(figures)))
}

/// One batch on an engine of the accelerator.
pub fn numbers_on(rig: &Rig<'_>, name: &str, engine: &Arc<dyn Engine>) -> Result<Comparison> {
    let of = open(rig, name)?;
    let plan = plan(rig, name, &of, &[1], Method::GpuOnly)?;
    let engines = [rig.host.clone(), engine.clone()];
    run(rig, &of.0, &plan.derived.routes[0], &engines).map(|(found, _)| found)
}

fn copies(route: &Route) -> usize {
    route.steps.iter().filter(|s| matches!(s.action, Action::Copy { .. })).count()
}

/// Runs a route often enough to use its memory again, and compares each run; with the last one's time.
fn run(rig: &Rig<'_>, model: &Model, route: &Route, engines: &[Arc<dyn Engine>]) -> Result<(Comparison, u64)> {
    let whole = rig.host.load(&cut::original(model), &SessionOptions::default())?;
    let mut runner = RouteRunner::prepare(route, model, &rig.machine, engines, &RunnerOptions::default())?;
    let mut worst = Comparison::default();
    let mut took = 0;
    for seed in 0..3 {
        let values = inputs(model, route.batch, seed)?;
        let expected = whole.run(&values)?;
        let run = runner.run(values)?;
        let found = compare(&outputs(model), &expected, &run.outputs);
        if !found.is_equal() {
            bail!("batch {}, {} segments: {found}", route.batch, route.segments.len());
        }
        if found.largest_share >= worst.largest_share {
            worst = found;
        }
        took = run.total_ns;
    }
    Ok((worst, took))
}

/// Requests, batched and pipelined by the driver.
pub fn requests(rig: &Rig<'_>, name: &str) -> Result<Said> {
    let of = open(rig, name)?;
    let plan = plan(rig, name, &of, &[1, 2, 4], Method::Random(1))?;
    let model = &of.0;
    let whole = rig.host.load(&cut::original(model), &SessionOptions::default())?;
    let serving = Serving::new(&plan, &[model])?;
    serving.load(&plan, &[model], &rig.engines()?, &RunnerOptions::default(), |_| ())?;
    let driver = serving.driver().context("it is loaded")?;
    let (tell, answers) = channel();
    let largest = plan.derived.routes.iter().map(|r| r.batch).max().unwrap_or(1);
    let mut asked = vec![];
    for request in 0..REQUESTS {
        let rows = 1 + request % largest.min(3);
        let values = inputs(model, rows, request)?;
        asked.push(values.clone());
        let tell = tell.clone();
        let answer = Box::new(move |answer| drop(tell.send((request, answer))));
        driver.ask(Ask { tenant: 0, rows: rows as u32, timeout: None, inputs: Arc::new(values), answer });
    }
    let mut worst = Comparison::default();
    for _ in 0..REQUESTS {
        let (request, answer) = answers.recv()?;
        let rows = match answer {
            Answer::Done(rows, _) => rows,
            Answer::Failed(error) => bail!("request {request}: {error}"),
            _ => bail!("request {request} was not served"),
        };
        let found = rows.values().map_err(anyhow::Error::msg)?;
        let found = compare(&outputs(model), &whole.run(&asked[request as usize])?, &found);
        if !found.is_equal() {
            bail!("request {request}: {found}");
        }
        if found.largest_share >= worst.largest_share {
            worst = found;
        }
    }
    Ok((
        format!("{REQUESTS} requests get the host's numbers, batched up to {largest}"),
        json!({"requests": REQUESTS, "largest_batch": largest, "share_of_tolerance": worst.largest_share}),
    ))
}
