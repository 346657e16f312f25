//! Several tenants on one machine: routes of all of them, generated at prices, and the few that carry the most together.
//!
//! The host's lanes are one choice for all tenants: so many lanes of so many threads. For each such configuration routes
//! are generated: single devices first, then, round by round, the placements that are cheapest at the prices of the master
//! program ([`crate::master`]), until none would help. Those that meet their tenant's latency bound are columns. The best
//! configuration is the one whose chosen routes carry the most.
//!
//! The bound is the largest of all configurations': at a configuration's prices no placement of a tenant costs less than
//! its minimum cut without launches, interference and lost fusion, so nothing carries more than prices allow. Latency and
//! memory are left out of it.

use std::collections::BTreeSet;

use rayon::prelude::*;

use tandem_ir::Machine;
use tandem_ir::plan::{Authored, Derived, MethodReport, Objective, Route, Tenant, Together};
use tandem_ir::units::{Bytes, Nanos};

use crate::build::{LaneConfig, Workbench};
use crate::columns::{Generated, Generator, Point, Terms};
use crate::emit::{self, RouteHead};
use crate::error::{Overloaded, PlanError};
use crate::master::{Chosen, Column, Master, NODES_MAX};
use crate::plan::{PlanInput, TenantInput, derived_report, route_name};
use crate::problem::HOST;
use crate::search::Method;
use crate::segments::Segments;
use crate::survey::{self, Searched};
use crate::timeline;

/// What was found for all tenants.
pub(crate) struct Joint {
    pub(crate) tenants: Vec<Searched>,
    /// See [`Together::bound_ppm`].
    pub(crate) bound_ppm: u64,
}

/// Whether several tenants are to be planned together: nothing of the host was given to one of them alone.
pub fn applies(input: &PlanInput<'_>) -> bool {
    let wished = input.objective == Objective::Throughput && input.search == Method::Auto;
    wished && input.tenants.len() > 1 && input.tenants.iter().all(|t| t.cores.is_none() && t.lanes.is_none())
}

/// Thousandths of requests a second that tenants are planned for: who names no rate wants what the others want on average.
pub fn millirates(named: &[Option<u64>]) -> Vec<u64> {
    let (sum, count) = named.iter().flatten().fold((0u128, 0u128), |(sum, n), rate| (sum + u128::from(*rate), n + 1));
    let usual = sum.checked_div(count).map_or(1000, |mean| mean as u64);
    named.iter().map(|rate| rate.unwrap_or(usual).max(1)).collect()
}

/// What routes carry together; `None` of one tenant.
pub(crate) fn together(
    authored: &Authored,
    routes: &[Route],
    machine: &Machine,
    bound_ppm: Option<u64>,
) -> Option<Together> {
    let tenants: Vec<&Tenant> = authored.tenants().collect();
    if tenants.len() < 2 {
        return None;
    }
    let devices = machine.devices.iter().map(|d| d.name.clone());
    let mut lanes: Vec<String> = devices.chain(machine.links.iter().map(|l| l.lane())).collect();
    let mut met = BTreeSet::new();
    lanes.retain(|lane| met.insert(lane.clone()));
    // Lanes of one size are counted by lanes; of several, by the cores they take.
    let config = |r: &Route| (r.lanes, r.threads);
    let is_one = routes.windows(2).all(|w| config(&w[0]) == config(&w[1]));
    let (host, each) = match routes.first().filter(|_| is_one) {
        Some(route) => (route.lanes, false),
        None => (machine.devices[HOST].cores, true),
    };
    let column = |route: &Route| {
        let busy = |lane: &String| {
            let of = route.lane_names.iter().position(|l| l == lane).map_or(Nanos::ZERO, |l| route.prediction.busy[l]);
            if each && *lane == machine.devices[HOST].name { of * u64::from(route.threads) } else { of }
        };
        let tenant = tenants.iter().position(|t| t.name == route.tenant).unwrap_or(0);
        Column { tenant, batch: route.batch, busy: lanes.iter().map(busy).collect(), memory: vec![] }
    };
    let columns: Vec<Column> = routes.iter().map(column).collect();
    let shares: Vec<(&Column, u64)> = columns.iter().zip(routes).map(|(c, r)| (c, r.share_permille)).collect();
    let instances = (0..lanes.len()).map(|q| if q == HOST { u64::from(host.max(1)) } else { 1 }).collect();
    let millirate = millirates(&tenants.iter().map(|t| t.millirate).collect::<Vec<_>>());
    let (carried_ppm, busy) = Master { millirate, instances, memory: vec![] }.carried(&shares);
    Some(Together { carried_ppm, bound_ppm, verified_ppm: None, busy_ppm: lanes.into_iter().zip(busy).collect() })
}

