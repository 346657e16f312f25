use super::*;
use crate::limits::BATCHES_IN_FLIGHT_MAX;
use crate::plan::{MemoryUse, Prediction, Segment, Step};
use crate::units::Nanos;

fn tensor(name: &str, elements: u64) -> RouteTensor {
    RouteTensor { name: name.into(), dtype: Some(DType::U8), dims: Some(vec![elements]), bytes: Bytes(elements) }
}

/// (device, inputs, outputs, workspace)
type Run<'a> = (usize, &'a [usize], &'a [usize], u64);

fn segment((device, inputs, outputs, workspace): &Run<'_>) -> Segment {
    Segment {
        device: *device,
        part: 0,
        nodes: vec!["n".into()],
        inputs: inputs.to_vec(),
        outputs: outputs.to_vec(),
        weight_bytes: Bytes::ZERO,
        workspace_bytes: Bytes(*workspace),
    }
}

fn step(lane: usize, action: Action, after: &[usize], frees: &[(usize, usize)]) -> Step {
    Step { lane, action, after: after.to_vec(), duration: Nanos(1), frees: frees.to_vec() }
}

fn route(lanes: usize, tensors: Vec<RouteTensor>, runs: &[Run<'_>], steps: Vec<Step>) -> Route {
    Route {
        tenant: "t".into(),
        batch: 1,
        lanes: 1,
        threads: 1,
        share_permille: 1000,
        tensors,
        inputs: vec![],
        outputs: vec![],
        segments: runs.iter().map(segment).collect(),
        lane_names: (0..lanes).map(|l| format!("lane{l}")).collect(),
        steps,
        memory: vec![MemoryUse::default(); 2],
        work: vec![],
        prediction: Prediction::default(),
    }
}

fn offsets(layout: &DeviceLayout) -> Vec<(usize, u64)> {
    layout.slots.iter().map(|s| (s.tensor, s.offset.0)).collect()
}

/// Four segments in a row on the host: x -> a -> b -> c, each value freed by its reader.
fn chain() -> Route {
    let tensors = vec![tensor("x", 100), tensor("a", 64), tensor("b", 65), tensor("c", 1)];
    let runs: [Run<'_>; 3] = [(0, &[0], &[1], 5), (0, &[1], &[2], 7), (0, &[2], &[3], 6)];
    let steps = vec![
        step(0, Action::Run(0), &[], &[(0, 0)]),
        step(0, Action::Run(1), &[], &[(1, 0)]),
        step(0, Action::Run(2), &[], &[(2, 0)]),
    ];
    let mut route = route(1, tensors, &runs, steps);
    (route.inputs, route.outputs) = (vec![0], vec![3]);
    route
}

#[test]
fn neighbours_of_a_chain_are_apart_and_the_next_but_one_shares() {
    let layouts = layout(&chain()).unwrap();
    assert_eq!(layouts.len(), 2);
    let host = &layouts[0];
    assert_eq!((host.size, host.floor, host.workspace), (Bytes(192), Bytes(192), Bytes(7)));
    assert_eq!(offsets(host), [(0, 0), (1, 128), (2, 0), (3, 128)]);
    assert_eq!(host.slot(2), Some(&Slot { tensor: 2, offset: Bytes(0), bytes: Bytes(65) }));
    assert_eq!(host.slot(4), None);
    assert_eq!(layouts[1], DeviceLayout::default());
}

#[test]
fn lanes_that_do_not_wait_for_each_other_share_nothing() {
    let tensors = || vec![tensor("a", 64), tensor("b", 64)];
    let runs: [Run<'_>; 4] = [(0, &[], &[0], 0), (0, &[0], &[], 0), (0, &[], &[1], 0), (0, &[1], &[], 0)];
    let steps = |after: &[usize]| {
        vec![
            step(0, Action::Run(0), &[], &[]),
            step(0, Action::Run(1), &[], &[(0, 0)]),
            step(1, Action::Run(2), after, &[]),
            step(1, Action::Run(3), &[], &[(1, 0)]),
        ]
    };
    let size = |after: &[usize]| {
        let layout = layout(&route(2, tensors(), &runs, steps(after))).unwrap().remove(0);
        assert_eq!(layout.size, layout.floor);
        layout.size
    };
    assert_eq!(size(&[]), Bytes(128), "whatever the durations say");
    assert_eq!(size(&[0]), Bytes(128), "the first is made, and may still be read");
    assert_eq!(size(&[1]), Bytes(64));
}

#[test]
fn values_live_where_they_are_copied_and_what_no_step_frees_stays() {
    let mut route = chain();
    route.lane_names.push("up".into());
    route.steps.insert(1, step(1, Action::Copy { tensor: 1, from: 0, to: 1 }, &[0], &[]));
    route.steps.push(step(1, Action::Copy { tensor: 2, from: 0, to: 1 }, &[2], &[]));
    let layouts = layout(&route).unwrap();
    assert_eq!(offsets(&layouts[1]), [(1, 128), (2, 0)]);
    assert_eq!(layouts[1].size, Bytes(192));
}

#[test]
fn what_has_no_size_is_the_engines_and_counts_beside() {
    let mut route = chain();
    route.tensors[1].dims = None;
    route.tensors[2].dtype = Some(DType::String);
    let host = layout(&route).unwrap().remove(0);
    assert_eq!(host.engine_owned, [1, 2]);
    assert_eq!(offsets(&host), [(0, 0), (3, 0)]);
    assert_eq!(host.size, Bytes(128));
    assert_eq!(host.owned, Bytes(64 + 65), "while the second segment runs");
    assert_eq!(host.workspace, Bytes(7));
}

#[test]
fn the_shape_decides_and_not_what_the_plan_reserves() {
    let mut route = chain();
    route.tensors[1].bytes = Bytes(1);
    route.tensors[3].dims = Some(vec![3, 0]);
    let host = layout(&route).unwrap().remove(0);
    assert_eq!(host.slot(1).map(|s| s.bytes), Some(Bytes(64)));
    assert_eq!(host.slot(3), Some(&Slot { tensor: 3, offset: Bytes(0), bytes: Bytes(0) }), "nothing to keep apart");
}

/// None of the four orders that are tried first fits these into the floor.
#[test]
fn repaired_orders_reach_the_floor_where_simple_ones_do_not() {
    let of = |(size, from, until)| Item { size: size * ALIGNMENT, from: Some(from), until: Some(until) };
    let items = [(3, 0, 2), (2, 3, 6), (2, 3, 5), (3, 2, 4), (2, 1, 4)].map(of);
    let route = route(1, vec![], &[], (0..7).map(|_| step(0, Action::Barrier, &[], &[])).collect());
    let order = Order::of(&route);
    let floor = Events::of(&order).most_alive(&items).unwrap();
    assert_eq!(floor, 9 * ALIGNMENT);
    assert_eq!(pack(&items, &order, floor).size, floor);
}

#[test]
fn no_life_and_too_large_are_named() {
    let error = |change: fn(&mut Route)| {
        let mut route = chain();
        change(&mut route);
        layout(&route).unwrap_err().to_string()
    };
    assert_eq!(
        error(|r| r.segments[2].outputs = vec![0, 3]),
        "step 2 writes value \"x\" on device 0, where it is already"
    );
    assert_eq!(error(|r| r.steps[0].frees = vec![(2, 0)]), "step 0 frees value \"b\" on device 0, where it is not");
    assert_eq!(error(|r| r.steps[2].frees.push((1, 0))), "step 2 frees value \"a\" on device 0, where it is not");
    let large = "device 0: expected values of less than 2^64 bytes in all, found more";
    assert_eq!(error(|r| r.tensors[1].dims = Some(vec![u64::MAX])), large);
    assert_eq!(error(|r| r.tensors[1].dims = Some(vec![1 << 40, 1 << 40])), large);
    assert_eq!(error(|r| r.tensors.iter_mut().for_each(|t| t.dims = Some(vec![1 << 62]))), large);
    assert_eq!(error(|r| r.segments.iter_mut().for_each(|s| s.workspace_bytes = Bytes(u64::MAX))), large);
}

/// Segments on the host, on an accelerator and on the host again, with copies between.
fn there_and_back(host: u64, gpu: u64) -> Route {
    let tensors = vec![tensor("x", 100), tensor("a", 64), tensor("b", 65), tensor("c", 1)];
    let runs: [Run<'_>; 3] = [(0, &[0], &[1], 5), (1, &[1], &[2], 7), (0, &[2], &[3], 6)];
    let copy = |tensor, from, to| Action::Copy { tensor, from, to };
    let mut steps = vec![
        step(0, Action::Run(0), &[], &[(0, 0)]),
        step(2, copy(1, 0, 1), &[0], &[(1, 0)]),
        step(1, Action::Run(1), &[1], &[(1, 1)]),
        step(3, copy(2, 1, 0), &[2], &[(2, 1)]),
        step(0, Action::Run(2), &[3], &[(2, 0)]),
    ];
    steps[0].duration = Nanos(host);
    steps[2].duration = Nanos(gpu);
    let mut route = route(4, tensors, &runs, steps);
    (route.inputs, route.outputs) = (vec![0], vec![3]);
    route.segments.iter_mut().for_each(|s| s.weight_bytes = Bytes(1000));
    route.memory = memory(&route).unwrap();
    route
}

#[test]
fn batches_in_flight_have_arenas_and_those_that_compute_workspaces() {
    let mut route = there_and_back(1, 9);
    let of = |weights, arena, workspace| MemoryUse {
        weights: Bytes(weights),
        arena: Bytes(arena),
        owned: Bytes(0),
        workspace: Bytes(workspace),
    };
    assert_eq!(route.memory, [of(2000, 192, 6), of(1000, 192, 7)]);
    assert_eq!(route.memory[0].peak(), Bytes(198));
    assert_eq!((route.busiest_lane(), route.batches_in_flight()), (1, 4));
    assert_eq!([0, 1].map(|d| route.segments_at_once(d)), [1, 1]);
    assert_eq!([0, 1, 2].map(|d| route.memory_bytes(d).0), [2000 + 4 * 192 + 6, 1000 + 4 * 192 + 7, 0]);
    route.lanes = 3;
    assert_eq!(route.batches_in_flight(), 4, "batches wait for the accelerator");
    assert_eq!(route.memory_bytes(0).0, 2000 + 4 * 192 + 3 * 6);

    let mut route = there_and_back(9, 1);
    route.lanes = 3;
    assert_eq!((route.busiest_lane(), route.batches_in_flight()), (0, 6), "two more on the further lanes of the host");
    assert_eq!(route.memory_bytes(1).0, 1000 + 6 * 192 + 7);
    route.lanes = u32::MAX;
    assert_eq!(route.batches_in_flight(), BATCHES_IN_FLIGHT_MAX);

    let chain = chain();
    assert_eq!(chain.batches_in_flight(), 2, "the next batch is there when one is done");
    assert_eq!(chain.segments_at_once(0), 1);
}

#[test]
fn what_engines_own_is_counted_for_each_batch_in_flight() {
    let mut route = there_and_back(1, 9);
    route.tensors[1].dims = None;
    route.memory = memory(&route).unwrap();
    assert_eq!((route.memory[1].arena, route.memory[1].owned), (Bytes(128), Bytes(64)));
    assert_eq!(route.memory[1].beside(), Bytes(64 + 7));
    assert_eq!(route.memory_bytes(1).0, 1000 + 4 * (128 + 64) + 7);
}
