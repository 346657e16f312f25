//! What an operator costs where: measured (a profile's atoms and samples) or modelled (a roofline of the machine's rates).
//!
//! Both answer by *kernels*: groups of nodes that a device runs as one. A cut inside a kernel, which only a hand-edited plan
//! makes, shares its duration among the pieces by their work.
//!
//! Source of the roofline: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model" (2009).

use std::collections::BTreeMap;

use tandem_ir::graph::{Graph, NodeId, TensorId};
use tandem_ir::machine::{Device, DeviceKind, Machine};
use tandem_ir::profile::{AtomTable, Profile, Setting};
use tandem_ir::units::{Bytes, Nanos};
use tandem_ir::{DType, Link};

use tandem_ir::work::{Work, known_work, node_work};

/// Bytes taken for a value of which nothing is known and whose maker reads nothing known either.
const UNKNOWN_BYTES: u64 = 4096;

/// Size of a value at a batch; where its shape is free, the largest known size its maker reads: most operators do not blow
/// up what they read.
pub fn value_bytes(graph: &Graph, tensor: TensorId, batch: u64) -> Bytes {
    let t = graph.tensor(tensor);
    if let Some(bytes) = t.fact.bytes_at(batch) {
        return Bytes(bytes);
    }
    let maker = t.producer.map(|p| graph.node(p));
    let reads = maker.map(|n| n.reads()).unwrap_or_default();
    let known = reads.iter().filter(|t| !graph.is_constant(**t)).filter_map(|t| graph.tensor(*t).fact.bytes_at(batch));
    Bytes(known.max().unwrap_or(UNKNOWN_BYTES))
}

/// A duration, and whether it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// How long.
    pub time: Nanos,
    /// False where it was measured at exactly this setting.
    pub modelled: bool,
}

/// What groups of nodes cost on one device at one batch and number of threads.
pub trait CostModel {
    /// Groups that the device runs as one; every placeable node is in exactly one.
    fn kernels(&self) -> &[Vec<NodeId>];
    /// Duration of a kernel by its position; `None` where nothing is known of it.
    fn kernel(&self, kernel: usize) -> Option<Cost>;
    /// Cost of launching a segment.
    fn launch(&self) -> Cost;
}

/// Costs from a profile's table of a device and samples at a setting; where a batch was not sampled, a line through the two
/// nearest that were.
#[derive(Debug)]
pub struct Measured {
    kernels: Vec<Vec<NodeId>>,
    costs: Vec<Option<Cost>>,
    launch: Cost,
}

impl Measured {
    /// Looks up every atom of a table.
    pub fn new(profile: &Profile, table: &AtomTable, device: &Device, batch: u64, threads: u32) -> Self {
        let setting = |batch| {
            let (device, engine) = (table.device.clone(), table.engine.clone());
            Setting { device, engine, threads, batch }
        };
        let mut batches: Vec<u64> = profile
            .samples
            .keys()
            .map(|(_, s)| s)
            .filter(|s| s.device == table.device && s.engine == table.engine && s.threads == threads)
            .map(|s| s.batch)
            .collect();
        batches.sort_unstable();
        batches.dedup();
        let settings: Vec<(u64, Setting)> = batches.into_iter().map(|b| (b, setting(b))).collect();
        let sample = |signature: &tandem_ir::signature::Signature| {
            let points: Vec<(u64, u64)> =
                settings.iter().filter_map(|(b, s)| profile.timing(signature, s).map(|t| (*b, t.median.0))).collect();
            at_batch(&points, batch)
        };
        let costs = table.atoms.iter().map(|a| sample(&a.signature)).collect();
        let launch = profile.launches.get(&setting(batch)).or_else(|| profile.launches.get(&setting(0)));
        let launch = match launch {
            Some(t) => Cost { time: t.median, modelled: false },
            None => Cost { time: device.launch, modelled: true },
        };
        Self { kernels: table.atoms.iter().map(|a| a.nodes.clone()).collect(), costs, launch }
    }
}

impl CostModel for Measured {
    fn kernels(&self) -> &[Vec<NodeId>] {
        &self.kernels
    }
    fn kernel(&self, kernel: usize) -> Option<Cost> {
        self.costs[kernel]
    }
    fn launch(&self) -> Cost {
        self.launch
    }
}

