//! Where the batch lies, where there is none, and where an answer would depend on its batch mates.

use tandem_onnx::value::{TensorValue, Value};
use tandem_onnx_proto::{AttributeProto, GraphProto, ModelProto, TensorProto, data_type};
use tandem_runtime::rows;

use crate::build::*;

const HIDDEN: i64 = 4;

/// One LSTM with the dimensions of its sequence as given, its states behind it.
fn recurrent(sequence: &str, states: &str, outputs: [&str; 3]) -> ModelProto {
    let lstm = node("LSTM", &["x", "w", "r", "", "", "h0", "c0"], &["seq", "hn", "cn"]);
    let nodes = vec![
        lstm.with(AttributeProto::int("hidden_size", HIDDEN)),
        node("Squeeze", &["seq", "one"], &["flat"]),
        node("Relu", &["flat"], &["y"]),
    ];
    let inputs = vec![float("x", sequence), float("h0", states), float("c0", states)];
    let outputs = vec![float("y", outputs[0]), float("hn", outputs[1]), float("cn", outputs[2])];
    let mut graph = graph(nodes, inputs, outputs);
    graph.initializer = vec![
        weight("w", &[1, 4 * HIDDEN, 3]),
        weight("r", &[1, 4 * HIDDEN, HIDDEN]),
        TensorProto::from_i64("one", &[1], &[1]),
    ];
    file(graph, 17)
}

fn stacked(values: &[&TensorValue], axis: usize) -> TensorValue {
    let values: Vec<TensorValue> = values.iter().map(|t| (*t).clone()).collect();
    rows::stack_tensors(&values, axis).expect("stacked rows")
}

fn row(values: &TensorValue, axis: usize, row: u64) -> TensorValue {
    match rows::take_row(&Value::Tensor(values.clone()), axis, row).expect("a row") {
        Value::Tensor(tensor) => tensor,
        other => panic!("{other:?}"),
    }
}

fn close(a: &TensorValue, b: &TensorValue) -> bool {
    a.dims == b.dims && floats(a).iter().zip(floats(b)).all(|(a, b)| (a - b).abs() <= 1e-5)
}

/// The batch is the second axis of sequence and states: a batch of three is its rows, taken along that axis.
#[test]
fn the_batch_may_be_the_second_axis() {
    let case = Case::new(&recurrent("5xbatchx3", "1xbatchx4", ["5xbatchx4", "1xbatchx4", "1xbatchx4"]));
    let import = case.import();
    for name in ["x", "h0", "c0", "y", "hn", "cn"] {
        assert_eq!(batch_axis(&import, name), Some(1), "{name}: {import:#}");
    }
    case.verify("");
    let plan = case.plan(case.engine(), "--search random:1 --batch 1,3");
    assert!(plan.contains("batching: proven"), "{plan}");
    let item = |seed: usize| {
        let states = |s: usize| tensor(&[1, 1, 4], &numbers(4, seed + s));
        [("x", tensor(&[5, 1, 3], &numbers(15, seed))), ("h0", states(10)), ("c0", states(20))]
    };
    let items = [item(1), item(2), item(3)];
    let alone: Vec<_> = items.iter().map(|inputs| case.run(1, inputs)).collect();
    let together: Vec<(&str, TensorValue)> =
        (0..3).map(|i| (items[0][i].0, stacked(&[&items[0][i].1, &items[1][i].1, &items[2][i].1], 1))).collect();
    for (name, found) in case.run(3, &together) {
        for (i, expected) in alone.iter().enumerate() {
            let expected = &expected.iter().find(|(n, _)| *n == name).expect("an output").1;
            assert!(close(&row(&found, 1, i as u64), expected), "row {i} of {name}");
        }
    }
}

/// A free first axis that is time: no batch, and a size has to be given.
#[test]
fn time_is_no_batch() {
    let case = Case::new(&recurrent("timex1x3", "1x1x4", ["timex1x4", "1x1x4", "1x1x4"]));
    case.place.tandem("plan m.onnx").refused(&["\"x\"", "free", "--shape"]);
    let import = case.place.tandem("import m.onnx --format json --shape x=7x1x3").code(0).json();
    assert_eq!(batch_axis(&import, "x"), None, "{import:#}");
    let plan = case.plan(case.engine(), "--shape x=7x1x3 --batch 1,2,4 --search random:1");
    assert!(plan.contains("batching: refused") && plan.contains("no input has a batch axis"), "{plan}");
    assert!(!plan.contains("- batch: 2"), "batch 1 only: {plan}");
    case.verify("--shape x=7x1x3");
}

