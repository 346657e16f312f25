//! `tandem bench gpu`: whether a GPU does what the rest counts on, and how fast, as one report.
//!
//! Made for a machine where there is nothing but this binary and ONNX Runtime's GPU build: the models are built here,
//! and what tests check elsewhere is checked by the binary itself. A step that fails is in the report with its words, and
//! the next one is tried.

mod alone;
mod models;
mod pipeline;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value as Json, json};
use tandem_ir::machine::{self, Rates};
use tandem_ir::{Bytes, DType, Device, DeviceKind, Link, Machine, Nanos};
use tandem_runtime::device::accelerator::{Accelerator, Stream};
use tandem_runtime::device::cuda::gpu::{Gpu, GpuOptions};
use tandem_runtime::device::cuda::testing::{HostAccelerator, HostEngine};
use tandem_runtime::device::ort::cuda::{self, CudaEngine, CudaOptions};
use tandem_runtime::engine::Engine;

use crate::cli::BenchGpuArgs;
use crate::commands;
use crate::context::{Context, negative};
use crate::output::{print, write_file};

/// The GPU that is measured: the first that the environment lets CUDA see.
const GPU: usize = 0;

/// Models that are run where none are named: all small ones, and one that keeps a GPU busy.
const LARGE: &str = "resnet50";
/// Where nothing is measured, one small model is enough.
const SMALL: &str = "tiny-resnet";

/// What is measured.
struct Rig<'a> {
    context: &'a Context,
    args: &'a BenchGpuArgs,
    /// Computes what is expected.
    host: Arc<dyn Engine>,
    accelerator: Arc<dyn Accelerator>,
    /// Computes on the accelerator; why it cannot, where it cannot.
    engine: Result<Arc<dyn Engine>, String>,
    machine: Machine,
    /// Models of the zoo: the first is small, the last large.
    models: Vec<String>,
}

impl Rig<'_> {
    fn engine(&self) -> Result<&Arc<dyn Engine>> {
        self.engine.as_ref().map_err(|_| anyhow!("there is no engine: see the first step"))
    }

    /// Both engines, for routes over both devices.
    fn engines(&self) -> Result<[Arc<dyn Engine>; 2]> {
        Ok([self.host.clone(), self.engine()?.clone()])
    }

    /// Another engine on the same GPU.
    fn engine_with(&self, options: &CudaOptions) -> Result<Arc<dyn Engine>> {
        match self.args.made_up {
            true => bail!("an accelerator that is made up has no such options"),
            false => Ok(Arc::new(CudaEngine::open(GPU, options)?)),
        }
    }

    fn small(&self) -> &str {
        self.models.first().map_or(LARGE, String::as_str)
    }

    fn large(&self) -> &str {
        self.models.last().map_or(LARGE, String::as_str)
    }

    /// The engine's stream.
    fn stream(&self) -> Result<Stream> {
        self.engine()?.runs_on().map(|(_, stream)| stream).context("the engine runs on the host")
    }
}

/// What a step says: one line for people, and figures.
type Said = (String, Json);

/// The report as it grows.
#[derive(Default)]
struct Report {
    steps: Vec<Json>,
    failed: usize,
}

impl Report {
    /// Takes a step, and goes on whatever becomes of it.
    fn step(&mut self, name: &str, step: impl FnOnce() -> Result<Said>) -> Result<()> {
        let said = catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(anyhow!("panicked: {}", text.unwrap_or_default()))
        });
        let (line, entry) = match said {
            Ok((line, figures)) => {
                (format!("ok      {name}: {line}"), json!({"step": name, "ok": true, "figures": figures}))
            }
            Err(error) => {
                self.failed += 1;
                let why = format!("{error:#}").trim().to_owned();
                (format!("FAILED  {name}: {why}"), json!({"step": name, "ok": false, "error": why}))
            }
        };
        self.steps.push(entry);
        print(&(line + "\n"))
    }
}

