//! Segments: co-placed nodes launched as one unit, such that the graph of segments stays acyclic.
//!
//! Convexity of each segment alone would not give that: two convex segments can still wait for each other. Here segments
//! are *absorbed* in rounds: a round takes one label and, from the nodes whose predecessors are all placed, everything of
//! that label, and what becomes ready by it, until nothing more does. A segment therefore depends on earlier rounds alone,
//! and the order of the rounds is a topological order of segments.
//!
//! Which label goes next decides how many segments there are. Nodes get a level counted from the outputs, level(v) =
//! largest over successors of level + (label differs ? 1 : 0): the number of switches still to come after v. The label of
//! the ready node with the largest level goes first, as in Hu's level rule for scheduling ("Parallel sequencing and
//! assembly line problems", Operations Research 9, 1961). With two labels that gives the least number of segments.
//! O((V + E) log V).

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use crate::graph::{Graph, NodeId};

/// Up to this many segments a last pass looks for pairs that can still be merged (with three and more labels the rounds
/// leave some). Its work grows with the cube; at 512 it is about a millisecond, and plans hold at most
/// [`crate::limits::SEGMENTS_MAX`].
const PAIRWISE_MAX: usize = 512;

/// A segment on its way: its label and its nodes, ascending.
pub type Labelled = (usize, Vec<NodeId>);

/// For each node, the placeable nodes it depends on. (Folded ones depend on constants alone: nothing stands behind them.)
/// Ascending, each once.
pub fn predecessors(graph: &Graph) -> Vec<Vec<NodeId>> {
    let mut result = vec![vec![]; graph.nodes.len()];
    for id in graph.placeable() {
        let reads = graph.node(id).reads();
        let mut from: Vec<NodeId> = reads.iter().filter_map(|t| graph.tensor(*t).producer).collect();
        from.retain(|p| !graph.node(*p).folded);
        from.sort_unstable();
        from.dedup();
        result[id.index()] = from;
    }
    result
}

/// Pairs of nodes that must be in one segment: a value between them that is no dense tensor of numbers has to stay inside
/// one engine's session.
pub fn uncuttable(graph: &Graph) -> Vec<(NodeId, NodeId)> {
    let mut pairs = vec![];
    for t in &graph.tensors {
        if t.fact.crosses_devices() {
            continue;
        }
        if let Some(p) = t.producer.filter(|p| !graph.node(*p).folded) {
            pairs.extend(t.consumers.iter().map(|c| (p, *c)));
        }
    }
    pairs
}

/// Groups placeable nodes into segments, given a label for every node (folded ones' labels are ignored). Returns for each
/// segment its label and its nodes, ascending; segments are in a topological order. Depends on graph and labels alone.
///
/// # Panics
/// If `labels` is not as long as the graph's nodes.
pub fn form(graph: &Graph, labels: &[usize]) -> Vec<Labelled> {
    assert_eq!(labels.len(), graph.nodes.len(), "one label a node");
    let before = predecessors(graph);
    let mut segments = absorb(graph, &before, labels);
    if segments.len() <= PAIRWISE_MAX {
        merge_pairs(graph, &before, &mut segments);
    }
    segments
}

/// The rounds of the module's description.
fn absorb(graph: &Graph, before: &[Vec<NodeId>], labels: &[usize]) -> Vec<Labelled> {
    let after = successors(before);
    let mut level = vec![0u32; graph.nodes.len()];
    for id in graph.placeable().rev() {
        let v = id.index();
        let down = |s: &NodeId| level[s.index()] + u32::from(labels[s.index()] != labels[v]);
        level[v] = after[v].iter().map(down).max().unwrap_or(0);
    }
    let mut waits: Vec<usize> = before.iter().map(Vec::len).collect();
    let mut placed = vec![false; graph.nodes.len()];
    let mut ready: BTreeMap<usize, Vec<NodeId>> = BTreeMap::new();
    // All ready nodes, by level and then by place in the graph; those placed meanwhile are skipped when they come up.
    let mut queue = BinaryHeap::new();
    for id in graph.placeable().filter(|id| waits[id.index()] == 0) {
        ready.entry(labels[id.index()]).or_default().push(id);
        queue.push((level[id.index()], std::cmp::Reverse(id)));
    }
    let mut segments = vec![];
    while let Some((_, std::cmp::Reverse(first))) = queue.pop() {
        if placed[first.index()] {
            continue;
        }
        let label = labels[first.index()];
        let mut nodes = ready.remove(&label).unwrap_or_default();
        let mut next = 0;
        while next < nodes.len() {
            let id = nodes[next];
            next += 1;
            placed[id.index()] = true;
            for s in &after[id.index()] {
                waits[s.index()] -= 1;
                if waits[s.index()] > 0 {
                    continue;
                }
                if labels[s.index()] == label {
                    nodes.push(*s);
                } else {
                    ready.entry(labels[s.index()]).or_default().push(*s);
                    queue.push((level[s.index()], std::cmp::Reverse(*s)));
                }
            }
        }
        nodes.sort_unstable();
        segments.push((label, nodes));
    }
    segments
}

