//! The table of requests: who waits, who is in which batch, in lists that are threaded through the table itself, so that
//! entering, leaving and cancelling take constant time and allocate nothing once the table has its size.

use tandem_ir::Time;

/// No request.
pub(super) const NONE: u32 = u32::MAX;

/// Where a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its place is free.
    Free,
    /// In its group's queue.
    Queued,
    /// In the batch of this slot.
    Batched(u32),
}

/// A request that was let in.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) state: State,
    pub(super) group: u32,
    /// Items.
    pub(super) rows: u32,
    /// First of its rows in its batch.
    pub(super) row: u32,
    pub(super) arrived: Time,
    /// When its latency objective is missed; what urgency is judged by.
    pub(super) due: Time,
    /// Its sender waits no longer.
    pub(super) expires: Option<Time>,
    /// How often a step failed with it in the batch.
    pub(super) failures: u32,
    /// How often a device was lost with it aboard.
    pub(super) moves: u32,
    /// Latency that was foreseen when it came, in nanoseconds; 0 where it was not asked for.
    pub(super) foreseen: f64,
    /// Tells uses of the place apart.
    pub(super) generation: u32,
    /// Order of arrival.
    sequence: u64,
    previous: u32,
    next: u32,
}

/// Ends of a list of requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    pub(super) head: u32,
    tail: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self { head: NONE, tail: NONE };

    pub(super) fn is_empty(&self) -> bool {
        self.head == NONE
    }
}

/// All requests by the number their sender gave them.
#[derive(Clone, Debug, Default)]
pub(super) struct Requests {
    table: Vec<Request>,
    /// Places in use.
    pub(super) held: usize,
    arrivals: u64,
}

impl Requests {
    /// Whether nobody has this number.
    pub(super) fn is_free(&self, id: u32) -> bool {
        self.table.get(id as usize).is_none_or(|r| r.state == State::Free)
    }

    /// Whether the use of a number that had this generation goes on.
    pub(super) fn is_current(&self, id: u32, generation: u32) -> bool {
        !self.is_free(id) && self.get(id).generation == generation
    }

    pub(super) fn get(&self, id: u32) -> &Request {
        &self.table[id as usize]
    }

    pub(super) fn get_mut(&mut self, id: u32) -> &mut Request {
        &mut self.table[id as usize]
    }

    /// Takes the place of a free number.
    pub(super) fn enter(&mut self, id: u32, group: u32, rows: u32, arrived: Time, due: Time, expires: Option<Time>) {
        let place = id as usize;
        if place >= self.table.len() {
            self.table.resize(place + 1, Request::free());
        }
        let generation = self.table[place].generation.wrapping_add(1);
        self.arrivals += 1;
        let sequence = self.arrivals;
        self.table[place] = Request {
            state: State::Queued,
            group,
            rows,
            arrived,
            due,
            expires,
            generation,
            sequence,
            ..Request::free()
        };
        self.held += 1;
    }

    /// Gives a number back. It must be in no list.
    pub(super) fn leave(&mut self, id: u32) {
        self.table[id as usize].state = State::Free;
        self.held -= 1;
    }

    /// Puts a request at the end of a list.
    pub(super) fn push_back(&mut self, list: &mut List, id: u32) {
        let tail = list.tail;
        (self.table[id as usize].previous, self.table[id as usize].next) = (tail, NONE);
        match tail {
            NONE => list.head = id,
            tail => self.table[tail as usize].next = id,
        }
        list.tail = id;
    }

    /// Puts a request back where its arrival belongs in a list; walks from the front, for it is older than most.
    pub(super) fn put_back(&mut self, list: &mut List, id: u32) {
        let sequence = self.get(id).sequence;
        let mut next = list.head;
        while next != NONE && self.get(next).sequence < sequence {
            next = self.get(next).next;
        }
        let previous = if next == NONE { list.tail } else { self.get(next).previous };
        (self.table[id as usize].previous, self.table[id as usize].next) = (previous, next);
        match previous {
            NONE => list.head = id,
            p => self.table[p as usize].next = id,
        }
        match next {
            NONE => list.tail = id,
            n => self.table[n as usize].previous = id,
        }
    }

    /// Takes a request out of the list it is in.
    pub(super) fn unlink(&mut self, list: &mut List, id: u32) {
        let Request { previous, next, .. } = self.table[id as usize];
        match previous {
            NONE => list.head = next,
            p => self.table[p as usize].next = next,
        }
        match next {
            NONE => list.tail = previous,
            n => self.table[n as usize].previous = previous,
        }
    }

    /// Takes the last request out of a list.
    pub(super) fn pop_back(&mut self, list: &mut List) -> Option<u32> {
        let last = (list.tail != NONE).then_some(list.tail)?;
        self.unlink(list, last);
        Some(last)
    }

    /// Takes the first request out of a list.
    pub(super) fn pop_front(&mut self, list: &mut List) -> Option<u32> {
        let first = (list.head != NONE).then_some(list.head)?;
        self.unlink(list, first);
        Some(first)
    }

    /// The requests of a list, in order.
    pub(super) fn iter(&self, list: List) -> impl Iterator<Item = (u32, &Request)> {
        let some = |id: u32| (id != NONE).then_some(id);
        std::iter::successors(some(list.head), move |id| some(self.get(*id).next)).map(|id| (id, self.get(id)))
    }
}

impl Request {
    fn free() -> Self {
        Self {
            state: State::Free,
            group: 0,
            rows: 0,
            row: 0,
            arrived: Time::ZERO,
            due: Time::ZERO,
            expires: None,
            failures: 0,
            moves: 0,
            foreseen: 0.0,
            generation: 0,
            sequence: 0,
            previous: NONE,
            next: NONE,
        }
    }
}
