//! Binding on the host's memory, which ONNX Runtime treats as it treats a device's.

use std::path::PathBuf;

use tandem_ir::DType;
use tandem_onnx::cut::SegmentImage;
use tandem_onnx_proto::{
    DimValue, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    ValueInfoProto,
};

use super::*;
use crate::device::cuda::testing::HostAccelerator;
use crate::device::ort::{OrtEngine, session_options};
use crate::engine::SessionOptions;

/// The session of a model of opset 17 with these nodes (operator, inputs, outputs); `None`, said, without the library.
fn session(nodes: &[(&str, &[&str], &[&str])], inputs: &[Port], outputs: &[Port]) -> Option<BoundSession> {
    let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) else {
        eprintln!("skipped: binding on ONNX Runtime, for ORT_DYLIB_PATH names none");
        return None;
    };
    OrtEngine::open(&PathBuf::from(path)).expect("the library that ORT_DYLIB_PATH names");
    let names = |names: &[&str]| names.iter().map(|n| (*n).into()).collect();
    let node = |(op, inputs, outputs): &(&str, &[&str], &[&str])| NodeProto {
        op_type: (*op).into(),
        input: names(inputs),
        output: names(outputs),
        ..NodeProto::default()
    };
    let info = |(name, dtype, dims): &Port| ValueInfoProto {
        name: (*name).into(),
        r#type: Some(TypeProto::tensor(dtype.onnx_code(), dims.map(shape))),
        ..ValueInfoProto::default()
    };
    let graph = GraphProto {
        name: "test".into(),
        node: nodes.iter().map(node).collect(),
        input: inputs.iter().map(info).collect(),
        output: outputs.iter().map(info).collect(),
        ..GraphProto::default()
    };
    let model = ModelProto {
        ir_version: 10,
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { version: 17, ..OperatorSetIdProto::default() }],
        ..ModelProto::default()
    };
    let ports = |ports: &[Port]| ports.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let (inputs, outputs) = (ports(inputs), ports(outputs));
    let image = SegmentImage { model: model.encode().into(), weights: vec![], inputs, outputs };
    let made = session_options(&SessionOptions::default()).expect("options");
    let session = OrtSession::open(&image, &made).expect("it loads");
    let on: (Arc<dyn Accelerator>, Stream) = (accelerator(), Stream::Compute(0));
    let memory = Memory { described: host(), on };
    Some(BoundSession::new(session, Arc::new(memory), false, |error| error).expect("it can be bound"))
}

type Port = (&'static str, DType, Option<&'static [i64]>);

fn shape(dims: &[i64]) -> TensorShapeProto {
    TensorShapeProto::new(&dims.iter().map(|d| DimValue::Value(*d)).collect::<Vec<_>>())
}

fn accelerator() -> Arc<HostAccelerator> {
    HostAccelerator::new(0, 1)
}

/// The host's memory, described anew.
fn host() -> Owned<sys::OrtMemoryInfo> {
    let mut made = null_mut();
    let (kind, of) = (sys::OrtAllocatorType::OrtDeviceAllocator, sys::OrtMemType::OrtMemTypeDefault);
    // SAFETY: the pointer is written by the call.
    check(unsafe { (api().CreateCpuMemoryInfo)(kind, of, &mut made) }).expect("described");
    Owned::new(made, api().ReleaseMemoryInfo).expect("made")
}

/// A tensor of single precision in the "device's" memory.
fn place(values: &[f32]) -> Place {
    let block = accelerator().allocate(4 * values.len() as u64).expect("memory");
    let place = Place::new(block, 0, DType::F32, [values.len() as u64].into()).expect("it fits");
    write(&place, values);
    place
}

fn write(place: &Place, values: &[f32]) {
    assert_eq!(place.bytes(), 4 * values.len() as u64);
    let to = std::ptr::with_exposed_provenance_mut::<f32>(place.address() as usize);
    // SAFETY: the accelerator that is made up has its memory on the host, aligned to words.
    unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len()) };
}

