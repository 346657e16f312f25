//! GraphProto to [`Graph`]: names, types, constants, bodies and what they capture.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tandem_ir::graph::{Attr, Constant, NodeDraft};
use tandem_ir::limits::{BODY_DEPTH_MAX, NODES_MAX};
use tandem_ir::{DType, Dim, Fact, Fingerprint, Graph, GraphBuilder, Kind, Origin};
use tandem_onnx_proto::{
    DimValue, GraphProto, NodeProto, TensorShapeProto, TypeProto, TypeValue, ValueInfoProto, attribute_type,
};

use crate::digest;
use crate::fault::Fault;
use crate::tensor::{self, Held};
use crate::walk;

/// An attribute that carries a node's place in the file through the builder, which sorts; taken off again. No attribute of
/// a file can have this name.
const PLACE: &str = "\0place";

/// What holds for a whole model.
pub(crate) struct Lowering<'a> {
    pub(crate) opsets: BTreeMap<String, i64>,
    pub(crate) ir_version: i64,
    pub(crate) contents: &'a digest::Contents,
    pub(crate) warnings: &'a mut Vec<String>,
    /// Nodes so far, bodies included.
    pub(crate) nodes: usize,
}

/// A graph and what it leaves to others.
pub(crate) struct Lowered {
    pub(crate) graph: Graph,
    /// Place in the file of each node.
    pub(crate) order: Vec<usize>,
    /// Outer names that the graph reads.
    free: BTreeSet<String>,
    /// Constants by name; kept for the model's own graph only.
    pub(crate) held: Vec<(String, Held)>,
}

/// The values a graph defines, with what is declared of them, inside those around it.
struct Scope<'a> {
    facts: HashMap<&'a str, Fact>,
    outer: Option<&'a Scope<'a>>,
}

impl Scope<'_> {
    fn find(&self, name: &str) -> Option<&Fact> {
        self.facts.get(name).or_else(|| self.outer.and_then(|outer| outer.find(name)))
    }
}

