//! VGG (Simonyan, Zisserman 2015), as torchvision has it: configuration E, 19 layers with weights.

use crate::graph::{Graph, batched};
use crate::layers::{Conv, Maps, RELU_GAIN};
use tandem_onnx_proto::data_type;

/// A VGG configuration.
pub(crate) struct Vgg {
    /// Height and width of the image in pixels; a multiple of 32.
    pub(crate) image: i64,
    /// Convolutions and their channels, a stage each; a pooling by two ends each stage.
    pub(crate) stages: &'static [(usize, i64)],
    /// Width of the two hidden fully connected layers.
    pub(crate) hidden: i64,
    /// Classes.
    pub(crate) classes: i64,
}

/// VGG-19.
pub(crate) const VGG19: Vgg =
    Vgg { image: 224, stages: &[(2, 64), (2, 128), (4, 256), (4, 512), (4, 512)], hidden: 4096, classes: 1000 };

/// Five narrow stages.
pub(crate) const TINY: Vgg =
    Vgg { image: 32, stages: &[(2, 8), (2, 16), (2, 24), (2, 32), (2, 32)], hidden: 64, classes: 10 };

/// `input` `[batch, 3, image, image]` to `output` `[batch, classes]`.
pub(crate) fn build(g: &mut Graph, config: &Vgg) {
    let mut x = g.image(config.image);
    let mut index = 0;
    for (convs, channels) in config.stages {
        x = stage(g, "/features/features.", &mut index, x, *convs, *channels);
        x = g.max_pool(&format!("/features/features.{index}"), &x, 2, 2, 0, false);
        index += 1;
    }
    // The adaptive pooling meets maps of just its size: the exporter writes a window of one pixel.
    x = g.average_pool("/avgpool", &x, 1, 1);
    let flat = g.flatten("", &x);
    let hidden = g.gemm("/classifier/classifier.0", &flat, x.elements(), config.hidden, RELU_GAIN);
    let hidden = g.op("/classifier/classifier.1", "Relu", &[&hidden], vec![]);
    let hidden = g.gemm("/classifier/classifier.3", &hidden, config.hidden, config.hidden, RELU_GAIN);
    let hidden = g.op("/classifier/classifier.4", "Relu", &[&hidden], vec![]);
    let logits = g.gemm("/classifier/classifier.6", &hidden, config.hidden, config.classes, 1.0);
    g.output(&logits, "output", data_type::FLOAT, &batched(&[config.classes]));
}

/// `convs` convolutions with ReLU at the scopes `prefix` + `index`, which moves on.
pub(crate) fn stage(g: &mut Graph, prefix: &str, index: &mut usize, mut x: Maps, convs: usize, channels: i64) -> Maps {
    for _ in 0..convs {
        x = g.conv(&format!("{prefix}{index}"), &x, Conv::new(channels, 3));
        x = g.relu(&format!("{prefix}{}", *index + 1), &x);
        *index += 2;
    }
    x
}
