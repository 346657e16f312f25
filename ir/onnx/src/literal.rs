//! Models of one node that make a value out of nothing: for values that engines' interfaces cannot make.

use tandem_ir::DType;
use tandem_onnx_proto::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TypeProto, ValueInfoProto,
    attribute_type,
};

/// Name of the one output of each model here.
pub const OUTPUT: &str = "made";

/// What an optional may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiteralKind {
    /// A tensor of an element type.
    Tensor(DType),
    /// A sequence of tensors of an element type.
    Sequence(DType),
}

/// A serialised model that makes an empty sequence of tensors.
pub fn empty_sequence(element: DType) -> Vec<u8> {
    let node = NodeProto::new::<&str, &str>("SequenceEmpty", &[], &[OUTPUT]);
    let node = node.named(OUTPUT).with(AttributeProto::int("dtype", i64::from(element.onnx_code())));
    model(node, TypeProto::sequence(TypeProto::tensor(element.onnx_code(), None)))
}

/// A serialised model that makes an optional without a value.
pub fn empty_optional(kind: LiteralKind) -> Vec<u8> {
    let held = match kind {
        LiteralKind::Tensor(dtype) => TypeProto::tensor(dtype.onnx_code(), None),
        LiteralKind::Sequence(dtype) => TypeProto::sequence(TypeProto::tensor(dtype.onnx_code(), None)),
    };
    let type_attribute = AttributeProto {
        name: "type".into(),
        r#type: attribute_type::TYPE_PROTO,
        tp: Some(Box::new(held.clone())),
        ..AttributeProto::default()
    };
    let node = NodeProto::new::<&str, &str>("Optional", &[], &[OUTPUT]).named(OUTPUT).with(type_attribute);
    model(node, TypeProto::optional(held))
}

fn model(node: NodeProto, output: TypeProto) -> Vec<u8> {
    let output = ValueInfoProto { name: OUTPUT.into(), r#type: Some(output), ..ValueInfoProto::default() };
    let graph = GraphProto { name: OUTPUT.into(), node: vec![node], output: vec![output], ..GraphProto::default() };
    let opset = OperatorSetIdProto { version: 15, ..OperatorSetIdProto::default() };
    ModelProto { ir_version: 8, graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() }.encode()
}
