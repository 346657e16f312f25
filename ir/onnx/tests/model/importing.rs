//! File to graph: constants, names, facts, bodies, oddities of old and of careless files.

use tandem_ir::graph::Attr;
use tandem_ir::{DType, Dim, Kind, Origin};
use tandem_onnx::cut::cut_whole;
use tandem_onnx::import::{Options, import_with};
use tandem_onnx::value::Data;
use tandem_onnx_proto::{
    AttributeProto, DimValue, GraphProto, OperatorSetIdProto, SparseTensorProto, TensorProto, TypeProto,
    ValueInfoProto, data_type,
};

use crate::build::*;

#[test]
fn odd_names_are_kept() {
    let nodes = vec![
        node("Relu", &["input:0"], &["463"]),
        node("Shape", &["463"], &["onnx::Shape_422"]),
        node("Cast", &["onnx::Shape_422"], &["out put"]).with(AttributeProto::int("to", 1)),
    ];
    let model = read(&model(graph(nodes, &["input:0"], &["out put"])));
    let names: Vec<String> = model.graph.node_ids().map(|n| model.graph.node_name(n)).collect();
    assert_eq!(names, ["463", "onnx::Shape_422", "out put"]);
    assert_eq!(model.graph.node(maker(&model, "out put")).attrs["to"], Attr::Int(1));
    let image = cut_whole(&model).expect("it can be cut");
    assert_eq!((image.inputs, image.outputs), (vec!["input:0".into()], vec!["out put".to_owned()]));
}

#[test]
fn inputs_and_constants_can_be_outputs() {
    let mut g = graph(vec![node("Relu", &["x"], &["y"])], &["x", "u"], &["y", "x", "w", "c", "y"]);
    g.initializer.push(weight("w", 3));
    g.node.push(constant("c", AttributeProto::int("value_int", 7)));
    let model = read(&model(g));
    assert_eq!(model.graph.outputs.len(), 5);
    let image = cut_whole(&model).expect("it can be cut");
    assert_eq!(image.outputs, ["y"]);
    assert_eq!(image.inputs, ["x", "u"]);
    let c = model.constant_value(tensor(&model, "c")).expect("a constant");
    assert_eq!((c.dtype, c.dims.len(), c.bytes()), (DType::I64, 0, &7i64.to_le_bytes()[..]));
    assert_eq!(model.constant_value(tensor(&model, "w")).expect("a constant").bytes().len(), 12);
    assert!(model.constant_value(tensor(&model, "x")).is_none());
}

#[test]
fn constant_nodes_become_constants() {
    let mut g = graph(vec![], &["x"], &["y"]);
    g.node = vec![
        constant("tensor", AttributeProto::tensor("value", TensorProto::from_i64("", &[2], &[3, -4]))),
        constant("float", AttributeProto::float("value_float", 1.5)),
        constant("floats", AttributeProto::floats("value_floats", vec![1.0, 2.0])),
        constant("ints", AttributeProto::ints("value_ints", vec![5, 6, 7])),
        constant("text", AttributeProto::string("value_string", "a")),
        constant("texts", AttributeProto::strings("value_strings", ["b", "c"])),
        node("Anything", &["x", "tensor", "float", "floats", "ints", "text", "texts"], &["y"]),
    ];
    let model = read(&model(g));
    assert_eq!(model.graph.nodes.len(), 1);
    let constant = |name: &str| {
        let t = model.graph.tensor(tensor(&model, name));
        (t.fact.to_string(), t.constant.clone().expect("a constant").values)
    };
    assert_eq!(constant("tensor"), ("i64[2]".into(), Some(vec![3, -4])));
    assert_eq!(constant("float"), ("f32[]".into(), None));
    assert_eq!(constant("floats"), ("f32[2]".into(), None));
    assert_eq!(constant("ints"), ("i64[3]".into(), Some(vec![5, 6, 7])));
    assert_eq!(constant("text"), ("string[]".into(), None));
    let texts = model.constant_value(tensor(&model, "texts")).expect("a constant");
    assert_eq!(texts.data, Data::Strings(vec![b"b".to_vec(), b"c".to_vec()].into()));
    let image = cut_whole(&model).expect("it can be cut");
    assert_eq!(look_graph(&image).initializer.len(), 6);
}

