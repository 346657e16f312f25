//! The search: seeds, learner, chance, blocks, descent; the best of all that was scored.
//!
//! Work is counted in schedules scored, never in seconds. What runs in parallel runs on its own and is joined in a fixed
//! order, so that the number of threads never shows.

use rayon::prelude::*;
use tandem_ir::units::Nanos;

use super::baselines;
use super::chain;
use super::descent::{self, Descent, Seen};
use super::exhaustive;
use super::learner;
use super::limits::{LEARNERS, STARTS, WALKS};
use super::problem::{StageError, StageProblem};
use super::schedule::Schedule;
use crate::rng::Rng;

/// What a part of the search did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Schedules scored.
    pub scored: u64,
    /// The best makespan it saw.
    pub best: Option<Nanos>,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The best schedule, canonical and merged.
    pub schedule: Schedule,
    /// Its makespan by the problem's semantics.
    pub makespan: Nanos,
    /// Best so far: (schedules scored until then, makespan), falling.
    pub curve: Vec<(u64, Nanos)>,
    /// What each part did, in order.
    pub phases: Vec<Phase>,
    /// Schedules scored, all together.
    pub scored: u64,
    /// Sweeps of descents.
    pub sweeps: u64,
    /// Why it ended.
    pub stopped: String,
}

/// Schedules scored so far, and the best of them.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) scored: u64,
    pub(crate) best: Option<(u64, Schedule)>,
    curve: Vec<(u64, Nanos)>,
    phases: Vec<Phase>,
    /// Sweeps over all moves of a kind.
    pub(crate) sweeps: u64,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self { scored: 0, best: None, curve: vec![], phases: vec![], sweeps: 0 }
    }

    /// Counts a schedule; keeps it where it is better, or as good and before the best in the order of schedules.
    pub(crate) fn offer(&mut self, score: Option<u64>, schedule: &Schedule) {
        self.scored += 1;
        let Some(score) = score else { return };
        if self.best.as_ref().is_none_or(|(known, _)| score < *known) {
            self.curve.push((self.scored, Nanos(score)));
        }
        if self.best.as_ref().is_none_or(|(known, s)| (score, schedule) < (*known, s)) {
            self.best = Some((score, schedule.clone()));
        }
    }

    /// Adds what another log holds, as if it had been scored after this one's.
    pub(crate) fn join(&mut self, name: &str, other: &Self) {
        let mut known = self.best.as_ref().map(|(score, _)| Nanos(*score));
        for (at, makespan) in &other.curve {
            if known.is_none_or(|k| *makespan < k) {
                self.curve.push((self.scored + at, *makespan));
                known = Some(*makespan);
            }
        }
        let better = |best: &&(u64, Schedule)| self.best.as_ref().is_none_or(|known| *best < known);
        if let Some(best) = other.best.as_ref().filter(better) {
            self.best = Some(best.clone());
        }
        self.scored += other.scored;
        self.sweeps += other.sweeps;
        let best = other.best.as_ref().map(|(score, _)| Nanos(*score));
        match self.phases.last_mut().filter(|p| p.name == name) {
            Some(phase) => {
                phase.scored += other.scored;
                phase.best = phase.best.into_iter().chain(best).min();
            }
            None => self.phases.push(Phase { name: name.to_owned(), scored: other.scored, best }),
        }
    }

    /// What was found, merged. A log that joined none is one phase of this name.
    pub(crate) fn finish(mut self, problem: &StageProblem, stopped: &str, name: &str) -> Result<Found, StageError> {
        let Some((makespan, schedule)) = self.best.take() else {
            return Err(StageError::NothingFits { scored: self.scored });
        };
        if self.phases.is_empty() {
            let best = Some(Nanos(makespan));
            self.phases.push(Phase { name: name.to_owned(), scored: self.scored, best });
        }
        let schedule = schedule.merged(problem);
        let makespan = super::evaluate::Judge::new(problem).score(&schedule).map_or(Nanos(makespan), Nanos);
        let Self { scored, curve, phases, sweeps, .. } = self;
        Ok(Found { schedule, makespan, curve, phases, scored, sweeps, stopped: stopped.to_owned() })
    }
}

