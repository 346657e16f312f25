//! Names, shapes, constants, opsets and types as exporters and people leave them.

use tandem_onnx::value::Value;
use tandem_onnx_proto::{AttributeProto, GraphProto, NodeProto, OperatorSetIdProto, TensorProto, data_type};
use tandem_runtime::npz;

use crate::build::*;

/// Two layers, for files whose oddity lies elsewhere: `x` -> MatMul, Add, Relu, MatMul -> `y`.
fn layers() -> GraphProto {
    let nodes = vec![
        node("MatMul", &["x", "w1"], &["h1"]),
        node("Add", &["h1", "b1"], &["h2"]),
        node("Relu", &["h2"], &["h3"]),
        node("MatMul", &["h3", "w2"], &["y"]),
    ];
    let mut graph = graph(nodes, vec![float("x", "Nx8")], vec![float("y", "Nx4")]);
    graph.initializer = vec![weight("w1", &[8, 16]), weight("b1", &[16]), weight("w2", &[16, 4])];
    graph
}

#[test]
fn inputs_may_be_outputs() {
    let mut graph = layers();
    graph.input.push(float("mask", "Nx3"));
    graph.output.push(float("mask", "Nx3"));
    graph.output.push(float("x", "Nx8"));
    let case = Case::new(&file(graph, 17));
    case.verify("");
    case.plan(case.engine(), "--search random:1 --batch 2");
    let (x, mask) = (tensor(&[2, 8], &numbers(16, 1)), tensor(&[2, 3], &numbers(6, 2)));
    let outputs = case.run(2, &[("x", x.clone()), ("mask", mask.clone())]);
    let named = |name: &str| &outputs.iter().find(|(n, _)| n == name).expect("an output").1;
    assert_eq!(named("x"), &x);
    assert_eq!(named("mask"), &mask);
    assert_eq!(named("y").dims, [2, 4]);
}

/// Colons, slashes, plain numbers, blanks: and they are typed on the command line and named in plan and files.
#[test]
fn names_may_be_odd() {
    let nodes = vec![
        node("MatMul", &["input:0", "onnx::MatMul_41"], &["463"]).named("n:0"),
        node("Relu", &["463"], &["onnx::Shape_422"]).named(""),
        node("Shape", &["onnx::Shape_422"], &["shape of it, *all*"]),
        node("Neg", &["onnx::Shape_422"], &["a .. b"]).named(""),
        node("Reshape", &["a .. b", "shape of it, *all*"], &["StatefulPartitionedCall:0"]),
    ];
    let mut graph =
        graph(nodes, vec![float("input:0", "unk__1x8")], vec![float("StatefulPartitionedCall:0", "unk__1x4")]);
    graph.initializer = vec![weight("onnx::MatMul_41", &[8, 4])];
    let case = Case::new(&file(graph, 17));
    case.verify("--shape input:0=Nx8");
    let plan = case.plan(case.engine(), "--pin gpu0=463 --shape input:0=Nx8 --batch 1");
    assert!(plan.contains("gpu0") && plan.contains("463"), "{plan}");
    let outputs = case.run(1, &[("input:0", tensor(&[1, 8], &numbers(8, 3)))]);
    assert_eq!(outputs[0].0, "StatefulPartitionedCall:0");
    case.place.tandem("plan --from plan.yaml --search none -o again.yaml -q").code(0);
    assert_eq!(case.place.read("again.yaml"), plan, "odd names are written and read alike");
}

#[test]
fn weights_may_be_constant_nodes() {
    let mut graph = layers();
    let weights = std::mem::take(&mut graph.initializer);
    let constants = weights.into_iter().map(|w| constant(&w.name.clone(), w));
    graph.node.splice(0..0, constants.collect::<Vec<_>>());
    let case = Case::new(&file(graph, 17));
    let import = case.import();
    assert_eq!(import["weight_bytes"].as_u64(), Some((8 * 16 + 16 + 16 * 4) * 4), "they count as weights: {import:#}");
    assert!(flops(&import) >= 2 * (8 * 16 + 16 * 4), "{import:#}");
    case.verify("");
}

