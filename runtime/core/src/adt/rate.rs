//! The rate at which requests arrive, from their arrivals.
//!
//! A batch's fill window gives one estimate; these are smoothed. Within a window the count of arrivals is compared with
//! what the smoothed rate leads to expect: where it lies further off than chance explains (two standard deviations of a
//! Poisson count), the window itself is believed, so that a burst is seen before its batch is full.

use tandem_ir::Time;

/// Weight of the newest window. Four windows carry two thirds of the estimate.
const NEWEST: f64 = 0.25;

/// Standard deviations by which a count has to differ before it is believed.
const DEVIATIONS: f64 = 2.0;

/// An estimator of one stream of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct RateEstimator {
    /// Requests a nanosecond, over the windows so far; `None` before the first has ended.
    smoothed: Option<f64>,
    /// When the window began.
    begin: Time,
    /// Arrivals in it.
    count: u64,
    /// The first of them.
    first: Time,
}

impl RateEstimator {
    /// Starts at a moment, from a rate that is known (a plan's, in requests a nanosecond) or from nothing.
    pub fn new(now: Time, known: Option<f64>) -> Self {
        Self { smoothed: known.filter(|r| r.is_finite() && *r > 0.0), begin: now, count: 0, first: now }
    }

    /// Requests (or items of one) have arrived.
    pub fn arrive(&mut self, now: Time, count: u64) {
        if self.count == 0 {
            self.first = now;
        }
        self.count += count;
    }

    /// A batch was closed: its fill window ends, the next begins.
    pub fn close(&mut self, now: Time) {
        if let Some(seen) = self.seen(now) {
            // A window that contradicts the past is a new past.
            self.smoothed = Some(match self.smoothed {
                Some(past) if !self.is_off(now, past) => past + NEWEST * (seen - past),
                _ => seen,
            });
        }
        (self.begin, self.count, self.first) = (now, 0, now);
    }

    /// Requests a nanosecond, as of now; 0 while nothing is known.
    pub fn rate(&self, now: Time) -> f64 {
        match (self.smoothed, self.seen(now)) {
            (Some(past), Some(seen)) if self.is_off(now, past) => seen,
            (Some(past), _) => past,
            (None, seen) => seen.unwrap_or(0.0),
        }
    }

    /// The window's own rate; of a burst after a pause, that of the burst. `None` while no time has passed.
    fn seen(&self, now: Time) -> Option<f64> {
        let rate = |count: u64, since: Time| {
            let window = (now - since).0;
            (window > 0).then(|| count as f64 / window as f64)
        };
        let whole = rate(self.count, self.begin)?;
        // After the first arrival one interval fewer than arrivals has passed.
        let burst = rate(self.count.saturating_sub(1), self.first).filter(|_| self.count >= BURST_MIN);
        Some(burst.map_or(whole, |b| whole.max(b)))
    }

    /// Whether the window's count is further from what a rate leads to expect than chance explains.
    fn is_off(&self, now: Time, rate: f64) -> bool {
        let Some(seen) = self.seen(now) else { return false };
        let window = (now - self.begin).0 as f64;
        let burst = (now - self.first).0 as f64;
        let off = |count: f64, window: f64| {
            let expected = rate * window;
            (count - expected).abs() > DEVIATIONS * expected.max(1.0).sqrt() + 1.0
        };
        off(self.count as f64, window)
            || (seen > rate && self.count >= BURST_MIN && off(self.count as f64 - 1.0, burst))
    }
}

/// Arrivals that make a burst: below, their distance says little.
const BURST_MIN: u64 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    const MS: u64 = 1_000_000;

    fn per_s(rate: f64) -> f64 {
        rate * 1e9
    }

    /// Regular arrivals; batches are closed every 10 ms. Returns the time afterwards.
    fn regular(e: &mut RateEstimator, from: u64, to: u64, gap: u64) {
        let mut close = from + 10 * MS;
        for at in (from..to).step_by(gap as usize) {
            while close <= at {
                e.close(Time(close));
                close += 10 * MS;
            }
            e.arrive(Time(at), 1);
        }
    }

    #[test]
    fn regular_arrivals_are_told_exactly_enough() {
        let mut e = RateEstimator::new(Time(0), None);
        assert_eq!(e.rate(Time(0)), 0.0);
        regular(&mut e, 0, 200 * MS, 2_500_000);
        let rate = per_s(e.rate(Time(200 * MS)));
        assert!((rate - 400.0).abs() < 20.0, "{rate}");
    }

    #[test]
    fn a_burst_and_a_lull_are_seen_within_one_batch() {
        let mut e = RateEstimator::new(Time(0), None);
        regular(&mut e, 0, 200 * MS, 2_500_000);
        e.close(Time(200 * MS));
        // Eight times as fast: after six arrivals, in under two milliseconds.
        (0..6).for_each(|i| e.arrive(Time(200 * MS + i * 312_500), 1));
        let risen = per_s(e.rate(Time(200 * MS + 6 * 312_500)));
        assert!(risen > 2_000.0, "{risen}");
        let mut e = RateEstimator::new(Time(0), Some(800e-9));
        e.arrive(Time(MS), 1);
        let fallen = per_s(e.rate(Time(20 * MS)));
        assert!(fallen < 100.0, "{fallen}");
    }

    #[test]
    fn chance_does_not_move_it_much() {
        let mut rng = Rng::new(11);
        let mut e = RateEstimator::new(Time(0), None);
        let (mut now, mut sum, mut windows) = (0u64, 0.0, 0);
        for window in 1..=2_000u64 {
            let end = window * 20 * MS;
            loop {
                // Exponential gaps: 800 a second.
                let uniform = (rng.below(1 << 53) as f64 + 1.0) / (1u64 << 53) as f64;
                let gap = (-uniform.ln() * 1.25e6) as u64;
                if now + gap >= end {
                    now = end;
                    break;
                }
                now += gap;
                e.arrive(Time(now), 1);
            }
            e.close(Time(end));
            if window > 100 {
                sum += per_s(e.rate(Time(end)));
                windows += 1;
            }
        }
        let mean = sum / f64::from(windows);
        assert!((mean - 800.0).abs() < 40.0, "{mean}");
    }

    #[test]
    fn times_that_do_not_pass_break_nothing() {
        let mut e = RateEstimator::new(Time(5), Some(f64::NAN));
        (0..10).for_each(|_| e.arrive(Time(5), 1));
        assert_eq!(e.rate(Time(5)), 0.0);
        e.close(Time(5));
        e.close(Time(6));
        assert_eq!(e.rate(Time(6)), 0.0);
    }
}
