//! What tandem costs: an unsplit plan against the bare engine, and each further segment against the bare pieces.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use anyhow::{Context as _, Result, bail};
use tandem_ir::machine::Rates;
use tandem_ir::plan::{Objective, Part, Route};
use tandem_ir::{DType, Fingerprint, Machine, placement};
use tandem_onnx::cut::{self, SegmentImage};
use tandem_onnx::import::Model;
use tandem_onnx::value::Value;
use tandem_planner::plan::{PlanInput, RebuildInput, TenantInput};
use tandem_planner::search::Method;
use tandem_runtime::driver::{RouteRunner, RunnerOptions};
use tandem_runtime::engine::{Engine, EngineError, Session, SessionOptions};
use tandem_runtime::profiler;

use super::{Line, seconds, stats};
use crate::cli::{BenchCommon, BindArgs};
use crate::commands;
use crate::context::Context;
use crate::{binding, prepare};

/// Segments of the split plan.
const SPLIT: usize = 8;
/// Most times the bare engine's time an unsplit plan may take.
const UNSPLIT_RATIO_MAX: f64 = 1.02;
/// Most microseconds of tandem's own time a segment may take.
const SEGMENT_US_MAX: f64 = 10.0;
/// Runs that are timed together where one takes microseconds.
const TOGETHER: usize = 100;
/// Most times the bare engine's time a plan of [`SPLIT`] segments may take on one thread, by model.
const SPLIT_RATIO_MAX: [(&str, f64); 2] = [("resnet50", 1.02), ("mobilenet-v2", 1.05)];

/// Measures all models.
pub fn run(context: &Context, models: &[String], threads: Option<u32>, common: &BenchCommon) -> Result<Vec<Line>> {
    let engine = context.engine()?;
    let mut machine = machine(context)?;
    let threads = threads.unwrap_or(machine.devices[0].cores).max(1);
    machine.devices[0].cores = threads;
    context.say(&format!("{} {}, {threads} threads, batch 1", engine.name(), engine.version()));
    let mut lines = vec![];
    for reference in models {
        let mut model = prepare::open(context, reference, None)?;
        prepare::bind(&mut model, reference, &BindArgs::default())?;
        commands::profile::observe(context, &mut model, &BindArgs::default())?;
        let name = binding::tenant_name(reference);
        let rounds = common.rounds.unwrap_or(super::ROUNDS);
        lines.extend(measure(context, &name, &model, &machine, &engine, rounds)?);
    }
    Ok(lines)
}

/// This machine's host alone, with made-up rates: routes are timed here, not predicted.
pub(super) fn machine(context: &Context) -> Result<Machine> {
    let mut machine = context.this_machine()?;
    machine.devices.truncate(1);
    machine.links.clear();
    let flops_per_s = vec![(DType::F32, 100_000_000_000)];
    machine.devices[0].rates =
        Some(Rates { flops_per_s, memory_bytes_per_s: 20_000_000_000, efficiency_permille: 500 });
    Ok(machine)
}

/// A route of so many segments, cut at even distances.
fn route(name: &str, model: &Model, machine: &Machine, segments: usize) -> Result<Route> {
    let threads = machine.devices[0].cores.max(1);
    let lanes = Some(tandem_planner::build::LaneConfig { lanes: 1, threads });
    let tenant = TenantInput { lanes, ..TenantInput::new(name, &model.graph) };
    let (objective, search, tandem) = (Objective::Latency, Method::CpuOnly, commands::plan::VERSION.to_owned());
    let input = PlanInput { objective, search, tandem, ..PlanInput::new(machine, vec![tenant]) };
    let mut plan = tandem_planner::plan::plan(&input)?;
    if segments > 1 {
        let nodes: Vec<_> = model.graph.placeable().collect();
        let mut part = vec![None; model.graph.nodes.len()];
        nodes.iter().enumerate().for_each(|(i, n)| part[n.index()] = Some(i * segments / nodes.len()));
        let devices = vec![machine.devices[0].name.clone(); segments];
        let parts: Vec<Part> = placement::parts_of(&model.graph, &part, &devices);
        plan.authored.applications[0].tenants[0].routes[0].parts = parts;
        let graphs = [&model.graph];
        let rebuild = RebuildInput {
            graphs: &graphs,
            machine,
            profile: None,
            profile_fingerprint: Fingerprint::of(b""),
            tandem: commands::plan::VERSION,
            reports: &[],
            bound_ppm: None,
        };
        plan.derived = tandem_planner::plan::rebuild(&plan.authored, &rebuild)?;
    }
    plan.derived.routes.into_iter().next().context("a plan has a route")
}

/// A session, and the positions of the values it reads and writes.
type Piece = (Arc<dyn Session>, Vec<usize>, Vec<usize>);

/// The pieces of a route called one after the other, by nothing but a loop.
struct Bare {
    pieces: Vec<Piece>,
    inputs: Vec<usize>,
}

impl Bare {
    fn load(route: &Route, model: &Model, engine: &dyn Engine) -> Result<Self> {
        let (nodes, tensors) = (model.graph.node_index(), model.graph.tensor_index());
        let mut pieces = vec![];
        for segment in &route.segments {
            let inside: Vec<_> = segment.nodes.iter().map(|n| nodes[n]).collect();
            let ids =
                |values: &[usize]| values.iter().map(|v| tensors[route.tensors[*v].name.as_str()]).collect::<Vec<_>>();
            let image = cut::cut(model, &inside, &ids(&segment.inputs), &ids(&segment.outputs))?;
            let options = SessionOptions { threads: route.threads, ..SessionOptions::default() };
            pieces.push((engine.load(&image, &options)?, segment.inputs.clone(), segment.outputs.clone()));
        }
        Ok(Self { pieces, inputs: route.inputs.clone() })
    }

