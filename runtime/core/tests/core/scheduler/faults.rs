//! What happens to requests when something goes wrong.

use tandem_core::limits::{HUNG_MIN, LOST_WAIT};
use tandem_core::scheduler::{Action, Arrival, Event, Outcome, Refusal};
use tandem_core::{Completion, DeviceError, Scheduler, Ticket};
use tandem_ir::plan::{Policy, Route};
use tandem_ir::{Nanos, Time};

use crate::stage::{Stage, Tenant, at, at_once, ms, route, setup};

fn offload(batch: u64, share: u64) -> Route {
    Route { share_permille: share, ..route("a", batch, &[("cpu>gpu0", 2), ("gpu0", 10), ("gpu0>cpu", 2)]) }
}

fn host(batch: u64, share: u64) -> Route {
    Route { share_permille: share, ..route("a", batch, &[("cpu", 30)]) }
}

fn stage_of(policy: Policy, routes: Vec<Route>) -> Stage {
    Stage::new(&setup(2, vec![Tenant::new("a", policy, routes)]))
}

/// Four wait for a batch of four.
fn four(policy: Policy) -> Stage {
    stage_of(policy, vec![offload(4, 1000), offload(1, 0)])
}

fn delayed(delay: u64) -> Policy {
    Policy::Fixed { preferred: vec![], queue_delay: ms(delay) }
}

#[test]
fn a_request_that_breaks_its_batch_breaks_itself_only() {
    let mut stage = four(delayed(50));
    stage.arrive_many(0, 4);
    stage.until(at(5)).fail("gpu0");
    stage.until(at(12));
    // Each alone, in their order; that of the second fails again.
    assert_eq!(stage.batches()[1..3], [vec![0], vec![1]]);
    stage.until(at(25)).fail("gpu0");
    stage.finish();
    assert_eq!(stage.batches(), [vec![0, 1, 2, 3], vec![0], vec![1], vec![2], vec![3]]);
    for request in [0, 2, 3] {
        assert_eq!(stage.served(request).batch_rows, 1);
    }
    assert!(matches!(stage.reply(1).1, Outcome::Failed(_)), "{:?}", stage.reply(1));
    let counters = stage.scheduler.stand(0).counters;
    assert_eq!((counters.done, counters.failed, counters.returned), (3, 1, 4));
}

#[test]
fn memory_that_runs_out_once_costs_nobody_a_reply() {
    let mut stage = four(delayed(50));
    stage.arrive_many(0, 4);
    stage.until(at(5)).run_out_of_memory("gpu0");
    stage.finish();
    (0..4).for_each(|r| assert_eq!(stage.served(r).batch_rows, 1));
}

#[test]
fn what_a_lost_device_had_goes_to_another_route_in_order() {
    let mut stage = stage_of(at_once(), vec![offload(4, 1000), host(4, 0)]);
    for n in 0..12 {
        stage.until(at(2 * n)).arrive(0);
    }
    // Some are answered, some compute, some are uploaded, some wait.
    stage.until(at(30)).lose(1);
    let answered = stage.replies.len();
    assert!((1..8).contains(&answered));
    stage.arrive(0);
    stage.finish();
    let order: Vec<u32> = stage.replies.iter().map(|(_, r, _)| *r).collect();
    assert_eq!(order, (0..13).collect::<Vec<_>>());
    assert!((0..13).all(|r| stage.served(r).ticket.route == u32::from(r as usize >= answered)));
    // It is back, and used again.
    stage.until(at(1_000)).bring_back(1);
    let request = stage.arrive(0);
    stage.finish();
    assert_eq!(stage.served(request).ticket.route, 0);
}

#[test]
fn ten_thousand_requests_and_a_lost_device_lose_and_repeat_none() {
    for policy in [Policy::AdtFlow, at_once()] {
        let mut stage = stage_of(policy, vec![offload(16, 1000), offload(4, 0), offload(1, 0), host(16, 0)]);
        for n in 0..10_000 {
            stage.until(Time(n * 1_100_000)).arrive(0);
            match n {
                5_000 => stage.lose(1),
                7_000 => stage.bring_back(1),
                _ => {}
            }
        }
        stage.finish();
        // The stage refuses a second reply.
        assert_eq!(stage.replies.len() + stage.refused.len(), 10_000);
        assert!(stage.refused.is_empty());
        assert!(stage.replies.iter().all(|(.., outcome)| matches!(outcome, Outcome::Done(_))));
        let counters = stage.scheduler.stand(0).counters;
        assert!(counters.returned > 0 && counters.done == 10_000, "{counters:?}");
    }
}

