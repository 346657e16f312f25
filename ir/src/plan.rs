//! The plan: what people author, and what follows from it.
//!
//! A plan names nodes and tensors, never indices, so that it can be read, checked and edited beside the model. It leaves no
//! choice to the runtime but those its serving section names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::dtype::DType;
use crate::fingerprint::Fingerprint;
use crate::limits::BATCHES_IN_FLIGHT_MAX;
use crate::machine::{HOST, Machine};
use crate::units::{Bytes, Flops, Nanos};

/// What a search tries to reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Objective {
    /// Least makespan.
    Latency,
    /// Most requests a second within the SLO.
    #[default]
    Throughput,
}

/// One dimension of an input as the author binds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BoundDim {
    /// A fixed size.
    Fixed(u64),
    /// A multiple of the batch size.
    Batch(u64),
}

/// How batches are known to be sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Batching {
    /// A batch was seen to equal its rows.
    Proven,
    /// Not measured here (a described machine): inferred from shapes alone.
    Inferred,
    /// The user insists although it failed or was not tried.
    Insisted,
    /// Batch 1 only, with the reason.
    Refused(String),
}

/// Part of a placement: nodes that run on one device. Each part forms segments of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Device name.
    pub device: String,
    /// Which nodes. A node belongs to the first part that names it.
    pub nodes: Vec<NodePattern>,
}

/// Names nodes, by their first output tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodePattern {
    /// One node.
    One(String),
    /// From one node to another, both included, in the graph's topological order. Written `a .. b`.
    Range(String, String),
    /// Names with `*` for any run of characters. Written `/pattern/`-less: a name that holds `*`.
    Glob(String),
    /// All nodes no earlier part names. Written `"*"`.
    Rest,
}

/// One route as authored: a placement at a shape point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthoredRoute {
    /// Batch size.
    pub batch: u64,
    /// Parallel instances of this route (CPU lanes).
    pub lanes: u32,
    /// Threads of each CPU lane.
    pub threads: u32,
    /// Share of the tenant's batches this route serves, in per mille. 0: kept for smaller queues.
    pub share_permille: u64,
    /// Which nodes run where.
    pub parts: Vec<Part>,
}

/// A model with its promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Unique in the plan.
    pub name: String,
    /// `zoo:NAME`, or a path relative to the plan file.
    pub model: String,
    /// Dimensions of each input, by name.
    pub shapes: BTreeMap<String, Vec<BoundDim>>,
    /// Requests a second it is planned for, in thousandths, where the author says so.
    pub millirate: Option<u64>,
    /// Why batches are sound, or are not used.
    pub batching: Batching,
    /// Batch sizes the planner may choose from.
    pub batches: Vec<u64>,
    /// Devices that nodes are pinned to by the author.
    pub pins: Vec<Part>,
    /// Routes.
    pub routes: Vec<AuthoredRoute>,
}

/// A DAG of tenants under one latency objective; a lone model is a DAG of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// Name, unique in the plan.
    pub name: String,
    /// Latency a request must meet, first byte to reply.
    pub slo: Option<Nanos>,
    /// Percentile the SLO speaks of, in per mille (990: p99).
    pub percentile_permille: u64,
    /// The models.
    pub tenants: Vec<Tenant>,
    /// Edges between tenants, by position: output of the first feeds the second.
    pub edges: Vec<(usize, usize)>,
}

/// When waiting requests are closed into a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// As soon as a route has room: what waits, up to its batch size; while it is less than a preferred size, once the
    /// oldest request has waited for the delay (the dynamic batcher of inference servers).
    Fixed {
        /// Sizes that are closed at once, ascending; empty: the largest batch alone.
        preferred: Vec<u64>,
        /// How long the oldest request waits for such a size.
        queue_delay: Nanos,
    },
    /// One batch at a time: all that waits when the one before is done.
    AdtSerial,
    /// Overlapped transfers, by the published formulas, which promise too much at high rates.
    AdtSlide,
    /// Overlapped transfers, with flow conserved: the next upload ends as the compute in front does.
    AdtFlow,
}