/// The duration at a batch from (batch, duration) points in ascending order: the sample itself, else the line through the
/// two nearest (never below the smaller batch's duration above it), else in proportion to the only one.
fn at_batch(points: &[(u64, u64)], batch: u64) -> Option<Cost> {
    let after = points.partition_point(|p| p.0 < batch);
    if let Some((_, time)) = points.get(after).filter(|p| p.0 == batch) {
        return Some(Cost { time: Nanos(*time), modelled: false });
    }
    let (low, high) = match (after, points.len()) {
        (_, 0) => return None,
        (_, 1) => {
            let time = u128::from(points[0].1) * u128::from(batch.max(1)) / u128::from(points[0].0.max(1));
            return Some(Cost { time: Nanos(u64::try_from(time).unwrap_or(u64::MAX)), modelled: true });
        }
        (0, _) => (points[0], points[1]),
        (n, len) if n == len => (points[len - 2], points[len - 1]),
        (n, _) => (points[n - 1], points[n]),
    };
    let slope = (i128::from(high.1) - i128::from(low.1)).max(0);
    let time = i128::from(low.1)
        + slope * (i128::from(batch) - i128::from(low.0)) / (i128::from(high.0) - i128::from(low.0)).max(1);
    Some(Cost { time: Nanos(u64::try_from(time.max(1)).unwrap_or(u64::MAX)), modelled: true })
}

/// Costs from rates: max(flops / (peak * efficiency), bytes / bandwidth) + overhead of one operator, a kernel; control flow
/// pays it for each operator that runs inside, too.
#[derive(Debug)]
pub struct Roofline {
    kernels: Vec<Vec<NodeId>>,
    costs: Vec<Cost>,
    launch: Cost,
    /// Kernels whose work is not known, or not in full: what is not known of it counts as overhead only.
    pub unknown: usize,
}

/// A quarter of a CPU's cores draws this share of its memory bandwidth in per mille, measured on servers as a knee: few
/// cores saturate it. Four times the cores' share, at most all of it.
const BANDWIDTH_SHARE: u64 = 4;

impl Roofline {
    /// Models every kernel of a device; `None` where its rates are not described.
    pub fn new(graph: &Graph, device: &Device, host: &Device, batch: u64, threads: u32) -> Option<Self> {
        let rates = device.rates.as_ref()?;
        let cores = u64::from(device.cores.max(1));
        let threads = u64::from(threads.max(1)).min(cores);
        let (part, bandwidth) = match device.kind {
            DeviceKind::Gpu => ((1, 1), rates.memory_bytes_per_s),
            DeviceKind::Cpu => {
                let share = (BANDWIDTH_SHARE * threads).min(cores);
                ((threads, cores), scaled(rates.memory_bytes_per_s, share, cores))
            }
        };
        let kernels = kernels(graph);
        let shapes = crate::simplify::shape_arithmetic(graph);
        let (mut costs, mut unknown) = (vec![], 0);
        for kernel in &kernels {
            let time = if kernel.iter().all(|n| shapes[n.index()]) {
                // The host computes it inside any session. An accelerator's lane does not wait for that.
                if device.kind == DeviceKind::Cpu { host.operator_overhead } else { Nanos::ZERO }
            } else {
                let Kernel { flops, bytes, dtype, dispatched, known } = kernel_work(graph, kernel, batch);
                unknown += usize::from(!known);
                let peak =
                    scaled(device.flops_per_s(dtype).unwrap_or(0), part.0 * rates.efficiency_permille, part.1 * 1000);
                let busy = Nanos(per_second(flops, peak).max(per_second(bytes, bandwidth)));
                device.operator_overhead * dispatched + busy
            };
            costs.push(Cost { time, modelled: true });
        }
        Some(Self { kernels, costs, launch: Cost { time: device.launch, modelled: true }, unknown })
    }
}

impl CostModel for Roofline {
    fn kernels(&self) -> &[Vec<NodeId>] {
        &self.kernels
    }
    fn kernel(&self, kernel: usize) -> Option<Cost> {
        self.costs.get(kernel).copied()
    }
    fn launch(&self) -> Cost {
        self.launch
    }
}

fn scaled(value: u64, by: u64, over: u64) -> u64 {
    u64::try_from(u128::from(value) * u128::from(by) / u128::from(over.max(1))).unwrap_or(u64::MAX)
}

