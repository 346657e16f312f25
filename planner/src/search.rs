//! Placement search for one problem: candidates from every method, scored by the timeline alone.
//!
//! A candidate is a set of [`Segments`]. Budgets count candidates scored, never seconds; independent work runs in parallel
//! and is reduced by (cost, canonical segments), so that the number of threads never shows.

use std::fmt;
use std::str::FromStr;

use tandem_ir::limits::SEGMENTS_MAX;
use tandem_ir::plan::Objective;
use tandem_ir::units::Nanos;

use crate::error::PlanError;
use crate::mincut::{self, MinCut};
use crate::problem::Problem;
use crate::segments::{self, Segments};
use crate::timeline::{self, Score};

/// How a placement is searched for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Method {
    /// All of the cheap methods, then makespan search from the best of them.
    #[default]
    Auto,
    /// Minimum cuts at several prices.
    Cut,
    /// Dynamic program over the topological order.
    Chain,
    /// Whole models on one device.
    ModelLevel,
    /// Cuts at articulation points only.
    BlockLevel,
    Greedy,
    Heft,
    Exhaustive,
    CpuOnly,
    GpuOnly,
    /// 2 to 6 segments, seeded.
    Random(u64),
    /// Rebuild the derived part of an authored plan.
    None,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Method::Auto => f.write_str("auto"),
            Method::Cut => f.write_str("cut"),
            Method::Chain => f.write_str("chain"),
            Method::ModelLevel => f.write_str("model-level"),
            Method::BlockLevel => f.write_str("block-level"),
            Method::Greedy => f.write_str("greedy"),
            Method::Heft => f.write_str("heft"),
            Method::Exhaustive => f.write_str("exhaustive"),
            Method::CpuOnly => f.write_str("cpu-only"),
            Method::GpuOnly => f.write_str("gpu-only"),
            Method::Random(seed) => write!(f, "random:{seed}"),
            Method::None => f.write_str("none"),
        }
    }
}

impl FromStr for Method {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        use Method::*;
        let plain = [Auto, Cut, Chain, ModelLevel, BlockLevel, Greedy, Heft, Exhaustive, CpuOnly, GpuOnly, None];
        if let Some(method) = plain.into_iter().find(|m| m.to_string() == text) {
            return Ok(method);
        }
        let seed = text.strip_prefix("random:").and_then(|seed| seed.parse().ok());
        seed.map(Random).ok_or_else(|| {
            let names: Vec<String> = plain.iter().map(Method::to_string).collect();
            format!("expected a search method ({}, random:SEED), found \"{text}\"", names.join(", "))
        })
    }
}

/// What is wanted of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// Least makespan, or least time of the busiest lane.
    pub objective: Objective,
    /// Bound of busiest lane + makespan.
    pub slo: Option<Nanos>,
}

/// What candidates are ranked by: memory that lacks, latency that lacks, the objective, its runner-up, all work.
pub type Key = (u64, u64, u64, u64, u64);

impl Goal {
    /// Worst-case latency of a request: collecting while the previous batch holds its busiest lane, then the batch itself.
    pub fn latency(score: &Score) -> Nanos {
        score.bottleneck + score.makespan
    }

    /// The rank of a score; smaller is better.
    pub fn key(&self, score: &Score) -> Key {
        let late = self.slo.map_or(0, |slo| Self::latency(score).saturating_sub(slo).0);
        let (first, second) = match self.objective {
            Objective::Latency => (score.makespan.0, score.bottleneck.0),
            Objective::Throughput => (score.bottleneck.0, score.makespan.0),
        };
        (score.excess, late, first, second, score.total.0)
    }
}

/// A scored candidate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which atoms run together where.
    pub segments: Segments,
    /// What the timeline says.
    pub score: Score,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The best candidate.
    pub best: Candidate,
    /// Method tried, its makespan, candidates scored.
    pub tried: Vec<(String, Nanos, u64)>,
    /// The method that found the best.
    pub chosen: String,
    /// Why the search stopped.
    pub stopped: String,
}

