//! Coordinate descent on schedules: pointers, labels, merges and splits of stages, swaps between tenants; a sweep after
//! another until one gains nothing, then kicks out of the local optimum and descent again, while the budget lasts.

use super::evaluate::Judge;
use super::limits::KICK_MOVES;
use super::problem::StageProblem;
use super::schedule::{Schedule, Segment};
use super::search::Log;
use crate::rng::Rng;

/// A change of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    /// Stage `stage` of a tenant ends elsewhere; pointers in the way are pushed along. Where `label` is set, the segment
    /// that gains operators gets the other's processor.
    Pointer { tenant: usize, stage: usize, end: u32, label: bool },
    /// One segment (or, with `tail`, it and all that follow) on another processor.
    Label { tenant: usize, stage: usize, processor: u8, tail: bool },
    /// A stage joined with the next; each tenant keeps the first label, the second, or that of its longer segment.
    Merge { stage: usize, keep: Keep },
    /// A stage in two: one tenant's segment is cut there, with these labels; the others go first, second, or where they
    /// can run beside neither half's processor.
    Split { stage: usize, tenant: usize, end: u32, labels: (u8, u8), others: Others },
    /// Two tenants' segments of a stage change processors.
    Swap { stage: usize, tenants: (usize, usize) },
    /// A tenant does what it does a stage later (in front of which it waits).
    Delay { tenant: usize, stage: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    First,
    Second,
    Longer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    First,
    Second,
    /// Those on the processor of the tenant's first half go second, the rest first.
    Apart,
}

/// What a descent comes to.
pub(crate) struct Descent {
    pub(crate) log: Log,
    /// Sweeps over all moves.
    pub(crate) sweeps: u64,
    /// Whether a sweep without gain ended the first descent.
    pub(crate) settled: bool,
}

/// Improves a schedule that runs, scoring at most `budget` schedules.
pub(crate) fn improve(problem: &StageProblem, start: &Schedule, budget: u64, seed: u64) -> Descent {
    let mut climber = Climber { problem, judge: Judge::new(problem), log: Log::new(), sweeps: 0, budget };
    let mut rng = Rng::new(seed);
    let start = start.canonical();
    let Some(score) = climber.judge.score(&start) else {
        return Descent { log: climber.log, sweeps: 0, settled: false };
    };
    let (mut best, mut makespan, settled) = climber.descend(start, score);
    let mut fruitless = 0;
    while settled && climber.log.scored < budget && fruitless < FRUITLESS_MAX {
        let Some((kicked, score)) = climber.kick(&best, &mut rng) else { break };
        let (found, score, _) = climber.descend(kicked, score);
        fruitless = if score < makespan { 0 } else { fruitless + 1 };
        // Equally good ones are taken too: plateaus are crossed so.
        if score <= makespan {
            (best, makespan) = (found, score);
        }
    }
    Descent { log: climber.log, sweeps: climber.sweeps, settled }
}

/// Kicks in a row that gain nothing before a descent ends short of its budget.
const FRUITLESS_MAX: u64 = 40;

struct Climber<'a> {
    problem: &'a StageProblem,
    judge: Judge<'a>,
    log: Log,
    sweeps: u64,
    budget: u64,
}

impl Climber<'_> {
    /// Takes every move that gains, sweep by sweep; whether a sweep without gain was the end.
    fn descend(&mut self, start: Schedule, score: u64) -> (Schedule, u64, bool) {
        let (mut best, mut makespan) = (start, score);
        self.log.offer(Some(score), &best);
        loop {
            let before = makespan;
            self.sweeps += 1;
            for change in moves(self.problem, &best) {
                if self.log.scored >= self.budget {
                    return (best, makespan, false);
                }
                let Some(next) = self.apply(&best, change) else { continue };
                let score = self.judge.score(&next);
                self.log.offer(score, &next);
                if let Some(score) = score.filter(|s| *s < makespan) {
                    (best, makespan) = (next, score);
                }
            }
            if makespan == before {
                return (best, makespan, true);
            }
        }
    }

    /// A few random moves that leave a schedule that runs.
    fn kick(&mut self, from: &Schedule, rng: &mut Rng) -> Option<(Schedule, u64)> {
        let (mut schedule, mut score) = (from.clone(), None);
        for _ in 0..1 + rng.below(KICK_MOVES) {
            let all = moves(self.problem, &schedule);
            // Most moves lead somewhere; where none of a few does, the rest of the kick is left out.
            for _ in 0..8 {
                let Some(change) = all.get(rng.below(all.len().max(1) as u64) as usize) else { break };
                let Some(next) = self.apply(&schedule, *change) else { continue };
                let scored = self.judge.score(&next);
                self.log.offer(scored, &next);
                if scored.is_some() {
                    (schedule, score) = (next, scored);
                    break;
                }
            }
        }
        score.map(|s| (schedule, s))
    }

    /// The changed schedule in canonical form; `None` where the move does not apply to it (others came first), changes
    /// nothing, or makes too many stages.
    fn apply(&self, schedule: &Schedule, change: Move) -> Option<Schedule> {
        let next = applied(self.problem, schedule, change)?.canonical();
        (next.stages() <= self.problem.rules().stages_max && next != *schedule).then_some(next)
    }
}

