use std::sync::Arc;

use tandem_onnx::value::{Data, TensorValue, Value};

use super::*;

fn f32s(values: &[f32]) -> Value {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Value::Tensor(TensorValue::new(DType::F32, vec![values.len() as u64], bytes))
}

fn bytes(dtype: DType, dims: &[u64], bytes: &[u8]) -> Value {
    Value::Tensor(TensorValue::new(dtype, dims.to_vec(), bytes.to_vec()))
}

fn strings(values: &[&str]) -> Value {
    let data = Data::Strings(Arc::new(values.iter().map(|s| s.as_bytes().to_vec()).collect()));
    Value::Tensor(TensorValue { dtype: DType::String, dims: vec![values.len() as u64], data })
}

fn one(expected: Value, found: Value) -> Comparison {
    compare(&["out".into()], &[expected], &[found])
}

#[test]
fn floats_may_differ_a_little() {
    let c = one(f32s(&[1000.0, 1.0, 0.0]), f32s(&[1000.5, 1.001, 0.009]));
    assert!(c.is_equal(), "{c}");
    assert!((c.largest_error - 0.5).abs() < 1e-9);
    assert!((c.largest_share - 0.9).abs() < 1e-6 && c.at == "out[2]", "0.009 of 1e-5 * 1000: {c:?}");
    assert_eq!(c.to_string(), "equal: 3 elements, largest error 5.000e-1, 90.00 % of tolerance at out[2]");

    let c = one(f32s(&[1000.0, 1.0]), f32s(&[1000.0, 1.5]));
    assert_eq!((c.mismatch_count, c.at.as_str()), (1, "out[1]"));
    assert_eq!(c.mismatches, ["out[1]: expected 1, found 1.5, off by 5.000e-1, allowed 1.100e-2"]);
    assert!((c.largest_share - 0.5 / 0.011).abs() < 1e-3);
}

#[test]
fn nan_and_infinity_equal_themselves() {
    let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0];
    let other_nan = f32::from_bits(0xffc0_1234);
    assert!(one(f32s(&special), f32s(&[other_nan, f32::INFINITY, f32::NEG_INFINITY, -0.0])).is_equal());
    let c = one(f32s(&special), f32s(&[1.0, f32::NEG_INFINITY, f32::NAN, f32::INFINITY]));
    assert_eq!(c.mismatch_count, 4);
    assert_eq!(c.mismatches[0], "out[0]: expected NaN, found 1");
    assert_eq!(c.mismatches[3], "out[3]: expected 0, found inf");
    assert_eq!((c.largest_share, c.largest_error), (f64::INFINITY, 0.0));
    // An infinity does not make the tolerance of the others infinite.
    assert!(!one(f32s(&[f32::INFINITY, 1.0]), f32s(&[f32::INFINITY, 2.0])).is_equal());
}

#[test]
fn all_zeros_are_compared_exactly() {
    assert!(one(f32s(&[0.0]), f32s(&[-0.0])).is_equal());
    let c = one(f32s(&[0.0]), f32s(&[1e-30]));
    assert!(!c.is_equal() && c.largest_share == f64::INFINITY);
}

#[test]
fn half_precision_has_wider_tolerance() {
    let f16s = |v: &[f32]| {
        let b: Vec<u8> = v.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        bytes(DType::F16, &[v.len() as u64], &b)
    };
    assert!(one(f16s(&[1.0, -2.0]), f16s(&[1.009, -2.0])).is_equal());
    assert!(!one(f16s(&[1.0, -2.0]), f16s(&[1.03, -2.0])).is_equal());
    let bf16s = |v: f32| bytes(DType::BF16, &[1], &bf16::from_f32(v).to_le_bytes());
    assert!(one(bf16s(1.0), bf16s(1.0078)).is_equal());
    assert!(!one(bf16s(1.0), bf16s(1.02)).is_equal());
}

