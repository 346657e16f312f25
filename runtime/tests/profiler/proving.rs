//! Batching is proven: what equals its rows passes, what mixes them does not, and every refusal says why.

use tandem_onnx::import::Model;
use tandem_onnx_proto::{AttributeProto, NodeProto, TensorProto};
use tandem_runtime::profiler::{facts, is_batchable, proof};

use crate::common::{Broken, engines, resolved, small, zoo};

const F32: i32 = 1;

fn refusal(model: &Model) -> Vec<Option<String>> {
    let prove = |engine: std::sync::Arc<dyn tandem_runtime::engine::Engine>| {
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
    model.graph = facts::resolve(&[engine.as_ref()], &model, &binding, None).unwrap().graph;
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
        let found = facts::resolve(&[&Broken, engine.as_ref()], &model, &binding, None).unwrap();
        assert_eq!(found.engine.as_deref(), Some(engine.name()));
        assert!(found.notes.iter().any(|n| n.contains("broken cannot run it at batch 1")), "{:?}", found.notes);
        let y = found.graph.tensors.iter().find(|t| t.name == "y").unwrap();
        assert_eq!(y.fact.to_string(), "f32[Nx4]");
    }
    let none = facts::resolve(&[&Broken], &model, &binding, None).unwrap();
    assert_eq!(none.engine, None);
    let wrong = [("z".to_owned(), vec![])].into();
    assert!(facts::resolve(&[&Broken], &model, &wrong, None).is_err());
}
