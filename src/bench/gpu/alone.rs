//! The accelerator by itself: what it is, its queues, its copies, what starting something on it costs, and its options.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use tandem_ir::Nanos;
use tandem_onnx::cut;
use tandem_onnx::import::Model;
use tandem_onnx::value::Value;
use tandem_runtime::device::accelerator::{Accelerator, Bound, Place, Stream};
use tandem_runtime::device::conformance::{self, OnStreams};
use tandem_runtime::device::cuda::gpu::GpuOptions;
use tandem_runtime::device::cuda::measure::{Copies, Direction, round_trip, write};
use tandem_runtime::device::cuda::shares;
use tandem_runtime::device::ort::cuda::CudaOptions;
use tandem_runtime::engine::{Engine, EngineError, Session, SessionOptions};
use tandem_runtime::profiler::{self, links};

use super::{GPU, Rig, Said, median};

/// Starts that are timed.
const LAUNCHES: usize = 200;
/// Runs of a whole model that are timed, after some that are not: kernels are chosen in the first.
const RUNS: usize = 30;
const WARM_UP: usize = 5;

/// What it is.
pub fn facts(rig: &Rig<'_>) -> Result<Said> {
    let gpu = rig.context.gpus().as_ref().ok().and_then(|gpus| gpus.get(GPU)).filter(|_| !rig.args.made_up);
    let engine = match &rig.engine {
        Ok(engine) => format!("{} {}", engine.name(), engine.version()),
        Err(why) => why.clone(),
    };
    let figures = json!({
        "engine": engine,
        "host_engine": format!("{} {}", rig.host.name(), rig.host.version()),
        "onnxruntime": rig.context.ort().found.as_ref().map(|p| p.display().to_string()),
        "green_contexts": shares::offered().map_err(|e| e.to_string()).err().unwrap_or_else(|| "offered".into()),
        "gpu": gpu.map(|g| json!({
            "name": g.name, "memory_bytes": g.memory.0, "multiprocessors": g.multiprocessors,
            "compute_capability": format!("{}.{}", g.capability.0, g.capability.1), "copy_engines": g.copy_engines,
            "driver_cuda": g.driver, "pci": g.pci_address, "pcie": g.pcie,
        })),
    });
    let name = gpu.map_or("made up", |g| g.name.as_str());
    match &rig.engine {
        Ok(_) => Ok((format!("{name}; {engine}"), figures)),
        Err(why) => bail!("{name}: {why}"),
    }
}

/// A model's session on the accelerator, bound to memory there, with the host's numbers beside it.
struct Whole {
    bound: Box<dyn Bound>,
    _session: Arc<dyn Session>,
    /// What the runs use.
    _places: Vec<Place>,
}

impl Whole {
    fn load(rig: &Rig<'_>, engine: &dyn Engine, model: &Model) -> Result<Self> {
        let session = engine.load(&cut::original(model), &SessionOptions::default())?;
        let values = profiler::feeds(&model.graph, 1)?;
        let place = |value: &Value| -> Result<Place> {
            let Value::Tensor(tensor) = value else { bail!("a value that is no tensor") };
            let block = rig.accelerator.clone().allocate(tensor.bytes().len().max(1) as u64)?;
            Place::new(block, 0, tensor.dtype, tensor.dims.as_slice().into()).context("a value without a size")
        };
        let expected = rig.host.load(&cut::original(model), &SessionOptions::default())?.run(&values)?;
        let inputs: Vec<Place> = values.iter().map(place).collect::<Result<_>>()?;
        for (place, value) in inputs.iter().zip(&values) {
            let Value::Tensor(tensor) = value else { bail!("a value that is no tensor") };
            write(&rig.accelerator, place, tensor.bytes())?;
        }
        let outputs: Vec<Place> = expected.iter().map(place).collect::<Result<_>>()?;
        let fixed: Vec<Option<Place>> = outputs.iter().cloned().map(Some).collect();
        let bound = session.resident().context("the session runs on the host")?.bind(&inputs, &fixed)?;
        Ok(Self { bound, _session: session, _places: [inputs, outputs].concat() })
    }

