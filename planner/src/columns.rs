//! Routes as columns of the master program: generated at prices until none would help.
//!
//! Single devices and cuts at the usual prices first; then, round by round, for each tenant and batch the placement that is
//! cheapest at the prices of the program, judged as it would run; where that is late, prices of latency are added until it
//! is not. What the judge adds to a cut (launches, lost fusion, interference) a cut does not see, so the columns that carry
//! are moved locally as well, at the same prices.

use std::collections::BTreeSet;

use rayon::prelude::*;

use tandem_ir::plan::Objective;
use tandem_ir::units::{Bytes, Nanos};

use crate::bound;
use crate::master::{self, Column, Fluid, Master, MasterError};
use crate::mincut::{MinCut, Objective as Prices};
use crate::moves;
use crate::problem::Problem;
use crate::search::{self, Candidate, Goal, Method};
use crate::segments::Segments;
use crate::timeline;

/// Rounds of prices; the programs at hand settle in a few.
const ROUNDS_MAX: u64 = 24;

/// A column is moved if its priced time an item is over its tenant's value by at most this part of it.
const NEAR: f64 = 0.3;

/// Candidates that local moves may look at, for each column that carries.
const MOVES_MAX: u64 = 150;

/// A route helps if its priced time an item is below its tenant's value by this part of it.
const HELPS: f64 = 1e-4;

/// Prices of latency to try where the cheapest placement is late, as parts of the largest price.
const LATENCY_PRICES: [f64; 4] = [0.1, 0.5, 2.0, 10.0];

/// One tenant at one batch, on the host's lanes of a configuration.
pub(crate) struct Point {
    /// Which.
    pub(crate) tenant: usize,
    /// What a route is judged by.
    pub(crate) problem: Problem,
    /// The same without interference.
    pub(crate) floor: Problem,
}

/// A route that was generated.
#[derive(Clone, Debug)]
pub(crate) struct Generated {
    /// Position of its point.
    pub(crate) point: usize,
    /// The placement.
    pub(crate) candidate: Candidate,
    /// What it takes.
    pub(crate) column: Column,
}

/// Candidates that may be looked at where no cheap placement is in time.
const HURRY_MAX: u64 = 300;

/// What a tenant's routes must keep to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    /// Latency that a request must meet.
    pub(crate) slo: Option<Nanos>,
    /// Thousandths of items a second, where that is stated: they come no faster.
    pub(crate) millirate: Option<u64>,
    /// Longest that one step may hold a lane up: nobody else gets in before it ends.
    pub(crate) step_max: Option<Nanos>,
}

/// Memory that a route needs on each device; `None` where it cannot be said.
pub(crate) type MemoryOf<'a> = dyn Fn(&Point, &Segments) -> Option<Vec<Bytes>> + Sync + 'a;

/// Generates columns for all tenants at all their batches.
pub(crate) struct Generator<'a> {
    /// By tenant.
    pub(crate) terms: &'a [Terms],
    /// Each tenant at each of its batches.
    pub(crate) points: &'a [Point],
    /// What there is, and what is wanted.
    pub(crate) master: &'a Master,
    /// What routes hold.
    pub(crate) memory: &'a MemoryOf<'a>,
    /// Columns so far.
    pub(crate) generated: Vec<Generated>,
    /// (point, digest) of all that was looked at.
    pub(crate) met: BTreeSet<(usize, u64)>,
}

impl<'a> Generator<'a> {
    /// Nothing generated yet.
    pub(crate) fn new(terms: &'a [Terms], points: &'a [Point], master: &'a Master, memory: &'a MemoryOf<'a>) -> Self {
        Self { terms, points, master, memory, generated: vec![], met: BTreeSet::new() }
    }

    /// Generates until no route would help: rounds of prices, and what nothing can carry more than (see
    /// [`Master::bound`]).
    ///
    /// # Errors
    /// What the solver says. A tenant may be left without columns: nothing found for it is in time and fits.
    pub(crate) fn run(&mut self) -> Result<(u64, u64), MasterError> {
        self.begin();
        let even = vec![1; self.master.instances.len()];
        let (mut rounds, mut bound) = (0, self.bound(&even));
        if let Err(MasterError::NoColumn { .. }) = self.fluid() {
            let value = vec![f64::INFINITY; self.terms.len()];
            self.round(&Fluid { lambda: 0.0, items: vec![], price: even, value });
        }
        while rounds < ROUNDS_MAX {
            rounds += 1;
            let fluid = match self.fluid() {
                Err(MasterError::NoColumn { .. }) => break,
                fluid => fluid?,
            };
            bound = bound.min(self.bound(&fluid.price));
            if !self.round(&fluid) && !self.polish(&fluid) {
                break;
            }
        }
        Ok((rounds, bound))
    }

