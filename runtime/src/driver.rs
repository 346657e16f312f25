//! Executes a route for one batch on real devices.
//!
//! [`RouteRunner::prepare`] cuts and loads every segment once; [`RouteRunner::run`] executes the steps. Which step may
//! run when is [`tandem_core::Execution`]'s to say; here are the clock, the threads and the data.
//!
//! Lanes are in-order queues that are executed one step at a time each, and no lane is tied to a thread: whoever ends a
//! step takes over what became ready, so that a chain of segments and copies costs no hand-over between threads, and
//! further threads are woken only for steps that can run beside it. The caller's thread is one
//! of those that take steps: it runs a route of one lane alone, unless another one that still looks for work is faster.
//!
//! Data: values are handed around, never copied, except by copies between memories (see `driver/space.rs`).

pub mod devices;
pub mod drive;
mod feed;
mod inner;
mod load;
mod solo;
mod space;
mod work;
pub mod works;

use std::sync::Arc;
use std::time::Instant;

use tandem_core::{Execution, RouteError};
use tandem_ir::Machine;
use tandem_ir::plan::Route;
use tandem_onnx::cut::CutError;
use tandem_onnx::import::Model;
use tandem_onnx::value::Value;

use crate::engine::{Engine, EngineError};
use solo::Solo;
use work::Work;

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
    /// Bytes that copy steps moved from one memory to another: those of the tensors at boundaries between devices.
    pub bytes_copied: u64,
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

/// A route with everything it needs, one batch at a time.
pub struct RouteRunner {
    work: Arc<Work>,
    solo: Solo,
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
        let work = Arc::new(Work::load(route, model, machine, engines, options, 1)?);
        let solo = Solo::start(&work, execution)?;
        Ok(Self { work, solo })
    }

    /// What computes on each device of the machine, by position; see [`RunOutput::devices`].
    pub fn devices(&self) -> &Arc<[String]> {
        &self.work.devices
    }

    /// What people should know of how the route was loaded: boundaries that cost more than they would have to, and why.
    pub fn notes(&self) -> &[String] {
        &self.work.notes
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
        self.work.check_inputs(&inputs)?;
        let before = self.work.bytes_copied();
        self.work.put_inputs(0, &inputs)?;
        let done = self.solo.run();
        let result = match done.failure {
            Some((place, source)) => Err(RunError::Engine { place, source }),
            None => self.work.outputs(0, &inputs),
        };
        self.work.clear(0);
        let total_ns = begin.elapsed().as_nanos() as u64;
        let bytes_copied = self.work.bytes_copied() - before;
        Ok(RunOutput {
            outputs: result?,
            steps: done.times,
            total_ns,
            bytes_copied,
            devices: self.work.devices.clone(),
        })
    }
}
