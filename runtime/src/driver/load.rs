//! From a route to sessions: which engine computes on which device, and the segments cut out and loaded.

use std::sync::Arc;

use tandem_ir::plan::{Route, Segment};
use tandem_ir::{Device, DeviceKind, Machine, NodeId, TensorId};
use tandem_onnx::cut;
use tandem_onnx::import::Model;

use super::space::{EmulatedSpace, HostSpace, ResidentSpace, Space};
use super::work::Piece;
use super::{RunError, RunnerOptions, inner};
use crate::device::accelerator::{Accelerator, Stream};
use crate::device::cuda::values::{Slots, Values};
use crate::device::ort::cuda::{self, CudaEngine, CudaOptions};
#[cfg(feature = "tract-cuda")]
use crate::device::tract;
use crate::engine::{Engine, EngineError, SessionOptions};

/// What computes on a device.
pub(super) struct Host {
    /// `None` for a device that the route runs nothing on.
    engine: Option<Arc<dyn Engine>>,
    threads: u32,
    pub(super) description: String,
    /// The accelerator that it computes on, and the stream there.
    on: Option<(Arc<dyn Accelerator>, Stream)>,
}

/// Chooses an engine for every device that the route uses.
pub(super) fn hosts(
    route: &Route,
    machine: &Machine,
    engines: &[Arc<dyn Engine>],
    options: &RunnerOptions,
) -> Result<Vec<Host>, RunError> {
    if machine.devices.len() != route.memory.len() {
        return Err(RunError::Devices { expected: route.memory.len(), found: machine.devices.len() });
    }
    let found =
        options.threads_max.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u32));
    if route.threads > found && !options.emulate {
        return Err(RunError::Threads { expected: route.threads, found });
    }
    let threads = route.threads.clamp(1, found.max(1));
    let mut hosts = vec![];
    for (i, device) in machine.devices.iter().enumerate() {
        if !route.segments.iter().any(|s| s.device == i) {
            hosts.push(Host { engine: None, threads, description: String::new(), on: None });
            continue;
        }
        let absent = |why: String| RunError::Absent { device: device.name.clone(), why };
        let first = |why: &str| engines.iter().find(|e| e.runs_on().is_none()).ok_or_else(|| absent(why.into()));
        let (engine, emulated) = if i == 0 && device.kind == DeviceKind::Cpu {
            match device.engines.iter().find_map(|p| engines.iter().find(|e| e.name() == p.name)) {
                Some(engine) => (engine.clone(), false),
                None if options.emulate || device.engines.is_empty() => (first("no engine is here")?.clone(), false),
                None => return Err(absent(none_of(device))),
            }
        } else if device.emulated {
            (first("no engine is here to emulate it")?.clone(), true)
        } else {
            match accelerated(machine, i, engines) {
                Ok(engine) => (engine, false),
                Err(_) if options.emulate => (first("no engine is here to emulate it")?.clone(), true),
                Err(why) => return Err(absent(why)),
            }
        };
        let on = engine.runs_on();
        let plural = if threads == 1 { "" } else { "s" };
        let plain = match &on {
            Some(_) => format!("{} {}", engine.name(), engine.version()),
            None => format!("{} {}, {threads} thread{plural}", engine.name(), engine.version()),
        };
        let description = if emulated { format!("numeric emulator over {plain}") } else { plain };
        hosts.push(Host { engine: Some(engine), threads, description, on });
    }
    Ok(hosts)
}

fn none_of(device: &Device) -> String {
    let names: Vec<_> = device.engines.iter().map(|e| e.name.as_str()).collect();
    format!("none of its engines ({}) is here", names.join(", "))
}

