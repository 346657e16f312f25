//! Durations of a batch's phases as lines over its size, and how they are learnt from finished batches.

use std::collections::VecDeque;

/// A duration over the batch size: `slope` nanoseconds an item and `fixed` nanoseconds a batch, neither negative.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Line {
    /// Nanoseconds an item.
    pub slope: f64,
    /// Nanoseconds a batch, whatever its size.
    pub fixed: f64,
}

impl Line {
    /// The duration of a batch, in nanoseconds.
    pub fn at(&self, batch: f64) -> f64 {
        self.slope * batch + self.fixed
    }

    /// So many times as long.
    pub(super) fn times(&self, factor: f64) -> Self {
        Self { slope: self.slope * factor, fixed: self.fixed * factor }
    }

    /// The line nearest to points (size, nanoseconds) by least squares, neither slope nor fixed part negative; one point:
    /// all of it fixed.
    pub fn fitted(points: &[(f64, f64)]) -> Self {
        fit(points.iter().copied(), Self::default())
    }
}

/// Least squares over points (size, nanoseconds), neither slope nor fixed part negative. Where all sizes are equal the
/// slope of `before` is kept as far as the fixed part stays positive, and only the fixed part moves.
fn fit(points: impl Iterator<Item = (f64, f64)> + Clone, before: Line) -> Line {
    let (mut n, mut x, mut y) = (0.0, 0.0, 0.0);
    for p in points.clone() {
        (n, x, y) = (n + 1.0, x + p.0, y + p.1);
    }
    if n == 0.0 {
        return before;
    }
    let (x, y) = (x / n, y / n);
    let (mut spread, mut together) = (0.0, 0.0);
    for p in points.clone() {
        (spread, together) = (spread + (p.0 - x) * (p.0 - x), together + (p.0 - x) * (p.1 - y));
    }
    if spread == 0.0 {
        let slope = before.slope.min(if x > 0.0 { y / x } else { 0.0 }).max(0.0);
        return Line { slope, fixed: (y - slope * x).max(0.0) };
    }
    let slope = together / spread;
    if slope < 0.0 {
        return Line { slope: 0.0, fixed: y.max(0.0) };
    }
    let fixed = y - slope * x;
    if fixed < 0.0 {
        // The best line through zero.
        let (xy, xx) = points.fold((0.0, 0.0), |(xy, xx), p| (xy + p.0 * p.1, xx + p.0 * p.0));
        return Line { slope: (xy / xx).max(0.0), fixed: 0.0 };
    }
    Line { slope, fixed }
}

/// The three phases of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Lines {
    /// Host to device.
    pub up: Line,
    /// Compute.
    pub calc: Line,
    /// Device to host.
    pub down: Line,
}

impl Lines {
    /// All three after one another: K and M of the serial formulas.
    pub fn turn(&self) -> Line {
        let sum = |of: fn(&Line) -> f64| of(&self.up) + of(&self.calc) + of(&self.down);
        Line { slope: sum(|l| l.slope), fixed: sum(|l| l.fixed) }
    }
}

/// What a finished batch took, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PhaseSample {
    /// Requests in it.
    pub batch: u64,
    /// Upload.
    pub up: f64,
    /// Compute.
    pub calc: f64,
    /// Download.
    pub down: f64,
}

/// Lines that follow the newest batches: least squares over a ring, without those that are far off.
#[derive(Clone, Debug)]
pub struct Fit {
    ring: VecDeque<PhaseSample>,
    size: usize,
    /// Batches since the last fit.
    unseen: usize,
    lines: Lines,
    /// The ring by ascending size, the points of one phase, and their distances: kept, so that a fit allocates nothing.
    sorted: Vec<PhaseSample>,
    points: Vec<(f64, f64)>,
    off: Vec<f64>,
}

/// Points further from the line than this many times the median distance are outliers: for a normal spread about four
/// standard deviations.
const OUTLIER: f64 = 6.0;

/// Fewest points that an outlier can be told among.
const JUDGED_MIN: usize = 5;

