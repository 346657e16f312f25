//! Tensor data as bytes: little-endian elements, row-major; strings each behind their length in 4 bytes.

use std::sync::Arc;

use tandem_ir::DType;
use tandem_onnx::value::{Buffer, Data, TensorValue};

use super::oip::OipError;

/// Bytes of a string's length.
const LENGTH_BYTES: usize = 4;

/// Reads strings.
///
/// # Errors
/// Another number of strings than the shape's, or a length beyond the end.
pub(super) fn read_strings(input: &str, mut bytes: &[u8], elements: u64) -> Result<Data, OipError> {
    let wrong = |found: String| OipError::Data {
        input: input.to_owned(),
        expected: format!("{elements} strings, each behind its length in {LENGTH_BYTES} bytes"),
        found,
    };
    // No more than the bytes can hold, whatever the shape says.
    let room = usize::try_from(elements).unwrap_or(usize::MAX).min(bytes.len() / LENGTH_BYTES);
    let mut strings = Vec::with_capacity(room);
    while let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() {
        if strings.len() as u64 == elements {
            return Err(wrong(format!("{} bytes after the last", bytes.len())));
        }
        let length = u32::from_le_bytes(*length) as usize;
        if length > rest.len() {
            return Err(wrong(format!("string {} of {length} bytes where {} are left", strings.len(), rest.len())));
        }
        strings.push(rest[..length].to_vec());
        bytes = &rest[length..];
    }
    if strings.len() as u64 != elements || !bytes.is_empty() {
        return Err(wrong(format!("{} and {} bytes more", strings.len(), bytes.len())));
    }
    Ok(Data::Strings(Arc::new(strings)))
}

/// Refuses booleans that are neither 0 nor 1: what an engine makes of them is not defined.
///
/// # Errors
/// There is such an element.
pub(super) fn check_booleans(input: &str, bytes: &[u8]) -> Result<(), OipError> {
    match bytes.iter().position(|b| *b > 1) {
        None => Ok(()),
        Some(at) => Err(OipError::Element {
            input: input.to_owned(),
            element: at as u64,
            expected: "0 or 1".to_owned(),
            found: bytes[at].to_string(),
        }),
    }
}

/// The tensor's bytes as they travel: those that it has, and for strings a copy.
pub(super) fn written(tensor: &TensorValue) -> Buffer {
    match &tensor.data {
        Data::Bytes(bytes) => bytes.clone(),
        Data::Strings(strings) => {
            let size = strings.iter().map(|s| s.len() + LENGTH_BYTES).sum();
            let mut bytes = Vec::with_capacity(size);
            for string in strings.iter() {
                let length = u32::try_from(string.len()).expect("a string of less than 4 GiB");
                bytes.extend_from_slice(&length.to_le_bytes());
                bytes.extend_from_slice(string);
            }
            Buffer::from(bytes)
        }
    }
}

/// Bytes an element takes in memory and on the wire; 1 for strings, which have no fixed size.
pub(super) fn element_bytes(dtype: DType) -> usize {
    (dtype.bits() as usize / 8).max(1)
}
