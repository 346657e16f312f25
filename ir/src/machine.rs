//! What a plan is made for: devices with lanes, memory and rates, and the links between them.
//!
//! The first device is always the host CPU: graph inputs and outputs live in its memory.

use crate::dtype::DType;
use crate::units::{Bytes, Nanos};

/// What kind of processor a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// Cores that share the host's memory. Its lanes are groups of threads.
    Cpu,
    /// An accelerator with a memory of its own. Its lanes are streams.
    Gpu,
}

/// An engine that can execute segments on a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Engine {
    /// `tract`, `ort`, `ort-cuda`, `tract-cuda`, `emulated`.
    pub name: String,
    /// Its version, as it states it; empty where it is only described.
    pub version: String,
}

/// Peak rates of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Arithmetic a second (a multiply-add is two) by element type; f32 is always there. For a CPU: of all its cores.
    pub flops_per_s: Vec<(DType, u64)>,
    /// Bytes a second between the device's memory and its cores.
    pub memory_bytes_per_s: u64,
    /// Share of the arithmetic peak that dense kernels reach, in per mille.
    pub efficiency_permille: u64,
}

/// A processor with a memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name in plans: `cpu`, `gpu0`.
    pub name: String,
    /// What kind it is.
    pub kind: DeviceKind,
    /// Marketing name of the processor, for people.
    pub model: String,
    /// CPU: usable cores. GPU: streaming multiprocessors, for people only.
    pub cores: u32,
    /// Most lanes (CPU: groups of threads; GPU: streams) a plan may use.
    pub lanes_max: u32,
    /// Memory a plan may use.
    pub memory: Bytes,
    /// Peak rates; `None` for a machine that is only measured.
    pub rates: Option<Rates>,
    /// Cost of launching a segment.
    pub launch: Nanos,
    /// Least cost of one operator (a kernel launch, a dispatch).
    pub operator_overhead: Nanos,
    /// Engines, the preferred one first.
    pub engines: Vec<Engine>,
    /// Operator types (`Name` or `domain:Name`) that none of the device's engines runs: pinned elsewhere.
    pub unsupported: Vec<String>,
    /// True where the device exists only in emulation, wherever the plan runs.
    pub emulated: bool,
    /// Further facts for people: caches, features, driver.
    pub facts: Vec<(String, String)>,
}

/// A path from one device's memory to another's, in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Device the bytes come from.
    pub from: String,
    /// Device they go to.
    pub to: String,
    /// Cost of a copy of nothing.
    pub latency: Nanos,
    /// Bytes a second once it flows.
    pub bytes_per_s: u64,
    /// True where both directions share one copy engine.
    pub shared: bool,
}

impl Link {
    /// Duration of a copy: latency plus bytes over bandwidth, rounded up to whole nanoseconds.
    pub fn duration(&self, bytes: Bytes) -> Nanos {
        let ns = (u128::from(bytes.0) * 1_000_000_000).div_ceil(u128::from(self.bytes_per_s.max(1)));
        self.latency + Nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }

    /// The lane that carries this link's copies: `cpu>gpu0`, or `cpu<>gpu0` where both directions share one.
    pub fn lane(&self) -> String {
        match self.shared {
            false => format!("{}>{}", self.from, self.to),
            true if self.from <= self.to => format!("{}<>{}", self.from, self.to),
            true => format!("{}<>{}", self.to, self.from),
        }
    }
}

/// Position of the host CPU in every machine.
pub const HOST: usize = 0;

/// A machine to plan for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Short name: `this-cpu`, `t4-8vcpu`.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Where described figures come from (publication, table), one a line.
    pub sources: Vec<String>,
    /// Devices; the first is the host CPU.
    pub devices: Vec<Device>,
    /// Links between them; none between a device and itself.
    pub links: Vec<Link>,
    /// Rent in millionths of a US dollar an hour, where known.
    pub microdollars_per_hour: Option<u64>,
}

impl Machine {
    /// The device of this name.
    pub fn device(&self, name: &str) -> Option<&Device> {
        self.devices.iter().find(|d| d.name == name)
    }

    /// The position of the device of this name.
    pub fn device_index(&self, name: &str) -> Option<usize> {
        self.devices.iter().position(|d| d.name == name)
    }

    /// The link from one device to another.
    pub fn link(&self, from: &str, to: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.from == from && l.to == to)
    }
}

impl Device {
    /// Arithmetic peak for an element type: its own rate, else f32's (half where the type is wider).
    pub fn flops_per_s(&self, dtype: DType) -> Option<u64> {
        let rates = self.rates.as_ref()?;
        let of = |d: DType| rates.flops_per_s.iter().find(|(t, _)| *t == d).map(|(_, r)| *r);
        let wider = |r: u64| if dtype == DType::F64 { r / 2 } else { r };
        of(dtype).or_else(|| of(DType::F32).map(wider))
    }

    /// The engine that is preferred.
    pub fn engine(&self) -> Option<&Engine> {
        self.engines.first()
    }
}
