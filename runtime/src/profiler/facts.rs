//! What tensors really are, seen in runs: the facts that costs, signatures and copies are computed from.
//!
//! The model is observed at batch 1, 2 and 3 where an input grows with the batch: three sizes tell an axis that is the
//! batch from one that merely has that size, and from one that is a batch plus something. Engines are tried in order;
//! one that fails is reported in its own words. If none runs the model, declared facts are kept. What was observed before
//! is read from where it is kept (`kept.rs`).

use std::path::Path;

use tandem_ir::batch::{self, Binding, Run};
use tandem_ir::check::Finding;
use tandem_ir::{Dim, Graph};
use tandem_onnx::import::Model;
use tandem_onnx::value::Value;

use super::kept::Kept;
use super::{ProfileError, feeds, is_batchable};
use crate::engine::Engine;
use crate::{observe, rows};

/// Batch sizes of the observed runs.
const BATCHES: [u64; 3] = [1, 2, 3];

/// A model's graph with its inputs bound and its facts observed.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The graph; put it in [`Model::graph`].
    pub graph: Graph,
    /// Engine that ran it; `None` if none could, and facts are those the file declares.
    pub engine: Option<String>,
    /// What people should know: declared facts that are wrong, engines that failed, batches that cannot be run.
    pub notes: Vec<String>,
}

/// Binds the inputs and observes runs. `sample` holds values for one item (one an input, in the graph's order), where
/// random ones will not do; larger batches repeat it. With a folder, what was observed before by the same version of an
/// engine is not run again, and what is new is kept there.
///
/// # Errors
/// A binding that does not fit the model. What engines cannot do is a note.
pub fn resolve(
    engines: &[&dyn Engine],
    model: &Model,
    binding: &Binding,
    sample: Option<&[Value]>,
    folder: Option<&Path>,
) -> Result<Resolved, Vec<Finding>> {
    let mut bound = model.clone();
    let mut notes: Vec<String> = batch::bind(&mut bound.graph, binding)?.iter().map(Finding::to_string).collect();
    for engine in engines {
        let runs = runs(*engine, &bound, sample, folder, &mut notes);
        if runs.is_empty() {
            continue;
        }
        let mut graph = bound.graph;
        notes.extend(batch::apply_observations(&mut graph, &runs).iter().map(Finding::to_string));
        return Ok(Resolved { graph, engine: Some(engine.name().to_owned()), notes });
    }
    Ok(Resolved { graph: bound.graph, engine: None, notes })
}

/// The runs that tell facts: one a batch, or one alone, or none where the engine fails.
fn runs(
    engine: &dyn Engine,
    model: &Model,
    sample: Option<&[Value]>,
    folder: Option<&Path>,
    notes: &mut Vec<String>,
) -> Vec<Run> {
    let batches: &[u64] = if is_batchable(&model.graph) { &BATCHES } else { &BATCHES[..1] };
    let (mut kept, warning) = Kept::open(folder, engine, &model.graph, sample);
    notes.extend(warning);
    if let Some(runs) = kept.runs(batches) {
        return runs;
    }
    let mut runs = vec![];
    for batch in batches {
        match run(engine, model, *batch, sample) {
            Ok(run) => runs.push(run),
            Err(error) => {
                notes.push(format!("not observed at batch {batch}: {error}"));
                // Two sizes would take a size of the batch plus nothing for the batch: all three, or one alone.
                runs.truncate(1);
                return runs;
            }
        }
    }
    if let Err(error) = kept.keep(&runs) {
        notes.push(format!("what was observed was not kept: {error}"));
    }
    runs
}

fn run(engine: &dyn Engine, model: &Model, batch: u64, sample: Option<&[Value]>) -> Result<Run, ProfileError> {
    let inputs = match sample {
        Some(sample) => repeated(&model.graph, sample, batch)?,
        None => feeds(&model.graph, batch)?,
    };
    Ok((batch, observe::observe(engine, model, &inputs)?))
}

/// The sample's values at a batch: each input's rows repeated along its batch axis.
fn repeated(graph: &Graph, sample: &[Value], batch: u64) -> Result<Vec<Value>, ProfileError> {
    let mut values = Vec::with_capacity(sample.len());
    for (id, value) in graph.inputs.iter().zip(sample) {
        let tensor = graph.tensor(*id);
        let grows = tensor.fact.batch_axis().filter(|_| batch > 1);
        let per_item = |axis: usize| match tensor.fact.shape.as_ref().map(|s| &s[axis]) {
            Some(Dim::Batch { per_item }) => *per_item,
            _ => 1,
        };
        values.push(match grows {
            None => value.clone(),
            Some(axis) => {
                let item = rows::take_rows(value, axis, 0, per_item(axis));
                let stacked = item.and_then(|item| rows::stack(&vec![item; batch as usize], axis));
                stacked.map_err(|error| ProfileError::Rows { tensor: tensor.name.clone(), error })?
            }
        });
    }
    Ok(values)
}