/// The engine of the machine's accelerator at this position: one that was given, or ONNX Runtime's CUDA provider. Else why
/// there is none.
fn accelerated(machine: &Machine, at: usize, engines: &[Arc<dyn Engine>]) -> Result<Arc<dyn Engine>, String> {
    let device = &machine.devices[at];
    let ordinal = machine.devices[..at].iter().filter(|d| d.kind == DeviceKind::Gpu).count();
    let here = |e: &&Arc<dyn Engine>| e.runs_on().is_some_and(|(accelerator, _)| accelerator.ordinal() == ordinal);
    let given = |planned: &str| engines.iter().filter(here).find(|e| e.name() == planned);
    if let Some(engine) = device.engines.iter().find_map(|planned| given(&planned.name)) {
        return Ok(engine.clone());
    }
    let mut missing = vec![];
    for planned in &device.engines {
        match open(&planned.name, ordinal) {
            Some(Ok(engine)) => return Ok(engine),
            Some(Err(EngineError::Missing { why, .. })) => missing.push(why),
            Some(Err(error)) => missing.push(error.to_string()),
            None => {}
        }
    }
    missing.dedup();
    Err([none_of(device)].into_iter().chain(missing).collect::<Vec<_>>().join(": "))
}

/// Opens an engine of accelerators, if there is one of this name.
fn open(name: &str, ordinal: usize) -> Option<Result<Arc<dyn Engine>, EngineError>> {
    match name {
        cuda::NAME => Some(CudaEngine::open(ordinal, &CudaOptions::default()).map(|e| Arc::new(e) as Arc<dyn Engine>)),
        // Of the first GPU alone.
        #[cfg(feature = "tract-cuda")]
        tract::cuda::NAME if ordinal == 0 => {
            Some(tract::cuda::TractCudaEngine::open().map(|e| Arc::new(e) as Arc<dyn Engine>))
        }
        _ => None,
    }
}

/// So many sets of the memories of all devices: the host's, accelerators', and emulated ones.
pub(super) fn spaces(
    route: &Route,
    names: &[String],
    machine: &Machine,
    hosts: &[Host],
    sets: usize,
) -> Result<Vec<Vec<Box<dyn Space>>>, RunError> {
    let names: Arc<[String]> = names.into();
    let place = |device: usize| format!("memory of {}", machine.devices[device].name);
    let slots = |device: usize| match &hosts[device].on {
        None => Ok(None),
        Some(_) => Slots::of(route, device).map(Some).map_err(|error| {
            let source = EngineError::Failed { engine: "driver".into(), why: error.to_string() };
            RunError::Engine { place: place(device), source }
        }),
    };
    let slots: Vec<Option<Slots>> = (0..machine.devices.len()).map(slots).collect::<Result<_, _>>()?;
    let space = |device: usize| -> Result<Box<dyn Space>, RunError> {
        let name = &machine.devices[device].name;
        Ok(match (&hosts[device].on, &slots[device]) {
            (Some((accelerator, stream)), Some(slots)) => {
                let values = Values::new(name, names.clone(), slots, accelerator.clone(), *stream);
                Box::new(ResidentSpace(values.map_err(|source| RunError::Engine { place: place(device), source })?))
            }
            _ if device == 0 => Box::new(HostSpace::new(name.clone(), names.to_vec())),
            _ => Box::new(EmulatedSpace::new(name.clone(), names.to_vec())),
        })
    };
    (0..sets).map(|_| (0..machine.devices.len()).map(space).collect()).collect()
}

/// A route's segments, loaded.
pub(super) struct Loaded {
    /// One a segment.
    pub(super) pieces: Vec<Piece>,
    /// Names of all values: the route's, then those between pieces that it does not know.
    pub(super) names: Vec<String>,
    /// What people should know.
    pub(super) notes: Vec<String>,
}

/// A segment in terms of the model: what cutting it needs.
pub(super) struct Cut {
    /// Ascending.
    pub(super) nodes: Vec<NodeId>,
    pub(super) inputs: Vec<TensorId>,
    pub(super) outputs: Vec<TensorId>,
    label: String,
}