/// Every move from a schedule, in one order.
fn moves(problem: &StageProblem, schedule: &Schedule) -> Vec<Move> {
    let mut list = vec![];
    let (stages, processors) = (schedule.stages(), problem.processors().len() as u8);
    for tenant in 0..problem.tenants().len() {
        for stage in 0..stages {
            pointers(problem, schedule, tenant, stage, &mut list);
            for processor in (0..processors).filter(|q| *q != schedule.row(tenant)[stage].processor) {
                list.extend([false, true].map(|tail| Move::Label { tenant, stage, processor, tail }));
            }
            list.push(Move::Delay { tenant, stage });
            splits(problem, schedule, tenant, stage, &mut list);
        }
    }
    for stage in 0..stages.saturating_sub(1) {
        list.extend([Keep::First, Keep::Second, Keep::Longer].map(|keep| Move::Merge { stage, keep }));
    }
    for stage in 0..stages {
        for b in 1..problem.tenants().len() {
            list.extend((0..b).map(|a| Move::Swap { stage, tenants: (a, b) }));
        }
    }
    list
}

/// A pointer moved by powers of two up to a quarter of the tenant, by a whole segment, to the ends of the blocks around.
fn pointers(problem: &StageProblem, schedule: &Schedule, tenant: usize, stage: usize, list: &mut Vec<Move>) {
    if stage + 1 == schedule.stages() {
        return;
    }
    let one = &problem.tenants()[tenant];
    let (n, row) = (one.operators() as u32, schedule.row(tenant));
    let at = row[stage].end;
    let mut ends = vec![schedule.begin(tenant, stage) as u32, row[stage + 1].end];
    let steps = std::iter::successors(Some(1u32), |s| Some(s * 2)).take_while(|s| *s <= (n / 4).max(4));
    ends.extend(steps.flat_map(|s| [at.saturating_sub(s), (at + s).min(n)]));
    let block = one.block_ends().partition_point(|e| *e < at as usize);
    ends.extend(one.block_ends()[block.saturating_sub(1)..].iter().take(3).map(|e| *e as u32));
    ends.sort_unstable();
    ends.dedup();
    for end in ends.into_iter().filter(|e| *e != at) {
        list.extend([false, true].map(|label| Move::Pointer { tenant, stage, end, label }));
    }
}

/// A stage cut in two inside a tenant's segment: near its ends, in the middle, or behind all of it.
fn splits(problem: &StageProblem, schedule: &Schedule, tenant: usize, stage: usize, list: &mut Vec<Move>) {
    let segment = schedule.row(tenant)[stage];
    let begin = schedule.begin(tenant, stage) as u32;
    if begin == segment.end || schedule.stages() == problem.rules().stages_max {
        return;
    }
    let mut ends = vec![begin + 1, begin + (segment.end - begin) / 2, segment.end - 1, segment.end];
    ends.retain(|e| *e > begin);
    ends.dedup();
    for end in ends {
        for other in 0..problem.processors().len() as u8 {
            let own = segment.processor;
            let labels = [(own, own), (own, other), (other, own)];
            let kinds = if other == own { &labels[..1] } else { &labels[1..] };
            for labels in kinds {
                for others in [Others::First, Others::Second, Others::Apart] {
                    list.push(Move::Split { stage, tenant, end, labels: *labels, others });
                }
            }
        }
    }
}

