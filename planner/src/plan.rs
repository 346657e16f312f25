//! The entry: from graphs, a machine and a wish to a plan; and from a plan's authored part back to its derived one.
//!
//! [`plan`] searches every (batch, lanes, threads) of every tenant, writes the authored part, and lets [`rebuild`] derive the
//! rest: so a plan that is rebuilt from its own authored part has the same bytes.
//!
//! Latency of a request without a rate (planner.md section 4): collecting while the previous batch holds its busiest lane,
//! then the batch itself: max_q a_q + makespan. A CPU with n lanes counts a n-th, for n batches are in flight.

use std::collections::BTreeMap;

use rayon::prelude::*;

use tandem_ir::format::plan::authored_digest;
use tandem_ir::graph::{Graph, NodeId};
use tandem_ir::limits::BATCH_MAX;
use tandem_ir::machine::Machine;
use tandem_ir::plan::{
    Authored, AuthoredRoute, Batching, BoundDim, Derived, MethodReport, Objective, Part, Plan, PlannedGraph, Route,
    Serving, Tenant,
};
use tandem_ir::profile::Profile;
use tandem_ir::units::Nanos;
use tandem_ir::{Fingerprint, placement, segment};

use crate::bound;
use crate::build::{LaneConfig, Workbench};
use crate::emit::{self, RouteHead};
use crate::error::PlanError;
use crate::joint::{self, Joint};
use crate::problem::{HOST, Problem};
use crate::search::Method;
use crate::segments::Segments;
use crate::survey::{self, Searched};
use crate::timeline::{self, Timeline, TimelineError};

/// Percentile an SLO speaks of unless told: p99.
const PERCENTILE_PERMILLE: u64 = 990;

/// What to plan, for what: tenants, and what they all share.
#[derive(Clone, Debug)]
pub struct PlanInput<'a> {
    /// The machine.
    pub machine: &'a Machine,
    /// What was measured; devices it does not speak of are modelled from their rates.
    pub profile: Option<&'a Profile>,
    /// The profile's fingerprint, for provenance.
    pub profile_fingerprint: Fingerprint,
    /// What to reach.
    pub objective: Objective,
    /// How to search.
    pub search: Method,
    /// Candidates a search may score for each route.
    pub budget: u64,
    /// How requests become batches, for the plan.
    pub serving: Serving,
    /// tandem's version.
    pub tandem: String,
    /// The models; each becomes an application of its own.
    pub tenants: Vec<TenantInput<'a>>,
    /// How tenants are planned together, where they are.
    pub caution: Caution,
}

/// How much a joint search keeps back: chance takes its part of latencies, which the programs know nothing of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caution {
    /// Routes that a tenant's batches may be parted between.
    pub routes_max: usize,
    /// Part of each latency bound that routes may take, in per mille; below 1000 also the part of others' bounds that one
    /// of their steps may.
    pub slo_permille: u64,
}

impl Caution {
    /// From none to much, in the order worth trying.
    pub const LEVELS: [Caution; 5] = [
        Caution { routes_max: 3, slo_permille: 1000 },
        Caution { routes_max: 1, slo_permille: 1000 },
        Caution { routes_max: 1, slo_permille: 700 },
        Caution { routes_max: 1, slo_permille: 500 },
        Caution { routes_max: 1, slo_permille: 300 },
    ];
}

impl Default for Caution {
    fn default() -> Self {
        Self::LEVELS[0]
    }
}

impl<'a> PlanInput<'a> {
    /// A plan of these tenants with nothing special: costs modelled, throughput, every method.
    pub fn new(machine: &'a Machine, tenants: Vec<TenantInput<'a>>) -> Self {
        Self {
            machine,
            profile: None,
            profile_fingerprint: Fingerprint::of(b""),
            objective: Objective::default(),
            search: Method::default(),
            budget: BUDGET,
            serving: Serving::default(),
            tandem: String::new(),
            tenants,
            caution: Caution::default(),
        }
    }

