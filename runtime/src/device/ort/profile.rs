//! ONNX Runtime's own profile (a file of Chrome trace events) and the graph as it runs.
//!
//! An event's duration is in whole microseconds, rounded down; nothing finer exists in the file. Half a microsecond is
//! added to each, which makes means unbiased. At most a million events are written, then none.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;
use tandem_onnx::inspect;

use super::raw::failed;
use crate::engine::{EngineError, EngineProfile, NodeTiming, OptimizedNode};

/// The part of an event that is read.
#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    cat: String,
    #[serde(default)]
    name: String,
    /// Microseconds.
    #[serde(default)]
    dur: u64,
    #[serde(default)]
    args: Args,
}

#[derive(Default, Deserialize)]
struct Args {
    #[serde(default)]
    op_name: String,
    #[serde(default)]
    node_index: String,
}

/// What a node's event is called, after the node's name.
const KERNEL: &str = "_kernel_time";

/// The nodes of the saved optimised graph, its bodies' left out.
pub(super) fn graph(path: &Path) -> Result<Vec<OptimizedNode>, EngineError> {
    let nodes = inspect::nodes(path).map_err(|e| failed(format!("the optimised graph cannot be read: {e}")))?;
    Ok(nodes.into_iter().map(OptimizedNode::from).collect())
}

/// Reads a profile. Nodes that are not in the graph are bodies' inner nodes, and left out.
pub(super) fn read(path: &Path, graph: Vec<OptimizedNode>) -> Result<EngineProfile, EngineError> {
    let unreadable = |e: std::io::Error| failed(format!("the profile cannot be read: {e}"));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut collected = Collected::new(&graph);
    // One event a line. Names are not escaped in the file, so that a line may be no JSON: it is left out alone.
    for line in BufReader::new(file).split(b'\n') {
        let line = line.map_err(unreadable)?;
        let text = line.trim_ascii().strip_suffix(b",").unwrap_or(line.trim_ascii());
        if let Ok(event) = serde_json::from_slice::<Event>(text) {
            collected.add(event);
        }
    }
    let Collected { nodes, whole_ns, .. } = collected;
    Ok(EngineProfile { nodes, graph, whole_ns })
}

struct Collected {
    /// Names of the outer nodes.
    names: HashSet<String>,
    /// Operators of outer nodes without a name: their events are called after operator and index.
    unnamed: HashSet<String>,
    place: HashMap<(String, String), usize>,
    nodes: Vec<NodeTiming>,
    whole_ns: Vec<u64>,
}

impl Collected {
    fn new(graph: &[OptimizedNode]) -> Self {
        let (named, unnamed): (Vec<_>, Vec<_>) = graph.iter().partition(|n| !n.name.is_empty());
        Self {
            names: named.iter().map(|n| n.name.clone()).collect(),
            unnamed: unnamed.iter().map(|n| n.op.clone()).collect(),
            place: HashMap::new(),
            nodes: vec![],
            whole_ns: vec![],
        }
    }

    fn add(&mut self, event: Event) {
        let ns = event.dur * 1000 + 500;
        if event.cat == "Session" && event.name == "model_run" {
            self.whole_ns.push(ns);
        }
        let Some(name) = event.name.strip_suffix(KERNEL).filter(|_| event.cat == "Node") else { return };
        let Args { op_name: op, node_index } = event.args;
        let outer = self.names.contains(name) || (self.unnamed.contains(&op) && name == format!("{op}_{node_index}"));
        if !outer {
            return;
        }
        let key = (name.to_owned(), node_index);
        let place = *self.place.entry(key).or_insert_with(|| {
            self.nodes.push(NodeTiming { name: name.to_owned(), op, runs_ns: vec![] });
            self.nodes.len() - 1
        });
        self.nodes[place].runs_ns.push(ns);
    }
}