/// A full ring is fitted anew when this part of it is new: a batch fewer or more hardly moves the lines, and a fit costs
/// as much as all else that is done about a small batch.
const NEW_PART: usize = 8;

impl Fit {
    /// Starts from lines that are known (a plan's), or from zero, and remembers so many batches (at least 2).
    pub fn new(lines: Lines, size: usize) -> Self {
        let size = size.max(2);
        let ring = VecDeque::with_capacity(size);
        let (sorted, points, off) = (Vec::with_capacity(size), Vec::with_capacity(size), Vec::with_capacity(size));
        Self { ring, size, unseen: 0, lines, sorted, points, off }
    }

    /// The lines as they are now.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Takes in a finished batch; until the ring is full each one moves the lines, then every few. Durations that are no
    /// numbers are left out.
    pub fn push(&mut self, sample: PhaseSample) {
        if ![sample.up, sample.calc, sample.down].iter().all(|d| d.is_finite() && *d >= 0.0) {
            return;
        }
        self.unseen += 1;
        if self.ring.len() == self.size {
            self.ring.pop_front();
            self.ring.push_back(sample);
            if self.unseen < self.size / NEW_PART {
                return;
            }
        } else {
            self.ring.push_back(sample);
        }
        self.unseen = 0;
        self.sorted.clear();
        self.sorted.extend(&self.ring);
        self.sorted.sort_unstable_by_key(|s| s.batch);
        let before = self.lines;
        self.lines = Lines {
            up: self.robust(|s| s.up, before.up),
            calc: self.robust(|s| s.calc, before.calc),
            down: self.robust(|s| s.down, before.down),
        };
    }

    /// Fits without what is far off a line of medians: outliers must not bend the line they are judged by.
    fn robust(&mut self, of: fn(&PhaseSample) -> f64, before: Line) -> Line {
        self.points.clear();
        self.points.extend(self.sorted.iter().map(|s| (s.batch as f64, of(s))));
        if self.points.len() < JUDGED_MIN {
            return fit(self.points.iter().copied(), before);
        }
        let judge = self.median_line(before);
        self.off.clear();
        self.off.extend(self.points.iter().map(|p| (p.1 - judge.at(p.0)).abs()));
        // With more than half the points exactly on the line, everything off it by more than rounding is far.
        let most = OUTLIER * middle(&mut self.off).max(judge.at(1.0) * 1e-6);
        let near = self.points.iter().copied().filter(|p| (p.1 - judge.at(p.0)).abs() <= most);
        fit(near, before)
    }

    /// The line with the median slope (where all sizes are equal: the one before's) through the median of what it leaves.
    fn median_line(&mut self, before: Line) -> Line {
        let slope = self.median_slope().unwrap_or(before.slope);
        self.off.clear();
        self.off.extend(self.points.iter().map(|p| p.1 - slope * p.0));
        Line { slope, fixed: middle(&mut self.off) }
    }

    /// Theil-Sen: the median of the slopes between pairs, here of each point with the one half a ring away, which keeps
    /// the work linear; `None` where all sizes are equal.
    fn median_slope(&mut self) -> Option<f64> {
        let half = self.points.len() / 2;
        self.off.clear();
        for (a, b) in self.points.iter().zip(&self.points[half..]) {
            if b.0 > a.0 {
                self.off.push((b.1 - a.1) / (b.0 - a.0));
            }
        }
        (!self.off.is_empty()).then(|| middle(&mut self.off).max(0.0))
    }
}

