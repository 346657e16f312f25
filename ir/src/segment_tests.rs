use super::*;
use crate::random::{self, Random};

/// Everything that must hold of segments.
fn assert_sound(graph: &Graph, labels: &[usize], segments: &[Labelled], what: &str) {
    let mut of = vec![None; graph.nodes.len()];
    for (s, (label, nodes)) in segments.iter().enumerate() {
        assert!(!nodes.is_empty() && nodes.is_sorted(), "{what}");
        for n in nodes {
            assert_eq!(labels[n.index()], *label, "{what}: one label inside");
            assert_eq!(of[n.index()].replace(s), None, "{what}: a node is in one segment");
        }
    }
    for id in graph.placeable() {
        assert!(of[id.index()].is_some(), "{what}: every placeable node is in a segment");
        for p in &predecessors(graph)[id.index()] {
            assert!(of[p.index()] <= of[id.index()], "{what}: the order is topological");
        }
    }
}

fn random_labels(r: &mut Random, n: usize) -> Vec<usize> {
    let kinds = [1, 2, 2, 3, 5, n.max(1)][r.below(6)];
    let mut label = 0;
    // Half of the labellings come in runs, as plans do.
    let runs = r.chance(50);
    (0..n)
        .map(|_| {
            if !runs || r.chance(15) {
                label = r.below(kinds);
            }
            label
        })
        .collect()
}

#[test]
fn segments_of_random_graphs_are_sound() {
    for seed in 0..2000 {
        let mut r = Random(seed);
        let n = 1 + r.below(60);
        let graph = random::graph(&mut r, n);
        let labels = random_labels(&mut r, n);
        let segments = form(&graph, &labels);
        assert_sound(&graph, &labels, &segments, &format!("seed {seed}"));
        assert_eq!(form(&graph, &labels), segments, "seed {seed}: deterministic");
        let edges = quotient(n, &predecessors(&graph), &segments);
        for (a, (label, _)) in segments.iter().enumerate() {
            for (b, (other, _)) in segments.iter().enumerate().skip(a + 1) {
                // No pair could still be merged: same label means a path through a third.
                assert!(label != other || through_third(&edges, a, b), "seed {seed}: {a} and {b} could be one");
            }
        }
    }
}

fn through_third(edges: &[BTreeSet<usize>], a: usize, b: usize) -> bool {
    let mut seen = BTreeSet::new();
    let mut stack: Vec<usize> = edges[a].iter().copied().filter(|s| *s != b).collect();
    while let Some(s) = stack.pop() {
        if s == b {
            return true;
        }
        if seen.insert(s) {
            stack.extend(&edges[s]);
        }
    }
    false
}

/// Least number of segments over all orders of rounds, for two labels: try both first labels.
fn least_for_two(graph: &Graph, labels: &[usize]) -> usize {
    let before = predecessors(graph);
    let run = |first: usize| {
        let mut done = vec![false; labels.len()];
        let (mut label, mut rounds) = (first, 0);
        while !done.iter().all(|d| *d) {
            let start = done.clone();
            for v in 0..labels.len() {
                done[v] |= labels[v] == label && before[v].iter().all(|p| done[p.index()]);
            }
            rounds += usize::from(start != done);
            label = 1 - label;
        }
        rounds
    };
    run(0).min(run(1))
}

#[test]
fn two_labels_give_the_least_number_of_segments() {
    for seed in 0..500 {
        let mut r = Random(seed);
        let n = 1 + r.below(40);
        let graph = random::graph(&mut r, n);
        let labels: Vec<usize> = (0..n).map(|_| r.below(2)).collect();
        let rounds = absorb(&graph, &predecessors(&graph), &labels);
        assert_eq!(rounds.len(), least_for_two(&graph, &labels), "seed {seed}");
    }
}

