//! Atoms run alone, for engines that do not time their nodes; and whole segments.
//!
//! Each distinct atom is cut out and run on its own, over all settings in turn. What comes in has the shape that was
//! observed; numbers that are no floats (indices, shapes, masks) are the ones that truly arrive there, taken from a
//! run of the model with those values as extra outputs, for a made-up index would fail. Floats are made up.
//!
//! A run alone pays the launch of a session, which is taken off; what fusion and layout across atoms would have saved
//! is not in the numbers. Where that matters most, for control flow, an atom is run behind all it depends on ([`Added`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use tandem_ir::profile::{Atom, Method, Timing};
use tandem_ir::signature::Signature;
use tandem_ir::{DType, Fact, Graph, Nanos, NodeId, TensorId, segment};
use tandem_onnx::cut::{self, SegmentImage, boundary};
use tandem_onnx::import::Model;
use tandem_onnx::inspect;
use tandem_onnx::value::{TensorValue, Value};

use super::budget::Budget;
use super::sampling::{Point, Samples, uncounted_runs};
use super::{ProfileError, feeds, mapping, statistics};
use crate::engine::{Engine, EngineError, EngineProfile, OptimizedNode, Session, SessionOptions};

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

/// Atoms with control-flow bodies, measured by what they add to a run.
///
/// An engine's timing of the nodes inside a body slows the node around them, by an amount it does not state. Run alone
/// such an atom says little either, for its short loops depend on whether caches and threads are awake. So what it
/// depends on is run with it and without it, and the difference is its own. These runs take their turns in the rounds of
/// everything else ([`Added::turn`]), so that drift of the machine hits all alike.
pub struct Added {
    atoms: Vec<Atom>,
    points: Vec<Point>,
    /// Runs with and, where it depends on anything, without the atom; points of each in order.
    measured: Vec<(Signature, Vec<Run>, Option<Vec<Run>>)>,
    /// Durations, in the order of [`Added::turn`].
    taken: Vec<Vec<u64>>,
    failures: Vec<(Signature, String)>,
}

/// Distinct atoms with bodies that are measured so: each takes two more sessions a thread count, and two more runs a
/// round.
const ADDED_MAX: usize = 16;

impl Added {
    /// Loads the runs for a model's atoms: the known ones, or those that the engine's own graph tells. `None` for a model
    /// without bodies, and an engine that does not tell its graph.
    ///
    /// # Errors
    /// Inputs that cannot be made up, an engine that cannot load the model.
    pub fn load(
        engine: &dyn Engine,
        model: &Model,
        image: &SegmentImage,
        known: Option<&[Atom]>,
        points: &[Point],
    ) -> Result<Option<Self>, ProfileError> {
        let has_body = |n: &NodeId| !model.graph.node(*n).bodies.is_empty();
        if !model.graph.placeable().any(|n| has_body(&n)) {
            return Ok(None);
        }
        let atoms = match known {
            Some(atoms) => atoms.to_vec(),
            None => match atoms_of(engine, model, image)? {
                Some(atoms) => atoms,
                None => return Ok(None),
            },
        };
        let mut distinct: BTreeMap<&Signature, &Atom> = BTreeMap::new();
        for atom in atoms.iter().filter(|a| a.nodes.iter().any(has_body)) {
            distinct.entry(&atom.signature).or_insert(atom);
        }
        let (mut measured, mut failures) = (vec![], vec![]);
        for (signature, atom) in distinct {
            if measured.len() == ADDED_MAX {
                failures.push((signature.clone(), format!("more than {ADDED_MAX} such atoms")));
                continue;
            }
            match with_and_without(engine, model, &atom.nodes, points) {
                Ok((with, without)) => measured.push((signature.clone(), with, without)),
                Err(ProfileError::Engine(error)) => failures.push((signature.clone(), error.to_string())),
                Err(ProfileError::Cut(error)) => failures.push((signature.clone(), error.to_string())),
                Err(error) => return Err(error),
            }
        }
        let points = points.to_vec();
        let mut added = Self { atoms, points, measured, taken: vec![], failures };
        // Runs that are not counted: the first allocates and packs weights.
        added.turn()?;
        added.taken.clear();
        Ok(Some(added))
    }

    /// All atoms of the model.
    pub fn atoms(&self) -> &[Atom] {
        &self.atoms
    }

    /// Runs everything once.
    ///
    /// # Errors
    /// What the engine says.
    pub fn turn(&mut self) -> Result<(), ProfileError> {
        let mut place = 0;
        for (_, with, without) in &self.measured {
            // With and without it at one point stand beside each other.
            for p in 0..self.points.len() {
                for (session, values) in [Some(&with[p]), without.as_ref().map(|w| &w[p])].into_iter().flatten() {
                    if self.taken.len() == place {
                        self.taken.push(vec![]);
                    }
                    let took = visit(session.as_ref(), values, self.taken[place].last().copied())?;
                    self.taken[place].push(took);
                    place += 1;
                }
            }
        }
        Ok(())
    }

