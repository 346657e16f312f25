//! Batches as rows: taking a tensor apart along its batch axis, putting rows together, and padding.
//!
//! The axis is each tensor's own (recurrent states have it second). Rows keep the axis, so that stacking them again
//! gives the same tensor. Elements narrower than a byte are refused: a row of them need not begin at a byte.

use std::sync::Arc;

use tandem_onnx::value::{Data, TensorValue, Value};

/// A value that has no such rows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowsError {
    /// Not a dense tensor.
    #[error("expected a tensor, found a sequence, optional or map: it has no batch axis")]
    NoTensor,
    /// Elements narrower than a byte.
    #[error("tensors of {0} cannot be split into rows: a row need not begin at a byte")]
    Narrow(tandem_ir::DType),
    /// The axis is not there.
    #[error("expected an axis {axis}, found shape {dims:?}")]
    NoAxis {
        /// The axis asked for.
        axis: usize,
        /// The shape.
        dims: Vec<u64>,
    },
    /// Rows beyond the end, or none where some are needed.
    #[error("expected rows {start} to {end} on axis {axis}, found shape {dims:?}")]
    OutOfRange {
        /// First row asked for.
        start: u64,
        /// Row after the last one.
        end: u64,
        /// The axis.
        axis: usize,
        /// The shape.
        dims: Vec<u64>,
    },
    /// Tensors that do not fit together.
    #[error("tensors to be stacked on axis {axis} differ: {first} and {other}")]
    Differ {
        /// The axis.
        axis: usize,
        /// Type and shape of the first.
        first: String,
        /// Type and shape of the one that differs.
        other: String,
    },
    /// Nothing to stack.
    #[error("expected tensors to stack, found none")]
    Nothing,
}

/// The size of the axis.
///
/// # Errors
/// The value is no tensor, or has no such axis.
pub fn len(value: &Value, axis: usize) -> Result<u64, RowsError> {
    let tensor = tensor(value)?;
    tensor.dims.get(axis).copied().ok_or_else(|| RowsError::NoAxis { axis, dims: tensor.dims.clone() })
}

/// All rows, each of size 1 on the axis.
///
/// # Errors
/// The value is no tensor of whole bytes, or has no such axis.
pub fn rows(value: &Value, axis: usize) -> Result<Vec<Value>, RowsError> {
    (0..len(value, axis)?).map(|row| take_row(value, axis, row)).collect()
}

/// One row, of size 1 on the axis.
///
/// # Errors
/// As [`take_rows`].
pub fn take_row(value: &Value, axis: usize, row: u64) -> Result<Value, RowsError> {
    take_rows(value, axis, row, 1)
}

/// `count` rows from `start` on. A tensor with several rows an item is split by multiples of those.
///
/// # Errors
/// The value is no tensor of whole bytes, has no such axis, or not so many rows.
pub fn take_rows(value: &Value, axis: usize, start: u64, count: u64) -> Result<Value, RowsError> {
    let tensor = tensor(value)?;
    let blocks = Blocks::of(tensor, axis)?;
    let end = start.saturating_add(count);
    if end > tensor.dims[axis] {
        return Err(RowsError::OutOfRange { start, end, axis, dims: tensor.dims.clone() });
    }
    let mut dims = tensor.dims.clone();
    dims[axis] = count;
    let range = |outer: usize| {
        let from = (outer * blocks.rows + start as usize) * blocks.row;
        from..from + count as usize * blocks.row
    };
    Ok(Value::Tensor(gather(tensor, dims, (0..blocks.outer).map(|o| (0, range(o))), &[tensor])))
}

/// Puts tensors together along the axis, in order: the inverse of [`rows`].
///
/// # Errors
/// A value is no tensor of whole bytes, there is none, or they differ in type or in another axis.
pub fn stack(values: &[Value], axis: usize) -> Result<Value, RowsError> {
    let tensors: Vec<&TensorValue> = values.iter().map(tensor).collect::<Result<_, _>>()?;
    stack_refs(&tensors, axis).map(Value::Tensor)
}

/// As [`stack`], of tensors.
///
/// # Errors
/// As [`stack`].
pub fn stack_tensors(tensors: &[TensorValue], axis: usize) -> Result<TensorValue, RowsError> {
    stack_refs(&tensors.iter().collect::<Vec<_>>(), axis)
}

