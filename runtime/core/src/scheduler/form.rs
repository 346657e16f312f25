//! The way of a request that nothing goes wrong with: in, into a batch, and out.

use tandem_ir::{Nanos, Time};

use super::batcher::{self, Close, Decision};
use super::batches::State as BatchState;
use super::class::{self, Flying};
use super::phases::Phase;
use super::requests::{List, State};
use super::state::sample;
use super::{Action, Arrival, Outcome, Refusal, Scheduler, Served};
use crate::device::{Completion, DeviceError, Ticket};
use crate::limits::{DUE_DEFAULT, REQUESTS_MAX};

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

    /// Why an arrival would be refused now; `None` where it would be let in.
    pub fn refusal(&self, group: usize, rows: u32) -> Option<Refusal> {
        let of = &self.groups[group];
        let usable = of.classes.iter().any(|c| c.capacity > 0);
        match () {
            () if self.draining => Some(Refusal::Draining),
            () if rows == 0 || u64::from(rows) > of.rows_max => Some(Refusal::Rows),
            () if !usable => Some(Refusal::Unavailable),
            () if of.waiting >= of.queue_max || self.requests.held >= REQUESTS_MAX => Some(Refusal::Full),
            () if self.is_late(group, u64::from(rows)) => Some(Refusal::Late),
            () => None,
        }
    }

    /// Whether a request that came now would miss its tenant's objective behind those that wait, by the lines. One that
    /// finds nothing waiting never does: it is the plan's promise that it can be met.
    fn is_late(&self, group: usize, rows: u64) -> bool {
        let of = &self.groups[group];
        let adt = !matches!(of.policy, tandem_ir::plan::Policy::Fixed { .. });
        let Some(slo) = of.slo.filter(|_| adt && of.waiting > 0) else { return false };
        let part: u64 = of.classes.iter().filter(|c| c.capacity > 0).map(|c| c.share.max(1)).sum();
        // The class that would be soonest done with its part of the queue.
        let ends = of.classes.iter().filter(|c| c.capacity > 0).map(|c| {
            let lines = c.fit.lines();
            let ahead = (of.rows + rows) * c.share.max(1) / part.max(1);
            let capacity = if of.alone { rows } else { c.capacity };
            let batches = ahead.div_ceil(capacity).max(1).div_ceil(c.servers as u64);
            let wait = c.free_at(self.now).0.saturating_sub(self.now.0) as f64;
            let last = ahead.min(capacity) as f64;
            wait + (batches - 1) as f64 * lines.calc.at(capacity as f64) + lines.calc.at(last) + lines.down.at(last)
        });
        ends.fold(f64::INFINITY, f64::min) > slo.0 as f64
    }

    pub(super) fn arrive(&mut self, arrival: Arrival) {
        let Arrival { request, group, rows, timeout } = arrival;
        assert!(self.requests.is_free(request), "request {request} has not been answered yet");
        if let Some(why) = self.refusal(group, rows) {
            self.groups[group].counters.refused += 1;
            self.actions.push_back(Action::Refuse { request, why });
            return;
        }
        let of = &mut self.groups[group];
        of.counters.accepted += 1;
        of.rate.arrive(self.now, u64::from(rows));
        of.waiting += 1;
        of.rows += u64::from(rows);
        let due = self.now + of.slo.unwrap_or(DUE_DEFAULT);
        let expires = timeout.map(|t| self.now + t);
        self.requests.enter(request, group as u32, rows, self.now, due, expires);
        self.requests.push_back(&mut self.groups[group].queue, request);
        if let Some(at) = expires {
            self.expire_at(at, request);
        }
        self.form(group);
    }

    /// Closes as many batches of a tenant as its policy wants closed now.
    pub(super) fn form(&mut self, group: usize) {
        self.groups[group].timer = Time(u64::MAX);
        while let Some(first) = self.first(group) {
            let of = &self.groups[group];
            let (rows, oldest, failed) = {
                let r = self.requests.get(first);
                (u64::from(r.rows), r.arrived, r.failures > 0)
            };
            let Some(class) = class::turn(&of.classes, rows) else {
                if of.lost_since.is_some() {
                    return;
                }
                // The routes that are left have smaller batches: nothing here can take it any more.
                self.take_out(first);
                self.reply(first, Outcome::Unavailable);
                continue;
            };
            let mut view = of.view(class, self.now, oldest, self.draining);
            if of.alone {
                // To the policy it is all there is, and all there is room for.
                (view.rows, view.capacity) = (rows, rows);
            }
            // A request that has failed before runs alone, as soon as there is room.
            let decision = match failed {
                true if view.computing > view.servers => Decision::Wait,
                true => Decision::Close(rows, Close::Idle),
                false => batcher::decide(&of.policy, &view),
            };
            match decision {
                Decision::Close(most, why) => {
                    if !self.close(group, class, if failed || of.alone { rows } else { most.max(rows) }, why) {
                        return;
                    }
                }
                Decision::Until(at) => {
                    self.groups[group].timer = at;
                    return;
                }
                Decision::Wait => return,
            }
        }
    }

    /// The request that has waited longest.
    fn first(&self, group: usize) -> Option<u32> {
        let queue = self.groups[group].queue;
        (!queue.is_empty()).then_some(queue.head)
    }

    /// Closes a batch of at most so many items; false where no set of buffers is free.
    fn close(&mut self, group: usize, class: usize, most: u64, why: Close) -> bool {
        let rows = self.fitting(group, most.min(self.groups[group].classes[class].capacity));
        let of = &self.groups[group].classes[class];
        // The smallest that holds them.
        let free = |r: &&usize| {
            let state = &self.routes[**r];
            state.usable && state.route.batch >= rows && !state.idle.is_empty()
        };
        let Some(route) = of.routes.iter().find(free).copied() else { return false };
        let place = self.batches.enter();
        let members = self.gather(group, rows, place);
        let (ring, execution) = self.routes[route].idle.pop().expect("it was looked for");
        let state = &self.routes[route];
        let makespan = state.phases.makespan();
        let due = self.requests.iter(members).map(|(_, r)| r.due).min().unwrap_or(self.now);
        let sequence = self.sequence;
        self.sequence += 1;
        let batch = self.batches.get_mut(place);
        (batch.route, batch.ring, batch.execution) = (route, ring, Some(execution));
        (batch.members, batch.rows) = (members, rows as u32);
        // What is late already must not push aside for ever what is not.
        (batch.formed, batch.due, batch.sequence) = (self.now, due.max(self.now + makespan), sequence);
        (batch.left, batch.spent) = (state.phases.steps, [0; 3]);
        let uploaded = self.now + Nanos(state.expected(0));
        let calc = state.expected(1);
        let id = self.batches.id(place);
        let of = &mut self.groups[group];
        class::pay(&mut of.classes, class);
        of.counters.close(why);
        of.rate.close(self.now);
        let class_state = &mut of.classes[class];
        class_state.in_flight += 1;
        class_state.flying.push_back(Flying { batch: id, uploaded, calc, began: None, end: Time::ZERO });
        class_state.foresee(self.now);
        let target = batcher::target(&of.policy, &of.view(class, self.now, self.now, self.draining));
        of.classes[class].target = target;
        self.actions.push_back(Action::Form(Ticket { route: route as u32, batch: id, ring, step: 0 }));
        self.offer(place);
        true
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
        if let Err(DeviceError::Lost { .. }) = result {
            // First of all, so that nothing more is sent there.
            self.device_lost(self.lanes[lane].device);
        }
        let slot = *queue - self.lanes[lane].first;
        let was_stuck = self.lanes[lane].slots[slot].stuck;
        let Some(ended) = self.lanes[lane].end(slot) else {
            // Given up when its device came back.
            return;
        };
        assert_eq!((ended.batch, ended.step), (ticket.batch, ticket.step), "commands of a queue end in order");
        self.dirty |= 1 << lane;
        self.began(lane, slot);
        if was_stuck {
            self.unstuck(ticket.route as usize);
        }
        let place = self.batches.place(ticket.batch).expect("a batch is over only when its commands are");
        match result {
            Ok(()) => self.step_done(place, ticket.step as usize, end.0.saturating_sub(start.0)),
            Err(error) => self.step_failed(place, ticket.step as usize, error),
        }
    }

    fn step_done(&mut self, place: usize, step: usize, took: u64) {
        let batch = self.batches.get_mut(place);
        let route = batch.route;
        let state = &self.routes[route];
        let (group, class, phase) = (state.group, state.class, state.phases.of[step]);
        let execution = batch.execution.as_mut().expect("a batch on its way has one");
        execution.done(step);
        batch.left[phase as usize] -= 1;
        batch.spent[phase as usize] += took;
        let calc_over = phase == Phase::Calc && batch.left[Phase::Calc as usize] == 0;
        let (flying, over) = (batch.state == BatchState::Flying, execution.is_finished());
        if state.threads[state.route.steps[step].lane] {
            self.left_threads(group, class);
        }
        if !flying {
            self.release_if_over(place);
            self.form(group);
            return;
        }
        self.offer(place);
        let uploaded = phase == Phase::Up && self.batches.get(place).left[Phase::Up as usize] == 0;
        if uploaded {
            self.uploaded(place);
        }
        if calc_over {
            self.computed(place);
        }
        if over {
            self.complete(place);
        }
        if uploaded || calc_over || over {
            self.form(group);
        }
    }

    fn uploaded(&mut self, place: usize) {
        let id = self.batches.id(place);
        let state = &self.routes[self.batches.get(place).route];
        let class = &mut self.groups[state.group].classes[state.class];
        if let Some(flying) = class.flying_mut(id) {
            flying.uploaded = self.now;
            class.foresee(self.now);
        }
    }

    /// The batch is no longer in the way of the next one's compute.
    pub(super) fn computed(&mut self, place: usize) {
        let id = self.batches.id(place);
        let state = &self.routes[self.batches.get(place).route];
        let class = &mut self.groups[state.group].classes[state.class];
        class.flying.retain(|f| f.batch != id);
        class.foresee(self.now);
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
        self.groups[group].classes[class].fit.push(sample(size, took));
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
        let state = &self.routes[batch.route];
        let (group, class) = (state.group, state.class);
        let threads = state.threads[state.route.steps[step].lane];
        let flying = batch.state == BatchState::Flying;
        batch.execution.as_mut().expect("a batch on its way has one").failed(step, "failed");
        if threads {
            self.left_threads(group, class);
        }
        match flying {
            true => self.abandon(place, Some(error)),
            false => self.release_if_over(place),
        }
        self.form(group);
    }
}
