//! Every method and every floor against enumeration of all routes by the timeline; laws; the random search's contract.

use tandem_ir::plan::Objective;
use tandem_ir::units::{Bytes, Nanos};

use crate::enumerate;
use crate::problem::Problem;
use crate::search::{self, Goal, Key, Method};
use crate::segments::{self, Segments};
use crate::testing::{self, Rng, Shape};
use crate::{bound, timeline};

const LATENCY: Goal = Goal { objective: Objective::Latency, slo: None };
const THROUGHPUT: Goal = Goal { objective: Objective::Throughput, slo: None };

fn optimum(problem: &Problem, goal: Goal) -> Key {
    let mut best = None;
    enumerate::segmentations(problem, &mut |s| {
        if let Ok(score) = timeline::score(problem, &s) {
            best = Some(best.map_or(goal.key(&score), |b: Key| b.min(goal.key(&score))));
        }
    });
    best.expect("links join all devices")
}

fn small(seed: u64) -> Problem {
    let mut rng = Rng::new(seed ^ 0x5A11);
    let devices = 1 + rng.below(3) as usize;
    let atoms = 1 + rng.below(if devices == 3 { 5 } else { 6 }) as usize;
    let mut problem = testing::random_problem_of(Shape { atoms, devices, ..Shape::default() }, seed);
    // Lanes and interference are part of what floors must respect.
    problem.devices[0].lanes = 1 + rng.below(3) as u32;
    problem.devices[0].factor_permille = 1000 + rng.below(300);
    problem
}

#[test]
fn no_method_beats_enumeration_and_no_floor_exceeds_it() {
    let methods = ["auto", "cut", "chain", "model-level", "block-level", "greedy", "heft", "cpu-only", "random:3"];
    let (mut gaps, mut floors) = (vec![], vec![]);
    for seed in 0..400 {
        let problem = small(seed);
        for goal in [LATENCY, THROUGHPUT] {
            let best = optimum(&problem, goal);
            for method in methods {
                let method: Method = method.parse().expect("a method");
                let found = search::search(&problem, method, goal, 600).expect("links join all devices");
                assert!(goal.key(&found.best.score) >= best, "seed {seed}: {method} beats enumeration");
                if method == Method::Auto {
                    gaps.push((goal.key(&found.best.score).2 - best.2) as f64 / best.2.max(1) as f64);
                }
            }
            let exhaustive = search::search(&problem, Method::Exhaustive, goal, 0).expect("small");
            assert_eq!(goal.key(&exhaustive.best.score), best, "seed {seed}");
            let floor = match goal.objective {
                Objective::Latency => bound::makespan(&problem),
                Objective::Throughput => bound::bottleneck(&problem),
            };
            assert!(floor.0 <= best.2, "seed {seed}: floor {floor} above the optimum {}", best.2);
            floors.push((best.2 - floor.0) as f64 / best.2.max(1) as f64);
        }
    }
    let stats = |name: &str, mut list: Vec<f64>| {
        list.sort_by(f64::total_cmp);
        let mean = list.iter().sum::<f64>() / list.len() as f64;
        println!("{name}: mean {:.2} %, worst {:.1} %", 100.0 * mean, 100.0 * list[list.len() - 1]);
        mean
    };
    assert!(stats("auto above the optimum", gaps) < 0.005);
    assert!(stats("floors below the optimum", floors) < 0.5);
}

#[test]
fn scaled_costs_scale_the_makespan() {
    for seed in 0..200 {
        let problem = testing::random_problem(seed);
        let mut big = problem.clone();
        big.devices.iter_mut().for_each(|d| d.launch = d.launch * 7);
        big.atoms.iter_mut().flat_map(|a| a.time.iter_mut().flatten()).for_each(|t| *t = *t * 7);
        big.values.iter_mut().for_each(|v| v.bytes = v.bytes * 7);
        let links = big.links.iter().map(|l| {
            let mut link = l.link.clone();
            link.latency = link.latency * 7;
            link
        });
        let big = Problem::new(big.devices.clone(), links.collect(), big.atoms.clone(), big.values.clone());
        let big = big.expect("follows the rules");
        let devices = testing::random_devices_of(&problem, &mut Rng::new(seed));
        let of = |p: &Problem| timeline::evaluate(p, &segments::by_level(p, &devices)).expect("runnable").makespan;
        assert_eq!(of(&big), of(&problem) * 7, "seed {seed}");
    }
}

#[test]
fn another_device_never_worsens_the_optimum() {
    for seed in 0..150 {
        let shape = Shape { atoms: 1 + seed as usize % 5, devices: 2, pin_one_in: 0, ..Shape::default() };
        let two = testing::random_problem_of(shape, seed);
        let mut devices = two.devices.clone();
        devices.push(testing::device("gpu1", 7));
        let mut links: Vec<_> = two.links.iter().map(|l| l.link.clone()).collect();
        links.extend([testing::link("cpu", "gpu1", 3, false), testing::link("gpu1", "cpu", 3, false)]);
        let mut atoms = two.atoms.clone();
        let mut rng = Rng::new(seed);
        atoms.iter_mut().for_each(|a| a.time.push(Some(Nanos(rng.below(100)))));
        let three = Problem::new(devices, links, atoms, two.values.clone()).expect("follows the rules");
        assert!(optimum(&three, LATENCY).2 <= optimum(&two, LATENCY).2, "seed {seed}");
    }
}

/// Plays emitted steps strictly in order of each lane, from the written route alone.
fn replayed(route: &tandem_ir::Route) -> u64 {
    let mut lane = vec![0u64; route.lane_names.len()];
    let mut end = vec![0u64; route.steps.len()];
    for (i, step) in route.steps.iter().enumerate() {
        let ready = step.after.iter().map(|a| end[*a]).max().unwrap_or(0);
        end[i] = ready.max(lane[step.lane]) + step.duration.0;
        lane[step.lane] = end[i];
    }
    end.into_iter().max().unwrap_or(0)
}

