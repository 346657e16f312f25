//! Laws: determinism, text, semantics, problems from the planner's own, errors.

use std::collections::BTreeSet;

use tandem_ir::units::{Bytes, Nanos};

use super::{Sizes, golden, of, processor, random_problem, random_schedule, random_tenants, rules, tenant};
use crate::stages::chain::lower_bound;
use crate::stages::problem::{Rules, Semantics, StageError, StageProblem, TenantProblem};
use crate::stages::schedule::{Schedule, ScheduleError, Segment};
use crate::stages::{Found, block_level, evaluate, search, single};
use crate::testing::{self, Rng, Shape};

fn sizes(seed: u64) -> Sizes {
    let semantics = if seed.is_multiple_of(2) { Semantics::Barrier } else { Semantics::Event };
    Sizes { tenants: 1 + (seed % 4) as usize, operators_max: 12, stages_max: 6, semantics }
}

#[test]
fn the_number_of_threads_never_shows() {
    let problems: Vec<StageProblem> = (0..4).map(|seed| random_problem(sizes(seed), seed)).collect();
    let all = |threads: usize| -> Vec<Found> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        pool.install(|| problems.iter().map(|p| search(p, 7, 40, 600).expect("it runs")).collect())
    };
    let one = all(1);
    assert_eq!(one, all(2));
    assert_eq!(one, all(8));
    for found in &one {
        assert!(found.curve.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 > w[1].1), "{:?}", found.curve);
        assert_eq!(found.scored, found.phases.iter().map(|p| p.scored).sum::<u64>());
    }
}

#[test]
fn text_is_read_back_the_same() {
    let mut sound = 0;
    for seed in 0..400 {
        let problem = random_problem(sizes(seed), seed);
        let schedule = random_schedule(&problem, &mut Rng::new(seed));
        let Ok(evaluation) = evaluate(&problem, &schedule) else { continue };
        sound += 1;
        let text = schedule.to_text(&problem);
        let read = Schedule::parse(&text, &problem).expect("written by us");
        assert_eq!(read, schedule.canonical(), "seed {seed}");
        assert_eq!(read.canonical(), read);
        assert_eq!(read.to_text(&problem), text);
        let again = evaluate(&problem, &read).expect("it ran before");
        assert_eq!(again.busy, evaluation.busy);
        assert_eq!((again.barrier, again.event), (evaluation.barrier, evaluation.event));
        assert!(lower_bound(&problem) <= again.makespan(problem.rules().semantics), "seed {seed}");
        let merged = read.merged(&problem);
        let after = evaluate(&problem, &merged).expect("merged runs").makespan(problem.rules().semantics);
        assert!(after <= again.makespan(problem.rules().semantics), "seed {seed}");
    }
    assert!(sound > 100, "{sound} schedules could run");
}

/// Where a processor runs one segment at a time, and nobody slows another, barriers only add waiting.
#[test]
fn events_are_no_later_than_barriers() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let times = |rng: &mut Rng, n: u64| (0..n).map(|_| 1 + rng.below(50)).collect::<Vec<_>>();
        let drafts: Vec<_> = (0..3)
            .map(|t| {
                let n = 3 + rng.below(6);
                let (cpu, gpu) = (times(&mut rng, n), times(&mut rng, n));
                tenant(&format!("t{t}"), &cpu, &gpu, rng.below(20), &[])
            })
            .collect();
        let problem = StageProblem::new(vec![processor("cpu"), processor("gpu")], &drafts, rules(3, 5)).expect("sound");
        let schedule = random_schedule(&problem, &mut rng);
        let evaluation = evaluate(&problem, &schedule).expect("everything runs everywhere");
        assert!(evaluation.event <= evaluation.barrier, "seed {seed}: {evaluation:?}");
        let busiest = evaluation.busy.iter().max().copied().unwrap_or_default();
        assert!(busiest <= evaluation.barrier, "seed {seed}: {evaluation:?}");
    }
}

/// Two that fill half of a processor each run beside each other on it.
#[test]
fn occupancy_shares_a_processor() {
    let mut drafts = [tenant("A", &[100], &[40], 0, &[]), tenant("B", &[100], &[30], 0, &[])];
    for draft in &mut drafts {
        draft.operators[0].cost[1].as_mut().expect("it runs there").occupancy_permille = 500;
    }
    let mut gpu = processor("gpu");
    gpu.chi_permille = vec![0, 100];
    let problem = StageProblem::new(vec![processor("cpu"), gpu], &drafts, rules(2, 1)).expect("sound");
    let found = single(&problem, 1).expect("it runs");
    let evaluation = evaluate(&problem, &found.schedule).expect("it runs");
    // The longer one, a tenth slower, and the barrier; by events each is a tenth slower.
    assert_eq!((evaluation.barrier, evaluation.event), (Nanos(46), Nanos(44)));
    assert_eq!(evaluation.busy, [Nanos(0), Nanos(35)]);
}

