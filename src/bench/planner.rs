//! What planning ahead of deployment waits for: import and the minimum cut, against graph size.

use anyhow::{Context as _, Result};
use tandem_onnx::{import, probe};
use tandem_planner::mincut::{MinCut, Objective};
use tandem_planner::testing;

use super::{Line, seconds, stats};
use crate::cli::BenchCommon;

/// Sizes, and the most milliseconds one cut may take where a target is set.
const SIZES: [(usize, Option<f64>); 4] = [(100, None), (1_000, Some(2.0)), (10_000, None), (100_000, Some(1_000.0))];

/// Nodes of the graph that is imported, elements of its values, and the most milliseconds that may take.
const IMPORT: (usize, u64, f64) = (10_000, 64, 2_000.0);

/// Imports a chain, and cuts random graphs of each size, a new seed a round; the solver's buffers are reused, as the planner does.
pub fn run(common: &BenchCommon) -> Result<Vec<Line>> {
    let rounds = common.rounds.unwrap_or(super::ROUNDS);
    let mut lines = vec![imports(rounds)?];
    for (size, target) in SIZES {
        let mut solver = MinCut::default();
        let mut times = vec![];
        for round in 0..=rounds {
            let problem = testing::random_dag(size, round as u64);
            let objective = Objective::unit(&problem);
            let (time, cut) = seconds(|| solver.two(&problem, &objective, 1));
            cut.context("a random graph has a cut")?;
            // The first round grows the buffers.
            if round > 0 {
                times.push(time * 1e3);
            }
        }
        let name = format!("minimum cut, {size} operators");
        lines.push(Line::new(name, "ms", stats::bootstrap(&times), target, times.len()));
    }
    Ok(lines)
}

fn imports(rounds: usize) -> Result<Line> {
    let (nodes, elements, most) = IMPORT;
    let file = probe::chain(nodes, elements).model.to_vec();
    let mut times = vec![];
    for _ in 0..rounds {
        let (time, model) = seconds(|| import::import_bytes("chain", file.clone(), None));
        model.context("a chain can be imported")?;
        times.push(time * 1e3);
    }
    Ok(Line::new(format!("import, {nodes} operators"), "ms", stats::bootstrap(&times), Some(most), rounds))
}
