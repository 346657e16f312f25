//! The way of a request that was let in and that nothing goes wrong with: into a batch, and out.

use tandem_ir::plan::Policy;
use tandem_ir::{Nanos, Time};

use super::batcher::{self, Close, Decision, View};
use super::batches::State as BatchState;
use super::class::{self, Class};
use super::phases::Phase;
use super::requests::{List, State};
use super::server::Server;
use super::state::sample;
use super::{Action, Outcome, Scheduler, Served};
use crate::device::{Completion, DeviceError, Ticket};

/// The part of a batch's compute by which it comes early to a lane that tenants share: predictions are off by less.
const SLACK_PART: u64 = 16;

/// What is to be done about a tenant's requests.
enum Next {
    /// A batch is to be closed.
    Batch(Chosen),
    /// No route is left that holds this request, the first.
    Nowhere(u32),
    /// Nothing before this moment.
    Until(Time),
    /// Nothing until something happens.
    Nothing,
}

/// A batch to be closed: its class and route, which has buffers for it, its items, and why.
struct Chosen {
    class: usize,
    route: usize,
    rows: u64,
    /// Items of its first request.
    first: u64,
    why: Close,
}

/// The request that a batch begins with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) rows: u64,
    pub(super) arrived: Time,
    /// By when it should be answered.
    pub(super) due: Time,
}

impl Scheduler {
    /// Learns what the steps of a route took in a batch that ran outside: a warm-up. Two batches of different sizes are
    /// enough for lines through all phases.
    pub fn observe(&mut self, route: usize, took: &[Nanos]) {
        let state = &mut self.routes[route];
        let mut spent = [0; 3];
        took.iter().zip(&state.phases.of).for_each(|(took, phase)| spent[*phase as usize] += took.0);
        let took = [0, 1, 2].map(|phase| state.took(phase, spent[phase]));
        state.settle(took);
        let (group, class, batch) = (state.group, state.class, state.route.batch);
        self.groups[group].classes[class].fit.push(sample(batch, took));
    }

    /// Closes as many batches of a tenant as its policy wants closed now.
    pub(super) fn form(&mut self, group: usize) {
        self.groups[group].timer = Time(u64::MAX);
        loop {
            match self.next(group, self.now) {
                Next::Batch(chosen) => self.close(group, &chosen),
                Next::Nowhere(request) => {
                    self.take_out(request);
                    self.reply(request, Outcome::Unavailable);
                }
                Next::Until(at) => {
                    self.groups[group].timer = at;
                    return;
                }
                Next::Nothing => return,
            }
        }
    }

    /// What is to be done about a tenant's requests, were it this moment and nothing else had happened.
    fn next(&self, group: usize, now: Time) -> Next {
        let Some(first) = self.first(group) else { return Next::Nothing };
        let of = &self.groups[group];
        let request = self.requests.get(first);
        let (rows, failed) = (u64::from(request.rows), request.failures > 0);
        let head = Head { rows, arrived: request.arrived, due: request.due };
        let Some(class) = class::turn(&of.classes, rows) else {
            // Where routes are left they have smaller batches: nothing here can take it any more.
            return if of.lost_since.is_some() { Next::Nothing } else { Next::Nowhere(first) };
        };
        let view = self.view(group, class, head);
        let view = View { now, free_at: view.free_at.max(now), ..view };
        // A request that has failed before runs alone, as soon as there is room.
        let decision = match failed {
            true if view.computing > view.servers => Decision::Wait,
            true => Decision::Close(rows, Close::Idle),
            false => batcher::decide(&of.policy, &view),
        };
        match decision {
            Decision::Close(most, why) => {
                let most = if failed || of.alone { rows } else { most.max(rows) };
                let chosen = |(route, items)| Chosen { class, route, rows: items, first: rows, why };
                self.choose(group, class, most).map_or(Next::Nothing, |found| Next::Batch(chosen(found)))
            }
            Decision::Until(at) => Next::Until(at),
            Decision::Wait => Next::Nothing,
        }
    }

    /// A tenant with a batch that its policy would close, were it this moment and nothing else had happened. `None` after
    /// every event: a batch is closed by the event that makes room for it.
    pub fn overlooked(&self, now: Time) -> Option<usize> {
        let left = |g: &usize| matches!(self.next(*g, now), Next::Batch(_) | Next::Nowhere(_));
        (0..self.groups.len()).find(left)
    }

