//! The table of built models, and building them into files.
//!
//! What it deliberately does not do: it parses no command line and knows no default folder; the binary chooses both.
//!
//! Invariants: a model's bytes depend on its name, the seed and [`BUILDER_VERSION`] alone; a file under its final name
//! is complete.

use crate::arch::{alexnet, bert, branchy, control, gpt2, inception, lstm, mlp, mobilenet, qdq, resnet, ssd, vgg};
use crate::error::ModelsError;
use crate::graph::Graph;
use crate::weights::Weights;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use tandem_onnx_proto::{Message, ModelProto, OperatorSetIdProto};

/// Version of the builders: raised with each change of what any of them writes, so that no cache serves an old file.
pub const BUILDER_VERSION: u32 = 1;

/// The seed used where none is given.
pub const DEFAULT_SEED: u64 = 1;

/// Version of the operator set that all models use.
const OPSET: i64 = 17;

/// Version of the file format that all models use: the first that goes with [`OPSET`].
const IR_VERSION: i64 = 8;

/// A model that this crate builds.
pub struct ZooModel {
    /// Its name, as in `zoo:NAME`.
    pub name: &'static str,
    /// One line about it: architecture, inputs, outputs.
    pub summary: &'static str,
    /// Whether it is a small variant for tests: at most 2 MB, runs in milliseconds.
    pub tiny: bool,
    /// Suggested lengths of the dynamic dimensions other than `batch`, by name. Where a dimension is written as a sum
    /// (`past_sequence + sequence`), the sum has its own entry, for tools that take such text for a name.
    pub default_dims: &'static [(&'static str, u64)],
    /// Suggested values of scalar inputs that steer the model (a condition as 0 or 1, a count of turns), by name.
    pub default_values: &'static [(&'static str, i64)],
    builder: fn(&mut Graph),
}

/// What a model is made of, without its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZooStats {
    /// Nodes of the main graph and of all bodies of control flow.
    pub nodes: u64,
    /// Trained parameters, in elements.
    pub parameters: u64,
    /// Inputs of the graph.
    pub inputs: u64,
    /// Outputs of the graph.
    pub outputs: u64,
}

impl ZooModel {
    /// The model with weights of `seed`: always the same for the same seed. Its size in memory is that of its file.
    pub fn build(&self, seed: u64) -> ModelProto {
        self.model(Weights::seeded(seed)).0
    }

    /// The model with empty weights: names, types and shapes only. Fast, and not a valid model.
    pub fn outline(&self) -> ModelProto {
        self.model(Weights::absent()).0
    }

    /// Counts of nodes, parameters, inputs and outputs; makes no weights.
    pub fn stats(&self) -> ZooStats {
        let (model, parameters) = self.model(Weights::absent());
        let graph = model.graph.unwrap_or_default();
        ZooStats {
            nodes: count_nodes(&graph.node),
            parameters,
            inputs: graph.input.len() as u64,
            outputs: graph.output.len() as u64,
        }
    }

    fn model(&self, weights: Weights) -> (ModelProto, u64) {
        let mut graph = Graph::new(self.name, weights);
        (self.builder)(&mut graph);
        let (graph, parameters) = graph.finish();
        let model = ModelProto {
            ir_version: IR_VERSION,
            producer_name: "tandem-models".to_owned(),
            producer_version: BUILDER_VERSION.to_string(),
            graph: Some(graph),
            opset_import: vec![OperatorSetIdProto::new("", OPSET)],
            ..ModelProto::default()
        };
        (model, parameters)
    }
}

fn count_nodes(nodes: &[tandem_onnx_proto::NodeProto]) -> u64 {
    let bodies = nodes.iter().flat_map(|node| &node.attribute).filter_map(|attribute| attribute.g.as_ref());
    nodes.len() as u64 + bodies.map(|graph| count_nodes(&graph.node)).sum::<u64>()
}

/// All models, full-size ones first.
pub fn zoo() -> &'static [ZooModel] {
    ZOO
}

/// The model called `name`, if there is one.
pub fn find(name: &str) -> Option<&'static ZooModel> {
    ZOO.iter().find(|model| model.name == name)
}

/// Builds the model `name` with weights of `seed` into the file `path`, which is replaced only when the new one is
/// complete.
///
/// # Errors
/// An unknown name; a file that cannot be written.
pub fn build_to(name: &str, seed: u64, path: &Path) -> Result<(), ModelsError> {
    let model = find(name).ok_or_else(|| ModelsError::unknown(name, ZOO.iter().map(|model| model.name)))?;
    let model = model.build(seed);
    write_aside(path, |out| model.write_to(out))
}

