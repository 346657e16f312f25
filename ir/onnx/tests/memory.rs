//! What an import holds: the graph, not the weights.

use std::fs::{self, File};

use peak_alloc::PeakAlloc;
use tandem_onnx::import::import;
use tandem_onnx_proto::{
    DimValue, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    ValueInfoProto, data_location, data_type,
};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const NODES: usize = 10_000;
/// Rows and columns of each weight.
const SIDE: i64 = 96;
const MIB: usize = 1 << 20;
const HELD_MAX: usize = 200 * MIB;

#[test]
fn ten_thousand_nodes_take_little_beside_their_mapped_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    let each = SIDE as usize * SIDE as usize * 4;
    File::create(folder.path().join("weights.bin")).and_then(|f| f.set_len((NODES * each) as u64)).expect("a file");
    let value = |i: usize| if i == 0 { "x".to_owned() } else { format!("/layers.{i}/product/MatMul_output_0") };
    let weight = |i: usize| {
        let entry = |k: &str, v: String| StringStringEntryProto::new(k, v);
        TensorProto {
            name: format!("layers.{i}.product.weight"),
            dims: vec![SIDE, SIDE],
            data_type: data_type::FLOAT,
            data_location: data_location::EXTERNAL,
            external_data: vec![
                entry("location", "weights.bin".into()),
                entry("offset", (i * each).to_string()),
                entry("length", each.to_string()),
            ],
            ..TensorProto::default()
        }
    };
    let node = |i: usize| {
        let inputs = [value(i), format!("layers.{i}.product.weight")];
        NodeProto::new("MatMul", &inputs, &[value(i + 1)]).named(format!("/layers.{i}/product/MatMul"))
    };
    let info =
        |name: String| ValueInfoProto::tensor(name, data_type::FLOAT, &[DimValue::from("batch"), DimValue::from(SIDE)]);
    let graph = GraphProto {
        name: "large".into(),
        node: (0..NODES).map(node).collect(),
        initializer: (0..NODES).map(weight).collect(),
        input: vec![info(value(0))],
        output: vec![info(value(NODES))],
        value_info: (1..NODES).map(|i| info(value(i))).collect(),
        ..GraphProto::default()
    };
    let opset_import = vec![OperatorSetIdProto::new("", 17)];
    let model = ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..ModelProto::default() };
    let path = folder.path().join("model.onnx");
    fs::write(&path, model.encode()).expect("written");
    drop(model);

    let before = HEAP.current_usage();
    HEAP.reset_peak_usage();
    let read = import(&path).unwrap_or_else(|e| panic!("{e}"));
    let held = HEAP.peak_usage() - before;
    assert_eq!((read.graph.nodes.len(), read.graph.weight_bytes()), (NODES, (NODES * each) as u64));
    eprintln!("{NODES} nodes with {} MiB of weights: {} MiB at most", NODES * each / MIB, held / MIB);
    assert!(held <= HELD_MAX, "{} MiB", held / MIB);
}
