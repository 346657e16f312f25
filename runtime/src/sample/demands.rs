//! What the operators that read an input demand of its values, followed through operators that hand values on.
//!
//! Followed: casts, shape changes, slices, selections, additions of a constant, and bodies of control flow. What
//! arithmetic makes of a value is not guessed: if that reaches an index, the demand is unknown. Comparisons and shapes
//! end the way, for their results are bounded whatever was compared.

use std::collections::{BTreeMap, BTreeSet};

use tandem_ir::graph::Attr;
use tandem_ir::{DType, Dim, Graph, Node, NodeId, TensorId};

use super::fill::Fill;

/// What is demanded of an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Demand {
    /// Values are at least 0 and below this.
    pub(super) below: Option<u64>,
    /// Values of this form.
    pub(super) fill: Option<Fill>,
    /// Why a range is needed and cannot be told.
    pub(super) unknown: Option<String>,
}

/// What an operator does with a value it reads.
enum Use {
    /// Nothing that limits it.
    Free,
    /// Hands it on.
    Passes,
    /// Hands it on with this added.
    Adds(i64),
    /// Makes another number of it.
    Computes,
    /// Indexes an axis of this size.
    Indexes(Option<u64>),
    /// Wants this.
    Wants(Fill),
    /// Wants values that only its user knows.
    Cannot,
}

/// A graph inside others.
struct Scope<'a> {
    graph: &'a Graph,
    outer: Option<&'a Scope<'a>>,
    /// Concrete shapes of the outermost graph's inputs.
    bound: &'a BTreeMap<&'a str, &'a [u64]>,
}

/// Ways followed in one graph, told apart by what was added: sums of sums could be exponentially many.
const WAYS_MAX: usize = 100_000;

/// How a value came along the way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    added: i64,
    computed: bool,
    /// Bodies entered, a bound on the recursion.
    depth: usize,
}

/// Follows an input of the graph.
pub(super) fn of(graph: &Graph, input: TensorId, bound: &BTreeMap<&str, &[u64]>) -> Demand {
    let scope = Scope { graph, outer: None, bound };
    let mut demand = Demand::default();
    follow(&scope, input, Way { added: 0, computed: false, depth: 0 }, &mut demand);
    demand
}

fn follow(scope: &Scope<'_>, from: TensorId, way: Way, demand: &mut Demand) {
    let mut seen: BTreeSet<(TensorId, Way)> = BTreeSet::new();
    let mut stack = vec![(from, way)];
    while let Some((tensor, way)) = stack.pop() {
        if !seen.insert((tensor, way)) {
            continue;
        }
        if seen.len() > WAYS_MAX {
            demand.unknown.get_or_insert_with(|| "too many ways lead from it".into());
            return;
        }
        for id in &scope.graph.tensor(tensor).consumers {
            let node = scope.graph.node(*id);
            for position in (0..node.inputs.len()).filter(|p| node.inputs[*p] == Some(tensor)) {
                let next = meet(scope, *id, position, way, demand);
                stack.extend(next.into_iter().flat_map(|way| node.writes().map(move |t| (t, way))));
            }
            enter(scope, node, tensor, way, demand);
        }
    }
}

/// Notes what a reader demands; returns how the value goes on through it, if it does.
fn meet(scope: &Scope<'_>, id: NodeId, position: usize, way: Way, demand: &mut Demand) -> Option<Way> {
    let node = scope.graph.node(id);
    let reader = || format!("{} \"{}\"", node.op, scope.graph.node_name(id));
    let mut unknown = |why: String| {
        demand.unknown.get_or_insert(why);
        None
    };
    match use_of(scope, node, position) {
        Use::Free => None,
        Use::Passes => Some(way),
        Use::Adds(c) => Some(Way { added: way.added.saturating_add(c), ..way }),
        Use::Computes => Some(Way { computed: true, added: 0, ..way }),
        Use::Indexes(_) | Use::Wants(_) | Use::Cannot if way.computed => {
            unknown(format!("{} demands a range of what is computed from it", reader()))
        }
        Use::Indexes(None) => unknown(format!("it indexes in {} an axis whose size is not known", reader())),
        Use::Indexes(Some(size)) => {
            let below = i64::try_from(size).unwrap_or(i64::MAX).saturating_sub(way.added);
            if below <= 0 || way.added < 0 {
                return unknown(format!("{} indexes {size} elements after adding {}", reader(), way.added));
            }
            demand.below = Some(demand.below.map_or(below as u64, |b| b.min(below as u64)));
            None
        }
        Use::Wants(fill) => {
            demand.fill.get_or_insert(fill);
            None
        }
        Use::Cannot => unknown(format!("{} takes it as a shape or a list of axes", reader())),
    }
}

