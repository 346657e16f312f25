//! ONNX file to [`Graph`], and what cutting needs of the file.
//!
//! The file is mapped; weights stay where they are. The graph is built from the protobuf alone: nothing is inferred, and
//! operators that nobody knows are kept. Model-local functions are expanded into their calls, `Constant` nodes and
//! initialisers become constants, control-flow bodies nested graphs.
//!
//! Not here: running, shape inference, whether an engine supports an operator.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tandem_ir::{Fingerprint, Graph, TensorId};
use tandem_onnx_proto::{Blob, FunctionProto, GraphProto, IR_VERSION, Message, ModelProto, NodeProto, TypeProto};

use crate::digest::{self, Contents};
use crate::external::Store;
pub use crate::fault::{Fault, ImportError};
use crate::functions;
use crate::lower::{Lowered, Lowering};
use crate::mmap;
use crate::tensor::Held;
use crate::value::TensorValue;
use crate::walk::{self, Site};

/// The first default-domain opset whose operators all engines know; older files are read all the same.
const OPSET_MIN: i64 = 7;

/// How to import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whether weights' contents are hashed: every weight byte is read once, about 1.5 GB/s a core where the processor
    /// has SHA instructions, 0.3 GB/s elsewhere. Without it the fingerprint covers structure only: good for looking at a
    /// model, but it is another fingerprint than the one that plans are bound to.
    pub hash_weights: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { hash_weights: true }
    }
}

/// A model file that was read: its graph, and what cutting needs of the file. Clones nothing large; shared by reference.
#[derive(Clone)]
pub struct Model {
    /// The graph. Facts may be replaced by better ones; nodes, names and wiring must stay as they are.
    pub graph: Graph,
    /// What the file says of itself (versions, producer, metadata, operator sets); graph and functions left out.
    pub proto: ModelProto,
    /// The file; the given name where there is none.
    pub path: PathBuf,
    /// What a user should know, one sentence each.
    pub warnings: Vec<String>,
    /// The nodes of the file by [`tandem_ir::NodeId`], their names those of the file.
    pub(crate) nodes: Vec<NodeProto>,
    /// Contents of the constants.
    pub(crate) held: HashMap<TensorId, Held>,
    /// Types that the file states of values.
    pub(crate) types: HashMap<TensorId, TypeProto>,
    /// Functions that nodes still call.
    pub(crate) functions: Vec<FunctionProto>,
    /// The file's bytes.
    pub(crate) file: Blob,
    /// Initialisers whose contents the file keeps outside.
    pub(crate) external: Vec<String>,
    /// Other external contents, in the order of [`walk::normalize`].
    pub(crate) external_inside: Vec<Blob>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({}, {} nodes, {})", self.path.display(), self.nodes.len(), self.graph.fingerprint.short())
    }
}

