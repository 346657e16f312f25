use std::collections::{BTreeMap, BTreeSet};

use super::boxes::{Boxes, What};
use super::layout::{Drawing, Sketch, draw};
use super::limits::{BOXES_MAX, ENDS_MAX};
use super::markup::{base64, clipped, escaped};
use super::page;
use crate::explain::{Explanation, Overview, explain};
use crate::plan;
use crate::search::Method;
use crate::testing::{self, Rng, Shape};

/// A made-up graph of so many operators, in two to six segments on two devices.
fn explained(atoms: usize, seed: u64) -> (Overview, Explanation) {
    let window = [0, 3, 12][(seed % 3) as usize];
    let problem = testing::random_problem_of(Shape { atoms, window, bytes: 400_000, ..Shape::default() }, seed);
    let (graph, machine) = (testing::graph_of(&problem), testing::machine(4, true));
    let mut input = testing::input(&graph, &machine);
    input.search = Method::Random(seed);
    let plan = plan::plan(&input).expect("everything runs everywhere");
    (Overview::of(&plan), explain(&plan, &[&graph], None, 0, None).expect("the plan fits the graph"))
}

#[test]
fn boxes_hold_everything_once_and_lead_onwards() {
    for seed in 0..60 {
        let atoms = [1, 7, 40, 90, 101, 400][(seed % 6) as usize];
        let (_, route) = explained(atoms, seed);
        let Boxes { boxes, edges } = Boxes::of(&route);
        let mut held: Vec<usize> = vec![];
        let mut copied: Vec<usize> = vec![];
        for what in &boxes {
            match what {
                What::Atoms(atoms) => {
                    assert!(atoms.iter().all(|a| route.atoms[*a].segment == route.atoms[atoms[0]].segment));
                    held.extend(atoms);
                }
                What::Copies(steps) => copied.extend(steps),
                What::Inputs(flows) | What::Outputs(flows) => assert!(!flows.is_empty()),
            }
        }
        held.sort_unstable();
        copied.sort_unstable();
        assert_eq!(held, (0..route.atoms.len()).collect::<Vec<_>>(), "seed {seed}");
        let copies: Vec<usize> = (0..route.steps.len()).filter(|s| route.steps[*s].copy.is_some()).collect();
        assert_eq!(copied, copies, "seed {seed}");
        let drawn = boxes.iter().filter(|b| matches!(b, What::Atoms(_))).count();
        assert!(drawn <= BOXES_MAX + route.segments.len(), "seed {seed}: {drawn} boxes");
        let ends = boxes.iter().filter(|b| matches!(b, What::Inputs(_))).count();
        assert!(ends <= ENDS_MAX, "seed {seed}: {ends} boxes of inputs");
        assert!(edges.iter().all(|(a, b)| a < b), "seed {seed}: {edges:?}");
        leads(&route, &boxes, &edges.into_iter().collect(), seed);
    }
}

/// What an atom reads reaches it from its maker, over a copy where the two are on different devices.
fn leads(route: &Explanation, boxes: &[What], edges: &BTreeSet<(usize, usize)>, seed: u64) {
    let mut box_of = BTreeMap::new();
    for (b, what) in boxes.iter().enumerate() {
        if let What::Atoms(atoms) = what {
            box_of.extend(atoms.iter().map(|a| (*a, b)));
        }
    }
    let device = |atom: usize| route.device_of(route.atoms[atom].segment).expect("a device");
    for (f, flow) in route.flows.iter().enumerate() {
        for reader in &flow.to {
            let to = box_of[reader];
            let brings = |b: usize| match &boxes[b] {
                What::Atoms(atoms) => flow.from.is_some_and(|m| atoms.contains(&m) && device(m) == device(*reader)),
                What::Inputs(flows) => flows.contains(&f) && device(*reader) == 0,
                What::Copies(steps) => steps
                    .iter()
                    .any(|s| route.steps[*s].copy.as_ref().is_some_and(|c| c.flow == f && c.to == device(*reader))),
                What::Outputs(_) => false,
            };
            let inside = flow.from.is_some_and(|m| box_of[&m] == to);
            let brought = edges.iter().any(|(from, at)| *at == to && brings(*from));
            assert!(inside || brought, "seed {seed}: {} reaches atom {reader}", flow.name);
        }
    }
}

#[test]
fn boxes_lie_apart_and_every_edge_is_drawn_once() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let count = rng.below(90) as usize;
        let sizes: Vec<(f64, f64)> =
            (0..count).map(|_| (20.0 + rng.below(150) as f64, 20.0 + rng.below(30) as f64)).collect();
        let mut edges = BTreeSet::new();
        for to in 1..count as u64 {
            edges.extend((0..rng.below(4)).map(|_| (rng.below(to) as usize, to as usize)));
        }
        let sketch = Sketch { sizes, edges: edges.iter().copied().collect() };
        let Drawing { places, paths, size } = draw(&sketch, 1000.0);
        let frame =
            |v: usize| (places[v].0, places[v].1, places[v].0 + sketch.sizes[v].0, places[v].1 + sketch.sizes[v].1);
        for v in 0..count {
            let (left, top, right, bottom) = frame(v);
            assert!(left >= 0.0 && top >= 0.0 && right <= size.0 && bottom <= size.1, "seed {seed}: {v} is inside");
            for other in 0..v {
                let (l, t, r, b) = frame(other);
                assert!(left >= r || l >= right || top >= b || t >= bottom, "seed {seed}: {v} lies on {other}");
            }
        }
        let mut ends: Vec<(usize, usize)> = paths.iter().filter_map(|(_, from, to)| Some((*from, (*to)?))).collect();
        ends.sort_unstable();
        assert_eq!(ends, edges.into_iter().collect::<Vec<_>>(), "seed {seed}");
    }
}

