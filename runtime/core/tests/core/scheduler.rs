//! What the scheduler decides, one rule a test: when a batch is closed, and which route takes it. Beside it: how lanes
//! are shared, and what happens when something goes wrong.

mod faults;
mod sharing;

use std::sync::Arc;

use tandem_core::Scheduler;
use tandem_core::scheduler::{Close, Event, Outcome, Refusal, Setup, SetupError};
use tandem_ir::plan::{Policy, Route};
use tandem_ir::{Nanos, Time};

use crate::stage::{MS, Stage, Tenant, at, at_once, ms, route, setup};

const POLICIES: [Policy; 3] = [Policy::AdtSerial, Policy::AdtSlide, Policy::AdtFlow];

fn fixed(preferred: &[u64], delay: u64) -> Policy {
    Policy::Fixed { preferred: preferred.to_vec(), queue_delay: ms(delay) }
}

/// Upload 1 ms, compute 4 ms and 2 ms an item, download 1 ms.
fn offload(batch: u64) -> Route {
    let route = route("a", batch, &[("cpu>gpu0", 1), ("gpu0", 4 + 2 * batch), ("gpu0>cpu", 1)]);
    Route { share_permille: if batch == 8 { 1000 } else { 0 }, ..route }
}

fn one(policy: Policy) -> Stage {
    let routes = [1, 2, 4, 8].map(offload).to_vec();
    Stage::new(&setup(1, vec![Tenant::new("a", policy, routes)]))
}

#[test]
fn a_lone_request_goes_at_once_whatever_the_policy() {
    for policy in POLICIES.into_iter().chain([at_once()]) {
        let mut stage = one(policy.clone());
        for n in 0..3 {
            stage.until(at(50 * n));
            let request = stage.arrive(0);
            assert_eq!(stage.formed.len(), n as usize + 1, "{policy:?}: it waits");
            stage.finish();
            let served = stage.served(request);
            assert_eq!((served.queued, served.executed), (Nanos::ZERO, ms(8)), "{policy:?}");
            assert_eq!(served.phases, [ms(1), ms(6), ms(1)], "{policy:?}");
        }
    }
}

#[test]
fn fixed_waits_for_a_preferred_size_and_no_longer_than_its_delay() {
    let mut stage = one(fixed(&[2, 4], 5));
    stage.arrive(0);
    assert!(stage.formed.is_empty());
    stage.until(at(2)).arrive(0);
    assert_eq!(stage.batches(), [vec![0, 1]]);
    stage.finish().until(at(50));
    // Alone, it waits for as long as it may.
    let lone = stage.arrive(0);
    stage.finish();
    assert_eq!(stage.served(lone).queued, ms(5));
    assert_eq!((stage.closed(0, Close::Full), stage.closed(0, Close::Delay)), (1, 1));
    // Without preferred sizes, for the largest.
    let mut stage = one(fixed(&[], 5));
    stage.arrive_many(0, 7);
    stage.until(at(5));
    assert_eq!(stage.formed[0].at, at(5));
    stage.finish().until(at(50)).arrive_many(0, 8);
    assert_eq!((stage.formed[1].at, stage.formed[1].rows), (at(50), 8));
}

/// A size that was waited for is one batch, whatever smaller routes have been seen to take.
#[test]
fn fixed_sizes_are_not_parted() {
    let steep = |batch, calc| route("a", batch, &[("gpu0", calc)]);
    let routes = vec![Route { share_permille: 0, ..steep(1, 1) }, steep(4, 100)];
    let mut stage = Stage::new(&setup(1, vec![Tenant::new("a", fixed(&[4], 1_000_000), routes)]));
    for n in 0..5 {
        stage.until(at(n * 1_000)).arrive_many(0, 4);
    }
    stage.finish();
    assert_eq!(stage.formed.iter().map(|f| f.rows).collect::<Vec<_>>(), [4; 5]);
}