fn stack_refs(tensors: &[&TensorValue], axis: usize) -> Result<TensorValue, RowsError> {
    let first = *tensors.first().ok_or(RowsError::Nothing)?;
    let blocks: Vec<Blocks> = tensors.iter().map(|t| Blocks::of(t, axis)).collect::<Result<_, _>>()?;
    for other in tensors {
        let beside = |t: &TensorValue| [&t.dims[..axis], &t.dims[axis + 1..]].concat();
        if other.dtype != first.dtype || other.dims.len() != first.dims.len() || beside(other) != beside(first) {
            let say = |t: &TensorValue| format!("{}{:?}", t.dtype, t.dims);
            return Err(RowsError::Differ { axis, first: say(first), other: say(other) });
        }
    }
    let mut dims = first.dims.clone();
    dims[axis] = tensors.iter().map(|t| t.dims[axis]).sum();
    let pieces = (0..blocks[0].outer).flat_map(|outer| {
        blocks.iter().enumerate().map(move |(i, b)| {
            let size = b.rows * b.row;
            (i, outer * size..(outer + 1) * size)
        })
    });
    Ok(gather(first, dims, pieces, tensors))
}

/// Repeats the last row until there are `rows` of them (zeros could be out of range for an index, or make a NaN).
///
/// # Errors
/// The value is no tensor of whole bytes, has no such axis, no row to repeat, or more rows already.
pub fn pad(value: &Value, axis: usize, rows: u64) -> Result<Value, RowsError> {
    let have = len(value, axis)?;
    if have == rows {
        return Ok(value.clone());
    }
    if have == 0 || have > rows {
        let dims = tensor(value)?.dims.clone();
        return Err(RowsError::OutOfRange { start: have, end: rows, axis, dims });
    }
    let last = take_row(value, axis, have - 1)?;
    let mut all = vec![value.clone()];
    all.resize((1 + rows - have) as usize, last);
    stack(&all, axis)
}

/// The tensor with a first axis of size 1 put before its others.
pub fn unsqueezed(tensor: &TensorValue) -> TensorValue {
    let dims = std::iter::once(1).chain(tensor.dims.iter().copied()).collect();
    TensorValue { dims, ..tensor.clone() }
}

fn tensor(value: &Value) -> Result<&TensorValue, RowsError> {
    if let Value::Tensor(tensor) = value { Ok(tensor) } else { Err(RowsError::NoTensor) }
}

/// A tensor as `outer` blocks of `rows` rows of `row` units: bytes, or strings.
struct Blocks {
    outer: usize,
    rows: usize,
    row: usize,
}

impl Blocks {
    fn of(tensor: &TensorValue, axis: usize) -> Result<Self, RowsError> {
        let dims = &tensor.dims;
        if axis >= dims.len() {
            return Err(RowsError::NoAxis { axis, dims: dims.clone() });
        }
        let unit = match tensor.data {
            Data::Strings(_) => 1,
            Data::Bytes(_) if tensor.dtype.bits() < 8 => return Err(RowsError::Narrow(tensor.dtype)),
            Data::Bytes(_) => tensor.dtype.bits() as usize / 8,
        };
        let product = |dims: &[u64]| dims.iter().map(|d| *d as usize).product::<usize>();
        Ok(Self { outer: product(&dims[..axis]), rows: dims[axis] as usize, row: product(&dims[axis + 1..]) * unit })
    }
}

/// A tensor like `like` from pieces: (position in `sources`, range of its units).
fn gather(
    like: &TensorValue,
    dims: Vec<u64>,
    pieces: impl Iterator<Item = (usize, std::ops::Range<usize>)>,
    sources: &[&TensorValue],
) -> TensorValue {
    match &like.data {
        Data::Bytes(_) => {
            let total = like.dtype.bytes_of(dims.iter().product()) as usize;
            let mut bytes = Vec::with_capacity(total);
            pieces.for_each(|(i, range)| bytes.extend_from_slice(&sources[i].bytes()[range]));
            TensorValue::new(like.dtype, dims, bytes)
        }
        Data::Strings(_) => {
            let mut strings = vec![];
            for (i, range) in pieces {
                if let Data::Strings(from) = &sources[i].data {
                    strings.extend_from_slice(&from[range]);
                }
            }
            TensorValue { dtype: like.dtype, dims, data: Data::Strings(Arc::new(strings)) }
        }
    }
}

#[cfg(test)]
mod tests;
