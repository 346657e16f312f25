//! What operators, segments and copies cost, measured or modelled.
//!
//! A profile speaks of *atoms*: groups of a graph's nodes that an engine runs as one (a convolution with the activation it
//! fuses), so that no plan cuts inside a fusion by accident. Identical atoms share a signature and are measured once.

use std::collections::BTreeMap;

use crate::fingerprint::Fingerprint;
use crate::graph::NodeId;
use crate::machine::Machine;
use crate::signature::Signature;
use crate::units::Nanos;

/// How a number came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// The engine's own timing of each node, inside runs of the whole model.
    EngineTimed,
    /// Runs of the atom alone.
    Isolated,
    /// Computed from flops, bytes and the machine's figures.
    Modelled,
}

/// A duration measured several times (or modelled once).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Median duration.
    pub median: Nanos,
    /// Half the distance between the 25th and 75th percentile.
    pub spread: Nanos,
    /// Repeats that count; 0 for modelled ones.
    pub repeats: u32,
    /// How it came about.
    pub method: Method,
}

/// What a sample was taken under: the key beside the signature.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Setting {
    /// Device name.
    pub device: String,
    /// Engine name.
    pub engine: String,
    /// Threads the lane has (1 on a GPU).
    pub threads: u32,
    /// Batch size.
    pub batch: u64,
}

/// A group of nodes that one engine runs as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Atom {
    /// Its nodes, ascending.
    pub nodes: Vec<NodeId>,
    /// The key of its samples.
    pub signature: Signature,
}

/// How an engine groups one model's nodes on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AtomTable {
    /// The model's graph.
    pub graph: Fingerprint,
    /// Its name, for people.
    pub model: String,
    /// Device name.
    pub device: String,
    /// Engine name.
    pub engine: String,
    /// Every placeable node is in exactly one atom.
    pub atoms: Vec<Atom>,
}

/// A whole run or segment, measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSample {
    /// The model's graph.
    pub graph: Fingerprint,
    /// First and last node of the segment's nodes in topological order, and how many; the whole model for a whole run.
    pub nodes: (NodeId, NodeId, u32),
    /// What it was measured under.
    pub setting: Setting,
    /// How long it took.
    pub timing: Timing,
}

/// A copy between two devices' memories, measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSample {
    /// Source and target device.
    pub from: String,
    /// Target device.
    pub to: String,
    /// Bytes copied.
    pub bytes: u64,
    /// How long it took.
    pub timing: Timing,
}

/// How much slower work becomes when lanes of one device run at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interference {
    /// The model's graph; every lane runs it.
    pub graph: Fingerprint,
    /// What each lane was measured under.
    pub setting: Setting,
    /// Lanes that run at once.
    pub lanes: u32,
    /// Duration with all lanes busy over duration alone, in per mille (1000: no interference).
    pub factor_permille: u64,
    /// How it came about.
    pub method: Method,
}

/// Whether a model's batches were confirmed to equal their rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchProof {
    /// The model's graph.
    pub graph: Fingerprint,
    /// `None`: a batch equals its rows, in two orders, within tolerance. `Some`: why the model is planned at batch 1.
    pub refusal: Option<String>,
    /// Engine that ran the rows.
    pub engine: String,
}

/// The measured document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The machine it holds for.
    pub machine: Machine,
    /// `measured on` date (UTC, `2026-11-21`); empty for a modelled one.
    pub date: String,
    /// Atoms by model, device and engine.
    pub tables: Vec<AtomTable>,
    /// Durations of atoms.
    pub samples: BTreeMap<(Signature, Setting), Timing>,
    /// What a run of a session costs beside its operators, by setting (batch 0: any).
    pub launches: BTreeMap<Setting, Timing>,
    /// Whole runs and segments.
    pub segments: Vec<SegmentSample>,
    /// Copies.
    pub links: Vec<LinkSample>,
    /// Lanes against lanes.
    pub interference: Vec<Interference>,
    /// Confirmed batches.
    pub proofs: Vec<BatchProof>,
}

impl Profile {
    /// An empty profile of a machine.
    pub fn new(machine: Machine, date: String) -> Self {
        Self {
            machine,
            date,
            tables: vec![],
            samples: BTreeMap::new(),
            launches: BTreeMap::new(),
            segments: vec![],
            links: vec![],
            interference: vec![],
            proofs: vec![],
        }
    }

    /// How a model's nodes are grouped on a device.
    pub fn table(&self, graph: Fingerprint, device: &str) -> Option<&AtomTable> {
        self.tables.iter().find(|t| t.graph == graph && t.device == device)
    }

    /// The duration of an atom.
    pub fn timing(&self, signature: &Signature, setting: &Setting) -> Option<&Timing> {
        self.samples.get(&(signature.clone(), setting.clone()))
    }
}
