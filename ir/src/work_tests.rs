use std::collections::BTreeMap;

use super::*;
use crate::fingerprint::Fingerprint;
use crate::graph::{Constant, Dim, Fact, GraphBuilder, NodeDraft};
use crate::random::fact;

fn constant(bytes: u64, values: Option<Vec<i64>>) -> Constant {
    Constant { bytes, values, digest: Fingerprint::of(&bytes.to_le_bytes()) }
}

fn builder() -> GraphBuilder {
    GraphBuilder::new("work", 8, BTreeMap::from([(String::new(), 17)]))
}

/// A graph of one node with inputs `i0..`, constants among them, and outputs `o0..`.
fn one(op: &str, inputs: &[(&[u64], bool)], outputs: &[&[u64]], attrs: &[(&str, Attr)]) -> Graph {
    typed(op, DType::F32, inputs, outputs, attrs)
}

fn typed(op: &str, dtype: DType, inputs: &[(&[u64], bool)], outputs: &[&[u64]], attrs: &[(&str, Attr)]) -> Graph {
    let mut b = builder();
    for (i, (dims, is_constant)) in inputs.iter().enumerate() {
        let (name, fact) = (format!("i{i}"), fact(dtype, dims));
        match is_constant {
            true => b.constant(&name, fact.clone(), constant(fact.bytes_at(1).unwrap(), None)).unwrap(),
            false => b.input(&name, fact).unwrap(),
        };
    }
    let names = |p: &str, n: usize| (0..n).map(|i| format!("{p}{i}")).collect::<Vec<_>>();
    for (i, dims) in outputs.iter().enumerate() {
        b.declare(&format!("o{i}"), fact(dtype, dims));
    }
    let (domain, op) = op.split_once(':').unwrap_or(("", op));
    b.node(NodeDraft {
        domain: domain.into(),
        op: op.into(),
        inputs: names("i", inputs.len()),
        outputs: names("o", outputs.len()),
        attrs: attrs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        ..NodeDraft::default()
    });
    b.output("o0");
    b.finish(Fingerprint::of(b"")).unwrap()
}

fn flops_of(graph: &Graph) -> u64 {
    node_work(graph, NodeId(0), 1).unwrap().flops.0
}

fn text(t: &str) -> Attr {
    Attr::Text(t.as_bytes().to_vec())
}

#[test]
fn convolutions() {
    // The first convolution of ResNet-50.
    let g = one("Conv", &[(&[1, 3, 224, 224], false), (&[64, 3, 7, 7], true)], &[&[1, 64, 112, 112]], &[]);
    let work = node_work(&g, NodeId(0), 1).unwrap();
    assert_eq!(work.flops.0, 2 * 112 * 112 * 64 * 3 * 7 * 7);
    assert_eq!(work.weights.0, 64 * 3 * 7 * 7 * 4);
    assert_eq!(work.read.0, 3 * 224 * 224 * 4 + work.weights.0);
    assert_eq!(work.written.0, 64 * 112 * 112 * 4);
    // Depthwise with bias: one channel a group.
    let g = one("Conv", &[(&[2, 32, 8, 8], false), (&[32, 1, 3, 3], true), (&[32], true)], &[&[2, 32, 8, 8]], &[]);
    assert_eq!(flops_of(&g), 2 * 2 * 32 * 64 * 9 + 2 * 32 * 64);
    // Each of 4 x 5 x 5 inputs feeds 6 x 2 x 2 outputs.
    let g = one("ConvTranspose", &[(&[1, 4, 5, 5], false), (&[4, 6, 2, 2], true)], &[&[1, 6, 10, 10]], &[]);
    assert_eq!(flops_of(&g), 2 * 100 * 24);
    let s: (&[u64], bool) = (&[], true);
    let inputs: [(&[u64], bool); 8] = [(&[1, 3, 8, 8], false), s, s, (&[4, 3, 3, 3], true), s, s, s, s];
    let g = typed("QLinearConv", DType::I8, &inputs, &[&[1, 4, 8, 8]], &[]);
    let work = node_work(&g, NodeId(0), 1).unwrap();
    assert_eq!((work.flops.0, work.dtype), (2 * 4 * 64 * 27, DType::I8));
}

