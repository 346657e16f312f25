use serde_json::{Value, json};
use tandem_core::rng::Rng;

use super::*;

fn tensor(name: &str, dtype: DType, dims: &[Dim]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype, dims: dims.to_vec() }
}

const ROWS: Dim = Dim::Batch { per_item: 1 };

fn tenant() -> TenantSpec {
    TenantSpec {
        name: "m".to_owned(),
        inputs: vec![
            tensor("x", DType::F32, &[ROWS, Dim::Known(2)]),
            tensor("state", DType::I64, &[Dim::Known(3), Dim::Batch { per_item: 2 }]),
            tensor("words", DType::String, &[Dim::Symbol("n".to_owned())]),
            tensor("flags", DType::Bool, &[Dim::Unknown, Dim::Unknown]),
        ],
        outputs: vec![tensor("y", DType::F32, &[ROWS]), tensor("z", DType::F16, &[ROWS])],
        rows_max: 4,
        preferred: vec![],
        queue_delay: Duration::ZERO,
    }
}

/// A request of two rows.
fn good() -> Value {
    json!({
        "id": "seven",
        "inputs": [
            { "name": "state", "shape": [3, 4], "datatype": "INT64", "data": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12] },
            { "name": "x", "shape": [2, 2], "datatype": "FP32", "data": [[0.5, 1.5], [2.5, 3.5]] },
            { "name": "flags", "shape": [1, 2], "datatype": "BOOL", "data": [[true, false]] },
            { "name": "words", "shape": [2], "datatype": "BYTES", "data": ["a", "bc"] },
        ],
    })
}

fn changed(change: impl FnOnce(&mut Value)) -> Value {
    let mut value = good();
    change(&mut value);
    value
}

fn read(body: &[u8], json_bytes: Option<u64>) -> Result<Decoded, OipError> {
    let mut aligned = Aligned::with_capacity(0, json_bytes.unwrap_or(0) as usize);
    aligned.push(body);
    decode(&tenant(), &Arc::new(aligned), json_bytes)
}

fn read_json(value: &Value) -> Result<Decoded, OipError> {
    read(value.to_string().as_bytes(), None)
}