/// Searches a round's schedule: whole models and the priced program as seeds, `episodes` of the learner, random schedules,
/// descent over blocks, then descents from the best different schedules and random moves from their ends; or, after the
/// learner, enumeration where there are no more schedules than `budget`. That bounds about how many are scored after the
/// learner; seeds and episodes come on top. Same problem, seed, episodes and budget: same answer, at any number of threads.
///
/// # Errors
/// [`StageError::NothingFits`] where no schedule that was scored can run.
pub fn search(problem: &StageProblem, seed: u64, episodes: u64, budget: u64) -> Result<Found, StageError> {
    let mut log = Log::new();
    let mut starts: Vec<(u64, Schedule)> = vec![];
    let seeds = seeds(problem);
    for (name, found) in &seeds {
        log.join(name, found);
        starts.extend(found.best.clone());
    }
    for found in learned(problem, seed, episodes, log.best.as_ref().map_or(1, |b| b.0)) {
        log.join("learner", &found);
        starts.extend(found.best.clone());
    }
    if exhaustive::count(problem) <= u128::from(budget) {
        log.join("enumeration", &exhaustive::score_all(problem));
        return log.finish(problem, "every schedule scored", "search");
    }
    let before = log.scored;
    let drawn = baselines::draws(problem, Rng::new(seed ^ 0xD4A3).word(), budget / 8);
    log.join("random starts", &drawn);
    starts.extend(drawn.best);
    if let Some((log_of_blocks, best)) = over_blocks(problem, &starts, budget / 8, seed) {
        log.join("blocks", &log_of_blocks);
        starts.extend(best);
    }
    let left = budget.saturating_sub(log.scored - before);
    let (found, settled) = descents(problem, starts, left, seed);
    for one in &found {
        log.join("descent", one);
    }
    let stopped = match settled {
        true => "no move improves any of the best schedules".to_owned(),
        false => format!("{budget} schedules scored by descents"),
    };
    log.finish(problem, &stopped, "search")
}

/// Whole models, and the priced program's proposals, a log each proposal.
fn seeds(problem: &StageProblem) -> Vec<(&'static str, Log)> {
    let mut judge = super::evaluate::Judge::new(problem);
    let mut whole = Log::new();
    for q in 0..problem.processors().len() {
        if let Some(schedule) = baselines::preferring(problem, q) {
            whole.offer(judge.score(&schedule), &schedule);
        }
    }
    let mut logs = vec![("single processors", whole), ("model level", baselines::assignments(problem))];
    for rows in chain::proposals(problem) {
        for late in [false, true] {
            let (mut log, schedule) = (Log::new(), chain::aligned(&rows, late).canonical());
            log.offer(judge.score(&schedule), &schedule);
            logs.push(("priced program", log));
        }
    }
    logs
}

/// Learners that know nothing of each other, each with its share of the episodes.
pub(crate) fn learned(problem: &StageProblem, seed: u64, episodes: u64, unit: u64) -> Vec<Log> {
    let share = |i: u64| episodes / LEARNERS + u64::from(i < episodes % LEARNERS);
    let own = |i: u64| Rng::new(seed ^ (i << 32)).word();
    (0..LEARNERS).into_par_iter().map(|i| learner::learn(problem, own(i), share(i), unit)).collect()
}

/// Descent where pointers stop at blocks only, from the starts that do; with the best in this problem's positions.
/// `None` where all blocks are single operators: nothing would be coarser.
fn over_blocks(
    problem: &StageProblem,
    starts: &[(u64, Schedule)],
    budget: u64,
    seed: u64,
) -> Option<(Log, Option<(u64, Schedule)>)> {
    let (coarse, positions) = problem.of_blocks()?;
    let finer = problem.tenants().iter().zip(coarse.tenants()).any(|(a, b)| a.operators() > b.operators());
    let usable = starts.iter().filter_map(|(score, s)| Some((*score, baselines::to_blocks(s, &positions)?)));
    let usable: Vec<(u64, Schedule)> = usable.collect();
    if !finer || usable.is_empty() {
        return None;
    }
    let (found, _) = descents(&coarse, usable, budget, seed);
    let mut log = Log::new();
    found.iter().for_each(|one| log.join("blocks", one));
    log.best = log.best.map(|(score, s)| (score, baselines::from_blocks(&s, &positions)));
    let best = log.best.clone();
    Some((log, best))
}

/// Descents from the best different starts, in parallel, then kicks from the best different ends with what is left of
/// the budget; whether all descents ended by themselves.
pub(crate) fn descents(
    problem: &StageProblem,
    starts: Vec<(u64, Schedule)>,
    budget: u64,
    seed: u64,
) -> (Vec<Log>, bool) {
    let starts = distinct(starts, STARTS);
    let share = budget / 2 / starts.len().max(1) as u64;
    let found: Vec<Descent> = starts.par_iter().map(|(_, start)| descent::improve(problem, start, share)).collect();
    let settled = found.iter().all(|d| d.settled);
    let ends = distinct(found.iter().filter_map(|d| d.at.clone()).collect(), WALKS);
    let (mut logs, mut known) = (vec![], Seen::new());
    for one in found {
        logs.push(one.log);
        known.extend(one.seen);
    }
    let left = budget.saturating_sub(logs.iter().map(|l: &Log| l.scored).sum());
    let share = left / ends.len().max(1) as u64;
    let walk = |(i, (_, end)): (usize, &(u64, Schedule))| {
        descent::wander(problem, end, share, Rng::new(seed ^ 0xDE5C ^ (i as u64) << 40).word(), &known)
    };
    let walked: Vec<Descent> = ends.par_iter().enumerate().map(walk).collect();
    logs.extend(walked.into_iter().map(|d| d.log));
    (logs, settled)
}

/// The best few different schedules.
fn distinct(mut all: Vec<(u64, Schedule)>, count: usize) -> Vec<(u64, Schedule)> {
    all.iter_mut().for_each(|(_, s)| *s = s.canonical());
    all.sort_unstable();
    all.dedup();
    all.truncate(count);
    all
}
