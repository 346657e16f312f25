//! Seeded random documents and graphs for the tests of this crate.

use std::collections::BTreeMap;

use crate::dtype::DType;
use crate::fingerprint::Fingerprint;
use crate::graph::{Dim, Fact, Graph, GraphBuilder, Kind, NodeDraft, NodeId, Origin};
use crate::limits::MILLIRATE_MAX;
use crate::machine::{Device, DeviceKind, Engine, Link, Machine, Rates};
use crate::plan::*;
use crate::profile::*;
use crate::signature::Signature;
use crate::units::{Bytes, Flops, Nanos};

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n` (0 for 0).
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// Small, round, large and extreme numbers.
    pub fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => self.next() % 10,
            2 => self.next() % 100_000,
            3 => (self.next() % 1000) * 1_000_000,
            4 => 1 << self.below(64),
            _ => self.next() >> self.below(64),
        }
    }

    /// Names as real files have them, and worse.
    pub fn name(&mut self) -> String {
        let odd = [
            "conv1",
            "input:0",
            "463",
            "onnx::Shape_422",
            "*",
            "a*",
            "=x",
            "~",
            "\"q\"",
            "a .. b",
            "",
            " x ",
            "é",
            "名前",
            "😀",
            "a\nb",
            "\u{85}\u{2028}\u{feff}",
            "true",
            "null",
            "N",
            "1e5",
            "{a: b}",
            "[x, y]",
            "# c",
            "- d",
            "a: b",
            "\u{0}\u{7f}",
            "/model/layer.0/Conv_output_0",
            "'",
            "\\",
        ];
        match self.below(3) {
            0 => format!("node_{}", self.below(50)),
            1 => odd[self.below(odd.len())].to_owned(),
            _ => (0..self.below(8)).filter_map(|_| char::from_u32(self.next() as u32 % 0x300)).collect(),
        }
    }

    pub fn list<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    pub fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.chance(50) { Some(make(self)) } else { None }
    }

    pub fn nanos(&mut self) -> Nanos {
        Nanos(self.number())
    }

    pub fn fingerprint(&mut self) -> Fingerprint {
        Fingerprint::of(&self.next().to_le_bytes())
    }

    pub fn dtype(&mut self) -> DType {
        DType::ALL[self.below(DType::ALL.len())]
    }
}

fn unique<K: PartialEq, V>(mut pairs: Vec<(K, V)>) -> Vec<(K, V)> {
    let mut i = 0;
    while i < pairs.len() {
        if pairs[..i].iter().any(|p| p.0 == pairs[i].0) {
            pairs.remove(i);
        } else {
            i += 1;
        }
    }
    pairs
}

fn device(r: &mut Random) -> Device {
    Device {
        name: r.name(),
        kind: if r.chance(50) { DeviceKind::Cpu } else { DeviceKind::Gpu },
        model: r.name(),
        cores: r.number() as u32,
        lanes_max: r.number() as u32,
        memory: Bytes(r.number()),
        rates: r.maybe(|r| Rates {
            flops_per_s: unique(r.list(4, |r| (r.dtype(), r.number()))),
            memory_bytes_per_s: r.number(),
            efficiency_permille: r.number(),
        }),
        launch: r.nanos(),
        operator_overhead: r.nanos(),
        engines: r.list(3, |r| Engine { name: r.name(), version: r.name() }),
        unsupported: r.list(3, Random::name),
        emulated: r.chance(50),
        facts: unique(r.list(3, |r| (r.name(), r.name()))),
    }
}

/// Any machine, sound or not.
pub fn machine(r: &mut Random) -> Machine {
    Machine {
        name: r.name(),
        description: r.name(),
        sources: r.list(3, Random::name),
        devices: r.list(4, device),
        links: r.list(3, |r| Link {
            from: r.name(),
            to: r.name(),
            latency: r.nanos(),
            bytes_per_s: r.number(),
            shared: r.chance(50),
        }),
        microdollars_per_hour: r.maybe(Random::number),
    }
}

fn timing(r: &mut Random) -> Timing {
    let methods = [Method::EngineTimed, Method::Isolated, Method::Modelled];
    Timing { median: r.nanos(), spread: r.nanos(), repeats: r.number() as u32, method: methods[r.below(3)] }
}

fn setting(r: &mut Random) -> Setting {
    Setting { device: r.name(), engine: r.name(), threads: r.number() as u32, batch: r.number() }
}

/// Any profile, sound or not.
pub fn profile(r: &mut Random) -> Profile {
    let node = |r: &mut Random| NodeId(r.number() as u32);
    Profile {
        machine: machine(r),
        date: r.name(),
        tables: r.list(3, |r| AtomTable {
            graph: r.fingerprint(),
            model: r.name(),
            device: r.name(),
            engine: r.name(),
            atoms: r.list(5, |r| Atom { nodes: r.list(40, node), signature: Signature(r.name()) }),
        }),
        samples: r.list(5, |r| ((Signature(r.name()), setting(r)), timing(r))).into_iter().collect(),
        launches: r.list(3, |r| (setting(r), timing(r))).into_iter().collect(),
        segments: r.list(3, |r| SegmentSample {
            graph: r.fingerprint(),
            nodes: (node(r), node(r), r.number() as u32),
            setting: setting(r),
            timing: timing(r),
        }),
        links: r.list(3, |r| LinkSample { from: r.name(), to: r.name(), bytes: r.number(), timing: timing(r) }),
        interference: r.list(3, |r| Interference {
            graph: r.fingerprint(),
            setting: setting(r),
            lanes: r.number() as u32,
            factor_permille: r.number(),
            method: timing(r).method,
        }),
        proofs: r.list(3, |r| BatchProof { graph: r.fingerprint(), refusal: r.maybe(Random::name), engine: r.name() }),
    }
}

fn part(r: &mut Random) -> Part {
    Part {
        device: r.name(),
        nodes: r.list(4, |r| match r.below(4) {
            0 => NodePattern::One(r.name()),
            1 => NodePattern::Range(r.name(), r.name()),
            2 => NodePattern::Glob(r.name()),
            _ => NodePattern::Rest,
        }),
    }
}

fn tenant(r: &mut Random) -> Tenant {
    let dim = |r: &mut Random| {
        if r.chance(50) { BoundDim::Fixed(r.number()) } else { BoundDim::Batch(r.number()) }
    };
    Tenant {
        name: r.name(),
        model: r.name(),
        shapes: r.list(3, |r| (r.name(), r.list(4, dim))).into_iter().collect::<BTreeMap<_, _>>(),
        millirate: r.maybe(|r| r.number() % (MILLIRATE_MAX + 1)),
        batching: match r.below(4) {
            0 => Batching::Proven,
            1 => Batching::Inferred,
            2 => Batching::Insisted,
            _ => Batching::Refused(r.name()),
        },
        batches: r.list(4, Random::number),
        pins: r.list(2, part),
        routes: r.list(3, |r| AuthoredRoute {
            batch: r.number(),
            lanes: r.number() as u32,
            threads: r.number() as u32,
            share_permille: r.number(),
            parts: r.list(3, part),
        }),
    }
}

pub fn route(r: &mut Random) -> Route {
    let position = |r: &mut Random| r.below(8);
    Route {
        tenant: r.name(),
        batch: r.number(),
        lanes: r.number() as u32,
        threads: r.number() as u32,
        share_permille: r.number(),
        tensors: r.list(6, |r| RouteTensor {
            name: r.name(),
            dtype: r.maybe(Random::dtype),
            dims: r.maybe(|r| r.list(4, Random::number)),
            bytes: Bytes(r.number()),
        }),
        inputs: r.list(3, position),
        outputs: r.list(3, position),
        segments: r.list(4, |r| Segment {
            device: r.below(5),
            part: r.below(5),
            nodes: r.list(30, Random::name),
            inputs: r.list(3, position),
            outputs: r.list(3, position),
            weight_bytes: Bytes(r.number()),
            workspace_bytes: Bytes(r.number()),
        }),
        lane_names: r.list(4, Random::name),
        steps: r.list(6, |r| Step {
            lane: r.below(5),
            action: match r.below(3) {
                0 => Action::Run(r.below(5)),
                1 => Action::Copy { tensor: r.below(8), from: r.below(5), to: r.below(5) },
                _ => Action::Barrier,
            },
            after: r.list(3, position),
            duration: r.nanos(),
            frees: r.list(2, |r| (r.below(8), r.below(5))),
        }),
        memory: r.list(4, |r| MemoryUse {
            weights: Bytes(r.number()),
            arena: Bytes(r.number()),
            owned: Bytes(r.number()),
            workspace: Bytes(r.number()),
        }),
        work: r.list(4, |r| DeviceWork {
            operators: r.number(),
            unknown: r.number(),
            flops: r.maybe(|r| Flops(r.number())),
            moved: r.maybe(|r| Bytes(r.number())),
        }),
        prediction: Prediction {
            makespan: r.nanos(),
            busy: r.list(4, Random::nanos),
            latency_bound: r.nanos(),
            millirequests_per_s: r.number(),
            lower_bound: r.nanos(),
            gap_ppm: r.number(),
            modelled: r.chance(50),
        },
    }
}

fn serving(r: &mut Random) -> Serving {
    let policy = match r.below(4) {
        0 => Policy::Fixed { preferred: r.list(4, Random::number), queue_delay: r.nanos() },
        1 => Policy::AdtSerial,
        2 => Policy::AdtSlide,
        _ => Policy::AdtFlow,
    };
    Serving { policy, queue_max: r.maybe(|r| r.number() as u32) }
}

/// Any plan, sound or not.
pub fn plan(r: &mut Random) -> Plan {
    Plan {
        authored: Authored {
            objective: if r.chance(50) { Objective::Latency } else { Objective::Throughput },
            search: r.name(),
            applications: r.list(3, |r| Application {
                name: r.name(),
                slo: r.maybe(Random::nanos),
                percentile_permille: r.number(),
                tenants: r.list(3, tenant),
                edges: r.list(3, |r| (r.below(4), r.below(4))),
            }),
            serving: serving(r),
        },
        derived: Derived {
            authored: r.fingerprint(),
            graphs: r.list(3, |r| PlannedGraph { tenant: r.name(), fingerprint: r.fingerprint() }),
            profile: r.fingerprint(),
            machine: machine(r),
            tandem: r.name(),
            routes: r.list(3, route),
            together: r.maybe(|r| Together {
                carried_ppm: r.number(),
                bound_ppm: r.maybe(|r| r.number()),
                verified_ppm: r.maybe(|r| r.number()),
                busy_ppm: r.list(3, |r| (r.name(), r.number())),
            }),
            reports: r.list(3, |r| MethodReport {
                route: r.name(),
                tried: r.list(3, |r| (r.name(), r.nanos(), r.number())),
                chosen: r.name(),
                stopped: r.name(),
                passes: r.list(3, |r| (r.name(), r.number(), r.number())),
                notes: r.list(3, Random::name),
            }),
        },
    }
}

/// A tensor fact of known shape.
pub fn fact(dtype: DType, dims: &[u64]) -> Fact {
    let shape = Some(dims.iter().map(|d| Dim::Known(*d)).collect());
    Fact { kind: Kind::Tensor, dtype: Some(dtype), shape, origin: Origin::Inferred }
}

/// A random DAG of `n` nodes named `t0..`: each reads up to three earlier values, mostly near ones; what nobody reads is
/// an output.
pub fn graph(r: &mut Random, n: usize) -> Graph {
    let mut builder = GraphBuilder::new("random", 8, BTreeMap::from([(String::new(), 17)]));
    builder.input("x", fact(DType::F32, &[1, 8])).unwrap();
    let mut read = vec![false; n];
    for i in 0..n {
        let inputs = (0..1 + r.below(3)).map(|_| {
            let far = if r.chance(80) { 4 } else { n };
            match i.checked_sub(1 + r.below(far)) {
                None => "x".to_owned(),
                Some(source) => {
                    read[source] = true;
                    format!("t{source}")
                }
            }
        });
        let inputs = inputs.collect();
        builder.node(NodeDraft { op: "Relu".into(), inputs, outputs: vec![format!("t{i}")], ..NodeDraft::default() });
        builder.declare(&format!("t{i}"), fact(DType::F32, &[1, 8]));
    }
    (0..n).filter(|i| !read[*i]).for_each(|i| builder.output(&format!("t{i}")));
    builder.finish(Fingerprint::of(b"random")).unwrap()
}
