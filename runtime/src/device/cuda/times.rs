//! When commands ran, by an accelerator's clock, told by the host's.
//!
//! An accelerator measures the time between two marks on its streams far better than a host that hears of them later,
//! but its clock has no common zero with the host's. So a lane keeps an anchor: a mark, and the moment on the host's
//! clock that it is taken for. The first is the moment at which the host saw the end of the first command, which is a
//! little late. What follows corrects it: a command cannot have ended after the host saw its end, nor begun before the
//! host enqueued it. So the clocks need no calibration and may drift.

use tandem_ir::{Nanos, Time};

/// A moment on the accelerator's clock that is known on the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Anchor(Time);

impl Anchor {
    /// The end of a command, as the host saw it.
    pub(super) fn seen(at: Time) -> Self {
        Self(at)
    }

    /// When a command ran that began `since` after the anchor and took so long, was enqueued at `enqueued` and seen to
    /// be over at `seen`. Moves the anchor where it contradicts these.
    pub(super) fn place(&mut self, since: Nanos, took: Nanos, enqueued: Time, seen: Time) -> (Time, Time) {
        let ended = self.0 + since + took;
        let late = Nanos(ended.0.saturating_sub(seen.0));
        self.0 = Time(self.0.0.saturating_sub(late.0));
        let early = Nanos(enqueued.0.saturating_sub((self.0 + since).0));
        self.0 = self.0 + early;
        let start = self.0 + since;
        // Where both contradict it, the accelerator's clock is faster than the host's: it is not believed beyond that.
        (start, (start + took).min(seen.max(start)))
    }

    /// The moment so long after this one.
    pub(super) fn later(self, by: Nanos) -> Self {
        Self(self.0 + by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(anchor: &mut Anchor, since: u64, took: u64, enqueued: u64, seen: u64) -> (u64, u64) {
        let (start, end) = anchor.place(Nanos(since), Nanos(took), Time(enqueued), Time(seen));
        (start.0, end.0)
    }

    #[test]
    fn a_late_anchor_is_pulled_back_and_stays_there() {
        // The true zero is 1000, the host saw it at 1030.
        let mut anchor = Anchor::seen(Time(1030));
        assert_eq!(place(&mut anchor, 100, 50, 1090, 1190), (1130, 1180));
        // Ended at 1260, seen at 1265, but told as 1290: the anchor is 5 late at most.
        assert_eq!(place(&mut anchor, 200, 60, 1190, 1265), (1205, 1265));
        assert_eq!(place(&mut anchor, 300, 10, 1290, 1400), (1305, 1315));
    }

    #[test]
    fn nothing_begins_before_it_was_enqueued() {
        let mut anchor = Anchor::seen(Time(1000));
        assert_eq!(place(&mut anchor, 10, 5, 1020, 1100), (1020, 1025));
        assert_eq!(place(&mut anchor, 100, 5, 1050, 1200), (1110, 1115));
    }

    #[test]
    fn an_end_is_never_after_it_was_seen() {
        let mut anchor = Anchor::seen(Time(1000));
        // 300 ns by the accelerator in what were 200 for the host.
        let (start, end) = place(&mut anchor, 0, 300, 1000, 1200);
        assert_eq!((start, end), (1000, 1200));
    }

    #[test]
    fn an_anchor_can_be_moved_along() {
        let mut anchor = Anchor::seen(Time(1000)).later(Nanos(500));
        assert_eq!(place(&mut anchor, 1, 1, 0, 2000), (1501, 1502));
    }
}
