//! Models whose numbers are known without an engine: whole numbers, so that every engine computes them exactly.

use tandem_onnx_proto::{AttributeProto, Message, ModelProto, TensorProto, data_type};

use crate::binary::Place;
use crate::build::{file, float, graph, node, value};

/// `y` is three times `x` and one.
fn affine() -> ModelProto {
    let nodes = vec![node("Mul", &["x", "three"], &["tripled"]), node("Add", &["tripled", "one"], &["y"])];
    let mut graph = graph(nodes, vec![float("x", "Nx4")], vec![float("y", "Nx4")]);
    graph.initializer = vec![TensorProto::from_f32("three", &[1], &[3.0]), TensorProto::from_f32("one", &[1], &[1.0])];
    file(graph, 17)
}

/// The sum of two inputs and their difference.
fn pair() -> ModelProto {
    let nodes = vec![node("Add", &["a", "b"], &["sum"]), node("Sub", &["a", "b"], &["difference"])];
    let outputs = vec![float("sum", "Nx4"), float("difference", "Nx4")];
    file(graph(nodes, vec![float("a", "Nx4"), float("b", "Nx4")], outputs), 17)
}

/// `y` is `x` times a scale that a batch has once.
fn scaled() -> ModelProto {
    let nodes = vec![node("Mul", &["x", "scale"], &["scaled"]), node("Relu", &["scaled"], &["y"])];
    file(graph(nodes, vec![float("x", "Nx4"), float("scale", "")], vec![float("y", "Nx4")]), 17)
}

/// `y` is `x`, after so many turns as its second input says.
fn turning() -> ModelProto {
    let body = graph(
        vec![node("Identity", &["goes_on"], &["goes_on_then"]), node("Identity", &["before"], &["after"])],
        vec![value("turn", data_type::INT64, ""), value("goes_on", data_type::BOOL, ""), float("before", "Nx4")],
        vec![value("goes_on_then", data_type::BOOL, ""), float("after", "Nx4")],
    );
    let nodes = vec![node("Loop", &["turns", "", "x"], &["y"]).with(AttributeProto::graph("body", body))];
    let inputs = vec![float("x", "Nx4"), value("turns", data_type::INT64, "")];
    file(graph(nodes, inputs, vec![float("y", "Nx4")]), 17)
}

/// A place with these models in it.
pub fn place() -> Place {
    let place = Place::new();
    for (name, model) in [("affine", affine()), ("pair", pair()), ("scaled", scaled()), ("turning", turning())] {
        place.write(&format!("{name}.onnx"), model.encode());
    }
    place
}

/// Plans for the machine here, into `plan.yaml`.
#[track_caller]
pub fn plan(place: &Place, engine: &str, words: &str) {
    place.tandem_on(engine, &format!("plan {words} -q -o plan.yaml")).code(0);
}

/// A policy under which requests wait for company as long as a test takes, until so many rows are there.
pub fn waiting_for(rows: u64) -> String {
    format!("--serving fixed --queue-delay 3600s --preferred {rows} --batch 1,{rows}")
}
