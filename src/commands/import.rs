//! `tandem import`: what a model is made of, and what each engine cannot run.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use serde::Serialize;
use tandem_ir::{Bytes, Dim, Flops, Graph, Node, work};
use tandem_onnx::cut;
use tandem_onnx::import::{self, Model};
use tandem_runtime::engine::{Engine, SessionOptions};

use crate::cli::ImportArgs;
use crate::context::Context;
use crate::output::{print_as, table};
use crate::{commands, prepare};

/// A value at the graph's edge.
#[derive(Serialize)]
struct Port {
    name: String,
    fact: String,
    batch_axis: Option<usize>,
    origin: String,
}

/// Nodes of one operator type.
#[derive(Default, Serialize)]
struct OpRow {
    op: String,
    nodes: usize,
    in_bodies: usize,
    flops: u64,
    weight_bytes: u64,
}

/// What one engine says to the whole model.
#[derive(Serialize)]
struct EngineRow {
    engine: String,
    version: String,
    runs: bool,
    why: String,
}

#[derive(Serialize)]
struct NodeRow {
    name: String,
    op: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
    folded: bool,
    flops: Option<u64>,
}

#[derive(Serialize)]
struct TensorRow {
    name: String,
    fact: String,
    origin: String,
    constant: bool,
}

/// Everything the command shows.
#[derive(Serialize)]
struct Report {
    schema_version: u32,
    model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    ir_version: i64,
    opsets: BTreeMap<String, i64>,
    nodes: usize,
    nodes_in_bodies: usize,
    folded_nodes: usize,
    tensors: usize,
    weight_bytes: u64,
    flops_per_item: Option<u64>,
    nodes_of_unknown_cost: usize,
    activation_bytes_per_item: u64,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    unknown_shapes: Vec<String>,
    operators: Vec<OpRow>,
    engines: Vec<EngineRow>,
    notes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    all_nodes: Vec<NodeRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    all_tensors: Vec<TensorRow>,
}

/// Imports, observes where it may, and prints.
pub fn run(context: &Context, args: &ImportArgs) -> Result<()> {
    let path = prepare::locate(context, &args.model, None)?;
    // Hashing gigabytes of weights takes seconds, and who only looks needs no fingerprint.
    let mut model = import::import_with(&path, import::Options { hash_weights: args.full })?;
    let mut notes = model.warnings.clone();
    match prepare::bind(&mut model, &args.model, &args.bind) {
        Ok((_, more)) if !args.no_observe => {
            notes.extend(more);
            notes.extend(commands::profile::observe(context, &mut model, &args.bind)?.notes);
        }
        Ok((_, more)) => notes.extend(more),
        // A model with free dimensions can be looked at; what stays unknown is shown as such.
        Err(error) if args.bind.shapes.is_empty() && args.bind.sample.is_none() => notes.push(format!("{error:#}")),
        Err(error) => return Err(error),
    }
    let engines = match args.no_observe {
        true => vec![],
        false => context.engines()?.iter().map(|e| ask(e, &model)).collect(),
    };
    let report = report(&args.model, &model, notes, engines, args.full);
    print_as(args.format, &report, || text(&report))
}

/// Whether an engine takes the whole model, and its words if not.
fn ask(engine: &Arc<dyn Engine>, model: &Model) -> EngineRow {
    let image = cut::original(model);
    let tried = engine.load(&image, &SessionOptions::default()).map_err(|e| e.to_string());
    let (engine, version) = (engine.name().to_owned(), engine.version().to_owned());
    EngineRow { engine, version, runs: tried.is_ok(), why: tried.err().unwrap_or_default() }
}

fn report(name: &str, model: &Model, notes: Vec<String>, engines: Vec<EngineRow>, full: bool) -> Report {
    let graph = &model.graph;
    let port = |id: &tandem_ir::TensorId| {
        let t = graph.tensor(*id);
        let origin = format!("{:?}", t.fact.origin).to_lowercase();
        Port { name: t.name.clone(), fact: t.fact.to_string(), batch_axis: t.fact.batch_axis(), origin }
    };
    let mut rows: BTreeMap<String, OpRow> = BTreeMap::new();
    let (mut flops, mut unknown) = (0u64, 0usize);
    for id in graph.placeable() {
        let node = graph.node(id);
        let row = rows.entry(node.op.to_string()).or_default();
        row.nodes += 1;
        match work::node_work(graph, id, 1) {
            Some(work) => {
                row.flops += work.flops.0;
                row.weight_bytes += work.weights.0;
                flops += work.flops.0;
            }
            None => unknown += 1,
        }
    }
    graph.nodes.iter().for_each(|n| inner(n, &mut rows));
    let mut operators: Vec<OpRow> = rows.into_iter().map(|(op, row)| OpRow { op, ..row }).collect();
    operators.sort_by(|a, b| (b.flops, b.nodes, &a.op).cmp(&(a.flops, a.nodes, &b.op)));
    let made = graph.tensors.iter().filter(|t| t.constant.is_none() && t.producer.is_some());
    let unknown_shapes = made.clone().filter(|t| free(t)).map(|t| format!("{} {}", t.name, t.fact)).collect();
    Report {
        schema_version: 1,
        model: name.to_owned(),
        fingerprint: full.then(|| graph.fingerprint.to_string()),
        ir_version: graph.ir_version,
        opsets: graph.opsets.clone(),
        nodes: graph.nodes.len(),
        nodes_in_bodies: graph.node_count_deep() - graph.nodes.len(),
        folded_nodes: graph.nodes.iter().filter(|n| n.folded).count(),
        tensors: graph.tensors.len(),
        weight_bytes: graph.weight_bytes(),
        flops_per_item: (unknown < graph.nodes.len()).then_some(flops),
        nodes_of_unknown_cost: unknown,
        activation_bytes_per_item: made.filter_map(|t| t.fact.bytes_at(1)).sum(),
        inputs: graph.inputs.iter().map(port).collect(),
        outputs: graph.outputs.iter().map(port).collect(),
        unknown_shapes,
        operators,
        engines,
        notes,
        all_nodes: if full { node_rows(graph) } else { vec![] },
        all_tensors: if full { tensor_rows(graph) } else { vec![] },
    }
}

