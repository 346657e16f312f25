//! What an engine costs beside operators: launching a run, and timing a node.
//!
//! Measured on chains of operators ([`tandem_onnx::probe`]): of a short and a long one of cheap operators, what they
//! have in common is the launch. Of small convolutions, which engines spread over threads as they do real work, one
//! plain and one profiled: what the profiled one says beyond what the plain one takes is the overhead of timing.
//! Generic: no figure of any model goes in. All take turns. Lower quartiles are compared, not medians: the chains are
//! short, and whatever disturbs them makes them longer.

use std::sync::Arc;
use std::time::Instant;

use tandem_ir::{DType, Nanos};
use tandem_onnx::probe;
use tandem_onnx::value::{TensorValue, Value};

use super::cache::SessionCost;
use super::sampling::uncounted_runs;
use super::{ProfileError, statistics};
use crate::engine::{Engine, Session, SessionOptions};

/// Nodes of the long chain of cheap operators, and of the chain of convolutions.
const LONG: u64 = 241;
const CONVOLUTIONS: u64 = 120;
/// Elements of each value of the cheap ones: work well under a microsecond.
const ELEMENTS: u64 = 64;
/// Rounds, and runs before them that are not counted.
const ROUNDS: usize = 100;
const WARM_UP: usize = 10;

/// Durations of the chains, in nanoseconds.
struct Chains {
    short: u64,
    long: u64,
    plain: u64,
    /// Sum over the profiled chain's nodes as the engine times them, and how many it ran; `None` without timing.
    timed: Option<(u64, u64)>,
}

/// The chains at a thread count, loaded. They may take their turns in the rounds of something else, so that drift of the
/// machine hits both alike.
pub struct Probe {
    threads: u32,
    /// Short, long, convolutions, and those timed by the engine.
    sessions: [(Arc<dyn Session>, Vec<Value>); 4],
    durations: [Vec<u64>; 4],
    /// Of the timed chain: all its runs, and by turn which of them counts.
    timed_runs: usize,
    run_of_timed: Vec<usize>,
    /// Turns taken, and how many of the first are not counted.
    turns: usize,
    warm_up: usize,
}

impl Probe {
    /// Loads the chains, and runs each once.
    ///
    /// # Errors
    /// What the engine says; it cannot run the simplest of models then.
    pub fn load(engine: &dyn Engine, threads: u32) -> Result<Self, ProfileError> {
        let plain = SessionOptions { threads, optimize: true, profile: false };
        let profiled = SessionOptions { profile: true, ..plain.clone() };
        let convolutions = probe::convolutions(CONVOLUTIONS as usize);
        let vector = feed(vec![ELEMENTS]);
        let image = feed([1].into_iter().chain(probe::PLANE).collect());
        let sessions = [
            (engine.load(&probe::chain(1, ELEMENTS), &plain)?, vector.clone()),
            (engine.load(&probe::chain(LONG as usize, ELEMENTS), &plain)?, vector),
            (engine.load(&convolutions, &plain)?, image.clone()),
            (engine.load(&convolutions, &profiled)?, image),
        ];
        let mut probe = Self {
            threads,
            sessions,
            durations: Default::default(),
            timed_runs: 0,
            run_of_timed: vec![],
            turns: 0,
            warm_up: 1,
        };
        probe.turn()?;
        Ok(probe)
    }

    /// The thread count.
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// Measures each chain once, one after the other, warm: a few milliseconds.
    ///
    /// # Errors
    /// What the engine says.
    pub fn turn(&mut self) -> Result<(), ProfileError> {
        for (i, (session, feed)) in self.sessions.iter().enumerate() {
            // Warm, as models are measured; the timed one as often as the plain one it is compared with.
            let last = self.durations[i.min(2)].last().copied();
            let uncounted = last.map_or(0, |ns| uncounted_runs(Nanos(ns)));
            for _ in 0..uncounted {
                session.run(feed)?;
            }
            let start = Instant::now();
            session.run(feed)?;
            let took = start.elapsed().as_nanos() as u64;
            if i == 3 {
                self.run_of_timed.push(self.timed_runs + uncounted);
                self.timed_runs += uncounted + 1;
            }
            if self.turns >= self.warm_up {
                self.durations[i].push(took);
            }
        }
        self.turns += 1;
        Ok(())
    }

    /// What the turns say.
    ///
    /// # Errors
    /// The engine cannot tell its times.
    pub fn finish(self) -> Result<SessionCost, ProfileError> {
        let counted = &self.run_of_timed[self.warm_up..];
        let timed = self.sessions[3].0.end_profile()?.map(|p| {
            let total = |run: &usize| p.nodes.iter().filter_map(|n| n.runs_ns.get(*run)).sum();
            let totals: Vec<u64> = counted.iter().map(total).collect();
            (statistics::quartile(&totals), p.nodes.len() as u64)
        });
        let [short, long, plain] = [0, 1, 2].map(|i| statistics::quartile(&self.durations[i]));
        let spread = statistics::spread(&self.durations[0]);
        Ok(costs(&Chains { short, long, plain, timed }, spread, counted.len() as u32))
    }
}

/// Measures an engine at a thread count: under a second.
///
/// # Errors
/// What the engine says; it cannot run the simplest of models then.
pub fn measure(engine: &dyn Engine, threads: u32) -> Result<SessionCost, ProfileError> {
    let mut probe = Probe { warm_up: WARM_UP, ..Probe::load(engine, threads)? };
    for _ in 0..WARM_UP + ROUNDS {
        probe.turn()?;
    }
    probe.finish()
}

/// Values between 0 and 1.
fn feed(dims: Vec<u64>) -> Vec<Value> {
    let elements: u64 = dims.iter().product();
    let bytes: Vec<u8> = (0..elements).flat_map(|i| (i as f32 / elements as f32).to_le_bytes()).collect();
    vec![Value::Tensor(TensorValue::new(DType::F32, dims, bytes))]
}

/// Solves for launch and overhead.
fn costs(chains: &Chains, launch_spread_ns: u64, repeats: u32) -> SessionCost {
    let node = chains.long.saturating_sub(chains.short) / (LONG - 1);
    let launch_ns = chains.short.saturating_sub(node);
    let work = chains.plain.saturating_sub(launch_ns);
    let timed = chains.timed.filter(|(_, nodes)| *nodes > 0);
    let timing_overhead_ns = timed.map_or(0, |(sum, nodes)| sum.saturating_sub(work) / nodes);
    SessionCost { launch_ns, launch_spread_ns, timing_overhead_ns, repeats }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launch_and_overhead_are_told_apart() {
        // 5 us a launch, 400 ns a cheap node, 7 us a convolution, 2 us to time one; two nodes more for changes of
        // layout.
        let chains = |timed| Chains { short: 5_400, long: 5_000 + 241 * 400, plain: 5_000 + 120 * 7_000, timed };
        let c = costs(&chains(Some((120 * 7_000 + 122 * 2_000, 122))), 7, 3);
        assert_eq!((c.launch_ns, c.timing_overhead_ns, c.launch_spread_ns), (5_000, 2_000, 7));
        assert_eq!(costs(&chains(None), 0, 3).timing_overhead_ns, 0);
        // Noise, and an engine that timed nothing.
        let odd = Chains { short: 5_400, long: 5_300, plain: 100, timed: Some((0, 0)) };
        assert_eq!((costs(&odd, 0, 3).launch_ns, costs(&odd, 0, 3).timing_overhead_ns), (5_400, 0));
    }
}
