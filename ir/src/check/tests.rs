use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::format;
use crate::graph::NodeId;
use crate::machine::{Engine, Link, Rates};
use crate::placement::parts_of;
use crate::plan::*;
use crate::random::{self, Random};
use crate::units::{Bytes, Flops, Nanos, Time};
use crate::work::device_work;

fn machine() -> Machine {
    let device = |name: &str, kind| Device {
        name: name.into(),
        kind,
        model: String::new(),
        cores: 4,
        lanes_max: 4,
        memory: Bytes(1 << 30),
        rates: Some(Rates { flops_per_s: vec![(DType::F32, 1)], memory_bytes_per_s: 1, efficiency_permille: 500 }),
        launch: Nanos(1),
        operator_overhead: Nanos(1),
        engines: vec![Engine { name: "ort".into(), version: String::new() }],
        unsupported: vec![],
        emulated: false,
        facts: vec![],
    };
    let link = |from: &str, to: &str| Link {
        from: from.into(),
        to: to.into(),
        latency: Nanos(10),
        bytes_per_s: 1 << 30,
        shared: false,
    };
    Machine {
        name: "m".into(),
        description: String::new(),
        sources: vec![],
        devices: vec![device("cpu", DeviceKind::Cpu), device("gpu0", DeviceKind::Gpu)],
        links: vec![link("cpu", "gpu0"), link("gpu0", "cpu")],
        microdollars_per_hour: None,
    }
}

/// The smallest planner there is: copies right behind what makes a value, everything in list order, frees at the last reader
/// where the order of one lane proves it.
struct Draft<'g> {
    graph: &'g Graph,
    segment_of: Vec<usize>,
    route: Route,
    /// Step that brings (value, device); `None` for what is fed.
    here: BTreeMap<(usize, usize), Option<usize>>,
    names: BTreeMap<TensorId, usize>,
}

