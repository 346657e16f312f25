//! Every schedule, scored: the twin of the search, and the answer for tiny problems.

use super::evaluate::Judge;
use super::limits::EXHAUSTIVE_MAX;
use super::problem::{StageError, StageProblem};
use super::schedule::{Schedule, Segment};
use super::search::{Found, Log};

/// Scores every schedule of at most the allowed number of stages. The first of the best, in the order of schedules, is
/// what is found.
///
/// # Errors
/// [`StageError::Large`] beyond [`EXHAUSTIVE_MAX`] schedules, [`StageError::NothingFits`] where none can run.
pub fn exhaustive(problem: &StageProblem) -> Result<Found, StageError> {
    let count = count(problem);
    if count > EXHAUSTIVE_MAX {
        return Err(StageError::Large { count, max: EXHAUSTIVE_MAX });
    }
    score_all(problem).finish(problem, "every schedule scored", "exhaustive")
}

/// How many schedules there are, by the stages in which tenants have segments, their cuts and processors; an upper bound
/// where operators cannot run everywhere. Saturates.
pub(crate) fn count(problem: &StageProblem) -> u128 {
    let (stages, processors) = (problem.rules().stages_max, problem.processors().len());
    let rows = problem.tenants().iter().map(|t| row_count(t.operators(), stages, processors));
    rows.fold(1, u128::saturating_mul)
}

/// Scores every schedule. For few of them: all rows are listed.
pub(crate) fn score_all(problem: &StageProblem) -> Log {
    let stages = problem.rules().stages_max;
    let rows: Vec<Vec<Vec<Segment>>> = (0..problem.tenants().len()).map(|t| rows_of(problem, t)).collect();
    let mut log = Log::new();
    let mut judge = Judge::new(problem);
    let mut at = vec![0; rows.len()];
    while rows.iter().zip(&at).all(|(rows, i)| *i < rows.len()) {
        let segments = rows.iter().zip(&at).flat_map(|(rows, i)| rows[*i].iter().copied()).collect();
        let schedule = Schedule::flat(stages, segments);
        log.offer(judge.score(&schedule), &schedule);
        // The last tenant's row moves fastest.
        for t in (0..at.len()).rev() {
            at[t] += 1;
            if at[t] < rows[t].len() || t == 0 {
                break;
            }
            at[t] = 0;
        }
    }
    log
}

/// Rows of a tenant of n operators: for each number m of segments that are not empty, their stages, cuts and processors.
fn row_count(n: usize, stages: usize, processors: usize) -> u128 {
    let choose = |n: usize, k: usize| (0..k).fold(1u128, |c, i| c.saturating_mul((n - i) as u128) / (i as u128 + 1));
    if n == 0 {
        return 1;
    }
    let power = |m: usize| (processors as u128).saturating_pow(m as u32);
    let of = |m: usize| choose(stages, m).saturating_mul(choose(n - 1, m - 1)).saturating_mul(power(m));
    (1..=stages.min(n)).map(of).fold(0, u128::saturating_add)
}

/// Every row of a tenant that it can run, empty segments labelled like those before.
fn rows_of(problem: &StageProblem, t: usize) -> Vec<Vec<Segment>> {
    let mut rows = vec![];
    extend(problem, t, &mut vec![], &mut rows);
    rows
}

fn extend(problem: &StageProblem, t: usize, row: &mut Vec<Segment>, rows: &mut Vec<Vec<Segment>>) {
    let tenant = &problem.tenants()[t];
    let last = row.last().copied().unwrap_or(Segment { end: 0, processor: 0 });
    if row.len() == problem.rules().stages_max {
        if last.end as usize == tenant.operators() {
            rows.push(row.clone());
        }
        return;
    }
    row.push(last);
    extend(problem, t, row, rows);
    row.pop();
    for q in 0..problem.processors().len() {
        for end in last.end as usize + 1..=tenant.reach(last.end as usize, q) {
            row.push(Segment { end: end as u32, processor: q as u8 });
            extend(problem, t, row, rows);
            row.pop();
        }
    }
}
