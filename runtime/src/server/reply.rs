//! From outputs to the bytes of a body: JSON, followed by those tensors that were asked for as binary data.

use hyper::body::Bytes;
use serde::Serialize;
use tandem_onnx::value::TensorValue;

use super::backend::{TenantSpec, VERSION};
use super::oip::{OipError, datatype};
use super::request::Wanted;
use super::{binary, json};

/// A body in pieces; tensors are the backend's own memory.
#[derive(Debug)]
pub(super) struct Encoded {
    /// The JSON first.
    pub(super) chunks: Vec<Bytes>,
    /// Its size, where tensors may follow it.
    pub(super) json_bytes: Option<usize>,
}

#[derive(Serialize)]
struct Head<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    model_name: &'a str,
    model_version: &'a str,
}

#[derive(Serialize)]
struct OutputHead<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: &'a [u64],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
}

#[derive(Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

/// Writes the outputs that are wanted; `outputs` are all of the tenant's.
///
/// # Errors
/// An output cannot be in JSON, though JSON was asked for.
///
/// # Panics
/// If the outputs are not as the tenant says.
pub(super) fn encode(tenant: &TenantSpec, wanted: &Wanted, outputs: &[TensorValue]) -> Result<Encoded, OipError> {
    assert_eq!(outputs.len(), tenant.outputs.len(), "a reply has every output of {:?}", tenant.name);
    let head = Head { id: wanted.id.as_deref(), model_name: &tenant.name, model_version: VERSION };
    let mut text = opened(&head);
    text.extend_from_slice(b",\"outputs\":[");
    let mut tensors = vec![];
    for (i, (at, is_binary)) in wanted.outputs.iter().enumerate() {
        let (spec, tensor) = (&tenant.outputs[*at], &outputs[*at]);
        assert_eq!(tensor.dtype, spec.dtype, "the type of output {:?} of {:?}", spec.name, tenant.name);
        let bytes = is_binary.then(|| Bytes::from_owner(binary::written(tensor)));
        let output = OutputHead {
            name: &spec.name,
            datatype: datatype(spec.dtype).unwrap_or(spec.dtype.name()),
            shape: &tensor.dims,
            parameters: bytes.as_ref().map(|b| BinarySize { binary_data_size: b.len() }),
        };
        if i > 0 {
            text.push(b',');
        }
        text.extend_from_slice(&opened(&output));
        match bytes {
            Some(bytes) => tensors.push(bytes),
            None => {
                text.extend_from_slice(b",\"data\":");
                json::write(&mut text, &spec.name, tensor)?;
            }
        }
        text.push(b'}');
    }
    text.extend_from_slice(b"]}");
    let json_bytes = (!tensors.is_empty()).then_some(text.len());
    tensors.insert(0, Bytes::from(text));
    Ok(Encoded { chunks: tensors, json_bytes })
}

/// An object in JSON without its last brace, so that members can follow: tensor data goes straight into the text.
fn opened(object: &impl Serialize) -> Vec<u8> {
    let mut text = serde_json::to_vec(object).expect("names and numbers are written to memory without fail");
    text.pop();
    text
}

#[cfg(test)]
mod tests;
