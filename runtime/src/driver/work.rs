//! A route that is loaded: sessions for its segments, and memory for the batches in flight.

mod streamed;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tandem_ir::plan::{Action, Route};
use tandem_ir::{Machine, TensorId};
use tandem_onnx::import::Model;
use tandem_onnx::value::{TensorValue, Value};

use super::space::Space;
use super::{RunError, RunnerOptions, load};
use crate::engine::{Engine, EngineError, Session};

/// Where a graph output comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A value of the route, on the host.
    Made(usize),
    /// A graph input, by position.
    Input(usize),
    /// The same in every run.
    Constant(Box<Value>),
}

/// A segment, ready to run.
pub(super) struct Piece {
    /// `None` where its engine fused everything in it into neighbours on the device.
    pub(super) session: Option<Arc<dyn Session>>,
    /// `segment 2 on gpu0 (Conv "x" .. Relu "y", 14 nodes)`.
    pub(super) label: String,
    /// Values of the route that its engine knew when it was loaded.
    pub(super) constants: Vec<(usize, Value)>,
    /// Positions of the values it reads, in the order of the session's inputs: the route's values, then those between
    /// pieces that the route does not know.
    pub(super) inputs: Vec<usize>,
    /// Positions of the values it makes.
    pub(super) outputs: Vec<usize>,
    /// Values unknown to the route that nobody reads after it.
    pub(super) frees: Vec<usize>,
}

/// A graph input.
struct Port {
    name: String,
    /// Position in the route's values.
    value: Option<usize>,
}

/// A loaded route.
pub(super) struct Work {
    pub(super) route: Arc<Route>,
    pieces: Vec<Piece>,
    /// A set of memories, one a device, for each batch in flight.
    rings: Vec<Vec<Box<dyn Space>>>,
    /// Position in the graph's inputs of each of the route's inputs.
    inputs: Vec<usize>,
    /// The graph's inputs.
    ports: Vec<Port>,
    outputs: Vec<Source>,
    /// What computes on each device of the machine, by position; empty where nothing does.
    pub(super) devices: Arc<[String]>,
    /// What people should know of how it was loaded.
    pub(super) notes: Vec<String>,
    /// Bytes that copy steps moved so far.
    copied: AtomicU64,
}

impl Work {
    /// Cuts and loads a route's segments, with so many sets of memories.
    pub(super) fn load(
        route: Arc<Route>,
        model: &Model,
        machine: &Machine,
        engines: &[Arc<dyn Engine>],
        options: &RunnerOptions,
        rings: usize,
    ) -> Result<Self, RunError> {
        let hosts = load::hosts(&route, machine, engines, options)?;
        let load::Loaded { pieces, names, notes } = load::pieces(&route, model, machine, &hosts, options)?;
        let rings = load::spaces(&route, &names, machine, &hosts, rings)?;
        let (ports, inputs) = ports(&route, model)?;
        let outputs = sources(&route, model)?;
        let devices = hosts.iter().map(|h| h.description.clone()).collect();
        let copied = AtomicU64::new(0);
        Ok(Self { route, pieces, rings, inputs, ports, outputs, devices, notes, copied })
    }

    /// Checks inputs, in the order of the graph's, against what the route states.
    pub(super) fn check_inputs(&self, inputs: &[Value]) -> Result<(), RunError> {
        if inputs.len() != self.ports.len() {
            return Err(RunError::InputCount { expected: self.ports.len(), found: inputs.len() });
        }
        for (port, value) in self.ports.iter().zip(inputs) {
            let (Some(place), Value::Tensor(tensor)) = (port.value, value) else { continue };
            let planned = &self.route.tensors[place];
            let fits = planned.dtype.is_none_or(|d| d == tensor.dtype)
                && planned.dims.as_ref().is_none_or(|d| *d == tensor.dims);
            if !fits {
                let expected = shown(planned.dtype.map(|d| d.name()), planned.dims.as_deref());
                let found = shown(Some(tensor.dtype.name()), Some(&tensor.dims));
                return Err(RunError::Input { name: port.name.clone(), expected, found });
            }
        }
        Ok(())
    }

    /// Puts the graph's inputs, of a whole batch, where the route reads them.
    pub(super) fn put_inputs(&self, ring: usize, inputs: &[Value]) -> Result<(), RunError> {
        let put = |(place, value): (&usize, &usize)| self.rings[ring][0].put(*value, inputs[*place].clone());
        let put = self.inputs.iter().zip(&self.route.inputs).try_for_each(put);
        put.map_err(|source| RunError::Engine { place: "inputs".into(), source })
    }

    /// Whether the route reads this input of the graph.
    pub(super) fn reads(&self, place: usize) -> bool {
        self.ports[place].value.is_some()
    }

    /// Puts one of the graph's inputs, of a whole batch, where the route reads it.
    pub(super) fn put_input(&self, ring: usize, place: usize, value: Value) -> Result<(), RunError> {
        let Some(to) = self.ports[place].value else { return Ok(()) };
        let put = self.rings[ring][0].put(to, value);
        put.map_err(|source| RunError::Engine { place: format!("input \"{}\"", self.ports[place].name), source })
    }

    /// An input that cannot be fed, by the name of the graph's input.
    pub(super) fn input_error(&self, place: usize, why: &str) -> RunError {
        let name = self.ports[place].name.clone();
        RunError::Input { name, expected: "rows of one shape and type".into(), found: why.to_owned() }
    }

    /// Where one of the graph's outputs comes from.
    pub(super) fn source(&self, output: usize) -> &Source {
        &self.outputs[output]
    }

