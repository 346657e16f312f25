//! What goes wrong: steps that fail or hang, devices that are lost and come back, senders that change their minds or
//! wait no longer.

use std::cmp::Reverse;
use std::sync::Arc;

use tandem_ir::Time;
use tandem_ir::plan::Route;

use super::batches::State as BatchState;
use super::requests::{List, State};
use super::state::Stand;
use super::{Action, Outcome, Scheduler};
use crate::device::DeviceError;
use crate::limits::{self, FAILURES_MAX, LOST_WAIT, MOVES_MAX};

impl Scheduler {
    /// How a tenant stands.
    pub fn stand(&self, group: usize) -> Stand {
        let of = &self.groups[group];
        Stand {
            waiting: of.waiting,
            in_flight: of.classes.iter().map(|c| c.in_flight).sum(),
            is_usable: of.is_usable(),
            counters: of.counters,
        }
    }

    /// Whether nothing is left to do: no request unanswered, no command outstanding.
    pub fn is_idle(&self) -> bool {
        self.requests.held == 0 && self.batches.held() == 0
    }

    pub(super) fn cancel(&mut self, request: u32) {
        if !self.requests.is_free(request) {
            self.withdraw(request, Outcome::Cancelled);
        }
    }

    /// Answers a request wherever it is. A batch that nobody waits for any more submits nothing further.
    fn withdraw(&mut self, request: u32, outcome: Outcome) {
        let group = self.requests.get(request).group as usize;
        self.take_out(request);
        self.reply(request, outcome);
        self.form(group);
    }

    /// Takes a request out of its queue or batch.
    pub(super) fn take_out(&mut self, request: u32) {
        let of = self.requests.get(request);
        let (group, rows) = (of.group as usize, u64::from(of.rows));
        match of.state {
            State::Free => {}
            State::Queued => {
                let group = &mut self.groups[group];
                self.requests.unlink(&mut group.queue, request);
                group.waiting -= 1;
                group.rows -= rows;
            }
            State::Batched(place) => {
                let batch = self.batches.get_mut(place as usize);
                self.requests.unlink(&mut batch.members, request);
                if batch.members.is_empty() && batch.state == BatchState::Flying {
                    self.abandon(place as usize, None);
                }
            }
        }
    }

    /// Looks at the request again at this moment.
    pub(super) fn expire_at(&mut self, at: Time, request: u32) {
        if self.expiries.len() >= self.expiries_max {
            // Most are of requests that were answered long before: those with much patience would pile up.
            let of = &self.requests;
            self.expiries.retain(|Reverse((_, id, generation))| of.is_current(*id, *generation));
            self.expiries_max = limits::EXPIRIES_KEPT.max(2 * self.expiries.len());
        }
        let generation = self.requests.get(request).generation;
        self.expiries.push(Reverse((at, request, generation)));
    }

    /// Gives up on requests that wait in vain: past their sender's patience, or for a device that stays away. Those in a
    /// batch are finished, for that costs no more than to stop.
    pub(super) fn expire(&mut self) {
        while let Some(Reverse((at, request, generation))) = self.expiries.peek().copied() {
            if at > self.now {
                return;
            }
            self.expiries.pop();
            if !self.requests.is_current(request, generation) {
                continue;
            }
            let of = self.requests.get(request);
            let group = &self.groups[of.group as usize];
            if of.state != State::Queued {
                continue;
            }
            let impatient = of.expires.is_some_and(|e| e <= self.now);
            match group.is_usable() {
                _ if impatient => self.withdraw(request, Outcome::Expired),
                false if group.lost_since.is_some_and(|since| since + LOST_WAIT <= self.now) => {
                    self.withdraw(request, Outcome::Unavailable);
                }
                _ => {}
            }
        }
    }

