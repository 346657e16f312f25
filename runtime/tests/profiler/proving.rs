//! Batching is proven: what equals its rows passes, what mixes them does not, and every refusal says why.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tandem_onnx::cut::SegmentImage;
use tandem_onnx::import::Model;
use tandem_onnx::value::Value;
use tandem_onnx_proto::{AttributeProto, NodeProto, TensorProto};
use tandem_runtime::engine::{Engine, EngineError, Session, SessionOptions};
use tandem_runtime::profiler::{facts, feeds, is_batchable, proof};

use crate::common::{Broken, Counting, engines, resolved, small, zoo};

const F32: i32 = 1;

fn refusal(model: &Model) -> Vec<Option<String>> {
    let prove = |engine: Arc<dyn Engine>| {
        let model = resolved(engine.as_ref(), model.clone()).ok()?;
        Some(proof::prove(engine.as_ref(), &model).refusal)
    };
    engines("proofs").into_iter().filter_map(prove).collect()
}

fn refused_for(model: &Model, word: &str) {
    let found = refusal(model);
    assert!(!found.is_empty());
    for refusal in found {
        assert!(refusal.as_ref().is_some_and(|r| r.contains(word)), "expected \"{word}\", found {refusal:?}");
    }
}

#[test]
fn batches_that_equal_their_rows_are_proven() {
    for name in ["tiny-resnet", "tiny-bert", "tiny-lstm", "tiny-int8"] {
        let found = refusal(&zoo(name));
        assert!(!found.is_empty(), "{name} runs nowhere");
        assert!(found.iter().all(Option::is_none), "{name}: {found:?}");
    }
}

#[test]
fn a_mean_over_the_batch_is_found_out() {
    let mean = NodeProto::new("ReduceMean", &["x"], &["m"]).with(AttributeProto::ints("axes", [0]));
    refused_for(
        &small(vec![mean, NodeProto::new("Sub", &["x", "m"], &["y"])], &[("y", F32)], vec![]),
        "does not equal",
    );
}

#[test]
fn an_output_without_batch_axis_is_refused() {
    let sum = NodeProto::new("ReduceMax", &["x"], &["y"]).with(AttributeProto::ints("axes", [0]));
    refused_for(&small(vec![sum], &[("y", F32)], vec![]), "no batch axis");
    let shape = TensorProto::from_i64("all", &[1], &[-1]);
    let flat = NodeProto::new("Reshape", &["x", "all"], &["f"]);
    let sorted = NodeProto::new("TopK", &["f", "three"], &["y", "i"]);
    let three = TensorProto::from_i64("three", &[1], &[3]);
    refused_for(&small(vec![flat, sorted], &[("y", F32)], vec![shape, three]), "no batch axis");
}

#[test]
fn one_scale_over_the_batch_is_refused_by_name() {
    let quantize = NodeProto::new("DynamicQuantizeLinear", &["x"], &["q", "s", "z"]);
    let back = NodeProto::new("DequantizeLinear", &["q", "s", "z"], &["y"]);
    let mut model = small(vec![quantize, back], &[("y", F32)], vec![]);
    // Bound, not observed: no run is needed to see it, and tract does not run it.
    let binding = [("x".to_owned(), vec![tandem_ir::plan::BoundDim::Batch(1), fixed(4)])].into();
    tandem_ir::batch::bind(&mut model.graph, &binding).unwrap();
    for engine in engines("a dynamic scale") {
        let refusal = proof::prove(engine.as_ref(), &model).refusal.expect("a refusal");
        assert!(refusal.contains("DynamicQuantizeLinear \"q\""), "{refusal}");
    }
}

#[test]
fn a_model_without_batch_is_refused() {
    let mut model = small(vec![NodeProto::new("Relu", &["x"], &["y"])], &[("y", F32)], vec![]);
    let engine = &engines("a model without batch")[0];
    let binding = [("x".to_owned(), vec![fixed(2), fixed(4)])].into();
    model.graph = facts::resolve(&[engine.as_ref()], &model, &binding, None, None).unwrap().graph;
    assert!(!is_batchable(&model.graph));
    assert_eq!(proof::prove(engine.as_ref(), &model).refusal.as_deref(), Some("no input has a batch axis"));
}

fn fixed(n: u64) -> tandem_ir::plan::BoundDim {
    tandem_ir::plan::BoundDim::Fixed(n)
}

