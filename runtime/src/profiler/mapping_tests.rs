//! Engine graphs as ONNX Runtime makes them, written by hand: fusions, layout changes, moved transposes, lost nodes.

use std::collections::BTreeMap;

use tandem_ir::graph::{Constant, NodeDraft};
use tandem_ir::{DType, Dim, Fact, Fingerprint, Graph, GraphBuilder, Kind, NodeId, Origin};

use super::*;
use crate::engine::{EngineProfile, NodeTiming, OptimizedNode};

fn fact() -> Fact {
    let shape = Some(vec![Dim::Batch { per_item: 1 }, Dim::Known(8)]);
    Fact { kind: Kind::Tensor, dtype: Some(DType::F32), shape, origin: Origin::Observed }
}

/// A graph with input `x` and constant `w` from lines `Op output input input..`; the last node's output is the answer.
fn graph(lines: &[&str]) -> Graph {
    let mut builder = GraphBuilder::new("test", 9, BTreeMap::from([(String::new(), 17)]));
    builder.input("x", fact()).unwrap();
    let constant = Constant { bytes: 4, values: None, digest: Fingerprint::of(b"w") };
    builder.constant("w", fact(), constant).unwrap();
    for line in lines {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (inputs, outputs) = (words[2..].to_vec(), vec![words[1].clone()]);
        builder.node(NodeDraft { op: words[0].clone(), inputs, outputs, ..NodeDraft::default() });
    }
    builder.output(lines[lines.len() - 1].split(' ').nth(1).unwrap());
    builder.finish(Fingerprint::of(b"test")).unwrap()
}

/// An engine graph from lines `name Op out,out in,in`, each node taking 1 us a run.
fn engine(lines: &[&str]) -> EngineProfile {
    let split = |w: &str| w.split(',').filter(|t| !t.is_empty()).map(str::to_owned).collect::<Vec<String>>();
    let node = |line: &&str| {
        let words: Vec<&str> = line.split(' ').collect();
        let (name, op) = (words[0].to_owned(), words[1].to_owned());
        OptimizedNode { name, op, outputs: split(words[2]), inputs: split(words[3]) }
    };
    let graph: Vec<OptimizedNode> = lines.iter().map(node).collect();
    let timing = |n: &OptimizedNode| NodeTiming { name: n.name.clone(), op: n.op.clone(), runs_ns: vec![1_000] };
    EngineProfile { nodes: graph.iter().map(timing).collect(), graph, whole_ns: vec![] }
}

fn nodes(mapping: &Mapping) -> Vec<Vec<u32>> {
    mapping.atoms.iter().map(|a| a.nodes.iter().map(|n| n.0).collect()).collect()
}

/// Every placeable node in one atom, every engine node in one atom, atoms acyclic.
fn holds(graph: &Graph, profile: &EngineProfile, mapping: &Mapping) {
    let mut all: Vec<NodeId> = mapping.atoms.iter().flat_map(|a| a.nodes.clone()).collect();
    all.sort_unstable();
    assert_eq!(all, graph.placeable().collect::<Vec<_>>());
    let mut timed: Vec<usize> = mapping.timed.iter().flatten().copied().collect();
    timed.sort_unstable();
    assert_eq!(timed, (0..profile.nodes.len()).collect::<Vec<_>>());
    let mut label = vec![usize::MAX; graph.nodes.len()];
    for (a, atom) in mapping.atoms.iter().enumerate() {
        atom.nodes.iter().for_each(|n| label[n.index()] = a);
    }
    let before = tandem_ir::segment::predecessors(graph);
    let mut waits: Vec<std::collections::BTreeSet<usize>> = vec![Default::default(); mapping.atoms.len()];
    for id in graph.placeable() {
        let (to, from) = (label[id.index()], before[id.index()].iter().map(|p| label[p.index()]));
        waits[to].extend(from.filter(|f| *f != to));
    }
    let mut done = std::collections::BTreeSet::new();
    while let Some(next) = (0..waits.len()).find(|a| !done.contains(a) && waits[*a].is_subset(&done)) {
        done.insert(next);
    }
    assert_eq!(done.len(), waits.len(), "atoms {:?} form a cycle", nodes(mapping));
}

