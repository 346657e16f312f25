//! What can be wrong with a model file.

use std::io;

use tandem_ir::{GraphError, limits};
use tandem_onnx_proto::DecodeError;

/// A model file that cannot be imported: which file, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {fault}")]
pub struct ImportError {
    /// The file, or the name given with its bytes.
    pub path: String,
    /// What is wrong.
    pub fault: Box<Fault>,
}

/// What is wrong with a file: the place in it, what was expected, what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A folder, a pipe, a device.
    #[error("expected a regular file, found {found}")]
    NotAFile {
        /// What it is.
        found: &'static str,
    },
    /// The bytes are no ONNX protobuf.
    #[error("expected an ONNX protobuf: {0}")]
    Decode(#[from] DecodeError),
    /// A protobuf, but none of a model.
    #[error("expected a ModelProto with a graph, found none in {bytes} bytes")]
    NoGraph {
        /// Length of the file.
        bytes: u64,
    },
    /// A tensor contradicts itself.
    #[error("tensor \"{tensor}\" in {place}, {field}: expected {expected}, found {found}")]
    Tensor {
        /// Its name.
        tensor: String,
        /// The graph or node that holds it.
        place: String,
        /// The field that is wrong.
        field: &'static str,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A tensor's external contents cannot be had, or must not be.
    #[error("tensor \"{tensor}\", external data \"{location}\": expected {expected}, found {found}")]
    External {
        /// Its name.
        tensor: String,
        /// The file it names.
        location: String,
        /// What is allowed.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A graph breaks a rule.
    #[error("{place}: {fault}")]
    Graph {
        /// The graph: the model's own or a body.
        place: String,
        /// What it breaks.
        fault: GraphError,
    },
    /// A model-local function cannot be expanded.
    #[error("function {function}: expected {expected}, found {found}")]
    Function {
        /// Domain and name.
        function: String,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A value file holds another value than expected.
    #[error("expected {expected}, found {found}")]
    Value {
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Bodies inside bodies.
    #[error("{place}: expected at most {} bodies inside one another, found more", limits::BODY_DEPTH_MAX)]
    TooDeep {
        /// The innermost graph that was looked at.
        place: String,
    },
    /// More nodes, bodies and expanded functions included, than a model can have.
    #[error("expected at most {} nodes, bodies and expanded functions included, found more", limits::NODES_MAX)]
    TooManyNodes,
}

impl Fault {
    /// A fault of a tensor's field.
    pub(crate) fn tensor(
        tensor: &str,
        place: &str,
        field: &'static str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        let (expected, found) = (expected.into(), found.into());
        Self::Tensor { tensor: tensor.to_owned(), place: place.to_owned(), field, expected, found }
    }

    /// The fault as the error of a file.
    pub(crate) fn of(self, path: &str) -> ImportError {
        ImportError { path: path.to_owned(), fault: Box::new(self) }
    }
}
