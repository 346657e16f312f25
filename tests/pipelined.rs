//! Requests batched, split over an emulated accelerator and pipelined, against the whole model on each request alone.

#[path = "common/zoo.rs"]
mod zoo;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;

use tandem_core::DeviceError;
use tandem_ir::plan::{Action, BoundDim, Objective, Plan, Policy, Serving as ServingSection};
use tandem_ir::{Bytes, Machine, Nanos};
use tandem_onnx::cut;
use tandem_onnx::import::Model;
use tandem_onnx::value::Value;
use tandem_planner::plan::{PlanInput, TenantInput};
use tandem_planner::search::Method;
use tandem_planner::testing;
use tandem_runtime::compare::compare;
use tandem_runtime::device::tract::TractEngine;
use tandem_runtime::driver::drive::{Answer, Ask};
use tandem_runtime::driver::{RouteRunner, RunnerOptions};
use tandem_runtime::engine::{Engine, EngineError, Session, SessionOptions};
use tandem_runtime::serving::Serving;
use zoo::{inputs, model};

const MODELS: [&str; 3] = ["tiny-resnet", "tiny-branchy", "tiny-bert"];
const REQUESTS: u64 = 60;

fn engine() -> Arc<dyn Engine> {
    Arc::new(TractEngine)
}

fn plan(model: &Model, shapes: &BTreeMap<String, Vec<BoundDim>>, machine: &Machine, policy: Policy) -> Plan {
    let tenant = TenantInput { shapes: shapes.clone(), batches: vec![1, 2, 4], ..TenantInput::new("t", &model.graph) };
    let input = PlanInput {
        objective: Objective::Throughput,
        search: Method::Random(5),
        serving: ServingSection { policy, queue_max: None },
        ..PlanInput::new(machine, vec![tenant])
    };
    tandem_planner::plan::plan(&input).expect("it plans")
}

#[test]
fn every_request_gets_the_numbers_of_the_whole_model() {
    for name in MODELS {
        let (model, shapes) = model(name);
        let machine = testing::machine(8, true);
        for policy in [Policy::AdtFlow, Policy::Fixed { preferred: vec![2], queue_delay: Nanos(1_000_000) }] {
            let plan = plan(&model, &shapes, &machine, policy.clone());
            assert!(
                plan.derived.routes.iter().any(|r| r.steps.iter().any(|s| matches!(s.action, Action::Copy { .. })))
            );
            check(name, &model, &plan);
        }
    }
}

fn check(name: &str, model: &Model, plan: &Plan) {
    let graph = &model.graph;
    let whole = engine().load(&cut::original(model), &SessionOptions::default()).expect("it loads");
    let outputs: Vec<String> = graph.outputs.iter().map(|t| graph.tensor(*t).name.clone()).collect();
    let serving = Serving::new(plan, &[model]).expect("it can be served");
    let options = RunnerOptions { emulate: true, ..RunnerOptions::default() };
    serving.load(plan, &[model], &[engine()], &options, |_| ()).expect("it loads");
    let driver = serving.driver().expect("it is loaded");
    let (tell, answers) = channel();
    let mut asked = vec![];
    for request in 0..REQUESTS {
        // One, two or three items; each request its own numbers.
        let rows = 1 + request % 3;
        let values = inputs(model, rows, request);
        asked.push(values.clone());
        let tell = tell.clone();
        let answer = Box::new(move |answer| tell.send((request, answer)).expect("the test listens"));
        driver.ask(Ask { tenant: 0, rows: rows as u32, timeout: None, inputs: Arc::new(values), answer });
    }
    let mut batched = 0;
    for _ in 0..REQUESTS {
        let (request, answer) = answers.recv().expect("the driver answers");
        let Answer::Done(rows, served) = answer else { panic!("{name}: request {request} has no outputs") };
        batched += u64::from(u64::from(served.batch_rows) > 1 + request % 3);
        let expected: Vec<Value> = whole.run(&asked[request as usize]).expect("it runs");
        let found = rows.values().expect("its rows are there");
        let compared = compare(&outputs, &expected, &found);
        assert!(compared.is_equal(), "{name}, request {request}: {compared}");
    }
    assert!(batched > 0, "{name}: no request shared a batch");
    assert!(driver.is_idle());
}

