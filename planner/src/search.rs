//! Placement search for one problem: candidates from every method, scored by the timeline alone.
//!
//! A candidate is a set of [`Segments`]. Budgets count candidates scored, never seconds; independent work runs in parallel
//! and is reduced by (cost, canonical segments), so that the number of threads never shows.

use std::fmt;
use std::str::FromStr;

use rayon::prelude::*;

use tandem_ir::limits::SEGMENTS_MAX;
use tandem_ir::plan::Objective;
use tandem_ir::units::Nanos;

use crate::chain::chain;
use crate::error::PlanError;
use crate::mincut::{self, MinCut};
use crate::problem::{HOST, Problem};
use crate::segments::{self, Segments};
use crate::timeline::{self, Score};
use crate::{baselines, bound, enumerate, moves};

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

/// Everything on one device but what cannot run there.
pub fn single(problem: &Problem, device: usize) -> Vec<Candidate> {
    let devices = baselines::preferring(problem, device);
    judge(problem, segments::absorbed(problem, &devices)).into_iter().collect()
}

fn judge_all(problem: &Problem, placements: &[Vec<u8>]) -> (Vec<Candidate>, u64) {
    let candidates: Vec<Candidate> = placements.iter().flat_map(|p| judge_devices(problem, p)).collect();
    let scored = candidates.len() as u64;
    (candidates, scored)
}

