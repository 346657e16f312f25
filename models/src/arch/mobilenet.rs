//! MobileNetV2 (Sandler et al. 2018), as torchvision has it: inverted residual blocks with depthwise convolutions.

use crate::graph::{Graph, batched};
use crate::layers::{Conv, Maps};
use tandem_onnx_proto::data_type;

/// A MobileNetV2 configuration.
pub(crate) struct Mobilenet {
    /// Height and width of the image in pixels; a multiple of 32.
    pub(crate) image: i64,
    /// Channels of the first convolution.
    pub(crate) stem: i64,
    /// Stages: expansion factor, channels, blocks, stride of the first block.
    pub(crate) stages: &'static [(i64, i64, usize, i64)],
    /// Channels of the last convolution.
    pub(crate) last: i64,
    /// Classes.
    pub(crate) classes: i64,
}

/// MobileNetV2 of width 1.0.
pub(crate) const MOBILENET_V2: Mobilenet = Mobilenet {
    image: 224,
    stem: 32,
    stages: &[
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ],
    last: 1280,
    classes: 1000,
};

/// Few narrow stages.
pub(crate) const TINY: Mobilenet = Mobilenet {
    image: 64,
    stem: 8,
    stages: &[(1, 8, 1, 1), (4, 12, 2, 2), (4, 16, 2, 2), (4, 24, 1, 1)],
    last: 64,
    classes: 10,
};

/// Gain of a block's last convolution, which no activation follows; small, so that the sums of blocks stay small.
const RESIDUAL_GAIN: f32 = 0.7;

/// `input` `[batch, 3, image, image]` to `output` `[batch, classes]`.
pub(crate) fn build(g: &mut Graph, config: &Mobilenet) {
    let image = g.image(config.image);
    let mut x = conv_relu6(g, "/features/features.0/features.0", &image, Conv::new(config.stem, 3).stride(2));
    let mut index = 1;
    for (expansion, channels, blocks, stride) in config.stages {
        for block in 0..*blocks {
            let scope = format!("/features/features.{index}");
            x = inverted_residual(g, &scope, &x, *expansion, *channels, if block == 0 { *stride } else { 1 });
            index += 1;
        }
    }
    x = conv_relu6(g, &format!("/features/features.{index}/features.{index}"), &x, Conv::new(config.last, 1));
    x = g.global_average_pool("", &x);
    let flat = g.flatten("", &x);
    let logits = g.gemm("/classifier/classifier.1", &flat, x.channels, config.classes, 1.0);
    g.output(&logits, "output", data_type::FLOAT, &batched(&[config.classes]));
}

/// The modules `scope`.0 and `scope`.2: convolution and ReLU6 (.1 is the batch normalisation that was folded).
fn conv_relu6(g: &mut Graph, scope: &str, x: &Maps, conv: Conv) -> Maps {
    let x = g.conv(&format!("{scope}.0"), x, conv);
    let name = g.clip(&format!("{scope}.2"), &x.name, 0.0, 6.0);
    x.renamed(name)
}

/// Expand by 1x1, filter depthwise by 3x3, project by 1x1; around it where the shape stays.
fn inverted_residual(g: &mut Graph, scope: &str, x: &Maps, expansion: i64, channels: i64, stride: i64) -> Maps {
    let hidden = x.channels * expansion;
    let mut inner = x.clone();
    let mut index = 0;
    if expansion != 1 {
        inner = conv_relu6(g, &format!("{scope}/conv/conv.0/conv.0"), &inner, Conv::new(hidden, 1));
        index = 1;
    }
    let depthwise = Conv::new(hidden, 3).stride(stride).groups(hidden);
    inner = conv_relu6(g, &format!("{scope}/conv/conv.{index}/conv.{index}"), &inner, depthwise);
    let project = Conv::new(channels, 1).gain(RESIDUAL_GAIN);
    inner = g.conv(&format!("{scope}/conv/conv.{}", index + 1), &inner, project);
    if stride != 1 || x.channels != channels {
        return inner;
    }
    let sum = g.op(scope, "Add", &[&x.name, &inner.name], vec![]);
    inner.renamed(sum)
}
