//! The scheduler: requests become batches, batches become commands. Sans-IO: what happened comes in as events, each with
//! its time; what is to be done comes out as actions. The real driver and the simulator run this same code.
//!
//! A request waits in its tenant's queue, first come first served, until the policy that the plan names closes a batch
//! ([`Close`] says why). The batch takes the route whose turn it is by the plan's shares, or a smaller one that still
//! holds it, and a set of the route's buffers. Its steps go to the lanes that all tenants share, the most urgent first,
//! whenever a lane ends something: so tenants share lanes at the boundaries of segments. Who uses more of a lane than its
//! part is less urgent than who does not (docs/decisions/0008). When its last step is done each of its requests is
//! answered.
//!
//! Promises, whatever happens and in whatever order: each request that was let in gets exactly one reply, each that was
//! not exactly one refusal; requests of a tenant enter batches in the order of their arrival; a set of buffers belongs to
//! one batch until every command of it has completed; and nothing is allocated once tables have their size.
//!
//! Faults. A step that fails takes its batch with it: its requests go back to the front of the queue and run each alone,
//! so that one which breaks its batch breaks itself only, and fail after [`limits::FAILURES_MAX`]. A device that is lost
//! takes along all batches on routes that need it: their requests go back, and on to a route whose devices are there,
//! where the plan has one. A step over its bound is taken for hung: its queue is closed until the step ends after all,
//! and where that leaves a lane without queues, the routes through it are as if their device were lost. That a device is
//! back is for the caller to find out; `tandem serve` does not try.
//!
//! Deliberately absent: clocks, threads, tensors, and how requests came in.

mod admission;
mod batcher;
mod batches;
mod class;
mod faults;
mod form;
mod lanes;
mod phases;
mod requests;
mod server;
mod setup;
mod state;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use tandem_ir::{Nanos, Time};

use crate::device::{Command, Completion, DeviceError, Ticket};
use crate::limits;
pub use batcher::Close;
use batches::{Batches, RouteState};
use lanes::{Lane, Ready};
pub use phases::{Phase, Phases};
use requests::Requests;
use server::Server;
pub use setup::{GroupSpec, LaneSpec, Setup, SetupError};
use state::Group;
pub use state::{Counters, Stand};

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A request has arrived, whole.
    Arrive(Arrival),
    /// A command has ended; its lane is numbered as in [`Setup::queues`].
    Ended(Completion),
    /// A device is gone. Commands on it still complete, as failed, or are taken for ended when it comes back.
    DeviceLost(usize),
    /// A device is there again, with nothing on its lanes: what ends later of what was there is left out.
    DeviceBack(usize),
    /// A request's sender does not want it any more. Unknown numbers are ignored: the reply may be on its way.
    Cancel(u32),
    /// Nothing more will come: what arrives from now on is refused, and nothing waits for company.
    Drain,
    /// The time that [`Scheduler::poll_timeout`] named has come.
    Tick,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its sender's number for it, small, and free: no request that was not answered yet has it.
    pub request: u32,
    /// Its tenant, by position.
    pub group: usize,
    /// Items in it.
    pub rows: u32,
    /// How long its sender waits, where that is said.
    pub timeout: Option<Nanos>,
}

/// What is to be done. Actions come in the order in which they are to be carried out, and all of them before the next
/// event.
#[derive(Clone, Debug)]
pub enum Action {
    /// A batch was closed: its inputs are to be gathered ([`Scheduler::members`]) into the set of buffers of the ticket's
    /// route and ring, before its commands. The ticket's step means nothing.
    Form(Ticket),
    /// A command is to be submitted to its lane.
    Submit(Command),
    /// A request is answered.
    Reply {
        /// Its number, free again.
        request: u32,
        /// How it went.
        outcome: Outcome,
    },
    /// A request was not let in. Its number is free again.
    Refuse {
        /// Its number.
        request: u32,
        /// Why.
        why: Refusal,
    },
    /// Every command of a batch has completed: its buffers are free.
    Retire(Ticket),
}

/// How a request went.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Its outputs are rows of a batch.
    Done(Served),
    /// It failed, for the last time.
    Failed(DeviceError),
    /// Its sender took it back.
    Cancelled,
    /// Its sender's patience was over before it was in a batch.
    Expired,
    /// No route of its tenant had all its devices for too long.
    Unavailable,
}

