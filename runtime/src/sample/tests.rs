use tandem_ir::graph::{Constant, NodeDraft};
use tandem_ir::{Dim, Fact, Fingerprint, GraphBuilder, Origin};

use super::*;

fn fact(dtype: DType, dims: &[u64]) -> Fact {
    let shape = Some(dims.iter().map(|d| Dim::Known(*d)).collect());
    Fact { dtype: Some(dtype), shape, origin: Origin::Declared, ..Fact::default() }
}

fn opsets() -> BTreeMap<String, i64> {
    [(String::new(), 18), ("com.microsoft".into(), 1)].into()
}

fn constant(builder: &mut GraphBuilder, name: &str, dims: &[u64], values: Option<Vec<i64>>) {
    let constant = Constant { bytes: 8, values, digest: Fingerprint::of(name.as_bytes()) };
    builder.constant(name, fact(DType::I64, dims), constant).unwrap();
}

fn node(op: &str, inputs: &[&str], output: &str) -> NodeDraft {
    let strings = |v: &[&str]| v.iter().map(|s| (*s).to_owned()).collect();
    NodeDraft { op: op.into(), inputs: strings(inputs), outputs: strings(&[output]), ..NodeDraft::default() }
}

/// A graph with one i64 input `x` of shape 4x6, a table of 10x3, constants one and five, and these nodes.
fn graph(name: &str, nodes: Vec<NodeDraft>) -> Graph {
    let mut builder = GraphBuilder::new("g", 8, opsets());
    builder.input(name, fact(DType::I64, &[4, 6])).unwrap();
    constant(&mut builder, "table", &[10, 3], None);
    constant(&mut builder, "one", &[], Some(vec![1]));
    constant(&mut builder, "five", &[], Some(vec![5]));
    let last = nodes.last().unwrap().outputs[0].clone();
    nodes.into_iter().for_each(|n| builder.node(n));
    builder.output(&last);
    builder.finish(Fingerprint::of(b"")).unwrap()
}

fn i64s(value: &Value) -> Vec<i64> {
    let Value::Tensor(t) = value else { panic!("{value:?}") };
    assert_eq!(t.dtype, DType::I64);
    t.bytes().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
}

fn sample(graph: &Graph) -> Result<Vec<i64>, SampleError> {
    random_inputs(graph, &BTreeMap::new(), 3).map(|v| i64s(&v[0]))
}

fn range(nodes: Vec<NodeDraft>) -> (i64, i64) {
    let mut all = vec![];
    for seed in 0..50 {
        all.extend(i64s(&random_inputs(&graph("x", nodes.clone()), &BTreeMap::new(), seed).unwrap()[0]));
    }
    (*all.iter().min().unwrap(), *all.iter().max().unwrap())
}

#[test]
fn indices_stay_within_what_they_index() {
    assert_eq!(range(vec![node("Gather", &["table", "x"], "y")]), (0, 9));
    let mut gather = node("GatherElements", &["table", "x"], "y");
    gather.attrs.insert("axis".into(), tandem_ir::graph::Attr::Int(-1));
    assert_eq!(range(vec![gather]), (0, 2));
    assert_eq!(range(vec![node("OneHot", &["x", "five", "one"], "y")]), (0, 4));
    // The last axis of x has 6 parts, more than the table has axes: nothing is known of such a tuple.
    assert!(sample(&graph("x", vec![node("GatherND", &["table", "x"], "y")])).is_err());
}

#[test]
fn ranges_are_followed_through_what_hands_values_on() {
    let through = vec![
        node("Unsqueeze", &["x", "one"], "a"),
        node("Cast", &["a"], "b"),
        node("Add", &["five", "b"], "c"),
        node("Where", &["mask", "c", "c"], "d"),
        node("Gather", &["table", "d"], "y"),
        node("Equal", &["x", "one"], "mask"),
    ];
    assert_eq!(range(through), (0, 4), "5 is added before indexing 10");
    // The tightest of several readers counts.
    let two = vec![node("OneHot", &["x", "five", "one"], "y"), node("Gather", &["table", "x"], "z")];
    assert_eq!(range(two), (0, 4));
    assert_eq!(range(vec![node("Relu", &["x"], "y")]), (0, 7), "nothing demanded");
}

