//! A set of nodes of a model as a runnable ONNX model of its own.
//!
//! What an image holds: the nodes, the folded nodes and constants they need, the operator sets and functions they use.
//! Values keep their names, so that control-flow bodies find what they capture. Nodes get names of their own, for the
//! file's may be empty or repeated: node 12 is `n12_Conv`, a copy of folded node 3 is `f3_Cast` ([`node_of`] reads them).
//! Inputs that are inputs of the graph keep the type the file declares. Other inputs have the element type and rank of
//! their facts; sizes only where they were inferred or observed ([`tandem_ir::Origin`]), for declared ones may be wrong:
//! whoever sets facts leaves sizes open that can change between runs. Outputs have no type: engines infer it.
//!
//! Weights are held once: an image refers to the mapped file, or to the one aligned copy that the model keeps.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use tandem_ir::{DType, Dim, Fact, Graph, Kind, NodeId, Origin, TensorId};
use tandem_onnx_proto::{
    Blob, DimValue, Dimension, FunctionProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, data_location,
};

use crate::functions;
use crate::import::Model;
use crate::tensor::{Content, Held};
use crate::value::Buffer;
use crate::walk::{self, Site};

/// Weights above this many bytes are beside the protobuf. Below it a reference costs more than the bytes, and engines
/// want to see small ones (shapes, axes, scales) when they analyse the graph.
const INLINE_BYTES_MAX: u64 = 1 << 10;

/// Integers are inlined up to here: they may be shapes.
const INLINE_INTEGER_BYTES_MAX: u64 = 8 << 10;

/// The first IR version in which an initialiser that is no input is a constant.
const IR_VERSION_MIN: i64 = 4;

/// Protobuf readers take no message of more bytes.
const PROTOBUF_BYTES_MAX: usize = i32::MAX as usize;

/// A weight that an image refers to. Its memory is held once for all images of a model.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Name of the initialiser in the image.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape.
    pub dims: Vec<u64>,
    /// Contents, aligned to the element's size; a window of the mapped file where alignment allows.
    pub data: Buffer,
}

/// A runnable piece of a model. Large weights are beside the protobuf, not in it.
#[derive(Clone, Debug)]
pub struct SegmentImage {
    /// A serialised ModelProto whose large initialisers are external references that only name themselves
    /// (`location` = the weight's name); small ones are inline.
    pub model: Buffer,
    /// The large initialisers.
    pub weights: Vec<Weight>,
    /// Names of the inputs, in the order of `Segment::inputs`.
    pub inputs: Vec<String>,
    /// Names of the outputs, in the order of `Segment::outputs`.
    pub outputs: Vec<String>,
}

/// Why a piece cannot be cut out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum CutError {
    #[error("node {node}: expected a node of the graph, which has {nodes}")]
    NoSuchNode { node: u32, nodes: usize },
    #[error("tensor {tensor}: expected a tensor of the graph, which has {tensors}")]
    NoSuchTensor { tensor: u32, tensors: usize },
    #[error("node {node} reads \"{tensor}\": expected an input of the piece, a constant or a value made in it")]
    Unfed { node: String, tensor: String },
    #[error("input \"{tensor}\": expected a value made outside the piece, found one that its node {node} makes")]
    InputMadeInside { tensor: String, node: String },
    #[error("output \"{tensor}\": expected a value that a node of the piece makes")]
    OutputNotMade { tensor: String },
    #[error("input \"{tensor}\": expected a known element type, found none; observe a run first")]
    Untyped { tensor: String },
}

