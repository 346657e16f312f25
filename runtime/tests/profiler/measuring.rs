//! From models to documents: every operator gets a sample, once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tandem_ir::profile::{Method, Profile, Setting};
use tandem_ir::{Graph, NodeId};
use tandem_onnx::cut;
use tandem_onnx::import::Model;
use tandem_runtime::engine::{Engine, SessionOptions};
use tandem_runtime::profiler::mapping::{self, Mapping};
use tandem_runtime::profiler::sampling::Point;
use tandem_runtime::profiler::{ProfileOptions, ProfileRequest, Progress, bench, feeds, isolated, profile};

use crate::common::{Broken, Counting, Silent, engines, machine, resolved, zoo};

const MODELS: [&str; 9] = [
    "tiny-vgg",
    "tiny-resnet",
    "tiny-mobilenet",
    "tiny-inception",
    "tiny-bert",
    "tiny-gpt2",
    "tiny-lstm",
    "tiny-control-flow",
    "tiny-int8",
];

fn acyclic(graph: &Graph, mapping: &Mapping) -> bool {
    let mut label = vec![usize::MAX; graph.nodes.len()];
    for (a, atom) in mapping.atoms.iter().enumerate() {
        atom.nodes.iter().for_each(|n| label[n.index()] = a);
    }
    let before = tandem_ir::segment::predecessors(graph);
    let mut waits: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); mapping.atoms.len()];
    for id in graph.placeable() {
        let to = label[id.index()];
        waits[to].extend(before[id.index()].iter().map(|p| label[p.index()]).filter(|from| *from != to));
    }
    let mut done = BTreeSet::new();
    while let Some(next) = (0..waits.len()).find(|a| !done.contains(a) && waits[*a].is_subset(&done)) {
        done.insert(next);
    }
    done.len() == waits.len()
}

/// Whether a real engine's profile is mapped without loss; returns atoms and how many of them took no time.
fn mapped(engine: &dyn Engine, model: &Model) -> (usize, usize) {
    let image = cut::cut_whole(model).unwrap();
    let session = engine.load(&image, &SessionOptions { threads: 1, optimize: true, profile: true }).unwrap();
    session.run(&feeds(&model.graph, 1).unwrap()).unwrap();
    let told = session.end_profile().unwrap().expect("the engine times its nodes");
    let mapping = mapping::map(&model.graph, &told);
    let mut nodes: Vec<NodeId> = mapping.atoms.iter().flat_map(|a| a.nodes.clone()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, model.graph.placeable().collect::<Vec<_>>());
    let mut timed: Vec<usize> = mapping.timed.iter().flatten().copied().collect();
    timed.sort_unstable();
    assert_eq!(timed, (0..told.nodes.len()).collect::<Vec<_>>());
    assert!(acyclic(&model.graph, &mapping));
    (mapping.atoms.len(), mapping.timed.iter().filter(|t| t.is_empty()).count())
}

#[test]
fn real_engines_graphs_are_mapped_without_loss() {
    for engine in engines("mapping") {
        for name in MODELS {
            let model = match resolved(engine.as_ref(), zoo(name)) {
                Ok(model) => model,
                Err(why) => {
                    assert_eq!(engine.name(), "tract", "{name}: {why:?}");
                    eprintln!("skipped: {name} on tract: {why:?}");
                    continue;
                }
            };
            let nodes = model.graph.placeable().count();
            let (atoms, silent) = mapped(engine.as_ref(), &model);
            eprintln!("{name} on {}: {nodes} nodes, {atoms} atoms, {silent} without time", engine.name());
            assert!(atoms > 1 && atoms <= nodes && silent < atoms, "{name}: {atoms} atoms, {silent} silent");
        }
    }
}

fn options() -> ProfileOptions {
    ProfileOptions {
        batches: vec![1, 2],
        threads: vec![1, 2],
        segments: true,
        interference: true,
        links: true,
        date: "2026-11-21".into(),
    }
}

fn complete(document: &Profile, model: &Model, engine: &str) {
    let table = document.table(model.graph.fingerprint, "cpu").expect("a table");
    assert_eq!(table.engine, engine);
    for threads in [1, 2] {
        for batch in [1, 2] {
            let setting = Setting { device: "cpu".into(), engine: engine.into(), threads, batch };
            for atom in &table.atoms {
                assert!(document.timing(&atom.signature, &setting).is_some(), "{} at {setting:?}", atom.signature);
            }
            assert!(document.segments.iter().any(|s| s.setting == setting), "{setting:?}");
        }
        assert!(document.launches.keys().any(|s| s.threads == threads && s.batch == 0));
    }
    assert_eq!(document.proofs.iter().map(|p| &p.refusal).collect::<Vec<_>>(), [&None]);
    let lanes: Vec<(u32, u64)> = document.interference.iter().map(|i| (i.lanes, i.setting.batch)).collect();
    assert_eq!(lanes, [(2, 1), (2, 2)]);
    assert!(document.interference.iter().all(|i| i.factor_permille >= 1000));
    assert!(!document.links.is_empty());
}

