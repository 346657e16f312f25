//! Lanes that routes share: which of the steps that are ready goes next, and where.
//!
//! A lane has one or several queues (a GPU's stream has one, a CPU's lane one a core) and a number of units that its
//! commands take while they are on it (cores; or, of a stream, places in its queue). Steps that are ready wait here in
//! the order of their deadlines: that of the batch, less what the batch still has to do after the step begins. The most
//! urgent goes first, and where it finds no room nobody overtakes it, so that a step of many threads is not starved by
//! steps of few.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use tandem_ir::Time;

use super::setup::LaneSpec;

/// A step that may be submitted. Ordered by urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ready {
    /// The moment by which it should begin.
    pub(super) key: Time,
    /// Order in which batches were formed.
    pub(super) sequence: u64,
    pub(super) step: u32,
    pub(super) batch: u64,
    /// Units it takes.
    pub(super) need: u32,
}

/// A command on a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnLane {
    pub(super) batch: u64,
    pub(super) step: u32,
    pub(super) need: u32,
}

/// One queue of a lane.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// Commands that were submitted and have not ended, in order.
    pub(super) commands: VecDeque<OnLane>,
    /// When the first of them is taken for hung.
    pub(super) bound: Time,
    /// The first of them is over its bound.
    pub(super) stuck: bool,
}

/// A lane that routes share.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    /// Number of its first queue among all lanes' queues.
    pub(super) first: usize,
    pub(super) slots: Vec<Slot>,
    depth: usize,
    units: u32,
    units_free: u32,
    pub(super) ready: BinaryHeap<Reverse<Ready>>,
    /// Device it is lost with.
    pub(super) device: usize,
}

impl Lane {
    /// An idle lane, whose first queue has this number, for so many batches in flight.
    pub(super) fn new(first: usize, spec: &LaneSpec, in_flight: usize) -> Self {
        let LaneSpec { slots, depth, .. } = *spec;
        let units = (slots * if spec.threads { 1 } else { depth }) as u32;
        let slot = || Slot { commands: VecDeque::with_capacity(depth), bound: Time(u64::MAX), stuck: false };
        let slots = (0..slots).map(|_| slot()).collect();
        let ready = BinaryHeap::with_capacity(in_flight);
        Self { first, slots, depth, units, units_free: units, ready, device: spec.device }
    }

    /// Takes the most urgent step, with the queue it goes to; `None` where none is ready or it finds no room.
    pub(super) fn take(&mut self) -> Option<(usize, Ready)> {
        let Reverse(top) = *self.ready.peek().filter(|Reverse(top)| top.need <= self.units_free)?;
        let open = |(_, s): &(usize, &Slot)| s.commands.len() < self.depth && !s.stuck;
        let (slot, _) = self.slots.iter().enumerate().filter(open).min_by_key(|(_, s)| s.commands.len())?;
        self.ready.pop();
        self.units_free -= top.need;
        self.slots[slot].commands.push_back(OnLane { batch: top.batch, step: top.step, need: top.need });
        Some((slot, top))
    }

    /// The first command of a queue has ended.
    pub(super) fn end(&mut self, slot: usize) -> Option<OnLane> {
        let ended = self.slots[slot].commands.pop_front()?;
        self.units_free += ended.need;
        (self.slots[slot].stuck, self.slots[slot].bound) = (false, Time(u64::MAX));
        Some(ended)
    }

    /// Whether a command that takes so many units will find room once those that do not hang have ended.
    pub(super) fn has_room(&self, need: u32) -> bool {
        let stuck = self.slots.iter().filter(|s| s.stuck).flat_map(|s| &s.commands).map(|c| c.need).sum();
        self.slots.iter().any(|s| !s.stuck) && need <= self.units.saturating_sub(stuck)
    }
}

/// A tenant's part of a lane of threads: as many of its steps at once as its plan gives it lanes there.
#[derive(Clone, Debug)]
pub(super) struct Crew {
    pub(super) lane: usize,
    pub(super) lanes: usize,
    /// Steps that are on the lane, or ready for it.
    running: usize,
    /// Steps that could be.
    waiting: Vec<Ready>,
}

impl Crew {
    pub(super) fn new(lane: usize, in_flight: usize) -> Self {
        Self { lane, lanes: 0, running: 0, waiting: Vec::with_capacity(in_flight) }
    }

    /// A step could run: whether it may be ready for the lane, or is kept back.
    pub(super) fn enter(&mut self, ready: Ready) -> bool {
        let may = self.running < self.lanes;
        if may {
            self.running += 1
        } else {
            self.waiting.push(ready)
        }
        may
    }

    /// A step has left the lane, or never got there: the most urgent one that was kept back follows.
    pub(super) fn leave(&mut self) -> Option<Ready> {
        let next = (0..self.waiting.len()).min_by_key(|i| self.waiting[*i]);
        match next {
            Some(next) => Some(self.waiting.swap_remove(next)),
            None => {
                self.running -= 1;
                None
            }
        }
    }

    /// Takes back the steps of a batch that were kept back.
    pub(super) fn recall(&mut self, batch: u64, mut taken: impl FnMut(u32)) {
        self.waiting.retain(|r| {
            if r.batch == batch {
                taken(r.step);
            }
            r.batch != batch
        });
    }
}