    /// An error with the name of the tenant that it is about, where there are several.
    pub(crate) fn blame(&self, tenant: &TenantInput<'_>, error: PlanError) -> PlanError {
        match self.tenants.len() {
            1 => error,
            _ => PlanError::Tenant { tenant: tenant.name.clone(), error: Box::new(error) },
        }
    }
}

/// One model to plan.
#[derive(Clone, Debug)]
pub struct TenantInput<'a> {
    /// Name of the tenant, unique in the plan.
    pub name: String,
    /// Name of its application, unique in the plan.
    pub application: String,
    /// Model reference for the plan: `zoo:NAME`, or a path relative to the plan file.
    pub model: String,
    /// The imported model.
    pub graph: &'a Graph,
    /// Latency a request must meet.
    pub slo: Option<Nanos>,
    /// Percentile the SLO speaks of, in per mille.
    pub percentile_permille: u64,
    /// Requests a second it is planned for, in thousandths.
    pub millirate: Option<u64>,
    /// Batch sizes to choose from.
    pub batches: Vec<u64>,
    /// Dimensions of each input.
    pub shapes: BTreeMap<String, Vec<BoundDim>>,
    /// How batches are known to be sound; [`Batching::Refused`] leaves batch 1 only.
    pub batching: Batching,
    /// Author's pins.
    pub pins: Vec<Part>,
    /// Cores of the host that its lanes may take (see [`crate::shares`]); `None`: all of them.
    pub cores: Option<u32>,
    /// Only this lane configuration of the CPU.
    pub lanes: Option<LaneConfig>,
}

impl<'a> TenantInput<'a> {
    /// A tenant with nothing special, at batch 1: its model and application are called as it is.
    pub fn new(name: &str, graph: &'a Graph) -> Self {
        Self {
            name: name.to_owned(),
            application: name.to_owned(),
            model: name.to_owned(),
            graph,
            slo: None,
            percentile_permille: PERCENTILE_PERMILLE,
            millirate: None,
            batches: vec![1],
            shapes: BTreeMap::new(),
            batching: Batching::Inferred,
            pins: vec![],
            cores: None,
            lanes: None,
        }
    }
}

/// Candidates a search scores for each route unless told.
pub const BUDGET: u64 = 600;

/// What [`rebuild`] needs beside the authored part.
#[derive(Clone, Copy, Debug)]
pub struct RebuildInput<'a> {
    /// Graphs in the order of [`Authored::tenants`].
    pub graphs: &'a [&'a Graph],
    /// The machine.
    pub machine: &'a Machine,
    /// What was measured.
    pub profile: Option<&'a Profile>,
    /// The profile's fingerprint.
    pub profile_fingerprint: Fingerprint,
    /// tandem's version.
    pub tandem: &'a str,
    /// Reports to keep (those of the plan that is rebuilt unchanged, or of the search just made); empty: new ones that say
    /// only what was derived.
    pub reports: &'a [MethodReport],
    /// What was proven that no plan of these tenants exceeds (see [`tandem_ir::plan::Together`]).
    pub bound_ppm: Option<u64>,
}

