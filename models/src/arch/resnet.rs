//! ResNet with bottleneck blocks (He et al. 2016), as torchvision has it: the stride is in the 3x3 convolution.

use crate::graph::{Graph, batched};
use crate::layers::{Conv, Maps};
use tandem_onnx_proto::data_type;

/// A ResNet configuration.
pub(crate) struct Resnet {
    /// Height and width of the image in pixels; a multiple of 32.
    pub(crate) image: i64,
    /// Channels of the stem and of the first stage's inner convolutions; each stage doubles them.
    pub(crate) width: i64,
    /// Blocks, a stage each.
    pub(crate) blocks: [usize; 4],
    /// Classes.
    pub(crate) classes: i64,
}

/// ResNet-50.
pub(crate) const RESNET50: Resnet = Resnet { image: 224, width: 64, blocks: [3, 4, 6, 3], classes: 1000 };

/// Few narrow blocks.
pub(crate) const TINY: Resnet = Resnet { image: 64, width: 8, blocks: [1, 2, 1, 1], classes: 10 };

/// How many times wider a block's output is than its inner convolutions.
const EXPANSION: i64 = 4;

/// Gain of a block's last convolution: small, so that the variance grows by little over the sum of many blocks.
const RESIDUAL_GAIN: f32 = 0.5;

/// `input` `[batch, 3, image, image]` to `output` `[batch, classes]`.
pub(crate) fn build(g: &mut Graph, config: &Resnet) {
    let mut x = g.image(config.image);
    x = g.conv("/conv1", &x, Conv::new(config.width, 7).stride(2));
    x = g.relu("/relu", &x);
    x = g.max_pool("/maxpool", &x, 3, 2, 1, false);
    for (stage, blocks) in config.blocks.into_iter().enumerate() {
        let width = config.width << stage;
        for index in 0..blocks {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let scope = format!("/layer{0}/layer{0}.{index}", stage + 1);
            x = bottleneck(g, &scope, &x, width, stride);
        }
    }
    x = g.global_average_pool("/avgpool", &x);
    let flat = g.flatten("", &x);
    let logits = g.gemm("/fc", &flat, x.channels, config.classes, 1.0);
    g.output(&logits, "output", data_type::FLOAT, &batched(&[config.classes]));
}

/// 1x1, 3x3, 1x1 and the way around, which is a convolution where the shape changes.
fn bottleneck(g: &mut Graph, scope: &str, x: &Maps, width: i64, stride: i64) -> Maps {
    let channels = width * EXPANSION;
    let inner = g.conv(&format!("{scope}/conv1"), x, Conv::new(width, 1));
    let inner = g.relu(&format!("{scope}/relu"), &inner);
    let inner = g.conv(&format!("{scope}/conv2"), &inner, Conv::new(width, 3).stride(stride));
    // One ReLU module is called three times: the exporter numbers its later calls.
    let inner = g.relu(&format!("{scope}/relu_1"), &inner);
    let inner = g.conv(&format!("{scope}/conv3"), &inner, Conv::new(channels, 1).gain(RESIDUAL_GAIN));
    let around = if stride != 1 || x.channels != channels {
        g.conv(&format!("{scope}/downsample/downsample.0"), x, Conv::new(channels, 1).stride(stride).gain(1.0))
    } else {
        x.clone()
    };
    let sum = g.op(scope, "Add", &[&inner.name, &around.name], vec![]);
    g.relu(&format!("{scope}/relu_2"), &inner.renamed(sum))
}