#[test]
fn who_does_not_need_a_device_does_not_notice_that_it_is_lost() {
    let host = route("b", 4, &[("cpu", 10)]);
    let both = vec![offload(4, 1000), Route { share_permille: 0, ..route("a", 4, &[("cpu", 30)]) }];
    let tenants = vec![Tenant::new("a", at_once(), both), Tenant::new("b", Policy::AdtFlow, vec![host]).slo(45)];
    let mut stage = Stage::new(&setup(2, tenants));
    let mut others = vec![];
    for n in 0..1_000 {
        stage.until(at(5 * n));
        stage.arrive(0);
        others.extend((n % 3 == 0).then(|| stage.arrive(1)));
        match n % 200 {
            50 => stage.lose(1),
            150 => stage.bring_back(1),
            _ => {}
        }
    }
    stage.finish();
    // Even where the first one's requests come to the same cores.
    for request in others {
        assert!(latency(&stage, request) <= ms(45), "{request}: {}", latency(&stage, request));
    }
    assert!(stage.replies.iter().all(|(.., outcome)| matches!(outcome, Outcome::Done(_))));
}

#[test]
fn without_another_route_requests_wait_for_the_device_and_no_longer_than_that_helps() {
    let mut stage = four(at_once());
    stage.arrive_many(0, 3);
    stage.until(at(5)).lose(1);
    let refused = stage.arrive(0);
    assert_eq!(stage.refused[&refused], Refusal::Unavailable);
    // Back in time.
    stage.until(at(5_000)).bring_back(1);
    stage.finish();
    (0..3).for_each(|r| _ = stage.served(r));
    // Not back in time.
    stage.until(at(20_000)).arrive_many(0, 3);
    stage.until(at(20_005)).lose(1);
    stage.finish();
    for request in 4..7 {
        assert_eq!(stage.reply(request), (at(20_005) + LOST_WAIT, &Outcome::Unavailable));
    }
}

#[test]
fn what_a_device_says_of_commands_before_it_came_back_is_left_out() {
    let mut stage = four(at_once());
    let request = stage.arrive(0);
    // It computes; nobody says that it does not any more, and the accelerator is back.
    let before = stage.until(at(5)).formed[0].ticket;
    stage.handle(Event::DeviceLost(1));
    stage.handle(Event::DeviceBack(1));
    let (device, why) = ("gpu0".to_owned(), "reset".to_owned());
    let result = Err(DeviceError::Lost { device, why });
    let late = Completion { ticket: Ticket { step: 1, ..before }, lane: 2, start: at(2), end: at(5), result };
    stage.handle(Event::Ended(late));
    assert!(stage.scheduler.is_whole());
    // Its end comes too, when the same request's next batch is on the lane.
    stage.finish();
    assert_eq!(stage.reply(request).0, at(24));
    assert_eq!(stage.formed.len(), 2);
}

#[test]
fn a_device_that_flaps_does_not_keep_a_request_for_ever() {
    let mut stage = four(at_once());
    stage.arrive(0);
    for _ in 0..3 {
        stage.until(stage.formed[stage.formed.len() - 1].at + ms(5)).lose(1);
        assert!(stage.replies.is_empty());
        stage.bring_back(1);
    }
    stage.until(stage.formed[stage.formed.len() - 1].at + ms(5)).lose(1);
    assert_eq!(stage.reply(0).1, &Outcome::Unavailable);
    stage.finish();
}

#[test]
fn a_step_over_its_bound_is_given_up_and_its_lane_left_alone_until_it_ends() {
    let mut stage = stage_of(at_once(), vec![offload(4, 1000), host(4, 0)]);
    stage.arrive_many(0, 3);
    stage.until(at(5)).hang("gpu0", ms(40_000));
    // Taken for hung so long after it began, and not before.
    let hung = at(2) + HUNG_MIN;
    stage.until(Time(hung.0 - 1));
    assert!(stage.replies.is_empty());
    stage.until(hung + ms(100));
    assert!((0..3).all(|r| stage.served(r).ticket.route == 1));
    let meanwhile = stage.arrive(0);
    stage.until(at(30_000));
    assert_eq!(stage.served(meanwhile).ticket.route, 1);
    // It ends after all, and the accelerator is used again.
    stage.until(at(41_000));
    let after = stage.arrive(0);
    stage.finish();
    assert_eq!(stage.served(after).ticket.route, 0);
}

#[test]
fn nobody_hears_of_a_batch_that_is_given_up_by_the_event_that_formed_it() {
    let setup = setup(1, vec![Tenant::new("a", at_once(), vec![offload(4, 1000)])]);
    let mut scheduler = Scheduler::new(&setup, Time::ZERO).expect("a sound setup");
    let mut told = |now, request| {
        scheduler.handle(now, Event::Arrive(Arrival { request, group: 0, rows: 1, timeout: None }));
        let actions: Vec<Action> = std::iter::from_fn(|| scheduler.poll_action()).collect();
        let formed = actions.iter().filter_map(|a| if let Action::Form(t) = a { Some(*t) } else { None });
        formed.for_each(|ticket| assert_eq!(scheduler.members(ticket).count(), 1));
        actions
    };
    assert!(matches!(told(Time::ZERO, 0)[..], [Action::Form(_), Action::Submit(_)]));
    // The upload is taken for hung when the second one, that it is time for by then, is just formed.
    let actions = told(Time::ZERO + HUNG_MIN, 1);
    assert!(actions.is_empty(), "{actions:?}");
    assert_eq!((scheduler.stand(0).waiting, scheduler.is_whole()), (2, false));
}

