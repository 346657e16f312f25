//! Addresses, documents, inference and errors.

use std::io::Write;
use std::sync::atomic::Ordering;

use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use serde_json::{Value, json};

use crate::client::{Client, Response, get, request};
use crate::fake::{Running, TYPES};
use crate::sums::{INFER, binary_sums, infer_binary, infer_json, sums};

fn infer(client: &mut Client, model: &str, body: &Value) -> Response {
    client.ask(request(&format!("/v2/models/{model}/infer"), "", body.to_string().as_bytes()))
}

#[test]
fn documents_are_where_the_protocol_has_them() {
    let server = Running::usual();
    let mut client = Client::connect(server.address);
    let mut document = |path: &str| {
        let response = client.ask(get(path));
        assert_eq!((response.status, response.header("content-type")), (200, Some("application/json")), "{path}");
        response.json()
    };
    assert_eq!(document("/v2/health/live"), json!({ "live": true }));
    assert_eq!(document("/v2/health/ready"), json!({ "ready": true }));
    for path in ["/v2", "/v2/"] {
        let found = document(path);
        assert_eq!(found["name"], "tandem");
        let extensions = ["binary_tensor_data", "model_configuration", "statistics", "parameters"];
        assert_eq!(found["extensions"], json!(extensions), "those that are served, and no others");
    }
    assert_eq!(document("/v2/models"), json!({ "models": ["sum", "echo", "fail"] }));
    for path in ["/v2/models/sum", "/v2/models/sum/versions/1", "/v2/models/s%75m"] {
        let found = document(path);
        assert_eq!((&found["name"], &found["inputs"][1]["shape"]), (&json!("sum"), &json!([-1, 4])), "{path}");
    }
    for prefix in ["/v2/models/sum", "/v2/models/sum/versions/1"] {
        assert_eq!(document(&format!("{prefix}/ready")), json!({ "name": "sum", "ready": true }));
        assert_eq!(document(&format!("{prefix}/config"))["max_batch_size"], 8);
        assert_eq!(document(&format!("{prefix}/stats"))["model_stats"].as_array().map(Vec::len), Some(1));
    }
    let names: Vec<Value> = document("/v2/models/stats")["model_stats"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|m| m["name"].clone())
        .collect();
    assert_eq!(names, ["sum", "echo", "fail"]);
}

#[test]
fn what_is_not_there_is_said_in_json() {
    let server = Running::usual();
    let mut client = Client::connect(server.address);
    for path in
        ["/", "/v1", "/v2/health", "/v2/models/", "/v2/models/q", "/v2/models/sum/versions/2", "/v2/models/q/ready"]
    {
        let response = client.ask(get(path));
        assert_eq!(response.status, 404, "{path}");
        assert!(!response.error().is_empty());
    }
    assert_eq!(
        client.ask(get("/v2/models/sum/versions/2/config")).error(),
        "model \"sum\": expected version 1, found \"2\""
    );
    let response = infer(&mut client, "q", &sums(1.0, 2.0));
    assert_eq!((response.status, response.error().as_str()), (404, "unknown model \"q\""));
    let response = client.ask(get(INFER));
    assert_eq!((response.status, response.header("allow")), (405, Some("POST")));
    assert!(response.error().contains("does not take GET"));
    let response = client.ask(request("/v2/health/live", "", b"{}"));
    assert_eq!((response.status, response.header("allow")), (405, Some("GET,HEAD")));
    let response = client.ask(get("/v2/models/%ff/ready"));
    assert_eq!(response.status, 400);
    assert!(!response.error().is_empty());
}

#[test]
fn models_that_are_not_ready_say_so() {
    let server = Running::usual();
    server.shared.is_ready.store(false, Ordering::SeqCst);
    let mut client = Client::connect(server.address);
    let response = client.ask(get("/v2/health/ready"));
    assert_eq!((response.status, &response.json()["ready"]), (503, &json!(false)));
    assert_eq!(client.ask(get("/v2/health/live")).status, 200);
    let response = client.ask(get("/v2/models/sum/ready"));
    assert_eq!((response.status, &response.json()["ready"]), (503, &json!(false)));
    assert_eq!(client.ask(get("/v2/models/fail/ready")).status, 200, "this one is");
    let response = client.ask(infer_json(&sums(1.0, 2.0)));
    assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
    assert!(response.error().contains("not ready"));
    server.shared.is_ready.store(true, Ordering::SeqCst);
    assert_eq!(client.ask(infer_json(&sums(1.0, 2.0))).status, 200);
}