    fn goal(&self, point: &Point) -> Goal {
        Goal { objective: Objective::Throughput, slo: self.terms[point.tenant].slo }
    }

    /// Single devices, and cuts at the usual prices; where all of them are late, what is moved until it is in time.
    fn begin(&mut self) {
        let of = |point: &Point| -> Vec<Candidate> {
            let (problem, goal) = (&point.problem, self.goal(point));
            let singles = (0..problem.devices.len()).flat_map(|d| search::single(problem, d));
            let cuts = search::cuts(problem, Objective::Throughput);
            let mut all: Vec<Candidate> =
                singles.chain(cuts.iter().flat_map(|c| search::judge_devices(problem, c))).collect();
            let is_late = |c: &Candidate| goal.key(&c.score).1 > 0;
            if all.iter().all(is_late) {
                let quick =
                    search::search(problem, Method::Auto, Goal { objective: Objective::Latency, ..goal }, HURRY_MAX);
                all.extend(quick.ok().map(|found| found.best));
            }
            all
        };
        self.take(self.points.par_iter().map(of).collect());
    }

    /// Takes, of candidates by point, what is admissible and was not met before.
    pub(crate) fn take(&mut self, found: Vec<Vec<Candidate>>) {
        let mut new: Vec<(usize, Candidate)> = vec![];
        for (point, candidates) in found.into_iter().enumerate() {
            let unmet = candidates.into_iter().filter(|c| self.met.insert((point, c.segments.digest())));
            new.extend(unmet.map(|c| (point, c)));
        }
        let made: Vec<Option<Generated>> = new.into_par_iter().map(|(p, c)| self.generate(p, c)).collect();
        self.generated.extend(made.into_iter().flatten());
    }

    /// A candidate as a column, where it is in time and fits by itself.
    fn generate(&self, at: usize, candidate: Candidate) -> Option<Generated> {
        let point = &self.points[at];
        let (excess, late, ..) = self.goal(point).key(&candidate.score);
        if excess > 0 || late > 0 || self.collects_too_long(point, &candidate) {
            return None;
        }
        let memory = (self.memory)(point, &candidate.segments)?;
        if memory.iter().zip(&self.master.memory).any(|(needs, has)| needs > has) {
            return None;
        }
        let timeline = timeline::evaluate(&point.problem, &candidate.segments).ok()?;
        if self.terms[point.tenant].step_max.is_some_and(|most| timeline.steps.iter().any(|s| s.duration > most)) {
            return None;
        }
        let busy = timeline.busy;
        let column = Column { tenant: point.tenant, batch: point.problem.batch, busy, memory };
        Some(Generated { point: at, candidate, column })
    }

    /// At a stated rate, a batch may take longer to come together than the one before is busy.
    fn collects_too_long(&self, point: &Point, candidate: &Candidate) -> bool {
        let Terms { slo: Some(slo), millirate: Some(millirate), .. } = self.terms[point.tenant] else { return false };
        let nanos = u128::from(point.problem.batch) * 1_000_000_000_000 / u128::from(millirate.max(1));
        let collects = Nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // A batch of one is never waited for.
        point.problem.batch > 1 && collects.max(candidate.score.bottleneck) + candidate.score.makespan > slo
    }

    fn fluid(&self) -> Result<Fluid, MasterError> {
        let columns: Vec<&Column> = self.generated.iter().map(|g| &g.column).collect();
        self.master.fluid(&columns)
    }

