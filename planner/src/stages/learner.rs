//! A small policy-gradient learner that builds schedules decision by decision (REINFORCE, Williams 1992).
//!
//! A decision is: advance one tenant's pointer by 1, 2, 4 or 8 operators or to the next end of a block, on a processor; or
//! close the stage. The policy is a softmax over a linear score of a few features of each decision. An episode is rewarded
//! with minus the makespan over the best single processor's, shaped by a potential (what the stages so far cost and what
//! the rest costs at least), so that a decision answers for what came after it alone.
//!
//! Floats are here only, and only +, -, *, / of them, in one order on one thread: those round the same on every machine.

use super::chain;
use super::evaluate::{Judge, Load, Meet, stage_time};
use super::limits::{FULL, GRAINS};
use super::problem::StageProblem;
use super::schedule::{Schedule, Segment};
use super::search::Log;
use crate::rng::Rng;

/// Features of a decision: five lengths of advance, seeded processor, speed, growth of the stage, switching, tenant's rest;
/// closing: itself, idleness, tenants that moved, empty seats.
const FEATURES: usize = 13;

type Features = [f64; FEATURES];

/// What the policy believes before it has seen anything: go where the priced program goes, where it is fast, where the stage
/// does not grow; do not switch; close a stage rather late.
const PRIOR: Features = [0.0, 0.0, 0.3, 0.6, 0.6, 1.5, 1.0, -3.0, -1.0, 1.0, -1.5, -2.0, 2.0];

/// Advances, in grains; 0 stands for the next end of a block.
const ADVANCES: [usize; 5] = [1, 2, 4, 8, 0];

const RATE: f64 = 0.4;

#[derive(Clone, Copy, Debug)]
enum Decision {
    Advance { tenant: usize, processor: usize, end: usize },
    Close,
}

/// What does not change over the episodes.
struct Course<'a> {
    problem: &'a StageProblem,
    /// By tenant: operators that an advance of one stands for.
    grain: Vec<usize>,
    /// By tenant and position: least time and least share of the operators before it.
    least: Vec<Vec<(u64, u64)>>,
    /// By tenant, processor and position: operators before it that the priced program puts there.
    seeded: Vec<Vec<Vec<u32>>>,
    /// Makespan rewards are measured in.
    unit: f64,
}

/// Runs episodes one after another and logs every schedule. `unit` is the makespan of the best single processor, or of
/// whatever is best known.
pub(crate) fn learn(problem: &StageProblem, seed: u64, episodes: u64, unit: u64) -> Log {
    let mut log = Log::new();
    let course = Course::new(problem, unit);
    let mut judge = Judge::new(problem);
    let mut rng = Rng::new(seed);
    let (mut weights, mut usual) = (PRIOR, 0.0);
    for episode in 0..episodes {
        let mut trail = vec![];
        let Some(schedule) = course.episode(&weights, &mut rng, &mut trail) else {
            log.offer(None, &Schedule::flat(0, vec![]));
            continue;
        };
        let score = judge.score(&schedule);
        log.offer(score, &schedule);
        let Some(makespan) = score else { continue };
        // What the episode lost against the bound, from each decision on.
        let lost = |potential: f64| potential - makespan as f64 / course.unit;
        let mean = trail.iter().map(|(potential, _)| lost(*potential)).sum::<f64>() / trail.len().max(1) as f64;
        if episode == 0 {
            usual = mean;
        }
        for (potential, gradient) in &trail {
            let advantage = lost(*potential) - usual;
            let rate = RATE * advantage / trail.len() as f64;
            weights.iter_mut().zip(gradient).for_each(|(w, g)| *w += rate * g);
        }
        usual += (mean - usual) * 0.1;
    }
    log
}

/// An episode on its way.
struct State {
    stage: usize,
    at: Vec<usize>,
    /// Segment of the stage, where a tenant has one: where it began, what it takes.
    open: Vec<Option<(usize, Load)>>,
    /// Processor of the segment before.
    before: Vec<Option<usize>>,
    /// What the closed stages take.
    closed: u64,
    meet: Vec<Meet>,
    rows: Vec<Vec<Segment>>,
}

