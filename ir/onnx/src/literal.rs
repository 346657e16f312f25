//! A model of one node that makes a value out of nothing: for a value that engines' interfaces cannot make.

use tandem_ir::DType;
use tandem_onnx_proto::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TypeProto, ValueInfoProto,
};

/// Name of the model's one output.
pub const OUTPUT: &str = "made";

/// A serialised model that makes an empty sequence of tensors.
pub fn empty_sequence(element: DType) -> Vec<u8> {
    let node = NodeProto::new::<&str, &str>("SequenceEmpty", &[], &[OUTPUT]);
    let node = node.named(OUTPUT).with(AttributeProto::int("dtype", i64::from(element.onnx_code())));
    model(node, TypeProto::sequence(TypeProto::tensor(element.onnx_code(), None)))
}

fn model(node: NodeProto, output: TypeProto) -> Vec<u8> {
    let output = ValueInfoProto { name: OUTPUT.into(), r#type: Some(output), ..ValueInfoProto::default() };
    let graph = GraphProto { name: OUTPUT.into(), node: vec![node], output: vec![output], ..GraphProto::default() };
    let opset = OperatorSetIdProto { version: 15, ..OperatorSetIdProto::default() };
    ModelProto { ir_version: 8, graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() }.encode()
}
