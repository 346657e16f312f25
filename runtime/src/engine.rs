//! What executes segments on a device, behind one interface: tract, ONNX Runtime, CUDA, the numeric emulator.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tandem_ir::{Bytes, DType};
use tandem_onnx::cut::SegmentImage;
use tandem_onnx::inspect::PlainNode;
use tandem_onnx::value::Value;

use crate::device::accelerator::{Accelerator, Resident, Stream};

/// How a segment is prepared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionOptions {
    /// Threads that one run may use, the calling one included; 0: as many as the engine itself would take, waiting as it
    /// would for more work. That is for comparisons.
    pub threads: u32,
    /// Whether the engine may rewrite the graph (fusion, layout, folding). Off for runs that are observed.
    pub optimize: bool,
    /// Whether the engine's own per-node timing is on.
    pub profile: bool,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self { threads: 1, optimize: true, profile: false }
    }
}

/// One node of the graph as the engine runs it (after its own optimisation), timed in one run.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeTiming {
    /// The engine's name for the node.
    pub name: String,
    /// Operator type as the engine runs it (`FusedConv`, `ReorderInput`).
    pub op: String,
    /// One duration a profiled run, in order, in nanoseconds.
    pub runs_ns: Vec<u64>,
}

/// A node of the graph as the engine runs it, for mapping timings back to the model's nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct OptimizedNode {
    /// The engine's name for the node.
    pub name: String,
    /// Operator type.
    pub op: String,
    /// Names of the values it reads.
    pub inputs: Vec<String>,
    /// Names of the values it makes.
    pub outputs: Vec<String>,
}

impl From<PlainNode> for OptimizedNode {
    fn from(node: PlainNode) -> Self {
        Self { name: node.name, op: node.op, inputs: node.inputs, outputs: node.outputs }
    }
}

/// What the engine's own timing says of a session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineProfile {
    /// Nodes as they run, in order of execution. Bodies' inner nodes are left out (the outer node's time holds theirs).
    pub nodes: Vec<NodeTiming>,
    /// The graph as it runs, for mapping.
    pub graph: Vec<OptimizedNode>,
    /// One duration a profiled run of the whole session as the engine itself times it, in nanoseconds; empty if it does not.
    pub whole_ns: Vec<u64>,
}

/// A prepared segment.
pub trait Session: Send + Sync {
    /// Runs it once. Values are in the order of the image's inputs and outputs.
    ///
    /// # Errors
    /// What the engine says, with the segment's failing node where it names one.
    fn run(&self, inputs: &[Value]) -> Result<Vec<Value>, EngineError>;

    /// Element types of the outputs, in the image's order, as the engine infers them; `None` for what it cannot tell or is
    /// no tensor. Empty where the engine tells none.
    fn output_types(&self) -> Vec<Option<DType>> {
        vec![]
    }

    /// Itself, where it can run on values in an accelerator's memory.
    fn resident(&self) -> Option<&dyn Resident> {
        None
    }

    /// Ends profiling and returns the engine's own timing of all runs since it was loaded; `None` where
    /// `SessionOptions::profile` was off or the engine has none.
    fn end_profile(&self) -> Result<Option<EngineProfile>, EngineError> {
        Ok(None)
    }
}

/// An engine.
pub trait Engine: Send + Sync {
    /// `tract`, `ort`, `ort-cuda`, `emulated`.
    fn name(&self) -> &str;
    /// Its version, as it states it.
    fn version(&self) -> &str;
    /// The accelerator that its sessions run on, and the stream of it; `None`: the host.
    fn runs_on(&self) -> Option<(Arc<dyn Accelerator>, Stream)> {
        None
    }
    /// Prepares a segment.
    ///
    /// # Errors
    /// The engine cannot run it (unsupported operator, bad model): [`EngineError::Unsupported`] or `Failed`.
    fn load(&self, image: &SegmentImage, options: &SessionOptions) -> Result<Arc<dyn Session>, EngineError>;

    /// Saves a segment as the engine would run it at these options, all its optimisations done, as a model file in an
    /// existing folder. Loaded with optimisation off, that model or pieces of it run as they would have; on this machine
    /// alone, for layouts depend on its processor. `None` where the engine has no such form.
    ///
    /// # Errors
    /// As [`Engine::load`].
    fn save_optimized(
        &self,
        _image: &SegmentImage,
        _options: &SessionOptions,
        _folder: &Path,
    ) -> Result<Option<PathBuf>, EngineError> {
        Ok(None)
    }
}

/// What an engine says no to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The engine is not on this machine.
    #[error("engine {engine} is not available: {why}")]
    Missing {
        /// Which one.
        engine: String,
        /// What was looked for, and how to get it.
        why: String,
    },
    /// It lacks an operator, type or opset.
    #[error("{engine} cannot run this: {why}")]
    Unsupported {
        /// Which one.
        engine: String,
        /// Its words.
        why: String,
    },
    /// Memory has run out.
    #[error("out of memory: {why}")]
    OutOfMemory {
        /// How much was asked for; zero where it does not say.
        needed: Bytes,
        /// Its words.
        why: String,
    },
    /// What it runs on is gone, for this process at least.
    #[error("{engine}: lost: {why}")]
    Lost {
        /// Which one.
        engine: String,
        /// Its words.
        why: String,
    },
    /// It failed while loading or running.
    #[error("{engine}: {why}")]
    Failed {
        /// Which one.
        engine: String,
        /// Its words.
        why: String,
    },
}
