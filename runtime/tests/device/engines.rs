//! Each engine: plain runs, values of every kind, errors, profiles.

use std::sync::Arc;

use tandem_ir::DType;
use tandem_onnx::cut::Weight;
use tandem_onnx::value::{Data, TensorValue, Value};
use tandem_onnx_proto::{AttributeProto, GraphProto, NodeProto, TypeProto, ValueInfoProto};
use tandem_runtime::device::ort::OrtEngine;
use tandem_runtime::engine::{Engine, EngineError, SessionOptions};

use crate::common::*;

fn node(op: &str, name: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto::new(op, inputs, outputs).named(name)
}

fn square_plus(weight: &[f32]) -> tandem_onnx::cut::SegmentImage {
    let bytes: Vec<u8> = weight.iter().flat_map(|v| v.to_le_bytes()).collect();
    let weight = Weight { name: "w/odd:0".into(), dtype: DType::F32, dims: vec![3], data: bytes.into() };
    let nodes = vec![node("Mul", "n0_Mul", &["x", "x"], &["xx"]), node("Add", "n1_Add", &["xx", "w/odd:0"], &["y:0"])];
    let kind = tensor(DType::F32, &[2, 3]);
    image_with(nodes, &[("x", kind.clone())], &[("y:0", kind)], vec![weight], 17)
}

