//! A graph under construction, with names as PyTorch's TorchScript exporter makes them.
//!
//! What it is: [`Graph`] collects nodes, initializers, inputs and outputs. A *scope* is the exporter's path of a module
//! (`/layer1/layer1.0/conv1`); a node's name is its scope and operator, numbered from the second on
//! (`/layer1/layer1.0/Add`, `/Shape_1`), and its outputs are that name with `_output_0` and so on.
//!
//! What it deliberately does not do: it infers no shapes and simplifies nothing. What a builder asks for is written.
//!
//! Invariants: value names are unique over the graph and all its bodies; nodes are in topological order, for a value's
//! name exists only once its node does.

use crate::weights::Weights;
use std::collections::HashMap;
use tandem_onnx_proto::{
    AttributeProto, Blob, DimValue, GraphProto, NodeProto, TensorProto, ValueInfoProto, data_type,
};

/// Name of the batch dimension of all models.
pub(crate) const BATCH: &str = "batch";

/// A graph under construction.
pub(crate) struct Graph {
    proto: GraphProto,
    weights: Weights,
    parameters: u64,
    /// How often each unnumbered node name was asked for.
    names: HashMap<String, u64>,
}

impl Graph {
    /// An empty graph.
    pub(crate) fn new(name: &str, weights: Weights) -> Self {
        let proto = GraphProto { name: name.to_owned(), ..GraphProto::default() };
        Self { proto, weights, parameters: 0, names: HashMap::new() }
    }

    /// The finished graph, and how many trained parameters it has (constants of the architecture not counted).
    pub(crate) fn finish(self) -> (GraphProto, u64) {
        (self.proto, self.parameters)
    }

    /// Adds the input `name` of element type `elem_type` and returns its name.
    pub(crate) fn input(&mut self, name: &str, elem_type: i32, dims: &[DimValue]) -> String {
        self.proto.input.push(ValueInfoProto::tensor(name, elem_type, dims));
        name.to_owned()
    }

    /// Makes `value` an output called `name`: it has that name everywhere from now on.
    pub(crate) fn output(&mut self, value: &str, name: &str, elem_type: i32, dims: &[DimValue]) {
        rename(&mut self.proto.node, value, name);
        self.proto.output.push(ValueInfoProto::tensor(name, elem_type, dims));
    }

    /// Adds a node with one output and returns that output's name.
    pub(crate) fn op(&mut self, scope: &str, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.op_many(scope, op, inputs, attributes, 1).remove(0)
    }

    /// Adds a node with `outputs` outputs and returns their names.
    pub(crate) fn op_many(
        &mut self,
        scope: &str,
        op: &str,
        inputs: &[&str],
        attributes: Vec<AttributeProto>,
        outputs: usize,
    ) -> Vec<String> {
        let name = self.unused(format!("{scope}/{op}"));
        let outputs: Vec<String> = (0..outputs).map(|index| format!("{name}_output_{index}")).collect();
        let mut node = NodeProto::new(op, inputs, &outputs).named(name);
        node.attribute = attributes;
        self.proto.node.push(node);
        outputs
    }

    /// Adds a node with names of its own choice.
    pub(crate) fn push(&mut self, node: NodeProto) {
        self.proto.node.push(node);
    }

    /// Numbers `name` where it was used before.
    fn unused(&mut self, name: String) -> String {
        let count = self.names.entry(name.clone()).or_insert(0);
        *count += 1;
        if *count == 1 { name } else { format!("{name}_{}", *count - 1) }
    }

    /// Nodes that `build` adds, as the body of a control-flow operator named `name`; it returns the outputs as
    /// (value, element type, shape). Initializers stay in the graph around: bodies capture them.
    pub(crate) fn body(
        &mut self,
        name: &str,
        inputs: Vec<ValueInfoProto>,
        build: impl FnOnce(&mut Self) -> Vec<ValueInfoProto>,
    ) -> GraphProto {
        let outer = std::mem::take(&mut self.proto.node);
        let output = build(self);
        let node = std::mem::replace(&mut self.proto.node, outer);
        GraphProto { name: name.to_owned(), node, input: inputs, output, ..GraphProto::default() }
    }