#[test]
fn a_range_that_cannot_be_told_is_asked_for() {
    let error = |nodes| sample(&graph("x", nodes)).unwrap_err().to_string();
    let computed = error(vec![node("Mul", &["x", "x"], "m"), node("Gather", &["table", "m"], "y")]);
    assert!(
        computed.starts_with("no random values can be made for input \"x\": Gather \"y\" demands a range of what is")
    );
    assert!(computed.ends_with("give some with --sample FILE.npz"), "{computed}");
    let unknown =
        error(vec![node("Relu", &["table"], "t"), node("NonZero", &["x"], "n"), node("Gather", &["n", "x"], "y")]);
    assert!(unknown.contains("an axis whose size is not known"), "{unknown}");
    assert!(error(vec![node("Reshape", &["table", "x"], "y")]).contains("takes it as a shape"));
    let below = error(vec![node("Sub", &["x", "five"], "s"), node("Gather", &["table", "s"], "y")]);
    assert!(below.contains("after adding -5"), "{below}");
    // A comparison bounds its result, whatever is compared: position ids made from padding are fine.
    let compared = vec![
        node("Equal", &["x", "one"], "e"),
        node("Cast", &["e"], "c"),
        node("CumSum", &["c", "one"], "p"),
        node("Gather", &["table", "p"], "y"),
    ];
    assert!(sample(&graph("x", compared)).is_ok());
}

#[test]
fn names_say_what_they_hold() {
    let named = |name: &str| sample(&graph(name, vec![node("Relu", &[name], "y")])).unwrap();
    assert!(named("attention_mask").iter().all(|v| *v == 1));
    assert!(named("token_type_ids").iter().all(|v| *v == 0));
    assert_eq!(named("position_ids")[..7], [0, 1, 2, 3, 4, 5, 0]);
    let positions = graph("position_ids", vec![node("OneHot", &["position_ids", "five", "one"], "y")]);
    assert_eq!(sample(&positions).unwrap()[..7], [0, 1, 2, 3, 4, 0, 0]);
}

#[test]
fn counts_and_lengths_are_small() {
    let wants = |op: &str, inputs: &[&str]| range(vec![node(op, inputs, "y")]);
    assert_eq!(wants("TopK", &["table", "x"]), (1, 1));
    assert_eq!(wants("Tile", &["table", "x"]), (1, 2));
    assert_eq!(wants("Expand", &["table", "x"]), (1, 1));
    assert_eq!(wants("Mod", &["table", "x"]), (1, 4));
    assert_eq!(wants("ReduceSum", &["table", "x"]), (0, 5));
    assert_eq!(wants("SoftmaxCrossEntropyLoss", &["table", "x"]), (0, 2));
    assert_eq!(wants("LSTM", &["table", "table", "table", "", "x"]), (1, 10));
}

#[test]
fn bodies_are_looked_into() {
    let mut body = GraphBuilder::new("b", 8, opsets());
    body.captured("x", fact(DType::I64, &[4, 6])).unwrap();
    body.captured("table", Fact::default()).unwrap();
    body.node(node("Gather", &["table", "x"], "inner"));
    body.output("inner");
    let body = body.finish(Fingerprint::of(b"b")).unwrap();
    let mut choice = node("If", &["condition"], "y");
    choice.captures = vec!["x".into(), "table".into()];
    choice.bodies = [("then_branch".to_owned(), body)].into();
    assert_eq!(range(vec![node("Equal", &["one", "one"], "condition"), choice]), (0, 9));

    let mut body = GraphBuilder::new("b", 8, opsets());
    for name in ["i", "go", "state"] {
        body.input(name, fact(DType::I64, &[])).unwrap();
    }
    body.captured("five", Fact::default()).unwrap();
    body.node(node("OneHot", &["state", "five", "five"], "inner"));
    body.output("inner");
    let body = body.finish(Fingerprint::of(b"b")).unwrap();
    let mut looped = node("Loop", &["five", "", "x"], "y");
    looped.captures = vec!["five".into()];
    looped.bodies = [("body".to_owned(), body)].into();
    assert_eq!(range(vec![looped]), (0, 4));
}