/// Cuts nodes (ascending; folded nodes they need are added) out of a model, with the given values as inputs and outputs.
///
/// # Errors
/// Nodes that read what the piece neither makes nor is given, outputs it does not make, inputs without element type.
pub fn cut(
    model: &Model,
    nodes: &[NodeId],
    inputs: &[TensorId],
    outputs: &[TensorId],
) -> Result<SegmentImage, CutError> {
    let nodes = closure(model, nodes, inputs, outputs)?;
    let mut constants = BTreeSet::new();
    for node in &nodes {
        constants.extend(model.graph.node(*node).reads().into_iter().filter(|t| model.held.contains_key(t)));
    }
    let mut graph = GraphProto { name: model.graph.name.clone(), ..GraphProto::default() };
    if graph.name.is_empty() {
        "graph".clone_into(&mut graph.name);
    }
    // Engines infer shapes through all branches of a body, the ones not taken too, and refuse a size that contradicts one.
    let sized = nodes.iter().all(|n| model.graph.node(*n).bodies.is_empty());
    for input in inputs {
        graph.input.push(typed_input(model, *input, sized)?);
    }
    let name = |t: &TensorId| model.graph.tensor(*t).name.clone();
    graph.output = outputs.iter().map(|t| ValueInfoProto { name: name(t), ..Default::default() }).collect();
    let mut weights = vec![];
    for id in constants {
        initializer(&name(&id), &model.held[&id], &mut graph, &mut weights);
    }
    graph.node = nodes.iter().map(|id| image_node(model, *id)).collect();
    let functions = functions::called(&graph.node, &model.functions);
    let proto = ModelProto {
        ir_version: model.proto.ir_version.max(IR_VERSION_MIN),
        producer_name: "tandem".into(),
        opset_import: opsets(model, &graph.node, &functions),
        functions,
        graph: Some(graph),
        ..ModelProto::default()
    };
    let (inputs, outputs) = (inputs.iter().map(name).collect(), outputs.iter().map(name).collect());
    Ok(SegmentImage { model: proto.encode().into(), weights, inputs, outputs })
}

/// All nodes of a model, with the graph's inputs and those of its outputs that a node makes, each once. Outputs that are
/// inputs or constants are the caller's to pass on ([`Model::constant_value`]).
///
/// # Errors
/// Those of [`cut`]; of a model as imported only an input without element type.
pub fn cut_whole(model: &Model) -> Result<SegmentImage, CutError> {
    let graph = &model.graph;
    let nodes: Vec<NodeId> = graph.placeable().collect();
    let mut outputs = vec![];
    for output in &graph.outputs {
        if graph.tensor(*output).producer.is_some() && !outputs.contains(output) {
            outputs.push(*output);
        }
    }
    cut(model, &nodes, &graph.inputs, &outputs)
}

/// What nodes (ascending) read from outside, constants left out, and what they make that is read outside or handed back;
/// both ascending.
pub fn boundary(graph: &Graph, nodes: &[NodeId]) -> (Vec<TensorId>, Vec<TensorId>) {
    let inside: HashSet<NodeId> = nodes.iter().copied().collect();
    let handed_back: HashSet<TensorId> = graph.outputs.iter().copied().collect();
    let (mut inputs, mut outputs) = (BTreeSet::new(), BTreeSet::new());
    let mut pending: Vec<NodeId> = nodes.to_vec();
    let mut copied = HashSet::new();
    while let Some(id) = pending.pop() {
        for t in graph.node(id).reads() {
            match graph.tensor(t).producer {
                // Copies of folded nodes are part of the piece.
                Some(p) if graph.node(p).folded => pending.extend(copied.insert(p).then_some(p)),
                Some(p) if inside.contains(&p) => {}
                None if graph.is_constant(t) => {}
                _ => {
                    inputs.insert(t);
                }
            }
        }
    }
    for t in nodes.iter().filter(|n| !graph.node(**n).folded).flat_map(|n| graph.node(*n).writes()) {
        if handed_back.contains(&t) || graph.tensor(t).consumers.iter().any(|c| !inside.contains(c)) {
            outputs.insert(t);
        }
    }
    (inputs.into_iter().collect(), outputs.into_iter().collect())
}

/// The node that an image's node stands for, by its name (`n12_Conv`, `f3_Cast`), and whether it is a copy of a folded
/// one. `None` for other names: bodies' nodes and those that an engine made up.
pub fn node_of(name: &str) -> Option<(NodeId, bool)> {
    let (digits, _) = name.get(1..)?.split_once('_')?;
    let folded = match name.as_bytes().first()? {
        b'n' => false,
        b'f' => true,
        _ => return None,
    };
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    Some((NodeId(digits.parse().ok().filter(|_| plain)?), folded))
}

