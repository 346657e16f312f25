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

    /// The line nearest to points (size, nanoseconds) by least squares, neither slope nor fixed part negative; one point:
    /// all of it fixed.
    pub fn fitted(points: &[(f64, f64)]) -> Self {
        fit(points, Self::default())
    }

    /// The line through two points (size, nanoseconds). Where it would fall or begin below zero, the nearest line that
    /// does not: flat through the mean, or through zero and the mean.
    pub fn through(a: (f64, f64), b: (f64, f64)) -> Self {
        fit(&[a, b], Self::default())
    }
}

/// Least squares over points (size, nanoseconds), neither slope nor fixed part negative. Where all sizes are equal the
/// slope of `before` is kept as far as the fixed part stays positive, and only the fixed part moves.
fn fit(points: &[(f64, f64)], before: Line) -> Line {
    let n = points.len() as f64;
    if points.is_empty() {
        return before;
    }
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let spread: f64 = points.iter().map(|p| (p.0 - x) * (p.0 - x)).sum();
    if spread == 0.0 {
        let slope = before.slope.min(if x > 0.0 { y / x } else { 0.0 }).max(0.0);
        return Line { slope, fixed: (y - slope * x).max(0.0) };
    }
    let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / spread;
    if slope < 0.0 {
        return Line { slope: 0.0, fixed: y.max(0.0) };
    }
    let fixed = y - slope * x;
    if fixed < 0.0 {
        // The best line through zero.
        let (xy, xx) = points.iter().fold((0.0, 0.0), |(xy, xx), p| (xy + p.0 * p.1, xx + p.0 * p.0));
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
    lines: Lines,
    /// For the points of one phase, so that a refit allocates nothing.
    points: Vec<(f64, f64)>,
    off: Vec<f64>,
}

/// Points further from the line than this many times the median distance are outliers: for a normal spread about four
/// standard deviations.
const OUTLIER: f64 = 6.0;

impl Fit {
    /// Starts from lines that are known (a plan's), or from zero, and remembers so many batches (at least 2).
    pub fn new(lines: Lines, size: usize) -> Self {
        let size = size.max(2);
        let (points, off) = (Vec::with_capacity(size), Vec::with_capacity(size));
        Self { ring: VecDeque::with_capacity(size), size, lines, points, off }
    }

    /// The lines as they are now.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Takes in a finished batch and fits anew. Durations that are no numbers are left out.
    pub fn push(&mut self, sample: PhaseSample) {
        if ![sample.up, sample.calc, sample.down].iter().all(|d| d.is_finite() && *d >= 0.0) {
            return;
        }
        if self.ring.len() == self.size {
            self.ring.pop_front();
        }
        self.ring.push_back(sample);
        let before = self.lines;
        self.lines = Lines {
            up: self.robust(|s| s.up, before.up),
            calc: self.robust(|s| s.calc, before.calc),
            down: self.robust(|s| s.down, before.down),
        };
    }

    /// Fits, drops what is far off that line, and fits again. The first line is the one before where there are enough
    /// points to trust it: a new outlier must not bend the line it is judged by.
    fn robust(&mut self, of: fn(&PhaseSample) -> f64, before: Line) -> Line {
        self.points.clear();
        self.points.extend(self.ring.iter().map(|s| (s.batch as f64, of(s))));
        let all = fit(&self.points, before);
        if self.points.len() < 5 {
            return all;
        }
        let judge = self.median_line(all);
        self.off.clear();
        self.off.extend(self.points.iter().map(|p| (p.1 - judge.at(p.0)).abs()));
        let middle = middle(&mut self.off);
        // With more than half the points exactly on the line, everything off it by more than rounding is far.
        let most = OUTLIER * middle.max(judge.at(1.0) * 1e-6);
        self.points.retain(|p| (p.1 - judge.at(p.0)).abs() <= most);
        fit(&self.points, before)
    }

    /// The line moved to the median of what is left over: robust against points far off on one side.
    fn median_line(&mut self, line: Line) -> Line {
        let slope = self.median_slope().unwrap_or(line.slope);
        self.off.clear();
        self.off.extend(self.points.iter().map(|p| p.1 - slope * p.0));
        Line { slope, fixed: middle(&mut self.off) }
    }

    /// Theil-Sen: the median of the slopes between pairs, here of each point with the one half a ring away, which keeps
    /// the work linear; `None` where all sizes are equal.
    fn median_slope(&mut self) -> Option<f64> {
        self.points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let half = self.points.len() / 2;
        self.off.clear();
        for i in 0..self.points.len() - half {
            let (a, b) = (self.points[i], self.points[i + half]);
            if b.0 > a.0 {
                self.off.push((b.1 - a.1) / (b.0 - a.0));
            }
        }
        (!self.off.is_empty()).then(|| middle(&mut self.off).max(0.0))
    }
}

/// The median, by sorting; 0 of none.
fn middle(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
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
        assert_eq!(Line::through((2.0, 10.0), (6.0, 18.0)), Line { slope: 2.0, fixed: 6.0 });
        assert_eq!(Line::through((2.0, 10.0), (6.0, 8.0)), Line { slope: 0.0, fixed: 9.0 });
        let through_zero = Line::through((1.0, 1.0), (2.0, 4.0));
        assert_eq!((through_zero.slope, through_zero.fixed), (9.0 / 5.0, 0.0));
        assert_eq!(Line::through((3.0, 6.0), (3.0, 8.0)), Line { slope: 0.0, fixed: 7.0 });
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
