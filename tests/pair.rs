//! Invariant 14: the planner's timeline and the timing emulator, two codes for one semantics, agree to the nanosecond.

use tandem_core::{EmulationOptions, emulate};
use tandem_ir::Bytes;
use tandem_ir::plan::MemoryUse;
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

/// The plan's memory holds whatever the steps take: the timeline's forecast is one way of many.
#[test]
fn no_durations_take_more_memory_than_planned_on_random_graphs() {
    let mut near = 0;
    for seed in 0..1_000 {
        let (_, route) = testing::random_route(seed);
        for jitter_permille in [0, 300, 1000] {
            let options = EmulationOptions { jitter_permille, seed, faults: vec![] };
            let played = emulate(&route, &options).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            assert_eq!(played.excess, [], "seed {seed}, jitter of {jitter_permille}");
            let tight = |(found, memory): (&Bytes, &MemoryUse)| found.0 * 10 > memory.peak().0 * 7;
            near += played.peak.iter().zip(&route.memory).filter(|both| tight(*both)).count();
        }
    }
    // Numbers far above what is ever needed would hold without saying much.
    assert!(near > 1_000, "only {near} peaks come near the plan's number");
}
