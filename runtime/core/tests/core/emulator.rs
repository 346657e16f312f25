use std::sync::Arc;

use tandem_core::emulator::EmulationError;
use tandem_core::{
    Command, Device, DeviceError, EmulatedDevice, Emulation, EmulationOptions, Execution, Ticket, emulate,
    emulate_batches,
};
use tandem_ir::plan::Route;
use tandem_ir::{Bytes, Nanos, Time};

use crate::routes;

fn play(route: &Route) -> Emulation {
    emulate(route, &EmulationOptions::default()).unwrap()
}

#[test]
fn a_chain_over_two_devices_takes_the_sum() {
    let e = play(&routes::there_and_back());
    assert_eq!(e.makespan, Nanos(110));
    assert_eq!(e.busy, [50, 20, 30, 10].map(Nanos));
    assert_eq!(e.peak, [Bytes(1140), Bytes(52)]);
    assert_eq!(e.excess, []);
}

#[test]
fn branches_overlap_and_lanes_do_not() {
    // 0 -> (1 on lane 1, 2 on lane 0) -> 3 on lane 0
    let e = play(&routes::timed(2, &[(0, 10, &[]), (1, 25, &[0]), (0, 5, &[]), (0, 1, &[1])]));
    let starts: Vec<u64> = e.spans.iter().map(|s| s.start.0).collect();
    assert_eq!(starts, [0, 10, 10, 35]);
    assert_eq!(e.makespan, Nanos(36));
}

#[test]
fn random_routes_agree_with_the_fixed_point() {
    for seed in 0..2000 {
        let route = routes::random(seed);
        let e = play(&route);
        let spans: Vec<(u64, u64)> = e.spans.iter().map(|s| (s.start.0, s.end.0)).collect();
        assert_eq!(spans, routes::fixed_point(&route), "seed {seed}");
        assert_eq!(e.makespan.0, spans.iter().map(|s| s.1).max().unwrap_or(0));
        lanes_are_in_order(&route, &e);
    }
}

#[test]
fn jitter_is_seeded_and_keeps_every_rule() {
    for seed in 0..200 {
        let route = routes::random(seed);
        let options = EmulationOptions { jitter_permille: 300, seed, faults: vec![] };
        let e = emulate(&route, &options).unwrap();
        assert_eq!(e, emulate(&route, &options).unwrap());
        lanes_are_in_order(&route, &e);
        for (step, span) in route.steps.iter().zip(&e.spans) {
            let (took, planned) = ((span.end - span.start).0, step.duration.0);
            assert!((took + 1) * 10 >= planned * 7 && took * 10 <= planned * 13, "{took} of {planned}");
            assert!(step.after.iter().all(|a| e.spans[*a].end <= span.start));
        }
    }
    let route = routes::timed(1, &[(0, 1_000_000, &[])]);
    let of = |seed| emulate(&route, &EmulationOptions { jitter_permille: 100, seed, faults: vec![] }).unwrap().makespan;
    assert_ne!(of(1), of(2));
}

fn lanes_are_in_order(route: &Route, e: &Emulation) {
    let mut free = vec![Time::ZERO; route.lane_names.len()];
    let mut busy = vec![Nanos::ZERO; route.lane_names.len()];
    for (step, span) in route.steps.iter().zip(&e.spans) {
        assert!(span.start >= free[step.lane] && span.end >= span.start);
        free[step.lane] = span.end;
        busy[step.lane] += span.end - span.start;
    }
    assert_eq!(busy, e.busy);
}

#[test]
fn a_fault_is_reported_with_its_step() {
    let options = EmulationOptions { faults: vec![(0, 1)], ..Default::default() };
    let error = emulate(&routes::there_and_back(), &options).unwrap_err();
    let EmulationError::Step { batch: 0, step: 1, why } = error else { panic!("{error}") };
    assert!(why.contains("injected fault"), "{why}");
    let third = EmulationOptions { faults: vec![(2, 3)], ..Default::default() };
    assert!(emulate_batches(&routes::there_and_back(), 2, 2, &third).is_ok());
    let error = emulate_batches(&routes::there_and_back(), 3, 2, &third).unwrap_err();
    assert!(matches!(error, EmulationError::Step { batch: 2, step: 3, .. }), "{error}");
}

