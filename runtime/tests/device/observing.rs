//! Observed runs: what engines say of every tensor.

use std::collections::HashMap;

use tandem_ir::DType;
use tandem_onnx::value::Value;
use tandem_onnx_proto::{NodeProto, TypeProto};
use tandem_runtime::observe::{observable, observe};

use crate::common::*;
use crate::routes::zoo;

#[test]
fn every_tensor_of_a_model_is_seen() {
    let mut seen_by: HashMap<&str, _> = HashMap::new();
    for engine in engines("observed runs") {
        for name in ["tiny-resnet", "tiny-bert", "tiny-lstm"] {
            let (model, inputs) = zoo(name, engine.as_ref()).expect(name);
            let seen = observe(engine.as_ref(), &model, &inputs).expect(name);
            let expected = observable(&model.graph);
            assert_eq!(seen.len(), expected.len(), "{name}");
            assert!(expected.iter().all(|t| seen.contains_key(*t)), "{name}");
            let before = seen_by.entry(name).or_insert_with(|| seen.clone());
            assert_eq!(*before, seen, "{name} on {}", engine.name());
        }
    }
}

#[test]
fn sequences_are_passed_through_and_not_reported() {
    let Some(engine) = ort("observed sequences") else { return };
    let kind = tensor(DType::F32, &[2, 4]);
    let nodes = vec![
        NodeProto::new("SplitToSequence", &["x"], &["s"]).named("a"),
        NodeProto::new("Identity", &["s"], &["t"]).named("b"),
        NodeProto::new("ConcatFromSequence", &["t"], &["y"])
            .named("c")
            .with(tandem_onnx_proto::AttributeProto::int("axis", 1)),
    ];
    let image = image(nodes, &[("x", kind)], &[("y", TypeProto::tensor(DType::F32.onnx_code(), None))]);
    let model = tandem_onnx::import::import_bytes("sequences", image.model.to_vec(), None).expect("imports");
    let x: Value = f32s(&[2, 4], &[1.0; 8]);
    let seen = observe(&engine, &model, std::slice::from_ref(&x)).expect("observed");
    assert_eq!(seen["x"], (DType::F32, vec![2, 4]));
    assert_eq!(seen["y"], (DType::F32, vec![1, 8]));
    assert!(!seen.contains_key("s") && !seen.contains_key("t"));
    assert!(observe(&engine, &model, &[]).is_err());
}