#[test]
fn matrix_products() {
    let g = one("MatMul", &[(&[2, 12, 128, 64], false), (&[2, 12, 64, 128], false)], &[&[2, 12, 128, 128]], &[]);
    assert_eq!(flops_of(&g), 2 * 2 * 12 * 128 * 128 * 64);
    let gemm = [(&[1, 2048][..], false), (&[1000, 2048][..], true), (&[1000][..], true)];
    let g = one("Gemm", &gemm, &[&[1, 1000]], &[("transB", Attr::Int(1))]);
    assert_eq!(flops_of(&g), 2 * 2048 * 1000 + 1000);
    let g = one("Gemm", &[(&[5, 7], false), (&[5, 3], true)], &[&[7, 3]], &[("transA", Attr::Int(1))]);
    assert_eq!(flops_of(&g), 2 * 5 * 7 * 3);
    let fused = [(&[4, 8, 6][..], false), (&[4, 8, 5][..], false)];
    let g = one("com.microsoft:FusedMatMul", &fused, &[&[4, 6, 5]], &[("transA", Attr::Int(1))]);
    assert_eq!(flops_of(&g), 2 * 4 * 6 * 5 * 8);
    let bits = [("K", Attr::Int(256)), ("N", Attr::Int(64)), ("bits", Attr::Int(4))];
    let g = one("com.microsoft:MatMulNBits", &[(&[1, 10, 256], false), (&[64, 8, 16], true)], &[&[1, 10, 64]], &bits);
    assert_eq!(flops_of(&g), 2 * 10 * 64 * 256);
}

#[test]
fn einsum_counts_all_index_values() {
    let inputs = [(&[2, 4, 5, 8][..], false), (&[2, 4, 6, 8][..], false)];
    let g = one("Einsum", &inputs, &[&[2, 4, 5, 6]], &[("equation", text("bhid, bhjd -> bhij"))]);
    assert_eq!(flops_of(&g), 2 * 2 * 4 * 5 * 6 * 8);
    let g = one("Einsum", &inputs, &[&[2, 4, 5, 6]], &[("equation", text("...id,...jd->...ij"))]);
    assert_eq!(flops_of(&g), 2 * 2 * 4 * 5 * 6 * 8);
}

#[test]
fn recurrent_networks_and_attention() {
    // 10 steps, batch 3, 16 inputs, 32 units.
    let g =
        one("LSTM", &[(&[10, 3, 16], false), (&[1, 128, 16], true), (&[1, 128, 32], true)], &[&[10, 1, 3, 32]], &[]);
    assert_eq!(flops_of(&g), 2 * 30 * (128 * 16 + 128 * 32) + 30 * 128 * 12);
    // 8 heads of 64, 50 queries on 70 keys.
    let qkv = [(&[1, 8, 50, 64][..], false), (&[1, 8, 70, 64][..], false), (&[1, 8, 70, 64][..], false)];
    let g = one("Attention", &qkv, &[&[1, 8, 50, 64]], &[]);
    assert_eq!(flops_of(&g), 4 * 8 * 50 * 64 * 70 + 14 * 8 * 50 * 70);
    let inputs = [(&[2, 20, 768][..], false), (&[768, 2304][..], true)];
    let g = one("com.microsoft:Attention", &inputs, &[&[2, 20, 768]], &[("num_heads", Attr::Int(12))]);
    let projection = 2 * 2 * 20 * 768 * 2304;
    assert_eq!(flops_of(&g), projection + 4 * 2 * 20 * 768 * 20 + 14 * 2 * 12 * 20 * 20);
}

