//! Boundaries inside one device, cut in the graph as its engine runs it.
//!
//! Cut out of the original graph, two neighbours on one device lose what their engine gains across the boundary: fused
//! operators, and blocked layouts that are undone on one side and made again on the other. So segments of one device that
//! could be one (a *run*) are given to the engine as one, its optimised graph is taken, each of its nodes is traced back
//! to a segment, and *that* graph is cut; the pieces are loaded with optimisation off. What crosses such a boundary is
//! the engine's own value, in its own layout, under a name that the route does not know.
//!
//! What other devices and the caller see stays as the route says: every value a copy or an output names is made by the
//! segment that the route says or an earlier one of the run, and nothing is read after the route has freed it. Where the
//! engine's graph does not allow that, or cannot be traced, the run's segments are optimised each alone, and a note says
//! so.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tandem_ir::plan::{Action, Route};
use tandem_ir::{DType, Fact, Graph, Kind, NodeId, Origin, TensorId};
use tandem_onnx::cut::{self, boundary};
use tandem_onnx::import::{self, Model};
use tandem_onnx::value::Value;

use super::load::Cut;
use crate::engine::{Engine, OptimizedNode, Session, SessionOptions};
use crate::profiler::mapping;

/// Groups of two and more segments of one device, in the order they are launched, such that the graph of segments would
/// stay acyclic with each group as one.
pub(super) fn runs(route: &Route) -> Vec<Vec<usize>> {
    let launched = route.steps.iter().filter_map(|s| match s.action {
        Action::Run(segment) => Some(segment),
        _ => None,
    });
    let count = route.segments.len();
    let mut maker = vec![None; route.tensors.len()];
    for (s, segment) in route.segments.iter().enumerate() {
        segment.outputs.iter().for_each(|t| maker[*t] = Some(s));
    }
    let before: Vec<Vec<usize>> =
        route.segments.iter().map(|s| s.inputs.iter().filter_map(|t| maker[*t]).collect()).collect();
    let mut group: Vec<usize> = (0..count).collect();
    let mut runs: Vec<Vec<usize>> = vec![];
    for segment in launched {
        let device = route.segments[segment].device;
        let own = group[segment];
        let joined = (0..runs.len()).rev().filter(|r| route.segments[runs[*r][0]].device == device).find(|r| {
            group[segment] = group[runs[*r][0]];
            is_acyclic(&before, &group)
        });
        match joined {
            Some(run) => runs[run].push(segment),
            None => {
                group[segment] = own;
                runs.push(vec![segment]);
            }
        }
    }
    runs.retain(|run| run.len() > 1);
    runs
}

/// Whether the groups can be put in an order in which none waits for a later one.
fn is_acyclic(before: &[Vec<usize>], group: &[usize]) -> bool {
    let edges = |s: usize| before[s].iter().map(move |b| (group[*b], group[s])).filter(|(a, b)| a != b);
    let edges: BTreeSet<(usize, usize)> = (0..group.len()).flat_map(edges).collect();
    let mut waits = vec![0; group.len()];
    edges.iter().for_each(|(_, to)| waits[*to] += 1);
    let mut ready: Vec<usize> = (0..group.len()).filter(|g| waits[*g] == 0).collect();
    let mut done = 0;
    while let Some(next) = ready.pop() {
        done += 1;
        for (_, to) in edges.range((next, 0)..(next + 1, 0)) {
            waits[*to] -= 1;
            if waits[*to] == 0 {
                ready.push(*to);
            }
        }
    }
    done == group.len()
}

/// A run's segment, ready. Values are positions: the route's, then new ones.
pub(super) struct Part {
    /// `None` if nothing is left to do in it.
    pub(super) session: Option<Arc<dyn Session>>,
    /// Values of the route that the engine knows before it runs.
    pub(super) constants: Vec<(usize, Value)>,
    pub(super) inputs: Vec<usize>,
    pub(super) outputs: Vec<usize>,
    /// New values that are not read after it.
    pub(super) frees: Vec<usize>,
}

/// Segments of one device that could be one.
pub(super) struct Run<'a> {
    pub(super) route: &'a Route,
    pub(super) model: &'a Model,
    /// All segments of the route.
    pub(super) cuts: &'a [Cut],
    /// Positions, in the order of launch; a segment's place in here is its *rank*.
    pub(super) segments: &'a [usize],
}

/// A value of the route that the run shares with the rest of the world.
struct Port {
    /// Its position in the route.
    value: usize,
    id: TensorId,
    /// From this rank on an input is there; by this rank an output is made.
    from: usize,
    /// The last rank that the route has read it: afterwards it may be gone.
    last: usize,
}

