//! Requests' rows into a batch's values, and a batch's values into requests' rows.

use std::sync::Arc;

use tandem_ir::DType;
use tandem_onnx::value::{Buffer, Data, TensorValue, Value};

use crate::limits::TENSOR_ALIGN_BYTES;
use crate::rows::{self, RowsError};

/// Memory that is written while nobody reads it, and then read by many: where a batch's input is gathered.
#[derive(Debug, Default)]
struct Gathered {
    /// Padding up to an aligned address, then the bytes.
    padded: Vec<u8>,
    start: usize,
}

impl Gathered {
    fn writable(&mut self, bytes: usize) -> &mut [u8] {
        if self.padded.capacity() < bytes + TENSOR_ALIGN_BYTES {
            self.padded = Vec::with_capacity(bytes + TENSOR_ALIGN_BYTES);
        }
        self.start = self.padded.as_ptr().addr().wrapping_neg() % TENSOR_ALIGN_BYTES;
        self.padded.resize(self.start + bytes, 0);
        &mut self.padded[self.start..]
    }
}

impl AsRef<[u8]> for Gathered {
    fn as_ref(&self) -> &[u8] {
        &self.padded[self.start..]
    }
}

/// Gathers one input of the batches in one set of buffers, over and over.
#[derive(Debug, Default)]
pub(super) struct Gatherer {
    buffer: Arc<Gathered>,
}

/// What one request brings: how long the axis of rows has to be, the whole value.
pub(super) type Part<'a> = (u64, &'a Value);

