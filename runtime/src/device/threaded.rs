//! Engines that block, as a device: lanes are queues, threads of this process execute them.
//!
//! No lane is tied to a thread. A thread that has ended a command tells whoever waits for it, which may well submit the
//! next command of the same batch; it then takes that one itself, and another thread is woken only where there is more to
//! do than threads looking for work. So a batch stays on one thread as long as nothing runs beside it, whatever lanes it
//! crosses. Whoever waits for a batch may lend its own thread to it ([`Device::help`]): then there is no hand-over at all.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tandem_core::{Command, Completion, Device, DeviceError, DeviceSpec, Help, Ticket};
use tandem_ir::Time;

use super::panic_words;
use crate::limits::FAILED_BATCHES_KEPT;

/// The clock that a device and its driver share: nanoseconds since it was made.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Time begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Now.
    pub fn now(&self) -> Time {
        Time(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// How long until a moment; nothing where it is past.
    pub fn until(&self, at: Time) -> Duration {
        Duration::from_nanos(at.0.saturating_sub(self.now().0))
    }
}

/// Executes commands, each on the thread that calls it, until it is over.
pub trait Execute: Send + Sync + 'static {
    /// Executes a command. Commands of one lane come one at a time, in order; `submitted` is when this one came.
    ///
    /// # Errors
    /// What went wrong.
    fn execute(&self, command: &Command, submitted: Time) -> Result<(), DeviceError>;
}

impl<E: Execute> Execute for Arc<E> {
    fn execute(&self, command: &Command, submitted: Time) -> Result<(), DeviceError> {
        self.as_ref().execute(command, submitted)
    }
}

/// How long a thread without work looks for some before it sleeps. A sleeping thread takes 5-50 us to wake, a step
/// rarely follows later than this; longer would take the core from an engine's threads.
const SPIN: Duration = Duration::from_micros(5);

/// A device whose commands are executed by threads.
pub struct Threaded<E: Execute> {
    shared: Arc<Shared<E>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<E> {
    spec: DeviceSpec,
    execute: E,
    clock: Clock,
    state: Mutex<State>,
    woken: Condvar,
    /// Counts submissions, for threads that look without the lock.
    changes: AtomicU64,
    waker: OnceLock<Arc<dyn Fn() + Send + Sync>>,
}

struct State {
    lanes: Vec<Lane>,
    ended: VecDeque<Completion>,
    /// Lanes with a command that nobody has taken.
    runnable: usize,
    /// Threads that look for work.
    looking: usize,
    sleeping: usize,
    stop: bool,
}

/// A command that a thread has taken.
struct Taken {
    lane: usize,
    submitted: Time,
    command: Command,
    /// Another one of its batch has failed on the lane.
    skipped: bool,
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<(Time, Command)>,
    busy: bool,
    /// Batches (route, batch) that had a command fail here.
    failed: VecDeque<(u32, u64)>,
}

impl<E: Execute> Threaded<E> {
    /// A device with so many threads, at least one; more than lanes are of no use.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(spec: DeviceSpec, execute: E, clock: Clock, threads: usize) -> std::io::Result<Self> {
        let lanes = (0..spec.lanes.len()).map(|_| Lane::default()).collect();
        let state = State { lanes, ended: VecDeque::new(), runnable: 0, looking: 0, sleeping: 0, stop: false };
        let count = threads.clamp(1, spec.lanes.len().max(1));
        let shared = Arc::new(Shared {
            spec,
            execute,
            clock,
            state: Mutex::new(state),
            woken: Condvar::new(),
            changes: AtomicU64::new(0),
            waker: OnceLock::new(),
        });
        let mut device = Self { shared, threads: vec![] };
        for i in 0..count {
            let shared = device.shared.clone();
            let thread = std::thread::Builder::new().name(format!("lane-{i}"));
            device.threads.push(thread.spawn(move || shared.attend())?);
        }
        Ok(device)
    }

    /// How other threads execute its commands.
    pub fn helper(&self) -> Arc<dyn Help> {
        self.shared.clone()
    }

    /// What executes its commands.
    pub fn executor(&self) -> &E {
        &self.shared.execute
    }
}

