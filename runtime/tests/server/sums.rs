//! What clients ask the made-up tenant `sum`.

use serde_json::{Value, json};

use crate::client::request;

/// A request for sums, in JSON: rows of four `a`, and of four `b`.
pub fn sums(a: f32, b: f32) -> Value {
    let input =
        |name: &str, value: f32| json!({ "name": name, "shape": [1, 4], "datatype": "FP32", "data": vec![value; 4] });
    json!({ "inputs": [input("a", a), input("b", b)] })
}

pub const INFER: &str = "/v2/models/sum/infer";

pub fn infer_json(body: &Value) -> Vec<u8> {
    request(INFER, "Content-Type: application/json\r\n", body.to_string().as_bytes())
}

/// The same in binary form: the size of its JSON, and the body.
pub fn binary_sums(rows: usize, a: f32, b: f32) -> (usize, Vec<u8>) {
    let size = 16 * rows;
    let input = |name: &str| {
        let parameters = json!({ "binary_data_size": size });
        json!({ "name": name, "shape": [rows, 4], "datatype": "FP32", "parameters": parameters })
    };
    let head = json!({ "inputs": [input("a"), input("b")], "parameters": { "binary_data_output": true } });
    let mut body = head.to_string().into_bytes();
    let json_bytes = body.len();
    for value in [a, b] {
        body.extend(value.to_le_bytes().repeat(4 * rows));
    }
    (json_bytes, body)
}

pub fn infer_binary(rows: usize, a: f32, b: f32) -> Vec<u8> {
    let (json_bytes, body) = binary_sums(rows, a, b);
    request(INFER, &format!("Inference-Header-Content-Length: {json_bytes}\r\n"), &body)
}