/// Nothing in the names says that this axis is no batch: only runs show it.
#[test]
fn an_axis_whose_rows_depend_on_each_other_is_no_batch() {
    let nodes = vec![node("CumSum", &["x", "axis"], &["sums"]), node("Relu", &["sums"], &["y"])];
    let mut graph = graph(nodes, vec![float("x", "Nx4")], vec![float("y", "Nx4")]);
    graph.initializer = vec![TensorProto::from_i64("axis", &[], &[0])];
    let mut case = Case::new(&file(graph, 17));
    if !case.needs_ort("CumSum") {
        return;
    }
    let plan = case.plan(case.engine(), "--batch 1,2,4 --search random:1");
    assert!(plan.contains("batching: refused") && plan.contains("a batch does not equal its rows"), "{plan}");
    assert!(!plan.contains("- batch: 2"), "batch 1 only: {plan}");
    case.verify("");
}

#[test]
fn a_scalar_is_batched_with_equals_only() {
    let nodes = vec![node("Mul", &["x", "scale"], &["scaled"]), node("Relu", &["scaled"], &["y"])];
    let inputs = vec![float("x", "Nx4"), float("scale", "")];
    let case = Case::new(&file(graph(nodes, inputs, vec![float("y", "Nx4")]), 17));
    let import = case.import();
    assert_eq!((batch_axis(&import, "x"), batch_axis(&import, "scale")), (Some(0), None), "{import:#}");
    let notes = import["notes"].to_string();
    assert!(notes.contains("scale") && notes.contains("equal"), "people are told: {notes}");
    let plan = case.plan(case.engine(), "--batch 1,2 --search random:1");
    assert!(plan.contains("batching: proven"), "{plan}");
    let outputs = case.run(2, &[("x", tensor(&[2, 4], &[1.0; 8])), ("scale", tensor(&[], &[3.0]))]);
    assert_eq!(floats(&outputs[0].1), [3.0; 8]);
    case.verify("");
}

/// One scale over the whole tensor: an answer would depend on who shares its batch.
fn quantized() -> GraphProto {
    let nodes = vec![
        node("DynamicQuantizeLinear", &["x"], &["xq", "x_scale", "x_zero"]),
        node("MatMulInteger", &["xq", "wq", "x_zero"], &["sums"]),
        node("Cast", &["sums"], &["wide"]).with(AttributeProto::int("to", 1)),
        node("Mul", &["wide", "x_scale"], &["scaled"]),
        node("Relu", &["scaled"], &["y"]),
    ];
    let mut graph = graph(nodes, vec![float("x", "Nx8")], vec![float("y", "Nx4")]);
    let raw: Vec<u8> = (0..32u8).map(|i| i.wrapping_mul(37)).collect();
    graph.initializer = vec![TensorProto::from_raw("wq", data_type::INT8, &[8, 4], raw)];
    graph
}

#[test]
fn one_scale_over_a_batch_refuses_batches_unless_insisted() {
    let case = Case::new(&file(quantized(), 17));
    let plan = case.plan(case.engine(), "--batch 1,2,4");
    assert!(plan.contains("batching: refused"), "{plan}");
    assert!(plan.contains("DynamicQuantizeLinear") && plan.contains("batch mates"), "names the operator: {plan}");
    assert!(!plan.contains("- batch: 2"), "batch 1 only: {plan}");
    case.verify("");
    let insisted = case.plan(case.engine(), "--batch 1,2,4 --insist-batch");
    assert!(insisted.contains("batching: insisted") && insisted.contains("- batch: 4"), "{insisted}");
    let outputs = case.run(4, &[("x", tensor(&[4, 8], &numbers(32, 1)))]);
    assert_eq!(outputs[0].1.dims, [4, 4]);
}