fn singles(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// A request whose tensors are binary, in another order than the tenant's: its bytes, and how many are JSON.
fn good_binary() -> (Vec<u8>, u64) {
    let head = json!({
        "inputs": [
            { "name": "x", "shape": [2, 2], "datatype": "FP32", "parameters": { "binary_data_size": 16 } },
            { "name": "words", "shape": [2], "datatype": "BYTES", "parameters": { "binary_data_size": 11 } },
            { "name": "state", "shape": [3, 4], "datatype": "INT64", "parameters": { "binary_data_size": 96 } },
            { "name": "flags", "shape": [1, 2], "datatype": "BOOL", "data": [true, false] },
        ],
        "parameters": { "binary_data_output": true },
    });
    let mut body = head.to_string().into_bytes();
    let json_bytes = body.len() as u64;
    body.extend(singles(&[0.5, 1.5, 2.5, 3.5]));
    body.extend(b"\x01\0\0\0a\x02\0\0\0bc");
    body.extend((1..=12i64).flat_map(i64::to_le_bytes));
    (body, json_bytes)
}

#[test]
fn inputs_come_in_the_tenants_order_with_their_rows() {
    let decoded = read_json(&good()).expect("a good request");
    let Request { inputs, rows, timeout } = decoded.request;
    assert_eq!((rows, timeout), (2, None));
    assert_eq!(inputs[0], TensorValue::new(DType::F32, vec![2, 2], singles(&[0.5, 1.5, 2.5, 3.5])));
    let state: Vec<u8> = (1..=12i64).flat_map(i64::to_le_bytes).collect();
    assert_eq!(inputs[1], TensorValue::new(DType::I64, vec![3, 4], state));
    assert_eq!(inputs[2].data, Data::Strings(Arc::new(vec![b"a".to_vec(), b"bc".to_vec()])));
    assert_eq!(inputs[3], TensorValue::new(DType::Bool, vec![1, 2], vec![1, 0]));
    assert_eq!(decoded.wanted, Wanted { id: Some("seven".to_owned()), outputs: vec![(0, false), (1, false)] });
}

#[test]
fn binary_tensors_are_the_same_and_lie_where_they_arrived() {
    let (body, json_bytes) = good_binary();
    let decoded = read(&body, Some(json_bytes)).expect("a good request");
    let from_json = read_json(&good()).expect("a good request");
    assert_eq!(decoded.request, from_json.request);
    assert_eq!(decoded.wanted.outputs, [(0, true), (1, true)]);
    // The strings before it move the integers off their alignment: they alone are copied.
    assert_eq!(decoded.copied_bytes, 96);
    for input in &decoded.request.inputs {
        let align = binary::element_bytes(input.dtype);
        assert!(input.bytes().as_ptr().addr().is_multiple_of(align), "{}", input.dtype);
    }
}

#[test]
fn lone_binary_tensors_are_never_copied() {
    let tenant = TenantSpec { inputs: vec![tenant().inputs.remove(0)], ..tenant() };
    for padding in 0..70 {
        let input =
            json!({ "name": "x", "shape": [2, 2], "datatype": "FP32", "parameters": { "binary_data_size": 16 } });
        let mut body = json!({ "id": "i".repeat(padding), "inputs": [input] }).to_string().into_bytes();
        let json_bytes = body.len();
        body.extend(singles(&[1.0, 2.0, 3.0, 4.0]));
        let mut aligned = Aligned::with_capacity(body.len(), json_bytes);
        aligned.push(&body);
        let aligned = Arc::new(aligned);
        let decoded = decode(&tenant, &aligned, Some(json_bytes as u64)).expect("a good request");
        assert_eq!(decoded.copied_bytes, 0);
        let there = (*aligned).as_ref()[json_bytes..].as_ptr();
        assert_eq!(decoded.request.inputs[0].bytes().as_ptr(), there, "the body's own bytes");
    }
}

#[test]
fn members_come_in_any_order_and_unknown_ones_are_passed_over() {
    let text = r#"{"parameters":{"timeout":1500,"priority":2,"x":[1]},"later":{"a":[[]]},"inputs":[
        {"data":[[1,2]],"datatype":"FP32","shape":[1,2],"name":"x"},
        {"data":[1,2,3,4,5,6],"shape":[3,2],"name":"state","datatype":"INT64","also":null},
        {"data":[],"shape":[0],"name":"words","datatype":"BYTES"},
        {"data":[],"shape":[0,0],"name":"fl\u0061gs","datatype":"BOOL"}],"id":null,
        "outputs":[{"name":"z","parameters":{"binary_data":true}},{"name":"y"}]}"#;
    let decoded = read(text.as_bytes(), None).expect("a good request");
    assert_eq!(decoded.request.timeout, Some(Duration::from_micros(1500)));
    assert_eq!(decoded.wanted, Wanted { id: None, outputs: vec![(1, true), (0, false)] });
    let none = changed(|r| r["parameters"] = json!({ "timeout": 0 }));
    assert_eq!(read_json(&none).expect("a good request").request.timeout, None);
}

