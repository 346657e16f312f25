//! Graphs with real operators: passes as text, costs measured and modelled, explanations.

use std::collections::BTreeMap;

use tandem_ir::graph::{Constant, Dim, Fact, GraphBuilder, Kind, NodeDraft, NodeId, Origin};
use tandem_ir::plan::{NodePattern, Objective, Part};
use tandem_ir::profile::{Atom, AtomTable, Interference, Method, Profile, Setting, Timing};
use tandem_ir::signature::signature;
use tandem_ir::units::Nanos;
use tandem_ir::{DType, Fingerprint, Graph};

use crate::build::{LaneConfig, Workbench};
use crate::error::PlanError;
use crate::plan::{self, RebuildInput};
use crate::{explain, simplify, testing};

/// Builds a graph from lines `out = Op(in, in)`; names that begin with `w` are constants, `x` an input, the last line's
/// output is handed back. All values are f32 of N x 64 x 28 x 28 unless `dtype` says otherwise.
pub(crate) fn parse(text: &str) -> Graph {
    let mut builder = GraphBuilder::new("text", 10, BTreeMap::from([(String::new(), 20)]));
    let fact = |dtype, shape: Vec<Dim>| Fact {
        kind: Kind::Tensor,
        dtype: Some(dtype),
        shape: Some(shape),
        origin: Origin::Inferred,
    };
    let image = || vec![Dim::Batch { per_item: 1 }, Dim::Known(64), Dim::Known(28), Dim::Known(28)];
    let mut last = String::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let (out, rest) = line.split_once(" = ").expect("out = Op(..)");
        let (op, args) = rest.strip_suffix(')').and_then(|r| r.split_once('(')).expect("Op(..)");
        let inputs: Vec<String> = args.split(", ").filter(|a| !a.is_empty()).map(str::to_owned).collect();
        for name in inputs.iter().filter(|n| n.starts_with(['w', 'x'])) {
            if builder.defines(name) {
                continue;
            }
            if name.starts_with('x') {
                builder.input(name, fact(DType::F32, image())).expect("fresh");
            } else {
                let digest = Fingerprint::of(name.as_bytes());
                let constant = Constant { bytes: 64 * 64 * 9 * 4, values: None, digest };
                let shape = [64, 64, 3, 3].map(Dim::Known).to_vec();
                builder.constant(name, fact(DType::F32, shape), constant).expect("fresh");
            }
        }
        let small = out.starts_with('s');
        let dims = if small { vec![Dim::Known(4)] } else { image() };
        builder.declare(out, fact(if small { DType::I64 } else { DType::F32 }, dims));
        let (name, domain) = (String::new(), String::new());
        let outputs = vec![out.to_owned()];
        builder.node(NodeDraft { name, domain, op: op.to_owned(), inputs, outputs, ..NodeDraft::default() });
        last = out.to_owned();
    }
    builder.output(&last);
    builder.finish(Fingerprint::of(text.as_bytes())).expect("sound")
}

fn atoms(graph: &Graph, tables: &[&[Vec<NodeId>]]) -> String {
    atoms_where(graph, tables, &vec![u32::MAX; graph.nodes.len()])
}

/// Atoms and passes where nodes may run on these devices.
fn atoms_where(graph: &Graph, tables: &[&[Vec<NodeId>]], allowed: &[u32]) -> String {
    let simplified = simplify::simplify(graph, tables, true, allowed);
    let atom = |nodes: &Vec<NodeId>| nodes.iter().map(|n| graph.node_name(*n)).collect::<Vec<_>>().join("+");
    let atoms: Vec<String> = simplified.atoms.iter().map(atom).collect();
    let passes: Vec<String> =
        simplified.passes.iter().map(|p| format!("{} {}->{}", p.name, p.before, p.after)).collect();
    format!("{} | {}", atoms.join(" "), passes.join(", "))
}