/// Tenants as the planner knows them: what is charged at a switch is what the judge of routes would copy, or more.
#[test]
fn problems_of_the_planner_are_tenants() {
    for seed in 0..20 {
        let problems = random_tenants(1 + seed % 3, 10, 1 + (seed % 3) as usize, seed);
        let sound = of(&problems, Rules { semantics: Semantics::Event, ..rules(5, 10) });
        let found = search(&sound, seed, 24, 600).expect("no bounds of memory");
        for (q, device) in sound.processors().iter().enumerate() {
            let single = single(&sound, q).expect("ten stages are enough for ten operators");
            assert!(found.makespan <= single.makespan, "seed {seed}: {}", device.name);
        }
        let blocks = block_level(&sound, seed, 24, 600).expect("no bounds of memory");
        let ends: Vec<BTreeSet<usize>> =
            sound.tenants().iter().map(|t| t.block_ends().iter().copied().collect()).collect();
        evaluate(&sound, &blocks.schedule).expect("blocks are schedules of the whole");
        for (t, problem) in problems.iter().enumerate() {
            let devices = found.schedule.placement(t);
            assert_eq!(devices.len(), problem.atoms.len());
            assert!((0..devices.len()).all(|a| problem.time(a, usize::from(devices[a])).is_some()));
            assert_eq!(ends[t].last(), Some(&problem.atoms.len()));
        }
    }
}

/// Alone on a path, without copies hidden: the model agrees with the timeline to the nanosecond.
#[test]
fn one_tenant_on_a_path_takes_what_the_timeline_says() {
    for seed in 0..100 {
        let shape = Shape { atoms: 8, path: true, pin_one_in: 0, ..Shape::default() };
        let problem = testing::random_problem_of(shape, seed);
        let sound = of(std::slice::from_ref(&problem), rules(0, 8));
        let schedule = random_schedule(&sound, &mut Rng::new(seed)).merged(&sound);
        let devices = schedule.placement(0);
        let segments = crate::segments::by_level(&problem, &devices);
        if segments.len() != schedule.stages() {
            continue;
        }
        let timeline = crate::timeline::score(&problem, &segments).expect("it runs");
        let evaluation = evaluate(&sound, &schedule).expect("it runs");
        assert_eq!(evaluation.barrier, timeline.makespan, "seed {seed}: {}", schedule.to_text(&sound));
    }
}

#[test]
fn schedules_that_are_none_are_refused() {
    let problem = golden::pair(3);
    let read = |text: &str| Schedule::parse(text, &problem).expect_err("wrong").to_string();
    let head = "tandem stages 1\n";
    for (text, error) in [
        ("", "line 1: expected \"tandem stages 1\", found nothing"),
        ("tandem stages 2\n", "line 1: expected \"tandem stages 1\", found \"tandem stages 2\""),
        ("A: gpu 4\n", "expected 2 tenants, found 1"),
        ("B: gpu 4\n", "line 2: expected tenant \"A\", found \"B\""),
        ("A: gpu 4\nB: gpu 4\nC: gpu 4\n", "line 4: a line for each of 2 tenants, and one more"),
        ("A: npu 4\nB: gpu 4\n", "line 2: there is no processor \"npu\""),
        ("A: gpu four\nB: gpu 4\n", "line 2: expected a position, found \"four\""),
        ("A: gpu\nB: gpu 4\n", "line 2: expected \"PROCESSOR END\" or -, found \"gpu\""),
        ("A: gpu 3 | cpu 2\nB: gpu 4\n", "line 2: the segment that ends at 2 begins at 3"),
        ("A: gpu 3 | cpu 4\nB: gpu 4\n", "tenant \"B\" has 1 segments, but there are 2 stages"),
        ("A: gpu 3\nB: gpu 4\n", "tenant \"A\": the last segment ends at 3, but there are 4 operators"),
        ("A: gpu 5\nB: gpu 4\n", "tenant \"A\": the last segment ends at 5, but there are 4 operators"),
        ("A: gpu 1 | gpu 2 | gpu 3 | gpu 4\nB: cpu 1 | cpu 2 | cpu 3 | cpu 4\n", "expected at most 3 stages, found 4"),
    ] {
        let text =
            if text.is_empty() || text.starts_with("tandem") { text.to_owned() } else { format!("{head}{text}") };
        assert_eq!(read(&text), error);
    }
    let segment = |end, processor| Segment { end, processor };
    let check = |rows: &[Vec<Segment>]| Schedule::new(rows).and_then(|s| s.check(&problem)).expect_err("wrong");
    let backwards = [vec![segment(3, 0), segment(2, 0), segment(4, 0)], vec![segment(4, 1); 3]];
    assert!(matches!(check(&backwards), ScheduleError::Backwards { stage: 1, begin: 3, end: 2, .. }));
    assert!(matches!(
        check(&[vec![segment(4, 2)], vec![segment(4, 1)]]),
        ScheduleError::Processor { processor: 2, .. }
    ));
    let ragged = [vec![segment(4, 0)], vec![segment(2, 1), segment(4, 1)]];
    assert!(matches!(check(&ragged), ScheduleError::Ragged { expected: 1, found: 2, .. }));
}

