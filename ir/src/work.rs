//! Arithmetic and traffic of operators, from shapes: what a roofline model of a described machine starts from.
//!
//! A multiply-add is two operations (Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for
//! multicore architectures", Communications of the ACM 52(4), 2009). Formulas are those of the operators' definitions in
//! the ONNX operator reference; where an engine has a choice of algorithm (Winograd, FFT), the direct one is counted. What
//! an operator costs in time is the business of cost models, not of this module.

use crate::dtype::DType;
use crate::graph::{Attr, Graph, Kind, Node, NodeId, TensorId};
use crate::plan::DeviceWork;
use crate::units::{Bytes, Flops};

/// What one run of an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Arithmetic; a multiply-add is two.
    pub flops: Flops,
    /// Bytes read from memory, constants included, as far as they are touched (a `Gather` reads rows, not the table).
    pub read: Bytes,
    /// Bytes written.
    pub written: Bytes,
    /// Bytes of constants it holds, those its bodies hold or capture included.
    pub weights: Bytes,
    /// The element type most of the arithmetic is done in.
    pub dtype: DType,
    /// Operators that are dispatched: one, and for control flow those of the dearest body too, each time it runs.
    pub dispatched: u64,
}

impl Work {
    /// Bytes that move between memory and cores.
    pub fn traffic(&self) -> Bytes {
        self.read + self.written
    }
}

/// Work of a whole graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphWork {
    /// Sums over what is known; `weights` counts each constant once; `dtype` is that of most flops.
    pub total: Work,
    /// Nodes whose work is not known, or not in full: the sums lack what is not known of it.
    pub unknown: usize,
}

/// Operations counted for a transcendental function: range reduction, a polynomial of degree about six, a scaling.
const TRANSCENDENTAL: u64 = 10;

/// A loop that ends by its condition states a trip count above this, which says nothing of how often it runs.
const TRIPS_MAX: i64 = i32::MAX as i64 - 1;

/// Softmax of one element: maximum, difference, exponential, sum, quotient.
const SOFTMAX: u64 = TRANSCENDENTAL + 4;

/// Normalisation of one element: mean 1, variance 3, difference and quotient 2, scale and shift 2.
const NORMALISATION: u64 = 8;

/// The work of one node at a batch; `None` while a shape or element type that it depends on is unknown. Control flow looks
/// inside: `If` is its dearer branch, `Loop` and `Scan` their body times the trip count where that is known, else once;
/// inner nodes of unknown shape are left out, and `None` is where nothing is known of the dearest body.
pub fn node_work(graph: &Graph, id: NodeId, batch: u64) -> Option<Work> {
    known_work(graph, id, batch).0
}

/// What is known of a node's work ([`node_work`]), and whether that is all of it.
pub fn known_work(graph: &Graph, id: NodeId, batch: u64) -> (Option<Work>, bool) {
    let node = graph.node(id);
    let weights = weights(graph, node);
    if !node.bodies.is_empty() {
        let (work, whole) = body_work(graph, node, batch, weights);
        // A sum of nothing but unknown work is no zero.
        let nothing = !whole && (work.flops, work.traffic()) == (Flops::ZERO, Bytes::ZERO);
        return (Some(work).filter(|_| !nothing), whole);
    }
    let shapes = Shapes { graph, node, batch };
    let work = flops(&shapes).zip(traffic(&shapes)).map(|(flops, (read, written))| Work {
        flops: Flops(flops),
        read: Bytes(read),
        written: Bytes(written),
        weights,
        dtype: shapes.dtype(),
        dispatched: 1,
    });
    (work, work.is_some())
}

/// The work of the operators on one device at a batch, as plans state it.
pub fn device_work(graph: &Graph, nodes: &[NodeId], batch: u64) -> DeviceWork {
    let mut sum = Sum::default();
    nodes.iter().for_each(|id| sum.add(known_work(graph, *id, batch)));
    // A sum of nothing but unknown work is no zero.
    let known = |n: u64| (sum.unknown == 0 || n > 0).then_some(n);
    DeviceWork {
        operators: nodes.len() as u64,
        unknown: sum.unknown as u64,
        flops: known(sum.flops.0).map(Flops),
        moved: known((sum.read + sum.written).0).map(Bytes),
    }
}

