//! The real scheduler on the timing emulator, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tandem_ir::{Bytes, DeviceKind, Nanos, Time};

use super::arrivals::Arrivals;
use super::checker::{Canary, Checker, Violation};
use super::report::{GroupReport, LaneReport, Report};
use crate::device::{Device, DeviceError, DeviceSpec};
use crate::emulator::{EmulatedDevice, EmulationOptions};
use crate::memory::Span;
use crate::rng::Rng;
use crate::scheduler::{Action, Arrival, Event, Outcome, Scheduler, Setup, SetupError};
use crate::trace::{TraceEvent, TraceKind, step_event};

/// Requests of one tenant.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Tenant, by position.
    pub group: usize,
    /// When they come.
    pub arrivals: Arrivals,
    /// Each has from one to so many items.
    pub rows_max: u32,
    /// How long their senders wait.
    pub timeout: Option<Nanos>,
    /// How many of a thousand are cancelled, at a random moment within the next 50 ms.
    pub cancel_permille: u64,
}

impl Workload {
    /// Requests of one item whose senders wait as long as it takes.
    pub fn new(group: usize, arrivals: Arrivals) -> Self {
        Self { group, arrivals, rows_max: 1, timeout: None, cancel_permille: 0 }
    }
}

/// Something that goes wrong, on a queue or on all queues of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next command to end on a queue fails.
    Fail(usize),
    /// The same, for want of memory.
    OutOfMemory(usize),
    /// What runs on a queue takes so much longer.
    Hang(usize, Nanos),
    /// A device is gone.
    Lose(usize),
    /// It is back.
    Back(usize),
}

/// How a world is run.
#[derive(Clone, Debug, Default)]
pub struct WorldOptions {
    /// When requests stop coming. Those that came are answered.
    pub duration: Nanos,
    /// Seed of everything random.
    pub seed: u64,
    /// What the emulator adds to the planned durations, as in [`EmulationOptions`].
    pub jitter_permille: u64,
    /// What goes wrong, in order of time.
    pub faults: Vec<(Time, Fault)>,
    /// Whether the rules are checked after every event.
    pub check: bool,
    /// A rule to break on purpose.
    pub canary: Option<Canary>,
    /// Steps to keep for a trace.
    pub trace_max: usize,
    /// Whether to keep what the scheduler was told, to tell it again.
    pub keep_events: bool,
}

/// Why a world came to no report.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WorldError {
    /// It could not begin.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// A rule was broken.
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// Runs a world to its end.
///
/// # Errors
/// The setup is not sound, or (where checked) a rule was broken.
pub fn simulate(setup: &Setup, workloads: Vec<Workload>, options: &WorldOptions) -> Result<Report, WorldError> {
    let mut world = World::new(setup, workloads, options)?;
    world.run()?;
    Ok(world.into_report())
}

struct World<'a> {
    setup: &'a Setup,
    options: &'a WorldOptions,
    scheduler: Scheduler,
    device: EmulatedDevice,
    workloads: Vec<Workload>,
    /// The next arrival of each workload.
    next: Vec<Option<Time>>,
    faults: std::collections::VecDeque<(Time, Fault)>,
    cancels: BinaryHeap<Reverse<(Time, u32)>>,
    checker: Option<Checker>,
    rng: Rng,
    /// Numbers of requests that are free.
    free: Vec<u32>,
    numbers: u32,
    now: Time,
    groups: Vec<GroupReport>,
    lanes: Vec<LaneReport>,
    /// Commands on each queue; of how many of the computing and of the copying queues there are some.
    on_queue: Vec<u32>,
    busy: [u32; 2],
    copying: Nanos,
    overlapped: Nanos,
    counted_until: Time,
    trace: Vec<TraceEvent>,
    events: u64,
    kept: Vec<(Time, Event)>,
    /// By route, by queue.
    group_of: Vec<usize>,
    lane_of: Vec<usize>,
}