/// Whether what tenants are planned for is carried, where each of them says what that is.
pub(crate) fn check_rates(authored: &Authored, derived: &Derived) -> Result<(), PlanError> {
    let Some(together) = derived.together.as_ref().filter(|t| t.carried_ppm < 1_000_000) else { return Ok(()) };
    let Some(rates) = authored.tenants().map(|t| Some((t.name.clone(), t.millirate?))).collect::<Option<Vec<_>>>()
    else {
        return Ok(());
    };
    let nearest =
        |(name, rate): (String, u64)| (name, (u128::from(rate) * u128::from(together.carried_ppm) / 1_000_000) as u64);
    let binds = together.busy_ppm.iter().filter(|(_, ppm)| *ppm >= 999_000).map(|(lane, _)| lane.clone()).collect();
    let nearest = rates.into_iter().map(nearest).collect();
    Err(PlanError::Overloaded(Box::new(Overloaded { nearest, binds, bound_ppm: together.bound_ppm })))
}

/// One tenant as the search sees it.
struct Member<'a> {
    input: &'a TenantInput<'a>,
    bench: Workbench<'a>,
    batches: Vec<u64>,
    notes: Vec<String>,
    millirate: u64,
}

/// What one configuration comes to.
struct Outcome {
    config: LaneConfig,
    points: Vec<Point>,
    generated: Vec<Generated>,
    chosen: Chosen,
    master: Master,
    rounds: u64,
}

/// Plans all tenants together.
///
/// # Errors
/// See [`PlanError`]; a tenant without any route that meets its bound and fits is infeasible as it is alone.
pub(crate) fn search(input: &PlanInput<'_>) -> Result<Joint, PlanError> {
    let members = members(input)?;
    let mut outcomes = vec![];
    let (mut bound_ppm, mut counts) = (0u64, [0u64; 4]);
    let configs = configs(input, &members);
    if configs.is_empty() {
        return Err(PlanError::NoCommonThreads);
    }
    for config in configs {
        let Some((outcome, bound)) = station(input, &members, config)? else { continue };
        bound_ppm = bound_ppm.max(bound);
        counts[0] += 1;
        if let Some(outcome) = outcome {
            counts[1] += outcome.rounds;
            counts[2] += outcome.generated.len() as u64;
            counts[3] += outcome.chosen.nodes as u64;
            outcomes.push(outcome);
        }
    }
    // The first of equals: fewer threads.
    let best = outcomes.into_iter().reduce(|a, b| if b.chosen.lambda > a.chosen.lambda { b } else { a });
    let Some(best) = best else { return Err(infeasible(input)) };
    let mut routes = best.routes();
    routes.extend(best.others(&routes));
    let did = format!(
        "{} configurations, {} rounds of prices, {} routes, {} programs",
        counts[0], counts[1], counts[2], counts[3]
    );
    let tenants = (0..members.len()).map(|t| best.searched(&members[t], t, &routes, &did)).collect();
    Ok(Joint { tenants, bound_ppm })
}

fn members<'a>(input: &'a PlanInput<'a>) -> Result<Vec<Member<'a>>, PlanError> {
    let millirate = millirates(&input.tenants.iter().map(|t| t.millirate).collect::<Vec<_>>());
    let member = |(tenant, millirate): (&'a TenantInput<'a>, u64)| -> Result<Member<'a>, PlanError> {
        let (batches, notes) = survey::batches(tenant)?;
        let bench = Workbench::new(tenant.graph, input.machine, input.profile, &tenant.pins)?;
        Ok(Member { input: tenant, bench, batches, notes, millirate })
    };
    input.tenants.par_iter().zip(millirate).map(|(t, rate)| member((t, rate)).map_err(|e| input.blame(t, e))).collect()
}