/// Cuts and loads every segment. Weights are shared by all of them.
pub(super) fn pieces(
    route: &Route,
    model: &Model,
    machine: &Machine,
    hosts: &[Host],
    options: &RunnerOptions,
) -> Result<Loaded, RunError> {
    let cuts = cuts(route, model, machine)?;
    let mut names: Vec<String> = route.tensors.iter().map(|t| t.name.clone()).collect();
    let mut notes = vec![];
    let mut pieces: Vec<Option<Piece>> = cuts.iter().map(|_| None).collect();
    let session = |device: usize| {
        let threads = hosts[device].threads;
        SessionOptions { threads, optimize: options.optimize, profile: false }
    };
    let engine = |device: usize| {
        let name = machine.devices[device].name.clone();
        let absent = || RunError::Absent { device: name, why: "no engine was chosen for it".into() };
        hosts[device].engine.as_ref().ok_or_else(absent)
    };
    for run in inner::runs(route).into_iter().filter(|_| options.inner_cuts && options.optimize) {
        let device = route.segments[run[0]].device;
        let whole = inner::Run { route, model, cuts: &cuts, segments: &run };
        match whole.load(engine(device)?.as_ref(), &session(device), &mut names) {
            Ok(Some(parts)) => {
                for (segment, part) in run.iter().zip(parts) {
                    let inner::Part { session, constants, inputs, outputs, frees } = part;
                    let label = cuts[*segment].label.clone();
                    pieces[*segment] = Some(Piece { session, label, constants, inputs, outputs, frees });
                }
            }
            Ok(None) => {}
            Err(why) => {
                let device = &machine.devices[device].name;
                notes.push(format!("{} segments on {device} are optimised each alone: {why}", run.len()));
            }
        }
    }
    for (i, (cut, piece)) in cuts.iter().zip(&mut pieces).enumerate().filter(|(_, (_, piece))| piece.is_none()) {
        let segment = &route.segments[i];
        let image = cut::cut(model, &cut.nodes, &cut.inputs, &cut.outputs);
        let image = image.map_err(|source| RunError::Cut { place: cut.label.clone(), source })?;
        let loaded = engine(segment.device)?.load(&image, &session(segment.device));
        let loaded = loaded.map_err(|source| RunError::Engine { place: cut.label.clone(), source })?;
        let (inputs, outputs) = (segment.inputs.clone(), segment.outputs.clone());
        let label = cut.label.clone();
        *piece = Some(Piece { session: Some(loaded), label, constants: vec![], inputs, outputs, frees: vec![] });
    }
    Ok(Loaded { pieces: pieces.into_iter().flatten().collect(), names, notes })
}

/// Finds the nodes and values that the route names.
fn cuts(route: &Route, model: &Model, machine: &Machine) -> Result<Vec<Cut>, RunError> {
    let (nodes, tensors) = (model.graph.node_index(), model.graph.tensor_index());
    let mut cuts = Vec::with_capacity(route.segments.len());
    for (i, segment) in route.segments.iter().enumerate() {
        let label = label(i, segment, &machine.devices[segment.device].name, model, &nodes);
        let node = |name: &String| {
            let known = nodes.get(name).copied();
            known.ok_or_else(|| RunError::NoSuchName { place: label.clone(), name: name.clone() })
        };
        let tensor = |value: &usize| {
            let name = &route.tensors[*value].name;
            let known = tensors.get(name.as_str()).copied();
            known.ok_or_else(|| RunError::NoSuchName { place: label.clone(), name: name.clone() })
        };
        let mut inside: Vec<NodeId> = segment.nodes.iter().map(node).collect::<Result<_, _>>()?;
        inside.sort_unstable();
        let inputs = segment.inputs.iter().map(tensor).collect::<Result<_, _>>()?;
        let outputs = segment.outputs.iter().map(tensor).collect::<Result<_, _>>()?;
        cuts.push(Cut { nodes: inside, inputs, outputs, label });
    }
    Ok(cuts)
}

/// `segment 2 on gpu0 (Conv "x" .. Relu "y", 14 nodes)`.
fn label(
    index: usize,
    segment: &Segment,
    device: &str,
    model: &Model,
    nodes: &std::collections::HashMap<String, NodeId>,
) -> String {
    let node = |name: &String| match nodes.get(name) {
        Some(id) => format!("{} \"{name}\"", model.graph.node(*id).op),
        None => format!("\"{name}\""),
    };
    let inside = match segment.nodes.as_slice() {
        [] => "no nodes".into(),
        [one] => node(one),
        [first, .., last] => format!("{} .. {}, {} nodes", node(first), node(last), segment.nodes.len()),
    };
    format!("segment {index} on {device} ({inside})")
}