#[test]
fn a_sparse_constant_node_stays_a_node() {
    let sparse = SparseTensorProto {
        values: Some(Box::new(weight("", 2))),
        indices: Some(Box::new(TensorProto::from_i64("", &[2], &[0, 3]))),
        dims: vec![4],
        ..Default::default()
    };
    let attribute = AttributeProto {
        name: "sparse_value".into(),
        r#type: tandem_onnx_proto::attribute_type::SPARSE_TENSOR,
        sparse_tensor: Some(Box::new(sparse)),
        ..Default::default()
    };
    let model = read(&model(graph(vec![constant("c", attribute), node("Add", &["x", "c"], &["y"])], &["x"], &["y"])));
    assert_eq!(model.graph.nodes.len(), 2);
    assert!(model.graph.node(maker(&model, "c")).folded);
}

#[test]
fn sparse_initializers_are_constants() {
    let sparse = |indices: TensorProto| SparseTensorProto {
        values: Some(Box::new(TensorProto::from_f32("w", &[2], &[1.0, 2.0]))),
        indices: Some(Box::new(indices)),
        dims: vec![2, 3],
        ..Default::default()
    };
    let mut g = graph(vec![node("MatMul", &["x", "w"], &["y"])], &["x"], &["y"]);
    g.sparse_initializer = vec![sparse(TensorProto::from_i64("", &[2, 2], &[0, 1, 1, 2]))];
    let read_model = read(&model(g.clone()));
    let value = read_model.constant_value(tensor(&read_model, "w")).expect("a constant");
    let dense: Vec<f32> = value.bytes().chunks(4).map(|b| f32::from_le_bytes(b.try_into().expect("4 bytes"))).collect();
    assert_eq!((value.dims, dense), (vec![2, 3], vec![0.0, 1.0, 0.0, 0.0, 0.0, 2.0]));
    let image = cut_whole(&read_model).expect("it can be cut");
    assert_eq!(look_graph(&image).sparse_initializer.len(), 1);
    g.sparse_initializer = vec![sparse(TensorProto::from_i64("", &[2], &[0, 6]))];
    let message = error(&model(g));
    assert!(message.contains("\"w\"") && message.contains("below 6"), "{message}");
}

#[test]
fn old_files_list_weights_among_inputs() {
    let mut g = graph(vec![node("Mul", &["x", "w"], &["y"])], &["x", "w"], &["y"]);
    g.initializer.push(weight("w", 1));
    let mut m = model(g);
    m.ir_version = 3;
    m.opset_import = vec![OperatorSetIdProto::new("", 7)];
    let model = read(&m);
    assert_eq!(model.graph.inputs.len(), 1);
    assert!(model.warnings.iter().any(|w| w.contains("\"w\"")), "{:?}", model.warnings);
    let image = cut_whole(&model).expect("it can be cut");
    assert_eq!(look(&image).ir_version, 4);
    assert_eq!(look_graph(&image).input.len(), 1);
}

#[test]
fn operator_sets_are_read_kindly() {
    let plain = || graph(vec![node("Relu", &["x"], &["y"])], &["x"], &["y"]);
    let mut m = model(plain());
    m.opset_import.push(OperatorSetIdProto::new("never.used", 3));
    let used = read(&m);
    assert!(used.warnings.is_empty());
    let image = cut_whole(&used).expect("it can be cut");
    assert_eq!(look(&image).opset_import, [OperatorSetIdProto::new("", 17)]);

    m.opset_import = vec![];
    let none = read(&m);
    assert_eq!(none.graph.node(maker(&none, "y")).op.version, 1);
    assert_eq!(none.warnings.len(), 2, "{:?}", none.warnings);

    let mut g = plain();
    g.node[0].domain = "ai.onnx".into();
    g.node.push(node("Strange", &["x"], &["z"]));
    g.node[1].domain = "who.knows".into();
    let mut m = model(g);
    m.opset_import = vec![OperatorSetIdProto::new("ai.onnx", 9), OperatorSetIdProto::new("who.knows", 2)];
    let both = read(&m);
    assert!(both.graph.node(maker(&both, "y")).op.is("Relu"));
    assert_eq!(both.graph.node(maker(&both, "z")).op.to_string(), "who.knows:Strange");
    assert_eq!(both.graph.node(maker(&both, "z")).op.version, 2);
}

