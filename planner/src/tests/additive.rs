//! The cut and the dynamic program against enumeration of the same objective; what that objective costs against the judge's.

use tandem_ir::plan::Objective as Wish;
use tandem_ir::units::{Bytes, Nanos};

use crate::chain::chain;
use crate::enumerate::{self, additive_optimum};
use crate::mincut::{self, MinCut, Objective};
use crate::problem::{Atom, Problem, Value};
use crate::search::{self, Goal, Method};
use crate::testing::{self, Rng, Shape};
use crate::{segments, timeline};

fn prices(problem: &Problem, rng: &mut Rng, launch: bool) -> Objective {
    let unit = rng.one_in(3);
    let price = (0..problem.lane_count()).map(|_| if unit { 1 } else { rng.below(6) }).collect();
    Objective { price, launch }
}

#[test]
fn the_cut_is_the_optimum_on_2000_dags() {
    let (mut cut, mut split) = (MinCut::default(), 0);
    for seed in 0..2000 {
        let mut rng = Rng::new(seed ^ 0xC07);
        let shape = Shape { atoms: 1 + rng.below(14) as usize, ..Shape::default() };
        let problem = testing::random_problem_of(shape, seed);
        let objective = prices(&problem, &mut rng, false);
        let (devices, cost) = cut.two(&problem, &objective, 1).expect("links join the two");
        let (_, optimum) = additive_optimum(&problem, &objective).expect("links join the two");
        assert_eq!(cost, optimum, "seed {seed}: {devices:?}");
        split += usize::from(devices.contains(&0) && devices.contains(&1));
    }
    assert!(split > 400, "only {split} of 2000 optima use both devices: the test would not notice a wrong cut");
}

#[test]
fn cut_chain_and_enumeration_agree_on_2000_paths_with_launches() {
    let (mut cut, mut split) = (MinCut::default(), 0);
    for seed in 0..2000 {
        let mut rng = Rng::new(seed ^ 0xCA1);
        let shape = Shape { atoms: 1 + rng.below(12) as usize, path: true, ..Shape::default() };
        let problem = testing::random_problem_of(shape, seed);
        assert!(mincut::is_path(&problem));
        let objective = prices(&problem, &mut rng, true);
        let (devices, by_cut) = cut.two(&problem, &objective, 1).expect("links join the two");
        let (_, by_chain) = chain(&problem, &objective).expect("links join the two");
        let (_, optimum) = additive_optimum(&problem, &objective).expect("links join the two");
        assert_eq!((by_cut, by_chain), (optimum, optimum), "seed {seed}");
        split += usize::from(devices.contains(&0) && devices.contains(&1));
        // At unit prices the objective is the judge's own sum of durations, launch by launch.
        let unit = Objective { launch: true, ..Objective::unit(&problem) };
        let (devices, cost) = cut.two(&problem, &unit, 1).expect("links join the two");
        let played = timeline::evaluate(&problem, &segments::by_level(&problem, &devices)).expect("runnable");
        assert_eq!(played.busy.iter().map(|b| u128::from(b.0)).sum::<u128>(), cost, "seed {seed}");
    }
    assert!(split > 200, "only {split} of 2000 optima use both devices");
}

#[test]
fn three_devices_are_near_the_optimum_and_never_below() {
    let (mut cut, mut sum, mut optima) = (MinCut::default(), 0u128, 0u128);
    for seed in 0..300 {
        let shape = Shape { atoms: 1 + seed as usize % 8, devices: 3, ..Shape::default() };
        let problem = testing::random_problem_of(shape, seed);
        let objective = Objective::unit(&problem);
        let (_, cost) = cut.all(&problem, &objective).expect("links join all by way of the host");
        let (_, optimum) = additive_optimum(&problem, &objective).expect("links join all by way of the host");
        assert!(cost >= optimum, "seed {seed}");
        (sum, optima) = (sum + cost, optima + optimum);
    }
    assert!(sum * 100 <= optima * 103, "expansion costs {sum}, the optimum {optima}");
}

/// systems.md 5.7, in tenths: a chain that may start and end anywhere, a switch costing 1.5 or 0.5.
fn golden(switch: u64) -> Problem {
    let (cpu, gpu) = ([20, 40, 100, 30, 10, 60], [30, 10, 20, 10, 40, 10]);
    let atom =
        |i: usize| Atom { nodes: vec![], time: vec![Some(Nanos(cpu[i])), Some(Nanos(gpu[i]))], weights: Bytes::ZERO };
    let value =
        |i: usize| Value { tensor: None, bytes: Bytes::ZERO, producer: Some(i), consumers: vec![i + 1], output: false };
    let devices = vec![testing::device("cpu", 0), testing::device("gpu0", 0)];
    let links = vec![testing::link("cpu", "gpu0", switch, false), testing::link("gpu0", "cpu", switch, false)];
    Problem::new(devices, links, (0..6).map(atom).collect(), (0..5).map(value).collect()).expect("follows the rules")
}

#[test]
fn golden_case_of_the_dossier() {
    for (switch, best) in [(15, 120), (5, 95)] {
        let problem = golden(switch);
        let unit = Objective::unit(&problem);
        assert_eq!(MinCut::default().two(&problem, &unit, 1).expect("runnable").1, best);
        assert_eq!(chain(&problem, &unit).expect("runnable").1, best);
        assert_eq!(additive_optimum(&problem, &unit).expect("runnable").1, best);
        let goal = Goal { objective: Wish::Latency, slo: None };
        for method in [Method::Auto, Method::Cut, Method::Chain, Method::Exhaustive] {
            let found = search::search(&problem, method, goal, 600).expect("runnable");
            assert_eq!(u128::from(found.best.score.makespan.0), best, "{method}");
        }
    }
    let (devices, _) = MinCut::default().two(&golden(5), &Objective::unit(&golden(5)), 1).expect("runnable");
    assert_eq!(devices, [0, 1, 1, 1, 0, 1]);
}

/// What taking the additive objective's optimum for the judge's costs: printed, and bounded loosely so that it cannot rot.
#[test]
fn regret_of_the_additive_objective() {
    let (mut regrets, mut cut) = (vec![], MinCut::default());
    for seed in 0..300 {
        let shape = Shape { atoms: 2 + seed as usize % 5, ..Shape::default() };
        let problem = testing::random_problem_of(shape, seed);
        let mut best = u64::MAX;
        enumerate::segmentations(&problem, &mut |s| {
            best = best.min(timeline::score(&problem, &s).map_or(u64::MAX, |s| s.makespan.0));
        });
        let unit = Objective { launch: true, ..Objective::unit(&problem) };
        let (devices, _) = cut.two(&problem, &unit, 1).expect("links join the two");
        let found = search::judge_devices(&problem, &devices).into_iter().map(|c| c.score.makespan.0).min();
        let found = found.expect("runnable");
        assert!(found >= best, "seed {seed}");
        regrets.push((found - best) as f64 / best.max(1) as f64);
    }
    regrets.sort_by(f64::total_cmp);
    let mean = regrets.iter().sum::<f64>() / regrets.len() as f64;
    let (median, worst) = (regrets[regrets.len() / 2], regrets[regrets.len() - 1]);
    println!("regret of the additive objective against enumeration by the timeline, 300 DAGs of 2-6 atoms:");
    println!("mean {:.2} %, median {:.2} %, worst {:.1} %", 100.0 * mean, 100.0 * median, 100.0 * worst);
    assert!(mean < 0.15, "mean regret {mean}");
}