#[test]
fn fixed_prepares_one_batch_ahead_and_lets_the_rest_grow() {
    let mut stage = one(at_once());
    stage.arrive(0);
    stage.until(at(2)).arrive(0);
    // One computes, one is uploaded: the next wait until there is room.
    stage.until(at(3)).arrive_many(0, 3);
    stage.until(at(6));
    assert_eq!(stage.batches(), [vec![0], vec![1]]);
    stage.until(at(7));
    assert_eq!(stage.batches()[2], [2, 3, 4]);
    stage.finish();
    // A host route has nothing to prepare: one batch at a time.
    let host = route("a", 8, &[("cpu", 5)]);
    let mut stage = Stage::new(&setup(1, vec![Tenant::new("a", at_once(), vec![host])]));
    stage.arrive(0);
    stage.arrive_many(0, 2);
    stage.until(at(4));
    assert_eq!(stage.formed.len(), 1);
    stage.finish();
    assert_eq!((stage.formed[1].at, stage.formed[1].rows), (at(5), 2));
}

#[test]
fn the_queue_is_bounded_and_the_next_is_refused() {
    let routes = [1, 2, 4, 8].map(offload).to_vec();
    let mut stage = Stage::new(&setup(1, vec![Tenant::new("a", at_once(), routes).queue_max(3)]));
    // One goes at once, one is prepared, three wait.
    let all = stage.arrive_many(0, 7);
    assert_eq!(stage.refused.keys().copied().collect::<Vec<_>>(), [5, 6]);
    assert!(stage.refused.values().all(|why| *why == Refusal::Full));
    assert_eq!(stage.scheduler.refusal(0, 1), Some(Refusal::Full));
    stage.finish();
    assert_eq!(stage.replies.len(), all.len() - 2);
    assert_eq!(stage.scheduler.refusal(0, 1), None);
}

#[test]
fn requests_of_several_items_stay_whole_and_in_order() {
    let mut stage = one(fixed(&[], 5));
    for rows in [3, 4, 2, 1] {
        stage.arrive_with(0, rows, None);
    }
    stage.finish();
    // 3 + 4 fit into 8, a further 2 do not.
    assert_eq!(stage.batches(), [vec![0, 1], vec![2, 3]]);
    assert_eq!((stage.served(1).row, stage.served(1).batch_rows), (3, 7));
    assert_eq!((stage.served(3).row, stage.served(3).batch_rows), (2, 3));
    for rows in [0, 9] {
        let refused = stage.arrive_with(0, rows, None);
        assert_eq!(stage.refused[&refused], Refusal::Rows);
    }
}

#[test]
fn a_batch_takes_the_smallest_route_that_holds_it_or_fills_a_smaller_one() {
    // Where an item costs little beside the batch, all go together; where it costs most of it, as many as fill a route.
    let fill = |fixed: u64, waiting: u32| {
        let share = |batch| if batch == 8 { 1000 } else { 0 };
        let of = |batch| Route { share_permille: share(batch), ..route("a", batch, &[("gpu0", fixed + 2 * batch)]) };
        let tenant = Tenant::new("a", Policy::AdtSerial, [1, 2, 4, 8].map(of).to_vec());
        let mut stage = Stage::new(&setup(1, vec![tenant]));
        stage.arrive(0);
        stage.arrive_many(0, waiting);
        stage.finish();
        (stage.formed[1].size, stage.formed[1].rows)
    };
    let together: Vec<(u64, u32)> = [1, 2, 3, 4, 5, 8].map(|n| fill(40, n)).to_vec();
    assert_eq!(together, [(1, 1), (2, 2), (4, 3), (4, 4), (8, 5), (8, 8)]);
    let filled: Vec<(u64, u32)> = [1, 2, 3, 4, 5, 7, 8].map(|n| fill(2, n)).to_vec();
    assert_eq!(filled, [(1, 1), (2, 2), (2, 2), (4, 4), (4, 4), (4, 4), (8, 8)]);
    // Requests that do not fill the smaller one are not torn apart.
    let small = Route { share_permille: 0, ..route("a", 4, &[("gpu0", 10)]) };
    let tenant = Tenant::new("a", fixed(&[], 5), vec![small, route("a", 8, &[("gpu0", 18)])]);
    let mut stage = Stage::new(&setup(1, vec![tenant]));
    stage.arrive_with(0, 5, None);
    stage.finish();
    assert_eq!((stage.formed[0].size, stage.formed[0].rows), (8, 5));
}