/// Lanes of the host for all: each number of threads that all tenants' costs are known at, with as many lanes as fit.
fn configs(input: &PlanInput<'_>, members: &[Member<'_>]) -> Vec<LaneConfig> {
    let host = &input.machine.devices[HOST];
    let mut threads: Option<BTreeSet<u32>> = None;
    for member in members {
        let own: BTreeSet<u32> = member.bench.thread_choices(host.cores).into_iter().collect();
        threads = Some(threads.map_or(own.clone(), |all| &all & &own));
    }
    let lanes = |threads: u32| (host.cores.max(1) / threads).clamp(1, host.lanes_max.max(1));
    threads.unwrap_or_default().into_iter().map(|t| LaneConfig { lanes: lanes(t), threads: t }).collect()
}

/// Why nothing was found: the first tenant that has no route even alone, else all of them together.
fn infeasible(input: &PlanInput<'_>) -> PlanError {
    let alone = input.tenants.iter().find_map(|t| survey::search_tenant(input, t).err().map(|e| input.blame(t, e)));
    alone.unwrap_or(PlanError::Crowded)
}

/// One configuration: what it comes to, and its bound. `None` where it does not apply: an interference factor is not known.
fn station(
    input: &PlanInput<'_>,
    members: &[Member<'_>],
    config: LaneConfig,
) -> Result<Option<(Option<Outcome>, u64)>, PlanError> {
    let wanted: Vec<(usize, u64)> =
        members.iter().enumerate().flat_map(|(t, m)| m.batches.iter().map(move |b| (t, *b))).collect();
    let point = |(tenant, batch): &(usize, u64)| -> Result<Point, PlanError> {
        let bench = &members[*tenant].bench;
        let blame = |e| input.blame(members[*tenant].input, e);
        let problem = bench.problem(*batch, config).map_err(blame)?;
        Ok(Point { tenant: *tenant, problem, floor: bench.undisturbed(*batch, config).map_err(blame)? })
    };
    let mut points = vec![];
    for point in wanted.par_iter().map(point).collect::<Vec<_>>() {
        match point {
            Err(error) if error.is_no_interference() => return Ok(None),
            point => points.push(point?),
        }
    }
    let first = &points[0].problem;
    let instances = (0..first.lane_count()).map(|q| if q == HOST { u64::from(config.lanes) } else { 1 });
    let master = Master {
        millirate: members.iter().map(|m| m.millirate).collect(),
        instances: instances.collect(),
        memory: first.devices.iter().map(|d| d.memory).collect(),
    };
    let part = |slo: Nanos| Nanos((u128::from(slo.0) * u128::from(input.caution.slo_permille) / 1000) as u64);
    // Without caution nobody thinks of the others.
    let is_cautious = input.caution.slo_permille < 1000;
    let tightest =
        |but: usize| members.iter().enumerate().filter(|(t, _)| *t != but).filter_map(|(_, m)| m.input.slo).min();
    let terms = |(t, m): (usize, &Member<'_>)| Terms {
        slo: m.input.slo.map(part),
        millirate: m.input.millirate,
        step_max: tightest(t).map(part).filter(|_| is_cautious),
    };
    let terms: Vec<Terms> = members.iter().enumerate().map(terms).collect();
    let memory = |point: &Point, segments: &Segments| -> Option<Vec<Bytes>> {
        let timeline = timeline::evaluate(&point.problem, segments).ok()?;
        let head = RouteHead { tenant: String::new(), share_permille: 0, parts: vec![] };
        let graph = members[point.tenant].bench.graph;
        let route = emit::route(head, graph, &point.problem, segments, &timeline).ok()?;
        Some((0..point.problem.devices.len()).map(|d| route.memory_bytes(d)).collect())
    };
    let mut generator = Generator::new(&terms, &points, &master, &memory);
    let (rounds, bound) = generator.run()?;
    let generated = generator.generated;
    let columns: Vec<&Column> = generated.iter().map(|g| &g.column).collect();
    let chosen = master.choose(&columns, input.caution.routes_max, NODES_MAX)?;
    drop(columns);
    Ok(Some((chosen.map(|chosen| Outcome { config, points, generated, chosen, master, rounds }), bound)))
}

impl Outcome {
    /// Chosen routes with their shares of their tenants' batches, in per mille: each tenant's add up to 1000.
    fn routes(&self) -> Vec<(usize, u64)> {
        let batches = |(g, items): &(usize, f64)| items / self.generated[*g].column.batch as f64;
        let mut routes = vec![];
        for tenant in 0..self.master.millirate.len() {
            let own: Vec<&(usize, f64)> =
                self.chosen.routes.iter().filter(|(g, _)| self.generated[*g].column.tenant == tenant).collect();
            let all: f64 = own.iter().map(|r| batches(r)).sum();
            let mut shares: Vec<(usize, u64)> =
                own.iter().map(|r| (r.0, (batches(r) / all * 1000.0).floor() as u64)).collect();
            let left = 1000 - shares.iter().map(|s| s.1).sum::<u64>();
            // What rounding left goes to the largest.
            if let Some(most) = shares.iter_mut().max_by_key(|s| s.1) {
                most.1 += left;
            }
            routes.extend(shares.into_iter().filter(|s| s.1 > 0));
        }
        routes
    }

    /// One tenant's part of the routes.
    fn searched(&self, member: &Member<'_>, tenant: usize, routes: &[(usize, u64)], did: &str) -> Searched {
        let mut kept: Vec<(usize, u64)> =
            routes.iter().copied().filter(|(g, _)| self.generated[*g].column.tenant == tenant).collect();
        kept.sort_by_key(|(g, share)| (self.generated[*g].column.batch, 1000 - share, *g));
        let authored = kept.iter().map(|(g, share)| {
            let Generated { point, candidate, .. } = &self.generated[*g];
            survey::authored_route(
                member.bench.graph,
                &self.points[*point].problem,
                &candidate.segments,
                self.config,
                *share,
            )
        });
        let application = survey::application_of(member.input, &member.batches, authored.collect());
        let report = |(g, share): &(usize, u64)| {
            let Generated { point, candidate, .. } = &self.generated[*g];
            let mut report: MethodReport =
                derived_report(&member.bench, &member.input.name, &self.points[*point].problem, self.config);
            report.notes.extend(member.notes.iter().cloned());
            report.route = route_name(&member.input.name, self.points[*point].problem.batch, self.config);
            report.chosen = if *share > 0 { "at the prices of all tenants" } else { "for batches of that size" }.into();
            report.stopped = did.to_owned();
            (report, candidate.score.makespan)
        };
        Searched { application, routes: kept.iter().map(report).collect() }
    }

    /// For each tenant's every batch that no chosen route has, the route with the least makespan that still fits: for
    /// queues and requests of that size.
    fn others(&self, chosen: &[(usize, u64)]) -> Vec<(usize, u64)> {
        let mut held: Vec<usize> = chosen.iter().map(|r| r.0).collect();
        let of = |g: usize| (self.generated[g].column.tenant, self.generated[g].column.batch);
        let wanted: BTreeSet<(usize, u64)> = (0..self.generated.len()).map(of).collect();
        for point in wanted {
            if held.iter().any(|g| of(*g) == point) {
                continue;
            }
            let memory = |d: usize, with: usize| -> Bytes {
                held.iter().chain([&with]).map(|g| self.generated[*g].column.memory[d]).sum()
            };
            let fits = |g: &usize| (0..self.master.memory.len()).all(|d| memory(d, *g) <= self.master.memory[d]);
            let own = (0..self.generated.len()).filter(|g| of(*g) == point && fits(g));
            let least = own.min_by_key(|g| (self.generated[*g].candidate.score.makespan, *g));
            held.extend(least);
        }
        held[chosen.len()..].iter().map(|g| (*g, 0)).collect()
    }
}