impl<'a> World<'a> {
    fn new(setup: &'a Setup, mut workloads: Vec<Workload>, options: &'a WorldOptions) -> Result<Self, SetupError> {
        let queues: Vec<_> = setup.queues().collect();
        let spec = DeviceSpec {
            name: "emulated".into(),
            kind: DeviceKind::Gpu,
            lanes: queues.iter().map(|q| q.name.clone()).collect(),
            memory: Bytes(u64::MAX),
            engine: "timing emulator".into(),
        };
        let emulation =
            EmulationOptions { jitter_permille: options.jitter_permille, seed: options.seed, faults: vec![] };
        let lane_of = setup.lanes.iter().enumerate().flat_map(|(i, l)| std::iter::repeat_n(i, l.slots)).collect();
        let next = workloads.iter_mut().map(|w| w.arrivals.next()).collect();
        Ok(Self {
            setup,
            options,
            scheduler: Scheduler::new(setup, Time::ZERO)?,
            device: EmulatedDevice::new(spec, emulation),
            next,
            faults: options.faults.iter().copied().collect(),
            cancels: BinaryHeap::new(),
            checker: options.check.then(|| Checker::new(setup, options.canary)),
            rng: Rng::keyed(options.seed, &[0x3a11]),
            free: vec![],
            numbers: 0,
            now: Time::ZERO,
            groups: setup.groups.iter().map(GroupReport::new).collect(),
            lanes: setup.lanes.iter().map(LaneReport::new).collect(),
            on_queue: vec![0; queues.len()],
            busy: [0; 2],
            copying: Nanos::ZERO,
            overlapped: Nanos::ZERO,
            counted_until: Time::ZERO,
            workloads,
            trace: vec![],
            events: 0,
            kept: vec![],
            group_of: setup.group_of(),
            lane_of,
        })
    }

    fn run(&mut self) -> Result<(), Violation> {
        let end = Time::ZERO + self.options.duration;
        let mut draining = false;
        loop {
            let next = self.next_moment().filter(|t| draining || *t <= end);
            let Some(next) = next else {
                if draining {
                    break;
                }
                draining = true;
                self.now = self.now.max(end);
                self.next.iter_mut().for_each(|n| *n = None);
                self.handle(Event::Drain)?;
                continue;
            };
            self.now = next;
            self.step()?;
        }
        match &self.checker {
            Some(checker) => checker.at_end(&self.scheduler, self.now),
            None => Ok(()),
        }
    }

    /// When something happens next.
    fn next_moment(&self) -> Option<Time> {
        let arrival = self.next.iter().flatten().min().copied();
        let cancel = self.cancels.peek().map(|Reverse((at, _))| *at);
        let fault = self.faults.front().map(|(at, _)| *at);
        let known = [arrival, cancel, fault, self.device.next_wakeup(), self.scheduler.poll_timeout()];
        known.into_iter().flatten().min().map(|t| t.max(self.now))
    }

    /// Everything that happens at this moment.
    fn step(&mut self) -> Result<(), Violation> {
        while let Some(completion) = self.device.poll(self.now) {
            self.note(&completion);
            self.handle(Event::Ended(completion))?;
        }
        while let Some((_, fault)) = self.faults.front().filter(|(at, _)| *at <= self.now).copied() {
            self.faults.pop_front();
            self.inject(fault)?;
        }
        while let Some(Reverse((_, request))) = self.cancels.peek().filter(|Reverse((at, _))| *at <= self.now).copied()
        {
            self.cancels.pop();
            self.handle(Event::Cancel(request))?;
        }
        for w in 0..self.workloads.len() {
            while self.next[w].is_some_and(|at| at <= self.now) {
                self.next[w] = self.workloads[w].arrivals.next();
                self.arrive(w)?;
            }
        }
        match self.scheduler.poll_timeout() {
            Some(at) if at <= self.now => self.handle(Event::Tick),
            _ => Ok(()),
        }
    }

    fn arrive(&mut self, workload: usize) -> Result<(), Violation> {
        let of = &self.workloads[workload];
        let rows = if of.rows_max > 1 { 1 + self.rng.below(u64::from(of.rows_max)) as u32 } else { 1 };
        let request = self.free.pop().unwrap_or_else(|| {
            self.numbers += 1;
            self.numbers - 1
        });
        if of.cancel_permille > 0 && self.rng.below(1000) < of.cancel_permille {
            self.cancels.push(Reverse((self.now + Nanos(self.rng.below(50_000_000)), request)));
        }
        self.groups[of.group].offered += 1;
        let arrival = Arrival { request, group: of.group, rows, timeout: of.timeout };
        self.handle(Event::Arrive(arrival))
    }

