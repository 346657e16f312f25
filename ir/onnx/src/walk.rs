//! One pass over every tensor of a decoded model: external contents are resolved, constants checked and brought into one
//! layout, so that whatever comes later meets plain bytes only.

use tandem_ir::limits::BODY_DEPTH_MAX;
use tandem_onnx_proto::{
    AttributeProto, Blob, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, data_location,
};

use crate::fault::Fault;
use crate::tensor;

/// Where an external tensor stands in its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Site {
    /// An initialiser of the model's own graph: engines take those from memory by name.
    Initializer,
    /// In an attribute, a body or a function.
    Inside,
}

/// Gives the contents of an external tensor of so many bytes.
pub(crate) type Resolve<'a> = dyn FnMut(&TensorProto, u64, Site) -> Result<Blob, Fault> + 'a;

/// Resolves and normalizes all tensors of a model: initialisers, values of `Constant` nodes, and whatever is external.
pub(crate) fn normalize(model: &mut ModelProto, resolve: &mut Resolve<'_>) -> Result<(), Fault> {
    if let Some(graph) = &mut model.graph {
        let place = if graph.name.is_empty() { "graph".to_owned() } else { format!("graph \"{}\"", graph.name) };
        in_graph(graph, &place, 0, resolve)?;
    }
    for function in &mut model.functions {
        let place = format!("function {}:{}", function.domain, function.name);
        for attribute in &mut function.attribute_proto {
            in_attribute(attribute, &place, 0, false, resolve)?;
        }
        for (i, node) in function.node.iter_mut().enumerate() {
            in_node(node, i, &place, 0, resolve)?;
        }
    }
    Ok(())
}

fn in_graph(graph: &mut GraphProto, place: &str, depth: usize, resolve: &mut Resolve<'_>) -> Result<(), Fault> {
    if depth > BODY_DEPTH_MAX {
        return Err(Fault::TooDeep { place: place.to_owned() });
    }
    let site = if depth == 0 { Site::Initializer } else { Site::Inside };
    for tensor in &mut graph.initializer {
        tensor::normalize(tensor, place, &mut |t, bytes| resolve(t, bytes, site))?;
    }
    for sparse in &mut graph.sparse_initializer {
        in_sparse(sparse, place, resolve)?;
    }
    for (i, node) in graph.node.iter_mut().enumerate() {
        in_node(node, i, place, depth, resolve)?;
    }
    Ok(())
}

fn in_sparse(sparse: &mut SparseTensorProto, place: &str, resolve: &mut Resolve<'_>) -> Result<(), Fault> {
    for part in [&mut sparse.values, &mut sparse.indices].into_iter().flatten() {
        tensor::normalize(part, place, &mut |t, bytes| resolve(t, bytes, Site::Inside))?;
    }
    Ok(())
}

fn in_node(
    node: &mut NodeProto,
    index: usize,
    place: &str,
    depth: usize,
    resolve: &mut Resolve<'_>,
) -> Result<(), Fault> {
    if node.attribute.is_empty() {
        return Ok(());
    }
    let constant = is_constant(node);
    if constant && let [attribute] = node.attribute.as_mut_slice() {
        // So that messages can name it; the name of a value in an attribute means nothing.
        if let (Some(tensor), Some(output)) = (&mut attribute.t, node.output.first()) {
            tensor.name.clone_from(output);
        }
    }
    for attribute in &mut node.attribute {
        let holds = attribute.t.is_some()
            || attribute.g.is_some()
            || attribute.sparse_tensor.is_some()
            || !attribute.tensors.is_empty()
            || !attribute.graphs.is_empty()
            || !attribute.sparse_tensors.is_empty();
        if holds {
            let place = format!("{place}, {}", label(&node.op_type, &node.name, index));
            in_attribute(attribute, &place, depth, constant, resolve)?;
        }
    }
    Ok(())
}

/// How messages call a node.
pub(crate) fn label(op: &str, name: &str, index: usize) -> String {
    if name.is_empty() { format!("{op} #{index}") } else { format!("{op} #{index} \"{name}\"") }
}

