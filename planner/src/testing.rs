//! Seeded problems, graphs and routes for tests and benches; no part of the interface.

use std::collections::BTreeMap;

use tandem_ir::graph::{Dim, Fact, GraphBuilder, Kind, NodeDraft, Origin};
use tandem_ir::machine::{DeviceKind, Link};
use tandem_ir::plan::Route;
use tandem_ir::units::{Bytes, Nanos};
use tandem_ir::{DType, Fingerprint, Graph};

use crate::emit::{self, RouteHead};
use crate::plan::{PlanInput, TenantInput};
use crate::problem::{Atom, DeviceModel, Problem, Value};
pub use crate::rng::Rng;
use crate::segments;
use crate::timeline;

/// A device for made-up problems.
pub fn device(name: &str, launch: u64) -> DeviceModel {
    let kind = if name == "cpu" { DeviceKind::Cpu } else { DeviceKind::Gpu };
    let (launch, operator_overhead) = (Nanos(launch), Nanos::ZERO);
    let (memory, name) = (Bytes(u64::MAX), name.to_owned());
    DeviceModel {
        name,
        kind,
        launch,
        cut_loss: Nanos::ZERO,
        operator_overhead,
        memory,
        lanes: 1,
        factor_permille: 1000,
    }
}

/// A link for made-up problems: `ns` a byte, after `latency`.
pub fn link(from: &str, to: &str, latency: u64, shared: bool) -> Link {
    let (from, to) = (from.to_owned(), to.to_owned());
    Link { from, to, latency: Nanos(latency), bytes_per_s: 1_000_000_000, shared }
}

/// Sizes of a random problem.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Atoms.
    pub atoms: usize,
    /// Devices, the host included.
    pub devices: usize,
    /// A path instead of a DAG.
    pub path: bool,
    /// Most of a launch; 0: none.
    pub launch: u64,
    /// Longest operator.
    pub time: u64,
    /// Largest value.
    pub bytes: u64,
    /// Atoms look back at most this far for what they read; 0: anywhere.
    pub window: u64,
    /// One duration in so many is missing; 0: every atom runs everywhere.
    pub pin_one_in: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self { atoms: 8, devices: 2, path: false, launch: 20, time: 100, bytes: 60, window: 0, pin_one_in: 12 }
    }
}

/// A random problem: every atom can run somewhere, values may be read several times, handed back, or both.
pub fn random_problem_of(shape: Shape, seed: u64) -> Problem {
    let mut rng = Rng::new(seed);
    let (devices, links) = random_devices(&mut rng, shape);
    let mut atoms = vec![];
    let mut values: Vec<Value> = vec![];
    let mut made: Vec<usize> = vec![];
    let input = |values: &mut Vec<Value>, rng: &mut Rng| {
        let bytes = Bytes(rng.below(shape.bytes + 1));
        values.push(Value { tensor: None, bytes, producer: None, consumers: vec![], output: false });
        values.len() - 1
    };
    for a in 0..shape.atoms {
        let mut time: Vec<Option<Nanos>> = devices
            .iter()
            .map(|_| (shape.pin_one_in == 0 || !rng.one_in(shape.pin_one_in)).then(|| Nanos(rng.below(shape.time + 1))))
            .collect();
        if time.iter().all(Option::is_none) {
            time[0] = Some(Nanos(rng.below(shape.time + 1)));
        }
        atoms.push(Atom { nodes: vec![], time, weights: Bytes::ZERO });
        let reads = if shape.path { 1 } else { 1 + rng.below(3) };
        for _ in 0..reads {
            let fresh = made.is_empty() || (!shape.path && rng.one_in(10));
            let v = match fresh {
                true => input(&mut values, &mut rng),
                false if shape.path => made[made.len() - 1],
                false => {
                    let back = if shape.window == 0 { made.len() as u64 } else { shape.window.min(made.len() as u64) };
                    made[made.len() - 1 - rng.below(back) as usize]
                }
            };
            values[v].consumers.push(a);
        }
        let (bytes, output) = (Bytes(rng.below(shape.bytes + 1)), !shape.path && rng.one_in(10));
        made.push(values.len());
        values.push(Value { tensor: None, bytes, producer: Some(a), consumers: vec![], output });
    }
    values.iter_mut().filter(|v| v.consumers.is_empty()).for_each(|v| v.output = true);
    Problem::new(devices, links, atoms, values).expect("random problems follow the rules")
}

