//! A network of cells with many parallel branches of different character, in the manner of Inception and of networks
//! found by search: what a placement of operators on two processors has most choice in. No published model.

use crate::graph::{Graph, ShapePart, batched};
use crate::layers::{Conv, Maps};
use tandem_onnx_proto::{AttributeProto, TensorProto, data_type};

/// A configuration of the branchy network.
pub(crate) struct Branchy {
    /// Height and width of the image in pixels; a multiple of 32.
    image: i64,
    /// Channels of the first stage; each stage doubles them. A multiple of 8.
    width: i64,
    /// Cells, a stage each.
    cells: &'static [usize],
    /// Classes.
    classes: i64,
}

/// Three stages of three cells.
pub(crate) const BRANCHY: Branchy = Branchy { image: 224, width: 64, cells: &[3, 3, 3], classes: 1000 };

/// Two narrow cells.
pub(crate) const TINY: Branchy = Branchy { image: 32, width: 16, cells: &[1, 1], classes: 10 };

/// Groups of the channel shuffle.
const GROUPS: i64 = 4;

/// `input` `[batch, 3, image, image]` to `output` `[batch, classes]`.
pub(crate) fn build(g: &mut Graph, config: &Branchy) {
    let mut x = g.image(config.image);
    x = g.conv("/stem/stem.0", &x, Conv::new(config.width, 3).stride(2));
    x = g.relu("/stem/stem.1", &x);
    let mut index = 0;
    for (stage, cells) in config.cells.iter().enumerate() {
        let width = config.width << stage;
        x = g.conv(&format!("/reduce.{stage}/reduce.{stage}.0"), &x, Conv::new(width, 3).stride(2));
        x = g.relu(&format!("/reduce.{stage}/reduce.{stage}.1"), &x);
        for _ in 0..*cells {
            x = cell(g, &format!("/cells.{index}"), &x);
            index += 1;
        }
    }
    x = g.global_average_pool("/avgpool", &x);
    let flat = g.flatten("", &x);
    let logits = g.gemm("/fc", &flat, x.channels, config.classes, 1.0);
    g.output(&logits, "output", data_type::FLOAT, &batched(&[config.classes]));
}

/// Eight branches of a quarter of the channels each, joined, mixed by 1x1 and added to the input.
fn cell(g: &mut Graph, scope: &str, x: &Maps) -> Maps {
    let width = x.channels / 4;
    let branches = [
        dense(g, &format!("{scope}/dense3"), x, width, 3),
        dense(g, &format!("{scope}/dense5"), x, width, 5),
        separable(g, &format!("{scope}/separable"), x, width),
        dilated(g, &format!("{scope}/dilated"), x, width),
        pooled(g, &format!("{scope}/pooled"), x, width),
        gated(g, &format!("{scope}/gated"), x, width),
        shuffled(g, &format!("{scope}/shuffled"), x, width),
        normalised(g, &format!("{scope}/normalised"), x, width),
    ];
    let joined = g.concat_maps(scope, &branches);
    let mixed = g.conv(&format!("{scope}/mix"), &joined, Conv::new(x.channels, 1).gain(0.5));
    let sum = g.op(scope, "Add", &[&mixed.name, &x.name], vec![]);
    g.relu(&format!("{scope}/relu"), &x.renamed(sum))
}

/// Much arithmetic: 1x1, then `kernel` x `kernel`.
fn dense(g: &mut Graph, scope: &str, x: &Maps, width: i64, kernel: i64) -> Maps {
    let x = g.conv(&format!("{scope}/conv1"), x, Conv::new(width, 1));
    let x = g.relu(&format!("{scope}/relu"), &x);
    let x = g.conv(&format!("{scope}/conv2"), &x, Conv::new(width, kernel));
    g.relu(&format!("{scope}/relu_1"), &x)
}

/// Twice a depthwise 5x5 and a 1x1.
fn separable(g: &mut Graph, scope: &str, x: &Maps, width: i64) -> Maps {
    let x = g.conv(&format!("{scope}/depth1"), x, Conv::new(x.channels, 5).groups(x.channels).gain(1.0));
    let x = g.conv(&format!("{scope}/point1"), &x, Conv::new(width, 1));
    let x = g.relu(&format!("{scope}/relu"), &x);
    let x = g.conv(&format!("{scope}/depth2"), &x, Conv::new(width, 5).groups(width).gain(1.0));
    let x = g.conv(&format!("{scope}/point2"), &x, Conv::new(width, 1));
    g.relu(&format!("{scope}/relu_1"), &x)
}

