//! Short ways to write models, and to look into images.

use tandem_ir::{NodeId, TensorId};
use tandem_onnx::cut::SegmentImage;
use tandem_onnx::import::{ImportError, Model, import_bytes};
use tandem_onnx_proto::{
    AttributeProto, Blob, DimValue, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto, data_type,
};

/// A model of opset 17, IR 8.
pub fn model(graph: GraphProto) -> ModelProto {
    ModelProto {
        ir_version: 8,
        opset_import: vec![OperatorSetIdProto::new("", 17)],
        graph: Some(graph),
        ..ModelProto::default()
    }
}

/// A graph that takes and returns f32 values of one free axis.
pub fn graph(nodes: Vec<NodeProto>, inputs: &[&str], outputs: &[&str]) -> GraphProto {
    let infos = |names: &[&str]| names.iter().map(|n| float(n)).collect();
    GraphProto { name: "g".into(), node: nodes, input: infos(inputs), output: infos(outputs), ..GraphProto::default() }
}

/// An f32 value of one free axis.
pub fn float(name: &str) -> ValueInfoProto {
    ValueInfoProto::tensor(name, data_type::FLOAT, &[DimValue::from("n")])
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto::new(op, inputs, outputs)
}

/// An f32 weight of so many elements.
pub fn weight(name: &str, elements: usize) -> TensorProto {
    let values: Vec<f32> = (0..elements).map(|i| i as f32).collect();
    TensorProto::from_f32(name, &[elements as i64], &values)
}

pub fn constant(output: &str, attribute: AttributeProto) -> NodeProto {
    node("Constant", &[], &[output]).with(attribute)
}

pub fn try_read(model: &ModelProto) -> Result<Model, ImportError> {
    import_bytes("test.onnx", model.encode(), None)
}

pub fn read(model: &ModelProto) -> Model {
    try_read(model).unwrap_or_else(|e| panic!("{e}"))
}

pub fn error(model: &ModelProto) -> String {
    match try_read(model) {
        Ok(_) => panic!("expected an error"),
        Err(e) => e.to_string(),
    }
}

pub fn tensor(model: &Model, name: &str) -> TensorId {
    *model.graph.tensor_index().get(name).unwrap_or_else(|| panic!("no tensor {name}"))
}

/// The node that makes a value.
pub fn maker(model: &Model, name: &str) -> NodeId {
    model.graph.tensor(tensor(model, name)).producer.unwrap_or_else(|| panic!("nothing makes {name}"))
}

/// What an image's protobuf says.
pub fn look(image: &SegmentImage) -> ModelProto {
    ModelProto::decode(&Blob::from(&image.model[..])).expect("an image is a model")
}

pub fn look_graph(image: &SegmentImage) -> GraphProto {
    look(image).graph.expect("an image has a graph")
}

pub fn names(nodes: &[NodeProto]) -> Vec<&str> {
    nodes.iter().map(|n| n.name.as_str()).collect()
}
