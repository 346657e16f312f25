//! Routes over an accelerator with streams and a memory of its own, against the whole model. The accelerator is made up
//! of this host's threads; what feeds it, waits for it and lays out its memory is what does so for a GPU.

#[path = "common/zoo.rs"]
mod zoo;

use std::sync::Arc;
use std::sync::mpsc::channel;

use tandem_ir::plan::{Action, Objective, Plan, Policy, Serving as ServingSection};
use tandem_ir::{Machine, machine};
use tandem_onnx::cut;
use tandem_onnx::import::Model;
use tandem_planner::plan::{PlanInput, TenantInput};
use tandem_planner::search::Method;
use tandem_planner::testing;
use tandem_runtime::compare::compare;
use tandem_runtime::device::accelerator::Stream;
use tandem_runtime::device::cuda::testing::{HostAccelerator, HostEngine};
use tandem_runtime::device::tract::TractEngine;
use tandem_runtime::discover;
use tandem_runtime::driver::drive::{Answer, Ask};
use tandem_runtime::driver::{RouteRunner, RunError, RunnerOptions};
use tandem_runtime::engine::{Engine, SessionOptions};
use tandem_runtime::serving::Serving;
use zoo::{inputs, model};

const MODELS: [&str; 3] = ["tiny-resnet", "tiny-branchy", "tiny-bert"];
const REQUESTS: u64 = 60;

/// A machine with a GPU that is not emulated.
fn machine() -> Machine {
    let mut machine = testing::machine(8, true);
    machine.devices.iter_mut().for_each(|d| d.emulated = false);
    machine.devices[0].engines = vec![machine::Engine { name: "tract".into(), version: String::new() }];
    machine.devices[1].engines = vec![machine::Engine { name: "ort-cuda".into(), version: String::new() }];
    machine
}

/// The host's engine, and one that claims to be a GPU's.
fn engines(accelerator: &Arc<HostAccelerator>) -> Vec<Arc<dyn Engine>> {
    let host: Arc<dyn Engine> = Arc::new(TractEngine);
    let on = (accelerator.clone(), Stream::Compute(0));
    vec![host.clone(), Arc::new(HostEngine::new("ort-cuda", host, on))]
}

fn plan(model: &Model, shapes: &Shapes, search: Method) -> Plan {
    let machine = machine();
    let tenant = TenantInput { shapes: shapes.clone(), batches: vec![1, 2, 4], ..TenantInput::new("t", &model.graph) };
    let serving = ServingSection { policy: Policy::AdtFlow, queue_max: None };
    let input =
        PlanInput { objective: Objective::Throughput, search, serving, ..PlanInput::new(&machine, vec![tenant]) };
    tandem_planner::plan::plan(&input).expect("it plans")
}

/// As if there were as many cores as the plan counts on.
fn options() -> RunnerOptions {
    RunnerOptions { threads_max: Some(8), ..RunnerOptions::default() }
}

type Shapes = std::collections::BTreeMap<String, Vec<tandem_ir::plan::BoundDim>>;

fn outputs_of(model: &Model) -> Vec<String> {
    model.graph.outputs.iter().map(|t| model.graph.tensor(*t).name.clone()).collect()
}

#[test]
fn split_routes_compute_what_the_whole_model_does() {
    for name in MODELS {
        let (model, shapes) = model(name);
        let whole = TractEngine.load(&cut::original(&model), &SessionOptions::default()).expect("it loads");
        for seed in 0..4 {
            let plan = plan(&model, &shapes, Method::Random(seed));
            let accelerator = HostAccelerator::new(0, 1);
            for route in &plan.derived.routes {
                let engines = engines(&accelerator);
                let machine = &plan.derived.machine;
                let prepared = RouteRunner::prepare(route, &model, machine, &engines, &options());
                let mut runner = prepared.unwrap_or_else(|e| panic!("{name}: {e}"));
                // Each set of values is used over and over.
                for turn in 0..3 {
                    let values = inputs(&model, route.batch, turn);
                    let expected = whole.run(&values).expect("it runs");
                    let run = runner.run(values).unwrap_or_else(|e| panic!("{name}, seed {seed}: {e}"));
                    let compared = compare(&outputs_of(&model), &expected, &run.outputs);
                    assert!(compared.is_equal(), "{name}, seed {seed}, batch {}: {compared}", route.batch);
                }
            }
            assert_eq!(accelerator.marks_held(), 0);
        }
    }
}

