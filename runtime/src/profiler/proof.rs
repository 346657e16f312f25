//! Batching is proven, not assumed: whether a batch equals its rows alone, in two orders.
//!
//! Rows that differ are run alone and together; each output is taken apart along its own batch axis and compared
//! within the tolerances of [`crate::compare`]. A model with an output that has no batch axis, whose size is known
//! only after the run, or that takes one quantisation scale over the whole batch, is refused without being run: an
//! answer that depends on its batch mates may agree by luck.

use tandem_ir::profile::BatchProof;
use tandem_ir::{Dim, Fact, Graph, Kind, TensorId};
use tandem_onnx::cut;
use tandem_onnx::import::Model;
use tandem_onnx::value::Value;

use super::{ProfileError, feeds, is_batchable};
use crate::compare::compare;
use crate::engine::{Engine, Session, SessionOptions};
use crate::rows;

/// Rows of the batch: with two, an order and its reverse could hide a shift by one.
const ROWS: u64 = 3;

/// Operators that take one scale over all they are given.
const DYNAMIC: [&str; 4] =
    ["DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "DynamicQuantizeConv"];

/// Proves that a model, its inputs bound and its facts observed, may be run in batches, or says why not.
pub fn prove(engine: &dyn Engine, model: &Model) -> BatchProof {
    let refusal = refuse_by_facts(&model.graph).or_else(|| match refuse_by_runs(engine, model) {
        Ok(refusal) => refusal,
        Err(error) => Some(format!("it could not be run in a batch of {ROWS}: {error}")),
    });
    BatchProof { graph: model.graph.fingerprint, refusal, engine: engine.name().to_owned() }
}

/// A reason that needs no run.
fn refuse_by_facts(graph: &Graph) -> Option<String> {
    if !is_batchable(graph) {
        return Some("no input has a batch axis".into());
    }
    if let Some(found) = dynamic_scale(graph) {
        return Some(found);
    }
    graph.outputs.iter().find_map(|t| no_axis(&graph.tensor(*t).name, &graph.tensor(*t).fact))
}

/// An operator, in bodies too, that takes a scale over something that grows with the batch.
fn dynamic_scale(graph: &Graph) -> Option<String> {
    for id in graph.placeable() {
        let node = graph.node(id);
        let read = node.inputs.first().copied().flatten();
        let fixed = |t: TensorId| {
            graph.is_constant(t)
                || graph.tensor(t).fact.dims_at(1).is_some_and(|one| Some(one) == graph.tensor(t).fact.dims_at(2))
        };
        if DYNAMIC.contains(&node.op.name.as_str()) && !read.is_some_and(fixed) {
            let name = graph.node_name(id);
            return Some(format!(
                "{} \"{name}\" takes one scale over the whole batch, so that an answer depends on its batch mates",
                node.op
            ));
        }
        if let Some(found) = node.bodies.values().find_map(dynamic_scale) {
            return Some(found);
        }
    }
    None
}

fn no_axis(name: &str, fact: &Fact) -> Option<String> {
    if fact.kind != Kind::Tensor {
        return Some(format!("output \"{name}\" is no tensor"));
    }
    if fact.shape.as_ref().is_none_or(|s| s.iter().any(|d| matches!(d, Dim::Unknown | Dim::Symbol(_)))) {
        return Some(format!(
            "the size of output \"{name}\" ({fact}) is known only after the run, or does not grow with the batch"
        ));
    }
    fact.batch_axis().is_none().then(|| format!("output \"{name}\" ({fact}) has no batch axis of its own"))
}

/// The axis and how many elements an item has along it.
fn axis_of(fact: &Fact) -> Option<(usize, u64)> {
    let axis = fact.batch_axis()?;
    match fact.shape.as_ref()?[axis] {
        Dim::Batch { per_item } => Some((axis, per_item)),
        _ => None,
    }
}

fn refuse_by_runs(engine: &dyn Engine, model: &Model) -> Result<Option<String>, ProfileError> {
    let graph = &model.graph;
    let image = cut::cut_whole(model)?;
    let session = engine.load(&image, &SessionOptions { threads: 1, optimize: true, profile: false })?;
    let index = graph.tensor_index();
    let outputs: Vec<TensorId> = image.outputs.iter().filter_map(|name| index.get(name.as_str()).copied()).collect();
    let together = feeds(graph, ROWS)?;
    let alone: Vec<Vec<Value>> = (0..ROWS).map(|r| pick(graph, &together, &[r])).collect::<Result<_, _>>()?;
    let expected: Vec<Vec<Value>> = alone.iter().map(|row| session.run(row)).collect::<Result<_, _>>()?;
    let again = session.run(&alone[0])?;
    let named: Vec<String> = image.outputs.clone();
    let repeat = compare(&named, &expected[0], &again);
    if !repeat.is_equal() {
        return Ok(Some(format!("its answers differ from run to run ({})", first_words(&repeat))));
    }
    let orders: [Vec<u64>; 2] = [(0..ROWS).collect(), (0..ROWS).rev().collect()];
    for order in orders {
        if let Some(refusal) = refuse_order(graph, session.as_ref(), &together, &expected, &outputs, &named, &order)? {
            return Ok(Some(refusal));
        }
    }
    Ok(None)
}

/// Runs the rows together in an order and compares each with what it gave alone.
fn refuse_order(
    graph: &Graph,
    session: &dyn Session,
    rows_in_order: &[Value],
    expected: &[Vec<Value>],
    outputs: &[TensorId],
    names: &[String],
    order: &[u64],
) -> Result<Option<String>, ProfileError> {
    let made = session.run(&pick(graph, rows_in_order, order)?)?;
    for (place, row) in order.iter().enumerate() {
        let mut found = Vec::with_capacity(outputs.len());
        for (id, value) in outputs.iter().zip(&made) {
            let tensor = graph.tensor(*id);
            let Some((axis, per_item)) = axis_of(&tensor.fact) else { return Ok(no_axis(&tensor.name, &tensor.fact)) };
            let wrong = |e: rows::RowsError| ProfileError::Rows { tensor: tensor.name.clone(), error: e };
            let size = rows::len(value, axis).map_err(wrong)?;
            if size != per_item * ROWS {
                let wanted = per_item * ROWS;
                return Ok(Some(format!(
                    "output \"{}\" has {size} elements on its batch axis for {ROWS} rows, expected {wanted}",
                    tensor.name
                )));
            }
            found.push(rows::take_rows(value, axis, place as u64 * per_item, per_item).map_err(wrong)?);
        }
        let comparison = compare(names, &expected[*row as usize], &found);
        if !comparison.is_equal() {
            return Ok(Some(format!("a batch does not equal its rows: {}", first_words(&comparison))));
        }
    }
    Ok(None)
}

fn first_words(comparison: &crate::compare::Comparison) -> String {
    comparison.mismatches.first().cloned().unwrap_or_else(|| comparison.to_string())
}

/// Some rows of the inputs, in this order; inputs without a batch axis as they are.
fn pick(graph: &Graph, inputs: &[Value], order: &[u64]) -> Result<Vec<Value>, ProfileError> {
    let mut picked = Vec::with_capacity(inputs.len());
    for (id, value) in graph.inputs.iter().zip(inputs) {
        let tensor = graph.tensor(*id);
        let Some((axis, per_item)) = axis_of(&tensor.fact) else {
            picked.push(value.clone());
            continue;
        };
        let rows: Result<Vec<Value>, _> =
            order.iter().map(|r| rows::take_rows(value, axis, r * per_item, per_item)).collect();
        let stacked = rows.and_then(|rows| rows::stack(&rows, axis));
        picked.push(stacked.map_err(|error| ProfileError::Rows { tensor: tensor.name.clone(), error })?);
    }
    Ok(picked)
}