    /// Puts the differences in the place of the engine's timing. `launch_ns` is the cost of a session's run by thread
    /// count. Returns atoms that could not be measured so and keep the engine's timing, and why.
    pub fn refine(self, samples: &mut Samples, launch_ns: &dyn Fn(u32) -> u64) -> Vec<(Signature, String)> {
        let mut taken = self.taken.iter().map(|d| statistics::timing(d, Method::Isolated));
        for (signature, _, without) in &self.measured {
            for (p, point) in self.points.iter().enumerate() {
                let Some(with) = taken.next() else { return self.failures };
                let less = match without {
                    Some(_) => taken.next().map_or(Nanos::ZERO, |t| t.median),
                    None => Nanos(launch_ns(point.threads)),
                };
                let own = Timing { median: with.median.saturating_sub(less), ..with };
                let sampled = &mut samples.points[p];
                for (atom, timing) in samples.atoms.iter().zip(&mut sampled.atoms) {
                    if atom.signature == *signature {
                        let (was, is) = (timing.median.0, own.median.0);
                        sampled.timed_ns.iter_mut().for_each(|t| *t = t.saturating_sub(was) + is);
                        *timing = own;
                    }
                }
            }
        }
        self.failures
    }
}

/// The model's atoms by the engine's own graph; `None` where it does not tell it.
fn atoms_of(engine: &dyn Engine, model: &Model, image: &SegmentImage) -> Result<Option<Vec<Atom>>, ProfileError> {
    let unread = |why: String| EngineError::Failed { engine: engine.name().into(), why };
    let folder = tempfile::tempdir().map_err(|e| unread(format!("no folder for its graph: {e}")))?;
    let Some(path) = engine.save_optimized(image, &SessionOptions::default(), folder.path())? else { return Ok(None) };
    let nodes = inspect::nodes(&path).map_err(|e| unread(format!("its graph cannot be read: {e}")))?;
    let graph = nodes.into_iter().map(OptimizedNode::from).collect();
    Ok(Some(mapping::map(&model.graph, &EngineProfile { graph, ..EngineProfile::default() }).atoms))
}

/// Runs of nodes (ascending) and all they depend on, and of the latter alone where there are any; by point.
fn with_and_without(
    engine: &dyn Engine,
    model: &Model,
    nodes: &[NodeId],
    points: &[Point],
) -> Result<(Vec<Run>, Option<Vec<Run>>), ProfileError> {
    let graph = &model.graph;
    let runs = |nodes: &[NodeId], outputs: &[TensorId]| -> Result<Vec<Run>, ProfileError> {
        let inputs = boundary(graph, nodes).0;
        let image = cut::cut(model, nodes, &inputs, outputs)?;
        let feed = |p: &Point| {
            let fed = feeds(graph, p.batch)?;
            let value = |t: &TensorId| {
                let position = graph.inputs.iter().position(|i| i == t);
                let unknown = || ProfileError::Shape { tensor: graph.tensor(*t).name.clone() };
                position.map(|i| fed[i].clone()).ok_or_else(unknown)
            };
            inputs.iter().map(value).collect()
        };
        loaded(engine, &image, points, &feed)
    };
    let (reads, outputs) = boundary(graph, nodes);
    let before = ancestors(graph, nodes);
    let with: BTreeSet<NodeId> = before.iter().chain(nodes).copied().collect();
    let with = runs(&with.into_iter().collect::<Vec<_>>(), &outputs)?;
    if before.is_empty() {
        return Ok((with, None));
    }
    let made = |t: &TensorId| !graph.inputs.contains(t) && graph.tensor(*t).fact.crosses_devices();
    let made: Vec<TensorId> = reads.into_iter().filter(made).collect();
    Ok((with, Some(runs(&before, &made)?)))
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

/// The duration of a run, in nanoseconds, after some that are not counted: as many as the last one's duration asks for.
fn visit(session: &dyn Session, values: &[Value], last: Option<u64>) -> Result<u64, ProfileError> {
    for _ in 0..last.map_or(0, |ns| uncounted_runs(Nanos(ns))) {
        session.run(values)?;
    }
    let start = Instant::now();
    session.run(values)?;
    Ok(start.elapsed().as_nanos() as u64)
}

/// Durations of runs, in nanoseconds, taken in turns.
fn turns(runs: &[Run], budget: &Budget) -> Result<Vec<Vec<u64>>, ProfileError> {
    let mut durations = vec![vec![]; runs.len()];
    let turn = |durations: &mut Vec<Vec<u64>>| -> Result<Nanos, ProfileError> {
        let begin = Instant::now();
        for ((session, values), durations) in runs.iter().zip(durations) {
            durations.push(visit(session.as_ref(), values, durations.last().copied())?);
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
