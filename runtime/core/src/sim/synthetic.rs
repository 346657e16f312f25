//! Routes and plans made of lines, not of models: for experiments and for seeded worlds.

use std::sync::Arc;

use tandem_ir::plan::{Action, MemoryUse, Policy, Prediction, Route, RouteTensor, Segment, Step};
use tandem_ir::{Bytes, DType, Nanos};

use crate::adt::Lines;
use crate::limits::QUEUE_MAX;
use crate::scheduler::{GroupSpec, LaneSpec, Setup};

/// Bytes of an item in the synthetic routes' values: a row of 1,024 floats.
pub const ITEM_BYTES: u64 = 4096;

/// A step of a synthetic route: its lane's name and its duration.
pub type Stage<'a> = (&'a str, Nanos);

/// Upload, compute and download of a batch on an accelerator, each on a lane of its own: `cpu>gpu0`, `gpu0`, `gpu0>cpu`.
pub fn offload(tenant: &str, batch: u64, lines: &Lines) -> Route {
    let at = |line: &crate::adt::Line| Nanos(line.at(batch as f64).round() as u64);
    let stages = [("cpu>gpu0", at(&lines.up)), ("gpu0", at(&lines.calc)), ("gpu0>cpu", at(&lines.down))];
    chain(tenant, batch, &stages)
}

/// One step after another. A lane `a>b` copies what the step before made, any other runs a segment; the devices are the
/// host `cpu` and `gpu0`.
pub fn chain(tenant: &str, batch: u64, stages: &[Stage<'_>]) -> Route {
    let bytes = Bytes(ITEM_BYTES * batch);
    let value = |i: usize| RouteTensor {
        name: format!("v{i}"),
        dtype: Some(DType::F32),
        dims: Some(vec![batch, ITEM_BYTES / 4]),
        bytes,
    };
    let mut lane_names: Vec<String> = vec![];
    let (mut tensors, mut segments, mut steps) = (vec![value(0)], vec![], vec![]);
    let (mut tensor, mut device) = (0, 0);
    for (i, (name, duration)) in stages.iter().enumerate() {
        let lane = lane_names.iter().position(|l| l == name).unwrap_or_else(|| {
            lane_names.push((*name).to_owned());
            lane_names.len() - 1
        });
        let (action, frees) = match name.split_once('>') {
            Some((_, to)) => {
                let (from, to) = (device, usize::from(to != "cpu"));
                device = to;
                (Action::Copy { tensor, from, to }, vec![(tensor, from)])
            }
            None => {
                let input = tensor;
                tensors.push(value(tensors.len()));
                tensor = tensors.len() - 1;
                segments.push(Segment {
                    device,
                    part: segments.len(),
                    nodes: vec![format!("n{i}")],
                    inputs: vec![input],
                    outputs: vec![tensor],
                    weight_bytes: Bytes::ZERO,
                    workspace_bytes: Bytes::ZERO,
                });
                (Action::Run(segments.len() - 1), vec![(input, device)])
            }
        };
        let after = if i == 0 { vec![] } else { vec![i - 1] };
        steps.push(Step { lane, action, after, duration: *duration, frees });
    }
    Route {
        tenant: tenant.to_owned(),
        batch,
        lanes: 1,
        threads: 1,
        share_permille: 0,
        tensors,
        inputs: vec![0],
        outputs: vec![tensor],
        segments,
        lane_names,
        steps,
        memory: vec![MemoryUse { arena: bytes * 2, ..MemoryUse::default() }; 2],
        work: vec![],
        prediction: Prediction::default(),
    }
}

/// One tenant on an accelerator with two copy engines, with a route for every batch size up to the largest.
pub fn device(lines: &Lines, batch_max: u64, policy: Policy) -> Setup {
    let mut routes: Vec<Route> = (1..=batch_max).map(|b| offload("synthetic", b, lines)).collect();
    if let Some(largest) = routes.last_mut() {
        largest.share_permille = 1000;
    }
    let group = GroupSpec {
        name: "synthetic".into(),
        policy,
        slo: None,
        queue_max: QUEUE_MAX,
        millirate: None,
        routes: (0..routes.len()).collect(),
        alone: false,
    };
    Setup { lanes: lanes(1), routes: routes.into_iter().map(Arc::new).collect(), groups: vec![group], devices: 2 }
}

/// Lanes of a host with so many cores and an accelerator with two copy engines.
pub fn lanes(cores: usize) -> Vec<LaneSpec> {
    let lane = |name: &str, device, slots, threads| LaneSpec { name: name.into(), device, slots, depth: 1, threads };
    vec![
        lane("cpu", 0, cores, true),
        lane("gpu0", 1, 1, false),
        lane("cpu>gpu0", 1, 1, false),
        lane("gpu0>cpu", 1, 1, false),
    ]
}