fn random_devices(rng: &mut Rng, shape: Shape) -> (Vec<DeviceModel>, Vec<Link>) {
    let launch = |rng: &mut Rng| if shape.launch == 0 { 0 } else { rng.below(shape.launch + 1) };
    let mut devices = vec![device("cpu", launch(rng))];
    let mut links = vec![];
    for d in 1..shape.devices {
        let name = format!("gpu{}", d - 1);
        devices.push(device(&name, launch(rng)));
        let (shared, up, down) = (rng.one_in(3), rng.below(20), rng.below(20));
        links.push(link("cpu", &name, up, shared));
        links.push(link(&name, "cpu", down, shared));
    }
    (devices, links)
}

/// A random problem of 2 to 14 atoms on one to three devices.
pub fn random_problem(seed: u64) -> Problem {
    let mut rng = Rng::new(seed ^ 0x5EED);
    let shape = Shape { atoms: 2 + rng.below(13) as usize, devices: 1 + rng.below(3) as usize, ..Shape::default() };
    random_problem_of(shape, seed)
}

/// A random DAG of the size of a model, for timing cuts: operators read the last few values, two devices.
pub fn random_dag(atoms: usize, seed: u64) -> Problem {
    let shape =
        Shape { atoms, launch: 20_000, time: 200_000, bytes: 400_000, window: 12, pin_one_in: 0, ..Shape::default() };
    random_problem_of(shape, seed)
}

/// The graph a made-up problem could have come from: one operator an atom, f32 values, names `v0`, `v1`, ...
pub fn graph_of(problem: &Problem) -> Graph {
    let mut builder = GraphBuilder::new("made up", 10, BTreeMap::from([(String::new(), 20)]));
    let fact = |bytes: Bytes| Fact {
        kind: Kind::Tensor,
        dtype: Some(DType::U8),
        shape: Some(vec![Dim::Known(bytes.0)]),
        origin: Origin::Inferred,
    };
    let name = |v: usize| format!("v{v}");
    for (v, value) in problem.values.iter().enumerate() {
        match value.producer {
            None => drop(builder.input(&name(v), fact(value.bytes)).expect("names are unique")),
            Some(_) => builder.declare(&name(v), fact(value.bytes)),
        }
        if value.output {
            builder.output(&name(v));
        }
    }
    for a in 0..problem.atoms.len() {
        let names = |list: &[u32]| list.iter().map(|v| name(*v as usize)).collect::<Vec<_>>();
        builder.node(NodeDraft {
            name: format!("n{a}"),
            op: format!("Opaque{}", a % 3),
            domain: "test".into(),
            inputs: names(problem.reads(a)),
            outputs: names(problem.writes(a)),
            ..NodeDraft::default()
        });
    }
    builder.finish(Fingerprint::of(b"made up")).expect("made-up problems are graphs")
}

/// A random placement of a problem's atoms, each where it can run.
pub fn random_devices_of(problem: &Problem, rng: &mut Rng) -> Vec<u8> {
    let one = |a: usize, rng: &mut Rng| {
        let can: Vec<u8> =
            (0..problem.devices.len()).filter(|d| problem.time(a, *d).is_some()).map(|d| d as u8).collect();
        can[rng.below(can.len() as u64) as usize]
    };
    (0..problem.atoms.len()).map(|a| one(a, rng)).collect()
}

