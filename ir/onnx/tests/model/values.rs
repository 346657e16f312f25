//! Value files: written and read again.

use std::sync::Arc;

use tandem_ir::{DType, Fact, Kind};
use tandem_onnx::pb::{decode, encode, read_pb, write_pb};
use tandem_onnx::value::{Data, TensorValue, Value};
use tandem_onnx_proto::{Message, TensorProto};

fn fact(kind: Kind) -> Fact {
    Fact { kind, ..Fact::default() }
}

fn floats(values: &[f32]) -> Value {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Value::Tensor(TensorValue::new(DType::F32, vec![values.len() as u64], bytes))
}

fn text(text: &str) -> Value {
    let data = Data::Strings(Arc::new(vec![text.as_bytes().to_vec()]));
    Value::Tensor(TensorValue { dtype: DType::String, dims: vec![], data })
}

#[test]
fn values_survive_files() {
    let key = |k: i64| Value::Tensor(TensorValue::new(DType::I64, vec![], k.to_le_bytes().to_vec()));
    let sequence = Value::Sequence(vec![floats(&[1.0]), floats(&[2.0, 3.0])]);
    let values = [
        (Kind::Tensor, floats(&[1.5, f32::NAN.copysign(-1.0)])),
        (Kind::Tensor, floats(&[])),
        (Kind::Tensor, text("odd \u{1F980}")),
        (Kind::Tensor, Value::Tensor(TensorValue::new(DType::U4, vec![3], vec![0x21, 0x03]))),
        (Kind::Sequence, sequence.clone()),
        (Kind::Sequence, Value::Sequence(vec![])),
        (Kind::Sequence, Value::Sequence(vec![sequence.clone(), Value::Sequence(vec![])])),
        (Kind::Optional, Value::Optional(None)),
        (Kind::Optional, Value::Optional(Some(Box::new(floats(&[1.0]))))),
        (Kind::Optional, Value::Optional(Some(Box::new(sequence)))),
        (Kind::Map, Value::Map(vec![(key(-3), floats(&[1.0])), (key(9), floats(&[2.0]))])),
        (Kind::Map, Value::Map(vec![(text("a"), floats(&[1.0]))])),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("input_0.pb");
    for (kind, value) in values {
        write_pb(&path, &value, "x").expect("written");
        let read = read_pb(&path, &fact(kind)).unwrap_or_else(|e| panic!("{kind:?}: {e}"));
        // Bits, for NaN is not itself.
        assert_eq!(encode(&read, "x"), encode(&value, "x"), "{kind:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("read").count(), 1, "nothing is left aside");
}

#[test]
fn wrong_value_files_are_named() {
    let tensor = Fact { dtype: Some(DType::I64), ..Fact::default() };
    let message = decode("v.pb", encode(&floats(&[1.0]), "x"), &tensor).expect_err("floats").to_string();
    assert!(message.contains("v.pb") && message.contains("i64") && message.contains("f32"), "{message}");
    let mut proto = TensorProto::from_f32("x", &[2], &[1.0, 2.0]);
    proto.dims = vec![3];
    let message = decode("v.pb", proto.encode(), &Fact::default()).expect_err("short").to_string();
    assert!(message.contains("12 bytes"), "{message}");
    assert!(decode("v.pb", vec![], &fact(Kind::Sparse)).is_err());
    proto.data_location = 1;
    assert!(decode("v.pb", proto.encode(), &Fact::default()).is_err());
    // An optional may be stored as its tensor.
    let plain = decode("v.pb", encode(&floats(&[1.0]), "x"), &fact(Kind::Optional)).expect("a tensor");
    assert_eq!(plain, Value::Optional(Some(Box::new(floats(&[1.0])))));
}
