//! What runs where, and why each boundary is where it is.
//!
//! A boundary is explained by what moving it would do: the atom before it joins the segment after it, or the other way
//! round, and the timeline judges again. What cannot be moved says why. Renderers: [`Explanation::text`],
//! [`Explanation::tree`], [`Explanation::dot`], [`Explanation::svg`], [`Explanation::json`]; of several routes
//! [`html::page`].

mod dot;
mod facts;
pub mod html;
mod json;
mod svg;
mod text;

pub use facts::{AtomView, CopyView, Flow, LaneLoad, Overview, Terms, together};
pub use text::summary;

use std::collections::BTreeMap;

use tandem_ir::graph::{Graph, NodeId};
use tandem_ir::plan::{DeviceWork, MemoryUse, MethodReport, Objective, Plan, Route};
use tandem_ir::profile::Profile;
use tandem_ir::units::{Bytes, Nanos, Time};

use crate::build::Workbench;
use crate::error::PlanError;
use crate::plan::{Understood, understand};
use crate::problem::DeviceModel;
use crate::segments::{Segments, quotient};
use crate::timeline::{self, Work};

/// A share of the model on one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceShare {
    /// Name of the device.
    pub device: String,
    /// What its operators do.
    pub work: DeviceWork,
    /// Memory that the route needs there.
    pub memory: MemoryUse,
    /// The same with all its batches in flight.
    pub held: Bytes,
    /// Memory that a plan may use there.
    pub capacity: Bytes,
    /// Its lane's busy time a batch.
    pub busy: Nanos,
}

/// A segment in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentView {
    /// Name of its device.
    pub device: String,
    /// When it starts.
    pub start: Time,
    /// How long it takes, launch included.
    pub duration: Nanos,
    /// Launch alone.
    pub launch: Nanos,
    /// Its operators, by type, most first.
    pub operators: Vec<(String, usize)>,
    /// First and last node in the graph's order.
    pub ends: (String, String),
}

/// A step in time, for charts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepView {
    /// Name of its lane.
    pub lane: String,
    /// What it does, in a few words.
    pub label: String,
    /// Position of the segment it runs; `None` for copies.
    pub segment: Option<usize>,
    /// What it copies; `None` for segments.
    pub copy: Option<CopyView>,
    /// When it starts.
    pub start: Time,
    /// How long it takes.
    pub duration: Nanos,
}

/// What becomes of the objective when one atom changes sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Moved {
    /// The objective's value changes by so many nanoseconds (more is worse).
    By(i64),
    /// It cannot be moved, and why.
    Impossible(String),
}

/// One atom that could be on the other side of a boundary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alternative {
    /// The atom's last node.
    pub node: String,
    /// Its operators.
    pub operators: String,
    /// Where it would go: position of the segment.
    pub to: usize,
    /// Its duration here and there.
    pub times: (Option<Nanos>, Option<Nanos>),
    /// What that would do.
    pub moved: Moved,
}

/// Values that go from one segment to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Position of the segment before.
    pub from: usize,
    /// Position of the segment after.
    pub to: usize,
    /// Name, size and copy (nothing inside one device) of each value.
    pub values: Vec<(String, Bytes, Nanos)>,
    /// The atoms next to it, on the other side.
    pub alternatives: Vec<Alternative>,
}

/// Why operators may not run everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The reason.
    pub reason: String,
    /// Devices that are left.
    pub devices: Vec<String>,
    /// How many operators.
    pub operators: usize,
    /// The first of them.
    pub first: String,
}

