//! Executes a route for one batch on real devices.
//!
//! [`RouteRunner::prepare`] cuts and loads every segment once; [`RouteRunner::run`] executes the steps. Which step may
//! run when is [`tandem_core::Execution`]'s to say; here are the clock, the threads and the data.
//!
//! Lanes are in-order queues that are executed one step at a time each, and no lane is tied to a thread: whoever ends a
//! step takes over what became ready, so that a chain of segments and copies costs no hand-over between threads, and
//! further threads are woken only for steps that can run beside it. There are at most as many threads as lanes, the
//! caller's among them; a route of one lane runs on the caller's thread alone.
//!
//! Data: values are handed around, never copied, except by copies between memories (see `driver/space.rs`).

mod crew;
mod inner;
mod load;
mod space;

use std::sync::Arc;
use std::time::Instant;

use tandem_core::{Execution, RouteError};
use tandem_ir::plan::{Action, Route};
use tandem_ir::{Machine, TensorId};
use tandem_onnx::cut::CutError;
use tandem_onnx::import::Model;
use tandem_onnx::value::{TensorValue, Value};

use crate::engine::{Engine, EngineError, Session};
use crew::Crew;
use space::Space;

/// How a route is prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerOptions {
    /// Puts absent devices on the numeric emulator, takes another engine where the planned one is missing, and caps
    /// threads.
    pub emulate: bool,
    /// Most threads of one segment's run; the machine's own where `None`.
    pub threads_max: Option<u32>,
    /// Whether engines may optimise the segments. Off only for comparisons.
    pub optimize: bool,
    /// Whether boundaries between segments of one device are cut in the graph as its engine runs it, where it can say
    /// that graph. Off only for comparisons.
    pub inner_cuts: bool,
}

impl Default for RunnerOptions {
    fn default() -> Self {
        Self { emulate: false, threads_max: None, optimize: true, inner_cuts: true }
    }
}

/// What a run gives back.
#[derive(Clone, Debug)]
pub struct RunOutput {
    /// The graph's outputs, in its order.
    pub outputs: Vec<Value>,
    /// Start and end of each step, in nanoseconds since the run began.
    pub steps: Vec<(u64, u64)>,
    /// From the call of `run` until the outputs were there, in nanoseconds.
    pub total_ns: u64,
    /// What computed on each device of the machine, by position: `ort 1.31.1, 2 threads`, `numeric emulator over ort
    /// ..`; empty for a device the route does not use.
    pub devices: Arc<[String]>,
}

/// Why a route cannot be prepared or run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RunError {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("the route is for {expected} devices, the machine has {found}")]
    Devices { expected: usize, found: usize },
    #[error("device {device} is not here: {why}; --emulate runs the plan on the numeric emulator")]
    Absent { device: String, why: String },
    #[error("the route needs {expected} threads, this machine has {found}; --emulate caps them")]
    Threads { expected: u32, found: u32 },
    #[error("{place} names \"{name}\", which the model does not have")]
    NoSuchName { place: String, name: String },
    #[error("{place} cannot be cut out of the model: {source}")]
    Cut { place: String, source: CutError },
    #[error("{place}: {source}")]
    Engine { place: String, source: EngineError },
    #[error("expected {expected} inputs, found {found}")]
    InputCount { expected: usize, found: usize },
    #[error("input \"{name}\": expected {expected}, found {found}")]
    Input { name: String, expected: String, found: String },
    #[error("output \"{name}\": nothing makes it, and it is no input or constant")]
    NoOutput { name: String },
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
}

/// Where a graph output comes from.
#[derive(Clone, Debug)]
enum Source {
    /// A value of the route, on the host.
    Made(usize),
    /// A graph input, by position.
    Input(usize),
    /// The same in every run.
    Constant(Box<Value>),
}

/// A segment, ready to run.
struct Piece {
    /// `None` where its engine fused everything in it into neighbours on the device.
    session: Option<Arc<dyn Session>>,
    /// `segment 2 on gpu0 (Conv "x" .. Relu "y", 14 nodes)`.
    label: String,
    /// Values of the route that its engine knew when it was loaded.
    constants: Vec<(usize, Value)>,
    /// Positions of the values it reads, in the order of the session's inputs: the route's values, then those between
    /// pieces that the route does not know.
    inputs: Vec<usize>,
    /// Positions of the values it makes.
    outputs: Vec<usize>,
    /// Values unknown to the route that nobody reads after it.
    frees: Vec<usize>,
}

/// A route with everything it needs, one batch at a time.
pub struct RouteRunner {
    work: Arc<Work>,
    crew: Crew,
    execution: Option<Execution>,
    /// Position in the graph's inputs of each of the route's inputs.
    inputs: Vec<usize>,
    /// Names, and what is expected where the route states it.
    ports: Vec<Port>,
    outputs: Vec<Source>,
    devices: Arc<[String]>,
    notes: Vec<String>,
}

/// A graph input.
struct Port {
    name: String,
    /// Position in the route's values.
    value: Option<usize>,
}

/// What every thread of the crew sees.
struct Work {
    route: Arc<Route>,
    pieces: Vec<Piece>,
    spaces: Vec<Box<dyn Space>>,
}

