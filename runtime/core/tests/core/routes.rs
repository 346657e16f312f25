//! Routes made by hand and by seed.

use tandem_core::rng::Rng;
use tandem_ir::plan::{Action, MemoryUse, Prediction, Route, RouteTensor, Segment, Step};
use tandem_ir::{Bytes, Nanos};

/// A route of barriers: (lane, duration, after) a step.
pub fn timed(lanes: usize, steps: &[(usize, u64, &[usize])]) -> Route {
    let steps = steps.iter().map(|(lane, ns, after)| step(*lane, Action::Barrier, *ns, after, &[])).collect();
    route(lanes, vec![], vec![], steps)
}

pub fn step(lane: usize, action: Action, ns: u64, after: &[usize], frees: &[(usize, usize)]) -> Step {
    Step { lane, action, after: after.to_vec(), duration: Nanos(ns), frees: frees.to_vec() }
}

pub fn tensor(name: &str, bytes: u64) -> RouteTensor {
    RouteTensor { name: name.into(), dtype: None, dims: None, bytes: Bytes(bytes) }
}

pub fn segment(device: usize, inputs: &[usize], outputs: &[usize], workspace: u64) -> Segment {
    Segment {
        device,
        part: 0,
        nodes: vec![format!("n{device}"), "m\"\\\n".into()],
        inputs: inputs.to_vec(),
        outputs: outputs.to_vec(),
        weight_bytes: Bytes(0),
        workspace_bytes: Bytes(workspace),
    }
}

pub fn route(lanes: usize, tensors: Vec<RouteTensor>, segments: Vec<Segment>, steps: Vec<Step>) -> Route {
    Route {
        tenant: "t".into(),
        batch: 1,
        lanes: 1,
        threads: 1,
        share_permille: 1000,
        tensors,
        inputs: vec![],
        outputs: vec![],
        segments,
        lane_names: (0..lanes).map(|l| format!("lane{l}")).collect(),
        steps,
        memory: vec![MemoryUse::default(); 2],
        work: vec![],
        prediction: Prediction::default(),
    }
}

/// cpu -> copy -> gpu -> copy: lanes cpu, cpu>gpu0, gpu0, gpu0>cpu. Values: 0 input, 1 between, 2 output.
pub fn there_and_back() -> Route {
    let tensors = vec![tensor("in", 100), tensor("mid", 40), tensor("out", 7)];
    let segments = vec![segment(0, &[0], &[1], 1000), segment(1, &[1], &[2], 5)];
    let steps = vec![
        step(0, Action::Run(0), 50, &[], &[(0, 0)]),
        step(1, Action::Copy { tensor: 1, from: 0, to: 1 }, 20, &[0], &[(1, 0)]),
        step(2, Action::Run(1), 30, &[1], &[(1, 1)]),
        step(3, Action::Copy { tensor: 2, from: 1, to: 0 }, 10, &[2], &[(2, 1)]),
    ];
    let mut route = route(4, tensors, segments, steps);
    route.inputs = vec![0];
    route.outputs = vec![2];
    route.memory = tandem_ir::arena::memory(&route).unwrap();
    route
}

/// A random DAG of up to 40 steps on up to 5 lanes, some without a duration.
pub fn random(seed: u64) -> Route {
    let mut rng = Rng::new(seed);
    let lanes = 1 + rng.below(5) as usize;
    let count = rng.below(40) as usize;
    let density = rng.below(5);
    let steps = (0..count)
        .map(|i| {
            let edges = if i == 0 { 0 } else { rng.below(density + 1) };
            let after: Vec<usize> = (0..edges).map(|_| rng.below(i as u64) as usize).collect();
            let ns = if rng.below(5) == 0 { 0 } else { rng.below(1000) };
            step(rng.below(lanes as u64) as usize, Action::Barrier, ns, &after, &[])
        })
        .collect();
    route(lanes, vec![], vec![], steps)
}

/// When each step runs, by repeating start = max(end of the previous step of its lane, ends of what it comes after)
/// until nothing changes. Knows nothing of events.
pub fn fixed_point(route: &Route) -> Vec<(u64, u64)> {
    let mut spans = vec![(0, 0); route.steps.len()];
    loop {
        let old = spans.clone();
        for (i, step) in route.steps.iter().enumerate() {
            let same_lane = (0..i).rev().find(|j| route.steps[*j].lane == step.lane);
            let start = step.after.iter().copied().chain(same_lane).map(|j| old[j].1).max().unwrap_or(0);
            spans[i] = (start, start + step.duration.0);
        }
        if spans == old {
            return spans;
        }
    }
}
