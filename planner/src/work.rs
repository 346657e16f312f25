//! Arithmetic and traffic of one node, as the cost models need it.

use tandem_ir::DType;
use tandem_ir::graph::{Graph, NodeId};

use crate::cost::value_bytes;

/// Work of a node at a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeWork {
    /// Arithmetic, a multiply-add being two.
    pub flops: u64,
    /// Bytes of values read, constants left out.
    pub read: u64,
    /// Bytes of values written.
    pub written: u64,
    /// Bytes of constants read.
    pub weights: u64,
    /// Type it computes in.
    pub dtype: Option<DType>,
}

/// Work of a node; `None` where shapes are unknown.
pub fn node_work(graph: &Graph, id: NodeId, batch: u64) -> Option<NodeWork> {
    let node = graph.node(id);
    let (mut read, mut weights, mut written, mut elements) = (0u64, 0u64, 0u64, 0u64);
    for t in node.reads() {
        match graph.is_constant(t) {
            true => weights += value_bytes(graph, t, 1).0,
            false => read += graph.tensor(t).fact.bytes_at(batch)?,
        }
    }
    let mut dtype = None;
    for t in node.writes() {
        let fact = &graph.tensor(t).fact;
        written += fact.bytes_at(batch)?;
        elements += fact.dims_at(batch)?.iter().product::<u64>();
        dtype = dtype.or(fact.dtype);
    }
    let dims = |i: usize| node.inputs.get(i).copied().flatten().and_then(|t| graph.tensor(t).fact.dims_at(batch));
    let inner = match node.op.name.as_str() {
        "Conv" | "ConvTranspose" => dims(1).map_or(1, |w| w.iter().skip(1).product::<u64>()),
        "MatMul" | "Gemm" => dims(0).and_then(|d| d.last().copied()).unwrap_or(1),
        _ => 0,
    };
    let flops = if inner > 0 { 2 * inner * elements } else { elements };
    Some(NodeWork { flops, read, written, weights, dtype })
}