/// Drives a device by hand: after a failure, the batch's next command on the lane is skipped, other batches' are not.
#[test]
fn a_failure_skips_the_rest_of_its_batch_on_the_lane() {
    let route = Arc::new(routes::timed(1, &[(0, 10, &[]), (0, 10, &[])]));
    let options = EmulationOptions { faults: vec![(0, 0)], ..Default::default() };
    let mut device = EmulatedDevice::for_route(&route, options);
    for (batch, step) in [(0, 0), (0, 1), (1, 0)] {
        let ticket = Ticket { route: 0, batch, ring: 0, step };
        device.submit(Time(0), Command { lane: 0, ticket, route: route.clone() }).unwrap();
    }
    assert_eq!(device.next_wakeup(), Some(Time(10)));
    assert_eq!(device.poll(Time(9)), None);
    let ends: Vec<_> = std::iter::from_fn(|| device.poll(Time(100))).collect();
    assert!(matches!(ends[0].result, Err(DeviceError::Failed { .. })));
    assert_eq!((ends[1].result.clone(), ends[1].end), (Err(DeviceError::Skipped), Time(10)));
    assert_eq!((ends[2].result.clone(), ends[2].start, ends[2].end), (Ok(()), Time(10), Time(20)));
    assert_eq!(device.next_wakeup(), None);
    let lost = Command { lane: 1, ticket: ends[0].ticket, route };
    assert!(matches!(device.submit(Time(100), lost), Err(DeviceError::NoSuchLane { lane: 1, lanes: 1, .. })));
}

/// In wall time the driver comes late: a queued command starts when its lane is free, a new one not before it is
/// submitted.
#[test]
fn late_polls_do_not_stretch_a_lane() {
    let route = Arc::new(routes::timed(1, &[(0, 10, &[]), (0, 10, &[]), (0, 10, &[])]));
    let mut device = EmulatedDevice::for_route(&route, EmulationOptions::default());
    let command =
        |step| Command { lane: 0, ticket: Ticket { route: 0, batch: 0, ring: 0, step }, route: route.clone() };
    device.submit(Time(5), command(0)).unwrap();
    device.submit(Time(6), command(1)).unwrap();
    device.submit(Time(50), command(2)).unwrap();
    let spans: Vec<_> = std::iter::from_fn(|| device.poll(Time(70))).map(|c| (c.start.0, c.end.0)).collect();
    assert_eq!(spans, [(5, 15), (15, 25), (50, 60)]);
}

#[test]
fn batches_in_flight_reach_the_busiest_lane() {
    let route = routes::there_and_back();
    let of = |in_flight| emulate_batches(&route, 64, in_flight, &EmulationOptions::default()).unwrap();
    assert_eq!(of(1).period_millis, 110_000);
    assert_eq!(of(1).makespan, Nanos(110 * 64));
    assert_eq!(of(2).period_millis, 55_000, "two batches take turns, each 110 long");
    let full = of(3);
    assert_eq!(full.period_millis, 50_000, "the CPU is the busiest lane");
    assert_eq!(full.makespan, Nanos(50 * 64 + 60));
    assert_eq!(full.busy[0], Nanos(50 * 64));
    assert!(full.ends.is_sorted());
    assert_eq!(of(64).period_millis, 50_000);
}

#[test]
fn pipelines_of_random_routes_stay_between_their_bounds() {
    for seed in 0..300 {
        let route = routes::random(seed);
        let alone = play(&route);
        let busiest = alone.busy.iter().copied().max().unwrap_or_default();
        let one = emulate_batches(&route, 20, 1, &EmulationOptions::default()).unwrap();
        assert_eq!(one.makespan, alone.makespan * 20, "seed {seed}");
        for in_flight in [2, 5] {
            let many = emulate_batches(&route, 20, in_flight, &EmulationOptions::default()).unwrap();
            assert!(many.makespan >= busiest * 20, "seed {seed}");
            assert_eq!(many.busy, one.busy, "seed {seed}");
        }
    }
}

#[test]
fn counts_have_bounds() {
    let route = routes::timed(1, &[(0, 1, &[])]);
    for (batches, in_flight) in [(0, 1), (1, 0), (1, 65), (1_000_001, 1)] {
        let error = emulate_batches(&route, batches, in_flight, &EmulationOptions::default()).unwrap_err();
        assert!(matches!(error, EmulationError::Count { .. }), "{error}");
    }
    let none = emulate_batches(&routes::timed(1, &[]), 5, 2, &EmulationOptions::default()).unwrap();
    assert_eq!((none.makespan, none.ends.len()), (Nanos::ZERO, 5));
}

#[test]
fn an_execution_is_cheap_to_use_again() {
    // A long route, many times: quadratic work anywhere would show as minutes.
    let steps: Vec<(usize, u64, &[usize])> = (0..20_000).map(|i| (i % 3, 5, &[] as &[usize])).collect();
    let route = routes::timed(3, &steps);
    let mut e = Execution::new(Arc::new(route)).unwrap();
    for _ in 0..20 {
        while let Some(step) = e.poll_step() {
            e.done(step);
        }
        assert!(e.is_finished());
        e.reset();
    }
}