#[test]
fn weights_beside_the_model_are_used() {
    for engine in engines("weights") {
        for optimize in [true, false] {
            let options = SessionOptions { optimize, ..SessionOptions::default() };
            let session = engine.load(&square_plus(&[10.0, 20.0, 30.0]), &options).expect("loads");
            let x = f32s(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
            for _ in 0..2 {
                let y = session.run(std::slice::from_ref(&x)).expect("runs");
                assert_eq!(read_f32s(&y[0]), [10.0, 21.0, 34.0, 19.0, 36.0, 55.0], "{}", engine.name());
            }
        }
    }
}

/// Weights pose as files, whose names ONNX Runtime takes for paths.
#[test]
fn weights_may_have_any_name() {
    let names = [
        "/a/b",
        "a//b",
        "../up",
        "a/../c",
        "./d",
        "463",
        "onnx::MatMul_7",
        "d/",
        "C:\\\\e",
        "ünï",
        " ",
        ".",
        "..",
        "/",
        "a/b",
    ];
    let nodes = (0..names.len()).map(|i| {
        let from = if i == 0 { "x".to_owned() } else { format!("y{}", i - 1) };
        node("Mul", &format!("n{i}"), &[&from, names[i]], &[&format!("y{i}")])
    });
    let weight = |i: usize| {
        let bytes = (1.0 + i as f32 / 64.0).to_le_bytes().repeat(3);
        Weight { name: names[i].into(), dtype: DType::F32, dims: vec![3], data: bytes.into() }
    };
    let weights: Vec<Weight> = (0..names.len()).map(weight).collect();
    let expected: f32 = (0..names.len()).map(|i| 1.0 + i as f32 / 64.0).product();
    let kind = tensor(DType::F32, &[3]);
    let last = format!("y{}", names.len() - 1);
    let image = image_with(nodes.collect(), &[("x", kind.clone())], &[(&last, kind)], weights, 17);
    for engine in engines("names of weights") {
        for optimize in [true, false] {
            let options = SessionOptions { optimize, ..SessionOptions::default() };
            let session = engine.load(&image, &options).unwrap_or_else(|e| panic!("{e}"));
            let found = read_f32s(&session.run(&[f32s(&[3], &[1.0; 3])]).expect("runs")[0]);
            assert!((found[0] - expected).abs() < 1e-5, "{}: {found:?} for {expected}", engine.name());
        }
    }
}

#[test]
fn outputs_outlive_their_session() {
    for engine in engines("lifetimes") {
        let session = engine.load(&square_plus(&[1.0, 1.0, 1.0]), &SessionOptions::default()).expect("loads");
        let y = session.run(&[f32s(&[2, 3], &[2.0; 6])]).expect("runs");
        drop(session);
        assert_eq!(read_f32s(&y[0]), [5.0; 6]);
    }
}

#[test]
fn wrong_inputs_are_errors_and_the_session_stays_usable() {
    for engine in engines("errors") {
        let session = engine.load(&square_plus(&[1.0, 1.0, 1.0]), &SessionOptions::default()).expect("loads");
        assert!(session.run(&[]).is_err());
        assert!(session.run(&[f32s(&[2, 4], &[0.0; 8])]).is_err());
        assert!(session.run(&[Value::Sequence(vec![])]).is_err());
        let short = TensorValue { dtype: DType::F32, dims: vec![2, 3], data: Data::Bytes(vec![0u8; 8].into()) };
        assert!(session.run(&[Value::Tensor(short)]).is_err());
        assert_eq!(read_f32s(&session.run(&[f32s(&[2, 3], &[2.0; 6])]).expect("runs")[0]), [5.0; 6]);
    }
}

#[test]
fn unknown_operators_are_unsupported() {
    let kind = tensor(DType::F32, &[1]);
    let image = image(vec![node("NoSuchThing", "n0", &["x"], &["y"])], &[("x", kind.clone())], &[("y", kind)]);
    for engine in engines("unknown operators") {
        let error = engine.load(&image, &SessionOptions::default()).err().expect("refused");
        assert!(matches!(error, EngineError::Unsupported { .. }), "{error:?}");
        assert!(error.to_string().contains("NoSuchThing"), "{error}");
    }
}

#[test]
fn damaged_models_are_errors() {
    for engine in engines("damaged models") {
        let mut image = square_plus(&[1.0, 1.0, 1.0]);
        let half = image.model.len() / 2;
        image.model = image.model[..half].to_vec().into();
        assert!(engine.load(&image, &SessionOptions::default()).is_err(), "{}", engine.name());
    }
}

#[test]
fn one_library_a_process() {
    let Some(engine) = ort("opening twice") else { return };
    assert!(engine.version().starts_with("1."), "{}", engine.version());
    assert_eq!(OrtEngine::open(engine.path()).expect("the same one").version(), engine.version());
    let other = std::env::current_exe().expect("this program");
    assert!(matches!(OrtEngine::open(&other), Err(EngineError::Missing { .. })));
    assert!(matches!(OrtEngine::open("no/such/file.so".as_ref()), Err(EngineError::Missing { .. })));
}

#[test]
fn an_output_that_is_an_input_is_our_own_copy() {
    let Some(engine) = ort("aliases") else { return };
    let kind = tensor(DType::F32, &[3]);
    let image = image(vec![node("Identity", "n0", &["x"], &["y"])], &[("x", kind.clone())], &[("y", kind)]);
    let session = engine.load(&image, &SessionOptions::default()).expect("loads");
    let x = f32s(&[3], &[1.0, 2.0, 3.0]);
    let y = session.run(std::slice::from_ref(&x)).expect("runs");
    drop(x);
    assert_eq!(read_f32s(&y[0]), [1.0, 2.0, 3.0]);
}

/// Identity over every element type that the interface takes.
#[test]
fn every_element_type_passes() {
    let Some(engine) = ort("element types") else { return };
    let mut refused = vec![];
    for dtype in DType::ALL.iter().copied() {
        let kind = tensor(dtype, &[2, 3]);
        let nodes = vec![node("Identity", "n0", &["x"], &["y"])];
        let image = image_with(nodes, &[("x", kind.clone())], &[("y", kind)], vec![], 23);
        let data = match dtype {
            DType::String => Data::Strings(Arc::new(
                [&b"a"[..], b"", b"nul\0inside", b"\xff\xfe", b"e", b"f"].map(<[u8]>::to_vec).into(),
            )),
            _ => Data::Bytes((0..dtype.bytes_of(6) as u8).map(|b| b & 1).collect::<Vec<u8>>().into()),
        };
        let x = Value::Tensor(TensorValue { dtype, dims: vec![2, 3], data });
        match engine.load(&image, &SessionOptions::default()) {
            Ok(session) => assert_eq!(session.run(std::slice::from_ref(&x)).expect("runs")[0], x, "{dtype}"),
            Err(EngineError::Unsupported { .. }) => refused.push(dtype.name()),
            Err(other) => panic!("{dtype}: {other}"),
        }
    }
    eprintln!("refused by {} {}: {refused:?}", engine.name(), engine.version());
    assert!(refused.len() <= 8, "{refused:?}");
}

/// Types narrower than a byte, which few operators take.
#[test]
fn packed_integers_are_fed() {
    let Some(engine) = ort("packed integers") else { return };
    let cast = node("Cast", "n0", &["x"], &["y"]).with(AttributeProto::int("to", 1));
    let ports = [("x", tensor(DType::I4, &[3]))];
    let image = image_with(vec![cast], &ports, &[("y", tensor(DType::F32, &[3]))], vec![], 21);
    let session = engine.load(&image, &SessionOptions::default()).expect("loads");
    let x = Value::Tensor(TensorValue::new(DType::I4, vec![3], vec![0xE1u8, 0x07]));
    assert_eq!(read_f32s(&session.run(&[x]).expect("runs")[0]), [1.0, -2.0, 7.0]);
}

#[test]
fn unaligned_memory_is_taken() {
    let Some(engine) = ort("alignment") else { return };
    struct Odd(Vec<u8>);
    impl AsRef<[u8]> for Odd {
        fn as_ref(&self) -> &[u8] {
            &self.0[1..]
        }
    }
    let bytes: Vec<u8> = [0u8].into_iter().chain([1.5f32; 6].iter().flat_map(|v| v.to_le_bytes())).collect();
    let data = Data::Bytes(tandem_onnx::value::Buffer::shared(Arc::new(Odd(bytes))));
    let x = Value::Tensor(TensorValue { dtype: DType::F32, dims: vec![2, 3], data });
    let session = engine.load(&square_plus(&[0.0; 3]), &SessionOptions::default()).expect("loads");
    assert_eq!(read_f32s(&session.run(&[x]).expect("runs")[0]), [2.25; 6]);
}

#[test]
fn sequences_and_optionals_pass() {
    let Some(engine) = ort("sequences") else { return };
    let element = TypeProto::tensor(DType::F32.onnx_code(), None);
    let sequence = TypeProto::sequence(element.clone());
    let nodes = vec![node("SequenceInsert", "n0", &["s", "x"], &["t"])];
    let inputs = [("s", sequence.clone()), ("x", element.clone())];
    let image = image(nodes, &inputs, &[("t", sequence)]);
    let session = engine.load(&image, &SessionOptions::default()).expect("loads");
    let (a, b) = (f32s(&[2], &[1.0, 2.0]), f32s(&[1, 1], &[3.0]));
    for before in [vec![], vec![b.clone()], vec![b.clone(), a.clone()]] {
        let made = session.run(&[Value::Sequence(before.clone()), a.clone()]).expect("runs");
        let after: Vec<Value> = before.into_iter().chain([a.clone()]).collect();
        assert_eq!(made, [Value::Sequence(after)]);
    }
    let optional = TypeProto::optional(element);
    let asks = vec![node("OptionalHasElement", "n0", &["o"], &["has"])];
    let asks = crate::common::image(asks, &[("o", optional.clone())], &[("has", tensor(DType::Bool, &[]))]);
    let asks = engine.load(&asks, &SessionOptions::default()).expect("loads");
    let keeps = vec![node("Identity", "n1", &["o"], &["same"])];
    let keeps = crate::common::image(keeps, &[("o", optional.clone())], &[("same", optional)]);
    let keeps = engine.load(&keeps, &SessionOptions::default()).expect("loads");
    for value in [Value::Optional(Some(Box::new(a))), Value::Optional(None)] {
        let has = TensorValue::new(DType::Bool, vec![], vec![u8::from(value != Value::Optional(None))]);
        assert_eq!(asks.run(std::slice::from_ref(&value)).expect("runs"), [Value::Tensor(has)]);
        assert_eq!(keeps.run(std::slice::from_ref(&value)).expect("runs"), [value]);
    }
}

#[test]
fn profiles_time_outer_nodes_only() {
    let kind = tensor(DType::F32, &[2, 3]);
    let info = |name: &str| ValueInfoProto { name: name.into(), r#type: Some(kind.clone()), ..Default::default() };
    let body = |op: &str, out: &str| GraphProto {
        name: out.into(),
        node: vec![node(op, &format!("inner_{op}"), &["x"], &[out])],
        output: vec![info(out)],
        ..GraphProto::default()
    };
    let branch = node("If", "n0_If", &["c"], &["y"])
        .with(AttributeProto::graph("then_branch", body("Relu", "t")))
        .with(AttributeProto::graph("else_branch", body("Neg", "e")));
    let nodes = vec![branch, node("Sqrt", "n1_Sqrt", &["y"], &["z"])];
    let inputs = [("x", kind.clone()), ("c", tensor(DType::Bool, &[]))];
    let image = image(nodes, &inputs, &[("z", kind.clone())]);
    for engine in engines("profiles") {
        let options = SessionOptions { profile: true, ..SessionOptions::default() };
        let session = match engine.load(&image, &options) {
            Ok(session) => session,
            Err(EngineError::Unsupported { why, .. }) if engine.name() == "tract" => {
                eprintln!("skipped: profiles on tract: {why}");
                continue;
            }
            Err(other) => panic!("{other}"),
        };
        let condition = Value::Tensor(TensorValue::new(DType::Bool, vec![], vec![1u8]));
        for _ in 0..3 {
            session.run(&[f32s(&[2, 3], &[4.0; 6]), condition.clone()]).expect("runs");
        }
        let profile = session.end_profile().expect("a profile").expect("profiling was on");
        assert_eq!(profile.whole_ns.len(), 3);
        let timed: Vec<_> = profile.nodes.iter().map(|n| (n.name.as_str(), n.runs_ns.len())).collect();
        if engine.name() == "ort" {
            assert_eq!(timed, [("n0_If", 3), ("n1_Sqrt", 3)]);
            let graph: Vec<_> = profile.graph.iter().map(|n| (n.op.as_str(), n.outputs[0].as_str())).collect();
            assert_eq!(graph, [("If", "y"), ("Sqrt", "z")]);
        } else {
            assert!(timed.iter().any(|(name, _)| name.starts_with("n1_Sqrt")), "{timed:?}");
        }
        assert_eq!(session.end_profile().expect("no error"), None);
    }
}

#[test]
fn a_model_with_weights_is_profiled_and_leaves_no_files() {
    for engine in engines("profiles of zoo models") {
        let (model, inputs) = crate::routes::zoo("tiny-resnet", engine.as_ref()).expect("observed");
        let options = SessionOptions { profile: true, ..SessionOptions::default() };
        let session = engine.load(&tandem_onnx::cut::cut_whole(&model).expect("cuts"), &options).expect("loads");
        for _ in 0..4 {
            session.run(&inputs).expect("runs");
        }
        let profile = session.end_profile().expect("a profile").expect("profiling was on");
        let names: std::collections::HashSet<_> = profile.graph.iter().map(|n| n.name.as_str()).collect();
        assert!(profile.nodes.len() > 10 && profile.nodes.iter().all(|n| names.contains(n.name.as_str())));
        assert!(profile.nodes.iter().all(|n| n.runs_ns.len() == 4) && profile.whole_ns.len() == 4);
        let sum: u64 = profile.nodes.iter().map(|n| n.runs_ns[3]).sum();
        eprintln!("{}: nodes {sum} ns of {} ns", engine.name(), profile.whole_ns[3]);
        for stray in ["weights.bin", "optimized.onnx"] {
            assert!(!std::path::Path::new(stray).exists(), "{stray}");
        }
    }
}
