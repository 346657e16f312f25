//! The timing emulator: a device that plays the steps' planned durations, in virtual or wall time, and the loop that
//! runs a route on it.
//!
//! It computes nothing and reads no profile. With jitter and faults off and one batch in flight its makespan is the
//! planner's to the nanosecond; that the two agree is a test of both, so nothing here is shared with the planner.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use tandem_ir::plan::Route;
use tandem_ir::{Bytes, DeviceKind, Nanos, Time};

use crate::device::{Command, Completion, Device, DeviceError, DeviceSpec, Ticket};
use crate::execution::{Execution, RouteError};
use crate::limits::{BATCHES_IN_FLIGHT_MAX, BATCHES_MAX};
use crate::memory::{self, Excess, MemoryError, Span};
use crate::rng::Rng;

/// What the emulator adds to the planned durations. By default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmulationOptions {
    /// Each duration is multiplied by a factor drawn evenly from 1 - j/1000 to 1 + j/1000, this being j.
    pub jitter_permille: u64,
    /// Seed of the jitter. A step's factor depends on the seed, its batch and its position only.
    pub seed: u64,
    /// Steps that fail at their end: (batch, position).
    pub faults: Vec<(u64, usize)>,
}

/// A device that plays durations. One may serve all lanes of a route, or of a machine.
///
/// After a failure, the same batch's later commands on the lane complete as skipped, in no time.
#[derive(Clone, Debug)]
pub struct EmulatedDevice {
    spec: DeviceSpec,
    options: EmulationOptions,
    lanes: Vec<Lane>,
    /// Ends of what is running, one a busy lane.
    running: BinaryHeap<Reverse<(Time, u64, usize)>>,
    /// Counts starts, to order what ends at one moment.
    starts: u64,
    /// What ended because its lane was lost.
    lost: VecDeque<Completion>,
}

#[derive(Clone, Debug, Default)]
struct Lane {
    queue: VecDeque<(Time, Ticket, Nanos)>,
    running: Option<(Time, Ticket)>,
    free_at: Time,
    /// Batches (route, batch) that had a command fail here: their later commands are skipped. The newest few, for no
    /// more can be in flight.
    failed: Vec<(u32, u64)>,
    /// What the command that ends next is to fail with.
    fault: Option<DeviceError>,
    /// Gone: whatever is submitted ends at once, as lost.
    down: bool,
}

impl EmulatedDevice {
    /// An idle device.
    pub fn new(spec: DeviceSpec, options: EmulationOptions) -> Self {
        let lanes = vec![Lane::default(); spec.lanes.len()];
        Self { spec, options, lanes, running: BinaryHeap::new(), starts: 0, lost: VecDeque::new() }
    }

    /// An idle device with the lanes of a route.
    pub fn for_route(route: &Route, options: EmulationOptions) -> Self {
        let spec = DeviceSpec {
            name: "emulated".into(),
            kind: DeviceKind::Gpu,
            lanes: route.lane_names.clone(),
            memory: Bytes(u64::MAX),
            engine: "timing emulator".into(),
        };
        Self::new(spec, options)
    }

    /// Makes the command that ends next on a lane fail.
    pub fn fail_next(&mut self, lane: usize, error: DeviceError) {
        self.lanes[lane].fault = Some(error);
    }

    /// Makes the command that runs on a lane take so much longer; nothing where none runs.
    pub fn hang(&mut self, lane: usize, longer: Nanos) {
        if self.lanes[lane].running.is_none() {
            return;
        }
        let end = self.lanes[lane].free_at + longer;
        self.lanes[lane].free_at = end;
        self.running.retain(|Reverse((.., l))| *l != lane);
        self.running.push(Reverse((end, self.starts, lane)));
        self.starts += 1;
    }

