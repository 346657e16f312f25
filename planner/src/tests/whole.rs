//! From a graph to a plan and back: checks, rebuilding, determinism, infeasible wishes.

use tandem_ir::check::{check_plan, check_plan_against, has_errors};
use tandem_ir::plan::{NodePattern, Objective, Part};
use tandem_ir::units::{Bytes, Nanos};
use tandem_ir::{Graph, Machine, Plan};

use crate::PlanError;
use crate::build::LaneConfig;
use crate::plan::{self, PlanInput, RebuildInput};
use crate::testing::{self, Rng, Shape};

fn graph(seed: u64, atoms: usize) -> Graph {
    let shape = Shape { atoms, bytes: 2_000_000, ..Shape::default() };
    testing::graph_of(&testing::random_problem_of(shape, seed))
}

/// Operators that run on neither, one or both, by the seed: placements then have reasons.
fn machine(seed: u64) -> Machine {
    let mut machine = testing::machine(4, !seed.is_multiple_of(5));
    if let Some(gpu) = machine.devices.get_mut(1) {
        gpu.unsupported = if seed % 4 == 1 { vec!["test:Opaque1".into()] } else { vec![] };
    }
    machine
}

fn rebuilt(plan: &Plan, input: &PlanInput<'_>) -> Result<tandem_ir::plan::Derived, PlanError> {
    let input = RebuildInput {
        graphs: &[input.tenants[0].graph],
        machine: input.machine,
        profile: input.profile,
        profile_fingerprint: input.profile_fingerprint,
        tandem: &input.tandem,
        reports: &plan.derived.reports,
        bound_ppm: plan.derived.together.as_ref().and_then(|t| t.bound_ppm),
    };
    plan::rebuild(&plan.authored, &input)
}

#[test]
fn plans_are_sound_and_are_rebuilt_from_their_authored_part_alone() {
    let searches = ["auto", "cut", "chain", "block-level", "model-level", "greedy", "heft", "cpu-only", "random:5"];
    for seed in 0..45 {
        let (graph, machine) = (graph(seed, 1 + seed as usize), machine(seed));
        let mut input = testing::input(&graph, &machine);
        input.tenants[0].batches = vec![4, 1];
        input.search = searches[seed as usize % searches.len()].parse().expect("a method");
        input.budget = 100;
        input.objective = if seed % 2 == 0 { Objective::Latency } else { Objective::Throughput };
        let plan = plan::plan(&input).expect("feasible");
        let mut findings = check_plan(&plan, "p.yaml");
        findings.extend(check_plan_against(&plan, &[("made-up", &graph)]));
        assert!(!has_errors(&findings), "seed {seed}: {findings:#?}");
        assert_eq!(rebuilt(&plan, &input).as_ref(), Ok(&plan.derived), "seed {seed}");
        let text = tandem_ir::format::plan::to_yaml(&plan);
        assert_eq!(tandem_ir::format::plan::from_yaml(&text, "p").as_ref(), Ok(&plan), "seed {seed}");
        assert_eq!(plan.derived.routes.iter().map(|r| r.share_permille).sum::<u64>(), 1000);
        if input.objective == Objective::Latency {
            assert!(plan.derived.routes.iter().all(|r| r.prediction.lower_bound <= r.prediction.makespan));
        }
    }
}

#[test]
fn the_number_of_threads_never_shows() {
    for seed in 0..6 {
        let (graph, machine) = (graph(seed, 30), machine(seed));
        let mut input = testing::input(&graph, &machine);
        (input.tenants[0].batches, input.budget) = (vec![1, 2], 200);
        input.objective = if seed % 2 == 0 { Objective::Latency } else { Objective::Throughput };
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
            pool.install(|| tandem_ir::format::plan::to_yaml(&plan::plan(&input).expect("feasible")))
        };
        assert_eq!(with(1), with(4), "seed {seed}");
    }
}

#[test]
fn the_nearest_slo_is_feasible_and_a_nanosecond_less_is_not() {
    for seed in 0..16 {
        let (graph, machine) = (graph(seed, 12), machine(seed));
        let mut input = testing::input(&graph, &machine);
        (input.tenants[0].batches, input.budget) = (vec![1, 2], 150);
        input.objective = if seed % 2 == 0 { Objective::Latency } else { Objective::Throughput };
        input.tenants[0].slo = Some(Nanos(1));
        let nearest = |input: &PlanInput<'_>| match plan::plan(input) {
            Err(PlanError::Infeasible(why)) => Some((why.nearest_slo.expect("memory does not lack"), why.best_batch)),
            Err(other) => panic!("seed {seed}: {other}"),
            Ok(_) => None,
        };
        let (slo, batch) = nearest(&input).expect("nothing takes a nanosecond");
        input.tenants[0].slo = Some(slo);
        let plan = plan::plan(&input).expect("the nearest SLO can be met");
        let served = plan.derived.routes.iter().find(|r| r.prediction.latency_bound == slo);
        assert_eq!(served.map(|r| r.batch), batch, "seed {seed}");
        input.tenants[0].slo = Some(Nanos(slo.0 - 1));
        assert_eq!(nearest(&input), Some((slo, batch)), "seed {seed}");
    }
}