fn successors(before: &[Vec<NodeId>]) -> Vec<Vec<NodeId>> {
    let mut after = vec![vec![]; before.len()];
    for (v, from) in before.iter().enumerate() {
        from.iter().for_each(|p| after[p.index()].push(NodeId(v as u32)));
    }
    after
}

/// A set of small numbers.
#[derive(Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(n: usize) -> Self {
        Self(vec![0; n.div_ceil(64)])
    }
    fn set(&mut self, i: usize) {
        self.0[i / 64] |= 1 << (i % 64);
    }
    fn has(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 == 1
    }
    fn add(&mut self, other: &Bits) {
        self.0.iter_mut().zip(&other.0).for_each(|(a, b)| *a |= b);
    }
}

/// Merges segments of one label while no path leads from one to the other through a third. Takes segments in topological
/// order, each into the first earlier one that it fits; keeps, for each merged one, everything before it.
fn merge_pairs(graph: &Graph, before: &[Vec<NodeId>], segments: &mut Vec<Labelled>) {
    let n = segments.len();
    let edges = quotient(graph.nodes.len(), before, segments);
    let mut sources = vec![vec![]; n];
    edges.iter().enumerate().for_each(|(a, to)| to.iter().for_each(|b| sources[*b].push(a)));
    let mut into: Vec<usize> = (0..n).collect();
    let mut ancestors = vec![Bits::new(n); n];
    for g in 0..n {
        let mut from: Vec<usize> = sources[g].iter().map(|s| into[*s]).collect();
        from.sort_unstable();
        from.dedup();
        // A path from the candidate to `g` through a third ends in a source of `g` that has the candidate before it.
        let clear = |s: &usize| from.iter().all(|p| p == s || !ancestors[*p].has(*s));
        let fits = |s: &usize| into[*s] == *s && segments[*s].0 == segments[g].0 && clear(s);
        let target = (0..g).find(fits);
        let target = target.unwrap_or(g);
        into[g] = target;
        let mut mine = ancestors[target].clone();
        for p in from.iter().filter(|p| **p != target) {
            mine.set(*p);
            mine.add(&ancestors[*p]);
        }
        for d in 0..g {
            if into[d] == d && ancestors[d].has(target) {
                ancestors[d].add(&mine);
            }
        }
        ancestors[target] = mine;
    }
    if into.iter().enumerate().all(|(i, t)| i == *t) {
        return;
    }
    for g in (0..n).rev().filter(|g| into[*g] != *g) {
        let (_, nodes) = segments.remove(g);
        segments[into[g]].1.extend(nodes);
    }
    segments.iter_mut().for_each(|(_, nodes)| nodes.sort_unstable());
    sort(graph.nodes.len(), before, segments);
}

/// Successors of each segment: an edge where a node of one reads from a node of another. `nodes` is the graph's number of
/// nodes, `before` each node's predecessors.
pub fn quotient(nodes: usize, before: &[Vec<NodeId>], segments: &[Labelled]) -> Vec<BTreeSet<usize>> {
    let mut of = vec![usize::MAX; nodes];
    for (s, (_, nodes)) in segments.iter().enumerate() {
        nodes.iter().for_each(|n| of[n.index()] = s);
    }
    let mut edges = vec![BTreeSet::new(); segments.len()];
    for (s, (_, nodes)) in segments.iter().enumerate() {
        for p in nodes.iter().flat_map(|n| &before[n.index()]) {
            if of[p.index()] != s {
                edges[of[p.index()]].insert(s);
            }
        }
    }
    edges
}

/// Orders segments topologically, by first node where free.
fn sort(nodes: usize, before: &[Vec<NodeId>], segments: &mut Vec<Labelled>) {
    let edges = quotient(nodes, before, segments);
    let mut waits = vec![0usize; segments.len()];
    edges.iter().flatten().for_each(|s| waits[*s] += 1);
    let mut ready: BTreeSet<(NodeId, usize)> =
        (0..segments.len()).filter(|s| waits[*s] == 0).map(|s| (segments[s].1[0], s)).collect();
    let mut order = vec![];
    while let Some((_, s)) = ready.pop_first() {
        order.push(s);
        for next in &edges[s] {
            waits[*next] -= 1;
            if waits[*next] == 0 {
                ready.insert((segments[*next].1[0], *next));
            }
        }
    }
    assert_eq!(order.len(), segments.len(), "the segment graph is acyclic");
    let mut old: Vec<Option<Labelled>> = segments.drain(..).map(Some).collect();
    segments.extend(order.iter().filter_map(|s| old[*s].take()));
}

