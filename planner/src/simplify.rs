//! From nodes to atoms: passes that change no meaning, each with a name, a reason and a count.
//!
//! Every pass only joins nodes that no plan should part; the graph of atoms is then made acyclic again by joining each
//! strongly connected component (two groups that feed each other can only run as one). Shape arithmetic (small integers
//! derived from `Shape`) is *not* pinned to the CPU: an engine computes it on the host inside any session without touching
//! data, so a pin would add two boundaries at every dynamic `Reshape`; it costs the CPU a dispatch and an accelerator's lane
//! nothing, and stays with its neighbours.
//!
//! Chains are *not* contracted. "No cut inside could ever pay" can be proven for the additive objective at equal prices (move
//! the far end of the inner edge to the near side and compare bytes), but neither at other prices, where the atom's
//! work moves to a dearer lane, nor for the judge: list scheduling has anomalies, so that more work on one lane can shift
//! everything after it. The cut takes milliseconds at any size we meet, so nothing is lost by leaving atoms whole.

use std::collections::BTreeSet;

use tandem_ir::graph::{Graph, NodeId, TensorId};
use tandem_ir::{DType, segment};

/// What a pass did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassReport {
    /// Its name.
    pub name: &'static str,
    /// Why it is sound and wanted.
    pub reason: &'static str,
    /// Groups before it.
    pub before: u64,
    /// Groups after it.
    pub after: u64,
}

/// Groups of nodes, in a topological order.
#[derive(Clone, Debug, Default)]
pub struct Simplified {
    /// Atoms: nodes of each, ascending.
    pub atoms: Vec<Vec<NodeId>>,
    /// What each pass did.
    pub passes: Vec<PassReport>,
    /// Where a pass had to join what no device can run together.
    pub clashes: Vec<Clash>,
}

/// Nodes that must be placed as one and have no device in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// Two of them that meet.
    pub nodes: (NodeId, NodeId),
    /// The pass that joined them.
    pub pass: &'static str,
    /// Why it did.
    pub reason: &'static str,
}

/// A pattern that engines run as one kernel: an anchor, and what may follow it while everything that is read comes from
/// inside or from what the anchor reads too.
#[derive(Clone, Copy, Debug)]
pub struct FusionRule {
    /// For people.
    pub name: &'static str,
    /// Operators it starts at.
    pub anchors: &'static [&'static str],
    /// Operators that may follow.
    pub body: &'static [&'static str],
    /// An operator that must be among them (none: any).
    pub requires: Option<&'static str>,
    /// Operators among them that may also read from elsewhere: the sum with a residual.
    pub outside: &'static [&'static str],
    /// Most nodes.
    pub nodes_max: usize,
}

const ACTIVATIONS: [&str; 13] = [
    "BatchNormalization",
    "Relu",
    "Clip",
    "LeakyRelu",
    "PRelu",
    "Sigmoid",
    "HardSigmoid",
    "Tanh",
    "HardSwish",
    "Mul",
    "Add",
    "Elu",
    "Gelu",
];

/// What ONNX Runtime and TensorRT document as fused on both kinds of processor.
pub const FUSION_RULES: [FusionRule; 5] = [
    FusionRule {
        name: "convolution, normalisation, activation",
        anchors: &["Conv", "ConvTranspose", "ConvInteger", "QLinearConv"],
        body: &ACTIVATIONS,
        requires: None,
        outside: &["Add"],
        nodes_max: 5,
    },
    FusionRule {
        name: "layer normalisation",
        anchors: &["ReduceMean"],
        body: &["Sub", "Pow", "Mul", "ReduceMean", "Add", "Sqrt", "Div", "Cast"],
        requires: Some("Sqrt"),
        outside: &[],
        nodes_max: 12,
    },
    FusionRule {
        name: "gelu",
        anchors: &["Div", "Mul"],
        body: &["Erf", "Add", "Mul", "Tanh", "Pow"],
        requires: Some("Erf"),
        outside: &[],
        nodes_max: 6,
    },
    FusionRule {
        name: "scaled masked softmax",
        anchors: &["Div", "Mul", "Add", "Where"],
        body: &["Softmax", "Add"],
        requires: Some("Softmax"),
        outside: &[],
        nodes_max: 3,
    },
    FusionRule {
        name: "matrix product, bias, activation",
        anchors: &["MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"],
        body: &["Add", "Relu", "Sigmoid", "Tanh", "Clip", "LeakyRelu", "Gelu"],
        requires: None,
        outside: &[],
        nodes_max: 3,
    },
];

/// A pass's name and its reason.
type Why = (&'static str, &'static str);

