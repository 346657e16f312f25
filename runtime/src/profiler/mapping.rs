//! Which of a model's nodes an engine runs as one.
//!
//! Pure: reads a graph and what an engine says it ran, and answers with atoms. An engine node is *anchored* at the
//! model's nodes whose outputs it makes or whose name it kept; nodes that share an engine node are one atom; nodes
//! that vanished (fused, folded) join those who read them. Time an engine spends on nodes of its own making (layout
//! changes) goes to the atom they serve. Measures nothing.
//!
//! Invariants: each placeable node is in exactly one atom; the graph of atoms is acyclic; each engine node is
//! attributed to exactly one atom, so that sums over atoms are sums over engine nodes.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use tandem_ir::profile::Atom;
use tandem_ir::signature::signature;
use tandem_ir::{Graph, NodeId};

use super::vanished::{self, Ran};
use crate::engine::{EngineProfile, NodeTiming, OptimizedNode};

/// A model's atoms on an engine, and who of the engine's nodes each holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Mapping {
    /// Atoms, ordered by their first node.
    pub atoms: Vec<Atom>,
    /// For each atom the positions in [`EngineProfile::nodes`] whose times are its own; empty for an atom that
    /// vanished.
    pub timed: Vec<Vec<usize>>,
}

/// Groups the model's nodes as the engine ran them.
pub fn map(graph: &Graph, profile: &EngineProfile) -> Mapping {
    let engine = as_run(profile);
    let anchors = anchors(graph, &engine);
    let mut groups = Groups::new(graph.nodes.len());
    for anchored in &anchors {
        anchored.windows(2).for_each(|pair| groups.join(pair[0], pair[1]));
    }
    let first_timed: HashMap<&str, usize> =
        profile.nodes.iter().enumerate().rev().map(|(turn, n)| (n.name.as_str(), turn)).collect();
    let turn: Vec<usize> =
        engine.iter().enumerate().map(|(e, n)| first_timed.get(n.name.as_str()).copied().unwrap_or(e)).collect();
    vanished::join(graph, &Ran { engine: &engine, anchors: &anchors, turn: &turn }, &mut groups);
    let atoms = into_atoms(graph, groups);
    let timed = collect(atoms.len(), &attribute(graph, &atoms, profile));
    Mapping { atoms, timed }
}

/// Attributes each node the engine timed to one of the given atoms, which may come from another run (another batch or
/// thread count) of the same model. The answer is parallel to [`EngineProfile::nodes`]; `None` only if there are no
/// atoms.
pub fn attribute(graph: &Graph, atoms: &[Atom], profile: &EngineProfile) -> Vec<Option<usize>> {
    let mut atom_of = vec![None; graph.nodes.len()];
    for (a, atom) in atoms.iter().enumerate() {
        atom.nodes.iter().for_each(|n| atom_of[n.index()] = Some(a));
    }
    let engine = as_run(profile);
    let anchors = anchors(graph, &engine);
    let mut found: Vec<Option<usize>> = anchors.iter().map(|by| by.iter().find_map(|id| atom_of[id.index()])).collect();
    spread_along_wires(&engine, &mut found);
    let by_name = positions(&engine);
    let names = Names::new(graph);
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut result: Vec<Option<usize>> = Vec::with_capacity(profile.nodes.len());
    for node in &profile.nodes {
        let turn = seen.entry(node.name.as_str()).or_default();
        let place = by_name.get(node.name.as_str()).map(|places| places[(*turn).min(places.len() - 1)]);
        *turn += 1;
        let by_wire = place.and_then(|p| found[p]);
        let by_own_name = || names.anchor(graph, &node.name).and_then(|id| atom_of[id.index()]);
        result.push(by_wire.or_else(by_own_name));
    }
    fill_from_neighbours(&mut result, atoms.is_empty());
    result
}

/// The graph as the engine ran it; without wires where the engine tells names alone.
fn as_run(profile: &EngineProfile) -> Cow<'_, [OptimizedNode]> {
    if !profile.graph.is_empty() {
        return Cow::Borrowed(&profile.graph);
    }
    let bare =
        |n: &NodeTiming| OptimizedNode { name: n.name.clone(), op: n.op.clone(), inputs: vec![], outputs: vec![] };
    Cow::Owned(profile.nodes.iter().map(bare).collect())
}

/// For each atom the engine nodes attributed to it.
pub fn collect(atoms: usize, attribution: &[Option<usize>]) -> Vec<Vec<usize>> {
    let mut timed = vec![vec![]; atoms];
    for (i, atom) in attribution.iter().enumerate() {
        if let Some(a) = atom {
            timed[*a].push(i);
        }
    }
    timed
}

/// Atoms for an engine that does not say how it groups nodes: each node is one, but a convolution or matrix product
/// takes along the normalisation, bias and activation that only it feeds, for every engine fuses those.
pub fn plain_atoms(graph: &Graph) -> Vec<Atom> {
    let mut groups = Groups::new(graph.nodes.len());
    for id in graph.placeable().filter(|id| HEADS.contains(&graph.node(*id).op.name.as_str())) {
        let mut last = id;
        while let Some(next) = only_consumer(graph, last).filter(|n| trails(graph, last, *n)) {
            groups.join(last, next);
            last = next;
        }
    }
    into_atoms(graph, groups)
}

