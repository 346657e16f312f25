//! Full disks, folders that cannot be written, memory that is not there.

use tandem_onnx_proto::{
    AttributeProto, DimValue, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto, data_type,
};

use crate::binary::{Place, T4};

/// A shell in which files cannot grow beyond some blocks of 512 bytes. The signal is ignored, so that writing fails as it
/// does on a full disk.
const FULL: &str = "trap '' XFSZ; ulimit -f";

/// A shell whose processes have this many kilobytes of addresses.
const NARROW: &str = "ulimit -v 2000000;";

#[test]
fn a_full_disk_leaves_the_old_file_and_nothing_else() {
    let place = Place::new();
    place.tandem(&format!("plan zoo:tiny-resnet --machine {T4} -o plan.yaml -q")).code(0);
    let plan = place.read("plan.yaml");
    for name in ["made.yaml", "profile.yaml", "made.onnx", "made.npz", "made.json"] {
        place.write(name, "old");
    }
    let before = place.names();
    for (words, target) in [
        (format!("plan zoo:tiny-resnet --machine {T4} -o made.yaml -q"), "made.yaml"),
        ("plan --from plan.yaml --search none -o plan.yaml -q".to_owned(), "plan.yaml"),
        ("models build tiny-resnet -o made.onnx".to_owned(), "made.onnx"),
        ("run plan.yaml --emulate --output made.npz".to_owned(), "made.npz"),
        ("run plan.yaml --emulate --trace made.json".to_owned(), "made.json"),
    ] {
        // An .npz of one small output fits into a block: that disk is full to the last byte.
        let blocks = if target == "made.npz" { 0 } else { 1 };
        let found = place.shell(&format!("{FULL} {blocks}; exec \"$TANDEM\" {words} --engine tract"));
        found.refused(&[target, "File too large"]);
        assert_eq!(place.names(), before, "nothing is left beside {target}");
        let expected = if target == "plan.yaml" { plan.as_str() } else { "old" };
        assert_eq!(place.read(target), expected, "{target} is as it was");
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let place = Place::new();
    place.tandem(&format!("plan zoo:tiny-resnet --machine {T4} -o plan.yaml -q")).code(0);
    for words in [
        &format!("plan zoo:tiny-resnet --machine {T4} -o nowhere/p.yaml"),
        "models build tiny-resnet -o nowhere/m.onnx",
        "run plan.yaml --emulate --output nowhere/o.npz",
        "run plan.yaml --emulate --trace nowhere/t.json",
    ] {
        place.tandem(words).refused(&["nowhere", "No such file"]);
    }
    place.write("file", "not a folder");
    place.tandem(&format!("plan zoo:tiny-resnet --machine {T4} -o file/p.yaml")).refused(&["file", "Not a directory"]);
    place.tandem(&format!("plan zoo:tiny-resnet --machine {T4} -o machines")).refused(&["machines"]);
    place.tandem("import zoo:tiny-vgg --cache file").refused(&["file"]);
}

/// Renaming over a device would replace it for everybody: devices are written to, or refused, and stay what they are.
#[cfg(unix)]
#[test]
fn devices_and_pipes_stay_what_they_are() {
    use std::os::unix::fs::FileTypeExt;
    let place = Place::new();
    place.tandem(&format!("plan zoo:tiny-resnet --machine {T4} -o plan.yaml -q")).code(0);
    // A device of our own would need rights; a pipe stands for it.
    place.shell("mkfifo pipe").code(0);
    let words = format!("plan zoo:tiny-resnet --machine {T4} --engine tract -q");
    let read = place.shell(&format!("\"$TANDEM\" {words} -o pipe & cat pipe > read.yaml; wait $!")).code(0);
    assert_eq!(place.read("read.yaml"), place.read("plan.yaml"), "{read:?}");
    place.tandem("run plan.yaml --emulate --output pipe").refused(&["pipe", "found what is no file"]);
    place.tandem("models build tiny-resnet -o pipe").refused(&["pipe", "found what is no file"]);
    let kind = std::fs::metadata(place.path("pipe")).expect("the pipe").file_type();
    assert!(kind.is_fifo(), "the pipe is a pipe");
    // A link keeps leading where it leads.
    place.shell("ln -s plan.yaml link.yaml").code(0);
    place.tandem("plan --from plan.yaml --search none -o link.yaml -q").code(0);
    assert!(std::fs::symlink_metadata(place.path("link.yaml")).expect("the link").is_symlink());
    // A full stdout is an error; one that nobody reads is not.
    place.shell(&format!("exec \"$TANDEM\" {words} > /dev/full")).refused(&["stdout", "No space left"]);
    place.shell(&format!("\"$TANDEM\" {words} | head -1")).code(0);
}

fn model(dims: &[i64], raw: usize) -> Vec<u8> {
    let weight = TensorProto::from_raw("w", data_type::FLOAT, dims, vec![0u8; raw]);
    let shape = dims.iter().map(|d| DimValue::from(*d)).collect::<Vec<_>>();
    let graph = GraphProto {
        name: "g".into(),
        node: vec![NodeProto::new("Add", &["x", "w"], &["s"]), NodeProto::new("Relu", &["s"], &["y"])],
        input: vec![ValueInfoProto::tensor("x", data_type::FLOAT, &shape)],
        output: vec![ValueInfoProto::tensor("y", data_type::FLOAT, &shape)],
        initializer: vec![weight],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto::new("", 17);
    ModelProto { ir_version: 8, opset_import: vec![opset], graph: Some(graph), ..ModelProto::default() }.encode()
}

/// A file of a few hundred bytes that speaks of terabytes costs no more memory than it has bytes.
#[test]
fn sizes_that_a_file_only_speaks_of_are_not_allocated() {
    let place = Place::new();
    place.write("weight.onnx", model(&[1 << 20, 1 << 20], 16));
    let said = place.shell(&format!("{NARROW} exec \"$TANDEM\" import weight.onnx --no-observe")).code(2);
    said.says(&["weight.onnx", "\"w\"", "expected", "found"]);
    place.write("overflow.onnx", model(&[i64::MAX, i64::MAX], 16));
    place.shell(&format!("{NARROW} exec \"$TANDEM\" import overflow.onnx")).code(2).says(&["overflow.onnx", "\"w\""]);
    // A constant that a node would fill.
    let dims = TensorProto::from_i64("dims", &[2], &[1 << 20, 1 << 20]);
    let graph = GraphProto {
        name: "g".into(),
        node: vec![NodeProto::new("ConstantOfShape", &["dims"], &["c"]), NodeProto::new("Add", &["x", "c"], &["y"])],
        input: vec![ValueInfoProto::tensor("x", data_type::FLOAT, &[DimValue::from(1)])],
        output: vec![ValueInfoProto::tensor("y", data_type::FLOAT, &[DimValue::from("a"), DimValue::from("b")])],
        initializer: vec![dims],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto::new("", 17);
    let filled = ModelProto { ir_version: 8, opset_import: vec![opset], graph: Some(graph), ..ModelProto::default() };
    place.write("filled.onnx", filled.encode());
    place.shell(&format!("{NARROW} exec \"$TANDEM\" import filled.onnx --no-observe")).code(0);
    // An input of a terabyte is not made up: no device has the memory, and that is the answer.
    place.write("input.onnx", {
        let node = NodeProto::new("Relu", &["x"], &["y"]).with(AttributeProto::int("unused", 0));
        let value = |name: &str| ValueInfoProto::tensor(name, data_type::FLOAT, &[DimValue::from(1 << 40)]);
        let graph = GraphProto {
            name: "g".into(),
            node: vec![node],
            input: vec![value("x")],
            output: vec![value("y")],
            ..GraphProto::default()
        };
        let opset = OperatorSetIdProto::new("", 17);
        ModelProto { ir_version: 8, opset_import: vec![opset], graph: Some(graph), ..ModelProto::default() }.encode()
    });
    let words = format!("{NARROW} exec \"$TANDEM\" plan input.onnx --machine {T4} --engine tract -q");
    place.shell(&words).code(1).says(&["infeasible", "memory lacks"]);
}

/// A compressed archive, and one whose header promises more than the file holds.
#[test]
fn archives_cost_no_more_than_they_hold() {
    let place = Place::new();
    place.tandem(&format!("plan zoo:tiny-resnet --machine {T4} --batch 1 -o plan.yaml -q")).code(0);
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }";
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend(((header.len() + 1) as u16).to_le_bytes());
    npy.extend(header.bytes());
    npy.extend(b"\n0000");
    place.write("huge.npy", npy);
    let words = "run plan.yaml --emulate --engine tract --input huge.npy";
    place.shell(&format!("{NARROW} exec \"$TANDEM\" {words}")).refused(&["huge.npy"]);
}
