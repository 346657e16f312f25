//! Rules that hold after every event of a world, whatever goes wrong in it. The checker keeps books of its own from
//! events and actions alone; it asks the scheduler for nothing but the members of a batch just formed, and whom its
//! policies overlook.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use tandem_ir::plan::{Policy, Route};
use tandem_ir::{Nanos, Time};

use crate::device::{Completion, Ticket};
use crate::limits::LOST_WAIT;
use crate::scheduler::{Action, Event, Outcome, Scheduler, Setup};

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at {now}, rule \"{rule}\": {what}")]
pub struct Violation {
    /// When.
    pub now: Nanos,
    /// Which.
    pub rule: &'static str,
    /// How.
    pub what: String,
}

/// A rule to break on purpose, to see that it is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Canary {
    /// A reply is lost.
    LoseReply,
    /// A request is answered twice.
    ReplyTwice,
    /// A set of buffers is given back while a command of its batch is on a lane.
    RetireEarly,
    /// A set of buffers is never given back.
    ForgetRetire,
    /// A step is submitted before what it waits for.
    SkipDependency,
    /// A batch is formed without saying so.
    ForgetForm,
    /// A batch that was to wait until a moment still waits after it.
    Oversleep,
}

/// Breaks a rule, once, well into the world.
#[derive(Clone, Debug)]
struct Breaker {
    canary: Canary,
    /// Fitting actions to let pass.
    pass: u32,
}

impl Breaker {
    /// Whether a batch is slept through now; `due` is whether one is.
    fn oversleeps(&mut self, due: bool) -> bool {
        let fits = self.canary == Canary::Oversleep && due;
        self.pass -= u32::from(fits && self.pass > 0);
        fits && self.pass == 0
    }

    /// The actions as the checker is told them.
    fn tell(&mut self, action: &Action) -> Vec<Action> {
        let fits = match (self.canary, action) {
            (Canary::LoseReply | Canary::ReplyTwice, Action::Reply { .. })
            | (Canary::RetireEarly, Action::Submit(_))
            | (Canary::ForgetRetire, Action::Retire(_))
            | (Canary::ForgetForm, Action::Form(_)) => true,
            (Canary::SkipDependency, Action::Submit(command)) => {
                command.ticket.step + 1 < command.route.steps.len() as u32
            }
            _ => false,
        };
        if !fits || self.pass > 0 {
            self.pass -= u32::from(fits && self.pass > 0);
            return vec![action.clone()];
        }
        self.pass = u32::MAX;
        match (self.canary, action) {
            (Canary::ReplyTwice, _) => vec![action.clone(), action.clone()],
            (Canary::RetireEarly, Action::Submit(command)) => vec![action.clone(), Action::Retire(command.ticket)],
            (Canary::SkipDependency, Action::Submit(command)) => {
                let mut early = command.clone();
                early.ticket.step += 1;
                vec![Action::Submit(early)]
            }
            _ => vec![],
        }
    }
}

/// A request, by the books.
#[derive(Clone, Debug)]
struct Booked {
    group: usize,
    rows: u32,
    /// Order of arrival.
    sequence: u64,
    arrived: Time,
    /// In no batch.
    waits: bool,
    lone: bool,
}

/// A batch, by the books.
#[derive(Clone, Debug)]
struct Flight {
    route: Arc<Route>,
    ring: (u32, u32),
    submitted: BTreeSet<u32>,
    done: BTreeSet<u32>,
    /// Commands that are on no queue any more: they have ended, or were there when their device came back.
    ended: usize,
    failed: bool,
    members: Vec<u32>,
}

/// The books.
#[derive(Clone, Debug)]
pub struct Checker {
    policies: Vec<Policy>,
    batch_max: Vec<u64>,
    alone: Vec<bool>,
    group_of: Vec<usize>,
    depth: Vec<usize>,
    device_of: Vec<usize>,
    rings_max: Vec<u32>,
    requests: HashMap<u32, Booked>,
    /// By group: arrival order of those that wait.
    queues: Vec<BTreeMap<u64, u32>>,
    flights: BTreeMap<u64, Flight>,
    rings: BTreeSet<(u32, u32)>,
    /// By queue: batches of the commands on it, in order.
    on_queue: Vec<VecDeque<u64>>,
    /// By queue: its lane where that is one of threads, and threads of the command on it.
    threads_lane: Vec<Option<usize>>,
    threads_on: Vec<u32>,
    cores: Vec<u32>,
    now: Time,
    arrivals: u64,
    /// The request whose arrival is being handled.
    arriving: Option<u32>,
    /// Since when every device is there.
    whole_since: Option<Time>,
    lost: BTreeSet<usize>,
    breaker: Option<Breaker>,
}

