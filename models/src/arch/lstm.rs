//! A recurrent classifier of sequences: stacked LSTM layers and a fully connected one, as PyTorch's batch-first LSTM is
//! exported. Time is the outer axis inside: the batch is the second axis of the states.

use crate::graph::{BATCH, Graph, batched};
use tandem_onnx_proto::{AttributeProto, DimValue, data_type};

/// A configuration of the recurrent classifier.
pub(crate) struct Lstm {
    /// Features of each time step.
    features: i64,
    /// Width of the states.
    hidden: i64,
    /// LSTM layers.
    layers: i64,
    /// Classes.
    classes: i64,
}

/// Two layers of 512.
pub(crate) const LSTM: Lstm = Lstm { features: 256, hidden: 512, layers: 2, classes: 128 };

/// Two layers of 32.
pub(crate) const TINY: Lstm = Lstm { features: 16, hidden: 32, layers: 2, classes: 10 };

/// `input` `[batch, time, features]`, `h0` and `c0` `[layers, batch, hidden]` to `output` `[batch, classes]` (from the
/// last time step), `hn` and `cn` `[layers, batch, hidden]`.
pub(crate) fn build(g: &mut Graph, config: &Lstm) {
    let input = g.input("input", data_type::FLOAT, &[BATCH.into(), "time".into(), config.features.into()]);
    let state: [DimValue; 3] = [config.layers.into(), BATCH.into(), config.hidden.into()];
    let h0 = g.input("h0", data_type::FLOAT, &state);
    let c0 = g.input("c0", data_type::FLOAT, &state);
    let scope = "/lstm";
    let mut x = g.transpose(scope, &input, &[1, 0, 2]);
    let (mut hidden, mut cells) = (Vec::new(), Vec::new());
    for layer in 0..config.layers {
        let inputs = if layer == 0 { config.features } else { config.hidden };
        let states = [state_of(g, scope, &h0, layer), state_of(g, scope, &c0, layer)];
        let [y, h, c] = lstm(g, scope, &x, layer, (inputs, config.hidden), &states);
        let axes = g.indices(scope, &[1]);
        x = g.op(scope, "Squeeze", &[&y, &axes], vec![]);
        hidden.push(h);
        cells.push(c);
    }
    let x = g.transpose(scope, &x, &[1, 0, 2]);
    let hidden = g.concat(scope, &hidden, 0);
    let cells = g.concat(scope, &cells, 0);
    let last = g.index("", -1);
    let last = g.op("", "Gather", &[&x, &last], vec![AttributeProto::int("axis", 1)]);
    let logits = g.gemm("/fc", &last, config.hidden, config.classes, 1.0);
    g.output(&logits, "output", data_type::FLOAT, &batched(&[config.classes]));
    g.output(&hidden, "hn", data_type::FLOAT, &state);
    g.output(&cells, "cn", data_type::FLOAT, &state);
}

/// The initial state of one layer: `[1, batch, hidden]`.
fn state_of(g: &mut Graph, scope: &str, states: &str, layer: i64) -> String {
    let axes = g.indices(scope, &[0]);
    let starts = g.indices(scope, &[layer]);
    let ends = g.indices(scope, &[layer + 1]);
    g.op(scope, "Slice", &[states, &starts, &ends, &axes], vec![])
}

/// One layer of (inputs, hidden): all steps `[time, 1, batch, hidden]`, last hidden and last cell state.
fn lstm(g: &mut Graph, scope: &str, x: &str, layer: i64, widths: (i64, i64), states: &[String; 2]) -> [String; 3] {
    let (inputs, hidden) = widths;
    let name = |kind: &str| format!("lstm.{kind}_l{layer}");
    // Four gates in ONNX's order: input, output, forget, cell. The exporter reorders PyTorch's.
    let weight = g.weight(&name("weight_ih"), &[1, 4 * hidden, inputs], inputs, 1.0);
    let recurrence = g.weight(&name("weight_hh"), &[1, 4 * hidden, hidden], hidden, 1.0);
    let bias = g.trained(&name("bias"), &[1, 8 * hidden], 0.0, 0.05);
    let attributes = vec![AttributeProto::int("hidden_size", hidden)];
    let all = [x, &weight, &recurrence, &bias, "", &states[0], &states[1]];
    let outputs = g.op_many(scope, "LSTM", &all, attributes, 3);
    outputs.try_into().expect("three outputs asked for")
}