/// The model `name` with the default seed as a file in `cache_dir` (made if need be): built by the first call, found by
/// later ones. The file's name carries [`BUILDER_VERSION`] and the seed.
///
/// # Errors
/// An unknown name; a file or folder that cannot be written.
pub fn cached(name: &str, cache_dir: &Path) -> Result<PathBuf, ModelsError> {
    let path = cache_dir.join(format!("{name}-v{BUILDER_VERSION}-s{DEFAULT_SEED}.onnx"));
    // An unknown name must not touch the disk, for it may hold separators.
    if find(name).is_some() {
        if path.is_file() {
            return Ok(path);
        }
        std::fs::create_dir_all(cache_dir).map_err(ModelsError::file(cache_dir))?;
    }
    build_to(name, DEFAULT_SEED, &path)?;
    Ok(path)
}

/// Writes a file beside `path` and renames it when complete, so that no reader ever sees a part of it.
pub(crate) fn write_aside(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), ModelsError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    // Renaming over a device or a pipe would replace it.
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        let why = std::io::Error::other("expected a file's name, found what is no file");
        return Err(ModelsError::file(path)(why));
    }
    let aside = tempfile::Builder::new().prefix(".tandem-").suffix(".onnx.tmp").tempfile_in(folder);
    let mut out = BufWriter::new(aside.map_err(ModelsError::file(folder))?);
    write(&mut out).map_err(ModelsError::file(path))?;
    let aside = out.into_inner().map_err(|error| ModelsError::file(path)(error.into_error()))?;
    open_up(aside.as_file()).map_err(ModelsError::file(path))?;
    aside.persist(path).map_err(|error| ModelsError::file(path)(error.error))?;
    Ok(())
}

/// Temporary files are their owner's alone; a model may be read by others, as a file made the ordinary way.
fn open_up(file: &std::fs::File) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    #[cfg(not(unix))]
    let _ = file;
    Ok(())
}

const fn model(
    name: &'static str,
    default_dims: &'static [(&'static str, u64)],
    builder: fn(&mut Graph),
    summary: &'static str,
) -> ZooModel {
    let tiny = matches!(name.as_bytes(), [b't', b'i', b'n', b'y', b'-', ..]);
    ZooModel { name, summary, tiny, default_dims, default_values: &[], builder }
}

impl ZooModel {
    const fn values(self, default_values: &'static [(&'static str, i64)]) -> Self {
        Self { default_values, ..self }
    }
}

