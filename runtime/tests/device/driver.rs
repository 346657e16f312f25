//! Routes on real engines: split in many ways, the numbers stay those of the whole model.

use std::sync::Arc;

use tandem_ir::plan::Action;
use tandem_onnx::cut::SegmentImage;
use tandem_onnx::cut::{cut_whole, original};
use tandem_onnx::import::{Model, import_bytes};
use tandem_onnx::value::Value;
use tandem_onnx_proto::{Message, ModelProto, NodeProto, ValueInfoProto};
use tandem_runtime::compare::compare;
use tandem_runtime::driver::{RouteRunner, RunError, RunnerOptions};
use tandem_runtime::engine::{Engine, EngineError, Session, SessionOptions};

use crate::common::*;
use crate::routes::*;

const TINY: [&str; 8] = [
    "tiny-resnet",
    "tiny-mobilenet",
    "tiny-inception",
    "tiny-bert",
    "tiny-gpt2",
    "tiny-lstm",
    "tiny-control-flow",
    "tiny-int8",
];

/// xorshift: enough to label nodes.
fn random_labels(nodes: usize, parts: usize, seed: u64) -> Vec<usize> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let mut cuts: Vec<usize> = (1..parts).map(|_| next() % nodes.max(1)).collect();
    cuts.sort_unstable();
    (0..nodes).map(|n| 100 * (cuts.iter().filter(|c| **c <= n).count() % 2)).collect()
}

/// Both devices alone, and six placements over both.
fn labellings(model: &Model) -> Vec<Vec<usize>> {
    let mut labellings = vec![all_on(&model.graph, 0), all_on(&model.graph, 100)];
    for seed in 1..=6 {
        let labels = random_labels(model.graph.nodes.len(), 2 + seed as usize % 5, seed);
        labellings.push(respecting(&model.graph, labels));
    }
    labellings
}

/// Runs the route of a labelling twice, compares outputs and the order of steps, and returns its number of segments.
fn check_route(
    model: &Model,
    labels: &[usize],
    engine: &Arc<dyn Engine>,
    inputs: &[Value],
    expected: &[Value],
) -> usize {
    let name = model.path.display();
    let names: Vec<String> = model.graph.outputs.iter().map(|t| model.graph.tensor(*t).name.clone()).collect();
    let machine = machine(true);
    let route = route(model, &machine, labels);
    let runner = RouteRunner::prepare(&route, model, &machine, std::slice::from_ref(engine), &RunnerOptions::default());
    let mut runner = runner.unwrap_or_else(|e| panic!("{name}: {e}"));
    for _ in 0..2 {
        let output = runner.run(inputs.to_vec()).unwrap_or_else(|e| panic!("{name}, {}: {e}", engine.name()));
        let comparison = compare(&names, expected, &output.outputs);
        assert!(comparison.is_equal(), "{name} on {}: {comparison}", engine.name());
        assert!(output.steps.iter().all(|(start, end)| start <= end && *end <= output.total_ns));
        for (i, step) in route.steps.iter().enumerate() {
            let started = output.steps[i].0;
            assert!(step.after.iter().all(|a| output.steps[*a].1 <= started), "{name}: step {i}");
        }
    }
    route.segments.len()
}

#[test]
fn split_routes_compute_what_the_whole_model_does() {
    let mut split = 0;
    for engine in engines("split routes") {
        let engine_name = engine.name();
        for name in TINY {
            let (model, inputs) = match zoo(name, engine.as_ref()) {
                Ok(found) => found,
                Err(error) if engine.name() == "tract" => {
                    eprintln!("skipped: {name} on tract: {error}");
                    continue;
                }
                Err(error) => panic!("{name}: {error}"),
            };
            let whole = engine.load(&original(&model), &SessionOptions::default());
            let expected = match whole.and_then(|whole| whole.run(&inputs)) {
                Ok(expected) => expected,
                Err(EngineError::Unsupported { why, .. }) => {
                    eprintln!("skipped: {name} on {engine_name}: {why}");
                    continue;
                }
                Err(other) => panic!("{name}: {other}"),
            };
            for labels in labellings(&model) {
                split += usize::from(check_route(&model, &labels, &engine, &inputs, &expected) > 1);
            }
        }
    }
    eprintln!("{split} routes were truly split");
    assert!(split > 10);
}

