//! The imported model: an SSA graph of operators as data.
//!
//! Deliberately absent: weights' contents, execution, engines. Constants (initialisers and dense `Constant` nodes) are
//! tensors without a producer. Control-flow bodies are nested graphs.
//!
//! Invariants, established by [`GraphBuilder::finish`]: nodes are in a topological order; each tensor has at most one
//! producer; every name a node uses is defined before it; tensor names are unique.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::dtype::DType;
use crate::fingerprint::Fingerprint;

/// Index of a node in [`Graph::nodes`], which is also its place in the topological order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// Index of a tensor in [`Graph::tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorId(pub u32);

impl NodeId {
    /// The index as a `usize`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl TensorId {
    /// The index as a `usize`.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One dimension of a shape.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dim {
    /// A fixed size.
    Known(u64),
    /// A multiple of the batch size: `per_item * batch`.
    Batch {
        /// Elements along this axis for each item of the batch.
        per_item: u64,
    },
    /// A named free size, as the file declares it.
    Symbol(String),
    /// Nothing is known, or the size is known only after the run (`NonZero`).
    Unknown,
}

impl Dim {
    /// The size at a batch; `None` where it is still free.
    pub fn at(&self, batch: u64) -> Option<u64> {
        match self {
            Dim::Known(n) => Some(*n),
            Dim::Batch { per_item } => Some(per_item.saturating_mul(batch)),
            Dim::Symbol(_) | Dim::Unknown => None,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(n) => write!(f, "{n}"),
            Dim::Batch { per_item: 1 } => f.write_str("N"),
            Dim::Batch { per_item } => write!(f, "{per_item}N"),
            Dim::Symbol(name) => f.write_str(name),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// What a value is. Only dense tensors cross devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A dense tensor.
    #[default]
    Tensor,
    /// A sequence of values.
    Sequence,
    /// A value or nothing.
    Optional,
    /// A map from keys to values.
    Map,
    /// A sparse tensor.
    Sparse,
}

/// Where a fact comes from, weakest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Nothing states it.
    #[default]
    Unknown,
    /// The file's own `value_info`, which may be wrong.
    Declared,
    /// An engine's shape inference at bound input shapes.
    Inferred,
    /// A run that was observed.
    Observed,
}

/// What is known of a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fact {
    /// Tensor, sequence, and so on.
    pub kind: Kind,
    /// Element type (of the elements, for a sequence), where known.
    pub dtype: Option<DType>,
    /// One entry an axis; `None` where not even the rank is known.
    pub shape: Option<Vec<Dim>>,
    /// Where this comes from.
    pub origin: Origin,
}

impl Fact {
    /// The shape at a batch; `None` while any dimension is free.
    pub fn dims_at(&self, batch: u64) -> Option<Vec<u64>> {
        self.shape.as_ref()?.iter().map(|d| d.at(batch)).collect()
    }

    /// Bytes at a batch: `None` while type or shape is free, and for strings, whose size is their content's.
    pub fn bytes_at(&self, batch: u64) -> Option<u64> {
        let dtype = self.dtype.filter(|d| *d != DType::String && self.kind == Kind::Tensor)?;
        let elements = self.dims_at(batch)?.iter().fold(1u64, |a, d| a.saturating_mul(*d));
        Some(dtype.bytes_of(elements))
    }

    /// The axis that carries the batch, if exactly one does.
    pub fn batch_axis(&self) -> Option<usize> {
        let axes = self.shape.as_ref()?.iter().enumerate().filter(|(_, d)| matches!(d, Dim::Batch { .. }));
        let mut axes = axes.map(|(axis, _)| axis);
        axes.next().filter(|_| axes.next().is_none())
    }

    /// Whether a boundary between devices may cut this value: a dense tensor, known to be one of numbers. What nobody could
    /// type may be a sequence, and no engine takes an input without a type.
    pub fn crosses_devices(&self) -> bool {
        self.kind == Kind::Tensor && self.dtype.is_some_and(|dtype| dtype != DType::String)
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind != Kind::Tensor {
            write!(f, "{:?} of ", self.kind)?;
        }
        match self.dtype {
            Some(dtype) => write!(f, "{dtype}")?,
            None => f.write_str("?")?,
        }
        match &self.shape {
            None => f.write_str("[..]"),
            Some(dims) => {
                let dims: Vec<String> = dims.iter().map(Dim::to_string).collect();
                write!(f, "[{}]", dims.join("x"))
            }
        }
    }
}