fn free(tensor: &tandem_ir::Tensor) -> bool {
    tensor.fact.kind == tandem_ir::Kind::Tensor
        && tensor.fact.shape.as_ref().is_none_or(|dims| dims.iter().any(|d| matches!(d, Dim::Unknown | Dim::Symbol(_))))
}

fn inner(node: &Node, rows: &mut BTreeMap<String, OpRow>) {
    for body in node.bodies.values() {
        for node in &body.nodes {
            rows.entry(node.op.to_string()).or_default().in_bodies += 1;
            inner(node, rows);
        }
    }
}

fn node_rows(graph: &Graph) -> Vec<NodeRow> {
    let names = |ids: &[Option<tandem_ir::TensorId>]| {
        ids.iter().map(|t| t.map_or(String::new(), |t| graph.tensor(t).name.clone())).collect()
    };
    let row = |id| {
        let node = graph.node(id);
        NodeRow {
            name: graph.node_name(id),
            op: node.op.to_string(),
            inputs: names(&node.inputs),
            outputs: names(&node.outputs),
            folded: node.folded,
            flops: work::node_work(graph, id, 1).map(|w| w.flops.0),
        }
    };
    graph.node_ids().map(row).collect()
}

fn tensor_rows(graph: &Graph) -> Vec<TensorRow> {
    let row = |t: &tandem_ir::Tensor| TensorRow {
        name: t.name.clone(),
        fact: t.fact.to_string(),
        origin: format!("{:?}", t.fact.origin).to_lowercase(),
        constant: t.constant.is_some(),
    };
    graph.tensors.iter().map(row).collect()
}

fn text(r: &Report) -> String {
    let opsets: Vec<String> =
        r.opsets.iter().map(|(d, v)| format!("{} {v}", if d.is_empty() { "ai.onnx" } else { d })).collect();
    let mut text = format!("{}\n  format       IR {}, {}\n", r.model, r.ir_version, opsets.join(", "));
    r.fingerprint.iter().for_each(|f| text += &format!("  fingerprint  {f}\n"));
    text += &format!(
        "  size         {} nodes ({} folded constants, {} more in bodies), {} tensors, {} of weights\n",
        r.nodes,
        r.folded_nodes,
        r.nodes_in_bodies,
        r.tensors,
        Bytes(r.weight_bytes)
    );
    let unknown = match r.nodes_of_unknown_cost {
        0 => String::new(),
        n => format!(" ({n} nodes of unknown cost left out)"),
    };
    let flops = r.flops_per_item.map_or("unknown".into(), |f| Flops(f).to_string());
    text += &format!("  one item     {flops}{unknown}, {} of activations\n", Bytes(r.activation_bytes_per_item));
    for (what, ports) in [("input", &r.inputs), ("output", &r.outputs)] {
        for p in ports {
            let axis = p.batch_axis.map_or("no batch axis".into(), |a| format!("batch axis {a}"));
            text += &format!("  {what:<12} {} {} ({axis}, {})\n", p.name, p.fact, p.origin);
        }
    }
    if !r.unknown_shapes.is_empty() {
        let shown = r.unknown_shapes.len().min(5);
        text += &format!(
            "  unknown      {} tensors without a full shape: {}\n",
            r.unknown_shapes.len(),
            r.unknown_shapes[..shown].join(", ")
        );
    }
    for e in &r.engines {
        let says = if e.runs { "runs it".to_owned() } else { format!("cannot: {}", e.why) };
        text += &format!("  engine       {} {}: {says}\n", e.engine, e.version);
    }
    r.notes
        .iter()
        .for_each(|n| text += &format!("  note         {}\n", n.trim_end().replace('\n', "\n               ")));
    let rows: Vec<Vec<String>> = r
        .operators
        .iter()
        .map(|o| {
            let inner = if o.in_bodies > 0 { o.in_bodies.to_string() } else { String::new() };
            vec![
                o.op.clone(),
                o.nodes.to_string(),
                inner,
                Flops(o.flops).to_string(),
                Bytes(o.weight_bytes).to_string(),
            ]
        })
        .collect();
    text += "\n";
    text += &table(&["operator", "nodes", "in bodies", "flops an item", "weights"], &rows);
    if !r.all_nodes.is_empty() {
        let rows: Vec<Vec<String>> = r
            .all_nodes
            .iter()
            .map(|n| vec![n.name.clone(), n.op.clone(), n.flops.map_or("?".into(), |f| Flops(f).to_string())])
            .collect();
        text += "\n";
        text += &table(&["node (first output)", "operator", "flops an item"], &rows);
    }
    text
}
