//! Routes of a tenant between which batches are dispatched: how far each is, and whose turn it is.
//!
//! A class is one route that the plan gives a share of the tenant's batches, with the routes of smaller batches that
//! stand in for it while few requests wait. Whose turn it is follows smooth weighted round robin: every class earns its
//! share with each batch, and the one that has earned most pays for all, so that the shares hold over any stretch of
//! batches to within one.

use std::collections::VecDeque;

use tandem_ir::Time;

use super::lanes::Ready;
use crate::adt::Fit;

/// A batch that has not finished its compute, as its class foresees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flying {
    pub(super) batch: u64,
    /// When its upload is over.
    pub(super) uploaded: Time,
    /// What its compute takes, in nanoseconds.
    pub(super) calc: u64,
    /// When its compute began, once it has.
    pub(super) began: Option<Time>,
    /// When its compute will be over.
    pub(super) end: Time,
}

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
    /// Batches that compute at once.
    pub(super) servers: usize,
    pub(super) in_flight: usize,
    /// The phases of its batches over their size.
    pub(super) fit: Fit,
    /// Batches that have not finished their compute, oldest first.
    pub(super) flying: VecDeque<Flying>,
    /// Items the next batch is meant to have.
    pub(super) target: f64,
    /// Lanes of threads that its plan gives it.
    pub(super) lanes: usize,
    /// Its steps that are on such lanes, or ready for them.
    pub(super) running: usize,
    /// Its steps that could be, were there more of them: lane and step.
    pub(super) waiting: Vec<(usize, Ready)>,
}

impl Class {
    pub(super) fn new(share: u64, servers: usize, fit: Fit) -> Self {
        Self {
            share,
            credit: 0,
            routes: vec![],
            capacity: 0,
            servers,
            in_flight: 0,
            fit,
            flying: VecDeque::with_capacity(crate::limits::BATCHES_IN_FLIGHT_MAX),
            target: 0.0,
            lanes: 1,
            running: 0,
            waiting: vec![],
        }
    }

    /// When a server is free for one more batch.
    pub(super) fn free_at(&self, now: Time) -> Time {
        match self.flying.len().checked_sub(self.servers) {
            Some(in_front) => self.flying[in_front].end.max(now),
            None => now,
        }
    }

    /// Foresees again, after something began, ended or was added.
    pub(super) fn foresee(&mut self, now: Time) {
        for i in 0..self.flying.len() {
            let free = i.checked_sub(self.servers).map_or(Time::ZERO, |front| self.flying[front].end);
            let batch = &mut self.flying[i];
            let begin = batch.began.unwrap_or_else(|| batch.uploaded.max(free).max(now));
            batch.end = Time(begin.0.saturating_add(batch.calc));
        }
    }

    pub(super) fn flying_mut(&mut self, batch: u64) -> Option<&mut Flying> {
        self.flying.iter_mut().find(|f| f.batch == batch)
    }
}

/// Whose turn it is among classes that can take a batch of at least so many items; nothing is paid yet.
pub(super) fn turn(classes: &[Class], rows: u64) -> Option<usize> {
    let able = |c: &&Class| c.capacity >= rows.max(1);
    // Without any share, the first class that is able.
    let earned = |c: &Class| c.credit + c.share as i64;
    let best = classes.iter().filter(able).map(earned).max()?;
    classes.iter().position(|c| able(&c) && earned(c) == best)
}

/// The class has taken a batch.
pub(super) fn pay(classes: &mut [Class], taken: usize) {
    let total: u64 = classes.iter().filter(|c| c.capacity > 0).map(|c| c.share).sum();
    for class in classes.iter_mut().filter(|c| c.capacity > 0) {
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
            pay(&mut all, next);
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
            pay(&mut all, 1);
        }
        all[0].capacity = 8;
        let next: Vec<usize> = (0..10)
            .map(|_| {
                let next = turn(&all, 1).expect("both are able");
                pay(&mut all, next);
                next
            })
            .collect();
        assert_eq!(next.iter().filter(|n| **n == 1).count(), 1, "{next:?}");
        assert_eq!(turn(&all, 9), None);
    }
}
