//! From a route to sessions: which engine computes on which device, and the segments cut out and loaded.

use std::sync::Arc;

use tandem_ir::plan::{Route, Segment};
use tandem_ir::{DeviceKind, Machine, NodeId, TensorId};
use tandem_onnx::cut;
use tandem_onnx::import::Model;

use super::space::{EmulatedSpace, HostSpace, Space};
use super::{Piece, RunError, RunnerOptions};
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
pub(super) fn spaces(route: &Route, machine: &Machine) -> Vec<Box<dyn Space>> {
    let names = || route.tensors.iter().map(|t| t.name.clone()).collect();
    let space = |(i, device): (usize, &tandem_ir::Device)| -> Box<dyn Space> {
        match i {
            0 => Box::new(HostSpace::new(device.name.clone(), names())),
            _ => Box::new(EmulatedSpace::new(device.name.clone(), names())),
        }
    };
    machine.devices.iter().enumerate().map(space).collect()
}

/// Cuts and loads every segment. Weights are shared by all of them.
pub(super) fn pieces(
    route: &Route,
    model: &Model,
    machine: &Machine,
    hosts: &[Host],
    options: &RunnerOptions,
) -> Result<Vec<Piece>, RunError> {
    let (nodes, tensors) = (model.graph.node_index(), model.graph.tensor_index());
    let mut pieces = Vec::with_capacity(route.segments.len());
    for (i, segment) in route.segments.iter().enumerate() {
        let device = &machine.devices[segment.device];
        let label = label(i, segment, &device.name, model, &nodes);
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
        let inputs: Vec<TensorId> = segment.inputs.iter().map(tensor).collect::<Result<_, _>>()?;
        let outputs: Vec<TensorId> = segment.outputs.iter().map(tensor).collect::<Result<_, _>>()?;
        let image = cut::cut(model, &inside, &inputs, &outputs);
        let image = image.map_err(|source| RunError::Cut { place: label.clone(), source })?;
        let host = &hosts[segment.device];
        let absent = || RunError::Absent { device: device.name.clone(), why: "no engine was chosen for it".into() };
        let engine = host.engine.as_ref().ok_or_else(absent)?;
        let session = SessionOptions { threads: host.threads, optimize: options.optimize, profile: false };
        let session = engine.load(&image, &session);
        let session = session.map_err(|source| RunError::Engine { place: label.clone(), source })?;
        pieces.push(Piece { session, label });
    }
    Ok(pieces)
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