/// One route of a plan, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Name of the tenant.
    pub tenant: String,
    /// Batch size.
    pub batch: u64,
    /// Lanes and threads of the CPU.
    pub lanes: (u32, u32),
    /// What is asked of the tenant.
    pub terms: Terms,
    /// What the plan tries to reach.
    pub objective: Objective,
    /// What it promises.
    pub prediction: tandem_ir::plan::Prediction,
    /// Batches in flight at once.
    pub batches_in_flight: usize,
    /// Time of the busiest lane a batch, and its name.
    pub bottleneck: (Nanos, String),
    /// Shares of the devices.
    pub devices: Vec<DeviceShare>,
    /// Segments in a topological order.
    pub segments: Vec<SegmentView>,
    /// Edges between segments.
    pub boundaries: Vec<Boundary>,
    /// Operators in a topological order.
    pub atoms: Vec<AtomView>,
    /// Values that they hand on.
    pub flows: Vec<Flow>,
    /// Steps in their order.
    pub steps: Vec<StepView>,
    /// Lanes that do something: devices first, then links.
    pub loads: Vec<LaneLoad>,
    /// What pins operators.
    pub pins: Vec<Pin>,
    /// What the search did.
    pub report: Option<MethodReport>,
}

/// Explains a route of a plan: the one at `batch`, or the one with the largest share. `profile` prices boundaries; without,
/// rates do.
///
/// # Errors
/// A plan that does not fit the graphs, or has no such route: see [`PlanError`].
pub fn explain(
    plan: &Plan,
    graphs: &[&Graph],
    profile: Option<&Profile>,
    tenant: usize,
    batch: Option<u64>,
) -> Result<Explanation, PlanError> {
    let owner = plan.authored.tenants().nth(tenant).ok_or_else(|| no_graph(&format!("#{tenant}")))?;
    let routes = owner.routes.iter().enumerate().filter(|(_, r)| batch.is_none_or(|b| r.batch == b));
    let chosen = routes.max_by_key(|(i, r)| (r.share_permille, std::cmp::Reverse(*i)));
    let (index, _) = chosen.ok_or_else(|| PlanError::NoRoute { tenant: owner.name.clone(), batch })?;
    let before: usize = plan.authored.tenants().take(tenant).map(|t| t.routes.len()).sum();
    explain_route(plan, graphs, profile, before + index)
}

fn no_graph(tenant: &str) -> PlanError {
    PlanError::NoGraph { tenant: tenant.to_owned() }
}

/// Explains the plan's `position`-th route.
///
/// # Errors
/// As [`explain`].
pub fn explain_route(
    plan: &Plan,
    graphs: &[&Graph],
    profile: Option<&Profile>,
    position: usize,
) -> Result<Explanation, PlanError> {
    let owners = plan.authored.applications.iter().flat_map(|a| a.tenants.iter().map(move |t| (a, t)));
    let mut routes = owners.enumerate().flat_map(|(t, (a, owner))| owner.routes.iter().map(move |r| (t, a, owner, r)));
    let no_route = || PlanError::NoRoute { tenant: format!("#{position}"), batch: None };
    let (tenant, application, owner, authored) = routes.nth(position).ok_or_else(no_route)?;
    let graph = *graphs.get(tenant).ok_or_else(|| no_graph(&owner.name))?;
    let bench = Workbench::new(graph, &plan.derived.machine, profile, &owner.pins)?;
    let route = understand(&bench, authored, position)?;
    let objective = plan.authored.objective;
    let derived = plan.derived.routes.get(position);
    Ok(Explanation {
        tenant: owner.name.clone(),
        batch: authored.batch,
        lanes: (authored.lanes, authored.threads),
        terms: Terms::of(application, owner, authored),
        objective,
        prediction: derived.map(|r| r.prediction.clone()).unwrap_or_default(),
        bottleneck: bottleneck(&route),
        batches_in_flight: derived.map_or(0, Route::batches_in_flight),
        devices: shares(&route, derived),
        segments: segment_views(graph, &route),
        boundaries: boundaries(graph, &route, objective),
        atoms: facts::atoms(graph, &route),
        flows: facts::flows(graph, &route),
        steps: step_views(graph, &route),
        loads: facts::loads(&route),
        pins: pins(&route.bench),
        report: plan.derived.reports.get(position).cloned(),
    })
}

