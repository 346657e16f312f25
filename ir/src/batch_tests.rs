use super::*;
use crate::fingerprint::Fingerprint;
use crate::graph::{GraphBuilder, NodeDraft};

/// `?` is unknown, digits are known, the rest are symbols.
fn inputs(list: &[(&str, &str)]) -> Graph {
    let mut b = GraphBuilder::new("g", 8, Default::default());
    for (name, dims) in list {
        let dim = |d: &str| match (d, d.parse()) {
            ("?", _) => Dim::Unknown,
            (_, Ok(n)) => Dim::Known(n),
            (s, _) => Dim::Symbol(s.into()),
        };
        let shape = Some(dims.split_whitespace().map(dim).collect());
        let fact = Fact { dtype: Some(DType::F32), shape, origin: Origin::Declared, ..Fact::default() };
        b.input(name, fact).unwrap();
    }
    let output = |o: &str| NodeDraft {
        op: "Op".into(),
        inputs: vec![list[0].0.into()],
        outputs: vec![o.into()],
        ..NodeDraft::default()
    };
    for o in ["y", "flat", "nonzero", "plus"] {
        b.node(output(o));
        b.output(o);
    }
    b.finish(Fingerprint::of(b"")).unwrap()
}

fn shown(p: &BatchProposal, input: &str) -> String {
    let one = |d: &Option<BoundDim>| d.map_or("_".into(), |d| dim(d).to_string());
    p.inputs[input].iter().map(one).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_named_batch_is_found_on_any_axis() {
    let p = propose(&inputs(&[("x", "batch 3 h w"), ("h", "2 batch 128"), ("sr", ""), ("w", "2*batch 5")]));
    assert_eq!(shown(&p, "x"), "N 3 _ _");
    assert_eq!(shown(&p, "h"), "2 N 128");
    assert_eq!(shown(&p, "w"), "2N 5");
    assert_eq!(p.equal_only, ["sr"]);
    assert_eq!(
        p.free.iter().map(|f| (f.axis, f.symbol.as_deref())).collect::<Vec<_>>(),
        [(2, Some("h")), (3, Some("w"))]
    );
    assert_eq!(p.binding(), None);
    let p = propose(&inputs(&[("x", "N 80 3000")]));
    assert_eq!(p.binding().unwrap()["x"], [BoundDim::Batch(1), BoundDim::Fixed(80), BoundDim::Fixed(3000)]);
}

#[test]
fn a_common_or_unnamed_first_axis_is_the_batch() {
    let p = propose(&inputs(&[("ids", "dyn0 128"), ("mask", "dyn0 128")]));
    assert_eq!((shown(&p, "ids"), shown(&p, "mask")), ("N 128".into(), "N 128".into()));
    let p = propose(&inputs(&[("a", "? 3"), ("b", "? 4")]));
    assert!(p.batches() && p.free.is_empty());
    let p = propose(&inputs(&[("a", "? 3"), ("b", "2 4")]));
    assert!(!p.batches() && p.free.len() == 1);
}

#[test]
fn time_and_atoms_are_no_batch() {
    for (a, b) in [("num_atoms 3", "num_edges 2"), ("seq_len 80", "seq_len 1"), ("T 80", "? 5")] {
        let p = propose(&inputs(&[("a", a), ("b", b)]));
        assert!(!p.batches() && !p.notes.is_empty(), "{p:?}");
    }
    let p = propose(&inputs(&[("a", "x 3"), ("b", "y 2")]));
    assert!(!p.batches(), "different names: {p:?}");
    let p = propose(&inputs(&[("a", "1 3 224 224")]));
    assert!(p.binding().is_some() && !p.batches());
}

#[test]
fn notes_follow_what_the_inputs_are_made() {
    let graph = inputs(&[("input", "? ?"), ("state", "2 ? 128"), ("rate", "")]);
    let mut p = propose(&graph);
    assert!(p.notes.iter().any(|n| n.contains("batch 1 only")), "{:?}", p.notes);
    p.inputs.insert("input".into(), vec![Some(BoundDim::Batch(1)), Some(BoundDim::Fixed(576))]);
    p.note_anew(&graph);
    assert!(!p.notes.iter().any(|n| n.contains("batch 1 only")), "{:?}", p.notes);
    assert_eq!(p.equal_only, ["state", "rate"]);
}

#[test]
fn bindings_are_checked_and_applied() {
    use BoundDim::{Batch, Fixed};
    let mut g = inputs(&[("x", "batch 3 h h"), ("s", "")]);
    let bound = |dims: &[BoundDim]| Binding::from([("x".to_owned(), dims.to_vec())]);
    assert_eq!(bind(&mut g.clone(), &bound(&[Batch(1), Fixed(3), Fixed(8), Fixed(8)])), Ok(vec![]));
    let warnings = bind(&mut g.clone(), &bound(&[Batch(1), Fixed(4), Fixed(8), Fixed(9)])).unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    for bad in [bound(&[Fixed(1)]), bound(&[Batch(0), Fixed(3), Fixed(8), Fixed(8)]), Binding::new()] {
        assert_eq!(bind(&mut g.clone(), &bad).unwrap_err().len(), 1);
    }
    let unknown = Binding::from([("z".to_owned(), vec![])]);
    assert_eq!(bind(&mut g.clone(), &unknown).unwrap_err().len(), 2);
    bind(&mut g, &bound(&[Batch(1), Fixed(3), Fixed(8), Fixed(8)])).unwrap();
    assert_eq!(g.tensors[0].fact.dims_at(5), Some(vec![5, 3, 8, 8]));
}

fn run(batch: u64, values: &[(&str, &[u64])]) -> Run {
    let values = values.iter().map(|(n, d)| ((*n).to_owned(), (DType::F32, d.to_vec()))).collect();
    (batch, Seen { values, ..Seen::default() })
}

#[test]
fn observed_sizes_become_facts() {
    // An LSTM-like output with the batch second, a flattened one, a data-dependent one, one that is batch plus one.
    let mut g = inputs(&[("x", "batch 7")]);
    let at = |b: u64, found: u64| {
        run(
            b,
            &[
                ("x", &[b, 7]),
                ("y", &[2, b, 64]),
                ("flat", &[b * 128, 64]),
                ("nonzero", &[4, found]),
                ("plus", &[b + 1]),
            ],
        )
    };
    let findings = apply_observations(&mut g, &[at(1, 11), at(2, 13), at(3, 40)]);
    assert_eq!(findings, []);
    let facts: HashMap<&str, String> = g.tensors.iter().map(|t| (t.name.as_str(), t.fact.to_string())).collect();
    assert_eq!(facts["x"], "f32[Nx7]");
    assert_eq!(facts["y"], "f32[2xNx64]");
    assert_eq!(facts["flat"], "f32[128Nx64]");
    assert_eq!(facts["nonzero"], "f32[4x?]");
    assert_eq!(facts["plus"], "f32[?]");
    assert!(g.tensors.iter().all(|t| t.fact.origin == Origin::Observed));
    apply_runs(&mut g, &[run(1, &[("x", &[9, 9])])], Origin::Inferred);
    assert_eq!(g.tensors[0].fact.to_string(), "f32[Nx7]", "what was observed stays");
}

#[test]
fn one_run_tells_sizes_at_its_batch_alone() {
    let mut g = inputs(&[("x", "batch 7")]);
    let findings = apply_observations(&mut g, &[run(1, &[("x", &[1, 8]), ("y", &[1, 5])])]);
    assert_eq!(g.tensors[0].fact.to_string(), "f32[1x8]");
    assert_eq!(findings.len(), 1, "the file declared 7: {findings:?}");
    let ragged = [run(1, &[("y", &[1, 2])]), run(2, &[("y", &[2])])];
    apply_observations(&mut g, &ragged);
    assert_eq!(g.tensors.iter().find(|t| t.name == "y").unwrap().fact.shape, None);
}

#[test]
fn sizes_that_depend_on_the_data_stay_open() {
    let mut b = GraphBuilder::new("g", 8, Default::default());
    let fact = Fact { dtype: Some(DType::F32), ..Fact::default() };
    b.input("x", fact).unwrap();
    let node = |op: &str, input: &str, output: &str| NodeDraft {
        op: op.into(),
        inputs: vec![input.into()],
        outputs: vec![output.into()],
        ..NodeDraft::default()
    };
    b.node(node("NonZero", "x", "where"));
    b.node(node("Cast", "where", "cast"));
    b.node(node("Relu", "x", "plain"));
    ["cast", "plain"].iter().for_each(|o| b.output(o));
    let mut graph = b.finish(Fingerprint::of(b"")).unwrap();
    let seen = run(1, &[("x", &[2, 20]), ("where", &[2, 40]), ("cast", &[2, 40]), ("plain", &[2, 20])]);
    apply_observations(&mut graph, &[seen]);
    let index = graph.tensor_index();
    let shape = |n: &str| graph.tensor(index[n]).fact.to_string();
    assert_eq!([shape("where"), shape("cast"), shape("plain")], ["f32[2x?]", "f32[2x?]", "f32[2x20]"]);
}

#[test]
fn bodies_get_facts_from_runs_that_all_saw_them() {
    let body = || {
        let mut b = GraphBuilder::new("body", 8, Default::default());
        b.captured("x", Fact::default()).unwrap();
        let (inputs, outputs) = (vec!["x".into()], vec!["inner".into()]);
        b.node(NodeDraft { op: "Relu".into(), inputs, outputs, ..NodeDraft::default() });
        b.output("inner");
        b.finish(Fingerprint::of(b"")).unwrap()
    };
    let mut b = GraphBuilder::new("g", 8, Default::default());
    b.input("x", Fact::default()).unwrap();
    b.node(NodeDraft {
        op: "If".into(),
        inputs: vec!["x".into()],
        captures: vec!["x".into()],
        outputs: vec!["y".into()],
        bodies: ["then_branch", "else_branch"].map(|name| (name.to_owned(), body())).into(),
        ..NodeDraft::default()
    });
    b.output("y");
    let mut graph = b.finish(Fingerprint::of(b"")).unwrap();
    let mut runs: Vec<Run> = (1..=3).map(|n| run(n, &[("x", &[n, 4]), ("y", &[n, 4])])).collect();
    for (batch, seen) in &mut runs {
        let inside = run(*batch, &[("x", &[*batch, 4]), ("inner", &[*batch, 4])]).1;
        seen.bodies.insert((NodeId(0), "then_branch".to_owned()), inside.clone());
        if *batch == 1 {
            seen.bodies.insert((NodeId(0), "else_branch".to_owned()), inside);
        }
    }
    apply_observations(&mut graph, &runs);
    let shown = |name: &str| {
        let body = &graph.nodes[0].bodies[name];
        body.tensors.iter().map(|t| t.fact.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(shown("then_branch"), ["f32[Nx4]", "f32[Nx4]"]);
    assert_eq!(shown("else_branch"), ["?[..]", "?[..]"], "one size tells nothing of how it grows");
}
