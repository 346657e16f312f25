//! Facts of a route beside its segments: what was asked of it, its operators with what flows between them, its lanes.

use tandem_ir::format::scalar::Rate;
use tandem_ir::graph::Graph;
use tandem_ir::plan::{Application, AuthoredRoute, Batching, Objective, Plan, Tenant};
use tandem_ir::units::{Bytes, Nanos};

use super::{Explanation, value_name};
use crate::plan::Understood;
use crate::timeline::{TimedStep, Work};

/// What a plan is for, whichever tenant is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    /// Short name of the machine.
    pub machine: String,
    /// One line about it.
    pub description: String,
    /// What the search tried to reach.
    pub objective: Objective,
    /// How it searched.
    pub search: String,
    /// How requests become batches.
    pub serving: String,
    /// Version of tandem that made the plan.
    pub tandem: String,
    /// Tenants of the plan, explained or not.
    pub tenants: usize,
    /// What they carry together, in words; empty of one.
    pub together: Vec<String>,
    /// Name and memory of each device, and what all routes of the plan hold of it.
    pub memory: Vec<(String, Bytes, Bytes)>,
}

/// What is asked of a route's tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Name of its application.
    pub application: String,
    /// Where its model is from.
    pub model: String,
    /// Latency a request must meet.
    pub slo: Option<Nanos>,
    /// Percentile that speaks of, in per mille.
    pub percentile_permille: u64,
    /// Requests a second it is planned for, in thousandths.
    pub millirate: Option<u64>,
    /// Share of the tenant's batches that take this route, in per mille; 0: kept for smaller queues.
    pub share_permille: u64,
    /// How batches are known to be sound, in words.
    pub batching: String,
}

/// Operators that an engine runs as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtomView {
    /// Position of its segment.
    pub segment: usize,
    /// What it takes there, launch of the segment left out.
    pub duration: Nanos,
    /// Name and type of its operators, in the graph's order.
    pub operators: Vec<(String, String)>,
}

/// A value that atoms hand to each other, get from the caller, or give back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: Bytes,
    /// Position of the atom that makes it; `None`: the caller does.
    pub from: Option<usize>,
    /// Positions of the atoms that read it.
    pub to: Vec<usize>,
    /// Whether the caller gets it.
    pub output: bool,
}

/// A value on its way from one device to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyView {
    /// Position in [`Explanation::flows`].
    pub flow: usize,
    /// Position of the device it comes from.
    pub from: usize,
    /// Position of the device it goes to.
    pub to: usize,
}

/// What one batch asks of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneLoad {
    /// Its name.
    pub lane: String,
    /// Busy time a batch.
    pub busy: Nanos,
    /// How much of the time it is busy while batches follow each other as fast as the busiest lane lets them, in per mille.
    pub share_permille: u64,
    /// True for a link's.
    pub link: bool,
}

/// What the tenants of a plan carry together: as routes would have it, as a simulation bore it, as nothing can exceed it;
/// and what is busy then. Empty of one tenant.
pub fn together(plan: &Plan) -> Vec<String> {
    let Some(together) = &plan.derived.together else { return vec![] };
    let rates: Vec<Option<u64>> = plan.authored.tenants().map(|t| t.millirate).collect();
    let is_stated = rates.iter().any(Option::is_some);
    let of = |ppm: u64| match is_stated {
        true => format!("{:.1} % of the rates", ppm as f64 / 1e4),
        // Where none is stated, each is taken to want one a second.
        false => format!("{} requests/s of each", Rate(ppm / 1000)),
    };
    let mut line = format!("together: {} at most", of(together.carried_ppm));
    if let Some(ppm) = together.verified_ppm {
        line += &format!("; {} with random arrivals, by simulation", of(ppm));
    }
    if let (Some(bound), Some(gap)) = (together.bound_ppm, together.gap_ppm()) {
        line += &format!("; proven: no plan carries more than {}, {:.1} % over it", of(bound), gap as f64 / 1e4);
    }
    let busy = |(lane, ppm): &(String, u64)| format!("{lane} {:.1} %", *ppm as f64 / 1e4);
    let busy: Vec<String> = together.busy_ppm.iter().map(busy).collect();
    vec![line, format!("busy then: {}", busy.join(", "))]
}