impl Policy {
    /// The name that stands in plans: `fixed`, `adt-serial`, `adt-slide`, `adt-flow`.
    pub fn name(&self) -> &'static str {
        match self {
            Policy::Fixed { .. } => "fixed",
            Policy::AdtSerial => "adt-serial",
            Policy::AdtSlide => "adt-slide",
            Policy::AdtFlow => "adt-flow",
        }
    }
}

/// How requests become batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// When a batch is closed.
    pub policy: Policy,
    /// Most requests of a tenant that wait; the next one is refused. `None`: as many as the runtime allows.
    pub queue_max: Option<u32>,
}

impl Default for Serving {
    fn default() -> Self {
        Self { policy: Policy::AdtFlow, queue_max: None }
    }
}

impl fmt::Display for Serving {
    /// `adt-flow`, `fixed, preferred sizes 4, 8, queue delay 2.00 ms, at most 1024 waiting`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.policy.name())?;
        if let Policy::Fixed { preferred, queue_delay } = &self.policy {
            let sizes: Vec<String> = preferred.iter().map(u64::to_string).collect();
            if !sizes.is_empty() {
                write!(f, ", preferred sizes {}", sizes.join(", "))?;
            }
            if *queue_delay > Nanos::ZERO {
                write!(f, ", queue delay {queue_delay}")?;
            }
        }
        self.queue_max.map_or(Ok(()), |most| write!(f, ", at most {most} waiting"))
    }
}

/// The part of a plan people write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authored {
    /// What the search tried to reach.
    pub objective: Objective,
    /// The search that chose the placement (`auto`, `cut`, `random:7`, `none`).
    pub search: String,
    /// Applications.
    pub applications: Vec<Application>,
    /// How requests become batches.
    pub serving: Serving,
}

impl Authored {
    /// All tenants in order.
    pub fn tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.applications.iter().flat_map(|a| &a.tenants)
    }
}

/// A value that enters or leaves a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTensor {
    /// Its name in the model.
    pub name: String,
    /// Element type; `None` for values that are no tensors and never cross devices.
    pub dtype: Option<DType>,
    /// Shape at the route's batch; `None` where it is known only after the run.
    pub dims: Option<Vec<u64>>,
    /// Bytes reserved for it: exact where the shape is known, else the planner's estimate.
    pub bytes: Bytes,
}

/// Co-placed nodes launched as one unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Position of its device in the machine.
    pub device: usize,
    /// Position of the authored part it comes from.
    pub part: usize,
    /// Its nodes by name, in the graph's topological order (folded ones left out).
    pub nodes: Vec<String>,
    /// Values it reads, as positions in [`Route::tensors`]; constants left out.
    pub inputs: Vec<usize>,
    /// Values it makes that something outside reads.
    pub outputs: Vec<usize>,
    /// Bytes of constants it holds.
    pub weight_bytes: Bytes,
    /// Peak bytes of values inside it while it runs, an estimate.
    pub workspace_bytes: Bytes,
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Runs a segment (position in [`Route::segments`]).
    Run(usize),
    /// Copies a value (position in [`Route::tensors`]) from one device (position in the machine) to another.
    Copy {
        /// Which value.
        tensor: usize,
        /// Device it comes from.
        from: usize,
        /// Device it goes to.
        to: usize,
    },
    /// Waits, and does nothing: separates stages.
    Barrier,
}

/// One thing a lane does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Position of its lane in [`Route::lane_names`]. A lane runs its steps strictly in the order of the list of steps.
    pub lane: usize,
    /// What it does.
    pub action: Action,
    /// Steps (positions, smaller than its own) that must be done before it starts.
    pub after: Vec<usize>,
    /// How long the planner says it takes.
    pub duration: Nanos,
    /// Values (tensor, device) nobody reads after this step: their memory is free again once it is done.
    pub frees: Vec<(usize, usize)>,
}

/// Memory that a route needs on one device, whatever the durations of its steps: see [`crate::arena`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Constants, once for all batches.
    pub weights: Bytes,
    /// The arena where dense values of known shape lie, for each batch in flight.
    pub arena: Bytes,
    /// Values that engines allocate, for their sizes are not known before: an estimate, for each batch in flight.
    pub owned: Bytes,
    /// What engines need while segments run: an estimate, for each batch that computes.
    pub workspace: Bytes,
}