    /// Time of a run: the host's part, and until it is done.
    fn run(&mut self, accelerator: &dyn Accelerator, stream: Stream) -> Result<(Nanos, Nanos)> {
        let begin = Instant::now();
        self.bound.enqueue()?;
        let enqueued = begin.elapsed().as_nanos() as u64;
        let mark = accelerator.mark(stream)?;
        let reached = accelerator.wait(mark);
        accelerator.forget(mark);
        reached?;
        Ok((Nanos(enqueued), Nanos(begin.elapsed().as_nanos() as u64)))
    }

    /// Medians of many runs.
    fn time(&mut self, engine: &dyn Engine, runs: usize) -> Result<(Nanos, Nanos)> {
        let (accelerator, stream) = engine.runs_on().context("the engine runs on the host")?;
        for _ in 0..WARM_UP {
            self.run(accelerator.as_ref(), stream)?;
        }
        let runs = (0..runs).map(|_| self.run(accelerator.as_ref(), stream)).collect::<Result<Vec<_>>>()?;
        Ok((median(runs.iter().map(|r| r.0).collect()), median(runs.iter().map(|r| r.1).collect())))
    }
}

/// Every check of the contract of devices.
pub fn conformance(rig: &Rig<'_>) -> Result<Said> {
    let model = super::models::open(rig, rig.small())?.0;
    let whole = Mutex::new(Whole::load(rig, rig.engine()?.as_ref(), &model)?);
    let work = move || -> Result<(), EngineError> {
        whole.lock().unwrap_or_else(|poison| poison.into_inner()).bound.enqueue().map(drop)
    };
    let subject = OnStreams {
        name: "queues over the accelerator's streams".into(),
        accelerator: rig.accelerator.clone(),
        compute: rig.stream()?,
        work: Arc::new(work),
        hold: None,
    };
    let found = conformance::run(&subject);
    let broken: Vec<String> =
        found.iter().filter_map(|(name, verdict)| Some(format!("{name}: {}", verdict.as_ref().err()?))).collect();
    match broken.is_empty() {
        true => Ok((format!("{} checks", found.len()), json!({"checks": found.len()}))),
        false => bail!("{}", broken.join("; ")),
    }
}

/// Bytes a second of copies, each way and both ways at once, and whether what goes there comes back.
pub fn copies(rig: &Rig<'_>) -> Result<Said> {
    let sizes: BTreeMap<u64, Copies> = links::SIZES
        .into_iter()
        .map(|bytes| Ok((bytes, Copies::new(rig.accelerator.clone(), bytes)?)))
        .collect::<Result<_>>()?;
    let sizes = Mutex::new(sizes);
    let copy = |direction: Direction| {
        links::copies("cpu", "gpu", &mut |bytes| {
            let mut sizes = sizes.lock().unwrap_or_else(|poison| poison.into_inner());
            let copies = sizes.get_mut(&bytes).expect("there is one of each size");
            copies.run(direction).map(|took| took.0)
        })
    };
    let pattern: Vec<u8> = (0..links::SIZES[2]).map(|i| (i % 251) as u8).collect();
    let same = sizes
        .lock()
        .unwrap_or_else(|p| p.into_inner())
        .get_mut(&links::SIZES[2])
        .expect("it is there")
        .come_back(&pattern)?;
    if !same {
        bail!("bytes came back changed");
    }
    let mut figures = serde_json::Map::new();
    let mut words = vec![];
    for (name, direction, ways) in
        [("up", Direction::Up, 1), ("down", Direction::Down, 1), ("both", Direction::Both, 2)]
    {
        let samples = copy(direction)?;
        let largest = samples.last().context("a size")?;
        let bytes_per_s = (largest.bytes * ways) as f64 * 1e9 / largest.timing.median.0.max(1) as f64;
        words.push(format!("{name} {:.1} GB/s", bytes_per_s / 1e9));
        let sizes: Vec<_> = samples.iter().map(|s| json!({"bytes": s.bytes, "median_ns": s.timing.median.0})).collect();
        figures.insert(name.into(), json!({"bytes_per_s": bytes_per_s, "sizes": sizes}));
    }
    Ok((words.join(", "), figures.into()))
}

