//! From a route to sessions: which engine computes on which device, and the segments cut out and loaded.

use std::sync::Arc;

use tandem_ir::plan::{Route, Segment};
use tandem_ir::{DeviceKind, Machine, NodeId, TensorId};
use tandem_onnx::cut;
use tandem_onnx::import::Model;

use super::space::{EmulatedSpace, HostSpace, Space};
use super::work::Piece;
use super::{RunError, RunnerOptions, inner};
use crate::engine::{Engine, SessionOptions};

/// What computes on a device.
pub(super) struct Host {
    /// `None` for a device that the route runs nothing on.
    engine: Option<Arc<dyn Engine>>,
    threads: u32,
    pub(super) description: String,
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
            hosts.push(Host { engine: None, threads, description: String::new() });
            continue;
        }
        let absent = |why: String| RunError::Absent { device: device.name.clone(), why };
        let planned = device.engines.iter().find_map(|p| engines.iter().find(|e| e.name() == p.name));
        let real = i == 0 && device.kind == DeviceKind::Cpu;
        let (engine, emulated) = match (real, planned) {
            (true, Some(engine)) => (engine, false),
            (true, None) if options.emulate || device.engines.is_empty() => {
                (engines.first().ok_or_else(|| absent("no engine is here".into()))?, false)
            }
            (false, _) if options.emulate || device.emulated => {
                (engines.first().ok_or_else(|| absent("no engine is here to emulate it".into()))?, true)
            }
            _ => {
                let names: Vec<_> = device.engines.iter().map(|e| e.name.as_str()).collect();
                return Err(absent(format!("none of its engines ({}) is here", names.join(", "))));
            }
        };
        let plural = if threads == 1 { "" } else { "s" };
        let plain = format!("{} {}, {threads} thread{plural}", engine.name(), engine.version());
        let description = if emulated { format!("numeric emulator over {plain}") } else { plain };
        hosts.push(Host { engine: Some(engine.clone()), threads, description });
    }
    Ok(hosts)
}

/// The memory of every device of the machine: the host's, and emulated ones.
pub(super) fn spaces(names: &[String], machine: &Machine) -> Vec<Box<dyn Space>> {
    let space = |(i, device): (usize, &tandem_ir::Device)| -> Box<dyn Space> {
        match i {
            0 => Box::new(HostSpace::new(device.name.clone(), names.to_vec())),
            _ => Box::new(EmulatedSpace::new(device.name.clone(), names.to_vec())),
        }
    };
    machine.devices.iter().enumerate().map(space).collect()
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
