//! ONNX file to [`Graph`]. (being written)

use std::path::Path;
use tandem_ir::Graph;

/// A model file that was read: its graph, and what cutting needs of the file.
pub struct Model {
    /// The graph.
    pub graph: Graph,
}

/// Why a file is no model.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// Reads a model file.
pub fn import(_path: &Path) -> Result<Model, ImportError> {
    Err(ImportError::Io { path: String::new(), source: std::io::Error::other("being written") })
}
