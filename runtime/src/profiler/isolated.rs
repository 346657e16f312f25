//! Atoms run alone, for engines that do not time their nodes; and whole segments.
//!
//! Each distinct atom is cut out and run on its own, over all settings in turn. What comes in has the shape that was
//! observed; numbers that are no floats (indices, shapes, masks) are the ones that truly arrive there, taken from a
//! run of the model with those values as extra outputs, for a made-up index would fail. Floats are made up.
//!
//! A run alone pays the launch of a session, which is taken off; what fusion and layout across atoms would have saved
//! is not in the numbers. Where that matters most, for control flow, an atom is run behind all it depends on ([`refine`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use tandem_ir::profile::{Atom, Method, Timing};
use tandem_ir::signature::Signature;
use tandem_ir::{DType, Fact, Graph, Nanos, NodeId, TensorId, segment};
use tandem_onnx::cut::{self, SegmentImage, boundary};
use tandem_onnx::import::Model;
use tandem_onnx::value::{TensorValue, Value};

use super::budget::Budget;
use super::sampling::{Point, Samples, uncounted_runs};
use super::{ProfileError, feeds, statistics};
use crate::engine::{Engine, Session, SessionOptions};

/// What was measured, and what could not be.
#[derive(Clone, Debug, Default)]
pub struct Isolated {
    /// Durations by signature and point.
    pub timings: Vec<(Signature, Point, Timing)>,
    /// Atoms that could not be run alone, with the engine's words.
    pub failures: Vec<(Signature, String)>,
}

/// Measures each distinct atom alone at all points. `launch_ns` is the cost of a session's run by thread count.
///
/// # Errors
/// The model as a whole cannot be run. An atom that cannot is listed in [`Isolated::failures`].
pub fn measure(
    engine: &dyn Engine,
    model: &Model,
    atoms: &[Atom],
    points: &[Point],
    launch_ns: &dyn Fn(u32) -> u64,
    progress: &mut dyn FnMut(usize, usize, &Signature),
) -> Result<Isolated, ProfileError> {
    let mut distinct: BTreeMap<&Signature, &Atom> = BTreeMap::new();
    for atom in atoms {
        distinct.entry(&atom.signature).or_insert(atom);
    }
    let pieces: Vec<&[NodeId]> = distinct.values().map(|a| a.nodes.as_slice()).collect();
    let arriving = Arriving::observe(engine, model, &pieces, points)?;
    let mut result = Isolated::default();
    for (done, (signature, atom)) in distinct.iter().enumerate() {
        progress(done, distinct.len(), signature);
        match piece(engine, model, &atom.nodes, points, &arriving, &Budget::ATOM) {
            Ok(durations) => {
                for (point, durations) in points.iter().zip(durations) {
                    let mut timing = statistics::timing(&durations, Method::Isolated);
                    timing.median = timing.median.saturating_sub(Nanos(launch_ns(point.threads)));
                    result.timings.push(((*signature).clone(), *point, timing));
                }
            }
            Err(error) => result.failures.push(((*signature).clone(), error.to_string())),
        }
    }
    Ok(result)
}

/// Replaces the durations of atoms with control-flow bodies: an engine's timing of the nodes inside a body slows the node
/// around them, by an amount it does not state. They cannot be run alone either, for their short loops depend on whether
/// caches and threads are awake. So what an atom depends on is run with it and without it, in turns, and the difference
/// is its own. Returns atoms that could not be measured so and keep the engine's timing, with the engine's words.
///
/// # Errors
/// Inputs that cannot be made up.
pub fn refine(
    engine: &dyn Engine,
    model: &Model,
    samples: &mut Samples,
    launch_ns: &dyn Fn(u32) -> u64,
) -> Result<Vec<(Signature, String)>, ProfileError> {
    let has_body = |a: &&Atom| a.nodes.iter().any(|n| !model.graph.node(*n).bodies.is_empty());
    let mut distinct: BTreeMap<Signature, &Atom> = BTreeMap::new();
    for atom in samples.atoms.iter().filter(has_body) {
        distinct.entry(atom.signature.clone()).or_insert(atom);
    }
    let points: Vec<Point> = samples.points.iter().map(|s| s.point).collect();
    let mut found: BTreeMap<Signature, Vec<Timing>> = BTreeMap::new();
    let mut failures = vec![];
    for (signature, atom) in distinct {
        match added(engine, model, &atom.nodes, &points, launch_ns) {
            Ok(timings) => drop(found.insert(signature, timings)),
            Err(ProfileError::Engine(error)) => failures.push((signature, error.to_string())),
            Err(ProfileError::Cut(error)) => failures.push((signature, error.to_string())),
            Err(error) => return Err(error),
        }
    }
    for (p, sampled) in samples.points.iter_mut().enumerate() {
        for (atom, timing) in samples.atoms.iter().zip(&mut sampled.atoms) {
            let Some(timings) = found.get(&atom.signature) else { continue };
            let (was, is) = (timing.median.0, timings[p].median.0);
            sampled.timed_ns.iter_mut().for_each(|t| *t = t.saturating_sub(was) + is);
            *timing = timings[p];
        }
    }
    Ok(failures)
}