/// Plans tenants: for throughput all together ([`crate::joint`]), where no cores were given to one alone; else each on the
/// cores its input says, the accelerators being each one's as though it were alone on them.
///
/// # Errors
/// See [`PlanError`]; [`PlanError::Infeasible`] with evidence where no route of a tenant meets its SLO or fits. With several
/// tenants, [`PlanError::Tenant`] says whose error it is.
pub fn plan(input: &PlanInput<'_>) -> Result<Plan, PlanError> {
    if input.machine.devices.is_empty() {
        return Err(PlanError::NoDevices);
    }
    let (searched, bound_ppm) = if joint::applies(input) {
        let Joint { tenants, bound_ppm } = joint::search(input)?;
        (tenants, Some(bound_ppm))
    } else {
        let searched = input.tenants.iter().map(|t| survey::search_tenant(input, t).map_err(|e| input.blame(t, e)));
        (searched.collect::<Result<Vec<_>, _>>()?, None)
    };
    let (mut applications, mut reports, mut makespans) = (vec![], vec![], vec![]);
    for Searched { application, routes } in searched {
        applications.push(application);
        for (report, makespan) in routes {
            reports.push(report);
            makespans.push(makespan);
        }
    }
    let authored = Authored {
        objective: input.objective,
        search: input.search.to_string(),
        applications,
        serving: input.serving.clone(),
    };
    let graphs: Vec<&Graph> = input.tenants.iter().map(|t| t.graph).collect();
    let derived = rebuild(
        &authored,
        &RebuildInput {
            graphs: &graphs,
            machine: input.machine,
            profile: input.profile,
            profile_fingerprint: input.profile_fingerprint,
            tandem: &input.tandem,
            reports: &reports,
            bound_ppm,
        },
    )?;
    for (route, makespan) in derived.routes.iter().zip(makespans) {
        assert_eq!(route.prediction.makespan, makespan, "what was searched is what was written");
    }
    joint::check_rates(&authored, &derived)?;
    Ok(Plan { authored, derived })
}

/// How a route is called in reports and evidence.
pub(crate) fn route_name(tenant: &str, batch: u64, config: LaneConfig) -> String {
    format!("{tenant} batch {batch}, {} x {} threads", config.lanes, config.threads)
}

/// What follows from the graph and the machine alone.
pub(crate) fn derived_report(
    bench: &Workbench<'_>,
    tenant: &str,
    problem: &Problem,
    config: LaneConfig,
) -> MethodReport {
    let mut notes = problem.notes.clone();
    for (reason, _, nodes) in &bench.pins {
        let first = bench.graph.node_name(nodes[0]);
        notes.push(match nodes.len() {
            1 => format!("\"{first}\": {reason}"),
            n => format!("{n} operators, the first \"{first}\": {reason}"),
        });
    }
    MethodReport {
        route: route_name(tenant, problem.batch, config),
        tried: vec![],
        chosen: "as authored".into(),
        stopped: "nothing was searched".into(),
        passes: bench.passes.iter().map(|p| (p.name.to_owned(), p.before, p.after)).collect(),
        notes,
    }
}

/// Derives the rest of a plan from its authored part: no search, no choice.
///
/// # Errors
/// What the authored part names and does not exist, or asks for and cannot be: see [`PlanError`].
pub fn rebuild(authored: &Authored, input: &RebuildInput<'_>) -> Result<Derived, PlanError> {
    if input.machine.devices.is_empty() {
        return Err(PlanError::NoDevices);
    }
    let (mut routes, mut reports, mut graphs) = (vec![], vec![], vec![]);
    for (t, tenant) in authored.tenants().enumerate() {
        let graph = *input.graphs.get(t).ok_or_else(|| PlanError::NoGraph { tenant: tenant.name.clone() })?;
        let bench = Workbench::new(graph, input.machine, input.profile, &tenant.pins)?;
        graphs.push(PlannedGraph { tenant: tenant.name.clone(), fingerprint: graph.fingerprint });
        let floor = floor(&bench, tenant, authored.objective);
        for route in &tenant.routes {
            let position = routes.len();
            let (mut derived, report) = derive(&bench, tenant, route, position)?;
            predict(&mut derived, authored.objective, &floor);
            routes.push(derived);
            reports.push(report);
        }
    }
    if !input.reports.is_empty() {
        reports = input.reports.to_vec();
    }
    let together = joint::together(authored, &routes, input.machine, input.bound_ppm);
    Ok(Derived {
        together,
        authored: authored_digest(authored),
        graphs,
        profile: input.profile_fingerprint,
        machine: input.machine.clone(),
        tandem: input.tandem.to_owned(),
        routes,
        reports,
    })
}

/// One authored route, understood: the problem it answers, its segments, its timeline.
pub(crate) struct Understood<'a> {
    /// The graph in groups that the placement does not part.
    pub(crate) bench: Workbench<'a>,
    pub(crate) problem: Problem,
    pub(crate) segments: Segments,
    pub(crate) timeline: Timeline,
    /// Authored part of each segment.
    pub(crate) parts: Vec<usize>,
    pub(crate) config: LaneConfig,
}