/// A constant's size and, for small integer ones, its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constant {
    /// Bytes it takes as a dense tensor.
    pub bytes: u64,
    /// Its elements in row-major order, for integers and booleans of at most `limits::CONSTANT_VALUES_MAX` elements.
    pub values: Option<Vec<i64>>,
    /// Digest of type, shape and content's identity (see the importer); equal constants have equal digests.
    pub digest: Fingerprint,
}

/// A value of the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Its name in the file, unique in its graph.
    pub name: String,
    /// What is known of it.
    pub fact: Fact,
    /// The node that makes it; `None` for inputs, constants and captured values.
    pub producer: Option<NodeId>,
    /// The nodes that read it, in order, each once; nodes whose bodies capture it included.
    pub consumers: Vec<NodeId>,
    /// Set when it is a constant.
    pub constant: Option<Constant>,
}

/// What an operator is: domain (empty for the default one), type, and the opset version in force for its domain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpKind {
    /// `""` for the default domain.
    pub domain: String,
    /// `Conv`, `MatMul`, ...
    pub name: String,
    /// The opset version that the model imports for the domain.
    pub version: i64,
}

impl OpKind {
    /// Whether it is the default domain's operator of this name.
    pub fn is(&self, name: &str) -> bool {
        self.domain.is_empty() && self.name == name
    }
}

impl fmt::Display for OpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.domain.is_empty() { f.write_str(&self.name) } else { write!(f, "{}:{}", self.domain, self.name) }
    }
}

/// An attribute's value. Floats are kept as bits so that graphs compare and hash.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Attr {
    Int(i64),
    Ints(Vec<i64>),
    Float(u32),
    Floats(Vec<u32>),
    Text(Vec<u8>),
    Texts(Vec<Vec<u8>>),
    /// A tensor, type or other value that only its digest stands for.
    Opaque(Fingerprint),
}

/// An occurrence of an operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The file's name for it: may be empty or repeated; see [`Graph::node_name`] for the name plans use.
    pub name: String,
    /// What it is.
    pub op: OpKind,
    /// Its inputs by position; `None` where an optional one is left out.
    pub inputs: Vec<Option<TensorId>>,
    /// Outer values that its bodies read, each once.
    pub captures: Vec<TensorId>,
    /// Its outputs by position; `None` where one is left out.
    pub outputs: Vec<Option<TensorId>>,
    /// Its attributes by name, bodies left out.
    pub attrs: BTreeMap<String, Attr>,
    /// Its control-flow bodies by attribute name.
    pub bodies: BTreeMap<String, Graph>,
    /// True when it depends on constants alone (and is deterministic): engines fold it at load, so it has no place of its
    /// own and is copied to whoever reads it. Never true of a node that makes a graph output.
    pub folded: bool,
}

impl Node {
    /// Everything it reads: inputs, then captures; each tensor once.
    pub fn reads(&self) -> Vec<TensorId> {
        let mut reads: Vec<TensorId> = Vec::with_capacity(self.inputs.len() + self.captures.len());
        for t in self.inputs.iter().flatten().chain(&self.captures) {
            if !reads.contains(t) {
                reads.push(*t);
            }
        }
        reads
    }

    /// Everything it makes.
    pub fn writes(&self) -> impl Iterator<Item = TensorId> + '_ {
        self.outputs.iter().flatten().copied()
    }

    /// An integer attribute, or a default.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        if let Some(Attr::Int(i)) = self.attrs.get(name) { *i } else { default }
    }

    /// An integer-list attribute.
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        if let Some(Attr::Ints(v)) = self.attrs.get(name) { Some(v) } else { None }
    }
}

/// An imported model.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// The file's name for the graph; for people only.
    pub name: String,
    /// Opset version a domain.
    pub opsets: BTreeMap<String, i64>,
    /// ONNX IR version of the file.
    pub ir_version: i64,
    /// Nodes in topological order.
    pub nodes: Vec<Node>,
    /// All values.
    pub tensors: Vec<Tensor>,
    /// Values fed by the caller, constants' defaults left out, in the file's order.
    pub inputs: Vec<TensorId>,
    /// Values handed back, in the file's order. May name an input or a constant, or one value twice.
    pub outputs: Vec<TensorId>,
    /// Ties plans to this graph: set by the importer from the file's content.
    pub fingerprint: Fingerprint,
}