#[test]
fn names_change_nothing_but_names() {
    for seed in 0..10 {
        let problem = testing::random_problem_of(Shape { atoms: 20, bytes: 500_000, ..Shape::default() }, seed);
        let (graph, machine) = (testing::graph_of(&problem), machine(seed));
        let mut other = graph.clone();
        other.tensors.iter_mut().for_each(|t| t.name = format!("renamed {}", t.name));
        let numbers = |graph: &Graph| {
            let mut input = testing::input(graph, &machine);
            input.budget = 100;
            let plan = plan::plan(&input).expect("feasible");
            let steps = |r: &tandem_ir::Route| r.steps.clone();
            plan.derived.routes.iter().map(|r| (steps(r), r.prediction.clone(), r.memory.clone())).collect::<Vec<_>>()
        };
        assert_eq!(numbers(&graph), numbers(&other), "seed {seed}");
    }
}

#[test]
fn a_hand_edited_placement_is_derived_and_a_wrong_one_refused() {
    let (graph, machine) = (graph(3, 12), testing::machine(4, true));
    let input = testing::input(&graph, &machine);
    let mut plan = plan::plan(&input).expect("feasible");
    let mut rng = Rng::new(1);
    let name = |n: usize| graph.node_name(tandem_ir::NodeId(n as u32));
    for _ in 0..40 {
        let (a, b) = (rng.below(12) as usize, rng.below(12) as usize);
        let range = NodePattern::Range(name(a.min(b)), name(a.max(b)));
        plan.authored.applications[0].tenants[0].routes[0].parts = vec![
            Part { device: "gpu0".into(), nodes: vec![range] },
            Part { device: "cpu".into(), nodes: vec![NodePattern::Rest] },
        ];
        plan.derived = rebuilt(&plan, &input).expect("every placement of these can run");
        let mut findings = check_plan(&plan, "p.yaml");
        findings.extend(check_plan_against(&plan, &[("made-up", &graph)]));
        assert!(!has_errors(&findings), "{findings:#?}");
    }
    let refused = |parts: Vec<Part>| {
        let mut other = plan.clone();
        other.authored.applications[0].tenants[0].routes[0].parts = parts;
        rebuilt(&other, &input).expect_err("refused").to_string()
    };
    let part = |device: &str, nodes| Part { device: device.into(), nodes };
    assert!(refused(vec![part("cpu", vec![NodePattern::One("nobody".into())])]).contains("nobody"));
    assert!(refused(vec![part("cpu", vec![NodePattern::One(name(0))])]).contains("no part names node"));
    assert!(refused(vec![part("npu", vec![NodePattern::Rest])]).contains("npu"));
}

#[test]
fn pins_hold_and_memory_binds() {
    let (graph, mut machine) = (graph(8, 20), testing::machine(4, true));
    let name = |n: u32| graph.node_name(tandem_ir::NodeId(n));
    let pins = vec![Part { device: "gpu0".into(), nodes: vec![NodePattern::One(name(4)), NodePattern::One(name(9))] }];
    let mut input = testing::input(&graph, &machine);
    input.tenants[0].pins = pins.clone();
    let plan = plan::plan(&input).expect("feasible");
    let route = &plan.derived.routes[0];
    for pinned in [name(4), name(9)] {
        let at = route.segments.iter().find(|s| s.nodes.contains(&pinned)).map(|s| s.device);
        assert_eq!(at, Some(1), "{pinned}");
    }
    machine.devices.iter_mut().for_each(|d| d.memory = Bytes(1000));
    let input = testing::input(&graph, &machine);
    match plan::plan(&input) {
        Err(PlanError::Infeasible(why)) => assert!(why.bytes_over.is_some() && why.nearest_slo.is_none(), "{why}"),
        other => panic!("expected too little memory, found {other:?}"),
    }
}

#[test]
fn memory_counts_all_batches_in_flight_to_the_byte() {
    for seed in 0..20 {
        let (graph, mut machine) = (graph(seed, 12), testing::machine(4, false));
        let plan = |machine: &Machine| {
            let mut input = testing::input(&graph, machine);
            input.tenants[0].lanes = Some(LaneConfig { lanes: 1 + seed as u32 % 4, threads: 1 });
            plan::plan(&input)
        };
        let roomy = plan(&machine).expect("feasible").derived.routes.remove(0);
        let (needed, alone) = (roomy.memory_bytes(0), roomy.memory[0].peak());
        assert!(needed >= alone + roomy.memory[0].arena, "seed {seed}: two batches in flight at least");
        machine.devices[0].memory = needed;
        let exact = plan(&machine).expect("what is needed is there");
        assert_eq!(exact.derived.routes[0].memory, roomy.memory);
        assert!(!has_errors(&check_plan(&exact, "p.yaml")), "seed {seed}");
        machine.devices[0].memory = Bytes(needed.0 - 1);
        match plan(&machine) {
            Err(PlanError::Infeasible(why)) => {
                assert_eq!(why.bytes_over, Some(Bytes(1)), "seed {seed}");
                assert!(why.evidence[0].contains("cannot hold"), "seed {seed}: {why}");
            }
            other => panic!("seed {seed}: expected a byte too little, found {other:?}"),
        }
    }
}

#[test]
fn a_graph_without_operators_has_a_plan() {
    let mut builder = tandem_ir::GraphBuilder::new("through", 10, Default::default());
    builder.input("x", tandem_ir::Fact::default()).expect("a fresh name");
    builder.output("x");
    let graph = builder.finish(tandem_ir::Fingerprint::of(b"through")).expect("sound");
    let machine = testing::machine(2, true);
    let plan = plan::plan(&testing::input(&graph, &machine)).expect("feasible");
    assert_eq!(plan.derived.routes[0].prediction.makespan, Nanos::ZERO);
    assert!(!has_errors(&check_plan(&plan, "p.yaml")), "{:?}", check_plan(&plan, "p.yaml"));
}