#[test]
fn every_request_gets_the_numbers_of_the_whole_model() {
    for name in MODELS {
        let (model, shapes) = model(name);
        let plan = plan(&model, &shapes, Method::Random(5));
        assert!(plan.derived.routes.iter().any(|r| r.steps.iter().any(|s| matches!(s.action, Action::Copy { .. }))));
        let accelerator = HostAccelerator::new(0, 1);
        serve(name, &model, &plan, &engines(&accelerator));
        assert_eq!(accelerator.marks_held(), 0, "the devices are gone");
    }
}

fn serve(name: &str, model: &Model, plan: &Plan, engines: &[Arc<dyn Engine>]) {
    let whole = TractEngine.load(&cut::original(model), &SessionOptions::default()).expect("it loads");
    let serving = Serving::new(plan, &[model]).expect("it can be served");
    serving.load(plan, &[model], engines, &options(), |_| ()).expect("it loads");
    let driver = serving.driver().expect("it is loaded");
    let (tell, answers) = channel();
    let mut asked = vec![];
    for request in 0..REQUESTS {
        let rows = 1 + request % 3;
        let values = inputs(model, rows, request);
        asked.push(values.clone());
        let tell = tell.clone();
        let answer = Box::new(move |answer| tell.send((request, answer)).expect("the test listens"));
        driver.ask(Ask { tenant: 0, rows: rows as u32, timeout: None, inputs: Arc::new(values), answer });
    }
    // All outputs are kept to the end, so that copies on the host run out and are made in ordinary memory.
    let mut kept = vec![];
    for _ in 0..REQUESTS {
        let (request, answer) = answers.recv().expect("the driver answers");
        let Answer::Done(rows, _) = answer else { panic!("{name}: request {request} has no outputs") };
        kept.push((request, rows.values().expect("its rows are there")));
    }
    for (request, found) in kept {
        let expected = whole.run(&asked[request as usize]).expect("it runs");
        let compared = compare(&outputs_of(model), &expected, &found);
        assert!(compared.is_equal(), "{name}, request {request}: {compared}");
    }
    assert!(driver.is_idle());
}

#[test]
fn memory_that_runs_out_is_said_when_a_plan_is_loaded() {
    let (model, shapes) = model("tiny-resnet");
    let plan = plan(&model, &shapes, Method::GpuOnly);
    let accelerator = HostAccelerator::new(0, 1);
    accelerator.leave(1000);
    let (route, machine) = (&plan.derived.routes[0], &plan.derived.machine);
    let engines = engines(&accelerator);
    let refused = RouteRunner::prepare(route, &model, machine, &engines, &options()).err();
    let said = refused.map(|e| e.to_string()).unwrap_or_default();
    assert!(said.contains("memory of gpu0") && said.contains("out of memory"), "{said}");
}

#[test]
fn a_lost_accelerator_is_an_error_and_not_the_end() {
    let (model, shapes) = model("tiny-resnet");
    let plan = plan(&model, &shapes, Method::GpuOnly);
    let accelerator = HostAccelerator::new(0, 1);
    let (route, machine) = (&plan.derived.routes[0], &plan.derived.machine);
    let engines = engines(&accelerator);
    let prepared = RouteRunner::prepare(route, &model, machine, &engines, &options());
    let mut runner = prepared.expect("it loads");
    runner.run(inputs(&model, route.batch, 1)).expect("it runs");
    accelerator.lose();
    for _ in 0..2 {
        let said = runner.run(inputs(&model, route.batch, 1)).expect_err("it is lost").to_string();
        assert!(said.contains("gpu0") && said.contains("lost"), "{said}");
    }
}

#[test]
fn an_absent_gpu_says_what_is_missing() {
    let (model, shapes) = model("tiny-resnet");
    let plan = plan(&model, &shapes, Method::GpuOnly);
    let (route, machine) = (&plan.derived.routes[0], &plan.derived.machine);
    let host: [Arc<dyn Engine>; 1] = [Arc::new(TractEngine)];
    let refused = RouteRunner::prepare(route, &model, machine, &host, &options()).err();
    let Some(RunError::Absent { device, why }) = refused else { panic!("tract alone cannot run on a GPU") };
    assert_eq!(device, "gpu0");
    assert!(why.starts_with("none of its engines (ort-cuda) is here: "), "{why}");
    if let Err(missing) = discover::gpus() {
        assert!(why.contains(&missing), "{why}");
    }
    let emulate = RunnerOptions { emulate: true, ..options() };
    let runner = RouteRunner::prepare(route, &model, machine, &host, &emulate).expect("emulated");
    assert!(runner.devices()[1].starts_with("numeric emulator over tract"), "{:?}", runner.devices());
}