#[test]
fn who_is_broken_for_good_is_not_alive() {
    let server = Running::usual();
    let mut client = Client::connect(server.address);
    assert_eq!(client.ask(get("/v2/health/live")).status, 200);
    server.shared.is_broken.store(true, Ordering::SeqCst);
    let response = client.ask(get("/v2/health/live"));
    assert_eq!((response.status, &response.json()["live"]), (503, &json!(false)));
}

#[test]
fn requests_in_json_are_answered_in_json() {
    let server = Running::usual();
    let mut client = Client::connect(server.address);
    let mut body = sums(1.5, 0.25);
    body["id"] = json!("seven");
    let response = client.ask(infer_json(&body));
    let output =
        |name: &str, value: f32| json!({ "name": name, "datatype": "FP32", "shape": [1, 4], "data": vec![value; 4] });
    let expected = json!({
        "id": "seven", "model_name": "sum", "model_version": "1",
        "outputs": [output("total", 1.75), output("difference", 1.25)],
    });
    assert_eq!((response.status, response.json()), (200, expected));
    assert_eq!(response.header("inference-header-content-length"), None);
    body["outputs"] = json!([{ "name": "difference" }]);
    let found = infer(&mut client, "sum/versions/1", &body).json();
    assert_eq!(found["outputs"], json!([output("difference", 1.25)]));
}

/// The JSON of a reply, and the bytes after it.
fn parts(response: &Response) -> (Value, &[u8]) {
    let json_bytes: usize =
        response.header("inference-header-content-length").expect("a header").parse().expect("a size");
    let (head, tensors) = response.body.split_at(json_bytes);
    (serde_json::from_slice(head).expect("JSON"), tensors)
}

#[test]
fn binary_requests_are_answered_in_binary() {
    let server = Running::usual();
    let mut client = Client::connect(server.address);
    let response = client.ask(infer_binary(3, 1.5, 0.25));
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/octet-stream")));
    let (head, tensors) = parts(&response);
    assert_eq!(head["outputs"][0]["parameters"], json!({ "binary_data_size": 48 }));
    assert_eq!(head["outputs"][0]["shape"], json!([3, 4]));
    assert_eq!(tensors, [1.75f32.to_le_bytes().repeat(12), 1.25f32.to_le_bytes().repeat(12)].concat());

    let mut body = sums(1.0, 2.0);
    body["outputs"] = json!([{ "name": "difference", "parameters": { "binary_data": true } }, { "name": "total" }]);
    let response = client.ask(infer_json(&body));
    let (head, tensors) = parts(&response);
    assert_eq!(head["outputs"][1]["data"], json!([3.0, 3.0, 3.0, 3.0]));
    assert_eq!(tensors, (-1f32).to_le_bytes().repeat(4));
}

#[test]
fn every_type_travels_both_ways() {
    let server = Running::usual();
    let mut client = Client::connect(server.address);
    let metadata = client.ask(get("/v2/models/echo")).json();
    let mut inputs = vec![];
    let mut bytes = vec![];
    for input in metadata["inputs"].as_array().expect("inputs") {
        let datatype = input["datatype"].as_str().expect("a name");
        let mut input = json!({ "name": input["name"], "datatype": datatype, "shape": [1, 2] });
        let data = match datatype {
            "BOOL" => json!([true, false]),
            "BYTES" => json!(["a,b", "\u{e9}"]),
            "FP32" | "FP64" => json!([0.1, -1e-7]),
            "FP16" | "BF16" => {
                bytes.extend([1, 2, 3, 4]);
                input["parameters"] = json!({ "binary_data_size": 4 });
                Value::Null
            }
            unsigned if unsigned.starts_with('U') => json!([0, 255]),
            _ => json!([-128, 127]),
        };
        input["data"] = data;
        inputs.push(input);
    }
    assert_eq!(inputs.len(), TYPES.len());
    let outputs: Vec<Value> = metadata["outputs"]
        .as_array()
        .expect("outputs")
        .iter()
        .map(|o| {
            let is_binary = o["datatype"].as_str().is_some_and(|d| d == "FP16" || d == "BF16");
            json!({ "name": o["name"], "parameters": { "binary_data": is_binary } })
        })
        .collect();
    let head = json!({ "inputs": inputs, "outputs": outputs }).to_string();
    let body = [head.as_bytes(), &bytes].concat();
    let headers = format!("Inference-Header-Content-Length: {}\r\n", head.len());
    let response = client.ask(request("/v2/models/echo/infer", &headers, &body));
    assert_eq!(response.status, 200, "{:?}", String::from_utf8_lossy(&response.body));
    let (found, tensors) = parts(&response);
    assert_eq!(tensors, [1, 2, 3, 4, 1, 2, 3, 4]);
    for (sent, found) in inputs.iter().zip(found["outputs"].as_array().expect("outputs")) {
        assert_eq!((&found["datatype"], &found["shape"]), (&sent["datatype"], &json!([1, 2])));
        assert_eq!(found.get("data").unwrap_or(&Value::Null), &sent["data"], "{}", sent["datatype"]);
    }
}

