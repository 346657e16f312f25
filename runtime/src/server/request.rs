//! From the bytes of a body to a request, and to the form its reply shall have.
//!
//! A body is JSON, or JSON followed by the bytes of those tensors that have `binary_data_size`, in the order of the
//! JSON. Memory stays within a small multiple of the body's: nothing is reserved on the word of a shape or a length
//! alone.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tandem_ir::DType;
use tandem_ir::graph::Dim;
use tandem_onnx::value::{Data, TensorValue};

use super::aligned::{Aligned, part};
use super::backend::{Request, TenantSpec, TensorSpec};
use super::oip::{OipError, Shape, datatype, expected_shape, shown};
use super::{binary, json};

/// A request as it was asked for.
#[derive(Debug)]
pub(super) struct Decoded {
    /// What to run.
    pub(super) request: Request,
    /// How to answer.
    pub(super) wanted: Wanted,
    /// Bytes of binary tensors that did not lie aligned and were copied.
    pub(super) copied_bytes: usize,
}

/// What a reply holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// To be echoed.
    pub(super) id: Option<String>,
    /// Outputs: position in the tenant's, and whether as binary data.
    pub(super) outputs: Vec<(usize, bool)>,
}

#[derive(Deserialize)]
struct RequestJson<'a> {
    id: Option<String>,
    #[serde(borrow)]
    inputs: Vec<InputJson<'a>>,
    #[serde(borrow)]
    outputs: Option<Vec<OutputJson<'a>>>,
    parameters: Option<RequestParameters>,
}

#[derive(Default, Deserialize)]
struct RequestParameters {
    /// Microseconds; 0 as if it were not there.
    timeout: Option<u64>,
    binary_data_output: Option<bool>,
    sequence_id: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct InputJson<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    shape: Vec<i64>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    parameters: Option<InputParameters>,
}

#[derive(Default, Deserialize)]
struct InputParameters {
    binary_data_size: Option<u64>,
    shared_memory_region: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct OutputJson<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    parameters: Option<OutputParameters>,
}

#[derive(Default, Deserialize)]
struct OutputParameters {
    binary_data: Option<bool>,
    classification: Option<IgnoredAny>,
    shared_memory_region: Option<IgnoredAny>,
}

/// Reads a body whose first `json_bytes` are JSON; all of it where that is not said.
///
/// # Errors
/// It is no request to this tenant.
pub(super) fn decode(tenant: &TenantSpec, body: &Arc<Aligned>, json_bytes: Option<u64>) -> Result<Decoded, OipError> {
    let length = body.len();
    let json_bytes = match json_bytes {
        None => length,
        Some(given) => usize::try_from(given)
            .ok()
            .filter(|n| *n <= length)
            .ok_or(OipError::HeaderLength { given, body: length as u64 })?,
    };
    let parsed: RequestJson<'_> =
        serde_json::from_slice(&(**body).as_ref()[..json_bytes]).map_err(|e| OipError::Json(shown(&e.to_string())))?;
    let parameters = parsed.parameters.unwrap_or_default();
    refuse("a sequence (sequence_id)", parameters.sequence_id.is_some())?;
    let wanted = Wanted {
        id: parsed.id,
        outputs: wanted(tenant, parsed.outputs, parameters.binary_data_output.unwrap_or(false))?,
    };
    let mut reader = Reader { tenant, body, at: json_bytes, rows: None, copied_bytes: 0 };
    let inputs = reader.inputs(&parsed.inputs)?;
    let request = Request {
        inputs,
        rows: reader.rows.map_or(1, |(_, rows)| rows),
        timeout: parameters.timeout.filter(|t| *t > 0).map(Duration::from_micros),
    };
    Ok(Decoded { request, wanted, copied_bytes: reader.copied_bytes })
}

fn refuse(what: &str, is_there: bool) -> Result<(), OipError> {
    if is_there { Err(OipError::Unsupported(what.to_owned())) } else { Ok(()) }
}

