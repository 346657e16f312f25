//! What the search is compared with, all in its own space: one processor, whole models, blocks, chance, the learner alone.

use super::chain::aligned;
use super::evaluate::Judge;
use super::limits::ASSIGNMENTS_MAX;
use super::problem::{StageError, StageProblem};
use super::schedule::{Schedule, Segment};
use super::search::{self, Found, Log};
use crate::rng::Rng;

/// All tenants on one processor at once; operators it cannot run go where they can.
///
/// # Errors
/// [`StageError::NothingFits`] where that needs too many stages or too much memory.
pub fn single(problem: &StageProblem, processor: usize) -> Result<Found, StageError> {
    let mut log = Log::new();
    if let Some(schedule) = preferring(problem, processor) {
        log.offer(Judge::new(problem).score(&schedule), &schedule);
    }
    log.finish(problem, "one schedule", &problem.processors()[processor].name)
}

/// The schedule of [`single`]; `None` where it needs too many stages.
pub(crate) fn preferring(problem: &StageProblem, processor: usize) -> Option<Schedule> {
    let rows: Vec<_> = (0..problem.tenants().len()).map(|t| row_preferring(problem, t, processor)).collect();
    let schedule = aligned(&rows, false);
    (schedule.stages() <= problem.rules().stages_max).then_some(schedule)
}

/// A tenant's segments on a processor wherever that can run it, else as long as possible on another.
fn row_preferring(problem: &StageProblem, t: usize, processor: usize) -> Vec<Segment> {
    let tenant = &problem.tenants()[t];
    let mut row: Vec<Segment> = vec![];
    let mut at = 0;
    while at < tenant.operators() {
        let own = tenant.reach(at, processor);
        // Elsewhere only up to where the wanted processor can take over.
        let (end, q) = match own > at {
            true => (own, processor),
            false => {
                let back = (at..tenant.operators()).find(|c| tenant.reach(*c, processor) > *c);
                let reach = |q: usize| tenant.reach(at, q).min(back.unwrap_or(tenant.operators()));
                (0..problem.processors().len())
                    .map(|q| (reach(q), q))
                    .max_by_key(|(c, q)| (*c, usize::MAX - q))
                    .unwrap_or((at, 0))
            }
        };
        row.push(Segment { end: end as u32, processor: q as u8 });
        at = end;
    }
    row
}

/// The best assignment of whole models to processors, all at once: every one where they are at most
/// [`ASSIGNMENTS_MAX`], else from the single processors by changing one tenant at a time.
///
/// # Errors
/// [`StageError::NothingFits`] where none can run.
pub fn model_level(problem: &StageProblem) -> Result<Found, StageError> {
    assignments(problem).finish(problem, "all assignments scored", "model level")
}

pub(crate) fn assignments(problem: &StageProblem) -> Log {
    let (tenants, count) = (problem.tenants().len(), problem.processors().len());
    let rows: Vec<Vec<Vec<Segment>>> =
        (0..tenants).map(|t| (0..count).map(|q| row_preferring(problem, t, q)).collect()).collect();
    let mut log = Log::new();
    let mut judge = Judge::new(problem);
    let mut score = |assigned: &[usize]| {
        let chosen: Vec<Vec<Segment>> = assigned.iter().zip(&rows).map(|(q, rows)| rows[*q].clone()).collect();
        let schedule = aligned(&chosen, false);
        let fits = schedule.stages() <= problem.rules().stages_max;
        let makespan = if fits { judge.score(&schedule) } else { None };
        log.offer(makespan, &schedule);
        makespan
    };
    if (count as u128).checked_pow(tenants as u32).is_some_and(|all| all <= ASSIGNMENTS_MAX) {
        for i in 0..count.pow(tenants as u32) {
            let assigned: Vec<usize> = (0..tenants).map(|t| i / count.pow(t as u32) % count).collect();
            score(&assigned);
        }
        return log;
    }
    for q in 0..count {
        let mut assigned = vec![q; tenants];
        let mut best = score(&assigned);
        // Each pass changes every tenant at most once; no more passes than tenants.
        for _ in 0..tenants {
            let before = best;
            for (t, q) in (0..tenants).flat_map(|t| (0..count).map(move |q| (t, q))) {
                let old = std::mem::replace(&mut assigned[t], q);
                match score(&assigned) {
                    Some(makespan) if best.is_none_or(|b| makespan < b) => best = Some(makespan),
                    _ => assigned[t] = old,
                }
            }
            if best == before {
                break;
            }
        }
    }
    log
}