impl Draft<'_> {
    fn value(&mut self, id: TensorId) -> usize {
        let next = self.route.tensors.len();
        let index = *self.names.entry(id).or_insert(next);
        if index == next {
            let t = self.graph.tensor(id);
            let (dims, bytes) = (t.fact.dims_at(2), Bytes(t.fact.bytes_at(2).unwrap()));
            self.route.tensors.push(RouteTensor { name: t.name.clone(), dtype: t.fact.dtype, dims, bytes });
        }
        index
    }

    fn step(&mut self, lane: usize, action: Action, after: BTreeSet<usize>) -> usize {
        let duration = Nanos(5 + self.route.steps.len() as u64);
        self.route.steps.push(Step { lane, action, after: after.into_iter().collect(), duration, frees: vec![] });
        self.route.steps.len() - 1
    }

    /// Makes a value be on a device; returns the step to wait for.
    fn bring(&mut self, tensor: usize, to: usize) -> Option<usize> {
        if let Some(step) = self.here.get(&(tensor, to)) {
            return *step;
        }
        let from = 1 - to;
        let after = self.here[&(tensor, from)].into_iter().collect();
        let step = self.step(if to == 1 { 2 } else { 3 }, Action::Copy { tensor, from, to }, after);
        self.here.insert((tensor, to), Some(step));
        Some(step)
    }

    fn run(&mut self, s: usize, device: usize, part: usize, nodes: &[NodeId]) {
        let graph = self.graph;
        let (mut reads, mut makes) = (BTreeSet::new(), BTreeSet::new());
        for id in nodes {
            let outside = |p: Option<NodeId>| p.is_none_or(|p| self.segment_of[p.index()] != s);
            reads.extend(graph.node(*id).reads().into_iter().filter(|t| outside(graph.tensor(*t).producer)));
            let leaves = |t: &TensorId| {
                graph.is_output(*t) || graph.tensor(*t).consumers.iter().any(|c| self.segment_of[c.index()] != s)
            };
            makes.extend(graph.node(*id).writes().filter(leaves));
        }
        let inputs: Vec<usize> = reads.into_iter().map(|t| self.value(t)).collect();
        for t in inputs.iter().filter(|t| graph.inputs.iter().any(|i| self.names.get(i) == Some(t))) {
            self.here.entry((*t, 0)).or_insert(None);
            if !self.route.inputs.contains(t) {
                self.route.inputs.push(*t);
            }
        }
        let outputs: Vec<usize> = makes.into_iter().map(|t| self.value(t)).collect();
        let after: BTreeSet<usize> = inputs.iter().filter_map(|t| self.bring(*t, device)).collect();
        let step = self.step(device, Action::Run(s), after);
        self.here.extend(outputs.iter().map(|t| ((*t, device), Some(step))));
        self.route.segments.push(Segment {
            device,
            part,
            nodes: nodes.iter().map(|n| graph.node_name(*n)).collect(),
            inputs,
            outputs,
            weight_bytes: Bytes(3),
            workspace_bytes: Bytes(1),
        });
    }

    fn finish(mut self) -> Route {
        let outputs: BTreeSet<TensorId> = self.graph.outputs.iter().copied().collect();
        for id in outputs {
            let t = self.names[&id];
            self.bring(t, 0);
            self.route.outputs.push(t);
        }
        let mut last = BTreeMap::new();
        for (i, step) in self.route.steps.iter().enumerate() {
            match step.action {
                Action::Run(s) => {
                    let segment = &self.route.segments[s];
                    segment.inputs.iter().for_each(|t| drop(last.insert((*t, segment.device), vec![i])));
                }
                Action::Copy { tensor, from, .. } => last.entry((tensor, from)).or_insert(vec![]).push(i),
                Action::Barrier => {}
            }
        }
        for ((t, d), readers) in last {
            // Only where one lane has all readers is the last one known to be the last.
            let lane = self.route.steps[readers[0]].lane;
            let all = self.route.steps.iter().enumerate().filter(|(_, s)| match s.action {
                Action::Run(s) => self.route.segments[s].device == d && self.route.segments[s].inputs.contains(&t),
                Action::Copy { tensor, from, .. } => (tensor, from) == (t, d),
                Action::Barrier => false,
            });
            let all: Vec<usize> = all.map(|(i, _)| i).collect();
            let kept = d == 0 && self.route.outputs.contains(&t);
            if !kept && all.iter().all(|i| self.route.steps[*i].lane == lane) {
                let i = *all.last().unwrap();
                self.route.steps[i].frees.push((t, d));
            }
        }
        play(&mut self.route);
        self.route
    }
}

/// Sets the prediction to what the steps give.
fn play(route: &mut Route) {
    let (mut free, mut busy) = (vec![Time(0); 4], vec![Nanos(0); 4]);
    let mut ends = vec![];
    for step in &route.steps {
        let start = step.after.iter().map(|a| ends[*a]).max().unwrap_or(Time(0)).max(free[step.lane]);
        free[step.lane] = start + step.duration;
        busy[step.lane] += step.duration;
        ends.push(free[step.lane]);
    }
    route.prediction.makespan = Nanos(ends.into_iter().max().unwrap_or(Time(0)).0);
    route.prediction.busy = busy;
}

