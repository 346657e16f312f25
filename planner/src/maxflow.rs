//! Maximum flow between two terminals on integer capacities, for graphs in which most nodes touch a terminal.
//!
//! Two search trees grow from the terminals and are kept from one augmentation to the next, with distances as a heuristic
//! for shallow trees. Source: Boykov, Kolmogorov, "An experimental comparison of min-cut/max-flow algorithms for energy
//! minimization in vision" (2004). Arrays are flat and kept between calls.
//!
//! The answer's side is the set of nodes that the source reaches in the residual graph. That set is the same for every
//! maximum flow, so no heuristic and no starting flow ever shows in it.

use std::collections::VecDeque;

/// A capacity no sum of finite ones reaches.
pub const INFINITE: i64 = i64::MAX / 8;

const NONE: u32 = u32::MAX;
const TERMINAL: u32 = u32::MAX - 1;
const ORPHAN: u32 = u32::MAX - 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Tree {
    #[default]
    Free,
    Source,
    Sink,
}

#[derive(Clone, Copy, Debug, Default)]
struct Arc {
    head: u32,
    sister: u32,
    cap: i64,
}

#[derive(Clone, Copy, Debug)]
struct Vertex {
    /// Residual capacity from the source (positive) or to the sink (negative).
    terminal: i64,
    parent: u32,
    stamp: u32,
    distance: u32,
    tree: Tree,
    queued: bool,
}

/// The solver and its buffers.
#[derive(Clone, Debug, Default)]
pub struct Solver {
    edges: Vec<(u32, u32, i64, i64)>,
    first: Vec<u32>,
    arcs: Vec<Arc>,
    nodes: Vec<Vertex>,
    active: VecDeque<u32>,
    orphans: VecDeque<u32>,
    time: u32,
    flow: i128,
}

impl Solver {
    /// Begins a graph of `nodes` nodes without edges.
    pub fn begin(&mut self, nodes: usize) {
        self.edges.clear();
        self.nodes.clear();
        let fresh = Vertex { terminal: 0, parent: NONE, stamp: 0, distance: 0, tree: Tree::Free, queued: false };
        self.nodes.resize(nodes, fresh);
        self.flow = 0;
    }

    /// Adds capacities from the source to the node and from the node to the sink.
    pub fn terminal(&mut self, node: usize, from_source: i64, to_sink: i64) {
        let residual = self.nodes[node].terminal;
        let (mut source, mut sink) = (from_source.min(INFINITE), to_sink.min(INFINITE));
        if residual > 0 {
            source = (source + residual).min(INFINITE);
        } else {
            sink = (sink - residual).min(INFINITE);
        }
        self.flow += i128::from(source.min(sink));
        self.nodes[node].terminal = source - sink;
    }

    /// Adds an edge with a capacity each way.
    pub fn edge(&mut self, a: usize, b: usize, forward: i64, backward: i64) {
        self.edges.push((a as u32, b as u32, forward.min(INFINITE), backward.min(INFINITE)));
    }

    /// Pushes a maximum flow and returns its value.
    pub fn solve(&mut self) -> i128 {
        self.build();
        self.start();
        let mut current = NONE;
        while let Some(node) = self.next_active(current) {
            current = node;
            match self.grow(node) {
                Some(arc) => {
                    self.time += 1;
                    self.augment(arc);
                    self.adopt();
                }
                None => current = NONE,
            }
        }
        self.flow
    }

    /// After [`solve`](Self::solve): whether the node is on the source's side of the smallest minimum cut.
    pub fn on_source_side(&self, node: usize) -> bool {
        self.nodes[node].tree == Tree::Source
    }

    /// Lays arcs out by node.
    fn build(&mut self) {
        let n = self.nodes.len();
        self.first.clear();
        self.first.resize(n + 2, 0);
        for (a, b, _, _) in &self.edges {
            self.first[*a as usize + 2] += 1;
            self.first[*b as usize + 2] += 1;
        }
        for i in 2..n + 2 {
            self.first[i] += self.first[i - 1];
        }
        self.arcs.clear();
        self.arcs.resize(2 * self.edges.len(), Arc::default());
        for (a, b, forward, backward) in &self.edges {
            let (at, back) = (self.first[*a as usize + 1], self.first[*b as usize + 1]);
            // An edge from a node to itself would need both places in one list; callers never make one.
            debug_assert_ne!(a, b);
            self.first[*a as usize + 1] += 1;
            self.first[*b as usize + 1] += 1;
            self.arcs[at as usize] = Arc { head: *b, sister: back, cap: *forward };
            self.arcs[back as usize] = Arc { head: *a, sister: at, cap: *backward };
        }
    }

