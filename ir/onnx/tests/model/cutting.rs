//! Pieces of models: what they hold, how their nodes are called, where weights are.

use tandem_ir::{Dim, NodeId, Origin, segment};
use tandem_onnx::cut::{CutError, boundary, cut, cut_whole, node_of, original};
use tandem_onnx::import::Model;
use tandem_onnx_proto::{
    AttributeProto, Blob, DimValue, Message, ModelProto, TensorProto, TypeProto, ValueInfoProto, data_location,
    data_type,
};

use crate::build::*;
use crate::importing::branching;

/// `x -> MatMul(w) -> h -> Relu -> r -> Add(cast of w16) -> y`, w large, w16 half precision.
fn layers() -> ModelProto {
    let nodes = vec![
        node("MatMul", &["x", "w"], &["h"]),
        node("Relu", &["h"], &["r"]).named("n7_trick"),
        node("Cast", &["w16"], &["w32"]).with(AttributeProto::int("to", 1)),
        node("Add", &["r", "w32"], &["y"]),
    ];
    let mut g = graph(nodes, &["x"], &["y"]);
    g.initializer.push(weight("w", 1000));
    g.initializer.push(TensorProto::from_raw("w16", data_type::FLOAT16, &[10], vec![0u8; 20]));
    g.value_info.push(ValueInfoProto::tensor("r", data_type::FLOAT, &[DimValue::from(2), DimValue::from(10)]));
    model(g)
}