impl Checker {
    /// Empty books.
    pub fn new(setup: &Setup, canary: Option<Canary>) -> Self {
        let lanes = setup.lanes.iter().enumerate();
        let threads_lane = lanes.flat_map(|(i, l)| std::iter::repeat_n(l.threads.then_some(i), l.slots)).collect();
        let largest = |g: &crate::scheduler::GroupSpec| g.routes.iter().map(|r| setup.routes[*r].batch).max();
        Self {
            policies: setup.groups.iter().map(|g| g.policy.clone()).collect(),
            batch_max: setup.groups.iter().map(|g| largest(g).unwrap_or(0)).collect(),
            alone: setup.groups.iter().map(|g| g.alone).collect(),
            group_of: setup.group_of(),
            depth: setup.queues().map(|q| q.depth).collect(),
            device_of: setup.queues().map(|q| q.device).collect(),
            rings_max: setup.routes.iter().map(|r| setup.rings(r) as u32).collect(),
            requests: HashMap::new(),
            queues: vec![BTreeMap::new(); setup.groups.len()],
            flights: BTreeMap::new(),
            rings: BTreeSet::new(),
            on_queue: vec![VecDeque::new(); setup.queues().count()],
            threads_lane,
            threads_on: vec![0; setup.queues().count()],
            cores: setup.lanes.iter().map(|l| l.slots as u32).collect(),
            now: Time::ZERO,
            arrivals: 0,
            arriving: None,
            whole_since: Some(Time::ZERO),
            lost: BTreeSet::new(),
            breaker: canary.map(|canary| Breaker { canary, pass: 20 }),
        }
    }

    fn broken<T>(&self, rule: &'static str, what: impl Into<String>) -> Result<T, Violation> {
        Err(Violation { now: self.now - Time::ZERO, rule, what: what.into() })
    }

    /// An event is about to be handled.
    ///
    /// # Errors
    /// A rule is broken.
    pub fn event(&mut self, now: Time, event: &Event, scheduler: &Scheduler) -> Result<(), Violation> {
        if now < self.now {
            return self.broken("time passes", format!("{} after {}", now.0, self.now.0));
        }
        self.now = now;
        self.arriving = None;
        match event {
            Event::Arrive(arrival) => {
                let idle = self.queues[arrival.group].is_empty()
                    && self.flights.values().all(|f| f.members.is_empty() && f.ended == f.submitted.len());
                self.arriving = Some(arrival.request);
                self.arrivals += 1;
                let booked = Booked {
                    group: arrival.group,
                    rows: arrival.rows,
                    sequence: self.arrivals,
                    arrived: now,
                    waits: true,
                    lone: idle && self.lost.is_empty(),
                };
                if self.requests.insert(arrival.request, booked).is_some() {
                    return self.broken("numbers are free", format!("request {} comes twice", arrival.request));
                }
                self.queues[arrival.group].insert(self.arrivals, arrival.request);
            }
            Event::Ended(completion) => self.ended(completion)?,
            Event::DeviceLost(device) => {
                self.lost.insert(*device);
                self.whole_since = None;
            }
            Event::DeviceBack(device) => {
                self.lost.remove(device);
                self.back(*device);
                self.whole_since = self.lost.is_empty().then_some(now);
            }
            Event::Tick => {
                // As if it had been handled, and nothing done.
                let overlooked = scheduler.overlooked(now);
                if self.breaker.as_mut().is_some_and(|b| b.oversleeps(overlooked.is_some())) {
                    return self.none_overlooked(overlooked);
                }
            }
            Event::Cancel(_) | Event::Drain => {}
        }
        Ok(())
    }

    /// Nothing is on the lanes of a device that comes back.
    fn back(&mut self, device: usize) {
        for queue in (0..self.on_queue.len()).filter(|q| self.device_of[*q] == device).collect::<Vec<_>>() {
            for batch in std::mem::take(&mut self.on_queue[queue]) {
                if let Some(flight) = self.flights.get_mut(&batch) {
                    (flight.ended, flight.failed) = (flight.ended + 1, true);
                }
            }
            self.threads_on[queue] = 0;
        }
    }

    fn ended(&mut self, completion: &Completion) -> Result<(), Violation> {
        let Completion { ticket, lane, result, .. } = completion;
        if self.on_queue[*lane].front() != Some(&ticket.batch) {
            // It was there when its device came back, and is nobody's any more.
            return Ok(());
        }
        self.on_queue[*lane].pop_front();
        self.threads_on[*lane] = 0;
        let Some(flight) = self.flights.get_mut(&ticket.batch) else {
            return self.broken("buffers outlive their commands", format!("{ticket:?} ends after its batch"));
        };
        flight.ended += 1;
        match result {
            Ok(()) => _ = flight.done.insert(ticket.step),
            Err(_) => flight.failed = true,
        }
        Ok(())
    }

