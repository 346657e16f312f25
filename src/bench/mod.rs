//! `tandem bench`: tandem against its targets, as ratios measured side by side in one run.
//!
//! Every line is the median of interleaved rounds with a 95 % bootstrap interval, both ends printed. A target holds when
//! the median meets it: the interval says how far to believe that, and makes no miss a hit.

mod adt;
mod core;
mod gpu;
mod overlap;
mod planner;
mod profile;
mod runtime;
pub mod stats;
mod tenants;

use anyhow::Result;
use serde::Serialize;

use crate::cli::{BenchArgs, BenchCommon, BenchSuite};
use crate::context::{Context, negative};
use crate::output::{print, table, write_file};
use stats::Estimate;

/// Fewest rounds behind a figure that counts: below it an interval says little.
const ROUNDS_MIN: usize = 30;
/// Rounds where none are asked for.
const ROUNDS: usize = 40;

/// One figure with its target.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// What was measured.
    pub name: String,
    /// Unit of the three figures.
    pub unit: &'static str,
    /// Median of the rounds.
    pub median: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// Largest value that meets the target; `None` where the figure is shown for its own sake.
    pub at_most: Option<f64>,
    /// Rounds behind it.
    pub rounds: usize,
}

impl Line {
    /// A line from its estimate.
    pub fn new(name: impl Into<String>, unit: &'static str, e: Estimate, at_most: Option<f64>, rounds: usize) -> Self {
        Self { name: name.into(), unit, median: e.median, low: e.low, high: e.high, at_most, rounds }
    }

    /// Whether the median meets the target, with enough rounds behind it.
    pub fn holds(&self) -> bool {
        self.at_most.is_none_or(|most| self.median <= most && self.rounds >= ROUNDS_MIN)
    }
}

/// Runs a suite; a negative answer where a target is missed.
pub fn run(context: &Context, args: &BenchArgs) -> Result<()> {
    match &args.suite {
        BenchSuite::Adt(args) => adt::run(args),
        BenchSuite::Core { common } => finish(core::run(common)?, common),
        BenchSuite::Runtime { models, threads, common } => {
            finish(runtime::run(context, models, *threads, common)?, common)
        }
        BenchSuite::Gpu(args) => gpu::run(context, args),
        BenchSuite::Overlap { trace, common } => finish(overlap::run(context, trace.as_deref(), common)?, common),
        BenchSuite::Planner { common } => finish(planner::run(common)?, common),
        BenchSuite::Tenants { model, batch, common } => finish(tenants::run(context, model, *batch, common)?, common),
        BenchSuite::Profile { models, batch, threads, common } => {
            finish(profile::run(context, models, batch, threads, common)?, common)
        }
    }
}

fn finish(lines: Vec<Line>, common: &BenchCommon) -> Result<()> {
    let target = |l: &Line| l.at_most.map_or(String::new(), |most| format!("<= {most}"));
    let verdict = |l: &Line| match (l.at_most, l.holds()) {
        (None, _) => "",
        (_, true) => "holds",
        (_, false) if l.rounds < ROUNDS_MIN => "TOO FEW ROUNDS",
        (_, false) => "MISSED",
    };
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|l| {
            let figure = |v: f64| format!("{v:.4}");
            let cells = [figure(l.median), figure(l.low), figure(l.high), l.unit.to_owned(), target(l)];
            let mut row = vec![l.name.clone()];
            row.extend(cells);
            row.extend([verdict(l).to_owned(), l.rounds.to_string()]);
            row
        })
        .collect();
    print(&table(&["line", "median", "low", "high", "unit", "target", "", "rounds"], &rows))?;
    if let Some(path) = &common.json {
        let text: Vec<String> = lines.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
        write_file(path, (text.join("\n") + "\n").as_bytes())?;
    }
    let missed = lines.iter().filter(|l| !l.holds()).count();
    if missed > 0 { negative(format!("{missed} target(s) not met")) } else { Ok(()) }
}

/// Time of one call, in seconds.
pub fn seconds<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = std::time::Instant::now();
    let value = work();
    (start.elapsed().as_secs_f64(), value)
}