#[test]
fn a_batch_does_not_take_a_larger_route_because_its_own_has_no_buffers_left() {
    // Two batches of four take less than one of eight; and of those that share none each is one.
    let steep = |batch, calc| route("a", batch, &[("cpu>gpu0", 1), ("gpu0", calc), ("gpu0>cpu", 1)]);
    let routes = vec![Route { share_permille: 0, ..steep(4, 10) }, steep(8, 24)];
    let of = |policy, routes: &[Route]| Tenant::new("a", policy, routes.to_vec());
    let mut lone = of(at_once(), &[1, 2, 4, 8].map(offload));
    lone.spec.alone = true;
    // Where sizes are fixed, what waits for the largest is one.
    let tenants: [(Tenant, &[u64]); 3] =
        [(of(Policy::AdtFlow, &routes), &[4]), (of(fixed(&[4], 1), &routes), &[4, 8]), (lone, &[1])];
    for (tenant, expected) in tenants {
        let mut stage = Stage::new(&setup(1, vec![tenant]));
        for n in 0..500 {
            stage.until(at(n)).arrive(0);
        }
        stage.finish();
        assert!(
            stage.formed.iter().all(|f| expected.contains(&f.size)),
            "{:?}",
            stage.formed.iter().find(|f| !expected.contains(&f.size))
        );
        // And the accelerator never waits.
        let calc = stage.on("gpu0");
        assert!(calc.windows(2).all(|w| w[1].start == w[0].end) && calc.len() > 30, "{}", calc.len());
    }
}

#[test]
fn routes_with_shares_take_turns_and_those_without_stand_in_for_them() {
    let steps = |lane: &'static str| [(lane, 10)];
    let gpu = |batch, share| Route { share_permille: share, ..route("a", batch, &steps("gpu0")) };
    let host = |batch, share| Route { share_permille: share, ..route("a", batch, &steps("cpu")) };
    let routes = vec![gpu(4, 750), host(4, 250), gpu(1, 0), host(1, 0)];
    let mut stage = Stage::new(&setup(1, vec![Tenant::new("a", at_once(), routes)]));
    // Four at a time, always enough waiting.
    stage.arrive_many(0, 400);
    stage.finish();
    let routes: Vec<u32> = stage.formed.iter().map(|f| f.ticket.route).collect();
    let on_gpu = |part: &[u32]| part.iter().filter(|r| [0, 2].contains(*r)).count();
    for n in 4..routes.len() {
        let (expected, found) = (n as f64 * 0.75, on_gpu(&routes[..n]) as f64);
        assert!((expected - found).abs() <= 1.0, "after {n}: {found} on the accelerator");
    }
    // Lone requests take the small routes, in the same shares.
    let before = stage.formed.len();
    for n in 0..40 {
        stage.until(at(10_000 + 20 * n)).arrive(0);
    }
    stage.finish();
    let routes: Vec<u32> = stage.formed[before..].iter().map(|f| f.ticket.route).collect();
    assert!(routes.iter().all(|r| [2, 3].contains(r)), "{routes:?}");
    assert_eq!(on_gpu(&routes), 30);
}

#[test]
fn serial_takes_all_that_wait_when_the_batch_before_is_over() {
    let mut stage = one(Policy::AdtSerial);
    stage.arrive(0);
    stage.until(at(1)).arrive_many(0, 3);
    // Upload 1, compute 6, download 1.
    stage.until(at(7));
    assert_eq!(stage.formed.len(), 1);
    stage.finish();
    assert_eq!((stage.formed[1].at, stage.formed[1].rows), (at(8), 3));
}