    fn start(&mut self) {
        self.active.clear();
        self.orphans.clear();
        self.time = 0;
        for v in 0..self.nodes.len() {
            let node = &mut self.nodes[v];
            node.queued = false;
            if node.terminal != 0 {
                node.tree = if node.terminal > 0 { Tree::Source } else { Tree::Sink };
                (node.parent, node.distance) = (TERMINAL, 1);
                self.activate(v as u32);
            }
        }
    }

    fn activate(&mut self, v: u32) {
        let node = &mut self.nodes[v as usize];
        if !std::mem::replace(&mut node.queued, true) {
            self.active.push_back(v);
        }
    }

    /// The node whose growth was interrupted, else the next active one that is in a tree.
    fn next_active(&mut self, current: u32) -> Option<u32> {
        if current != NONE && self.nodes[current as usize].tree != Tree::Free {
            return Some(current);
        }
        while let Some(v) = self.active.pop_front() {
            self.nodes[v as usize].queued = false;
            if self.nodes[v as usize].tree != Tree::Free {
                return Some(v);
            }
        }
        None
    }

    fn out(&self, v: u32) -> std::ops::Range<u32> {
        self.first[v as usize]..self.first[v as usize + 1]
    }

    /// Residual capacity in the direction away from a tree's root along an arc out of the node.
    fn room(&self, tree: Tree, arc: u32) -> i64 {
        let a = &self.arcs[arc as usize];
        if tree == Tree::Source { a.cap } else { self.arcs[a.sister as usize].cap }
    }

    /// Takes free neighbours into the node's tree; returns an arc (from the source's tree to the sink's) where they meet.
    fn grow(&mut self, v: u32) -> Option<u32> {
        let (tree, stamp, distance) = {
            let n = &self.nodes[v as usize];
            (n.tree, n.stamp, n.distance)
        };
        for arc in self.out(v) {
            if self.room(tree, arc) == 0 {
                continue;
            }
            let Arc { head, sister, .. } = self.arcs[arc as usize];
            let other = &mut self.nodes[head as usize];
            if other.tree == Tree::Free {
                (other.tree, other.parent, other.stamp, other.distance) = (tree, sister, stamp, distance + 1);
                self.activate(head);
            } else if other.tree != tree {
                return Some(if tree == Tree::Source { arc } else { sister });
            } else if other.stamp <= stamp && other.distance > distance + 1 {
                // The same tree by a shorter way: keep the trees shallow.
                (other.parent, other.stamp, other.distance) = (sister, stamp, distance + 1);
            }
        }
        None
    }

    /// Pushes what the path through `arc` carries.
    fn augment(&mut self, arc: u32) {
        let (tail, head) = (self.arcs[self.arcs[arc as usize].sister as usize].head, self.arcs[arc as usize].head);
        let mut push = self.arcs[arc as usize].cap;
        for (tree, end) in [(Tree::Source, tail), (Tree::Sink, head)] {
            let mut v = end;
            loop {
                let node = &self.nodes[v as usize];
                if node.parent == TERMINAL {
                    push = push.min(node.terminal.abs());
                    break;
                }
                let up = self.arcs[node.parent as usize];
                // Towards the root the arc points against a source tree's flow.
                push = push.min(if tree == Tree::Source { self.arcs[up.sister as usize].cap } else { up.cap });
                v = up.head;
            }
        }
        let sister = self.arcs[arc as usize].sister as usize;
        self.arcs[arc as usize].cap -= push;
        self.arcs[sister].cap += push;
        for (tree, end) in [(Tree::Source, tail), (Tree::Sink, head)] {
            self.push_along(tree, end, push);
        }
        self.flow += i128::from(push);
    }

    fn push_along(&mut self, tree: Tree, end: u32, push: i64) {
        let mut v = end;
        loop {
            let parent = self.nodes[v as usize].parent;
            if parent == TERMINAL {
                let node = &mut self.nodes[v as usize];
                node.terminal += if tree == Tree::Source { -push } else { push };
                if node.terminal == 0 {
                    node.parent = ORPHAN;
                    self.orphans.push_front(v);
                }
                return;
            }
            let Arc { head, sister, .. } = self.arcs[parent as usize];
            let (down, up) = if tree == Tree::Source { (sister, parent) } else { (parent, sister) };
            self.arcs[down as usize].cap -= push;
            self.arcs[up as usize].cap += push;
            if self.arcs[down as usize].cap == 0 {
                self.nodes[v as usize].parent = ORPHAN;
                self.orphans.push_front(v);
            }
            v = head;
        }
    }