impl Graph {
    /// The node with this index.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// The tensor with this index.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.index()]
    }

    /// All node ids, in topological order.
    pub fn node_ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + ExactSizeIterator + use<> {
        (0..self.nodes.len() as u32).map(NodeId)
    }

    /// All tensor ids.
    pub fn tensor_ids(&self) -> impl DoubleEndedIterator<Item = TensorId> + ExactSizeIterator + use<> {
        (0..self.tensors.len() as u32).map(TensorId)
    }

    /// The name plans use for a node: its first output's, for nodes' own names may be empty or repeated. A node without
    /// outputs is called `#INDEX`.
    pub fn node_name(&self, id: NodeId) -> String {
        match self.node(id).writes().next() {
            Some(t) => self.tensor(t).name.clone(),
            None => format!("#{}", id.0),
        }
    }

    /// Map from tensor name to id.
    pub fn tensor_index(&self) -> HashMap<&str, TensorId> {
        self.tensor_ids().map(|id| (self.tensor(id).name.as_str(), id)).collect()
    }

    /// Map from the names plans use to nodes.
    pub fn node_index(&self) -> HashMap<String, NodeId> {
        self.node_ids().map(|id| (self.node_name(id), id)).collect()
    }

    /// Whether the tensor is handed back to the caller.
    pub fn is_output(&self, id: TensorId) -> bool {
        self.outputs.contains(&id)
    }

    /// Whether the tensor never changes from run to run: a constant, or made by a folded node.
    pub fn is_constant(&self, id: TensorId) -> bool {
        let t = self.tensor(id);
        t.constant.is_some() || t.producer.is_some_and(|p| self.node(p).folded)
    }

    /// The nodes a placement decides about: all but the folded ones.
    pub fn placeable(&self) -> impl DoubleEndedIterator<Item = NodeId> + '_ {
        self.node_ids().filter(|id| !self.node(*id).folded)
    }

    /// Bytes of constants, bodies included.
    pub fn weight_bytes(&self) -> u64 {
        let own: u64 = self.tensors.iter().filter_map(|t| t.constant.as_ref()).map(|c| c.bytes).sum();
        let bodies = self.nodes.iter().flat_map(|n| n.bodies.values());
        own + bodies.map(Graph::weight_bytes).sum::<u64>()
    }

    /// Nodes, bodies included.
    pub fn node_count_deep(&self) -> usize {
        let bodies = self.nodes.iter().flat_map(|n| n.bodies.values());
        self.nodes.len() + bodies.map(Graph::node_count_deep).sum::<usize>()
    }
}

/// A graph that breaks a rule, with the node or tensor that breaks it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum GraphError {
    #[error("tensor \"{tensor}\" is defined twice: by {first} and by {second}")]
    DefinedTwice { tensor: String, first: String, second: String },
    #[error("node {node} reads \"{tensor}\", which nothing defines")]
    Undefined { node: String, tensor: String },
    #[error("graph output \"{tensor}\" is defined by nothing")]
    OutputUndefined { tensor: String },
    #[error("nodes form a cycle through {node}")]
    Cycle { node: String },
    #[error("the graph has more than {max} nodes")]
    TooManyNodes { max: usize },
}

/// A node on its way into a graph, by names.
#[derive(Clone, Debug, Default)]
pub struct NodeDraft {
    /// The file's name for it.
    pub name: String,
    /// Domain, `""` for the default one.
    pub domain: String,
    /// Operator type.
    pub op: String,
    /// Input names; empty where left out.
    pub inputs: Vec<String>,
    /// Outer names its bodies read.
    pub captures: Vec<String>,
    /// Output names; empty where left out.
    pub outputs: Vec<String>,
    /// Attributes, bodies left out.
    pub attrs: BTreeMap<String, Attr>,
    /// Bodies by attribute name.
    pub bodies: BTreeMap<String, Graph>,
}