static ZOO: &[ZooModel] = &[
    model("alexnet", &[], alexnet::build, "AlexNet, one tower; input [batch, 3, 224, 224], output [batch, 1000]"),
    model("vgg19", &[], |g| vgg::build(g, &vgg::VGG19), "VGG-19; input [batch, 3, 224, 224], output [batch, 1000]"),
    model(
        "resnet50",
        &[],
        |g| resnet::build(g, &resnet::RESNET50),
        "ResNet-50, batch normalisation folded; input [batch, 3, 224, 224], output [batch, 1000]",
    ),
    model(
        "mobilenet-v2",
        &[],
        |g| mobilenet::build(g, &mobilenet::MOBILENET_V2),
        "MobileNetV2, depthwise convolutions and ReLU6; input [batch, 3, 224, 224], output [batch, 1000]",
    ),
    model(
        "inception-v3",
        &[],
        |g| inception::build(g, &inception::INCEPTION_V3),
        "Inception v3 without its auxiliary head; input [batch, 3, 299, 299], output [batch, 1000]",
    ),
    model(
        "ssd300-vgg16",
        &[],
        |g| ssd::build(g, &ssd::SSD300),
        "SSD300 on VGG-16; input [batch, 3, 300, 300], boxes [batch, 8732, 4], scores [batch, 8732, 21]",
    ),
    model(
        "bert-base",
        &[("sequence", 128)],
        |g| bert::build(g, &bert::BERT_BASE),
        "BERT base; input_ids, attention_mask, token_type_ids int64 [batch, sequence], last_hidden_state \
         [batch, sequence, 768], pooler_output [batch, 768]",
    ),
    model(
        "gpt2-small",
        &[("sequence", 1), ("past_sequence", 128), ("past_sequence + sequence", 129)],
        |g| gpt2::build(g, &gpt2::GPT2_SMALL),
        "GPT-2 small with key-value inputs; input_ids int64 [batch, sequence], attention_mask int64 [batch, \
         past_sequence + sequence], past_key_values.N.key/value [batch, 12, past_sequence, 64], logits [batch, \
         sequence, 50257], present.N.key/value",
    ),
    model(
        "branchy",
        &[],
        |g| branchy::build(g, &branchy::BRANCHY),
        "Nine cells of eight unlike branches; input [batch, 3, 224, 224], output [batch, 1000]",
    ),
    model(
        "lstm",
        &[("time", 64)],
        |g| lstm::build(g, &lstm::LSTM),
        "Two LSTM layers of 512; input [batch, time, 256], h0 and c0 [2, batch, 512], output [batch, 128], hn, cn",
    ),
    model(
        "control-flow",
        &[("steps", 4)],
        |g| control::build(g, &control::CONTROL),
        "If in If, Loop with If inside; input [batch, 256], refine bool [], steps int64 [] (turns of the loop), output \
         [batch, 128], trace [steps, batch, 512]",
    )
    .values(&[("refine", 1), ("steps", 4)]),
    model(
        "resnet18-int8",
        &[],
        |g| qdq::build(g, &qdq::RESNET18),
        "ResNet-18 quantised to 8 bits in QDQ form; input [batch, 3, 224, 224], output [batch, 1000]",
    ),
    model(
        "mlp-mid",
        &[],
        |g| mlp::build(g, &mlp::MID),
        "Perceptron of 256, 2048, 2048 and 16; input [batch, 256], output [batch, 16]",
    ),
    model(
        "mlp-small",
        &[],
        |g| mlp::build(g, &mlp::SMALL),
        "Perceptron of 16, 64 and 16; input [batch, 16], output [batch, 16]",
    ),
    model(
        "tiny-vgg",
        &[],
        |g| vgg::build(g, &vgg::TINY),
        "VGG with narrow layers; input [batch, 3, 32, 32], output [batch, 10]",
    ),
    model(
        "tiny-resnet",
        &[],
        |g| resnet::build(g, &resnet::TINY),
        "ResNet with five narrow blocks; input [batch, 3, 64, 64], output [batch, 10]",
    ),
    model(
        "tiny-mobilenet",
        &[],
        |g| mobilenet::build(g, &mobilenet::TINY),
        "MobileNetV2 with six narrow blocks; input [batch, 3, 64, 64], output [batch, 10]",
    ),
    model(
        "tiny-inception",
        &[],
        |g| inception::build(g, &inception::TINY),
        "Inception v3 with a sixteenth of the widths; input [batch, 3, 80, 80], output [batch, 10]",
    ),
    model(
        "tiny-ssd",
        &[],
        |g| ssd::build(g, &ssd::TINY),
        "SSD with four sources of boxes; input [batch, 3, 64, 64], boxes [batch, 380, 4], scores [batch, 380, 5]",
    ),
    model(
        "tiny-bert",
        &[("sequence", 16)],
        |g| bert::build(g, &bert::TINY),
        "BERT with two layers of 64; inputs int64 [batch, sequence], last_hidden_state [batch, sequence, 64], \
         pooler_output [batch, 64]",
    ),
    model(
        "tiny-gpt2",
        &[("sequence", 1), ("past_sequence", 8), ("past_sequence + sequence", 9)],
        |g| gpt2::build(g, &gpt2::TINY),
        "GPT-2 with two layers of 64 and key-value inputs [batch, 4, past_sequence, 16]; logits [batch, sequence, 512]",
    ),
    model(
        "tiny-branchy",
        &[],
        |g| branchy::build(g, &branchy::TINY),
        "Two cells of eight unlike branches; input [batch, 3, 32, 32], output [batch, 10]",
    ),
    model(
        "tiny-lstm",
        &[("time", 8)],
        |g| lstm::build(g, &lstm::TINY),
        "Two LSTM layers of 32; input [batch, time, 16], h0 and c0 [2, batch, 32], output [batch, 10], hn, cn",
    ),
    model(
        "tiny-control-flow",
        &[("steps", 3)],
        |g| control::build(g, &control::TINY),
        "If in If, Loop with If inside; input [batch, 16], refine bool [], steps int64 [], output [batch, 10], trace \
         [steps, batch, 32]",
    )
    .values(&[("refine", 1), ("steps", 3)]),
    model(
        "tiny-int8",
        &[],
        |g| qdq::build(g, &qdq::TINY),
        "ResNet of three basic blocks in 8-bit QDQ form; input [batch, 3, 32, 32], output [batch, 10]",
    ),
];