#[test]
fn every_type_is_filled_and_seeded() {
    for dtype in DType::ALL {
        let mut builder = GraphBuilder::new("g", 8, opsets());
        let free = Fact { shape: Some(vec![Dim::Symbol("n".into()), Dim::Known(5)]), ..fact(*dtype, &[]) };
        builder.input("in:0", free).unwrap();
        builder.node(node("Identity", &["in:0"], "y"));
        builder.output("y");
        let graph = builder.finish(Fingerprint::of(b"")).unwrap();
        let dims = BTreeMap::from([("in:0".to_owned(), vec![64, 5])]);
        let [a, b, c] = [1, 1, 2].map(|seed| random_inputs(&graph, &dims, seed).unwrap());
        assert!(a == b && a != c, "{dtype}");
        let Value::Tensor(t) = &a[0] else { panic!() };
        assert_eq!((t.dtype, t.dims.as_slice()), (*dtype, &[64, 5][..]));
        if dtype.bits() == 8 || dtype.bits() > 8 || *dtype == DType::String {
            let rows = crate::rows::rows(&a[0], 0).unwrap();
            assert!(rows[0] != rows[1], "rows of {dtype} differ");
        }
        if dtype.is_float() {
            assert!(crate::compare::compare(&[], &a, &b).is_equal());
            assert!(!t.bytes().contains(&0xff) || dtype.bits() != 8, "no NaN");
        }
        assert!(random_inputs(&graph, &BTreeMap::new(), 1).unwrap_err().to_string().contains("not bound"));
    }
}

#[test]
fn floats_are_standard_normal() {
    let mut builder = GraphBuilder::new("g", 8, opsets());
    builder.input("image", fact(DType::F32, &[10_000])).unwrap();
    builder.input("scale", fact(DType::F32, &[100])).unwrap();
    constant(&mut builder, "q", &[100], None);
    builder.node(node("DequantizeLinear", &["q", "scale"], "y"));
    builder.output("y");
    let graph = builder.finish(Fingerprint::of(b"")).unwrap();
    let values = random_inputs(&graph, &BTreeMap::new(), 9).unwrap();
    let floats = |v: &Value| -> Vec<f32> {
        let Value::Tensor(t) = v else { panic!() };
        t.bytes().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let x = floats(&values[0]);
    let mean = x.iter().sum::<f32>() / 10_000.0;
    let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / 10_000.0;
    assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    assert!(floats(&values[1]).iter().all(|v| (0.5..=1.5).contains(v)), "a scale is positive");
}

#[test]
fn what_is_no_tensor_or_too_large_is_refused() {
    let with = |fact: Fact| {
        let mut builder = GraphBuilder::new("g", 8, opsets());
        builder.input("x", fact).unwrap();
        builder.output("x");
        random_inputs(&builder.finish(Fingerprint::of(b"")).unwrap(), &BTreeMap::new(), 1).unwrap_err().why
    };
    assert_eq!(with(Fact { kind: Kind::Sequence, ..fact(DType::F32, &[]) }), "it is a Sequence, not a tensor");
    assert_eq!(with(Fact { dtype: None, ..fact(DType::F32, &[1]) }), "its element type is not known");
    assert!(with(fact(DType::F32, &[1 << 40, 1 << 40])).contains("is larger than"));
}