#[test]
fn a_chain_fills_the_width_and_a_wide_graph_grows_down() {
    let chain = Sketch { sizes: vec![(150.0, 40.0); 60], edges: (1..60).map(|v| (v - 1, v)).collect() };
    let (width, height) = draw(&chain, 1180.0).size;
    assert!(width <= 1180.0 && height < 800.0, "{width} x {height}");
    let wide = Sketch { sizes: vec![(150.0, 40.0); 61], edges: (1..61).map(|v| (0, v)).collect() };
    let (width, height) = draw(&wide, 1180.0).size;
    assert!(width <= 1180.0 && height > 600.0, "{width} x {height}");
}

#[test]
fn names_are_text() {
    let hostile = "</text></svg><script>alert(\"1\")</script>' & ü\u{202e}\u{0}\n";
    let (mut plan, mut route) = explained(20, 3);
    let all: Vec<&mut String> =
        [&mut route.tenant, &mut route.terms.model, &mut plan.machine, &mut plan.description]
            .into_iter()
            .chain(route.atoms.iter_mut().flat_map(|a| a.operators.iter_mut().flat_map(|(name, op)| [name, op])))
            .chain(route.segments.iter_mut().flat_map(|s| [&mut s.device, &mut s.ends.0, &mut s.ends.1]))
            .chain(route.devices.iter_mut().map(|d| &mut d.device))
            .chain(route.flows.iter_mut().map(|f| &mut f.name))
            .chain(route.steps.iter_mut().flat_map(|s| [&mut s.lane, &mut s.label]))
            .chain(route.loads.iter_mut().map(|l| &mut l.lane))
            .chain(route.boundaries.iter_mut().flat_map(|b| {
                b.values.iter_mut().map(|v| &mut v.0).chain(b.alternatives.iter_mut().map(|a| &mut a.node))
            }))
            .collect();
    all.into_iter().for_each(|name| *name = hostile.to_owned());
    let report = route.report.as_mut().expect("a report");
    (report.stopped, report.notes) = (hostile.into(), vec![hostile.into()]);
    let page = page(&plan, &[route]);
    assert_eq!(page.matches("<script").count(), 1, "only the page's own");
    assert_eq!(page.matches("</script").count(), 1);
    assert!(!page.contains("alert(\"") && page.contains("&lt;script&gt;alert(&quot;1&quot;)"));
    assert!(page.chars().all(|c| c == '\n' || !c.is_control()) && !page.contains('\u{202e}'));
    assert_eq!(escaped("<a href='\"&\">ü\u{202e}\r"), "&lt;a href=&#39;&quot;&amp;&quot;&gt;ü\\u{202e}\\u{d}");
}

#[test]
fn nothing_to_show_is_no_fault() {
    let (plan, mut route) = explained(6, 1);
    assert!(page(&plan, &[]).ends_with("</html>\n"));
    route.segments.clear();
    route.boundaries.clear();
    route.atoms.clear();
    route.flows.clear();
    route.steps.clear();
    route.loads.clear();
    route.report = None;
    let empty = page(&plan, std::slice::from_ref(&route));
    assert!(empty.contains("All 0 operators") && !empty.contains("NaN") && !empty.contains("inf\""));
    route.devices.clear();
    route.prediction = Default::default();
    assert!(page(&plan, &[route]).ends_with("</html>\n"));
}

#[test]
fn the_page_tells_what_the_text_tells() {
    let (plan, mut route) = explained(30, 5);
    route.terms.slo = Some(tandem_ir::Nanos(1));
    let page = page(&plan, &[route.clone()]);
    let told = |line: &str| page.contains(&escaped(line.trim()));
    assert!(page.contains("missed"), "the objective cannot be kept");
    for line in route.head() {
        assert!(told(&line), "{line}");
    }
    for boundary in &route.boundaries {
        assert!(told(&boundary.crossing()));
        assert!(boundary.alternatives.iter().all(|a| told(&a.words(route.objective))));
    }
    let text = route.text();
    for (device, load) in route.devices.iter().zip(&route.loads) {
        assert!(told(&device.holds(route.batches_in_flight)) && text.contains(&device.holds(route.batches_in_flight)));
        assert!(page.contains(&load.busy.to_string()) && text.contains(&load.words()));
    }
    let json = route.json();
    for (name, _) in route.atoms.iter().flat_map(|a| &a.operators) {
        assert!(page.contains(&format!("<td class=\"name\">{name}</td>")) && json.contains(&format!("\"{name}\"")));
    }
}

#[test]
fn digits_of_base_64() {
    let known =
        [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")];
    known.iter().for_each(|(bytes, text)| assert_eq!(base64(bytes.as_bytes()), *text));
    assert_eq!((clipped("αβγ", 3), clipped("αβγδ", 3)), ("αβγ".into(), "αβ…".into()));
}