fn sound(seed: u64) -> (Graph, Plan) {
    let mut r = Random(seed);
    let n = 3 + r.below(20);
    let graph = random::graph(&mut r, n);
    let labels: Vec<usize> = (0..n).map(|_| r.below(2)).collect();
    let formed = crate::segment::form(&graph, &labels);
    let mut segment_of = vec![0; n];
    formed.iter().enumerate().for_each(|(s, (_, nodes))| nodes.iter().for_each(|v| segment_of[v.index()] = s));
    let part_of: Vec<Option<usize>> = segment_of.iter().map(|s| Some(*s)).collect();
    let devices: Vec<String> = formed.iter().map(|(l, _)| ["cpu", "gpu0"][*l].to_owned()).collect();
    let route = Route {
        tenant: "t".into(),
        batch: 2,
        lanes: 2,
        threads: 2,
        share_permille: 1000,
        tensors: vec![],
        inputs: vec![],
        outputs: vec![],
        segments: vec![],
        lane_names: ["cpu", "gpu0", "cpu>gpu0", "gpu0>cpu"].map(String::from).to_vec(),
        steps: vec![],
        memory: vec![MemoryUse::default(); 2],
        work: vec![],
        prediction: Prediction::default(),
    };
    let mut draft = Draft { graph: &graph, segment_of, route, here: BTreeMap::new(), names: BTreeMap::new() };
    for (s, (label, nodes)) in formed.iter().enumerate() {
        draft.run(s, *label, s, nodes);
    }
    let mut route = draft.finish();
    let placed = |d: usize| -> Vec<NodeId> { graph.node_ids().filter(|n| labels[n.index()] == d).collect() };
    route.memory = crate::arena::memory(&route).unwrap();
    route.work = (0..2).map(|d| device_work(&graph, &placed(d), 2)).collect();
    let authored = Authored {
        objective: Objective::Latency,
        search: "none".into(),
        applications: vec![Application {
            name: "a".into(),
            slo: Some(Nanos(1_000_000)),
            percentile_permille: 990,
            tenants: vec![Tenant {
                name: "t".into(),
                model: "zoo:t".into(),
                shapes: BTreeMap::from([("x".into(), vec![BoundDim::Fixed(1), BoundDim::Fixed(8)])]),
                millirate: None,
                batching: Batching::Proven,
                batches: vec![1, 2],
                pins: vec![],
                routes: vec![AuthoredRoute {
                    batch: 2,
                    lanes: 2,
                    threads: 2,
                    share_permille: 1000,
                    parts: parts_of(&graph, &part_of, &devices),
                }],
            }],
            edges: vec![],
        }],
        serving: Serving::default(),
    };
    let derived = Derived {
        authored: format::plan::authored_digest(&authored),
        graphs: vec![PlannedGraph { tenant: "t".into(), fingerprint: graph.fingerprint }],
        profile: graph.fingerprint,
        machine: machine(),
        tandem: "0".into(),
        routes: vec![route],
        reports: vec![],
        together: None,
    };
    (graph, Plan { authored, derived })
}

fn all(graph: &Graph, plan: &Plan) -> Vec<Finding> {
    let mut findings = check_plan(plan, "p.yaml");
    findings.extend(check_plan_against(plan, &[("t", graph)]));
    findings
}

#[test]
fn sound_plans_have_no_findings() {
    for seed in 0..300 {
        let (graph, plan) = sound(seed);
        assert_eq!(all(&graph, &plan), [], "seed {seed}\n{}", format::plan::to_yaml(&plan));
        let text = format::plan::to_yaml(&plan);
        assert_eq!(format::plan::from_yaml(&text, "p").unwrap(), plan, "seed {seed}");
    }
}

/// A sound plan that has what the faults below need: a copy each way, a wait, something freed, three segments.
fn rich() -> (Graph, Plan) {
    let enough = |plan: &Plan| {
        let route = &plan.derived.routes[0];
        let copies = |d: usize| route.steps.iter().any(|s| matches!(s.action, Action::Copy { to, .. } if to == d));
        let later = route.steps.iter().any(|s| !s.frees.is_empty() && s.frees[0].1 == 1);
        copies(0) && copies(1) && later && route.segments.len() >= 3
    };
    (0..).map(sound).find(|(_, plan)| enough(plan)).unwrap()
}

fn first(route: &mut Route, wanted: fn(&Step) -> bool) -> &mut Step {
    route.steps.iter_mut().find(|s| wanted(s)).unwrap()
}

fn is_copy(step: &Step) -> bool {
    matches!(step.action, Action::Copy { .. })
}