/// Collects a graph by names, in any order of nodes, and checks it.
#[derive(Clone, Debug, Default)]
pub struct GraphBuilder {
    name: String,
    opsets: BTreeMap<String, i64>,
    ir_version: i64,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, TensorId>,
    defined_by: HashMap<TensorId, String>,
    drafts: Vec<NodeDraft>,
    inputs: Vec<TensorId>,
    outputs: Vec<String>,
}

impl GraphBuilder {
    /// An empty graph.
    pub fn new(name: impl Into<String>, ir_version: i64, opsets: BTreeMap<String, i64>) -> Self {
        Self { name: name.into(), ir_version, opsets, ..Self::default() }
    }

    fn tensor(&mut self, name: &str) -> TensorId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = TensorId(self.tensors.len() as u32);
        let fact = Fact::default();
        self.tensors.push(Tensor { name: name.to_owned(), fact, producer: None, consumers: vec![], constant: None });
        self.by_name.insert(name.to_owned(), id);
        id
    }

    fn define(&mut self, name: &str, by: String) -> Result<TensorId, GraphError> {
        let id = self.tensor(name);
        if let Some(first) = self.defined_by.get(&id) {
            return Err(GraphError::DefinedTwice { tensor: name.to_owned(), first: first.clone(), second: by });
        }
        self.defined_by.insert(id, by);
        Ok(id)
    }

    /// Adds a value the caller feeds.
    pub fn input(&mut self, name: &str, fact: Fact) -> Result<TensorId, GraphError> {
        let id = self.define(name, "graph input".into())?;
        self.tensors[id.index()].fact = fact;
        self.inputs.push(id);
        Ok(id)
    }

    /// Adds a value that a body takes from its surroundings.
    pub fn captured(&mut self, name: &str, fact: Fact) -> Result<TensorId, GraphError> {
        let id = self.define(name, "surrounding graph".into())?;
        self.tensors[id.index()].fact = fact;
        Ok(id)
    }

    /// Adds a constant.
    pub fn constant(&mut self, name: &str, fact: Fact, constant: Constant) -> Result<TensorId, GraphError> {
        let id = self.define(name, "constant".into())?;
        let tensor = &mut self.tensors[id.index()];
        tensor.fact = fact;
        tensor.constant = Some(constant);
        Ok(id)
    }

    /// Adds a node; nodes may come in any order.
    pub fn node(&mut self, draft: NodeDraft) {
        self.drafts.push(draft);
    }

    /// Names a value handed back.
    pub fn output(&mut self, name: &str) {
        self.outputs.push(name.to_owned());
    }

    /// States what is declared of a value; ignored where something at least as good is known.
    pub fn declare(&mut self, name: &str, fact: Fact) {
        let id = self.tensor(name);
        let known = &mut self.tensors[id.index()].fact;
        if known.origin < fact.origin {
            *known = fact;
        }
    }

    /// Whether the name is defined so far (as input, constant or captured value).
    pub fn defines(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|id| self.defined_by.contains_key(id))
    }

    /// Checks and orders the graph. The order is stable: a node comes as early as the file's order allows.
    ///
    /// # Errors
    /// Names defined twice or never, cycles, too many nodes.
    pub fn finish(mut self, fingerprint: Fingerprint) -> Result<Graph, GraphError> {
        if self.drafts.len() > crate::limits::NODES_MAX {
            return Err(GraphError::TooManyNodes { max: crate::limits::NODES_MAX });
        }
        let drafts = std::mem::take(&mut self.drafts);
        let label = |d: &NodeDraft, i: usize| match (d.name.as_str(), d.outputs.iter().find(|o| !o.is_empty())) {
            ("", Some(output)) => format!("{} #{i} (\"{output}\")", d.op),
            ("", None) => format!("{} #{i}", d.op),
            (name, _) => format!("{} #{i} \"{name}\"", d.op),
        };
        let mut producer: HashMap<TensorId, usize> = HashMap::new();
        for (i, draft) in drafts.iter().enumerate() {
            for output in draft.outputs.iter().filter(|o| !o.is_empty()) {
                let id = self.define(output, label(draft, i))?;
                producer.insert(id, i);
            }
        }
        let order = self.order(&drafts, &producer, &label)?;
        let nodes = self.link(drafts, &order);
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for name in &self.outputs {
            let id = self.by_name.get(name.as_str()).filter(|id| self.defined_by.contains_key(id));
            outputs.push(*id.ok_or_else(|| GraphError::OutputUndefined { tensor: name.clone() })?);
        }
        let Self { name, opsets, ir_version, tensors, inputs, .. } = self;
        let mut graph = Graph { name, opsets, ir_version, nodes, tensors, inputs, outputs, fingerprint };
        mark_folded(&mut graph);
        crate::folded::infer(&mut graph);
        Ok(graph)
    }

    /// Kahn's algorithm with a heap on the file's index, so that a sorted file keeps its order.
    fn order(
        &self,
        drafts: &[NodeDraft],
        producer: &HashMap<TensorId, usize>,
        label: &dyn Fn(&NodeDraft, usize) -> String,
    ) -> Result<Vec<usize>, GraphError> {
        use std::cmp::Reverse;
        let mut waits = vec![0usize; drafts.len()];
        let mut feeds: Vec<Vec<usize>> = vec![vec![]; drafts.len()];
        for (i, draft) in drafts.iter().enumerate() {
            let mut sources: Vec<usize> = vec![];
            for name in draft.inputs.iter().chain(&draft.captures).filter(|n| !n.is_empty()) {
                let id = self.by_name.get(name.as_str()).filter(|id| self.defined_by.contains_key(id));
                let id = id.ok_or_else(|| GraphError::Undefined { node: label(draft, i), tensor: name.clone() })?;
                sources.extend(producer.get(id));
            }
            sources.sort_unstable();
            sources.dedup();
            waits[i] = sources.len();
            for s in sources {
                feeds[s].push(i);
            }
        }
        let mut ready: std::collections::BinaryHeap<Reverse<usize>> =
            (0..drafts.len()).filter(|i| waits[*i] == 0).map(Reverse).collect();
        let mut order = Vec::with_capacity(drafts.len());
        while let Some(Reverse(i)) = ready.pop() {
            order.push(i);
            for next in &feeds[i] {
                waits[*next] -= 1;
                if waits[*next] == 0 {
                    ready.push(Reverse(*next));
                }
            }
        }
        match (0..drafts.len()).find(|i| waits[*i] > 0) {
            Some(i) => Err(GraphError::Cycle { node: label(&drafts[i], i) }),
            None => Ok(order),
        }
    }

    fn link(&mut self, drafts: Vec<NodeDraft>, order: &[usize]) -> Vec<Node> {
        let mut drafts: Vec<Option<NodeDraft>> = drafts.into_iter().map(Some).collect();
        let mut nodes = Vec::with_capacity(order.len());
        for (place, i) in order.iter().enumerate() {
            let id = NodeId(place as u32);
            let Some(draft) = drafts[*i].take() else { continue };
            let find = |name: &String| (!name.is_empty()).then(|| self.by_name[name.as_str()]);
            let inputs: Vec<Option<TensorId>> = draft.inputs.iter().map(find).collect();
            let captures: Vec<TensorId> = draft.captures.iter().filter_map(find).collect();
            let outputs: Vec<Option<TensorId>> = draft.outputs.iter().map(find).collect();
            let version = self.opsets.get(&draft.domain).copied().unwrap_or(0);
            let op = OpKind { domain: draft.domain, name: draft.op, version };
            let NodeDraft { name, attrs, bodies, .. } = draft;
            let node = Node { name, op, inputs, captures, outputs, attrs, bodies, folded: false };
            for t in node.reads() {
                self.tensors[t.index()].consumers.push(id);
            }
            for t in node.writes() {
                self.tensors[t.index()].producer = Some(id);
            }
            nodes.push(node);
        }
        nodes
    }
}

/// Operators whose answer differs from run to run: never folded.
const RANDOM: [&str; 6] =
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"];

fn mark_folded(graph: &mut Graph) {
    for id in graph.node_ids() {
        let node = graph.node(id);
        let constant = node.reads().iter().all(|t| graph.is_constant(*t));
        let plain = node.bodies.is_empty() && !RANDOM.contains(&node.op.name.as_str());
        let output = node.writes().any(|t| graph.is_output(t));
        graph.nodes[id.index()].folded = constant && plain && !output;
    }
}
