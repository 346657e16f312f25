//! Values as protobuf files: `input_0.pb`, `output_0.pb` of the ONNX test suites.
//!
//! A file does not say which message it holds, so the reader is told what kind of value to expect. Comparing values is not
//! done here, and sparse values are refused: nothing in this workspace feeds them.

use std::path::Path;
use std::sync::Arc;

use tandem_ir::{DType, Fact, Kind};
use tandem_onnx_proto::{Blob, MapProto, Message, OptionalProto, SequenceProto, TensorProto, value_type};

use crate::fault::{Fault, ImportError};
use crate::mmap;
use crate::tensor::{self, Held};
use crate::value::{Data, TensorValue, Value};

/// Reads a value file.
///
/// # Errors
/// Names the file: unreadable, no such message, a tensor that contradicts itself, another element type than expected.
pub fn read_pb(path: &Path, expected: &Fact) -> Result<Value, ImportError> {
    let name = path.display().to_string();
    let bytes = mmap::open(path).and_then(|file| Ok(mmap::load(file)?)).map_err(|fault| fault.of(&name))?;
    decode(&name, bytes, expected)
}

/// Reads a value from memory; `name` stands for the file in messages.
///
/// # Errors
/// Those of [`read_pb`].
pub fn decode(name: &str, bytes: impl Into<Blob>, expected: &Fact) -> Result<Value, ImportError> {
    let value = value(&bytes.into(), expected).map_err(|fault| fault.of(name))?;
    match (&value, expected.dtype) {
        (Value::Tensor(tensor), Some(dtype)) if tensor.dtype != dtype => {
            Err(fault(&format!("elements of type {dtype}"), &tensor.dtype.to_string()).of(name))
        }
        _ => Ok(value),
    }
}

/// Writes a value file aside, then renames it.
///
/// # Errors
/// Those of writing.
pub fn write_pb(path: &Path, value: &Value, name: &str) -> std::io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".tmp");
    let written = std::fs::write(&aside, encode(value, name)).and_then(|()| std::fs::rename(&aside, path));
    if written.is_err() {
        // Nothing more can be done if this fails too.
        let _ = std::fs::remove_file(&aside);
    }
    written
}

/// The message of a value, named `name`.
pub fn encode(value: &Value, name: &str) -> Vec<u8> {
    match value {
        Value::Tensor(tensor) => tensor_proto(tensor, name).encode(),
        Value::Sequence(values) => sequence_proto(values, name).encode(),
        Value::Optional(value) => optional_proto(value.as_deref(), name).encode(),
        Value::Map(entries) => map_proto(entries, name).encode(),
    }
}

fn fault(expected: &str, found: &str) -> Fault {
    Fault::Value { expected: expected.to_owned(), found: found.to_owned() }
}

fn value(bytes: &Blob, expected: &Fact) -> Result<Value, Fault> {
    match expected.kind {
        Kind::Tensor => Ok(Value::Tensor(tensor_value(TensorProto::decode(bytes)?)?)),
        Kind::Sequence => sequence_value(SequenceProto::decode(bytes)?),
        Kind::Map => map_value(MapProto::decode(bytes)?),
        Kind::Optional => optional_file(bytes),
        Kind::Sparse => Err(fault("a dense tensor, sequence, optional or map", "a sparse tensor")),
    }
}

/// Some suites store an optional's value itself, as a tensor.
fn optional_file(bytes: &Blob) -> Result<Value, Fault> {
    let found = OptionalProto::decode(bytes);
    let tensor = || Some(Value::Tensor(tensor_value(TensorProto::decode(bytes).ok()?).ok()?));
    match found {
        Ok(proto) if proto.unknown.is_empty() && (0..=value_type::OPTIONAL).contains(&proto.elem_type) => {
            optional_value(proto)
        }
        Ok(_) => {
            let value = tensor().ok_or_else(|| fault("an optional value or a tensor", "neither"))?;
            Ok(Value::Optional(Some(Box::new(value))))
        }
        Err(error) => tensor().map(|value| Value::Optional(Some(Box::new(value)))).ok_or(error.into()),
    }
}

fn tensor_value(mut proto: TensorProto) -> Result<TensorValue, Fault> {
    tensor::normalize(&mut proto, "the value", &mut |tensor, _| {
        Err(Fault::tensor(&tensor.name, "the value", "data_location", "contents in the file itself", "external data"))
    })?;
    let held = Held::dense(proto, "the value")?;
    held.value().ok_or_else(|| fault("a dense tensor", "another"))
}

fn sequence_value(proto: SequenceProto) -> Result<Value, Fault> {
    let values: Result<Vec<Value>, Fault> = match proto.elem_type {
        value_type::UNDEFINED | value_type::TENSOR => {
            proto.tensor_values.into_iter().map(|t| Ok(Value::Tensor(tensor_value(t)?))).collect()
        }
        value_type::SEQUENCE => proto.sequence_values.into_iter().map(sequence_value).collect(),
        value_type::MAP => proto.map_values.into_iter().map(map_value).collect(),
        value_type::OPTIONAL => proto.optional_values.into_iter().map(optional_value).collect(),
        other => return Err(fault("elem_type of dense values (1, 3, 4, 5)", &other.to_string())),
    };
    Ok(Value::Sequence(values?))
}