#[test]
fn each_fault_of_a_route_is_found() {
    let faults: [Fault; 29] = [
        ("expected one of 4 lanes", |r| r.steps[0].lane = 9),
        ("expected to wait for earlier steps", |r| r.steps[0].after = vec![0]),
        ("expected one of", |r| first(r, |s| !is_copy(s)).action = Action::Run(99)),
        ("expected one step that runs it, found 0", |r| first(r, |s| !is_copy(s)).action = Action::Barrier),
        ("expected one step that runs it, found 2", |r| {
            let run = first(r, |s| !is_copy(s)).clone();
            r.steps.push(run);
        }),
        ("expected a copy over a link", |r| {
            first(r, is_copy).action = Action::Copy { tensor: 0, from: 0, to: 0 };
        }),
        ("expected the link's lane", |r| first(r, is_copy).lane = 0),
        ("expected a lane of its segment's device", |r| first(r, |s| s.lane == 1).lane = 0),
        ("and does not wait for step", |r| first(r, |s| !s.after.is_empty()).after.clear()),
        ("where no earlier step brings it", |r| r.inputs.clear()),
        ("where it is already", |r| {
            let copy = first(r, is_copy).clone();
            r.steps.push(copy);
        }),
        ("on the host, found it elsewhere", |r| {
            let last =
                r.steps.iter().rposition(|s| matches!(s.action, Action::Copy { to: 0, .. }) && s.frees.len() <= 1);
            r.steps[last.unwrap()].action = Action::Barrier;
        }),
        ("again", |r| {
            let frees = first(r, |s| !s.frees.is_empty()).frees.clone();
            r.steps.last_mut().unwrap().frees.extend(frees);
        }),
        ("may still read it", |r| {
            let i = r.steps.iter().position(|s| s.frees.iter().any(|(_, d)| *d == 1)).unwrap();
            let freed = r.steps[i].frees.remove(0);
            r.steps[0].frees.push(freed);
        }),
        ("where it never is", |r| r.steps[0].frees.push((r.outputs[0], 1))),
        ("frees output", |r| {
            let output = r.outputs[0];
            r.steps.last_mut().unwrap().frees.push((output, 0));
        }),
        ("expected to free one of", |r| r.steps[0].frees.push((99, 0))),
        ("expected the makespan", |r| r.prediction.makespan = Nanos(1)),
        ("expected the lanes' busy times", |r| r.prediction.busy[1] = Nanos(1)),
        ("expected at most 256 lanes, found 257", |r| r.lane_names.resize(257, "cpu".into())),
        ("expected memory of 2 devices", |r| r.memory.truncate(1)),
        ("expected the work of 2 devices", |r| r.work.truncate(1)),
        ("operators of its segments", |r| r.work[0].operators += 1),
        ("expected unknown work of at most", |r| r.work[0].unknown = 99),
        ("expected each value once", |r| r.tensors[0].name = r.tensors[1].name.clone()),
        ("expected what is authored", |r| r.batch = 1),
        ("expected the device of its part", |r| r.segments[0].device = 1 - r.segments[0].device),
        ("expected each node in one segment", |r| {
            let name = r.segments[0].nodes[0].clone();
            r.segments[1].nodes.push(name);
        }),
        ("expected one of 3 parts", |r| {
            r.segments.truncate(3);
            r.segments[0].part = 99;
        }),
    ];
    each_is_found(&faults);
}

type Fault = (&'static str, fn(&mut Route));

fn each_is_found(faults: &[Fault]) {
    for (expected, fault) in faults {
        // Some faults need a plan of another shape: any seed that shows the message will do.
        let shown = (0..60).any(|seed| {
            let (_, mut plan) = if seed == 0 { rich() } else { sound(seed) };
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fault(&mut plan.derived.routes[0])));
            caught.is_ok()
                && check_plan(&plan, "p.yaml")
                    .iter()
                    .any(|f| f.severity == Severity::Error && f.message.contains(expected))
        });
        assert!(shown, "nothing says \"{expected}\"");
    }
}

#[test]
fn memory_that_says_too_little_or_is_too_much_is_found() {
    each_is_found(&[
        ("with 5 batches in flight", |r| r.memory[1].arena = Bytes(1 << 29)),
        ("expected weights of at least", |r| r.memory[0].weights = Bytes(2)),
        ("expected an arena of at least", |r| r.memory[0].arena = Bytes(63)),
        ("bytes, found 63: rebuild with `tandem plan --from p.yaml", |r| r.memory[0].arena = Bytes(63)),
        ("expected engine-owned values of at least", |r| r.tensors[0].dims = None),
        ("expected a workspace of at least 1 bytes, found 0", |r| r.memory[0].workspace = Bytes(0)),
        ("expected values of less than 2^64 bytes in all", |r| r.tensors[0].dims = Some(vec![u64::MAX])),
    ]);
}