#[test]
fn passes_as_text() {
    let none = "engine atoms";
    let cases = [
        // Convolution, normalisation, activation.
        ("a = Conv(x, w)\nb = BatchNormalization(a, w1, w2)\nc = Relu(b)\nd = MaxPool(c)", "a+b+c d"),
        // Swish keeps its diamond; a value that is read elsewhere too ends the pattern.
        ("a = Conv(x, w)\nb = Sigmoid(a)\nc = Mul(a, b)\nd = MaxPool(c)", "a+b+c d"),
        ("a = Conv(x, w)\nb = Relu(a)\nc = Conv(b, w)\nd = Add(a, c)", "a b c+d"),
        // A residual is summed by the convolution's kernel, wherever it comes from; a product of two branches is not.
        ("a = Conv(x, w)\nb = Conv(a, w1)\nc = Conv(b, w2)\nd = Add(c, a)\ne = Relu(d)", "a b c+d+e"),
        ("a = Conv(x, w)\nb = Conv(a, w1)\nc = Conv(b, w2)\nd = Mul(c, a)", "a b c d"),
        ("a = Conv(x, w)\nb = Conv(a, w1)\nc = Add(b, a)\nd = Relu(c)", "a b+c+d"),
        ("a = MatMul(x, w)\nb = Add(a, w1)\nc = MatMul(b, w2)", "a+b c"),
        // Layer normalisation and gelu as exporters write them.
        (
            "a = Identity(x)\nb = ReduceMean(a)\nc = Sub(a, b)\nd = Pow(c, w)\ne = ReduceMean(d)\nf = Add(e, w1)\n\
             g = Sqrt(f)\nh = Div(c, g)\ni = Mul(h, w2)\nj = Add(i, w3)\nk = MatMul(j, w4)",
            "a b+c+d+e+f+g+h+i+j k",
        ),
        ("a = Identity(x)\nb = Div(a, w)\nc = Erf(b)\nd = Add(c, w1)\ne = Mul(a, d)\nf = Mul(e, w2)", "a b+c+d+e+f"),
        ("a = MatMul(x, x1)\nb = Div(a, w)\nc = Add(b, w1)\nd = Softmax(c)", "a b+c+d"),
        // Quantised kernels are whole from their DequantizeLinear to their QuantizeLinear; boundaries carry integers.
        (
            "a = QuantizeLinear(x, w)\nb = DequantizeLinear(a, w)\nc = Conv(b, w1)\nd = Relu(c)\ne = QuantizeLinear(d, w)\n\
             f = DequantizeLinear(e, w)\ng = MaxPool(f)\nh = QuantizeLinear(g, w)",
            "a b+c+d+e f+g+h",
        ),
    ];
    for (text, expected) in cases {
        let found = atoms(&parse(text), &[]);
        let (found, passes) = found.split_once(" | ").expect("two halves");
        assert_eq!(found, expected, "{text}");
        assert!(passes.contains(none), "{passes}");
    }
    // Constants fold away; an engine's groups are joined across devices, and what would be a cycle is one atom.
    let graph = parse("c = Exp(w)\na = Exp(x)\nb = Mul(a, c)\nd = Neg(b)\ne = Add(a, d)");
    let n = |i: u32| NodeId(i);
    assert_eq!(graph.node(n(0)).op.name, "Exp");
    let table = [vec![n(1), n(4)], vec![n(2)], vec![n(3)]];
    let found = atoms(&graph, &[&table]);
    assert_eq!(
        found,
        "a+b+d+e | constants 5->4, uncuttable values 4->4, quantised operators 4->4, engine atoms 4->3, \
         documented fusions 3->3, cycles 3->1"
    );
}

#[test]
fn shape_arithmetic_is_known_and_costs_the_cpu_a_dispatch() {
    let graph = parse("a = Conv(x, w)\ns1 = Shape(a)\ns2 = Gather(s1, w1)\nb = Reshape(a, s2)");
    assert_eq!(simplify::shape_arithmetic(&graph), [false, true, true, false]);
    let machine = testing::machine(4, true);
    let bench = Workbench::new(&graph, &machine, None, &[]).expect("rates are described");
    let problem = bench.problem(1, LaneConfig { lanes: 1, threads: 4 }).expect("runnable");
    let overhead = machine.devices[0].operator_overhead;
    assert_eq!((problem.time(1, 0), problem.time(1, 1)), (Some(overhead), Some(Nanos::ZERO)));
    assert!(problem.time(0, 0) > Some(overhead * 10));
}

