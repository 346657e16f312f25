//! Where batching settles at a steady rate, in closed form.
//!
//! Notation of the source: C the rate in requests a nanosecond, `k` slopes and `m` fixed parts of upload (u), compute
//! (c) and download (d), K and M their sums, b the batch size, T the latency of a batch's first request. Numbers in
//! brackets are the formulas' numbers in the project's design notes.

use super::lines::{Line, Lines};

/// How batches follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Upload, compute and download of one batch, then the next.
    Serial,
    /// Overlapped, by the formulas as they were published.
    Slide,
    /// Overlapped, with flow conserved.
    Flow,
}

/// A steady state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steady {
    /// Batch size (not rounded).
    pub batch: f64,
    /// Latency of the first request of a batch, in nanoseconds.
    pub latency: f64,
}

/// What a latency bound admits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Within {
    /// Largest batch size (not rounded).
    pub batch: f64,
    /// Highest rate, in requests a nanosecond.
    pub rate: f64,
}

impl Mode {
    /// The rate that no batch size carries, in requests a nanosecond: (2.3), (2.7), and for flow the slowest of the three
    /// servers. Infinite where nothing takes time an item.
    pub fn rate_max(self, lines: &Lines) -> f64 {
        let (up, calc, down) = (lines.up.slope, lines.calc.slope, lines.down.slope);
        match self {
            Self::Serial => 1.0 / lines.turn().slope,
            // Nothing bounds it where copies are slower than compute: the formulas leave copies' own limits out.
            Self::Slide => 1.0 / (calc - up).max(0.0),
            Self::Flow => 1.0 / calc.max(up).max(down),
        }
    }

    /// Batch size and latency at a rate, (2.2) and (2.4), (2.6), (2.10) and (2.11); `None` at or beyond the mode's highest
    /// rate. Flow's batch is also as large as the slower copies need: where a copy outlasts the compute it is the server
    /// that sets the pace.
    pub fn steady(self, lines: &Lines, rate: f64) -> Option<Steady> {
        let Lines { up, calc, down } = lines;
        let settled = |fixed: f64, slope: f64| (slope * rate < 1.0).then(|| fixed * rate / (1.0 - slope * rate));
        match self {
            Self::Serial => {
                let turn = lines.turn();
                let batch = settled(turn.fixed, turn.slope)?;
                Some(Steady { batch, latency: 2.0 * turn.at(batch) })
            }
            Self::Slide => {
                let batch = settled(calc.fixed - up.fixed, calc.slope - up.slope)?.max(0.0);
                Some(Steady { batch, latency: 2.0 * calc.at(batch) })
            }
            Self::Flow => {
                let [by_up, by_calc, by_down] = [up, calc, down].map(|l| settled(l.fixed, l.slope));
                let batch = by_up?.max(by_calc?).max(by_down?);
                let pace = up.at(batch).max(calc.at(batch)).max(down.at(batch));
                Some(Steady { batch, latency: pace + up.at(batch) + calc.at(batch) + down.at(batch) })
            }
        }
    }

    /// The largest batch (not rounded) whose latency stays within a bound in nanoseconds, where so many batches compute at
    /// once (at least 1), for each of which only a part of the time is left to fill: (2.4), (2.8), (2.12) with one. Infinite
    /// where nothing takes time an item; `None` where the bound is below what a batch of nothing takes.
    pub fn largest(self, lines: &Lines, bound: f64, servers: usize) -> Option<f64> {
        let Lines { up, calc, down } = lines;
        let fill = 1.0 / servers as f64;
        let latency = match self {
            Self::Serial => lines.turn().times(1.0 + fill),
            Self::Slide => calc.times(1.0 + fill),
            Self::Flow => {
                let calc = calc.times(1.0 + fill);
                Line { slope: calc.slope + up.slope + down.slope, fixed: calc.fixed + up.fixed + down.fixed }
            }
        };
        let spare = bound - latency.fixed;
        match latency.slope > 0.0 {
            true => Some(spare / latency.slope).filter(|batch| *batch > 0.0),
            false => (spare >= 0.0).then_some(f64::INFINITY),
        }
    }

    /// The largest batch and the highest rate whose latency stays within a bound in nanoseconds, (2.4), (2.8), (2.12), where
    /// one batch computes at a time; `None` where the bound is below what a lone request takes twice over. Slide's rate is
    /// the printed one.
    pub fn within(self, lines: &Lines, bound: f64) -> Option<Within> {
        let Lines { up, calc, down } = lines;
        let batch = self.largest(lines, bound, 1)?;
        let rate = match self {
            Self::Serial => (1.0 - 2.0 * lines.turn().fixed / bound) / lines.turn().slope,
            Self::Slide => (1.0 - 2.0 * calc.fixed / bound) / (calc.slope - up.slope),
            Self::Flow => batch / calc.at(batch).max(up.at(batch)).max(down.at(batch)),
        };
        Some(Within { batch, rate })
    }
}