impl<'a> Course<'a> {
    fn new(problem: &'a StageProblem, unit: u64) -> Self {
        let processors = problem.processors().len();
        let least = |t: &super::problem::StageTenant| {
            let mut sums = vec![(0, 0)];
            for j in 0..t.operators() {
                let spans = || (0..processors).filter_map(|q| t.span(q, j, j + 1));
                let (time, share) = sums[j];
                let fastest = spans().map(|s| s.time).min().unwrap_or(0);
                sums.push((time + fastest, share + spans().map(|s| s.share).min().unwrap_or(0)));
            }
            sums
        };
        let seeded = |t: usize| {
            let devices = chain::own_best(problem, t).unwrap_or_default();
            let count = |q: usize| {
                let mut sums = vec![0];
                devices.iter().for_each(|d| sums.push(sums[sums.len() - 1] + u32::from(usize::from(*d) == q)));
                sums.resize(problem.tenants()[t].operators() + 1, 0);
                sums
            };
            (0..processors).map(count).collect()
        };
        Self {
            problem,
            grain: problem.tenants().iter().map(|t| t.operators().div_ceil(GRAINS).max(1)).collect(),
            least: problem.tenants().iter().map(least).collect(),
            seeded: (0..problem.tenants().len()).map(seeded).collect(),
            unit: unit.max(1) as f64,
        }
    }

    /// One schedule; the trail gets each decision's potential and gradient. `None` where it ran into a dead end (a processor
    /// that values cannot get to).
    fn episode(&self, weights: &Features, rng: &mut Rng, trail: &mut Vec<(f64, Features)>) -> Option<Schedule> {
        let tenants = self.problem.tenants();
        let mut state = State {
            stage: 0,
            at: vec![0; tenants.len()],
            open: vec![None; tenants.len()],
            before: vec![None; tenants.len()],
            closed: 0,
            meet: vec![Meet::default(); self.problem.processors().len()],
            rows: vec![vec![]; tenants.len()],
        };
        while state.at.iter().zip(tenants).any(|(at, t)| *at < t.operators()) {
            let choices = self.choices(&state);
            let (chosen, gradient) = choose(weights, &choices, rng)?;
            trail.push((self.potential(&state), gradient));
            match choices[chosen].0 {
                Decision::Close => state.close(self.problem),
                Decision::Advance { tenant, processor, end } => state.advance(self.problem, tenant, processor, end)?,
            }
        }
        state.close(self.problem);
        Some(Schedule::flat(state.stage, state.rows.concat()))
    }

    /// What the round takes at least from here, in units.
    fn potential(&self, state: &State) -> f64 {
        let rest = |t: usize| {
            let (all, so_far) = (self.least[t][self.least[t].len() - 1], self.least[t][state.at[t]]);
            (all.0 - so_far.0, all.1 - so_far.1)
        };
        let rests = || (0..state.at.len()).map(rest);
        let share: u64 = rests().map(|r| r.1).sum();
        let fluid = share / (FULL * self.problem.processors().len() as u64);
        let floor = rests().map(|r| r.0).max().unwrap_or(0).max(fluid);
        // The open stage may take up some of the rest in its shadow.
        let open = stage_time(self.problem, &state.meet);
        (state.closed + open.max(floor)) as f64 / self.unit
    }

    /// All decisions that can still end well, with their features.
    fn choices(&self, state: &State) -> Vec<(Decision, Features)> {
        let mut choices = vec![];
        let left = self.problem.rules().stages_max - 1 - state.stage;
        let tenants = self.problem.tenants();
        let open = stage_time(self.problem, &state.meet);
        for (t, tenant) in tenants.iter().enumerate() {
            for q in 0..self.problem.processors().len() {
                let begin = state.open[t].map_or(state.at[t], |(begin, _)| begin);
                let elsewhere = state.open[t].is_some_and(|(_, load)| usize::from(load.processor) != q);
                let reach = tenant.reach(begin, q);
                if elsewhere || reach <= state.at[t] || tenant.need(reach) > left {
                    continue;
                }
                let mut taken = state.at[t];
                for (i, advance) in ADVANCES.iter().enumerate() {
                    let block = tenant.block_ends().partition_point(|e| *e <= state.at[t]);
                    let end = match advance {
                        0 => tenant.block_ends().get(block).copied().unwrap_or(reach).min(reach),
                        _ => (state.at[t] + advance * self.grain[t]).min(reach),
                    };
                    if end <= taken && i < 4 {
                        continue;
                    }
                    taken = end;
                    if let Some(load) = Load::of(self.problem, t, (begin, end), q, state.before[t]) {
                        let features = self.advance_features(state, open, t, i, end, &load);
                        choices.push((Decision::Advance { tenant: t, processor: q, end }, features));
                    }
                }
            }
        }
        let moved = state.open.iter().flatten().count();
        if moved > 0 && (0..tenants.len()).all(|t| tenants[t].need(state.at[t]) <= left) {
            choices.push((Decision::Close, self.close_features(state, moved)));
        }
        choices
    }