#[test]
fn modelled_costs_follow_batch_and_threads() {
    let graph = parse("a = Conv(x, w)\nb = Relu(a)\nc = Conv(b, w1)");
    let machine = testing::machine(8, true);
    let bench = Workbench::new(&graph, &machine, None, &[]).expect("rates are described");
    let time = |batch, threads, d| {
        let problem = bench.problem(batch, LaneConfig { lanes: 1, threads }).expect("runnable");
        problem.time(0, d).expect("runs").0
    };
    // 64*28*28 outputs of 2*576 operations at half of 50 Gflop/s a core: 2.3 ms.
    assert_eq!(time(1, 1, 0), 1_000 + (64u64 * 28 * 28 * (2 * 576 + 1)).div_ceil(25));
    assert!(time(1, 8, 0) < time(1, 1, 0) / 6 && time(4, 8, 0) > 3 * time(1, 8, 0));
    assert_eq!(time(1, 1, 1), time(1, 8, 1));
    let factor =
        |lanes| bench.problem(1, LaneConfig { lanes, threads: 1 }).expect("runnable").devices[0].factor_permille;
    assert!(factor(1) == 1000 && factor(8) >= factor(2));
}

/// A profile of the CPU alone, every operator an atom of `ns` at batch 1 and three times that at batch 4.
fn profile(graph: &Graph, machine: &tandem_ir::Machine, ns: u64) -> Profile {
    let mut profile = Profile::new(machine.clone(), "2026-11-21".into());
    let atoms: Vec<Atom> =
        graph.placeable().map(|n| Atom { nodes: vec![n], signature: signature(graph, &[n]) }).collect();
    let setting = |threads, batch| Setting { device: "cpu".into(), engine: "emulated".into(), threads, batch };
    let timing = |ns| Timing { median: Nanos(ns), spread: Nanos(1), repeats: 9, method: Method::EngineTimed };
    for atom in &atoms {
        for threads in [1, 2] {
            profile.samples.insert((atom.signature.clone(), setting(threads, 1)), timing(ns / u64::from(threads)));
            profile.samples.insert((atom.signature.clone(), setting(threads, 4)), timing(3 * ns / u64::from(threads)));
        }
    }
    let (graph, device, engine) = (graph.fingerprint, "cpu".into(), "emulated".into());
    profile.tables = vec![AtomTable { graph, model: "text".into(), device, engine, atoms }];
    profile
}

#[test]
fn measured_costs_are_looked_up_and_interference_is_required() {
    let graph = parse("a = Exp(x)\nb = Neg(a)\nc = Sin(b)");
    let mut machine = testing::machine(4, false);
    machine.devices[0].rates = None;
    let mut profile = profile(&graph, &machine, 1000);
    let bench = Workbench::new(&graph, &machine, Some(&profile), &[]).expect("measured");
    assert_eq!(bench.thread_choices(4), [1, 2]);
    let one = |batch, threads| bench.problem(batch, LaneConfig { lanes: 1, threads }).expect("measured");
    assert_eq!(one(1, 2).time(0, 0), Some(Nanos(500)));
    assert!(!one(1, 2).modelled);
    // Batch 2 lies on the line between 1 and 4.
    assert_eq!(one(2, 1).time(0, 0), Some(Nanos(1000 + 2000 / 3)));
    assert!(one(2, 1).modelled);
    let two = LaneConfig { lanes: 2, threads: 2 };
    let missing = PlanError::NoInterference { device: "cpu".into(), lanes: 2, threads: 2 };
    assert_eq!(bench.problem(1, two).err(), Some(missing));
    let setting = Setting { device: "cpu".into(), engine: "emulated".into(), threads: 2, batch: 1 };
    let (graph_id, method) = (graph.fingerprint, Method::Isolated);
    profile.interference = vec![Interference { graph: graph_id, setting, lanes: 2, factor_permille: 1500, method }];
    let bench = Workbench::new(&graph, &machine, Some(&profile), &[]).expect("measured");
    assert_eq!(bench.problem(1, two).expect("measured").devices[0].factor_permille, 1500);
    // Two lanes are known, four are not: the floor speaks of both.
    let mut input = testing::input(&graph, &machine);
    (input.profile, input.objective) = (Some(&profile), Objective::Throughput);
    let plan = plan::plan(&input).expect("feasible");
    let route = &plan.derived.routes[0];
    assert!(plan.derived.reports[0].notes.iter().any(|n| n.contains("4 lanes of 1 threads")), "{plan:?}");
    let busiest = route.prediction.latency_bound.saturating_sub(route.prediction.makespan);
    assert!(route.prediction.lower_bound < busiest, "{route:?}");
    machine.devices[0].name = "other".into();
    let nothing = Workbench::new(&graph, &machine, Some(&profile), &[]).err();
    assert_eq!(nothing, Some(PlanError::NoCosts { device: "other".into() }));
}

