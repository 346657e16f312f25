use std::sync::Arc;

use serde_json::{Value, json};
use tandem_ir::DType;
use tandem_ir::graph::Dim;
use tandem_onnx::value::Data;

use super::super::backend::TensorSpec;
use super::*;

fn tenant() -> TenantSpec {
    let tensor = |name: &str, dtype| TensorSpec { name: name.to_owned(), dtype, dims: vec![Dim::Unknown] };
    TenantSpec {
        name: "m".to_owned(),
        inputs: vec![],
        outputs: vec![tensor("y", DType::F32), tensor("words", DType::String), tensor("half", DType::F16)],
        rows_max: 1,
        preferred: vec![],
        queue_delay: std::time::Duration::ZERO,
    }
}

fn outputs() -> Vec<TensorValue> {
    let words = Data::Strings(Arc::new(vec![b"ab".to_vec(), b"".to_vec()]));
    vec![
        TensorValue::new(DType::F32, vec![2], [1.5f32, -2.0].map(f32::to_le_bytes).concat()),
        TensorValue { dtype: DType::String, dims: vec![1, 2], data: words },
        TensorValue::new(DType::F16, vec![1], vec![0, 60]),
    ]
}

fn encoded(id: Option<&str>, wanted: &[(usize, bool)]) -> Result<Encoded, OipError> {
    let wanted = Wanted { id: id.map(str::to_owned), outputs: wanted.to_vec() };
    encode(&tenant(), &wanted, &outputs())
}

fn head(encoded: &Encoded) -> Value {
    serde_json::from_slice(&encoded.chunks[0]).expect("the first piece is JSON")
}

#[test]
fn replies_in_json_are_one_document() {
    let encoded = encoded(Some("a\"b"), &[(1, false), (0, false)]).expect("a reply");
    let expected = json!({
        "id": "a\"b", "model_name": "m", "model_version": "1",
        "outputs": [
            { "name": "words", "datatype": "BYTES", "shape": [1, 2], "data": ["ab", ""] },
            { "name": "y", "datatype": "FP32", "shape": [2], "data": [1.5, -2.0] },
        ],
    });
    assert_eq!(head(&encoded), expected);
    assert_eq!((encoded.chunks.len(), encoded.json_bytes), (1, None));
}

#[test]
fn binary_tensors_follow_in_order_from_where_they_lie() {
    let (wanted, outputs) = (Wanted { id: None, outputs: vec![(2, true), (0, false), (1, true)] }, outputs());
    let encoded = encode(&tenant(), &wanted, &outputs).expect("a reply");
    let expected = json!({
        "model_name": "m", "model_version": "1",
        "outputs": [
            { "name": "half", "datatype": "FP16", "shape": [1], "parameters": { "binary_data_size": 2 } },
            { "name": "y", "datatype": "FP32", "shape": [2], "data": [1.5, -2.0] },
            { "name": "words", "datatype": "BYTES", "shape": [1, 2], "parameters": { "binary_data_size": 10 } },
        ],
    });
    assert_eq!(head(&encoded), expected);
    assert_eq!(encoded.json_bytes, Some(encoded.chunks[0].len()));
    assert_eq!(encoded.chunks[1].as_ptr(), outputs[2].bytes().as_ptr(), "sent from the output's own memory");
    assert_eq!(&*encoded.chunks[1], [0, 60]);
    assert_eq!(&*encoded.chunks[2], b"\x02\0\0\0ab\0\0\0\0");
}

#[test]
fn what_has_no_form_in_json_is_said() {
    let error = encoded(None, &[(0, false), (2, false)]).expect_err("half precision");
    assert_eq!(error.to_string(), "\"half\": FP16 has no form in JSON, expected it as binary data");
}