#[test]
fn packed_requests_are_unpacked() {
    let server = Running::usual();
    let mut client = Client::connect(server.address);
    let (json_bytes, body) = binary_sums(2, 1.0, 2.0);
    let headers = format!("Inference-Header-Content-Length: {json_bytes}\r\n");
    let plain = client.ask(request(INFER, &headers, &body));
    let mut gzip = GzEncoder::new(vec![], Compression::default());
    gzip.write_all(&body).expect("memory takes it");
    let mut zlib = ZlibEncoder::new(vec![], Compression::default());
    zlib.write_all(&body).expect("memory takes it");
    let packed = [("gzip", gzip.finish()), ("deflate", zlib.finish())];
    for (name, bytes) in packed {
        let headers = format!("{headers}Content-Encoding: {name}\r\n");
        let response = client.ask(request(INFER, &headers, &bytes.expect("memory takes it")));
        assert_eq!((response.status, &response.body), (200, &plain.body), "{name}");
    }
}

#[test]
fn failures_have_the_status_of_their_kind() {
    let server = Running::usual();
    let mut client = Client::connect(server.address);
    let cases = [
        ("fine", 200, ""),
        ("invalid", 400, "index 7 is out of range"),
        ("failed", 500, "a step failed"),
        ("expired", 504, "its deadline has passed"),
        ("full", 429, "the queue is full by now"),
        ("late", 429, "it would be late by now"),
        ("draining", 503, "nothing is let in any more"),
        ("cancelled", 503, "it was cancelled"),
        ("unavailable", 503, "the device is lost"),
        ("wrong", 500, "model \"fail\" gave outputs of types [], which is not what it declares"),
    ];
    for (kind, status, message) in cases {
        let input = json!({ "name": "kind", "shape": [1], "datatype": "BYTES", "data": [kind] });
        let response = infer(&mut client, "fail", &json!({ "inputs": [input] }));
        assert_eq!(response.status, status, "{kind}");
        assert_eq!(response.header("retry-after"), [429, 503].contains(&status).then_some("1"), "{kind}");
        if status != 200 {
            assert_eq!(response.error(), message);
        }
    }
}

#[test]
fn bad_requests_say_what_was_expected() {
    let server = Running::usual();
    let mut client = Client::connect(server.address);
    let mut wrong_shape = sums(1.0, 2.0);
    wrong_shape["inputs"][0]["shape"] = json!([1, 3]);
    let mut not_a_number = sums(1.0, 2.0);
    not_a_number["inputs"][0]["data"] = json!(["1", 2, 3, 4]);
    let cases = [
        (infer_json(&wrong_shape), 400, "input \"a\": expected shape [-1,4], found [1,3]"),
        (
            infer_json(&not_a_number),
            400,
            "input \"a\": element 0: expected a number within the range of FP32, found \"1\"",
        ),
        (infer_json(&json!([])), 400, "expected an inference request in JSON"),
        (request(INFER, "", b""), 400, "EOF while parsing"),
        (request(INFER, "", b"{\"inputs\":[{\"name\":\"a\",\"sh"), 400, "EOF while parsing"),
        (request(INFER, "Inference-Header-Content-Length: 9\r\n", b"{}"), 400, "expected 9 bytes of JSON"),
        (request(INFER, "Inference-Header-Content-Length: -9\r\n", b"{}"), 400, "expected a number of bytes"),
        (request(INFER, "Content-Type: text/xml\r\n", b"{}"), 415, "application/json"),
        (request(INFER, "Content-Encoding: br\r\n", b"{}"), 415, "gzip, deflate or identity"),
        (request(INFER, "Content-Encoding: gzip\r\n", b"{}"), 400, "not packed as Content-Encoding says"),
    ];
    for (request, status, message) in cases {
        let response = client.ask(request);
        assert_eq!(response.status, status, "{message}");
        assert!(response.error().contains(message), "{}", response.error());
    }
    assert_eq!(client.ask(infer_json(&sums(1.0, 2.0))).status, 200, "the connection lives on");
    server.shared.wait_places(0);
}
