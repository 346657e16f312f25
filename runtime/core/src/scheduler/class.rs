//! Routes of a tenant between which batches are dispatched: how far each is, and whose turn it is.
//!
//! A class is one route that the plan gives a share of the tenant's batches, with the routes of smaller batches that
//! stand in for it while few requests wait. Whose turn it is follows smooth weighted round robin: every class earns its
//! share with each batch, and the one that has earned most pays for all, so that the shares hold over any stretch of
//! batches to within one.

use tandem_ir::{Nanos, Time};

use crate::adt::Fit;
use crate::limits::{DUE_DEFAULT, PACE_AHEAD};

/// Routes that take turns as one.
#[derive(Clone, Debug)]
pub(super) struct Class {
    /// Its part of the tenant's batches.
    pub(super) share: u64,
    credit: i64,
    /// Positions of its routes, by ascending batch.
    pub(super) routes: Vec<usize>,
    /// Largest batch of its usable routes; 0 where none is usable.
    pub(super) capacity: u64,
    /// Where its batches compute: position among the servers.
    pub(super) server: usize,
    pub(super) in_flight: usize,
    /// The phases of its batches over their size.
    pub(super) fit: Fit,
    /// Items the next batch is meant to have.
    pub(super) target: f64,
    /// How much longer than its compute a batch would take, were the busiest lane its tenant's part alone.
    pub(super) stretch: f64,
    /// Up to when its batches so far would have kept that part busy.
    pub(super) paced: Time,
}

impl Class {
    pub(super) fn new(share: u64, server: usize, fit: Fit) -> Self {
        Self {
            share,
            credit: 0,
            routes: vec![],
            capacity: 0,
            server,
            in_flight: 0,
            fit,
            target: 0.0,
            stretch: 1.0,
            paced: Time::ZERO,
        }
    }

    /// By when a batch should be over, whose requests should be by `natural`: later, for a class that has used more than
    /// its part of the lane, so that the requests which that makes late do not push aside those of others (after the
    /// constant bandwidth server of Abeni and Buttazzo, RTSS 1998).
    pub(super) fn due(&self, natural: Time) -> Time {
        natural.max(Time(self.paced.0.saturating_sub(PACE_AHEAD.0)))
    }

    /// A batch of it takes so many nanoseconds of the lane. What it used beyond its part while nobody else wanted it is
    /// not held against it for longer than a request without objective may wait.
    pub(super) fn pace(&mut self, calc: u64, now: Time) {
        let used = Nanos((calc as f64 * self.stretch) as u64);
        self.paced = (self.paced.max(now) + used).min(now + PACE_AHEAD + DUE_DEFAULT);
    }
}

/// Whether a class can take a batch that begins with a request of so many items.
fn able(class: &Class, rows: u64) -> bool {
    class.capacity >= rows.max(1)
}

/// Whose turn it is among classes that can take a batch that begins with a request of so many items; nothing is paid yet.
pub(super) fn turn(classes: &[Class], rows: u64) -> Option<usize> {
    // Without any share, the first class that is able.
    let earned = |c: &Class| c.credit + c.share as i64;
    let best = classes.iter().filter(|c| able(c, rows)).map(earned).max()?;
    classes.iter().position(|c| able(c, rows) && earned(c) == best)
}

/// The class has taken a batch that begins with a request of so many items: those that could have earn, it pays.
pub(super) fn pay(classes: &mut [Class], taken: usize, rows: u64) {
    let total: u64 = classes.iter().filter(|c| able(c, rows)).map(|c| c.share).sum();
    for class in classes.iter_mut().filter(|c| able(c, rows)) {
        class.credit += class.share as i64;
    }
    classes[taken].credit -= total as i64;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adt::Lines;

    fn classes(shares: &[u64]) -> Vec<Class> {
        let class = |share: &u64| Class { capacity: 8, ..Class::new(*share, 1, Fit::new(Lines::default(), 2)) };
        shares.iter().map(class).collect()
    }

    #[test]
    fn shares_hold_to_within_one_batch_at_any_time() {
        let shares = [700, 250, 50];
        let mut all = classes(&shares);
        let mut taken = [0i64; 3];
        for n in 1..=2_000i64 {
            let next = turn(&all, 1).expect("all are able");
            pay(&mut all, next, 1);
            taken[next] += 1;
            for (share, count) in shares.iter().zip(taken) {
                assert!((count * 1000 - n * *share as i64).abs() <= 1000, "after {n}: {taken:?}");
            }
        }
    }

    #[test]
    fn who_cannot_is_passed_over_and_earns_nothing() {
        let mut all = classes(&[900, 100]);
        all[0].capacity = 0;
        for _ in 0..50 {
            assert_eq!(turn(&all, 1), Some(1));
            pay(&mut all, 1, 1);
        }
        all[0].capacity = 8;
        let next: Vec<usize> = (0..10)
            .map(|_| {
                let next = turn(&all, 1).expect("both are able");
                pay(&mut all, next, 1);
                next
            })
            .collect();
        assert_eq!(next.iter().filter(|n| **n == 1).count(), 1, "{next:?}");
        assert_eq!(turn(&all, 9), None);
        // Nor does one that is there, and too small.
        let mut all = classes(&[900, 100]);
        all[0].capacity = 4;
        for _ in 0..50 {
            assert_eq!(turn(&all, 5), Some(1));
            pay(&mut all, 1, 5);
        }
        assert_eq!((all[0].credit, all[1].credit), (0, 0));
    }
}