#[test]
fn what_is_copied_are_the_tensors_at_boundaries_between_devices() {
    let (model, shapes) = model("tiny-resnet");
    let machine = testing::machine(8, true);
    let plan = plan(&model, &shapes, &machine, Policy::AdtFlow);
    let options = RunnerOptions { emulate: true, ..RunnerOptions::default() };
    for route in &plan.derived.routes {
        let mut runner = RouteRunner::prepare(route, &model, &machine, &[engine()], &options).expect("it loads");
        let run = runner.run(inputs(&model, route.batch, 3)).expect("it runs");
        let copied = route.steps.iter().filter_map(|s| match s.action {
            Action::Copy { tensor, .. } => Some(route.tensors[tensor].bytes.0),
            Action::Run(_) | Action::Barrier => None,
        });
        assert_eq!(run.bytes_copied, copied.sum::<u64>(), "batch {}", route.batch);
    }
}

/// tract, until it finds no memory any more.
struct Exhausted(Arc<AtomicBool>);

struct ExhaustedSession {
    session: Arc<dyn Session>,
    is_exhausted: Arc<AtomicBool>,
}

impl Engine for Exhausted {
    fn name(&self) -> &str {
        TractEngine.name()
    }

    fn version(&self) -> &str {
        TractEngine.version()
    }

    fn load(&self, image: &cut::SegmentImage, options: &SessionOptions) -> Result<Arc<dyn Session>, EngineError> {
        let session = TractEngine.load(image, options)?;
        Ok(Arc::new(ExhaustedSession { session, is_exhausted: self.0.clone() }))
    }
}

impl Session for ExhaustedSession {
    fn run(&self, inputs: &[Value]) -> Result<Vec<Value>, EngineError> {
        match self.is_exhausted.load(Ordering::SeqCst) {
            true => Err(EngineError::OutOfMemory { needed: Bytes(4096), why: "as told".into() }),
            false => self.session.run(inputs),
        }
    }
}

#[test]
fn what_goes_wrong_keeps_its_kind_and_its_device() {
    let (model, shapes) = model("tiny-resnet");
    let machine = testing::machine(8, true);
    let plan = plan(&model, &shapes, &machine, Policy::AdtFlow);
    let serving = Serving::new(&plan, &[&model]).expect("it can be served");
    let is_exhausted = Arc::new(AtomicBool::new(false));
    let engine: Arc<dyn Engine> = Arc::new(Exhausted(is_exhausted.clone()));
    let options = RunnerOptions { emulate: true, ..RunnerOptions::default() };
    serving.load(&plan, &[&model], &[engine], &options, |_| ()).expect("it loads");
    let driver = serving.driver().expect("it is loaded");
    let ask = |rows: u32, has: u64| driver.run(0, rows, Arc::new(inputs(&model, has, 1)));
    assert!(matches!(ask(1, 1), Answer::Done(..)));
    // Another number of rows than the request says: the rows of whoever is behind it would be another's.
    for (rows, has) in [(1, 2), (2, 1)] {
        let Answer::Failed(error) = ask(rows, has) else { panic!("{rows} rows of {has} are served") };
        let name = &model.graph.tensor(model.graph.inputs[0]).name;
        assert!(error.to_string().contains(&format!("input \"{name}\"")), "{error}");
    }
    is_exhausted.store(true, Ordering::SeqCst);
    let Answer::Failed(DeviceError::OutOfMemory { device, value, needed }) = ask(1, 1) else {
        panic!("there was memory")
    };
    assert!(machine.devices.iter().any(|d| d.name == device) && value.contains("segment"), "{device}: {value}");
    assert_eq!(needed, Bytes(4096));
}
