//! A tenant as the scheduler sees it: its queue, its routes' classes, the rate of its requests.

use tandem_ir::plan::Policy;
use tandem_ir::{Nanos, Time};

use super::batcher::{Close, View};
use super::batches::RouteState;
use super::class::Class;
use super::requests::List;
use super::setup::{GroupSpec, Setup};
use crate::adt::{Fit, Line, Lines, PhaseSample, RateEstimator};
use crate::limits::FIT_RING;

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
    /// Whether as many wait as may.
    pub is_full: bool,
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
    /// When to look again, though nothing happens.
    pub(super) timer: Time,
    /// Since when none of its routes can be used.
    pub(super) lost_since: Option<Time>,
    pub(super) counters: Counters,
}

impl Group {
    /// An idle tenant; its routes learn which class they are in.
    pub(super) fn new(spec: &GroupSpec, setup: &Setup, routes: &mut [RouteState], now: Time) -> Self {
        let share = |r: usize| routes[r].route.share_permille;
        let mut shared: Vec<usize> = spec.routes.iter().copied().filter(|r| share(*r) > 0).collect();
        if shared.is_empty() {
            // A plan by hand: the largest batch takes all.
            shared.extend(spec.routes.iter().copied().max_by_key(|r| routes[*r].route.batch));
        }
        let mut members: Vec<Vec<usize>> = shared.iter().map(|r| vec![*r]).collect();
        for r in spec.routes.iter().copied().filter(|r| !shared.contains(r)) {
            // Beside the route that is busy on the same lane, for their phases lie on one line; else the first.
            let lane = |r: usize| routes[r].lanes[routes[r].phases.busiest];
            let class = shared.iter().position(|s| lane(*s) == lane(r)).unwrap_or(0);
            members[class].push(r);
        }
        let mut classes = vec![];
        for (c, mut of) in members.into_iter().enumerate() {
            of.sort_by_key(|r| routes[*r].route.batch);
            let main = &routes[shared[c]];
            let servers = setup.servers(&main.route, main.phases.busiest);
            let fit = Fit::new(planned_lines(routes, &of), FIT_RING);
            let mut class = Class::new(main.route.share_permille, servers, fit);
            class.lanes = of.iter().map(|r| routes[*r].route.lanes.max(1) as usize).max().unwrap_or(1);
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
            timer: Time(u64::MAX),
            lost_since: None,
            counters: Counters::default(),
        }
    }

    /// What the policy looks at, if the next batch is this class's.
    pub(super) fn view(&self, class: usize, now: Time, oldest: Time, draining: bool) -> View<'_> {
        let shares: u64 = self.classes.iter().filter(|c| c.capacity > 0).map(|c| c.share).sum();
        let class = &self.classes[class];
        let part = if shares == 0 { 1.0 } else { class.share as f64 / shares as f64 };
        View {
            now,
            rows: self.rows,
            oldest,
            capacity: class.capacity,
            lines: class.fit.lines(),
            rate: self.rate.rate(now) * part,
            slo: self.slo,
            computing: class.flying.len(),
            servers: class.servers,
            in_flight: class.in_flight,
            free_at: class.free_at(now),
            target: class.target,
            draining,
        }
    }
}

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
