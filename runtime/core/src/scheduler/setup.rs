//! What a scheduler is made for: lanes, routes and groups, as a plan has them.

use std::sync::Arc;

use tandem_ir::plan::{Action, BoundDim, Plan, Policy, Route, Serving, Step, Tenant};
use tandem_ir::{DeviceKind, Nanos};

use crate::limits::{DEVICES_MAX, GROUPS_MAX, LANES_MAX, QUEUE_MAX};

/// A lane that routes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneSpec {
    /// As routes name it.
    pub name: String,
    /// Position of the device it is lost with.
    pub device: usize,
    /// Queues: one of a stream or link, one a core of a CPU.
    pub slots: usize,
    /// Commands a queue may hold, the running one included.
    pub depth: usize,
    /// True where a command takes as many of the slots as its route has threads.
    pub threads: bool,
}

/// Requests of one kind: a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSpec {
    /// Tenant.
    pub name: String,
    /// When its batches are closed.
    pub policy: Policy,
    /// Latency its requests should meet.
    pub slo: Option<Nanos>,
    /// Most requests that wait.
    pub queue_max: usize,
    /// Requests a second it is planned for, in thousandths.
    pub millirate: Option<u64>,
    /// Its routes, as positions in [`Setup::routes`].
    pub routes: Vec<usize>,
    /// Each of its requests is a batch of its own: they could differ in an input that a batch has once.
    pub alone: bool,
}

/// Everything a scheduler decides about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Lanes. Their queues are numbered in this order, through all lanes: what [`crate::Command::lane`] means here.
    pub lanes: Vec<LaneSpec>,
    /// Routes: their position is what tickets carry.
    pub routes: Vec<Arc<Route>>,
    /// Tenants.
    pub groups: Vec<GroupSpec>,
    /// Number of devices.
    pub devices: usize,
}

/// A plan that cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// Too many of something.
    #[error("expected at most {max} {what}, found {found}")]
    TooMany {
        /// `lanes`, `tenants`, `devices`.
        what: &'static str,
        /// The bound.
        max: usize,
        /// What the plan has.
        found: usize,
    },
    /// A tenant without a route.
    #[error("tenant \"{0}\" has no route")]
    NoRoute(String),
    /// A route on a lane that the machine does not have.
    #[error("a route of tenant \"{tenant}\" uses the lane \"{lane}\", which no device or link of the machine has")]
    NoLane {
        /// Tenant.
        tenant: String,
        /// Lane.
        lane: String,
    },
    /// A step that takes more threads than its lane has.
    #[error("a route of tenant \"{tenant}\" needs {need} threads on the lane \"{lane}\", which has {slots}")]
    Threads {
        /// Tenant.
        tenant: String,
        /// Lane.
        lane: String,
        /// Threads of the route.
        need: usize,
        /// What the lane has.
        slots: usize,
    },
    /// A route that no lane would say the end of.
    #[error("a route of tenant \"{0}\" has no steps")]
    NoSteps(String),
    /// A route that contradicts itself.
    #[error(transparent)]
    Route(#[from] crate::RouteError),
}

impl Setup {
    /// What a plan says: a lane for each device and each link, the CPU's with a queue for each core. A route without
    /// steps, of a model without operators, gets one that does nothing, on the first device.
    ///
    /// # Errors
    /// More of something than [`crate::limits`] allow, a tenant without routes, a route on a lane that is not there.
    pub fn of(plan: &Plan) -> Result<Self, SetupError> {
        let machine = &plan.derived.machine;
        let lane = |name: String, device, slots, threads| LaneSpec { name, device, slots, depth: 1, threads };
        let mut lanes: Vec<LaneSpec> = vec![];
        for (i, device) in machine.devices.iter().enumerate() {
            let cpu = device.kind == DeviceKind::Cpu;
            lanes.push(lane(device.name.clone(), i, if cpu { device.cores.max(1) as usize } else { 1 }, cpu));
        }
        for link in &machine.links {
            // A link is lost with the accelerator at its end.
            let ends = [&link.from, &link.to].map(|name| machine.device_index(name).unwrap_or(0));
            let name = link.lane();
            if !lanes.iter().any(|l| l.name == name) {
                lanes.push(lane(name, ends[0].max(ends[1]), 1, false));
            }
        }
        let Serving { policy, queue_max } = &plan.authored.serving;
        let routes: Vec<Arc<Route>> =
            plan.derived.routes.iter().map(|r| Arc::new(with_a_step(r.clone(), &lanes))).collect();
        let group = |slo, tenant: &Tenant| GroupSpec {
            name: tenant.name.clone(),
            policy: policy.clone(),
            slo,
            queue_max: queue_max.map_or(QUEUE_MAX, |n| n as usize),
            millirate: tenant.millirate,
            routes: (0..routes.len()).filter(|r| routes[*r].tenant == tenant.name).collect(),
            alone: routes.iter().any(|r| r.tenant == tenant.name && !reads_rows_only(r, tenant)),
        };
        let applications = plan.authored.applications.iter();
        let groups = applications.flat_map(|a| a.tenants.iter().map(move |t| (a.slo, t))).map(|(s, t)| group(s, t));
        let setup = Self { lanes, groups: groups.collect(), routes, devices: machine.devices.len() };
        setup.check()?;
        Ok(setup)
    }