    fn advance_features(&self, state: &State, open: u64, t: usize, i: usize, end: usize, load: &Load) -> Features {
        let (at, q) = (state.at[t], usize::from(load.processor));
        let mut features = [0.0; FEATURES];
        features[i] = 1.0;
        let seeded = &self.seeded[t][q];
        features[5] = f64::from(seeded[end] - seeded[at]) / (end - at) as f64;
        let least = self.least[t][end].0 - self.least[t][at].0;
        let time = self.problem.tenants()[t].span(q, at, end).map_or(0, |s| s.time);
        features[6] = (least + 1) as f64 / (time + 1) as f64;
        let grown = state.grown(t, load).time().saturating_sub(open);
        features[7] = ratio(grown, time.max(1)).min(2.0);
        features[8] = if state.open[t].is_none() { ratio(load.switch + load.upload, load.solo()) } else { 0.0 };
        let all = self.least[t][self.least[t].len() - 1].0;
        features[9] = ratio(all - self.least[t][at].0, self.unit as u64).min(2.0);
        features
    }

    fn close_features(&self, state: &State, moved: usize) -> Features {
        let longest = state.meet.iter().map(Meet::time).max().unwrap_or(0);
        let busy: u64 = state.meet.iter().map(Meet::time).sum();
        let mut features = [0.0; FEATURES];
        features[10] = 1.0;
        features[11] = 1.0 - ratio(busy, longest * state.meet.len() as u64);
        features[12] = moved as f64 / state.at.len() as f64;
        features
    }
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { a as f64 / b as f64 }
}

impl State {
    /// Who meets on a tenant's processor once its segment of the stage is this one.
    fn grown(&self, t: usize, load: &Load) -> Meet {
        let mut meet = self.meet[usize::from(load.processor)];
        if let Some((_, old)) = &self.open[t] {
            meet.share -= old.share();
            meet.tenants -= 1;
        }
        meet.add(load);
        meet
    }

    fn advance(&mut self, problem: &StageProblem, t: usize, q: usize, end: usize) -> Option<()> {
        let begin = self.open[t].map_or(self.at[t], |(begin, _)| begin);
        let load = Load::of(problem, t, (begin, end), q, self.before[t])?;
        self.meet[q] = self.grown(t, &load);
        self.open[t] = Some((begin, load));
        self.at[t] = end;
        Some(())
    }

    fn close(&mut self, problem: &StageProblem) {
        self.closed += stage_time(problem, &self.meet);
        self.meet.fill(Meet::default());
        for t in 0..self.at.len() {
            let open = self.open[t].take();
            self.before[t] = open.map(|(_, load)| usize::from(load.processor)).or(self.before[t]);
            let processor = self.before[t].unwrap_or(0) as u8;
            self.rows[t].push(Segment { end: self.at[t] as u32, processor });
        }
        self.stage += 1;
    }
}

/// Draws a decision by the policy; with it the gradient of its logarithm: its features less the mean of all.
fn choose(weights: &Features, choices: &[(Decision, Features)], rng: &mut Rng) -> Option<(usize, Features)> {
    let score = |f: &Features| weights.iter().zip(f).fold(0.0, |sum, (w, f)| sum + w * f);
    let scores: Vec<f64> = choices.iter().map(|(_, f)| score(f)).collect();
    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let odds: Vec<f64> = scores.iter().map(|s| exp(s - top)).collect();
    let sum: f64 = odds.iter().sum();
    let mut left = (rng.word() >> 11) as f64 / (1u64 << 53) as f64 * sum;
    let chosen = odds.iter().position(|o| {
        left -= o;
        left < 0.0
    });
    let chosen = chosen.or(choices.len().checked_sub(1))?;
    let mut gradient = choices[chosen].1;
    for ((_, features), o) in choices.iter().zip(&odds) {
        gradient.iter_mut().zip(features).for_each(|(g, f)| *g -= f * o / sum);
    }
    Some((chosen, gradient))
}

/// e to a number that is not positive, well enough: (1 + x / 1024)^1024. The library's own may differ between machines.
fn exp(x: f64) -> f64 {
    let mut power = (1.0 + x / 1024.0).max(0.0);
    for _ in 0..10 {
        power *= power;
    }
    power
}
