//! Control-flow bodies run alone, each as a model of its own, with the values that arrived at its node in the run around.
//!
//! A branch that the run did not take may not fit the values that are there. One that fails is left out, and so is one
//! with a loop inside, which need never end on values that were not meant for it.

use tandem_ir::{DType, Graph, Node, NodeId, TensorId};
use tandem_onnx::cut;
use tandem_onnx::value::{TensorValue, Value};

use super::{Observer, observe};
use crate::engine::SessionOptions;
use crate::rows;

impl Observer<'_> {
    /// Observes the bodies of a node that was run, while the values that it read are still there.
    pub(super) fn bodies(&mut self, id: NodeId) {
        let names: Vec<String> = self.model.graph.node(id).bodies.keys().cloned().collect();
        for name in names {
            match self.body(id, &name) {
                Ok(seen) => drop(self.seen.bodies.insert((id, name), seen)),
                Err(why) => {
                    let node = self.model.graph.node_name(id);
                    tracing::debug!(target: "tandem::profiler", "{name} of \"{node}\" was not observed: {why}");
                }
            }
        }
    }

    fn body(&self, id: NodeId, name: &str) -> Result<tandem_ir::batch::Seen, String> {
        let node = self.model.graph.node(id);
        let body = &node.bodies[name];
        if has_loop(body) && !self.taken(node, name) {
            return Err("it was not run, and has a loop inside".into());
        }
        let model = self.model.body(id, name).ok_or("it is no graph of its own")?;
        let mut values = self.given(node, body)?;
        // After its own inputs come those it captures.
        for input in &model.graph.inputs[values.len()..] {
            let name = &model.graph.tensor(*input).name;
            let of_name = |t: &&TensorId| self.model.graph.tensor(**t).name == *name;
            let outer = node.captures.iter().find(of_name).ok_or("a captured value is missing")?;
            values.push(self.value(*outer)?);
        }
        observe(self.engine, &model, &values).map_err(|e| e.to_string())
    }

    /// Whether the run around ran this body.
    fn taken(&self, node: &Node, name: &str) -> bool {
        let input = |i: usize| node.inputs.get(i).copied().flatten().and_then(|t| self.value(t).ok());
        match node.op.name.as_str() {
            "If" => input(0).is_some_and(|v| is_true(&v) == (name == "then_branch")),
            "Loop" => input(0).is_none_or(|v| is_positive(&v)) && input(1).is_none_or(|v| is_true(&v)),
            // Without a first slice it cannot be run at all.
            _ => true,
        }
    }

    /// What the node gives its body: nothing for a branch, the first turn's inputs for a loop.
    fn given(&self, node: &Node, body: &Graph) -> Result<Vec<Value>, String> {
        let read = |t: &Option<TensorId>| self.value(t.ok_or("an input is left out")?);
        match node.op.name.as_str() {
            "If" => Ok(vec![]),
            "Loop" => {
                // Engines take a list of one where the body says so.
                let dims = |i: usize| {
                    let rank = body.tensor(*body.inputs.get(i)?).fact.shape.as_ref().map_or(0, Vec::len);
                    Some(vec![1; rank])
                };
                let (turn, go) = dims(0).zip(dims(1)).ok_or("its body takes fewer than two inputs")?;
                let turn = TensorValue::new(DType::I64, turn, 0i64.to_le_bytes().to_vec());
                let go = TensorValue::new(DType::Bool, go, vec![1]);
                let carried = node.inputs.iter().skip(2).map(read);
                [turn, go].map(Value::Tensor).into_iter().map(Ok).chain(carried).collect()
            }
            // Before opset 9 it scanned batches.
            "Scan" if node.op.version >= 9 => {
                let scanned = usize::try_from(node.int("num_scan_inputs", 0)).unwrap_or(0);
                let states = node.inputs.len().checked_sub(scanned).ok_or("it scans more than it reads")?;
                let axis = |i: usize| node.ints("scan_input_axes").and_then(|a| a.get(i).copied()).unwrap_or(0);
                let slices = node.inputs.iter().skip(states).enumerate().map(|(i, t)| first_slice(&read(t)?, axis(i)));
                node.inputs.iter().take(states).map(read).chain(slices).collect()
            }
            other => Err(format!("nothing is known of what {other} gives its body")),
        }
    }

    /// A value that the node reads: one of this run, a constant, or one that folded nodes make.
    fn value(&self, id: TensorId) -> Result<Value, String> {
        let graph = &self.model.graph;
        if let Some(value) = self.alive.get(&id) {
            return Ok(value.clone());
        }
        if let Some(constant) = self.model.constant_value(id) {
            return Ok(Value::Tensor(constant));
        }
        let missing = || format!("\"{}\" was not made", graph.tensor(id).name);
        let producer = graph.tensor(id).producer.filter(|p| graph.node(*p).folded).ok_or_else(missing)?;
        let image = cut::cut(&self.model, &[producer], &[], &[id]).map_err(|e| e.to_string())?;
        let options = SessionOptions { threads: 1, optimize: false, profile: false };
        let made = self.engine.load(&image, &options).and_then(|s| s.run(&[])).map_err(|e| e.to_string())?;
        made.into_iter().next().ok_or_else(missing)
    }
}

fn has_loop(graph: &Graph) -> bool {
    graph.nodes.iter().any(|n| n.op.is("Loop") || n.bodies.values().any(has_loop))
}

fn is_true(value: &Value) -> bool {
    matches!(value, Value::Tensor(t) if t.bytes().first().is_some_and(|b| *b != 0))
}

/// Whether a trip count lets a loop run.
fn is_positive(value: &Value) -> bool {
    let Value::Tensor(t) = value else { return false };
    t.bytes().first_chunk().is_some_and(|b| i64::from_le_bytes(*b) > 0)
}

/// The first slice along an axis, which counts from the end where it is negative, without that axis.
fn first_slice(value: &Value, axis: i64) -> Result<Value, String> {
    let Value::Tensor(tensor) = value else { return Err("it scans a value that is no tensor".into()) };
    let axis = if axis < 0 { axis + tensor.dims.len() as i64 } else { axis };
    let axis = usize::try_from(axis).map_err(|_| "it scans an axis that is not there")?;
    let row = rows::take_row(value, axis, 0).map_err(|e| e.to_string())?;
    let Value::Tensor(mut slice) = row else { return Err("a slice is no tensor".into()) };
    slice.dims.remove(axis);
    Ok(Value::Tensor(slice))
}