/// What nodes (ascending) add to a run of all they depend on, by point.
fn added(
    engine: &dyn Engine,
    model: &Model,
    nodes: &[NodeId],
    points: &[Point],
    launch_ns: &dyn Fn(u32) -> u64,
) -> Result<Vec<Timing>, ProfileError> {
    let graph = &model.graph;
    let (reads, outputs) = boundary(graph, nodes);
    let before = ancestors(graph, nodes);
    let with: Vec<NodeId> = before.iter().chain(nodes).copied().collect::<BTreeSet<_>>().into_iter().collect();
    let mut pieces = vec![(with, outputs)];
    if !before.is_empty() {
        let made = reads.into_iter().filter(|t| !graph.inputs.contains(t) && graph.tensor(*t).fact.crosses_devices());
        pieces.push((before, made.collect()));
    }
    let mut runs = vec![];
    for (nodes, outputs) in &pieces {
        let inputs = boundary(graph, nodes).0;
        let image = cut::cut(model, nodes, &inputs, outputs)?;
        let value = |t: &TensorId, fed: &[Value]| {
            let position = graph.inputs.iter().position(|i| i == t);
            position
                .map(|i| fed[i].clone())
                .ok_or_else(|| ProfileError::Shape { tensor: graph.tensor(*t).name.clone() })
        };
        let feed = |p: &Point| {
            let fed = feeds(graph, p.batch)?;
            inputs.iter().map(|t| value(t, &fed)).collect::<Result<Vec<_>, ProfileError>>()
        };
        runs.extend(loaded(engine, &image, points, &feed)?);
    }
    // With and without it at one point stand beside each other in a round.
    let order: Vec<usize> = (0..points.len()).flat_map(|p| (p..runs.len()).step_by(points.len())).collect();
    let mut taken = vec![vec![]; runs.len()];
    let ordered: Vec<Run> = order.iter().map(|r| runs[*r].clone()).collect();
    order.iter().zip(turns(&ordered, &Budget::ADDED)?).for_each(|(r, durations)| taken[*r] = durations);
    let timing = |(p, point): (usize, &Point)| {
        let with = statistics::timing(&taken[p], Method::Isolated);
        let without = taken.get(points.len() + p).map(|d| statistics::timing(d, Method::Isolated));
        let less = without.map_or(Nanos(launch_ns(point.threads)), |t| t.median);
        Timing { median: with.median.saturating_sub(less), ..with }
    };
    Ok(points.iter().enumerate().map(timing).collect())
}

/// All placeable nodes that nodes depend on, themselves left out; ascending.
fn ancestors(graph: &Graph, nodes: &[NodeId]) -> Vec<NodeId> {
    let before = segment::predecessors(graph);
    let mut found: BTreeSet<NodeId> = BTreeSet::new();
    let mut pending = nodes.to_vec();
    while let Some(node) = pending.pop() {
        pending.extend(before[node.index()].iter().filter(|p| !nodes.contains(p) && found.insert(**p)));
    }
    found.into_iter().collect()
}

/// Measures nodes (ascending) as one segment, launch included, at one point.
///
/// # Errors
/// The model or the segment cannot be run.
pub fn segment(engine: &dyn Engine, model: &Model, nodes: &[NodeId], point: Point) -> Result<Timing, ProfileError> {
    let arriving = Arriving::observe(engine, model, &[nodes], &[point])?;
    let durations = piece(engine, model, nodes, &[point], &arriving, &Budget::MODEL)?;
    Ok(statistics::timing(&durations[0], Method::Isolated))
}

/// Durations of a piece by point, in nanoseconds.
fn piece(
    engine: &dyn Engine,
    model: &Model,
    nodes: &[NodeId],
    points: &[Point],
    arriving: &Arriving,
    budget: &Budget,
) -> Result<Vec<Vec<u64>>, ProfileError> {
    let (inputs, outputs) = boundary(&model.graph, nodes);
    let image = cut::cut(model, nodes, &inputs, &outputs)?;
    let feed = |point: &Point| inputs.iter().map(|t| arriving.value(&model.graph, *t, point.batch)).collect();
    turns(&loaded(engine, &image, points, &feed)?, budget)
}

/// A session and what it is fed.
type Run = (Arc<dyn Session>, Vec<Value>);

