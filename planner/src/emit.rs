//! From segments to a plan's route: steps in their order, values by name, memory, what is freed when.

use std::collections::{BTreeMap, BTreeSet};

use tandem_ir::arena::{self, ArenaError};
use tandem_ir::graph::{Graph, NodeId, TensorId};
use tandem_ir::order::Order;
use tandem_ir::plan::{Action, MemoryUse, Prediction, Route, RouteTensor, Segment, Step};
use tandem_ir::units::Bytes;
use tandem_ir::work::device_work;

use crate::cost::value_bytes;
use crate::problem::{HOST, Problem};
use crate::segments::Segments;
use crate::timeline::{TimedStep, Timeline, Work};

/// What a route is called and counted by.
#[derive(Clone, Debug)]
pub struct RouteHead {
    /// Name of the tenant.
    pub tenant: String,
    /// Share of the tenant's batches, in per mille.
    pub share_permille: u64,
    /// Authored part of each segment.
    pub parts: Vec<usize>,
}

/// Writes a route. Prediction's bound and gap are left at zero for the caller.
///
/// # Errors
/// Values of 2^64 bytes and more.
pub fn route(
    head: RouteHead,
    graph: &Graph,
    problem: &Problem,
    segments: &Segments,
    timeline: &Timeline,
) -> Result<Route, ArenaError> {
    let members = segments.members();
    let (tensors, index) = tensors(graph, problem, segments);
    let at = |v: usize| index[&v];
    let mut out = vec![];
    let mut placed = vec![vec![]; problem.devices.len()];
    for (s, atoms) in members.iter().enumerate() {
        let mut nodes: Vec<NodeId> = atoms.iter().flat_map(|a| problem.atoms[*a].nodes.iter().copied()).collect();
        nodes.sort_unstable();
        placed[usize::from(segments.device[s])].extend(nodes.iter().copied());
        let inside = |a: usize| segments.of[a] as usize == s;
        let reads: BTreeSet<usize> = atoms.iter().flat_map(|a| problem.reads(*a)).map(|v| *v as usize).collect();
        let inputs = reads.into_iter().filter(|v| !problem.values[*v].producer.is_some_and(inside));
        let writes: BTreeSet<usize> = atoms.iter().flat_map(|a| problem.writes(*a)).map(|v| *v as usize).collect();
        let leaves = |v: &usize| problem.values[*v].output || problem.values[*v].consumers.iter().any(|c| !inside(*c));
        out.push(Segment {
            device: usize::from(segments.device[s]),
            part: head.parts.get(s).copied().unwrap_or(s),
            inputs: inputs.map(at).collect(),
            outputs: writes.into_iter().filter(leaves).map(at).collect(),
            weight_bytes: Bytes(weight_bytes(graph, &nodes)),
            workspace_bytes: Bytes(workspace_bytes(graph, &nodes, problem.batch)),
            nodes: nodes.iter().map(|n| graph.node_name(*n)).collect(),
        });
    }
    let work = placed.iter().map(|nodes| device_work(graph, nodes, problem.batch)).collect();
    let (lane_names, lane_at) = lanes(problem, timeline);
    let steps = steps(timeline, &index, &lane_at);
    let kept: Vec<(usize, usize)> = index.iter().map(|(v, t)| (*v, *t)).collect();
    let outputs = kept.iter().filter(|(v, _)| problem.values[*v].output).map(|(_, t)| *t);
    let inputs = kept.iter().filter(|(v, _)| problem.values[*v].producer.is_none()).map(|(_, t)| *t);
    let (inputs, outputs) = (inputs.collect(), outputs.collect());
    let mut route = Route {
        tenant: head.tenant,
        batch: problem.batch,
        lanes: problem.devices[HOST].lanes,
        threads: problem.threads,
        share_permille: head.share_permille,
        tensors,
        inputs,
        outputs,
        segments: out,
        lane_names,
        steps,
        memory: vec![MemoryUse::default(); problem.devices.len()],
        work,
        prediction: Prediction::default(),
    };
    let frees = frees(&route);
    route.steps.iter_mut().zip(frees).for_each(|(step, frees)| step.frees = frees);
    route.memory = arena::memory(&route)?;
    route.prediction.makespan = timeline.makespan;
    route.prediction.busy =
        (0..problem.lane_count()).filter(|l| lane_at[*l].is_some()).map(|l| timeline.busy[l]).collect();
    route.prediction.modelled = problem.modelled;
    Ok(route)
}

/// Values that enter or leave segments, with their positions by the problem's.
fn tensors(graph: &Graph, problem: &Problem, segments: &Segments) -> (Vec<RouteTensor>, BTreeMap<usize, usize>) {
    let (mut tensors, mut index) = (vec![], BTreeMap::new());
    for (v, value) in problem.values.iter().enumerate() {
        let home = value.producer.map(|p| segments.of[p]);
        let leaves = value.consumers.iter().any(|c| Some(segments.of[*c]) != home);
        let handed_back = value.output && home.is_some();
        if !(leaves || handed_back) {
            continue;
        }
        let fact = value.tensor.map(|t| &graph.tensor(t).fact);
        index.insert(v, tensors.len());
        tensors.push(RouteTensor {
            name: value.tensor.map_or_else(|| format!("v{v}"), |t| graph.tensor(t).name.clone()),
            dtype: fact.and_then(|f| f.dtype.filter(|_| f.kind == tandem_ir::Kind::Tensor)),
            dims: fact.and_then(|f| f.dims_at(problem.batch)),
            bytes: value.bytes,
        });
    }
    (tensors, index)
}