#[test]
fn a_strict_replay_of_the_steps_takes_the_predicted_time() {
    for seed in 0..1000 {
        let (_, route) = testing::random_route(seed);
        assert_eq!(replayed(&route), route.prediction.makespan.0, "seed {seed}");
        for (i, step) in route.steps.iter().enumerate() {
            assert!(step.after.iter().all(|a| *a < i), "seed {seed}");
        }
        // Names of values are unique, each copied once to each device.
        let mut copies: Vec<_> = route.steps.iter().map(|s| s.action).collect();
        copies.sort_unstable();
        copies.dedup();
        assert_eq!(copies.len(), route.steps.len(), "seed {seed}: a step twice");
    }
}

#[test]
fn random_placements_honour_their_contract() {
    for seed in 0..600 {
        let mut rng = Rng::new(seed);
        let shape = Shape {
            atoms: 1 + rng.below(30) as usize,
            devices: 1 + rng.below(3) as usize,
            pin_one_in: [0, 2, 12][rng.below(3) as usize],
            ..Shape::default()
        };
        let problem = testing::random_problem_of(shape, seed);
        let drawn = crate::baselines::random(&problem, seed).expect("there are atoms");
        let movable = (0..problem.atoms.len()).filter(|a| problem.movable(*a)).count();
        let devices: std::collections::BTreeSet<u8> = drawn.device.iter().copied().collect();
        assert!(drawn.runnable(&problem), "seed {seed}");
        if problem.atoms.len() > 1 {
            assert!(drawn.len() >= 2, "seed {seed}: not cut");
            assert!(shape.pin_one_in == 2 || drawn.len() <= 6, "seed {seed}: {} parts", drawn.len());
        }
        if movable >= 2 && problem.devices.len() > 1 {
            assert!(devices.len() > 1, "seed {seed}: no boundary between devices");
        }
        assert_eq!(Some(drawn), crate::baselines::random(&problem, seed), "seed {seed}");
    }
}

#[test]
fn random_placements_split_where_one_atom_can_move() {
    let mut problem = testing::random_problem_of(Shape { atoms: 9, pin_one_in: 0, ..Shape::default() }, 1);
    problem.atoms.iter_mut().enumerate().filter(|(a, _)| *a != 4).for_each(|(_, atom)| atom.time[1] = None);
    for seed in 0..50 {
        let drawn = crate::baselines::random(&problem, seed).expect("there are atoms");
        assert!((2..=6).contains(&drawn.len()));
        assert!(drawn.device.contains(&1), "the movable atom makes a boundary");
    }
}

#[test]
fn segments_stay_within_the_limit() {
    for seed in 0..60 {
        let shape = Shape { atoms: 400, pin_one_in: 0, ..Shape::default() };
        let problem = testing::random_problem_of(shape, seed);
        let devices = testing::random_devices_of(&problem, &mut Rng::new(seed));
        let candidates = search::judge_devices(&problem, &devices);
        assert!(!candidates.is_empty(), "seed {seed}");
        assert!(
            candidates
                .iter()
                .all(|c| c.segments.len() <= tandem_ir::limits::SEGMENTS_MAX && c.segments.runnable(&problem))
        );
    }
}

#[test]
fn levels_and_absorption_never_make_cycles() {
    for seed in 0..500 {
        let problem = testing::random_problem(seed);
        let devices = testing::random_devices_of(&problem, &mut Rng::new(seed));
        for s in [segments::by_level(&problem, &devices), segments::absorbed(&problem, &devices)] {
            assert_eq!(s.devices(), devices, "seed {seed}");
            let again = Segments::canonical(&problem, &s.of, |x| s.device[x as usize]);
            assert_eq!(again.as_ref(), Some(&s), "seed {seed}: canonical");
            let merged = segments::merged(&problem, &s);
            assert!(merged.len() <= s.len() && timeline::evaluate(&problem, &merged).is_ok(), "seed {seed}");
        }
    }
}

#[test]
fn memory_that_lacks_ranks_first() {
    let mut problem = testing::random_problem_of(Shape { atoms: 6, pin_one_in: 0, ..Shape::default() }, 3);
    problem.atoms.iter_mut().for_each(|a| (a.weights, a.time[0]) = (Bytes(100), Some(Nanos(1_000_000))));
    problem.devices[1].memory = Bytes(250);
    let found = search::search(&problem, Method::Auto, LATENCY, 600).expect("runnable");
    assert_eq!(found.best.score.excess, 0);
    let far = found.best.segments.devices().iter().filter(|d| **d == 1).count();
    assert_eq!(far, 2, "as much on the accelerator as fits");
}

#[test]
fn a_route_of_several_segments_pays_for_its_cuts_and_a_whole_one_does_not() {
    let mut problem = crate::testing::random_dag(12, 3);
    problem.devices.iter_mut().for_each(|d| d.cut_loss = Nanos(1_000_000));
    let whole = problem.segment_duration(0, Nanos(500), false);
    let part = problem.segment_duration(0, Nanos(500), true);
    assert_eq!(part.saturating_sub(whole), Nanos(1_000_000));
    let one = crate::search::single(&problem, 0);
    let busy = |d: usize| crate::timeline::evaluate(&problem, &one[d].segments).map(|t| t.busy[0]);
    let work: Nanos = problem.atoms.iter().filter_map(|a| a.time[0]).sum();
    assert_eq!(busy(0), Ok(problem.segment_duration(0, work, false)), "one segment, no cut");
}