    /// Takes lanes away: what is on them ends now, as lost, and so does what is submitted until they come back.
    pub fn lose(&mut self, now: Time, lanes: &[usize]) {
        for lane in lanes.iter().copied() {
            self.running.retain(|Reverse((.., l))| *l != lane);
            let of = &mut self.lanes[lane];
            (of.down, of.free_at) = (true, now);
            let running = of.running.take().map(|(start, ticket)| (start.min(now), ticket));
            let queued = of.queue.drain(..).map(|(_, ticket, _)| (now, ticket));
            for (start, ticket) in running.into_iter().chain(queued) {
                let why = "injected".into();
                let result = Err(DeviceError::Lost { device: self.spec.name.clone(), why });
                self.lost.push_back(Completion { ticket, lane, start, end: now, result });
            }
        }
    }

    /// Brings lost lanes back.
    pub fn bring_back(&mut self, lanes: &[usize]) {
        for lane in lanes {
            self.lanes[*lane].down = false;
            self.lanes[*lane].failed.clear();
        }
    }

    fn start_next(&mut self, index: usize) {
        let lane = &mut self.lanes[index];
        let Some((submitted, ticket, planned)) = lane.queue.pop_front() else { return };
        let start = lane.free_at.max(submitted);
        let skipped = lane.failed.contains(&(ticket.route, ticket.batch));
        let duration = if skipped { Nanos::ZERO } else { jittered(&self.options, ticket, planned) };
        lane.running = Some((start, ticket));
        lane.free_at = start + duration;
        self.running.push(Reverse((lane.free_at, self.starts, index)));
        self.starts += 1;
    }

    fn result(&mut self, index: usize, ticket: Ticket) -> Result<(), DeviceError> {
        let Lane { failed, fault, .. } = &mut self.lanes[index];
        let batch = (ticket.route, ticket.batch);
        if failed.contains(&batch) {
            return Err(DeviceError::Skipped);
        }
        let injected = fault.take();
        if injected.is_some() || self.options.faults.contains(&(ticket.batch, ticket.step as usize)) {
            if failed.len() == BATCHES_IN_FLIGHT_MAX {
                // The oldest failure is of a batch long over.
                failed.remove(0);
            }
            failed.push(batch);
            if let Some(error) = injected {
                return Err(error);
            }
            let (device, engine) = (self.spec.name.clone(), self.spec.engine.clone());
            return Err(DeviceError::Failed { device, engine, why: "injected fault".into() });
        }
        Ok(())
    }
}

impl Device for EmulatedDevice {
    fn spec(&self) -> &DeviceSpec {
        &self.spec
    }

    fn submit(&mut self, now: Time, command: Command) -> Result<(), DeviceError> {
        let (lane, lanes) = (command.lane, self.lanes.len());
        if lane >= lanes {
            return Err(DeviceError::NoSuchLane { device: self.spec.name.clone(), lanes, lane });
        }
        self.lanes[lane].queue.push_back((now, command.ticket, command.planned()));
        if self.lanes[lane].down {
            self.lose(now, &[lane]);
        } else if self.lanes[lane].running.is_none() {
            self.start_next(lane);
        }
        Ok(())
    }

    fn poll(&mut self, now: Time) -> Option<Completion> {
        if let Some(lost) = self.lost.pop_front() {
            return Some(lost);
        }
        let Reverse((end, _, lane)) = *self.running.peek().filter(|Reverse((end, ..))| *end <= now)?;
        self.running.pop();
        let (start, ticket) = self.lanes[lane].running.take().expect("an end belongs to a running command");
        let result = self.result(lane, ticket);
        self.start_next(lane);
        Some(Completion { ticket, lane, start, end, result })
    }

    fn next_wakeup(&self) -> Option<Time> {
        let lost = self.lost.front().map(|c| c.end);
        lost.or(self.running.peek().map(|Reverse((end, ..))| *end))
    }
}