/// Groups of nodes, for union by number.
#[derive(Clone, Debug)]
struct Groups {
    parent: Vec<u32>,
    /// Devices on which all of a group may run, as bits; at its root.
    allowed: Vec<u32>,
    clashes: Vec<Clash>,
}

impl Groups {
    fn new(allowed: &[u32]) -> Self {
        Self { parent: (0..allowed.len() as u32).collect(), allowed: allowed.to_vec(), clashes: vec![] }
    }

    fn find(&mut self, v: usize) -> usize {
        let mut root = v;
        while self.parent[root] as usize != root {
            root = self.parent[root] as usize;
        }
        let mut v = v;
        while self.parent[v] as usize != root {
            v = std::mem::replace(&mut self.parent[v], root as u32) as usize;
        }
        root
    }

    /// The smaller number is the root, so that groups are called by their first node.
    fn join(&mut self, a: NodeId, b: NodeId, (pass, reason): Why) {
        let (first, second) = (self.find(a.index()), self.find(b.index()));
        let (one, other) = (self.allowed[first], self.allowed[second]);
        if one & other == 0 && one != 0 && other != 0 {
            self.clashes.push(Clash { nodes: (a, b), pass, reason });
        }
        let root = first.min(second);
        self.allowed[root] = one & other;
        self.parent[first.max(second)] = root as u32;
    }

    fn join_all(&mut self, nodes: &[NodeId], why: Why) {
        nodes.windows(2).for_each(|w| self.join(w[0], w[1], why));
    }

    /// Devices on which all groups of these nodes may run.
    fn common(&mut self, nodes: &[NodeId]) -> u32 {
        nodes.iter().fold(u32::MAX, |mask, n| {
            let root = self.find(n.index());
            mask & self.allowed[root]
        })
    }

    fn count(&mut self, nodes: &[NodeId]) -> u64 {
        nodes.iter().filter(|n| self.find(n.index()) == n.index()).count() as u64
    }
}

/// A pass that joins nodes.
struct Pass {
    name: &'static str,
    reason: &'static str,
    /// Whether it gives way where its nodes have no device in common.
    optional: bool,
    /// What it joins.
    groups: Vec<Vec<NodeId>>,
}

fn passes(graph: &Graph, tables: &[&[Vec<NodeId>]], fuse: bool) -> Vec<Pass> {
    let pairs =
        |pairs: Vec<(NodeId, NodeId)>| -> Vec<Vec<NodeId>> { pairs.into_iter().map(|(a, b)| vec![a, b]).collect() };
    let mut passes = vec![
        Pass {
            name: "uncuttable values",
            reason: "a sequence, map, optional or string stays inside one engine's session",
            optional: false,
            groups: pairs(segment::uncuttable(graph)),
        },
        Pass {
            name: "quantised operators",
            reason: "between DequantizeLinear and QuantizeLinear engines compute in integers; parted, they would round \
                     elsewhere",
            optional: false,
            groups: pairs(quantised(graph)),
        },
        Pass {
            name: "engine atoms",
            reason: "nodes that an engine was seen to run as one are placed as one",
            optional: true,
            groups: tables.concat(),
        },
    ];
    if fuse {
        passes.push(Pass {
            name: "documented fusions",
            reason: "engines run these patterns as one kernel; a cut inside would undo that",
            optional: true,
            groups: fused(graph),
        });
    }
    passes
}

/// Runs all passes. `tables` are groupings that engines are known to use (from profiles; each a list of groups), `fuse` says
/// whether the documented patterns are joined too (for devices that no table speaks of), and `allowed` on which devices (as
/// bits) each node may run. What fusion would join and no device could run stays apart, for a pin is the author's wish and a
/// fusion a matter of speed; what must be joined is joined, and the clash is told.
pub fn simplify(graph: &Graph, tables: &[&[Vec<NodeId>]], fuse: bool, allowed: &[u32]) -> Simplified {
    let nodes: Vec<NodeId> = graph.placeable().collect();
    let passes = passes(graph, tables, fuse);
    let mut barred: BTreeSet<&[NodeId]> = BTreeSet::new();
    loop {
        let mut groups = Groups::new(allowed);
        let mut reports = vec![PassReport {
            name: "constants",
            reason: "a node that depends on constants alone is folded into whoever reads it",
            before: graph.nodes.len() as u64,
            after: nodes.len() as u64,
        }];
        let mut joined: Vec<&[NodeId]> = vec![];
        for pass in &passes {
            let why @ (name, reason) = (pass.name, pass.reason);
            let before = groups.count(&nodes);
            for kernel in &pass.groups {
                if !pass.optional {
                    groups.join_all(kernel, why);
                } else if groups.common(kernel) != 0 && !barred.contains(kernel.as_slice()) {
                    groups.join_all(kernel, why);
                    joined.push(kernel);
                }
            }
            reports.push(PassReport { name, reason, before, after: groups.count(&nodes) });
        }
        let why @ (name, reason) = ("cycles", "groups that feed each other can only run as one");
        let before = groups.count(&nodes);
        join_cycles(graph, &nodes, &mut groups, why);
        reports.push(PassReport { name, reason, before, after: groups.count(&nodes) });
        // A fusion may have closed a cycle around nodes that no device runs together.
        joined.retain(|kernel| groups.common(kernel) == 0);
        if joined.is_empty() {
            return Simplified { atoms: ordered(graph, &nodes, &mut groups), passes: reports, clashes: groups.clashes };
        }
        barred.extend(joined);
    }
}

