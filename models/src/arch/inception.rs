//! Inception v3 (Szegedy et al. 2016), as torchvision has it in evaluation mode: the auxiliary head is not exported,
//! and the input is rescaled channel by channel, as with the published weights.

use crate::graph::{Graph, batched};
use crate::layers::{Conv, Maps};
use tandem_onnx_proto::{AttributeProto, data_type};

/// An Inception v3 configuration.
pub(crate) struct Inception {
    /// Height and width of the image in pixels; at least 75.
    pub(crate) image: i64,
    /// All widths are divided by this.
    pub(crate) shrink: i64,
    /// Classes.
    pub(crate) classes: i64,
}

/// Inception v3.
pub(crate) const INCEPTION_V3: Inception = Inception { image: 299, shrink: 1, classes: 1000 };

/// All layers, narrow.
pub(crate) const TINY: Inception = Inception { image: 80, shrink: 16, classes: 10 };

/// A convolution of a branch: name, channels, kernel (height, width).
type Step = (&'static str, i64, (i64, i64));

/// `input` `[batch, 3, image, image]` to `output` `[batch, classes]`.
pub(crate) fn build(g: &mut Graph, config: &Inception) {
    let image = g.image(config.image);
    let x = rescale(g, &image);
    let mut net = Net { g, shrink: config.shrink };
    let x = net.stem(&x);
    let x = net.block_a("/Mixed_5b", &x, 32);
    let x = net.block_a("/Mixed_5c", &x, 64);
    let x = net.block_a("/Mixed_5d", &x, 64);
    let x = net.block_b("/Mixed_6a", &x);
    let x = net.block_c("/Mixed_6b", &x, 128);
    let x = net.block_c("/Mixed_6c", &x, 160);
    let x = net.block_c("/Mixed_6d", &x, 160);
    let x = net.block_c("/Mixed_6e", &x, 192);
    let x = net.block_d("/Mixed_7a", &x);
    let x = net.block_e("/Mixed_7b", &x);
    let x = net.block_e("/Mixed_7c", &x);
    let x = g.global_average_pool("/avgpool", &x);
    let flat = g.flatten("", &x);
    let logits = g.gemm("/fc", &flat, x.channels, config.classes, 1.0);
    g.output(&logits, "output", data_type::FLOAT, &batched(&[config.classes]));
}

/// From the mean and deviation of the data set, a pair each channel, to 0.5 and 0.5.
fn rescale(g: &mut Graph, image: &Maps) -> Maps {
    let mut channels = Vec::new();
    for (index, (mean, deviation)) in [(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)].into_iter().enumerate() {
        let index = g.index("", index as i64);
        let channel = g.op("", "Gather", &[&image.name, &index], vec![AttributeProto::int("axis", 1)]);
        let axes = g.indices("", &[1]);
        let channel = g.op("", "Unsqueeze", &[&channel, &axes], vec![]);
        let factor = g.scalar("", deviation / 0.5);
        let channel = g.op("", "Mul", &[&channel, &factor], vec![]);
        let offset = g.scalar("", (mean - 0.5) / 0.5);
        channels.push(g.op("", "Add", &[&channel, &offset], vec![]));
    }
    let name = g.concat("", &channels, 1);
    image.renamed(name)
}

/// The graph and how much narrower than published it is.
struct Net<'a> {
    g: &'a mut Graph,
    shrink: i64,
}

