//! How tenants share lanes: by urgency at the boundaries of segments, and none at the cost of the others.

use tandem_core::limits::DUE_DEFAULT;
use tandem_core::scheduler::Served;
use tandem_ir::plan::{Policy, Route};
use tandem_ir::{Nanos, Time};

use crate::stage::{Stage, Tenant, at, at_once, ms, route, setup};

fn latency(served: Served) -> Nanos {
    served.queued + served.executed
}

/// Latencies of requests, ascending; the greatest for those that were refused.
fn latencies(stage: &Stage, requests: &[u32]) -> Vec<Nanos> {
    let of = |r: &u32| if stage.refused.contains_key(r) { Nanos(u64::MAX) } else { latency(stage.served(*r)) };
    let mut all: Vec<Nanos> = requests.iter().map(of).collect();
    all.sort_unstable();
    all
}

#[test]
fn the_more_urgent_tenant_goes_first_at_the_next_boundary() {
    let long = route("long", 1, &[("gpu0", 5); 4]);
    let urgent = route("urgent", 1, &[("gpu0", 5), ("gpu0", 5)]);
    let tenants = vec![
        Tenant::new("long", at_once(), vec![long]).slo(10_000),
        Tenant::new("urgent", at_once(), vec![urgent]).slo(30),
    ];
    let mut stage = Stage::new(&setup(1, tenants));
    stage.arrive(0);
    stage.until(at(7)).arrive(1);
    stage.finish();
    let order: Vec<(&str, u64)> =
        stage.on("gpu0").iter().map(|r| (r.tenant.as_str(), (r.start - Time::ZERO).0 / 1_000_000)).collect();
    // Never in the middle of a segment.
    assert_eq!(order, [("long", 0), ("long", 5), ("urgent", 10), ("urgent", 15), ("long", 20), ("long", 25)]);
}

#[test]
fn an_urgent_request_does_not_wait_behind_batches_that_have_not_begun() {
    let long = route("long", 1, &[("cpu>gpu0", 1), ("gpu0", 20)]);
    let urgent = route("urgent", 1, &[("cpu>gpu0", 1), ("gpu0", 5)]);
    for policy in [Policy::AdtFlow, at_once()] {
        let tenants = vec![
            Tenant::new("long", policy.clone(), vec![long.clone()]).slo(10_000),
            Tenant::new("urgent", policy, vec![urgent.clone()]).slo(50),
        ];
        let mut stage = Stage::new(&setup(1, tenants));
        // One computes, the next is uploaded.
        stage.arrive_many(0, 2);
        stage.until(at(10)).arrive(0);
        let request = stage.arrive(1);
        stage.finish();
        assert_eq!(stage.reply(request).0, at(26));
    }
}

/// An overloaded tenant, 2,000 requests a second of a model that carries some 850, for ten seconds; beside it, once that
/// has been going on for a second, another one with a request every 40 ms. The numbers of the latter's requests.
fn beside_overload(overloaded: Tenant, other: Tenant) -> (Stage, Vec<u32>) {
    let mut stage = Stage::new(&setup(1, vec![overloaded, other]));
    let mut others = vec![];
    for n in 0..20_000 {
        stage.until(Time(n * 500_000)).arrive(0);
        if n > 2_000 && n % 80 == 7 {
            others.push(stage.arrive(1));
        }
    }
    stage.finish();
    (stage, others)
}

/// 6 ms and 1 ms an item.
fn heavy(name: &str, policy: Policy) -> Tenant {
    let of = |batch: u64| {
        let route = route(name, batch, &[("cpu>gpu0", 1), ("gpu0", 6 + batch), ("gpu0>cpu", 1)]);
        Route { share_permille: if batch == 16 { 1000 } else { 0 }, ..route }
    };
    Tenant::new(name, policy, [1, 2, 4, 8, 16].map(of).to_vec())
}

#[test]
fn a_tenant_under_overload_does_not_break_the_objective_of_another() {
    for policy in [Policy::AdtFlow, Policy::AdtSerial, at_once()] {
        for slo in [None, Some(60), Some(1_000)] {
            let overloaded = Tenant { ..heavy("a", policy.clone()) };
            let overloaded = slo.into_iter().fold(overloaded, Tenant::slo);
            let (stage, others) = beside_overload(overloaded, heavy("b", Policy::AdtFlow).slo(60));
            // Two batches of the other's, one that runs and one that came just before, and its own take 53 ms.
            let all = latencies(&stage, &others);
            let within = all.iter().filter(|l| **l <= ms(60)).count();
            assert!(within * 100 >= all.len() * 99, "{policy:?} {slo:?}: {within} of {}, {:?}", all.len(), all.last());
            // And what is left of the lane is the overloaded tenant's.
            let busy: Nanos = stage.on("gpu0").iter().map(|r| r.end - r.start).sum();
            assert!(busy >= ms(9_700), "{policy:?} {slo:?}: {busy}");
        }
    }
}

