//! A model of nothing much, to measure what an engine costs beside operators.

use tandem_onnx_proto::{
    AttributeProto, DimValue, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto, data_type,
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
    let node = |before: String, i: usize| match i % 3 {
        0 => ("Sin", vec![before]),
        1 => ("Add", vec![before, "half".to_owned()]),
        _ => ("Max", vec![before, "half".to_owned(), "less".to_owned()]),
    };
    let constant =
        |name: &str, value: f32| TensorProto::from_f32(name, &[elements as i64], &vec![value; elements as usize]);
    image(nodes, &[elements as i64], vec![constant("half", 0.5), constant("less", 0.25)], node)
}

/// Channels, height and width of [`convolutions`].
pub const PLANE: [u64; 3] = [16, 14, 14];

/// A chain of small convolutions, some microseconds each, that engines spread over threads. It reads `x`, f32 of shape
/// `[1, 16, 14, 14]` ([`PLANE`]), and makes a value of that shape.
///
/// # Panics
/// If `nodes` is 0.
pub fn convolutions(nodes: usize) -> SegmentImage {
    let [channels, height, width] = PLANE.map(|n| n as i64);
    let kernel = [channels, channels, 3, 3];
    // Small enough that values shrink along the chain, and do not become infinite.
    let weights = vec![0.005; kernel.iter().product::<i64>() as usize];
    let node = |before: String, _| ("Conv", vec![before, "kernel".to_owned()]);
    image(nodes, &[1, channels, height, width], vec![TensorProto::from_f32("kernel", &kernel, &weights)], node)
}

/// A chain of nodes over values of one shape; `node` says operator and inputs of each, given the value before it.
fn image(
    nodes: usize,
    dims: &[i64],
    initializer: Vec<TensorProto>,
    node: impl Fn(String, usize) -> (&'static str, Vec<String>),
) -> SegmentImage {
    assert!(nodes > 0, "a chain has nodes");
    let dims: Vec<DimValue> = dims.iter().map(|d| DimValue::from(*d)).collect();
    let link = |i: usize| {
        let before = if i == 0 { "x".to_owned() } else { format!("y{}", i - 1) };
        let (op, inputs) = node(before, i);
        let made = NodeProto::new(op, &inputs, &[format!("y{i}")]).named(format!("n{i}_{op}"));
        if op == "Conv" { made.with(AttributeProto::ints("pads", [1, 1, 1, 1])) } else { made }
    };
    let output = format!("y{}", nodes - 1);
    let graph = GraphProto {
        name: "probe".to_owned(),
        node: (0..nodes).map(link).collect(),
        initializer,
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
