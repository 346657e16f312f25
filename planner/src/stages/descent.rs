//! Coordinate descent on schedules: pointers, labels, merges and splits of stages, swaps between tenants; a sweep after
//! another until one gains nothing, then kicks out of the local optimum and descent again, while the budget lasts.

use std::collections::HashMap;

use super::baselines;
use super::evaluate::Judge;
use super::limits::{CYCLES, POSITIONS};
use super::problem::StageProblem;
use super::row;
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
    /// An empty stage in front of one: one that is there already, or a new one. Executed the same, but with a place for the
    /// next moves to go.
    Gap { stage: usize },
    /// A tenant's whole row anew, the others as they are; with `gap`, beside a new stage there that only it uses.
    Row { tenant: usize, gap: Option<usize> },
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
    /// Where it stands, with its score: where to go on from.
    pub(crate) at: Option<(u64, Schedule)>,
    /// Whether a sweep without gain was its end.
    pub(crate) settled: bool,
    /// All it scored.
    pub(crate) seen: Seen,
}

/// Schedules that were scored, canonical: makespan, and what lacks of memory. Whoever comes back to one does not score it
/// again. It is looked up only, so its order never shows; it holds no more than the budget.
pub(crate) type Seen = HashMap<Schedule, Option<(u64, u64)>>;

/// Improves a schedule until a sweep over all moves gains nothing, scoring about `budget` schedules at most.
pub(crate) fn improve(problem: &StageProblem, start: &Schedule, budget: u64) -> Descent {
    let nothing = Seen::new();
    let mut climber = Climber::new(problem, budget, &nothing);
    let start = start.canonical();
    let settled = match climber.score(&start) {
        Some(score) => climber.descend(start, score).2,
        None => false,
    };
    Descent { at: climber.log.best.clone(), log: climber.log, settled, seen: climber.seen }
}

/// Random moves from a schedule, scoring about `budget` schedules: what is worse by less than a threshold is taken too, and
/// the threshold falls to nothing (Dueck, Scheuer, "Threshold accepting", 1990); then descent; again, in turn from the best
/// and from somewhere. On the way what lacks memory is charged for it, not refused, the dearer the later: tenants can
/// change places so. What is `known` from before is not scored again.
pub(crate) fn wander(problem: &StageProblem, start: &Schedule, budget: u64, seed: u64, known: &Seen) -> Descent {
    let mut climber = Climber::new(problem, 0, known);
    let mut rng = Rng::new(seed);
    let mut settled = true;
    for cycle in 1..=CYCLES {
        climber.budget = budget * cycle / CYCLES;
        let best = climber.log.best.as_ref().map_or(start, |b| &b.1).canonical();
        let from = if cycle % 2 == 1 { best } else { baselines::drawn(problem, &mut rng) };
        if let Some((end, score)) = climber.anneal(from, &mut rng) {
            settled = climber.descend(end, score).2;
        }
    }
    Descent { at: climber.log.best.clone(), log: climber.log, settled, seen: climber.seen }
}

/// Charge for one per mille of memory that lacks, as a part of the makespan, by 8000: at first, where lacking all of it
/// costs a quarter; at last, where lacking anything costs as much as the round.
const CHARGE_FIRST: u64 = 2;
const CHARGE_LAST: u64 = 8000;

/// What a charge grows to while moves are random: lacking a tenth of the memory costs the makespan again.
const CHARGE_ANNEALED: u64 = 80;

/// Steps without a new schedule after which random moves end.
const IDLE_MAX: u64 = 300;

/// Steps for each schedule that may be scored.
const STEPS: u64 = 6;

/// The first threshold is so many times less than the makespan.
const THRESHOLD: u64 = 8;

struct Climber<'a> {
    problem: &'a StageProblem,
    judge: Judge<'a>,
    log: Log,
    known: &'a Seen,
    seen: Seen,
    budget: u64,
    charge: u64,
}

impl<'a> Climber<'a> {
    fn new(problem: &'a StageProblem, budget: u64, known: &'a Seen) -> Self {
        let (judge, log, seen) = (Judge::new(problem), Log::new(), Seen::new());
        Self { problem, judge, log, known, seen, budget, charge: CHARGE_LAST }
    }

