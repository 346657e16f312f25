//! Observed runs that are kept, so that a model is not run again to see what was seen before.
//!
//! What is kept are the runs, not the facts: those are made anew, by the rules of today. One file of the [`Cache`]'s kind
//! for each model, input shapes, sample and engine; only complete observations are kept, so that what failed for want of
//! memory is tried again.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tandem_ir::batch::{Run, Seen};
use tandem_ir::fingerprint::Hasher;
use tandem_ir::{DType, Fingerprint, Graph, NodeId};
use tandem_onnx::value::{Data, Value};

use super::cache::Cache;
use crate::engine::Engine;

/// Version of the way runs are observed and inputs made up: what was seen in another way is not used.
const VERSION: u64 = 1;

/// The folder of these files, inside the cache's.
const FOLDER: &str = "observed";

/// The name of the runs in a file.
const RUNS: &str = "runs";

/// What is kept of one bound model on one engine.
pub(super) struct Kept {
    cache: Cache,
    key: Fingerprint,
}

impl Kept {
    /// Opens what is kept, if anything is; without a folder nothing is or will be. Never fails: the second value says why
    /// an existing file was ignored.
    pub(super) fn open(
        folder: Option<&Path>,
        engine: &dyn Engine,
        graph: &Graph,
        sample: Option<&[Value]>,
    ) -> (Self, Option<String>) {
        let (key, cache) = match (folder, key(engine, graph, sample)) {
            (Some(folder), Some(key)) => {
                let folder = folder.join(FOLDER);
                (key, Cache::open(&folder, engine.name(), engine.version(), &key.to_string()))
            }
            _ => (graph.fingerprint, Cache::in_memory()),
        };
        let warning = cache.warning.clone();
        (Self { cache, key }, warning)
    }

    /// The runs at exactly these batches.
    pub(super) fn runs(&self, batches: &[u64]) -> Option<Vec<Run>> {
        let files: Vec<(u64, FileSeen)> = self.cache.note(self.key, RUNS)?;
        let runs = files.into_iter().map(|(batch, seen)| Some((batch, seen.seen()?))).collect::<Option<Vec<Run>>>()?;
        runs.iter().map(|(batch, _)| batch).eq(batches).then_some(runs)
    }

    /// Keeps runs.
    ///
    /// # Errors
    /// The file cannot be written; what was there stays.
    pub(super) fn keep(&mut self, runs: &[Run]) -> std::io::Result<()> {
        let files: Vec<(u64, FileSeen)> = runs.iter().map(|(batch, seen)| (*batch, FileSeen::of(seen))).collect();
        self.cache.put_note(self.key, RUNS, &files);
        self.cache.save()
    }
}

/// [`Seen`], for files.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileSeen {
    /// ONNX's code of the element type, and the shape.
    values: BTreeMap<String, (i32, Vec<u64>)>,
    bodies: Vec<(u32, String, FileSeen)>,
}

impl FileSeen {
    fn of(seen: &Seen) -> Self {
        let value = |(name, (dtype, dims)): (&String, &(DType, Vec<u64>))| {
            let seen = (dtype.onnx_code(), dims.clone());
            (name.clone(), seen)
        };
        let body = |((node, name), seen): (&(NodeId, String), &Seen)| (node.0, name.clone(), Self::of(seen));
        Self { values: seen.values.iter().map(value).collect(), bodies: seen.bodies.iter().map(body).collect() }
    }

    fn seen(self) -> Option<Seen> {
        let value = |(name, (code, dims))| Some((name, (DType::from_onnx_code(code)?, dims)));
        let body = |(node, name, seen): (u32, String, Self)| Some(((NodeId(node), name), seen.seen()?));
        let values = self.values.into_iter().map(value).collect::<Option<_>>()?;
        Some(Seen { values, bodies: self.bodies.into_iter().map(body).collect::<Option<_>>()? })
    }
}

/// What decides what is seen: the model with its weights, the shapes of its inputs, their values, and the engine. `None`
/// for samples that are no tensors: rare, and not worth a form of their own.
fn key(engine: &dyn Engine, graph: &Graph, sample: Option<&[Value]>) -> Option<Fingerprint> {
    let mut hasher = Hasher::default();
    hasher.number(VERSION).field(engine.name().as_bytes()).field(engine.version().as_bytes());
    hasher.field(&graph.fingerprint.0);
    for input in &graph.inputs {
        let tensor = graph.tensor(*input);
        hasher.field(tensor.name.as_bytes()).field(tensor.fact.to_string().as_bytes());
    }
    for value in sample.unwrap_or_default() {
        let Value::Tensor(tensor) = value else { return None };
        hasher.field(format!("{}{:?}", tensor.dtype, tensor.dims).as_bytes());
        match &tensor.data {
            Data::Bytes(bytes) => hasher.field(bytes),
            Data::Strings(strings) => strings.iter().fold(&mut hasher, |h, s| h.field(s)),
        };
    }
    Some(hasher.finish())
}