#[test]
fn independent_chains_of_one_label_are_one_segment() {
    use crate::graph::{GraphBuilder, NodeDraft};
    let mut builder = GraphBuilder::new("chains", 8, Default::default());
    builder.input("x", Default::default()).unwrap();
    for chain in ["a", "b"] {
        let mut last = "x".to_owned();
        for i in 0..5 {
            let output = format!("{chain}{i}");
            builder.node(NodeDraft {
                op: "Relu".into(),
                inputs: vec![last],
                outputs: vec![output.clone()],
                ..Default::default()
            });
            last = output;
        }
        builder.output(&last);
    }
    let graph = builder.finish(crate::Fingerprint::of(b"")).unwrap();
    assert_eq!(form(&graph, &[7; 10]).len(), 1);
    // Both chains switch after their second node: one segment a side, not two.
    let labels: Vec<usize> = (0..10).map(|i| usize::from(i % 5 >= 2)).collect();
    let segments = form(&graph, &labels);
    assert_eq!(segments.iter().map(|s| (s.0, s.1.len())).collect::<Vec<_>>(), [(0, 4), (1, 6)]);
}

#[test]
fn large_graphs_with_random_labels_are_formed() {
    for kinds in [2, 3, 50, 10_000] {
        let mut r = Random(kinds as u64);
        let graph = random::graph(&mut r, 10_000);
        let labels: Vec<usize> = (0..10_000).map(|_| r.below(kinds)).collect();
        let segments = form(&graph, &labels);
        assert!(segments.len() > 100);
        let total: usize = segments.iter().map(|s| s.1.len()).sum();
        assert_eq!(total, 10_000);
    }
}

#[test]
fn the_limit_is_met_at_little_cost() {
    for seed in 0..300 {
        let mut r = Random(seed);
        let n = 1 + r.below(300);
        let graph = random::graph(&mut r, n);
        let mut labels = random_labels(&mut r, n);
        let costs: Vec<u64> = (0..n * 3).map(|_| r.next() % 1000).collect();
        let cost = |v: NodeId, label: usize| costs[v.index() * 3 + label % 3];
        let most = 1 + r.below(32);
        let first = form(&graph, &labels).len();
        let old = labels.clone();
        let count = merge_to_limit(&graph, &mut labels, &cost, most);
        assert!(count <= most, "seed {seed}: {count} > {most}");
        assert_eq!(form(&graph, &labels).len(), count);
        assert!(first > most || labels == old, "seed {seed}: nothing changes within the limit");
    }
}

#[test]
fn pinned_nodes_keep_their_label() {
    for seed in 0..200 {
        let mut r = Random(seed);
        let n = 50 + r.below(200);
        let graph = random::graph(&mut r, n);
        let pinned: Vec<Option<usize>> = (0..n).map(|_| r.chance(5).then(|| r.below(2))).collect();
        let mut labels: Vec<usize> = pinned.iter().map(|p| p.unwrap_or_else(|| r.below(2))).collect();
        let cost = |v: NodeId, l: usize| if pinned[v.index()].is_some_and(|p| p != l) { u64::MAX } else { 10 };
        merge_to_limit(&graph, &mut labels, &cost, 4);
        assert!((0..n).all(|v| pinned[v].is_none_or(|p| p == labels[v])), "seed {seed}");
    }
}

#[test]
fn a_large_graph_is_brought_to_the_limit() {
    let mut r = Random(3);
    let graph = random::graph(&mut r, 10_000);
    let mut labels: Vec<usize> = (0..10_000).map(|_| r.below(2)).collect();
    let count = merge_to_limit(&graph, &mut labels, &|v, l| 100 + (v.0 as u64 + l as u64) % 7, 32);
    assert!((2..=32).contains(&count), "{count}");
    let mut labels: Vec<usize> = (0..10_000).map(|_| r.below(4)).collect();
    let count = merge_to_limit(&graph, &mut labels, &|v, l| 100 + (v.0 as u64 + l as u64) % 7, 32);
    assert!((16..=32).contains(&count), "no more is given up than has to be: {count}");
}