impl Lowering<'_> {
    /// The model's own graph.
    pub(crate) fn model(&mut self, graph: &GraphProto) -> Result<Lowered, Fault> {
        let place = if graph.name.is_empty() { "graph".to_owned() } else { format!("graph \"{}\"", graph.name) };
        self.graph(graph, None, &place, 0)
    }

    fn graph(
        &mut self,
        graph: &GraphProto,
        outer: Option<&Scope<'_>>,
        place: &str,
        depth: usize,
    ) -> Result<Lowered, Fault> {
        if depth > BODY_DEPTH_MAX {
            return Err(Fault::TooDeep { place: place.to_owned() });
        }
        self.nodes += graph.node.len();
        if self.nodes > NODES_MAX {
            return Err(Fault::TooManyNodes);
        }
        let fault = |fault| Fault::Graph { place: place.to_owned(), fault };
        let constants = self.constants(graph, place)?;
        let scope = Scope { facts: facts(graph, &constants), outer };
        let mut builder = GraphBuilder::new(&graph.name, self.ir_version, self.opsets.clone());
        self.inputs(graph, &constants, &scope, &mut builder).map_err(fault)?;
        let mut free = BTreeSet::new();
        let mut drafts = vec![];
        for (i, node) in graph.node.iter().enumerate() {
            if constants.of_node.contains(&i) {
                continue;
            }
            drafts.push(self.draft(node, i, &scope, place, depth)?);
        }
        let reads = drafts.iter().flat_map(|d: &NodeDraft| d.inputs.iter().chain(&d.captures)).map(String::as_str);
        let reads = reads.chain(graph.output.iter().map(|o| o.name.as_str()));
        free.extend(reads.filter(|n| !n.is_empty() && !scope.facts.contains_key(n)).map(str::to_owned));
        if let Some(outer) = outer {
            for name in &free {
                builder.captured(name, outer.find(name).cloned().unwrap_or_default()).map_err(fault)?;
            }
        }
        let mut held = vec![];
        for (name, constant) in constants.list {
            builder.constant(&name, constant_fact(&constant), self.constant(&constant)).map_err(fault)?;
            held.push((name, constant));
        }
        drafts.into_iter().for_each(|draft| builder.node(draft));
        // In the file's order, for new names get their ids here.
        for info in graph.value_info.iter().chain(&graph.output) {
            if let Some(fact) = scope.facts.get(info.name.as_str()).filter(|fact| fact.origin == Origin::Declared) {
                builder.declare(&info.name, fact.clone());
            }
        }
        graph.output.iter().for_each(|output| builder.output(&output.name));
        let mut graph = builder.finish(Fingerprint::of(&[])).map_err(fault)?;
        let order = graph.nodes.iter_mut().map(|node| take_place(&mut node.attrs)).collect();
        Ok(Lowered { graph, order, free, held })
    }

    /// Initialisers and constant nodes.
    fn constants(&mut self, graph: &GraphProto, place: &str) -> Result<Constants, Fault> {
        let mut found = Constants::default();
        for tensor in &graph.initializer {
            let held = Held::dense(tensor.clone(), place)?;
            if found.add(tensor.name.clone(), held) {
                self.warnings.push(format!("{place}: initialiser \"{}\" is there twice; the last holds", tensor.name));
            }
        }
        for sparse in &graph.sparse_initializer {
            let (dtype, dims) = tensor::sparse(sparse, place)?;
            let name = sparse.values.as_ref().map_or_else(String::new, |v| v.name.clone());
            found.add(name, Held::sparse(sparse.clone(), dtype, dims));
        }
        for (i, node) in graph.node.iter().enumerate() {
            let Some(tensor) = walk::constant_of(node) else { continue };
            found.list.push((tensor.name.clone(), Held::dense(tensor, place)?));
            found.of_node.insert(i);
        }
        Ok(found)
    }

    fn constant(&self, held: &Held) -> Constant {
        Constant { bytes: held.bytes(), values: held.small_integers(), digest: self.contents.constant(held) }
    }

    fn inputs(
        &mut self,
        graph: &GraphProto,
        constants: &Constants,
        scope: &Scope<'_>,
        builder: &mut GraphBuilder,
    ) -> Result<(), tandem_ir::GraphError> {
        let mut defaults = vec![];
        for input in &graph.input {
            if constants.initializers.contains_key(&input.name) {
                defaults.push(input.name.as_str());
                continue;
            }
            let fact = scope.facts.get(input.name.as_str()).cloned().unwrap_or_default();
            builder.input(&input.name, fact)?;
        }
        if let Some(first) = defaults.first() {
            self.warnings.push(format!(
                "{} inputs are initialisers too (\"{first}\", ..): they are constants here, callers cannot override them",
                defaults.len()
            ));
        }
        Ok(())
    }

    fn draft(
        &mut self,
        node: &NodeProto,
        index: usize,
        scope: &Scope<'_>,
        place: &str,
        depth: usize,
    ) -> Result<NodeDraft, Fault> {
        let mut draft = NodeDraft {
            name: node.name.clone(),
            domain: walk::domain(&node.domain).to_owned(),
            op: node.op_type.clone(),
            inputs: node.input.clone(),
            outputs: node.output.clone(),
            ..NodeDraft::default()
        };
        let mut captures = BTreeSet::new();
        for attribute in &node.attribute {
            if let Some(attr) = digest::attribute(attribute) {
                draft.attrs.insert(attribute.name.clone(), attr);
            }
        }
        for (name, body) in named_bodies(node) {
            let label = walk::label(&node.op_type, &node.name, index);
            let lowered = self.graph(body, Some(scope), &format!("{place}, {label}, {name}"), depth + 1)?;
            captures.extend(lowered.free);
            draft.bodies.insert(name, lowered.graph);
        }
        draft.captures = captures.into_iter().collect();
        draft.attrs.insert(PLACE.to_owned(), Attr::Int(index as i64));
        Ok(draft)
    }
}

/// The bodies of a node by the names that the graph gives them.
pub(crate) fn named_bodies(node: &NodeProto) -> impl Iterator<Item = (String, &GraphProto)> {
    node.attribute.iter().flat_map(|attribute| {
        let single = digest::kind_of(attribute) == attribute_type::GRAPH;
        let name = move |i| if single { attribute.name.clone() } else { format!("{}[{i}]", attribute.name) };
        attribute.g.as_deref().into_iter().chain(&attribute.graphs).enumerate().map(move |(i, body)| (name(i), body))
    })
}

fn take_place(attrs: &mut BTreeMap<String, Attr>) -> usize {
    match attrs.remove(PLACE) {
        Some(Attr::Int(place)) => place as usize,
        _ => unreachable!("each draft was given its place"),
    }
}