/// An image's runs by point, one session a thread count.
fn loaded(
    engine: &dyn Engine,
    image: &SegmentImage,
    points: &[Point],
    feed: &dyn Fn(&Point) -> Result<Vec<Value>, ProfileError>,
) -> Result<Vec<Run>, ProfileError> {
    let mut sessions: BTreeMap<u32, Arc<dyn Session>> = BTreeMap::new();
    let mut runs = vec![];
    for point in points {
        let session = match sessions.get(&point.threads) {
            Some(session) => session.clone(),
            None => engine.load(image, &SessionOptions { threads: point.threads, optimize: true, profile: false })?,
        };
        sessions.insert(point.threads, session.clone());
        runs.push((session, feed(point)?));
    }
    Ok(runs)
}

/// Durations of runs, in nanoseconds, taken in turns.
fn turns(runs: &[Run], budget: &Budget) -> Result<Vec<Vec<u64>>, ProfileError> {
    let mut durations = vec![vec![]; runs.len()];
    let turn = |durations: &mut Vec<Vec<u64>>| -> Result<Nanos, ProfileError> {
        let begin = Instant::now();
        for ((session, values), durations) in runs.iter().zip(durations) {
            for _ in 0..durations.last().map_or(0, |ns| uncounted_runs(Nanos(*ns))) {
                session.run(values)?;
            }
            let start = Instant::now();
            session.run(values)?;
            durations.push(start.elapsed().as_nanos() as u64);
        }
        Ok(Nanos(begin.elapsed().as_nanos() as u64))
    };
    // The first round is not counted; the second tells how many there will be.
    turn(&mut durations)?;
    let second = turn(&mut durations)?;
    for _ in 1..budget.rounds(second) {
        turn(&mut durations)?;
    }
    for durations in &mut durations {
        durations.remove(0);
    }
    Ok(durations)
}

/// Values that arrive at pieces and cannot be made up, by tensor and batch.
struct Arriving {
    values: HashMap<(TensorId, u64), Value>,
}

impl Arriving {
    /// Runs the whole model once a batch, with what the pieces read as extra outputs.
    fn observe(
        engine: &dyn Engine,
        model: &Model,
        pieces: &[&[NodeId]],
        points: &[Point],
    ) -> Result<Self, ProfileError> {
        let graph = &model.graph;
        let mut wanted: BTreeSet<TensorId> = BTreeSet::new();
        for nodes in pieces {
            // How long a loop runs may depend on any number.
            let loops = nodes.iter().any(|n| !graph.node(*n).bodies.is_empty());
            let true_ones = |t: &TensorId| loops || !is_made_up(&graph.tensor(*t).fact);
            wanted.extend(boundary(graph, nodes).0.into_iter().filter(true_ones));
        }
        let wanted: Vec<TensorId> = wanted.into_iter().filter(|t| !graph.inputs.contains(t)).collect();
        let batches: BTreeSet<u64> = points.iter().map(|p| p.batch).collect();
        let mut values = HashMap::new();
        for batch in &batches {
            let inputs = feeds(graph, *batch)?;
            if !wanted.is_empty() {
                let nodes: Vec<NodeId> = graph.placeable().collect();
                let image = cut::cut(model, &nodes, &graph.inputs, &wanted)?;
                let session = engine.load(&image, &SessionOptions { threads: 1, optimize: false, profile: false })?;
                let made = session.run(&inputs)?;
                values.extend(wanted.iter().zip(made).map(|(t, v)| ((*t, *batch), v)));
            }
            values.extend(graph.inputs.iter().zip(inputs).map(|(t, v)| ((*t, *batch), v)));
        }
        Ok(Self { values })
    }

    fn value(&self, graph: &Graph, tensor: TensorId, batch: u64) -> Result<Value, ProfileError> {
        if let Some(value) = self.values.get(&(tensor, batch)) {
            return Ok(value.clone());
        }
        let t = graph.tensor(tensor);
        made_up(&t.fact, batch).ok_or_else(|| ProfileError::Shape { tensor: t.name.clone() })
    }
}

/// Whether a value of this kind may be made up: floats of known shape.
fn is_made_up(fact: &Fact) -> bool {
    fact.crosses_devices() && fact.dtype.is_some_and(DType::is_float) && fact.dims_at(1).is_some()
}

/// Floats between -0.5 and 0.5 without pattern (zeros for types other than f32).
fn made_up(fact: &Fact, batch: u64) -> Option<Value> {
    let (dtype, dims) = (fact.dtype?, fact.dims_at(batch)?);
    let bytes = fact.bytes_at(batch)?;
    if dtype != DType::F32 {
        return Some(Value::Tensor(TensorValue::new(dtype, dims, vec![0; bytes as usize])));
    }
    let element = |i: u64| {
        let mixed = (i as u32).wrapping_mul(2_654_435_761) >> 8;
        (mixed as f32 / (1 << 24) as f32 - 0.5).to_le_bytes()
    };
    let data: Vec<u8> = (0..bytes / 4).flat_map(element).collect();
    Some(Value::Tensor(TensorValue::new(dtype, dims, data)))
}
