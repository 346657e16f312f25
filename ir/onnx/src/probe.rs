//! A model of nothing much, to measure what an engine costs beside operators.

use tandem_onnx_proto::{
    DimValue, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto, data_type,
};

use crate::cut::SegmentImage;

/// IR version and opset that every engine takes.
const VERSIONS: (i64, i64) = (8, 17);

/// A chain of cheap operators that no engine folds or fuses, in turn with one, two and three inputs: what a run costs
/// beside it grows with `nodes`, what the operators cost stays far under a microsecond each. It reads `x`, f32 of shape
/// `[elements]`, and makes a value of that shape.
///
/// # Panics
/// If `nodes` is 0.
pub fn chain(nodes: usize, elements: u64) -> SegmentImage {
    assert!(nodes > 0, "a chain has nodes");
    let dims = [DimValue::from(elements as i64)];
    let half = vec![0.5f32; elements as usize];
    let node = |i: usize| {
        let before = if i == 0 { "x".to_owned() } else { format!("y{}", i - 1) };
        let (op, inputs) = match i % 3 {
            0 => ("Sin", vec![before]),
            1 => ("Add", vec![before, "half".to_owned()]),
            _ => ("Max", vec![before, "half".to_owned(), "less".to_owned()]),
        };
        NodeProto::new(op, &inputs, &[format!("y{i}")]).named(format!("n{i}_"))
    };
    let output = format!("y{}", nodes - 1);
    let graph = GraphProto {
        name: "probe".to_owned(),
        node: (0..nodes).map(node).collect(),
        initializer: vec![
            TensorProto::from_f32("half", &[elements as i64], &half),
            TensorProto::from_f32("less", &[elements as i64], &vec![0.25; elements as usize]),
        ],
        input: vec![ValueInfoProto::tensor("x", data_type::FLOAT, &dims)],
        output: vec![ValueInfoProto::tensor(output.as_str(), data_type::FLOAT, &dims)],
        ..GraphProto::default()
    };
    let (ir_version, opset) = VERSIONS;
    let opset_import = vec![OperatorSetIdProto::new("", opset)];
    let model = ModelProto { ir_version, opset_import, graph: Some(graph), ..ModelProto::default() };
    SegmentImage { model: model.encode().into(), weights: vec![], inputs: vec!["x".to_owned()], outputs: vec![output] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_is_as_long_as_asked() {
        let image = chain(7, 16);
        assert_eq!((image.inputs.as_slice(), image.outputs.as_slice()), (&["x".into()][..], &["y6".into()][..]));
        let model = ModelProto::decode(&tandem_onnx_proto::Blob::whole(std::sync::Arc::new(image.model.to_vec())))
            .expect("a model");
        assert_eq!(model.graph.expect("a graph").node.len(), 7);
    }
}
