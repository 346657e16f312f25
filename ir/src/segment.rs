//! Segments: co-placed nodes launched as one unit, such that the graph of segments stays acyclic.
//!
//! Nodes get a level: level(v) = the largest over predecessors of level + (label differs ? 1 : 0). Nodes of equal (label,
//! level) are one segment, and segments of one label are merged further while the quotient graph stays acyclic. Convexity
//! of each segment alone would not give that.

use std::collections::BTreeSet;

use crate::graph::{Graph, NodeId};

/// For each node, the placeable nodes it depends on, folded ones looked through. Ascending, each once.
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
/// segment its label and its nodes, ascending; segments are in a topological order.
///
/// # Panics
/// If `labels` is not as long as the graph's nodes.
pub fn form(graph: &Graph, labels: &[usize]) -> Vec<(usize, Vec<NodeId>)> {
    assert_eq!(labels.len(), graph.nodes.len(), "one label a node");
    let before = predecessors(graph);
    let mut level = vec![0u32; graph.nodes.len()];
    let mut groups: std::collections::BTreeMap<(u32, usize), Vec<NodeId>> = Default::default();
    for id in graph.placeable() {
        let v = id.index();
        let up = |p: &NodeId| level[p.index()] + u32::from(labels[p.index()] != labels[v]);
        level[v] = before[v].iter().map(up).max().unwrap_or(0);
        groups.entry((level[v], labels[v])).or_default().push(id);
    }
    let mut segments: Vec<(usize, Vec<NodeId>)> =
        groups.into_iter().map(|((_, label), nodes)| (label, nodes)).collect();
    merge(graph, &before, &mut segments);
    segments
}

/// Merges segments of one label while no path leads from one to the other through a third. Leaves a topological order.
fn merge(graph: &Graph, before: &[Vec<NodeId>], segments: &mut Vec<(usize, Vec<NodeId>)>) {
    loop {
        let edges = quotient(graph, before, segments);
        let found = (0..segments.len()).find_map(|a| {
            let reach = reachable(&edges, a);
            let rest = a + 1..segments.len();
            rest.clone()
                .find(|b| segments[*b].0 == segments[a].0 && !through_third(&edges, &reach, a, *b))
                .map(|b| (a, b))
        });
        let Some((a, b)) = found else { break };
        let (_, moved) = segments.remove(b);
        segments[a].1.extend(moved);
        segments[a].1.sort_unstable();
        sort(graph, before, segments);
    }
}

/// Successors of each segment.
fn quotient(graph: &Graph, before: &[Vec<NodeId>], segments: &[(usize, Vec<NodeId>)]) -> Vec<BTreeSet<usize>> {
    let mut of = vec![usize::MAX; graph.nodes.len()];
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

fn reachable(edges: &[BTreeSet<usize>], from: usize) -> Vec<bool> {
    let mut seen = vec![false; edges.len()];
    let mut stack = vec![from];
    while let Some(s) = stack.pop() {
        for next in &edges[s] {
            if !std::mem::replace(&mut seen[*next], true) {
                stack.push(*next);
            }
        }
    }
    seen
}

/// Whether a path from `a` to `b` leads through a third segment (segments are in topological order, so none leads back).
fn through_third(edges: &[BTreeSet<usize>], reach_a: &[bool], a: usize, b: usize) -> bool {
    (a + 1..b).any(|m| reach_a[m] && reachable(edges, m)[b])
}

/// Orders segments topologically, by first node where free.
fn sort(graph: &Graph, before: &[Vec<NodeId>], segments: &mut Vec<(usize, Vec<NodeId>)>) {
    let edges = quotient(graph, before, segments);
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
    let mut old: Vec<Option<(usize, Vec<NodeId>)>> = segments.drain(..).map(Some).collect();
    segments.extend(order.iter().filter_map(|s| old[*s].take()));
}
