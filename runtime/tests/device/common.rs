//! Small models as images, and the engines of this machine.

use std::path::PathBuf;
use std::sync::Arc;

use tandem_ir::DType;
use tandem_onnx::cut::{SegmentImage, Weight};
use tandem_onnx::value::{TensorValue, Value};
use tandem_onnx_proto::{
    GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, TypeProto,
    ValueInfoProto, data_location,
};
use tandem_runtime::device::ort::OrtEngine;
use tandem_runtime::device::tract::TractEngine;
use tandem_runtime::engine::Engine;

/// ONNX Runtime where `ORT_DYLIB_PATH` names it; else says that what needs it is skipped.
pub fn ort(what: &str) -> Option<OrtEngine> {
    let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) else {
        eprintln!("skipped: {what} on ONNX Runtime, for ORT_DYLIB_PATH names none");
        return None;
    };
    Some(OrtEngine::open(&PathBuf::from(path)).expect("the library that ORT_DYLIB_PATH names"))
}

/// Every engine there is.
pub fn engines(what: &str) -> Vec<Arc<dyn Engine>> {
    let mut engines: Vec<Arc<dyn Engine>> = vec![Arc::new(TractEngine)];
    engines.extend(ort(what).map(|e| Arc::new(e) as Arc<dyn Engine>));
    engines
}

pub fn f32s(dims: &[u64], values: &[f32]) -> Value {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Value::Tensor(TensorValue::new(DType::F32, dims.to_vec(), bytes))
}

pub fn read_f32s(value: &Value) -> Vec<f32> {
    let Value::Tensor(tensor) = value else { panic!("a tensor") };
    assert_eq!(tensor.dtype, DType::F32);
    tensor.bytes().chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().expect("four bytes"))).collect()
}

/// An image of one graph. Opset 17.
pub fn image(nodes: Vec<NodeProto>, inputs: &[(&str, TypeProto)], outputs: &[(&str, TypeProto)]) -> SegmentImage {
    image_with(nodes, inputs, outputs, vec![], 17)
}

pub fn image_with(
    nodes: Vec<NodeProto>,
    inputs: &[(&str, TypeProto)],
    outputs: &[(&str, TypeProto)],
    weights: Vec<Weight>,
    opset: i64,
) -> SegmentImage {
    let info = |(name, kind): &(&str, TypeProto)| ValueInfoProto {
        name: (*name).into(),
        r#type: Some(kind.clone()),
        ..ValueInfoProto::default()
    };
    let graph = GraphProto {
        name: "test".into(),
        node: nodes,
        input: inputs.iter().map(info).collect(),
        output: outputs.iter().map(info).collect(),
        initializer: weights.iter().map(external).collect(),
        ..GraphProto::default()
    };
    let model = ModelProto {
        ir_version: 10,
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { version: opset, ..OperatorSetIdProto::default() }],
        ..ModelProto::default()
    };
    SegmentImage {
        model: model.encode().into(),
        weights,
        inputs: inputs.iter().map(|(name, _)| (*name).to_owned()).collect(),
        outputs: outputs.iter().map(|(name, _)| (*name).to_owned()).collect(),
    }
}

fn external(weight: &Weight) -> TensorProto {
    let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value, ..Default::default() };
    TensorProto {
        name: weight.name.clone(),
        data_type: weight.dtype.onnx_code(),
        dims: weight.dims.iter().map(|d| *d as i64).collect(),
        data_location: data_location::EXTERNAL,
        external_data: vec![
            entry("location", weight.name.clone()),
            entry("offset", "0".into()),
            entry("length", weight.data.len().to_string()),
        ],
        ..TensorProto::default()
    }
}

pub fn tensor(dtype: DType, dims: &[i64]) -> TypeProto {
    let dims: Vec<_> = dims.iter().map(|d| tandem_onnx_proto::DimValue::Value(*d)).collect();
    TypeProto::tensor(dtype.onnx_code(), Some(tandem_onnx_proto::TensorShapeProto::new(&dims)))
}