    /// A Constant node that holds `tensor`.
    pub(crate) fn constant(&mut self, scope: &str, tensor: TensorProto) -> String {
        self.op(scope, "Constant", &[], vec![AttributeProto::tensor("value", tensor)])
    }

    /// A Constant node: one number, shape `[]`.
    pub(crate) fn scalar(&mut self, scope: &str, value: f32) -> String {
        self.constant(scope, TensorProto::from_f32("", &[], &[value]))
    }

    /// A Constant node: one integer, shape `[]`.
    pub(crate) fn index(&mut self, scope: &str, value: i64) -> String {
        self.constant(scope, TensorProto::from_i64("", &[], &[value]))
    }

    /// A Constant node: integers, shape `[count]`.
    pub(crate) fn indices(&mut self, scope: &str, values: &[i64]) -> String {
        self.constant(scope, TensorProto::from_i64("", &[values.len() as i64], values))
    }

    /// Dimension `axis` of `value` as an `INT64` scalar: Shape, Constant, Gather.
    pub(crate) fn dim(&mut self, scope: &str, value: &str, axis: i64) -> String {
        let shape = self.op(scope, "Shape", &[value], vec![]);
        let axis = self.index(scope, axis);
        self.op(scope, "Gather", &[&shape, &axis], vec![AttributeProto::int("axis", 0)])
    }

    /// A scalar as a vector of one element: Constant, Unsqueeze.
    pub(crate) fn vector(&mut self, scope: &str, scalar: &str) -> String {
        let axes = self.indices(scope, &[0]);
        self.op(scope, "Unsqueeze", &[scalar, &axes], vec![])
    }

