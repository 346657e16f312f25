//! Whole models predicted from per-operator samples alone, beside the same models run whole.

use anyhow::Result;
use tandem_onnx::import::Model;
use tandem_runtime::profiler::bench::{Row, bench_profile, errors};
use tandem_runtime::profiler::sampling::Point;

use super::{Line, stats};
use crate::cli::{BenchCommon, BindArgs};
use crate::commands;
use crate::context::Context;
use crate::output::{print, table};
use crate::{binding, prepare};

/// Most median and worst error of predictions.
const MEDIAN_MAX: f64 = 0.05;
const WORST_MAX: f64 = 0.15;

/// Predicts and measures; prints a row a model and setting as they are done.
pub fn run(
    context: &Context,
    models: &[String],
    batches: &[u64],
    threads: &[u32],
    common: &BenchCommon,
) -> Result<Vec<Line>> {
    let all: Vec<String> = match models {
        [] => tandem_models::zoo().iter().filter(|m| !m.tiny).map(|m| format!("zoo:{}", m.name)).collect(),
        some => some.to_vec(),
    };
    let engine = context.engine()?;
    context.say(&format!("{} {}", engine.name(), engine.version()));
    let points: Vec<Point> = batches
        .iter()
        .flat_map(|batch| threads.iter().map(|threads| Point { batch: *batch, threads: *threads }))
        .collect();
    let mut rows: Vec<Row> = vec![];
    let rounds = (common.rounds != 40).then_some(common.rounds as u32);
    for reference in &all {
        let mut model: Model = prepare::open(context, reference, None)?;
        prepare::bind(&mut model, reference, &BindArgs::default())?;
        commands::profile::observe(context, &mut model, &BindArgs::default())?;
        let name = binding::tenant_name(reference);
        let more = bench_profile(&[(name.as_str(), &model)], engine.as_ref(), &points, rounds, &mut |_| {})?;
        let cells: Vec<Vec<String>> = more.iter().map(cells).collect();
        print(&table(
            &["model", "batch", "threads", "atoms", "predicted", "measured", "error", "low", "high", "rounds"],
            &cells,
        ))?;
        rows.extend(more);
    }
    if rows.is_empty() {
        anyhow::bail!("nothing to measure: expected at least one model, batch size and thread count");
    }
    // The ends of the summary are the same figures over the better and the worse end of every row's interval.
    let (median, worst) = errors(&rows);
    let better: Vec<f64> = rows.iter().map(|r| ends(r).0).collect();
    let worse: Vec<f64> = rows.iter().map(|r| ends(r).1).collect();
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let fewest = rows.iter().map(|r| r.rounds as usize).min().unwrap_or(0);
    let line = |name: &str, median, low, high, most| {
        Line::new(name, "share", stats::Estimate { median, low, high }, Some(most), fewest)
    };
    let middle = line(
        "median error over models and settings",
        median,
        stats::median(&better),
        stats::median(&worse),
        MEDIAN_MAX,
    );
    Ok(vec![middle, line("worst error", worst, most(&better), most(&worse), WORST_MAX)])
}

/// The smallest and the largest absolute error in a row's interval.
fn ends(row: &Row) -> (f64, f64) {
    let (low, high) = row.interval;
    let better = if low <= 0.0 && high >= 0.0 { 0.0 } else { low.abs().min(high.abs()) };
    (better, low.abs().max(high.abs()))
}

fn cells(row: &Row) -> Vec<String> {
    vec![
        row.model.clone(),
        row.batch.to_string(),
        row.threads.to_string(),
        row.atoms.to_string(),
        row.predicted.to_string(),
        row.measured.to_string(),
        format!("{:+.1} %", row.error() * 100.0),
        format!("{:+.1} %", row.interval.0 * 100.0),
        format!("{:+.1} %", row.interval.1 * 100.0),
        row.rounds.to_string(),
    ]
}
