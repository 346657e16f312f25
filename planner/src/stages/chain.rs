//! The priced dynamic program on one tenant's order: f(j, q) = min over p of f(j-1, p) + price_q (switch(p -> q at j) +
//! what operator j takes on q), launches included, O(n P^2). Exact for one tenant; over several, prices stand for what
//! the others want: they rise where processors are busy. Source: systems dossier 5.5 (a).
//!
//! The same program proves a lower bound: no round is shorter than the mean of its processors' work by any weights, and
//! the program is the least weighted work of each tenant.

use tandem_ir::units::Nanos;

use super::limits::{FULL, PRICE_ROUNDS};
use super::problem::{Semantics, StageProblem};
use super::schedule::{Schedule, Segment};

/// What the program minimises.
#[derive(Clone, Copy, Debug)]
struct Goal<'a> {
    /// By processor.
    prices: &'a [u64],
    /// Operators count by the part of the processor they fill, not by their time.
    by_share: bool,
    /// Copies and switches count.
    copies: bool,
    /// Added to every switch, to have fewer of them; ns.
    reluctance: u64,
}

/// A tenant's segments from the first operator on, and what they come to (ns per mille, priced).
fn program(problem: &StageProblem, t: usize, goal: Goal<'_>) -> Option<(Vec<Segment>, u128)> {
    let (tenant, count) = (&problem.tenants()[t], problem.processors().len());
    let n = tenant.operators();
    let priced = |q: usize, work: u64| u128::from(goal.prices[q]) * u128::from(work);
    let entry = |q: usize| problem.processors()[q].launch.0;
    let mut best: Vec<Option<u128>> = vec![None; count];
    let mut from: Vec<u8> = Vec::with_capacity(n * count);
    for j in 0..n {
        let mut next = vec![None; count];
        for q in 0..count {
            let stays = best[q].map(|cost| (cost, q));
            let switched = |p: usize| {
                let way = tenant.crossing(j, p, q)?.0;
                let work = entry(q) + goal.reluctance + if goal.copies { way } else { 0 };
                Some((best[p]? + priced(q, work * FULL), p))
            };
            let entered = match j {
                0 => Some((priced(q, entry(q) * FULL), q)),
                _ => (0..count).filter(|p| *p != q).filter_map(switched).min(),
            };
            let before = stays.into_iter().chain(entered).min_by_key(|(cost, p)| (*cost, *p != q, *p));
            next[q] = before.zip(tenant.span(q, j, j + 1)).map(|((cost, _), sums)| {
                let copied = if goal.copies { (sums.upload + sums.download) * FULL } else { 0 };
                cost + priced(q, copied + if goal.by_share { sums.share } else { sums.time * FULL })
            });
            from.push(before.map_or(q, |b| b.1) as u8);
        }
        best = next;
    }
    if n == 0 {
        return Some((vec![], 0));
    }
    let (cost, mut q) = best.iter().enumerate().filter_map(|(q, c)| Some(((*c)?, q))).min()?;
    let mut segments: Vec<Segment> = vec![];
    for j in (0..n).rev() {
        if segments.last().is_none_or(|s| usize::from(s.processor) != q) {
            segments.push(Segment { end: j as u32 + 1, processor: q as u8 });
        }
        q = usize::from(from[j * count + q]);
    }
    segments.reverse();
    Some((segments, cost))
}

/// Segments of at most as many stages as there are: switches become dearer until they are that few. How dear is kept for
/// the next round, which begins at half of it.
fn short_program(problem: &StageProblem, t: usize, prices: &[u64], reluctance: &mut u64) -> Option<Vec<Segment>> {
    let mut goal = Goal { prices, by_share: true, copies: true, reluctance: *reluctance / 2 };
    loop {
        let (segments, _) = program(problem, t, goal)?;
        if segments.len() <= problem.rules().stages_max {
            *reluctance = goal.reluctance;
            return Some(segments);
        }
        goal.reluctance = (goal.reluctance * 2).max(1 << 10);
        if goal.reluctance > super::limits::SPAN_MAX {
            return None;
        }
    }
}

/// What the priced program proposes: each round's segments by tenant, different ones only, in the order found.
pub(crate) fn proposals(problem: &StageProblem) -> Vec<Vec<Vec<Segment>>> {
    let mut found: Vec<Vec<Vec<Segment>>> = vec![];
    let mut prices = Prices::new(problem.processors().len());
    let mut reluctance = vec![0; problem.tenants().len()];
    for round in 0..PRICE_ROUNDS {
        let short = |(t, reluctance)| short_program(problem, t, &prices.now, reluctance);
        let rows: Option<Vec<_>> = reluctance.iter_mut().enumerate().map(short).collect();
        let Some(rows) = rows else { break };
        let loads = work(problem, &rows);
        if !found.contains(&rows) {
            found.push(rows);
        }
        prices.update(&loads, round);
    }
    found
}