    /// Queues of all lanes, in the order in which commands number them.
    pub fn queues(&self) -> impl Iterator<Item = &LaneSpec> {
        self.lanes.iter().flat_map(|lane| std::iter::repeat_n(lane, lane.slots))
    }

    /// Position of each route's tenant.
    pub fn group_of(&self) -> Vec<usize> {
        let mut group_of = vec![0; self.routes.len()];
        for (g, group) in self.groups.iter().enumerate() {
            group.routes.iter().for_each(|r| group_of[*r] = g);
        }
        group_of
    }

    pub(super) fn lane_of(&self, route: &Route, lane: usize) -> Option<usize> {
        self.lanes.iter().position(|l| l.name == route.lane_names[lane])
    }

    /// Batches of a route that compute at once: as many as it has lanes on a CPU.
    pub(super) fn servers(&self, route: &Route, busiest: usize) -> usize {
        let cpu = self.lane_of(route, busiest).is_some_and(|l| self.lanes[l].threads);
        if cpu { route.lanes.max(1) as usize } else { 1 }
    }

    /// Sets of buffers of a route: its batches in flight, as the plan's memory counts them.
    pub fn rings(&self, route: &Route) -> usize {
        route.batches_in_flight()
    }

    /// Batches of all routes in flight at once.
    pub(super) fn in_flight(&self) -> usize {
        self.routes.iter().map(|r| self.rings(r)).sum()
    }

    pub(super) fn check(&self) -> Result<(), SetupError> {
        let counts = [
            ("lanes", LANES_MAX, self.lanes.len()),
            ("tenants", GROUPS_MAX, self.groups.len()),
            ("devices", DEVICES_MAX, self.devices),
        ];
        if let Some((what, max, found)) = counts.into_iter().find(|(_, max, found)| found > max) {
            return Err(SetupError::TooMany { what, max, found });
        }
        if let Some(group) = self.groups.iter().find(|g| g.routes.is_empty()) {
            return Err(SetupError::NoRoute(group.name.clone()));
        }
        for route in &self.routes {
            let tenant = || route.tenant.clone();
            if route.steps.is_empty() {
                return Err(SetupError::NoSteps(tenant()));
            }
            for (lane, name) in route.lane_names.iter().enumerate() {
                let Some(at) = self.lane_of(route, lane) else {
                    return Err(SetupError::NoLane { tenant: tenant(), lane: name.clone() });
                };
                let (need, slots) = (route.threads.max(1) as usize, self.lanes[at].slots);
                if self.lanes[at].threads && need > slots {
                    return Err(SetupError::Threads { tenant: tenant(), lane: name.clone(), need, slots });
                }
            }
        }
        Ok(())
    }
}

/// The route; one without steps with one that does nothing, whose end is that of the batch.
fn with_a_step(mut route: Route, lanes: &[LaneSpec]) -> Route {
    if let (true, Some(lane)) = (route.steps.is_empty(), lanes.first()) {
        route.lane_names = vec![lane.name.clone()];
        let nothing = Step { lane: 0, action: Action::Barrier, after: vec![], duration: Nanos::ZERO, frees: vec![] };
        route.steps.push(nothing);
    }
    route
}

/// Whether every input that a route reads has an axis for the batch.
fn reads_rows_only(route: &Route, tenant: &Tenant) -> bool {
    let has_rows = |name: &str| {
        tenant.shapes.get(name).is_some_and(|dims| dims.iter().any(|dim| matches!(dim, BoundDim::Batch(_))))
    };
    route.inputs.iter().all(|value| has_rows(&route.tensors[*value].name))
}