/// Follows a value into the bodies that capture it or take it as a parameter.
fn enter(scope: &Scope<'_>, node: &Node, tensor: TensorId, way: Way, demand: &mut Demand) {
    let depth = way.depth + 1;
    if node.bodies.is_empty() || depth > tandem_ir::limits::BODY_DEPTH_MAX {
        return;
    }
    let name = scope.graph.tensor(tensor).name.as_str();
    for body in node.bodies.values() {
        let inner = Scope { graph: body, outer: Some(scope), bound: scope.bound };
        let way = Way { depth, ..way };
        if node.captures.contains(&tensor)
            && let Some(id) = body.tensor_ids().find(|t| body.tensor(*t).name == name)
        {
            follow(&inner, id, way, demand);
        }
        // Loop: trip count and condition first, then states, as in its body. Scan: as in its body.
        let first = if node.op.is("Loop") { 2 } else { 0 };
        for position in (first..node.inputs.len()).filter(|p| node.inputs[*p] == Some(tensor)) {
            if let Some(id) = body.inputs.get(position).filter(|_| node.op.is("Loop") || node.op.is("Scan")) {
                follow(&inner, *id, way, demand);
            }
        }
    }
}

fn use_of(scope: &Scope<'_>, node: &Node, position: usize) -> Use {
    let name = node.op.name.as_str();
    if node.op.domain == "com.microsoft" {
        return microsoft(scope, node, position);
    }
    if node.op.domain == "ai.onnx.ml" {
        let features = || axis_size(scope, node, 0, -1);
        return if name == "ArrayFeatureExtractor" && position == 1 { Use::Indexes(features()) } else { Use::Free };
    }
    if !node.op.domain.is_empty() {
        return Use::Free;
    }
    match (name, position) {
        ("Gather" | "GatherElements" | "ScatterElements" | "Scatter", 1) => {
            Use::Indexes(axis_size(scope, node, 0, node.int("axis", 0)))
        }
        ("GatherND" | "ScatterND", 1) => Use::Indexes(tuple_size(scope, node)),
        ("TensorScatter", 2) => Use::Wants(Fill::Constant(0)),
        // Indices beyond the depth are legal, and make empty rows: only a depth that is known is kept to.
        ("OneHot", 0) => match constant(scope, node, 1).and_then(|d| u64::try_from(d).ok()) {
            Some(depth) if depth > 0 => Use::Indexes(Some(depth)),
            _ => Use::Free,
        },
        ("NegativeLogLikelihoodLoss" | "SoftmaxCrossEntropyLoss", 1) => Use::Indexes(axis_size(scope, node, 0, 1)),
        ("MaxUnpool", 1) => Use::Indexes(elements(scope, node, 0)),
        ("Attention", 6) => Use::Wants(lengths(axis_size(scope, node, 1, -2))),
        ("Range", _) => Use::Wants([Fill::Constant(0), Fill::Integers(1, 5), Fill::Constant(1)][position.min(2)]),
        ("Slice", 1) | ("CumSum" | "CumProd", 1) | ("SequenceAt" | "SequenceErase", 1) | ("SequenceInsert", 2) => {
            Use::Wants(Fill::Constant(0))
        }
        ("Slice", 2) => Use::Wants(Fill::Constant(i32::MAX as u64)),
        ("Slice", 4) | ("Expand", 1) => Use::Wants(Fill::Constant(1)),
        ("Resize", 1) if node.op.version < 11 => Use::Wants(Fill::Constant(1)),
        ("Resize", 2) | ("Upsample", 1) => Use::Wants(Fill::Constant(1)),
        ("OneHot", 1) | ("Loop", 0) | ("ConstantOfShape", 0) | ("NonMaxSuppression", 2) => {
            Use::Wants(Fill::Integers(1, 5))
        }
        ("TopK", 1) => Use::Wants(Fill::Constant(1)),
        ("Tile", 1) => Use::Wants(Fill::Integers(1, 3)),
        // Other modes take no more than the axis has.
        ("Pad", 1) if node.attrs.get("mode").is_some_and(|m| *m != Attr::Text(b"constant".to_vec())) => {
            Use::Wants(Fill::Constant(0))
        }
        ("Pad", 1) | ("Trilu", 1) => Use::Wants(Fill::Integers(0, 2)),
        // Distinct axes: the first few.
        ("Slice" | "Pad", 3) | ("Unsqueeze", 1) => Use::Wants(Fill::Positions(None)),
        (n, 1) if n.starts_with("Reduce") => Use::Wants(Fill::Positions(None)),
        ("DequantizeLinear" | "QuantizeLinear", 2) | ("ConvInteger", 2 | 3) => Use::Wants(Fill::Constant(0)),
        ("RNN" | "LSTM" | "GRU", 4) => Use::Wants(lengths(axis_size(scope, node, 0, node.int("layout", 0)))),
        ("ReverseSequence", 1) => Use::Wants(lengths(axis_size(scope, node, 0, node.int("time_axis", 0)))),
        ("Div" | "Mod", 1) => Use::Wants(Fill::Integers(1, 5)),
        ("BitShift", 1) => Use::Wants(Fill::Integers(0, 4)),
        ("QuantizeLinear" | "DequantizeLinear", 1) | ("BatchNormalization", 4) => Use::Wants(Fill::Positive),
        ("NonMaxSuppression", 3 | 4) => Use::Wants(Fill::Unit),
        ("Dropout", 1) => Use::Wants(Fill::Unit),
        // Training mode would draw random numbers, and no two runs would agree.
        ("Dropout", 2) => Use::Wants(Fill::Constant(0)),
        ("Reshape" | "Squeeze" | "Split" | "SplitToSequence", 1) | ("Resize", 3) | ("MaxUnpool", 2) => Use::Cannot,
        ("AffineGrid", 1) | ("CenterCropPad", 1) | ("Col2Im", 1 | 2) | ("DFT", 1 | 2) | ("STFT", 1 | 3) => Use::Cannot,
        ("Cast", 0) => cast(scope, node),
        ("CastLike", 0) => Use::Passes,
        _ => arithmetic(scope, node, position),
    }
}