/// The work of all placeable nodes of a graph.
pub fn graph_work(graph: &Graph, batch: u64) -> GraphWork {
    let mut sum = Sum::default();
    graph.placeable().for_each(|id| sum.add(known_work(graph, id, batch)));
    GraphWork { total: sum.total(Bytes(graph.weight_bytes())), unknown: sum.unknown }
}

#[derive(Default)]
struct Sum {
    flops: Flops,
    read: Bytes,
    written: Bytes,
    by_dtype: std::collections::BTreeMap<DType, Flops>,
    dispatched: u64,
    unknown: usize,
}

impl Sum {
    fn add(&mut self, (work, whole): (Option<Work>, bool)) {
        self.unknown += usize::from(!whole);
        self.dispatched = self.dispatched.saturating_add(work.map_or(1, |w| w.dispatched));
        let Some(work) = work else { return };
        self.flops += work.flops;
        self.read += work.read;
        self.written += work.written;
        *self.by_dtype.entry(work.dtype).or_default() += work.flops;
    }

    fn total(&self, weights: Bytes) -> Work {
        let most = self.by_dtype.iter().max_by_key(|(_, f)| **f).map_or(DType::F32, |(d, _)| *d);
        let (flops, read, written, dispatched) = (self.flops, self.read, self.written, self.dispatched);
        Work { flops, read, written, weights, dtype: most, dispatched }
    }
}

/// Constants a node reads or captures, and those inside its bodies.
fn weights(graph: &Graph, node: &Node) -> Bytes {
    let reads = node.reads();
    let own = reads.iter().filter(|t| graph.is_constant(**t)).filter_map(|t| match &graph.tensor(*t).constant {
        Some(constant) => Some(constant.bytes),
        None => graph.tensor(*t).fact.bytes_at(1),
    });
    Bytes(own.sum::<u64>().saturating_add(node.bodies.values().map(Graph::weight_bytes).sum()))
}

/// What is known of the work of a node with bodies, and whether that is all of it.
fn body_work(graph: &Graph, node: &Node, batch: u64, weights: Bytes) -> (Work, bool) {
    let works: Vec<GraphWork> = node.bodies.values().map(|body| graph_work(body, batch)).collect();
    let trips = trips(graph, node, batch);
    let whole = trips.is_some() && works.iter().all(|w| w.unknown == 0);
    // The dearer branch, by arithmetic and then by traffic; a loop has one body.
    let dearest = works.into_iter().map(|w| w.total).max_by_key(|w| (w.flops, w.traffic()));
    let once = dearest.unwrap_or(Work {
        flops: Flops::ZERO,
        read: Bytes::ZERO,
        written: Bytes::ZERO,
        weights,
        dtype: DType::F32,
        dispatched: 0,
    });
    let times = trips.unwrap_or(1);
    let (flops, read, written) = (once.flops * times, once.read * times, once.written * times);
    let dispatched = once.dispatched.saturating_mul(times).saturating_add(1);
    (Work { flops, read, written, weights, dtype: once.dtype, dispatched }, whole)
}

