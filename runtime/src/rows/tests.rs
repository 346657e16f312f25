use tandem_ir::DType;

use super::*;

fn i16s(dims: &[u64]) -> Value {
    let n: u64 = dims.iter().product();
    let bytes: Vec<u8> = (0..n as i16).flat_map(|i| i.to_le_bytes()).collect();
    Value::Tensor(TensorValue::new(DType::I16, dims.to_vec(), bytes))
}

fn strings(dims: &[u64]) -> Value {
    let n: u64 = dims.iter().product();
    let data = Data::Strings(Arc::new((0..n).map(|i| vec![b'a' + i as u8]).collect()));
    Value::Tensor(TensorValue { dtype: DType::String, dims: dims.to_vec(), data })
}

#[test]
fn rows_of_any_axis_stack_to_the_same_tensor() {
    for make in [i16s, strings] {
        let value = make(&[2, 3, 4]);
        for (axis, size) in [2, 3, 4].into_iter().enumerate() {
            let rows = rows(&value, axis).unwrap();
            assert_eq!((rows.len(), len(&value, axis).unwrap()), (size, size as u64));
            assert_eq!(len(&rows[0], axis), Ok(1));
            assert_eq!(stack(&rows, axis).unwrap(), value);
        }
    }
}

#[test]
fn a_row_holds_its_elements() {
    let Value::Tensor(row) = take_row(&i16s(&[2, 3, 2]), 1, 2).unwrap() else { panic!() };
    assert_eq!(row.dims, [2, 1, 2]);
    assert_eq!(row.bytes(), [4, 0, 5, 0, 10, 0, 11, 0]);
    let two = take_rows(&i16s(&[4, 1]), 0, 1, 2).unwrap();
    assert_eq!(len(&two, 0), Ok(2));
    assert_eq!(len(&take_rows(&i16s(&[4, 1]), 0, 4, 0).unwrap(), 0), Ok(0));
}

#[test]
fn padding_repeats_the_last_row_and_can_be_taken_off() {
    let value = i16s(&[3, 2]);
    let padded = pad(&value, 1, 5).unwrap();
    assert_eq!(len(&padded, 1), Ok(5));
    assert_eq!(take_row(&padded, 1, 4).unwrap(), take_row(&value, 1, 1).unwrap());
    assert_eq!(take_rows(&padded, 1, 0, 2).unwrap(), value);
    assert_eq!(pad(&value, 1, 2).unwrap(), value);
    assert!(pad(&value, 1, 1).is_err() && pad(&i16s(&[0, 2]), 0, 1).is_err());
}

#[test]
fn what_has_no_rows_is_refused() {
    assert_eq!(rows(&i16s(&[]), 0), Err(RowsError::NoAxis { axis: 0, dims: vec![] }));
    assert_eq!(rows(&Value::Sequence(vec![]), 0), Err(RowsError::NoTensor));
    let narrow = Value::Tensor(TensorValue::new(DType::I4, vec![2, 2], vec![0, 0]));
    assert_eq!(take_row(&narrow, 0, 0), Err(RowsError::Narrow(DType::I4)));
    assert!(matches!(take_rows(&i16s(&[2]), 0, 1, u64::MAX), Err(RowsError::OutOfRange { .. })));
    assert_eq!(stack(&[], 0), Err(RowsError::Nothing));
    assert!(matches!(stack(&[i16s(&[1, 2]), i16s(&[1, 3])], 0), Err(RowsError::Differ { .. })));
    assert!(matches!(stack(&[i16s(&[1, 2]), strings(&[1, 2])], 0), Err(RowsError::Differ { .. })));
    assert!(matches!(stack(&[i16s(&[1, 2]), i16s(&[1])], 0), Err(RowsError::Differ { .. })));
}

#[test]
fn empty_axes_are_fine() {
    assert_eq!(rows(&i16s(&[0, 3]), 0), Ok(vec![]));
    let rows = rows(&i16s(&[2, 0]), 0).unwrap();
    assert_eq!(stack(&rows, 0).unwrap(), i16s(&[2, 0]));
}