/// The busiest lane's time a batch, and its name.
fn bottleneck(route: &Understood<'_>) -> (Nanos, String) {
    let busiest = route.problem.bottleneck(&route.timeline.busy);
    let is_busiest = |q: &usize| {
        let mut only = vec![Nanos::ZERO; route.problem.lane_count()];
        only[*q] = route.timeline.busy[*q];
        route.problem.bottleneck(&only) == busiest
    };
    let lane = (0..route.problem.lane_count()).find(is_busiest);
    (busiest, lane.map_or("", |q| route.problem.lane_name(q)).to_owned())
}

fn nodes_of(route: &Understood<'_>, segment: usize) -> Vec<NodeId> {
    let atoms = route.problem.atoms.iter().zip(&route.segments.of).filter(|(_, s)| **s as usize == segment);
    let mut nodes: Vec<NodeId> = atoms.flat_map(|(a, _)| a.nodes.iter().copied()).collect();
    nodes.sort_unstable();
    nodes
}

fn shares(route: &Understood<'_>, derived: Option<&Route>) -> Vec<DeviceShare> {
    let share = |(d, device): (usize, &DeviceModel)| DeviceShare {
        device: device.name.clone(),
        work: derived.and_then(|r| r.work.get(d).cloned()).unwrap_or_default(),
        memory: derived.and_then(|r| r.memory.get(d).cloned()).unwrap_or_default(),
        held: derived.map(|r| r.memory_bytes(d)).unwrap_or_default(),
        capacity: device.memory,
        busy: route.timeline.busy[d],
    };
    route.problem.devices.iter().enumerate().map(share).collect()
}

fn segment_views(graph: &Graph, route: &Understood<'_>) -> Vec<SegmentView> {
    let mut timing = vec![(Time::ZERO, Nanos::ZERO); route.segments.len()];
    for step in &route.timeline.steps {
        if let Work::Run(s) = step.work {
            timing[s] = (step.start, step.duration);
        }
    }
    let view = |s: usize| {
        let nodes = nodes_of(route, s);
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        nodes.iter().for_each(|n| *count.entry(graph.node(*n).op.to_string()).or_default() += 1);
        let mut operators: Vec<(String, usize)> = count.into_iter().collect();
        operators.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let device = &route.problem.devices[usize::from(route.segments.device[s])];
        let name = |n: Option<&NodeId>| n.map(|n| graph.node_name(*n)).unwrap_or_default();
        SegmentView {
            device: device.name.clone(),
            start: timing[s].0,
            duration: timing[s].1,
            launch: device.launch,
            operators,
            ends: (name(nodes.first()), name(nodes.last())),
        }
    };
    (0..route.segments.len()).map(view).collect()
}

fn step_views(graph: &Graph, route: &Understood<'_>) -> Vec<StepView> {
    let view = |step: &timeline::TimedStep| {
        let (label, segment) = match step.work {
            Work::Run(s) => (format!("segment {s}"), Some(s)),
            Work::Copy { value, .. } => (value_name(graph, route, value), None),
        };
        let lane = route.problem.lane_name(step.lane).to_owned();
        StepView { lane, label, segment, copy: facts::copy(step), start: step.start, duration: step.duration }
    };
    route.timeline.steps.iter().map(view).collect()
}

fn value_name(graph: &Graph, route: &Understood<'_>, value: usize) -> String {
    route.problem.values[value].tensor.map(|t| graph.tensor(t).name.clone()).unwrap_or_default()
}

fn pins(bench: &Workbench<'_>) -> Vec<Pin> {
    let left = |mask: u32| {
        let devices = bench.machine.devices.iter().enumerate().filter(|(d, _)| mask >> d & 1 == 1);
        devices.map(|(_, d)| d.name.clone()).collect()
    };
    let pin = |(reason, mask, nodes): &(String, u32, Vec<NodeId>)| Pin {
        reason: reason.clone(),
        devices: left(*mask),
        operators: nodes.len(),
        first: bench.graph.node_name(nodes[0]),
    };
    bench.pins.iter().map(pin).collect()
}

