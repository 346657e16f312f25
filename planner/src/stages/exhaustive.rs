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
    let stages = problem.rules().stages_max;
    // Counted before they are listed: the list of a long tenant would not fit.
    let count = (0..problem.tenants().len()).try_fold(1u128, |count, t| {
        let rows = row_count(problem.tenants()[t].operators(), stages, problem.processors().len());
        count.checked_mul(rows).filter(|c| *c <= EXHAUSTIVE_MAX).ok_or(count.saturating_mul(rows))
    });
    if let Err(count) = count {
        return Err(StageError::Large { count, max: EXHAUSTIVE_MAX });
    }
    let rows: Vec<Vec<Vec<Segment>>> = (0..problem.tenants().len()).map(|t| rows_of(problem, t)).collect();
    let mut log = Log::new();
    let mut judge = Judge::new(problem);
    let mut at = vec![0; rows.len()];
    let mut segments = Vec::with_capacity(rows.len() * stages);
    while rows.iter().zip(&at).all(|(rows, i)| *i < rows.len()) {
        segments.clear();
        rows.iter().zip(&at).for_each(|(rows, i)| segments.extend(&rows[*i]));
        let schedule = Schedule::flat(stages, segments.clone());
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
    log.finish(problem, "every schedule scored", "exhaustive")
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
