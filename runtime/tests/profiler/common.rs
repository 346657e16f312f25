//! Small models, engines, and engines that count or hide what they do.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tandem_ir::machine::Engine as EngineFacts;
use tandem_ir::plan::BoundDim;
use tandem_ir::{Bytes, Device, DeviceKind, Machine, Nanos};
use tandem_onnx::cut::SegmentImage;
use tandem_onnx::import::{Model, import};
use tandem_onnx_proto::{GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, ValueInfoProto};
use tandem_runtime::device::ort::OrtEngine;
use tandem_runtime::device::tract::TractEngine;
use tandem_runtime::engine::{Engine, EngineError, Session, SessionOptions};
use tandem_runtime::profiler::facts;

/// tract, and ONNX Runtime where it is named; else says what is skipped.
pub fn engines(what: &str) -> Vec<Arc<dyn Engine>> {
    let mut engines: Vec<Arc<dyn Engine>> = vec![Arc::new(TractEngine)];
    match std::env::var_os("ORT_DYLIB_PATH").filter(|p| !p.is_empty()) {
        Some(path) => engines.push(Arc::new(OrtEngine::open(&PathBuf::from(path)).expect("the named library"))),
        None => eprintln!("skipped: {what} on ONNX Runtime, for ORT_DYLIB_PATH names none"),
    }
    engines
}

/// A model of the zoo as imported.
pub fn zoo(name: &str) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    tandem_models::build_to(name, 1, &path).unwrap();
    import(&path).unwrap()
}

/// The same with inputs bound as proposed (free axes to 8, or 16) and facts observed on the engine.
pub fn resolved(engine: &dyn Engine, mut model: Model) -> Result<Model, Vec<String>> {
    let proposal = tandem_ir::batch::propose(&model.graph);
    let free = |name: &str, axis: usize| {
        let free = proposal.free.iter().find(|f| f.input == name && f.axis == axis);
        let symbol = free.and_then(|f| f.symbol.clone()).unwrap_or_default();
        // A mask spans what came before and what comes now.
        BoundDim::Fixed(if symbol.contains("total") || symbol.contains('+') { 16 } else { 8 })
    };
    let bound = |(name, dims): (&String, &Vec<Option<BoundDim>>)| {
        let dims = dims.iter().enumerate().map(|(axis, d)| d.unwrap_or_else(|| free(name, axis)));
        (name.clone(), dims.collect::<Vec<_>>())
    };
    let binding = proposal.inputs.iter().map(bound).collect();
    let found = facts::resolve(&[engine], &model, &binding, None, None).expect("the binding fits");
    model.graph = found.graph;
    if found.engine.is_some() { Ok(model) } else { Err(found.notes) }
}

/// A model of a few nodes of opset 17 with f32 inputs of shape `[batch, 4]`, and outputs of that type.
pub fn small(nodes: Vec<NodeProto>, outputs: &[(&str, i32)], constants: Vec<TensorProto>) -> Model {
    let dims = ["batch".into(), 4.into()];
    let info = |(name, elem): &(&str, i32)| ValueInfoProto {
        name: (*name).to_owned(),
        r#type: Some(tandem_onnx_proto::TypeProto::tensor(*elem, None)),
        ..ValueInfoProto::default()
    };
    let graph = GraphProto {
        name: "small".into(),
        node: nodes,
        input: vec![ValueInfoProto::tensor("x", 1, &dims)],
        output: outputs.iter().map(info).collect(),
        initializer: constants,
        ..GraphProto::default()
    };
    let opset_import = vec![OperatorSetIdProto::new("", 17)];
    let proto = ModelProto { ir_version: 8, graph: Some(graph), opset_import, ..ModelProto::default() };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.onnx");
    std::fs::write(&path, proto.encode()).unwrap();
    import(&path).unwrap()
}

/// A machine with two cores.
pub fn machine() -> Machine {
    let device = Device {
        name: "cpu".into(),
        kind: DeviceKind::Cpu,
        model: "test".into(),
        cores: 2,
        lanes_max: 2,
        memory: Bytes(1 << 32),
        rates: None,
        launch: Nanos::ZERO,
        operator_overhead: Nanos::ZERO,
        engines: vec![EngineFacts { name: "tract".into(), version: String::new() }],
        unsupported: vec![],
        emulated: false,
        facts: vec![],
    };
    Machine {
        name: "here".into(),
        description: String::new(),
        sources: vec![],
        devices: vec![device],
        links: vec![],
        microdollars_per_hour: None,
    }
}

/// Counts what is loaded.
pub struct Counting<'a> {
    pub engine: &'a dyn Engine,
    pub loads: AtomicUsize,
}

impl Engine for Counting<'_> {
    fn name(&self) -> &str {
        self.engine.name()
    }
    fn version(&self) -> &str {
        self.engine.version()
    }
    fn load(&self, image: &SegmentImage, options: &SessionOptions) -> Result<Arc<dyn Session>, EngineError> {
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.engine.load(image, options)
    }
}

/// An engine without timing of its own.
pub struct Silent<'a>(pub &'a dyn Engine);

impl Engine for Silent<'_> {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn version(&self) -> &str {
        self.0.version()
    }
    fn load(&self, image: &SegmentImage, options: &SessionOptions) -> Result<Arc<dyn Session>, EngineError> {
        self.0.load(image, &SessionOptions { profile: false, ..options.clone() })
    }
}

/// An engine that can do nothing.
pub struct Broken;

impl Engine for Broken {
    fn name(&self) -> &str {
        "broken"
    }
    fn version(&self) -> &str {
        "0"
    }
    fn load(&self, _: &SegmentImage, _: &SessionOptions) -> Result<Arc<dyn Session>, EngineError> {
        Err(EngineError::Unsupported { engine: "broken".into(), why: "nothing works here".into() })
    }
}