fn boundaries(graph: &Graph, route: &Understood<'_>, objective: Objective) -> Vec<Boundary> {
    let (problem, segments) = (&route.problem, &route.segments);
    let edge = |(from, to): (u32, u32)| {
        let (a, b) = (usize::from(segments.device[from as usize]), usize::from(segments.device[to as usize]));
        let crosses = |v: &usize| {
            let value = &problem.values[*v];
            value.producer.is_some_and(|p| segments.of[p] == from)
                && value.consumers.iter().any(|c| segments.of[*c] == to)
        };
        let value = |v: usize| {
            let copy = problem.copy(v, a, b).unwrap_or_default();
            (value_name(graph, route, v), problem.values[v].bytes, copy)
        };
        let values = (0..problem.values.len()).filter(crosses).map(value).collect();
        // The last atom before that feeds the other side, and the first one after that is fed.
        let before = (0..problem.atoms.len())
            .rev()
            .find(|x| segments.of[*x] == from && problem.succs(*x).iter().any(|s| segments.of[*s as usize] == to));
        let after = (0..problem.atoms.len())
            .find(|x| segments.of[*x] == to && problem.preds(*x).iter().any(|p| segments.of[*p as usize] == from));
        let moves = [before.map(|x| (x, to)), after.map(|x| (x, from))];
        let alternatives = moves.into_iter().flatten().map(|(x, to)| alternative(graph, route, objective, x, to));
        Boundary { from: from as usize, to: to as usize, values, alternatives: alternatives.collect() }
    };
    quotient(problem, &segments.of).into_iter().map(edge).collect()
}

/// What moving one atom to another segment does to the objective.
fn alternative(graph: &Graph, route: &Understood<'_>, objective: Objective, atom: usize, to: u32) -> Alternative {
    let (problem, segments) = (&route.problem, &route.segments);
    let here = usize::from(segments.device[segments.of[atom] as usize]);
    let there = usize::from(segments.device[to as usize]);
    let nodes = &problem.atoms[atom].nodes;
    let node = nodes.last().map(|n| graph.node_name(*n)).unwrap_or_default();
    let names: Vec<&str> = nodes.iter().take(3).map(|n| graph.node(*n).op.name.as_str()).collect();
    let more = if nodes.len() > 3 { "+.." } else { "" };
    Alternative {
        node,
        operators: names.join("+") + more,
        to: to as usize,
        times: (problem.time(atom, here), problem.time(atom, there)),
        moved: moved(route, objective, atom, to, there),
    }
}

fn moved(route: &Understood<'_>, objective: Objective, atom: usize, to: u32, there: usize) -> Moved {
    let (problem, segments) = (&route.problem, &route.segments);
    if problem.time(atom, there).is_none() {
        let nodes = &problem.atoms[atom].nodes;
        let pinned =
            route.bench.pins.iter().find(|(_, mask, pinned)| {
                mask >> there & 1 == 0 && pinned.iter().any(|n| nodes.binary_search(n).is_ok())
            });
        let reason = pinned.map_or_else(|| "its cost there is unknown".to_owned(), |p| p.0.clone());
        return Moved::Impossible(reason);
    }
    let mut of = segments.of.clone();
    of[atom] = to;
    let Some(other) = Segments::canonical(problem, &of, |s| segments.device[s as usize]) else {
        return Moved::Impossible("the two segments would wait for each other".into());
    };
    let value = |makespan: Nanos, busy: &[Nanos]| match objective {
        Objective::Latency => makespan.0,
        Objective::Throughput => problem.bottleneck(busy).0,
    };
    match timeline::evaluate(problem, &other) {
        Ok(t) => {
            let now = value(route.timeline.makespan, &route.timeline.busy);
            let change = i128::from(value(t.makespan, &t.busy)) - i128::from(now);
            Moved::By(i64::try_from(change).unwrap_or(i64::MAX))
        }
        Err(error) => Moved::Impossible(error.to_string()),
    }
}