    fn run(&self, inputs: &[Value]) -> Result<Vec<Value>> {
        let mut values: HashMap<usize, Value> = self.inputs.iter().copied().zip(inputs.iter().cloned()).collect();
        let mut last = vec![];
        for (session, reads, writes) in &self.pieces {
            let fed: Vec<Value> = reads.iter().map(|v| values[v].clone()).collect();
            last = session.run(&fed)?;
            values.extend(writes.iter().copied().zip(last.iter().cloned()));
        }
        Ok(last)
    }
}

/// An engine that computes once and then only says again what it said: what is left is tandem's own time.
struct Replaying(Arc<dyn Engine>);

struct Replay {
    session: Arc<dyn Session>,
    said: OnceLock<Vec<Value>>,
}

impl Engine for Replaying {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn version(&self) -> &str {
        self.0.version()
    }

    fn load(&self, image: &SegmentImage, options: &SessionOptions) -> Result<Arc<dyn Session>, EngineError> {
        Ok(Arc::new(Replay { session: self.0.load(image, options)?, said: OnceLock::new() }))
    }
}

impl Session for Replay {
    fn run(&self, inputs: &[Value]) -> Result<Vec<Value>, EngineError> {
        if let Some(said) = self.said.get() {
            return Ok(said.clone());
        }
        let made = self.session.run(inputs)?;
        Ok(self.said.get_or_init(|| made).clone())
    }
}

/// The unsplit plan against the bare engine; the split one on an engine that takes no time, which is tandem's own time;
/// its pieces optimised each alone, against the same pieces run by a loop; and what cutting costs the engine, so and cut in
/// its own graph.
fn measure(
    context: &Context,
    name: &str,
    model: &Model,
    machine: &Machine,
    engine: &Arc<dyn Engine>,
    rounds: usize,
) -> Result<Vec<Line>> {
    let whole = route(name, model, machine, 1)?;
    let split = route(name, model, machine, SPLIT)?;
    if whole.segments.len() != 1 || split.segments.len() < 2 {
        bail!(
            "{name}: expected routes of 1 and {SPLIT} segments, found {} and {}",
            whole.segments.len(),
            split.segments.len()
        );
    }
    let inputs = profiler::feeds(&model.graph, 1)?;
    let options = SessionOptions { threads: whole.threads, ..SessionOptions::default() };
    let direct = engine.load(&cut::original(model), &options)?;
    let pieces = Bare::load(&split, model, engine.as_ref())?;
    let engines = [engine.clone()];
    let prepare = |r: &Route, inner_cuts| {
        let options = RunnerOptions { inner_cuts, ..RunnerOptions::default() };
        RouteRunner::prepare(r, model, machine, &engines, &options)
    };
    let (mut one, mut alone, mut inner) = (prepare(&whole, true)?, prepare(&split, false)?, prepare(&split, true)?);
    let replaying: [Arc<dyn Engine>; 1] = [Arc::new(Replaying(engine.clone()))];
    let options = RunnerOptions { inner_cuts: false, ..RunnerOptions::default() };
    let mut replayed = RouteRunner::prepare(&split, model, machine, &replaying, &options)?;
    let (mut ratios, mut own, mut apart, mut fusion, mut kept) = (vec![], vec![], vec![], vec![], vec![]);
    let further = (split.segments.len() - 1) as f64;
    for round in 0..rounds + 3 {
        // Who goes first changes with the round, so that neither always finds the caches warm.
        let mut times = [0.0; 6];
        for turn in 0..6 {
            let who = (turn + round) % 6;
            times[who] = match who {
                0 => timed(|| direct.run(&inputs).map(drop).map_err(Into::into))?,
                1 => timed(|| one.run(inputs.clone()).map(drop).map_err(Into::into))?,
                2 => timed(|| pieces.run(&inputs).map(drop))?,
                3 => timed(|| alone.run(inputs.clone()).map(drop).map_err(Into::into))?,
                4 => timed(|| {
                    (0..TOGETHER).try_for_each(|_| replayed.run(inputs.clone()).map(drop)).map_err(Into::into)
                })?,
                _ => timed(|| inner.run(inputs.clone()).map(drop).map_err(Into::into))?,
            };
        }
        // The first rounds pay for allocations and are left out.
        if round >= 3 {
            ratios.push(times[1] / times[0]);
            own.push(times[4] * 1e6 / (TOGETHER * split.segments.len()) as f64);
            apart.push((times[3] - times[2]) * 1e6 / further);
            fusion.push(times[2] / times[0]);
            kept.push(times[5] / times[0]);
        }
    }
    inner.notes().iter().for_each(|note| context.say(&format!("note: {name}: {note}")));
    let count = split.segments.len();
    let most = SPLIT_RATIO_MAX.iter().find(|(model, _)| *model == name && whole.threads == 1).map(|(_, most)| *most);
    let line = |what: String, unit, values: &[f64], most| Line::new(what, unit, stats::bootstrap(values), most, rounds);
    Ok(vec![
        line(format!("{name}: unsplit plan / bare engine"), "ratio", &ratios, Some(UNSPLIT_RATIO_MAX)),
        line(format!("{name}: own time a segment"), "us", &own, Some(SEGMENT_US_MAX)),
        line(format!("{name}: a further segment, plan - bare pieces"), "us", &apart, None),
        line(format!("{name}: {count} bare pieces, each optimised alone"), "ratio", &fusion, None),
        line(format!("{name}: plan of {count} segments, cut in the engine's graph"), "ratio", &kept, most),
    ])
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let (time, done) = seconds(work);
    done.map(|()| time)
}
