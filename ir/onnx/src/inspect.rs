//! A look into a model file without importing it: for graphs that engines save.

use std::path::Path;

use tandem_onnx_proto::{Blob, Message, ModelProto};

/// A node as a file states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainNode {
    /// Its name; may be empty.
    pub name: String,
    /// Its operator, without the domain.
    pub op: String,
    /// Names of the values it reads; empty where an optional one is left out.
    pub inputs: Vec<String>,
    /// Names of the values it makes; empty where one is left out.
    pub outputs: Vec<String>,
}

/// The nodes of a model file's graph in the file's order, those of bodies and functions left out. The file is read
/// whole: meant for files whose weights lie beside them.
///
/// # Errors
/// The file cannot be read, or is no ONNX model.
pub fn nodes(path: &Path) -> std::io::Result<Vec<PlainNode>> {
    let bytes: std::sync::Arc<Vec<u8>> = std::fs::read(path)?.into();
    let model = ModelProto::decode(&Blob::whole(bytes)).map_err(std::io::Error::other)?;
    let nodes = model.graph.map(|g| g.node).unwrap_or_default();
    let plain =
        nodes.into_iter().map(|n| PlainNode { name: n.name, op: n.op_type, inputs: n.input, outputs: n.output });
    Ok(plain.collect())
}
