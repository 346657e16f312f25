//! Engines that only enqueue, as a device: lanes are queues that feed an accelerator's streams.
//!
//! Each lane has two threads. One puts commands on their streams as they come, each between two marks, and never waits
//! for any: while one command computes, the host's part of the next is done. The other waits for the marks in order,
//! hands over what each command made, and tells whoever waits. A command that cannot be put on its stream still ends in
//! order, after those before it.
//!
//! Times are the accelerator's, told by the host's clock (see `times.rs`).

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use tandem_core::{Command, Completion, Device, DeviceError, DeviceSpec};
use tandem_ir::{Nanos, Time};

use super::accelerator::{Mark, Stream, Streams};
use super::times::Anchor;
use crate::device::panic_words;
use crate::device::threaded::Clock;
use crate::engine::EngineError;
use crate::limits::{ANCHOR_AGE_MAX, FAILED_BATCHES_KEPT, MARK_SPIN};

/// What went wrong, and with what: `segment 2 on gpu0 (..)`.
pub type Fault = (String, EngineError);

/// Puts commands on streams.
pub trait Enqueue: Send + Sync + 'static {
    /// The stream that a command goes to, always the same for the same step of a route.
    fn stream(&self, command: &Command) -> Stream;

    /// Puts a command on its stream, without waiting for it to be done.
    ///
    /// # Errors
    /// What went wrong. What was put on the stream nevertheless is waited for before the command ends.
    fn begin(&self, command: &Command) -> Result<(), Fault>;

    /// The stream has done it: hands over what it made, and frees what it frees.
    ///
    /// # Errors
    /// What went wrong.
    fn end(&self, command: &Command) -> Result<(), Fault>;
}

impl<W: Enqueue> Enqueue for Arc<W> {
    fn stream(&self, command: &Command) -> Stream {
        self.as_ref().stream(command)
    }

    fn begin(&self, command: &Command) -> Result<(), Fault> {
        self.as_ref().begin(command)
    }

    fn end(&self, command: &Command) -> Result<(), Fault> {
        self.as_ref().end(command)
    }
}

/// A fault as a device says it.
pub(crate) fn device_error(device: &str, (what, error): Fault) -> DeviceError {
    let device = device.to_owned();
    match error {
        EngineError::OutOfMemory { needed, .. } => DeviceError::OutOfMemory { device, value: what, needed },
        EngineError::Lost { why, .. } => DeviceError::Lost { device, why },
        EngineError::Missing { engine, why }
        | EngineError::Unsupported { engine, why }
        | EngineError::Failed { engine, why } => DeviceError::Failed { device, engine, why: format!("{what}: {why}") },
    }
}

/// A device whose commands are put on streams.
pub struct Streamed<S: Streams + ?Sized, W: Enqueue> {
    shared: Arc<Shared<S, W>>,
    feeders: Vec<JoinHandle<()>>,
    watchers: Vec<JoinHandle<()>>,
}

struct Shared<S: ?Sized, W> {
    spec: DeviceSpec,
    work: W,
    clock: Clock,
    state: Mutex<State>,
    /// By lane: a command was submitted.
    submitted: Vec<Condvar>,
    /// By lane: a command was put on its stream.
    begun: Vec<Condvar>,
    waker: OnceLock<Arc<dyn Fn() + Send + Sync>>,
    streams: Arc<S>,
}

struct State {
    lanes: Vec<Lane>,
    ended: VecDeque<Completion>,
    /// Why nothing works any more.
    lost: Option<String>,
    /// No further command is begun.
    stop: bool,
    /// All that were begun are in the lanes' lists.
    fed: bool,
}

#[derive(Default)]
struct Lane {
    submitted: VecDeque<Command>,
    begun: VecDeque<Begun>,
    /// Batches (route, batch) that had a command fail here.
    failed: VecDeque<(u32, u64)>,
}

/// A command that is on its stream, or could not be put there.
struct Begun {
    command: Command,
    enqueued: Time,
    /// Before it and behind it.
    marks: Option<(Mark, Mark)>,
    result: Result<(), DeviceError>,
}

impl<S: Streams + ?Sized, W: Enqueue> Streamed<S, W> {
    /// A device on an accelerator's streams.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(spec: DeviceSpec, streams: Arc<S>, work: W, clock: Clock) -> std::io::Result<Self> {
        let lanes = spec.lanes.len();
        let state = State {
            lanes: (0..lanes).map(|_| Lane::default()).collect(),
            ended: VecDeque::new(),
            lost: None,
            stop: false,
            fed: false,
        };
        let shared = Arc::new(Shared {
            spec,
            work,
            clock,
            state: Mutex::new(state),
            submitted: (0..lanes).map(|_| Condvar::new()).collect(),
            begun: (0..lanes).map(|_| Condvar::new()).collect(),
            waker: OnceLock::new(),
            streams,
        });
        let mut device = Self { shared, feeders: vec![], watchers: vec![] };
        for lane in 0..lanes {
            let named = |what| std::thread::Builder::new().name(format!("{what}-{lane}"));
            let (feeding, watching) = (device.shared.clone(), device.shared.clone());
            device.feeders.push(named("feed").spawn(move || feeding.feed(lane))?);
            device.watchers.push(named("watch").spawn(move || watching.watch(lane))?);
        }
        Ok(device)
    }
}