    /// The graph's outputs of a batch that is over.
    pub(super) fn outputs(&self, ring: usize, inputs: &[Value]) -> Result<Vec<Value>, RunError> {
        let output = |source: &Source| match source {
            Source::Made(value) => self.rings[ring][0].get(*value).map_err(|source| {
                let place = format!("output \"{}\"", self.route.tensors[*value].name);
                RunError::Engine { place, source }
            }),
            Source::Input(place) => Ok(inputs[*place].clone()),
            Source::Constant(value) => Ok((**value).clone()),
        };
        self.outputs.iter().map(output).collect()
    }

    /// Bytes that copy steps moved so far, from one memory to another.
    pub(super) fn bytes_copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// Forgets all values of a set.
    pub(super) fn clear(&self, ring: usize) {
        self.rings[ring].iter().for_each(|space| space.clear());
    }

    /// Executes a step of the batch in a set of buffers: the only place where a route meets engines and memories.
    pub(super) fn execute(&self, ring: usize, step: usize) -> Result<(), (String, EngineError)> {
        let (step, spaces) = (&self.route.steps[step], &self.rings[ring]);
        match step.action {
            Action::Run(s) => {
                let (segment, piece) = (&self.route.segments[s], &self.pieces[s]);
                let space = &spaces[segment.device];
                if let Some(session) = &piece.session {
                    let ran = space.run(session.as_ref(), &piece.inputs, &piece.outputs);
                    ran.map_err(|e| (piece.label.clone(), e))?;
                }
                for (value, constant) in &piece.constants {
                    space.put(*value, constant.clone()).map_err(|e| (piece.label.clone(), e))?;
                }
                piece.frees.iter().for_each(|value| space.free(*value));
            }
            Action::Copy { tensor, from, to } => {
                let copied = spaces[from].get(tensor).and_then(|value| {
                    self.copied.fetch_add(bytes_of(&value), Ordering::Relaxed);
                    spaces[to].put(tensor, value)
                });
                copied.map_err(|e| (self.copy_label(tensor, from, to), e))?;
            }
            Action::Barrier => {}
        }
        step.frees.iter().for_each(|(tensor, device)| spaces[*device].free(*tensor));
        Ok(())
    }

    fn copy_label(&self, tensor: usize, from: usize, to: usize) -> String {
        let name = &self.route.tensors[tensor].name;
        format!("copy of \"{name}\" from {} to {}", self.rings[0][from].device(), self.rings[0][to].device())
    }

    /// Name of the device that executes a step: of a copy, where the value goes.
    pub(super) fn device_of(&self, step: usize) -> &str {
        let device = match self.route.steps[step].action {
            Action::Run(s) => self.route.segments[s].device,
            Action::Copy { to, .. } => to,
            Action::Barrier => 0,
        };
        self.rings[0][device].device()
    }

    /// What a step is, for a panic's message.
    pub(super) fn label(&self, step: usize) -> String {
        match self.route.steps[step].action {
            Action::Run(s) => self.pieces[s].label.clone(),
            Action::Copy { tensor, from, to } => self.copy_label(tensor, from, to),
            Action::Barrier => format!("step {step}"),
        }
    }
}

/// Bytes of the numbers in a value.
fn bytes_of(value: &Value) -> u64 {
    match value {
        Value::Tensor(tensor) => tensor.bytes().len() as u64,
        Value::Sequence(items) => items.iter().map(bytes_of).sum(),
        Value::Optional(held) => held.as_deref().map_or(0, bytes_of),
        Value::Map(pairs) => pairs.iter().map(|(k, v)| bytes_of(k) + bytes_of(v)).sum(),
    }
}

fn shown(dtype: Option<&str>, dims: Option<&[u64]>) -> String {
    let dims = dims.map(|d| d.iter().map(u64::to_string).collect::<Vec<_>>().join("x"));
    format!("{}[{}]", dtype.unwrap_or("?"), dims.unwrap_or_else(|| "..".into()))
}

/// The graph's inputs, and the position among them of each of the route's.
fn ports(route: &Route, model: &Model) -> Result<(Vec<Port>, Vec<usize>), RunError> {
    let graph = &model.graph;
    let name = |t: &TensorId| graph.tensor(*t).name.clone();
    let mut ports: Vec<Port> = graph.inputs.iter().map(|t| Port { name: name(t), value: None }).collect();
    let mut places = Vec::with_capacity(route.inputs.len());
    for value in &route.inputs {
        let name = &route.tensors[*value].name;
        let place = ports.iter().position(|p| p.name == *name);
        let place = place.ok_or_else(|| RunError::NoSuchName { place: "a route input".into(), name: name.clone() })?;
        ports[place].value = Some(*value);
        places.push(place);
    }
    Ok((ports, places))
}

/// Where each of the graph's outputs comes from.
fn sources(route: &Route, model: &Model) -> Result<Vec<Source>, RunError> {
    let graph = &model.graph;
    let source = |id: &TensorId| {
        let name = &graph.tensor(*id).name;
        if let Some(value) = route.outputs.iter().find(|v| route.tensors[**v].name == *name) {
            return Ok(Source::Made(*value));
        }
        if let Some(place) = graph.inputs.iter().position(|t| t == id) {
            return Ok(Source::Input(place));
        }
        let constant: Option<TensorValue> = model.constant_value(*id);
        let constant = constant.ok_or_else(|| RunError::NoOutput { name: name.clone() })?;
        Ok(Source::Constant(Box::new(Value::Tensor(constant))))
    };
    graph.outputs.iter().map(source).collect()
}
