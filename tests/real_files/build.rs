//! Short ways to write models and values, and the way every model of these suites goes.

use serde_json::Value as Json;
use tandem_ir::DType;
use tandem_onnx::value::{TensorValue, Value};
use tandem_onnx_proto::{
    AttributeProto, DimValue, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    ValueInfoProto, data_type,
};
use tandem_runtime::npz;

use crate::binary::{Place, T4, engines};

pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> NodeProto {
    NodeProto::new(op, inputs, outputs)
}

/// A dimension: a number as it is, anything else a symbol.
fn dim(text: &str) -> DimValue {
    text.parse::<i64>().map_or_else(|_| DimValue::from(text), DimValue::from)
}

/// A value with dimensions such as `Nx4`; an empty text is a scalar.
pub fn value(name: &str, elem_type: i32, dims: &str) -> ValueInfoProto {
    let dims: Vec<DimValue> = dims.split('x').filter(|d| !d.is_empty()).map(dim).collect();
    ValueInfoProto::tensor(name, elem_type, &dims)
}

pub fn float(name: &str, dims: &str) -> ValueInfoProto {
    value(name, data_type::FLOAT, dims)
}

/// Numbers between -1 and 1, no two rows alike.
pub fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
}

pub fn weight(name: &str, dims: &[i64]) -> TensorProto {
    let count: i64 = dims.iter().product();
    TensorProto::from_f32(name, dims, &numbers(count as usize, name.len()))
}

pub fn constant(output: &str, tensor: TensorProto) -> NodeProto {
    node("Constant", &[], &[output]).with(AttributeProto::tensor("value", tensor))
}

pub fn graph(nodes: Vec<NodeProto>, input: Vec<ValueInfoProto>, output: Vec<ValueInfoProto>) -> GraphProto {
    GraphProto { name: "g".into(), node: nodes, input, output, ..GraphProto::default() }
}

/// A file of an opset.
pub fn file(graph: GraphProto, opset: i64) -> ModelProto {
    // Files of the time had the IR of the time: from 4 on, weights need not be inputs.
    let ir_version = if opset < 9 { 3 } else { 8 };
    let opset_import = vec![OperatorSetIdProto::new("", opset)];
    ModelProto { ir_version, opset_import, graph: Some(graph), ..ModelProto::default() }
}

pub fn tensor(dims: &[u64], values: &[f32]) -> TensorValue {
    TensorValue::new(DType::F32, dims.to_vec(), values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())
}

pub fn floats(tensor: &TensorValue) -> Vec<f32> {
    assert_eq!(tensor.dtype, DType::F32);
    tensor.bytes().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// A model's way through the binary.
pub struct Case {
    pub place: Place,
    engines: Vec<&'static str>,
}

impl Case {
    /// Writes the model as `m.onnx`.
    pub fn new(model: &ModelProto) -> Self {
        let place = Place::new();
        place.write("m.onnx", model.encode());
        Self { place, engines: engines() }
    }

    /// For operators that tract does not have: `false` where ONNX Runtime is not here, which is said.
    pub fn needs_ort(&mut self, what: &str) -> bool {
        self.engines.retain(|e| *e == "ort");
        if self.engines.is_empty() {
            println!("skipped: {what} needs ONNX Runtime, and ORT_DYLIB_PATH is not set");
        }
        !self.engines.is_empty()
    }

    pub fn engine(&self) -> &'static str {
        self.engines[0]
    }

    /// `tandem import`, as data.
    #[track_caller]
    pub fn import(&self) -> Json {
        self.place.tandem_on(self.engine(), "import m.onnx --format json --full").code(0).json()
    }

    /// Plans with a search.
    #[track_caller]
    pub fn plan(&self, engine: &str, more: &str) -> String {
        let words = format!("plan m.onnx --machine {T4} -o plan.yaml -q {more}");
        self.place.tandem_on(engine, &words).code(0);
        self.place.tandem_on(engine, "check plan.yaml").code(0);
        self.place.read("plan.yaml")
    }

    /// Splits at random and with the search, and verifies, on every engine.
    #[track_caller]
    pub fn verify(&self, more: &str) {
        for engine in &self.engines {
            for search in ["random:1", "random:2", "random:3", "auto", "gpu-only"] {
                self.plan(engine, &format!("--search {search} {more}"));
                let words = "run plan.yaml --emulate --verify --format json";
                let data = self.place.tandem_on(engine, words).code(0).json();
                assert_eq!(data["verified"]["equal"], true, "{engine} {search}: {data:#}");
            }
        }
    }

    /// Runs the plan that was made last, at a batch, with these inputs; gives back the outputs.
    #[track_caller]
    pub fn run(&self, batch: u64, inputs: &[(&str, TensorValue)]) -> Vec<(String, TensorValue)> {
        let named: Vec<(String, Value)> =
            inputs.iter().map(|(n, t)| ((*n).to_owned(), Value::Tensor(t.clone()))).collect();
        npz::write(&self.place.path("in.npz"), &named).expect("an .npz");
        let words = format!("run plan.yaml --emulate --verify --batch {batch} --input in.npz --output out.npz");
        self.place.tandem_on(self.engine(), &words).code(0);
        npz::read(&self.place.path("out.npz")).expect("an .npz")
    }
}

/// The batch axis that import found for an input or output.
#[track_caller]
pub fn batch_axis(import: &Json, name: &str) -> Option<u64> {
    let ports = ["inputs", "outputs"].into_iter().flat_map(|p| import[p].as_array().expect("ports"));
    let found = ports.into_iter().find(|p| p["name"] == name).unwrap_or_else(|| panic!("no {name}: {import:#}"));
    found["batch_axis"].as_u64()
}

/// Total flops that import counted.
pub fn flops(import: &Json) -> u64 {
    import["flops_per_item"].as_u64().unwrap_or(0)
}