impl RouteRunner {
    /// Cuts and loads the route's segments. `engines` are those of this machine's processor, the preferred one first.
    ///
    /// The first device is the host and computes on the first of its planned engines that is here; other devices are
    /// emulated by the host's engine where the machine says so, or where they are absent and `options.emulate` is set.
    ///
    /// # Errors A route that contradicts itself, the machine or the model; devices, engines or threads that are
    /// missing; a segment that cannot be cut or loaded.
    pub fn prepare(
        route: &Route,
        model: &Model,
        machine: &Machine,
        engines: &[Arc<dyn Engine>],
        options: &RunnerOptions,
    ) -> Result<Self, RunError> {
        let route = Arc::new(route.clone());
        let execution = Execution::new(route.clone())?;
        let hosts = load::hosts(&route, machine, engines, options)?;
        let load::Loaded { pieces, names, notes } = load::pieces(&route, model, machine, &hosts, options)?;
        let spaces = load::spaces(&names, machine);
        let (ports, inputs) = ports(&route, model)?;
        let outputs = sources(&route, model)?;
        let devices = hosts.iter().map(|h| h.description.clone()).collect();
        let lanes = route.lane_names.len();
        let work = Arc::new(Work { route, pieces, spaces });
        let crew = Crew::start(&work, lanes)?;
        Ok(Self { work, crew, execution: Some(execution), inputs, ports, outputs, devices, notes })
    }

    /// What computes on each device of the machine, by position; see [`RunOutput::devices`].
    pub fn devices(&self) -> &Arc<[String]> {
        &self.devices
    }

    /// What people should know of how the route was loaded: boundaries that cost more than they would have to, and why.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The route.
    pub fn route(&self) -> &Arc<Route> {
        &self.work.route
    }

    /// Runs one batch. Inputs are in the order of the graph's inputs.
    ///
    /// # Errors Inputs that do not fit the route; the first step that failed, with its segment and nodes. The runner
    /// stays usable.
    pub fn run(&mut self, inputs: Vec<Value>) -> Result<RunOutput, RunError> {
        let begin = Instant::now();
        self.check_inputs(&inputs)?;
        let route = &self.work.route;
        let feed = |(place, value): (&usize, &usize)| self.work.spaces[0].put(*value, inputs[*place].clone());
        let fed = self.inputs.iter().zip(&route.inputs).try_for_each(feed);
        fed.map_err(|source| RunError::Engine { place: "inputs".into(), source })?;
        let mut execution = match self.execution.take() {
            Some(execution) => execution,
            None => Execution::new(route.clone())?,
        };
        execution.reset();
        let done = self.crew.run(execution, begin);
        let result = self.collect(done, &inputs, begin);
        self.work.spaces.iter().for_each(|space| space.clear());
        result
    }

    fn collect(&mut self, done: crew::Done, inputs: &[Value], begin: Instant) -> Result<RunOutput, RunError> {
        self.execution = Some(done.execution);
        if let Some((place, source)) = done.failure {
            return Err(RunError::Engine { place, source });
        }
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for source in &self.outputs {
            outputs.push(match source {
                Source::Made(value) => self.work.spaces[0].get(*value).map_err(|source| {
                    let name = &self.work.route.tensors[*value].name;
                    RunError::Engine { place: format!("output \"{name}\""), source }
                })?,
                Source::Input(place) => inputs[*place].clone(),
                Source::Constant(value) => (**value).clone(),
            });
        }
        let total_ns = begin.elapsed().as_nanos() as u64;
        Ok(RunOutput { outputs, steps: done.times, total_ns, devices: self.devices.clone() })
    }

    fn check_inputs(&self, inputs: &[Value]) -> Result<(), RunError> {
        if inputs.len() != self.ports.len() {
            return Err(RunError::InputCount { expected: self.ports.len(), found: inputs.len() });
        }
        for (port, value) in self.ports.iter().zip(inputs) {
            let (Some(place), Value::Tensor(tensor)) = (port.value, value) else { continue };
            let planned = &self.work.route.tensors[place];
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
}

fn shown(dtype: Option<&str>, dims: Option<&[u64]>) -> String {
    let dims = dims.map(|d| d.iter().map(u64::to_string).collect::<Vec<_>>().join("x"));
    format!("{}[{}]", dtype.unwrap_or("?"), dims.unwrap_or_else(|| "..".into()))
}

impl Work {
    /// Executes a step: the only place where a route meets engines and memories.
    fn execute(&self, step: usize) -> Result<(), (String, EngineError)> {
        let step = &self.route.steps[step];
        match step.action {
            Action::Run(s) => {
                let (segment, piece) = (&self.route.segments[s], &self.pieces[s]);
                let space = &self.spaces[segment.device];
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
                let copied = self.spaces[from].get(tensor).and_then(|value| self.spaces[to].put(tensor, value));
                copied.map_err(|e| (self.copy_label(tensor, from, to), e))?;
            }
            Action::Barrier => {}
        }
        step.frees.iter().for_each(|(tensor, device)| self.spaces[*device].free(*tensor));
        Ok(())
    }

    fn copy_label(&self, tensor: usize, from: usize, to: usize) -> String {
        let name = &self.route.tensors[tensor].name;
        format!("copy of \"{name}\" from {} to {}", self.spaces[from].device(), self.spaces[to].device())
    }

    /// What a step is, for a panic's message.
    fn label(&self, step: usize) -> String {
        match self.route.steps[step].action {
            Action::Run(s) => self.pieces[s].label.clone(),
            Action::Copy { tensor, from, to } => self.copy_label(tensor, from, to),
            Action::Barrier => format!("step {step}"),
        }
    }
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