fn position(specs: &[TensorSpec], side: &'static str, name: &str) -> Result<usize, OipError> {
    specs.iter().position(|s| s.name == name).ok_or_else(|| OipError::Unknown {
        side,
        name: shown(name),
        expected: specs.iter().map(|s| s.name.clone()).collect(),
    })
}

/// The outputs asked for, all where none is named.
fn wanted(
    tenant: &TenantSpec,
    named: Option<Vec<OutputJson<'_>>>,
    binary: bool,
) -> Result<Vec<(usize, bool)>, OipError> {
    let named = named.unwrap_or_default();
    if named.is_empty() {
        return Ok((0..tenant.outputs.len()).map(|at| (at, binary)).collect());
    }
    let mut found: Vec<(usize, bool)> = vec![];
    for output in named {
        let at = position(&tenant.outputs, "output", &output.name)?;
        if found.iter().any(|(other, _)| *other == at) {
            return Err(OipError::Repeated { side: "output", name: tenant.outputs[at].name.clone() });
        }
        let parameters = output.parameters.unwrap_or_default();
        refuse("classification of outputs", parameters.classification.is_some())?;
        refuse("an output in shared memory", parameters.shared_memory_region.is_some())?;
        found.push((at, parameters.binary_data.unwrap_or(binary)));
    }
    Ok(found)
}

/// A shape that fits its tensor.
struct Fitting {
    dims: Vec<u64>,
    elements: u64,
    bytes: u64,
}

/// What the inputs read so far left behind.
struct Reader<'a> {
    tenant: &'a TenantSpec,
    body: &'a Arc<Aligned>,
    /// Where the next binary tensor begins.
    at: usize,
    /// Rows, and the position of the input that named them first.
    rows: Option<(usize, u64)>,
    copied_bytes: usize,
}