/// A random route (1 to 40 atoms, one to three devices, any placement) with its graph, as the planner writes it: for the
/// test that every player of routes agrees with the timeline to the nanosecond.
pub fn random_route(seed: u64) -> (Graph, Route) {
    let mut rng = Rng::new(seed ^ 0xA11);
    let shape = Shape {
        atoms: 1 + rng.below(40) as usize,
        devices: 1 + rng.below(3) as usize,
        time: [5, 100, 1_000_000][rng.below(3) as usize],
        launch: [0, 20, 5000][rng.below(3) as usize],
        bytes: [60, 100_000][rng.below(2) as usize],
        ..Shape::default()
    };
    let mut problem = random_problem_of(shape, seed);
    problem.devices.iter_mut().for_each(|d| d.factor_permille = 1000 + rng.below(500));
    let graph = graph_of(&problem);
    // The builder keeps the order of atoms, for it is topological already.
    problem.atoms.iter_mut().enumerate().for_each(|(a, atom)| atom.nodes = vec![tandem_ir::NodeId(a as u32)]);
    let index = graph.tensor_index();
    let ids: Vec<_> = (0..problem.values.len()).map(|v| index[format!("v{v}").as_str()]).collect();
    problem.values.iter_mut().zip(ids).for_each(|(v, t)| v.tensor = Some(t));
    let devices = random_devices_of(&problem, &mut rng);
    let mut segments = segments::by_level(&problem, &devices);
    if rng.one_in(2) {
        segments = segments::merged(&problem, &segments);
    }
    let timeline = timeline::evaluate(&problem, &segments).expect("random placements are runnable");
    let head = RouteHead { tenant: "made-up".into(), share_permille: 1000, parts: (0..segments.len()).collect() };
    let route = emit::route(head, &graph, &problem, &segments, &timeline).expect("values are small");
    (graph, route)
}

/// A described machine: a CPU of `cores` and, where asked for, an accelerator ten times as fast on a slow link.
pub fn machine(cores: u32, gpu: bool) -> tandem_ir::Machine {
    use tandem_ir::machine::{Device, Engine, Machine, Rates};
    let device = |name: &str, kind, cores, flops, memory_bytes_per_s, launch, overhead| Device {
        name: String::from(name),
        kind,
        model: "made up".into(),
        cores,
        lanes_max: cores,
        memory: Bytes(16 << 30),
        rates: Some(Rates { flops_per_s: vec![(DType::F32, flops)], memory_bytes_per_s, efficiency_permille: 500 }),
        launch: Nanos(launch),
        operator_overhead: Nanos(overhead),
        engines: vec![Engine { name: "emulated".into(), version: String::new() }],
        unsupported: vec![],
        emulated: true,
        facts: vec![],
    };
    let giga = 1_000_000_000;
    let mut devices =
        vec![device("cpu", DeviceKind::Cpu, cores, 50 * giga * u64::from(cores), 40 * giga, 5_000, 1_000)];
    let mut links = vec![];
    if gpu {
        devices.push(device("gpu0", DeviceKind::Gpu, 40, 8_000 * giga, 300 * giga, 20_000, 5_000));
        let one = |from: &str, to: &str| Link {
            from: from.into(),
            to: to.into(),
            latency: Nanos(10_000),
            bytes_per_s: 12 * giga,
            shared: false,
        };
        links = vec![one("cpu", "gpu0"), one("gpu0", "cpu")];
    }
    Machine {
        name: "made-up".into(),
        description: "made up".into(),
        sources: vec![],
        devices,
        links,
        microdollars_per_hour: None,
    }
}

/// A plan's input of one tenant with nothing special.
pub fn input<'a>(graph: &'a Graph, machine: &'a tandem_ir::Machine) -> PlanInput<'a> {
    let tenant = TenantInput { model: "made-up.onnx".into(), ..TenantInput::new("made-up", graph) };
    let (objective, tandem) = (tandem_ir::plan::Objective::Latency, "0.0.0".into());
    PlanInput { objective, tandem, ..PlanInput::new(machine, vec![tenant]) }
}
