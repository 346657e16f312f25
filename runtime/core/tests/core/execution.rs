use std::sync::Arc;

use tandem_core::Execution;
use tandem_core::rng::Rng;
use tandem_ir::plan::{Action, Route};

use crate::routes;

fn execution(route: Route) -> Execution {
    Execution::new(Arc::new(route)).unwrap()
}

fn polled(execution: &mut Execution) -> Vec<usize> {
    std::iter::from_fn(|| execution.poll_step()).collect()
}

#[test]
fn a_lane_is_submitted_ahead_and_another_lane_waits() {
    let mut e = execution(routes::timed(2, &[(0, 1, &[]), (0, 1, &[0]), (1, 1, &[0]), (0, 1, &[2]), (1, 1, &[])]));
    assert_eq!(polled(&mut e), [0, 1], "2 waits for 0, and holds up 4 on its lane; 3 waits for 2");
    assert_eq!(e.outstanding(), 2);
    e.done(0);
    assert_eq!(polled(&mut e), [2, 4]);
    e.done(1);
    assert_eq!(e.poll_step(), None);
    e.done(2);
    assert_eq!(polled(&mut e), [3]);
    assert!(!e.is_finished());
    e.done(4);
    e.done(3);
    assert!(e.is_finished() && e.is_over() && !e.is_failed());
    assert_eq!(e.outstanding(), 0);
}

#[test]
fn a_step_named_twice_is_waited_for_once() {
    let mut e = execution(routes::timed(2, &[(0, 1, &[]), (1, 1, &[0, 0])]));
    assert_eq!(polled(&mut e), [0]);
    e.done(0);
    assert_eq!(polled(&mut e), [1]);
}

#[test]
fn a_failure_stops_what_is_left_and_reset_begins_anew() {
    let mut e = execution(routes::timed(3, &[(0, 1, &[]), (1, 1, &[]), (2, 1, &[0]), (1, 1, &[]), (0, 1, &[1])]));
    assert_eq!(polled(&mut e), [0, 1, 3]);
    e.failed(1, "no power");
    assert!(e.is_failed() && !e.is_over());
    e.done(0);
    assert_eq!(e.poll_step(), None, "2 is free now, but the batch has failed");
    e.failed(3, "skipped");
    assert!(e.is_over() && !e.is_finished());
    assert_eq!(e.failure(), Some((1, "no power")));
    e.reset();
    assert!(!e.is_failed() && !e.is_over());
    assert_eq!(polled(&mut e), [0, 1, 3]);
}

#[test]
fn siblings_are_apart() {
    let mut a = execution(routes::timed(1, &[(0, 1, &[]), (0, 1, &[])]));
    assert_eq!(polled(&mut a), [0, 1]);
    let mut b = a.sibling();
    assert_eq!(b.outstanding(), 0);
    assert_eq!(polled(&mut b), [0, 1]);
    a.done(0);
    assert_eq!((a.outstanding(), b.outstanding()), (1, 2));
}

#[test]
fn a_route_without_steps_is_finished() {
    let mut e = execution(routes::timed(2, &[]));
    assert!(e.is_finished() && e.is_over());
    assert_eq!(e.poll_step(), None);
}

#[test]
fn inconsistent_routes_are_refused_with_the_place() {
    let error = |route: Route| Execution::new(Arc::new(route)).unwrap_err().to_string();
    let base = routes::there_and_back;
    let with = |change: fn(&mut Route)| {
        let mut route = base();
        change(&mut route);
        error(route)
    };
    assert!(with(|r| r.steps[2].lane = 4).contains("step 2: expected one of 4 lanes, found lane 4"));
    assert!(with(|r| r.steps[2].after = vec![2]).contains("step 2: expected to come after earlier steps only"));
    assert!(with(|r| r.steps[0].action = Action::Run(9)).contains("found segment 9"));
    assert!(with(|r| r.steps[0].action = Action::Copy { tensor: 3, from: 0, to: 1 }).contains("found value 3"));
    assert!(with(|r| r.steps[0].action = Action::Copy { tensor: 0, from: 1, to: 1 }).contains("found from 1 to 1"));
    assert!(with(|r| r.steps[3].frees = vec![(0, 2)]).contains("found value 0 on 2"));
    assert!(with(|r| r.segments[1].device = 2).contains("segment 1: expected one of 2 devices"));
    assert!(with(|r| r.segments[1].inputs = vec![5]).contains("segment 1: expected one of 3 values"));
    assert!(with(|r| r.outputs = vec![5]).contains("inputs and outputs"));
}

#[test]
#[should_panic(expected = "ends once")]
fn a_step_ends_once() {
    let mut e = execution(routes::timed(1, &[(0, 1, &[])]));
    e.poll_step();
    e.done(0);
    e.done(0);
}

#[test]
#[should_panic(expected = "none of its steps is outstanding")]
fn a_batch_on_its_way_is_not_reset() {
    let mut e = execution(routes::timed(1, &[(0, 1, &[])]));
    e.poll_step();
    e.reset();
}

/// Whatever the order in which steps end on different lanes: every step is submitted exactly once, as early as the rule
/// allows and no earlier, in plan order on its lane; and an execution that is used again behaves as a new one.
#[test]
fn any_order_of_ends_is_followed() {
    for seed in 0..500 {
        let route = routes::random(seed);
        let mut rng = Rng::new(!seed);
        let mut e = execution(route.clone());
        for _ in 0..3 {
            follow(&route, &mut e, &mut rng);
            e.reset();
        }
    }
}

fn follow(route: &Route, e: &mut Execution, rng: &mut Rng) {
    let count = route.steps.len();
    let (mut submitted, mut done) = (vec![false; count], vec![false; count]);
    let mut lanes: Vec<std::collections::VecDeque<usize>> = vec![Default::default(); route.lane_names.len()];
    loop {
        while let Some(i) = e.poll_step() {
            assert!(!std::mem::replace(&mut submitted[i], true));
            lanes[route.steps[i].lane].push_back(i);
            assert!(may_submit(route, &submitted, &done, i));
        }
        let missed = (0..count).find(|i| !submitted[*i] && may_submit(route, &submitted, &done, *i));
        assert_eq!(missed, None, "it could have been submitted");
        let busy: Vec<usize> = (0..lanes.len()).filter(|l| !lanes[*l].is_empty()).collect();
        assert_eq!(e.outstanding(), lanes.iter().map(|l| l.len()).sum::<usize>());
        if busy.is_empty() {
            break;
        }
        let lane = busy[rng.below(busy.len() as u64) as usize];
        let step = lanes[lane].pop_front().unwrap();
        done[step] = true;
        e.done(step);
    }
    assert!(e.is_finished() && done.iter().all(|d| *d));
}

fn may_submit(route: &Route, submitted: &[bool], done: &[bool], i: usize) -> bool {
    let lane = route.steps[i].lane;
    let lane_clear = (0..i).all(|j| route.steps[j].lane != lane || submitted[j]);
    let deps = |j: &usize| done[*j] || (route.steps[*j].lane == lane && submitted[*j]);
    lane_clear && route.steps[i].after.iter().all(deps)
}