#[test]
fn facts_come_from_the_file() {
    let mut g = graph(vec![node("Relu", &["x"], &["y"]), node("SplitToSequence", &["y"], &["s"])], &[], &[]);
    let dims = [DimValue::from("batch"), DimValue::from(3), DimValue::from(-1)];
    g.input.push(ValueInfoProto::tensor("x", data_type::FLOAT16, &dims));
    g.value_info.push(ValueInfoProto::tensor("y", data_type::FLOAT16, &[]));
    g.value_info.push(ValueInfoProto::tensor("gone", data_type::FLOAT, &[]));
    let sequence = TypeProto::sequence(TypeProto::tensor(data_type::INT32, None));
    g.output.push(ValueInfoProto { name: "s".into(), r#type: Some(sequence), ..Default::default() });
    let model = read(&model(g));
    let fact = |name: &str| model.graph.tensor(tensor(&model, name)).fact.clone();
    let x = fact("x");
    assert_eq!((x.dtype, x.origin), (Some(DType::F16), Origin::Declared));
    assert_eq!(x.shape, Some(vec![Dim::Symbol("batch".into()), Dim::Known(3), Dim::Unknown]));
    assert_eq!(fact("y").shape, Some(vec![]));
    assert_eq!((fact("s").kind, fact("s").dtype), (Kind::Sequence, Some(DType::I32)));
    assert!(!model.graph.tensor_index().contains_key("gone"), "what nothing defines is no tensor");
}

/// `y = if c { w + x } else { w * shadowed }`, where each branch reads outer values and the second hides one.
pub fn branching() -> GraphProto {
    let inner = |op: &str, other: &str| {
        let mut body = graph(vec![node(op, &["w", other], &["r"])], &[], &["r"]);
        body.name = op.into();
        body
    };
    let mut then = inner("Add", "x");
    then.node.push(constant("unused", AttributeProto::float("value_float", 2.0)));
    let mut otherwise = inner("Mul", "x");
    // A value of the branch's own under the outer name `x`.
    otherwise.node.insert(0, constant("x", AttributeProto::floats("value_floats", vec![4.0])));
    // A branch in a branch, which reads past both.
    let deep = graph(vec![node("Neg", &["far"], &["d"])], &[], &["d"]);
    let nested = node("If", &["c"], &["n"])
        .with(AttributeProto::graph("then_branch", deep.clone()))
        .with(AttributeProto::graph("else_branch", deep));
    otherwise.node.push(nested);
    let branch = node("If", &["c"], &["y"])
        .with(AttributeProto::graph("then_branch", then))
        .with(AttributeProto::graph("else_branch", otherwise));
    let mut g = graph(vec![node("Sin", &["x"], &["far"]), branch], &["x"], &["y"]);
    g.input.push(ValueInfoProto::tensor("c", data_type::BOOL, &[]));
    g.initializer.push(weight("w", 1));
    g
}

#[test]
fn bodies_capture_and_hide() {
    let model = read(&model(branching()));
    let branch = model.graph.node(maker(&model, "y"));
    let mut captured: Vec<&str> = branch.captures.iter().map(|t| model.graph.tensor(*t).name.as_str()).collect();
    captured.sort_unstable();
    assert_eq!(captured, ["c", "far", "w", "x"]);
    let otherwise = &branch.bodies["else_branch"];
    let index = otherwise.tensor_index();
    assert!(otherwise.tensor(index["x"]).constant.is_some(), "the branch's own x");
    assert_eq!(otherwise.tensor(index["w"]).producer, None);
    assert_eq!(otherwise.tensor(index["far"]).fact.dtype, None);
    assert_eq!(
        branch.bodies["then_branch"].tensor(branch.bodies["then_branch"].tensor_index()["x"]).fact.dtype,
        Some(DType::F32),
        "captured values keep what is known outside"
    );
    assert_eq!(model.graph.node_count_deep(), 7);

    let mut alone = branching();
    // Only the second branch names x, and it means its own.
    alone.node[1].attribute[0].g.as_mut().expect("a branch").node[0].input[1] = "w".into();
    let alone = read(&crate::build::model(alone));
    let branch = alone.graph.node(maker(&alone, "y"));
    assert!(!branch.captures.contains(&tensor(&alone, "x")));
}

#[test]
fn broken_graphs_are_named() {
    let message = error(&model(graph(vec![node("Relu", &["nowhere"], &["y"]).named("r")], &["x"], &["y"])));
    assert!(message.contains("test.onnx") && message.contains("\"r\"") && message.contains("\"nowhere\""), "{message}");
    let twice = vec![node("Relu", &["x"], &["y"]), node("Sin", &["x"], &["y"])];
    let message = error(&model(graph(twice, &["x"], &["y"])));
    assert!(message.contains("defined twice"), "{message}");
    let cycle = vec![node("Add", &["x", "b"], &["a"]), node("Neg", &["a"], &["b"])];
    assert!(error(&model(graph(cycle, &["x"], &["b"]))).contains("cycle"));
    let mut g = branching();
    g.node[1].attribute[1].g.as_mut().expect("a branch").node[1].input[0] = "lost".into();
    let message = error(&model(g));
    assert!(message.contains("\"lost\""), "{message}");
    let text = tandem_onnx::import::import_bytes("note.txt", b"no model at all".to_vec(), None);
    assert!(text.is_err());
    let empty = tandem_onnx::import::import_bytes("e", vec![], None).expect_err("nothing").to_string();
    assert!(empty.contains("ModelProto with a graph"), "{empty}");
}

#[test]
fn tensors_that_contradict_themselves_are_named() {
    let with = |tensor: TensorProto| {
        let mut g = graph(vec![node("Add", &["x", "w"], &["y"])], &["x"], &["y"]);
        g.initializer.push(tensor);
        error(&model(g))
    };
    let says = |message: String, parts: &[&str]| {
        assert!(parts.iter().all(|p| message.contains(p)), "{message}");
    };
    let mut t = weight("w", 4);
    t.dims = vec![5];
    says(with(t.clone()), &["\"w\"", "raw_data", "20 bytes", "16 bytes"]);
    t.dims = vec![-4];
    says(with(t.clone()), &["\"w\"", "dims", "-4"]);
    t.dims = vec![1 << 40, 1 << 40];
    says(with(t.clone()), &["\"w\"", "dims"]);
    t.dims = vec![0, i64::MAX, i64::MAX];
    says(with(t.clone()), &["\"w\"", "dims"]);
    t.dims = vec![4];
    t.data_type = 99;
    says(with(t.clone()), &["\"w\"", "data_type", "99"]);
    t.data_type = data_type::FLOAT;
    t.raw_data = None;
    t.float_data = vec![1.0; 3];
    says(with(t), &["\"w\"", "float_data", "16 bytes", "12 bytes"]);
    let text = TensorProto { name: "w".into(), data_type: data_type::STRING, dims: vec![2], ..Default::default() };
    says(with(text), &["\"w\"", "string_data", "2 strings"]);
}

#[test]
fn typed_fields_and_raw_bytes_are_one() {
    let fields = [
        TensorProto { float_data: vec![1.0, 2.0], data_type: 1, ..Default::default() },
        TensorProto { float_data: vec![1.0, 2.0, 3.0, 4.0], data_type: 14, ..Default::default() },
        TensorProto { int32_data: vec![1, 255], data_type: 2, ..Default::default() },
        TensorProto { int32_data: vec![-1, 7], data_type: 3, ..Default::default() },
        TensorProto { int32_data: vec![15360, 16384], data_type: 10, ..Default::default() },
        TensorProto { int32_data: vec![0x21], data_type: 21, ..Default::default() },
        TensorProto { int64_data: vec![-1, 7], data_type: 7, ..Default::default() },
        TensorProto { uint64_data: vec![1, 7], data_type: 12, ..Default::default() },
        TensorProto { double_data: vec![1.0, 7.0], data_type: 11, ..Default::default() },
    ];
    let expected: [(usize, Option<Vec<i64>>); 9] = [
        (8, None),
        (16, None),
        (2, Some(vec![1, 255])),
        (2, Some(vec![-1, 7])),
        (4, None),
        (1, Some(vec![1, 2])),
        (16, Some(vec![-1, 7])),
        (8, Some(vec![1, 7])),
        (16, None),
    ];
    for (field, (bytes, values)) in fields.into_iter().zip(expected) {
        let mut g = graph(vec![node("Op", &["x", "w"], &["y"])], &["x"], &["y"]);
        g.initializer.push(TensorProto { name: "w".into(), dims: vec![2], ..field });
        let typed = read(&model(g.clone()));
        let id = tensor(&typed, "w");
        let value = typed.constant_value(id).expect("a constant");
        assert_eq!(value.bytes().len(), bytes, "{:?}", value.dtype);
        let constant = typed.graph.tensor(id).constant.clone().expect("a constant");
        assert_eq!(constant.values, values, "{:?}", value.dtype);
        g.initializer[0] = TensorProto::from_raw("w", value.dtype.onnx_code(), &[2], value.bytes().to_vec());
        assert_eq!(read(&model(g)).fingerprint(), typed.fingerprint(), "{:?}", value.dtype);
    }
}

#[test]
fn a_model_is_shared_between_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&read(&model(graph(vec![], &["x"], &["x"]))));
}