#[test]
fn flow_closes_a_batch_so_that_its_upload_ends_as_the_compute_in_front_does() {
    let mut stage = one(Policy::AdtFlow);
    for n in 0..400 {
        stage.until(at(3 * n)).arrive(0);
    }
    stage.finish();
    let (up, calc) = (stage.on("cpu>gpu0"), stage.on("gpu0"));
    let mut hidden = 0;
    for n in 1..calc.len() {
        // The formula (2.9): end of the compute in front less this upload; never before it was formed.
        let due = Time(calc[n - 1].end.0 - MS);
        let found = up[n].start;
        let idle = found >= calc[n - 1].end;
        assert!(idle || found == due, "batch {n}: upload at {found:?}, due at {due:?}");
        assert!(idle || calc[n].start == calc[n - 1].end, "batch {n} computes late");
        hidden += usize::from(!idle);
    }
    assert!(hidden > 30 && hidden >= calc.len() - 3, "{hidden} of {}", calc.len());
}

#[test]
fn three_batches_are_on_their_way_at_once_on_three_lanes() {
    let steps = [("cpu>gpu0", 9), ("gpu0", 10), ("gpu0>cpu", 9)];
    let mut stage = Stage::new(&setup(1, vec![Tenant::new("a", at_once(), vec![route("a", 4, &steps)])]));
    stage.arrive_many(0, 400);
    stage.finish();
    let (up, calc, down) = (stage.on("cpu>gpu0"), stage.on("gpu0"), stage.on("gpu0>cpu"));
    for n in 2..calc.len() - 1 {
        assert!(up[n + 1].start < calc[n].end && up[n + 1].end > calc[n].start, "upload {} beside compute {n}", n + 1);
        assert!(down[n - 1].start < calc[n].end && down[n - 1].end > calc[n].start, "download beside compute {n}");
        // So that compute never waits.
        assert_eq!(calc[n].start, calc[n - 1].end, "compute {n}");
    }
    let rings: std::collections::BTreeSet<u32> = stage.formed.iter().map(|f| f.ticket.ring).collect();
    assert_eq!(rings.len(), 3);
}

#[test]
fn requests_that_would_be_late_are_refused_only_where_others_are_in_front() {
    let routes = [1, 2, 4, 8].map(offload).to_vec();
    let mut stage = Stage::new(&setup(1, vec![Tenant::new("a", Policy::AdtFlow, routes).slo(20)]));
    // Alone it takes 8 ms; together with all that wait more than 20.
    let all = stage.arrive_many(0, 40);
    assert!(stage.refused.len() > 20 && stage.refused.values().all(|why| *why == Refusal::Late));
    stage.finish();
    for request in all.filter(|r| !stage.refused.contains_key(r)).collect::<Vec<_>>() {
        let served = stage.served(request);
        assert!(served.queued + served.executed <= ms(20), "{request}: {served:?}");
    }
    // An objective that no request can meet refuses nobody who finds the tenant idle.
    let mut stage = Stage::new(&setup(1, vec![Tenant::new("a", Policy::AdtFlow, vec![offload(8)]).slo(2)]));
    for n in 0..5 {
        stage.until(at(100 * n)).arrive(0);
    }
    assert!(stage.refused.is_empty());
    stage.arrive(0);
    assert_eq!(stage.refused.len(), 1);
    stage.finish();
}

