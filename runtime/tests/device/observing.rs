//! Observed runs: what engines say of every tensor.

use std::collections::HashMap;

use tandem_ir::batch::Seen;
use tandem_ir::{DType, Graph, NodeId};
use tandem_onnx::import::Model;
use tandem_onnx::value::{TensorValue, Value};
use tandem_onnx_proto::{AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, data_type};
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
            assert_eq!(seen.values.len(), expected.len(), "{name}");
            assert!(expected.iter().all(|t| seen.values.contains_key(*t)), "{name}");
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
        NodeProto::new("ConcatFromSequence", &["t"], &["y"]).named("c").with(AttributeProto::int("axis", 1)),
    ];
    let image = image(nodes, &[("x", kind)], &[("y", TypeProto::tensor(DType::F32.onnx_code(), None))]);
    let model = tandem_onnx::import::import_bytes("sequences", image.model.to_vec(), None).expect("imports");
    let x: Value = f32s(&[2, 4], &[1.0; 8]);
    let seen = observe(&engine, &model, std::slice::from_ref(&x)).expect("observed");
    assert_eq!(seen.values["x"], (DType::F32, vec![2, 4]));
    assert_eq!(seen.values["y"], (DType::F32, vec![1, 8]));
    assert!(!seen.values.contains_key("s") && !seen.values.contains_key("t"));
    assert!(observe(&engine, &model, &[]).is_err());
}

/// Every value of a graph and of its bodies.
fn whole(graph: &Graph, seen: &Seen) {
    for name in observable(graph) {
        assert!(seen.values.contains_key(name), "{name} is not in {:?}", seen.values);
    }
    for id in graph.node_ids() {
        for (name, body) in &graph.node(id).bodies {
            whole(body, &seen.bodies[&(id, name.clone())]);
        }
    }
}

#[test]
fn bodies_are_seen_inside_bodies() {
    for engine in engines("observed bodies") {
        match zoo("tiny-control-flow", engine.as_ref()) {
            Ok((model, inputs)) => whole(&model.graph, &observe(engine.as_ref(), &model, &inputs).expect("observed")),
            Err(error) => eprintln!("skipped: {} does not run it: {error}", engine.name()),
        }
    }
}

fn float(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: name.into(), r#type: Some(TypeProto::tensor(data_type::FLOAT, None)), ..Default::default() }
}

fn flag(name: &str) -> ValueInfoProto {
    ValueInfoProto::tensor(name, data_type::BOOL, &[])
}

fn body(nodes: Vec<NodeProto>, input: Vec<ValueInfoProto>, output: Vec<ValueInfoProto>) -> GraphProto {
    GraphProto { name: "body".into(), node: nodes, input, output, ..GraphProto::default() }
}

/// A model with an input `x` of shape [3, 5] and a flag `c`; opset 17.
fn model(nodes: Vec<NodeProto>) -> Model {
    let kinds = [("x", tensor(DType::F32, &[3, 5])), ("c", tensor(DType::Bool, &[]))];
    let image = image(nodes, &kinds, &[("y", TypeProto::tensor(data_type::FLOAT, None))]);
    tandem_onnx::import::import_bytes("bodies", image.model.to_vec(), None).expect("imports")
}

fn run(model: &Model) -> Option<Seen> {
    let engine = ort("observed bodies")?;
    let inputs = [f32s(&[3, 5], &[1.0; 15]), Value::Tensor(TensorValue::new(DType::Bool, vec![], vec![1]))];
    Some(observe(&engine, model, &inputs).expect("observed"))
}

#[test]
fn a_scan_is_seen_at_its_first_slice() {
    let turn = body(
        vec![NodeProto::new("Add", &["state", "slice"], &["sum"]), NodeProto::new("Identity", &["sum"], &["stacked"])],
        vec![float("state"), float("slice")],
        vec![float("sum"), float("stacked")],
    );
    let zeros = TensorProto::from_f32("", &[3], &[0.0; 3]);
    let scan = NodeProto::new("Scan", &["zeros", "x"], &["last", "y"])
        .with(AttributeProto::graph("body", turn))
        .with(AttributeProto::int("num_scan_inputs", 1))
        .with(AttributeProto::ints("scan_input_axes", [-1]));
    let constant =
        NodeProto::new::<&str, &str>("Constant", &[], &["zeros"]).with(AttributeProto::tensor("value", zeros));
    let Some(seen) = run(&model(vec![constant, scan])) else { return };
    assert_eq!(seen.values["y"].1, [5, 3]);
    let inside = &seen.bodies[&(NodeId(0), "body".to_owned())].values;
    assert!(["state", "slice", "sum", "stacked"].iter().all(|n| inside[*n].1 == [3]), "{inside:?}");
}

#[test]
fn a_branch_not_taken_is_left_out_where_it_fails_or_may_not_end() {
    let yes = || body(vec![NodeProto::new("Relu", &["x"], &["taken"])], vec![], vec![float("taken")]);
    let seven = TensorProto::from_i64("", &[1], &[7]);
    let failing = vec![
        NodeProto::new::<&str, &str>("Constant", &[], &["seven"]).with(AttributeProto::tensor("value", seven)),
        NodeProto::new("Reshape", &["x", "seven"], &["failed"]),
    ];
    let forever = body(
        vec![NodeProto::new("Identity", &["go"], &["on"]), NodeProto::new("Relu", &["v"], &["w"])],
        vec![ValueInfoProto::tensor("i", data_type::INT64, &[]), flag("go"), float("v")],
        vec![flag("on"), float("w")],
    );
    let endless =
        vec![NodeProto::new("Loop", &["", "c", "x"], &["never"]).with(AttributeProto::graph("body", forever))];
    let choose = |no: Vec<NodeProto>, out: &str, made: &str| {
        NodeProto::new("If", &["c"], &[made])
            .with(AttributeProto::graph("then_branch", yes()))
            .with(AttributeProto::graph("else_branch", body(no, vec![], vec![float(out)])))
    };
    let sum = NodeProto::new("Add", &["a", "b"], &["y"]);
    let Some(seen) = run(&model(vec![choose(failing, "failed", "a"), choose(endless, "never", "b"), sum])) else {
        return;
    };
    let bodies: Vec<(u32, &str)> = seen.bodies.keys().map(|(id, name)| (id.0, name.as_str())).collect();
    assert_eq!(bodies, [(0, "then_branch"), (1, "then_branch")]);
    assert_eq!(seen.bodies[&(NodeId(0), "then_branch".to_owned())].values["taken"].1, [3, 5]);
}