#[test]
fn what_was_measured_once_is_not_measured_again() {
    for engine in engines("the cache") {
        let model = resolved(engine.as_ref(), zoo("tiny-resnet")).unwrap();
        let request = [ProfileRequest { name: "tiny-resnet", model: &model, insist: false }];
        let counting = Counting { engine: engine.as_ref(), loads: AtomicUsize::new(0) };
        let folder = tempfile::tempdir().unwrap();
        let seen = RefCell::new(vec![]);
        let progress = |p: Progress<'_>| match p {
            Progress::Step { done, total, .. } => seen.borrow_mut().push((done, total)),
            Progress::Note(note) => panic!("{note}"),
        };
        let run = || {
            profile(&request, &[&counting], &machine(), &options(), Some(folder.path()), &progress).expect("a profile")
        };
        let first = run();
        complete(&first, &model, engine.name());
        let last = seen.borrow().last().copied().unwrap();
        assert_eq!(last.0, last.1);
        assert!(seen.borrow().windows(2).all(|w| w[0].0 <= w[1].0), "a bar that goes back");
        let loads = counting.loads.swap(0, Ordering::Relaxed);
        let second = run();
        assert!(loads > 0);
        assert_eq!(counting.loads.load(Ordering::Relaxed), 0, "all is cached on {}", engine.name());
        assert_eq!(first, second);
    }
}

#[test]
fn an_engine_without_timing_is_measured_atom_by_atom() {
    for engine in engines("atoms alone") {
        let model = resolved(engine.as_ref(), zoo("tiny-mobilenet")).unwrap();
        let silent = Silent(engine.as_ref());
        let request = [ProfileRequest { name: "tiny", model: &model, insist: false }];
        let options =
            ProfileOptions { segments: false, interference: false, links: false, threads: vec![1], ..options() };
        let document = profile(&request, &[&silent], &machine(), &options, None, &|_| {}).unwrap();
        let table = document.table(model.graph.fingerprint, "cpu").unwrap();
        assert!(document.samples.values().all(|t| t.method == Method::Isolated && t.repeats >= 5));
        let setting = |batch| Setting { device: "cpu".into(), engine: engine.name().into(), threads: 1, batch };
        for atom in &table.atoms {
            assert!(document.timing(&atom.signature, &setting(2)).is_some(), "{}", atom.signature);
        }
        let first = &table.atoms[0].nodes;
        let alone = isolated::segment(&silent, &model, first, Point { threads: 1, batch: 2 }).unwrap();
        assert!(alone.repeats >= 5 && alone.median.0 > 0);
    }
}

#[test]
fn a_failing_engine_is_named_and_the_next_one_taken() {
    let tract = &engines("fallback")[0];
    let model = resolved(tract.as_ref(), zoo("tiny-vgg")).unwrap();
    let request = [ProfileRequest { name: "tiny-vgg", model: &model, insist: false }];
    let options =
        ProfileOptions { batches: vec![1], threads: vec![1], segments: false, interference: false, ..options() };
    let notes = RefCell::new(vec![]);
    let progress = |p: Progress<'_>| {
        if let Progress::Note(note) = p {
            notes.borrow_mut().push(note.to_owned());
        }
    };
    let document = profile(&request, &[&Broken, tract.as_ref()], &machine(), &options, None, &progress).unwrap();
    assert_eq!(document.tables[0].engine, "tract");
    assert!(notes.borrow().iter().any(|n| n.contains("broken") && n.contains("nothing works here")), "{notes:?}");
    let error = profile(&request, &[&Broken], &machine(), &options, None, &|_| {}).unwrap_err();
    assert!(error.to_string().starts_with("tiny-vgg: no engine runs it"), "{error}");
}

#[test]
fn a_prediction_stands_beside_each_measurement() {
    for engine in engines("the bench") {
        let model = resolved(engine.as_ref(), zoo("tiny-resnet")).unwrap();
        let points = [Point { threads: 1, batch: 1 }, Point { threads: 1, batch: 4 }];
        let mut seen = 0;
        let rows =
            bench::bench_profile(&[("tiny", &model)], engine.as_ref(), &points, Some(5), &mut |r| seen += r.len());
        let rows = rows.unwrap();
        assert_eq!((rows.len(), seen), (2, 2));
        assert!(
            rows.iter().all(|r| r.predicted.0 > 0 && r.measured.0 > 0 && r.estimate().low <= r.estimate().high),
            "{rows:?}"
        );
        let _: Arc<dyn Engine> = engine;
    }
}

#[test]
fn control_flow_is_measured_behind_what_it_depends_on() {
    for engine in engines("control flow").iter().filter(|e| e.name() == "ort") {
        let model = resolved(engine.as_ref(), zoo("tiny-control-flow")).unwrap();
        let request = [ProfileRequest { name: "control", model: &model, insist: false }];
        let notes = RefCell::new(vec![]);
        let progress = |p: Progress<'_>| {
            if let Progress::Note(note) = p {
                notes.borrow_mut().push(note.to_owned());
            }
        };
        let options = ProfileOptions { segments: false, interference: false, links: false, ..options() };
        let document = profile(&request, &[engine.as_ref()], &machine(), &options, None, &progress).unwrap();
        let mut bodies = 0;
        for atom in &document.tables[0].atoms {
            let has_body = atom.nodes.iter().any(|n| !model.graph.node(*n).bodies.is_empty());
            let expected = if has_body { Method::Isolated } else { Method::EngineTimed };
            let of_it = document.samples.iter().filter(|((s, _), _)| *s == atom.signature);
            assert!(
                of_it.clone().count() > 0 && of_it.clone().all(|(_, t)| t.method == expected),
                "{}",
                atom.signature
            );
            bodies += usize::from(has_body);
        }
        assert_eq!((bodies, &*notes.borrow()), (2, &vec![]));
    }
}
