//! Several tenants on one machine: shares of the cores, one plan, whose fault an error is.

use std::collections::BTreeMap;

use tandem_ir::check::{check_plan, check_plan_against, has_errors};
use tandem_ir::plan::{Batching, Objective, Policy, Serving};
use tandem_ir::units::Nanos;
use tandem_ir::{Graph, Machine};

use crate::plan::{self, PlanInput, RebuildInput, TenantInput};
use crate::testing::{self, Shape};
use crate::{PlanError, shares};

/// A graph of so many operators.
fn graph(seed: u64, atoms: usize) -> Graph {
    let shape = Shape { atoms, bytes: 2_000_000, ..Shape::default() };
    testing::graph_of(&testing::random_problem_of(shape, seed))
}

/// Tenants `t0`, `t1`, ... of these graphs, each on its share.
fn input<'a>(graphs: &'a [Graph], machine: &'a Machine) -> PlanInput<'a> {
    let tenant = |(i, graph): (usize, &'a Graph)| TenantInput {
        batches: vec![1, 2],
        ..TenantInput::new(&format!("t{i}"), graph)
    };
    let tenants = graphs.iter().enumerate().map(tenant).collect();
    shared(PlanInput { budget: 60, tandem: "0.0.0".into(), ..PlanInput::new(machine, tenants) })
}