#[test]
fn small_operators() {
    let unary =
        |op: &str, attrs: &[(&str, Attr)]| flops_of(&one(op, &[(&[2, 8, 4, 4], false)], &[&[2, 8, 4, 4]], attrs));
    assert_eq!(unary("Relu", &[]), 256);
    assert_eq!(unary("Tanh", &[]), 2560);
    assert_eq!(unary("Softmax", &[]), 256 * 14);
    assert_eq!(unary("Transpose", &[]), 0);
    assert_eq!(unary("MaxPool", &[("kernel_shape", Attr::Ints(vec![3, 3]))]), 256 * 9);
    assert_eq!(unary("Unheard-of", &[]), 256);
    assert_eq!(flops_of(&one("ReduceMean", &[(&[2, 100], false)], &[&[2, 1]], &[])), 200);
    assert_eq!(flops_of(&one("GlobalAveragePool", &[(&[1, 8, 7, 7], false)], &[&[1, 8, 1, 1]], &[])), 392);
    let resize =
        |mode: &str| flops_of(&one("Resize", &[(&[1, 1, 2, 2], false)], &[&[1, 1, 4, 4]], &[("mode", text(mode))]));
    assert_eq!((resize("nearest"), resize("linear")), (0, 128));
    // A table of a million rows is held, ten rows are read.
    let g = one("Gather", &[(&[1_000_000, 8], true), (&[10], false)], &[&[10, 8]], &[]);
    let work = node_work(&g, NodeId(0), 1).unwrap();
    assert_eq!((work.read.0, work.written.0, work.weights.0), (320 + 40, 320, 32_000_000));
    let g = one("Reshape", &[(&[1, 8], false), (&[2], true)], &[&[8]], &[]);
    assert_eq!(node_work(&g, NodeId(0), 1).unwrap().traffic().0, 0);
}

#[test]
fn the_batch_scales_and_unknown_shapes_are_none() {
    let mut b = builder();
    let shape = Some(vec![Dim::Batch { per_item: 1 }, Dim::Known(4)]);
    b.input("x", Fact { shape, ..fact(DType::F32, &[]) }).unwrap();
    let shape = Some(vec![Dim::Batch { per_item: 2 }, Dim::Known(4)]);
    b.declare("y", Fact { shape, ..fact(DType::F32, &[]) });
    for (i, o) in [("x", "y"), ("y", "z")] {
        b.node(NodeDraft { op: "Add".into(), inputs: vec![i.into()], outputs: vec![o.into()], ..Default::default() });
    }
    b.output("z");
    let g = b.finish(Fingerprint::of(b"")).unwrap();
    assert_eq!(node_work(&g, NodeId(0), 8).unwrap().flops.0, 64);
    assert_eq!(node_work(&g, NodeId(1), 8), None);
    let work = graph_work(&g, 8);
    assert_eq!((work.total.flops.0, work.unknown), (64, 1));
    let both = device_work(&g, &[NodeId(0), NodeId(1)], 8);
    assert_eq!(both.to_string(), "64 flop, 384 B moved; work of 1 unknown");
    // What is not known is no zero.
    let unknown = device_work(&g, &[NodeId(1)], 8);
    assert_eq!(unknown, DeviceWork { operators: 1, unknown: 1, flops: None, moved: None });
    assert_eq!(unknown.to_string(), "work of 1 unknown");
    assert_eq!(device_work(&g, &[], 8).to_string(), "0 flop, 0 B moved");
}

/// A body that multiplies a captured value by a captured 4 x 4 weight.
fn body(times: usize) -> Graph {
    let mut b = builder();
    b.captured("x", fact(DType::F16, &[1, 4])).unwrap();
    b.captured("w", fact(DType::F16, &[4, 4])).unwrap();
    b.constant("own", fact(DType::F16, &[10]), constant(20, None)).unwrap();
    let mut last = "x".to_owned();
    for i in 0..times {
        let next = format!("m{i}");
        b.declare(&next, fact(DType::F16, &[1, 4]));
        b.node(NodeDraft {
            op: "MatMul".into(),
            inputs: vec![last, "w".into()],
            outputs: vec![next.clone()],
            ..Default::default()
        });
        last = next;
    }
    b.output(&last);
    b.finish(Fingerprint::of(b"")).unwrap()
}