/// Minimum cuts at the prices worth trying, each placement once.
pub fn cuts(problem: &Problem, objective: Objective) -> Vec<Vec<u8>> {
    let mut cut = MinCut::default();
    let prices = prices(problem, objective);
    let mut found: Vec<Vec<u8>> =
        prices.iter().filter_map(|o| cut.all(problem, o)).map(|(devices, _)| devices).collect();
    if objective == Objective::Throughput {
        found.extend(bound::placements(problem));
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// Equal prices without and with launches charged at crossings, each device two and four times as dear (work moves to the
/// others), and, for throughput, copies at a quarter (they overlap).
fn prices(problem: &Problem, objective: Objective) -> Vec<mincut::Objective> {
    let unit = mincut::Objective { price: vec![4; problem.lane_count()], launch: false };
    let mut all = vec![unit.clone(), mincut::Objective { launch: true, ..unit.clone() }];
    for d in 0..problem.devices.len() {
        for times in [2, 4] {
            let mut dear = mincut::Objective { launch: true, ..unit.clone() };
            dear.price[d] *= times;
            all.push(dear);
        }
    }
    if objective == Objective::Throughput {
        let mut cheap = unit;
        cheap.price[problem.devices.len()..].fill(1);
        all.push(cheap);
    }
    all
}

/// Runs one method.
///
/// # Errors
/// Where the method does not apply (too large for enumeration, no second device), or finds no placement that can run.
pub fn search(problem: &Problem, method: Method, goal: Goal, budget: u64) -> Result<Found, PlanError> {
    let mut pool = Pool::new(goal);
    let refuse = |reason: String| PlanError::Method { method: method.to_string(), reason };
    let mut stopped = "all candidates scored".to_owned();
    match method {
        // Outputs that are all inputs or constants: there is nothing to place, and nothing to search.
        _ if problem.atoms.is_empty() && method != Method::None => pool.offer("nothing", single(problem, HOST), 1),
        Method::Auto => stopped = auto(problem, goal, budget, &mut pool),
        Method::CpuOnly => pool.offer("cpu-only", single(problem, HOST), 1),
        Method::GpuOnly => {
            let far = 1..problem.devices.len();
            if far.is_empty() {
                return Err(refuse("the machine has no accelerator".into()));
            }
            far.for_each(|d| pool.offer(&format!("{}-only", problem.devices[d].name), single(problem, d), 1));
        }
        Method::ModelLevel => singles(problem, &mut pool),
        Method::Exhaustive => exhaustive(problem, goal, &mut pool).map_err(refuse)?,
        Method::Random(seed) => {
            let drawn = baselines::random(problem, seed).and_then(|s| judge(problem, s));
            pool.offer(&method.to_string(), drawn.into_iter().collect(), 1);
        }
        Method::None => return Err(refuse("it rebuilds an authored placement, and there is none".into())),
        Method::Cut | Method::Chain | Method::BlockLevel | Method::Greedy | Method::Heft => {
            let (found, scored) = judge_all(problem, &placements(problem, method, goal.objective));
            pool.offer(&method.to_string(), found, scored);
        }
    }
    pool.finish(&stopped)
        .ok_or_else(|| refuse(format!("it finds no placement of at most {SEGMENTS_MAX} segments that can run")))
}

/// What a placement method proposes.
fn placements(problem: &Problem, method: Method, objective: Objective) -> Vec<Vec<u8>> {
    match method {
        Method::Cut => cuts(problem, objective),
        Method::Chain => {
            let all = prices(problem, objective);
            all.iter().filter_map(|o| chain(problem, o)).map(|(devices, _)| devices).collect()
        }
        Method::BlockLevel => baselines::block_level(problem, &prices(problem, objective), &mut MinCut::default()),
        Method::Greedy => baselines::list_placement(problem, false).into_iter().collect(),
        Method::Heft => baselines::list_placement(problem, true).into_iter().collect(),
        _ => vec![],
    }
}

fn singles(problem: &Problem, pool: &mut Pool) {
    for d in 0..problem.devices.len() {
        pool.offer(&format!("{}-only", problem.devices[d].name), single(problem, d), 1);
    }
}

/// Every set of segments where that is little, else every placement in the usual segments.
fn exhaustive(problem: &Problem, goal: Goal, pool: &mut Pool) -> Result<(), String> {
    let (mut best, mut scored): (Option<(Key, Candidate)>, u64) = (None, 0);
    let mut take = |candidate: Candidate| {
        scored += 1;
        let key = goal.key(&candidate.score);
        if best.as_ref().is_none_or(|(known, c)| (key, &candidate.segments) < (*known, &c.segments)) {
            best = Some((key, candidate));
        }
    };
    let count = enumerate::placement_count(problem);
    if problem.atoms.len() <= enumerate::segmentations_max(problem.devices.len()) {
        enumerate::segmentations(problem, &mut |s| {
            if let Ok(score) = timeline::score(problem, &s) {
                take(Candidate { segments: s, score });
            }
        });
    } else if count <= enumerate::PLACEMENTS_MAX {
        enumerate::placements(problem, &mut |devices| judge_devices(problem, devices).into_iter().for_each(&mut take));
    } else {
        let max = enumerate::PLACEMENTS_MAX;
        return Err(format!(
            "{} atoms have {count} placements, more than the {max} that are enumerated",
            problem.atoms.len()
        ));
    }
    pool.offer("exhaustive", best.into_iter().map(|b| b.1).collect(), scored);
    Ok(())
}

/// Starting points that local search improves, each by itself.
const STARTS: usize = 4;

/// States a beam keeps.
const BEAM_WIDTH: usize = 8;

/// Largest problem a beam is run on: its states are copied atom by atom.
const BEAM_ATOMS_MAX: usize = 2000;

/// All cheap methods, then local search from the best different candidates.
fn auto(problem: &Problem, goal: Goal, budget: u64, pool: &mut Pool) -> String {
    singles(problem, pool);
    if problem.devices.len() == 1 {
        return "one device: nothing to place".into();
    }
    let mut starts: Vec<(Key, Candidate)> = vec![];
    let mut spent = problem.devices.len() as u64;
    let methods = [Method::Cut, Method::BlockLevel, Method::Chain, Method::Greedy, Method::Heft];
    let mut proposals: Vec<(String, Vec<Vec<u8>>)> =
        methods.par_iter().map(|m| (m.to_string(), placements(problem, *m, goal.objective))).collect();
    if problem.atoms.len() <= BEAM_ATOMS_MAX && budget > 0 {
        proposals.push(("beam".into(), moves::beam(problem, BEAM_WIDTH)));
    }
    let judged: Vec<(String, (Vec<Candidate>, u64))> =
        proposals.into_par_iter().map(|(name, p)| (name, judge_all(problem, &p))).collect();
    starts.extend(pool.best().map(|c| (goal.key(&c.score), c.clone())));
    for (name, (found, scored)) in judged {
        starts.extend(found.iter().map(|c| (goal.key(&c.score), c.clone())));
        pool.offer(&name, found, scored);
        spent += scored;
    }
    if budget == 0 {
        return "no budget for local search".into();
    }
    starts.sort_by(|a, b| (&a.0, &a.1.segments).cmp(&(&b.0, &b.1.segments)));
    starts.dedup_by(|a, b| a.1.segments == b.1.segments);
    starts.truncate(STARTS);
    let share = budget.saturating_sub(spent) / STARTS as u64;
    let improved: Vec<(Candidate, u64, bool)> =
        starts.into_par_iter().map(|(_, c)| moves::improve(problem, goal, c, share)).collect();
    let scored = improved.iter().map(|i| i.1).sum();
    let settled = improved.iter().all(|i| i.2);
    pool.offer("local moves", improved.into_iter().map(|i| i.0).collect(), scored);
    match settled {
        true => "no move improves any of the best candidates".into(),
        false => format!("{budget} candidates scored"),
    }
}