    fn inject(&mut self, fault: Fault) -> Result<(), Violation> {
        let queues = |device: usize| -> Vec<usize> {
            self.setup.queues().enumerate().filter(|(_, q)| q.device == device).map(|(i, _)| i).collect()
        };
        let (device, engine) = ("emulated".to_owned(), "injected".to_owned());
        match fault {
            Fault::Fail(queue) => {
                self.device.fail_next(queue, DeviceError::Failed { device, engine, why: "injected".into() });
            }
            Fault::OutOfMemory(queue) => {
                let needed = Bytes(1 << 30);
                self.device.fail_next(queue, DeviceError::OutOfMemory { device, value: "v".into(), needed });
            }
            Fault::Hang(queue, longer) => self.device.hang(queue, longer),
            Fault::Lose(device) => {
                self.device.lose(self.now, &queues(device));
                while let Some(completion) = self.device.poll(self.now) {
                    self.note(&completion);
                    self.handle(Event::Ended(completion))?;
                }
                self.handle(Event::DeviceLost(device))?;
            }
            Fault::Back(device) => {
                self.device.bring_back(&queues(device));
                self.handle(Event::DeviceBack(device))?;
            }
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        self.events += 1;
        if self.options.keep_events {
            self.kept.push((self.now, event.clone()));
        }
        if let Some(checker) = &mut self.checker {
            checker.event(self.now, &event, &self.scheduler)?;
        }
        self.scheduler.handle(self.now, event);
        while let Some(action) = self.scheduler.poll_action() {
            if let Some(checker) = &mut self.checker {
                checker.action(self.now, &action, &self.scheduler)?;
            }
            self.act(action);
        }
        match &mut self.checker {
            Some(checker) => checker.after(self.now, &self.scheduler),
            None => Ok(()),
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Submit(command) => {
                self.count_until_now();
                let queue = command.lane;
                self.on_queue[queue] += 1;
                if self.on_queue[queue] == 1 {
                    self.busy[self.kind(queue)] += 1;
                }
                self.device.submit(self.now, command).expect("the device has all queues");
            }
            Action::Reply { request, outcome } => {
                self.free.push(request);
                if let Outcome::Done(served) = &outcome {
                    let group = &mut self.groups[self.group_of[served.ticket.route as usize]];
                    group.latency.add(served.queued + served.executed);
                    group.queued.add(served.queued);
                    if group.slo.is_none_or(|slo| served.queued + served.executed <= slo) {
                        group.good += 1;
                    }
                }
            }
            Action::Refuse { request, .. } => self.free.push(request),
            Action::Form(ticket) => {
                let rows = self.scheduler.members(ticket).map(|(.., rows)| rows).sum();
                let group = &mut self.groups[self.group_of[ticket.route as usize]];
                *group.batches.entry(rows).or_insert(0) += 1;
            }
            Action::Retire(_) => {}
        }
    }

    /// 0: computes, 1: copies.
    fn kind(&self, queue: usize) -> usize {
        usize::from(self.lanes[self.lane_of[queue]].is_link)
    }

    fn note(&mut self, completion: &crate::device::Completion) {
        self.count_until_now();
        let queue = completion.lane;
        self.on_queue[queue] -= 1;
        if self.on_queue[queue] == 0 {
            self.busy[self.kind(queue)] -= 1;
        }
        let lane = self.lane_of[queue];
        let route = &self.setup.routes[completion.ticket.route as usize];
        let cores = if self.setup.lanes[lane].threads { u64::from(route.threads.max(1)) } else { 1 };
        self.lanes[lane].busy += (completion.end - completion.start) * cores;
        if self.trace.len() < self.options.trace_max {
            let span = Span { start: completion.start, end: completion.end };
            let mut event = step_event(route, completion.ticket.step as usize, span, TraceKind::Measured);
            event.facts.push(("number".into(), (completion.ticket.batch as u32).to_string()));
            if self.setup.lanes[lane].slots > 1 {
                event.lane = format!("{} {}", event.lane, queue);
            }
            self.trace.push(event);
        }
    }

    /// Adds up how long transfers ran, and how long beside compute.
    fn count_until_now(&mut self) {
        let passed = self.now - self.counted_until;
        if self.busy[1] > 0 {
            self.copying += passed;
            if self.busy[0] > 0 {
                self.overlapped += passed;
            }
        }
        self.counted_until = self.now;
    }

    fn into_report(self) -> Report {
        let mut groups = self.groups;
        for (g, group) in groups.iter_mut().enumerate() {
            group.counters = self.scheduler.stand(g).counters;
        }
        Report {
            duration: self.options.duration,
            end: self.now,
            groups,
            lanes: self.lanes,
            copying: self.copying,
            overlapped: self.overlapped,
            trace: self.trace,
            events: self.events,
            kept: self.kept,
        }
    }
}