fn control(op: &str, bodies: &[(&str, Graph)], first: &str, attrs: &[(&str, Attr)]) -> Graph {
    let mut b = builder();
    b.input("x", fact(DType::F16, &[1, 4])).unwrap();
    b.input("series", fact(DType::F16, &[25, 2, 3])).unwrap();
    b.input("condition", fact(DType::Bool, &[])).unwrap();
    b.constant("w", fact(DType::F16, &[4, 4]), constant(32, None)).unwrap();
    b.constant("seven", fact(DType::I64, &[]), constant(8, Some(vec![7]))).unwrap();
    b.node(NodeDraft {
        op: op.into(),
        inputs: vec![first.into()],
        captures: vec!["x".into(), "w".into()],
        outputs: vec!["y".into()],
        bodies: bodies.iter().map(|(k, g)| ((*k).to_owned(), g.clone())).collect(),
        attrs: attrs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect(),
        ..Default::default()
    });
    b.output("y");
    b.finish(Fingerprint::of(b"")).unwrap()
}

#[test]
fn control_flow_looks_inside() {
    let g = control("If", &[("then_branch", body(1)), ("else_branch", body(3))], "condition", &[]);
    let work = node_work(&g, NodeId(0), 1).unwrap();
    assert_eq!((work.flops.0, work.dtype), (3 * 2 * 16, DType::F16));
    assert_eq!(work.weights.0, 32 + 20 + 20);
    assert_eq!(work.dispatched, 1 + 3);
    let g = control("Loop", &[("body", body(2))], "seven", &[]);
    assert_eq!(node_work(&g, NodeId(0), 1).unwrap().flops.0, 7 * 2 * 2 * 16);
    assert_eq!(node_work(&g, NodeId(0), 1).unwrap().dispatched, 1 + 7 * 2);
    assert_eq!(graph_work(&g, 1).unknown, 0);
    let g = control("Loop", &[("body", body(2))], "x", &[]);
    assert_eq!(node_work(&g, NodeId(0), 1).unwrap().flops.0, 2 * 2 * 16);
    assert_eq!(graph_work(&g, 1).unknown, 1, "one trip of nobody knows how many");
    let mut g = control("Loop", &[("body", body(2))], "x", &[]);
    // Its only output is stacked: five slices are five trips.
    let y = g.outputs[0];
    g.tensors[y.index()].fact = fact(DType::F16, &[5, 1, 4]);
    assert_eq!(node_work(&g, NodeId(0), 1).unwrap().flops.0, 5 * 2 * 2 * 16);
    assert_eq!(graph_work(&g, 1).unknown, 0);
    let mut blind = body(1);
    blind.tensors.iter_mut().for_each(|t| t.fact.shape = None);
    let g = control("If", &[("then_branch", blind.clone()), ("else_branch", blind.clone())], "condition", &[]);
    assert_eq!((node_work(&g, NodeId(0), 1), graph_work(&g, 1).unknown), (None, 1), "unknown is no zero");
    let g = control("If", &[("then_branch", body(1)), ("else_branch", blind)], "condition", &[]);
    assert_eq!(node_work(&g, NodeId(0), 1).unwrap().flops.0, 2 * 16);
    assert_eq!(graph_work(&g, 1).unknown, 1, "the other branch is not forgotten");
    let scan = [("num_scan_inputs", Attr::Int(1)), ("scan_input_axes", Attr::Ints(vec![0]))];
    let g = control("Scan", &[("body", body(1))], "series", &scan);
    assert_eq!(node_work(&g, NodeId(0), 1).unwrap().flops.0, 25 * 2 * 16);
}