impl Run<'_> {
    /// Loads the segments as pieces of the engine's own graph; appends the names of new values. `None` where the engine
    /// does not tell its graph.
    ///
    /// # Errors
    /// Why that graph cannot be cut so, in words.
    pub(super) fn load(
        &self,
        engine: &dyn Engine,
        options: &SessionOptions,
        names: &mut Vec<String>,
    ) -> Result<Option<Vec<Part>>, String> {
        let (inputs, outputs) = (self.inputs(), self.outputs());
        let mut nodes: Vec<NodeId> = self.segments.iter().flat_map(|s| self.cuts[*s].nodes.iter().copied()).collect();
        nodes.sort_unstable();
        let ids = |ports: &[Port]| ports.iter().map(|p| p.id).collect::<Vec<_>>();
        let image = cut::cut(self.model, &nodes, &ids(&inputs), &ids(&outputs)).map_err(|e| e.to_string())?;
        let folder = tempfile::tempdir().map_err(|e| format!("no folder for the engine's graph: {e}"))?;
        let Some(path) = engine.save_optimized(&image, options, folder.path()).map_err(|e| e.to_string())? else {
            return Ok(None);
        };
        let unread = |e| format!("the engine's graph cannot be read: {e}");
        let saved = import::import_with(&path, import::Options { hash_weights: false }).map_err(unread)?;
        let ranks = self.ranks(&saved.graph, &inputs, &outputs)?;
        let shared = inputs.iter().chain(&outputs).map(|p| (self.model.graph.tensor(p.id).name.as_str(), p.value));
        let pieces = Pieces { saved, ranks, shared: shared.collect(), first_new: names.len(), new: vec![] };
        let constants = self.constants(&pieces.saved, &outputs)?;
        let (mut parts, new) =
            pieces.load(self.segments.len(), engine, &SessionOptions { optimize: false, ..options.clone() })?;
        names.extend(new);
        constants.into_iter().for_each(|(rank, value, constant)| parts[rank].constants.push((value, constant)));
        Ok(Some(parts))
    }

    /// Outputs that the engine has computed beforehand (shapes, mostly): rank, position, value.
    fn constants(&self, saved: &Model, outputs: &[Port]) -> Result<Vec<(usize, usize, Value)>, String> {
        let index = saved.graph.tensor_index();
        let mut constants = vec![];
        for port in outputs {
            let name = self.model.graph.tensor(port.id).name.as_str();
            let Some(id) = index.get(name).filter(|t| saved.graph.is_constant(**t)) else { continue };
            let value = saved.constant_value(*id).ok_or_else(|| format!("its constant \"{name}\" cannot be read"))?;
            constants.push((port.from, port.value, Value::Tensor(value)));
        }
        Ok(constants)
    }

    /// What the run reads and does not make.
    fn inputs(&self) -> Vec<Port> {
        let made: BTreeSet<TensorId> =
            self.segments.iter().flat_map(|s| self.cuts[*s].outputs.iter().copied()).collect();
        let mut ports: Vec<Port> = vec![];
        for (rank, s) in self.segments.iter().enumerate() {
            let reads = self.cuts[*s].inputs.iter().zip(&self.route.segments[*s].inputs);
            for (id, value) in reads.filter(|(id, _)| !made.contains(id)) {
                match ports.iter_mut().find(|p| p.id == *id) {
                    Some(port) => port.last = rank,
                    None => ports.push(Port { value: *value, id: *id, from: rank, last: rank }),
                }
            }
        }
        ports
    }

    /// What the run makes and anybody else gets: other segments, copies, the caller.
    fn outputs(&self) -> Vec<Port> {
        let route = self.route;
        let mut wanted: BTreeSet<usize> = route.outputs.iter().copied().collect();
        let others = (0..route.segments.len()).filter(|s| !self.segments.contains(s));
        wanted.extend(others.flat_map(|s| route.segments[s].inputs.iter().copied()));
        wanted.extend(route.steps.iter().filter_map(|s| match s.action {
            Action::Copy { tensor, .. } => Some(tensor),
            _ => None,
        }));
        let reads = |value: &usize, s: &usize| route.segments[*s].inputs.contains(value);
        let mut ports = vec![];
        for (rank, s) in self.segments.iter().enumerate() {
            let made = self.cuts[*s].outputs.iter().zip(&route.segments[*s].outputs);
            for (id, value) in made.filter(|(_, value)| wanted.contains(value)) {
                let last = self.segments.iter().rposition(|s| reads(value, s)).unwrap_or(rank);
                ports.push(Port { value: *value, id: *id, from: rank, last });
            }
        }
        ports
    }

    /// The rank of each of the engine's nodes: that of the first of the model's nodes it stands for at which all it reads
    /// is there. (What an engine fuses over a boundary so goes to the earlier side: values may be made before the plan
    /// says, but not after.)
    fn ranks(&self, saved: &Graph, inputs: &[Port], outputs: &[Port]) -> Result<Vec<usize>, String> {
        let mut of_node: HashMap<NodeId, usize> = HashMap::new();
        for (rank, s) in self.segments.iter().enumerate() {
            of_node.extend(self.cuts[*s].nodes.iter().map(|n| (*n, rank)));
        }
        let name = |t: &TensorId| saved.tensor(*t).name.clone();
        let names = |all: &[Option<TensorId>]| all.iter().flatten().map(name).collect();
        let told = |id: NodeId| {
            let node = saved.node(id);
            let (inputs, outputs) = (names(&node.inputs), names(&node.outputs));
            OptimizedNode { name: node.name.clone(), op: node.op.name.clone(), inputs, outputs }
        };
        let told: Vec<OptimizedNode> = saved.node_ids().map(told).collect();
        let anchors = mapping::anchors(&self.model.graph, &told);
        let by_name = |ports: &'_ [Port]| -> HashMap<String, (usize, usize)> {
            ports.iter().map(|p| (self.model.graph.tensor(p.id).name.clone(), (p.from, p.last))).collect()
        };
        let (fed, made) = (by_name(inputs), by_name(outputs));
        let mut missing: BTreeSet<&str> = made.keys().map(String::as_str).collect();
        let before = tandem_ir::segment::predecessors(saved);
        let mut ranks = vec![0; saved.nodes.len()];
        for id in saved.placeable() {
            let op = &told[id.index()].op;
            let reads: Vec<String> = saved.node(id).reads().iter().map(name).collect();
            let anchored = anchors[id.index()].iter().filter_map(|n| of_node.get(n).copied()).min();
            let after = before[id.index()].iter().map(|p| ranks[p.index()]).max();
            let there = reads.iter().filter_map(|t| fed.get(t)).map(|f| f.0).max();
            let rank = anchored.max(after).max(there).unwrap_or(0);
            let gone = |t: &&String| fed.get(*t).or(made.get(*t)).is_some_and(|port| port.1 < rank);
            if let Some(gone) = reads.iter().find(gone) {
                return Err(format!("its {op} reads \"{gone}\" later than the plan says"));
            }
            for t in saved.node(id).writes() {
                let write = saved.tensor(t).name.as_str();
                if made.get(write).is_some_and(|port| port.0 < rank) {
                    return Err(format!("its {op} makes \"{write}\" later than the plan says"));
                }
                missing.remove(write);
            }
            ranks[id.index()] = rank;
        }
        missing.retain(|name| !saved.tensor_ids().any(|t| saved.is_constant(t) && saved.tensor(t).name == *name));
        match missing.first() {
            Some(none) => Err(format!("none of its nodes makes \"{none}\"")),
            None => Ok(ranks),
        }
    }
}