/// Understands one authored route, the plan's `position`-th.
pub(crate) fn understand<'a>(
    bench: &Workbench<'a>,
    route: &AuthoredRoute,
    position: usize,
) -> Result<Understood<'a>, PlanError> {
    let graph = bench.graph;
    if route.batch == 0 || route.batch > BATCH_MAX {
        return Err(PlanError::Batch { batch: route.batch, max: BATCH_MAX });
    }
    let labels = labels(graph, route, position)?;
    let formed = segment::form(graph, &labels);
    let mut segment_of = vec![usize::MAX; graph.nodes.len()];
    formed.iter().enumerate().for_each(|(s, (_, nodes))| nodes.iter().for_each(|n| segment_of[n.index()] = s));
    if let Some((a, b)) = crate::build::parted_pair(graph, &segment_of) {
        return Err(PlanError::Parted { route: position, from: graph.node_name(a), to: graph.node_name(b) });
    }
    let bench = bench.split(&segment_of);
    let config = LaneConfig { lanes: route.lanes, threads: route.threads };
    let problem = bench.problem(route.batch, config)?;
    let of: Vec<u32> = problem.atoms.iter().map(|a| segment_of[a.nodes[0].index()] as u32).collect();
    let device = |label: usize| {
        let name = &route.parts[label].device;
        bench.machine.device_index(name).ok_or_else(|| PlanError::UnknownDevice { device: name.clone() })
    };
    let devices: Vec<usize> = formed.iter().map(|(label, _)| device(*label)).collect::<Result<_, _>>()?;
    let timeline_error = |source| PlanError::Timeline { route: position, source };
    let segments = Segments::canonical(&problem, &of, |s| devices[s as usize] as u8);
    let segments = segments.ok_or_else(|| timeline_error(TimelineError::Cycle))?;
    let placed = segments.of.iter().enumerate().map(|(a, s)| (a, usize::from(segments.device[*s as usize])));
    if let Some((a, d)) = placed.into_iter().find(|(a, d)| problem.time(*a, *d).is_none()) {
        return Err(misplaced(&bench, position, problem.atoms[a].nodes[0], d));
    }
    let timeline = timeline::evaluate(&problem, &segments).map_err(timeline_error)?;
    let part_of = |s: usize| {
        let atom = segments.of.iter().position(|x| *x as usize == s).expect("no segment is empty");
        labels[problem.atoms[atom].nodes[0].index()]
    };
    let parts = (0..segments.len()).map(part_of).collect();
    Ok(Understood { bench, problem, segments, timeline, parts, config })
}

/// One route from its authored form.
fn derive(
    bench: &Workbench<'_>,
    tenant: &Tenant,
    route: &AuthoredRoute,
    position: usize,
) -> Result<(Route, MethodReport), PlanError> {
    let Understood { bench, problem, segments, timeline, parts, config } = understand(bench, route, position)?;
    let head = RouteHead { tenant: tenant.name.clone(), share_permille: route.share_permille, parts };
    let emitted = emit::route(head, bench.graph, &problem, &segments, &timeline);
    let mut emitted = emitted.map_err(|source| PlanError::Memory { route: position, source })?;
    let bottleneck = problem.bottleneck(&timeline.busy);
    emitted.prediction.latency_bound = bottleneck + timeline.makespan;
    let per_s = u128::from(route.batch) * 1_000_000_000_000 / u128::from(bottleneck.0.max(1));
    emitted.prediction.millirequests_per_s = u64::try_from(per_s).unwrap_or(u64::MAX);
    Ok((emitted, derived_report(&bench, &tenant.name, &problem, config)))
}