    /// What the policy looks at, if the next batch is this class's and begins with this request.
    pub(super) fn view(&self, group: usize, class: usize, head: Head) -> View<'_> {
        let of = &self.groups[group];
        let class_state = &of.classes[class];
        let server = &self.servers[class_state.server];
        let due = class_state.due(head.due);
        // To the policy a request that shares no batch is all there is, and all there is room for.
        let (rows, capacity) =
            if of.alone { (head.rows, head.rows) } else { (of.rows, self.within(group, class, server.width)) };
        let route = self.route_for(group, class, rows.min(capacity));
        View {
            now: self.now,
            rows,
            oldest: head.arrived,
            capacity,
            lines: class_state.fit.lines(),
            computing: server.in_front(due),
            servers: server.width,
            in_flight: class_state.in_flight,
            free_at: server.free_at(due, self.now),
            ahead: self.ahead(server, route),
            target: class_state.target,
            draining: self.draining,
        }
    }

    /// The largest batch of a class's routes that its tenant's objective admits, at least that of the smallest. As many
    /// items as its route holds, for those that it is padded with take as long.
    fn within(&self, group: usize, class: usize, servers: usize) -> u64 {
        let of = &self.groups[group];
        let Class { capacity, fit, .. } = &of.classes[class];
        match batcher::within(&of.policy, fit.lines(), of.slo, servers).filter(|most| most < capacity) {
            Some(most) => self.route_for(group, class, most).map_or(*capacity, |r| self.routes[r].route.batch),
            None => *capacity,
        }
    }

    /// How long before there is room to compute a batch on a route should be closed: as long as its upload takes. Where
    /// others would take that room, somewhat longer: who comes a moment late then waits for a whole batch of theirs.
    fn ahead(&self, server: &Server, route: Option<usize>) -> Nanos {
        let Some(route) = route.map(|r| &self.routes[r]) else { return Nanos::ZERO };
        let slack = if server.groups.len() > 1 { route.expected(1) / SLACK_PART } else { 0 };
        Nanos(route.expected(0) + slack)
    }

    /// The route for so many items: the smallest that holds them all, or a smaller one that they fill, where its batch
    /// serves more of them a moment: 17 items are better 16 and one later than a batch of 32. Not so where sizes are fixed: who
    /// waited for a preferred size is a batch of that size.
    fn route_for(&self, group: usize, class: usize, rows: u64) -> Option<usize> {
        let routes = &self.groups[group].classes[class].routes;
        let usable = |r: &&usize| self.routes[**r].usable;
        let first = routes.partition_point(|r| self.routes[*r].route.batch < rows);
        let whole = routes[first..].iter().find(usable).copied();
        let filled = routes[..first].iter().rfind(usable).copied();
        let is_fixed = matches!(self.groups[group].policy, Policy::Fixed { .. });
        let served = |route: usize| {
            let state = &self.routes[route];
            rows.min(state.route.batch) as f64 / state.expected(1).max(1) as f64
        };
        match (whole, filled) {
            (Some(whole), Some(filled)) if !is_fixed && served(filled) > served(whole) => Some(filled),
            (whole, filled) => whole.or(filled),
        }
    }

    /// The request that has waited longest.
    fn first(&self, group: usize) -> Option<u32> {
        let queue = self.groups[group].queue;
        (!queue.is_empty()).then_some(queue.head)
    }

    /// Closes a batch.
    fn close(&mut self, group: usize, chosen: &Chosen) {
        let Chosen { class, route, rows, first, why } = *chosen;
        let place = self.batches.enter();
        let members = self.gather(group, rows, place);
        let due = self.requests.iter(members).map(|(_, r)| r.due).min().unwrap_or(self.now);
        let state = &mut self.routes[route];
        let (ring, execution) = state.idle.pop().expect("it was looked for");
        let (uploaded, calc) = (self.now + Nanos(state.expected(0)), state.expected(1));
        let id = self.batches.id(place);
        let of = &mut self.groups[group];
        class::pay(&mut of.classes, class, first);
        of.counters.close(why);
        of.rate.close(self.now);
        let class_state = &mut of.classes[class];
        let due = class_state.due(due);
        class_state.pace(calc, self.now);
        class_state.in_flight += 1;
        self.servers[class_state.server].enter(id, due, uploaded, calc, self.now);
        let batch = self.batches.get_mut(place);
        (batch.route, batch.ring, batch.execution) = (route, ring, Some(execution));
        (batch.members, batch.rows) = (members, rows as u32);
        (batch.formed, batch.due, batch.sequence) = (self.now, due, self.sequence);
        (batch.left, batch.spent) = (state.phases.steps, [0; 3]);
        self.sequence += 1;
        let head = Head { rows: 1, arrived: self.now, due };
        let of = &self.groups[group];
        let target = batcher::target(&of.policy, &self.view(group, class, head), of.rate_of(class, self.now));
        self.groups[group].classes[class].target = target;
        self.actions.push_back(Action::Form(Ticket { route: route as u32, batch: id, ring, step: 0 }));
        self.offer(place);
    }

    /// The route that a batch of at most so many items takes, and how many of them; `None` where no buffers are free.
    fn choose(&self, group: usize, class: usize, most: u64) -> Option<(usize, u64)> {
        let all = self.fitting(group, most.min(self.groups[group].classes[class].capacity));
        let best = self.route_for(group, class, all)?;
        // Requests of several items may not fill it.
        let rows = self.fitting(group, all.min(self.routes[best].route.batch));
        let rows = if rows == 0 { all } else { rows };
        let routes = &self.groups[group].classes[class].routes;
        let holds = |r: &&usize| self.routes[**r].usable && self.routes[**r].route.batch >= rows;
        let route = *routes.iter().find(holds)?;
        // A larger one that is free would cost more for the same: the requests wait, and may be more by then.
        (!self.routes[route].idle.is_empty()).then_some((route, rows))
    }

    /// Items of the requests at the head of the queue that fit into so many; those that failed before run alone.
    fn fitting(&self, group: usize, most: u64) -> u64 {
        let mut rows = 0;
        for (_, request) in self.requests.iter(self.groups[group].queue) {
            let more = rows + u64::from(request.rows);
            if more > most || (rows > 0 && request.failures > 0) {
                break;
            }
            rows = more;
        }
        rows
    }

    /// Takes so many items off the head of the queue.
    fn gather(&mut self, group: usize, rows: u64, place: usize) -> List {
        let of = &mut self.groups[group];
        let (mut members, mut row) = (List::EMPTY, 0);
        while row < rows {
            let id = self.requests.pop_front(&mut of.queue).expect("so many wait");
            let request = self.requests.get_mut(id);
            (request.state, request.row) = (State::Batched(place as u32), row as u32);
            row += u64::from(request.rows);
            self.requests.push_back(&mut members, id);
            of.waiting -= 1;
        }
        of.rows -= rows;
        members
    }

    /// A command has ended.
    pub(super) fn ended(&mut self, completion: &Completion) {
        let Completion { ticket, lane: queue, start, end, result } = completion;
        let lane = self.lane_of[*queue];
        let slot = *queue - self.lanes[lane].first;
        let front = self.lanes[lane].slots[slot].commands.front();
        if front.is_none_or(|c| (c.batch, c.step) != (ticket.batch, ticket.step)) {
            // Given up when its device came back: what it says is of the device before.
            return;
        }
        if let Err(DeviceError::Lost { .. }) = result {
            // First of all, so that nothing more is sent there.
            self.device_lost(self.lanes[lane].device);
        }
        let was_stuck = self.lanes[lane].slots[slot].stuck;
        self.lanes[lane].end(slot);
        self.dirty |= 1 << lane;
        self.began(lane, slot);
        if was_stuck {
            self.unstuck(ticket.route as usize);
        }
        let place = self.batches.place(ticket.batch).expect("a batch is over only when its commands are");
        if !was_stuck {
            self.leave_crew(place, ticket.step as usize);
        }
        match result {
            Ok(()) => self.step_done(place, ticket.step as usize, end.0.saturating_sub(start.0)),
            Err(error) => self.step_failed(place, ticket.step as usize, error),
        }
    }

    fn step_done(&mut self, place: usize, step: usize, took: u64) {
        let batch = self.batches.get_mut(place);
        let state = &self.routes[batch.route];
        let (group, phase) = (state.group, state.phases.of[step]);
        let server = self.groups[group].classes[state.class].server;
        let execution = batch.execution.as_mut().expect("a batch on its way has one");
        execution.done(step);
        batch.left[phase as usize] -= 1;
        batch.spent[phase as usize] += took;
        let phase_over = batch.left[phase as usize] == 0;
        let (uploaded, computed) = (phase_over && phase == Phase::Up, phase_over && phase == Phase::Calc);
        let (flying, over) = (batch.state == BatchState::Flying, execution.is_finished());
        if !flying {
            self.release_if_over(place);
            self.form(group);
            return;
        }
        self.offer(place);
        if uploaded {
            self.servers[server].uploaded(self.batches.id(place), self.now);
        }
        if computed {
            self.computed(place);
        }
        if over {
            self.complete(place);
        }
        if uploaded || over {
            self.form(group);
        }
    }

    /// The batch is no longer in the way of the next one's compute.
    pub(super) fn computed(&mut self, place: usize) {
        let server = self.server_of(place);
        self.servers[server].leave(self.batches.id(place), self.now);
    }

    /// Where a batch computes.
    pub(super) fn server_of(&self, place: usize) -> usize {
        let state = &self.routes[self.batches.get(place).route];
        self.groups[state.group].classes[state.class].server
    }

    /// Every step is done: its requests are answered, and lines and routes learn from it.
    fn complete(&mut self, place: usize) {
        let id = self.batches.id(place);
        let batch = self.batches.get(place);
        let (route, mut members) = (batch.route, batch.members);
        let ticket = Ticket { route: route as u32, batch: id, ring: batch.ring, step: 0 };
        let (formed, batch_rows, spent) = (batch.formed, batch.rows, batch.spent);
        let state = &mut self.routes[route];
        let took = [0, 1, 2].map(|phase| state.took(phase, spent[phase]));
        state.learn(took);
        let (group, class, size) = (state.group, state.class, state.route.batch);
        let of = &mut self.groups[group];
        of.classes[class].fit.push(sample(size, took));
        of.correct(self.requests.iter(members).next().map(|(_, r)| (self.now - r.arrived, r.foreseen)));
        while let Some(request) = self.requests.pop_front(&mut members) {
            let of = self.requests.get(request);
            let served = Served {
                ticket,
                row: of.row,
                batch_rows,
                queued: formed - of.arrived,
                executed: self.now - formed,
                phases: spent.map(Nanos),
            };
            self.reply(request, Outcome::Done(served));
        }
        self.batches.get_mut(place).members = List::EMPTY;
        self.release(place);
    }

    pub(super) fn reply(&mut self, request: u32, outcome: Outcome) {
        let group = self.requests.get(request).group as usize;
        let counters = &mut self.groups[group].counters;
        match outcome {
            Outcome::Done(_) => counters.done += 1,
            _ => counters.failed += 1,
        }
        self.requests.leave(request);
        self.actions.push_back(Action::Reply { request, outcome });
    }

    /// Gives a batch's buffers back.
    pub(super) fn release(&mut self, place: usize) {
        let id = self.batches.id(place);
        let batch = self.batches.get_mut(place);
        let (route, ring) = (batch.route, batch.ring);
        let mut execution = batch.execution.take().expect("a batch is released once");
        execution.reset();
        let state = &mut self.routes[route];
        state.idle.push((ring, execution));
        self.groups[state.group].classes[state.class].in_flight -= 1;
        self.batches.leave(place);
        self.actions.push_back(Action::Retire(Ticket { route: route as u32, batch: id, ring, step: 0 }));
    }

    pub(super) fn step_failed(&mut self, place: usize, step: usize, error: &DeviceError) {
        let batch = self.batches.get_mut(place);
        let (flying, group) = (batch.state == BatchState::Flying, self.routes[batch.route].group);
        batch.execution.as_mut().expect("a batch on its way has one").failed(step, "failed");
        match flying {
            true => self.abandon(place, Some(error)),
            false => self.release_if_over(place),
        }
        self.form(group);
    }
}