impl Net<'_> {
    /// Convolution and ReLU as one module; the channels of `conv` are set here.
    fn unit(&mut self, scope: &str, x: &Maps, channels: i64, conv: impl FnOnce(i64) -> Conv) -> Maps {
        let conv = conv((channels / self.shrink).max(1));
        let x = self.g.conv(&format!("{scope}/conv"), x, conv);
        self.g.relu(scope, &x)
    }

    /// Units one after the other, of stride 1 and padded to keep the size.
    fn chain(&mut self, scope: &str, x: &Maps, steps: &[Step]) -> Maps {
        steps.iter().fold(x.clone(), |x, (name, channels, kernel)| {
            self.unit(&format!("{scope}/{name}"), &x, *channels, |channels| Conv::of(channels, *kernel))
        })
    }

    /// A 3x3 unit of stride 2 without padding.
    fn halve(&mut self, scope: &str, x: &Maps, channels: i64) -> Maps {
        self.unit(scope, x, channels, |channels| Conv::new(channels, 3).stride(2).pad(0))
    }

    fn stem(&mut self, x: &Maps) -> Maps {
        let x = self.halve("/Conv2d_1a_3x3", x, 32);
        let x = self.unit("/Conv2d_2a_3x3", &x, 32, |channels| Conv::new(channels, 3).pad(0));
        let x = self.chain("", &x, &[("Conv2d_2b_3x3", 64, (3, 3))]);
        let x = self.g.max_pool("/maxpool1", &x, 3, 2, 0, false);
        let x = self.chain("", &x, &[("Conv2d_3b_1x1", 80, (1, 1))]);
        let x = self.unit("/Conv2d_4a_3x3", &x, 192, |channels| Conv::new(channels, 3).pad(0));
        self.g.max_pool("/maxpool2", &x, 3, 2, 0, false)
    }

    /// Average over 3x3 pixels with the padding counted (the exporter pads first), then 1x1.
    fn pooled(&mut self, scope: &str, x: &Maps, channels: i64) -> Maps {
        let x = self.g.pad_maps(scope, x, 1);
        let x = self.g.average_pool(scope, &x, 3, 1);
        self.chain(scope, &x, &[("branch_pool", channels, (1, 1))])
    }

    /// 1x1, 5x5, two 3x3, pooling.
    fn block_a(&mut self, scope: &str, x: &Maps, pool: i64) -> Maps {
        let branches = [
            self.chain(scope, x, &[("branch1x1", 64, (1, 1))]),
            self.chain(scope, x, &[("branch5x5_1", 48, (1, 1)), ("branch5x5_2", 64, (5, 5))]),
            self.chain(
                scope,
                x,
                &[("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)), ("branch3x3dbl_3", 96, (3, 3))],
            ),
            self.pooled(scope, x, pool),
        ];
        self.g.concat_maps(scope, &branches)
    }

    /// Halves the size, with 3x3, two 3x3 and pooling.
    fn block_b(&mut self, scope: &str, x: &Maps) -> Maps {
        let single = self.halve(&format!("{scope}/branch3x3"), x, 384);
        let double = self.chain(scope, x, &[("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3))]);
        let double = self.halve(&format!("{scope}/branch3x3dbl_3"), &double, 96);
        let pooled = self.g.max_pool(scope, x, 3, 2, 0, false);
        self.g.concat_maps(scope, &[single, double, pooled])
    }

    /// 1x1, a 7x7 in two parts, two 7x7 in four parts, pooling; the 7x7 of `width` channels.
    fn block_c(&mut self, scope: &str, x: &Maps, width: i64) -> Maps {
        let branches = [
            self.chain(scope, x, &[("branch1x1", 192, (1, 1))]),
            self.chain(
                scope,
                x,
                &[("branch7x7_1", width, (1, 1)), ("branch7x7_2", width, (1, 7)), ("branch7x7_3", 192, (7, 1))],
            ),
            self.chain(
                scope,
                x,
                &[
                    ("branch7x7dbl_1", width, (1, 1)),
                    ("branch7x7dbl_2", width, (7, 1)),
                    ("branch7x7dbl_3", width, (1, 7)),
                    ("branch7x7dbl_4", width, (7, 1)),
                    ("branch7x7dbl_5", 192, (1, 7)),
                ],
            ),
            self.pooled(scope, x, 192),
        ];
        self.g.concat_maps(scope, &branches)
    }

    /// Halves the size, with 3x3, a 7x7 in parts with a 3x3, and pooling.
    fn block_d(&mut self, scope: &str, x: &Maps) -> Maps {
        let single = self.chain(scope, x, &[("branch3x3_1", 192, (1, 1))]);
        let single = self.halve(&format!("{scope}/branch3x3_2"), &single, 320);
        let wide = self.chain(
            scope,
            x,
            &[("branch7x7x3_1", 192, (1, 1)), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1))],
        );
        let wide = self.halve(&format!("{scope}/branch7x7x3_4"), &wide, 192);
        let pooled = self.g.max_pool(scope, x, 3, 2, 0, false);
        self.g.concat_maps(scope, &[single, wide, pooled])
    }

    /// 1x1, a 3x3 in two parts side by side, a 3x3 before such a pair, pooling.
    fn block_e(&mut self, scope: &str, x: &Maps) -> Maps {
        let single = self.chain(scope, x, &[("branch1x1", 320, (1, 1))]);
        let fork = self.chain(scope, x, &[("branch3x3_1", 384, (1, 1))]);
        let fork = self.pair(scope, &fork, ("branch3x3_2a", "branch3x3_2b"));
        let deep = self.chain(scope, x, &[("branch3x3dbl_1", 448, (1, 1)), ("branch3x3dbl_2", 384, (3, 3))]);
        let deep = self.pair(scope, &deep, ("branch3x3dbl_3a", "branch3x3dbl_3b"));
        let pooled = self.pooled(scope, x, 192);
        self.g.concat_maps(scope, &[single, fork, deep, pooled])
    }

    /// 1x3 and 3x1 side by side.
    fn pair(&mut self, scope: &str, x: &Maps, names: (&'static str, &'static str)) -> Maps {
        let row = self.chain(scope, x, &[(names.0, 384, (1, 3))]);
        let column = self.chain(scope, x, &[(names.1, 384, (3, 1))]);
        self.g.concat_maps(scope, &[row, column])
    }
}