/// Operators whose result engines pass on in registers.
const HEADS: [&str; 4] = ["Conv", "ConvTranspose", "Gemm", "MatMul"];

/// Operators with one changing input that engines attach to the one before.
const TRAILS: [&str; 9] =
    ["BatchNormalization", "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Add"];

fn only_consumer(graph: &Graph, id: NodeId) -> Option<NodeId> {
    let mut writes = graph.node(id).writes();
    let tensor = writes.next().filter(|t| !graph.is_output(*t))?;
    let consumers = &graph.tensor(tensor).consumers;
    consumers.first().copied().filter(|_| consumers.len() == 1 && writes.next().is_none())
}

/// Whether `next` does nothing but pass on what `before` makes, with constants.
fn trails(graph: &Graph, before: NodeId, next: NodeId) -> bool {
    let node = graph.node(next);
    let own = |t| graph.is_constant(t) || graph.tensor(t).producer == Some(before);
    node.op.domain.is_empty() && TRAILS.contains(&node.op.name.as_str()) && node.reads().into_iter().all(own)
}

/// Which model nodes each engine node stands for; ascending, each once. A node's name counts beside its outputs only
/// where it leads to them: of equal nodes that an engine runs once, one may leave its name and another its output's.
pub(crate) fn anchors(graph: &Graph, engine: &[OptimizedNode]) -> Vec<Vec<NodeId>> {
    let names = Names::new(graph);
    let made = |node: &OptimizedNode| -> Vec<NodeId> {
        let mut made: Vec<NodeId> = node.outputs.iter().filter_map(|t| names.producer(graph, t)).collect();
        made.sort_unstable();
        made.dedup();
        made
    };
    let mut by: Vec<Vec<NodeId>> = engine.iter().map(made).collect();
    let before = tandem_ir::segment::predecessors(graph);
    let mut known = vec![false; graph.nodes.len()];
    by.iter().flatten().for_each(|n| known[n.index()] = true);
    for (node, by) in engine.iter().zip(&mut by) {
        let Some(named) = names.anchor(graph, &node.name) else { continue };
        if by.is_empty() || leads_to(&before, &known, named, by) {
            by.push(named);
            by.sort_unstable();
            by.dedup();
        }
    }
    by
}

/// Whether a node is one of some others, or feeds one of them over nodes that no engine node makes the outputs of.
fn leads_to(before: &[Vec<NodeId>], known: &[bool], from: NodeId, to: &[NodeId]) -> bool {
    let mut stack = to.to_vec();
    let mut seen: HashSet<NodeId> = stack.iter().copied().collect();
    while let Some(at) = stack.pop() {
        if at == from {
            return true;
        }
        if at > from && (to.contains(&at) || !known[at.index()]) {
            stack.extend(before[at.index()].iter().copied().filter(|p| seen.insert(*p)));
        }
    }
    false
}

/// Looks model nodes up by what engines keep of their names.
struct Names<'a> {
    tensors: HashMap<&'a str, tandem_ir::TensorId>,
}

impl<'a> Names<'a> {
    fn new(graph: &'a Graph) -> Self {
        Self { tensors: graph.tensor_index() }
    }

    /// The placeable node that makes a tensor of this name.
    fn producer(&self, graph: &Graph, tensor: &str) -> Option<NodeId> {
        let id = self.tensors.get(tensor)?;
        graph.tensor(*id).producer.filter(|p| !graph.node(*p).folded)
    }

    /// The placeable node an engine node's name speaks of. ONNX Runtime's NCHWc pass names nodes after the tensor they
    /// made (`TENSOR_nchwc`); all others keep the cutter's `n<ID>_<OPERATOR>` somewhere (`fused n5_Conv`).
    fn anchor(&self, graph: &Graph, name: &str) -> Option<NodeId> {
        let blocked = name.rfind("_nchwc").and_then(|end| self.producer(graph, &name[..end]));
        blocked.or_else(|| cut_name(graph, name))
    }
}

/// The node whose name, as the cutter writes it (`n5_Conv`), is in an engine's name: the first that fits. Its operator
/// must follow the number, for tensors may be called `n5_x` as well.
fn cut_name(graph: &Graph, name: &str) -> Option<NodeId> {
    let starts = name.match_indices('n').filter(|(at, _)| {
        let before = name[..*at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_')
    });
    starts.filter_map(|(at, _)| number(&name[at + 1..])).find_map(|(id, rest)| {
        let node = graph.nodes.get(id)?;
        (!node.folded && rest.starts_with(&node.op.name)).then_some(NodeId(id as u32))
    })
}

/// Splits `12_rest` into 12 and `rest`.
fn number(text: &str) -> Option<(usize, &str)> {
    let (digits, rest) = text.split_once('_')?;
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain).map(|id| (id, rest))
}

