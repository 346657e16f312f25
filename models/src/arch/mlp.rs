//! Perceptrons of three layers, as ranking and tabular models are served: small enough that a server's own cost shows.

use crate::graph::{BATCH, Graph, batched};
use crate::layers::RELU_GAIN;
use tandem_onnx_proto::data_type;

/// Widths of the input, the hidden layers and the output.
pub(crate) type Mlp = [i64];

/// 256 features, two hidden layers of 2048, 16 outputs: 19 MB of weights.
pub(crate) const MID: [i64; 4] = [256, 2048, 2048, 16];

/// 16 features, one hidden layer of 64, 16 outputs.
pub(crate) const SMALL: [i64; 3] = [16, 64, 16];

/// `input` `[batch, first width]` to `output` `[batch, last width]`, a Relu after every layer but the last.
pub(crate) fn build(g: &mut Graph, widths: &Mlp) {
    let mut x = g.input("input", data_type::FLOAT, &[BATCH.into(), widths[0].into()]);
    let last = widths.len() - 2;
    for (i, pair) in widths.windows(2).enumerate() {
        let gain = if i == last { 1.0 } else { RELU_GAIN };
        x = g.gemm(&format!("/layers.{i}"), &x, pair[0], pair[1], gain);
        if i < last {
            x = g.op(&format!("/act.{i}"), "Relu", &[&x], vec![]);
        }
    }
    g.output(&x, "output", data_type::FLOAT, &batched(&[widths[widths.len() - 1]]));
}