/// A depthwise 3x3 of dilation 2 and a 1x1.
fn dilated(g: &mut Graph, scope: &str, x: &Maps, width: i64) -> Maps {
    let x = g.conv(&format!("{scope}/depth"), x, Conv::new(x.channels, 3).dilation(2).groups(x.channels).gain(1.0));
    let x = g.conv(&format!("{scope}/point"), &x, Conv::new(width, 1));
    g.relu(&format!("{scope}/relu"), &x)
}

/// Maximum over 3x3, then 1x1.
fn pooled(g: &mut Graph, scope: &str, x: &Maps, width: i64) -> Maps {
    let x = g.max_pool(&format!("{scope}/pool"), x, 3, 1, 1, false);
    g.conv(&format!("{scope}/conv"), &x, Conv::new(width, 1).gain(0.7))
}

/// Channels weighted by what the whole image says of them (squeeze and excitation, Hu et al. 2018), then 1x1.
fn gated(g: &mut Graph, scope: &str, x: &Maps, width: i64) -> Maps {
    let gate = g.global_average_pool(&format!("{scope}/pool"), x);
    let gate = g.conv(&format!("{scope}/squeeze"), &gate, Conv::new(x.channels / 8, 1));
    let gate = g.relu(&format!("{scope}/relu"), &gate);
    let gate = g.conv(&format!("{scope}/excite"), &gate, Conv::new(x.channels, 1).gain(1.0));
    let gate = g.op(&format!("{scope}/sigmoid"), "Sigmoid", &[&gate.name], vec![]);
    let weighted = g.op(scope, "Mul", &[&x.name, &gate], vec![]);
    g.conv(&format!("{scope}/conv"), &x.renamed(weighted), Conv::new(width, 1))
}

/// No arithmetic: a quarter of the channels picked by an index, and shuffled between groups by Reshape and Transpose.
fn shuffled(g: &mut Graph, scope: &str, x: &Maps, width: i64) -> Maps {
    // Strided, so that the picks are not one block of memory.
    let picks: Vec<i64> = (0..width).map(|index| index * 5 % x.channels).collect();
    let picks = g.indices(scope, &picks);
    let picked = g.op(scope, "Gather", &[&x.name, &picks], vec![AttributeProto::int("axis", 1)]);
    let batch = g.dim(scope, &picked, 0);
    let shaped = |g: &mut Graph, value: &str, tail: &[i64]| {
        let mut parts = vec![ShapePart::Scalar(&batch)];
        parts.extend(tail.iter().map(|dim| ShapePart::Fixed(*dim)));
        let shape = g.shape_of(scope, &parts);
        g.op(scope, "Reshape", &[value, &shape], vec![AttributeProto::int("allowzero", 0)])
    };
    let grouped = shaped(g, &picked, &[GROUPS, width / GROUPS, x.height, x.width]);
    let turned = g.transpose(scope, &grouped, &[0, 2, 1, 3, 4]);
    let name = shaped(g, &turned, &[width, x.height, x.width]);
    Maps { name, channels: width, ..*x }
}

/// Many small operators: each channel brought to mean 0 and deviation 1 over the image, then 1x1.
fn normalised(g: &mut Graph, scope: &str, x: &Maps, width: i64) -> Maps {
    let mean = |g: &mut Graph, value: &str| {
        let attributes = vec![AttributeProto::ints("axes", [2, 3]), AttributeProto::int("keepdims", 1)];
        g.op(scope, "ReduceMean", &[value], attributes)
    };
    let average = mean(g, &x.name);
    let centred = g.op(scope, "Sub", &[&x.name, &average], vec![]);
    let two = g.scalar(scope, 2.0);
    let squares = g.op(scope, "Pow", &[&centred, &two], vec![]);
    let variance = mean(g, &squares);
    let epsilon = g.constant(scope, TensorProto::from_f32("", &[], &[1e-3]));
    let variance = g.op(scope, "Add", &[&variance, &epsilon], vec![]);
    let deviation = g.op(scope, "Sqrt", &[&variance], vec![]);
    let unit = g.op(scope, "Div", &[&centred, &deviation], vec![]);
    g.conv(&format!("{scope}/conv"), &x.renamed(unit), Conv::new(width, 1).gain(1.0))
}