/// Hands atoms along tensors to engine nodes that have none: first from the first reader, then from whoever feeds them.
fn spread_along_wires(engine: &[OptimizedNode], found: &mut [Option<usize>]) {
    let mut readers: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut maker: HashMap<&str, usize> = HashMap::new();
    for (i, node) in engine.iter().enumerate() {
        node.inputs.iter().for_each(|t| readers.entry(t).or_default().push(i));
        node.outputs.iter().for_each(|t| {
            maker.insert(t, i);
        });
    }
    loop {
        let mut changed = false;
        // Backwards, so that a chain of unknown nodes is resolved from its reader in one pass.
        for i in (0..engine.len()).rev().filter(|i| found[*i].is_none()).collect::<Vec<_>>() {
            let read = engine[i].outputs.iter().filter_map(|t| readers.get(t.as_str())).flatten();
            found[i] = read.filter_map(|r| found[*r]).next();
            changed |= found[i].is_some();
        }
        for i in (0..engine.len()).filter(|i| found[*i].is_none()).collect::<Vec<_>>() {
            found[i] = engine[i].inputs.iter().filter_map(|t| maker.get(t.as_str())).find_map(|m| found[*m]);
            changed |= found[i].is_some();
        }
        if !changed {
            return;
        }
    }
}

/// Where each name stands in the engine's graph; more than once if the engine repeats names.
fn positions(engine: &[OptimizedNode]) -> HashMap<&str, Vec<usize>> {
    let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
    for (i, node) in engine.iter().enumerate() {
        by_name.entry(node.name.as_str()).or_default().push(i);
    }
    by_name
}

/// What nothing else attributes goes to the atom that ran before it (or, at the start, after it): no time may be lost.
fn fill_from_neighbours(result: &mut [Option<usize>], none: bool) {
    if none {
        return;
    }
    let first = result.iter().flatten().next().copied().unwrap_or(0);
    let mut last = first;
    for atom in result {
        last = *atom.get_or_insert(last);
    }
}

/// Disjoint sets of nodes.
pub(super) struct Groups {
    parent: Vec<u32>,
}

impl Groups {
    fn new(nodes: usize) -> Self {
        Self { parent: (0..nodes as u32).collect() }
    }

    /// The least node known of the group; halves the path on the way.
    pub(super) fn root(&mut self, id: NodeId) -> NodeId {
        let mut at = id.0;
        while self.parent[at as usize] != at {
            let up = self.parent[self.parent[at as usize] as usize];
            self.parent[at as usize] = up;
            at = up;
        }
        NodeId(at)
    }

    /// Makes one group of two.
    pub(super) fn join(&mut self, a: NodeId, b: NodeId) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[a.max(b).index()] = a.min(b).0;
    }
}

/// Closes the groups under cycles and gives each its signature.
fn into_atoms(graph: &Graph, mut groups: Groups) -> Vec<Atom> {
    let before = tandem_ir::segment::predecessors(graph);
    contract_cycles(graph, &before, &mut groups);
    let mut members: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
    for id in graph.placeable() {
        members.entry(groups.root(id)).or_default().push(id);
    }
    let atom = |nodes: Vec<NodeId>| Atom { signature: signature(graph, &nodes), nodes };
    members.into_values().map(atom).collect()
}

/// Joins groups that lie on a common cycle, by Kosaraju's two passes over the graph of groups: components are the
/// trees of a backward search that starts from nodes in reverse order of completion.
fn contract_cycles(graph: &Graph, before: &[Vec<NodeId>], groups: &mut Groups) {
    let n = graph.nodes.len();
    let (mut ahead, mut behind) = (vec![vec![]; n], vec![vec![]; n]);
    for id in graph.placeable() {
        let to = groups.root(id).index();
        for p in &before[id.index()] {
            let from = groups.root(*p).index();
            if from != to {
                ahead[from].push(to);
                behind[to].push(from);
            }
        }
    }
    let roots: Vec<usize> = graph.placeable().map(|id| groups.root(id).index()).collect();
    let mut seen = vec![false; n];
    let mut done = vec![];
    for root in &roots {
        finish_order(&ahead, *root, &mut seen, &mut done);
    }
    let mut taken = vec![false; n];
    for root in done.iter().rev() {
        let mut tree = vec![];
        finish_order(&behind, *root, &mut taken, &mut tree);
        tree.iter().for_each(|member| groups.join(NodeId(*root as u32), NodeId(*member as u32)));
    }
}

/// Depth-first search without recursion: appends what is reached, each after all it leads to.
fn finish_order(edges: &[Vec<usize>], root: usize, seen: &mut [bool], done: &mut Vec<usize>) {
    if std::mem::replace(&mut seen[root], true) {
        return;
    }
    let mut stack = vec![(root, 0)];
    while let Some((at, next)) = stack.pop() {
        match edges[at].get(next) {
            None => done.push(at),
            Some(to) => {
                stack.push((at, next + 1));
                if !std::mem::replace(&mut seen[*to], true) {
                    stack.push((*to, 0));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "mapping_tests.rs"]
mod tests;