/// The median; 0 of none. Reorders the values.
fn middle(values: &mut [f64]) -> f64 {
    let half = values.len() / 2;
    if values.is_empty() {
        return 0.0;
    }
    let is_even = values.len().is_multiple_of(2);
    let (below, upper, _) = values.select_nth_unstable_by(half, f64::total_cmp);
    match is_even {
        true => (below.iter().copied().fold(f64::NEG_INFINITY, f64::max) + *upper) / 2.0,
        false => *upper,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: Line, b: Line) -> bool {
        (a.slope - b.slope).abs() < 1e-6 && (a.fixed - b.fixed).abs() < 1e-6
    }

    #[test]
    fn two_points_make_a_line_that_neither_falls_nor_begins_below_zero() {
        assert_eq!(Line::fitted(&[(2.0, 10.0), (6.0, 18.0)]), Line { slope: 2.0, fixed: 6.0 });
        assert_eq!(Line::fitted(&[(2.0, 10.0), (6.0, 8.0)]), Line { slope: 0.0, fixed: 9.0 });
        let through_zero = Line::fitted(&[(1.0, 1.0), (2.0, 4.0)]);
        assert_eq!((through_zero.slope, through_zero.fixed), (9.0 / 5.0, 0.0));
        assert_eq!(Line::fitted(&[(3.0, 6.0), (3.0, 8.0)]), Line { slope: 0.0, fixed: 7.0 });
    }

    fn sample(batch: u64, lines: &Lines) -> PhaseSample {
        let b = batch as f64;
        PhaseSample { batch, up: lines.up.at(b), calc: lines.calc.at(b), down: lines.down.at(b) }
    }

    fn truth() -> Lines {
        let line = |slope, fixed| Line { slope, fixed };
        Lines { up: line(60.0, 300.0), calc: line(1_000.0, 6_000.0), down: line(30.0, 150.0) }
    }

    #[test]
    fn two_batches_are_enough_and_the_ring_follows() {
        let mut fit = Fit::new(Lines::default(), 16);
        fit.push(sample(1, &truth()));
        fit.push(sample(8, &truth()));
        let near = |fit: &Fit, lines: Lines| {
            close(fit.lines().up, lines.up)
                && close(fit.lines().calc, lines.calc)
                && close(fit.lines().down, lines.down)
        };
        assert!(near(&fit, truth()), "{:?}", fit.lines());
        let slower = Lines { calc: Line { slope: 2_000.0, fixed: 9_000.0 }, ..truth() };
        (0..16).for_each(|i| fit.push(sample(1 + i % 5, &slower)));
        assert!(near(&fit, slower), "{:?}", fit.lines());
    }

    #[test]
    fn equal_sizes_move_the_fixed_part_alone() {
        let mut fit = Fit::new(truth(), 8);
        let slower = Lines { calc: Line { fixed: 7_500.0, ..truth().calc }, ..truth() };
        (0..20).for_each(|_| fit.push(sample(4, &slower)));
        assert!(close(fit.lines().calc, slower.calc), "{:?}", fit.lines());
        // So much faster that the slope alone says too much.
        (0..20).for_each(|_| fit.push(PhaseSample { batch: 4, up: 0.0, calc: 2_000.0, down: 0.0 }));
        assert!(close(fit.lines().calc, Line { slope: 500.0, fixed: 0.0 }), "{:?}", fit.lines());
        assert_eq!(fit.lines().up, Line::default());
    }

    #[test]
    fn outliers_do_not_bend_the_lines() {
        let mut fit = Fit::new(Lines::default(), 32);
        for i in 0..200u64 {
            let mut s = sample(1 + i * 7 % 13, &truth());
            if i % 6 == 5 {
                s.calc *= 20.0;
            }
            fit.push(s);
            fit.push(PhaseSample { up: f64::NAN, ..s });
        }
        assert!(close(fit.lines().calc, truth().calc) && close(fit.lines().up, truth().up), "{:?}", fit.lines());
    }

    #[test]
    fn lines_are_never_negative_whatever_comes() {
        let mut rng = crate::rng::Rng::new(7);
        let mut fit = Fit::new(Lines::default(), 8);
        for _ in 0..5_000 {
            let mut some = || rng.below(1_000_000) as f64;
            let (up, calc, down) = (some(), some(), some());
            fit.push(PhaseSample { batch: 1 + rng.below(4), up, calc, down });
            let l = fit.lines();
            let fine = [l.up, l.calc, l.down].iter().all(|l| l.slope >= 0.0 && l.fixed >= 0.0 && l.at(9.0).is_finite());
            assert!(fine, "{l:?}");
        }
    }
}
