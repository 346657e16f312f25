//! The entry: from a graph, a machine and a wish to a plan; and from a plan's authored part back to its derived one.
//!
//! [`plan`] searches every (batch, lanes, threads), writes the authored part, and lets [`rebuild`] derive the rest: so a plan
//! that is rebuilt from its own authored part has the same bytes.
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
    Application, Authored, AuthoredRoute, Batching, BoundDim, Derived, MethodReport, Objective, Part, Plan,
    PlannedGraph, Route, Serving, Tenant,
};
use tandem_ir::profile::Profile;
use tandem_ir::units::Nanos;
use tandem_ir::{Fingerprint, placement, segment};

use crate::bound;
use crate::build::{LaneConfig, Workbench};
use crate::emit::{self, RouteHead};
use crate::error::{Infeasible, PlanError};
use crate::problem::Problem;
use crate::search::{self, Found, Goal, Method};
use crate::segments::Segments;
use crate::timeline::{self, Timeline, TimelineError};

/// Percentile an SLO speaks of unless told: p99.
const PERCENTILE_PERMILLE: u64 = 990;

/// What to plan, for what.
#[derive(Clone, Debug)]
pub struct PlanInput<'a> {
    /// Name of the tenant.
    pub tenant: String,
    /// Model reference for the plan: `zoo:NAME`, or a path relative to the plan file.
    pub model: String,
    /// The imported model.
    pub graph: &'a Graph,
    /// The machine.
    pub machine: &'a Machine,
    /// What was measured; devices it does not speak of are modelled from their rates.
    pub profile: Option<&'a Profile>,
    /// The profile's fingerprint, for provenance.
    pub profile_fingerprint: Fingerprint,
    /// Latency a request must meet.
    pub slo: Option<Nanos>,
    /// Batch sizes to choose from.
    pub batches: Vec<u64>,
    /// What to reach.
    pub objective: Objective,
    /// How to search.
    pub search: Method,
    /// Dimensions of each input.
    pub shapes: BTreeMap<String, Vec<BoundDim>>,
    /// How batches are known to be sound; [`Batching::Refused`] leaves batch 1 only.
    pub batching: Batching,
    /// Author's pins.
    pub pins: Vec<Part>,
    /// Candidates a search may score for each route.
    pub budget: u64,
    /// Only this lane configuration of the CPU.
    pub lanes: Option<LaneConfig>,
    /// tandem's version.
    pub tandem: String,
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
}

/// One point that was searched.
struct Point {
    batch: u64,
    config: LaneConfig,
    problem: Problem,
    found: Found,
}

impl Point {
    fn key(&self, goal: Goal) -> (search::Key, u64, LaneConfig) {
        let (excess, late, first, second, total) = goal.key(&self.found.best.score);
        // A throughput is items a time: the busiest lane's time is compared by item. Scaled so that division loses little.
        let item = |ns: u64| u64::try_from(u128::from(ns) * 1_000_000 / u128::from(self.batch)).unwrap_or(u64::MAX);
        let key = match goal.objective {
            Objective::Latency => (excess, late, first, second, total),
            Objective::Throughput => (excess, late, item(first), second, total),
        };
        (key, self.batch, self.config)
    }
}

/// Plans one tenant.
///
/// # Errors
/// See [`PlanError`]; [`PlanError::Infeasible`] with evidence where no route meets the SLO or fits.
pub fn plan(input: &PlanInput<'_>) -> Result<(Plan, Vec<MethodReport>), PlanError> {
    let (batches, mut notes) = batches(input)?;
    let bench = Workbench::new(input.graph, input.machine, input.profile, &input.pins)?;
    let goal = Goal { objective: input.objective, slo: input.slo };
    let configs = input.lanes.map_or_else(|| bench.lane_configs(), |c| vec![c]);
    let points = survey(&bench, input, goal, &batches, &configs, &mut notes)?;
    let chosen = points.iter().min_by_key(|p| p.key(goal)).expect("there are points");
    let (excess, late, ..) = goal.key(&chosen.found.best.score);
    if excess > 0 || late > 0 {
        return Err(PlanError::Infeasible(Box::new(infeasible(input, &bench, &points, &batches, &configs)?)));
    }
    let (config, batch) = (chosen.config, chosen.batch);
    let mut kept: Vec<&Point> = points.iter().filter(|p| p.config == config).collect();
    kept.retain(|p| {
        let key = goal.key(&p.found.best.score);
        key.0 == 0 && key.1 == 0
    });
    kept.sort_by_key(|p| p.batch);
    let authored = author(input, &batches, &kept, batch);
    let reports: Vec<MethodReport> = kept.iter().map(|p| report(&bench, &input.tenant, p, &notes)).collect();
    let rebuilt = rebuild(
        &authored,
        &RebuildInput {
            graphs: &[input.graph],
            machine: input.machine,
            profile: input.profile,
            profile_fingerprint: input.profile_fingerprint,
            tandem: &input.tandem,
            reports: &reports,
        },
    )?;
    for (route, point) in rebuilt.routes.iter().zip(&kept) {
        assert_eq!(route.prediction.makespan, point.found.best.score.makespan, "what was searched is what was written");
    }
    Ok((Plan { authored, derived: rebuilt }, reports))
}