#[test]
fn what_is_said_of_inputs_must_fit_the_tenant() {
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 20] = [
        (|r| r["inputs"][1]["name"] = json!("q"), "unknown input \"q\", expected one of [\"x\", \"state\""),
        (|r| r["inputs"][1] = r["inputs"][0].clone(), "input \"state\" is there twice"),
        (|r| drop(r["inputs"].as_array_mut().map(Vec::pop)), "input \"words\" is missing"),
        (|r| r["inputs"] = json!([]), "input \"x\" is missing"),
        (|r| r["inputs"][1]["datatype"] = json!("FP64"), "input \"x\": expected datatype FP32, found \"FP64\""),
        (|r| r["inputs"][1]["shape"] = json!([2, 3]), "input \"x\": expected shape [-1,2], found [2,3]"),
        (|r| r["inputs"][1]["shape"] = json!([4]), "input \"x\": expected shape [-1,2], found [4]"),
        (|r| r["inputs"][1]["shape"] = json!([-2, 2]), "input \"x\": expected shape [-1,2], found [-2,2]"),
        (|r| r["inputs"][1]["shape"] = json!([5, 2]), "input \"x\": expected 1 to 4 rows, found 5 in shape [5,2]"),
        (|r| r["inputs"][1]["shape"] = json!([0, 2]), "expected 1 to 4 rows, found 0 in shape [0,2]"),
        (|r| r["inputs"][1]["shape"] = json!([3, 2]), "inputs differ in rows: \"state\" has 2, \"x\" has 3"),
        (|r| r["inputs"][0]["shape"] = json!([3, 5]), "found [3,5]: an axis of rows has 2 elements for each"),
        (|r| r["inputs"][3]["shape"] = json!([3]), "input \"words\": expected 3 elements for shape [3], found 2"),
        (|r| r["inputs"][1]["data"] = json!(["1", 2, 3, 4]), "element 0: expected a number within the range of FP32"),
        (|r| drop(r["inputs"][1].as_object_mut().map(|o| o.remove("data"))), "binary_data_size, found neither"),
        (|r| r["inputs"][1]["parameters"] = json!({ "binary_data_size": 0 }), "binary_data_size, found both"),
        (|r| r["inputs"][1]["parameters"] = json!({ "binary_data_size": 16 }), "expected 16 bytes of binary data"),
        (|r| r["inputs"][1]["parameters"] = json!({ "shared_memory_region": "r" }), "shared memory is not supported"),
        (|r| r["parameters"] = json!({ "sequence_id": 3 }), "a sequence (sequence_id) is not supported"),
        (|r| r["inputs"][3]["shape"] = json!([u32::MAX, u32::MAX]), "expected shape [-1], found [4294967295,"),
    ];
    for (change, expected) in cases {
        let request = changed(change);
        let found = read_json(&request).expect_err(expected).to_string();
        assert!(found.contains(expected), "expected {expected}\nfound {found}");
    }
}

#[test]
fn what_is_said_of_outputs_must_fit_the_tenant() {
    let cases = [
        (json!([{ "name": "q" }]), "unknown output \"q\", expected one of [\"y\", \"z\"]"),
        (json!([{ "name": "y" }, { "name": "y" }]), "output \"y\" is there twice"),
        (json!([{ "name": "y", "parameters": { "classification": 3 } }]), "classification of outputs is not supported"),
        (json!([{ "parameters": {} }]), "missing field `name`"),
    ];
    for (outputs, expected) in cases {
        let found = read_json(&changed(|r| r["outputs"] = outputs)).expect_err(expected).to_string();
        assert!(found.contains(expected), "expected {expected}\nfound {found}");
    }
    let all = read_json(&changed(|r| r["outputs"] = json!([]))).expect("a good request");
    assert_eq!(all.wanted.outputs, [(0, false), (1, false)]);
}

#[test]
fn what_is_no_request_says_where() {
    let good = good().to_string();
    let cases = [
        (String::new(), "EOF while parsing"),
        (good[..good.len() / 2].to_owned(), "EOF while parsing"),
        (format!("{good}x"), "trailing characters"),
        ("[]".to_owned(), "expected an inference request in JSON"),
        ("{}".to_owned(), "missing field `inputs`"),
        (good.replace("\"FP32\"", "32"), "invalid type: integer `32`"),
        (good.replace("[2,2]", "[2.5,2]"), "invalid type: floating point"),
        (good.replace("[2,2]", "[99999999999999999999,2]"), "expected i64"),
        (good.replace("[2,2]", "\"2,2\""), "expected a sequence"),
        (good.replace("0.5", "NaN"), "expected value"),
        (good.replace("0.5", "Infinity"), "expected value"),
        (good.replace("0.5", "01"), "invalid number"),
        (good.replace("\"inputs\"", "\"inputs\":[],\"inputs\""), "duplicate field `inputs`"),
        (good.replace("\"id\":\"seven\"", "\"id\":7"), "expected a string"),
        (format!("{{\"parameters\":{{\"timeout\":-1}},{}", &good[1..]), "expected u64"),
        (format!("{{\"a\":{},{}", "[".repeat(100_000), &good[1..]), "expected an inference request in JSON"),
    ];
    for (text, expected) in cases {
        let found = read(text.as_bytes(), None).expect_err(expected).to_string();
        assert!(found.contains(expected), "expected {expected}\nfound {found}");
        assert!(found.len() < 400, "{found}");
    }
    assert!(read(b"\xff\xfe{}", None).is_err());
}