/// Where the outputs of a request are, and what it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Batch; the step means nothing.
    pub ticket: Ticket,
    /// First of its rows.
    pub row: u32,
    /// Items of all requests of the batch.
    pub batch_rows: u32,
    /// From its arrival until its batch was closed.
    pub queued: Nanos,
    /// From then until its batch was over.
    pub executed: Nanos,
    /// Time the batch's steps took, by phase.
    pub phases: [Nanos; 3],
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// As many wait as may.
    Full,
    /// It would miss its tenant's objective.
    Late,
    /// It has no items, or more than the largest batch.
    Rows,
    /// No route of its tenant has all its devices.
    Unavailable,
    /// Nothing is let in any more.
    Draining,
}

/// Requests in, commands and replies out.
#[derive(Clone, Debug)]
pub struct Scheduler {
    now: Time,
    requests: Requests,
    batches: Batches,
    routes: Vec<RouteState>,
    groups: Vec<Group>,
    /// Where batches compute.
    servers: Vec<Server>,
    lanes: Vec<Lane>,
    /// Lane of each queue.
    lane_of: Vec<usize>,
    /// A bit a device that is lost.
    lost: u64,
    draining: bool,
    sequence: u64,
    actions: VecDeque<Action>,
    /// Lanes to look at, a bit each.
    dirty: u64,
    /// When requests may have to be given up: moment, number, its generation.
    expiries: BinaryHeap<Reverse<(Time, u32, u32)>>,
    /// As many of them as may be before those of requests that were answered are thrown out.
    expiries_max: usize,
}

impl Scheduler {
    /// An idle scheduler; time begins at `now`.
    ///
    /// # Errors
    /// As [`Setup::of`], or a route that contradicts itself.
    pub fn new(setup: &Setup, now: Time) -> Result<Self, SetupError> {
        setup.check()?;
        let group_of = setup.group_of();
        let route = |i: usize| RouteState::new(setup, i, group_of[i]);
        let mut routes = (0..setup.routes.len()).map(route).collect::<Result<Vec<_>, _>>()?;
        let mut servers = vec![];
        let groups = (0..setup.groups.len()).map(|g| Group::new(g, setup, &mut routes, &mut servers, now)).collect();
        let (mut lanes, mut lane_of) = (vec![], vec![]);
        for (i, spec) in setup.lanes.iter().enumerate() {
            lanes.push(Lane::new(lane_of.len(), spec, setup.in_flight()));
            lane_of.extend(std::iter::repeat_n(i, spec.slots));
        }
        let batches = Batches::new(setup.in_flight());
        let mut scheduler = Self {
            now,
            requests: Requests::default(),
            batches,
            routes,
            groups,
            servers,
            lanes,
            lane_of,
            lost: 0,
            draining: false,
            sequence: 0,
            actions: VecDeque::with_capacity(4 * setup.in_flight()),
            dirty: 0,
            expiries: BinaryHeap::new(),
            expiries_max: limits::EXPIRIES_KEPT,
        };
        scheduler.look_again();
        state::divide_lanes(&mut scheduler.groups, setup, &scheduler.routes, &scheduler.servers);
        Ok(scheduler)
    }

    /// Takes in what happened.
    ///
    /// # Panics
    /// If time goes backwards, or a request's number is not free.
    pub fn handle(&mut self, now: Time, event: Event) {
        assert!(now >= self.now, "time goes backwards: from {} to {}", self.now.0, now.0);
        self.now = now;
        match event {
            Event::Arrive(arrival) => self.arrive(arrival),
            Event::Ended(completion) => self.ended(&completion),
            Event::DeviceLost(device) => self.device_lost(device),
            Event::DeviceBack(device) => self.device_back(device),
            Event::Cancel(request) => self.cancel(request),
            Event::Drain => {
                self.draining = true;
                (0..self.groups.len()).for_each(|g| self.form(g));
            }
            Event::Tick => {}
        }
        self.due();
        self.dispatch();
        self.make_use();
    }

    /// The next thing to do, until `None`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next moment worth waking for, though nothing happens before it.
    pub fn poll_timeout(&self) -> Option<Time> {
        let groups = self.groups.iter().map(|g| g.timer);
        let slots = self.lanes.iter().flat_map(|l| &l.slots).filter(|s| !s.stuck).map(|s| s.bound);
        let expiry = self.expiries.peek().map(|Reverse((at, ..))| *at);
        groups.chain(slots).chain(expiry).min().filter(|t| *t < Time(u64::MAX))
    }