/// Lane configurations that are searched in full after all were looked at with the cheap methods.
const CONFIGS_SEARCHED: usize = 3;

/// Searches the tenant's batches at the lane configurations that the cheap methods rank best.
///
/// With an SLO at the least latency this finds, the same configurations are searched (those that are late rank by how late
/// they are, whatever the SLO), so [`infeasible`]'s nearest SLO is true.
fn survey(
    bench: &Workbench<'_>,
    input: &PlanInput<'_>,
    goal: Goal,
    batches: &[u64],
    configs: &[LaneConfig],
    notes: &mut Vec<String>,
) -> Result<Vec<Point>, PlanError> {
    let wanted: Vec<(u64, LaneConfig)> = batches.iter().flat_map(|b| configs.iter().map(|c| (*b, *c))).collect();
    let auto = input.search == Method::Auto;
    // Without a budget, auto stops before local search.
    let first = PlanInput { budget: if auto { 0 } else { input.budget }, ..input.clone() };
    let looked: Vec<Result<Point, PlanError>> =
        wanted.par_iter().map(|(batch, config)| point(bench, &first, goal, *batch, *config)).collect();
    let (mut points, mut failure) = (vec![], None);
    for (result, (batch, _)) in looked.into_iter().zip(&wanted) {
        match result {
            Ok(point) => points.push(point),
            Err(PlanError::NoInterference { device, lanes, threads }) if configs.len() > 1 => {
                if *batch == batches[0] {
                    let what = "left out, for its interference is neither measured nor modelled";
                    notes.push(format!("{lanes} lanes of {threads} threads on {device}: {what}"));
                }
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    if points.is_empty() {
        return Err(failure.unwrap_or(PlanError::NoBatches));
    }
    if !auto {
        return Ok(points);
    }
    let mut ranked: Vec<(search::Key, u64, LaneConfig)> = points.iter().map(|p| p.key(goal)).collect();
    ranked.sort_unstable();
    let mut kept: Vec<LaneConfig> = vec![];
    for (_, _, config) in ranked {
        if kept.len() < CONFIGS_SEARCHED && !kept.contains(&config) {
            kept.push(config);
        }
    }
    points.retain(|p| kept.contains(&p.config));
    let full = |p: Point| {
        let Point { batch, config, problem, .. } = p;
        search_point(bench, input, goal, batch, config, problem)
    };
    points.into_par_iter().map(full).collect()
}

fn point(
    bench: &Workbench<'_>,
    input: &PlanInput<'_>,
    goal: Goal,
    batch: u64,
    config: LaneConfig,
) -> Result<Point, PlanError> {
    let problem = bench.problem(batch, config)?;
    search_point(bench, input, goal, batch, config, problem)
}

fn search_point(
    bench: &Workbench<'_>,
    input: &PlanInput<'_>,
    goal: Goal,
    batch: u64,
    config: LaneConfig,
    problem: Problem,
) -> Result<Point, PlanError> {
    let mut found = search::search(&problem, input.search, goal, input.budget)?;
    // The search counts constants alone; what is alive while a route runs is known once it is written.
    let over = lacking(bench, &problem, &found.best.segments, config);
    if over > 0 && input.search == Method::Auto {
        let singles = (0..problem.devices.len()).flat_map(|d| search::single(&problem, d));
        let fits = singles.filter(|c| lacking(bench, &problem, &c.segments, config) == 0);
        if let Some(best) = fits.min_by_key(|c| goal.key(&c.score)) {
            found.best = best;
            found.chosen = "one device, for the best placement does not fit in memory".into();
            return Ok(Point { batch, config, problem, found });
        }
    }
    found.best.score.excess += over;
    Ok(Point { batch, config, problem, found })
}

/// Bytes that lack when every lane has a batch in flight.
fn lacking(bench: &Workbench<'_>, problem: &Problem, segments: &Segments, config: LaneConfig) -> u64 {
    let Ok(timeline) = timeline::evaluate(problem, segments) else { return 0 };
    let head = RouteHead { tenant: String::new(), share_permille: 0, parts: vec![] };
    let route = emit::route(head, bench.graph, problem, segments, &timeline);
    let over = |(used, device): (&tandem_ir::plan::MemoryUse, &crate::problem::DeviceModel)| {
        let peak = used.peak.0.saturating_mul(u64::from(config.lanes.max(1)));
        used.weights.0.saturating_add(peak).saturating_sub(device.memory.0)
    };
    route.memory.iter().zip(&problem.devices).map(over).sum()
}

/// The batch sizes to try, ascending, and why there are fewer than asked for.
fn batches(input: &PlanInput<'_>) -> Result<(Vec<u64>, Vec<String>), PlanError> {
    let mut batches = input.batches.clone();
    batches.sort_unstable();
    batches.dedup();
    if let Some(batch) = batches.iter().find(|b| **b == 0 || **b > BATCH_MAX) {
        return Err(PlanError::Batch { batch: *batch, max: BATCH_MAX });
    }
    let mut notes = vec![];
    if let Batching::Refused(reason) = &input.batching {
        if batches != [1] {
            notes.push(format!("planned at batch 1 only: {reason}"));
        }
        batches = vec![1];
    }
    if batches.is_empty() {
        return Err(PlanError::NoBatches);
    }
    Ok((batches, notes))
}

fn author(input: &PlanInput<'_>, batches: &[u64], kept: &[&Point], chosen: u64) -> Authored {
    let routes = kept.iter().map(|p| AuthoredRoute {
        batch: p.batch,
        lanes: p.config.lanes,
        threads: p.config.threads,
        share_permille: if p.batch == chosen { 1000 } else { 0 },
        parts: parts(input.graph, &p.problem, &p.found.best.segments),
    });
    let tenant = Tenant {
        name: input.tenant.clone(),
        model: input.model.clone(),
        shapes: input.shapes.clone(),
        millirate: None,
        batching: input.batching.clone(),
        batches: batches.to_vec(),
        pins: input.pins.clone(),
        routes: routes.collect(),
    };
    let application = Application {
        name: input.tenant.clone(),
        slo: input.slo,
        percentile_permille: PERCENTILE_PERMILLE,
        tenants: vec![tenant],
        edges: vec![],
    };
    Authored {
        objective: input.objective,
        search: input.search.to_string(),
        applications: vec![application],
        serving: Serving::default(),
    }
}

/// One part a segment, so that `segment::form` gives the same segments back: pieces of a segment have only pieces of itself
/// between them, for the graph of segments is acyclic.
fn parts(graph: &Graph, problem: &Problem, segments: &Segments) -> Vec<Part> {
    let mut part_of = vec![None; graph.nodes.len()];
    for (atom, s) in problem.atoms.iter().zip(&segments.of) {
        atom.nodes.iter().for_each(|n| part_of[n.index()] = Some(*s as usize));
    }
    let devices: Vec<String> = segments.device.iter().map(|d| problem.devices[usize::from(*d)].name.clone()).collect();
    placement::parts_of(graph, &part_of, &devices)
}

fn route_name(tenant: &str, batch: u64, config: LaneConfig) -> String {
    format!("{tenant} batch {batch}, {} x {} threads", config.lanes, config.threads)
}

fn report(bench: &Workbench<'_>, tenant: &str, point: &Point, notes: &[String]) -> MethodReport {
    let Found { tried, chosen, stopped, .. } = &point.found;
    let mut report = derived_report(bench, tenant, &point.problem, point.config);
    report.notes.extend(notes.iter().cloned());
    (report.tried, report.chosen, report.stopped) = (tried.clone(), chosen.clone(), stopped.clone());
    report
}

/// What follows from the graph and the machine alone.
fn derived_report(bench: &Workbench<'_>, tenant: &str, problem: &Problem, config: LaneConfig) -> MethodReport {
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

/// Why nothing is admissible, and the smallest SLO for which the same search finds something.
fn infeasible(
    input: &PlanInput<'_>,
    bench: &Workbench<'_>,
    points: &[Point],
    batches: &[u64],
    configs: &[LaneConfig],
) -> Result<Infeasible, PlanError> {
    // At an SLO of zero everything is late, and the search ranks by how late: it finds the least latency it can find. With
    // the SLO at that latency it takes the same way until there, and with a nanosecond less it never arrives.
    let goal = Goal { objective: input.objective, slo: Some(Nanos::ZERO) };
    let again = survey(bench, input, goal, batches, configs, &mut vec![])?;
    let fits = again.iter().filter(|p| p.found.best.score.excess == 0);
    let best = fits.map(|p| (Goal::latency(&p.found.best.score), p.batch)).min();
    let over = points.iter().map(|p| p.found.best.score.excess).min().filter(|o| *o > 0);
    let mut evidence = vec![];
    for (d, device) in bench.machine.devices.iter().enumerate() {
        let alone = points.iter().filter_map(|p| search::single(&p.problem, d).pop().map(|c| (p, c)));
        let least = alone.filter(|(_, c)| c.score.excess == 0).min_by_key(|(_, c)| Goal::latency(&c.score));
        evidence.push(match least {
            Some((p, c)) => format!(
                "{} alone: at best {} at {} ({} collecting, {} executing)",
                device.name,
                Goal::latency(&c.score),
                route_name(&input.tenant, p.batch, p.config),
                c.score.bottleneck,
                c.score.makespan
            ),
            None => format!("{} alone: cannot hold or cannot run the model", device.name),
        });
    }
    Ok(Infeasible {
        slo: input.slo,
        evidence,
        nearest_slo: best.map(|b| b.0),
        best_batch: best.map(|b| b.1),
        bytes_over: over.filter(|_| best.is_none()).map(tandem_ir::Bytes),
    })
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
    Ok(Derived {
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
    let mut emitted = emit::route(head, bench.graph, &problem, &segments, &timeline);
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
    let configs = bench.lane_configs();
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
