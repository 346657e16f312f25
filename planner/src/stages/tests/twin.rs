//! The search beside enumeration and every baseline, on random problems.

use rayon::prelude::*;

use super::{Sizes, random_problem};
use crate::stages::chain::lower_bound;
use crate::stages::problem::{Semantics, StageProblem};
use crate::stages::{
    StageError, block_level, evaluate, exhaustive, learner_alone, model_level, random, search, single,
};

const EPISODES: u64 = 64;
/// Most pairs have fewer schedules and are enumerated by the search itself; the largest pairs and all triples are not.
const BUDGET: u64 = 7000;

/// What the search found and what is best, in ns, of one problem; whether as many random schedules hold a better
/// one. All other baselines must be no better: the search contains them.
fn compare(problem: &StageProblem, seed: u64) -> (u64, u64, bool) {
    let found = search(problem, seed, EPISODES, BUDGET).expect("the host runs everything");
    let best = exhaustive(problem).expect("tiny");
    let judged = evaluate(problem, &found.schedule).expect("what is found can run");
    assert_eq!(judged.makespan(problem.rules().semantics), found.makespan, "seed {seed}");
    assert!(best.makespan <= found.makespan, "seed {seed}: enumeration misses schedules");
    assert!(lower_bound(problem) <= best.makespan, "seed {seed}: the bound is none");
    let mut baselines = vec![
        ("model level", model_level(problem)),
        ("blocks", block_level(problem, seed, EPISODES, BUDGET)),
        ("learner", learner_alone(problem, seed, EPISODES)),
    ];
    let single = |q: usize| (problem.processors()[q].name.as_str(), single(problem, q));
    baselines.extend((0..problem.processors().len()).map(single));
    let random = random(problem, seed, found.scored).is_ok_and(|r| r.makespan < found.makespan);
    for (name, other) in baselines {
        match other {
            Ok(other) => assert!(found.makespan <= other.makespan, "seed {seed}: {name} is better"),
            Err(error) => assert!(matches!(error, StageError::NothingFits { .. }), "seed {seed}, {name}: {error}"),
        }
    }
    (found.makespan.0, best.makespan.0, random)
}

/// Prints the gap to the optimum over many problems and holds it to its bounds.
fn gaps(name: &str, problems: Vec<(Sizes, u64)>) {
    let count = problems.len();
    let one = |(sizes, seed): (Sizes, u64)| {
        let (found, best, lucky) = compare(&random_problem(sizes, seed), seed);
        (((found - best) as f64 / best.max(1) as f64, seed), lucky)
    };
    let (gaps, lucky): (Vec<(f64, u64)>, Vec<bool>) = problems.into_par_iter().map(one).unzip();
    let mean = gaps.iter().map(|g| g.0).sum::<f64>() / count as f64;
    let (worst, seed) = gaps.iter().copied().fold((0.0, 0), |a, b| if b.0 > a.0 { b } else { a });
    let exact = gaps.iter().filter(|g| g.0 == 0.0).count();
    // Chance owes nothing to anybody: with as many draws it may be lucky, but hardly ever.
    let lucky = lucky.iter().filter(|l| **l).count();
    assert!(lucky * 100 <= count, "{name}: random schedules were better {lucky} times");
    println!(
        "{name}: {count} cases, {exact} at the optimum, mean gap {:.4} %, worst {:.3} % (seed {seed}), random better {lucky} times",
        mean * 100.0,
        worst * 100.0
    );
    assert!(mean <= 0.005 && worst <= 0.05, "{name}: mean {mean}, worst {worst} at seed {seed}");
}

fn sizes(tenants: usize, operators_max: u64, semantics: Semantics) -> Sizes {
    Sizes { tenants, operators_max, stages_max: 3, semantics }
}

#[test]
fn search_is_near_the_optimum_and_above_every_baseline() {
    let pairs = (0..940).map(|seed| (sizes(2, 5, Semantics::Barrier), seed));
    let triples = (940..1000).map(|seed| (sizes(3, 4, Semantics::Barrier), seed));
    let largest = (1000..1004).map(|seed| (sizes(3, 5, Semantics::Barrier), seed));
    let (small, large): (Vec<_>, Vec<_>) = pairs.chain(triples).chain(largest).partition(|(sizes, seed)| {
        crate::stages::exhaustive::count(&random_problem(*sizes, *seed)) <= u128::from(BUDGET)
    });
    assert!(small.len() + large.len() >= 1000 && large.len() > 100);
    gaps("barriers, as many schedules as the budget at most", small);
    gaps("barriers, more schedules than that", large);
}

#[test]
fn search_is_near_the_optimum_by_events_too() {
    let pairs = (0..100).map(|seed| (sizes(2, 5, Semantics::Event), seed));
    let triples = (100..104).map(|seed| (sizes(3, 3, Semantics::Event), seed));
    gaps("events", pairs.chain(triples).collect());
}

/// With a budget below the number of schedules, nothing is enumerated: how near do learner and descent come by themselves?
#[test]
fn descent_alone_is_near_the_optimum() {
    let one = |seed: u64| {
        let problem = random_problem(sizes(2, 5, Semantics::Barrier), seed);
        let budget = 1600;
        let best = exhaustive(&problem).expect("tiny");
        let found = search(&problem, seed, EPISODES, budget).expect("the host runs everything");
        let lost = (found.makespan.0 - best.makespan.0) as f64 / best.makespan.0.max(1) as f64;
        (best.scored > budget).then_some(lost)
    };
    let lost: Vec<f64> = (0..200u64).into_par_iter().filter_map(one).collect();
    let (mean, worst) = (lost.iter().sum::<f64>() / lost.len() as f64, lost.iter().copied().fold(0.0, f64::max));
    let exact = lost.iter().filter(|l| **l == 0.0).count();
    println!(
        "budget 1600: {} cases, {exact} at the optimum, mean gap {:.4} %, worst {:.3} %",
        lost.len(),
        mean * 100.0,
        worst * 100.0
    );
    assert!(mean <= 0.005, "mean {mean}");
}
