//! The timing emulator in wall time: runs take as long as the plan says, copies copy, and take at least as long.
//!
//! A run makes nothing: its first output is its first input, byte for byte as far as both go, so that whose rows are
//! whose can be seen at the other end. Values are bytes in sets of buffers that are made once; an output that somebody
//! still holds is replaced, not overwritten.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tandem_core::scheduler::{Served, Setup};
use tandem_core::{Command, DeviceError, Ticket};
use tandem_ir::Time;
use tandem_ir::plan::{Action, Route};

use super::threaded::{Clock, Execute};
use crate::driver::drive::Store;

/// The host's position among devices.
const HOST: usize = 0;

/// Sets of buffers, and how long everything takes.
pub struct Timed {
    clock: Clock,
    routes: Vec<TimedRoute>,
    /// By queue: when what was executed there should have been over. A thread wakes late; the next command of a queue
    /// begins when the one before should have ended, where it was there by then.
    ends: Vec<Mutex<Time>>,
}

struct TimedRoute {
    route: Arc<Route>,
    rings: Vec<TimedRing>,
}

struct TimedRing {
    /// By device, by value of the route.
    slots: Vec<Vec<Mutex<Arc<Vec<u8>>>>>,
    /// Requests of the batch that were not gathered yet.
    members: Mutex<Vec<(u32, Arc<Vec<u8>>)>>,
}

/// A request's rows of a batch's first output.
#[derive(Clone, Debug)]
pub struct TimedRows {
    bytes: Arc<Vec<u8>>,
    from: usize,
    to: usize,
}

impl TimedRows {
    /// The rows.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.from..self.to]
    }
}

impl Timed {
    /// Buffers for every batch that a setup may have in flight.
    pub fn new(setup: &Setup, clock: Clock) -> Self {
        let slot = |bytes: u64| Mutex::new(Arc::new(vec![0; usize::try_from(bytes).unwrap_or(usize::MAX)]));
        let ring = |route: &Route| TimedRing {
            slots: (0..setup.devices).map(|_| route.tensors.iter().map(|t| slot(t.bytes.0)).collect()).collect(),
            members: Mutex::new(Vec::with_capacity(route.batch as usize)),
        };
        let of = |route: &Arc<Route>| TimedRoute {
            rings: (0..setup.rings(route)).map(|_| ring(route)).collect(),
            route: route.clone(),
        };
        let ends = setup.queues().map(|_| Mutex::new(Time::ZERO)).collect();
        Self { clock, routes: setup.routes.iter().map(of).collect(), ends }
    }

    /// Waits until a moment; a sleep ends late by some 50 us.
    fn until(&self, at: Time) {
        let left = self.clock.until(at);
        if left > Duration::ZERO {
            std::thread::sleep(left);
        }
    }
}

impl TimedRing {
    fn slot(&self, device: usize, tensor: usize) -> MutexGuard<'_, Arc<Vec<u8>>> {
        locked(&self.slots[device][tensor])
    }

    /// Writes a value; memory that somebody still reads is left to them.
    fn write(&self, device: usize, tensor: usize, fill: impl FnOnce(&mut [u8])) {
        let mut slot = self.slot(device, tensor);
        if Arc::get_mut(&mut slot).is_none() {
            *slot = Arc::new(vec![0; slot.len()]);
        }
        fill(Arc::get_mut(&mut slot).expect("it is ours alone"));
    }

    /// Puts the requests' rows one after another into the route's first input.
    fn gather(&self, route: &Route) {
        let mut members = locked(&self.members);
        let Some(input) = route.inputs.first().filter(|_| !members.is_empty()) else { return };
        self.write(HOST, *input, |bytes| {
            let row = bytes.len() / route.batch.max(1) as usize;
            for (first, rows) in members.drain(..) {
                let at = first as usize * row;
                let count = rows.len().min(bytes.len() - at);
                bytes[at..at + count].copy_from_slice(&rows[..count]);
            }
        });
    }

    fn copy(&self, from: (usize, usize), to: (usize, usize)) {
        let source = self.slot(from.0, from.1).clone();
        self.write(to.0, to.1, |bytes| {
            let count = bytes.len().min(source.len());
            bytes[..count].copy_from_slice(&source[..count]);
        });
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Buffers hold whatever was written to them.
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

impl Execute for Timed {
    fn execute(&self, command: &Command, submitted: Time) -> Result<(), DeviceError> {
        let ended = *locked(&self.ends[command.lane]);
        let end = submitted.max(ended) + command.planned();
        let of = &self.routes[command.ticket.route as usize];
        let ring = &of.rings[command.ticket.ring as usize];
        ring.gather(&of.route);
        match command.action() {
            Action::Run(s) => {
                let segment = &of.route.segments[s];
                if let (Some(input), Some(output)) = (segment.inputs.first(), segment.outputs.first()) {
                    ring.copy((segment.device, *input), (segment.device, *output));
                }
            }
            Action::Copy { tensor, from, to } => ring.copy((from, tensor), (to, tensor)),
            Action::Barrier => {}
        }
        self.until(end);
        *locked(&self.ends[command.lane]) = end;
        Ok(())
    }
}

impl Store for Timed {
    type Inputs = Arc<Vec<u8>>;
    type Outputs = TimedRows;

    fn form<'a>(&self, ticket: Ticket, members: impl Iterator<Item = (u32, u32, &'a Self::Inputs)>) {
        let ring = &self.routes[ticket.route as usize].rings[ticket.ring as usize];
        let mut waiting = locked(&ring.members);
        waiting.clear();
        waiting.extend(members.map(|(row, _, inputs)| (row, inputs.clone())));
    }

    fn outputs(&self, served: &Served, rows: u32, _inputs: Self::Inputs) -> TimedRows {
        let of = &self.routes[served.ticket.route as usize];
        let ring = &of.rings[served.ticket.ring as usize];
        let bytes = of.route.outputs.first().map(|output| ring.slot(HOST, *output).clone()).unwrap_or_default();
        let row = bytes.len() / of.route.batch.max(1) as usize;
        let from = served.row as usize * row;
        let to = (from + rows as usize * row).min(bytes.len());
        TimedRows { bytes, from, to }
    }

    fn retire(&self, _ticket: Ticket) {}
}
