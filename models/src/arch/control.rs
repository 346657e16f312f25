//! A model with control flow: If inside If, a Loop with a run-time trip count, and an If inside its body, all of them
//! capturing values and weights of the graph around, as scripted PyTorch modules are exported. No published model.

use crate::graph::{BATCH, Graph, batched};
use tandem_onnx_proto::{AttributeProto, TensorProto, ValueInfoProto, data_type};

/// A configuration of the control-flow model.
pub(crate) struct Control {
    /// Features of the input.
    features: i64,
    /// Width of the hidden states.
    width: i64,
    /// Classes.
    classes: i64,
}

/// States of 512.
pub(crate) const CONTROL: Control = Control { features: 256, width: 512, classes: 128 };

/// States of 32.
pub(crate) const TINY: Control = Control { features: 16, width: 32, classes: 10 };

/// `input` `[batch, features]`, `refine` (bool, scalar) and `steps` (int64, scalar) to `output` `[batch, classes]` and
/// `trace` `[steps, batch, width]`, the state after each turn of the loop. The dimension `steps` is the value of the
/// input of that name.
pub(crate) fn build(g: &mut Graph, config: &Control) {
    let x = g.input("input", data_type::FLOAT, &batched(&[config.features]));
    let refine = g.input("refine", data_type::BOOL, &[]);
    let steps = g.input("steps", data_type::INT64, &[]);
    let h = g.gemm("/encoder", &x, config.features, config.width, 1.0);
    let h = g.op("", "Relu", &[&h], vec![]);
    let state = choose(g, config, &x, &h, &refine);
    let [state, trace] = repeat(g, config, &state, &h, &steps);
    let logits = g.gemm("/decoder", &state, config.width, config.classes, 1.0);
    g.output(&logits, "output", data_type::FLOAT, &batched(&[config.classes]));
    g.output(&trace, "trace", data_type::FLOAT, &["steps".into(), BATCH.into(), config.width.into()]);
}

/// A float value `[batch, width]` as a body's output.
fn typed(name: &str, config: &Control) -> ValueInfoProto {
    ValueInfoProto::tensor(name, data_type::FLOAT, &batched(&[config.width]))
}

/// An If node with one output `[batch, width]`.
fn branch(
    g: &mut Graph,
    config: &Control,
    condition: &str,
    yes: impl FnOnce(&mut Graph) -> String,
    no: impl FnOnce(&mut Graph) -> String,
) -> String {
    let yes = g.body("then_branch", vec![], |g| vec![typed(&yes(g), config)]);
    let no = g.body("else_branch", vec![], |g| vec![typed(&no(g), config)]);
    let attributes = vec![AttributeProto::graph("then_branch", yes), AttributeProto::graph("else_branch", no)];
    g.op("", "If", &[condition], attributes)
}

/// An all-zero input (silence, say) is passed on; any other goes through one of two layers, as `refine` says.
fn choose(g: &mut Graph, config: &Control, x: &str, h: &str, refine: &str) -> String {
    let size = g.op("", "Abs", &[x], vec![]);
    let peak = g.op("", "ReduceMax", &[&size], vec![AttributeProto::int("keepdims", 0)]);
    let floor = g.scalar("", 1e-6);
    let heard = g.op("", "Greater", &[&peak, &floor], vec![]);
    branch(
        g,
        config,
        &heard,
        |g| {
            branch(
                g,
                config,
                refine,
                |g| {
                    let inner = g.gemm("/refine", h, config.width, config.width, 1.0);
                    let inner = g.op("", "Tanh", &[&inner], vec![]);
                    g.op("", "Add", &[&inner, h], vec![])
                },
                |g| {
                    let half = g.scalar("", 0.5);
                    g.op("", "Mul", &[h, &half], vec![])
                },
            )
        },
        |g| g.op("", "Identity", &[h], vec![]),
    )
}

/// `steps` turns of a recurrent layer; every other one, its state is turned around. The last state and all states.
fn repeat(g: &mut Graph, config: &Control, state: &str, h: &str, steps: &str) -> [String; 2] {
    let scope = "/loop";
    let turn = format!("{scope}/turn");
    let before = format!("{scope}/state");
    let condition = format!("{scope}/condition");
    let inputs = vec![
        ValueInfoProto::tensor(turn.as_str(), data_type::INT64, &[]),
        ValueInfoProto::tensor(condition.as_str(), data_type::BOOL, &[]),
        typed(&before, config),
    ];
    let body = g.body("body", inputs, |g| {
        let inner = g.gemm("/loop/cell", &before, config.width, config.width, 0.7);
        let inner = g.op(scope, "Add", &[&inner, h], vec![]);
        let inner = g.op(scope, "Tanh", &[&inner], vec![]);
        let two = g.index(scope, 2);
        let rest = g.op(scope, "Mod", &[&turn, &two], vec![]);
        let zero = g.index(scope, 0);
        let even = g.op(scope, "Equal", &[&rest, &zero], vec![]);
        let after = branch(
            g,
            config,
            &even,
            |g| g.op(scope, "Neg", &[&inner], vec![]),
            |g| g.op(scope, "Identity", &[&inner], vec![]),
        );
        let again = g.op(scope, "Identity", &[&condition], vec![]);
        let seen = g.op(scope, "Identity", &[&after], vec![]);
        vec![ValueInfoProto::tensor(again.as_str(), data_type::BOOL, &[]), typed(&after, config), typed(&seen, config)]
    });
    let always = g.constant(scope, TensorProto::from_raw("", data_type::BOOL, &[], vec![1]));
    let attributes = vec![AttributeProto::graph("body", body)];
    let outputs = g.op_many("", "Loop", &[steps, &always, state], attributes, 2);
    outputs.try_into().expect("two outputs asked for")
}