#[test]
fn a_fusion_is_one_atom_and_layout_changes_belong_to_whom_they_serve() {
    let g = graph(&["Conv c x w", "Relu r c", "MaxPool p r w", "Flatten f p", "Gemm y f w"]);
    let e = engine(&[
        "ReorderInput ReorderInput reorder_token_1 x",
        "r_nchwc Conv reorder_token_2 reorder_token_1",
        "p_nchwc_token_7 MaxPool reorder_token_3 reorder_token_2",
        "ReorderOutput_token_4 ReorderOutput p reorder_token_3",
        "n3_Flatten Flatten f p",
        "n4_Gemm Gemm y f",
    ]);
    let m = map(&g, &e);
    holds(&g, &e, &m);
    assert_eq!(nodes(&m), [vec![0, 1], vec![2], vec![3], vec![4]]);
    assert_eq!(m.timed, [vec![0, 1], vec![2, 3], vec![4], vec![5]]);
}

#[test]
fn equal_nodes_that_run_once_do_not_join_what_lies_between() {
    // Both layers compute the same mask; the engine kept the first's name and the second's output.
    let g = graph(&["Not m x", "Add a x m", "Exp b a", "Not n x", "Add y b n"]);
    let e = engine(&["n0_Not Not n x", "n1_Add Add a x,n", "n2_Exp Exp b a", "n4_Add Add y b,n"]);
    let m = map(&g, &e);
    holds(&g, &e, &m);
    assert_eq!(nodes(&m), [vec![0, 1], vec![2], vec![3], vec![4]]);
}

#[test]
fn many_nodes_become_one() {
    // A layer normalisation in primitives, with a skip around it.
    let g = graph(&["Mean m x", "Sub d x m", "Pow q d w", "Sqrt s q", "Div v d s", "Mul y v w", "Add z y x"]);
    let e = engine(&["n5_Mul/LayerNormFusion/ LayerNormalization y x", "n6_Add Add z y,x"]);
    let m = map(&g, &e);
    holds(&g, &e, &m);
    assert_eq!(nodes(&m), [vec![0, 1, 2, 3, 4, 5], vec![6]]);
}

#[test]
fn a_node_keeps_its_time_when_a_moved_transpose_takes_its_output() {
    let g = graph(&["Conv c x w", "Relu r c", "Transpose t r", "MatMul y t w"]);
    let e = engine(&[
        "n0_Conv Conv c x",
        "n1_Relu Relu r_token_9 c",
        "Transpose_token_3 Transpose r r_token_9",
        "n3_MatMul MatMul y r",
    ]);
    let m = map(&g, &e);
    holds(&g, &e, &m);
    assert_eq!(nodes(&m), [vec![0], vec![1], vec![2, 3]]);
    assert_eq!(m.timed, [vec![0], vec![1, 2], vec![3]]);
}

#[test]
fn a_lost_node_with_readers_in_two_atoms_stands_alone() {
    let g = graph(&["Relu a x", "Identity i a", "Conv c i w", "Conv d i w", "Add y c d"]);
    let e = engine(&["n0_Relu Relu a x", "n2_Conv Conv c a", "n3_Conv Conv d a", "n4_Add Add y c,d"]);
    let m = map(&g, &e);
    holds(&g, &e, &m);
    assert_eq!(nodes(&m), [vec![0], vec![1], vec![2], vec![3], vec![4]]);
    assert_eq!(m.timed[1], Vec::<usize>::new());
    let lone = graph(&["Shape s x", "Gather a x s", "Slice b x s", "Add y a b"]);
    let e = engine(&["n1_Gather Gather a x", "n2_Slice Slice b x", "n3_Add Add y a,b"]);
    let m = map(&lone, &e);
    holds(&lone, &e, &m);
    assert_eq!((m.atoms.len(), &m.timed[0]), (4, &vec![]), "nothing feeds it: it stands alone");
}