/// The part of every node; folded ones get part 0, which nobody reads.
fn labels(graph: &Graph, route: &AuthoredRoute, position: usize) -> Result<Vec<usize>, PlanError> {
    let expanded = placement::expand_parts(graph, &route.parts, "parts")
        .map_err(|findings| PlanError::Parts { route: position, findings })?;
    let mut labels = vec![0; graph.nodes.len()];
    for id in graph.placeable() {
        let unnamed = || PlanError::Unnamed { route: position, node: graph.node_name(id) };
        labels[id.index()] = expanded[id.index()].ok_or_else(unnamed)?;
    }
    Ok(labels)
}

fn misplaced(bench: &Workbench<'_>, route: usize, node: NodeId, device: usize) -> PlanError {
    let why = bench.pins.iter().find(|(_, mask, nodes)| mask >> device & 1 == 0 && nodes.binary_search(&node).is_ok());
    PlanError::Misplaced {
        route,
        node: bench.graph.node_name(node),
        device: bench.machine.devices[device].name.clone(),
        reason: why.map_or_else(|| "nothing is known of its cost there".into(), |(reason, _, _)| reason.clone()),
    }
}

/// Floors of what any plan of this tenant can reach, over its batches and all lane configurations.
struct Floor {
    /// Makespan at each batch.
    makespan: BTreeMap<u64, Nanos>,
    /// Busiest lane's time an item.
    item: Nanos,
}

fn floor(bench: &Workbench<'_>, tenant: &Tenant, objective: Objective) -> Floor {
    let configs = bench.lane_configs(bench.machine.devices[HOST].cores);
    let authored = tenant.routes.iter().map(|r| LaneConfig { lanes: r.lanes, threads: r.threads });
    // Floors leave interference out, so among configurations of equal threads the one with most lanes has the least.
    let mut most: BTreeMap<u32, u32> = BTreeMap::new();
    for LaneConfig { lanes, threads } in configs.into_iter().chain(authored) {
        most.entry(threads).and_modify(|n| *n = (*n).max(lanes)).or_insert(lanes);
    }
    let configs: Vec<LaneConfig> = most.into_iter().map(|(threads, lanes)| LaneConfig { lanes, threads }).collect();
    let batches: std::collections::BTreeSet<u64> =
        tenant.batches.iter().copied().chain(tenant.routes.iter().map(|r| r.batch)).collect();
    let points: Vec<(u64, LaneConfig)> = batches.iter().flat_map(|b| configs.iter().map(|c| (*b, *c))).collect();
    let of = |(batch, config): &(u64, LaneConfig)| -> Option<(u64, Nanos, Nanos)> {
        let problem = bench.undisturbed(*batch, *config).ok()?;
        Some(match objective {
            Objective::Latency => (*batch, bound::makespan(&problem), Nanos::ZERO),
            Objective::Throughput => (*batch, Nanos::ZERO, Nanos(bound::bottleneck(&problem).0 / batch)),
        })
    };
    let floors: Vec<(u64, Nanos, Nanos)> = points.par_iter().filter_map(of).collect();
    let mut makespan: BTreeMap<u64, Nanos> = BTreeMap::new();
    for (batch, floor, _) in &floors {
        makespan.entry(*batch).and_modify(|m| *m = (*m).min(*floor)).or_insert(*floor);
    }
    Floor { makespan, item: floors.iter().map(|f| f.2).min().unwrap_or(Nanos::ZERO) }
}

/// Fills in bound and gap.
fn predict(route: &mut Route, objective: Objective, floor: &Floor) {
    let prediction = &mut route.prediction;
    let (value, floor) = match objective {
        Objective::Latency => (prediction.makespan.0, floor.makespan.get(&route.batch).copied().unwrap_or(Nanos::ZERO)),
        Objective::Throughput => {
            let busiest = prediction.latency_bound.saturating_sub(prediction.makespan);
            (busiest.0.div_ceil(route.batch), floor.item)
        }
    };
    prediction.lower_bound = floor;
    let over = u128::from(value.saturating_sub(floor.0)) * 1_000_000;
    prediction.gap_ppm = match floor.0 {
        0 => {
            if value == 0 {
                0
            } else {
                u64::MAX
            }
        }
        floor => u64::try_from(over / u128::from(floor)).unwrap_or(u64::MAX),
    };
}
