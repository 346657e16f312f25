//! Zoo models, bound and observed, for suites that run plans of them.

use std::collections::BTreeMap;

use tandem_ir::batch;
use tandem_ir::plan::BoundDim;
use tandem_onnx::import::{self, Model};
use tandem_onnx::value::Value;
use tandem_runtime::device::tract::TractEngine;
use tandem_runtime::{observe, sample};

/// A model with its batch bound, and shapes that are as proposed.
pub fn model(name: &str) -> (Model, BTreeMap<String, Vec<BoundDim>>) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.onnx");
    tandem_models::build_to(name, 1, &path).expect("the zoo builds");
    let mut model = import::import(&path).expect("it imports");
    let mut proposal = batch::propose(&model.graph);
    let known = tandem_models::find(name).expect("it is in the zoo").default_dims;
    for free in std::mem::take(&mut proposal.free) {
        let size = known.iter().find(|(s, _)| Some(*s) == free.symbol.as_deref()).expect("the zoo suggests a size").1;
        proposal.inputs.get_mut(&free.input).expect("it is an input")[free.axis] = Some(BoundDim::Fixed(size));
    }
    let binding = proposal.binding().expect("nothing is free");
    batch::bind(&mut model.graph, &binding).expect("it binds");
    let seen = |rows: u64| {
        let values = inputs(&model, rows, 7);
        (rows, observe::observe(&TractEngine, &model, &values).expect("it runs"))
    };
    let runs = [seen(1), seen(2)];
    batch::apply_observations(&mut model.graph, &runs);
    (model, binding)
}

/// Made-up inputs of so many items.
pub fn inputs(model: &Model, rows: u64, seed: u64) -> Vec<Value> {
    let graph = &model.graph;
    let dims = graph.inputs.iter().filter_map(|t| {
        let tensor = graph.tensor(*t);
        Some((tensor.name.clone(), tensor.fact.dims_at(rows)?))
    });
    sample::random_inputs(graph, &dims.collect(), seed).expect("inputs")
}