#[test]
fn sizes_of_binary_tensors_must_add_up() {
    let (body, json_bytes) = good_binary();
    let message = |body: &[u8], json_bytes: u64| read(body, Some(json_bytes)).expect_err("a bad request").to_string();
    let resized = |from: &str, to: &str, add: usize| {
        let head = std::str::from_utf8(&body[..json_bytes as usize]).expect("UTF-8").replace(from, to);
        let mut all = head.clone().into_bytes();
        all.extend(&body[json_bytes as usize..]);
        all.resize(all.len() + add, 0);
        (all, head.len() as u64)
    };
    let refused = |body: &[u8], json_bytes: u64, expected: &str| {
        let found = message(body, json_bytes);
        assert!(found.contains(expected), "expected {expected}\nfound {found}");
    };
    refused(&body[..body.len() - 1], json_bytes, "expected 123 bytes of binary data after the JSON, found 122");
    refused(&[&body[..], b"\0"].concat(), json_bytes, "expected 123 bytes of binary data after the JSON, found 124");
    refused(&body, body.len() as u64 + 1, &format!("found a body of {}", body.len()));
    refused(&body, u64::MAX, "expected 18446744073709551615 bytes of JSON, as Inference-Header-Content-Length says");
    let (all, head) = resized("\"binary_data_size\":16", "\"binary_data_size\":18446744073709551615", 0);
    refused(&all, head, "expected 18446744073709551615 bytes of binary data after the JSON");
    let (all, head) = resized("\"binary_data_size\":16", "\"binary_data_size\":20", 4);
    refused(&all, head, "\"x\": expected 16 bytes of binary data for shape [2,2], found binary_data_size 20");
    let (all, head) = resized("\"binary_data_size\":11", "\"binary_data_size\":12", 1);
    refused(&all, head, "\"words\": expected 2 strings");
    // The same bytes without the header are not JSON.
    assert!(read(&body, None).expect_err("no JSON").to_string().contains("expected an inference request in JSON"));
}

#[test]
fn shapes_that_no_memory_holds_are_refused_before_any_is_taken() {
    let spec = |dtype| TenantSpec {
        inputs: vec![tensor("x", dtype, &[Dim::Unknown, Dim::Unknown, Dim::Unknown])],
        ..tenant()
    };
    for dtype in [DType::F32, DType::F64, DType::Bool, DType::String] {
        let datatype = datatype(dtype).expect("a type of the protocol");
        for (shape, expected) in [
            ([i64::MAX, i64::MAX, 2], "has more elements than memory has bytes"),
            ([1 << 31, 1 << 31, 4], "has more elements than memory has bytes"),
            ([1 << 20, 1 << 20, 1], "elements"),
            ([i64::MAX, i64::MAX, 0], "found"),
        ] {
            for data in [json!([1]), json!([true]), json!(["a"])] {
                let input = json!({ "name": "x", "shape": shape, "datatype": datatype, "data": data });
                let body = Arc::new(Aligned::copy_of(json!({ "inputs": [input] }).to_string().as_bytes()));
                let found = decode(&spec(dtype), &body, None).expect_err("no such tensor").to_string();
                assert!(found.contains(expected) || found.contains("element 0"), "{datatype} {shape:?}: {found}");
            }
        }
        let input = json!({ "name": "x", "shape": [1 << 20, 1 << 20, 1], "datatype": datatype,
            "parameters": { "binary_data_size": 8 } });
        let mut bytes = json!({ "inputs": [input] }).to_string().into_bytes();
        let json_bytes = bytes.len() as u64;
        bytes.extend([1, 0, 0, 0, 1, 0, 0, 0]);
        let body = Arc::new(Aligned::copy_of(&bytes));
        let found = decode(&spec(dtype), &body, Some(json_bytes)).expect_err("no such tensor").to_string();
        assert!(found.contains("\"x\": expected 1099511627776 strings") || found.contains("for shape"), "{found}");
    }
}