/// Names of the lanes that have steps, and the new position of each of the problem's lanes.
fn lanes(problem: &Problem, timeline: &Timeline) -> (Vec<String>, Vec<Option<usize>>) {
    let used: BTreeSet<usize> = timeline.steps.iter().map(|s| s.lane).collect();
    let mut at = vec![None; problem.lane_count()];
    used.iter().enumerate().for_each(|(new, old)| at[*old] = Some(new));
    (used.iter().map(|l| problem.lane_name(*l).to_owned()).collect(), at)
}

/// Steps that free nothing yet.
fn steps(timeline: &Timeline, index: &BTreeMap<usize, usize>, lane_at: &[Option<usize>]) -> Vec<Step> {
    let step = |s: &TimedStep| Step {
        lane: lane_at[s.lane].expect("a lane with a step is used"),
        action: match s.work {
            Work::Run(segment) => Action::Run(segment),
            Work::Copy { value, from, to } => Action::Copy { tensor: index[&value], from, to },
        },
        after: s.after.clone(),
        duration: s.duration,
        frees: vec![],
    };
    timeline.steps.iter().map(step).collect()
}

/// For each step, the (value, device) pairs that nobody reads once it is done: the first step from which, by lanes' order and
/// `after` alone, every reader is known to be done, whatever the durations turn out to be. A value for which there is no
/// such step, and outputs in the host's memory, stay until the batch ends.
fn frees(route: &Route) -> Vec<Vec<(usize, usize)>> {
    let mut readers: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
    for (i, step) in route.steps.iter().enumerate() {
        let (device, read) = match &step.action {
            Action::Run(s) => (route.segments[*s].device, &route.segments[*s].inputs[..]),
            Action::Copy { tensor, from, .. } => (*from, std::slice::from_ref(tensor)),
            Action::Barrier => (HOST, &[][..]),
        };
        read.iter().for_each(|t| readers.entry((*t, device)).or_default().push(i));
    }
    let order = Order::of(route);
    let mut frees = vec![vec![]; route.steps.len()];
    for ((t, d), by) in readers.into_iter().filter(|((t, d), _)| *d != HOST || !route.outputs.contains(t)) {
        let knows = |s: usize| by.iter().all(|r| *r == s || order.before(*r, s));
        let last = by.last().copied().unwrap_or(0);
        if let Some(s) = (last..route.steps.len()).find(|s| knows(*s)) {
            frees[s].push((t, d));
        }
    }
    frees
}

/// Bytes of constants that nodes hold, each once, folded nodes' outputs and bodies included.
pub fn weight_bytes(graph: &Graph, nodes: &[NodeId]) -> u64 {
    let mut seen: BTreeSet<TensorId> = BTreeSet::new();
    let mut bytes = 0u64;
    for id in nodes {
        let node = graph.node(*id);
        for t in node.reads().into_iter().filter(|t| graph.is_constant(*t)) {
            if seen.insert(t) {
                let tensor = graph.tensor(t);
                let size = tensor.constant.as_ref().map(|c| c.bytes).or_else(|| tensor.fact.bytes_at(1));
                bytes = bytes.saturating_add(size.unwrap_or(0));
            }
        }
        bytes = node.bodies.values().fold(bytes, |b, body| b.saturating_add(body.weight_bytes()));
    }
    bytes
}

/// Peak bytes of values that are made and read inside, node after node.
pub fn workspace_bytes(graph: &Graph, nodes: &[NodeId], batch: u64) -> u64 {
    let inside: BTreeSet<NodeId> = nodes.iter().copied().collect();
    let inner = |t: TensorId| {
        let tensor = graph.tensor(t);
        !graph.is_output(t) && tensor.consumers.iter().all(|c| inside.contains(c))
    };
    let (mut alive, mut peak) = (0u64, 0u64);
    for id in nodes {
        let node = graph.node(*id);
        for t in node.writes().filter(|t| inner(*t)) {
            alive = alive.saturating_add(value_bytes(graph, t, batch).0);
        }
        peak = peak.max(alive);
        let made_inside = |t: &TensorId| graph.tensor(*t).producer.is_some_and(|p| inside.contains(&p));
        for t in node.reads().into_iter().filter(|t| made_inside(t) && inner(*t)) {
            if graph.tensor(t).consumers.last() == Some(id) {
                alive = alive.saturating_sub(value_bytes(graph, t, batch).0);
            }
        }
        for t in node.writes().filter(|t| inner(*t) && graph.tensor(*t).consumers.is_empty()) {
            alive = alive.saturating_sub(value_bytes(graph, t, batch).0);
        }
    }
    peak
}