impl<E: Execute> Drop for Threaded<E> {
    fn drop(&mut self) {
        self.shared.locked().stop = true;
        self.shared.woken.notify_all();
        for thread in self.threads.drain(..) {
            // The last to know the device may be one of its own threads; one that panicked has nothing to say any more.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl<E: Execute> Device for Threaded<E> {
    fn spec(&self) -> &DeviceSpec {
        &self.shared.spec
    }

    fn submit(&mut self, now: Time, command: Command) -> Result<(), DeviceError> {
        let mut state = self.shared.locked();
        let lanes = state.lanes.len();
        let Some(lane) = state.lanes.get_mut(command.lane) else {
            let device = self.shared.spec.name.clone();
            return Err(DeviceError::NoSuchLane { device, lanes, lane: command.lane });
        };
        lane.queue.push_back((now, command));
        if !lane.busy && lane.queue.len() == 1 {
            state.runnable += 1;
            self.shared.changes.fetch_add(1, Ordering::Release);
            if state.runnable > state.looking && state.sleeping > 0 {
                self.shared.woken.notify_one();
            }
        }
        Ok(())
    }

    fn poll(&mut self, _now: Time) -> Option<Completion> {
        self.shared.locked().ended.pop_front()
    }

    fn set_waker(&mut self, waker: Arc<dyn Fn() + Send + Sync>) {
        // One driver a device, for ever.
        let _ = self.shared.waker.set(waker);
    }

    fn help(&self) -> Option<Arc<dyn Help>> {
        Some(self.helper())
    }
}

impl<E: Execute> Help for Shared<E> {
    fn come(&self) {
        self.locked().looking += 1;
    }

    fn help(&self, mine: &dyn Fn(&Ticket) -> bool) -> bool {
        let mut state = self.locked();
        let Some(taken) = state.take(0, mine) else { return false };
        drop(self.attend_one(state, taken));
        true
    }

    fn leave(&self) {
        let mut state = self.locked();
        state.looking -= 1;
        // Nobody was woken for what this thread was expected to take.
        if state.runnable > state.looking && state.sleeping > 0 {
            self.woken.notify_one();
        }
    }
}

impl<E: Execute> Shared<E> {
    fn locked(&self) -> MutexGuard<'_, State> {
        // Commands run outside the lock, so that no panic of theirs leaves the state half changed.
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn attend(&self) {
        let mut state = self.locked();
        state.looking += 1;
        let mut lane = 0;
        while !state.stop {
            state = match state.take(lane, &|_| true) {
                Some(taken) => {
                    lane = taken.lane;
                    self.attend_one(state, taken)
                }
                None => self.wait(state),
            };
        }
    }

    /// Executes a command that was taken, and tells.
    fn attend_one<'a>(&'a self, mut state: MutexGuard<'a, State>, taken: Taken) -> MutexGuard<'a, State> {
        let Taken { lane, submitted, command, skipped } = taken;
        state.looking -= 1;
        drop(state);
        let start = self.clock.now();
        let result = if skipped { Err(DeviceError::Skipped) } else { self.execute(&command, submitted) };
        let end = self.clock.now();
        state = self.locked();
        state.end(lane, Completion { ticket: command.ticket, lane, start, end, result });
        // Already now: it takes what is submitted by whoever is told.
        state.looking += 1;
        if let Some(waker) = self.waker.get() {
            drop(state);
            waker();
            state = self.locked();
        }
        state
    }

    fn execute(&self, command: &Command, submitted: Time) -> Result<(), DeviceError> {
        let executed = catch_unwind(AssertUnwindSafe(|| self.execute.execute(command, submitted)));
        executed.unwrap_or_else(|panic| {
            let (device, engine) = (self.spec.name.clone(), self.spec.engine.clone());
            Err(DeviceError::Failed { device, engine, why: panic_words(panic.as_ref()) })
        })
    }

    /// Waits for work: looks for a moment, then sleeps.
    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let seen = self.changes.load(Ordering::Acquire);
        drop(state);
        let begin = Instant::now();
        while begin.elapsed() < SPIN {
            if self.changes.load(Ordering::Acquire) != seen {
                return self.locked();
            }
            std::hint::spin_loop();
        }
        let mut state = self.locked();
        if state.runnable > 0 || state.stop {
            return state;
        }
        state.looking -= 1;
        state.sleeping += 1;
        let mut state = self.woken.wait(state).unwrap_or_else(|poison| poison.into_inner());
        state.sleeping -= 1;
        state.looking += 1;
        state
    }
}

impl State {
    /// Takes the next command of a lane, of `first` if it has one; of those wanted.
    fn take(&mut self, first: usize, wanted: &dyn Fn(&Ticket) -> bool) -> Option<Taken> {
        if self.runnable == 0 {
            return None;
        }
        let next = |l: usize| self.lanes[l].queue.front().filter(|(_, command)| wanted(&command.ticket));
        let runnable = |l: &usize| !self.lanes[*l].busy && next(*l).is_some();
        let lane = Some(first).filter(runnable).or_else(|| (0..self.lanes.len()).find(runnable))?;
        self.runnable -= 1;
        let of = &mut self.lanes[lane];
        of.busy = true;
        let (submitted, command) = of.queue.pop_front()?;
        let batch = (command.ticket.route, command.ticket.batch);
        let skipped = of.failed.contains(&batch);
        Some(Taken { lane, submitted, command, skipped })
    }

    fn end(&mut self, lane: usize, completion: Completion) {
        let of = &mut self.lanes[lane];
        of.busy = false;
        if !of.queue.is_empty() {
            self.runnable += 1;
        }
        if !matches!(completion.result, Ok(()) | Err(DeviceError::Skipped)) {
            if of.failed.len() == FAILED_BATCHES_KEPT {
                of.failed.pop_front();
            }
            of.failed.push_back((completion.ticket.route, completion.ticket.batch));
        }
        self.ended.push_back(completion);
    }
}
