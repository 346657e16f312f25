//! How much slower a model becomes when several lanes run it at once.

use std::sync::{Arc, Barrier};
use std::time::Instant;

use tandem_ir::Nanos;
use tandem_onnx::cut::SegmentImage;
use tandem_onnx::value::Value;

use super::budget::Budget;
use super::{ProfileError, statistics};
use crate::engine::{Engine, EngineError, Session, SessionOptions};

/// Lane configurations whose interference is worth knowing: at least two lanes, at most as many threads as cores.
pub fn configurations(cores: u32, threads: &[u32]) -> Vec<(u32, u32)> {
    let mut found: Vec<(u32, u32)> =
        threads.iter().flat_map(|m| (2..=cores / (*m).max(1)).map(move |n| (n, *m))).filter(|(_, m)| *m > 0).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Duration with all lanes busy over duration alone, in per mille, at least 1000: rounds with one lane and with all, in
/// turn. Each lane is a session of its own on a thread of its own, as the runtime has it.
///
/// # Errors
/// What the engine says; the first lane's error counts.
pub fn factor_permille(
    engine: &dyn Engine,
    image: &SegmentImage,
    inputs: &[Value],
    (lanes, threads): (u32, u32),
    budget: &Budget,
) -> Result<u64, ProfileError> {
    let options = SessionOptions { threads, optimize: true, profile: false };
    let sessions: Vec<Arc<dyn Session>> =
        (0..lanes).map(|_| engine.load(image, &options)).collect::<Result<_, EngineError>>()?;
    for session in &sessions {
        session.run(inputs)?;
    }
    let start = Instant::now();
    together(&sessions, inputs)?;
    let rounds = budget.rounds(Nanos(start.elapsed().as_nanos() as u64 * 2));
    let (mut alone, mut busy) = (vec![], vec![]);
    for round in 0..rounds as usize {
        // Every lane has its turn alone: sessions differ a little by where their memory lies.
        alone.extend(together(&sessions[round % sessions.len()..][..1], inputs)?);
        busy.extend(together(&sessions, inputs)?);
    }
    Ok(permille(&alone, &busy))
}

fn permille(alone: &[u64], busy: &[u64]) -> u64 {
    let middle = |durations: &[u64]| statistics::mean_of(durations, &statistics::middle_runs(durations));
    (middle(busy).saturating_mul(1000) / middle(alone).max(1)).max(1000)
}

/// Runs all sessions at once, each on a thread of its own, and returns how long each took in nanoseconds.
fn together(sessions: &[Arc<dyn Session>], inputs: &[Value]) -> Result<Vec<u64>, EngineError> {
    let gate = Barrier::new(sessions.len());
    let lane = |session: &Arc<dyn Session>| {
        gate.wait();
        let start = Instant::now();
        session.run(inputs).map(|_| start.elapsed().as_nanos() as u64)
    };
    std::thread::scope(|scope| {
        let lane = &lane;
        let running: Vec<_> = sessions.iter().map(|s| scope.spawn(move || lane(s))).collect();
        // A panic of an engine is caught by the engine; what else panics here is a bug and goes on.
        running.into_iter().map(|r| r.join().unwrap_or_else(|p| std::panic::resume_unwind(p))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_times_threads_stay_within_the_cores() {
        assert_eq!(configurations(2, &[1, 2]), [(2, 1)]);
        assert_eq!(
            configurations(8, &[1, 2, 4]),
            [(2, 1), (2, 2), (2, 4), (3, 1), (3, 2), (4, 1), (4, 2), (5, 1), (6, 1), (7, 1), (8, 1)]
        );
        assert_eq!(configurations(1, &[1, 0]), []);
    }

    #[test]
    fn a_factor_is_never_below_one() {
        assert_eq!(permille(&[100, 100, 100], &[150, 150, 150]), 1500);
        assert_eq!(permille(&[100], &[90]), 1000);
        assert_eq!(permille(&[], &[]), 1000);
    }
}