/// Times one node may change its label in [`merge_to_limit`] before it is left alone: keeps two labels from taking turns.
const FLIPS_MAX: u8 = 4;

/// Relabels whole segments until [`form`] gives at most `segments_max`, and returns how many it gives.
///
/// `cost(node, label)` is what the node costs under a label, `u64::MAX` where it cannot have it. Each round ranks every
/// flip of a segment to the label of a segment beside it by the cost it adds, and takes the cheapest that do not touch one
/// another: as many as a quarter of the surplus, so that the last ones are taken one by one. Where no flip is left, the
/// smallest labels are given up for those that add least cost, and flipping begins again. More than `segments_max` are
/// returned only where pins allow no fewer in these ways.
///
/// # Panics
/// If `labels` is not as long as the graph's nodes.
pub fn merge_to_limit(
    graph: &Graph,
    labels: &mut [usize],
    cost: &dyn Fn(NodeId, usize) -> u64,
    segments_max: usize,
) -> usize {
    let before = predecessors(graph);
    let mut flips = vec![0u8; graph.nodes.len()];
    let mut fused = 0;
    loop {
        let segments = form(graph, labels);
        if segments.len() <= segments_max {
            return segments.len();
        }
        let edges = quotient(graph.nodes.len(), &before, &segments);
        let mut beside = edges.clone();
        for (a, to) in edges.iter().enumerate() {
            for b in to {
                beside[*b].insert(a);
            }
        }
        let mut ranked = rank_flips(&segments, &beside, &flips, cost);
        ranked.sort_unstable();
        let wanted = ((segments.len() - segments_max) / 4).max(1);
        let (mut taken, mut touched) = (0, vec![false; segments.len()]);
        for (_, _, s, label) in ranked {
            if taken == wanted {
                break;
            }
            if touched[s] || beside[s].iter().any(|b| touched[*b]) {
                continue;
            }
            touched[s] = true;
            taken += 1;
            for n in &segments[s].1 {
                labels[n.index()] = label;
                flips[n.index()] += 1;
            }
        }
        if taken == 0 {
            if !fuse(graph, labels, cost) || fused > graph.nodes.len() {
                return form(graph, labels).len();
            }
            fused += 1;
            flips.fill(0);
        }
    }
}

/// Possible flips as (added cost, nodes, segment, new label).
fn rank_flips(
    segments: &[Labelled],
    beside: &[BTreeSet<usize>],
    flips: &[u8],
    cost: &dyn Fn(NodeId, usize) -> u64,
) -> Vec<(i128, usize, usize, usize)> {
    let total = |nodes: &[NodeId], label: usize| -> Option<i128> {
        let each = nodes.iter().map(|n| Some(cost(*n, label)).filter(|c| *c < u64::MAX).map(i128::from));
        each.sum()
    };
    let mut ranked = vec![];
    for (s, (label, nodes)) in segments.iter().enumerate() {
        if nodes.iter().any(|n| flips[n.index()] >= FLIPS_MAX) {
            continue;
        }
        let now = total(nodes, *label).unwrap_or(0);
        let others: BTreeSet<usize> = beside[s].iter().map(|b| segments[*b].0).filter(|l| l != label).collect();
        for other in others {
            if let Some(then) = total(nodes, other) {
                ranked.push((then - now, nodes.len(), s, other));
            }
        }
    }
    ranked
}

/// Gives up the smallest labels, a quarter of them at once so that many labels take few rounds: their nodes get the label,
/// of those that stay, that most of them can have and that adds least cost. Nodes that cannot have it keep their own. False
/// where nothing changes.
fn fuse(graph: &Graph, labels: &mut [usize], cost: &dyn Fn(NodeId, usize) -> u64) -> bool {
    let mut members: BTreeMap<usize, Vec<NodeId>> = BTreeMap::new();
    graph.placeable().for_each(|n| members.entry(labels[n.index()]).or_default().push(n));
    let mut by_size: Vec<usize> = members.keys().copied().collect();
    by_size.sort_by_key(|l| (members[l].len(), *l));
    let (mut wanted, mut changed) = ((by_size.len() / 4).max(1), false);
    for (i, from) in by_size.iter().enumerate() {
        let movable = |to: usize| members[from].iter().filter(move |n| cost(**n, to) < u64::MAX);
        let added = |to: usize| {
            let each = movable(to).map(|n| i128::from(cost(*n, to)) - i128::from(cost(*n, *from)));
            each.fold((0i64, 0i128), |(stay, sum), c| (stay - 1, sum + c))
        };
        let best = by_size[i + 1..].iter().map(|to| (added(*to), *to)).min();
        if let Some(((stay, _), to)) = best
            && stay < 0
        {
            movable(to).for_each(|n| labels[n.index()] = to);
            (wanted, changed) = (wanted - 1, true);
        }
        if wanted == 0 {
            break;
        }
    }
    changed
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
