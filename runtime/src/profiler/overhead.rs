//! What an engine costs beside operators: launching a run, and timing a node.
//!
//! Measured on chains of cheap operators ([`tandem_onnx::probe`]), one short and one long, plain and profiled, in turn:
//! the plain ones' difference is what a node truly costs, what they have in common is the launch, and what the profiled
//! one says beyond a node's true cost is the overhead of timing. Generic: no figure of any model goes in.

use std::time::Instant;

use tandem_ir::DType;
use tandem_onnx::probe;
use tandem_onnx::value::{TensorValue, Value};

use super::cache::SessionCost;
use super::{ProfileError, statistics};
use crate::engine::{Engine, SessionOptions};

/// Nodes of the long chain.
const LONG: u64 = 241;
/// Elements of each value: work well under a microsecond, so that the nodes' own duration hardly matters.
const ELEMENTS: u64 = 64;
/// Rounds, and runs before them that are not counted.
const ROUNDS: usize = 60;
const WARM_UP: usize = 10;

/// Measures an engine at a thread count: about 40 ms.
///
/// # Errors
/// What the engine says; it cannot run the simplest of models then.
pub fn measure(engine: &dyn Engine, threads: u32) -> Result<SessionCost, ProfileError> {
    let plain = SessionOptions { threads, optimize: true, profile: false };
    let profiled = SessionOptions { profile: true, ..plain.clone() };
    let short = engine.load(&probe::chain(1, ELEMENTS), &plain)?;
    let long = engine.load(&probe::chain(LONG as usize, ELEMENTS), &plain)?;
    let timed = engine.load(&probe::chain(LONG as usize, ELEMENTS), &profiled)?;
    let bytes: Vec<u8> = (0..ELEMENTS).flat_map(|i| (i as f32 / ELEMENTS as f32).to_le_bytes()).collect();
    let feed = [Value::Tensor(TensorValue::new(DType::F32, vec![ELEMENTS], bytes))];
    let (mut short_ns, mut long_ns) = (vec![], vec![]);
    for round in 0..WARM_UP + ROUNDS {
        for (session, durations) in [(&short, Some(&mut short_ns)), (&long, Some(&mut long_ns)), (&timed, None)] {
            let start = Instant::now();
            session.run(&feed)?;
            let took = start.elapsed().as_nanos() as u64;
            if let Some(durations) = durations.filter(|_| round >= WARM_UP) {
                durations.push(took);
            }
        }
    }
    let told = timed.end_profile()?.map(|p| {
        let totals: Vec<u64> =
            (WARM_UP..WARM_UP + ROUNDS).map(|run| p.nodes.iter().filter_map(|n| n.runs_ns.get(run)).sum()).collect();
        (statistics::median(&totals), p.nodes.len() as u64)
    });
    let (short, long) = (statistics::median(&short_ns), statistics::median(&long_ns));
    Ok(costs(short, long, told, statistics::spread(&short_ns)))
}

/// Solves for launch and overhead from medians: whole runs of the short and the long chain, and what profiling says of
/// the long one (sum over its nodes, and how many it ran).
fn costs(short: u64, long: u64, told: Option<(u64, u64)>, launch_spread_ns: u64) -> SessionCost {
    let node = long.saturating_sub(short) / (LONG - 1);
    // An engine may fuse nodes of the chain: true costs are compared in sum, the overhead is each timed node's.
    let told = told.filter(|(_, nodes)| *nodes > 0);
    let overhead = told.map_or(0, |(sum, nodes)| sum.saturating_sub(node * LONG) / nodes);
    SessionCost {
        launch_ns: short.saturating_sub(node),
        launch_spread_ns,
        timing_overhead_ns: overhead,
        repeats: ROUNDS as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launch_and_overhead_are_told_apart() {
        // 5 us a launch, 400 ns a node, 2 us to time one.
        let c = costs(5_400, 5_000 + 241 * 400, Some((241 * 2_400, 241)), 7);
        assert_eq!((c.launch_ns, c.timing_overhead_ns, c.launch_spread_ns), (5_000, 2_000, 7));
        assert_eq!(costs(5_400, 5_000 + 241 * 400, None, 0).timing_overhead_ns, 0);
        // An engine that made one node of the chain, and noise.
        assert_eq!(costs(5_400, 5_300, Some((0, 0)), 0).launch_ns, 5_400);
    }
}