/// The nodes and the folded ones they need, ascending; checks that all they read is there.
fn closure(
    model: &Model,
    nodes: &[NodeId],
    inputs: &[TensorId],
    outputs: &[TensorId],
) -> Result<BTreeSet<NodeId>, CutError> {
    let graph = &model.graph;
    if let Some(bad) = nodes.iter().find(|n| n.index() >= graph.nodes.len()) {
        return Err(CutError::NoSuchNode { node: bad.0, nodes: graph.nodes.len() });
    }
    if let Some(bad) = inputs.iter().chain(outputs).find(|t| t.index() >= graph.tensors.len()) {
        return Err(CutError::NoSuchTensor { tensor: bad.0, tensors: graph.tensors.len() });
    }
    let name = |t: TensorId| graph.tensor(t).name.clone();
    let fed: HashSet<TensorId> = inputs.iter().copied().collect();
    let mut all: BTreeSet<NodeId> = nodes.iter().copied().collect();
    for input in inputs {
        if let Some(node) = graph.tensor(*input).producer.filter(|p| all.contains(p)) {
            return Err(CutError::InputMadeInside { tensor: name(*input), node: graph.node_name(node) });
        }
    }
    if let Some(bad) = outputs.iter().find(|t| !graph.tensor(**t).producer.is_some_and(|p| all.contains(&p))) {
        return Err(CutError::OutputNotMade { tensor: name(*bad) });
    }
    let mut pending: Vec<NodeId> = all.iter().copied().collect();
    while let Some(id) = pending.pop() {
        for t in graph.node(id).reads() {
            let tensor = graph.tensor(t);
            if fed.contains(&t) || tensor.constant.is_some() {
                continue;
            }
            match tensor.producer {
                Some(p) if all.contains(&p) => {}
                Some(p) if graph.node(p).folded => {
                    all.insert(p);
                    pending.push(p);
                }
                _ => return Err(CutError::Unfed { node: graph.node_name(id), tensor: name(t) }),
            }
        }
    }
    Ok(all)
}

fn image_node(model: &Model, id: NodeId) -> NodeProto {
    let node = &model.nodes[id.index()];
    let kind = if model.graph.node(id).folded { 'f' } else { 'n' };
    let mut copy = node.clone();
    copy.name = format!("{kind}{}_{}", id.0, node.op_type);
    copy.doc_string.clear();
    // Names a configuration of the model for several devices, which images do not have.
    copy.device_configurations.clear();
    copy
}