#[test]
fn without_another_route_a_hung_step_answers_its_requests_in_the_end() {
    let mut stage = four(at_once());
    stage.arrive_many(0, 3);
    stage.until(at(5)).hang("gpu0", Nanos(u64::MAX / 4));
    stage.until(at(2) + HUNG_MIN + LOST_WAIT);
    assert_eq!(stage.replies.len(), 3);
    let late = stage.arrive(0);
    assert_eq!(stage.refused[&late], Refusal::Unavailable);
}

/// Two cores; one is taken by a step that never ends.
fn hung_core(others: Vec<Tenant>) -> Stage {
    let hangs = Route { tenant: "hangs".into(), ..route("hangs", 1, &[("cpu", 10)]) };
    let mut tenants = vec![Tenant::new("hangs", at_once(), vec![hangs])];
    tenants.extend(others);
    let mut stage = Stage::new(&setup(2, tenants));
    stage.arrive(0);
    stage.hang("cpu", Nanos(u64::MAX / 4));
    stage
}

#[test]
fn a_hung_core_does_not_keep_waiting_who_needs_it() {
    let wide = Route { threads: 2, ..route("wide", 1, &[("cpu", 5)]) };
    let narrow = route("narrow", 1, &[("cpu", 5)]);
    let tenants = vec![Tenant::new("wide", at_once(), vec![wide]), Tenant::new("narrow", at_once(), vec![narrow])];
    let mut stage = hung_core(tenants);
    let wide = stage.until(at(1)).arrive(1);
    stage.until(Time::ZERO + HUNG_MIN + ms(10));
    let narrow = stage.arrive(2);
    stage.until(Time::ZERO + HUNG_MIN + LOST_WAIT + ms(20));
    assert_eq!(latency(&stage, narrow), ms(5));
    assert_eq!(stage.reply(wide).1, &Outcome::Unavailable);
}

fn latency(stage: &Stage, request: u32) -> Nanos {
    stage.served(request).queued + stage.served(request).executed
}

#[test]
fn a_hung_step_does_not_hold_its_tenant_s_lane() {
    let routes = vec![Route { share_permille: 0, ..route("a", 1, &[("cpu", 5)]) }, route("a", 4, &[("cpu", 10)])];
    let mut stage = stage_of(delayed(20), routes);
    stage.arrive_many(0, 4);
    stage.hang("cpu", Nanos(u64::MAX / 4));
    stage.until(Time::ZERO + HUNG_MIN + ms(100));
    // Their route hangs; the small one has the other core.
    assert!((0..4).all(|r| stage.served(r).ticket.route == 0));
}

#[test]
fn who_takes_a_request_back_is_answered_at_once_wherever_it_is() {
    let taken_back = |when: u64, others: u32| {
        let mut stage = four(delayed(5));
        stage.arrive_many(0, 1 + others);
        stage.until(at(when)).handle(Event::Cancel(0));
        assert_eq!(stage.reply(0), (at(when), &Outcome::Cancelled), "at {when}");
        stage.finish();
        (1..1 + others).for_each(|r| assert_eq!(stage.served(r).executed, ms(14)));
        stage.ran.len()
    };
    // Queued, uploading, computing, alone: what runs is waited for, and nothing more is submitted.
    assert_eq!([taken_back(3, 0), taken_back(6, 0), taken_back(10, 0)], [0, 1, 2]);
    // With others the batch goes on.
    assert_eq!([taken_back(3, 2), taken_back(6, 2), taken_back(10, 2)], [3, 3, 3]);
    // What is not there any more is nobody's.
    let mut stage = four(at_once());
    stage.arrive(0);
    stage.finish().handle(Event::Cancel(0));
    stage.handle(Event::Cancel(77));
    assert_eq!(stage.replies.len(), 1);
}

#[test]
fn who_waits_for_a_batch_that_is_taken_back_goes_at_once() {
    let tenant = |name| Tenant::new(name, at_once(), vec![route(name, 2, &[("gpu0", 10)])]);
    let mut stage = Stage::new(&setup(1, vec![tenant("a"), tenant("b")]));
    let first = stage.arrive(0);
    let other = stage.until(at(1)).arrive(1);
    stage.until(at(2)).handle(Event::Cancel(first));
    assert_eq!(stage.batches(), [vec![first], vec![other]]);
    // As soon as what runs has ended.
    stage.finish();
    assert_eq!(stage.reply(other).0, at(20));
}

#[test]
fn patience_ends_in_the_queue_and_not_in_a_batch() {
    let mut stage = four(at_once());
    // One computes, one is uploaded, two wait.
    for patience in [5, 5, 12, 5] {
        stage.arrive_with(0, 4, Some(ms(patience)));
    }
    stage.finish();
    assert_eq!(stage.reply(3), (at(5), &Outcome::Expired));
    // The third goes when the first is computed, at the moment its patience would end: what can be done is done first.
    assert_eq!([0, 1, 2].map(|r| matches!(stage.reply(r).1, Outcome::Done(_))), [true; 3]);
}
