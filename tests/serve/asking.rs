//! Inferences of the protocol, in JSON and in binary form, written and read without the server's own code.

use serde_json::{Value as Json, json};
use tandem_ir::DType;
use tandem_onnx::value::TensorValue;

use crate::build::{floats, numbers, tensor};
use crate::client::{Client, Response, request};

/// Tensors by name.
pub type Named = Vec<(String, TensorValue)>;

pub fn named(tensors: &[(&str, TensorValue)]) -> Named {
    tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect()
}

pub fn integers(dims: &[u64], values: &[i64]) -> TensorValue {
    TensorValue::new(DType::I64, dims.to_vec(), values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

/// Inputs of so many rows for what metadata describes: numbers between -1 and 1; integers of 0 and 1.
pub fn made_up(metadata: &Json, rows: u64, seed: usize) -> Named {
    let input = |of: &Json| {
        let dims = of["shape"].as_array().expect("a shape").iter();
        let dims: Vec<u64> = dims.map(|d| u64::try_from(d.as_i64().expect("a size")).unwrap_or(rows)).collect();
        let count = dims.iter().product::<u64>() as usize;
        let value = match of["datatype"].as_str() {
            Some("FP32") => tensor(&dims, &numbers(count, seed)),
            Some("INT64") => {
                integers(&dims, &(0..count).map(|i| i64::from((i + seed).is_multiple_of(3))).collect::<Vec<_>>())
            }
            other => panic!("a type of the tiny models, not {other:?}"),
        };
        (of["name"].as_str().expect("a name").to_owned(), value)
    };
    metadata["inputs"].as_array().expect("inputs").iter().map(input).collect()
}

fn head(name: &str, tensor: &TensorValue) -> Json {
    let datatype = if tensor.dtype == DType::F32 { "FP32" } else { "INT64" };
    json!({ "name": name, "shape": tensor.dims, "datatype": datatype })
}

fn path(model: &str) -> String {
    format!("/v2/models/{model}/infer")
}

/// A request in JSON, to be answered in JSON.
pub fn in_json(model: &str, inputs: &Named, parameters: &Json) -> Vec<u8> {
    request(&path(model), "Content-Type: application/json\r\n", &json_body(inputs, parameters))
}

pub fn json_body(inputs: &Named, parameters: &Json) -> Vec<u8> {
    let input = |(name, tensor): &(String, TensorValue)| {
        let mut input = head(name, tensor);
        input["data"] = match tensor.dtype {
            DType::F32 => json!(floats(tensor)),
            _ => json!(tensor.bytes().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect::<Vec<_>>()),
        };
        input
    };
    let inputs: Vec<Json> = inputs.iter().map(input).collect();
    json!({ "inputs": inputs, "parameters": parameters }).to_string().into_bytes()
}

/// A request in binary form, to be answered in binary form.
pub fn in_binary(model: &str, inputs: &Named) -> Vec<u8> {
    let input = |(name, tensor): &(String, TensorValue)| {
        let mut input = head(name, tensor);
        input["parameters"] = json!({ "binary_data_size": tensor.bytes().len() });
        input
    };
    let inputs_json: Vec<Json> = inputs.iter().map(input).collect();
    let mut body =
        json!({ "inputs": inputs_json, "parameters": { "binary_data_output": true } }).to_string().into_bytes();
    let headers = format!("Inference-Header-Content-Length: {}\r\n", body.len());
    inputs.iter().for_each(|(_, tensor)| body.extend_from_slice(tensor.bytes()));
    request(&path(model), &headers, &body)
}

/// Sends the head of a request and waits until the server asks for the body, which is given back: the request has its
/// place in the queue then.
#[track_caller]
pub fn begin(client: &mut Client, whole: &[u8]) -> Vec<u8> {
    let head = whole.windows(4).position(|end| end == b"\r\n\r\n").expect("the end of a head") + 2;
    client.send([&whole[..head], b"Expect: 100-continue\r\n\r\n"].concat());
    assert_eq!(client.receive().expect("leave to send").status, 100);
    whole[head + 2..].to_vec()
}

/// The outputs of a reply, in whichever form they are. All of the tiny models are single precision.
#[track_caller]
pub fn outputs(response: &Response) -> Named {
    let text = || String::from_utf8_lossy(&response.body[..response.body.len().min(400)]).into_owned();
    assert_eq!(response.status, 200, "{}", text());
    let json_bytes = response.header("inference-header-content-length");
    let json_bytes = json_bytes.map_or(response.body.len(), |n| n.parse().expect("a number"));
    let document: Json = serde_json::from_slice(&response.body[..json_bytes]).expect("JSON");
    let mut binary = &response.body[json_bytes..];
    let mut found = vec![];
    for output in document["outputs"].as_array().expect("outputs") {
        assert_eq!(output["datatype"], "FP32", "{output}");
        let dims = output["shape"].as_array().expect("a shape").iter();
        let dims: Vec<u64> = dims.map(|d| d.as_u64().expect("a size")).collect();
        let value = match output["parameters"]["binary_data_size"].as_u64() {
            Some(size) => {
                let (bytes, rest) = binary.split_at(size as usize);
                binary = rest;
                TensorValue::new(DType::F32, dims, bytes.to_vec())
            }
            None => {
                let data = output["data"].as_array().expect("data").iter();
                tensor(&dims, &data.map(|v| v.as_f64().expect("a number") as f32).collect::<Vec<_>>())
            }
        };
        found.push((output["name"].as_str().expect("a name").to_owned(), value));
    }
    assert!(binary.is_empty(), "bytes behind the last output");
    found
}