    /// A shape of `parts`: dimensions taken from values at run time, or fixed ones; Unsqueeze each, then Concat.
    pub(crate) fn shape_of(&mut self, scope: &str, parts: &[ShapePart<'_>]) -> String {
        let parts: Vec<String> = parts
            .iter()
            .map(|part| match part {
                ShapePart::Scalar(scalar) => self.vector(scope, scalar),
                ShapePart::Fixed(dim) => self.indices(scope, &[*dim]),
            })
            .collect();
        self.concat(scope, &parts, 0)
    }

    /// Concat of `values` on `axis`.
    pub(crate) fn concat(&mut self, scope: &str, values: &[String], axis: i64) -> String {
        let inputs: Vec<&str> = values.iter().map(String::as_str).collect();
        self.op(scope, "Concat", &inputs, vec![AttributeProto::int("axis", axis)])
    }

    /// Transpose of `value`: axis `i` of the result is axis `perm[i]` of `value`.
    pub(crate) fn transpose(&mut self, scope: &str, value: &str, perm: &[i64]) -> String {
        self.op(scope, "Transpose", &[value], vec![AttributeProto::ints("perm", perm)])
    }

    /// A trained initializer, uniform around zero so that a sum of `fan_in` products with unit inputs has the standard
    /// deviation `gain`.
    pub(crate) fn weight(&mut self, name: &str, dims: &[i64], fan_in: i64, gain: f32) -> String {
        // A uniform variable on [-a, a] has the variance a^2 / 3.
        let limit = gain * (3.0 / fan_in as f32).sqrt();
        self.trained(name, dims, 0.0, limit)
    }

    /// A trained initializer, uniform in `centre - limit ..= centre + limit`.
    pub(crate) fn trained(&mut self, name: &str, dims: &[i64], centre: f32, limit: f32) -> String {
        let count = elements(dims);
        self.parameters += count as u64;
        let raw = self.weights.floats(name, count, centre, limit);
        self.fixed(TensorProto::from_raw(name, data_type::FLOAT, dims, raw))
    }

    /// Trained int8 weights, uniform in `-limit ..= limit`.
    pub(crate) fn trained_int8(&mut self, name: &str, dims: &[i64], limit: u32) -> String {
        let count = elements(dims);
        self.parameters += count as u64;
        let raw: Vec<u8> = self.weights.integers(name, count, limit).iter().map(|value| *value as u8).collect();
        self.fixed(TensorProto::from_raw(name, data_type::INT8, dims, raw))
    }

    /// Trained int32 weights, uniform in `-limit ..= limit`.
    pub(crate) fn trained_int32(&mut self, name: &str, dims: &[i64], limit: u32) -> String {
        let count = elements(dims);
        self.parameters += count as u64;
        let values = self.weights.integers(name, count, limit);
        self.fixed(TensorProto::from_i32(name, dims, &values))
    }

    /// An initializer that is part of the architecture, not trained.
    pub(crate) fn fixed(&mut self, mut tensor: TensorProto) -> String {
        if !self.weights.filled() {
            tensor.raw_data = Some(Blob::default());
        }
        let name = tensor.name.clone();
        self.proto.initializer.push(tensor);
        name
    }
}

/// One dimension of a shape made at run time.
#[derive(Clone, Copy)]
pub(crate) enum ShapePart<'a> {
    /// An `INT64` scalar.
    Scalar(&'a str),
    /// A number; -1 for what is left.
    Fixed(i64),
}

/// The dimensions of `[batch, tail...]`.
pub(crate) fn batched(tail: &[i64]) -> Vec<DimValue> {
    let mut dims = vec![DimValue::from(BATCH)];
    dims.extend(tail.iter().map(|dim| DimValue::from(*dim)));
    dims
}

/// Name of the module at `scope`, as its parameters have it: a child that repeats its parent (`/layer1/layer1.0`)
/// stands for both, others are joined by dots.
pub(crate) fn module(scope: &str) -> String {
    let mut path: Vec<&str> = Vec::new();
    for part in scope.split('/').filter(|part| !part.is_empty()) {
        let repeats = path.last().is_some_and(|last| part.strip_prefix(last).is_some_and(|rest| rest.starts_with('.')));
        if repeats {
            path.pop();
        }
        path.push(part);
    }
    path.join(".")
}

/// How many elements a tensor of the shape `dims` has.
fn elements(dims: &[i64]) -> usize {
    let count: i64 = dims.iter().product();
    usize::try_from(count).expect("dimensions of weights are positive")
}

/// Calls the value `from` by the name `to` in all nodes and their bodies.
fn rename(nodes: &mut [NodeProto], from: &str, to: &str) {
    for node in nodes {
        for name in node.input.iter_mut().chain(&mut node.output) {
            if name == from {
                to.clone_into(name);
            }
        }
        for graph in node.attribute.iter_mut().filter_map(|attribute| attribute.g.as_mut()) {
            rename(&mut graph.node, from, to);
            for output in &mut graph.output {
                if output.name == from {
                    to.clone_into(&mut output.name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_named_as_their_parameters() {
        assert_eq!(module("/layer1/layer1.0/downsample/downsample.0"), "layer1.0.downsample.0");
        assert_eq!(module("/features/features.1/conv/conv.0/conv.0.0"), "features.1.conv.0.0");
        assert_eq!(module("/encoder/layer.0/attention/self/query"), "encoder.layer.0.attention.self.query");
        assert_eq!(module("/fc"), "fc");
    }

    #[test]
    fn repeated_names_are_numbered_and_outputs_renamed() {
        let mut graph = Graph::new("g", Weights::absent());
        let x = graph.input("x", data_type::FLOAT, &batched(&[4]));
        let a = graph.op("", "Relu", &[&x], vec![]);
        let b = graph.op("", "Relu", &[&a], vec![]);
        let c = graph.op("", "Relu", &[&b], vec![]);
        assert_eq!((a.as_str(), c.as_str()), ("/Relu_output_0", "/Relu_2_output_0"));
        graph.output(&b, "y", data_type::FLOAT, &batched(&[4]));
        let (proto, parameters) = graph.finish();
        assert_eq!(parameters, 0);
        assert_eq!((proto.node[1].output[0].as_str(), proto.node[2].input[0].as_str()), ("y", "y"));
        assert_eq!(proto.output[0].name, "y");
    }
}