    /// An action was asked for.
    ///
    /// # Errors
    /// A rule is broken.
    pub fn action(&mut self, now: Time, action: &Action, scheduler: &Scheduler) -> Result<(), Violation> {
        self.now = now;
        let told = match &mut self.breaker {
            Some(breaker) => breaker.tell(action),
            None => return self.told(action, scheduler),
        };
        told.iter().try_for_each(|action| self.told(action, scheduler))
    }

    fn told(&mut self, action: &Action, scheduler: &Scheduler) -> Result<(), Violation> {
        match action {
            Action::Form(ticket) => self.formed(*ticket, scheduler),
            Action::Submit(command) => self.submitted(command),
            Action::Reply { request, outcome } => self.replied(*request, outcome),
            Action::Refuse { request, .. } => match self.requests.remove(request) {
                Some(booked) if self.arriving == Some(*request) => {
                    self.queues[booked.group].remove(&booked.sequence);
                    self.arriving = None;
                    Ok(())
                }
                _ => self.broken("only arrivals are refused", format!("request {request}")),
            },
            Action::Retire(ticket) => self.retired(*ticket),
        }
    }

    fn formed(&mut self, ticket: Ticket, scheduler: &Scheduler) -> Result<(), Violation> {
        let route = ticket.route as usize;
        let group = self.group_of[route];
        let members: Vec<(u32, u32, u32)> = scheduler.members(ticket).collect();
        let (mut row, mut ids, mut last) = (0, vec![], 0);
        for (id, first, rows) in &members {
            let Some(booked) = self.requests.get_mut(id).filter(|b| b.group == group) else {
                return self.broken("batches hold requests of their tenant", format!("{id} in {ticket:?}"));
            };
            let sequence = booked.sequence;
            if *first != row || *rows != booked.rows {
                return self.broken("rows follow each other", format!("{id} at row {first} of {rows}"));
            }
            row += rows;
            ids.push(*id);
            if sequence <= std::mem::replace(&mut last, sequence) {
                return self.broken("first come, first served", format!("{id} after a later one in {ticket:?}"));
            }
            if std::mem::take(&mut booked.waits) {
                let head = self.queues[group].pop_first();
                if head != Some((sequence, *id)) {
                    return self.broken("first come, first served", format!("{id} before {head:?}"));
                }
            } else {
                self.returned(*id)?;
            }
        }
        if self.alone[group] && members.len() > 1 {
            return self.broken("what cannot share a batch does not", format!("{} in {ticket:?}", members.len()));
        }
        let batch = scheduler.route(ticket.route).batch;
        if members.is_empty() || u64::from(row) > batch || batch > self.batch_max[group] {
            return self.broken("batches fit their routes", format!("{row} items in a batch of {batch}"));
        }
        let ring = (ticket.route, ticket.ring);
        if ticket.ring >= self.rings_max[route] || !self.rings.insert(ring) {
            return self.broken("a set of buffers has one batch", format!("{ticket:?}"));
        }
        let flight = Flight {
            route: scheduler.route(ticket.route).clone(),
            ring,
            submitted: BTreeSet::new(),
            done: BTreeSet::new(),
            ended: 0,
            failed: false,
            members: ids,
        };
        self.flights.insert(ticket.batch, flight);
        Ok(())
    }

    /// A request is in a batch once more: the one before was given up and does nothing any more.
    fn returned(&mut self, id: u32) -> Result<(), Violation> {
        let Some(flight) = self.flights.values_mut().find(|f| f.members.contains(&id)) else {
            // Its buffers are free already.
            return Ok(());
        };
        flight.members.retain(|m| *m != id);
        flight.failed = true;
        Ok(())
    }