#[test]
fn throughput_takes_lanes_and_batches_within_the_slo() {
    let graph = parse("a = Exp(x)\nb = Neg(a)\nc = Sin(b)");
    let mut machine = testing::machine(4, false);
    let profile = profile(&graph, &machine, 1_000_000);
    machine.devices[0].launch = Nanos::ZERO;
    let mut input = testing::input(&graph, &machine);
    input.profile = Some(&profile);
    (input.tenants[0].batches, input.objective) = (vec![1, 4], Objective::Throughput);
    let chosen = |input: &plan::PlanInput<'_>| {
        let plan = plan::plan(input).expect("feasible");
        let route = plan.derived.routes.iter().find(|r| r.share_permille == 1000).expect("one is chosen").clone();
        (route.batch, route.lanes, route.threads, route.prediction)
    };
    // Batch 4 costs three times batch 1, so it carries a third more; all four cores work.
    let (batch, lanes, threads, prediction) = chosen(&input);
    assert_eq!((batch, lanes * threads), (4, 4));
    assert_eq!(prediction.gap_ppm, 0, "{prediction:?}");
    // A bound that batch 4 cannot meet leaves batch 1.
    input.tenants[0].slo = Some(Nanos(4_000_000));
    let (batch, _, _, prediction) = chosen(&input);
    assert!(batch == 1 && prediction.latency_bound <= Nanos(4_000_000), "{prediction:?}");
}

#[test]
fn a_boundary_inside_a_fusion_shares_its_cost() {
    let graph = parse("a = Conv(x, w)\nb = Relu(a)\nc = Conv(b, w1)\nd = Relu(c)");
    let machine = testing::machine(4, true);
    let input = testing::input(&graph, &machine);
    let mut plan = plan::plan(&input).expect("feasible");
    let one = |name: &str| NodePattern::One(name.into());
    plan.authored.applications[0].tenants[0].routes[0].parts = vec![
        Part { device: "cpu".into(), nodes: vec![one("a")] },
        Part { device: "gpu0".into(), nodes: vec![NodePattern::Rest] },
    ];
    let rebuild = RebuildInput {
        graphs: &[&graph],
        machine: &machine,
        profile: None,
        profile_fingerprint: input.profile_fingerprint,
        tandem: "0.0.0",
        reports: &[],
        bound_ppm: None,
    };
    plan.derived = plan::rebuild(&plan.authored, &rebuild).expect("every operator runs everywhere");
    let findings = tandem_ir::check::check_plan(&plan, "p.yaml");
    assert!(!tandem_ir::check::has_errors(&findings), "{findings:?}");
    let explained = explain::explain(&plan, &[&graph], None, 0, None).expect("the plan fits the graph");
    assert_eq!(explained.segments.len(), 2);
    let text = explained.text();
    for needle in ["0 -> 1: \"a\"", "makespan", "busy", "no placement is below", "\"b\" (Relu) to segment 0"] {
        assert!(text.contains(needle), "expected {needle} in\n{text}");
    }
    assert!(explained.tree().contains("-> segment 1 on gpu0"), "{}", explained.tree());
    assert!(explained.dot().starts_with("digraph") && explained.dot().contains("s0 -> s1"));
    assert!(explained.json().contains("\"change_ns\""));
    let svg = explained.svg();
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.matches("<rect").count() >= 6);
    let summary = explain::summary(&plan, "made-up", &graph, None);
    assert!(summary.contains("1 on cpu") && summary.contains("3 on gpu0"), "{summary}");
    // The work stands in the plan: who reads it needs no shapes, and sees no zero.
    let mut unseen = graph.clone();
    unseen.tensors.iter_mut().for_each(|t| t.fact.shape = None);
    assert_eq!(explain::summary(&plan, "made-up", &unseen, None), summary);
    assert!(summary.contains("1 on cpu (0.06 Gflop, "), "{summary}");
}