/// The engine's graph, to be cut.
struct Pieces<'a> {
    saved: Model,
    /// By node.
    ranks: Vec<usize>,
    /// Positions of the values that the route knows, by name.
    shared: HashMap<&'a str, usize>,
    /// The position of the first new value.
    first_new: usize,
    new: Vec<String>,
}

impl Pieces<'_> {
    /// Parts by rank, and the names of new values.
    fn load(
        mut self,
        count: usize,
        engine: &dyn Engine,
        options: &SessionOptions,
    ) -> Result<(Vec<Part>, Vec<String>), String> {
        let mut parts = Vec::with_capacity(count);
        let mut last_reader: HashMap<usize, usize> = HashMap::new();
        for rank in 0..count {
            let inside = |n: &NodeId| self.ranks[n.index()] == rank;
            let nodes: Vec<NodeId> = self.saved.graph.placeable().filter(inside).collect();
            if nodes.is_empty() {
                parts.push(Part { session: None, constants: vec![], inputs: vec![], outputs: vec![], frees: vec![] });
                continue;
            }
            let (reads, makes) = boundary(&self.saved.graph, &nodes);
            let image = cut::cut(&self.saved, &nodes, &reads, &makes).map_err(|e| e.to_string())?;
            let session = engine.load(&image, options).map_err(|e| e.to_string())?;
            // What the engine infers of these values is all that the pieces that read them are told.
            let types = session.output_types();
            makes.iter().zip(types).for_each(|(t, dtype)| self.learn(*t, dtype));
            let inputs: Vec<usize> = reads.iter().map(|t| self.position(*t)).collect();
            let outputs = makes.iter().map(|t| self.position(*t)).collect();
            last_reader.extend(inputs.iter().filter(|i| **i >= self.first_new).map(|i| (*i, rank)));
            parts.push(Part { session: Some(session), constants: vec![], inputs, outputs, frees: vec![] });
        }
        last_reader.into_iter().for_each(|(value, rank)| parts[rank].frees.push(value));
        parts.iter_mut().for_each(|p| p.frees.sort_unstable());
        Ok((parts, self.new))
    }

    fn learn(&mut self, tensor: TensorId, dtype: Option<DType>) {
        let fact = &mut self.saved.graph.tensors[tensor.index()].fact;
        if fact.dtype.is_none() {
            *fact = Fact { kind: Kind::Tensor, dtype, shape: None, origin: Origin::Declared };
        }
    }

    fn position(&mut self, tensor: TensorId) -> usize {
        let name = &self.saved.graph.tensor(tensor).name;
        if let Some(known) = self.shared.get(name.as_str()) {
            return *known;
        }
        let place = self.new.iter().position(|n| n == name).unwrap_or_else(|| {
            self.new.push(name.clone());
            self.new.len() - 1
        });
        self.first_new + place
    }
}
