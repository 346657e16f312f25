//! This machine: its processors, memory and engines, and how to get what is missing.
//!
//! Asked of the operating system and of CUDA's driver, never by running a model. What is not there is said, not
//! guessed: rates are left out of the machine (the profiler measures), and [`rates::quick_rates`] gives figures only
//! when asked.

mod cuda;
mod lookup;
pub mod rates;
mod system;

use std::path::PathBuf;

use tandem_ir::machine::Engine;
use tandem_ir::{Bytes, Device, DeviceKind, Link, Machine, Nanos};

pub use cuda::{Gpu, gpus};
pub(crate) use lookup::has_cuda_provider;
pub use lookup::{OrtLookup, Places, find_onnxruntime, find_onnxruntime_in};
pub use system::{SystemFacts, system_facts};

use crate::device::tract::TractEngine;
use crate::engine::Engine as _;

/// What is known of ONNX Runtime here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrtStatus {
    /// Its library, where one was found.
    pub library: Option<PathBuf>,
    /// The version it states; `None` if it was not found or could not be loaded.
    pub version: Option<String>,
    /// Whether its CUDA provider lies beside it.
    pub cuda: bool,
    /// Where it was looked for, or why it could not be loaded.
    pub looked: Vec<String>,
}

impl OrtStatus {
    /// The status of what a lookup found; `version` is what the library said once loaded, or why it could not be.
    pub fn new(lookup: OrtLookup, version: Option<Result<String, String>>) -> Self {
        let OrtLookup { found, mut looked } = lookup;
        // The library is loaded from where it really is, and looks for its providers there.
        let real = found.as_ref().map(|f| f.canonicalize().unwrap_or_else(|_| f.clone()));
        let cuda = real.as_ref().and_then(|f| f.parent()).is_some_and(has_cuda_provider);
        let version = version.and_then(|v| v.map_err(|why| looked.push(format!("it could not be loaded: {why}"))).ok());
        Self { library: found, version, cuda, looked }
    }
}

/// An engine that tandem can use, whether it is here, and how to get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineStatus {
    /// `tract`, `ort`, `ort-cuda`.
    pub name: String,
    /// Its version, where it is here.
    pub version: Option<String>,
    /// Where it is, or where it was looked for; one thing a line.
    pub places: Vec<String>,
    /// How to get it; `None` where it is here, or of no use.
    pub get: Option<String>,
}

/// All engines, present or not. `gpus` is what [`gpus`] said.
pub fn engines(ort: &OrtStatus, gpus: &Result<Vec<Gpu>, String>) -> Vec<EngineStatus> {
    let tract = TractEngine;
    let built_in = EngineStatus {
        name: tract.name().to_owned(),
        version: Some(tract.version().to_owned()),
        places: vec!["built in".into()],
        get: None,
    };
    let place = ort.library.iter().map(|p| p.display().to_string());
    let looked: Vec<String> =
        if ort.version.is_some() { place.collect() } else { place.chain(ort.looked.clone()).collect() };
    let get_ort = "pip install onnxruntime (wheel onnxruntime, 1.24 or newer), or name its library with ORT_DYLIB_PATH";
    let cpu = EngineStatus {
        name: "ort".into(),
        version: ort.version.clone(),
        places: looked.clone(),
        get: ort.version.is_none().then(|| get_ort.to_owned()),
    };
    let has_gpu = gpus.as_ref().is_ok_and(|g| !g.is_empty());
    let get_cuda = match gpus {
        Ok(found) if !found.is_empty() => {
            Some("pip install onnxruntime-gpu (wheel onnxruntime-gpu; since 1.31 for CUDA 13), instead of onnxruntime")
        }
        _ => None,
    };
    let usable = ort.cuda && has_gpu && ort.version.is_some();
    let cuda = EngineStatus {
        name: "ort-cuda".into(),
        version: ort.version.clone().filter(|_| usable),
        places: match gpus {
            Err(why) => vec![why.clone()],
            Ok(found) if found.is_empty() => vec!["the CUDA driver is here, but no GPU is".into()],
            Ok(_) if ort.cuda => looked,
            Ok(_) => vec!["no CUDA provider beside ONNX Runtime's library".into()],
        },
        get: get_cuda.filter(|_| !usable).map(str::to_owned),
    };
    vec![built_in, cpu, cuda]
}

