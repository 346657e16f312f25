//! Names and errors of the Open Inference Protocol, the same over HTTP and elsewhere.

use std::fmt;

use tandem_ir::DType;
use tandem_ir::graph::Dim;

use super::backend::TensorSpec;
use crate::limits::SERVER_SHOWN_CHARS_MAX;

/// What the protocol calls an element type; `None` for those it does not know.
pub(super) fn datatype(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::Bool => "BOOL",
        DType::U8 => "UINT8",
        DType::U16 => "UINT16",
        DType::U32 => "UINT32",
        DType::U64 => "UINT64",
        DType::I8 => "INT8",
        DType::I16 => "INT16",
        DType::I32 => "INT32",
        DType::I64 => "INT64",
        DType::F16 => "FP16",
        DType::BF16 => "BF16",
        DType::F32 => "FP32",
        DType::F64 => "FP64",
        DType::String => "BYTES",
        _ => return None,
    })
}

/// The size of a tensor's axis in metadata: -1 where requests decide it.
pub(super) fn wire_dim(dim: &Dim) -> i64 {
    match dim {
        Dim::Known(n) => i64::try_from(*n).unwrap_or(i64::MAX),
        Dim::Batch { .. } | Dim::Symbol(_) | Dim::Unknown => -1,
    }
}

/// A shape as people write it.
pub(super) struct Shape<'a, T>(pub(super) &'a [T]);

impl<T: fmt::Display> fmt::Display for Shape<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            write!(f, "{}{dim}", if i == 0 { "" } else { "," })?;
        }
        f.write_str("]")
    }
}

/// The shape that a request has to keep to.
pub(super) fn expected_shape(spec: &TensorSpec) -> String {
    let dims: Vec<i64> = spec.dims.iter().map(wire_dim).collect();
    Shape(&dims).to_string()
}

/// Text of a client's as far as an error shows it: requests may hold megabytes of it.
pub(super) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(SERVER_SHOWN_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

/// Why a body is no request to this tenant, or its reply cannot have the form asked for. All of it is the client's to
/// mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OipError {
    #[error("expected an inference request in JSON: {0}")]
    Json(String),
    #[error("expected {given} bytes of JSON, as Inference-Header-Content-Length says, found a body of {body}")]
    HeaderLength { given: u64, body: u64 },
    #[error("unknown {side} {name:?}, expected one of {expected:?}")]
    Unknown { side: &'static str, name: String, expected: Vec<String> },
    #[error("{side} {name:?} is there twice")]
    Repeated { side: &'static str, name: String },
    #[error("input {0:?} is missing")]
    Missing(String),
    #[error("{0} is not supported")]
    Unsupported(String),
    #[error("input {input:?}: expected datatype {expected}, found {found:?}")]
    Datatype { input: String, expected: &'static str, found: String },
    #[error("input {input:?}: expected shape {expected}, found {found}{why}")]
    Shape { input: String, expected: String, found: String, why: String },
    #[error("input {input:?}: shape {found} has more elements than memory has bytes")]
    Overflow { input: String, found: String },
    #[error("input {input:?}: expected 1 to {max} rows, found {found} in shape {shape}")]
    Rows { input: String, max: u64, found: u64, shape: String },
    #[error("inputs differ in rows: {first:?} has {first_rows}, {other:?} has {other_rows}")]
    RowsDiffer { first: String, first_rows: u64, other: String, other_rows: u64 },
    #[error("input {0:?}: expected either data or the parameter binary_data_size, found {1}")]
    DataForm(String, &'static str),
    #[error("input {input:?}: expected {expected}, found {found}")]
    Data { input: String, expected: String, found: String },
    #[error("input {input:?}: element {element}: expected {expected}, found {found}")]
    Element { input: String, element: u64, expected: String, found: String },
    #[error("expected {expected} bytes of binary data after the JSON, found {found}")]
    BinarySection { expected: u64, found: u64 },
    #[error("{tensor:?}: {dtype} has no form in JSON, expected it as binary data")]
    BinaryOnly { tensor: String, dtype: &'static str },
    #[error("output {output:?}: element {element} is {found}, which JSON cannot hold: ask for it as binary data")]
    NotInJson { output: String, element: u64, found: &'static str },
}