impl<S: Streams + ?Sized, W: Enqueue> Drop for Streamed<S, W> {
    fn drop(&mut self) {
        self.shared.locked().stop = true;
        self.shared.submitted.iter().for_each(Condvar::notify_all);
        self.feeders.drain(..).for_each(join);
        // What is on a stream uses memory that may be freed after this.
        self.shared.locked().fed = true;
        self.shared.begun.iter().for_each(Condvar::notify_all);
        self.watchers.drain(..).for_each(join);
    }
}

/// Waits for a thread, unless it is the one that calls: the last to know a device may be one of its own threads.
fn join(thread: JoinHandle<()>) {
    if thread.thread().id() != std::thread::current().id() {
        // One that panicked has nothing to say any more.
        let _ = thread.join();
    }
}

impl<S: Streams + ?Sized, W: Enqueue> Device for Streamed<S, W> {
    fn spec(&self) -> &DeviceSpec {
        &self.shared.spec
    }

    fn submit(&mut self, _now: Time, command: Command) -> Result<(), DeviceError> {
        let mut state = self.shared.locked();
        let (lane, lanes) = (command.lane, state.lanes.len());
        let Some(of) = state.lanes.get_mut(lane) else {
            return Err(DeviceError::NoSuchLane { device: self.shared.spec.name.clone(), lanes, lane });
        };
        of.submitted.push_back(command);
        self.shared.submitted[lane].notify_one();
        Ok(())
    }

    fn poll(&mut self, _now: Time) -> Option<Completion> {
        self.shared.locked().ended.pop_front()
    }

    fn set_waker(&mut self, waker: Arc<dyn Fn() + Send + Sync>) {
        // One driver a device, for ever.
        let _ = self.shared.waker.set(waker);
    }
}

impl<S: Streams + ?Sized, W: Enqueue> Shared<S, W> {
    fn locked(&self) -> MutexGuard<'_, State> {
        // Foreign code runs outside the lock, so that no panic leaves the state half changed.
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Puts the lane's commands on their streams.
    fn feed(&self, lane: usize) {
        // The stream that the lane's last command went to.
        let mut last = None;
        let mut state = self.locked();
        while !state.stop {
            let Some(command) = state.lanes[lane].submitted.pop_front() else {
                state = self.submitted[lane].wait(state).unwrap_or_else(|poison| poison.into_inner());
                continue;
            };
            let refused = state.refused(lane, &command, &self.spec.name);
            drop(state);
            let enqueued = self.clock.now();
            let (marks, result) = match refused {
                Some(error) => (None, Err(error)),
                None => self.begin(&command, &mut last),
            };
            state = self.locked();
            state.lanes[lane].begun.push_back(Begun { command, enqueued, marks, result });
            self.begun[lane].notify_one();
        }
    }

    /// Puts a command on its stream between two marks; with the marks, if both are there.
    fn begin(&self, command: &Command, last: &mut Option<Stream>) -> (Option<(Mark, Mark)>, Result<(), DeviceError>) {
        let stream = self.work.stream(command);
        let said = |error| device_error(&self.spec.name, ("a mark".into(), error));
        // The lane is one queue, whatever streams it feeds.
        let behind = match last.replace(stream) {
            Some(other) if other != stream => self.streams.follow(stream, other),
            _ => Ok(()),
        };
        let from = match behind.and_then(|()| self.streams.mark(stream)) {
            Ok(from) => from,
            Err(error) => return (None, Err(said(error))),
        };
        let begun = self.foreign(|| self.work.begin(command));
        match self.streams.mark(stream) {
            Ok(to) => (Some((from, to)), begun),
            Err(error) => {
                self.streams.forget(from);
                (None, begun.and(Err(said(error))))
            }
        }
    }

    /// Waits for the lane's commands, in order.
    fn watch(&self, lane: usize) {
        let mut clock = LaneClock::default();
        let mut state = self.locked();
        loop {
            let Some(begun) = state.lanes[lane].begun.pop_front() else {
                if state.fed {
                    break;
                }
                state = self.begun[lane].wait(state).unwrap_or_else(|poison| poison.into_inner());
                continue;
            };
            let failed = state.has_failed(lane, &begun.command);
            drop(state);
            let completion = self.finish(lane, begun, failed, &mut clock);
            state = self.locked();
            state.end(completion);
            if let Some(waker) = self.waker.get() {
                drop(state);
                waker();
                state = self.locked();
            }
        }
        drop(state);
        clock.forget(self.streams.as_ref());
    }