fn piece(model: &Model, names: &[&str]) -> tandem_onnx::cut::SegmentImage {
    let mut nodes: Vec<NodeId> = names.iter().map(|n| maker(model, n)).collect();
    nodes.sort_unstable();
    let (inputs, outputs) = boundary(&model.graph, &nodes);
    cut(model, &nodes, &inputs, &outputs).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn folded_nodes_go_with_their_readers() {
    let model = read(&layers());
    let image = piece(&model, &["y"]);
    assert_eq!((image.inputs.as_slice(), image.outputs.as_slice()), (&["r".to_owned()][..], &["y".to_owned()][..]));
    let g = look_graph(&image);
    assert_eq!(names(&g.node), ["f2_Cast", "n3_Add"]);
    assert_eq!(g.initializer.len(), 1);
    assert_eq!(node_of("f2_Cast"), Some((NodeId(2), true)));
    assert_eq!(node_of("n3_Add"), Some((NodeId(3), false)));
    assert_eq!(node_of("n3x_Add"), None);
    assert_eq!(node_of("né"), None);
    let front = look_graph(&piece(&model, &["h", "r"]));
    assert_eq!(names(&front.node), ["n0_MatMul", "n1_Relu"]);
    assert!(front.output[0].r#type.is_none(), "engines infer outputs");
}

#[test]
fn large_weights_are_beside_and_held_once() {
    let model = read(&layers());
    let (whole, part) = (cut_whole(&model).expect("cut"), piece(&model, &["h"]));
    let g = look_graph(&part);
    assert_eq!(g.initializer[0].data_location, data_location::EXTERNAL);
    assert_eq!(g.initializer[0].external_data[0].value, "w");
    assert_eq!(part.weights[0].data.as_ptr(), whole.weights[0].data.as_ptr(), "one memory for all images");
    assert_eq!(part.weights[0].data.as_ptr().align_offset(4), 0);
    assert_eq!(part.weights[0].data.len(), 4000);
    let inline = ModelProto::decode(&Blob::from(part.inline())).expect("a model").graph.expect("a graph");
    assert_eq!(inline.initializer, [weight("w", 1000)]);
}

#[test]
fn declared_sizes_are_not_trusted_inside() {
    let mut model = read(&layers());
    let of = |image: &tandem_onnx::cut::SegmentImage| {
        let r#type = look_graph(image).input[0].r#type.clone().expect("typed");
        let shape = r#type.as_tensor().expect("a tensor").shape.clone().expect("a rank");
        shape.dim.into_iter().map(|d| d.value.expect("a size")).collect::<Vec<DimValue>>()
    };
    let open = of(&piece(&model, &["y"]));
    assert!(matches!(&open[..], [DimValue::Param(a), DimValue::Param(b)] if a != b), "{open:?}");
    let r = tensor(&model, "r");
    let fact = &mut model.graph.tensors[r.index()].fact;
    fact.shape = Some(vec![Dim::Batch { per_item: 1 }, Dim::Known(10)]);
    fact.origin = Origin::Observed;
    let observed = of(&piece(&model, &["y"]));
    assert!(matches!(&observed[..], [DimValue::Param(_), DimValue::Value(10)]), "{observed:?}");
    // The graph's own input keeps what the file says.
    assert_eq!(of(&piece(&model, &["h"])), [DimValue::from("n")]);
}

#[test]
fn wrong_cuts_are_named() {
    let model = read(&layers());
    let id = |n: &str| tensor(&model, n);
    let y = maker(&model, "y");
    let unfed = cut(&model, &[y], &[], &[id("y")]).expect_err("r is missing");
    assert_eq!(unfed, CutError::Unfed { node: "y".into(), tensor: "r".into() });
    let not_made = cut(&model, &[y], &[id("r")], &[id("h")]).expect_err("h is elsewhere");
    assert_eq!(not_made, CutError::OutputNotMade { tensor: "h".into() });
    let inside = cut(&model, &[y], &[id("r"), id("y")], &[id("y")]).expect_err("y is made");
    assert_eq!(inside, CutError::InputMadeInside { tensor: "y".into(), node: "y".into() });
    assert!(matches!(cut(&model, &[NodeId(99)], &[], &[]), Err(CutError::NoSuchNode { node: 99, .. })));
    let relu = cut(&model, &[maker(&model, "r")], &[id("h")], &[id("r")]).expect_err("nobody declared h");
    assert_eq!(relu, CutError::Untyped { tensor: "h".into() });
}

#[test]
fn bodies_keep_their_captures() {
    let mut g = branching();
    let far = ValueInfoProto::tensor("far", data_type::FLOAT, &[DimValue::from("n")]);
    g.value_info.push(far);
    // A name in a body that looks like one of ours.
    g.node[1].attribute[0].g.as_mut().expect("a branch").node[0].name = "n5_Add".into();
    let model = read(&model(g));
    let image = piece(&model, &["y"]);
    let mut inputs = image.inputs.clone();
    inputs.sort_unstable();
    assert_eq!(inputs, ["c", "far", "x"]);
    let g = look_graph(&image);
    assert_eq!(g.initializer[0].name, "w");
    let body = g.node[0].attribute[0].g.as_ref().expect("a branch");
    assert_eq!(body.node[0].name, "b_n5_Add");
    assert_eq!(body.node[0].input, ["w", "x"]);
}

#[test]
fn sequences_keep_their_type() {
    let nodes = vec![
        node("SplitToSequence", &["x"], &["s"]),
        node("SequenceLength", &["s"], &["l"]),
        node("Identity", &["s"], &["out"]),
    ];
    let mut g = graph(nodes, &["x"], &[]);
    let sequence = TypeProto::sequence(TypeProto::tensor(data_type::FLOAT, None));
    g.value_info.push(ValueInfoProto { name: "s".into(), r#type: Some(sequence.clone()), ..Default::default() });
    g.output.push(ValueInfoProto { name: "out".into(), r#type: Some(sequence.clone()), ..Default::default() });
    let model = read(&model(g));
    assert_eq!(segment::uncuttable(&model.graph).len(), 2);
    let image = piece(&model, &["l"]);
    assert_eq!(look_graph(&image).input[0].r#type, Some(sequence));
}

#[test]
fn pieces_of_any_labelling_fit_together() {
    let mut nodes = vec![];
    for i in 0..40usize {
        let inputs = [format!("t{}", i.saturating_sub(i % 7)), format!("t{i}")];
        nodes.push(tandem_onnx_proto::NodeProto::new("Add", &inputs, &[format!("t{}", i + 1)]));
    }
    let mut g = graph(nodes, &["t0"], &["t40", "t13"]);
    g.value_info = (1..40).map(|i| float(&format!("t{i}"))).collect();
    let model = read(&model(g));
    for seed in 0..50u64 {
        let labels: Vec<usize> = (0..40u64).map(|i| (((i * 31 + seed * 17) * (seed + 3)) >> 3) as usize % 3).collect();
        let groups = segment::form(&model.graph, &labels);
        let mut known: Vec<String> = vec!["t0".into()];
        for (_, nodes) in &groups {
            let (inputs, outputs) = boundary(&model.graph, nodes);
            let image = cut(&model, nodes, &inputs, &outputs).unwrap_or_else(|e| panic!("{e}"));
            assert!(image.inputs.iter().all(|i| known.contains(i)), "inputs come from pieces before");
            known.extend(image.outputs);
        }
        assert!(known.contains(&"t40".to_owned()) && known.contains(&"t13".to_owned()));
    }
}

#[test]
fn the_original_is_the_file() {
    let proto = layers();
    let model = read(&proto);
    let image = original(&model);
    assert_eq!(&image.model[..], proto.encode());
    assert!(image.weights.is_empty());
    assert_eq!((image.inputs, image.outputs), (vec!["x".to_owned()], vec!["y".to_owned()]));
}

#[test]
fn a_model_without_nodes_has_an_empty_image() {
    let model = read(&model(graph(vec![], &["x"], &["x"])));
    let image = cut_whole(&model).expect("cut");
    assert!(image.outputs.is_empty() && look_graph(&image).node.is_empty());
}

#[test]
fn a_body_is_a_model_of_its_own() {
    let model = read(&model(branching()));
    let inputs = |model: &Model| -> Vec<String> {
        model.graph.inputs.iter().map(|t| model.graph.tensor(*t).name.clone()).collect()
    };
    let branch = maker(&model, "y");
    let then = model.body(branch, "then_branch").expect("a branch");
    assert_eq!(inputs(&then), ["x"], "what it captures, weights left out");
    let image = cut_whole(&then).expect("cut");
    assert_eq!((image.inputs.as_slice(), image.outputs.as_slice()), (&["x".to_owned()][..], &["r".to_owned()][..]));
    assert_eq!(look_graph(&image).initializer, [weight("w", 1)]);

    let otherwise = model.body(branch, "else_branch").expect("a branch");
    let mut read = inputs(&otherwise);
    read.sort_unstable();
    assert_eq!(read, ["c", "far"], "its own x is a constant");
    let around = &model.graph.node(branch).bodies["else_branch"];
    let ops = |graph: &tandem_ir::Graph| graph.nodes.iter().map(|n| (n.op.clone(), n.folded)).collect::<Vec<_>>();
    assert_eq!(ops(&otherwise.graph), ops(around), "the same nodes, folded or not");
    let deep = otherwise.body(maker(&otherwise, "n"), "then_branch").expect("a branch in a branch");
    assert_eq!(inputs(&deep), ["far"]);
    assert!(model.body(branch, "body").is_none());
}