fn read<T: Copy>(place: &Place) -> Vec<T> {
    let count = place.bytes() as usize / size_of::<T>();
    let from = std::ptr::with_exposed_provenance::<T>(place.address() as usize);
    // SAFETY: as above; ONNX Runtime aligns its own memory.
    unsafe { std::slice::from_raw_parts(from, count) }.to_vec()
}

const F32_3: Option<&[i64]> = Some(&[3]);

#[test]
fn fixed_places_are_read_and_written_again_and_again() {
    let ports: [Port; 2] = [("a", DType::F32, F32_3), ("b", DType::F32, F32_3)];
    let made: [Port; 2] = [("sum", DType::F32, F32_3), ("product", DType::F32, F32_3)];
    let nodes: [(&str, &[&str], &[&str]); 2] = [("Add", &["a", "b"], &["sum"]), ("Mul", &["a", "b"], &["product"])];
    let Some(session) = session(&nodes, &ports, &made) else { return };
    let (a, b, sum, product) = (place(&[1.0, 2.0, 3.0]), place(&[10.0; 3]), place(&[0.0; 3]), place(&[0.0; 3]));
    let resident = session.resident().expect("it runs on places");
    let bound = resident.bind(&[a.clone(), b.clone()], &[Some(sum.clone()), Some(product.clone())]);
    let mut bound = bound.expect("it is bound");
    for turn in 1..4 {
        write(&b, &[turn as f32; 3]);
        assert_eq!(bound.enqueue().expect("it runs"), []);
        assert_eq!(read::<f32>(&sum), [1.0, 2.0, 3.0].map(|x| x + turn as f32));
        assert_eq!(read::<f32>(&product), [1.0, 2.0, 3.0].map(|x| x * turn as f32));
    }
    assert!(resident.bind(&[a], &[Some(sum), Some(product)]).is_err(), "an input is missing");
}

#[test]
fn what_has_no_shape_before_comes_back_with_its_place() {
    let ports: [Port; 1] = [("x", DType::F32, F32_3)];
    let made: [Port; 2] = [("where", DType::I64, None), ("y", DType::F32, F32_3)];
    let nodes: [(&str, &[&str], &[&str]); 2] = [("NonZero", &["x"], &["where"]), ("Neg", &["x"], &["y"])];
    let Some(session) = session(&nodes, &ports, &made) else { return };
    let (x, y) = (place(&[0.0, 5.0, 6.0]), place(&[0.0; 3]));
    let resident = session.resident().expect("it runs on places");
    let mut bound = resident.bind(std::slice::from_ref(&x), &[None, Some(y.clone())]).expect("it is bound");
    let kept = bound.enqueue().expect("it runs");
    let [(0, found)] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!((found.dtype(), &**found.dims(), read::<i64>(found)), (DType::I64, &[1, 2][..], vec![1, 2]));
    assert_eq!(read::<f32>(&y), [0.0, -5.0, -6.0]);
    // Other values, another shape; what came before is still there.
    write(&x, &[7.0, 0.0, 0.0]);
    let next = bound.enqueue().expect("it runs");
    assert_eq!((&**next[0].1.dims(), read::<i64>(&next[0].1)), (&[1, 1][..], vec![0]));
    write(&x, &[0.0; 3]);
    let none = bound.enqueue().expect("it runs");
    assert_eq!((&**none[0].1.dims(), none[0].1.bytes()), (&[1, 0][..], 0));
    drop((bound, session));
    assert_eq!(read::<i64>(found), [1, 2]);
}

#[test]
fn a_place_of_another_shape_is_refused() {
    let ports: [Port; 1] = [("x", DType::F32, F32_3)];
    let made: [Port; 1] = [("y", DType::F32, F32_3)];
    let Some(session) = session(&[("Neg", &["x"], &["y"])], &ports, &made) else { return };
    let resident = session.resident().expect("it runs on places");
    let wrong = resident.bind(&[place(&[1.0; 3])], &[Some(place(&[0.0; 5]))]);
    assert!(wrong.and_then(|mut bound| bound.enqueue()).is_err(), "five elements for three");
    let wrong = resident.bind(&[place(&[1.0; 4])], &[Some(place(&[0.0; 3]))]);
    assert!(wrong.and_then(|mut bound| bound.enqueue()).is_err(), "four elements for three");
}