impl Overview {
    /// Of a plan.
    pub fn of(plan: &Plan) -> Self {
        let machine = &plan.derived.machine;
        let held = |d: usize| plan.derived.routes.iter().map(|r| r.memory_bytes(d)).sum();
        let memory =
            machine.devices.iter().enumerate().map(|(d, device)| (device.name.clone(), device.memory, held(d)));
        Self {
            machine: machine.name.clone(),
            description: machine.description.clone(),
            objective: plan.authored.objective,
            search: plan.authored.search.clone(),
            serving: plan.authored.serving.to_string(),
            tandem: plan.derived.tandem.clone(),
            tenants: plan.authored.tenants().count(),
            together: together(plan),
            memory: memory.collect(),
        }
    }
}

impl Terms {
    pub(super) fn of(application: &Application, tenant: &Tenant, route: &AuthoredRoute) -> Self {
        Self {
            application: application.name.clone(),
            model: tenant.model.clone(),
            slo: application.slo,
            percentile_permille: application.percentile_permille,
            millirate: tenant.millirate,
            share_permille: route.share_permille,
            batching: match &tenant.batching {
                Batching::Proven => "proven: a batch was seen to equal its rows".into(),
                Batching::Inferred => "inferred from shapes alone".into(),
                Batching::Insisted => "insisted on by the author".into(),
                Batching::Refused(why) => format!("refused, batch 1 only: {why}"),
            },
        }
    }
}

pub(super) fn atoms(graph: &Graph, route: &Understood<'_>) -> Vec<AtomView> {
    let view = |(atom, segment): (usize, &u32)| {
        let nodes = &route.problem.atoms[atom].nodes;
        let device = usize::from(route.segments.device[*segment as usize]);
        AtomView {
            segment: *segment as usize,
            duration: route.problem.time(atom, device).unwrap_or_default(),
            operators: nodes.iter().map(|n| (graph.node_name(*n), graph.node(*n).op.to_string())).collect(),
        }
    };
    route.segments.of.iter().enumerate().map(view).collect()
}

pub(super) fn flows(graph: &Graph, route: &Understood<'_>) -> Vec<Flow> {
    let view = |(v, value): (usize, &crate::problem::Value)| Flow {
        name: value_name(graph, route, v),
        bytes: value.bytes,
        from: value.producer,
        to: value.consumers.clone(),
        output: value.output,
    };
    route.problem.values.iter().enumerate().map(view).collect()
}

pub(super) fn copy(step: &TimedStep) -> Option<CopyView> {
    match step.work {
        Work::Run(_) => None,
        Work::Copy { value, from, to } => Some(CopyView { flow: value, from, to }),
    }
}

/// Lanes that do something.
pub(super) fn loads(route: &Understood<'_>) -> Vec<LaneLoad> {
    let (problem, busy) = (&route.problem, &route.timeline.busy);
    let period = problem.bottleneck(busy).0.max(1);
    let load = |q: usize| {
        let instances = problem.devices.get(q).map_or(1, |d| u128::from(d.lanes.max(1)));
        let share = u128::from(busy[q].0) * 1000 / (u128::from(period) * instances);
        LaneLoad {
            lane: problem.lane_name(q).to_owned(),
            busy: busy[q],
            share_permille: u64::try_from(share).unwrap_or(u64::MAX),
            link: q >= problem.devices.len(),
        }
    };
    (0..problem.lane_count()).filter(|q| busy[*q] > Nanos::ZERO).map(load).collect()
}

impl Explanation {
    /// Position of a segment's device.
    pub(super) fn device_of(&self, segment: usize) -> Option<usize> {
        let segment = self.segments.get(segment)?;
        self.devices.iter().position(|d| d.device == segment.device)
    }

    /// Whether the latency bound keeps to the objective; `None` without one.
    pub fn within_slo(&self) -> Option<bool> {
        self.terms.slo.map(|slo| self.prediction.latency_bound <= slo)
    }
}
