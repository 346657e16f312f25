//! Where nodes went that no engine node stands for: fused into who fed them, into who reads them, or folded.
//!
//! Pure. An engine that fuses a sum into the convolution before it shows that by wires: the convolution reads a value
//! that the model's does not, but the lost sum does. Everything else that vanished and is read by one atom only was
//! part of that (the inside of a normalisation, the arithmetic of a shape). What is left stays alone and costs
//! nothing: joining it with whoever fed it would close cycles, for the engine no longer waits for it.

use std::collections::{HashMap, HashSet};

use tandem_ir::{Graph, NodeId};

use super::mapping::Groups;
use crate::engine::OptimizedNode;

/// What the engine ran, as far as it stands for model nodes.
pub(super) struct Ran<'a> {
    /// The engine's nodes.
    pub engine: &'a [OptimizedNode],
    /// The model nodes each stands for.
    pub anchors: &'a [Vec<NodeId>],
    /// When each ran: positions in time.
    pub turn: &'a [usize],
}

/// Joins each vanished node with the group it became part of, where that shows.
pub(super) fn join(graph: &Graph, ran: &Ran<'_>, groups: &mut Groups) {
    let mut placed = vec![false; graph.nodes.len()];
    ran.anchors.iter().flatten().for_each(|n| placed[n.index()] = true);
    let covered = placed.clone();
    into_fused_feeders(graph, ran, groups, &covered, &mut placed);
    into_only_readers(graph, groups, &mut placed);
}

/// What an engine computes along with a sum.
const ACTIVATIONS: [&str; 6] = ["Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid"];

/// The group of those that ran last.
fn last_run(ran: &Ran<'_>, groups: &mut Groups, of: &[NodeId]) -> Option<NodeId> {
    let mut last: Option<(usize, NodeId)> = None;
    for (e, anchored) in ran.anchors.iter().enumerate() {
        let Some(root) = anchored.first().map(|n| groups.root(*n)) else { continue };
        if of.contains(&root) {
            last = last.max(Some((ran.turn[e], root)));
        }
    }
    last.map(|(_, root)| root)
}

/// Sums (and what follows them) that the engine computes in the node of one operand: that node reads the other
/// operand's value, which in the model it does not.
fn into_fused_feeders(graph: &Graph, ran: &Ran<'_>, groups: &mut Groups, covered: &[bool], placed: &mut [bool]) {
    let before = tandem_ir::segment::predecessors(graph);
    let maker: HashMap<&str, usize> =
        ran.engine.iter().enumerate().flat_map(|(e, n)| n.outputs.iter().map(move |t| (t.as_str(), e))).collect();
    let mut absorbed = vec![false; graph.nodes.len()];
    for id in graph.placeable().filter(|id| !covered[id.index()]) {
        let feeders = &before[id.index()];
        let mut roots: Vec<NodeId> = feeders.iter().map(|p| groups.root(*p)).collect();
        roots.sort_unstable();
        roots.dedup();
        let into = match roots.as_slice() {
            // An activation follows the sum it was fused with; anything else begins something new.
            [only] if ACTIVATIONS.contains(&graph.node(id).op.name.as_str()) => {
                Some(*only).filter(|_| feeders.iter().any(|p| absorbed[p.index()]))
            }
            [_] => None,
            [] => None,
            _ => {
                let last = last_run(ran, groups, &roots);
                last.filter(|last| {
                    roots.iter().all(|r| {
                        r == last || feeds_beyond_model(graph, ran, groups, covered, &before, &maker, *r, *last)
                    })
                })
            }
        };
        if let Some(into) = into {
            groups.join(id, into);
            (absorbed[id.index()], placed[id.index()]) = (true, true);
        }
    }
}

/// Whether in the engine's graph, but not in the model's, group `to` reads what group `from` makes.
#[allow(clippy::too_many_arguments)]
fn feeds_beyond_model(
    graph: &Graph,
    ran: &Ran<'_>,
    groups: &mut Groups,
    covered: &[bool],
    before: &[Vec<NodeId>],
    maker: &HashMap<&str, usize>,
    from: NodeId,
    to: NodeId,
) -> bool {
    let members: Vec<NodeId> = graph.placeable().filter(|n| covered[n.index()] && groups.root(*n) == to).collect();
    let in_model = members.iter().flat_map(|n| &before[n.index()]).any(|p| groups.root(*p) == from);
    !in_model
        && (0..ran.engine.len())
            .filter(|e| ran.anchors[*e].first().is_some_and(|n| members.contains(n)))
            .any(|e| sources(ran, maker, e).into_iter().any(|n| groups.root(n) == from))
}

/// The model nodes whose engine nodes feed this one, with nodes of the engine's own making looked through.
fn sources(ran: &Ran<'_>, maker: &HashMap<&str, usize>, node: usize) -> Vec<NodeId> {
    let (mut found, mut seen, mut stack) = (vec![], HashSet::new(), vec![node]);
    while let Some(at) = stack.pop() {
        for e in ran.engine[at].inputs.iter().filter_map(|t| maker.get(t.as_str()).copied()) {
            match ran.anchors[e].first() {
                Some(anchor) => found.push(*anchor),
                None if seen.insert(e) => stack.push(e),
                None => {}
            }
        }
    }
    found
}

/// Lets nodes join the atom of all who read them. Readers come first, for a vanished node may read from another one
/// that vanished.
fn into_only_readers(graph: &Graph, groups: &mut Groups, placed: &mut [bool]) {
    for id in graph.placeable().rev() {
        if placed[id.index()] {
            continue;
        }
        let mut readers: Vec<NodeId> = vec![];
        let mut kept = false;
        for t in graph.node(id).writes() {
            kept |= graph.is_output(t);
            readers.extend(&graph.tensor(t).consumers);
        }
        let mut roots: Vec<NodeId> = readers.iter().map(|r| groups.root(*r)).collect();
        roots.sort_unstable();
        roots.dedup();
        if let (false, [only]) = (kept, roots.as_slice()) {
            groups.join(id, *only);
            placed[id.index()] = true;
        }
    }
}