/// What lies in bodies is counted: a model that is one If costs what its dearer branch does.
#[test]
fn most_operators_may_lie_in_bodies() {
    let branch = |name: &str, deep: usize| {
        let layer = |i: usize| {
            let input = if i == 0 { "x".to_owned() } else { format!("{name}{i}") };
            node("MatMul", &[input.as_str(), "w"], &[format!("{name}{}", i + 1).as_str()])
        };
        let nodes = (0..deep).map(layer).collect();
        let mut body = graph(nodes, vec![], vec![float(&format!("{name}{deep}"), "1x16")]);
        body.value_info = (1..deep).map(|i| float(&format!("{name}{i}"), "1x16")).collect();
        AttributeProto::graph(name, body)
    };
    let choice = node("If", &["deep"], &["chosen"]).with(branch("then_branch", 6)).with(branch("else_branch", 2));
    let nodes = vec![choice, node("Relu", &["chosen"], &["y"])];
    let inputs = vec![float("x", "1x16"), value("deep", data_type::BOOL, "")];
    let mut graph = graph(nodes, inputs, vec![float("y", "1x16")]);
    graph.initializer = vec![weight("w", &[16, 16])];
    let mut case = Case::new(&file(graph, 17));
    let import = case.import();
    assert_eq!(import["nodes_in_bodies"].as_u64(), Some(8), "{import:#}");
    assert!(flops(&import) >= 6 * 2 * 16 * 16, "the cost model looks into bodies: {import:#}");
    if case.needs_ort("an If whose condition comes at run time") {
        case.verify("--batch 1");
    }
}

/// Names of nodes mean nothing: none has one, or all have the same. Engines refuse the second file as a whole, so that
/// there the plan is compared with our own cut of it, which says so, and with the first.
#[test]
fn nodes_may_have_no_name_or_all_the_same() {
    let case = Case::new(&file(layers(), 17));
    case.verify("");
    let mut graph = layers();
    graph.node.iter_mut().for_each(|n| n.name = "same".into());
    let same = Case::new(&file(graph, 17));
    same.verify("");
    let said = same.place.tandem_on(same.engine(), "run plan.yaml --emulate --verify").code(0).stdout;
    assert!(said.contains("verified against the whole model with its repeated names mended: equal"), "{said}");
    let x = tensor(&[1, 8], &numbers(8, 5));
    for search in ["random:1", "random:2"] {
        let words = format!("--search {search} --batch 1");
        case.plan(case.engine(), &words);
        same.plan(same.engine(), &words);
        let expected = case.run(1, &[("x", x.clone())]);
        npz::write(&same.place.path("in.npz"), &[("x".to_owned(), Value::Tensor(x.clone()))]).expect("an .npz");
        same.place.tandem("run plan.yaml --emulate --input in.npz --output out.npz").code(0);
        assert_eq!(npz::read(&same.place.path("out.npz")).expect("an .npz"), expected);
    }
}

#[test]
fn sizes_may_be_known_only_afterwards() {
    let nodes = vec![
        node("Relu", &["x"], &["r"]),
        node("NonZero", &["r"], &["places"]),
        node("Transpose", &["places"], &["rows"]).with(AttributeProto::ints("perm", [1i64, 0])),
        node("Cast", &["rows"], &["found"]).with(AttributeProto::int("to", 1)),
        node("Neg", &["r"], &["y"]),
    ];
    let outputs = vec![float("found", "kx2"), float("y", "4x6")];
    let case = Case::new(&file(graph(nodes, vec![float("x", "4x6")], outputs), 17));
    case.verify("--batch 1");
    // Two runs of one plan, with more and with fewer places found.
    case.plan(case.engine(), "--search random:2 --batch 1");
    for positive in [3, 20] {
        let x: Vec<f32> = (0..24).map(|i| if i < positive { 1.0 } else { -1.0 }).collect();
        let outputs = case.run(1, &[("x", tensor(&[4, 6], &x))]);
        assert_eq!(outputs[0].1.dims, [positive, 2], "as many rows as there are places");
    }
}

#[test]
fn not_a_number_is_equal_to_itself() {
    let nodes = vec![
        node("Sub", &["x", "x"], &["zero"]),
        node("Div", &["zero", "zero"], &["nan"]),
        node("Add", &["nan", "x"], &["still"]),
        node("Concat", &["still", "x"], &["y"]).with(AttributeProto::int("axis", 1)),
    ];
    let case = Case::new(&file(graph(nodes, vec![float("x", "Nx4")], vec![float("y", "Nx8")]), 17));
    case.verify("");
    case.plan(case.engine(), "--search random:1 --batch 1");
    let outputs = case.run(1, &[("x", tensor(&[1, 4], &[1.0, 2.0, 3.0, 4.0]))]);
    let found = floats(&outputs[0].1);
    assert!(found[..4].iter().all(|v| v.is_nan()) && found[4..] == [1.0, 2.0, 3.0, 4.0], "{found:?}");
}

