//! Routes by hand: what the planner would write for a labelling of nodes with devices.

use std::collections::{BTreeMap, HashMap};

use tandem_ir::machine;
use tandem_ir::plan::{Action, MemoryUse, Prediction, Route, RouteTensor, Segment, Step};
use tandem_ir::{
    Bytes, Device, DeviceKind, Dim, Fact, Graph, Kind, Link, Machine, Nanos, NodeId, Origin, TensorId, segment,
};
use tandem_onnx::cut;
use tandem_onnx::import::{Model, import_bytes};
use tandem_onnx::value::{TensorValue, Value};
use tandem_onnx_proto::Message;
use tandem_runtime::engine::{Engine, EngineError};
use tandem_runtime::observe::observe;
use tandem_runtime::sample::random_inputs;

/// A zoo model with facts from an observed run at batch 2, and its inputs.
pub fn zoo(name: &str, engine: &dyn Engine) -> Result<(Model, Vec<Value>), EngineError> {
    let entry = tandem_models::find(name).unwrap_or_else(|| panic!("no zoo model {name}"));
    let bytes = entry.build(tandem_models::DEFAULT_SEED).encode();
    let mut model = import_bytes(name, bytes, None).expect(name);
    let size = |dim: &Dim| match dim {
        Dim::Known(n) => *n,
        Dim::Symbol(s) => entry.default_dims.iter().find(|(d, _)| d == s).map_or(2, |(_, n)| *n),
        other => panic!("dimension {other}"),
    };
    let mut dims = BTreeMap::new();
    for id in &model.graph.inputs {
        let tensor = model.graph.tensor(*id);
        dims.insert(tensor.name.clone(), tensor.fact.shape.iter().flatten().map(size).collect::<Vec<u64>>());
    }
    let mut inputs = random_inputs(&model.graph, &dims, 7).expect(name);
    for (id, value) in model.graph.inputs.iter().zip(&mut inputs) {
        let name = &model.graph.tensor(*id).name;
        if let (Some((_, n)), Value::Tensor(t)) = (entry.default_values.iter().find(|(v, _)| v == name), &*value) {
            let bytes = n.to_le_bytes()[..t.bytes().len()].to_vec();
            *value = Value::Tensor(TensorValue::new(t.dtype, t.dims.clone(), bytes));
        }
    }
    let seen = observe(engine, &model, &inputs)?;
    for tensor in &mut model.graph.tensors {
        if let Some((dtype, dims)) = seen.values.get(&tensor.name).filter(|_| tensor.constant.is_none()) {
            let shape = Some(dims.iter().map(|d| Dim::Known(*d)).collect());
            tensor.fact = Fact { kind: Kind::Tensor, dtype: Some(*dtype), shape, origin: Origin::Observed };
        }
    }
    Ok((model, inputs))
}

pub fn machine(gpu_emulated: bool) -> Machine {
    let device = |name: &str, kind, engines: &[&str], emulated| Device {
        name: name.into(),
        kind,
        model: "test".into(),
        cores: 2,
        lanes_max: 2,
        memory: Bytes(1 << 30),
        rates: None,
        launch: Nanos(0),
        operator_overhead: Nanos(0),
        engines: engines.iter().map(|e| machine::Engine { name: (*e).into(), version: String::new() }).collect(),
        unsupported: vec![],
        emulated,
        facts: vec![],
    };
    let link = |from: &str, to: &str| Link {
        from: from.into(),
        to: to.into(),
        latency: Nanos(10_000),
        bytes_per_s: 10_000_000_000,
        shared: false,
    };
    Machine {
        name: "test".into(),
        description: String::new(),
        sources: vec![],
        devices: vec![
            device("cpu", DeviceKind::Cpu, &["ort", "tract"], false),
            device("gpu0", DeviceKind::Gpu, &["ort-cuda"], gpu_emulated),
        ],
        links: vec![link("cpu", "gpu0"), link("gpu0", "cpu")],
        microdollars_per_hour: None,
    }
}

/// Labels that put every node on one device.
pub fn all_on(graph: &Graph, device: usize) -> Vec<usize> {
    vec![device; graph.nodes.len()]
}

/// The labels nearest to the given ones that cut no value that cannot cross.
pub fn respecting(graph: &Graph, mut labels: Vec<usize>) -> Vec<usize> {
    let pairs = segment::uncuttable(graph);
    for _ in 0..graph.nodes.len() {
        let mut changed = false;
        for (a, b) in &pairs {
            let least = labels[a.index()].min(labels[b.index()]);
            for n in [a, b] {
                changed |= std::mem::replace(&mut labels[n.index()], least) != least;
            }
        }
        if !changed {
            break;
        }
    }
    labels
}

/// The route of a labelling: label / 100 is the device, so that labels of one device can still be apart.
pub fn route(model: &Model, machine: &Machine, labels: &[usize]) -> Route {
    let graph = &model.graph;
    let mut builder = Builder { graph, machine, route: empty(machine), value: HashMap::new(), made: HashMap::new() };
    for (label, nodes) in segment::form(graph, labels) {
        builder.segment(label / 100, &nodes);
    }
    builder.finish()
}