impl MemoryUse {
    /// Beside the arena: what engines hold for one batch.
    pub fn beside(&self) -> Bytes {
        self.owned + self.workspace
    }

    /// One batch, weights apart.
    pub fn peak(&self) -> Bytes {
        self.arena + self.beside()
    }
}

/// What the operators on one device do for one batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceWork {
    /// Operators on it.
    pub operators: u64,
    /// Those among them whose work is not known in full, for a shape, a type or a trip count is not.
    pub unknown: u64,
    /// Arithmetic, as far as it is known; a multiply-add is two. `None` where nothing is.
    pub flops: Option<Flops>,
    /// Bytes that move between memory and cores, as far as that is known. `None` where nothing is.
    pub moved: Option<Bytes>,
}

impl fmt::Display for DeviceWork {
    /// What is known, then what is not: `6.93 Gflop, 33.1 MB moved; work of 2 unknown`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = [self.flops.map(|n| n.to_string()), self.moved.map(|n| format!("{n} moved"))];
        let known = known.into_iter().flatten().collect::<Vec<_>>().join(", ");
        match (known.as_str(), self.unknown) {
            (known, 0) => f.write_str(known),
            ("", n) => write!(f, "work of {n} unknown"),
            (known, n) => write!(f, "{known}; work of {n} unknown"),
        }
    }
}

/// One placement of one tenant at one shape point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name of the tenant.
    pub tenant: String,
    /// Batch size.
    pub batch: u64,
    /// Parallel instances (CPU lanes).
    pub lanes: u32,
    /// Threads of each CPU lane.
    pub threads: u32,
    /// Share of the tenant's batches, in per mille.
    pub share_permille: u64,
    /// Values that enter or leave segments.
    pub tensors: Vec<RouteTensor>,
    /// Graph inputs that the route reads, as positions in `tensors`.
    pub inputs: Vec<usize>,
    /// Graph outputs that segments make, as positions in `tensors`.
    pub outputs: Vec<usize>,
    /// Segments in a topological order.
    pub segments: Vec<Segment>,
    /// Names of the lanes: `cpu`, `gpu0`, `cpu>gpu0`.
    pub lane_names: Vec<String>,
    /// Steps in a topological order.
    pub steps: Vec<Step>,
    /// Memory by position of the device.
    pub memory: Vec<MemoryUse>,
    /// Work by position of the device.
    pub work: Vec<DeviceWork>,
    /// What it is expected to do.
    pub prediction: Prediction,
}

impl Route {
    /// Position of the busiest lane, which batches follow each other on; of lanes equally busy, of the last that runs
    /// segments, for what is in front of it can overlap.
    pub fn busiest_lane(&self) -> usize {
        let mut busy = vec![Nanos::ZERO; self.lane_names.len()];
        for step in &self.steps {
            if let Some(busy) = busy.get_mut(step.lane) {
                *busy += step.duration;
            }
        }
        let runs = |l: usize| self.steps.iter().any(|s| s.lane == l && matches!(s.action, Action::Run(_)));
        (0..busy.len()).max_by_key(|l| (busy[*l], runs(*l), *l)).unwrap_or(0)
    }

    /// Batches of this route that are in flight at once, each with an arena of its own on every device. One a lane that the
    /// route crosses, so that upload, compute and download of three batches overlap, and one more for each further lane of
    /// the CPU where that is what batches wait for; at least two, so that the next batch is there when one is done.
    pub fn batches_in_flight(&self) -> usize {
        let busiest = self.busiest_lane();
        let on_host = |s: &Step| s.lane == busiest && self.computes_on(s) == Some(HOST);
        let further = if self.steps.iter().any(on_host) { self.lanes.max(1) as usize - 1 } else { 0 };
        let crossed = self.lane_names.len().clamp(2, 4);
        crossed.saturating_add(further).min(BATCHES_IN_FLIGHT_MAX)
    }

    /// Segments of this route that may run at once on a device, those of all batches in flight together: one a lane.
    pub fn segments_at_once(&self, device: usize) -> usize {
        let on_device = self.steps.iter().filter(|s| self.computes_on(s) == Some(device));
        let lanes: BTreeSet<usize> = on_device.map(|s| s.lane).collect();
        let instances = if device == HOST { self.lanes.max(1) as usize } else { 1 };
        lanes.len().saturating_mul(instances).min(self.batches_in_flight())
    }

