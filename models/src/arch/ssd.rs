//! SSD (Liu et al. 2016) on VGG-16, 300 pixels: maps of six sizes, two heads each, boxes decoded from priors.
//!
//! Suppression of overlapping boxes is not part of it: it is per image and per class, and is left to the caller.

use crate::arch::vgg;
use crate::graph::{Graph, ShapePart, batched};
use crate::layers::{Conv, Maps};
use tandem_onnx_proto::{AttributeProto, TensorProto, data_type};

/// An SSD configuration.
pub(crate) struct Ssd {
    /// Height and width of the image in pixels.
    image: i64,
    /// Convolutions and their channels, a stage each, as in VGG-16; the fourth is the first source of boxes.
    stages: [(usize, i64); 5],
    /// Channels of the two convolutions that stand for VGG's fully connected layers.
    wide: i64,
    /// Further convolutions: channels of the 1x1, of the 3x3, stride and padding of the 3x3; each is a source.
    extras: &'static [(i64, i64, i64, i64)],
    /// Priors of each source.
    priors: &'static [Priors],
    /// Classes, background included.
    classes: i64,
}

/// The prior boxes of one source.
struct Priors {
    /// Pixels of the image between neighbouring boxes.
    step: f32,
    /// Edge of the small square box in pixels.
    min: f32,
    /// Edge of the next source's small box; the large square is the geometric mean of both.
    max: f32,
    /// Aspect ratios, each taken upright and lying.
    ratios: &'static [f32],
}

impl Priors {
    /// Boxes at each position.
    fn count(&self) -> i64 {
        2 + 2 * self.ratios.len() as i64
    }
}

const fn priors(step: f32, min: f32, max: f32, ratios: &'static [f32]) -> Priors {
    Priors { step, min, max, ratios }
}

/// SSD300 for 20 classes and background: 8732 boxes.
pub(crate) const SSD300: Ssd = Ssd {
    image: 300,
    stages: [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)],
    wide: 1024,
    extras: &[(256, 512, 2, 1), (128, 256, 2, 1), (128, 256, 1, 0), (128, 256, 1, 0)],
    priors: &[
        priors(8.0, 30.0, 60.0, &[2.0]),
        priors(16.0, 60.0, 111.0, &[2.0, 3.0]),
        priors(32.0, 111.0, 162.0, &[2.0, 3.0]),
        priors(64.0, 162.0, 213.0, &[2.0, 3.0]),
        priors(100.0, 213.0, 264.0, &[2.0]),
        priors(300.0, 264.0, 315.0, &[2.0]),
    ],
    classes: 21,
};

/// Four sources of narrow maps: 380 boxes.
pub(crate) const TINY: Ssd = Ssd {
    image: 64,
    stages: [(2, 8), (2, 16), (3, 16), (3, 32), (3, 32)],
    wide: 64,
    extras: &[(16, 32, 2, 1), (16, 32, 2, 1)],
    priors: &[
        priors(8.0, 6.0, 13.0, &[2.0]),
        priors(16.0, 13.0, 24.0, &[2.0, 3.0]),
        priors(32.0, 24.0, 35.0, &[2.0, 3.0]),
        priors(64.0, 35.0, 56.0, &[2.0]),
    ],
    classes: 5,
};

/// `input` `[batch, 3, image, image]` to `boxes` `[batch, boxes, 4]` (left, top, right, bottom in image edges) and
/// `scores` `[batch, boxes, classes]` (softmax, class 0 is background).
pub(crate) fn build(g: &mut Graph, config: &Ssd) {
    let image = g.image(config.image);
    let sources = sources(g, config, image);
    let mut places = Vec::new();
    let mut classes = Vec::new();
    for (index, (source, priors)) in sources.iter().zip(config.priors).enumerate() {
        places.push(head(g, &format!("/loc.{index}"), source, priors.count() * 4));
        classes.push(head(g, &format!("/conf.{index}"), source, priors.count() * config.classes));
    }
    let boxes = table(&sources, config);
    let count = boxes.len() as i64 / 4;
    let places = joined(g, &places, 4);
    let classes = joined(g, &classes, config.classes);
    let scores = g.op("/softmax", "Softmax", &[&classes], vec![AttributeProto::int("axis", -1)]);
    let decoded = decode(g, &places, &boxes);
    g.output(&decoded, "boxes", data_type::FLOAT, &batched(&[count, 4]));
    g.output(&scores, "scores", data_type::FLOAT, &batched(&[count, config.classes]));
}

/// The maps that boxes are taken from, large ones first.
fn sources(g: &mut Graph, config: &Ssd, image: Maps) -> Vec<Maps> {
    let mut found = Vec::new();
    let mut x = image;
    let mut index = 0;
    for (stage, (convs, channels)) in config.stages.into_iter().enumerate() {
        x = vgg::stage(g, "/vgg.", &mut index, x, convs, channels);
        if stage == 3 {
            found.push(l2_norm(g, &x));
        }
        let scope = format!("/vgg.{index}");
        x = match stage {
            // 75 rows become 38, so that the first source's boxes are 8 pixels apart.
            2 => g.max_pool(&scope, &x, 2, 2, 0, true),
            4 => g.max_pool(&scope, &x, 3, 1, 1, false),
            _ => g.max_pool(&scope, &x, 2, 2, 0, false),
        };
        index += 1;
    }
    for conv in [Conv::new(config.wide, 3).dilation(6), Conv::new(config.wide, 1)] {
        x = g.conv(&format!("/vgg.{index}"), &x, conv);
        x = g.relu(&format!("/vgg.{}", index + 1), &x);
        index += 2;
    }
    found.push(x.clone());
    for (index, (inner, channels, stride, pad)) in config.extras.iter().enumerate() {
        x = g.conv(&format!("/extras.{}", 2 * index), &x, Conv::new(*inner, 1));
        x = g.relu("", &x);
        x = g.conv(&format!("/extras.{}", 2 * index + 1), &x, Conv::new(*channels, 3).stride(*stride).pad(*pad));
        x = g.relu("", &x);
        found.push(x.clone());
    }
    found
}