    /// Finds new parents for orphans, or sets them free.
    fn adopt(&mut self) {
        while let Some(v) = self.orphans.pop_front() {
            let tree = self.nodes[v as usize].tree;
            let mut best: Option<(u32, u32)> = None;
            for arc in self.out(v) {
                let Arc { head, sister, .. } = self.arcs[arc as usize];
                // A parent must have room towards the orphan.
                let room =
                    if tree == Tree::Source { self.arcs[sister as usize].cap } else { self.arcs[arc as usize].cap };
                if room == 0 || self.nodes[head as usize].tree != tree {
                    continue;
                }
                if let Some(distance) = self.rooted(head).filter(|d| best.is_none_or(|b| *d < b.0)) {
                    best = Some((distance, arc));
                }
            }
            let time = self.time;
            let node = &mut self.nodes[v as usize];
            match best {
                Some((distance, arc)) => (node.parent, node.stamp, node.distance) = (arc, time, distance + 1),
                None => self.set_free(v, tree),
            }
        }
    }

    /// Distance of a node to its terminal by parents; `None` where an orphan is on the way. Marks the way, so that each
    /// part of it is walked once a step.
    fn rooted(&mut self, start: u32) -> Option<u32> {
        let (mut v, mut steps) = (start, 0u32);
        let distance = loop {
            let node = &self.nodes[v as usize];
            if node.stamp == self.time && node.parent != ORPHAN && node.parent != NONE {
                break node.distance + steps;
            }
            match node.parent {
                TERMINAL => {
                    let time = self.time;
                    let node = &mut self.nodes[v as usize];
                    (node.stamp, node.distance) = (time, 1);
                    break 1 + steps;
                }
                ORPHAN | NONE => return None,
                parent => v = self.arcs[parent as usize].head,
            }
            steps += 1;
        };
        let (mut v, mut left) = (start, distance);
        while self.nodes[v as usize].stamp != self.time {
            let time = self.time;
            let node = &mut self.nodes[v as usize];
            (node.stamp, node.distance) = (time, left);
            left -= 1;
            v = self.arcs[node.parent as usize].head;
        }
        Some(distance)
    }

    fn set_free(&mut self, v: u32, tree: Tree) {
        for arc in self.out(v) {
            let Arc { head, sister, .. } = self.arcs[arc as usize];
            if self.nodes[head as usize].tree != tree {
                continue;
            }
            let room = if tree == Tree::Source { self.arcs[sister as usize].cap } else { self.arcs[arc as usize].cap };
            if room > 0 {
                self.activate(head);
            }
            let parent = self.nodes[head as usize].parent;
            if parent < ORPHAN && self.arcs[parent as usize].head == v {
                self.nodes[head as usize].parent = ORPHAN;
                self.orphans.push_back(head);
            }
        }
        let node = &mut self.nodes[v as usize];
        (node.tree, node.parent) = (Tree::Free, NONE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    /// Both solvers on the same random graph, and the cut's own capacity.
    #[test]
    fn equals_petgraph_and_its_own_cut() {
        let mut solver = Solver::default();
        for seed in 0..600 {
            let mut rng = Rng::new(seed);
            let n = 1 + rng.below(12) as usize;
            let mut twin = petgraph::graph::DiGraph::<(), u64>::new();
            (0..n + 2).for_each(|_| {
                twin.add_node(());
            });
            let (s, t) = (petgraph::graph::NodeIndex::new(n), petgraph::graph::NodeIndex::new(n + 1));
            solver.begin(n);
            let mut terminals = vec![];
            for v in 0..n {
                let (a, b) = (rng.below(20) as i64, rng.below(20) as i64);
                solver.terminal(v, a, b);
                terminals.push((a, b));
                twin.add_edge(s, petgraph::graph::NodeIndex::new(v), a as u64);
                twin.add_edge(petgraph::graph::NodeIndex::new(v), t, b as u64);
            }
            let mut edges = vec![];
            for _ in 0..rng.below(3 * n as u64 + 1) {
                let (a, b) = (rng.below(n as u64) as usize, rng.below(n as u64) as usize);
                if a != b {
                    let (f, g) = (rng.below(20) as i64, if rng.below(2) == 0 { 0 } else { rng.below(20) as i64 });
                    solver.edge(a, b, f, g);
                    edges.push((a, b, f, g));
                    let (x, y) = (petgraph::graph::NodeIndex::new(a), petgraph::graph::NodeIndex::new(b));
                    twin.add_edge(x, y, f as u64);
                    twin.add_edge(y, x, g as u64);
                }
            }
            let flow = solver.solve();
            let (expected, _) = petgraph::algo::dinics(&twin, s, t);
            assert_eq!(flow, i128::from(expected), "seed {seed}");
            let side = |v: usize| solver.on_source_side(v);
            let mut cut: i64 = terminals.iter().enumerate().map(|(v, (a, b))| if side(v) { *b } else { *a }).sum();
            for (a, b, f, g) in edges {
                cut += if side(a) && !side(b) { f } else { 0 } + if side(b) && !side(a) { g } else { 0 };
            }
            assert_eq!(flow, i128::from(cut), "seed {seed}: the cut's capacity is the flow");
        }
    }
}
