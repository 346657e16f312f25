//! A route as three phases: what precedes the compute on its busiest lane, that compute, and what follows it.
//!
//! The formulas of [`crate::adt`] know upload, compute and download. A route has any number of lanes; its busiest one is
//! what batches follow each other on, so that is the compute, and what a batch does before and after overlaps with it.

use tandem_ir::Nanos;
use tandem_ir::plan::Route;

/// Which phase a step belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Before the busiest lane's first step.
    Up,
    /// On the busiest lane, between two of its steps, or beside all of them.
    Calc,
    /// After the busiest lane's last step.
    Down,
}

/// What of a route never changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phases {
    /// Position of the busiest lane in the route's lanes.
    pub busiest: usize,
    /// By step.
    pub of: Vec<Phase>,
    /// Planned length of each phase, one batch alone: they add up to the makespan.
    pub planned: [Nanos; 3],
    /// Planned durations of each phase's steps, added up.
    pub work: [Nanos; 3],
    /// Steps of each phase.
    pub steps: [u32; 3],
    /// By step: from its start to the end of the route at the earliest, one batch alone.
    pub tails: Vec<Nanos>,
}

impl Phases {
    /// The phases of a route whose steps come after earlier ones only.
    pub fn of(route: &Route) -> Self {
        let steps = &route.steps;
        let busiest = route.busiest_lane();
        let before = before(route);
        let (mut follows, mut leads) = (vec![false; steps.len()], vec![false; steps.len()]);
        let (mut starts, mut tails) = (vec![Nanos::ZERO; steps.len()], vec![Nanos::ZERO; steps.len()]);
        for (i, step) in steps.iter().enumerate() {
            for b in before[i].iter().copied() {
                follows[i] |= follows[b] || steps[b].lane == busiest;
                starts[i] = starts[i].max(starts[b] + steps[b].duration);
            }
            tails[i] = step.duration;
        }
        for i in (0..steps.len()).rev() {
            for b in before[i].iter().copied() {
                leads[b] |= leads[i] || steps[i].lane == busiest;
                tails[b] = tails[b].max(tails[i] + steps[b].duration);
            }
        }
        let phase = |i: usize| match (follows[i], leads[i], steps[i].lane == busiest) {
            (false, true, false) => Phase::Up,
            (true, false, false) => Phase::Down,
            _ => Phase::Calc,
        };
        let of: Vec<Phase> = (0..steps.len()).map(phase).collect();
        let (mut work, mut count) = ([Nanos::ZERO; 3], [0; 3]);
        for (step, phase) in steps.iter().zip(&of) {
            work[*phase as usize] += step.duration;
            count[*phase as usize] += 1;
        }
        let calc = |i: &usize| of[*i] == Phase::Calc;
        let begin = (0..steps.len()).filter(calc).map(|i| starts[i]).min().unwrap_or(Nanos::ZERO);
        let end = (0..steps.len()).filter(calc).map(|i| starts[i] + steps[i].duration).max().unwrap_or(begin);
        let makespan = tails.iter().zip(&starts).map(|(t, s)| *t + *s).max().unwrap_or(Nanos::ZERO);
        let planned = [begin, end.saturating_sub(begin), makespan.saturating_sub(end)];
        Self { busiest, of, planned, work, steps: count, tails }
    }

    /// All three.
    pub fn makespan(&self) -> Nanos {
        self.planned.iter().copied().sum()
    }
}

/// What each step waits for: what it comes after, and the step before it on its lane.
fn before(route: &Route) -> Vec<Vec<usize>> {
    let mut last = vec![None; route.lane_names.len()];
    let with_lane = |(i, step): (usize, &tandem_ir::plan::Step)| {
        let mut before = step.after.clone();
        before.extend(last[step.lane].replace(i));
        before
    };
    route.steps.iter().enumerate().map(with_lane).collect()
}