/// This machine as plans see it: the host CPU, and each GPU that CUDA's driver names. Rates are left out, and so are
/// links' true figures: a GPU's are estimated from its PCIe connection until they are profiled, and its facts say so.
pub fn this_machine(ort: &OrtStatus) -> Machine {
    machine(ort, &system_facts(), &gpus())
}

/// As [`this_machine`], from facts gathered before.
pub fn machine(ort: &OrtStatus, facts: &SystemFacts, gpus: &Result<Vec<Gpu>, String>) -> Machine {
    let mut devices = vec![cpu(ort, facts)];
    let mut links = vec![];
    for (i, gpu) in gpus.iter().flatten().enumerate() {
        let device = gpu_device(format!("gpu{i}"), gpu, ort);
        links.extend(gpu_links(&device.name, gpu));
        devices.push(device);
    }
    let memory = facts.memory.0 >> 30;
    let mut description = format!("{}, {} cores, {memory} GiB", facts.cpu_model, facts.cores);
    for device in &devices[1..] {
        description.push_str(&format!(" + {}, {} GiB", device.model, device.memory.0 >> 30));
    }
    let name = if devices.len() > 1 { "this-machine" } else { "this-cpu" };
    Machine { name: name.into(), description, sources: vec![], devices, links, microdollars_per_hour: None }
}

/// Cost of starting a session's run on a CPU, before it is measured: handing over to a worker thread and back.
const CPU_LAUNCH: Nanos = Nanos(10_000);
/// Least cost of one operator on a CPU, before it is measured.
const CPU_OPERATOR: Nanos = Nanos(1_000);
/// Cost of starting a session's run on a GPU, before it is measured.
const GPU_LAUNCH: Nanos = Nanos(30_000);
/// Least cost of one operator on a GPU: a kernel launch.
const GPU_OPERATOR: Nanos = Nanos(5_000);
/// Cost of a copy of nothing over PCIe, before it is measured.
const PCIE_LATENCY: Nanos = Nanos(10_000);
/// Streams of a GPU that a plan may use for segments. More than a few contend for the same multiprocessors.
const GPU_LANES: u32 = 4;

fn cpu(ort: &OrtStatus, facts: &SystemFacts) -> Device {
    let tract = Engine { name: TractEngine.name().to_owned(), version: TractEngine.version().to_owned() };
    let ort = ort.version.clone().map(|version| Engine { name: "ort".into(), version });
    Device {
        name: "cpu".into(),
        kind: DeviceKind::Cpu,
        model: facts.cpu_model.clone(),
        cores: facts.cores,
        lanes_max: facts.cores,
        memory: facts.memory,
        rates: None,
        launch: CPU_LAUNCH,
        operator_overhead: CPU_OPERATOR,
        // Several times faster than tract on convolutional networks, so it is preferred where it is found.
        engines: ort.into_iter().chain([tract]).collect(),
        unsupported: vec![],
        emulated: false,
        facts: facts.for_people(),
    }
}

fn gpu_device(name: String, gpu: &Gpu, ort: &OrtStatus) -> Device {
    let engine = ort.version.clone().filter(|_| ort.cuda).map(|version| Engine { name: "ort-cuda".into(), version });
    Device {
        name,
        kind: DeviceKind::Gpu,
        model: gpu.name.clone(),
        cores: gpu.multiprocessors,
        lanes_max: GPU_LANES,
        memory: gpu.memory,
        rates: None,
        launch: GPU_LAUNCH,
        operator_overhead: GPU_OPERATOR,
        engines: engine.into_iter().collect(),
        unsupported: vec![],
        emulated: false,
        facts: gpu.for_people(),
    }
}

fn gpu_links(name: &str, gpu: &Gpu) -> [Link; 2] {
    let link = |from: &str, to: &str| Link {
        from: from.into(),
        to: to.into(),
        latency: PCIE_LATENCY,
        bytes_per_s: gpu.link_bytes_per_s(),
        shared: gpu.copy_engines < 2,
    };
    [link("cpu", name), link(name, "cpu")]
}

/// The bytes in a sentence for people.
fn gib(bytes: Bytes) -> String {
    format!("{:.1} GiB", bytes.0 as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests;