fn applied(problem: &StageProblem, schedule: &Schedule, change: Move) -> Option<Schedule> {
    let inside = |stage: usize| (stage < schedule.stages()).then_some(());
    let mut next = schedule.clone();
    match change {
        Move::Pointer { tenant, stage, end, label } => {
            inside(stage + 1)?;
            let row = next.row_mut(tenant);
            if label {
                let grows = end > row[stage].end;
                let (to, from) = if grows { (stage, stage + 1) } else { (stage + 1, stage) };
                row[to].processor = row[from].processor;
            }
            row[..stage].iter_mut().for_each(|s| s.end = s.end.min(end));
            row[stage].end = end;
            row[stage + 1..].iter_mut().for_each(|s| s.end = s.end.max(end));
        }
        Move::Label { tenant, stage, processor, tail } => {
            inside(stage)?;
            let last = if tail { schedule.stages() } else { stage + 1 };
            next.row_mut(tenant)[stage..last].iter_mut().for_each(|s| s.processor = processor);
        }
        Move::Merge { stage, keep } => {
            inside(stage + 1)?;
            return Some(schedule.joined(stage, |t| kept(schedule, t, stage, keep)));
        }
        Move::Split { stage, tenant, end, labels, others } => {
            inside(stage)?;
            return split(schedule, stage, (tenant, end, labels), others);
        }
        Move::Swap { stage, tenants: (a, b) } => {
            inside(stage)?;
            let (first, second) = (schedule.row(a)[stage].processor, schedule.row(b)[stage].processor);
            next.row_mut(a)[stage].processor = second;
            next.row_mut(b)[stage].processor = first;
        }
        Move::Delay { tenant, stage } => {
            inside(stage)?;
            return delayed(problem, schedule, tenant, stage);
        }
    }
    Some(next)
}

/// The label of a tenant's part of two joined stages. An empty segment has no say.
fn kept(schedule: &Schedule, t: usize, stage: usize, keep: Keep) -> u8 {
    let row = schedule.row(t);
    let length = |k: usize| row[k].end as usize - schedule.begin(t, k);
    let first = match keep {
        _ if length(stage) == 0 => false,
        _ if length(stage + 1) == 0 => true,
        Keep::First => true,
        Keep::Second => false,
        Keep::Longer => length(stage) >= length(stage + 1),
    };
    row[if first { stage } else { stage + 1 }].processor
}

fn split(
    schedule: &Schedule,
    stage: usize,
    (tenant, end, labels): (usize, u32, (u8, u8)),
    others: Others,
) -> Option<Schedule> {
    let stages = schedule.stages();
    let mut segments: Vec<Segment> = Vec::with_capacity(schedule.segments().len() + schedule.tenants());
    for t in 0..schedule.tenants() {
        let (row, begin) = (schedule.row(t), schedule.begin(t, stage) as u32);
        let whole = row[stage];
        let first = match others {
            Others::First => true,
            Others::Second => false,
            Others::Apart => whole.processor != labels.0,
        };
        segments.extend(&row[..stage]);
        if t == tenant {
            if end <= begin || end > whole.end {
                return None;
            }
            segments.push(Segment { end, processor: labels.0 });
            segments.push(Segment { processor: labels.1, ..whole });
        } else {
            segments.push(Segment { end: if first { whole.end } else { begin }, ..whole });
            segments.push(whole);
        }
        segments.extend(&row[stage + 1..]);
    }
    Some(Schedule::flat(stages + 1, segments))
}

/// From a stage on, a tenant's segments move to the next stage; a last one gets a stage of its own.
fn delayed(problem: &StageProblem, schedule: &Schedule, tenant: usize, stage: usize) -> Option<Schedule> {
    let waits =
        schedule.row(tenant)[schedule.stages() - 1].end as usize == schedule.begin(tenant, schedule.stages() - 1);
    let stages = schedule.stages() + usize::from(!waits);
    if stages > problem.rules().stages_max {
        return None;
    }
    let mut segments = Vec::with_capacity(stages * schedule.tenants());
    for t in 0..schedule.tenants() {
        let mut row = schedule.row(t).to_vec();
        if t == tenant {
            let pause = Segment { end: schedule.begin(t, stage) as u32, ..row[stage] };
            row.insert(stage, pause);
        }
        let last = row[row.len() - 1];
        row.resize(stages, last);
        segments.extend(row);
    }
    Some(Schedule::flat(stages, segments))
}