impl Reader<'_> {
    fn inputs(&mut self, given: &[InputJson<'_>]) -> Result<Vec<TensorValue>, OipError> {
        self.check_section(given)?;
        let mut values: Vec<Option<TensorValue>> = vec![None; self.tenant.inputs.len()];
        for input in given {
            let at = position(&self.tenant.inputs, "input", &input.name)?;
            let name = &self.tenant.inputs[at].name;
            if values[at].is_some() {
                return Err(OipError::Repeated { side: "input", name: name.clone() });
            }
            values[at] = Some(self.input(at, input)?);
        }
        let missing = |at: usize| OipError::Missing(self.tenant.inputs[at].name.clone());
        values.into_iter().enumerate().map(|(at, value)| value.ok_or_else(|| missing(at))).collect()
    }

    /// The tensors' sizes are together those of the bytes after the JSON.
    fn check_section(&self, given: &[InputJson<'_>]) -> Result<(), OipError> {
        let sizes = given.iter().filter_map(|i| i.parameters.as_ref()?.binary_data_size);
        let expected = sizes.fold(0u64, u64::saturating_add);
        let found = (self.body.len() - self.at) as u64;
        if expected == found { Ok(()) } else { Err(OipError::BinarySection { expected, found }) }
    }

    fn input(&mut self, at: usize, given: &InputJson<'_>) -> Result<TensorValue, OipError> {
        let spec = &self.tenant.inputs[at];
        let expected = datatype(spec.dtype).unwrap_or(spec.dtype.name());
        if given.datatype != expected {
            let found = shown(&given.datatype);
            return Err(OipError::Datatype { input: spec.name.clone(), expected, found });
        }
        let fitting = self.fit(at, &given.shape)?;
        let size = given.parameters.as_ref().and_then(|p| p.binary_data_size);
        refuse(
            "an input in shared memory",
            given.parameters.as_ref().is_some_and(|p| p.shared_memory_region.is_some()),
        )?;
        let data = match (given.data, size) {
            (Some(text), None) => json::read(&spec.name, text.get(), spec.dtype, &fitting.dims, fitting.elements)?,
            (None, Some(size)) => self.binary(spec, size, &fitting)?,
            (Some(_), Some(_)) => return Err(OipError::DataForm(spec.name.clone(), "both")),
            (None, None) => return Err(OipError::DataForm(spec.name.clone(), "neither")),
        };
        Ok(TensorValue { dtype: spec.dtype, dims: fitting.dims, data })
    }

    fn binary(&mut self, spec: &TensorSpec, size: u64, fitting: &Fitting) -> Result<Data, OipError> {
        // Within the body: the sum of all sizes was found to be.
        let range: Range<usize> = self.at..self.at + size as usize;
        self.at = range.end;
        let bytes = &(**self.body).as_ref()[range.clone()];
        if spec.dtype == DType::String {
            return binary::read_strings(&spec.name, bytes, fitting.elements);
        }
        if size != fitting.bytes {
            return Err(OipError::Data {
                input: spec.name.clone(),
                expected: format!("{} bytes of binary data for shape {}", fitting.bytes, Shape(&fitting.dims)),
                found: format!("binary_data_size {size}"),
            });
        }
        if spec.dtype == DType::Bool {
            binary::check_booleans(&spec.name, bytes)?;
        }
        let (buffer, copied) = part(self.body, range, binary::element_bytes(spec.dtype));
        self.copied_bytes += copied;
        Ok(Data::Bytes(buffer))
    }

    /// Compares a shape with the one expected, and its rows with those of the inputs before.
    fn fit(&mut self, at: usize, found: &[i64]) -> Result<Fitting, OipError> {
        let spec = &self.tenant.inputs[at];
        let misfit = |why: &str| OipError::Shape {
            input: spec.name.clone(),
            expected: expected_shape(spec),
            found: shown(&Shape(found).to_string()),
            why: why.to_owned(),
        };
        if found.len() != spec.dims.len() {
            return Err(misfit(""));
        }
        let dims: Vec<u64> =
            found.iter().map(|d| u64::try_from(*d)).collect::<Result<_, _>>().map_err(|_| misfit(""))?;
        let mut elements = Some(1u64);
        for (dim, size) in spec.dims.iter().zip(&dims) {
            match dim {
                Dim::Known(n) if n != size => return Err(misfit("")),
                Dim::Batch { per_item } if !size.is_multiple_of(*per_item) => {
                    return Err(misfit(&format!(": an axis of rows has {per_item} elements for each")));
                }
                Dim::Batch { per_item } => self.agree(at, size / per_item, &dims)?,
                Dim::Known(_) | Dim::Symbol(_) | Dim::Unknown => {}
            }
            elements = elements.and_then(|n| n.checked_mul(*size));
        }
        // Where an axis has no elements, the others may be of any size: the product of all of them is not to be formed.
        let elements = if dims.contains(&0) { Some(0) } else { elements };
        let bytes = elements.and_then(|n| n.checked_mul(binary::element_bytes(spec.dtype) as u64));
        let (Some(elements), Some(bytes)) = (elements, bytes.filter(|b| *b <= isize::MAX as u64)) else {
            return Err(OipError::Overflow { input: spec.name.clone(), found: Shape(found).to_string() });
        };
        Ok(Fitting { dims, elements, bytes })
    }

    fn agree(&mut self, at: usize, rows: u64, dims: &[u64]) -> Result<(), OipError> {
        let inputs = &self.tenant.inputs;
        let max = self.tenant.rows_max;
        if rows == 0 || rows > max {
            let shape = Shape(dims).to_string();
            return Err(OipError::Rows { input: inputs[at].name.clone(), max, found: rows, shape });
        }
        let (first, first_rows) = *self.rows.get_or_insert((at, rows));
        if first_rows == rows {
            return Ok(());
        }
        Err(OipError::RowsDiffer {
            first: inputs[first].name.clone(),
            first_rows,
            other: inputs[at].name.clone(),
            other_rows: rows,
        })
    }
}

#[cfg(test)]
mod tests;