/// Many segments of the host alone, and of both devices with several of each in a row.
fn inner_labellings(nodes: usize) -> Vec<Vec<usize>> {
    let chunk = |n: usize, chunks: usize| n * chunks / nodes;
    let host = (0..nodes).map(|n| chunk(n, 8)).collect();
    let both = (0..nodes).map(|n| [0, 1, 100, 101, 102, 2, 3, 4][chunk(n, 8)]).collect();
    // Every other node of the middle third elsewhere: runs that wait for each other.
    let woven = (0..nodes).map(|n| if chunk(n, 3) == 1 && n % 2 == 1 { 100 } else { chunk(n, 6) }).collect();
    vec![host, both, woven]
}

#[test]
fn boundaries_inside_a_device_are_cut_in_its_engines_graph() {
    for engine in engines("inner boundaries").into_iter().filter(|e| e.name() == "ort") {
        let mut alone = vec![];
        for name in TINY {
            let (model, inputs) = zoo(name, engine.as_ref()).unwrap_or_else(|e| panic!("{name}: {e}"));
            let whole = engine.load(&original(&model), &SessionOptions::default());
            let expected = whole.and_then(|whole| whole.run(&inputs)).unwrap_or_else(|e| panic!("{name}: {e}"));
            for labels in inner_labellings(model.graph.nodes.len()) {
                let labels = respecting(&model.graph, labels);
                assert!(check_route(&model, &labels, &engine, &inputs, &expected) > 1, "{name}");
                let (machine, own) = (machine(true), std::slice::from_ref(&engine));
                let route = route(&model, &machine, &labels);
                let runner = RouteRunner::prepare(&route, &model, &machine, own, &RunnerOptions::default());
                let notes = runner.unwrap_or_else(|e| panic!("{name}: {e}")).notes().to_vec();
                alone.extend(notes.into_iter().map(|note| (name, note)));
                let naive = RunnerOptions { inner_cuts: false, ..RunnerOptions::default() };
                let runner = RouteRunner::prepare(&route, &model, &machine, own, &naive)
                    .unwrap_or_else(|e| panic!("{name}: {e}"));
                assert!(runner.notes().is_empty());
            }
        }
        // Of equal nodes the engine keeps one, here an early one whose value the plan frees before the other's readers.
        alone.retain(|(name, why)| *name != "tiny-lstm" || !why.contains("later than the plan"));
        assert_eq!(alone, vec![]);
    }
}

#[test]
fn devices_say_what_computes_on_them() {
    let engine = engines("descriptions").remove(0);
    let (model, _) = zoo("tiny-resnet", engine.as_ref()).expect("observed");
    let machine = machine(true);
    let labels = random_labels(model.graph.nodes.len(), 3, 5);
    let route = route(&model, &machine, &labels);
    let runner = RouteRunner::prepare(&route, &model, &machine, &[engine], &RunnerOptions::default()).expect("ready");
    assert!(runner.devices()[0].starts_with("tract"), "{:?}", runner.devices());
    assert!(runner.devices()[1].starts_with("numeric emulator over tract"), "{:?}", runner.devices());
}

#[test]
fn absent_devices_need_emulate() {
    let engine = engines("absent devices").remove(0);
    let (model, inputs) = zoo("tiny-resnet", engine.as_ref()).expect("observed");
    let machine = machine(false);
    let mut route = route(&model, &machine, &all_on(&model.graph, 100));
    let engines = [engine];
    let refused = RouteRunner::prepare(&route, &model, &machine, &engines, &RunnerOptions::default()).err();
    assert!(matches!(refused, Some(RunError::Absent { device, .. }) if device == "gpu0"));
    let emulate = RunnerOptions { emulate: true, ..RunnerOptions::default() };
    route.threads = 4096;
    let mut runner =
        RouteRunner::prepare(&route, &model, &machine, &engines, &emulate).expect("emulated, threads capped");
    runner.run(inputs).expect("runs");
}

#[test]
fn a_missing_copy_is_an_error_that_names_value_and_segment() {
    let engine = engines("missing copies").remove(0);
    let (model, inputs) = zoo("tiny-resnet", engine.as_ref()).expect("observed");
    let machine = machine(true);
    let mut route = route(&model, &machine, &all_on(&model.graph, 100));
    let copy = route.steps.iter().position(|s| matches!(s.action, Action::Copy { from: 0, .. })).expect("a copy");
    route.steps[copy].action = Action::Barrier;
    route.steps[copy].frees.clear();
    let mut runner =
        RouteRunner::prepare(&route, &model, &machine, &[engine], &RunnerOptions::default()).expect("ready");
    for _ in 0..2 {
        let error = runner.run(inputs.clone()).expect_err("the value is not there").to_string();
        assert!(error.contains("segment 0 on gpu0") && error.contains("nothing has brought it"), "{error}");
    }
}

/// Fails or panics in its second segment while `broken` is set.
struct Moody {
    inner: Arc<dyn Engine>,
    loads: std::sync::atomic::AtomicUsize,
    broken: Arc<std::sync::atomic::AtomicUsize>,
}