/// How often a body runs; `None` where the graph does not say.
fn trips(graph: &Graph, node: &Node, batch: u64) -> Option<u64> {
    let known = match node.op.name.as_str() {
        "If" => Some(1),
        "Loop" => {
            let constant = node.inputs.first().copied().flatten().and_then(|t| graph.tensor(t).constant.as_ref());
            let stated = constant.and_then(|c| c.values.as_ref()?.first().copied()).filter(|n| *n <= TRIPS_MAX);
            // After the carried values come those it stacks, one from each trip.
            let stacked = node.outputs.get(node.inputs.len().saturating_sub(2)..).unwrap_or_default();
            let seen = stacked.iter().flatten().find_map(|t| graph.tensor(*t).fact.dims_at(batch)?.first().copied());
            seen.and_then(|n| i64::try_from(n).ok()).or(stated)
        }
        "Scan" => {
            let scanned = usize::try_from(node.int("num_scan_inputs", 0)).unwrap_or(0);
            let first = node.inputs.len().saturating_sub(scanned);
            let dims = node.inputs.get(first).copied().flatten().and_then(|t| graph.tensor(t).fact.dims_at(batch));
            let axis = node.ints("scan_input_axes").and_then(|a| a.first().copied()).unwrap_or(0);
            dims.and_then(|d| axis_dim(&d, axis)).and_then(|n| i64::try_from(n).ok())
        }
        _ => None,
    };
    known.and_then(|n| u64::try_from(n).ok())
}

fn axis_dim(dims: &[u64], axis: i64) -> Option<u64> {
    let axis = if axis < 0 { axis + dims.len() as i64 } else { axis };
    dims.get(usize::try_from(axis).ok()?).copied()
}

fn product(dims: &[u64]) -> u64 {
    dims.iter().fold(1, |a, d| a.saturating_mul(*d))
}

fn times(factors: &[u64]) -> u64 {
    product(factors)
}

/// A node's shapes at a batch.
struct Shapes<'g> {
    graph: &'g Graph,
    node: &'g Node,
    batch: u64,
}