    /// Takes a batch off its way: its requests go back, each to where its arrival belongs in the queue, or fail. An error
    /// is counted against each; without one, a device was lost.
    pub(super) fn abandon(&mut self, place: usize, error: Option<&DeviceError>) {
        self.computed(place);
        let batch = self.batches.get_mut(place);
        batch.state = BatchState::Abandoned;
        let mut members = std::mem::replace(&mut batch.members, List::EMPTY);
        self.recall(place);
        while let Some(request) = self.requests.pop_back(&mut members) {
            self.send_back(request, error);
        }
        self.release_if_over(place);
    }

    fn send_back(&mut self, request: u32, error: Option<&DeviceError>) {
        let now = self.now;
        let of = self.requests.get_mut(request);
        let lost = matches!(error, None | Some(DeviceError::Lost { .. }));
        if lost {
            of.moves += 1
        } else {
            of.failures += 1
        }
        let (group, rows) = (of.group as usize, u64::from(of.rows));
        let outcome = match error {
            _ if of.expires.is_some_and(|e| e <= now) => Some(Outcome::Expired),
            Some(error) if of.failures >= FAILURES_MAX => Some(Outcome::Failed(error.clone())),
            _ if of.moves >= MOVES_MAX => Some(Outcome::Unavailable),
            _ => None,
        };
        if let Some(outcome) = outcome {
            self.reply(request, outcome);
            return;
        }
        of.state = State::Queued;
        let group = &mut self.groups[group];
        group.waiting += 1;
        group.rows += rows;
        group.counters.returned += 1;
        let lost_since = group.lost_since;
        self.requests.put_back(&mut group.queue, request);
        // It may have been looked at while it was in the batch.
        let expires = self.requests.get(request).expires;
        for at in expires.into_iter().chain(lost_since.map(|since| since + LOST_WAIT)) {
            self.expire_at(at, request);
        }
    }

    /// Takes back the steps of a batch that no lane has begun to queue.
    fn recall(&mut self, place: usize) {
        let id = self.batches.id(place);
        let route = self.batches.get(place).route;
        let group = self.routes[route].group;
        for i in 0..self.routes[route].lanes.len() {
            let (lane, crew) = (self.routes[route].lanes[i], self.routes[route].crews[i]);
            let execution = self.batches.get_mut(place).execution.as_mut().expect("a batch on its way has one");
            execution.stop();
            // Those that are kept back first, so that none of them takes the place of one that was ready.
            if let Some(crew) = crew {
                self.groups[group].crews[crew].recall(id, |step| execution.taken_back(step as usize));
            }
            let mut ready = 0;
            self.lanes[lane].ready.retain(|Reverse(r)| {
                if r.batch == id {
                    execution.taken_back(r.step as usize);
                    ready += 1;
                }
                r.batch != id
            });
            (0..ready).filter_map(|_| crew).for_each(|crew| self.follow(group, crew));
        }
    }

    /// Gives an abandoned batch's buffers back once nothing of it is on a lane. Of one that was formed by the same event
    /// nobody hears.
    pub(super) fn release_if_over(&mut self, place: usize) {
        let batch = self.batches.get(place);
        if batch.state == BatchState::Abandoned && batch.execution.as_ref().is_some_and(|e| e.outstanding() == 0) {
            let id = self.batches.id(place);
            let formed = |a: &Action| matches!(a, Action::Form(ticket) if ticket.batch == id);
            let unheard = self.actions.iter().position(formed);
            self.release(place);
            if let Some(at) = unheard {
                self.actions.remove(at);
                // That its buffers are free.
                self.actions.pop_back();
            }
        }
    }

    pub(super) fn device_lost(&mut self, device: usize) {
        self.lost |= 1 << device;
        self.look_again();
        self.abandon_unusable();
    }

    /// Batches on routes that cannot be used any more are taken off their way, the youngest first, so that their
    /// requests are back in order.
    fn abandon_unusable(&mut self) {
        loop {
            let lost = self.batches.flying().filter(|(_, b)| !self.routes[b.route].usable);
            let Some((place, _)) = lost.max_by_key(|(_, b)| b.sequence) else { break };
            self.abandon(place, None);
        }
        (0..self.groups.len()).for_each(|g| self.form(g));
    }

