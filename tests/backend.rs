//! The ONNX backend tests, through import, a random split over an emulated accelerator, and the driver: what ONNX Runtime
//! passes whole, tandem must pass split.
//!
//! Needs `ORT_DYLIB_PATH` and `TANDEM_ONNX_TESTDATA` (the folder `onnx/backend/test/data` of the package onnx 1.22.0). Without
//! them it says "skipped". One case can be picked with `TANDEM_BACKEND_CASE`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tandem_ir::Machine;
use tandem_ir::batch;
use tandem_ir::plan::{Batching, BoundDim, Objective};
use tandem_onnx::cut;
use tandem_onnx::import::{self, Model};
use tandem_onnx::pb;
use tandem_onnx::value::Value;
use tandem_planner::plan::{PlanInput, TenantInput};
use tandem_planner::search::Method;
use tandem_planner::testing;
use tandem_runtime::compare::compare;
use tandem_runtime::device::ort::OrtEngine;
use tandem_runtime::driver::{RouteRunner, RunnerOptions};
use tandem_runtime::engine::{Engine, SessionOptions};
use tandem_runtime::observe;

const FOLDERS: [&str; 5] = ["node", "simple", "pytorch-operator", "pytorch-converted", "light"];

/// What became of a case.
enum Outcome {
    /// ONNX Runtime does not pass it whole: its reason.
    Skipped(String),
    /// Passed, in so many segments.
    Passed(usize),
    /// ONNX Runtime passes it whole and tandem does not.
    Failed(String),
}

/// The inputs and expected outputs of one data set.
fn data_set(folder: &Path, model: &Model) -> Result<(Vec<Value>, Vec<Value>), String> {
    let read = |kind: &str, ids: &[tandem_ir::TensorId]| -> Result<Vec<Value>, String> {
        let one = |(i, id): (usize, &tandem_ir::TensorId)| {
            let file = folder.join(format!("{kind}_{i}.pb"));
            pb::read_pb(&file, &model.graph.tensor(*id).fact).map_err(|e| e.to_string())
        };
        ids.iter().enumerate().map(one).collect()
    };
    Ok((read("input", &model.graph.inputs)?, read("output", &model.graph.outputs)?))
}

fn names(model: &Model) -> Vec<String> {
    model.graph.outputs.iter().map(|t| model.graph.tensor(*t).name.clone()).collect()
}

fn case(folder: &Path, engine: &Arc<dyn Engine>, machine: &Machine, seed: u64) -> Outcome {
    let model = match import::import(&folder.join("model.onnx")) {
        Ok(model) => model,
        Err(error) => return Outcome::Failed(format!("import: {error}")),
    };
    let (inputs, expected) = match data_set(&folder.join("test_data_set_0"), &model) {
        Ok(set) => set,
        Err(why) => return Outcome::Failed(format!("data: {why}")),
    };
    let whole = engine.load(&cut::original(&model), &SessionOptions::default());
    let whole = whole.and_then(|session| session.run(&inputs));
    match whole {
        Err(error) => return Outcome::Skipped(error.to_string()),
        Ok(found) => {
            let compared = compare(&names(&model), &expected, &found);
            if !compared.is_equal() {
                return Outcome::Skipped(format!("the whole model's outputs are not the expected ones: {compared}"));
            }
        }
    }
    match split(model, &inputs, &expected, engine, machine, seed) {
        Ok(segments) => Outcome::Passed(segments),
        Err(why) => Outcome::Failed(why),
    }
}

fn split(
    mut model: Model,
    inputs: &[Value],
    expected: &[Value],
    engine: &Arc<dyn Engine>,
    machine: &Machine,
    seed: u64,
) -> Result<usize, String> {
    let mut shapes: BTreeMap<String, Vec<BoundDim>> = BTreeMap::new();
    for (id, value) in model.graph.inputs.iter().zip(inputs) {
        if let Value::Tensor(tensor) = value {
            let dims = tensor.dims.iter().map(|d| BoundDim::Fixed(*d)).collect();
            shapes.insert(model.graph.tensor(*id).name.clone(), dims);
        }
    }
    let observed = observe::observe(engine.as_ref(), &model, inputs).map_err(|e| format!("observe: {e}"))?;
    batch::apply_observations(&mut model.graph, &[(1, observed)]);
    let batching = Batching::Refused("one case".into());
    let tenant = TenantInput { shapes, batching, ..TenantInput::new("case", &model.graph) };
    let (objective, search) = (Objective::Latency, Method::Random(seed));
    let input = PlanInput { objective, search, ..PlanInput::new(machine, vec![tenant]) };
    let plan = tandem_planner::plan::plan(&input).map_err(|e| format!("plan: {e}"))?;
    let route = &plan.derived.routes[0];
    let options = RunnerOptions { emulate: true, ..RunnerOptions::default() };
    let mut runner = RouteRunner::prepare(route, &model, machine, std::slice::from_ref(engine), &options)
        .map_err(|e| format!("prepare: {e}"))?;
    let run = runner.run(inputs.to_vec()).map_err(|e| format!("run: {e}"))?;
    let compared = compare(&names(&model), expected, &run.outputs);
    if compared.is_equal() { Ok(route.segments.len()) } else { Err(format!("outputs: {compared}")) }
}

fn cases(data: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for folder in FOLDERS {
        let entries = std::fs::read_dir(data.join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
        found.extend(entries.flatten().map(|e| e.path()).filter(|p| p.join("model.onnx").is_file()));
    }
    found.sort();
    found
}

#[test]
fn what_onnx_runtime_passes_whole_tandem_passes_split() {
    let (Some(data), Some(library)) = (std::env::var_os("TANDEM_ONNX_TESTDATA"), std::env::var_os("ORT_DYLIB_PATH"))
    else {
        println!("skipped: TANDEM_ONNX_TESTDATA or ORT_DYLIB_PATH is not set");
        return;
    };
    let engine: Arc<dyn Engine> = Arc::new(OrtEngine::open(Path::new(&library)).expect("ONNX Runtime loads"));
    let machine = testing::machine(2, true);
    let pick = std::env::var("TANDEM_BACKEND_CASE").ok();
    let (mut passed, mut split, mut skipped, mut failed) = (0, 0, vec![], vec![]);
    for (seed, folder) in cases(Path::new(&data)).iter().enumerate() {
        let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if pick.as_ref().is_some_and(|p| *p != name) {
            continue;
        }
        match case(folder, &engine, &machine, seed as u64) {
            Outcome::Passed(segments) => {
                passed += 1;
                split += usize::from(segments > 1);
            }
            Outcome::Skipped(why) => skipped.push(format!("{name}: {}", why.lines().next().unwrap_or_default())),
            Outcome::Failed(why) => failed.push(format!("{name}: {why}")),
        }
    }
    if std::env::var_os("TANDEM_BACKEND_VERBOSE").is_some() {
        skipped.iter().for_each(|s| println!("skipped {s}"));
    }
    failed.iter().for_each(|f| println!("FAILED {f}"));
    println!(
        "ONNX backend tests: {passed} passed ({split} of them truly split), {} failed, {} skipped (ONNX Runtime does not pass \
         them whole)",
        failed.len(),
        skipped.len()
    );
    assert!(failed.is_empty(), "{} cases that ONNX Runtime passes whole fail", failed.len());
    assert!(passed > 0, "no case ran");
}