/// The constants of one graph.
#[derive(Default)]
struct Constants {
    list: Vec<(String, Held)>,
    /// Places in `list` of initialisers.
    initializers: HashMap<String, usize>,
    /// Places in the file of nodes that are constants.
    of_node: HashSet<usize>,
}

impl Constants {
    /// Adds an initialiser; true where it replaces another.
    fn add(&mut self, name: String, held: Held) -> bool {
        if let Some(at) = self.initializers.get(&name) {
            self.list[*at].1 = held;
            return true;
        }
        self.initializers.insert(name.clone(), self.list.len());
        self.list.push((name, held));
        false
    }
}

/// What is certain of a constant.
fn constant_fact(held: &Held) -> Fact {
    let shape = Some(held.dims.iter().map(|d| Dim::Known(*d)).collect());
    Fact { kind: Kind::Tensor, dtype: Some(held.dtype), shape, origin: Origin::Observed }
}

/// Every value that the graph defines, with what is declared of it.
fn facts<'g>(graph: &'g GraphProto, constants: &Constants) -> HashMap<&'g str, Fact> {
    let mut facts: HashMap<&str, Fact> = HashMap::new();
    let outputs = graph.node.iter().flat_map(|n| &n.output).filter(|o| !o.is_empty());
    facts.extend(outputs.map(|name| (name.as_str(), Fact::default())));
    facts.extend(graph.input.iter().map(|v| (v.name.as_str(), declared(v))));
    for info in graph.value_info.iter().chain(&graph.output) {
        if let Some(fact) = facts.get_mut(info.name.as_str()) {
            let stated = declared(info);
            // The more telling one of two statements.
            if stated.dtype.is_some() && (fact.dtype.is_none() || fact.shape.is_none()) {
                *fact = stated;
            }
        }
    }
    let initializers = graph.initializer.iter().map(|t| t.name.as_str());
    let sparse = graph.sparse_initializer.iter().filter_map(|s| Some(s.values.as_ref()?.name.as_str()));
    let nodes = constants.of_node.iter().filter_map(|i| Some(graph.node[*i].output.first()?.as_str()));
    let by_name: HashMap<&str, &Held> = constants.list.iter().map(|(name, held)| (name.as_str(), held)).collect();
    for name in initializers.chain(sparse).chain(nodes) {
        facts.insert(name, by_name.get(name).map(|held| constant_fact(held)).unwrap_or_default());
    }
    facts
}

/// The fact that a file states.
pub(crate) fn declared(info: &ValueInfoProto) -> Fact {
    let Some(r#type) = &info.r#type else { return Fact::default() };
    let mut fact = type_fact(r#type);
    if fact.dtype.is_some() || fact.kind != Kind::Tensor {
        fact.origin = Origin::Declared;
    }
    fact
}

fn type_fact(r#type: &TypeProto) -> Fact {
    let inner = |kind: Kind, elem: &Option<Box<TypeProto>>| {
        let elem = elem.as_deref().map(type_fact).unwrap_or_default();
        Fact { kind, dtype: elem.dtype, shape: elem.shape, origin: Origin::Unknown }
    };
    let plain = |kind: Kind, elem_type: i32, shape: &Option<TensorShapeProto>| Fact {
        kind,
        dtype: DType::from_onnx_code(elem_type),
        shape: shape.as_ref().map(dims),
        origin: Origin::Unknown,
    };
    match &r#type.value {
        Some(TypeValue::Tensor(t)) => plain(Kind::Tensor, t.elem_type, &t.shape),
        Some(TypeValue::Sparse(t)) => plain(Kind::Sparse, t.elem_type, &t.shape),
        Some(TypeValue::Sequence(t)) => inner(Kind::Sequence, &t.elem_type),
        Some(TypeValue::Optional(t)) => inner(Kind::Optional, &t.elem_type),
        Some(TypeValue::Map(t)) => inner(Kind::Map, &t.value_type),
        Some(TypeValue::Opaque(_)) | None => Fact::default(),
    }
}

fn dims(shape: &TensorShapeProto) -> Vec<Dim> {
    let dim = |value: &Option<DimValue>| match value {
        Some(DimValue::Value(n)) => u64::try_from(*n).map_or(Dim::Unknown, Dim::Known),
        Some(DimValue::Param(name)) if !name.is_empty() => Dim::Symbol(name.clone()),
        _ => Dim::Unknown,
    };
    shape.dim.iter().map(|d| dim(&d.value)).collect()
}
