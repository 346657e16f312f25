//! A tenant as the scheduler sees it: its queue, its routes' classes, the rate of its requests.

use tandem_ir::plan::Policy;
use tandem_ir::{Nanos, Time};

use super::batcher::Close;
use super::batches::RouteState;
use super::class::Class;
use super::lanes::Crew;
use super::requests::List;
use super::server::Server;
use super::setup::{GroupSpec, Setup};
use crate::adt::{Fit, Line, Lines, PhaseSample, RateEstimator};
use crate::limits::{DUE_DEFAULT, FIT_RING};

/// What a tenant's requests and batches came to, since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests let in.
    pub accepted: u64,
    /// Requests not let in.
    pub refused: u64,
    /// Replies with outputs.
    pub done: u64,
    /// Replies of any other kind.
    pub failed: u64,
    /// Batches closed, by [`Close`] in its order: full, idle, early, due, short, delay.
    pub closed: [u64; 6],
    /// Requests that went back to the queue because a step failed or a device was lost.
    pub returned: u64,
}

impl Counters {
    /// Batches closed.
    pub fn batches(&self) -> u64 {
        self.closed.iter().sum()
    }

    pub(super) fn close(&mut self, why: Close) {
        self.closed[why as usize] += 1;
    }
}

/// How a tenant stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    /// Requests that wait.
    pub waiting: usize,
    /// Batches on their way.
    pub in_flight: usize,
    /// Whether it has a route all of whose devices are there.
    pub is_usable: bool,
    /// Its counters.
    pub counters: Counters,
}

/// A tenant.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) policy: Policy,
    pub(super) slo: Option<Nanos>,
    pub(super) queue_max: usize,
    /// Each request is a batch of its own.
    pub(super) alone: bool,
    pub(super) queue: List,
    /// Requests in the queue.
    pub(super) waiting: usize,
    /// Items in the queue.
    pub(super) rows: u64,
    pub(super) classes: Vec<Class>,
    /// Largest batch of any route.
    pub(super) rows_max: u64,
    pub(super) rate: RateEstimator,
    /// By how much requests came later than foreseen when they were let in, near the most, in nanoseconds.
    pub(super) margin: f64,
    /// Its parts of lanes of threads.
    pub(super) crews: Vec<Crew>,
    /// When to look again, though nothing happens.
    pub(super) timer: Time,
    /// Since when none of its routes can be used.
    pub(super) lost_since: Option<Time>,
    pub(super) counters: Counters,
}

impl Group {
    /// An idle tenant; its routes learn which class they are in.
    pub(super) fn new(
        g: usize,
        setup: &Setup,
        routes: &mut [RouteState],
        servers: &mut Vec<Server>,
        now: Time,
    ) -> Self {
        let spec = &setup.groups[g];
        let share = |r: usize| routes[r].route.share_permille;
        let mut shared: Vec<usize> = spec.routes.iter().copied().filter(|r| share(*r) > 0).collect();
        if shared.is_empty() {
            // A plan by hand: the largest batch takes all.
            shared.extend(spec.routes.iter().copied().max_by_key(|r| routes[*r].route.batch));
        }
        let mut members: Vec<Vec<usize>> = shared.iter().map(|r| vec![*r]).collect();
        for r in spec.routes.iter().copied().filter(|r| !shared.contains(r)) {
            // Beside the route that is busy on the same lane, for their phases lie on one line; else the first.
            let class = shared.iter().position(|s| routes[*s].busiest() == routes[r].busiest()).unwrap_or(0);
            members[class].push(r);
        }
        let mut classes = vec![];
        for (c, mut of) in members.into_iter().enumerate() {
            of.sort_by_key(|r| routes[*r].route.batch);
            let main = &routes[shared[c]];
            let server = server_of(setup, main, servers);
            servers[server].groups.push(g);
            let fit = Fit::new(planned_lines(routes, &of), FIT_RING);
            let mut class = Class::new(main.route.share_permille, server, fit);
            of.iter().for_each(|r| routes[*r].class = c);
            class.routes = of;
            classes.push(class);
        }
        let rows_max = spec.routes.iter().map(|r| routes[*r].route.batch).max().unwrap_or(0);
        Self {
            policy: spec.policy.clone(),
            slo: spec.slo,
            queue_max: spec.queue_max,
            alone: spec.alone,
            queue: List::EMPTY,
            waiting: 0,
            rows: 0,
            classes,
            rows_max,
            rate: RateEstimator::new(now, spec.millirate.map(|m| m as f64 * 1e-12)),
            margin: 0.0,
            crews: crews(spec, setup, routes),
            timer: Time(u64::MAX),
            lost_since: None,
            counters: Counters::default(),
        }
    }

    /// Latency that its requests are scheduled for.
    pub(super) fn objective(&self) -> Nanos {
        self.slo.unwrap_or(DUE_DEFAULT)
    }

    /// Whether it has a route that can be used.
    pub(super) fn is_usable(&self) -> bool {
        self.classes.iter().any(|c| c.capacity > 0)
    }

