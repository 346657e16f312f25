//! Weights in other files: found where they may be, refused where they may not.

use std::fs;
use std::path::Path;

use tandem_onnx::cut::{cut_whole, original};
use tandem_onnx::import::import;
use tandem_onnx_proto::{
    AttributeProto, Blob, GraphProto, Message, ModelProto, StringStringEntryProto, TensorProto, data_location,
    data_type,
};

use crate::build::*;

fn external(name: &str, elements: i64, entries: &[(&str, &str)]) -> TensorProto {
    TensorProto {
        name: name.into(),
        dims: vec![elements],
        data_type: data_type::FLOAT,
        data_location: data_location::EXTERNAL,
        external_data: entries.iter().map(|(k, v)| StringStringEntryProto::new(*k, *v)).collect(),
        ..TensorProto::default()
    }
}

fn adding(tensor: TensorProto) -> GraphProto {
    let mut g = graph(vec![node("Add", &["x", "w"], &["y"])], &["x"], &["y"]);
    g.initializer.push(tensor);
    g
}

fn save(folder: &Path, graph: GraphProto) -> std::path::PathBuf {
    let path = folder.join("model.onnx");
    fs::write(&path, model(graph).encode()).expect("written");
    path
}

/// The error of a model in `folder/m` whose weight of 4 floats says so.
fn refusal(folder: &Path, entries: &[(&str, &str)]) -> String {
    let path = save(&folder.join("m"), adding(external("w", 4, entries)));
    match import(&path) {
        Ok(_) => panic!("expected {entries:?} to be refused"),
        Err(e) => e.to_string(),
    }
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("m")).expect("a folder");
    fs::write(folder.path().join("secret.bin"), [7; 16]).expect("written");
    fs::write(folder.path().join("m/w.bin"), [1; 24]).expect("written");
    folder
}

#[test]
fn weights_beside_the_model_are_windows() {
    let folder = folder();
    let entries = [("location", "w.bin"), ("offset", "8"), ("length", "16"), ("checksum", "ignored")];
    let path = save(&folder.path().join("m"), adding(external("w", 4, &entries)));
    let read = import(&path).unwrap_or_else(|e| panic!("{e}"));
    let value = read.constant_value(tensor(&read, "w")).expect("a constant");
    assert_eq!(value.bytes(), [1; 16]);
    let whole = original(&read);
    assert_eq!(&whole.model[..], fs::read(&path).expect("read"));
    assert_eq!((whole.weights[0].name.as_str(), &whole.weights[0].data[..]), ("w", &[1; 16][..]));
    // The same content inline has the same fingerprint.
    let inline = crate::build::read(&model(adding(TensorProto::from_raw("w", data_type::FLOAT, &[4], vec![1; 16]))));
    assert_eq!(inline.fingerprint(), read.fingerprint());
}

#[test]
fn large_weights_are_mapped_once() {
    let folder = folder();
    fs::write(folder.path().join("m/w.bin"), vec![1; 1 << 20]).expect("written");
    let mut g = graph(vec![node("Sum", &["x", "w", "v"], &["y"])], &["x"], &["y"]);
    g.initializer.push(external("w", 1000, &[("location", "./w.bin"), ("offset", "4096")]));
    g.initializer.push(external("v", 1000, &[("location", "w.bin"), ("offset", "8096")]));
    let read = import(&save(&folder.path().join("m"), g)).unwrap_or_else(|e| panic!("{e}"));
    let image = cut_whole(&read).expect("cut");
    let at = |i: usize| image.weights[i].data.as_ptr() as usize;
    assert_eq!(at(0).abs_diff(at(1)), 4000, "windows of one map");
}