fn shared(mut input: PlanInput<'_>) -> PlanInput<'_> {
    let cores = shares::by_work(&input).expect("rates are described");
    input.tenants.iter_mut().zip(cores).for_each(|(tenant, cores)| tenant.cores = Some(cores));
    input
}

fn cores(input: &PlanInput<'_>) -> Vec<u32> {
    input.tenants.iter().filter_map(|t| t.cores).collect()
}

#[test]
fn several_tenants_are_one_sound_plan_within_their_cores() {
    for seed in 0..12 {
        let graphs: Vec<Graph> = (0..1 + seed % 4).map(|i| graph(seed * 8 + i, 4 + 5 * i as usize)).collect();
        let machine = testing::machine(8, seed % 3 != 0);
        let mut input = input(&graphs, &machine);
        input.objective = if seed % 2 == 0 { Objective::Latency } else { Objective::Throughput };
        input.serving = Serving { policy: Policy::AdtSerial, queue_max: Some(9) };
        let plan = plan::plan(&input).expect("feasible");
        assert_eq!(plan.authored.serving, input.serving);
        let named: Vec<(&str, &Graph)> = input.tenants.iter().map(|t| (t.name.as_str(), t.graph)).collect();
        let mut findings = check_plan(&plan, "p.yaml");
        findings.extend(check_plan_against(&plan, &named));
        assert!(!has_errors(&findings), "seed {seed}: {findings:#?}");
        assert!(!findings.iter().any(|f| f.message.contains("threads of")), "seed {seed}: {findings:#?}");
        assert_eq!(cores(&input).iter().sum::<u32>(), 8);
        let own: BTreeMap<&str, u32> = input.tenants.iter().map(|t| t.name.as_str()).zip(cores(&input)).collect();
        for route in &plan.derived.routes {
            assert!(route.lanes * route.threads <= own[route.tenant.as_str()], "seed {seed}: {}", route.tenant);
        }
        for tenant in plan.authored.tenants() {
            assert!(shares::of_routes(&tenant.routes, &machine) <= own[tenant.name.as_str()]);
        }
        let graphs: Vec<&Graph> = graphs.iter().collect();
        let rebuild = RebuildInput {
            graphs: &graphs,
            machine: &machine,
            profile: None,
            profile_fingerprint: input.profile_fingerprint,
            tandem: "0.0.0",
            reports: &plan.derived.reports,
            bound_ppm: plan.derived.together.as_ref().and_then(|t| t.bound_ppm),
        };
        assert_eq!(plan::rebuild(&plan.authored, &rebuild).as_ref(), Ok(&plan.derived), "seed {seed}");
        let text = tandem_ir::format::plan::to_yaml(&plan);
        assert_eq!(tandem_ir::format::plan::from_yaml(&text, "p").as_ref(), Ok(&plan), "seed {seed}");
    }
}

/// A tenant planned among others on all cores is planned as it is alone.
#[test]
fn tenants_do_not_see_each_other() {
    let (graphs, machine) = ([graph(1, 12), graph(2, 20)], testing::machine(4, true));
    let mut input = input(&graphs, &machine);
    input.tenants.iter_mut().for_each(|t| t.cores = Some(4));
    let both = plan::plan(&input).expect("feasible");
    for (i, tenant) in input.tenants.iter().enumerate() {
        let alone = plan::plan(&PlanInput { tenants: vec![tenant.clone()], ..input.clone() }).expect("feasible");
        assert_eq!(alone.authored.applications[0], both.authored.applications[i]);
        let mine = both.derived.routes.iter().filter(|r| r.tenant == tenant.name);
        assert!(mine.eq(&alone.derived.routes), "{}", tenant.name);
    }
}

#[test]
fn shares_go_with_rates_and_work() {
    let graphs = vec![graph(7, 10); 2];
    let machine = testing::machine(8, false);
    let with = |rates: [Option<u64>; 2]| {
        let mut input = input(&graphs, &machine);
        input.tenants.iter_mut().zip(rates).for_each(|(t, rate)| t.millirate = rate);
        cores(&shared(input))
    };
    assert_eq!(with([None, None]), [4, 4]);
    assert_eq!(with([Some(7_000), Some(1_000)]), [7, 1]);
    assert_eq!(with([Some(9_000), None]), [4, 4], "who names no rate wants what the others want");
    let graphs = [graph(7, 10), graph(7, 30)];
    let split = cores(&input(&graphs, &machine));
    assert!(split[1] > split[0], "more operators, more work: {split:?}");
    // A refused batch leaves batch 1, at which the work is measured.
    let mut refused = input(&graphs, &machine);
    refused.tenants[0].batching = Batching::Refused("for the test".into());
    assert_eq!(cores(&shared(refused)).iter().sum::<u32>(), 8);
}

#[test]
fn more_tenants_than_cores_share_them_by_lanes_of_one_thread() {
    let graphs: Vec<Graph> = (0..3).map(|seed| graph(seed, 6)).collect();
    let machine = testing::machine(2, false);
    let plan = plan::plan(&input(&graphs, &machine)).expect("feasible");
    assert!(plan.derived.routes.iter().all(|r| (r.lanes, r.threads) == (1, 1)));
    let findings = check_plan(&plan, "p.yaml");
    assert!(!findings.iter().any(|f| f.message.contains("threads of")), "they take turns: {findings:#?}");
}

#[test]
fn errors_say_whose_they_are() {
    let (graphs, machine) = ([graph(1, 8), graph(2, 8)], testing::machine(4, true));
    let mut input = input(&graphs, &machine);
    input.tenants[1].slo = Some(Nanos(1));
    let error = plan::plan(&input).expect_err("nothing takes a nanosecond");
    assert!(error.is_infeasible() && error.to_string().starts_with("tenant \"t1\": no route meets 1 ns"), "{error}");
    input.tenants[1] = TenantInput { batches: vec![0], ..input.tenants[1].clone() };
    let error = plan::plan(&input).expect_err("no such batch");
    assert!(!error.is_infeasible() && error.to_string().starts_with("tenant \"t1\": batch 0: expected"), "{error}");
    assert_eq!(shares::by_work(&input).expect_err("no such batch"), error);
    let bare = Machine { devices: vec![], links: vec![], ..machine.clone() };
    let nowhere = PlanInput::new(&bare, vec![]);
    assert_eq!(plan::plan(&nowhere).expect_err("no devices"), PlanError::NoDevices);
    assert_eq!(shares::by_work(&nowhere).expect_err("no devices"), PlanError::NoDevices);
}

/// All tenants at once: the plan is sound, stays within the bound, and carries no less than the best single processors do.
#[test]
fn tenants_are_planned_together() {
    for seed in 0..10 {
        let graphs: Vec<Graph> = (0..2 + seed % 3).map(|i| graph(seed * 8 + i, 4 + 5 * i as usize)).collect();
        let machine = testing::machine(8, seed % 3 != 0);
        let tenant = |(i, graph)| TenantInput { batches: vec![1, 2, 4], ..TenantInput::new(&format!("t{i}"), graph) };
        let tenants: Vec<TenantInput<'_>> = graphs.iter().enumerate().map(tenant).collect();
        let input = PlanInput { tandem: "0.0.0".into(), ..PlanInput::new(&machine, tenants) };
        let plan = plan::plan(&input).expect("feasible");
        let named: Vec<(&str, &Graph)> = input.tenants.iter().map(|t| (t.name.as_str(), t.graph)).collect();
        let mut findings = check_plan(&plan, "p.yaml");
        findings.extend(check_plan_against(&plan, &named));
        assert!(!has_errors(&findings), "seed {seed}: {findings:#?}");
        for tenant in plan.authored.tenants() {
            assert_eq!(tenant.routes.iter().map(|r| r.share_permille).sum::<u64>(), 1000, "seed {seed}");
        }
        let together = plan.derived.together.clone().expect("there are several");
        let bound = together.bound_ppm.expect("it was searched");
        assert!(together.carried_ppm <= bound, "seed {seed}: {together:?}");
        println!("seed {seed}: gap {} ppm", together.gap_ppm().expect("there is a bound"));
        let refs: Vec<&Graph> = graphs.iter().collect();
        let rebuild = RebuildInput {
            graphs: &refs,
            machine: &machine,
            profile: None,
            profile_fingerprint: input.profile_fingerprint,
            tandem: "0.0.0",
            reports: &plan.derived.reports,
            bound_ppm: together.bound_ppm,
        };
        assert_eq!(plan::rebuild(&plan.authored, &rebuild).as_ref(), Ok(&plan.derived), "seed {seed}");
        let text = tandem_ir::format::plan::to_yaml(&plan);
        assert_eq!(tandem_ir::format::plan::from_yaml(&text, "p").as_ref(), Ok(&plan), "seed {seed}");
        // Twice what is carried is refused, with the half of it as the nearest; a little less is not.
        for (part, is_fine) in [(1900, false), (450, true)] {
            let mut asked = input.clone();
            let rate = u64::try_from(u128::from(together.carried_ppm) * part / 1_000_000).expect("small").max(1);
            asked.tenants.iter_mut().for_each(|t| t.millirate = Some(rate));
            match plan::plan(&asked) {
                Err(PlanError::Overloaded(over)) => assert!(!is_fine && !over.binds.is_empty(), "seed {seed}: {over}"),
                planned => assert!(is_fine && planned.is_ok(), "seed {seed}"),
            }
        }
    }
}