#[test]
fn an_unsupported_operator_is_pinned_with_its_reason() {
    let graph = parse("a = Conv(x, w)\nb = NonZero(a)\nc = Cast(b)\nd = Conv(c, w1)");
    let mut machine = testing::machine(4, true);
    machine.devices[1].unsupported = vec!["NonZero".into()];
    let mut input = testing::input(&graph, &machine);
    input.search = crate::search::Method::GpuOnly;
    let plan = plan::plan(&input).expect("feasible");
    let route = &plan.derived.routes[0];
    let at = |node: &str| route.segments.iter().find(|s| s.nodes.iter().any(|n| n == node)).map(|s| s.device);
    assert_eq!((at("a"), at("b"), at("d")), (Some(1), Some(0), Some(1)));
    let summary = explain::summary(&plan, "made-up", &graph, None);
    assert!(summary.contains("no accelerator here runs them: 1 operators (1 NonZero)"), "{summary}");
    assert!(plan.derived.reports[0].notes.iter().any(|n| n.contains("gpu0 cannot run NonZero")));
    let explained = explain::explain(&plan, &[&graph], None, 0, None).expect("fits").text();
    assert!(explained.contains("not possible, gpu0 cannot run NonZero"), "{explained}");
    let cpu = plan::plan(&plan::PlanInput { search: crate::search::Method::CpuOnly, ..input }).expect("feasible");
    let changes = crate::diff::diff(&plan, &cpu);
    assert!(changes.iter().any(|c| c.contains("3 operators move from gpu0 to cpu")), "{changes:#?}");
    assert!(changes.iter().any(|c| c.contains("work on gpu0 3 operators, ")), "{changes:#?}");
    assert_eq!(crate::diff::diff(&plan, &plan), Vec::<String>::new());
}

fn pin(device: &str, nodes: &[&str]) -> Part {
    Part { device: device.into(), nodes: nodes.iter().map(|n| NodePattern::One((*n).into())).collect() }
}

/// Where a plan puts nodes, in the words of the machine.
fn places(plan: &tandem_ir::Plan, nodes: &[&str]) -> Vec<String> {
    let route = &plan.derived.routes[0];
    let segment = |node: &&str| route.segments.iter().find(|s| s.nodes.iter().any(|n| n == node)).expect("placed");
    nodes.iter().map(|n| plan.derived.machine.devices[segment(n).device].name.clone()).collect()
}

#[test]
fn fusions_give_way_to_pins() {
    let graph = parse("a = Conv(x, w)\nb = Relu(a)\nc = MaxPool(b)");
    let machine = testing::machine(4, true);
    let placed = |pins: &[Part]| {
        let mut input = testing::input(&graph, &machine);
        input.tenants[0].pins = pins.to_vec();
        let plan = plan::plan(&input).expect("every wish can be had");
        let findings = tandem_ir::check::check_plan_against(&plan, &[("made-up", &graph)]);
        assert!(!tandem_ir::check::has_errors(&findings), "{findings:?}");
        places(&plan, &["a", "b"])
    };
    assert_eq!(placed(&[pin("cpu", &["a"]), pin("gpu0", &["b"])]), ["cpu", "gpu0"]);
    assert_eq!(placed(&[pin("gpu0", &["a"]), pin("cpu", &["b"])]), ["gpu0", "cpu"]);
    // One pin, or two alike, take the whole kernel along.
    assert_eq!(placed(&[pin("cpu", &["a"])]), ["cpu", "cpu"]);
    assert_eq!(placed(&[pin("gpu0", &["a", "b"])]), ["gpu0", "gpu0"]);
}

