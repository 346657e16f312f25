//! What every tensor of a model really is: type and shape, seen in a run.
//!
//! Declared shapes can be wrong, and many cannot be inferred. So the model is run in pieces of consecutive nodes, not
//! optimised, with everything the nodes make as outputs, each piece fed with what earlier ones made. Each node runs
//! once, and only values that later pieces read are kept, so that memory is bounded by what is alive plus one piece's
//! outputs.
//!
//! Control-flow bodies are then run in the same way, each alone, with the values that arrived at their node: both
//! branches of an `If`, the first turn of a `Loop` or `Scan` (`observe/bodies.rs`).

mod bodies;

use std::collections::{HashMap, HashSet};

use tandem_ir::batch::Seen;
use tandem_ir::{Dim, Fact, Graph, Kind, NodeId, Origin, TensorId};
use tandem_onnx::cut::{self, CutError};
use tandem_onnx::import::Model;
use tandem_onnx::value::{TensorValue, Value};

use crate::engine::{Engine, EngineError, SessionOptions};

/// Bytes of one piece's outputs that are aimed at: pieces become smaller above it and larger below a quarter of it.
const PIECE_BYTES: u64 = 256 << 20;

/// Nodes of the first piece, when nothing is known of sizes yet.
const PIECE_NODES_FIRST: usize = 16;

/// Most nodes of a piece: beyond it the cost of a session is spread thinly enough.
const PIECE_NODES_MAX: usize = 512;

/// Runs the model once on `inputs` (in the order of the graph's inputs) and returns the type and shape of every dense
/// tensor that is no constant: graph inputs, and what nodes make; the same of bodies as far as they could be run.
/// Sequences, maps and optionals without a value are not in it.
///
/// # Errors
/// Wrong number of inputs; a node outside bodies that the engine cannot run alone, with the engine's words.
pub fn observe(engine: &dyn Engine, model: &Model, inputs: &[Value]) -> Result<Seen, EngineError> {
    let graph = &model.graph;
    if inputs.len() != graph.inputs.len() {
        let why = format!("expected {} inputs to observe a run, found {}", graph.inputs.len(), inputs.len());
        return Err(EngineError::Failed { engine: engine.name().into(), why });
    }
    let mut observer =
        Observer { engine, model: model.clone(), inputs, alive: HashMap::new(), seen: Seen::default(), made_bytes: 0 };
    for (id, value) in graph.inputs.iter().zip(inputs) {
        observer.keep(*id, value.clone());
    }
    let nodes: Vec<NodeId> = graph.placeable().collect();
    let last_read = last_reads(graph, &nodes);
    let (mut at, mut size) = (0, PIECE_NODES_FIRST);
    while at < nodes.len() {
        let piece = &nodes[at..nodes.len().min(at + size)];
        observer.made_bytes = 0;
        observer.run(piece)?;
        piece.iter().for_each(|node| observer.bodies(*node));
        at += piece.len();
        let done = piece.last().copied();
        observer.alive.retain(|t, _| last_read.get(t).copied() > done);
        match observer.made_bytes {
            bytes if bytes > PIECE_BYTES => size = (size / 2).max(1),
            bytes if bytes < PIECE_BYTES / 4 => size = (size * 2).min(PIECE_NODES_MAX),
            _ => {}
        }
    }
    Ok(observer.seen)
}

/// The last node that reads each value, folded ones left out.
fn last_reads(graph: &Graph, nodes: &[NodeId]) -> HashMap<TensorId, NodeId> {
    let mut last = HashMap::new();
    for id in nodes {
        last.extend(graph.node(*id).reads().into_iter().map(|t| (t, *id)));
    }
    last
}

struct Observer<'a> {
    engine: &'a dyn Engine,
    /// Its graph's facts are replaced by what was seen, for pieces are cut by them.
    model: Model,
    /// The graph's inputs.
    inputs: &'a [Value],
    /// Values that later pieces may read.
    alive: HashMap<TensorId, Value>,
    seen: Seen,
    made_bytes: u64,
}