#[test]
fn a_sum_belongs_to_the_convolution_that_computes_it() {
    // A residual block as the NCHWc pass leaves it: the second convolution reads the skip, sum and activation are gone.
    let block = ["Relu x0 x", "Conv c x0 w", "Conv d c w", "Add s d x0", "Relu r s"];
    let g = graph(&[block.as_slice(), &["Conv y r w"]].concat());
    let start = ["x0_nchwc Relu t0 x", "c_nchwc Conv t1 t0", "d_nchwc Conv t2 t1,t0"];
    let e = engine(&[start.as_slice(), &["y_nchwc Conv t3 t2", "ReorderOutput ReorderOutput y t3"]].concat());
    let m = map(&g, &e);
    holds(&g, &e, &m);
    assert_eq!(nodes(&m), [vec![0], vec![1], vec![2, 3, 4], vec![5]]);
    // What follows the sum is no part of it, though it vanished as well: here, into its own activation.
    let g = graph(&[block.as_slice(), &["Conv e r w", "Relu f e", "Add y f r"]].concat());
    let e = engine(&[start.as_slice(), &["f_nchwc Conv t3 t2", "n7_Add Add y t3,t2"]].concat());
    let m = map(&g, &e);
    holds(&g, &e, &m);
    assert_eq!(nodes(&m), [vec![0], vec![1], vec![2, 3, 4], vec![5, 6], vec![7]]);
    // The same with two readers, and the skip through a layout change.
    let g = graph(&[block.as_slice(), &["Conv e r w", "Add y e r"]].concat());
    let rest = ["d_nchwc Conv t2 t1,t9", "e_nchwc Conv t3 t2,t2", "ReorderOutput ReorderOutput y t3"];
    let e = engine(&[&start[..2], &["ReorderInput ReorderInput t9 t0"], rest.as_slice()].concat());
    let m = map(&g, &e);
    holds(&g, &e, &m);
    assert_eq!(nodes(&m)[..3], [vec![0], vec![1], vec![2, 3, 4]]);
}

#[test]
fn an_atom_that_would_close_a_cycle_takes_in_what_is_between() {
    // The engine says it runs a and y as one; b lies between them.
    let g = graph(&["Relu a x", "Exp b a", "Add y a b"]);
    let e = engine(&["fused Both a,y x", "n1_Exp Exp b a"]);
    let m = map(&g, &e);
    holds(&g, &e, &m);
    assert_eq!(nodes(&m), [vec![0, 1, 2]]);
}

#[test]
fn fused_names_count_and_names_that_only_look_like_it_do_not() {
    let g = graph(&["Conv n7_a x w", "Relu b n7_a", "Sin n1_ b", "Cos y n1_"]);
    // n7_a is a tensor: no node 7 exists. `n1_` is a tensor's name that begins as node 1's does.
    let e = engine(&["fused/n0_Conv FusedConv b x", "n2_Sin Sin n1_ b", "n1__nchwc Cos y n1_"]);
    let m = map(&g, &e);
    holds(&g, &e, &m);
    assert_eq!(nodes(&m), [vec![0, 1], vec![2, 3]]);
}

#[test]
fn an_engine_that_says_nothing_of_its_graph_is_mapped_by_names_alone() {
    let g = graph(&["Relu a x", "Exp b a", "Sin y b"]);
    let mut e = engine(&["n0_Relu Relu ? ?", "n1_Exp Exp ? ?", "n2_Sin Sin ? ?"]);
    e.graph.clear();
    let m = map(&g, &e);
    holds(&g, &e, &m);
    assert_eq!(nodes(&m).len(), 3);
    assert_eq!(m.timed, [vec![0], vec![1], vec![2]]);
}

#[test]
fn an_empty_profile_and_an_empty_graph_are_no_error() {
    let g = graph(&["Relu a x", "Exp y a"]);
    let e = EngineProfile::default();
    holds(&g, &e, &map(&g, &e));
    let none = GraphBuilder::new("none", 9, BTreeMap::new()).finish(Fingerprint::of(b"none")).unwrap();
    let run = engine(&["n0_Relu Relu a x"]);
    assert_eq!(map(&none, &run).atoms, []);
    assert_eq!(attribute(&none, &[], &run), [None]);
}

#[test]
fn plain_atoms_take_activations_along() {
    let g = graph(&["Conv c x w", "BatchNormalization b c w w", "Relu r b", "Add s r x", "MatMul m s w", "Add y m w"]);
    let atoms = plain_atoms(&g);
    let found: Vec<Vec<u32>> = atoms.iter().map(|a| a.nodes.iter().map(|n| n.0).collect()).collect();
    assert_eq!(found, [vec![0, 1, 2], vec![3], vec![4, 5]]);
}