impl Shapes<'_> {
    fn input_id(&self, i: usize) -> Option<TensorId> {
        self.node.inputs.get(i).copied().flatten()
    }

    fn has(&self, i: usize) -> bool {
        self.input_id(i).is_some()
    }

    fn input(&self, i: usize) -> Option<Vec<u64>> {
        self.graph.tensor(self.input_id(i)?).fact.dims_at(self.batch)
    }

    fn output(&self, i: usize) -> Option<Vec<u64>> {
        let id = self.node.outputs.get(i).copied().flatten()?;
        self.graph.tensor(id).fact.dims_at(self.batch)
    }

    /// Elements of an input.
    fn elements(&self, i: usize) -> Option<u64> {
        self.input(i).map(|d| product(&d))
    }

    /// Elements of the first output.
    fn made(&self) -> Option<u64> {
        self.output(0).map(|d| product(&d))
    }

    /// Bytes of a value: 0 for those without a fixed size (strings, sequences), `None` while unknown.
    fn bytes(&self, id: TensorId) -> Option<u64> {
        let tensor = self.graph.tensor(id);
        match &tensor.constant {
            Some(constant) => Some(constant.bytes),
            None if tensor.fact.kind != Kind::Tensor || tensor.fact.dtype == Some(DType::String) => Some(0),
            None => tensor.fact.bytes_at(self.batch),
        }
    }

    /// The type the arithmetic is done in: the first input's, except where that is a condition or a scaled integer.
    fn dtype(&self) -> DType {
        let first = self.input_id(0).and_then(|t| self.graph.tensor(t).fact.dtype);
        let made = self.node.writes().next().and_then(|t| self.graph.tensor(t).fact.dtype);
        let made_first =
            matches!(self.node.op.name.as_str(), "Where" | "DequantizeLinear" | "Cast" | "Shape" | "OneHot");
        let (a, b) = if made_first { (made, first) } else { (first, made) };
        a.or(b).unwrap_or(DType::F32)
    }

    fn text(&self, name: &str) -> Option<&str> {
        match self.node.attrs.get(name) {
            Some(Attr::Text(bytes)) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

/// Operators that engines turn into another view of the same bytes.
const VIEWS: [&str; 6] = ["Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"];

/// Operators that read only as much as they write (and their small indices).
const PICKS: [&str; 6] = ["Gather", "GatherElements", "GatherND", "Slice", "Split", "GatherBlockQuantized"];

fn traffic(s: &Shapes<'_>) -> Option<(u64, u64)> {
    let op = s.node.op.name.as_str();
    if VIEWS.contains(&op) {
        return Some((0, 0));
    }
    let mut written = 0u64;
    for id in s.node.writes() {
        written = written.saturating_add(s.bytes(id)?);
    }
    if matches!(op, "Shape" | "Size") {
        return Some((0, written));
    }
    let mut read = 0u64;
    for (i, id) in s.node.inputs.iter().enumerate() {
        let Some(id) = id else { continue };
        // The picked-from value counts as what is picked.
        let bytes = if i == 0 && PICKS.contains(&op) { written } else { s.bytes(*id)? };
        read = read.saturating_add(bytes);
    }
    Some((read, written))
}

fn flops(s: &Shapes<'_>) -> Option<u64> {
    let op = s.node.op.name.as_str();
    if moves_only(op, s) {
        return Some(0);
    }
    match op {
        "Conv" | "ConvInteger" | "FusedConv" | "NhwcConv" | "NhwcFusedConv" | "DeformConv" => convolution(s, 1, 2),
        "QLinearConv" => convolution(s, 3, 8),
        "ConvTranspose" => {
            let weights = s.input(1)?;
            let bias = if s.has(2) { s.made()? } else { 0 };
            Some(times(&[2, s.elements(0)?, product(weights.get(1..)?)]).saturating_add(bias))
        }
        "LSTM" | "GRU" | "RNN" | "DynamicQuantizeLSTM" => recurrent(s),
        "Attention"
        | "MultiHeadAttention"
        | "GroupQueryAttention"
        | "DecoderMaskedMultiHeadAttention"
        | "PackedAttention"
        | "QAttention" => attention(s),
        "Einsum" => einsum(s),
        "DFT" | "STFT" => {
            let made = s.made()?;
            let length = s.output(0)?.iter().copied().max().unwrap_or(1).max(2);
            // 5 n log2 n real operations for n complex values (Cooley and Tukey, 1965); `made` counts real numbers.
            Some(times(&[5, made / 2, u64::from(length.ilog2()).max(1)]))
        }
        _ => product_of_matrices(op, s).or_else(|| per_element(op, s)),
    }
}

/// Operators that move data and compute nothing.
fn moves_only(op: &str, s: &Shapes<'_>) -> bool {
    let moves = [
        "Transpose",
        "Concat",
        "ScatterElements",
        "ScatterND",
        "Scatter",
        "Pad",
        "Expand",
        "Tile",
        "Cast",
        "CastLike",
        "Shape",
        "Size",
        "Constant",
        "ConstantOfShape",
        "DepthToSpace",
        "SpaceToDepth",
        "Range",
        "OneHot",
        "NonZero",
        "Compress",
        "EyeLike",
        "Trilu",
        "ReverseSequence",
        "Col2Im",
        "CenterCropPad",
        "BitCast",
        "TensorScatter",
        "ReorderInput",
        "ReorderOutput",
        "MemcpyFromHost",
        "MemcpyToHost",
    ];
    let nearest = matches!(op, "Resize" | "Upsample") && s.text("mode").unwrap_or("nearest") == "nearest";
    let rearranges = moves.contains(&op) || VIEWS.contains(&op) || PICKS.contains(&op) || nearest;
    rearranges || op.starts_with("Sequence") || op.starts_with("Optional") || op.starts_with("String")
}

/// Each output element is a sum over the kernel's window and the group's channels.
fn convolution(s: &Shapes<'_>, weights: usize, bias: usize) -> Option<u64> {
    let (made, weights) = (s.made()?, s.input(weights)?);
    let bias = if s.has(bias) && s.node.op.name != "ConvInteger" { made } else { 0 };
    Some(times(&[2, made, product(weights.get(1..)?)]).saturating_add(bias))
}

/// Matrix products: two operations an output element and step of the inner dimension. `None` for other operators.
fn product_of_matrices(op: &str, s: &Shapes<'_>) -> Option<u64> {
    let inner = match op {
        "MatMul"
        | "MatMulInteger"
        | "QLinearMatMul"
        | "MatMulIntegerToFloat"
        | "DynamicQuantizeMatMul"
        | "FusedMatMul"
        | "FusedMatMulActivation"
        | "TransposeMatMul" => {
            let a = s.input(0)?;
            let transposed = s.node.int("transA", 0) != 0 && a.len() >= 2;
            *a.get(if transposed { a.len() - 2 } else { a.len().checked_sub(1)? })?
        }
        "Gemm" | "FusedGemm" | "QGemm" => *s.input(0)?.get(if s.node.int("transA", 0) != 0 { 0 } else { 1 })?,
        "MatMulNBits" | "MatMulBnb4" | "MatMulFpQ4" => match s.node.int("K", 0) {
            k if k > 0 => k as u64,
            _ => *s.input(0)?.last()?,
        },
        _ => return None,
    };
    let made = s.made()?;
    let bias = match op {
        "Gemm" | "FusedGemm" => s.has(2),
        "QGemm" => s.has(6),
        "MatMulNBits" => s.has(5),
        _ => false,
    };
    Some(times(&[2, made, inner]).saturating_add(if bias { made } else { 0 }))
}

/// Gates: each step multiplies by both weight matrices; then about one transcendental and two products a gate and unit.
fn recurrent(s: &Shapes<'_>) -> Option<u64> {
    let x = s.input(0)?;
    let steps = times(x.get(..2)?);
    let (w, r) = (s.input(1)?, s.input(2)?);
    let gates_of_units = product(r.get(..2)?).max(w.first().copied()? * r.last().copied()?);
    let products = times(&[2, steps, product(&w).saturating_add(product(&r))]);
    Some(products.saturating_add(times(&[steps, gates_of_units, TRANSCENDENTAL + 2])))
}

/// Scaled dot-product attention: scores and weighted sum take 2 L operations an element of query and output each, softmax
/// runs over every score. The fused operator of com.microsoft projects its input first.
fn attention(s: &Shapes<'_>) -> Option<u64> {
    let made = s.made()?;
    let query = s.input(0)?;
    let (rows, heads) =
        (*query.get(query.len().checked_sub(2)?)?, s.node.int("num_heads", s.node.int("q_num_heads", 1)));
    let fused = !s.node.op.domain.is_empty() && matches!(s.node.op.name.as_str(), "Attention" | "QAttention");
    let projection = if fused { times(&[2, *query.first()?, *query.get(1)?, s.elements(1)?]) } else { 0 };
    let sequence = |dims: &[u64]| match dims.len() {
        3 => Some(dims[1]),
        4 => Some(dims[2]),
        _ => None,
    };
    let present = s.output(1).filter(|d| d.len() >= 4).map(|d| d[d.len() - 2]);
    let key = if fused { Some(*query.get(1)?) } else { s.input(1).and_then(|d| sequence(&d)) };
    let length = present.or(key).unwrap_or(rows);
    let heads = if query.len() == 4 { query[1] } else { u64::try_from(heads).unwrap_or(1).max(1) };
    let queries = if query.len() == 3 {
        query[1]
    } else if query.len() == 4 {
        query[2]
    } else {
        *query.get(1)?
    };
    let scores = times(&[*query.first()?, heads, queries, length]);
    Some(projection.saturating_add(times(&[4, made, length])).saturating_add(times(&[SOFTMAX, scores])))
}

/// One product and one sum an operand beyond the first, over all index values. An ellipsis stands for the axes no letter
/// names; the longest one counts. An estimate: engines split equations of many operands into pairs.
fn einsum(s: &Shapes<'_>) -> Option<u64> {
    let equation: String = s.text("equation")?.chars().filter(|c| !c.is_whitespace()).collect();
    let left = equation.split("->").next().unwrap_or("");
    let mut sizes = std::collections::BTreeMap::new();
    let mut rest = 1u64;
    let terms: Vec<&str> = left.split(',').collect();
    for (i, term) in terms.iter().enumerate() {
        let dims = s.input(i)?;
        let letters: Vec<char> = term.chars().filter(|c| c.is_alphabetic()).collect();
        let before = term.find("...").map_or(letters.len(), |at| term[..at].chars().count());
        let hidden = dims.len().checked_sub(letters.len())?;
        rest = rest.max(product(dims.get(before..before + hidden)?));
        for (j, letter) in letters.iter().enumerate() {
            let at = if j < before { j } else { j + hidden };
            let size = sizes.entry(*letter).or_insert(1);
            *size = dims[at].max(*size);
        }
    }
    let all: Vec<u64> = sizes.into_values().chain([rest, terms.len().max(1) as u64]).collect();
    Some(product(&all))
}

/// Operators whose work is a number of operations an element of the output or of the input.
fn per_element(op: &str, s: &Shapes<'_>) -> Option<u64> {
    let window = || s.node.ints("kernel_shape").map_or(1, |k| k.iter().fold(1u64, |a, d| a.saturating_mul(*d as u64)));
    let (elements, each) = match op {
        "MaxPool" | "AveragePool" | "LpPool" | "NhwcMaxPool" | "QLinearAveragePool" | "MaxUnpool" => {
            (s.made()?, window())
        }
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" | "QLinearGlobalAveragePool" | "MaxRoiPool" => {
            (s.elements(0)?, 1)
        }
        "RoiAlign" | "GridSample" | "AffineGrid" => (s.made()?, 8),
        "BatchNormalization" => (s.made()?, 2),
        "LayerNormalization"
        | "InstanceNormalization"
        | "GroupNormalization"
        | "RMSNormalization"
        | "GroupNorm"
        | "SkipLayerNormalization"
        | "SimplifiedLayerNormalization"
        | "SkipSimplifiedLayerNormalization"
        | "EmbedLayerNormalization"
        | "MeanVarianceNormalization"
        | "LpNormalization"
        | "SkipGroupNorm" => (s.made()?, NORMALISATION),
        "LRN" => (s.made()?, 2 * s.node.int("size", 5).max(1) as u64 + TRANSCENDENTAL),
        "Softmax" | "LogSoftmax" | "Hardmax" | "QLinearSoftmax" => (s.made()?, SOFTMAX),
        "Resize" | "Upsample" => (s.made()?, if s.text("mode") == Some("cubic") { 40 } else { 8 }),
        "QuantizeLinear" | "DequantizeLinear" => (s.made()?, 2),
        "DynamicQuantizeLinear" => (s.elements(0)?, 4),
        "Sum" | "Max" | "Min" | "Mean" => (s.made()?, (s.node.inputs.len() as u64).saturating_sub(1).max(1)),
        "TopK" => (s.elements(0)?, u64::from(s.output(0)?.last().copied().unwrap_or(1).max(1).ilog2()) + 1),
        "ArgMax" | "ArgMin" | "CumSum" | "CumProd" | "Det" | "NonMaxSuppression" | "Unique" => (s.elements(0)?, 1),
        _ if op.starts_with("Reduce") => {
            let extra = if matches!(op, "ReduceLogSumExp" | "ReduceLogSum") { TRANSCENDENTAL } else { 0 };
            (s.elements(0)?, 1 + extra)
        }
        _ if transcendental(op) => (s.made()?, TRANSCENDENTAL),
        _ => (s.made()?, 1),
    };
    Some(times(&[elements, each]))
}

fn transcendental(op: &str) -> bool {
    let known = [
        "Exp",
        "Log",
        "Sin",
        "Cos",
        "Tan",
        "Asin",
        "Acos",
        "Atan",
        "Sinh",
        "Cosh",
        "Asinh",
        "Acosh",
        "Atanh",
        "Tanh",
        "Sigmoid",
        "Erf",
        "Pow",
        "Softplus",
        "Softsign",
        "Elu",
        "Selu",
        "Celu",
        "Mish",
        "Gelu",
        "FastGelu",
        "QuickGelu",
        "BiasGelu",
        "Swish",
        "QLinearSigmoid",
        "RotaryEmbedding",
    ];
    known.contains(&op)
}

#[cfg(test)]
#[path = "work_tests.rs"]
mod tests;
