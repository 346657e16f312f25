//! Models, graphs, nodes and functions.

use crate::attribute::AttributeProto;
use crate::device::{DeviceConfigurationProto, NodeDeviceConfigurationProto};
use crate::tensor::{SparseTensorProto, TensorProto};
use crate::types::ValueInfoProto;

/// The newest IR version whose messages this crate knows.
pub const IR_VERSION: i64 = 13;

message! {
    /// A model: the content of an ONNX file.
    pub struct ModelProto forced model_forced {
        /// Version of the format, 1 to [`IR_VERSION`] as far as this crate knows it; always written.
        pub ir_version: i64 = 1;
        /// Name of the tool that made the model.
        pub producer_name: String = 2;
        /// Version of that tool.
        pub producer_version: String = 3;
        /// Namespace of the model, in reverse domain form.
        pub domain: String = 4;
        /// Version of the model itself.
        pub model_version: i64 = 5;
        /// Text for people.
        pub doc_string: String = 6;
        /// The graph to run.
        pub graph: Option<GraphProto> = 7;
        /// Operator sets that the graph's nodes are from, one for each domain.
        pub opset_import: Vec<OperatorSetIdProto> = 8;
        /// Named texts about the model.
        pub metadata_props: Vec<StringStringEntryProto> = 14;
        /// How to train the model.
        pub training_info: Vec<TrainingInfoProto> = 20;
        /// Functions local to the model.
        pub functions: Vec<FunctionProto> = 25;
        /// Device configurations that nodes refer to (IR 11).
        pub configuration: Vec<DeviceConfigurationProto> = 26;
    }
}

fn model_forced(_: &ModelProto) -> u32 {
    1 << 1
}

message! {
    /// A graph: nodes in topological order, with what comes in and goes out.
    pub struct GraphProto {
        /// Nodes, each after those whose outputs it takes.
        pub node: Vec<NodeProto> = 1;
        /// Name of the graph.
        pub name: String = 2;
        /// Constant tensors; the name of each is a value's name.
        pub initializer: Vec<TensorProto> = 5;
        /// Text for people.
        pub doc_string: String = 10;
        /// Inputs in order; before IR 4 initializers are among them.
        pub input: Vec<ValueInfoProto> = 11;
        /// Outputs in order.
        pub output: Vec<ValueInfoProto> = 12;
        /// Types of values in between.
        pub value_info: Vec<ValueInfoProto> = 13;
        /// Scales and zero points of values.
        pub quantization_annotation: Vec<TensorAnnotation> = 14;
        /// Constant sparse tensors; the name of each one's `values` is a value's name.
        pub sparse_initializer: Vec<SparseTensorProto> = 15;
        /// Named texts about the graph.
        pub metadata_props: Vec<StringStringEntryProto> = 16;
    }
}

message! {
    /// A node: one call of an operator or of a function.
    pub struct NodeProto {
        /// Names of the values taken; empty for an optional one left out.
        pub input: Vec<String> = 1;
        /// Names of the values made; empty for an optional one not wanted.
        pub output: Vec<String> = 2;
        /// Name of the node; may be empty, may repeat.
        pub name: String = 3;
        /// Operator or function.
        pub op_type: String = 4;
        /// Attributes.
        pub attribute: Vec<AttributeProto> = 5;
        /// Text for people.
        pub doc_string: String = 6;
        /// Operator set of the operator; empty for ONNX's own.
        pub domain: String = 7;
        /// Which overload of a function (IR 10).
        pub overload: String = 8;
        /// Named texts about the node (IR 10).
        pub metadata_props: Vec<StringStringEntryProto> = 9;
        /// How the node is spread over devices (IR 11).
        pub device_configurations: Vec<NodeDeviceConfigurationProto> = 10;
    }
}

impl NodeProto {
    /// A node without name and attributes: `op_type` of ONNX's own operator set on the values `inputs` makes `outputs`.
    pub fn new<I: Into<String> + Clone, O: Into<String> + Clone>(
        op_type: impl Into<String>,
        inputs: &[I],
        outputs: &[O],
    ) -> Self {
        Self {
            op_type: op_type.into(),
            input: inputs.iter().cloned().map(Into::into).collect(),
            output: outputs.iter().cloned().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// The same node with the name `name`.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The same node with one more attribute.
    pub fn with(mut self, attribute: AttributeProto) -> Self {
        self.attribute.push(attribute);
        self
    }

    /// The attribute `name`, if the node has it.
    pub fn attr(&self, name: &str) -> Option<&AttributeProto> {
        self.attribute.iter().find(|attribute| attribute.name == name)
    }
}

message! {
    /// A function: a named group of nodes that nodes can call.
    pub struct FunctionProto {
        /// Name of the function: the `op_type` of nodes that call it.
        pub name: String = 1;
        /// Names of the values taken.
        pub input: Vec<String> = 4;
        /// Names of the values made.
        pub output: Vec<String> = 5;
        /// Names of attributes that have no default.
        pub attribute: Vec<String> = 6;
        /// Nodes, each after those whose outputs it takes.
        pub node: Vec<NodeProto> = 7;
        /// Text for people.
        pub doc_string: String = 8;
        /// Operator sets that the nodes are from.
        pub opset_import: Vec<OperatorSetIdProto> = 9;
        /// The `domain` of nodes that call the function.
        pub domain: String = 10;
        /// Attributes with their defaults.
        pub attribute_proto: Vec<AttributeProto> = 11;
        /// Types of values inside (IR 10).
        pub value_info: Vec<ValueInfoProto> = 12;
        /// Tells functions of one name apart (IR 10).
        pub overload: String = 13;
        /// Named texts about the function (IR 10).
        pub metadata_props: Vec<StringStringEntryProto> = 14;
    }
}

message! {
    /// How to train a model.
    pub struct TrainingInfoProto {
        /// Graph that makes the starting values.
        pub initialization: Option<GraphProto> = 1;
        /// Graph of one training step.
        pub algorithm: Option<GraphProto> = 2;
        /// Which of the model's initializers takes which output of `initialization`.
        pub initialization_binding: Vec<StringStringEntryProto> = 3;
        /// Which of the model's initializers takes which output of `algorithm`.
        pub update_binding: Vec<StringStringEntryProto> = 4;
    }
}

message! {
    /// An operator set and its version.
    pub struct OperatorSetIdProto forced opset_forced {
        /// Domain; empty for ONNX's own.
        pub domain: String = 1;
        /// Version; always written.
        pub version: i64 = 2;
    }
}

fn opset_forced(_: &OperatorSetIdProto) -> u32 {
    1 << 2
}

impl OperatorSetIdProto {
    /// Version `version` of the operator set `domain` (empty for ONNX's own).
    pub fn new(domain: impl Into<String>, version: i64) -> Self {
        Self { domain: domain.into(), version, ..Self::default() }
    }
}

message! {
    /// A text and its name.
    pub struct StringStringEntryProto {
        /// The name.
        pub key: String = 1;
        /// The text.
        pub value: String = 2;
    }
}

impl StringStringEntryProto {
    /// The text `value` under the name `key`.
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into(), ..Self::default() }
    }
}

message! {
    /// Quantization parameters of one value.
    pub struct TensorAnnotation {
        /// Name of the value.
        pub tensor_name: String = 1;
        /// Parameter kinds (`SCALE_TENSOR`, `ZERO_POINT_TENSOR`) and the initializers that hold them.
        pub quant_parameter_tensor_names: Vec<StringStringEntryProto> = 2;
    }
}