    /// Makespan and what it lacks of memory; the log gets what fits and is new.
    fn weigh(&mut self, schedule: &Schedule) -> Option<(u64, u64)> {
        let schedule = schedule.canonical();
        if let Some(weighed) = self.known.get(&schedule).or_else(|| self.seen.get(&schedule)) {
            return *weighed;
        }
        let weighed = self.judge.weigh(&schedule);
        self.log.offer(weighed.filter(|w| w.1 == 0).map(|w| w.0), &schedule);
        self.seen.insert(schedule, weighed);
        weighed
    }

    /// Makespan with what lacking memory is charged.
    fn charged(&self, (makespan, over): (u64, u64)) -> u64 {
        let charge = u128::from(makespan) * u128::from(over * self.charge) / 8000;
        makespan.saturating_add(u64::try_from(charge).unwrap_or(u64::MAX))
    }

    fn score(&mut self, schedule: &Schedule) -> Option<u64> {
        let weighed = self.weigh(schedule)?;
        Some(self.charged(weighed))
    }

    /// Random moves while three quarters of the budget last; where that ends. A step scores a schedule at most: none where
    /// the move does not apply or leads back, so there are more steps than schedules.
    fn anneal(&mut self, from: Schedule, rng: &mut Rng) -> Option<(Schedule, u64)> {
        let share = self.budget.saturating_sub(self.log.scored) * 3 / 4;
        let (steps, until) = (share * STEPS, self.log.scored + share);
        // Stages that are empty for now are kept: pointers move into them one by one.
        let mut at = from;
        for gap in [at.stages(), 0] {
            at = if at.stages() < self.problem.rules().stages_max { at.with_gap(gap) } else { at };
        }
        let mut weighed = self.weigh(&at)?;
        let unit = weighed.0;
        let mut list = vec![];
        // The last step that scored anything, and how many were scored by then.
        let mut news = (0, self.log.scored);
        for step in 0..steps {
            // What counts is how far the steps or the budget are, whichever is further.
            let spent = share.saturating_sub(until.saturating_sub(self.log.scored));
            let gone = (spent * STEPS).max(step);
            // Where nothing new has come for long, all around is known.
            if gone >= steps || step > news.0 + IDLE_MAX {
                break;
            }
            if self.log.scored > news.1 {
                news = (step, self.log.scored);
            }
            let threshold = unit / THRESHOLD * (steps - gone) / steps;
            self.charge = CHARGE_FIRST + gone * gone * CHARGE_ANNEALED / (steps * steps);
            list.clear();
            let tenant = rng.below(self.problem.tenants().len() as u64) as usize;
            let stage = rng.below(at.stages().max(1) as u64) as usize;
            seat(self.problem, &at, tenant, stage, &mut list);
            list.push(Move::Gap { stage: stage + 1 });
            let change = list[rng.below(list.len() as u64) as usize];
            let Some(next) = applied(self.problem, &at, change) else { continue };
            if next == at || next.stages() > self.problem.rules().stages_max {
                continue;
            }
            let Some(found) = self.weigh(&next) else { continue };
            if self.charged(found) <= self.charged(weighed).saturating_add(threshold) {
                (at, weighed) = (next, found);
            }
        }
        self.charge = CHARGE_LAST;
        Some((at.canonical(), self.charged(weighed)))
    }

    /// Takes every move that gains, sweep by sweep; whether a sweep without gain was the end. Dearer moves are tried once
    /// cheaper ones gain nothing.
    fn descend(&mut self, start: Schedule, score: u64) -> (Schedule, u64, bool) {
        let (mut best, mut known) = (start, score);
        let mut reach = Reach::Steps;
        loop {
            let before = known;
            self.log.sweeps += 1;
            for change in moves(self.problem, &best, reach) {
                if self.log.scored >= self.budget {
                    return (best, known, false);
                }
                let Some(next) = self.apply(&best, change) else { continue };
                if let Some(score) = self.score(&next).filter(|s| *s < known) {
                    (best, known) = (next, score);
                }
            }
            reach = match reach {
                _ if known < before => Reach::Steps,
                Reach::Steps => Reach::Rows,
                Reach::Rows => Reach::Gaps,
                Reach::Gaps => return (best, known, true),
            };
        }
    }

    /// The changed schedule in canonical form; `None` where the move does not apply to it (others came first), changes
    /// nothing, or makes too many stages.
    fn apply(&mut self, schedule: &Schedule, change: Move) -> Option<Schedule> {
        let next = match change {
            Move::Row { tenant, gap } => self.row(schedule, tenant, gap)?,
            _ => applied(self.problem, schedule, change)?,
        };
        let next = next.canonical();
        (next.stages() <= self.problem.rules().stages_max && next != *schedule).then_some(next)
    }
}