#[test]
fn each_fault_of_what_people_write_is_found() {
    type Fault = (&'static str, fn(&mut Authored));
    fn tenant(a: &mut Authored) -> &mut Tenant {
        &mut a.applications[0].tenants[0]
    }
    fn fixed(a: &mut Authored, preferred: &[u64]) {
        a.serving.policy = Policy::Fixed { preferred: preferred.to_vec(), queue_delay: Nanos(7) };
    }
    let faults: [Fault; 9] = [
        ("serving: preferred: expected sizes of at least 1, found 0", |a| fixed(a, &[0, 2])),
        ("serving: preferred: expected ascending sizes, found [2, 1]", |a| fixed(a, &[2, 1])),
        ("serving: preferred: expected ascending sizes, found [2, 2]", |a| fixed(a, &[2, 2])),
        ("serving: preferred: expected sizes of at most 2, the tenants' largest batch, found 3", |a| fixed(a, &[1, 3])),
        ("serving: queue_max: expected room for at least one request, found 0", |a| a.serving.queue_max = Some(0)),
        ("expected a rate of 0.001 to 1000000000 requests/s, found 0", |a| tenant(a).millirate = Some(0)),
        ("requests/s, found 1000000000.001", |a| tenant(a).millirate = Some(crate::limits::MILLIRATE_MAX + 1)),
        ("expected unique tenant names, found \"t\" again", |a| a.applications.push(a.applications[0].clone())),
        ("expected at most 64 tenants, found 65", |a| a.applications = vec![a.applications[0].clone(); 65]),
    ];
    for (expected, fault) in faults {
        let (_, mut plan) = sound(3);
        fault(&mut plan.authored);
        let errors = check_plan(&plan, "p.yaml").into_iter().filter(|f| f.severity == Severity::Error);
        let lines: Vec<String> = errors.map(|f| format!("{}: {}", f.component, f.message)).collect();
        assert!(lines.iter().any(|l| l.contains(expected)), "nothing says \"{expected}\": {lines:#?}");
    }
    let (_, mut plan) = sound(3);
    fixed(&mut plan.authored, &[1, 2]);
    plan.derived.authored = format::plan::authored_digest(&plan.authored);
    assert_eq!(check_plan(&plan, "p.yaml"), []);
}

#[test]
fn tenants_that_ask_for_too_much_are_warned_of() {
    let warned = |plan: &Plan, expected: &str| {
        let findings = check_plan(plan, "p.yaml");
        findings.iter().any(|f| f.severity == Severity::Warning && f.message.contains(expected))
    };
    let (_, mut plan) = sound(3);
    let carried = plan.derived.routes[0].prediction.millirequests_per_s;
    plan.authored.applications[0].tenants[0].millirate = Some(carried);
    assert!(!warned(&plan, "requests/s it is planned for"));
    plan.authored.applications[0].tenants[0].millirate = Some(carried + 1);
    assert!(warned(&plan, "requests/s it is planned for"));
    assert!(!warned(&plan, "threads of"));
    plan.authored.applications.push(plan.authored.applications[0].clone());
    assert!(!warned(&plan, "threads of"), "they take turns on the same lanes");
    let of_second = &mut plan.authored.applications[1].tenants[0].routes;
    of_second.iter_mut().for_each(|r| (r.lanes, r.threads) = (1, 4));
    assert!(warned(&plan, "8 threads of 2 tenants on 4 cores"), "{:#?}", check_plan(&plan, "p.yaml"));
}

#[test]
fn each_fault_against_the_model_is_found() {
    type Fault = (&'static str, fn(&mut Plan));
    fn route(p: &mut Plan) -> &mut Route {
        &mut p.derived.routes[0]
    }
    fn tenant(p: &mut Plan) -> &mut Tenant {
        &mut p.authored.applications[0].tenants[0]
    }
    let faults: [Fault; 15] = [
        ("made for another model", |p| p.derived.graphs[0].fingerprint = crate::Fingerprint::of(b"other")),
        ("expected its model, found none", |p| p.derived.graphs[0].tenant = "u".into()),
        ("expected a node of the model", |p| route(p).segments[0].nodes[0] = "nothing".into()),
        ("expected a value of the model", |p| route(p).tensors[0].name = "nothing".into()),
        ("found it in none", |p| drop(route(p).segments[0].nodes.remove(0))),
        ("expected input", |p| {
            let segment = route(p).segments.iter_mut().find(|s| !s.inputs.is_empty());
            segment.unwrap().inputs.clear();
        }),
        ("expected output", |p| route(p).segments[0].outputs.clear()),
        ("expected no output", |p| {
            let input = route(p).inputs[0];
            route(p).segments[0].outputs.push(input);
        }),
        ("expected no route output", |p| {
            let input = route(p).inputs[0];
            route(p).outputs.push(input);
        }),
        ("no topological order", |p| route(p).segments.swap(0, 1)),
        ("bytes for", |p| route(p).tensors[0].bytes = Bytes(1)),
        ("expected what the shapes give", |p| route(p).work[0].flops = Some(Flops(7))),
        ("expected a device that runs Relu", |_| {}),
        ("as authored", |p| tenant(p).routes[0].parts.swap(0, 1)),
        ("dimensions of \"x\"", |p| drop(tenant(p).shapes.insert("x".into(), vec![]))),
    ];
    for (expected, fault) in faults {
        let (graph, mut plan) = rich();
        fault(&mut plan);
        let mut expected = expected;
        if expected.ends_with("Relu") {
            plan.derived.machine.devices[1].unsupported.push("Relu".into());
            expected = "on a device that runs Relu";
        }
        let findings = check_plan_against(&plan, &[("t", &graph)]);
        let shown = findings.iter().any(|f| f.severity == Severity::Error && f.message.contains(expected));
        assert!(shown, "nothing says \"{expected}\": {findings:#?}");
    }
    let (graph, mut plan) = rich();
    let part = Part { device: "cpu".into(), nodes: vec![NodePattern::Rest] };
    tenant(&mut plan).pins.push(part);
    let findings = check_plan_against(&plan, &[("t", &graph)]);
    assert!(findings.iter().any(|f| f.message.contains("where it is pinned")), "{findings:#?}");
}

/// Work is stated as planning saw it. A graph that was not observed says how much it is at least; what the file declares may
/// be wrong.
#[test]
fn work_is_checked_as_far_as_the_graph_knows_it() {
    let (graph, sound) = rich();
    let mut more = sound.clone();
    more.derived.routes[0].work.iter_mut().for_each(|w| w.flops = Some(Flops(1 << 30)));
    let mut less = sound.clone();
    less.derived.routes[0].work.iter_mut().for_each(|w| w.flops = None);
    let found = |graph: &Graph, plan: &Plan| {
        let findings = check_plan_against(plan, &[("t", graph)]).into_iter();
        findings.filter(|f| f.component.contains("work on")).map(|f| f.severity).collect::<Vec<_>>()
    };
    assert_eq!(found(&graph, &sound), []);
    assert_eq!(found(&graph, &more), [Severity::Error; 2]);
    let mut declared = graph.clone();
    declared.tensors.iter_mut().for_each(|t| t.fact.origin = crate::graph::Origin::Declared);
    assert_eq!(found(&declared, &more), [Severity::Warning; 2]);
    // One value of unknown shape: its device may do any more, but not less than is known.
    let mut unseen = graph.clone();
    unseen.tensors.last_mut().unwrap().fact.shape = None;
    assert_eq!(found(&unseen, &sound), []);
    assert_eq!(found(&unseen, &more), [Severity::Error]);
    assert_eq!(found(&unseen, &less), [Severity::Error; 2]);
}

#[test]
fn an_edited_plan_says_how_to_rebuild_it() {
    let (_, mut plan) = rich();
    plan.authored.applications[0].slo = Some(Nanos(7));
    let findings = check_plan(&plan, "p.yaml");
    assert_eq!(findings.len(), 1);
    let text = findings[0].to_string();
    assert!(
        text.starts_with("error: derived.authored: ")
            && text.contains("`tandem plan --from p.yaml --search none -o p.yaml`")
    );
}

#[test]
fn arbitrary_documents_are_checked_without_panic() {
    for seed in 0..500 {
        let mut r = Random(seed);
        let plan = random::plan(&mut r);
        let graph = random::graph(&mut r, 10);
        check_plan(&plan, "p.yaml");
        let names: Vec<String> = plan.authored.tenants().map(|t| t.name.clone()).collect();
        let graphs: Vec<(&str, &Graph)> = names.iter().map(|n| (n.as_str(), &graph)).collect();
        check_plan_against(&plan, &graphs);
        check_profile(&random::profile(&mut r));
        assert_eq!(check_graph(&graph), []);
    }
}

#[test]
fn derived_parts_of_sound_plans_damaged_at_random_never_panic() {
    for seed in 0..600 {
        let mut r = Random(seed);
        let (graph, plan) = sound(seed % 40);
        let mut text = format::plan::to_yaml(&plan);
        for _ in 0..3 {
            let digits: Vec<usize> = text.char_indices().filter(|(_, c)| c.is_ascii_digit()).map(|(i, _)| i).collect();
            let at = digits[r.below(digits.len())];
            text.replace_range(at..at + 1, &r.below(10).to_string());
        }
        if let Ok(plan) = format::plan::from_yaml(&text, "p") {
            all(&graph, &plan);
        }
    }
}

#[test]
fn machine_faults_are_found() {
    type Fault = (&'static str, fn(&mut Machine));
    let faults: [Fault; 12] = [
        ("found no device", |m| m.devices.clear()),
        ("expected the host CPU as first", |m| m.devices.swap(0, 1)),
        ("unique device names", |m| m.devices[1].name = "cpu".into()),
        ("without <, > and #", |m| m.devices[1].name = "a>b".into()),
        ("cores and lanes_max", |m| m.devices[0].cores = 0),
        ("expected memory", |m| m.devices[0].memory = Bytes(0)),
        ("at least one engine", |m| m.devices[0].engines.clear()),
        ("one rate an element type", |m| m.devices[0].rates.as_mut().unwrap().flops_per_s.push((DType::F32, 2))),
        ("expected a rate for f32", |m| m.devices[0].rates.as_mut().unwrap().flops_per_s.clear()),
        ("efficiency of 1 to 1000", |m| m.devices[0].rates.as_mut().unwrap().efficiency_permille = 1001),
        ("expected a device, found \"tpu\"", |m| m.links[0].to = "tpu".into()),
        ("same `shared`", |m| m.links[0].shared = true),
    ];
    assert_eq!(check_machine(&machine()), []);
    for (expected, fault) in faults {
        let mut machine = machine();
        fault(&mut machine);
        let findings = check_machine(&machine);
        assert!(
            findings.iter().any(|f| f.severity == Severity::Error && f.message.contains(expected)),
            "{findings:#?}"
        );
    }
}

#[test]
fn the_machine_files_are_sound() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../plans/machines");
    let mut names = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let host = machine().devices[0].clone();
        let found = format::machine::from_yaml_with_host(&text, &file, &host).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(check_machine(&found), [], "{file}");
        assert_eq!(format!("{}.yaml", found.name), file);
        assert!(!found.sources.is_empty() && found.devices.len() == 2, "{file}");
        assert_eq!(format::machine::from_yaml(&text, &file).is_ok(), !text.contains("\nhost: auto"), "{file}");
        assert_eq!(format::machine::from_yaml(&format::machine::to_yaml(&found), &file), Ok(found), "{file}");
        names.push(file);
    }
    names.sort();
    let expected =
        ["a10g-8vcpu.yaml", "h100-16vcpu.yaml", "jetson-orin.yaml", "t4-8vcpu.yaml", "this-cpu+emulated-gpu.yaml"];
    assert_eq!(names, expected);
}