/// The same search where pointers stop at ends of blocks only.
///
/// # Errors
/// As [`search::search`]; also where blocks need more stages than there are.
pub fn block_level(problem: &StageProblem, seed: u64, episodes: u64, budget: u64) -> Result<Found, StageError> {
    let Some((coarse, positions)) = problem.of_blocks() else {
        return Err(StageError::NothingFits { scored: 0 });
    };
    let found = search::search(&coarse, seed, episodes, budget)?;
    Ok(Found { schedule: from_blocks(&found.schedule, &positions), ..found })
}

/// A schedule over blocks, in operators.
pub(crate) fn from_blocks(schedule: &Schedule, positions: &[Vec<usize>]) -> Schedule {
    let mut segments = schedule.segments().to_vec();
    for (t, positions) in positions.iter().enumerate().filter(|_| schedule.stages() > 0) {
        let row = t * schedule.stages()..(t + 1) * schedule.stages();
        segments[row].iter_mut().for_each(|s| s.end = positions[s.end as usize] as u32);
    }
    Schedule::flat(schedule.stages(), segments)
}

/// A schedule in blocks; `None` where a pointer is inside one.
pub(crate) fn to_blocks(schedule: &Schedule, positions: &[Vec<usize>]) -> Option<Schedule> {
    let mut segments = schedule.segments().to_vec();
    for (t, positions) in positions.iter().enumerate().filter(|_| schedule.stages() > 0) {
        for s in &mut segments[t * schedule.stages()..(t + 1) * schedule.stages()] {
            s.end = positions.binary_search(&(s.end as usize)).ok()? as u32;
        }
    }
    Some(Schedule::flat(schedule.stages(), segments))
}

/// The learner alone, with the episodes the search would give it.
///
/// # Errors
/// [`StageError::NothingFits`] where no episode ended in a schedule that can run.
pub fn learner_alone(problem: &StageProblem, seed: u64, episodes: u64) -> Result<Found, StageError> {
    let whole = assignments(problem).best.map_or(1, |b| b.0);
    let mut log = Log::new();
    search::learned(problem, seed, episodes, whole).iter().for_each(|one| log.join("learner", one));
    log.finish(problem, &format!("{episodes} episodes"), "learner")
}

/// Random schedules, so many.
///
/// # Errors
/// [`StageError::NothingFits`] where none of them can run.
pub fn random(problem: &StageProblem, seed: u64, budget: u64) -> Result<Found, StageError> {
    draws(problem, seed, budget).finish(problem, &format!("{budget} schedules scored"), "random")
}

pub(crate) fn draws(problem: &StageProblem, seed: u64, budget: u64) -> Log {
    let mut log = Log::new();
    let (mut judge, mut rng) = (Judge::new(problem), Rng::new(seed));
    for _ in 0..budget {
        let schedule = drawn(problem, &mut rng);
        log.offer(judge.score(&schedule), &schedule);
    }
    log
}

/// A random number of stages, random pointers, random processors among those that reach furthest towards the pointer.
pub(crate) fn drawn(problem: &StageProblem, rng: &mut Rng) -> Schedule {
    let least = problem.tenants().iter().map(|t| t.need(0)).max().unwrap_or(0).max(1);
    let stages = least + rng.below((problem.rules().stages_max - least + 1) as u64) as usize;
    let mut segments = vec![];
    for tenant in problem.tenants() {
        let n = tenant.operators();
        let mut ends: Vec<usize> = (1..stages).map(|_| rng.below(n as u64 + 1) as usize).collect();
        ends.push(n);
        ends.sort_unstable();
        let (mut at, mut processor) = (0, 0);
        for end in ends {
            let q = rng.below(problem.processors().len() as u64) as usize;
            if end > at {
                let can = |q: &usize| tenant.reach(at, *q) >= end;
                processor = Some(q).filter(can).or((0..problem.processors().len()).find(can)).unwrap_or(q);
                at = end;
            }
            segments.push(Segment { end: end as u32, processor: processor as u8 });
        }
    }
    Schedule::flat(stages, segments)
}