impl Model {
    /// A model without a file, of a graph that was lowered.
    pub(crate) fn of(lowered: Lowered, graph: GraphProto, proto: ModelProto, functions: Vec<FunctionProto>) -> Self {
        let index = lowered.graph.tensor_index();
        let held =
            lowered.held.into_iter().filter_map(|(name, held)| Some((*index.get(name.as_str())?, held))).collect();
        let infos = graph.value_info.iter().chain(&graph.output).chain(&graph.input);
        let types = infos.filter_map(|v| Some((*index.get(v.name.as_str())?, v.r#type.clone()?))).collect();
        drop(index);
        let mut nodes: Vec<Option<NodeProto>> = graph.node.into_iter().map(Some).collect();
        let nodes = lowered.order.iter().filter_map(|place| nodes[*place].take()).collect();
        Self {
            graph: lowered.graph,
            proto,
            path: PathBuf::new(),
            warnings: vec![],
            nodes,
            held,
            types,
            functions,
            file: Blob::default(),
            external: vec![],
            external_inside: vec![],
        }
    }

    /// The value of a constant, in one layout whatever the file's is. `None` for what is no constant of the file (values
    /// that folded nodes make included), and for a sparse one of more than 256 MiB.
    pub fn constant_value(&self, id: TensorId) -> Option<TensorValue> {
        self.held.get(&id)?.value()
    }

    /// The type that the file states of a value, for kinds whose type a [`tandem_ir::Fact`] cannot hold in full.
    pub fn declared_type(&self, id: TensorId) -> Option<&TypeProto> {
        self.types.get(&id)
    }

    /// Ties plans to this model: structure and every weight.
    pub fn fingerprint(&self) -> Fingerprint {
        self.graph.fingerprint
    }
}

/// Reads a model file. External weights are looked for in its folder.
///
/// # Errors
/// Names the file and the place in it: no model, truncated, a tensor that contradicts itself, external data that is
/// missing or not allowed, a graph that is none.
pub fn import(path: &Path) -> Result<Model, ImportError> {
    import_with(path, Options::default())
}

/// [`import`] with options.
///
/// # Errors
/// Those of [`import`].
pub fn import_with(path: &Path, options: Options) -> Result<Model, ImportError> {
    let name = path.display().to_string();
    let file = mmap::open(path).and_then(|file| Ok(mmap::load(file)?)).map_err(|fault| fault.of(&name))?;
    // The folder as named: a link to a model stands among the files that belong to it.
    let base = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    read(file, Some(base), options).map(|model| Model { path: path.to_owned(), ..model }).map_err(|f| f.of(&name))
}

/// Reads a model from memory; `name` stands for the file in messages, `base_dir` is where external data may lie (with
/// none it is refused).
///
/// # Errors
/// Those of [`import`].
pub fn import_bytes(name: &str, bytes: impl Into<Blob>, base_dir: Option<&Path>) -> Result<Model, ImportError> {
    let read = read(bytes.into(), base_dir, Options::default());
    read.map(|model| Model { path: name.into(), ..model }).map_err(|fault| fault.of(name))
}

fn read(file: Blob, base: Option<&Path>, options: Options) -> Result<Model, Fault> {
    let mut proto = ModelProto::decode(&file)?;
    if proto.graph.is_none() {
        return Err(Fault::NoGraph { bytes: file.len() as u64 });
    }
    let mut store = Store::new(base);
    let (mut external, mut external_inside) = (vec![], vec![]);
    walk::normalize(&mut proto, &mut |tensor, bytes, site| {
        let blob = store.contents(tensor, bytes)?;
        match site {
            Site::Initializer => external.push(tensor.name.clone()),
            Site::Inside => external_inside.push(blob.clone()),
        }
        Ok(blob)
    })?;
    let mut warnings = vec![];
    functions::expand(&mut proto, &mut warnings)?;
    let functions = std::mem::take(&mut proto.functions);
    let Some(mut graph) = proto.graph.take() else { return Err(Fault::NoGraph { bytes: file.len() as u64 }) };
    walk::rename_inner_nodes(&mut graph.node, false);
    let contents = if options.hash_weights {
        let mut blobs = vec![];
        walk::for_each_constant(&graph, &mut |blob| blobs.push(blob.clone()));
        Contents::of(&blobs)
    } else {
        Contents::skip()
    };
    let opsets = opsets(&proto, &graph.node, &mut warnings);
    let ir_version = proto.ir_version;
    let mut lowered =
        Lowering { opsets, ir_version, contents: &contents, warnings: &mut warnings, nodes: 0 }.model(&graph)?;
    lowered.graph.fingerprint = digest::graph(&lowered.graph, &functions);
    Ok(Model { warnings, file, external, external_inside, ..Model::of(lowered, graph, proto, functions) })
}

/// Versions in force, with what is odd about them.
fn opsets(
    proto: &ModelProto,
    nodes: &[NodeProto],
    warnings: &mut Vec<String>,
) -> std::collections::BTreeMap<String, i64> {
    let mut opsets = functions::imports(&proto.opset_import);
    if opsets.len() < proto.opset_import.len() {
        warnings.push("an operator set is imported twice; the higher version holds".into());
    }
    if !(1..=IR_VERSION).contains(&proto.ir_version) {
        warnings.push(format!("IR version {}: expected 1 to {IR_VERSION}", proto.ir_version));
    }
    let plain = nodes.iter().any(|n| walk::domain(&n.domain).is_empty());
    if plain && !opsets.contains_key("") {
        warnings.push("no import of ONNX's own operators: version 1 is assumed".into());
        opsets.insert(String::new(), 1);
    }
    if let Some(version) = opsets.get("").filter(|v| **v < OPSET_MIN) {
        warnings.push(format!("operators of opset {version}: supported from {OPSET_MIN} on"));
    }
    opsets
}