/// Each pixel divided by its length over the channels, then scaled by channel; the published scale starts at 20.
fn l2_norm(g: &mut Graph, x: &Maps) -> Maps {
    let scope = "/L2Norm";
    let two = g.scalar(scope, 2.0);
    let squares = g.op(scope, "Pow", &[&x.name, &two], vec![]);
    let axes = g.indices(scope, &[1]);
    let sum = g.op(scope, "ReduceSum", &[&squares, &axes], vec![AttributeProto::int("keepdims", 1)]);
    let length = g.op(scope, "Sqrt", &[&sum], vec![]);
    let epsilon = g.scalar(scope, 1e-10);
    let length = g.op(scope, "Add", &[&length, &epsilon], vec![]);
    let unit = g.op(scope, "Div", &[&x.name, &length], vec![]);
    let weight = g.trained("L2Norm.weight", &[1, x.channels, 1, 1], 20.0, 1.0);
    let shape = g.op(scope, "Shape", &[&unit], vec![]);
    let weight = g.op(scope, "Expand", &[&weight, &shape], vec![]);
    let name = g.op(scope, "Mul", &[&weight, &unit], vec![]);
    x.renamed(name)
}

/// A 3x3 convolution to `channels` values a pixel, laid out pixel by pixel: `[batch, pixels * channels]`.
fn head(g: &mut Graph, scope: &str, x: &Maps, channels: i64) -> String {
    let maps = g.conv(scope, x, Conv::new(channels, 3).gain(0.7));
    let rows = g.transpose("", &maps.name, &[0, 2, 3, 1]);
    reshape(g, &rows, &[-1])
}

/// The heads of all sources one after the other: `[batch, boxes, width]`.
fn joined(g: &mut Graph, heads: &[String], width: i64) -> String {
    let all = g.concat("", heads, 1);
    reshape(g, &all, &[-1, width])
}

/// Reshape to the batch size, read from the value, and `tail`.
fn reshape(g: &mut Graph, x: &str, tail: &[i64]) -> String {
    let batch = g.dim("", x, 0);
    let mut parts = vec![ShapePart::Scalar(&batch)];
    parts.extend(tail.iter().map(|dim| ShapePart::Fixed(*dim)));
    let shape = g.shape_of("", &parts);
    g.op("", "Reshape", &[x, &shape], vec![AttributeProto::int("allowzero", 0)])
}

/// The priors as rows of centre x, centre y, width, height, in image edges.
fn table(sources: &[Maps], config: &Ssd) -> Vec<f32> {
    let edge = config.image as f32;
    let mut rows = Vec::new();
    for (source, priors) in sources.iter().zip(config.priors) {
        let small = priors.min / edge;
        let large = (small * priors.max / edge).sqrt();
        for pixel in 0..source.height * source.width {
            let x = ((pixel % source.width) as f32 + 0.5) * priors.step / edge;
            let y = ((pixel / source.width) as f32 + 0.5) * priors.step / edge;
            rows.extend([x, y, small, small, x, y, large, large]);
            for ratio in priors.ratios {
                let (long, short) = (small * ratio.sqrt(), small / ratio.sqrt());
                rows.extend([x, y, long, short, x, y, short, long]);
            }
        }
    }
    for value in &mut rows {
        *value = value.clamp(0.0, 1.0);
    }
    rows
}

/// Boxes by their edges from offsets to the priors: `[batch, boxes, 4]`.
fn decode(g: &mut Graph, places: &str, priors: &[f32]) -> String {
    let scope = "/detect";
    let count = priors.len() as i64 / 4;
    let mut part = |name: &str, at: usize| {
        let values: Vec<f32> = priors.chunks_exact(4).flat_map(|row| [row[at], row[at + 1]]).collect();
        g.fixed(TensorProto::from_f32(name, &[count, 2], &values))
    };
    let (centres, sizes) = (part("priors.centres", 0), part("priors.sizes", 2));
    let offset = columns(g, scope, places, 0, 2);
    // Offsets are in tenths of the prior's size, sizes in fifths of its logarithm.
    let tenth = g.scalar(scope, 0.1);
    let offset = g.op(scope, "Mul", &[&offset, &tenth], vec![]);
    let offset = g.op(scope, "Mul", &[&offset, &sizes], vec![]);
    let centre = g.op(scope, "Add", &[&centres, &offset], vec![]);
    let growth = columns(g, scope, places, 2, 4);
    let fifth = g.scalar(scope, 0.2);
    let growth = g.op(scope, "Mul", &[&growth, &fifth], vec![]);
    let growth = g.op(scope, "Exp", &[&growth], vec![]);
    let size = g.op(scope, "Mul", &[&sizes, &growth], vec![]);
    let two = g.scalar(scope, 2.0);
    let half = g.op(scope, "Div", &[&size, &two], vec![]);
    let first = g.op(scope, "Sub", &[&centre, &half], vec![]);
    let last = g.op(scope, "Add", &[&size, &first], vec![]);
    g.concat(scope, &[first, last], 2)
}

/// Columns `from..to` of the last axis of a value of three.
fn columns(g: &mut Graph, scope: &str, x: &str, from: i64, to: i64) -> String {
    let starts = g.indices(scope, &[from]);
    let ends = g.indices(scope, &[to]);
    let axes = g.indices(scope, &[2]);
    let steps = g.indices(scope, &[1]);
    g.op(scope, "Slice", &[x, &starts, &ends, &axes, &steps], vec![])
}