    fn submitted(&mut self, command: &crate::device::Command) -> Result<(), Violation> {
        let (queue, ticket) = (command.lane, command.ticket);
        self.on_queue[queue].push_back(ticket.batch);
        if self.on_queue[queue].len() > self.depth[queue] {
            return self.broken("queues hold as many commands as they may", format!("queue {queue}: {ticket:?}"));
        }
        if let Some(lane) = self.threads_lane[queue] {
            self.threads_on[queue] = command.route.threads.max(1);
            let on_lane = (0..self.threads_on.len()).filter(|q| self.threads_lane[*q] == Some(lane));
            let threads: u32 = on_lane.map(|q| self.threads_on[q]).sum();
            if threads > self.cores[lane] {
                return self.broken("cores are promised once", format!("{threads} threads: {ticket:?}"));
            }
        }
        let Some(flight) = self.flights.get_mut(&ticket.batch) else {
            return self.broken("commands belong to batches", format!("{ticket:?}"));
        };
        let steps = &flight.route.steps;
        let step = &steps[ticket.step as usize];
        let earlier = (0..ticket.step).filter(|s| steps[*s as usize].lane == step.lane);
        let after = step.after.iter().map(|a| *a as u32);
        // Of its own lane, what is in front of it on the queue is enough.
        let missing = earlier.filter(|s| !flight.submitted.contains(s)).chain(after.filter(|s| {
            let same = steps[*s as usize].lane == step.lane && self.depth[queue] > 1;
            !(flight.done.contains(s) || same && flight.submitted.contains(s))
        }));
        let missing: Vec<u32> = missing.collect();
        let twice = !flight.submitted.insert(ticket.step);
        if twice || flight.failed || !missing.is_empty() {
            let what = format!("{ticket:?} before steps {missing:?}, twice: {twice}");
            return self.broken("steps come after what they wait for, once", what);
        }
        Ok(())
    }

    fn replied(&mut self, request: u32, outcome: &Outcome) -> Result<(), Violation> {
        let Some(booked) = self.requests.remove(&request) else {
            return self.broken("one reply each", format!("request {request} has none to get: {outcome:?}"));
        };
        self.queues[booked.group].remove(&booked.sequence);
        for flight in self.flights.values_mut() {
            flight.members.retain(|m| *m != request);
        }
        let Outcome::Done(served) = outcome else { return Ok(()) };
        match self.flights.get(&served.ticket.batch) {
            Some(f) if f.done.len() == f.route.steps.len() && !booked.waits => {
                if served.queued + served.executed != self.now - booked.arrived {
                    return self.broken("times add up", format!("request {request}: {served:?}"));
                }
                Ok(())
            }
            _ => self.broken("outputs are those of finished batches", format!("request {request}: {served:?}")),
        }
    }

    fn retired(&mut self, ticket: Ticket) -> Result<(), Violation> {
        let Some(flight) = self.flights.remove(&ticket.batch) else {
            return self.broken("buffers are given back once", format!("{ticket:?}"));
        };
        self.rings.remove(&flight.ring);
        if flight.ended != flight.submitted.len() {
            return self.broken("buffers outlive their commands", format!("{ticket:?}"));
        }
        Ok(())
    }

    /// An event was handled and its actions carried out.
    ///
    /// # Errors
    /// A rule is broken.
    pub fn after(&mut self, now: Time, scheduler: &Scheduler) -> Result<(), Violation> {
        if scheduler.poll_timeout().is_some_and(|at| at <= now) {
            return self
                .broken("what is due was done", format!("a timeout at {:?} is still there", scheduler.poll_timeout()));
        }
        if let Some(id) = self.arriving {
            let booked = self.requests.get(&id);
            if let Some(b) = booked.filter(|b| b.lone && b.waits) {
                let waits =
                    matches!(&self.policies[b.group], Policy::Fixed { queue_delay, .. } if *queue_delay > Nanos::ZERO);
                if !waits && scheduler.is_whole() {
                    return self.broken("a lone request does not wait", format!("request {id}"));
                }
            }
        }
        self.none_overlooked(scheduler.overlooked(now))
    }

    fn none_overlooked(&self, overlooked: Option<usize>) -> Result<(), Violation> {
        match overlooked {
            Some(tenant) => {
                self.broken("what can be closed is closed", format!("tenant {tenant} has a batch to close"))
            }
            None => Ok(()),
        }
    }

    /// The world is over: everything was drained.
    ///
    /// # Errors
    /// A rule is broken.
    pub fn at_end(&self, scheduler: &Scheduler, now: Time) -> Result<(), Violation> {
        let ended = |rule, what: String| Err(Violation { now: now - Time::ZERO, rule, what });
        if !self.requests.is_empty() {
            let ids: Vec<&u32> = self.requests.keys().take(5).collect();
            let stands: Vec<_> = (0..self.policies.len()).map(|g| scheduler.stand(g)).collect();
            let what = format!("{} have none: {ids:?}; {stands:?}", self.requests.len());
            return ended("every request gets a reply", what);
        }
        if !self.rings.is_empty() || !scheduler.is_idle() {
            return ended("buffers return", format!("{:?} are held", self.rings));
        }
        if let Some(since) = self.whole_since
            && now > since + LOST_WAIT * 100
        {
            return ended("drained in bounded time", format!("{}", now.0));
        }
        Ok(())
    }
}
