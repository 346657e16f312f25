//! Does the profile predict? Whole models from per-operator samples alone, beside the same models run whole.
//!
//! Profiled and plain runs take turns in one loop, with the chains that tell launch and overhead, so that drift hits all
//! alike. The prediction is the sum of the
//! samples of the model's atoms and the generic launch cost of a run; nothing measured of the whole model goes in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tandem_core::rng::Rng;
use tandem_ir::Nanos;
use tandem_onnx::cut;
use tandem_onnx::import::Model;

use super::budget::Budget;
use super::cache::SessionCost;
use super::isolated::Added;
use super::overhead::Probe;
use super::sampling::{Point, Sampler, Take};
use super::{ProfileError, feeds, pooled, statistics};
use crate::engine::Engine;

/// Rounds of a model: at least 30 for the interval to mean something, however long one takes.
pub const ROUNDS: Budget =
    Budget { rounds_min: 30, rounds_max: 100, aim: Nanos(10_000_000_000), guard: Nanos(u64::MAX) };

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The model's name.
    pub model: String,
    /// Batch size.
    pub batch: u64,
    /// Threads.
    pub threads: u32,
    /// Operators timed as one each.
    pub atoms: usize,
    /// Sum of the atoms' samples and the generic launch cost.
    pub predicted: Nanos,
    /// Whole plain runs: mean of the middle half, as samples are.
    pub measured: Nanos,
    /// The error, as a share, in each of [`DRAWS`] bootstrap draws of the rounds ([`redrawn`]), in the order drawn.
    pub errors: Vec<f64>,
    /// Rounds behind both.
    pub rounds: u32,
}

impl Row {
    /// How far the prediction is off, as a share of the measured duration; positive where it is too long.
    pub fn error(&self) -> f64 {
        share(self.predicted.0, self.measured.0)
    }

    /// The error with its interval.
    pub fn estimate(&self) -> Estimate {
        Estimate::of(self.error(), self.errors.clone())
    }
}

/// A figure with both ends of its 95 % bootstrap interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The figure, of all rounds.
    pub value: f64,
    /// 2.5th percentile of the draws.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
}

impl Estimate {
    fn of(value: f64, mut draws: Vec<f64>) -> Self {
        draws.sort_by(f64::total_cmp);
        let tail = draws.len() / 40;
        let at = |i: usize| draws.get(i).copied().unwrap_or(value);
        Self { value, low: at(tail), high: at(draws.len().saturating_sub(tail + 1)) }
    }
}

/// Median and worst of the rows' absolute errors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Half the rows are no further off.
    pub median: Estimate,
    /// No row is further off.
    pub worst: Estimate,
}

fn share(predicted: u64, measured: u64) -> f64 {
    (predicted as f64 - measured as f64) / measured.max(1) as f64
}

fn middle(durations: &[u64]) -> u64 {
    statistics::mean_of(durations, &statistics::middle_runs(durations))
}

/// The percentile bootstrap of the error (Efron 1979): rounds are drawn with replacement, a round's profiled and plain
/// run together, for they share the machine's state. `predicted` is what all rounds' profiled runs predict: launch, which is
/// no part of them, and atoms that cost less than timing them.
pub fn redrawn(timed_ns: &[u64], whole_ns: &[u64], predicted: Nanos, rng: &mut Rng) -> Vec<f64> {
    let rounds = timed_ns.len().min(whole_ns.len());
    if rounds == 0 {
        return vec![];
    }
    let (all, predicted) = (middle(timed_ns), predicted.0);
    let mut draw = || {
        let drawn: Vec<usize> = (0..rounds).map(|_| rng.below(rounds as u64) as usize).collect();
        let of = |all: &[u64]| middle(&drawn.iter().map(|r| all[*r]).collect::<Vec<u64>>());
        share((of(timed_ns) + predicted).saturating_sub(all), of(whole_ns))
    };
    (0..DRAWS).map(|_| draw()).collect()
}

/// Bootstrap draws: the ends of a 95 % interval then rest on 25 of them each.
pub const DRAWS: usize = 1000;

/// Median and worst absolute error over rows. Their intervals are those of the two figures themselves, drawn again with
/// all rows' rounds; `None` of no rows, or of one without rounds.
pub fn summary(rows: &[Row]) -> Option<Summary> {
    let draws = rows.iter().map(|r| r.errors.len()).min().filter(|n| *n > 0)?;
    let figures = |errors: Vec<f64>| {
        let mut all: Vec<f64> = errors.iter().map(|e| e.abs()).collect();
        all.sort_by(f64::total_cmp);
        let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
        ((low + high) / 2.0, all[all.len() - 1])
    };
    let (median, worst) = figures(rows.iter().map(Row::error).collect());
    let (medians, worsts) = (0..draws).map(|d| figures(rows.iter().map(|r| r.errors[d]).collect())).unzip();
    Some(Summary { median: Estimate::of(median, medians), worst: Estimate::of(worst, worsts) })
}

