//! The derived part of a plan file. Devices, lanes and values stand there by name, wherever the name means one thing.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::Fault;
use super::machine::MachineTwin;
use super::plan::{refer, resolve};
use super::scalar::{Digest, Element, Ref, Yes};
use crate::plan::{
    Action, Derived, DeviceWork, MemoryUse, MethodReport, PlannedGraph, Prediction, Route, RouteTensor, Segment, Step,
    Together,
};
use crate::units::{Bytes, Flops, Nanos};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
pub(super) struct DerivedTwin {
    authored: Digest,
    profile: Digest,
    tandem: String,
    graphs: Vec<GraphTwin>,
    machine: MachineTwin,
    reports: Vec<ReportTwin>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    together: Option<TogetherTwin>,
    routes: Vec<RouteTwin>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct TogetherTwin {
    carried_ppm: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bound_ppm: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verified_ppm: Option<u64>,
    busy_ppm: Vec<BusyTwin>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct BusyTwin {
    lane: String,
    ppm: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct GraphTwin {
    tenant: String,
    fingerprint: Digest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct ReportTwin {
    route: String,
    chosen: String,
    stopped: String,
    tried: Vec<TriedTwin>,
    passes: Vec<PassTwin>,
    notes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct TriedTwin {
    method: String,
    makespan_ns: u64,
    candidates: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct PassTwin {
    pass: String,
    before: u64,
    after: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct RouteTwin {
    tenant: String,
    batch: u64,
    lanes: u32,
    threads: u32,
    share_permille: u64,
    prediction: PredictionTwin,
    memory: Vec<MemoryTwin>,
    work: Vec<WorkTwin>,
    lane_names: Vec<String>,
    inputs: Vec<Ref>,
    outputs: Vec<Ref>,
    segments: Vec<SegmentTwin>,
    steps: Vec<StepTwin>,
    tensors: Vec<TensorTwin>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct PredictionTwin {
    makespan_ns: u64,
    busy_ns: Vec<u64>,
    latency_bound_ns: u64,
    millirequests_per_s: u64,
    lower_bound_ns: u64,
    gap_ppm: u64,
    modelled: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct MemoryTwin {
    device: Ref,
    weight_bytes: u64,
    arena_bytes: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    owned_bytes: u64,
    workspace_bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct WorkTwin {
    device: Ref,
    operators: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    flops: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved_bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "is_zero")]
    unknown: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct TensorTwin {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dtype: Option<Element>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dims: Option<Vec<u64>>,
    bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct SegmentTwin {
    device: Ref,
    part: usize,
    weight_bytes: u64,
    workspace_bytes: u64,
    inputs: Vec<Ref>,
    outputs: Vec<Ref>,
    nodes: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of fields")]
struct StepTwin {
    lane: Ref,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    copy: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    barrier: Option<Yes>,
    #[serde(default)]
    after: Vec<usize>,
    duration_ns: u64,
    /// `[value, device]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    frees: Vec<(Ref, Ref)>,
}

/// Positions by name. The first holder of a name has it; others are referred to by position.
struct Names<'n> {
    what: &'static str,
    list: Vec<&'n str>,
    first: HashMap<&'n str, usize>,
}

impl<'n> Names<'n> {
    fn new(what: &'static str, names: impl Iterator<Item = &'n str>) -> Self {
        let list: Vec<&str> = names.collect();
        let mut first = HashMap::with_capacity(list.len());
        for (i, name) in list.iter().enumerate() {
            first.entry(*name).or_insert(i);
        }
        Self { what, list, first }
    }

    fn refer(&self, position: usize) -> Ref {
        match self.list.get(position) {
            Some(name) if self.first[name] == position => Ref::Name((*name).to_owned()),
            _ => Ref::Position(position),
        }
    }

    fn resolve(&self, reference: Ref) -> Result<usize, Fault> {
        match &reference {
            Ref::Name(name) if self.first.contains_key(name.as_str()) => Ok(self.first[name.as_str()]),
            _ => resolve(&self.list, reference, self.what),
        }
    }

    fn all(&self, references: Vec<Ref>, key: &str) -> Result<Vec<usize>, Fault> {
        let one = |(i, r)| self.resolve(r).map_err(|f| f.item(key, i));
        references.into_iter().enumerate().map(one).collect()
    }
}

impl From<&Derived> for DerivedTwin {
    fn from(d: &Derived) -> Self {
        let devices: Vec<&str> = d.machine.devices.iter().map(|d| d.name.as_str()).collect();
        let graph = |g: &PlannedGraph| GraphTwin { tenant: g.tenant.clone(), fingerprint: Digest(g.fingerprint) };
        Self {
            authored: Digest(d.authored),
            profile: Digest(d.profile),
            tandem: d.tandem.clone(),
            graphs: d.graphs.iter().map(graph).collect(),
            machine: MachineTwin::from(&d.machine),
            reports: d.reports.iter().map(ReportTwin::from).collect(),
            together: d.together.as_ref().map(|t| TogetherTwin {
                carried_ppm: t.carried_ppm,
                bound_ppm: t.bound_ppm,
                verified_ppm: t.verified_ppm,
                busy_ppm: t.busy_ppm.iter().map(|(lane, ppm)| BusyTwin { lane: lane.clone(), ppm: *ppm }).collect(),
            }),
            routes: d.routes.iter().map(|r| route_twin(r, &devices)).collect(),
        }
    }
}

impl From<&MethodReport> for ReportTwin {
    fn from(r: &MethodReport) -> Self {
        let tried = |(method, makespan, candidates): &(String, Nanos, u64)| TriedTwin {
            method: method.clone(),
            makespan_ns: makespan.0,
            candidates: *candidates,
        };
        let pass = |(pass, before, after): &(String, u64, u64)| PassTwin {
            pass: pass.clone(),
            before: *before,
            after: *after,
        };
        Self {
            route: r.route.clone(),
            chosen: r.chosen.clone(),
            stopped: r.stopped.clone(),
            tried: r.tried.iter().map(tried).collect(),
            passes: r.passes.iter().map(pass).collect(),
            notes: r.notes.clone(),
        }
    }
}

fn route_twin(r: &Route, devices: &[&str]) -> RouteTwin {
    let values = Names::new("value", r.tensors.iter().map(|t| t.name.as_str()));
    let lanes = Names::new("lane", r.lane_names.iter().map(String::as_str));
    let all = |positions: &[usize]| positions.iter().map(|i| values.refer(*i)).collect::<Vec<_>>();
    let segment = |s: &Segment| SegmentTwin {
        device: refer(devices, s.device),
        part: s.part,
        weight_bytes: s.weight_bytes.0,
        workspace_bytes: s.workspace_bytes.0,
        inputs: all(&s.inputs),
        outputs: all(&s.outputs),
        nodes: s.nodes.clone(),
    };
    let memory = |(i, m): (usize, &MemoryUse)| MemoryTwin {
        device: refer(devices, i),
        weight_bytes: m.weights.0,
        arena_bytes: m.arena.0,
        owned_bytes: m.owned.0,
        workspace_bytes: m.workspace.0,
    };
    let work = |(i, w): (usize, &DeviceWork)| WorkTwin {
        device: refer(devices, i),
        operators: w.operators,
        flops: w.flops.map(|f| f.0),
        moved_bytes: w.moved.map(|b| b.0),
        unknown: w.unknown,
    };
    let tensor = |t: &RouteTensor| TensorTwin {
        name: t.name.clone(),
        dtype: t.dtype.map(Element),
        dims: t.dims.clone(),
        bytes: t.bytes.0,
    };
    RouteTwin {
        tenant: r.tenant.clone(),
        batch: r.batch,
        lanes: r.lanes,
        threads: r.threads,
        share_permille: r.share_permille,
        prediction: PredictionTwin {
            makespan_ns: r.prediction.makespan.0,
            busy_ns: r.prediction.busy.iter().map(|b| b.0).collect(),
            latency_bound_ns: r.prediction.latency_bound.0,
            millirequests_per_s: r.prediction.millirequests_per_s,
            lower_bound_ns: r.prediction.lower_bound.0,
            gap_ppm: r.prediction.gap_ppm,
            modelled: r.prediction.modelled,
        },
        memory: r.memory.iter().enumerate().map(memory).collect(),
        work: r.work.iter().enumerate().map(work).collect(),
        inputs: all(&r.inputs),
        outputs: all(&r.outputs),
        segments: r.segments.iter().map(segment).collect(),
        steps: r.steps.iter().map(|s| step_twin(s, &lanes, &values, devices)).collect(),
        tensors: r.tensors.iter().map(tensor).collect(),
        lane_names: r.lane_names.clone(),
    }
}

fn step_twin(s: &Step, lanes: &Names<'_>, values: &Names<'_>, devices: &[&str]) -> StepTwin {
    let (mut run, mut copy, mut from, mut to, mut barrier) = (None, None, None, None, None);
    match s.action {
        Action::Run(segment) => run = Some(segment),
        Action::Copy { tensor, from: source, to: target } => {
            copy = Some(values.refer(tensor));
            from = Some(refer(devices, source));
            to = Some(refer(devices, target));
        }
        Action::Barrier => barrier = Some(Yes),
    }
    StepTwin {
        lane: lanes.refer(s.lane),
        run,
        copy,
        from,
        to,
        barrier,
        after: s.after.clone(),
        duration_ns: s.duration.0,
        frees: s.frees.iter().map(|(t, d)| (values.refer(*t), refer(devices, *d))).collect(),
    }
}

impl DerivedTwin {
    pub(super) fn derived(self) -> Result<Derived, Fault> {
        let machine = self.machine.machine(None).map_err(|f| f.under("machine"))?;
        let devices = Names::new("device", machine.devices.iter().map(|d| d.name.as_str()));
        let mut routes = Vec::with_capacity(self.routes.len());
        for (i, twin) in self.routes.into_iter().enumerate() {
            routes.push(twin.route(&devices).map_err(|f| f.item("routes", i))?);
        }
        let graph = |g: GraphTwin| PlannedGraph { tenant: g.tenant, fingerprint: g.fingerprint.0 };
        Ok(Derived {
            authored: self.authored.0,
            graphs: self.graphs.into_iter().map(graph).collect(),
            profile: self.profile.0,
            tandem: self.tandem,
            routes,
            reports: self.reports.into_iter().map(ReportTwin::report).collect(),
            together: self.together.map(|t| Together {
                carried_ppm: t.carried_ppm,
                bound_ppm: t.bound_ppm,
                verified_ppm: t.verified_ppm,
                busy_ppm: t.busy_ppm.into_iter().map(|b| (b.lane, b.ppm)).collect(),
            }),
            machine,
        })
    }
}

impl ReportTwin {
    fn report(self) -> MethodReport {
        MethodReport {
            route: self.route,
            tried: self.tried.into_iter().map(|t| (t.method, Nanos(t.makespan_ns), t.candidates)).collect(),
            chosen: self.chosen,
            stopped: self.stopped,
            passes: self.passes.into_iter().map(|p| (p.pass, p.before, p.after)).collect(),
            notes: self.notes,
        }
    }
}

impl RouteTwin {
    fn route(self, devices: &Names<'_>) -> Result<Route, Fault> {
        let tensor = |t: TensorTwin| RouteTensor {
            name: t.name,
            dtype: t.dtype.map(|d| d.0),
            dims: t.dims,
            bytes: Bytes(t.bytes),
        };
        let tensors: Vec<RouteTensor> = self.tensors.into_iter().map(tensor).collect();
        let values = Names::new("value", tensors.iter().map(|t| t.name.as_str()));
        let lanes = Names::new("lane", self.lane_names.iter().map(String::as_str));
        let mut memory = Vec::with_capacity(self.memory.len());
        for (i, m) in self.memory.into_iter().enumerate() {
            in_order(m.device, i, devices).map_err(|f| f.under("device").item("memory", i))?;
            memory.push(MemoryUse {
                weights: Bytes(m.weight_bytes),
                arena: Bytes(m.arena_bytes),
                owned: Bytes(m.owned_bytes),
                workspace: Bytes(m.workspace_bytes),
            });
        }
        let mut work = Vec::with_capacity(self.work.len());
        for (i, w) in self.work.into_iter().enumerate() {
            in_order(w.device, i, devices).map_err(|f| f.under("device").item("work", i))?;
            let (flops, moved) = (w.flops.map(Flops), w.moved_bytes.map(Bytes));
            work.push(DeviceWork { operators: w.operators, unknown: w.unknown, flops, moved });
        }
        let mut segments = Vec::with_capacity(self.segments.len());
        for (i, s) in self.segments.into_iter().enumerate() {
            segments.push(s.segment(devices, &values).map_err(|f| f.item("segments", i))?);
        }
        let mut steps = Vec::with_capacity(self.steps.len());
        for (i, s) in self.steps.into_iter().enumerate() {
            steps.push(s.step(devices, &lanes, &values).map_err(|f| f.item("steps", i))?);
        }
        let inputs = values.all(self.inputs, "inputs")?;
        let outputs = values.all(self.outputs, "outputs")?;
        Ok(Route {
            tenant: self.tenant,
            batch: self.batch,
            lanes: self.lanes,
            threads: self.threads,
            share_permille: self.share_permille,
            inputs,
            outputs,
            segments,
            steps,
            memory,
            work,
            prediction: self.prediction.prediction(),
            tensors,
            lane_names: self.lane_names,
        })
    }
}

/// Lists by device hold one entry a device, in the machine's order.
fn in_order(device: Ref, position: usize, devices: &Names<'_>) -> Result<(), Fault> {
    match devices.resolve(device)? == position {
        true => Ok(()),
        false => Err(Fault::new("expected one entry a device in the machine's order, found another device")),
    }
}

impl PredictionTwin {
    fn prediction(self) -> Prediction {
        Prediction {
            makespan: Nanos(self.makespan_ns),
            busy: self.busy_ns.into_iter().map(Nanos).collect(),
            latency_bound: Nanos(self.latency_bound_ns),
            millirequests_per_s: self.millirequests_per_s,
            lower_bound: Nanos(self.lower_bound_ns),
            gap_ppm: self.gap_ppm,
            modelled: self.modelled,
        }
    }
}

impl SegmentTwin {
    fn segment(self, devices: &Names<'_>, values: &Names<'_>) -> Result<Segment, Fault> {
        Ok(Segment {
            device: devices.resolve(self.device).map_err(|f| f.under("device"))?,
            part: self.part,
            nodes: self.nodes,
            inputs: values.all(self.inputs, "inputs")?,
            outputs: values.all(self.outputs, "outputs")?,
            weight_bytes: Bytes(self.weight_bytes),
            workspace_bytes: Bytes(self.workspace_bytes),
        })
    }
}

impl StepTwin {
    fn step(self, devices: &Names<'_>, lanes: &Names<'_>, values: &Names<'_>) -> Result<Step, Fault> {
        let action = match (self.run, self.copy, self.from, self.to, self.barrier) {
            (Some(segment), None, None, None, None) => Action::Run(segment),
            (None, Some(tensor), Some(from), Some(to), None) => Action::Copy {
                tensor: values.resolve(tensor).map_err(|f| f.under("copy"))?,
                from: devices.resolve(from).map_err(|f| f.under("from"))?,
                to: devices.resolve(to).map_err(|f| f.under("to"))?,
            },
            (None, None, None, None, Some(Yes)) => Action::Barrier,
            _ => {
                return Err(Fault::new(
                    "expected one of `run`, `copy` with `from` and `to`, or `barrier`, found another mix",
                ));
            }
        };
        let mut frees = Vec::with_capacity(self.frees.len());
        for (i, (value, device)) in self.frees.into_iter().enumerate() {
            let value = values.resolve(value).map_err(|f| f.item("frees", i))?;
            frees.push((value, devices.resolve(device).map_err(|f| f.item("frees", i))?));
        }
        Ok(Step {
            lane: lanes.resolve(self.lane).map_err(|f| f.under("lane"))?,
            action,
            after: self.after,
            duration: Nanos(self.duration_ns),
            frees,
        })
    }
}
