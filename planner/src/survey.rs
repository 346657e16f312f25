//! The search of one tenant: every (batch, lanes, threads) it may use is a point, and each point a search of its own.
//!
//! All points are looked at with the cheap methods; the lane configurations they rank best are searched in full. One
//! configuration serves: the batches that meet the SLO at it become routes.

use rayon::prelude::*;

use tandem_ir::graph::Graph;
use tandem_ir::limits::BATCH_MAX;
use tandem_ir::placement;
use tandem_ir::plan::{Application, AuthoredRoute, Batching, MethodReport, Objective, Part, Tenant};
use tandem_ir::units::{Bytes, Nanos};

use crate::build::{LaneConfig, Workbench};
use crate::emit::{self, RouteHead};
use crate::error::{Infeasible, PlanError};
use crate::plan::{PlanInput, TenantInput, derived_report, route_name};
use crate::problem::{DeviceModel, HOST, Problem};
use crate::search::{self, Found, Goal, Method};
use crate::segments::Segments;
use crate::timeline;

/// Lane configurations that are searched in full after all were looked at with the cheap methods.
const CONFIGS_SEARCHED: usize = 3;

/// A tenant's routes, chosen.
pub(crate) struct Searched {
    /// The application of this tenant alone, with the authored routes.
    pub(crate) application: Application,
    /// What the search did, and the makespan it found, of each route.
    pub(crate) routes: Vec<(MethodReport, Nanos)>,
}

/// Searches one tenant of the input on the cores that are its own.
pub(crate) fn search_tenant(input: &PlanInput<'_>, tenant: &TenantInput<'_>) -> Result<Searched, PlanError> {
    let (batches, mut notes) = batches(tenant)?;
    let bench = Workbench::new(tenant.graph, input.machine, input.profile, &tenant.pins)?;
    let host = &input.machine.devices[HOST];
    let cores = tenant.cores.unwrap_or(host.cores).clamp(1, host.cores.max(1));
    if cores < host.cores {
        notes.push(format!("planned alone, on {cores} of {} cores", host.cores));
    }
    let configs = tenant.lanes.map_or_else(|| bench.lane_configs(cores), |c| vec![c]);
    let survey = Survey { bench, input, tenant, batches, configs };
    let goal = Goal { objective: input.objective, slo: tenant.slo };
    let points = survey.points(goal, &mut notes)?;
    let chosen = points.iter().min_by_key(|p| p.key(goal)).expect("there are points");
    if !chosen.is_admissible(goal) {
        return Err(PlanError::Infeasible(Box::new(survey.infeasible(&points)?)));
    }
    let mut kept: Vec<&Point> = points.iter().filter(|p| p.config == chosen.config && p.is_admissible(goal)).collect();
    kept.sort_by_key(|p| p.batch);
    let report = |p: &&Point| (survey.report(p, &notes), p.found.best.score.makespan);
    Ok(Searched { application: survey.application(&kept, chosen.batch), routes: kept.iter().map(report).collect() })
}

/// The batch sizes to try, ascending, and why there are fewer than asked for.
pub(crate) fn batches(tenant: &TenantInput<'_>) -> Result<(Vec<u64>, Vec<String>), PlanError> {
    let mut batches = tenant.batches.clone();
    batches.sort_unstable();
    batches.dedup();
    if let Some(batch) = batches.iter().find(|b| **b == 0 || **b > BATCH_MAX) {
        return Err(PlanError::Batch { batch: *batch, max: BATCH_MAX });
    }
    let mut notes = vec![];
    if let Batching::Refused(reason) = &tenant.batching {
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

    /// Whether it fits in memory and meets the SLO.
    fn is_admissible(&self, goal: Goal) -> bool {
        let (excess, late, ..) = goal.key(&self.found.best.score);
        excess == 0 && late == 0
    }
}

/// One tenant and the points it may choose from.
struct Survey<'a> {
    bench: Workbench<'a>,
    input: &'a PlanInput<'a>,
    tenant: &'a TenantInput<'a>,
    batches: Vec<u64>,
    configs: Vec<LaneConfig>,
}