/// Predicts and measures models at all points; `rounds` overrides how often. Rows come model by model, as they are
/// done, through the closure too.
///
/// # Errors
/// A model that the engine cannot load or run, named.
pub fn bench_profile(
    models: &[(&str, &Model)],
    engine: &dyn Engine,
    points: &[Point],
    rounds: Option<u32>,
    done: &mut dyn FnMut(&[Row]),
) -> Result<Vec<Row>, ProfileError> {
    let mut table = vec![];
    for (name, model) in models {
        let rows = bench_model(name, model, engine, points, rounds).map_err(|e| e.of_model(name))?;
        done(&rows);
        table.extend(rows);
    }
    Ok(table)
}

fn bench_model(
    name: &str,
    model: &Model,
    engine: &dyn Engine,
    points: &[Point],
    rounds: Option<u32>,
) -> Result<Vec<Row>, ProfileError> {
    let image = cut::cut_whole(model)?;
    let mut fed = vec![];
    for point in points {
        fed.push((*point, Arc::new(feeds(&model.graph, point.batch)?)));
    }
    let mut sampler = Sampler::load(engine, &image, &model.graph, &fed, Take { profiled: true, whole: true })?;
    let budgeted = sampler.warm_up(&ROUNDS)?;
    let rounds = rounds.map_or(budgeted, |n| vec![n.max(1); points.len()]);
    let mut added = Added::load(engine, model, &image, None, points)?;
    let threads: BTreeSet<u32> = points.iter().map(|p| p.threads).collect();
    let mut probes: Vec<Probe> = threads.into_iter().map(|t| Probe::load(engine, t)).collect::<Result<_, _>>()?;
    sampler.measure(&rounds, &mut |_, _| {
        probes.iter_mut().try_for_each(Probe::turn)?;
        added.as_mut().map_or(Ok(()), Added::turn)
    })?;
    let mut costs: BTreeMap<u32, SessionCost> = BTreeMap::new();
    for probe in probes {
        costs.insert(probe.threads(), probe.finish()?);
    }
    let cost = |threads: u32| costs.get(&threads).copied();
    let mut samples =
        sampler.finish(added.as_ref().map(Added::atoms), &|t| cost(t).map_or(0, |c| c.timing_overhead_ns))?;
    if let Some(added) = added {
        added.refine(&mut samples, &|t| cost(t).map_or(0, |c| c.launch_ns));
    }
    let name_key: Vec<u64> = name.bytes().map(u64::from).collect();
    let mut rng = Rng::keyed(super::SEED, &name_key);
    let row = |s: &super::sampling::Sampled| {
        // As the planner does it: each atom costs what its signature's sample says.
        let by_signature = pooled(&samples.atoms, &s.atoms);
        let sum: Nanos = samples.atoms.iter().filter_map(|a| by_signature.get(&a.signature)).map(|t| t.median).sum();
        let launch = cost(s.point.threads).map_or(0, |c| c.launch_ns);
        let predicted = sum + Nanos(launch);
        Row {
            model: name.to_owned(),
            batch: s.point.batch,
            threads: s.point.threads,
            atoms: samples.atoms.len(),
            predicted,
            measured: Nanos(middle(&s.whole_ns)),
            errors: redrawn(&s.timed_ns, &s.whole_ns, predicted, &mut rng),
            rounds: s.whole_ns.len() as u32,
        }
    };
    Ok(samples.points.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(predicted: u64, measured: u64, errors: &[f64]) -> Row {
        let (predicted, measured, errors) = (Nanos(predicted), Nanos(measured), errors.to_vec());
        Row { model: "m".into(), batch: 1, threads: 1, atoms: 1, predicted, measured, errors, rounds: 30 }
    }

    #[test]
    fn a_summary_is_drawn_again_as_a_whole() {
        // Two draws: each figure's ends are those of the figure in them, not of the rows apart.
        let rows = [row(110, 100, &[0.1, 0.3]), row(97, 100, &[-0.05, 0.01]), row(100, 100, &[0.2, -0.02])];
        let of = |value, low, high| Estimate { value, low, high };
        let summary = summary(&rows).expect("rows");
        assert_eq!((summary.median, summary.worst), (of(0.03, 0.02, 0.1), of(0.1, 0.2, 0.3)));
        assert_eq!((super::summary(&[]), super::summary(&[row(1, 1, &[])])), (None, None));
        assert_eq!(row(5, 0, &[]).error(), 5.0);
    }

    #[test]
    fn draws_hold_the_error_and_pair_rounds() {
        // A machine that is twice as slow every other round: each run varies much, their ratio not at all.
        let whole: Vec<u64> = (0..40).map(|i| 1_000 * (1 + i % 2)).collect();
        let timed: Vec<u64> = whole.iter().map(|w| w * 9 / 10).collect();
        let mut rng = Rng::new(1);
        let drawn = redrawn(&timed, &whole, Nanos(middle(&timed)), &mut rng);
        assert_eq!(drawn.len(), DRAWS);
        assert!(drawn.iter().all(|e| (e + 0.1).abs() < 1e-3), "{drawn:?}");
        let above = redrawn(&timed, &whole, Nanos(middle(&timed) + middle(&whole) / 10), &mut rng);
        assert!(above.iter().sum::<f64>().abs() / (DRAWS as f64) < 5e-3, "{above:?}");
        assert_eq!(redrawn(&[], &whole, Nanos(1), &mut rng), Vec::<f64>::new());
    }
}