impl Climber<'_> {
    /// The schedule with a tenant's best row. The program's work counts as so many schedules as have as many stages.
    fn row(&mut self, schedule: &Schedule, tenant: usize, gap: Option<usize>) -> Option<Schedule> {
        if gap.is_some_and(|g| g > schedule.stages() || schedule.stages() == self.problem.rules().stages_max) {
            return None;
        }
        let wide = gap.map(|g| schedule.with_gap(g));
        let schedule = wide.as_ref().unwrap_or(schedule);
        let others = self.judge.others(schedule, tenant);
        let positions = positions(self.problem, schedule, tenant);
        let (row, work) = row::best_row(self.problem, tenant, &others, &positions);
        self.log.scored += work / schedule.stages().max(1) as u64;
        let mut next = schedule.clone();
        next.row_mut(tenant).copy_from_slice(&row?);
        Some(next)
    }
}

/// Where a tenant's pointers may stop when its row is worked out anew: everywhere in a short one, else near where they are,
/// at the ends of the blocks there, and at equal distances.
fn positions(problem: &StageProblem, schedule: &Schedule, tenant: usize) -> Vec<usize> {
    let one = &problem.tenants()[tenant];
    let n = one.operators();
    if n <= POSITIONS {
        return (0..=n).collect();
    }
    let mut list: Vec<usize> = (0..=POSITIONS / 4).map(|i| i * n / (POSITIONS / 4)).collect();
    for segment in schedule.row(tenant) {
        let at = segment.end as usize;
        let block = one.block_ends().partition_point(|e| *e <= at);
        list.extend([at, at.saturating_sub(1), (at + 1).min(n)]);
        list.extend(one.block_ends().get(block));
    }
    list.sort_unstable();
    list.dedup();
    list
}

/// How far moves go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// All but rows.
    Steps,
    /// Rows between the stages there are.
    Rows,
    /// Rows with a new stage.
    Gaps,
}

/// Every move from a schedule, in one order.
fn moves(problem: &StageProblem, schedule: &Schedule, reach: Reach) -> Vec<Move> {
    let tenants = 0..problem.tenants().len();
    let gap = |tenant: usize| (0..=schedule.stages()).map(move |gap| Move::Row { tenant, gap: Some(gap) });
    match reach {
        Reach::Steps => steps(problem, schedule),
        Reach::Rows => tenants.map(|tenant| Move::Row { tenant, gap: None }).collect(),
        Reach::Gaps => tenants.flat_map(gap).collect(),
    }
}

fn steps(problem: &StageProblem, schedule: &Schedule) -> Vec<Move> {
    let mut list = vec![];
    for tenant in 0..problem.tenants().len() {
        (0..schedule.stages()).for_each(|stage| seat(problem, schedule, tenant, stage, &mut list));
    }
    list
}

/// Moves of one segment. The first tenant's hold those of the whole stage.
fn seat(problem: &StageProblem, schedule: &Schedule, tenant: usize, stage: usize, list: &mut Vec<Move>) {
    let Some(segment) = schedule.row(tenant).get(stage) else { return };
    pointers(problem, schedule, tenant, stage, list);
    for processor in (0..problem.processors().len() as u8).filter(|q| *q != segment.processor) {
        list.extend([false, true].map(|tail| Move::Label { tenant, stage, processor, tail }));
    }
    list.push(Move::Delay { tenant, stage });
    splits(problem, schedule, tenant, stage, list);
    list.extend((0..tenant).map(|other| Move::Swap { stage, tenants: (other, tenant) }));
    if tenant == 0 && stage + 1 < schedule.stages() {
        list.extend([Keep::First, Keep::Second, Keep::Longer].map(|keep| Move::Merge { stage, keep }));
    }
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
        Move::Gap { stage } => {
            let empty = |k: &usize| (0..schedule.tenants()).all(|t| schedule.is_empty(t, *k));
            let rest = (0..schedule.stages()).find(empty).map(|k| schedule.without(k));
            let rest = rest.as_ref().unwrap_or(schedule);
            return (stage <= rest.stages()).then(|| rest.with_gap(stage));
        }
        // Worked out with the judge at hand.
        Move::Row { .. } => return None,
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