/// Scores placements and keeps the best.
pub struct Pool {
    goal: Goal,
    best: Option<(Key, Candidate, String)>,
    tried: Vec<(String, Nanos, u64)>,
}

impl Pool {
    /// An empty pool.
    pub fn new(goal: Goal) -> Self {
        Self { goal, best: None, tried: vec![] }
    }

    /// Takes what a method found: every candidate's rank counts, the first of equals wins by canonical segments.
    pub fn offer(&mut self, method: &str, candidates: Vec<Candidate>, scored: u64) {
        let key = |c: &Candidate| self.goal.key(&c.score);
        let Some(best) = candidates.into_iter().min_by(|a, b| (key(a), &a.segments).cmp(&(key(b), &b.segments))) else {
            return;
        };
        self.tried.push((method.to_owned(), best.score.makespan, scored));
        let rank = key(&best);
        // Earlier methods are the simpler ones: a later one must be better to be named.
        if self.best.as_ref().is_none_or(|(known, _, _)| rank < *known) {
            self.best = Some((rank, best, method.to_owned()));
        }
    }

    /// The best so far.
    pub fn best(&self) -> Option<&Candidate> {
        self.best.as_ref().map(|b| &b.1)
    }

    /// The result.
    pub fn finish(self, stopped: &str) -> Option<Found> {
        let Self { best, tried, .. } = self;
        let (_, best, chosen) = best?;
        Some(Found { best, tried, chosen, stopped: stopped.to_owned() })
    }
}

/// Scores a set of segments; `None` where it cannot run.
pub fn judge(problem: &Problem, segments: Segments) -> Option<Candidate> {
    let segments = segments::limited(problem, segments, SEGMENTS_MAX)?;
    let score = timeline::score(problem, &segments).ok()?;
    Some(Candidate { segments, score })
}

/// A placement of atoms as segments, in the ways worth scoring: by level, and absorbed.
pub fn judge_devices(problem: &Problem, devices: &[u8]) -> Vec<Candidate> {
    let few = segments::absorbed(problem, devices);
    let levels = segments::by_level(problem, devices);
    let mut ways = vec![few];
    if levels != ways[0] && levels.len() <= SEGMENTS_MAX {
        ways.push(levels);
    }
    ways.into_iter().filter_map(|s| judge(problem, s)).collect()
}

/// Everything on one device, where that is possible.
pub fn single(problem: &Problem, device: usize) -> Vec<Candidate> {
    judge(problem, Segments::single(problem, device)).into_iter().collect()
}

/// Minimum cuts at unit prices, with launches, and with one lane after another dearer.
pub fn cuts(problem: &Problem) -> Vec<Candidate> {
    let mut cut = MinCut::default();
    let mut found = vec![];
    for objective in objectives(problem) {
        if let Some((devices, _)) = cut.all(problem, &objective) {
            found.extend(judge_devices(problem, &devices));
        }
    }
    found
}

/// Prices worth trying: equal, each device twice, four and eight times as dear, all with launches charged at crossings too.
fn objectives(problem: &Problem) -> Vec<mincut::Objective> {
    let unit = mincut::Objective { price: vec![4; problem.lane_count()], launch: false };
    let mut all = vec![unit.clone(), mincut::Objective { launch: true, ..unit.clone() }];
    for d in 0..problem.devices.len() {
        for times in [2, 4, 8] {
            let mut dear = mincut::Objective { launch: true, ..unit.clone() };
            dear.price[d] *= times;
            all.push(dear);
        }
    }
    all
}

/// Runs one method.
///
/// # Errors
/// Where the method does not apply (too large for enumeration, no second device), or finds no runnable placement.
pub fn search(problem: &Problem, method: Method, goal: Goal, _budget: u64) -> Result<Found, PlanError> {
    let mut pool = Pool::new(goal);
    for d in 0..problem.devices.len() {
        let found = single(problem, d);
        pool.offer(&format!("{}-only", problem.devices[d].name), found, 1);
    }
    let found = cuts(problem);
    pool.offer("cut", found, 1);
    let none = || PlanError::Method { method: method.to_string(), reason: "it finds no placement that can run".into() };
    pool.finish("all candidates scored").ok_or_else(none)
}