fn in_attribute(
    attribute: &mut AttributeProto,
    place: &str,
    depth: usize,
    constant: bool,
    resolve: &mut Resolve<'_>,
) -> Result<(), Fault> {
    for tensor in attribute.t.as_deref_mut().into_iter().chain(&mut attribute.tensors) {
        // Tensors in other nodes' attributes are the engine's to judge.
        if constant || tensor.data_location == data_location::EXTERNAL {
            tensor::normalize(tensor, place, &mut |t, bytes| resolve(t, bytes, Site::Inside))?;
        }
    }
    for sparse in attribute.sparse_tensor.as_deref_mut().into_iter().chain(&mut attribute.sparse_tensors) {
        let parts = [&sparse.values, &sparse.indices];
        if parts.into_iter().flatten().any(|t| t.data_location == data_location::EXTERNAL) {
            in_sparse(sparse, place, resolve)?;
        }
    }
    for graph in attribute.g.as_deref_mut().into_iter().chain(&mut attribute.graphs) {
        let place = format!("{place}, {}", attribute.name);
        in_graph(graph, &place, depth + 1, resolve)?;
    }
    Ok(())
}

/// A domain as the graph spells it: ONNX's own has two spellings.
pub(crate) fn domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

fn is_constant(node: &NodeProto) -> bool {
    node.op_type == "Constant" && domain(&node.domain).is_empty()
}

/// The value of a `Constant` node as a tensor named like its output; `None` for other nodes and for what stays a node
/// (sparse values, no value).
pub(crate) fn constant_of(node: &NodeProto) -> Option<TensorProto> {
    use tandem_onnx_proto::data_type;
    let ([output], [attribute], true) = (node.output.as_slice(), node.attribute.as_slice(), is_constant(node)) else {
        return None;
    };
    if output.is_empty() || !attribute.ref_attr_name.is_empty() {
        return None;
    }
    let list = |len: usize| [len as i64];
    let strings = |dims: &[i64], strings: &[Blob]| TensorProto {
        name: output.clone(),
        data_type: data_type::STRING,
        dims: dims.to_vec(),
        string_data: strings.to_vec(),
        ..TensorProto::default()
    };
    match attribute.name.as_str() {
        "value" => attribute.t.as_deref().map(|t| TensorProto { name: output.clone(), ..t.clone() }),
        "value_float" => Some(TensorProto::from_f32(output, &[], &[attribute.f])),
        "value_floats" => Some(TensorProto::from_f32(output, &list(attribute.floats.len()), &attribute.floats)),
        "value_int" => Some(TensorProto::from_i64(output, &[], &[attribute.i])),
        "value_ints" => Some(TensorProto::from_i64(output, &list(attribute.ints.len()), &attribute.ints)),
        "value_string" => Some(strings(&[], std::slice::from_ref(&attribute.s))),
        "value_strings" => Some(strings(&list(attribute.strings.len()), &attribute.strings)),
        _ => None,
    }
}

/// The graphs in a node's attributes.
pub(crate) fn bodies(node: &NodeProto) -> impl Iterator<Item = &GraphProto> {
    node.attribute.iter().flat_map(|a| a.g.as_deref().into_iter().chain(&a.graphs))
}

/// Calls `visit` for each node, those of bodies included.
pub(crate) fn for_each_node<'n>(nodes: &'n [NodeProto], visit: &mut dyn FnMut(&'n NodeProto)) {
    for node in nodes {
        visit(node);
        bodies(node).for_each(|graph| for_each_node(&graph.node, visit));
    }
}

/// Calls `visit` for each block of bytes that a constant holds, bodies included.
pub(crate) fn for_each_constant(graph: &GraphProto, visit: &mut dyn FnMut(&Blob)) {
    let sparse = graph.sparse_initializer.iter().flat_map(|s| [&s.values, &s.indices]).flatten().map(|t| &**t);
    graph.initializer.iter().chain(sparse).filter_map(|t| t.raw_data.as_ref()).for_each(&mut *visit);
    for attribute in graph.node.iter().flat_map(|n| &n.attribute) {
        if let Some(raw) = attribute.t.as_ref().and_then(|t| t.raw_data.as_ref()) {
            visit(raw);
        }
        attribute.g.as_deref().into_iter().chain(&attribute.graphs).for_each(|g| for_each_constant(g, visit));
    }
}

/// Renames nodes inside bodies whose names look like those that images give to nodes (`n12_Conv`, `f3_Cast`): an
/// engine's report then names a node of the graph only when it means it.
pub(crate) fn rename_inner_nodes(nodes: &mut [NodeProto], inside: bool) {
    for node in nodes {
        if inside && is_image_name(&node.name) {
            node.name.insert_str(0, "b_");
        }
        for attribute in &mut node.attribute {
            for graph in attribute.g.as_deref_mut().into_iter().chain(&mut attribute.graphs) {
                rename_inner_nodes(&mut graph.node, true);
            }
        }
    }
}

fn is_image_name(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(['n', 'f']) else { return false };
    rest.split_once('_').is_some_and(|(digits, _)| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}