/// The input's name and type; `sized`: with the sizes that were seen.
fn typed_input(model: &Model, id: TensorId, sized: bool) -> Result<ValueInfoProto, CutError> {
    let tensor = model.graph.tensor(id);
    let declared = model.types.get(&id);
    let of_graph = model.graph.inputs.contains(&id) && tensor.fact.origin <= Origin::Declared;
    let r#type = match declared {
        Some(declared) if of_graph || tensor.fact.kind != Kind::Tensor => declared.clone(),
        _ => fact_type(&tensor.fact, id, sized).ok_or_else(|| CutError::Untyped { tensor: tensor.name.clone() })?,
    };
    Ok(ValueInfoProto { name: tensor.name.clone(), r#type: Some(r#type), ..ValueInfoProto::default() })
}

/// A dense tensor's type; free sizes get symbols of their own, so that engines tie none to another.
fn fact_type(fact: &Fact, id: TensorId, sized: bool) -> Option<TypeProto> {
    let dtype = fact.dtype.filter(|_| fact.kind == Kind::Tensor)?;
    let trusted = sized && fact.origin > Origin::Declared;
    let dim = |(axis, dim): (usize, &Dim)| {
        let value = match dim {
            Dim::Known(n) if trusted => i64::try_from(*n).ok().map(DimValue::Value),
            _ => None,
        };
        let value = value.unwrap_or_else(|| DimValue::Param(format!("t{}_{axis}", id.0)));
        Dimension { value: Some(value), ..Dimension::default() }
    };
    let shape = fact.shape.as_ref().map(|dims| TensorShapeProto {
        dim: dims.iter().enumerate().map(dim).collect(),
        ..TensorShapeProto::default()
    });
    Some(TypeProto::tensor(dtype.onnx_code(), shape))
}

/// Adds a constant, beside the protobuf where it is large.
fn initializer(name: &str, held: &Held, graph: &mut GraphProto, weights: &mut Vec<Weight>) {
    let limit = match held.dtype {
        DType::I64 | DType::I32 => INLINE_INTEGER_BYTES_MAX,
        _ => INLINE_BYTES_MAX,
    };
    held.add_to(name, graph);
    if matches!(held.content, Content::Bytes(_)) && held.bytes() > limit {
        let (Some(data), Some(tensor)) = (held.buffer(), graph.initializer.pop()) else { return };
        weights.push(Weight { name: name.to_owned(), dtype: held.dtype, dims: held.dims.clone(), data });
        graph.initializer.push(referring(tensor));
    }
}

/// The tensor as an external reference that names itself.
fn referring(tensor: TensorProto) -> TensorProto {
    let location = StringStringEntryProto::new("location", tensor.name.as_str());
    TensorProto { external_data: vec![location], data_location: data_location::EXTERNAL, raw_data: None, ..tensor }
}

/// Operator sets that nodes and functions are from; ONNX's own always.
fn opsets(model: &Model, nodes: &[NodeProto], functions: &[FunctionProto]) -> Vec<OperatorSetIdProto> {
    let mut used = BTreeSet::from([""]);
    walk::for_each_node(nodes, &mut |node| {
        used.insert(walk::domain(&node.domain));
    });
    used.extend(functions.iter().map(|f| walk::domain(&f.domain)));
    let version = |domain: &str| model.graph.opsets.get(domain).copied();
    let known = used.iter().filter_map(|domain| Some(OperatorSetIdProto::new(*domain, version(domain)?)));
    known.collect()
}

/// The file as it is, for comparison: the same bytes, with external weights resolved. Outputs are all of the graph's, those
/// that are inputs or constants included. Only where no engine could take the same bytes is the model written anew: files
/// over 2 GiB (large initialisers beside it) and external data in attributes or bodies (inline).
pub fn original(model: &Model) -> SegmentImage {
    let name = |t: &TensorId| model.graph.tensor(*t).name.clone();
    let inputs = model.graph.inputs.iter().map(name).collect();
    let outputs = model.graph.outputs.iter().map(name).collect();
    let rewrite = model.file.len() > PROTOBUF_BYTES_MAX || !model.external_inside.is_empty();
    let rewritten = if rewrite { rewritten(model) } else { None };
    let (bytes, beside) = match rewritten {
        Some((bytes, beside)) => (bytes.into(), beside),
        None => (Buffer::shared(Arc::new(model.file.clone())), model.external.clone()),
    };
    let index = model.graph.tensor_index();
    let weights = beside.into_iter().filter_map(|name| {
        let held = model.held.get(index.get(name.as_str())?)?;
        Some(Weight { data: held.buffer()?, dtype: held.dtype, dims: held.dims.clone(), name })
    });
    SegmentImage { model: bytes, weights: weights.collect(), inputs, outputs }
}

/// The file's model with external data in attributes and bodies inline and large initialisers as references, and the
/// names of those.
fn rewritten(model: &Model) -> Option<(Vec<u8>, Vec<String>)> {
    let mut proto = ModelProto::decode(&model.file).ok()?;
    let mut inside = model.external_inside.iter();
    let mut beside: Vec<String> = vec![];
    walk::normalize(&mut proto, &mut |tensor, _, site| {
        let blob = match site {
            Site::Initializer => None,
            Site::Inside => inside.next().cloned(),
        };
        beside.extend((site == Site::Initializer).then(|| tensor.name.clone()));
        Ok(blob.unwrap_or_default())
    })
    .ok()?;
    for tensor in &mut proto.graph.as_mut()?.initializer {
        let large = tensor.raw_data.as_ref().is_some_and(|raw| raw.len() as u64 > INLINE_BYTES_MAX);
        let outside = beside.contains(&tensor.name);
        if large || outside {
            beside.extend((!outside).then(|| tensor.name.clone()));
            *tensor = referring(std::mem::take(tensor));
        }
    }
    Some((proto.encode(), beside))
}

impl SegmentImage {
    /// The same model with every weight inline, for engines that take nothing else. An image whose bytes are no model
    /// comes back as it is.
    pub fn inline(&self) -> Vec<u8> {
        let source = Blob::whole(Arc::new(self.model.clone()));
        let Ok(mut proto) = ModelProto::decode(&source) else { return self.model.to_vec() };
        let weights: HashMap<&str, &Weight> = self.weights.iter().map(|w| (w.name.as_str(), w)).collect();
        for tensor in proto.graph.iter_mut().flat_map(|g| &mut g.initializer) {
            let external = tensor.data_location == data_location::EXTERNAL;
            if let Some(weight) = weights.get(tensor.name.as_str()).filter(|_| external) {
                tensor.raw_data = Some(Blob::whole(Arc::new(weight.data.clone())));
                tensor.data_location = data_location::DEFAULT;
                tensor.external_data.clear();
            }
        }
        proto.encode()
    }
}
