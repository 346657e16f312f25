//! Layers as the PyTorch exporter writes them, on top of [`Graph`].
//!
//! What it is: convolutions with their batch normalisation folded into them (as exports in evaluation mode have it),
//! pooling, fully connected layers on vectors (Gemm) and on sequences (MatMul, Add), layer normalisation.
//!
//! What it deliberately does not do: no training-mode operators; dropout is absent, as in exports.
//!
//! Invariants: image layers track the shape `[batch, channels, height, width]` in [`Maps`].

use crate::graph::{Graph, batched, module};
use tandem_onnx_proto::{AttributeProto, TensorProto, data_type};

/// Gain that keeps unit variance through a ReLU, which halves the second moment (He et al. 2015).
pub(crate) const RELU_GAIN: f32 = std::f32::consts::SQRT_2;

/// Half-width of the uniform biases: small beside unit activations.
const BIAS: f32 = 0.05;

/// Feature maps: a value of shape `[batch, channels, height, width]`.
#[derive(Clone, Debug)]
pub(crate) struct Maps {
    /// The value.
    pub(crate) name: String,
    /// Channels.
    pub(crate) channels: i64,
    /// Rows.
    pub(crate) height: i64,
    /// Columns.
    pub(crate) width: i64,
}

impl Maps {
    /// The same maps as another value.
    pub(crate) fn renamed(&self, name: String) -> Self {
        Self { name, ..*self }
    }

    /// Elements of one batch row.
    pub(crate) fn elements(&self) -> i64 {
        self.channels * self.height * self.width
    }
}

/// A convolution.
#[derive(Clone, Copy)]
pub(crate) struct Conv {
    channels: i64,
    kernel: (i64, i64),
    stride: i64,
    pad: (i64, i64),
    dilation: i64,
    groups: i64,
    gain: f32,
}

impl Conv {
    /// A convolution to `channels` channels with a square kernel, stride 1, padded to keep the size, followed by a
    /// ReLU or the like (which is not part of it).
    pub(crate) fn new(channels: i64, kernel: i64) -> Self {
        Self::of(channels, (kernel, kernel))
    }

    /// The same with a kernel of (height, width).
    pub(crate) fn of(channels: i64, kernel: (i64, i64)) -> Self {
        let pad = (kernel.0 / 2, kernel.1 / 2);
        Self { channels, kernel, stride: 1, pad, dilation: 1, groups: 1, gain: RELU_GAIN }
    }

    /// With another stride, in pixels.
    pub(crate) fn stride(self, stride: i64) -> Self {
        Self { stride, ..self }
    }

    /// With another padding on all sides, in pixels.
    pub(crate) fn pad(self, pad: i64) -> Self {
        Self { pad: (pad, pad), ..self }
    }

    /// With kernel elements `dilation` pixels apart, padded to keep the size.
    pub(crate) fn dilation(self, dilation: i64) -> Self {
        let pad = (self.kernel.0 / 2 * dilation, self.kernel.1 / 2 * dilation);
        Self { dilation, pad, ..self }
    }

    /// Each of `groups` groups of channels by itself.
    pub(crate) fn groups(self, groups: i64) -> Self {
        Self { groups, ..self }
    }

    /// With outputs of the standard deviation `gain` (for inputs of unit second moment).
    pub(crate) fn gain(self, gain: f32) -> Self {
        Self { gain, ..self }
    }
}

/// Length of an axis after a sliding window.
fn slid(length: i64, kernel: i64, stride: i64, pad: i64, ceil: bool) -> i64 {
    let room = length + 2 * pad - kernel;
    let steps = if ceil { (room + stride - 1) / stride } else { room / stride };
    // PyTorch drops a last window that would start in the padding behind the end.
    let steps = if ceil && steps * stride >= length + pad { steps - 1 } else { steps };
    steps + 1
}

impl Graph {
    /// The image input `input`: float `[batch, 3, size, size]`.
    pub(crate) fn image(&mut self, size: i64) -> Maps {
        let name = self.input("input", data_type::FLOAT, &batched(&[3, size, size]));
        Maps { name, channels: 3, height: size, width: size }
    }

    /// A Conv node with weight and bias, its batch normalisation folded in.
    pub(crate) fn conv(&mut self, scope: &str, x: &Maps, conv: Conv) -> Maps {
        let path = module(scope);
        let inputs = x.channels / conv.groups;
        let (kh, kw) = conv.kernel;
        let dims = [conv.channels, inputs, kh, kw];
        let weight = self.weight(&format!("{path}.weight"), &dims, inputs * kh * kw, conv.gain);
        let bias = self.trained(&format!("{path}.bias"), &[conv.channels], 0.0, BIAS);
        let (ph, pw) = conv.pad;
        let attributes = vec![
            AttributeProto::ints("dilations", [conv.dilation; 2]),
            AttributeProto::int("group", conv.groups),
            AttributeProto::ints("kernel_shape", [kh, kw]),
            AttributeProto::ints("pads", [ph, pw, ph, pw]),
            AttributeProto::ints("strides", [conv.stride; 2]),
        ];
        let name = self.op(scope, "Conv", &[&x.name, &weight, &bias], attributes);
        let reach = |kernel: i64| (kernel - 1) * conv.dilation + 1;
        Maps {
            name,
            channels: conv.channels,
            height: slid(x.height, reach(kh), conv.stride, ph, false),
            width: slid(x.width, reach(kw), conv.stride, pw, false),
        }
    }

    /// A Relu node.
    pub(crate) fn relu(&mut self, scope: &str, x: &Maps) -> Maps {
        let name = self.op(scope, "Relu", &[&x.name], vec![]);
        x.renamed(name)
    }

