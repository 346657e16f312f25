//! A scheduler on the timing emulator, step by step: a test says what comes when, and looks at what was done.

use std::collections::BTreeMap;
use std::sync::Arc;

use tandem_core::device::{Completion, Device, DeviceError, DeviceSpec, Ticket};
use tandem_core::scheduler::{Action, Arrival, Close, Event, GroupSpec, LaneSpec, Outcome, Refusal, Served, Setup};
use tandem_core::sim::synthetic::{self, Stage as Step};
use tandem_core::{EmulatedDevice, EmulationOptions, Scheduler};
use tandem_ir::plan::{Policy, Route};
use tandem_ir::{Bytes, DeviceKind, Nanos, Time};

pub const MS: u64 = 1_000_000;

pub fn ms(n: u64) -> Nanos {
    Nanos(n * MS)
}

/// The moment so many milliseconds after the beginning.
pub fn at(n: u64) -> Time {
    Time(n * MS)
}

/// A route of steps, each a lane and its milliseconds, that takes all of its tenant's batches unless said otherwise.
pub fn route(tenant: &str, batch: u64, steps: &[(&'static str, u64)]) -> Route {
    let steps: Vec<Step<'static>> = steps.iter().map(|(lane, n)| (*lane, ms(*n))).collect();
    Route { share_permille: 1000, ..synthetic::chain(tenant, batch, &steps) }
}

/// As soon as there is room, whatever there is.
pub fn at_once() -> Policy {
    Policy::Fixed { preferred: vec![], queue_delay: Nanos::ZERO }
}

/// A tenant, and its routes.
pub struct Tenant {
    pub spec: GroupSpec,
    pub routes: Vec<Route>,
}

impl Tenant {
    pub fn new(name: &str, policy: Policy, routes: Vec<Route>) -> Self {
        let spec = GroupSpec {
            name: name.into(),
            policy,
            slo: None,
            queue_max: 4096,
            millirate: None,
            routes: vec![],
            alone: false,
        };
        Self { spec, routes }
    }

    pub fn slo(mut self, n: u64) -> Self {
        self.spec.slo = Some(ms(n));
        self
    }

    pub fn queue_max(mut self, n: usize) -> Self {
        self.spec.queue_max = n;
        self
    }
}

/// A machine with so many cores and an accelerator, for these tenants.
pub fn setup(cores: usize, tenants: Vec<Tenant>) -> Setup {
    let (mut groups, mut routes) = (vec![], vec![]);
    for mut tenant in tenants {
        tenant.spec.routes = (routes.len()..routes.len() + tenant.routes.len()).collect();
        routes.extend(tenant.routes.into_iter().map(Arc::new));
        groups.push(tenant.spec);
    }
    Setup { lanes: synthetic::lanes(cores), routes, groups, devices: 2 }
}

/// A batch that was formed.
#[derive(Clone, Debug)]
pub struct Formed {
    pub at: Time,
    pub ticket: Ticket,
    /// Batch size of its route.
    pub size: u64,
    /// Its requests, by row.
    pub requests: Vec<u32>,
    pub rows: u32,
}

/// A step that ran.
#[derive(Clone, Debug)]
pub struct Ran {
    pub lane: String,
    pub tenant: String,
    pub start: Time,
    pub end: Time,
}

/// See the module.
pub struct Stage {
    pub scheduler: Scheduler,
    device: EmulatedDevice,
    queues: Vec<LaneSpec>,
    now: Time,
    arrivals: u32,
    pub formed: Vec<Formed>,
    pub ran: Vec<Ran>,
    pub replies: Vec<(Time, u32, Outcome)>,
    pub refused: BTreeMap<u32, Refusal>,
    /// Batches whose buffers are held, with their route's number.
    held: BTreeMap<u64, (u32, u32)>,
}

/// More than any test has.
const EVENTS_MAX: usize = 1_000_000;

impl Stage {
    pub fn new(setup: &Setup) -> Self {
        let queues: Vec<LaneSpec> = setup.queues().cloned().collect();
        let spec = DeviceSpec {
            name: "emulated".into(),
            kind: DeviceKind::Gpu,
            lanes: queues.iter().map(|q| q.name.clone()).collect(),
            memory: Bytes(u64::MAX),
            engine: "timing emulator".into(),
        };
        Self {
            scheduler: Scheduler::new(setup, Time::ZERO).expect("a sound setup"),
            device: EmulatedDevice::new(spec, EmulationOptions::default()),
            queues,
            now: Time::ZERO,
            arrivals: 0,
            formed: vec![],
            ran: vec![],
            replies: vec![],
            refused: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    /// Lets everything happen until a moment, and at it.
    pub fn until(&mut self, end: Time) -> &mut Self {
        for _ in 0..EVENTS_MAX {
            while let Some(completion) = self.device.poll(self.now) {
                self.ran(&completion);
                self.handle(Event::Ended(completion));
            }
            if self.scheduler.poll_timeout().is_some_and(|t| t <= self.now) {
                self.handle(Event::Tick);
            }
            let next = self.device.next_wakeup().into_iter().chain(self.scheduler.poll_timeout()).min();
            match next.filter(|t| *t <= end) {
                Some(next) => self.now = next.max(self.now),
                None => {
                    self.now = end.max(self.now);
                    return self;
                }
            }
        }
        panic!("it does not come to an end");
    }

    /// Lets everything happen that will, without further requests.
    pub fn finish(&mut self) -> &mut Self {
        while !self.scheduler.is_idle() {
            let next = self.device.next_wakeup().into_iter().chain(self.scheduler.poll_timeout()).min();
            let next = next.expect("something is left to do, and nothing will happen");
            self.until(next);
        }
        assert!(self.held.is_empty(), "buffers are held: {:?}", self.held);
        self
    }

    /// A request of one item arrives now; its number counts up from 0.
    pub fn arrive(&mut self, group: usize) -> u32 {
        self.arrive_with(group, 1, None)
    }

    pub fn arrive_with(&mut self, group: usize, rows: u32, timeout: Option<Nanos>) -> u32 {
        let request = self.arrivals;
        self.arrivals += 1;
        self.handle(Event::Arrive(Arrival { request, group, rows, timeout }));
        request
    }

    /// So many arrive now.
    pub fn arrive_many(&mut self, group: usize, count: u32) -> std::ops::Range<u32> {
        let first = self.arrivals;
        (0..count).for_each(|_| _ = self.arrive(group));
        first..first + count
    }

    pub fn handle(&mut self, event: Event) {
        self.scheduler.handle(self.now, event);
        while let Some(action) = self.scheduler.poll_action() {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Form(ticket) => {
                let members: Vec<(u32, u32, u32)> = self.scheduler.members(ticket).collect();
                let rows = members.iter().map(|m| m.2).sum();
                let size = self.scheduler.route(ticket.route).batch;
                let requests = members.iter().map(|m| m.0).collect();
                let ring = (ticket.route, ticket.ring);
                assert!(self.held.values().all(|held| *held != ring), "{ticket:?}: its buffers are another's");
                self.held.insert(ticket.batch, ring);
                self.formed.push(Formed { at: self.now, ticket, size, requests, rows });
            }
            Action::Submit(command) => self.device.submit(self.now, command).expect("the device has all queues"),
            Action::Reply { request, outcome } => {
                let answered =
                    self.replies.iter().any(|(_, r, _)| *r == request) || self.refused.contains_key(&request);
                assert!(!answered, "request {request} is answered twice");
                self.replies.push((self.now, request, outcome));
            }
            Action::Refuse { request, why } => _ = self.refused.insert(request, why),
            Action::Retire(ticket) => {
                assert!(self.held.remove(&ticket.batch).is_some(), "{ticket:?}: its buffers were given back before");
            }
        }
    }

    fn ran(&mut self, completion: &Completion) {
        let Completion { ticket, lane, start, end, .. } = completion;
        let tenant = self.scheduler.route(ticket.route).tenant.clone();
        let lane = self.queues[*lane].name.clone();
        self.ran.push(Ran { lane, tenant, start: *start, end: *end });
    }

    fn queues_of(&self, device: usize) -> Vec<usize> {
        (0..self.queues.len()).filter(|q| self.queues[*q].device == device).collect()
    }

    fn queue(&self, lane: &str) -> usize {
        self.queues.iter().position(|q| q.name == lane).expect("a lane of this name")
    }

    /// The accelerator is gone.
    pub fn lose(&mut self, device: usize) {
        let queues = self.queues_of(device);
        self.device.lose(self.now, &queues);
        self.until(self.now);
        self.handle(Event::DeviceLost(device));
    }

    pub fn bring_back(&mut self, device: usize) {
        let queues = self.queues_of(device);
        self.device.bring_back(&queues);
        self.handle(Event::DeviceBack(device));
    }

    /// What runs on a lane's first queue takes so much longer.
    pub fn hang(&mut self, lane: &str, longer: Nanos) {
        let queue = self.queue(lane);
        self.device.hang(queue, longer);
    }

    /// What ends next on a lane's first queue fails.
    pub fn fail(&mut self, lane: &str) {
        let (device, engine, why) = (lane.to_owned(), "injected".into(), "injected".into());
        self.device.fail_next(self.queue(lane), DeviceError::Failed { device, engine, why });
    }

    pub fn run_out_of_memory(&mut self, lane: &str) {
        let error = DeviceError::OutOfMemory { device: lane.into(), value: "v".into(), needed: Bytes(1) };
        self.device.fail_next(self.queue(lane), error);
    }

    /// When a request was answered, and how.
    pub fn reply(&self, request: u32) -> (Time, &Outcome) {
        let found = self.replies.iter().find(|(_, r, _)| *r == request);
        found.map(|(at, _, outcome)| (*at, outcome)).unwrap_or_else(|| panic!("request {request} is not answered"))
    }

    /// What a request with outputs took.
    pub fn served(&self, request: u32) -> Served {
        match self.reply(request).1 {
            Outcome::Done(served) => *served,
            other => panic!("request {request}: {other:?}"),
        }
    }

    /// Requests of all batches, in the order in which these were formed.
    pub fn batches(&self) -> Vec<Vec<u32>> {
        self.formed.iter().map(|f| f.requests.clone()).collect()
    }

    /// What ran on a lane, by start.
    pub fn on(&self, lane: &str) -> Vec<&Ran> {
        let mut ran: Vec<&Ran> = self.ran.iter().filter(|r| r.lane == lane).collect();
        ran.sort_by_key(|r| (r.start, r.end));
        ran
    }

    pub fn closed(&self, group: usize, why: Close) -> u64 {
        self.scheduler.stand(group).counters.closed[why as usize]
    }
}