/// Nanoseconds that `amount` takes at `rate` a second, rounded up.
fn per_second(amount: u64, rate: u64) -> u64 {
    let ns = (u128::from(amount) * 1_000_000_000).div_ceil(u128::from(rate.max(1)));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// Fused patterns and single nodes, ascending by first node.
fn kernels(graph: &Graph) -> Vec<Vec<NodeId>> {
    let mut kernels = crate::simplify::fused(graph);
    let mut taken = vec![false; graph.nodes.len()];
    kernels.iter().flatten().for_each(|n| taken[n.index()] = true);
    kernels.extend(graph.placeable().filter(|n| !taken[n.index()]).map(|n| vec![n]));
    kernels.sort_unstable();
    kernels
}

struct Kernel {
    flops: u64,
    bytes: u64,
    dtype: DType,
    /// Launches: one of the kernel, and those of operators inside bodies.
    dispatched: u64,
    known: bool,
}

/// Work of a kernel: all its arithmetic, but only the bytes that enter and leave it.
fn kernel_work(graph: &Graph, kernel: &[NodeId], batch: u64) -> Kernel {
    let works: Vec<(Option<Work>, bool)> = kernel.iter().map(|n| known_work(graph, *n, batch)).collect();
    let known = works.iter().all(|(_, whole)| *whole);
    let works: Vec<Work> = works.into_iter().filter_map(|(work, _)| work).collect();
    let flops = works.iter().map(|w| w.flops).sum::<tandem_ir::Flops>().0;
    let moved = works.iter().map(Work::traffic).sum::<Bytes>().0;
    let mut inner = 0u64;
    for t in kernel.iter().flat_map(|n| graph.node(*n).writes()) {
        let readers = graph.tensor(t).consumers.iter().filter(|c| kernel.contains(c)).count() as u64;
        let stays = !graph.is_output(t) && readers > 0 && readers == graph.tensor(t).consumers.len() as u64;
        if stays {
            inner = inner.saturating_add(value_bytes(graph, t, batch).0.saturating_mul(1 + readers));
        }
    }
    // The heaviest node's type is the kernel's.
    let dtype = works.iter().max_by_key(|w| w.flops).map_or(DType::F32, |w| w.dtype);
    let dispatched = works.iter().fold(1u64, |sum, w| sum.saturating_add(w.dispatched.saturating_sub(1)));
    Kernel { flops, bytes: moved.saturating_sub(inner), dtype, dispatched, known }
}

/// Costs of groups of nodes, which need not respect kernels: a kernel's duration is shared among pieces by their work.
pub struct GroupCosts<'a> {
    model: &'a dyn CostModel,
    kernel_of: Vec<u32>,
    /// Flops and bytes of each node, at least 1.
    weight: Vec<u64>,
    kernel_weight: Vec<u64>,
}

impl<'a> GroupCosts<'a> {
    /// Prepares a model for a graph.
    pub fn new(graph: &Graph, model: &'a dyn CostModel, batch: u64) -> Self {
        let mut kernel_of = vec![u32::MAX; graph.nodes.len()];
        let mut weight = vec![1u64; graph.nodes.len()];
        let mut kernel_weight = vec![0u64; model.kernels().len()];
        for (k, nodes) in model.kernels().iter().enumerate() {
            for n in nodes {
                kernel_of[n.index()] = k as u32;
                if nodes.len() > 1 {
                    let w = node_work(graph, *n, batch);
                    weight[n.index()] = w.map_or(1, |w| 1 + w.flops.0 / 8 + w.traffic().0);
                }
                kernel_weight[k] = kernel_weight[k].saturating_add(weight[n.index()]);
            }
        }
        Self { model, kernel_of, weight, kernel_weight }
    }

    /// Duration of a group; `Err` with the first node of which nothing is known.
    pub fn group(&self, nodes: &[NodeId]) -> Result<Cost, NodeId> {
        let mut parts: BTreeMap<u32, u64> = BTreeMap::new();
        for n in nodes {
            let k = self.kernel_of[n.index()];
            if k == u32::MAX {
                return Err(*n);
            }
            *parts.entry(k).or_default() += self.weight[n.index()];
        }
        let mut sum = Cost { time: Nanos::ZERO, modelled: false };
        for (k, weight) in parts {
            let cost = self.model.kernel(k as usize).ok_or(nodes[0])?;
            let whole = self.kernel_weight[k as usize];
            let cut = weight < whole;
            let part = (u128::from(cost.time.0) * u128::from(weight)).div_ceil(u128::from(whole.max(1)));
            sum.time += if cut { Nanos(u64::try_from(part).unwrap_or(u64::MAX)) } else { cost.time };
            sum.modelled |= cost.modelled || cut;
        }
        Ok(sum)
    }
}

/// The machine's links, with measured ones where the profile has at least two sizes (a line through the smallest and the
/// largest). Returns whether all are measured.
pub fn links(machine: &Machine, profile: Option<&Profile>) -> (Vec<Link>, bool) {
    let mut measured = true;
    let one = |link: &Link| {
        let samples = profile.iter().flat_map(|p| &p.links).filter(|s| s.from == link.from && s.to == link.to);
        let mut points: Vec<(u64, u64)> = samples.map(|s| (s.bytes, s.timing.median.0)).collect();
        points.sort_unstable();
        let mut link = link.clone();
        match (points.first(), points.last()) {
            (Some(a), Some(b)) if b.0 > a.0 && b.1 > a.1 => {
                link.bytes_per_s = scaled(b.0 - a.0, 1_000_000_000, b.1 - a.1).max(1);
                let flow = per_second(a.0, link.bytes_per_s);
                link.latency = Nanos(a.1.saturating_sub(flow));
            }
            _ => measured = false,
        }
        link
    };
    let links = machine.links.iter().map(one).collect();
    (links, measured)
}