fn optional_value(proto: OptionalProto) -> Result<Value, Fault> {
    let value = match proto.elem_type {
        value_type::UNDEFINED => None,
        value_type::TENSOR => proto.tensor_value.map(|t| tensor_value(*t).map(Value::Tensor)),
        value_type::SEQUENCE => proto.sequence_value.map(|s| sequence_value(*s)),
        value_type::MAP => proto.map_value.map(|m| map_value(*m)),
        value_type::OPTIONAL => proto.optional_value.map(|o| optional_value(*o)),
        other => return Err(fault("elem_type of dense values (1, 3, 4, 5)", &other.to_string())),
    };
    Ok(Value::Optional(value.transpose()?.map(Box::new)))
}

fn map_value(proto: MapProto) -> Result<Value, Fault> {
    let dtype = DType::from_onnx_code(proto.key_type);
    let keys: Vec<TensorValue> = match dtype {
        Some(DType::String) => proto.string_keys.iter().map(string_key).collect(),
        Some(dtype @ (DType::I8 | DType::I16 | DType::I32 | DType::I64)) => integer_keys(dtype, &proto.keys),
        Some(dtype @ (DType::U8 | DType::U16 | DType::U32 | DType::U64)) => integer_keys(dtype, &proto.keys),
        _ => return Err(fault("key_type of integers or strings", &proto.key_type.to_string())),
    };
    let Value::Sequence(values) = sequence_value(*proto.values.unwrap_or_default())? else {
        return Err(fault("a sequence of values", "another"));
    };
    if keys.len() != values.len() {
        return Err(fault(&format!("{} values, one a key", keys.len()), &values.len().to_string()));
    }
    Ok(Value::Map(keys.into_iter().map(Value::Tensor).zip(values).collect()))
}

fn string_key(key: &Blob) -> TensorValue {
    TensorValue { dtype: DType::String, dims: vec![], data: Data::Strings(Arc::new(vec![key.to_vec()])) }
}

fn integer_keys(dtype: DType, keys: &[i64]) -> Vec<TensorValue> {
    // The low bytes: a key fits its type.
    let width = (dtype.bits() / 8) as usize;
    keys.iter().map(|k| TensorValue::new(dtype, vec![], k.to_le_bytes()[..width].to_vec())).collect()
}

fn tensor_proto(tensor: &TensorValue, name: &str) -> TensorProto {
    let dims: Vec<i64> = tensor.dims.iter().map(|d| *d as i64).collect();
    let proto = TensorProto { name: name.into(), dims, data_type: tensor.dtype.onnx_code(), ..Default::default() };
    match &tensor.data {
        Data::Bytes(bytes) => TensorProto { raw_data: Some(Blob::whole(Arc::new(bytes.clone()))), ..proto },
        Data::Strings(strings) => {
            let string_data = strings.iter().map(|s| s.as_slice().into()).collect();
            TensorProto { string_data, ..proto }
        }
    }
}

/// The code of a value's kind in sequences and optionals.
fn code(value: &Value) -> i32 {
    match value {
        Value::Tensor(_) => value_type::TENSOR,
        Value::Sequence(_) => value_type::SEQUENCE,
        Value::Map(_) => value_type::MAP,
        Value::Optional(_) => value_type::OPTIONAL,
    }
}

fn sequence_proto(values: &[Value], name: &str) -> SequenceProto {
    // An empty sequence does not say of what: of tensors is what nearly all are.
    let elem_type = values.first().map_or(value_type::TENSOR, code);
    let mut proto = SequenceProto { name: name.into(), elem_type, ..SequenceProto::default() };
    for value in values {
        match value {
            Value::Tensor(t) => proto.tensor_values.push(tensor_proto(t, "")),
            Value::Sequence(s) => proto.sequence_values.push(sequence_proto(s, "")),
            Value::Map(m) => proto.map_values.push(map_proto(m, "")),
            Value::Optional(o) => proto.optional_values.push(optional_proto(o.as_deref(), "")),
        }
    }
    proto
}

fn optional_proto(value: Option<&Value>, name: &str) -> OptionalProto {
    let elem_type = value.map_or(value_type::UNDEFINED, code);
    let mut proto = OptionalProto { name: name.into(), elem_type, ..OptionalProto::default() };
    match value {
        None => {}
        Some(Value::Tensor(t)) => proto.tensor_value = Some(Box::new(tensor_proto(t, ""))),
        Some(Value::Sequence(s)) => proto.sequence_value = Some(Box::new(sequence_proto(s, ""))),
        Some(Value::Map(m)) => proto.map_value = Some(Box::new(map_proto(m, ""))),
        Some(Value::Optional(o)) => proto.optional_value = Some(Box::new(optional_proto(o.as_deref(), ""))),
    }
    proto
}

fn map_proto(entries: &[(Value, Value)], name: &str) -> MapProto {
    let mut proto = MapProto { name: name.into(), key_type: DType::I64.onnx_code(), ..MapProto::default() };
    let mut values = vec![];
    for (key, value) in entries {
        values.push(value.clone());
        let Value::Tensor(key) = key else { continue };
        proto.key_type = key.dtype.onnx_code();
        match &key.data {
            Data::Strings(strings) => proto.string_keys.extend(strings.first().map(|s| s.as_slice().into())),
            Data::Bytes(bytes) => proto.keys.extend(tensor::integers(key.dtype, bytes, 1).iter().flatten()),
        }
    }
    proto.values = Some(Box::new(sequence_proto(&values, "")));
    proto
}