fn jittered(options: &EmulationOptions, ticket: Ticket, planned: Nanos) -> Nanos {
    let j = options.jitter_permille.min(1000);
    if j == 0 {
        return planned;
    }
    let mut rng = Rng::keyed(options.seed, &[ticket.batch, u64::from(ticket.step)]);
    // In parts per million, so that a per mille of jitter still has a thousand steps.
    let factor = 1_000_000 - 1_000 * j + rng.below(2_000 * j + 1);
    let ns = u128::from(planned.0) * u128::from(factor) / 1_000_000;
    Nanos(u64::try_from(ns).unwrap_or(u64::MAX))
}

/// Why a route could not be played to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmulationError {
    /// The route is inconsistent.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// A step failed (an injected fault).
    #[error("step {step} of batch {batch} failed: {why}")]
    Step {
        /// The batch.
        batch: u64,
        /// Position of the step.
        step: usize,
        /// The device's words.
        why: String,
    },
    /// A step uses memory wrongly.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// More batches than the bound, or none.
    #[error("expected 1 to {max} {what}, found {found}")]
    Count {
        /// `batches`, `batches in flight`.
        what: &'static str,
        /// The bound.
        max: usize,
        /// What was asked for.
        found: usize,
    },
}

/// One batch, played.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emulation {
    /// First step's start to last step's end.
    pub makespan: Nanos,
    /// When each step ran, from 0.
    pub spans: Vec<Span>,
    /// Busy time of each lane.
    pub busy: Vec<Nanos>,
    /// Most bytes alive by position of the device (weights left out).
    pub peak: Vec<Bytes>,
    /// Devices whose peak is above the plan's number.
    pub excess: Vec<Excess>,
}

/// Plays one batch of a route, alone.
///
/// # Errors
/// The route is inconsistent, uses memory wrongly, or a step fails as the options say.
pub fn emulate(route: &Route, options: &EmulationOptions) -> Result<Emulation, EmulationError> {
    let mut player = Player::new(route, options, 1)?;
    let mut spans = vec![Span::default(); route.steps.len()];
    let ends = player.play(1, |completion| {
        spans[completion.ticket.step as usize] = Span { start: completion.start, end: completion.end };
    })?;
    let mut busy = vec![Nanos::ZERO; route.lane_names.len()];
    for (step, span) in route.steps.iter().zip(&spans) {
        busy[step.lane] += span.end - span.start;
    }
    let peak = memory::peak(route, &spans)?;
    let excess = memory::excess(route, &peak);
    Ok(Emulation { makespan: ends[0] - Time::ZERO, spans, busy, peak, excess })
}

/// Many batches of one route, played with several in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelinedEmulation {
    /// From the first batch's start to the last one's end.
    pub makespan: Nanos,
    /// When each batch ended, by number.
    pub ends: Vec<Time>,
    /// Time a batch takes once the pipeline is full, over the later half of the batches: thousandths of a nanosecond.
    pub period_millis: u64,
    /// Busy time of each lane.
    pub busy: Vec<Nanos>,
}

/// Plays batches of a route back to back on the same lanes: the next one begins when fewer than `in_flight` are on
/// their way, and where two batches could submit, the older one goes first.
///
/// # Errors
/// The route is inconsistent, a count is zero or beyond its bound (see [`crate::limits`]), or a step fails as the
/// options say.
pub fn emulate_batches(
    route: &Route,
    batches: usize,
    in_flight: usize,
    options: &EmulationOptions,
) -> Result<PipelinedEmulation, EmulationError> {
    let counts = [("batches", BATCHES_MAX, batches), ("batches in flight", BATCHES_IN_FLIGHT_MAX, in_flight)];
    if let Some((what, max, found)) = counts.into_iter().find(|(_, max, found)| *found == 0 || found > max) {
        return Err(EmulationError::Count { what, max, found });
    }
    let mut player = Player::new(route, options, in_flight)?;
    let mut busy = vec![Nanos::ZERO; route.lane_names.len()];
    let ends = player.play(batches as u64, |c| busy[c.lane] += c.end - c.start)?;
    let last = ends.iter().copied().max().unwrap_or(Time::ZERO);
    Ok(PipelinedEmulation { makespan: last - Time::ZERO, period_millis: period_millis(&ends), ends, busy })
}