/// Operators without demands of their own: do they hand on the value, or make another of it?
fn arithmetic(scope: &Scope<'_>, node: &Node, position: usize) -> Use {
    match node.op.name.as_str() {
        "Identity" | "Unsqueeze" | "Squeeze" | "Reshape" | "Flatten" | "Transpose" | "Expand" | "Slice" | "Split"
        | "Tile" | "Gather" | "GatherElements" | "GatherND" | "DepthToSpace" | "SpaceToDepth" | "Compress"
        | "ReverseSequence" | "Pad" | "TopK"
            if position == 0 =>
        {
            Use::Passes
        }
        // Of several values one is handed on; a bound that clips makes the range no wider than it was.
        "Concat" | "Where" | "Min" | "Max" | "Clip" | "ReduceMax" | "ReduceMin" | "Unique" | "ConcatFromSequence"
        | "SplitToSequence" | "SequenceConstruct" => {
            if node.op.is("Where") && position == 0 {
                Use::Free
            } else {
                Use::Passes
            }
        }
        "ScatterElements" | "ScatterND" | "Scatter" => Use::Passes,
        "Add" | "Sub" => match constant(scope, node, 1 - position.min(1)) {
            Some(c) if node.op.is("Add") => Use::Adds(c),
            Some(c) if position == 0 => Use::Adds(c.saturating_neg()),
            _ => Use::Computes,
        },
        "Mod" if position == 0 => Use::Passes,
        "Mul" | "Div" | "Neg" | "Abs" | "Pow" | "Sum" | "ReduceSum" | "ReduceProd" | "CumSum" | "MatMulInteger"
        | "BitShift" | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "BitwiseNot" | "Range" | "Einsum" | "MatMul" => {
            Use::Computes
        }
        _ => Use::Free,
    }
}

