//! Model-local functions: expanded where engines do not know them, kept where they do.

use tandem_onnx::cut::cut_whole;
use tandem_onnx_proto::{AttributeProto, FunctionProto, ModelProto, NodeProto, OperatorSetIdProto, attribute_type};

use crate::build::*;

fn call(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto { domain: "local".into(), ..node(op, inputs, outputs) }
}

fn function(name: &str, inputs: &[&str], outputs: &[&str], nodes: Vec<NodeProto>) -> FunctionProto {
    FunctionProto {
        name: name.into(),
        domain: "local".into(),
        input: inputs.iter().map(|s| (*s).into()).collect(),
        output: outputs.iter().map(|s| (*s).into()).collect(),
        node: nodes,
        opset_import: vec![OperatorSetIdProto::new("", 17), OperatorSetIdProto::new("local", 1)],
        ..FunctionProto::default()
    }
}

fn with(nodes: Vec<NodeProto>, functions: Vec<FunctionProto>) -> ModelProto {
    let mut m = model(graph(nodes, &["x"], &["y"]));
    m.opset_import.push(OperatorSetIdProto::new("local", 1));
    m.functions = functions;
    m
}

fn reference(name: &str, to: &str) -> AttributeProto {
    let r#type = attribute_type::FLOAT;
    AttributeProto { name: name.into(), ref_attr_name: to.into(), r#type, ..AttributeProto::default() }
}

#[test]
fn calls_are_expanded_in_depth() {
    let leaky = function(
        "Leaky",
        &["a"],
        &["b"],
        vec![node("LeakyRelu", &["a"], &["t"]).with(reference("alpha", "slope")), node("Neg", &["t"], &["b"])],
    );
    let mut leaky = leaky;
    leaky.attribute_proto.push(AttributeProto::float("slope", 0.5));
    let twice = function(
        "Twice",
        &["p"],
        &["q"],
        vec![call("Leaky", &["p"], &["t"]).with(AttributeProto::float("slope", 0.25)), call("Leaky", &["t"], &["q"])],
    );
    let m = with(vec![call("Twice", &["x"], &["m"]).named("one"), call("Twice", &["m"], &["y"])], vec![leaky, twice]);
    let model = read(&m);
    assert_eq!(model.graph.nodes.len(), 8);
    let names: Vec<String> = model.graph.node_ids().map(|n| model.graph.node_name(n)).collect();
    assert_eq!(names[0], "one/t/t");
    assert_eq!(names[1], "one/t");
    assert_eq!(names[3], "m");
    assert_eq!(names[7], "y");
    let alpha = |i: usize| match &model.graph.nodes[i].attrs["alpha"] {
        tandem_ir::graph::Attr::Float(bits) => f32::from_bits(*bits),
        other => panic!("{other:?}"),
    };
    assert_eq!([alpha(0), alpha(2), alpha(4), alpha(6)], [0.25, 0.5, 0.25, 0.5]);
    let image = cut_whole(&model).expect("cut");
    assert!(look(&image).functions.is_empty());
    assert_eq!(look(&image).opset_import.len(), 1);
}

#[test]
fn missing_and_passed_values_are_handled() {
    let clip = function(
        "Clip",
        &["a", "low", "high"],
        &["b", "same", "b2"],
        vec![node("Clip", &["a", "low", "high"], &["b"]), node("Identity", &["b"], &["b2"])],
    );
    let mut clip = clip;
    clip.output[1] = "a".into();
    let calls = vec![call("Clip", &["x", "", "x"], &["c", "passed"]), node("Sum", &["c", "passed"], &["y"])];
    let model = read(&with(calls, vec![clip]));
    let clip = model.graph.node(maker(&model, "c"));
    assert_eq!(clip.inputs.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(model.graph.node(maker(&model, "passed")).op.name, "Identity");
}

#[test]
fn bodies_of_functions_capture_their_values() {
    let body = |op: &str| graph(vec![node(op, &["scale", "a"], &["t"])], &[], &["t"]);
    let pick = function(
        "Pick",
        &["a", "c"],
        &["r"],
        vec![
            node("Neg", &["a"], &["scale"]),
            node("If", &["c"], &["t"])
                .with(AttributeProto::graph("then_branch", body("Add")))
                .with(AttributeProto::graph("else_branch", body("Mul"))),
            node("Identity", &["t"], &["r"]),
        ],
    );
    let mut m = with(vec![call("Pick", &["x", "c"], &["y"]), node("Neg", &["x"], &["y/scale"])], vec![pick]);
    let c = tandem_onnx_proto::ValueInfoProto::tensor("c", tandem_onnx_proto::data_type::BOOL, &[]);
    m.graph.as_mut().expect("a graph").input.push(c);
    let model = read(&m);
    let branch = model.graph.nodes.iter().find(|n| n.op.name == "If").expect("the branch");
    let captured: Vec<&str> = branch.captures.iter().map(|t| model.graph.tensor(*t).name.as_str()).collect();
    assert_eq!(captured, ["x", "y/scale_2"], "a taken name is passed over");
}

#[test]
fn functions_that_engines_know_or_that_differ_stay() {
    let mut known = function("Gelu", &["a"], &["b"], vec![node("Relu", &["a"], &["b"])]);
    known.domain = "com.microsoft".into();
    let mut other = function("Old", &["a"], &["b"], vec![call("New", &["a"], &["b"])]);
    other.opset_import[0].version = 11;
    other.node.push(node("Relu", &["a"], &["t"]));
    let new = function("New", &["a"], &["b"], vec![node("Neg", &["a"], &["b"])]);
    let gelu = NodeProto { domain: "com.microsoft".into(), ..node("Gelu", &["x"], &["h"]) };
    let mut m = with(vec![gelu, call("Old", &["h"], &["y"])], vec![known, other, new]);
    m.graph.as_mut().expect("a graph").value_info.push(float("h"));
    m.opset_import.push(OperatorSetIdProto::new("com.microsoft", 1));
    let model = read(&m);
    assert_eq!(model.graph.nodes.len(), 2);
    assert!(model.warnings.iter().any(|w| w.contains("local:Old")), "{:?}", model.warnings);
    let image = cut_whole(&model).expect("cut");
    let mut kept: Vec<String> = look(&image).functions.into_iter().map(|f| f.name).collect();
    kept.sort_unstable();
    assert_eq!(kept, ["Gelu", "New", "Old"]);
    assert_eq!(look(&image).opset_import.len(), 3);
    let (inputs, outputs) = tandem_onnx::cut::boundary(&model.graph, &[maker(&model, "h")]);
    let piece = tandem_onnx::cut::cut(&model, &[maker(&model, "h")], &inputs, &outputs).expect("cut");
    assert_eq!(look(&piece).functions.len(), 1, "only what the piece calls");
}

#[test]
fn domains_that_only_functions_use_are_imported() {
    let mut f = function("F", &["a"], &["b"], vec![NodeProto { domain: "ext".into(), ..node("E", &["a"], &["b"]) }]);
    f.opset_import.push(OperatorSetIdProto::new("ext", 3));
    let model = read(&with(vec![call("F", &["x"], &["y"])], vec![f]));
    assert_eq!(model.graph.node(maker(&model, "y")).op.version, 3);
}

#[test]
fn endless_and_exploding_functions_are_refused() {
    let a = function("A", &["a"], &["b"], vec![call("B", &["a"], &["b"])]);
    let b = function("B", &["a"], &["b"], vec![call("A", &["a"], &["b"])]);
    let message = error(&with(vec![call("A", &["x"], &["y"])], vec![a, b]));
    assert!(message.contains("local:A") && message.contains("calls itself"), "{message}");

    let levels = 25;
    let mut functions = vec![function("F0", &["a"], &["b"], vec![node("Neg", &["a"], &["b"])])];
    for i in 1..levels {
        let inner = format!("F{}", i - 1);
        let nodes = vec![call(&inner, &["a"], &["t"]), call(&inner, &["t"], &["b"])];
        functions.push(function(&format!("F{i}"), &["a"], &["b"], nodes));
    }
    let message = error(&with(vec![call(&format!("F{}", levels - 1), &["x"], &["y"])], functions));
    assert!(message.contains("nodes"), "{message}");

    let wide = function("W", &["a"], &["b"], vec![node("Neg", &["a"], &["b"])]);
    let message = error(&with(vec![call("W", &["x", "x"], &["y"])], vec![wide]));
    assert!(message.contains("at most 1 inputs"), "{message}");
}