    /// A MaxPool node: square kernel, stride and padding in pixels; `ceil` keeps a last window that is cut off.
    pub(crate) fn max_pool(&mut self, scope: &str, x: &Maps, kernel: i64, stride: i64, pad: i64, ceil: bool) -> Maps {
        let attributes = vec![
            AttributeProto::int("ceil_mode", i64::from(ceil)),
            AttributeProto::ints("dilations", [1; 2]),
            AttributeProto::ints("kernel_shape", [kernel; 2]),
            AttributeProto::ints("pads", [pad; 4]),
            AttributeProto::ints("strides", [stride; 2]),
        ];
        let name = self.op(scope, "MaxPool", &[&x.name], attributes);
        let slide = |length| slid(length, kernel, stride, pad, ceil);
        Maps { name, channels: x.channels, height: slide(x.height), width: slide(x.width) }
    }

    /// An AveragePool node without padding of its own.
    pub(crate) fn average_pool(&mut self, scope: &str, x: &Maps, kernel: i64, stride: i64) -> Maps {
        let attributes = vec![
            AttributeProto::int("ceil_mode", 0),
            AttributeProto::ints("kernel_shape", [kernel; 2]),
            AttributeProto::ints("pads", [0; 4]),
            AttributeProto::ints("strides", [stride; 2]),
        ];
        let name = self.op(scope, "AveragePool", &[&x.name], attributes);
        let slide = |length| slid(length, kernel, stride, 0, false);
        Maps { name, channels: x.channels, height: slide(x.height), width: slide(x.width) }
    }

    /// A GlobalAveragePool node: one pixel is left.
    pub(crate) fn global_average_pool(&mut self, scope: &str, x: &Maps) -> Maps {
        let name = self.op(scope, "GlobalAveragePool", &[&x.name], vec![]);
        Maps { name, channels: x.channels, height: 1, width: 1 }
    }

    /// A Flatten node: float `[batch, elements]`.
    pub(crate) fn flatten(&mut self, scope: &str, x: &Maps) -> String {
        self.op(scope, "Flatten", &[&x.name], vec![AttributeProto::int("axis", 1)])
    }

    /// Concat of maps of one size on their channels.
    pub(crate) fn concat_maps(&mut self, scope: &str, maps: &[Maps]) -> Maps {
        let names: Vec<String> = maps.iter().map(|maps| maps.name.clone()).collect();
        let channels = maps.iter().map(|maps| maps.channels).sum();
        debug_assert!(maps.iter().all(|other| (other.height, other.width) == (maps[0].height, maps[0].width)));
        let name = self.concat(scope, &names, 1);
        Maps { name, channels, ..maps[0] }
    }

    /// A fully connected layer on `[batch, inputs]`: Gemm with the weight as PyTorch keeps it, `[outputs, inputs]`.
    pub(crate) fn gemm(&mut self, scope: &str, x: &str, inputs: i64, outputs: i64, gain: f32) -> String {
        let path = module(scope);
        let weight = self.weight(&format!("{path}.weight"), &[outputs, inputs], inputs, gain);
        let bias = self.trained(&format!("{path}.bias"), &[outputs], 0.0, BIAS);
        let attributes = vec![
            AttributeProto::float("alpha", 1.0),
            AttributeProto::float("beta", 1.0),
            AttributeProto::int("transB", 1),
        ];
        self.op(scope, "Gemm", &[x, &weight, &bias], attributes)
    }

    /// A fully connected layer on `[batch, sequence, inputs]`: MatMul with the weight transposed when exporting,
    /// `[inputs, outputs]`, then Add.
    pub(crate) fn linear(&mut self, scope: &str, x: &str, inputs: i64, outputs: i64, gain: f32) -> String {
        let path = module(scope);
        let bias = self.trained(&format!("{path}.bias"), &[outputs], 0.0, BIAS);
        let weight = self.weight(&format!("{path}.weight_transposed"), &[inputs, outputs], inputs, gain);
        let product = self.op(scope, "MatMul", &[x, &weight], vec![]);
        self.op(scope, "Add", &[&bias, &product], vec![])
    }

    /// A LayerNormalization node over the last axis of length `width`.
    pub(crate) fn layer_norm(&mut self, scope: &str, x: &str, width: i64, epsilon: f32) -> String {
        let path = module(scope);
        let weight = self.trained(&format!("{path}.weight"), &[width], 1.0, BIAS);
        let bias = self.trained(&format!("{path}.bias"), &[width], 0.0, BIAS);
        let attributes = vec![AttributeProto::int("axis", -1), AttributeProto::float("epsilon", epsilon)];
        self.op(scope, "LayerNormalization", &[x, &weight, &bias], attributes)
    }

    /// A Clip node between constants, as ReLU6 is exported.
    pub(crate) fn clip(&mut self, scope: &str, x: &str, low: f32, high: f32) -> String {
        let low = self.scalar(scope, low);
        let high = self.scalar(scope, high);
        self.op(scope, "Clip", &[x, &low, &high], vec![])
    }

    /// A Pad node: `pad` zero pixels on each side of the maps.
    pub(crate) fn pad_maps(&mut self, scope: &str, x: &Maps, pad: i64) -> Maps {
        let pads = self.constant(scope, TensorProto::from_i64("", &[8], &[0, 0, pad, pad, 0, 0, pad, pad]));
        let name = self.op(scope, "Pad", &[&x.name, &pads], vec![AttributeProto::string("mode", "constant")]);
        Maps { name, channels: x.channels, height: x.height + 2 * pad, width: x.width + 2 * pad }
    }
}