struct MoodySession {
    inner: Arc<dyn Session>,
    second: bool,
    broken: Arc<std::sync::atomic::AtomicUsize>,
}

impl Engine for Moody {
    fn name(&self) -> &str {
        "tract"
    }
    fn version(&self) -> &str {
        "moody"
    }
    fn load(&self, image: &SegmentImage, options: &SessionOptions) -> Result<Arc<dyn Session>, EngineError> {
        let second = self.loads.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1;
        Ok(Arc::new(MoodySession { inner: self.inner.load(image, options)?, second, broken: self.broken.clone() }))
    }
}

impl Session for MoodySession {
    fn run(&self, inputs: &[Value]) -> Result<Vec<Value>, EngineError> {
        match self.broken.load(std::sync::atomic::Ordering::SeqCst) {
            1 if self.second => Err(EngineError::Failed { engine: "moody".into(), why: "not today".into() }),
            2 if self.second => panic!("out of my depth"),
            _ => self.inner.run(inputs),
        }
    }
}

#[test]
fn failures_and_panics_name_the_segment_and_leave_the_runner_usable() {
    let inner = engines("failures").remove(0);
    let (model, inputs) = zoo("tiny-resnet", inner.as_ref()).expect("observed");
    let broken = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let moody: Arc<dyn Engine> = Arc::new(Moody { inner, loads: 0.into(), broken: broken.clone() });
    let machine = machine(true);
    let labels = random_labels(model.graph.nodes.len(), 4, 11);
    let route = route(&model, &machine, &labels);
    assert!(route.segments.len() > 1);
    let mut runner =
        RouteRunner::prepare(&route, &model, &machine, &[moody], &RunnerOptions::default()).expect("ready");
    let good = runner.run(inputs.clone()).expect("runs").outputs;
    for (mood, words) in [(1, "not today"), (2, "out of my depth"), (1, "not today")] {
        broken.store(mood, std::sync::atomic::Ordering::SeqCst);
        let error = runner.run(inputs.clone()).expect_err("fails").to_string();
        assert!(error.contains("segment 1 on ") && error.contains(words), "{error}");
        broken.store(0, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(runner.run(inputs.clone()).expect("runs again").outputs, good);
    }
}

#[test]
fn inputs_are_checked_by_name() {
    let engine = engines("input checks").remove(0);
    let (model, inputs) = zoo("tiny-resnet", engine.as_ref()).expect("observed");
    let machine = machine(true);
    let route = route(&model, &machine, &all_on(&model.graph, 0));
    let mut runner =
        RouteRunner::prepare(&route, &model, &machine, &[engine], &RunnerOptions::default()).expect("ready");
    let error = runner.run(vec![f32s(&[1, 2], &[0.0; 2])]).expect_err("wrong shape").to_string();
    assert!(error.contains("expected f32[2x3x") && error.contains("found f32[1x2]"), "{error}");
    assert!(matches!(runner.run(vec![]), Err(RunError::InputCount { .. })));
    runner.run(inputs).expect("still usable");
}

#[test]
fn outputs_that_are_inputs_or_constants_are_passed_on() {
    let engine = engines("passed on").remove(0);
    let kind = tensor(tandem_ir::DType::F32, &[3]);
    let nodes = vec![NodeProto::new("Relu", &["x"], &["y"]).named("r")];
    let ports = [("x", kind.clone()), ("y", kind.clone())];
    let plain = image(nodes, &ports[..1], &ports);
    let mut proto = ModelProto::decode(&plain.model.to_vec().into()).expect("a model");
    let graph = proto.graph.as_mut().expect("a graph");
    let raw: Vec<u8> = [1.0f32, 2.0, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    graph.initializer.push(tandem_onnx_proto::TensorProto::from_raw("c", 1, &[3], raw));
    graph.output.push(ValueInfoProto { name: "c".into(), r#type: Some(kind), ..Default::default() });
    let model = import_bytes("passed", proto.encode(), None).expect("imports");
    assert_eq!(cut_whole(&model).expect("cuts").outputs, ["y"]);
    let machine = machine(true);
    let route = route(&model, &machine, &all_on(&model.graph, 0));
    let mut runner =
        RouteRunner::prepare(&route, &model, &machine, &[engine], &RunnerOptions::default()).expect("ready");
    let output = runner.run(vec![f32s(&[3], &[-1.0, 0.0, 1.0])]).expect("runs");
    let values: Vec<_> = output.outputs.iter().map(read_f32s).collect();
    assert_eq!(values, [[-1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 2.0, 3.0]]);
}