/// Prices that rise on busier processors.
struct Prices {
    now: Vec<u64>,
}

impl Prices {
    /// Where prices begin: high enough that small changes show.
    const START: u64 = 1 << 16;

    fn new(processors: usize) -> Self {
        Self { now: vec![Self::START; processors] }
    }

    /// A subgradient step, smaller from round to round.
    fn update(&mut self, loads: &[u64], round: u64) {
        let mean = (loads.iter().sum::<u64>() / loads.len() as u64).max(1);
        for (price, load) in self.now.iter_mut().zip(loads) {
            let step = i128::from(*price) * (i128::from(*load) - i128::from(mean)) / i128::from(mean);
            let next = i128::from(*price) + step / (2 + i128::from(round));
            *price = next.clamp(1, i128::from(Self::START) << 10) as u64;
        }
        let sum: u128 = self.now.iter().map(|p| u128::from(*p)).sum();
        let scale = u128::from(Self::START) * self.now.len() as u128;
        self.now.iter_mut().for_each(|p| *p = (u128::from(*p) * scale / sum).max(1) as u64);
    }
}

/// Work of each processor, ns.
fn work(problem: &StageProblem, rows: &[Vec<Segment>]) -> Vec<u64> {
    let mut sums = vec![0u64; problem.processors().len()];
    for (tenant, row) in problem.tenants().iter().zip(rows) {
        let mut begin = 0;
        for segment in row {
            let (end, q) = (segment.end as usize, usize::from(segment.processor));
            sums[q] += tenant.span(q, begin, end).map_or(0, |s| s.share / FULL);
            begin = end;
        }
    }
    sums
}

/// Rows as a schedule: the k-th segment of each tenant in stage k or, where `late`, each tenant's last in the last.
pub(crate) fn aligned(rows: &[Vec<Segment>], late: bool) -> Schedule {
    let stages = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut segments = vec![];
    for row in rows {
        let nothing = Segment { end: 0, processor: row.first().map_or(0, |s| s.processor) };
        let all = row.last().copied().unwrap_or(nothing);
        let idle = stages - row.len();
        segments.extend(std::iter::repeat_n(nothing, if late { idle } else { 0 }));
        segments.extend(row);
        segments.extend(std::iter::repeat_n(all, if late { 0 } else { idle }));
    }
    Schedule::flat(stages, segments)
}

/// What each operator of a tenant runs on where its own total is least.
pub(crate) fn own_best(problem: &StageProblem, t: usize) -> Option<Vec<u8>> {
    let prices = vec![1; problem.processors().len()];
    let (segments, _) = program(problem, t, Goal { prices: &prices, by_share: false, copies: true, reluctance: 0 })?;
    let mut devices = vec![];
    segments.iter().for_each(|s| devices.resize(s.end as usize, s.processor));
    Some(devices)
}

/// A makespan that no schedule of the problem falls below: the longest tenant alone at its best, and the mean work by the
/// best of the weights that balancing prices come to. Under events copies hide, so they count for nothing.
pub fn lower_bound(problem: &StageProblem) -> Nanos {
    let (tenants, count) = (problem.tenants().len(), problem.processors().len());
    let barrier = problem.rules().semantics == Semantics::Barrier;
    let ones = vec![1; count];
    let alone = Goal { prices: &ones, by_share: false, copies: barrier, reluctance: 0 };
    let longest = (0..tenants).filter_map(|t| program(problem, t, alone)).map(|p| p.1.div_ceil(u128::from(FULL)));
    let mut best = longest.max().unwrap_or(0);
    let mut prices = Prices::new(count);
    for round in 0..PRICE_ROUNDS {
        let goal = Goal { prices: &prices.now, by_share: true, copies: barrier, reluctance: 0 };
        let all: Option<Vec<_>> = (0..tenants).map(|t| program(problem, t, goal)).collect();
        let Some(all) = all else { break };
        let weights: u128 = prices.now.iter().map(|p| u128::from(*p)).sum();
        best = best.max(all.iter().map(|p| p.1).sum::<u128>().div_ceil(weights * u128::from(FULL)));
        let rows: Vec<Vec<Segment>> = all.into_iter().map(|p| p.0).collect();
        prices.update(&work(problem, &rows), round);
    }
    let sync = if barrier && best > 0 { problem.rules().sync.0 } else { 0 };
    Nanos(u64::try_from(best).unwrap_or(u64::MAX).saturating_add(sync))
}
