//! Facts of what folded nodes make, as far as it follows from the constants they read.
//!
//! Folded nodes never run where runs are observed: engines fold them at load. Without these facts a convolution with a
//! dequantised or cast weight would have no arithmetic. Only operators whose result has the shape of what they read, or a
//! permutation of it, are understood; the rest stays unknown.

use crate::dtype::DType;
use crate::graph::{Attr, Dim, Graph, Node, Origin};

/// Sets the facts of folded nodes' first outputs where nothing is known of them.
pub(crate) fn infer(graph: &mut Graph) {
    for id in graph.node_ids() {
        let node = graph.node(id);
        if !node.folded || !node.op.domain.is_empty() {
            continue;
        }
        let (Some(Some(input)), Some(Some(output))) = (node.inputs.first(), node.outputs.first()) else { continue };
        let from = &graph.tensor(*input).fact;
        let Some(shape) = from.shape.as_ref().and_then(|dims| shape(node, dims)) else { continue };
        let Some(dtype) = dtype(graph, node, from.dtype) else { continue };
        let output = *output;
        let fact = &mut graph.tensors[output.index()].fact;
        if fact.shape.is_none() || fact.dtype.is_none() {
            (fact.dtype, fact.shape) = (Some(dtype), Some(shape));
            fact.origin = Origin::Inferred;
        }
    }
}

fn shape(node: &Node, dims: &[Dim]) -> Option<Vec<Dim>> {
    match node.op.name.as_str() {
        "DequantizeLinear" | "QuantizeLinear" | "Cast" | "Identity" | "Neg" | "Sqrt" | "Reciprocal" | "Exp" => {
            Some(dims.to_vec())
        }
        "Transpose" => {
            let reversed: Vec<i64> = (0..dims.len() as i64).rev().collect();
            let order = node.ints("perm").unwrap_or(&reversed);
            let at = |axis: &i64| dims.get(usize::try_from(*axis).ok()?).cloned();
            order.iter().map(at).collect::<Option<Vec<Dim>>>().filter(|s| s.len() == dims.len())
        }
        _ => None,
    }
}

fn dtype(graph: &Graph, node: &Node, from: Option<DType>) -> Option<DType> {
    let of = |input: usize| graph.tensor((*node.inputs.get(input)?)?).fact.dtype;
    match node.op.name.as_str() {
        // The result has the type of the scale.
        "DequantizeLinear" => of(1),
        "QuantizeLinear" => of(2).or(Some(DType::U8)),
        "Cast" => match node.attrs.get("to") {
            Some(Attr::Int(code)) => DType::from_onnx_code(i32::try_from(*code).ok()?),
            _ => None,
        },
        _ => from,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fingerprint::Fingerprint;
    use crate::graph::{Constant, Fact, GraphBuilder, NodeDraft};

    #[test]
    fn dequantised_cast_and_transposed_weights_have_shapes() {
        let mut b = GraphBuilder::new("g", 8, BTreeMap::new());
        let constant = |bytes| Constant { bytes, values: None, digest: Fingerprint::of(b"c") };
        let fact = |dtype, dims: &[u64]| Fact {
            dtype: Some(dtype),
            shape: Some(dims.iter().map(|d| Dim::Known(*d)).collect()),
            origin: Origin::Declared,
            ..Fact::default()
        };
        b.constant("w", fact(DType::I8, &[8, 3]), constant(24)).unwrap();
        b.constant("scale", fact(DType::F32, &[8]), constant(32)).unwrap();
        b.input("x", fact(DType::F32, &[1, 3])).unwrap();
        let node = |op: &str, inputs: &[&str], output: &str| NodeDraft {
            op: op.into(),
            inputs: inputs.iter().map(|i| (*i).to_owned()).collect(),
            outputs: vec![output.into()],
            ..NodeDraft::default()
        };
        b.node(node("DequantizeLinear", &["w", "scale"], "real"));
        b.node(node("Transpose", &["real"], "turned"));
        b.node(node("Reshape", &["real", "scale"], "unknown"));
        b.node(node("MatMul", &["x", "turned"], "y"));
        b.node(node("Sum", &["y", "unknown"], "z"));
        b.output("z");
        let graph = b.finish(Fingerprint::of(b"")).unwrap();
        let index = graph.tensor_index();
        let text = |n: &str| graph.tensor(index[n]).fact.to_string();
        assert_eq!([text("real"), text("turned"), text("unknown")], ["f32[8x3]", "f32[3x8]", "?[..]"]);
    }
}