fn empty(machine: &Machine) -> Route {
    Route {
        tenant: "test".into(),
        batch: 2,
        lanes: 1,
        threads: 1,
        share_permille: 1000,
        tensors: vec![],
        inputs: vec![],
        outputs: vec![],
        segments: vec![],
        lane_names: vec![],
        steps: vec![],
        memory: vec![MemoryUse::default(); machine.devices.len()],
        work: vec![],
        prediction: Prediction::default(),
    }
}

struct Builder<'a> {
    graph: &'a Graph,
    machine: &'a Machine,
    route: Route,
    value: HashMap<TensorId, usize>,
    /// The step that brings a value to a device; `None` for inputs on the host.
    made: HashMap<(usize, usize), Option<usize>>,
}

impl Builder<'_> {
    fn lane(&mut self, name: String) -> usize {
        let known = self.route.lane_names.iter().position(|n| *n == name);
        known.unwrap_or_else(|| {
            self.route.lane_names.push(name);
            self.route.lane_names.len() - 1
        })
    }

    fn value(&mut self, id: TensorId) -> usize {
        if let Some(value) = self.value.get(&id) {
            return *value;
        }
        let tensor = self.graph.tensor(id);
        let dims = tensor.fact.dims_at(2);
        let bytes = Bytes(tensor.fact.bytes_at(2).unwrap_or(0));
        self.route.tensors.push(RouteTensor { name: tensor.name.clone(), dtype: tensor.fact.dtype, dims, bytes });
        let value = self.route.tensors.len() - 1;
        self.value.insert(id, value);
        value
    }

    fn step(&mut self, lane: usize, action: Action, after: Vec<usize>) -> usize {
        self.route.steps.push(Step { lane, action, after, duration: Nanos(1000), frees: vec![] });
        self.route.steps.len() - 1
    }

    /// The step after which a value is on a device, copied there if need be.
    fn bring(&mut self, value: usize, device: usize) -> Option<usize> {
        if let Some(step) = self.made.get(&(value, device)) {
            return *step;
        }
        let from = (0..self.machine.devices.len()).find(|d| self.made.contains_key(&(value, *d)));
        let from = from.expect("something made it");
        let after: Vec<usize> = self.made[&(value, from)].into_iter().collect();
        let name = |d: usize| self.machine.devices[d].name.clone();
        let lane = format!("{}>{}", name(from), name(device));
        let lane = self.lane(lane);
        let step = self.step(lane, Action::Copy { tensor: value, from, to: device }, after);
        self.made.insert((value, device), Some(step));
        Some(step)
    }

    fn segment(&mut self, device: usize, nodes: &[NodeId]) {
        let (inputs, outputs) = cut::boundary(self.graph, nodes);
        let inputs: Vec<usize> = inputs.into_iter().map(|t| self.value(t)).collect();
        let outputs: Vec<usize> = outputs.into_iter().map(|t| self.value(t)).collect();
        for id in &self.graph.inputs {
            if let Some(value) = self.value.get(id).copied().filter(|v| inputs.contains(v)) {
                self.made.entry((value, 0)).or_insert(None);
                if !self.route.inputs.contains(&value) {
                    self.route.inputs.push(value);
                }
            }
        }
        let mut after: Vec<usize> = inputs.iter().filter_map(|v| self.bring(*v, device)).collect();
        after.sort_unstable();
        after.dedup();
        let lane = self.lane(self.machine.devices[device].name.clone());
        let names = nodes.iter().map(|n| self.graph.node_name(*n)).collect();
        self.route.segments.push(Segment {
            device,
            part: 0,
            nodes: names,
            inputs,
            outputs: outputs.clone(),
            weight_bytes: Bytes(0),
            workspace_bytes: Bytes(0),
        });
        let step = self.step(lane, Action::Run(self.route.segments.len() - 1), after);
        self.made.extend(outputs.iter().map(|v| ((*v, device), Some(step))));
    }

    fn finish(mut self) -> Route {
        for id in self.graph.outputs.clone() {
            if self.graph.tensor(id).producer.is_some() {
                let value = self.value(id);
                self.bring(value, 0);
                if !self.route.outputs.contains(&value) {
                    self.route.outputs.push(value);
                }
            }
        }
        self.frees();
        self.route
    }

    /// Frees every copy of a value after the last step that reads it there, graph outputs on the host excepted.
    fn frees(&mut self) {
        let mut last: HashMap<(usize, usize), usize> = HashMap::new();
        for (i, step) in self.route.steps.iter().enumerate() {
            match step.action {
                Action::Run(s) => {
                    let segment = &self.route.segments[s];
                    last.extend(segment.inputs.iter().map(|v| ((*v, segment.device), i)));
                }
                Action::Copy { tensor, from, .. } => last.extend([((tensor, from), i)]),
                Action::Barrier => {}
            }
        }
        for ((value, device), step) in last {
            // A value that several lanes read would need a step that comes after all of them: kept to the end.
            let readers = self.route.steps.iter().filter(|s| match s.action {
                Action::Run(r) => {
                    self.route.segments[r].device == device && self.route.segments[r].inputs.contains(&value)
                }
                Action::Copy { tensor, from, .. } => tensor == value && from == device,
                Action::Barrier => false,
            });
            if readers.count() == 1 && !(device == 0 && self.route.outputs.contains(&value)) {
                self.route.steps[step].frees.push((value, device));
            }
        }
    }
}