#[test]
fn data_inside_bodies_is_resolved_too() {
    let folder = folder();
    let mut body = graph(vec![node("Add", &["x", "b"], &["r"])], &[], &["r"]);
    body.initializer.push(external("b", 4, &[("location", "w.bin")]));
    let branch = node("If", &["c"], &["y"])
        .with(AttributeProto::graph("then_branch", body.clone()))
        .with(AttributeProto::graph("else_branch", body));
    let constant_ = constant("k", AttributeProto::tensor("value", external("", 4, &[("location", "w.bin")])));
    let mut g = graph(vec![constant_, branch, node("Add", &["y", "k"], &["z"])], &["x"], &["z"]);
    g.input.push(tandem_onnx_proto::ValueInfoProto::tensor("c", data_type::BOOL, &[]));
    g.initializer.push(external("unused", 4, &[("location", "w.bin")]));
    let read = import(&save(&folder.path().join("m"), g)).unwrap_or_else(|e| panic!("{e}"));
    for image in [cut_whole(&read).expect("cut"), original(&read)] {
        let g = ModelProto::decode(&Blob::from(image.inline())).expect("a model").graph.expect("a graph");
        let branch = g.node.iter().find(|n| n.op_type == "If").expect("the branch");
        let inner = &branch.attribute[1].g.as_ref().expect("a body").initializer[0];
        assert_eq!((inner.data_location, inner.raw_data.as_deref()), (data_location::DEFAULT, Some(&[1; 16][..])));
        assert!(g.initializer.iter().all(|t| t.data_location == data_location::DEFAULT));
    }
}

#[test]
fn paths_out_of_the_folder_are_refused() {
    let folder = folder();
    let absolute = folder.path().join("secret.bin");
    let absolute = absolute.to_str().expect("text");
    for location in ["../secret.bin", "a/../../secret.bin", absolute, "/dev/zero", "", ".."] {
        let message = refusal(folder.path(), &[("location", location)]);
        assert!(message.contains("\"w\"") && message.contains("model.onnx"), "{message}");
        assert!(message.contains("inside the model's folder"), "{location}: {message}");
    }
    for location in [".", "gone.bin", "gone/w.bin", "w.bin/x", "\0"] {
        let message = refusal(folder.path(), &[("location", location)]);
        assert!(message.contains("readable file"), "{location}: {message}");
    }
    assert!(refusal(folder.path(), &[]).contains("a location"));
}

#[cfg(unix)]
#[test]
fn links_out_of_the_folder_are_refused() {
    use std::os::unix::fs::symlink;
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    symlink(at("secret.bin"), at("m/link.bin")).expect("linked");
    symlink(at(""), at("m/up")).expect("linked");
    fs::hard_link(at("secret.bin"), at("m/hard.bin")).expect("linked");
    symlink("w.bin", at("m/near.bin")).expect("linked");
    for location in ["link.bin", "up/secret.bin"] {
        let message = refusal(folder.path(), &[("location", location)]);
        assert!(message.contains("symbolic link"), "{message}");
    }
    let message = refusal(folder.path(), &[("location", "hard.bin")]);
    assert!(message.contains("hard links"), "{message}");
    let path = save(&at("m"), adding(external("w", 4, &[("location", "near.bin")])));
    assert!(import(&path).is_ok(), "a link inside the folder is fine");
}

#[test]
fn offsets_and_lengths_are_checked() {
    let folder = folder();
    let with = |extra: &[(&str, &str)]| {
        let entries: Vec<(&str, &str)> = [("location", "w.bin")].iter().chain(extra).copied().collect();
        refusal(folder.path(), &entries)
    };
    assert!(with(&[("length", "12")]).contains("length 16"));
    assert!(with(&[("offset", "12")]).contains("a file of 24 bytes"));
    assert!(with(&[("offset", "18446744073709551615")]).contains("a file of 24 bytes"));
    assert!(with(&[("offset", "-4")]).contains("\"-4\""));
    assert!(with(&[("length", "many")]).contains("\"many\""));
}

#[test]
fn memory_models_have_no_folder() {
    let message = error(&model(adding(external("w", 4, &[("location", "w.bin")]))));
    assert!(message.contains("a model with a folder"), "{message}");
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_models() {
    let folder = folder();
    let message = import(&folder.path().join("m")).expect_err("a folder").to_string();
    assert!(message.contains("a folder"), "{message}");
    let message = import(Path::new("/dev/zero")).expect_err("a device").to_string();
    assert!(message.contains("a device"), "{message}");
    assert!(import(&folder.path().join("none.onnx")).is_err());
}