#[test]
fn a_route_that_the_plan_admits_is_used_at_its_batch() {
    // Four at once, 40 ms for eight items: within 52 ms, for while one computes the three others are filled too.
    for policy in [Policy::AdtFlow, Policy::AdtSerial] {
        let route = Route { lanes: 4, ..route("a", 8, &[("cpu", 40)]) };
        let mut stage = Stage::new(&setup(4, vec![Tenant::new("a", policy.clone(), vec![route]).slo(52)]));
        // Batches that do not begin together; then eight in 10 ms, which is as many as there is room for.
        for n in 0..3 {
            stage.until(at(10 * n)).arrive(0);
        }
        for n in 0..8_000 {
            stage.until(at(30) + Nanos(n * 1_250_000)).arrive(0);
        }
        stage.finish();
        let full = stage.formed.iter().filter(|f| f.rows == 8).count();
        assert!(stage.refused.is_empty() && full >= 990, "{policy:?}: {full}, {} refused", stage.refused.len());
    }
}

#[test]
fn an_objective_leaves_no_route_half_empty() {
    // 6 ms and 1 ms an item, twice, are 26 ms with seven: they take the route of eight, and eight as long.
    let of = |batch: u64| {
        let share_permille = if batch == 8 { 1000 } else { 0 };
        Route { share_permille, ..route("a", batch, &[("gpu0", 6 + batch)]) }
    };
    let mut stage = Stage::new(&setup(1, vec![Tenant::new("a", Policy::AdtFlow, [4, 8].map(of).to_vec()).slo(26)]));
    stage.arrive(0);
    stage.until(at(1)).arrive_many(0, 8);
    stage.finish();
    assert_eq!((stage.formed[1].size, stage.formed[1].rows), (8, 8));
    // And where it is shorter than any batch, the smallest route is filled all the same.
    let mut stage = Stage::new(&setup(1, vec![Tenant::new("a", Policy::AdtSerial, vec![of(8)]).slo(15)]));
    stage.arrive(0);
    stage.until(at(13)).arrive_many(0, 2);
    stage.finish();
    assert_eq!(stage.batches(), [vec![0], vec![1, 2]]);
}

#[test]
fn under_overload_what_is_let_in_meets_its_objective() {
    let routes = [1, 2, 4, 8].map(offload).to_vec();
    let mut stage = Stage::new(&setup(1, vec![Tenant::new("a", Policy::AdtFlow, routes).slo(60)]));
    // 8 in 20 ms are 400 a second; 1,000 come.
    for n in 0..5_000 {
        stage.until(at(n)).arrive(0);
    }
    stage.finish();
    let late = stage.replies.iter().filter(|(_, r, _)| stage.served(*r).queued + stage.served(*r).executed > ms(60));
    let (late, done) = (late.count(), stage.replies.len());
    assert!(late * 100 <= done && done >= 1_950, "{late} of {done} late");
}

#[test]
fn draining_lets_nobody_in_and_makes_nobody_wait() {
    let mut stage = one(fixed(&[], 1_000));
    let before = stage.arrive_many(0, 3);
    stage.until(at(1)).handle(Event::Drain);
    assert_eq!(stage.formed.len(), 1);
    let after = stage.arrive(0);
    assert_eq!(stage.refused[&after], Refusal::Draining);
    stage.finish();
    assert!(before.into_iter().all(|r| matches!(stage.reply(r).1, Outcome::Done(_))));
}

#[test]
fn a_model_without_operators_is_served() {
    let text = include_str!("../../../../plans/golden/tiny-bert.t4-8vcpu.yaml");
    let mut plan = tandem_ir::format::plan::from_yaml(text, "a golden plan").expect("a plan");
    plan.authored.serving.policy = Policy::AdtFlow;
    for route in &mut plan.derived.routes {
        (route.steps, route.segments, route.lane_names) = (vec![], vec![], vec![]);
    }
    let mut whole = Setup::of(&plan).expect("a setup");
    let mut stage = Stage::new(&whole);
    let requests = stage.arrive_many(0, 5);
    stage.finish();
    requests.for_each(|r| assert_eq!(stage.served(r).executed, Nanos::ZERO));
    // One that was made otherwise is refused rather than never answered.
    whole.routes = plan.derived.routes.into_iter().map(Arc::new).collect();
    assert!(matches!(Scheduler::new(&whole, Time::ZERO), Err(SetupError::NoSteps(_))));
}