impl Survey<'_> {
    /// Searches the batches at the lane configurations that the cheap methods rank best.
    ///
    /// With an SLO at the least latency this finds, the same configurations are searched (those that are late rank by how
    /// late they are, whatever the SLO), so the nearest SLO of [`Survey::infeasible`] is true.
    fn points(&self, goal: Goal, notes: &mut Vec<String>) -> Result<Vec<Point>, PlanError> {
        let wanted: Vec<(u64, LaneConfig)> =
            self.batches.iter().flat_map(|b| self.configs.iter().map(|c| (*b, *c))).collect();
        let auto = self.input.search == Method::Auto;
        // Without a budget, auto stops before local search.
        let budget = if auto { 0 } else { self.input.budget };
        let look = |(batch, config): &(u64, LaneConfig)| -> Result<Point, PlanError> {
            self.search(goal, budget, *config, self.bench.problem(*batch, *config)?)
        };
        let looked: Vec<Result<Point, PlanError>> = wanted.par_iter().map(look).collect();
        let (mut points, mut failure) = (vec![], None);
        for (result, (batch, _)) in looked.into_iter().zip(&wanted) {
            match result {
                Ok(point) => points.push(point),
                Err(PlanError::NoInterference { device, lanes, threads }) if self.configs.len() > 1 => {
                    if *batch == self.batches[0] {
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
        let full = |p: Point| self.search(goal, self.input.budget, p.config, p.problem);
        points.into_par_iter().map(full).collect()
    }

    fn search(&self, goal: Goal, budget: u64, config: LaneConfig, problem: Problem) -> Result<Point, PlanError> {
        let (search, batch) = (self.input.search, problem.batch);
        let mut found = search::search(&problem, search, goal, budget)?;
        // The search counts constants alone; what else a route needs is known once it is written.
        let lacking = self.lacking(&problem, &found.best.segments);
        if lacking > 0 && search == Method::Auto {
            let singles = (0..problem.devices.len()).flat_map(|d| search::single(&problem, d));
            let fits = singles.filter(|c| self.lacking(&problem, &c.segments) == 0);
            if let Some(best) = fits.min_by_key(|c| goal.key(&c.score)) {
                found.best = best;
                found.chosen = "one device, for the best placement does not fit in memory".into();
                found.best.score.excess = 0;
                return Ok(Point { batch, config, problem, found });
            }
        }
        found.best.score.excess = lacking;
        Ok(Point { batch, config, problem, found })
    }

    /// Bytes that lack with as many batches in flight as the runtime keeps.
    fn lacking(&self, problem: &Problem, segments: &Segments) -> u64 {
        let Ok(timeline) = timeline::evaluate(problem, segments) else { return 0 };
        let head = RouteHead { tenant: String::new(), share_permille: 0, parts: vec![] };
        let Ok(route) = emit::route(head, self.tenant.graph, problem, segments, &timeline) else { return u64::MAX };
        let over = |(d, device): (usize, &DeviceModel)| route.memory_bytes(d).saturating_sub(device.memory);
        problem.devices.iter().enumerate().map(over).sum::<Bytes>().0
    }

    fn application(&self, kept: &[&Point], chosen: u64) -> Application {
        let tenant = self.tenant;
        let routes = kept.iter().map(|p| {
            let share = if p.batch == chosen { 1000 } else { 0 };
            authored_route(tenant.graph, &p.problem, &p.found.best.segments, p.config, share)
        });
        application_of(tenant, &self.batches, routes.collect())
    }

    fn report(&self, point: &Point, notes: &[String]) -> MethodReport {
        let Found { tried, chosen, stopped, .. } = &point.found;
        let mut report = derived_report(&self.bench, &self.tenant.name, &point.problem, point.config);
        report.notes.extend(notes.iter().cloned());
        (report.tried, report.chosen, report.stopped) = (tried.clone(), chosen.clone(), stopped.clone());
        report
    }

    /// Why nothing is admissible, and the smallest SLO for which the same search finds something.
    fn infeasible(&self, points: &[Point]) -> Result<Infeasible, PlanError> {
        // At an SLO of zero everything is late, and the search ranks by how late: it finds the least latency it can find.
        // With the SLO at that latency it takes the same way until there, and with a nanosecond less it never arrives.
        let goal = Goal { objective: self.input.objective, slo: Some(Nanos::ZERO) };
        let again = self.points(goal, &mut vec![])?;
        let fits = again.iter().filter(|p| p.found.best.score.excess == 0);
        let best = fits.map(|p| (Goal::latency(&p.found.best.score), p.batch)).min();
        let over = points.iter().map(|p| p.found.best.score.excess).min().filter(|o| *o > 0);
        let mut evidence = vec![];
        for (d, device) in self.input.machine.devices.iter().enumerate() {
            let alone = points.iter().filter_map(|p| search::single(&p.problem, d).pop().map(|c| (p, c)));
            let fits = alone.filter(|(p, c)| self.lacking(&p.problem, &c.segments) == 0);
            let least = fits.min_by_key(|(_, c)| Goal::latency(&c.score));
            evidence.push(match least {
                Some((p, c)) => format!(
                    "{} alone: at best {} at {} ({} collecting, {} executing)",
                    device.name,
                    Goal::latency(&c.score),
                    route_name(&self.tenant.name, p.batch, p.config),
                    c.score.bottleneck,
                    c.score.makespan
                ),
                None => format!("{} alone: cannot hold or cannot run the model", device.name),
            });
        }
        Ok(Infeasible {
            slo: self.tenant.slo,
            evidence,
            nearest_slo: best.map(|b| b.0),
            best_batch: best.map(|b| b.1),
            bytes_over: over.filter(|_| best.is_none()).map(Bytes),
        })
    }
}

/// A route as people write it, at a share of its tenant's batches.
pub(crate) fn authored_route(
    graph: &Graph,
    problem: &Problem,
    segments: &Segments,
    config: LaneConfig,
    share_permille: u64,
) -> AuthoredRoute {
    let LaneConfig { lanes, threads } = config;
    AuthoredRoute { batch: problem.batch, lanes, threads, share_permille, parts: parts(graph, problem, segments) }
}

/// The application of one tenant alone.
pub(crate) fn application_of(tenant: &TenantInput<'_>, batches: &[u64], routes: Vec<AuthoredRoute>) -> Application {
    let planned = Tenant {
        name: tenant.name.clone(),
        model: tenant.model.clone(),
        shapes: tenant.shapes.clone(),
        millirate: tenant.millirate,
        batching: tenant.batching.clone(),
        batches: batches.to_vec(),
        pins: tenant.pins.clone(),
        routes,
    };
    Application {
        name: tenant.application.clone(),
        slo: tenant.slo,
        percentile_permille: tenant.percentile_permille,
        tenants: vec![planned],
        edges: vec![],
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