    /// Learns from the oldest request of a finished batch: its latency, and what was foreseen of it. So that few of those
    /// that are let in come late, what was too short counts for more than what was too long.
    pub(super) fn correct(&mut self, oldest: Option<(Nanos, f64)>) {
        let (Some((took, foreseen)), Some(slo)) = (oldest, self.slo) else { return };
        let short = took.0 as f64 - foreseen;
        if foreseen > 0.0 {
            let weight = if short > self.margin { TOO_SHORT } else { TOO_LONG };
            self.margin = (self.margin + weight * (short - self.margin)).clamp(0.0, slo.0 as f64);
        }
    }

    /// Items a nanosecond that a class takes, as of now.
    pub(super) fn rate_of(&self, class: usize, now: Time) -> f64 {
        self.rate.rate(now) * self.part(class)
    }

    /// What a class takes of the tenant's requests.
    pub(super) fn part(&self, class: usize) -> f64 {
        let shares: u64 = self.classes.iter().filter(|c| c.capacity > 0).map(|c| c.share).sum();
        if shares == 0 { 1.0 } else { self.classes[class].share as f64 / shares as f64 }
    }
}

/// Weights of what was foreseen too short and too long: eight to one, so that about one in nine is still late by a
/// little, and some forty batches forget what happened once.
const TOO_SHORT: f64 = 0.25;
const TOO_LONG: f64 = TOO_SHORT / 32.0;

/// The server of a route's class: a stream's or link's is everybody's, of a CPU's lane each class has its own.
fn server_of(setup: &Setup, main: &RouteState, servers: &mut Vec<Server>) -> usize {
    let lane = main.busiest();
    let known = servers.iter().position(|s| s.lane == lane && !setup.lanes[lane].threads);
    known.unwrap_or_else(|| {
        servers.push(Server::new(lane, setup.servers(&main.route, main.phases.busiest), setup.in_flight()));
        servers.len() - 1
    })
}

/// A tenant's parts of lanes of threads: as many lanes as the route of it that has the most there.
fn crews(spec: &GroupSpec, setup: &Setup, routes: &mut [RouteState]) -> Vec<Crew> {
    let mut crews: Vec<Crew> = vec![];
    for r in spec.routes.iter().copied() {
        let lanes = routes[r].route.lanes.max(1) as usize;
        for l in (0..routes[r].lanes.len()).filter(|l| setup.lanes[routes[r].lanes[*l]].threads).collect::<Vec<_>>() {
            let lane = routes[r].lanes[l];
            let crew = crews.iter().position(|c| c.lane == lane).unwrap_or_else(|| {
                crews.push(Crew::new(lane, setup.in_flight()));
                crews.len() - 1
            });
            crews[crew].lanes = crews[crew].lanes.max(lanes);
            routes[r].crews[l] = Some(crew);
        }
    }
    crews
}

/// Sets how much of its busiest lane each class may call its own: by the rates that the tenants are planned for, where
/// every one of the lane has one; else equal parts.
pub(super) fn divide_lanes(groups: &mut [Group], setup: &Setup, routes: &[RouteState], servers: &[Server]) {
    for (lane, spec) in setup.lanes.iter().enumerate() {
        let units = if spec.threads { spec.slots } else { 1 };
        let mut parts: Vec<(usize, usize, f64, Option<f64>)> = vec![];
        for (g, group) in groups.iter().enumerate() {
            for (c, class) in group.classes.iter().enumerate().filter(|(_, c)| servers[c.server].lane == lane) {
                let main = class.routes.iter().map(|r| &routes[*r]).max_by_key(|r| r.route.share_permille);
                let Some(main) = main else { continue };
                let load = f64::from(main.need[main.phases.busiest]) / units as f64;
                let item = main.phases.planned[1].0 as f64 / main.route.batch as f64;
                let rate = setup.groups[g].millirate.map(|m| m as f64 * group.part(c));
                parts.push((g, c, load, rate.map(|rate| rate * item * load)));
            }
        }
        let demands: Option<f64> = parts.iter().map(|p| p.3).sum();
        for (g, c, load, demand) in &parts {
            let part = match (demands, demand) {
                (Some(all), Some(own)) if all > 0.0 => own / all,
                _ => 1.0 / parts.len() as f64,
            };
            groups[*g].classes[*c].stretch = load / part.max(PART_MIN);
        }
    }
}

/// Least part of a lane: a tenant that is planned for next to nothing is not put off for ever.
const PART_MIN: f64 = 0.01;

/// Lines through what the plan says of each route.
fn planned_lines(routes: &[RouteState], of: &[usize]) -> Lines {
    let through = |phase: usize| {
        let points = of.iter().map(|r| (routes[*r].route.batch as f64, routes[*r].phases.planned[phase].0 as f64));
        Line::fitted(&points.collect::<Vec<_>>())
    };
    Lines { up: through(0), calc: through(1), down: through(2) }
}

/// What a finished batch of a route took.
pub(super) fn sample(batch: u64, took: [f64; 3]) -> PhaseSample {
    PhaseSample { batch, up: took[0], calc: took[1], down: took[2] }
}