impl Observer<'_> {
    fn keep(&mut self, id: TensorId, value: Value) {
        let tensor = &mut self.model.graph.tensors[id.index()];
        let mut inner = &value;
        while let Value::Optional(Some(held)) = inner {
            inner = held;
        }
        if let Value::Tensor(TensorValue { dtype, dims, .. }) = inner {
            self.made_bytes += dtype.bytes_of(dims.iter().product());
            self.seen.values.insert(tensor.name.clone(), (*dtype, dims.clone()));
            if matches!(value, Value::Tensor(_)) {
                let shape = dims.iter().map(|d| Dim::Known(*d)).collect();
                tensor.fact =
                    Fact { kind: Kind::Tensor, dtype: Some(*dtype), shape: Some(shape), origin: Origin::Observed };
            }
        }
        self.alive.insert(id, value);
    }

    /// Runs a piece with all it makes as outputs. A piece that fails is halved, down to single nodes; a node that fails
    /// so is tried with the outputs alone that anybody reads.
    fn run(&mut self, piece: &[NodeId]) -> Result<(), EngineError> {
        let made: Vec<TensorId> = piece.iter().flat_map(|n| self.model.graph.node(*n).writes()).collect();
        let error = match self.try_run(piece, &made) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if piece.len() > 1 {
            let (left, right) = piece.split_at(piece.len() / 2);
            self.run(left)?;
            return self.run(right);
        }
        let graph = &self.model.graph;
        let needed = |t: &TensorId| graph.is_output(*t) || !graph.tensor(*t).consumers.is_empty();
        let read: Vec<TensorId> = made.iter().copied().filter(needed).collect();
        if read.len() < made.len() && self.try_run(piece, &read).is_ok() {
            return Ok(());
        }
        Err(match error {
            EngineError::Failed { engine, why } => EngineError::Failed { engine, why: self.at(piece, &why) },
            EngineError::Unsupported { engine, why } => EngineError::Unsupported { engine, why: self.at(piece, &why) },
            missing => missing,
        })
    }

    fn at(&self, piece: &[NodeId], why: &str) -> String {
        let graph = &self.model.graph;
        let names: Vec<String> =
            piece.iter().map(|n| format!("{} \"{}\"", graph.node(*n).op, graph.node_name(*n))).collect();
        format!("while observing {}: {why}", names.join(", "))
    }

    fn try_run(&mut self, piece: &[NodeId], outputs: &[TensorId]) -> Result<(), EngineError> {
        if outputs.is_empty() {
            return Ok(());
        }
        let graph = &self.model.graph;
        let (inputs, _) = cut::boundary(graph, piece);
        let failed = |why: String| EngineError::Failed { engine: self.engine.name().into(), why };
        let image = cut::cut(&self.model, piece, &inputs, outputs);
        let (image, values) = match image {
            Ok(image) => {
                let value = |t: &TensorId| self.alive.get(t).cloned().ok_or_else(|| failed(self.missing(*t)));
                (image, inputs.iter().map(value).collect::<Result<Vec<_>, _>>()?)
            }
            // A value that is no tensor and whose type nothing states: everything up to here from the graph's inputs.
            Err(CutError::Untyped { .. }) => {
                let before: Vec<NodeId> = graph.placeable().filter(|n| Some(n) <= piece.last()).collect();
                let image = cut::cut(&self.model, &before, &graph.inputs, outputs);
                (image.map_err(|e| failed(e.to_string()))?, self.inputs.to_vec())
            }
            Err(error) => return Err(failed(error.to_string())),
        };
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let options = SessionOptions { threads, optimize: false, profile: false };
        let made = self.engine.load(&image, &options)?.run(&values)?;
        for (id, value) in outputs.iter().zip(made) {
            self.keep(*id, value);
        }
        Ok(())
    }

    fn missing(&self, id: TensorId) -> String {
        format!("\"{}\" was not made by an earlier piece", self.model.graph.tensor(id).name)
    }
}

/// Names of the tensors outside bodies that [`observe`] may report: graph inputs and what placeable nodes make.
pub fn observable(graph: &Graph) -> HashSet<&str> {
    let made = graph.placeable().flat_map(|n| graph.node(n).writes());
    graph.inputs.iter().copied().chain(made).map(|t| graph.tensor(t).name.as_str()).collect()
}
