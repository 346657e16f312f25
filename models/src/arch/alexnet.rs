//! AlexNet in its one-tower form (Krizhevsky 2014, "One weird trick"), as torchvision has it.

use crate::graph::{Graph, batched};
use crate::layers::{Conv, RELU_GAIN};
use tandem_onnx_proto::data_type;

/// AlexNet: `input` `[batch, 3, 224, 224]` to `output` `[batch, 1000]`.
pub(crate) fn build(g: &mut Graph) {
    let mut x = g.image(224);
    let layers = [
        (0, Conv::new(64, 11).stride(4).pad(2), true),
        (3, Conv::new(192, 5), true),
        (6, Conv::new(384, 3), false),
        (8, Conv::new(256, 3), false),
        (10, Conv::new(256, 3), true),
    ];
    for (index, conv, pool) in layers {
        x = g.conv(&format!("/features/features.{index}"), &x, conv);
        x = g.relu(&format!("/features/features.{}", index + 1), &x);
        if pool {
            x = g.max_pool(&format!("/features/features.{}", index + 2), &x, 3, 2, 0, false);
        }
    }
    // The adaptive pooling to 6x6 meets maps of just that size: the exporter writes a window of one pixel.
    x = g.average_pool("/avgpool", &x, 1, 1);
    let flat = g.flatten("", &x);
    let hidden = g.gemm("/classifier/classifier.1", &flat, x.elements(), 4096, RELU_GAIN);
    let hidden = g.op("/classifier/classifier.2", "Relu", &[&hidden], vec![]);
    let hidden = g.gemm("/classifier/classifier.4", &hidden, 4096, 4096, RELU_GAIN);
    let hidden = g.op("/classifier/classifier.5", "Relu", &[&hidden], vec![]);
    let logits = g.gemm("/classifier/classifier.6", &hidden, 4096, 1000, 1.0);
    g.output(&logits, "output", data_type::FLOAT, &batched(&[1000]));
}