    pub(super) fn device_back(&mut self, device: usize) {
        // What was on its lanes is no longer.
        for lane in (0..self.lanes.len()).filter(|l| self.lanes[*l].device == device).collect::<Vec<_>>() {
            for slot in 0..self.lanes[lane].slots.len() {
                let stuck = self.lanes[lane].slots[slot].stuck;
                let mut first = true;
                while let Some(gone) = self.lanes[lane].end(slot) {
                    let place = self.batches.place(gone.batch).expect("a batch is over only when its commands are");
                    let (route, step) = (self.batches.get(place).route, gone.step as usize);
                    match stuck && std::mem::take(&mut first) {
                        true => self.unstuck(route),
                        false => self.leave_crew(place, step),
                    }
                    self.gone(place, step);
                }
            }
            self.dirty |= 1 << lane;
        }
        self.lost &= !(1 << device);
        self.look_again();
        (0..self.groups.len()).for_each(|g| self.form(g));
    }

    /// A command will not complete any more.
    fn gone(&mut self, place: usize, step: usize) {
        let error = DeviceError::Lost { device: String::new(), why: "reset".into() };
        self.step_failed(place, step, &error);
    }

    /// Closes queues whose first command is over its bound.
    pub(super) fn hung(&mut self) {
        for lane in 0..self.lanes.len() {
            for slot in 0..self.lanes[lane].slots.len() {
                let on = &mut self.lanes[lane].slots[slot];
                if on.stuck || on.bound > self.now {
                    continue;
                }
                let Some(first) = on.commands.front().copied() else { continue };
                on.stuck = true;
                let place = self.batches.place(first.batch).expect("a batch is over only when its commands are");
                let route = self.batches.get(place).route;
                self.routes[route].stuck += 1;
                // Its tenant's other steps need not wait for it.
                self.leave_crew(place, first.step as usize);
                self.look_again();
                let device = self.routes[route].route.lane_names
                    [self.routes[route].route.steps[first.step as usize].lane]
                    .clone();
                let why = format!("step {} is over its bound", first.step);
                let error = DeviceError::Failed { device, engine: "scheduler".into(), why };
                if self.batches.get(place).state == BatchState::Flying {
                    self.abandon(place, Some(&error));
                }
                self.abandon_unusable();
            }
        }
    }

    /// A command that was taken for hung has ended after all.
    pub(super) fn unstuck(&mut self, route: usize) {
        self.routes[route].stuck -= 1;
        self.look_again();
        (0..self.groups.len()).for_each(|g| self.form(g));
    }

    /// Which routes can be used, and what their classes hold.
    pub(super) fn look_again(&mut self) {
        let mut lost = self.lost;
        // A stream that hangs takes its device along.
        self.lanes.iter().filter(|l| l.slots.len() == 1 && !l.has_room(0)).for_each(|l| lost |= 1 << l.device);
        for state in &mut self.routes {
            let room = state.lanes.iter().zip(&state.need).all(|(l, need)| self.lanes[*l].has_room(*need));
            state.usable = state.devices & lost == 0 && state.stuck == 0 && room;
        }
        for g in 0..self.groups.len() {
            let group = &mut self.groups[g];
            for class in &mut group.classes {
                let usable = class.routes.iter().filter(|r| self.routes[**r].usable);
                class.capacity = usable.map(|r| self.routes[*r].route.batch).max().unwrap_or(0);
            }
            let was = group.lost_since;
            let usable = group.is_usable();
            group.lost_since = if usable { None } else { was.or(Some(self.now)) };
            if was.is_none() && !usable {
                let waiting: Vec<u32> = self.requests.iter(group.queue).map(|(id, _)| id).collect();
                waiting.into_iter().for_each(|id| self.expire_at(self.now + LOST_WAIT, id));
            }
        }
    }

    /// Whether every device is there and nothing hangs.
    pub fn is_whole(&self) -> bool {
        self.routes.iter().all(|r| r.usable)
    }

    /// The route that tickets carry this number of.
    pub fn route(&self, number: u32) -> &Arc<Route> {
        &self.routes[number as usize].route
    }
}