#[test]
fn opset_imports_need_not_be_used() {
    let mut model = file(layers(), 17);
    model.opset_import.push(OperatorSetIdProto::new("ai.onnx.ml", 3));
    model.opset_import.push(OperatorSetIdProto::new("com.microsoft", 1));
    model.opset_import.push(OperatorSetIdProto::new("org.nobody.knows", 12));
    let case = Case::new(&model);
    let import = case.import();
    assert_eq!(import["opsets"]["org.nobody.knows"].as_u64(), Some(12), "{import:#}");
    case.verify("");
}

/// Files of 2018: IR 3 lists weights among the inputs, and operators have attributes that later became inputs.
fn of_2018(opset: i64, more: Vec<NodeProto>, last: &str) -> GraphProto {
    let mut graph = layers();
    graph.node.push(node("Unsqueeze", &["y"], &["u"]).with(AttributeProto::ints("axes", [2i64, 3])));
    graph.node.extend(more);
    let slice = node("Slice", &[last], &["cut"]).with(AttributeProto::ints("axes", [1i64, 3]));
    let slice = slice.with(AttributeProto::ints("starts", [1i64, 0])).with(AttributeProto::ints("ends", [4i64, 1]));
    graph.node.push(slice);
    graph.node.push(node("Dropout", &["cut"], &["kept"]).with(AttributeProto::float("ratio", 0.3)));
    graph.node.push(node("Sum", &["kept", "kept"], &["z"]));
    graph.output = vec![value("z", data_type::FLOAT, "Nx3xheightx1")];
    if opset < 9 {
        graph.input.extend([float("w1", "8x16"), float("b1", "16"), float("w2", "16x4")]);
    }
    graph
}

#[test]
fn old_opsets_run() {
    for opset in [7, 8, 9] {
        let case = Case::new(&file(of_2018(opset, vec![], "u"), opset));
        let import = case.import();
        assert_eq!(import["inputs"].as_array().map(Vec::len), Some(1), "weights are no inputs: {import:#}");
        case.verify("");
    }
}

/// Upsample was taken out of ONNX again; tract never had it.
#[test]
fn operators_that_left_the_standard_run() {
    for opset in [7, 8, 9] {
        let upsample = AttributeProto::string("mode", "nearest");
        let mut graph = match opset {
            9 => of_2018(9, vec![node("Upsample", &["u", "scales"], &["up"]).with(upsample)], "up"),
            _ => {
                let scales = AttributeProto::floats("scales", [1.0f32, 1.0, 2.0, 3.0]);
                of_2018(opset, vec![node("Upsample", &["u"], &["up"]).with(upsample).with(scales)], "up")
            }
        };
        if opset == 9 {
            graph.initializer.push(TensorProto::from_f32("scales", &[4], &[1.0, 1.0, 2.0, 3.0]));
        }
        let mut case = Case::new(&file(graph, opset));
        if case.needs_ort("Upsample") {
            case.verify("");
        }
    }
}

#[test]
fn weights_may_be_half_precision_behind_casts() {
    let mut graph = layers();
    let halves = |w: &TensorProto| {
        let count: i64 = w.dims.iter().product();
        // 0.5 and -0.5 in half precision, exactly.
        let raw: Vec<u8> = (0..count).flat_map(|i| if i % 3 == 0 { [0, 0xb8] } else { [0, 0x38] }).collect();
        TensorProto::from_raw(format!("{}_half", w.name), data_type::FLOAT16, &w.dims, raw)
    };
    let halved: Vec<TensorProto> = graph.initializer.iter().map(halves).collect();
    let casts = graph.initializer.iter().map(|w| {
        node("Cast", &[format!("{}_half", w.name).as_str()], &[w.name.as_str()]).with(AttributeProto::int("to", 1))
    });
    let casts: Vec<_> = casts.collect();
    graph.node.splice(0..0, casts);
    graph.initializer = halved;
    let case = Case::new(&file(graph, 17));
    let import = case.import();
    assert!(flops(&import) > 0, "{import:#}");
    case.verify("");
}