#[test]
fn fusions_give_way_to_what_devices_run() {
    let graph = parse("a = Conv(x, w)\nb = Relu(a)\nc = Relu(b)");
    let mut machine = testing::machine(4, true);
    machine.devices[1].unsupported = vec!["Relu".into()];
    let mut input = testing::input(&graph, &machine);
    input.tenants[0].pins = vec![pin("gpu0", &["a"])];
    assert_eq!(places(&plan::plan(&input).expect("feasible"), &["a", "b"]), ["gpu0", "cpu"]);
    (input.tenants[0].pins, machine.devices[0].unsupported) = (vec![], vec!["Conv".into()]);
    let input = testing::input(&graph, &machine);
    assert_eq!(places(&plan::plan(&input).expect("feasible"), &["a", "b"]), ["gpu0", "cpu"]);
}

#[test]
fn engine_atoms_give_way_even_where_they_only_close_a_cycle() {
    let graph = parse("c = Exp(w)\na = Exp(x)\nb = Mul(a, c)\nd = Neg(b)\ne = Add(a, d)");
    let n = NodeId;
    let atoms = |allowed: [u32; 5]| {
        let table = [vec![n(1), n(4)], vec![n(2)], vec![n(3)]];
        atoms_where(&graph, &[&table], &allowed).split(" | ").next().map(str::to_owned).expect("atoms")
    };
    assert_eq!(atoms([3, 3, 3, 3, 3]), "a+b+d+e");
    assert_eq!(atoms([3, 1, 3, 3, 3]), "a+b+d+e");
    assert_eq!(atoms([3, 1, 3, 3, 2]), "a b d e", "its own nodes clash");
    assert_eq!(atoms([3, 1, 3, 2, 3]), "a b d e", "the cycle that it closes holds a clash");
}

/// What is joined for the sake of the numbers is joined whatever the pins say, and the clash is told.
#[test]
fn a_clash_of_pins_says_what_joined_them_and_what_to_do() {
    let machine = testing::machine(4, true);
    let refused = |text: &str, pins: &[Part]| {
        let graph = parse(text);
        let mut input = testing::input(&graph, &machine);
        input.tenants[0].pins = pins.to_vec();
        plan::plan(&input).expect_err("nothing runs both").to_string()
    };
    let kernel = "a = QuantizeLinear(x, w)\nb = DequantizeLinear(a, w)\nc = Conv(b, w1)\nd = QuantizeLinear(c, w)";
    let said = refused(kernel, &[pin("cpu", &["b"]), pin("gpu0", &["c", "d"])]);
    assert_eq!(
        said,
        "nodes \"b\" and \"c\" must run on one device, and there is none for both\n  quantised operators: between \
         DequantizeLinear and QuantizeLinear engines compute in integers; parted, they would round elsewhere\n  \"b\": the \
         author pins it to cpu\n  \"c\" and 1 more: the author pins it to gpu0\n  change or remove a pin"
    );
    let diamond = "a = DequantizeLinear(x, w)\nb = Conv(a, w1)\nc = Exp(b)\nd = Add(a, c)";
    let said = refused(diamond, &[pin("cpu", &["a"]), pin("gpu0", &["c"])]);
    assert!(said.contains("cycles: groups that feed each other can only run as one"), "{said}");
    let mut machine = machine.clone();
    machine.devices[1].unsupported = vec!["Exp".into()];
    let graph = parse("a = Exp(x)");
    let mut input = testing::input(&graph, &machine);
    input.tenants[0].pins = vec![pin("gpu0", &["a"])];
    let said = plan::plan(&input).expect_err("it runs nowhere").to_string();
    assert_eq!(
        said,
        "node \"a\" can run on no device\n  \"a\": gpu0 cannot run Exp\n  \"a\": the author pins it to gpu0\n  change or \
         remove a pin"
    );
}