#[test]
fn guards_hold() {
    let mut a = tenant("A", &[40, 30, 60, 20], &[10, 20, 15, 10], 5, &[]);
    a.operators[1].cost[1] = None;
    a.operators.iter_mut().for_each(|o| o.weights = Bytes(10));
    let mut gpu = processor("gpu");
    gpu.memory = Bytes(25);
    let both = vec![processor("cpu"), gpu];
    let problem = StageProblem::new(both.clone(), &[a.clone()], rules(0, 4)).expect("sound");
    let text = |text: &str| Schedule::parse(&format!("tandem stages 1\n{text}\n"), &problem);
    let refused = |t: &str| text(t).expect_err("it cannot run").to_string();
    assert_eq!(refused("A: gpu 4"), "tenant \"A\", stage 0: operator 1 cannot run on \"gpu\"");
    let memory = "\"gpu\" would hold 30 B (weights, and live values of each tenant on it), and has 25 B";
    assert_eq!(refused("A: gpu 1 | cpu 2 | gpu 4"), memory);
    let found = search(&problem, 1, 32, 500).expect("the host runs everything");
    assert_eq!(found.makespan, Nanos(10 + 5 + 30 + 5 + 15 + 5 + 20));
    let tight: Vec<_> = both.iter().map(|p| crate::stages::Processor { memory: Bytes(5), ..p.clone() }).collect();
    let nowhere = StageProblem::new(tight, &[a.clone()], rules(0, 4)).expect("sound");
    assert!(matches!(search(&nowhere, 1, 8, 100), Err(StageError::NothingFits { .. })));
    let scattered = StageProblem::new(vec![processor("x"), processor("y")], &[only_in_turn()], rules(0, 3));
    let error = scattered.expect_err("four segments in three stages").to_string();
    assert_eq!(error, "tenant \"T\" must switch so often that it needs 4 stages, and there are 3");
}

/// Operators that run on one of two processors in turn.
fn only_in_turn() -> crate::stages::TenantDraft {
    let mut draft = tenant("T", &[1; 4], &[1; 4], 0, &[]);
    draft.operators.iter_mut().enumerate().for_each(|(i, o)| o.cost[i % 2] = None);
    draft
}

#[test]
fn problems_that_are_none_are_refused() {
    let (both, a) = (vec![processor("cpu"), processor("gpu")], tenant("A", &[1, 2], &[3, 4], 5, &[]));
    let error = |draft| StageProblem::new(both.clone(), &[draft], rules(0, 2)).expect_err("wrong").to_string();
    let mut nowhere = a.clone();
    nowhere.operators[1].cost = vec![None, None];
    assert_eq!(error(nowhere), "tenant \"A\", operator 1: it can run on no processor");
    let mut short = a.clone();
    short.crossing.pop();
    assert_eq!(error(short), "tenant \"A\": expected 12 entries of the crossing table, found 11");
    let odd = crate::stages::TenantDraft { name: "a b".into(), ..a.clone() };
    assert_eq!(error(odd), "name \"a b\": expected a name of its own without blanks, \":\" and \"|\"");
    let blocks = crate::stages::TenantDraft { block_ends: vec![1], ..a.clone() };
    assert_eq!(error(blocks), "tenant \"A\": blocks end at ascending positions, the last after its 2 operators");
    let mut full = a.clone();
    full.operators[0].cost[0].as_mut().expect("it runs there").occupancy_permille = 0;
    assert_eq!(error(full), "tenant \"A\", operator 0: occupancy 0 per mille: expected 1 to 1000");
    let mut long = a.clone();
    long.operators[0].cost[0].as_mut().expect("it runs there").time = Nanos(u64::MAX);
    assert!(error(long).contains("of more than"));
    let stages = StageProblem::new(both.clone(), std::slice::from_ref(&a), rules(0, 0)).expect_err("no stages");
    assert_eq!(stages, StageError::Stages { max: 64, found: 0 });
    let problems = [testing::random_problem(1), random_tenants(1, 4, 3, 9).remove(0)];
    let named = |i: usize| TenantProblem { name: ["one", "two"][i], problem: &problems[i] };
    let other = StageProblem::of(&[named(0), named(1)], rules(0, 9));
    let same = problems[0].devices.len() == problems[1].devices.len();
    assert_eq!(other.is_err(), !same);
    let large = StageProblem::new(both, &[tenant("L", &[1; 60], &[1; 60], 1, &[])], rules(0, 9)).expect("sound");
    assert!(matches!(crate::stages::exhaustive(&large), Err(StageError::Large { .. })));
}
