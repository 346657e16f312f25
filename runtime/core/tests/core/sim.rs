//! The real scheduler in seeded worlds, with the rules checked after every event.

use tandem_core::sim::worlds::world;
use tandem_core::sim::{Canary, WorldError, simulate};

/// `200` seeds from 0 unless told: `TANDEM_SEEDS=FROM..TO` or a number of seeds.
fn seeds() -> std::ops::Range<u64> {
    let text = std::env::var("TANDEM_SEEDS").unwrap_or_else(|_| "200".into());
    let number = |t: &str| t.parse().expect("TANDEM_SEEDS: expected COUNT or FROM..TO");
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => 0..number(&text),
    }
}

/// Seeds that once failed, whatever the range.
const KEPT: [u64; 0] = [];

#[test]
fn rules_hold_in_seeded_worlds() {
    let (mut replies, mut returned, mut failed) = (0, 0, 0);
    for seed in KEPT.into_iter().chain(seeds()) {
        let world = world(seed);
        let report = simulate(&world.setup, world.workloads, &world.options).unwrap_or_else(|error| {
            panic!(
                "seed {seed}: {error}\nreplay it: TANDEM_SEEDS={seed}..{} cargo test --workspace --test core seeded",
                seed + 1
            )
        });
        for group in &report.groups {
            let c = group.counters;
            assert_eq!((c.accepted + c.refused, c.done + c.failed), (group.offered, c.accepted), "seed {seed}");
            (replies, returned, failed) = (replies + c.done, returned + c.returned, failed + c.failed);
        }
    }
    println!("{replies} replies with outputs, {failed} without, {returned} requests went back to their queue");
}

#[test]
fn broken_rules_are_noticed() {
    let all = [
        Canary::LoseReply,
        Canary::ReplyTwice,
        Canary::RetireEarly,
        Canary::ForgetRetire,
        Canary::SkipDependency,
        Canary::ForgetForm,
    ];
    for canary in all {
        let noticed = (0..20).filter(|seed| {
            let mut world = world(*seed);
            world.options.canary = Some(canary);
            let outcome = simulate(&world.setup, world.workloads, &world.options);
            matches!(outcome, Err(WorldError::Violation(_)))
        });
        // Some worlds never do what the canary breaks often enough.
        assert!(noticed.count() >= 10, "{canary:?}");
    }
}