    /// Bytes that the route needs on a device with all its batches in flight, by its memory entry.
    pub fn memory_bytes(&self, device: usize) -> Bytes {
        let Some(MemoryUse { weights, arena, owned, workspace }) = self.memory.get(device) else { return Bytes::ZERO };
        let (batches, computing) = (self.batches_in_flight(), self.segments_at_once(device));
        *weights + (*arena + *owned) * batches as u64 + *workspace * computing as u64
    }

    fn computes_on(&self, step: &Step) -> Option<usize> {
        match step.action {
            Action::Run(segment) => self.segments.get(segment).map(|s| s.device),
            Action::Copy { .. } | Action::Barrier => None,
        }
    }
}

/// What the planner promises of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prediction {
    /// First step's start to last step's end, one batch in flight.
    pub makespan: Nanos,
    /// Busy time of each lane, by position in `lane_names`.
    pub busy: Vec<Nanos>,
    /// Worst-case request latency under the planner's collection rule.
    pub latency_bound: Nanos,
    /// Requests a second, in thousandths, with all lanes in flight.
    pub millirequests_per_s: u64,
    /// Proven floor of the objective's value for this tenant: of the makespan (latency), or of the busiest resource's time
    /// an item (throughput).
    pub lower_bound: Nanos,
    /// Distance of the plan from the bound, in parts per million of the bound.
    pub gap_ppm: u64,
    /// True when any of the costs behind it was modelled, not measured.
    pub modelled: bool,
}

/// What the search did, for people and for diffs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MethodReport {
    /// Tenant, batch and threads it is about.
    pub route: String,
    /// Methods tried: name, makespan, candidates evaluated.
    pub tried: Vec<(String, Nanos, u64)>,
    /// The one chosen.
    pub chosen: String,
    /// Why the search stopped.
    pub stopped: String,
    /// Simplification passes: name, operators before, atoms after.
    pub passes: Vec<(String, u64, u64)>,
    /// What people should know: pins and their reasons, batching refusals, unknown shapes.
    pub notes: Vec<String>,
}

/// A model as the plan was made for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedGraph {
    /// Name of the tenant.
    pub tenant: String,
    /// The graph's fingerprint.
    pub fingerprint: Fingerprint,
}

/// What several tenants carry together. Rates are multiples, in parts per million, of what tenants are planned for (of one
/// rate for all where none states one), batches coming as regularly as can be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Together {
    /// What the routes carry at their shares.
    pub carried_ppm: u64,
    /// What no plan of these tenants on this machine exceeds, where a search has proven it.
    pub bound_ppm: Option<u64>,
    /// At which every tenant with an objective met it in a simulation of random arrivals, where that was made.
    pub verified_ppm: Option<u64>,
    /// How much of the time each lane is busy then, in parts per million.
    pub busy_ppm: Vec<(String, u64)>,
}

impl Together {
    /// Distance of what is carried from the bound, in parts per million of what is carried.
    pub fn gap_ppm(&self) -> Option<u64> {
        let over = u128::from(self.bound_ppm?.saturating_sub(self.carried_ppm)) * 1_000_000;
        Some(u64::try_from(over / u128::from(self.carried_ppm.max(1))).unwrap_or(u64::MAX))
    }
}

/// The part of a plan that follows from the authored one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Derived {
    /// Digest of the authored part this follows from.
    pub authored: Fingerprint,
    /// Graphs.
    pub graphs: Vec<PlannedGraph>,
    /// Provenance only.
    pub profile: Fingerprint,
    /// The machine planned for.
    pub machine: Machine,
    /// tandem's version.
    pub tandem: String,
    /// Routes, in the order of the authored ones.
    pub routes: Vec<Route>,
    /// What the search did.
    pub reports: Vec<MethodReport>,
    /// What all tenants carry together; of several tenants only.
    pub together: Option<Together>,
}

/// The document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What people write.
    pub authored: Authored,
    /// What follows.
    pub derived: Derived,
}