    /// The requests of a batch that was just formed, in the order of their rows: number, first row, rows.
    pub fn members(&self, ticket: Ticket) -> impl Iterator<Item = (u32, u32, u32)> {
        let place = self.batches.place(ticket.batch);
        let members = place.map_or(requests::List::EMPTY, |p| self.batches.get(p).members);
        self.requests.iter(members).map(|(id, r)| (id, r.row, r.rows))
    }

    /// Carries out what is due by now.
    fn due(&mut self) {
        for g in 0..self.groups.len() {
            if self.groups[g].timer <= self.now {
                self.form(g);
            }
        }
        self.expire();
        self.hung();
    }

    /// Closes what there is room for sooner than was foreseen, whoever's event that came from.
    fn make_use(&mut self) {
        while let Some(server) = self.servers.iter_mut().position(|s| std::mem::take(&mut s.sooner)) {
            for i in 0..self.servers[server].groups.len() {
                self.form(self.servers[server].groups[i]);
            }
            self.dispatch();
        }
    }

    /// Hands ready steps to lanes with room.
    fn dispatch(&mut self) {
        while self.dirty != 0 {
            let lane = self.dirty.trailing_zeros() as usize;
            self.dirty &= !(1 << lane);
            while let Some((slot, ready)) = self.lanes[lane].take() {
                self.submit(lane, slot, ready);
            }
        }
    }

    fn submit(&mut self, lane: usize, slot: usize, ready: Ready) {
        let place = self.batches.place(ready.batch).expect("steps of batches that are over are not on lanes");
        let batch = self.batches.get(place);
        let ticket = Ticket { route: batch.route as u32, batch: ready.batch, ring: batch.ring, step: ready.step };
        let queue = self.lanes[lane].first + slot;
        let command = Command { lane: queue, ticket, route: self.routes[batch.route].route.clone() };
        self.actions.push_back(Action::Submit(command));
        if self.lanes[lane].slots[slot].commands.len() == 1 {
            self.began(lane, slot);
        }
    }

    /// The first command of a queue begins now, as far as can be known.
    fn began(&mut self, lane: usize, slot: usize) {
        let slot = &mut self.lanes[lane].slots[slot];
        let Some(first) = slot.commands.front() else { return };
        let place = self.batches.place(first.batch).expect("a batch is over only when its commands are");
        let batch = self.batches.get(place);
        let state = &self.routes[batch.route];
        let step = first.step as usize;
        slot.bound = self.now + bound(state.route.steps[step].duration);
        if state.phases.of[step] == Phase::Calc {
            let server = self.groups[state.group].classes[state.class].server;
            self.servers[server].began(first.batch, batch.left[Phase::Calc as usize] == 1, self.now);
        }
    }

    /// Offers the steps of a batch that may be submitted now to their lanes.
    fn offer(&mut self, place: usize) {
        let id = self.batches.id(place);
        let batch = self.batches.get_mut(place);
        let state = &self.routes[batch.route];
        let Some(execution) = &mut batch.execution else { return };
        while let Some(step) = execution.poll_step() {
            let lane = state.route.steps[step].lane;
            let key = Time(batch.due.0.saturating_sub(state.phases.tails[step].0));
            let ready = Ready { key, sequence: batch.sequence, step: step as u32, batch: id, need: state.need[lane] };
            let kept_back = state.crews[lane].is_some_and(|crew| !self.groups[state.group].crews[crew].enter(ready));
            if !kept_back {
                self.lanes[state.lanes[lane]].ready.push(Reverse(ready));
                self.dirty |= 1 << state.lanes[lane];
            }
        }
    }

    /// A step has ended: where it was one of a crew, the crew's next may run.
    fn leave_crew(&mut self, place: usize, step: usize) {
        let state = &self.routes[self.batches.get(place).route];
        let (group, crew) = (state.group, state.crews[state.route.steps[step].lane]);
        crew.into_iter().for_each(|crew| self.follow(group, crew));
    }

    /// A step of a crew has left its lane, or never got there: the most urgent one that was kept back follows.
    fn follow(&mut self, group: usize, crew: usize) {
        let crew = &mut self.groups[group].crews[crew];
        if let Some(next) = crew.leave() {
            self.lanes[crew.lane].ready.push(Reverse(next));
            self.dirty |= 1 << crew.lane;
        }
    }
}

/// How long a step may take before it is taken for hung.
fn bound(planned: Nanos) -> Nanos {
    Nanos(planned.0.saturating_mul(limits::HUNG_FACTOR)).max(limits::HUNG_MIN)
}