/// From putting something on a stream until the host knows that it is done.
pub fn launch(rig: &Rig<'_>) -> Result<Said> {
    let stream = rig.stream()?;
    let empty = (0..LAUNCHES).map(|_| Ok(round_trip(rig.accelerator.as_ref(), stream)?)).collect::<Result<Vec<_>>>()?;
    let (model, engine) = (super::models::open(rig, rig.small())?.0, rig.engine()?.clone());
    let (enqueued, done) = Whole::load(rig, engine.as_ref(), &model)?.time(engine.as_ref(), LAUNCHES)?;
    let (large, _) = super::models::open(rig, rig.large())?;
    let (large_enqueued, large_done) = Whole::load(rig, engine.as_ref(), &large)?.time(engine.as_ref(), RUNS)?;
    let empty = median(empty);
    Ok((
        format!(
            "an empty stream answers in {empty}; {} is enqueued in {enqueued} and done in {done}, {} in {large_enqueued} \
             and {large_done}",
            rig.small(),
            rig.large()
        ),
        json!({
            "round_trip_ns": empty.0,
            "small": {"enqueued_ns": enqueued.0, "done_ns": done.0},
            "large": {"enqueued_ns": large_enqueued.0, "done_ns": large_done.0},
        }),
    ))
}

/// Sessions captured as graphs: the same numbers, and what it saves.
pub fn graphs(rig: &Rig<'_>) -> Result<Said> {
    if rig.args.made_up {
        return Ok(("not for an accelerator that is made up".into(), json!({})));
    }
    let plain = rig.engine()?;
    let captured = rig.engine_with(&CudaOptions { graphs: true, ..CudaOptions::default() })?;
    let (mut words, mut figures) = (vec![], serde_json::Map::new());
    for name in [rig.small(), rig.large()] {
        let model = super::models::open(rig, name)?.0;
        let plain = Whole::load(rig, plain.as_ref(), &model)?.time(plain.as_ref(), RUNS)?;
        let mut whole = Whole::load(rig, captured.as_ref(), &model)?;
        let graph = whole.time(captured.as_ref(), RUNS)?;
        words.push(format!(
            "{name} enqueued in {} instead of {}, done in {} instead of {}",
            graph.0, plain.0, graph.1, plain.1
        ));
        figures.insert(
            name.into(),
            json!({
                "graph": {"enqueued_ns": graph.0.0, "done_ns": graph.1.0},
                "plain": {"enqueued_ns": plain.0.0, "done_ns": plain.1.0},
            }),
        );
        super::models::numbers_on(rig, name, &captured).with_context(|| format!("{name} as a graph"))?;
    }
    Ok((words.join("; "), figures.into()))
}

/// Half of the multiprocessors, where they can be had.
pub fn shares(rig: &Rig<'_>) -> Result<Said> {
    if rig.args.made_up {
        return Ok(("not for an accelerator that is made up".into(), json!({})));
    }
    let whole = rig.engine()?;
    let gpu = GpuOptions { share_permille: Some(500), ..GpuOptions::default() };
    let half = match rig.engine_with(&CudaOptions { gpu, ..CudaOptions::default() }) {
        Ok(half) => half,
        // No fault of ours, and said.
        Err(why) => return Ok((format!("refused: {why:#}"), json!({"refused": format!("{why:#}")}))),
    };
    let model = super::models::open(rig, rig.large())?.0;
    let all = Whole::load(rig, whole.as_ref(), &model)?.time(whole.as_ref(), RUNS)?.1;
    let part = Whole::load(rig, half.as_ref(), &model)?.time(half.as_ref(), RUNS)?.1;
    Ok((
        format!("{} takes {part} on half of the multiprocessors, {all} on all", rig.large()),
        json!({"half_ns": part.0, "all_ns": all.0}),
    ))
}
