//! A ResNet with basic blocks (He et al. 2016), quantised statically to 8 bits: QuantizeLinear and DequantizeLinear
//! around each operator, as ONNX Runtime's static quantisation writes it. Activations are uint8 by tensor, weights int8
//! by channel, biases int32. A ReLU is not there: zero point 0 of the value behind it does its work.
//!
//! Weights use 7 of their 8 bits, as is advised where the 8-bit dot product may saturate, so that engines agree.

use crate::graph::{Graph, batched, module};
use crate::layers::{Maps, RELU_GAIN};
use tandem_onnx_proto::{AttributeProto, NodeProto, TensorProto, data_type};

/// A configuration of the quantised ResNet.
pub(crate) struct Quantised {
    /// Height and width of the image in pixels; a multiple of 32.
    image: i64,
    /// Channels of the first stage; each stage doubles them.
    width: i64,
    /// Blocks, a stage each.
    blocks: &'static [usize],
    /// Classes.
    classes: i64,
}

/// ResNet-18.
pub(crate) const RESNET18: Quantised = Quantised { image: 224, width: 64, blocks: &[2, 2, 2, 2], classes: 1000 };

/// Three narrow blocks.
pub(crate) const TINY: Quantised = Quantised { image: 32, width: 16, blocks: &[1, 1, 1], classes: 10 };

/// Largest weight.
const WEIGHT_LIMIT: u32 = 63;

/// Standard deviation of integers uniform in -63..=63.
const WEIGHT_DEVIATION: f32 = 36.66;

/// Values up to so many standard deviations are represented; others saturate.
const RANGE: f32 = 4.0;

/// Gain of a block's last convolution, small for the sum's sake.
const RESIDUAL_GAIN: f32 = 0.5;

/// A quantised value: what DequantizeLinear gives, its scale, and its expected second moment.
#[derive(Clone)]
struct Value {
    maps: Maps,
    scale: String,
    zero_point: String,
    step: f32,
    moment: f32,
}

/// `input` `[batch, 3, image, image]` to `output` `[batch, classes]`, both float.
pub(crate) fn build(g: &mut Graph, config: &Quantised) {
    let image = g.image(config.image);
    let x = quantise(g, image, 1.0, false);
    let x = conv(g, "/conv1", &x, Shape { channels: config.width, kernel: 7, stride: 2 }, RELU_GAIN, true);
    let pooled = g.max_pool("/maxpool", &x.maps, 3, 2, 1, false);
    let mut x = same_scale(g, pooled, &x);
    for (stage, blocks) in config.blocks.iter().enumerate() {
        for index in 0..*blocks {
            let stride = if stage > 0 && index == 0 { 2 } else { 1 };
            let scope = format!("/layer{0}/layer{0}.{index}", stage + 1);
            x = block(g, &scope, &x, config.width << stage, stride);
        }
    }
    let pooled = g.global_average_pool("/avgpool", &x.maps);
    let pooled = quantise(g, pooled, x.moment, true);
    let name = g.flatten("", &pooled.maps);
    let flat = same_scale(g, pooled.maps.renamed(name), &pooled);
    let logits = gemm(g, "/fc", &flat, config.classes);
    g.output(&logits.maps.name, "output", data_type::FLOAT, &batched(&[config.classes]));
}

/// Two 3x3 convolutions and the way around.
fn block(g: &mut Graph, scope: &str, x: &Value, channels: i64, stride: i64) -> Value {
    let inner = conv(g, &format!("{scope}/conv1"), x, Shape { channels, kernel: 3, stride }, RELU_GAIN, true);
    let shape = Shape { channels, kernel: 3, stride: 1 };
    let inner = conv(g, &format!("{scope}/conv2"), &inner, shape, RESIDUAL_GAIN, false);
    let around = if stride != 1 || x.maps.channels != channels {
        let scope = format!("{scope}/downsample/downsample.0");
        conv(g, &scope, x, Shape { channels, kernel: 1, stride }, 1.0, false)
    } else {
        x.clone()
    };
    let sum = g.op(scope, "Add", &[&inner.maps.name, &around.maps.name], vec![]);
    quantise(g, inner.maps.renamed(sum), inner.moment + around.moment, true)
}

/// QuantizeLinear and DequantizeLinear with a scale for the second moment `moment`; negative values are cut off where
/// `positive`.
fn quantise(g: &mut Graph, maps: Maps, moment: f32, positive: bool) -> Value {
    let reach = RANGE * moment.sqrt();
    let (step, zero_point) = if positive { (reach / 255.0, 0) } else { (2.0 * reach / 255.0, 128) };
    let scale = g.fixed(TensorProto::from_f32(format!("{}_scale", maps.name), &[], &[step]));
    let zero_point =
        TensorProto::from_raw(format!("{}_zero_point", maps.name), data_type::UINT8, &[], vec![zero_point]);
    let zero_point = g.fixed(zero_point);
    around(g, Value { maps, scale, zero_point, step, moment })
}

/// The same with the scale of `like`, for operators that only move values.
fn same_scale(g: &mut Graph, maps: Maps, like: &Value) -> Value {
    around(g, Value { maps, ..like.clone() })
}

