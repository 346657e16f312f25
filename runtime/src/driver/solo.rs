//! Executes one batch of a route at a time: the caller lends its thread, others come in for what can run beside it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use tandem_core::{Command, Completion, Device, DeviceError, DeviceSpec, Execution, Help, Ticket};
use tandem_ir::plan::Route;
use tandem_ir::{Bytes, DeviceKind, Time};

use super::RunError;
use super::work::Work;
use crate::device::threaded::{Clock, Execute, Threaded};
use crate::engine::EngineError;

/// What has become of a batch.
pub(super) struct Done {
    /// Start and end of each step, in nanoseconds since the run began; zeros for steps that did not run.
    pub(super) times: Vec<(u64, u64)>,
    /// The first step that failed: what it is, and why.
    pub(super) failure: Option<(String, EngineError)>,
}

/// A route's execution on threads of its own, asleep between batches.
pub(super) struct Solo {
    shared: Arc<Shared>,
    help: Arc<dyn Help>,
}

struct Shared {
    clock: Clock,
    state: Mutex<State>,
    over: Condvar,
}

struct State {
    device: Threaded<Steps>,
    route: Arc<Route>,
    execution: Execution,
    batch: u64,
    begin: Time,
    times: Vec<(u64, u64)>,
}

/// Executes steps, none after one has failed.
struct Steps {
    work: Arc<Work>,
    failure: Mutex<Option<(String, EngineError)>>,
}

impl Steps {
    fn failure(&self) -> MutexGuard<'_, Option<(String, EngineError)>> {
        self.failure.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

impl Execute for Steps {
    fn execute(&self, command: &Command, _submitted: Time) -> Result<(), DeviceError> {
        if self.failure().is_some() {
            return Err(DeviceError::Skipped);
        }
        self.work.execute(0, command.ticket.step as usize).map_err(|failure| {
            self.failure().get_or_insert(failure);
            DeviceError::Skipped
        })
    }
}

impl Solo {
    /// Starts the threads.
    pub(super) fn start(work: &Arc<Work>, execution: Execution) -> Result<Self, RunError> {
        let route = work.route.clone();
        let lanes = route.lane_names.clone();
        let spec = DeviceSpec {
            name: "route".into(),
            kind: DeviceKind::Cpu,
            lanes,
            memory: Bytes(u64::MAX),
            engine: "driver".into(),
        };
        let clock = Clock::start();
        let steps = Steps { work: work.clone(), failure: Mutex::new(None) };
        let threads = route.lane_names.len();
        let device = Threaded::start(spec, steps, clock, threads).map_err(RunError::Thread)?;
        let help = device.helper();
        let state = State { device, execution, batch: 0, begin: Time::ZERO, times: vec![], route };
        let shared = Arc::new(Shared { clock, state: Mutex::new(state), over: Condvar::new() });
        // Weak: the device must not keep itself alive.
        let weak = Arc::downgrade(&shared);
        shared.locked().device.set_waker(Arc::new(move || {
            if let Some(shared) = weak.upgrade() {
                shared.turn();
            }
        }));
        Ok(Self { shared, help })
    }

    /// Executes a batch whose inputs are there, and returns when it is over.
    pub(super) fn run(&self) -> Done {
        self.help.come();
        self.shared.locked().start(self.shared.clock.now());
        while self.help.help(&|_| true) {}
        self.help.leave();
        let mut state = self.shared.locked();
        while !state.execution.is_over() {
            state = self.shared.over.wait(state).unwrap_or_else(|poison| poison.into_inner());
        }
        let failure = state.device.executor().failure().take();
        // Where no step told of it, its thread did: a panic.
        let broken = |(step, why): (usize, &str)| {
            (state.device.executor().work.label(step), EngineError::Failed { engine: "driver".into(), why: why.into() })
        };
        let failure = failure.or_else(|| state.execution.failure().map(broken));
        Done { times: std::mem::take(&mut state.times), failure }
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, State> {
        // Steps run outside the lock, so that no panic of theirs leaves the state half changed.
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Takes in what has ended, and submits what may follow.
    fn turn(&self) {
        let mut state = self.locked();
        let now = self.clock.now();
        while let Some(completion) = state.device.poll(now) {
            state.end(completion);
        }
        state.submit(now);
        if state.execution.is_over() {
            self.over.notify_all();
        }
    }
}

impl State {
    fn start(&mut self, now: Time) {
        self.execution.reset();
        self.batch += 1;
        self.begin = now;
        self.times = vec![(0, 0); self.route.steps.len()];
        self.submit(now);
    }

    fn submit(&mut self, now: Time) {
        while let Some(step) = self.execution.poll_step() {
            let ticket = Ticket { route: 0, batch: self.batch, ring: 0, step: step as u32 };
            let command = Command { lane: self.route.steps[step].lane, ticket, route: self.route.clone() };
            if let Err(refused) = self.device.submit(now, command) {
                self.execution.failed(step, refused.to_string());
            }
        }
    }

    fn end(&mut self, completion: Completion) {
        let Completion { ticket, start, end, result, .. } = completion;
        let step = ticket.step as usize;
        match result {
            Ok(()) => {
                self.times[step] = (start.0 - self.begin.0, end.0 - self.begin.0);
                self.execution.done(step);
            }
            Err(DeviceError::Failed { why, .. }) => self.execution.failed(step, why),
            Err(other) => self.execution.failed(step, other.to_string()),
        }
    }
}