/// Runs all steps and writes the report; without a GPU, says so.
pub fn run(context: &Context, args: &BenchGpuArgs) -> Result<()> {
    if !args.made_up
        && let Some(why) = absent(context)
    {
        print(&format!("skipped: no NVIDIA GPU: {why}\n"))?;
        return write(args, &json!({"schema_version": 1, "skipped": format!("no NVIDIA GPU: {why}")}));
    }
    let rig = rig(context, args)?;
    let mut report = Report::default();
    report.step("device", || alone::facts(&rig))?;
    report.step("conformance", || alone::conformance(&rig))?;
    report.step("copies", || alone::copies(&rig))?;
    report.step("launch", || alone::launch(&rig))?;
    for name in &rig.models {
        report.step(&format!("numbers of {name}"), || models::numbers(&rig, name))?;
    }
    for name in &rig.models {
        report.step(&format!("requests to {name}"), || models::requests(&rig, name))?;
    }
    report.step("overlap", || pipeline::overlap(&rig))?;
    report.step("graphs", || alone::graphs(&rig))?;
    report.step("shares", || alone::shares(&rig))?;
    let failed = report.failed;
    let of = json!({
        "schema_version": 1,
        "tandem": commands::plan::VERSION,
        "made_up": args.made_up,
        "machine": rig.machine.description,
        "failed": failed,
        "steps": report.steps,
    });
    write(args, &of)?;
    if failed > 0 { negative(format!("{failed} step(s) failed")) } else { Ok(()) }
}

fn write(args: &BenchGpuArgs, report: &Json) -> Result<()> {
    let Some(path) = &args.json else { return Ok(()) };
    write_file(path, (serde_json::to_string_pretty(report)? + "\n").as_bytes())
}

/// Why there is none.
fn absent(context: &Context) -> Option<String> {
    match context.gpus() {
        Err(why) => Some(why.clone()),
        Ok(found) if found.is_empty() => Some("CUDA's driver names none".into()),
        Ok(_) => None,
    }
}

fn rig<'a>(context: &'a Context, args: &'a BenchGpuArgs) -> Result<Rig<'a>> {
    // Loads ONNX Runtime, where it is.
    let host = context.engine()?;
    let tiny = tandem_models::zoo().iter().map(|m| m.name.to_owned()).filter(|name| name.starts_with("tiny-"));
    let models: Vec<String> = match (args.models.as_slice(), args.made_up) {
        ([], true) => vec![SMALL.to_owned()],
        ([], false) => tiny.chain([LARGE.to_owned()]).collect(),
        (named, _) => named.to_vec(),
    };
    let machine = machine(context, args.made_up)?;
    if args.made_up {
        context.say("an accelerator that is made up of this host's threads: its figures say nothing about any GPU");
        let accelerator = HostAccelerator::new(0, 1);
        let on = (accelerator.clone(), Stream::Compute(0));
        let engine: Arc<dyn Engine> = Arc::new(HostEngine::new(cuda::NAME, host.clone(), on));
        return Ok(Rig { context, args, host, accelerator, engine: Ok(engine), machine, models });
    }
    let accelerator: Arc<dyn Accelerator> = Gpu::open(GPU, &GpuOptions::default())?;
    let engine = CudaEngine::open(GPU, &CudaOptions::default());
    let engine = engine.map(|engine| Arc::new(engine) as Arc<dyn Engine>).map_err(|e| e.to_string());
    Ok(Rig { context, args, host, accelerator, engine, machine, models })
}

/// This machine's host and one GPU, with rates that are made up: nothing is predicted here.
fn machine(context: &Context, made_up: bool) -> Result<Machine> {
    let mut machine = context.this_machine()?;
    let rates = |flops: u64, bytes: u64| {
        let flops_per_s = vec![(DType::F32, flops)];
        Some(Rates { flops_per_s, memory_bytes_per_s: bytes, efficiency_permille: 500 })
    };
    let found = context.gpus().as_ref().ok().and_then(|gpus| gpus.first()).filter(|_| !made_up);
    let (model, memory) = found.map_or(("made up", Bytes(1 << 30)), |gpu| (gpu.name.as_str(), gpu.memory));
    machine.devices.truncate(1);
    machine.devices[0].rates = rates(100_000_000_000, 20_000_000_000);
    machine.description = format!("{} + {model}", machine.devices[0].model);
    machine.devices.push(Device {
        name: "gpu0".into(),
        kind: DeviceKind::Gpu,
        model: model.to_owned(),
        cores: 1,
        lanes_max: 1,
        memory,
        rates: rates(10_000_000_000_000, 1_000_000_000_000),
        launch: Nanos(20_000),
        operator_overhead: Nanos(5_000),
        engines: vec![machine::Engine { name: cuda::NAME.into(), version: String::new() }],
        unsupported: vec![],
        emulated: false,
        facts: vec![],
    });
    let link = |from: &str, to: &str| Link {
        from: from.into(),
        to: to.into(),
        latency: Nanos(10_000),
        bytes_per_s: 20_000_000_000,
        shared: false,
    };
    machine.links = vec![link("cpu", "gpu0"), link("gpu0", "cpu")];
    Ok(machine)
}

/// The middle of what was measured.
fn median(mut values: Vec<Nanos>) -> Nanos {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(Nanos::ZERO)
}