impl Gatherer {
    /// One value of `rows` rows on the axis, from parts that follow each other; what they leave is filled with the last
    /// part's last row. A part that is all of it is passed on as it is. Says how many bytes were copied.
    ///
    /// # Errors
    /// A part is no tensor, or has not the rows it should have: those behind it would be other requests' then.
    pub(super) fn gather(&mut self, parts: &[Part<'_>], axis: usize, rows: u64) -> Result<(Value, u64), RowsError> {
        let (_, first) = *parts.first().ok_or(RowsError::Nothing)?;
        for (expected, value) in parts {
            if rows::len(value, axis)? != *expected {
                let Value::Tensor(TensorValue { dims, .. }) = value else { return Err(RowsError::NoTensor) };
                return Err(RowsError::OutOfRange { start: 0, end: *expected, axis, dims: dims.clone() });
            }
        }
        if let [(have, whole)] = parts
            && *have == rows
        {
            return Ok(((*whole).clone(), 0));
        }
        match first {
            // Strings, and axes behind others: rare, and not worth a second way.
            Value::Tensor(tensor) if axis > 0 || matches!(tensor.data, Data::Strings(_)) => {
                let values: Vec<Value> = parts.iter().map(|(_, value)| (*value).clone()).collect();
                let value = rows::pad(&rows::stack(&values, axis)?, axis, rows)?;
                let bytes = if let Value::Tensor(t) = &value { t.bytes().len() as u64 } else { 0 };
                Ok((value, bytes))
            }
            Value::Tensor(tensor) => self.rows_of(parts, tensor, rows),
            _ => Err(RowsError::NoTensor),
        }
    }

    fn rows_of(&mut self, parts: &[Part<'_>], like: &TensorValue, rows: u64) -> Result<(Value, u64), RowsError> {
        if like.dtype.bits() < 8 {
            return Err(RowsError::Narrow(like.dtype));
        }
        let have: u64 = parts.iter().map(|(rows, _)| rows).sum();
        let mut dims = like.dims.clone();
        if have == 0 || have > rows {
            return Err(RowsError::OutOfRange { start: have, end: rows, axis: 0, dims });
        }
        dims[0] = rows;
        let total = like.dtype.bytes_of(dims.iter().product()) as usize;
        let row = total / rows as usize;
        // Somebody may still read what the batch before left here.
        if Arc::get_mut(&mut self.buffer).is_none() {
            self.buffer = Arc::default();
        }
        let buffer = Arc::get_mut(&mut self.buffer).expect("it is ours alone");
        let bytes = buffer.writable(total);
        let mut at = 0;
        for (_, value) in parts {
            let Value::Tensor(tensor) = value else { return Err(RowsError::NoTensor) };
            if tensor.dtype != like.dtype || tensor.dims[1..] != like.dims[1..] {
                let say = |t: &TensorValue| format!("{}{:?}", t.dtype, t.dims);
                return Err(RowsError::Differ { axis: 0, first: say(like), other: say(tensor) });
            }
            let from = tensor.bytes();
            bytes[at..at + from.len()].copy_from_slice(from);
            at += from.len();
        }
        while at < total {
            bytes.copy_within(at - row..at, at);
            at += row;
        }
        let data = Data::Bytes(Buffer::shared(self.buffer.clone()));
        Ok((Value::Tensor(TensorValue { dtype: like.dtype, dims, data }), total as u64))
    }
}

/// A part of a buffer.
struct Slice {
    of: Buffer,
    from: usize,
    to: usize,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.of[self.from..self.to]
    }
}

/// Rows of a value: those of a first axis where they lie, others copied. Says how many bytes were copied.
///
/// # Errors
/// The value is no tensor, has no such axis, or not so many rows.
pub(super) fn split(value: &Value, axis: usize, first: u64, count: u64) -> Result<(Value, u64), RowsError> {
    let Value::Tensor(tensor) = value else { return Err(RowsError::NoTensor) };
    let rows = rows::len(value, axis)?;
    if first == 0 && count == rows {
        return Ok((value.clone(), 0));
    }
    match &tensor.data {
        Data::Bytes(bytes) if axis == 0 && whole_bytes(tensor.dtype) && first + count <= rows => {
            let row = bytes.len() / rows as usize;
            let (from, to) = (first as usize * row, (first + count) as usize * row);
            let mut dims = tensor.dims.clone();
            dims[0] = count;
            let data = Data::Bytes(Buffer::shared(Arc::new(Slice { of: bytes.clone(), from, to })));
            Ok((Value::Tensor(TensorValue { dtype: tensor.dtype, dims, data }), 0))
        }
        _ => {
            let taken = rows::take_rows(value, axis, first, count)?;
            let bytes = if let Value::Tensor(t) = &taken { t.bytes().len() as u64 } else { 0 };
            Ok((taken, bytes))
        }
    }
}

fn whole_bytes(dtype: DType) -> bool {
    dtype.bits() >= 8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(rows: u64, from: u32) -> Value {
        let elements = (0..rows * 3).map(|i| from + i as u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>();
        Value::Tensor(TensorValue::new(DType::U32, vec![rows, 3], elements))
    }

    fn elements(value: &Value) -> Vec<u32> {
        let Value::Tensor(tensor) = value else { panic!("no tensor") };
        tensor.bytes().chunks(4).map(|c| u32::from_le_bytes(c.try_into().expect("four"))).collect()
    }

    #[test]
    fn parts_follow_each_other_and_the_last_row_fills_up() {
        let (a, b) = (tensor(1, 0), tensor(2, 100));
        let mut gatherer = Gatherer::default();
        let (batch, copied) = gatherer.gather(&[(1, &a), (2, &b)], 0, 4).expect("they fit");
        assert_eq!(elements(&batch), [0, 1, 2, 100, 101, 102, 103, 104, 105, 103, 104, 105]);
        assert_eq!(copied, 48);
        // While it is read, the next batch gets other memory; afterwards the same again.
        let (other, _) = gatherer.gather(&[(2, &b)], 0, 4).expect("it fits");
        assert_eq!(elements(&batch)[..3], [0, 1, 2]);
        assert_eq!(elements(&other)[..3], [100, 101, 102]);
        let Value::Tensor(t) = &other else { panic!("no tensor") };
        let (place, _) = (t.bytes().as_ptr(), drop(batch));
        drop(other);
        let (again, _) = gatherer.gather(&[(1, &a)], 0, 2).expect("it fits");
        let Value::Tensor(t) = &again else { panic!("no tensor") };
        assert_eq!(t.bytes().as_ptr(), place);
    }

    #[test]
    fn a_whole_batch_is_passed_on_and_rows_are_views() {
        let whole = tensor(4, 0);
        let (batch, copied) = Gatherer::default().gather(&[(4, &whole)], 0, 4).expect("it fits");
        assert_eq!((elements(&batch), copied), (elements(&whole), 0));
        let (rows, copied) = split(&whole, 0, 1, 2).expect("they are there");
        assert_eq!((elements(&rows), copied), ((3..9).collect(), 0));
        let (column, copied) = split(&whole, 1, 1, 1).expect("it is there");
        assert_eq!((elements(&column), copied), (vec![1, 4, 7, 10], 16));
        assert!(split(&whole, 0, 3, 2).is_err());
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let (a, b) = (tensor(1, 0), Value::Tensor(TensorValue::new(DType::U32, vec![1, 2], vec![0; 8])));
        let refused = |parts: &[Part<'_>], axis, rows| Gatherer::default().gather(parts, axis, rows).is_err();
        assert!(refused(&[(1, &a), (1, &b)], 0, 4));
        assert!(refused(&[(1, &a), (1, &a)], 0, 1));
        assert!(refused(&[], 0, 1));
        // More or fewer rows than the request has: whoever comes behind would get a row of it.
        let two = tensor(2, 0);
        assert!(refused(&[(1, &two), (1, &a)], 0, 4) && refused(&[(2, &a), (1, &a)], 0, 4));
        assert!(refused(&[(1, &two)], 0, 2) && refused(&[(2, &a), (1, &a)], 1, 6));
    }
}