#[test]
fn booleans_are_zero_or_one() {
    let tenant = TenantSpec { inputs: vec![tensor("b", DType::Bool, &[Dim::Known(3)])], ..tenant() };
    let input = json!({ "name": "b", "shape": [3], "datatype": "BOOL", "parameters": { "binary_data_size": 3 } });
    let head = json!({ "inputs": [input] }).to_string().into_bytes();
    let read = |bytes: [u8; 3]| {
        let body = Arc::new(Aligned::copy_of(&[&head[..], &bytes].concat()));
        decode(&tenant, &body, Some(head.len() as u64))
    };
    assert_eq!(read([0, 1, 1]).expect("booleans").request.inputs[0].bytes(), [0, 1, 1]);
    let found = read([0, 1, 2]).expect_err("no boolean").to_string();
    assert_eq!(found, "input \"b\": element 2: expected 0 or 1, found 2");
}

#[test]
fn texts_of_clients_are_cut_short_in_errors() {
    let long = "n".repeat(1 << 20);
    for request in [
        changed(|r| r["inputs"][1]["name"] = json!(long)),
        changed(|r| r["inputs"][1]["datatype"] = json!(long)),
        changed(|r| r["inputs"][1]["shape"] = json!(vec![1; 100_000])),
        changed(|r| r["inputs"][1]["data"] = json!([long])),
        changed(|r| r["inputs"][1]["shape"] = json!(long)),
    ] {
        assert!(read_json(&request).expect_err("a bad request").to_string().len() < 1000);
    }
}

/// Damages a request: each is read or refused, with as many inputs as the tenant has and no panic.
#[test]
fn damaged_requests_are_read_or_refused() {
    let (binary, json_bytes) = good_binary();
    let text = good().to_string().into_bytes();
    let words: [&[u8]; 14] = [
        b"[",
        b"]",
        b"{",
        b"}",
        b"\"",
        b",",
        b"-1",
        b"1e999",
        b"null",
        b"\\",
        b"\xff",
        b"99999999999999999999",
        b"\\u00",
        b"0",
    ];
    let mut good_ones = 0;
    for seed in 0..20_000 {
        let mut rng = Rng::keyed(seed, &[0x0a1]);
        let is_binary = rng.below(2) == 0;
        let (mut body, mut head) =
            if is_binary { (binary.clone(), json_bytes) } else { (text.clone(), text.len() as u64) };
        for _ in 0..=rng.below(4) {
            let at = rng.below(body.len() as u64 + 1) as usize;
            let to = (at + rng.below(8) as usize).min(body.len());
            match rng.below(5) {
                0 => body.truncate(at),
                1 => drop(body.splice(at..to, words[rng.below(words.len() as u64) as usize].iter().copied())),
                2 => drop(body.splice(at..at, text[..rng.below(text.len() as u64) as usize].iter().copied())),
                3 => body[at.min(to)..to].iter_mut().for_each(|b| *b = rng.u64() as u8),
                _ => head = rng.below(2 * head.max(1)),
            }
        }
        if let Ok(decoded) = read(&body, (is_binary || rng.below(2) == 0).then_some(head)) {
            good_ones += 1;
            assert_eq!(decoded.request.inputs.len(), 4, "seed {seed}");
            for input in decoded.request.inputs.iter().filter(|i| i.dtype != DType::String) {
                assert_eq!(input.bytes().len() as u64, input.dtype.bytes_of(input.elements()), "seed {seed}");
            }
        }
    }
    assert!(good_ones > 0, "some damage is harmless");
}