#[test]
fn facts_come_from_the_first_engine_that_runs() {
    let model = small(vec![NodeProto::new("Relu", &["x"], &["y"])], &[("y", F32)], vec![]);
    let binding = [("x".to_owned(), vec![tandem_ir::plan::BoundDim::Batch(1), fixed(4)])].into();
    for engine in engines("facts") {
        let found = facts::resolve(&[&Broken, engine.as_ref()], &model, &binding, None, None).unwrap();
        assert_eq!(found.engine.as_deref(), Some(engine.name()));
        assert!(found.notes.iter().any(|n| n.contains("not observed at batch 1: broken")), "{:?}", found.notes);
        let y = found.graph.tensors.iter().find(|t| t.name == "y").unwrap();
        assert_eq!(y.fact.to_string(), "f32[Nx4]");
    }
    let none = facts::resolve(&[&Broken], &model, &binding, None, None).unwrap();
    assert_eq!(none.engine, None);
    let wrong = [("z".to_owned(), vec![])].into();
    assert!(facts::resolve(&[&Broken], &model, &wrong, None, None).is_err());
}

/// An engine that says it is of another version.
struct Newer<'a>(&'a dyn Engine);

impl Engine for Newer<'_> {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn version(&self) -> &str {
        "999"
    }
    fn load(&self, image: &SegmentImage, options: &SessionOptions) -> Result<Arc<dyn Session>, EngineError> {
        self.0.load(image, options)
    }
}

#[test]
fn what_was_observed_is_kept() {
    for engine in engines("kept observations") {
        let (model, folder) = (zoo("tiny-control-flow"), tempfile::tempdir().unwrap());
        let proposal = tandem_ir::batch::propose(&model.graph);
        let resolve = |engine: &dyn Engine, sample: Option<&[Value]>| {
            let counting = Counting { engine, loads: AtomicUsize::new(0) };
            let binding = proposal.binding().expect("nothing is free");
            let found = facts::resolve(&[&counting], &model, &binding, sample, Some(folder.path())).unwrap();
            (found, counting.loads.into_inner())
        };
        let (first, loads) = resolve(engine.as_ref(), None);
        if first.engine.is_none() {
            // What failed is tried again.
            assert!(loads > 0 && resolve(engine.as_ref(), None).1 == loads, "{}", engine.name());
            continue;
        }
        let (again, more) = resolve(engine.as_ref(), None);
        assert!(loads > 0 && more == 0);
        assert_eq!((&again.graph, &again.notes), (&first.graph, &first.notes), "bodies and all");
        let sample = feeds(&again.graph, 1).unwrap();
        for (what, changed) in [
            ("another version", resolve(&Newer(engine.as_ref()), None).1),
            ("a sample", resolve(engine.as_ref(), Some(&sample)).1),
        ] {
            assert!(changed > 0, "{what}");
        }
        assert_eq!(resolve(engine.as_ref(), None).1, 0, "what is kept stays beside what is new");
        for entry in std::fs::read_dir(folder.path().join("observed")).unwrap() {
            std::fs::write(entry.unwrap().path(), b"{").unwrap();
        }
        let (mended, loads) = resolve(engine.as_ref(), None);
        assert!(loads > 0 && mended.graph == first.graph);
        assert!(mended.notes.iter().any(|n| n.contains("ignored and rebuilt")), "{:?}", mended.notes);
        assert_eq!(resolve(engine.as_ref(), None).1, 0);
    }
}

#[test]
fn facts_reach_into_bodies() {
    for engine in engines("facts inside bodies") {
        let Ok(model) = resolved(engine.as_ref(), zoo("tiny-control-flow")) else { continue };
        let mut pending = vec![&model.graph];
        while let Some(graph) = pending.pop() {
            let made = graph.placeable().flat_map(|n| graph.node(n).writes()).map(|t| graph.tensor(t));
            made.for_each(|t| assert!(t.fact.dims_at(5).is_some(), "{} {}", t.name, t.fact));
            pending.extend(graph.nodes.iter().flat_map(|n| n.bodies.values()));
        }
        let branch = model.graph.nodes.iter().find(|n| n.op.is("If")).unwrap();
        let inner = branch.bodies["then_branch"].nodes[0].bodies["then_branch"].clone();
        let shown: Vec<String> =
            inner.nodes.iter().flat_map(|n| n.writes()).map(|t| inner.tensor(t).fact.to_string()).collect();
        assert_eq!(shown, ["f32[Nx32]", "f32[Nx32]", "f32[Nx32]"], "a body grows with the batch");
    }
}