/// Activations that a quantised kernel takes in, between its product and its QuantizeLinear.
const QUANTISED_TAILS: [&str; 6] = ["Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "Add"];

/// Pairs of nodes with a real-valued value of a quantised kernel between them: what DequantizeLinear makes and who reads it,
/// and what QuantizeLinear reads, back through activations. Boundaries then carry integers, and the numbers of the split
/// model are those of the whole one.
fn quantised(graph: &Graph) -> Vec<(NodeId, NodeId)> {
    let mut pairs = vec![];
    for id in graph.placeable() {
        let node = graph.node(id);
        if node.op.name == "DequantizeLinear" {
            let readers = node.writes().flat_map(|t| &graph.tensor(t).consumers);
            pairs.extend(readers.filter(|c| !graph.node(**c).folded).map(|c| (id, *c)));
        }
        if node.op.name != "QuantizeLinear" {
            continue;
        }
        let mut below = id;
        loop {
            let input = graph.node(below).inputs.first().copied().flatten();
            let Some(above) = input.and_then(|t| graph.tensor(t).producer).filter(|p| !graph.node(*p).folded) else {
                break;
            };
            pairs.push((above, below));
            if !QUANTISED_TAILS.contains(&graph.node(above).op.name.as_str()) {
                break;
            }
            below = above;
        }
    }
    pairs
}

/// Given groups in a topological order, those that feed each other joined.
pub fn simplify_groups(graph: &Graph, given: &[Vec<NodeId>]) -> Vec<Vec<NodeId>> {
    let nodes: Vec<NodeId> = graph.placeable().collect();
    let mut groups = Groups::new(&vec![u32::MAX; graph.nodes.len()]);
    let why = ("placement", "the author placed them as one");
    given.iter().for_each(|g| groups.join_all(g, why));
    join_cycles(graph, &nodes, &mut groups, why);
    ordered(graph, &nodes, &mut groups)
}

/// The fused kernels of the documented patterns that have more than one node; disjoint.
pub fn fused(graph: &Graph) -> Vec<Vec<NodeId>> {
    let mut taken = vec![false; graph.nodes.len()];
    let mut kernels = vec![];
    for rule in &FUSION_RULES {
        for id in graph.placeable() {
            let node = graph.node(id);
            if taken[id.index()] || !node.op.domain.is_empty() || !rule.anchors.contains(&node.op.name.as_str()) {
                continue;
            }
            let region = grow(graph, id, rule, &taken);
            if region.len() > 1 {
                region.iter().for_each(|n| taken[n.index()] = true);
                kernels.push(region);
            }
        }
    }
    kernels
}

/// Grows a rule's region from its anchor, and cuts it back to the longest part with a single exit.
fn grow(graph: &Graph, anchor: NodeId, rule: &FusionRule, taken: &[bool]) -> Vec<NodeId> {
    let mut region = vec![anchor];
    let entry: BTreeSet<TensorId> = graph.node(anchor).reads().into_iter().collect();
    let mut made: BTreeSet<TensorId> = graph.node(anchor).writes().collect();
    let mut best = vec![];
    loop {
        let closed = single_exit(graph, &region);
        let complete = rule.requires.is_none_or(|op| region.iter().any(|n| graph.node(*n).op.name == op));
        if closed && complete {
            best = region.clone();
        }
        if region.len() == rule.nodes_max {
            return best;
        }
        let candidates: BTreeSet<NodeId> = region
            .iter()
            .flat_map(|n| graph.node(*n).writes())
            .flat_map(|t| &graph.tensor(t).consumers)
            .copied()
            .collect();
        let fits = |id: &NodeId| {
            let node = graph.node(*id);
            let known = |t: &TensorId| made.contains(t) || entry.contains(t) || graph.is_constant(*t);
            let op = node.op.domain.is_empty() && rule.body.contains(&node.op.name.as_str());
            // What comes from outside cannot depend on the pattern: its inner values are read inside only.
            let outside = rule.outside.contains(&node.op.name.as_str());
            let fed = outside || node.reads().iter().all(known);
            op && !node.folded && !taken[id.index()] && !region.contains(id) && fed
        };
        let Some(next) = candidates.into_iter().find(fits) else { return best };
        made.extend(graph.node(next).writes());
        region.push(next);
        region.sort_unstable();
    }
}

/// Whether all but one of the nodes are read inside only, and hand nothing back.
fn single_exit(graph: &Graph, region: &[NodeId]) -> bool {
    let leaves = |id: &NodeId| {
        graph
            .node(*id)
            .writes()
            .any(|t| graph.is_output(t) || graph.tensor(t).consumers.iter().any(|c| !region.contains(c)))
    };
    region.iter().filter(|n| leaves(n)).count() <= 1
}

/// Nodes that compute on small integers derived from shapes alone.
pub fn shape_arithmetic(graph: &Graph) -> Vec<bool> {
    const ELEMENTS_MAX: u64 = 64;
    const SOURCES: [&str; 2] = ["Shape", "Size"];
    let mut is = vec![false; graph.nodes.len()];
    for id in graph.placeable() {
        let node = graph.node(id);
        let small = |t: TensorId| {
            let fact = &graph.tensor(t).fact;
            let integer = matches!(fact.dtype, Some(DType::I64 | DType::I32 | DType::Bool));
            let count = fact.dims_at(1).map(|d| d.iter().product::<u64>());
            integer && count.is_some_and(|n| n <= ELEMENTS_MAX)
        };
        let derived = |t: &TensorId| graph.is_constant(*t) || graph.tensor(*t).producer.is_some_and(|p| is[p.index()]);
        let source = SOURCES.contains(&node.op.name.as_str()) && node.op.domain.is_empty();
        is[id.index()] =
            node.bodies.is_empty() && node.writes().all(small) && (source || node.reads().iter().all(derived));
    }
    is
}

/// Joins strongly connected groups.
fn join_cycles(graph: &Graph, nodes: &[NodeId], groups: &mut Groups, why: Why) {
    let before = segment::predecessors(graph);
    let mut edges = vec![];
    for id in nodes {
        for p in &before[id.index()] {
            let (a, b) = (groups.find(p.index()), groups.find(id.index()));
            if a != b {
                edges.push((a as u32, b as u32));
            }
        }
    }
    // Groups only make a cycle where one of them has several nodes: without, the graph is as acyclic as it came.
    let quotient = petgraph::graph::DiGraph::<(), (), u32>::from_edges(&edges);
    for component in petgraph::algo::kosaraju_scc(&quotient) {
        let roots: Vec<NodeId> = component.iter().map(|n| NodeId(n.index() as u32)).collect();
        groups.join_all(&roots, why);
    }
}

/// Groups in a topological order, the one with the smallest first node first where free.
fn ordered(graph: &Graph, nodes: &[NodeId], groups: &mut Groups) -> Vec<Vec<NodeId>> {
    let before = segment::predecessors(graph);
    let mut edges: Vec<(u32, u32)> = vec![];
    let mut members: Vec<Vec<NodeId>> = vec![vec![]; graph.nodes.len()];
    for id in nodes {
        let to = groups.find(id.index());
        members[to].push(*id);
        edges.extend(
            before[id.index()].iter().map(|p| (groups.find(p.index()) as u32, to as u32)).filter(|(a, b)| a != b),
        );
    }
    edges.sort_unstable();
    edges.dedup();
    let mut waits = vec![0u32; graph.nodes.len()];
    edges.iter().for_each(|(_, b)| waits[*b as usize] += 1);
    let mut ready: BTreeSet<u32> =
        (0..graph.nodes.len() as u32).filter(|g| !members[*g as usize].is_empty() && waits[*g as usize] == 0).collect();
    let mut order = vec![];
    while let Some(g) = ready.pop_first() {
        order.push(std::mem::take(&mut members[g as usize]));
        let first = edges.partition_point(|e| e.0 < g);
        for (_, to) in edges[first..].iter().take_while(|e| e.0 == g) {
            waits[*to as usize] -= 1;
            if waits[*to as usize] == 0 {
                ready.insert(*to);
            }
        }
    }
    order
}