    /// Generates what is cheapest at these prices; whether any of it would help.
    fn round(&mut self, fluid: &Fluid) -> bool {
        let of = |point: &Point| -> Vec<Candidate> {
            let goal = self.goal(point);
            let largest = fluid.price.iter().copied().max().unwrap_or(1) as f64;
            let (mut all, mut cut) = (vec![], MinCut::default());
            for more in std::iter::once(0.0).chain(LATENCY_PRICES).map(|part| (part * largest) as u64) {
                let mut is_late = true;
                for launch in [true, false] {
                    // A price of nothing makes ties, which a cut breaks anyhow.
                    let price = fluid.price.iter().map(|p| (p + more).max(1)).collect();
                    let Some((devices, _)) = cut.all(&point.problem, &Prices { price, launch }) else { continue };
                    let judged = search::judge_devices(&point.problem, &devices);
                    is_late &= judged.iter().all(|c| goal.key(&c.score).1 > 0);
                    all.extend(judged);
                }
                if !is_late {
                    break;
                }
            }
            all
        };
        let before = self.generated.len();
        self.take(self.points.par_iter().map(of).collect());
        self.helps(before, fluid)
    }

    /// Moves the columns that carry, and the cheapest of each point that is nearly worth it, locally, by what they cost at
    /// these prices; whether any would help.
    fn polish(&mut self, fluid: &Fluid) -> bool {
        let mut starts: Vec<Vec<Candidate>> = vec![vec![]; self.points.len()];
        let mut cheapest: Vec<Option<(f64, usize)>> = vec![None; self.points.len()];
        for (g, of) in self.generated.iter().enumerate() {
            if fluid.items.get(g).is_some_and(|items| *items > 0.0) {
                starts[of.point].push(of.candidate.clone());
            }
            let priced = master::priced_item(&of.column, &fluid.price);
            if cheapest[of.point].is_none_or(|(least, _)| priced < least) {
                cheapest[of.point] = Some((priced, g));
            }
        }
        for (priced, g) in cheapest.into_iter().flatten() {
            let of = &self.generated[g];
            if priced <= fluid.value[of.column.tenant] * (1.0 + NEAR) && !starts[of.point].contains(&of.candidate) {
                starts[of.point].push(of.candidate.clone());
            }
        }
        let move_all = |(point, starts): (&Point, Vec<Candidate>)| -> Vec<Candidate> {
            let goal = self.goal(point);
            let rank = |c: &Candidate| -> search::Key {
                let (excess, late, ..) = goal.key(&c.score);
                let busy = timeline::evaluate(&point.problem, &c.segments).map(|t| t.busy).unwrap_or_default();
                let priced: u128 = busy.iter().zip(&fluid.price).map(|(b, p)| u128::from(b.0) * u128::from(*p)).sum();
                // Prices are parts of 2^20: a nanosecond of the dearest lane still counts.
                let priced = u64::try_from(priced >> 10).unwrap_or(u64::MAX);
                (excess, late, priced, c.score.makespan.0, c.score.total.0)
            };
            let moved = |c: Candidate| moves::improve_by(&point.problem, &rank, c, MOVES_MAX).0;
            starts.into_iter().map(moved).collect()
        };
        let before = self.generated.len();
        self.take(self.points.par_iter().zip(starts).map(move_all).collect());
        self.helps(before, fluid)
    }

    /// Whether a column from this one on costs less than its tenant's items are worth.
    fn helps(&self, from: usize, fluid: &Fluid) -> bool {
        let priced = |g: &Generated| master::priced_item(&g.column, &fluid.price);
        self.generated[from..].iter().any(|g| priced(g) < fluid.value[g.column.tenant] * (1.0 - HELPS))
    }

    /// What nothing exceeds at these prices.
    fn bound(&self, price: &[u64]) -> u64 {
        let prices = Prices { price: price.to_vec(), launch: false };
        let floor = |point: &Point| bound::priced_floor(&point.floor, &prices, &mut MinCut::default()).map(|f| f.0);
        let floors: Vec<Option<u128>> = self.points.par_iter().map(floor).collect();
        let mut least: Vec<Option<(u128, u64)>> = vec![None; self.terms.len()];
        for (point, floor) in self.points.iter().zip(floors) {
            // Where nothing can run there is nothing to bound.
            let Some(floor) = floor else { continue };
            let (batch, known) = (point.problem.batch, &mut least[point.tenant]);
            let lower = |(f, b): (u128, u64)| floor * u128::from(b) < f * u128::from(batch);
            if known.is_none_or(lower) {
                *known = Some((floor, batch));
            }
        }
        let least: Vec<(u128, u64)> = least.into_iter().map(|f| f.unwrap_or((0, 1))).collect();
        self.master.bound(price, &least)
    }
}

#[cfg(test)]
mod tests;