/// The pair of nodes behind a float value; the result stands for the value.
fn around(g: &mut Graph, value: Value) -> Value {
    let name = value.maps.name.clone();
    let quantised = format!("{name}_QuantizeLinear_Output");
    let inputs = [name.clone(), value.scale.clone(), value.zero_point.clone()];
    let node = NodeProto::new("QuantizeLinear", &inputs, std::slice::from_ref(&quantised));
    g.push(node.named(format!("{name}_QuantizeLinear")));
    let output = dequantise(g, &name, [&quantised, &value.scale, &value.zero_point], None);
    Value { maps: value.maps.renamed(output), ..value }
}

/// A DequantizeLinear node of `name`, by channel where an axis is given.
fn dequantise(g: &mut Graph, name: &str, inputs: [&str; 3], axis: Option<i64>) -> String {
    let output = format!("{name}_DequantizeLinear_Output");
    let mut node = NodeProto::new("DequantizeLinear", &inputs, std::slice::from_ref(&output));
    node.attribute.extend(axis.map(|axis| AttributeProto::int("axis", axis)));
    g.push(node.named(format!("{name}_DequantizeLinear")));
    output
}

/// Channels, square kernel and stride of a convolution, padded by half its kernel.
#[derive(Clone, Copy)]
struct Shape {
    channels: i64,
    kernel: i64,
    stride: i64,
}

/// A convolution of quantised values.
fn conv(g: &mut Graph, scope: &str, x: &Value, shape: Shape, gain: f32, relu: bool) -> Value {
    let Shape { channels, kernel, stride } = shape;
    let dims = [channels, x.maps.channels, kernel, kernel];
    let [weight, bias] = weights(g, &module(scope), &dims, gain, x.step);
    let pad = kernel / 2;
    let attributes = vec![
        AttributeProto::ints("dilations", [1; 2]),
        AttributeProto::int("group", 1),
        AttributeProto::ints("kernel_shape", [kernel; 2]),
        AttributeProto::ints("pads", [pad; 4]),
        AttributeProto::ints("strides", [stride; 2]),
    ];
    let name = g.op(scope, "Conv", &[&x.maps.name, &weight, &bias], attributes);
    let slid = |length: i64| (length + 2 * pad - kernel) / stride + 1;
    let maps = Maps { name, channels, height: slid(x.maps.height), width: slid(x.maps.width) };
    // Half of the second moment is left behind a ReLU.
    let moment = x.moment * gain * gain * if relu { 0.5 } else { 1.0 };
    quantise(g, maps, moment, relu)
}

/// A fully connected layer of quantised values.
fn gemm(g: &mut Graph, scope: &str, x: &Value, outputs: i64) -> Value {
    let [weight, bias] = weights(g, &module(scope), &[outputs, x.maps.channels], 1.0, x.step);
    let attributes =
        vec![AttributeProto::float("alpha", 1.0), AttributeProto::float("beta", 1.0), AttributeProto::int("transB", 1)];
    let name = g.op(scope, "Gemm", &[&x.maps.name, &weight, &bias], attributes);
    quantise(g, Maps { name, channels: outputs, height: 1, width: 1 }, x.moment, false)
}

/// Weight and bias of the module `path` as DequantizeLinear gives them; `step` is the scale of the input.
fn weights(g: &mut Graph, path: &str, dims: &[i64], gain: f32, step: f32) -> [String; 2] {
    let fan_in: i64 = dims[1..].iter().product();
    let channels = dims[0];
    let typical = gain / ((fan_in as f32).sqrt() * WEIGHT_DEVIATION);
    // Scales differ by channel as in trained networks, by an eighth and without chance.
    let scales: Vec<f32> = (0..channels).map(|channel| typical * (0.875 + 0.25 * (channel % 8) as f32 / 7.0)).collect();
    let zeros = |bytes: usize| vec![0_u8; bytes * scales.len()];

    let name = format!("{path}.weight");
    let quantised = g.trained_int8(&format!("{name}_quantized"), dims, WEIGHT_LIMIT);
    let scale = g.fixed(TensorProto::from_f32(format!("{name}_scale"), &[channels], &scales));
    let zero_point = TensorProto::from_raw(format!("{name}_zero_point"), data_type::INT8, &[channels], zeros(1));
    let zero_point = g.fixed(zero_point);
    let weight = dequantise(g, &name, [&quantised, &scale, &zero_point], Some(0));

    let name = format!("{path}.bias");
    // The bias is added to sums of products, so its scale is the product of both scales; 0.05 is small beside one.
    let limit = (0.05 / (step * typical)).round() as u32;
    let quantised = g.trained_int32(&format!("{name}_quantized"), &[channels], limit);
    let scales: Vec<f32> = scales.iter().map(|scale| scale * step).collect();
    let scale = g.fixed(TensorProto::from_f32(format!("{name}_quantized_scale"), &[channels], &scales));
    let zero_point =
        TensorProto::from_raw(format!("{name}_quantized_zero_point"), data_type::INT32, &[channels], zeros(4));
    let zero_point = g.fixed(zero_point);
    [weight, dequantise(g, &name, [&quantised, &scale, &zero_point], Some(0))]
}