#[test]
fn doubles_and_complex_numbers_go_by_part() {
    let f64s = |v: &[f64], dtype, n| bytes(dtype, &[n], &v.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    assert!(one(f64s(&[1.0], DType::F64, 1), f64s(&[1.0005], DType::F64, 1)).is_equal());
    let c = one(f64s(&[1.0, 2.0, 3.0, 4.0], DType::Complex128, 2), f64s(&[1.0, 2.0, 3.0, 5.0], DType::Complex128, 2));
    assert_eq!((c.elements, c.mismatch_count, c.at.as_str()), (2, 1, "out[1]"));
}

#[test]
fn integers_booleans_and_strings_are_exact() {
    let c = one(bytes(DType::I8, &[2, 2], &[1, 2, 3, 0xff]), bytes(DType::I8, &[2, 2], &[1, 2, 3, 1]));
    assert_eq!(c.mismatches, ["out[1, 1]: expected -1, found 1"]);
    let i64s = |v: i64| bytes(DType::I64, &[], &v.to_le_bytes());
    assert_eq!(
        one(i64s(i64::MAX), i64s(i64::MAX - 1)).mismatches,
        ["out: expected 9223372036854775807, found 9223372036854775806"]
    );
    assert!(!one(bytes(DType::Bool, &[1], &[1]), bytes(DType::Bool, &[1], &[0])).is_equal());
    assert_eq!(
        one(bytes(DType::I4, &[2], &[0xf1]), bytes(DType::I4, &[2], &[0xe1])).mismatches,
        ["out[1]: expected -1, found -2"]
    );
    let c = one(strings(&["a", "b"]), strings(&["a", "c"]));
    assert_eq!(c.mismatches, ["out[1]: expected \"b\", found \"c\""]);
    assert!(one(strings(&["x"]), strings(&["x"])).is_equal());
}

#[test]
fn tiny_floats_may_be_one_apart() {
    let same = |dtype, x: u8, y: u8| one(bytes(dtype, &[1], &[x]), bytes(dtype, &[1], &[y])).is_equal();
    assert!(same(DType::F8E4M3FN, 0x38, 0x39) && !same(DType::F8E4M3FN, 0x38, 0x3a));
    assert!(same(DType::F8E4M3FN, 0x80, 0x00), "zeros");
    assert!(same(DType::F8E4M3FN, 0x81, 0x00) && !same(DType::F8E4M3FN, 0x81, 0x01));
    assert!(same(DType::F8E4M3FN, 0x7f, 0xff) && !same(DType::F8E4M3FN, 0x7e, 0x7f), "NaN");
    assert!(same(DType::F8E5M2, 0x7d, 0xff) && !same(DType::F8E5M2, 0x7b, 0x7c), "infinity");
    assert!(!same(DType::F8E5M2, 0x7c, 0xfc));
    assert!(same(DType::F8E4M3FNUZ, 0x80, 0x80) && !same(DType::F8E4M3FNUZ, 0x80, 0x00));
    assert!(same(DType::F8E8M0, 0x7f, 0x80) && !same(DType::F8E8M0, 0xfe, 0xff));
    assert!(same(DType::F4E2M1, 0x1, 0x2) && !same(DType::F4E2M1, 0x1, 0xf & 0x3), "low nibble, high is padding");
}

#[test]
fn shapes_types_and_kinds_are_exact() {
    let c = one(bytes(DType::U8, &[2], &[1, 2]), bytes(DType::U8, &[1, 2], &[1, 2]));
    assert_eq!(c.mismatches, ["out: expected u8[2], found u8[1, 2]"]);
    assert!(!one(bytes(DType::U8, &[1], &[1]), bytes(DType::I8, &[1], &[1])).is_equal());
    let c = one(f32s(&[]), Value::Sequence(vec![]));
    assert_eq!(c.mismatches, ["out: expected a tensor, found a sequence"]);
    assert!(one(f32s(&[]), f32s(&[])).is_equal());
    let c = compare(&[], &[f32s(&[1.0])], &[]);
    assert_eq!(c.mismatches, ["number of outputs: expected 1, found 0"]);
}

#[test]
fn containers_are_compared_within() {
    let seq = |v: &[f32]| Value::Sequence(vec![f32s(&[0.5]), f32s(v)]);
    assert!(one(seq(&[1.0]), seq(&[1.0])).is_equal());
    assert_eq!(one(seq(&[1.0, 2.0]), seq(&[1.0, 9.0])).at, "out(1)[1]");
    let some = |v| Value::Optional(Some(Box::new(v)));
    assert!(one(some(seq(&[1.0])), some(seq(&[1.0]))).is_equal());
    assert!(one(Value::Optional(None), Value::Optional(None)).is_equal());
    assert!(!one(Value::Optional(None), some(f32s(&[]))).is_equal());
    let map = |k: &str, v: f32| Value::Map(vec![(strings(&[k]), f32s(&[v]))]);
    assert!(one(map("a", 1.0), map("a", 1.0)).is_equal());
    assert_eq!(one(map("a", 1.0), map("b", 2.0)).mismatch_count, 2);
    assert_eq!(one(map("a", 1.0), Value::Map(vec![])).mismatches, ["out: expected a map of 1, found one of 0"]);
}

#[test]
fn many_mismatches_are_counted_not_listed() {
    let c = one(f32s(&[1.0; 100]), f32s(&[2.0; 100]));
    assert_eq!((c.mismatch_count, c.mismatches.len()), (100, 8));
    assert!(c.to_string().ends_with("and 92 more"), "{c}");
}
