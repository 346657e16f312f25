//! Whole models predicted from per-operator samples alone, beside the same models run whole.

use anyhow::Result;
use tandem_onnx::import::Model;
use tandem_runtime::profiler::bench::{self, Row, bench_profile};
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
    let rounds = common.rounds.map(|n| n as u32);
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
    let Some(summary) = bench::summary(&rows) else {
        anyhow::bail!("nothing to measure: expected at least one model, batch size and thread count");
    };
    let fewest = rows.iter().map(|r| r.rounds as usize).min().unwrap_or(0);
    let line = |name: &str, e: bench::Estimate, most| {
        Line::new(name, "share", stats::Estimate { median: e.value, low: e.low, high: e.high }, Some(most), fewest)
    };
    Ok(vec![
        line("median error over models and settings", summary.median, MEDIAN_MAX),
        line("worst error", summary.worst, WORST_MAX),
    ])
}

fn cells(row: &Row) -> Vec<String> {
    let error = row.estimate();
    let percent = |share: f64| format!("{:+.1} %", share * 100.0);
    vec![
        row.model.clone(),
        row.batch.to_string(),
        row.threads.to_string(),
        row.atoms.to_string(),
        row.predicted.to_string(),
        row.measured.to_string(),
        percent(error.value),
        percent(error.low),
        percent(error.high),
        row.rounds.to_string(),
    ]
}
