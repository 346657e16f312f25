//! The built models as files: the same bytes for the same seed, well-formed graphs, and the sizes that are published.

use std::collections::HashSet;
use std::sync::Arc;
use tandem_models::{DEFAULT_SEED, ZooModel, zoo};
use tandem_onnx_proto::{Blob, GraphProto, Message, ModelProto, NodeProto, TensorProto, data_type};

fn tiny() -> impl Iterator<Item = &'static ZooModel> {
    zoo().iter().filter(|model| model.tiny)
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for model in tiny() {
        let first = model.build(7).encode();
        assert!(first == model.build(7).encode(), "{}: two builds differ", model.name);
        assert!(first != model.build(8).encode(), "{}: the seed changes nothing", model.name);
    }
}

#[test]
fn small_models_are_small_and_survive_encoding() {
    for model in tiny() {
        let built = model.build(DEFAULT_SEED);
        let bytes = built.encode();
        assert!(bytes.len() <= 2_000_000, "{}: {} bytes", model.name, bytes.len());
        let read = ModelProto::decode(&Blob::whole(Arc::new(bytes))).unwrap();
        assert!(read == built, "{}: not the same after encoding and decoding", model.name);
    }
}

/// What each body may take from around it, and every name that was given.
struct Names {
    model: &'static str,
    given: HashSet<String>,
}

impl Names {
    fn give(&mut self, name: &str) {
        assert!(self.given.insert(name.to_owned()), "{}: `{name}` is given twice", self.model);
    }

    /// Checks order and names of `graph`; `outer` is what it may capture.
    fn check(&mut self, graph: &GraphProto, outer: &HashSet<String>) {
        let mut known = outer.clone();
        for name in graph.input.iter().map(|v| &v.name).chain(graph.initializer.iter().map(|t| &t.name)) {
            self.give(name);
            known.insert(name.clone());
        }
        for node in &graph.node {
            for input in node.input.iter().filter(|input| !input.is_empty()) {
                assert!(known.contains(input), "{}: node `{}` takes unknown `{input}`", self.model, node.name);
            }
            for body in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
                self.check(body, &known);
            }
            for output in &node.output {
                self.give(output);
                known.insert(output.clone());
            }
        }
        for output in &graph.output {
            assert!(known.contains(&output.name), "{}: output `{}` is made nowhere", self.model, output.name);
        }
    }
}

#[test]
fn graphs_are_ordered_and_their_names_unique() {
    for model in zoo() {
        let graph = model.outline().graph.unwrap();
        Names { model: model.name, given: HashSet::new() }.check(&graph, &HashSet::new());
        let mut nodes = HashSet::new();
        for node in all_nodes(&graph) {
            assert!(nodes.insert(&node.name), "{}: two nodes are called `{}`", model.name, node.name);
        }
        let used: HashSet<&String> = all_nodes(&graph).iter().flat_map(|node| &node.input).collect();
        for tensor in &graph.initializer {
            assert!(used.contains(&tensor.name), "{}: nobody takes `{}`", model.name, tensor.name);
        }
    }
}

fn all_nodes(graph: &GraphProto) -> Vec<&NodeProto> {
    let bodies = graph.node.iter().flat_map(|node| &node.attribute).filter_map(|attribute| attribute.g.as_ref());
    graph.node.iter().chain(bodies.flat_map(|body| all_nodes(body))).collect()
}

#[test]
fn every_model_has_a_batch_and_suggestions_for_other_dimensions() {
    for model in zoo() {
        let graph = model.outline().graph.unwrap();
        let mut dims = HashSet::new();
        for value in graph.input.iter().chain(&graph.output) {
            let shape = value.r#type.as_ref().unwrap().as_tensor().unwrap().shape.as_ref().unwrap();
            for dim in &shape.dim {
                if let Some(tandem_onnx_proto::DimValue::Param(name)) = &dim.value {
                    dims.insert(name.as_str());
                }
            }
        }
        assert!(dims.remove("batch"), "{}: no batch dimension", model.name);
        let suggested: HashSet<&str> = model.default_dims.iter().map(|(name, _)| *name).collect();
        assert_eq!(dims, suggested, "{}", model.name);
        for (name, _) in model.default_values {
            assert!(graph.input.iter().any(|input| input.name == *name), "{}: no input `{name}`", model.name);
        }
    }
}

#[test]
fn tensors_hold_what_their_shapes_say() {
    for model in tiny() {
        let graph = model.build(DEFAULT_SEED).graph.unwrap();
        let constants = all_nodes(&graph);
        let constants = constants.iter().filter_map(|node| node.attr("value")?.t.as_deref());
        for tensor in graph.initializer.iter().chain(constants) {
            let count: i64 = tensor.dims.iter().product();
            let bits = i64::from(data_type::size_bits(tensor.data_type).unwrap());
            let raw = tensor.raw_data.as_ref().unwrap();
            assert_eq!(raw.len() as i64 * 8, count * bits, "{}: `{}`", model.name, tensor.name);
            assert!(normal(tensor), "{}: `{}` has a subnormal or infinite element", model.name, tensor.name);
        }
    }
}

fn normal(tensor: &TensorProto) -> bool {
    let raw = tensor.raw_data.as_ref().unwrap();
    let mut elements = raw.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    tensor.data_type != data_type::FLOAT || elements.all(|value| value == 0.0 || value.is_normal())
}

#[test]
fn parameters_are_as_published() {
    // torchvision and Hugging Face models, less what folding batch normalisation saves: two numbers a channel.
    let published = [
        ("alexnet", 61_100_840),
        ("vgg19", 143_667_240),
        ("resnet50", 25_557_032 - 26_560),
        ("mobilenet-v2", 3_504_872 - 17_056),
        ("inception-v3", 23_834_568 - 17_216),
        // The VOC model of 21 classes; its scale of the first source counts.
        ("ssd300-vgg16", 26_284_974 + 512),
        ("bert-base", 109_482_240),
        ("gpt2-small", 124_439_808),
        ("resnet18-int8", 11_689_512 - 4_800),
    ];
    for (name, parameters) in published {
        assert_eq!(tandem_models::find(name).unwrap().stats().parameters, parameters, "{name}");
    }
}

#[test]
fn files_are_built_once_under_a_name_with_the_version() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("models");
    let path = tandem_models::cached("tiny-lstm", &cache).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    assert_eq!(name, format!("tiny-lstm-v{}-s{DEFAULT_SEED}.onnx", tandem_models::BUILDER_VERSION));
    let built = std::fs::read(&path).unwrap();
    assert!(built == tandem_models::find("tiny-lstm").unwrap().build(DEFAULT_SEED).encode());
    std::fs::write(&path, b"kept").unwrap();
    assert_eq!(tandem_models::cached("tiny-lstm", &cache).unwrap(), path);
    assert_eq!(std::fs::read(&path).unwrap(), b"kept", "a file that is there is not built again");
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 1, "nothing is left aside");
}

#[test]
fn unknown_names_are_refused_with_the_known_ones() {
    let folder = tempfile::tempdir().unwrap();
    let error = tandem_models::cached("../resnet50", folder.path()).unwrap_err().to_string();
    assert!(error.contains("`../resnet50`") && error.contains("mobilenet-v2"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(tandem_models::find("resnet").is_none());
}