#[test]
fn weights_need_not_be_hashed() {
    let mut g = graph(vec![node("Add", &["x", "w"], &["y"])], &["x"], &["y"]);
    g.initializer.push(weight("w", 100_000));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("m.onnx");
    let mut bytes = tandem_onnx_proto::Message::encode(&model(g));
    let fingerprint = |hash_weights: bool, bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("written");
        import_with(&path, Options { hash_weights }).unwrap_or_else(|e| panic!("{e}")).fingerprint()
    };
    let (whole, structure) = (fingerprint(true, &bytes), fingerprint(false, &bytes));
    assert_ne!(whole, structure);
    // The middle of the file is inside the weight.
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    assert_ne!(whole, fingerprint(true, &bytes));
    assert_eq!(structure, fingerprint(false, &bytes));
}

#[test]
fn the_fingerprint_follows_content_not_form() {
    let base = |change: &dyn Fn(&mut GraphProto)| {
        let mut g = graph(vec![node("Add", &["x", "w"], &["y"]).named("a")], &["x"], &["y"]);
        g.initializer.push(weight("w", 100_000));
        change(&mut g);
        read(&model(g)).fingerprint()
    };
    let same = base(&|_| {});
    assert_eq!(same, base(&|g| g.node[0].name = "b".into()));
    assert_eq!(
        same,
        base(&|g| {
            let tensor = g.initializer.remove(0);
            g.node.insert(0, constant("w", AttributeProto::tensor("value", tensor)));
        })
    );
    assert_ne!(
        same,
        base(&|g| {
            let mut raw = g.initializer[0].raw_data.take().expect("raw").to_vec();
            raw[399_999] ^= 1;
            g.initializer[0].raw_data = Some(raw.into());
        })
    );
    assert_ne!(same, base(&|g| g.node[0].op_type = "Sub".into()));
    assert_ne!(same, base(&|g| g.node[0].attribute.push(AttributeProto::int("k", 1))));
}
