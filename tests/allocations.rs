//! What a request costs in heap blocks with ONNX Runtime: a number a step that is printed, and the same whenever it is
//! counted. It is counted for the whole process, so nothing may run beside it, and there is no test harness.

#[path = "../runtime/core/tests/support/counting.rs"]
mod counting;
#[path = "common/zoo.rs"]
mod zoo;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tandem_planner::plan::{PlanInput, TenantInput};
use tandem_planner::search::Method;
use tandem_planner::testing;
use tandem_runtime::device::ort::OrtEngine;
use tandem_runtime::driver::RunnerOptions;
use tandem_runtime::driver::drive::{Answer, Ask, Driver};
use tandem_runtime::driver::works::{Inputs, Rows, Works};
use tandem_runtime::engine::Engine;
use tandem_runtime::serving::Serving;
use zoo::{inputs, model};

/// Requests of one count.
const REQUESTS: u64 = 100;

fn main() {
    let Some(path) = std::env::var_os("ORT_DYLIB_PATH") else {
        println!("skipped: ORT_DYLIB_PATH is not set");
        return;
    };
    let engine: Arc<dyn Engine> = Arc::new(OrtEngine::open(Path::new(&path)).expect("ONNX Runtime loads"));
    let (model, shapes) = model("tiny-resnet");
    let machine = testing::machine(2, true);
    let tenant = TenantInput { shapes, batches: vec![1], ..TenantInput::new("t", &model.graph) };
    let input = PlanInput { search: Method::Random(5), ..PlanInput::new(&machine, vec![tenant]) };
    let plan = tandem_planner::plan::plan(&input).expect("it plans");
    let serving = Serving::new(&plan, &[&model]).expect("it can be served");
    let options = RunnerOptions { emulate: true, ..RunnerOptions::default() };
    serving.load(&plan, &[&model], &[engine], &options, |_| ()).expect("it loads");
    let driver = serving.driver().expect("it is loaded");
    let values: Inputs = Arc::new(inputs(&model, 1, 1));
    let mut counts = vec![];
    for _ in 0..6 {
        let mut asks = prepare(&values);
        let ((), counted) = counting::by_the_process(|| one_by_one(driver, &mut asks));
        counts.push(counted.blocks);
    }
    // The first rounds size what is used again.
    let (first, rest) = (counts[2], &counts[3..]);
    let steps = plan.derived.routes[0].steps.len() as u64;
    println!(
        "{} heap blocks a request, {:.1} a step of {steps} (counts of {REQUESTS} requests: {counts:?})",
        first / REQUESTS,
        first as f64 / (REQUESTS * steps) as f64
    );
    assert!(rest.iter().all(|count| *count == first), "the counts differ: {counts:?}");
}

/// Requests with all that their senders allocate.
fn prepare(values: &Inputs) -> Vec<(Ask<Works>, Arc<AtomicUsize>)> {
    let one = |_| {
        let answered = Arc::new(AtomicUsize::new(0));
        let tell = answered.clone();
        let answer = Box::new(move |answer: Answer<Rows>| {
            assert!(matches!(answer, Answer::Done(..)));
            tell.store(1, Ordering::Release);
        });
        (Ask { tenant: 0, rows: 1, timeout: None, inputs: values.clone(), answer }, answered)
    };
    (0..REQUESTS).map(one).collect()
}

/// Each request once the one before is answered.
fn one_by_one(driver: &Driver<Works>, asks: &mut Vec<(Ask<Works>, Arc<AtomicUsize>)>) {
    while let Some((ask, answered)) = asks.pop() {
        driver.ask(ask);
        while answered.load(Ordering::Acquire) == 0 || !driver.is_idle() {
            std::thread::yield_now();
        }
    }
}
