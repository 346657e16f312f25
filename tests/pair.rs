//! Invariant 14: the planner's timeline and the timing emulator, two codes for one semantics, agree to the nanosecond.

use tandem_core::{EmulationOptions, emulate};
use tandem_planner::testing;

#[test]
fn predicted_makespan_equals_the_emulators_on_random_graphs() {
    let mut copies = 0;
    for seed in 0..1_000 {
        let (_, route) = testing::random_route(seed);
        let emulated = emulate(&route, &EmulationOptions::default());
        let emulated = emulated.unwrap_or_else(|e| panic!("seed {seed}: the emulator refuses the route: {e}"));
        assert_eq!(emulated.makespan, route.prediction.makespan, "seed {seed}");
        assert_eq!(emulated.busy, route.prediction.busy, "seed {seed}: busy time by lane");
        copies += route.steps.iter().filter(|s| matches!(s.action, tandem_ir::plan::Action::Copy { .. })).count();
    }
    // Routes without copies would agree without saying much.
    assert!(copies > 1_000, "only {copies} copies in all routes");
}