/// The next batch's size (2.13), at the moment one was submitted: such that its upload ends as that batch's compute does.
/// `remaining` is the time in nanoseconds until the compute engine begins on the submitted batch, `calc` that batch's
/// predicted compute, `rate` in requests a nanosecond. At least 0; clamping to what may be run is the caller's.
pub fn next_batch(lines: &Lines, rate: f64, remaining: f64, calc: f64) -> f64 {
    (rate * (remaining + calc - lines.up.fixed) / (1.0 + lines.up.slope * rate)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Table 9.1's device; nanoseconds.
    fn device() -> Lines {
        let line = |slope: f64, fixed: f64| Line { slope: slope * 1e6, fixed: fixed * 1e6 };
        Lines { up: line(0.06, 0.30), calc: line(1.0, 6.0), down: line(0.03, 0.15) }
    }

    /// The rate that slide's own window admits within a bound, exactly: the printed form of (2.8) is the special case
    /// `k_u m_c = k_c m_u`. Requests a nanosecond; `None` where the bound is too small.
    fn slide_rate_exact(lines: &Lines, bound: f64) -> Option<f64> {
        let Lines { up, calc, .. } = lines;
        let spare = bound - 2.0 * calc.fixed;
        let window = (calc.slope - up.slope) * bound + 2.0 * (up.slope * calc.fixed - calc.slope * up.fixed);
        (spare > 0.0 && window > 0.0).then(|| spare / window)
    }

    /// Requests a second in requests a nanosecond.
    fn per_s(rate: f64) -> f64 {
        rate * 1e-9
    }

    fn printed(value: f64, digits: usize) -> String {
        format!("{value:.digits$}")
    }

    #[test]
    fn table_of_steady_states() {
        // rate; batches serial, slide, flow; latencies (ms) serial, slide, flow.
        let table = [
            (100.0, ["0.72", "0.63", "0.67"], ["14.5", "13.3", "13.8"]),
            (400.0, ["4.57", "3.65", "4.00"], ["22.9", "19.3", "20.8"]),
            (800.0, ["40.31", "18.39", "24.00"], ["100.8", "48.8", "62.6"]),
        ];
        for (rate, batches, latencies) in table {
            for (i, mode) in [Mode::Serial, Mode::Slide, Mode::Flow].into_iter().enumerate() {
                let s = mode.steady(&device(), per_s(rate)).expect("below the limit");
                assert_eq!(printed(s.batch, 2), batches[i], "{mode:?} at {rate}");
                assert_eq!(printed(s.latency / 1e6, 1), latencies[i], "{mode:?} at {rate}");
            }
        }
    }

    #[test]
    fn table_of_limits() {
        let max = |mode: Mode| printed(mode.rate_max(&device()) * 1e9, 2);
        assert_eq!([max(Mode::Serial), max(Mode::Slide), max(Mode::Flow)], ["917.43", "1063.83", "1000.00"]);
        let within =
            |mode: Mode, ms: f64| printed(mode.within(&device(), ms * 1e6).expect("a bound that holds").rate * 1e9, 1);
        let all = |ms| [Mode::Serial, Mode::Slide, Mode::Flow].map(|m| within(m, ms));
        assert_eq!(
            (all(30.0), all(120.0)),
            (["522.9", "638.3", "583.3"].map(String::from), ["818.8", "957.4", "895.6"].map(String::from))
        );
        let exact = |ms: f64| printed(slide_rate_exact(&device(), ms * 1e6).expect("a bound that holds") * 1e9, 1);
        assert_eq!([exact(30.0), exact(120.0)], ["635.6", "956.4"]);
        assert_eq!(Mode::Flow.within(&device(), 12.45e6), None);
    }

    /// A root of a function that rises with its argument, by halving: knows nothing of closed forms.
    fn root(f: impl Fn(f64) -> f64, (mut low, mut high): (f64, f64)) -> f64 {
        for _ in 0..200 {
            let middle = (low + high) / 2.0;
            if f(middle) < 0.0 { low = middle } else { high = middle }
        }
        (low + high) / 2.0
    }

    fn same(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-300)
    }

    #[test]
    fn closed_forms_are_the_roots_of_what_they_balance() {
        let mut rng = crate::rng::Rng::new(3);
        let mut checked = 0;
        for _ in 0..2_000 {
            let mut some = |most: u64| 1.0 + rng.below(most) as f64;
            let line = |slope, fixed| Line { slope, fixed };
            let up = line(some(60), some(400));
            let down = line(some(60), some(400));
            // Compute outlasts each copy, as all three modes assume.
            let calc = line(up.slope.max(down.slope) + some(1_000), up.fixed.max(down.fixed) + some(9_000));
            let lines = Lines { up, calc, down };
            let turn = |b: f64| up.at(b) + calc.at(b) + down.at(b);
            for mode in [Mode::Serial, Mode::Slide, Mode::Flow] {
                let rate = mode.rate_max(&lines) * (some(950) / 1_000.0);
                // What fills while the window is open is what the window is for.
                let window = |b: f64| match mode {
                    Mode::Serial => turn(b),
                    Mode::Slide => calc.at(b) - up.at(b),
                    Mode::Flow => calc.at(b),
                };
                let latency = |b: f64| match mode {
                    Mode::Serial => 2.0 * turn(b),
                    Mode::Slide => 2.0 * calc.at(b),
                    Mode::Flow => turn(b) + calc.at(b),
                };
                let batch = root(|b| b / rate - window(b), (0.0, 1e9));
                let s = mode.steady(&lines, rate).expect("below the limit");
                assert!(same(s.batch, batch) && same(s.latency, latency(batch)), "{mode:?} {lines:?} {rate}: {s:?}");
                let bound = latency(some(64));
                let within = mode.within(&lines, bound).expect("it admits a batch");
                let batch = root(|b| latency(b) - bound, (0.0, 1e9));
                assert!(same(within.batch, batch), "{mode:?}: {within:?}, {batch}");
                // Of several that compute at once, each has a part of the time to fill.
                let servers = some(8) as usize;
                let busy = if mode == Mode::Serial { turn(batch) } else { calc.at(batch) };
                let shorter = latency(batch) - busy + busy / servers as f64;
                let largest = mode.largest(&lines, shorter, servers).expect("it admits a batch");
                assert!(same(largest, batch), "{mode:?}, {servers} at once: {largest}, {batch}");
                let carried = batch / window(batch);
                match mode {
                    Mode::Slide => {
                        assert!(same(slide_rate_exact(&lines, bound).expect("it admits one"), carried));
                        let k = calc.slope - up.slope;
                        assert!(same(within.rate, 1.0 / k - 2.0 * calc.fixed / k / bound));
                    }
                    _ => assert!(same(within.rate, carried), "{mode:?}: {within:?}, {carried}"),
                }
                checked += 1;
            }
            // (2.13): the next upload ends as the submitted batch's compute does.
            let (rate, remaining) = (some(900) * 1e-6, some(5_000));
            let next = next_batch(&lines, rate, remaining, calc.at(8.0));
            let fills = root(|b| b / rate + up.at(b) - remaining - calc.at(8.0), (0.0, 1e9));
            assert!(same(next, fills), "{next} {fills}");
        }
        assert_eq!(checked, 6_000);
    }

    #[test]
    fn the_online_form_becomes_the_steady_ones() {
        let lines = device();
        let rate = per_s(800.0);
        let flow = Mode::Flow.steady(&lines, rate).expect("below the limit").batch;
        assert!(same(next_batch(&lines, rate, lines.up.at(flow), lines.calc.at(flow)), flow));
        let slide = Mode::Slide.steady(&lines, rate).expect("below the limit").batch;
        assert!(same(next_batch(&lines, rate, 0.0, lines.calc.at(slide)), slide));
    }

    #[test]
    fn copies_that_outlast_compute_set_the_pace() {
        let line = |slope, fixed| Line { slope, fixed };
        let lines = Lines { up: line(10.0, 100.0), calc: line(1.0, 50.0), down: line(2.0, 20.0) };
        let s = Mode::Flow.steady(&lines, 0.05).expect("below the limit");
        assert!(same(s.batch, 10.0) && same(s.latency, 2.0 * 200.0 + 60.0 + 40.0), "{s:?}");
        assert_eq!(Mode::Flow.steady(&lines, 0.1), None);
        let free = Lines::default();
        assert_eq!(Mode::Flow.steady(&free, 1.0), Some(Steady { batch: 0.0, latency: 0.0 }));
        assert_eq!(Mode::Serial.rate_max(&free), f64::INFINITY);
    }
}
