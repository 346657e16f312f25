//! The threads that execute a route's steps.
//!
//! Every thread, the caller's among them, does the same: take a lane that has a submitted step and that nobody works
//! on, execute the step, tell the execution, go on, with the same lane first. A thread that finds more than it can do
//! wakes another; one that finds nothing waits. So a chain of steps stays on one thread, whatever lanes it crosses, and
//! lanes that are busy at the same time get a thread each.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tandem_core::Execution;

use super::RunError;
use super::work::Work;
use crate::device::panic_words;
use crate::engine::EngineError;

/// How long a thread without work looks for some before it sleeps. A sleeping thread takes 5-50 us to wake, a step
/// rarely follows later than this; longer would take the core from an engine's threads.
const SPIN: Duration = Duration::from_micros(5);

/// What has become of a batch.
pub(super) struct Done {
    /// For the next batch.
    pub(super) execution: Execution,
    /// Start and end of each step, in nanoseconds since the run began; zeros for steps that did not run.
    pub(super) times: Vec<(u64, u64)>,
    /// The first step that failed: what it is, and why.
    pub(super) failure: Option<(String, EngineError)>,
}

/// The threads, asleep between batches.
pub(super) struct Crew {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    work: Arc<Work>,
    state: Mutex<State>,
    woken: Condvar,
    /// Counts changes of the state, for threads that look without the lock.
    changes: AtomicU64,
}

struct State {
    /// The batch in flight.
    execution: Option<Execution>,
    begin: Instant,
    /// By lane: steps submitted and not begun.
    queues: Vec<VecDeque<usize>>,
    /// By lane: whether a thread executes a step of it.
    busy: Vec<bool>,
    times: Vec<(u64, u64)>,
    failure: Option<(String, EngineError)>,
    waiting: usize,
    stop: bool,
}

impl Crew {
    /// Starts a thread for each lane but one: the caller is one of the crew.
    pub(super) fn start(work: &Arc<Work>, lanes: usize) -> Result<Self, RunError> {
        let lanes = lanes.max(1);
        let state = State {
            execution: None,
            begin: Instant::now(),
            queues: vec![VecDeque::new(); lanes],
            busy: vec![false; lanes],
            times: vec![],
            failure: None,
            waiting: 0,
            stop: false,
        };
        let shared = Arc::new(Shared {
            work: work.clone(),
            state: Mutex::new(state),
            woken: Condvar::new(),
            changes: AtomicU64::new(0),
        });
        let mut crew = Crew { shared, threads: vec![] };
        for i in 1..lanes {
            let shared = crew.shared.clone();
            let thread = std::thread::Builder::new().name(format!("lane-{i}"));
            crew.threads.push(thread.spawn(move || shared.attend(false)).map_err(RunError::Thread)?);
        }
        Ok(crew)
    }

    /// Executes a batch that has not begun, and returns when it is over.
    pub(super) fn run(&self, execution: Execution, begin: Instant) -> Done {
        {
            let mut state = self.shared.locked();
            state.times = vec![(0, 0); self.shared.work.route.steps.len()];
            state.failure = None;
            state.begin = begin;
            state.execution = Some(execution);
            state.submit();
        }
        self.shared.attend(true);
        let mut state = self.shared.locked();
        let execution = state.execution.take().expect("only this function takes the batch");
        Done { execution, times: std::mem::take(&mut state.times), failure: state.failure.take() }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.locked().stop = true;
        self.shared.ended();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing to say any more.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, State> {
        // Steps run outside the lock, so that no panic of theirs leaves the state half changed.
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Tells everybody that the batch is over or the crew dismissed.
    fn ended(&self) {
        self.changes.fetch_add(1, Ordering::Release);
        self.woken.notify_all();
    }

    /// Works until the batch is over (the caller) or the crew is dismissed (the others).
    fn attend(&self, caller: bool) {
        let mut state = self.locked();
        let mut lane = 0;
        loop {
            if let Some((taken, step)) = state.take(lane) {
                lane = taken;
                if state.idle_lane(lane).is_some() {
                    self.changes.fetch_add(1, Ordering::Release);
                    if state.waiting > 0 {
                        self.woken.notify_one();
                    }
                }
                let begin = state.begin;
                drop(state);
                let start = begin.elapsed();
                let result = self.execute(step);
                let times = (start.as_nanos() as u64, begin.elapsed().as_nanos() as u64);
                state = self.locked();
                state.end(lane, step, times, result);
                if !caller && state.is_over() {
                    self.ended();
                }
            } else if state.stop || (caller && state.is_over()) {
                return;
            } else {
                state = self.wait(state);
            }
        }
    }

    fn execute(&self, step: usize) -> Result<(), (String, EngineError)> {
        let executed = catch_unwind(AssertUnwindSafe(|| self.work.execute(0, step)));
        executed.unwrap_or_else(|panic| {
            let error = EngineError::Failed { engine: "driver".into(), why: panic_words(panic.as_ref()) };
            Err((self.work.label(step), error))
        })
    }

    /// Waits for a change: looks for a moment, then sleeps.
    fn wait<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let seen = self.changes.load(Ordering::Acquire);
        // Only while a batch is in flight can anything follow soon.
        if state.execution.is_some() {
            drop(state);
            let begin = Instant::now();
            while begin.elapsed() < SPIN {
                if self.changes.load(Ordering::Acquire) != seen {
                    return self.locked();
                }
                std::hint::spin_loop();
            }
            let state = self.locked();
            return if state.idle_lane(usize::MAX).is_some() || state.is_over() { state } else { self.sleep(state) };
        }
        self.sleep(state)
    }

    fn sleep<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = self.woken.wait(state).unwrap_or_else(|poison| poison.into_inner());
        state.waiting -= 1;
        state
    }
}

impl State {
    /// Moves what may run to the lanes' queues.
    fn submit(&mut self) {
        let Some(execution) = &mut self.execution else { return };
        while let Some(step) = execution.poll_step() {
            let lane = execution.route().steps[step].lane;
            self.queues[lane].push_back(step);
        }
    }

    /// A lane other than this one with a step that nobody has taken.
    fn idle_lane(&self, other_than: usize) -> Option<usize> {
        (0..self.queues.len()).find(|l| *l != other_than && !self.busy[*l] && !self.queues[*l].is_empty())
    }

    /// Takes the next step of a lane, of `first` if it has one.
    fn take(&mut self, first: usize) -> Option<(usize, usize)> {
        let own = !self.busy[first] && !self.queues[first].is_empty();
        let lane = if own { first } else { self.idle_lane(first)? };
        self.busy[lane] = true;
        self.queues[lane].pop_front().map(|step| (lane, step))
    }

    /// A step has ended. After a failure, what is submitted is not run any more.
    fn end(&mut self, lane: usize, step: usize, times: (u64, u64), result: Result<(), (String, EngineError)>) {
        self.busy[lane] = false;
        self.times[step] = times;
        let Some(execution) = &mut self.execution else { return };
        match result {
            Ok(()) => execution.done(step),
            Err((place, error)) => {
                execution.failed(step, error.to_string());
                self.failure.get_or_insert((place, error));
            }
        }
        if execution.is_failed() {
            for skipped in self.queues.iter_mut().flat_map(std::mem::take) {
                execution.failed(skipped, "not run");
            }
        }
        self.submit();
    }

    fn is_over(&self) -> bool {
        self.execution.as_ref().is_none_or(Execution::is_over)
    }
}
