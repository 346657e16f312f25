//! One tenant's whole row at once, the others as they are: by barriers a stage's time depends on the tenant's segment in it
//! alone, so a dynamic program over (stage, position, last processor) finds the best row. O(K C^2 P^2) stage times for K
//! stages and C positions where pointers may stop.

use super::evaluate::{Load, Meet, stage_time};
use super::problem::StageProblem;
use super::schedule::Segment;

/// A tenant's best row beside what `others` take in each stage, with pointers at `positions` only (ascending, from 0 to the
/// number of operators); also how many stage times were worked out. `None` where no row can run.
pub(crate) fn best_row(
    problem: &StageProblem,
    tenant: usize,
    others: &[Vec<Meet>],
    positions: &[usize],
) -> (Option<Vec<Segment>>, u64) {
    let mut program = Program { problem, tenant, positions, work: 0, meet: vec![] };
    // What the stages so far take, by (position, last processor); the start has none, and stands in the first column.
    let mut layer = vec![None; positions.len() * program.columns()];
    layer[0] = Some(0);
    let mut came = Vec::with_capacity(others.len());
    for meet in others {
        let (next, from) = program.step(&layer, meet);
        came.push(from);
        layer = next;
    }
    let last = (positions.len() - 1) * program.columns();
    let ends = (last..layer.len()).filter_map(|state| Some((layer[state]?, state)));
    let Some((_, mut state)) = ends.min() else { return (None, program.work) };
    let mut row = vec![];
    for from in came.iter().rev() {
        let (position, column) = (state / program.columns(), state % program.columns());
        row.push(Segment { end: positions[position] as u32, processor: column.saturating_sub(1) as u8 });
        state = from[state];
    }
    row.reverse();
    (Some(row), program.work)
}

struct Program<'a> {
    problem: &'a StageProblem,
    tenant: usize,
    positions: &'a [usize],
    work: u64,
    meet: Vec<Meet>,
}

impl Program<'_> {
    /// No processor yet, or one of them.
    fn columns(&self) -> usize {
        1 + self.problem.processors().len()
    }

    /// A stage: what all states take after it, and which state each came from.
    fn step(&mut self, layer: &[Option<u64>], others: &[Meet]) -> (Vec<Option<u64>>, Vec<usize>) {
        let columns = self.columns();
        let idle = stage_time(self.problem, others);
        let mut next: Vec<Option<u64>> = layer.iter().map(|cost| cost.map(|c| c + idle)).collect();
        let mut from: Vec<usize> = (0..layer.len()).collect();
        for (state, cost) in layer.iter().enumerate() {
            let Some(cost) = cost else { continue };
            let (a, before) = (state / columns, (state % columns).checked_sub(1));
            for b in a + 1..self.positions.len() {
                for q in 0..columns - 1 {
                    let Some(time) = self.stage(others, (a, b), q, before) else { continue };
                    let to = b * columns + q + 1;
                    if next[to].is_none_or(|known| cost + time < known) {
                        next[to] = Some(cost + time);
                        from[to] = state;
                    }
                }
            }
        }
        (next, from)
    }

    fn stage(&mut self, others: &[Meet], (a, b): (usize, usize), q: usize, before: Option<usize>) -> Option<u64> {
        let load = Load::of(self.problem, self.tenant, (self.positions[a], self.positions[b]), q, before)?;
        self.work += 1;
        self.meet.clear();
        self.meet.extend_from_slice(others);
        self.meet[q].add(&load);
        Some(stage_time(self.problem, &self.meet))
    }
}