fn period_millis(ends: &[Time]) -> u64 {
    let mut ends = ends.to_vec();
    ends.sort_unstable();
    let last = ends.len() - 1;
    let (since, count) = if last == 0 { (Time::ZERO, 1) } else { (ends[last / 2], last - last / 2) };
    let millis = u128::from((ends[last] - since).0) * 1000 / count as u128;
    u64::try_from(millis).unwrap_or(u64::MAX)
}

/// Executions of one route on one emulated device. A driver does the same with real devices and a real clock.
struct Player {
    device: EmulatedDevice,
    /// Batches on their way, oldest first.
    flying: VecDeque<(u64, Execution)>,
    /// Executions to be used again.
    idle: Vec<Execution>,
}

impl Player {
    fn new(route: &Route, options: &EmulationOptions, in_flight: usize) -> Result<Self, RouteError> {
        let first = Execution::new(Arc::new(route.clone()))?;
        let mut idle: Vec<Execution> = (1..in_flight).map(|_| first.sibling()).collect();
        idle.push(first);
        Ok(Self { device: EmulatedDevice::for_route(route, options.clone()), flying: VecDeque::new(), idle })
    }

    /// Plays so many batches; returns the end of each.
    fn play(&mut self, batches: u64, mut seen: impl FnMut(&Completion)) -> Result<Vec<Time>, EmulationError> {
        let mut ends = vec![Time::ZERO; batches as usize];
        let (mut now, mut begun) = (Time::ZERO, 0);
        while begun < batches || !self.flying.is_empty() {
            while begun < batches {
                let Some(execution) = self.idle.pop() else { break };
                self.flying.push_back((begun, execution));
                begun += 1;
            }
            self.submit(now);
            let wakeup = self.device.next_wakeup();
            now = wakeup.unwrap_or(now);
            while let Some(completion) = self.device.poll(now) {
                seen(&completion);
                self.complete(&completion);
            }
            let retired = self.retire(now, &mut ends)?;
            // Steps come after earlier ones only, so no route can get stuck.
            assert!(retired > 0 || wakeup.is_some(), "nothing runs, and no batch is over");
        }
        Ok(ends)
    }

    fn submit(&mut self, now: Time) {
        for (batch, execution) in &mut self.flying {
            while let Some(step) = execution.poll_step() {
                let route = execution.route().clone();
                let ticket = Ticket { route: 0, batch: *batch, ring: 0, step: step as u32 };
                let command = Command { lane: route.steps[step].lane, ticket, route };
                self.device.submit(now, command).expect("the device has the route's lanes");
            }
        }
    }

    fn complete(&mut self, completion: &Completion) {
        let Ticket { batch, step, .. } = completion.ticket;
        let found = self.flying.iter_mut().find(|(b, _)| *b == batch);
        let (_, execution) = found.expect("a completion belongs to a batch in flight");
        match &completion.result {
            Ok(()) => execution.done(step as usize),
            Err(error) => execution.failed(step as usize, error.to_string()),
        }
    }

    /// Takes out what is over; returns how many batches that were.
    fn retire(&mut self, now: Time, ends: &mut [Time]) -> Result<usize, EmulationError> {
        let before = self.flying.len();
        let mut i = 0;
        while i < self.flying.len() {
            if !self.flying[i].1.is_over() {
                i += 1;
                continue;
            }
            let (batch, mut execution) = self.flying.remove(i).expect("it is there");
            if let Some((step, why)) = execution.failure() {
                return Err(EmulationError::Step { batch, step, why: why.to_owned() });
            }
            ends[batch as usize] = now;
            execution.reset();
            self.idle.push(execution);
        }
        Ok(before - self.flying.len())
    }
}