#[test]
fn a_tenant_without_objective_is_not_starved_by_one_under_overload() {
    for policy in [Policy::AdtFlow, at_once()] {
        let (stage, others) =
            beside_overload(heavy("a", policy.clone()).slo(60), heavy("b", Policy::AdtFlow).queue_max(1_000));
        let all = latencies(&stage, &others);
        let most = all[all.len() - 1];
        assert!(most <= DUE_DEFAULT + ms(100), "{policy:?}: {most}");
    }
}

#[test]
fn tenants_that_are_both_overloaded_get_equal_parts_of_the_lane() {
    for (first, second) in [(Policy::AdtFlow, Policy::AdtFlow), (at_once(), Policy::AdtFlow), (at_once(), at_once())] {
        let tenants = vec![heavy("a", first).slo(60), heavy("b", second).slo(400)];
        let mut stage = Stage::new(&setup(1, tenants));
        for n in 0..10_000 {
            stage.until(at(n)).arrive(0);
            stage.arrive(1);
        }
        let busy = |name: &str| -> Nanos {
            stage.on("gpu0").iter().filter(|r| r.tenant == name).map(|r| r.end - r.start).sum()
        };
        let (a, b) = (busy("a").0 as f64, busy("b").0 as f64);
        assert!((a / (a + b) - 0.5).abs() < 0.06, "{a} and {b}");
        stage.finish();
    }
}

#[test]
fn planned_rates_say_whose_the_lane_is() {
    // Planned for 500 a second and 50: the second one sends 1,000.
    let planned = |name: &str, rate: u64| {
        let mut tenant = heavy(name, Policy::AdtFlow).slo(100);
        tenant.spec.millirate = Some(rate * 1000);
        tenant
    };
    let mut stage = Stage::new(&setup(1, vec![planned("a", 500), planned("b", 50)]));
    let mut first = vec![];
    for n in 0..10_000 {
        stage.until(at(n)).arrive(1);
        if n % 2 == 0 {
            first.push(stage.arrive(0));
        }
    }
    stage.finish();
    let within = latencies(&stage, &first).into_iter().filter(|l| *l <= ms(100)).count();
    assert!(within >= 4_800, "{within} of 5000 within, {} refused", stage.refused.len());
}

/// How many of what ran on the cores ran at once, by tenant and in threads, at most.
fn at_once_on_cores(stage: &Stage, threads: impl Fn(&str) -> u32) -> (usize, u32) {
    let ran = stage.on("cpu");
    let moments = ran.iter().map(|r| r.start);
    let beside = |t: Time| ran.iter().filter(move |r| r.start <= t && t < r.end);
    let most = |of: &dyn Fn(Time) -> u32| moments.clone().map(of).max().unwrap_or(0);
    let steps = most(&|t| beside(t).filter(|r| r.tenant == "a").count() as u32);
    (steps as usize, most(&|t| beside(t).map(|r| threads(&r.tenant)).sum()))
}

fn on_cores(name: &str, lanes: u32, threads: u32, steps: &[u64]) -> Tenant {
    let steps: Vec<(&str, u64)> = steps.iter().map(|n| ("cpu", *n)).collect();
    Tenant::new(name, at_once(), vec![Route { lanes, threads, ..route(name, 1, &steps) }])
}

#[test]
fn a_tenant_has_no_more_steps_on_the_cores_than_its_plan_gives_it_lanes() {
    let mut stage = Stage::new(&setup(4, vec![on_cores("a", 2, 1, &[3, 2])]));
    stage.arrive_many(0, 50);
    stage.finish();
    assert_eq!(at_once_on_cores(&stage, |_| 1), (2, 2));
    assert_eq!(stage.reply(49).0, at(125));
    // Through two routes as well.
    let routes = [400, 600].map(|share| Route { lanes: 2, share_permille: share, ..route("a", 1, &[("cpu", 4)]) });
    let mut stage = Stage::new(&setup(4, vec![Tenant::new("a", at_once(), routes.to_vec())]));
    stage.arrive_many(0, 50);
    stage.finish();
    assert_eq!(at_once_on_cores(&stage, |_| 1), (2, 2));
}

#[test]
fn cores_are_not_promised_twice_and_wide_steps_are_not_starved_by_narrow_ones() {
    let threads = |name: &str| if name == "a" { 3 } else { 1 };
    let mut stage = Stage::new(&setup(4, vec![on_cores("a", 1, 3, &[5]), on_cores("b", 4, 1, &[4])]));
    // The narrow one, more than the cores carry.
    let mut wide = vec![];
    for n in 0..4_000 {
        stage.until(at(n)).arrive_many(1, 2);
        if n % 50 == 20 {
            wide.push(stage.arrive(0));
        }
    }
    stage.finish();
    assert_eq!(at_once_on_cores(&stage, threads), (1, 4));
    // While narrow ones end a core stays idle for it, and none that came later goes before.
    let all = latencies(&stage, &wide[60..]);
    assert!(all[all.len() - 1] <= ms(5 + 3 * 4), "{:?}", all.last());
}
