//! What operators cost on this machine: from models and engines to a [`Profile`].
//!
//! The engine's own timing of each node, inside runs of the whole model ([`sampling`]), mapped back to the model's
//! nodes ([`mapping`]); runs of each atom alone where the engine has no timing ([`isolated`]); launch costs
//! ([`overhead`]), copies ([`links`]) and interference of lanes ([`interference`]); whether batches equal their rows
//! ([`proof`]); facts from observed runs ([`facts`]). What was measured once is kept ([`cache`]). [`mod@bench`] shows how
//! well it predicts.
//!
//! Deliberately not here: costs of machines that are only described (the planner's roofline), and the profile's file
//! format.
//!
//! Invariants: a sample's key holds everything its duration depends on that a plan can choose; sums of an operator
//! table's samples are durations of whole runs without launch; nothing measured of one model is a guess about another.

pub mod bench;
pub mod budget;
pub mod cache;
pub mod facts;
pub mod interference;
pub mod isolated;
mod kept;
pub mod links;
pub mod mapping;
pub mod overhead;
pub mod proof;
mod run;
pub mod sampling;
pub mod statistics;
mod vanished;

use std::collections::BTreeMap;
use std::path::Path;

use tandem_ir::profile::{Atom, Method, Profile, Timing};
use tandem_ir::signature::Signature;
use tandem_ir::{Bytes, Graph, Machine, Nanos};
use tandem_onnx::cut::CutError;
use tandem_onnx::import::Model;
use tandem_onnx::value::Value;

use crate::engine::{Engine, EngineError};
use crate::rows::RowsError;
use crate::sample::{self, SampleError};

/// Seed of the inputs that are measured: durations hardly depend on values, but a profile should be repeatable.
pub const SEED: u64 = 1;

/// A model to profile. Its graph's facts are to be as good as they get before ([`facts`]).
#[derive(Clone, Copy, Debug)]
pub struct ProfileRequest<'a> {
    /// Its name, for people.
    pub name: &'a str,
    /// The model.
    pub model: &'a Model,
    /// Whether batches are measured although no proof was given that they equal their rows.
    pub insist: bool,
}

/// What to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileOptions {
    /// Batch sizes.
    pub batches: Vec<u64>,
    /// Threads of a lane.
    pub threads: Vec<u32>,
    /// Whether whole runs are measured too.
    pub segments: bool,
    /// Whether lanes are run against each other.
    pub interference: bool,
    /// Whether copies are measured.
    pub links: bool,
    /// `2026-11-21`, for the document: the profiler asks no calendar.
    pub date: String,
}

/// What happens, for a progress bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress<'a> {
    /// So many of so many units of work are done, and what comes next.
    Step {
        /// Units done.
        done: usize,
        /// Units in all; may grow while it goes.
        total: usize,
        /// What is being done.
        what: &'a str,
    },
    /// Something people should know: an engine that failed, a batch that was left out and why.
    Note(&'a str),
}

/// Why nothing could be measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// An engine's words.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Inputs that cannot be made up.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// A piece that cannot be cut.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// An input or inner value without a concrete shape.
    #[error("the shape of \"{tensor}\" is not known: bind it with --shape or --sample")]
    Shape {
        /// Which value.
        tensor: String,
    },
    /// A value that does not come apart along its batch axis.
    #[error("\"{tensor}\": {error}")]
    Rows {
        /// Which value.
        tensor: String,
        /// Why not.
        error: RowsError,
    },
    /// It would not fit.
    #[error("a session needs about {needed}, {available} are available")]
    Memory {
        /// About what it takes.
        needed: Bytes,
        /// What there is.
        available: Bytes,
    },
    /// No engine could run the model; each one's words.
    #[error("no engine runs it: {}", .0.join("; "))]
    NoEngine(Vec<String>),
    /// The machine has no such device.
    #[error("the machine \"{machine}\" has no CPU device")]
    NoDevice {
        /// Its name.
        machine: String,
    },
    /// Any of these, of a model.
    #[error("{model}: {error}")]
    Model {
        /// Its name.
        model: String,
        /// What is wrong.
        error: Box<ProfileError>,
    },
}

impl ProfileError {
    /// The same error, naming the model.
    pub fn of_model(self, model: &str) -> Self {
        Self::Model { model: model.to_owned(), error: Box::new(self) }
    }
}

/// Inputs of the graph at a batch, made up ([`sample::random_inputs`]), in the graph's order.
///
/// # Errors
/// An input whose shape is not bound, or whose values cannot be made up.
pub fn feeds(graph: &Graph, batch: u64) -> Result<Vec<Value>, ProfileError> {
    let mut dims = BTreeMap::new();
    for input in &graph.inputs {
        let tensor = graph.tensor(*input);
        let shape = tensor.fact.dims_at(batch).ok_or_else(|| ProfileError::Shape { tensor: tensor.name.clone() })?;
        dims.insert(tensor.name.clone(), shape);
    }
    Ok(sample::random_inputs(graph, &dims, SEED)?)
}

/// Whether any input grows with the batch.
pub fn is_batchable(graph: &Graph) -> bool {
    graph.inputs.iter().any(|t| graph.tensor(*t).fact.batch_axis().is_some())
}

/// One timing a signature: the mean over its atoms, so that the sum over all atoms stays what it was.
pub fn pooled(atoms: &[Atom], timings: &[Timing]) -> BTreeMap<Signature, Timing> {
    let mut by: BTreeMap<Signature, Vec<Timing>> = BTreeMap::new();
    for (atom, timing) in atoms.iter().zip(timings) {
        by.entry(atom.signature.clone()).or_default().push(*timing);
    }
    let mean = |of: Vec<u64>| Nanos(statistics::mean_of(&of, &(0..of.len()).collect::<Vec<_>>()));
    let pool = |timings: Vec<Timing>| Timing {
        median: mean(timings.iter().map(|t| t.median.0).collect()),
        spread: mean(timings.iter().map(|t| t.spread.0).collect()),
        repeats: timings.iter().map(|t| t.repeats).min().unwrap_or(0),
        method: timings.first().map_or(Method::EngineTimed, |t| t.method),
    };
    by.into_iter().map(|(signature, timings)| (signature, pool(timings))).collect()
}

/// Profiles models on the machine's CPU: engines are tried in order, and the first that runs a model is the model's.
/// With a folder, what is known from before is not measured again, and what is new is kept there.
///
/// # Errors
/// A model that no engine runs, named; a machine without a CPU. What fails beside that is a [`Progress::Note`].
pub fn profile(
    models: &[ProfileRequest<'_>],
    engines: &[&dyn Engine],
    machine: &Machine,
    options: &ProfileOptions,
    cache_folder: Option<&Path>,
    progress: &dyn Fn(Progress<'_>),
) -> Result<Profile, ProfileError> {
    run::Run::new(engines, machine, options, cache_folder, progress)?.all(models)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pooling_keeps_the_sum() {
        let atom = |s: &str| Atom { nodes: vec![], signature: Signature(s.into()) };
        let timing = |median: u64, repeats: u32| {
            let (median, spread) = (Nanos(median), Nanos(median / 10));
            Timing { median, spread, repeats, method: Method::EngineTimed }
        };
        let atoms = [atom("a"), atom("b"), atom("a")];
        let pool = pooled(&atoms, &[timing(100, 5), timing(7, 5), timing(300, 4)]);
        let sum: u64 = atoms.iter().map(|a| pool[&a.signature].median.0).sum();
        assert_eq!(sum, 407);
        assert_eq!(pool[&atoms[0].signature], timing(200, 4));
    }
}