    /// Waits for one command.
    fn finish(&self, lane: usize, begun: Begun, failed: bool, clock: &mut LaneClock) -> Completion {
        let Begun { command, enqueued, marks, mut result } = begun;
        let said = |error| device_error(&self.spec.name, ("what was enqueued".into(), error));
        let reached = marks.map_or(Ok(()), |(_, to)| self.wait(to).map_err(said));
        result = result.and(reached);
        if result.is_ok() {
            result = if failed { Err(DeviceError::Skipped) } else { self.foreign(|| self.work.end(&command)) };
        }
        let seen = self.clock.now();
        let (start, end) = clock.place(self.streams.as_ref(), marks, enqueued, seen);
        Completion { ticket: command.ticket, lane, start, end, result }
    }

    /// Looks for a moment, then sleeps.
    fn wait(&self, mark: Mark) -> Result<(), EngineError> {
        let begin = Instant::now();
        while begin.elapsed() < MARK_SPIN {
            if self.streams.is_reached(mark)? {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        self.streams.wait(mark)
    }

    fn foreign(&self, call: impl FnOnce() -> Result<(), Fault>) -> Result<(), DeviceError> {
        let device = &self.spec.name;
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(result) => result.map_err(|fault| device_error(device, fault)),
            Err(panic) => {
                let (engine, why) = (self.spec.engine.clone(), panic_words(panic.as_ref()));
                Err(DeviceError::Failed { device: device.clone(), engine, why })
            }
        }
    }
}

impl State {
    fn has_failed(&self, lane: usize, command: &Command) -> bool {
        self.lanes[lane].failed.contains(&(command.ticket.route, command.ticket.batch))
    }

    /// Why a command is not even begun.
    fn refused(&self, lane: usize, command: &Command, device: &str) -> Option<DeviceError> {
        if let Some(why) = &self.lost {
            return Some(DeviceError::Lost { device: device.to_owned(), why: why.clone() });
        }
        self.has_failed(lane, command).then_some(DeviceError::Skipped)
    }

    fn end(&mut self, completion: Completion) {
        match &completion.result {
            Ok(()) | Err(DeviceError::Skipped) => {}
            Err(error) => {
                if let DeviceError::Lost { why, .. } = error {
                    self.lost.get_or_insert_with(|| why.clone());
                }
                let failed = &mut self.lanes[completion.lane].failed;
                if failed.len() == FAILED_BATCHES_KEPT {
                    failed.pop_front();
                }
                failed.push_back((completion.ticket.route, completion.ticket.batch));
            }
        }
        self.ended.push_back(completion);
    }
}

/// The accelerator's clock as one lane sees it.
#[derive(Default)]
struct LaneClock {
    anchor: Option<(Mark, Anchor)>,
    /// End of the lane's last command, by what the clocks were taken for then.
    free_at: Time,
}

impl LaneClock {
    /// When a command ran, after the one before it. Uses up the marks.
    fn place<S: Streams + ?Sized>(
        &mut self,
        streams: &S,
        marks: Option<(Mark, Mark)>,
        enqueued: Time,
        seen: Time,
    ) -> (Time, Time) {
        let (start, end) = match marks {
            Some(marks) => self.told(streams, marks, enqueued, seen),
            None => (enqueued, seen),
        };
        let start = start.max(self.free_at);
        self.free_at = end.max(start);
        (start, self.free_at)
    }

    /// When a command ran; by the host's clock where the accelerator does not say.
    fn told<S: Streams + ?Sized>(
        &mut self,
        streams: &S,
        (from, to): (Mark, Mark),
        enqueued: Time,
        seen: Time,
    ) -> (Time, Time) {
        let told = streams.elapsed(from, to).and_then(|took| match &self.anchor {
            Some((mark, _)) => Ok((streams.elapsed(*mark, from)?, took)),
            None => Ok((Nanos::ZERO, took)),
        });
        streams.forget(from);
        let Ok((since, took)) = told else {
            streams.forget(to);
            return (enqueued, seen);
        };
        let Some((mark, anchor)) = &mut self.anchor else {
            self.anchor = Some((to, Anchor::seen(seen)));
            return (Time(seen.0.saturating_sub(took.0)).max(enqueued), seen);
        };
        let placed = anchor.place(since, took, enqueued, seen);
        if since > ANCHOR_AGE_MAX {
            streams.forget(*mark);
            (*mark, *anchor) = (to, anchor.later(since + took));
        } else {
            streams.forget(to);
        }
        placed
    }

    fn forget<S: Streams + ?Sized>(&mut self, streams: &S) {
        if let Some((mark, _)) = self.anchor.take() {
            streams.forget(mark);
        }
    }
}

#[cfg(test)]
mod tests;
