//! Where batches compute: which of them run, which are next, and when there is room for one more.
//!
//! A server is what batches of a class follow each other on: the busiest lane of its routes. A stream or link is one
//! server for all tenants that are busiest there, a batch at a time, the most urgent first; of a CPU's lane each class
//! has a part of its own, as many batches at once as its plan gives it lanes. Times are foreseen, and corrected whenever
//! something begins, ends or comes.

use tandem_ir::Time;

/// A batch that has not finished its compute.
#[derive(Clone, Copy, Debug)]
struct Flying {
    batch: u64,
    /// By when it should be over: who goes first.
    due: Time,
    /// When its upload is over.
    uploaded: Time,
    /// What its compute takes, in nanoseconds.
    calc: u64,
    /// When its compute began, once it has.
    began: Option<Time>,
    /// Its last step there runs: nobody goes before it any more.
    is_last: bool,
    /// When its compute will be over.
    end: Time,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Server {
    /// Its lane.
    pub(super) lane: usize,
    /// Batches that compute at once.
    pub(super) width: usize,
    /// Tenants whose batches come here.
    pub(super) groups: Vec<usize>,
    /// In the order in which they are served: those that cannot be overtaken at the end of a step, then by urgency.
    flying: Vec<Flying>,
    /// There may be room sooner than was foreseen when its tenants were looked at last.
    pub(super) sooner: bool,
}

impl Server {
    pub(super) fn new(lane: usize, width: usize, in_flight: usize) -> Self {
        Self { lane, width, groups: vec![], flying: Vec::with_capacity(in_flight), sooner: false }
    }

    /// Batches that a further one would come after, were it due by then.
    pub(super) fn in_front(&self, due: Time) -> usize {
        self.flying.partition_point(|f| f.is_last || f.due <= due)
    }

    /// When there is room for a further batch that is due by then.
    pub(super) fn free_at(&self, due: Time, now: Time) -> Time {
        match self.in_front(due).checked_sub(self.width) {
            Some(last) => self.flying[last].end.max(now),
            None => now,
        }
    }

    /// A batch has been formed, whose upload will be over at a moment and whose compute takes so many nanoseconds.
    pub(super) fn enter(&mut self, batch: u64, due: Time, uploaded: Time, calc: u64, now: Time) {
        let flying = Flying { batch, due, uploaded, calc, began: None, is_last: false, end: Time::ZERO };
        self.flying.insert(self.in_front(due), flying);
        self.foresee(now);
    }

    /// The upload of a batch is over.
    pub(super) fn uploaded(&mut self, batch: u64, now: Time) {
        if let Some(place) = self.place(batch) {
            self.flying[place].uploaded = now;
            self.foresee(now);
        }
    }

    /// A step of a batch has begun there, its last one or not.
    pub(super) fn began(&mut self, batch: u64, is_last: bool, now: Time) {
        let Some(place) = self.place(batch) else { return };
        let flying = &mut self.flying[place];
        if flying.began.is_some() && !is_last {
            return;
        }
        flying.began.get_or_insert(now);
        if is_last {
            let mut flying = self.flying.remove(place);
            flying.is_last = true;
            self.flying.insert(self.flying.partition_point(|f| f.is_last), flying);
            // Who is more urgent is now behind it, and may find that this ends before those in front of it do.
            self.sooner |= place > 0;
        }
        self.foresee(now);
    }

    /// A batch is in nobody's way any more.
    pub(super) fn leave(&mut self, batch: u64, now: Time) {
        if let Some(place) = self.place(batch) {
            self.flying.remove(place);
            self.sooner = true;
            self.foresee(now);
        }
    }

    fn place(&self, batch: u64) -> Option<usize> {
        self.flying.iter().position(|f| f.batch == batch)
    }

    fn foresee(&mut self, now: Time) {
        for i in 0..self.flying.len() {
            let free = i.checked_sub(self.width).map_or(Time::ZERO, |front| self.flying[front].end);
            let flying = &mut self.flying[i];
            let begin = flying.began.unwrap_or_else(|| flying.uploaded.max(free).max(now));
            let end = Time(begin.0.saturating_add(flying.calc));
            self.sooner |= std::mem::replace(&mut flying.end, end) > end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_more_urgent_comes_first_but_for_those_in_their_last_step() {
        let mut server = Server::new(0, 1, 0);
        assert_eq!((server.in_front(Time(9)), server.free_at(Time(9), Time(5))), (0, Time(5)));
        server.enter(1, Time(100), Time(10), 20, Time(0));
        server.began(1, false, Time(10));
        assert_eq!((server.in_front(Time(90)), server.free_at(Time(90), Time(10))), (0, Time(10)));
        server.began(1, true, Time(10));
        server.enter(2, Time(80), Time(12), 20, Time(10));
        // Behind the one that runs, and the one that is due before.
        assert_eq!((server.in_front(Time(90)), server.free_at(Time(90), Time(12))), (2, Time(50)));
        // In front of the latter.
        assert_eq!((server.in_front(Time(70)), server.free_at(Time(70), Time(12))), (1, Time(30)));
        server.enter(3, Time(70), Time(35), 10, Time(12));
        assert_eq!(server.free_at(Time(75), Time(12)), Time(45));
        assert_eq!(server.free_at(Time(90), Time(12)), Time(65));
        // It is late: the other one goes first after all.
        server.leave(1, Time(30));
        server.began(2, true, Time(30));
        assert_eq!(server.free_at(Time(75), Time(30)), Time(60));
    }

    #[test]
    fn as_many_run_at_once_as_there_are_lanes() {
        let mut server = Server::new(0, 2, 0);
        (0..3).for_each(|b| server.enter(b, Time(b), Time(0), 10 + b, Time(0)));
        assert_eq!(server.free_at(Time(9), Time(0)), Time(11));
        server.leave(0, Time(4));
        assert_eq!(server.free_at(Time(9), Time(4)), Time(15));
    }
}