/// Operators of ONNX Runtime's own domain that take indices or lengths.
fn microsoft(scope: &Scope<'_>, node: &Node, position: usize) -> Use {
    match (node.op.name.as_str(), position) {
        ("EmbedLayerNormalization", 0) => Use::Indexes(axis_size(scope, node, 2, 0)),
        ("EmbedLayerNormalization", 1) => Use::Indexes(axis_size(scope, node, 4, 0)),
        ("EmbedLayerNormalization", 8) => Use::Indexes(axis_size(scope, node, 3, 0)),
        ("EmbedLayerNormalization", 7) => Use::Wants(Fill::Constant(1)),
        ("GatherBlockQuantized", 1) => Use::Indexes(axis_size(scope, node, 0, node.int("gather_axis", 0))),
        ("GatherND", 1) => Use::Indexes(tuple_size(scope, node)),
        ("Attention" | "MultiHeadAttention" | "DecoderMaskedMultiHeadAttention", 3 | 4) => {
            Use::Wants(Fill::Constant(1))
        }
        ("GroupQueryAttention", 5 | 6) | ("RotaryEmbedding", 1) => Use::Cannot,
        _ => Use::Free,
    }
}

/// A cast to integers hands values on; as floats and booleans they index nothing.
fn cast(scope: &Scope<'_>, node: &Node) -> Use {
    let to = i32::try_from(node.int("to", 0)).ok().and_then(DType::from_onnx_code);
    let output = node.writes().next().and_then(|t| scope.graph.tensor(t).fact.dtype);
    match to.or(output) {
        Some(DType::Bool | DType::String) => Use::Free,
        // Exporters cast indices to floats and back where an operator lacks a kernel for integers.
        _ => Use::Passes,
    }
}

fn lengths(time: Option<u64>) -> Fill {
    Fill::Integers(1, time.unwrap_or(1).max(1) + 1)
}

/// Size of an axis of one of the node's inputs.
fn axis_size(scope: &Scope<'_>, node: &Node, input: usize, axis: i64) -> Option<u64> {
    let dims = dims_of(scope, node.inputs.get(input).copied().flatten()?)?;
    let axis = if axis < 0 { axis + dims.len() as i64 } else { axis };
    dims.get(usize::try_from(axis).ok()?).copied().flatten().filter(|size| *size > 0)
}

/// Number of elements of one of the node's inputs.
fn elements(scope: &Scope<'_>, node: &Node, input: usize) -> Option<u64> {
    let dims = dims_of(scope, node.inputs.get(input).copied().flatten()?)?;
    dims.into_iter().try_fold(1u64, |a, d| a.checked_mul(d?)).filter(|n| *n > 0)
}

/// The least size that any part of an index tuple may have.
fn tuple_size(scope: &Scope<'_>, node: &Node) -> Option<u64> {
    let data = dims_of(scope, node.inputs.first().copied().flatten()?)?;
    let parts = axis_size(scope, node, 1, -1)? as usize;
    let first = usize::try_from(node.int("batch_dims", 0)).ok()?;
    let axes = data.get(first..first.checked_add(parts)?)?;
    axes.iter().copied().collect::<Option<Vec<u64>>>()?.into_iter().min().filter(|size| *size > 0)
}

/// Sizes of a value's axes, where known: bound ones of inputs, facts of others, looked up outwards for captured values.
fn dims_of(scope: &Scope<'_>, id: TensorId) -> Option<Vec<Option<u64>>> {
    let tensor = scope.graph.tensor(id);
    if scope.outer.is_none()
        && let Some(dims) = scope.bound.get(tensor.name.as_str()).filter(|_| scope.graph.inputs.contains(&id))
    {
        return Some(dims.iter().copied().map(Some).collect());
    }
    if let Some(shape) = &tensor.fact.shape {
        let known = |d: &Dim| if let Dim::Known(n) = d { Some(*n) } else { None };
        return Some(shape.iter().map(known).collect());
    }
    let captured = tensor.producer.is_none() && tensor.constant.is_none() && !scope.graph.inputs.contains(&id);
    let outer = scope.outer.filter(|_| captured)?;
    dims_of(outer, outer.graph.tensor_ids().find(|t| outer.graph.tensor(*t).name == tensor.name)?)
}

/// The value of a node's input that is a constant of one element.
fn constant(scope: &Scope<'_>, node: &Node, input: usize) -> Option<i64> {
    let id = node.inputs.get(input).copied().flatten()?;
    let tensor = scope.graph.tensor(id);
    if let Some(constant) = &tensor.constant {
        return constant.values.as_deref().filter(|v| v.len() == 1).map(|v| v[0]);
    }
    let outer = scope.outer.filter(|_| tensor.producer.is_none())?;
    let found = outer.graph.tensors.iter().find(|t| t.name == tensor.name)?;
    found.constant.as_ref()?.values.as_deref().filter(|v| v.len() == 1).map(|v| v[0])
}
