//! The profile's key: operators that cost the same have the same signature.

use std::fmt;

use crate::fingerprint::Hasher;
use crate::graph::{Attr, Graph, NodeId};

/// Operator types of an atom and a digest of their types, shapes and attributes: `Conv+Relu-3f2a9c01d2e4b5f6`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub String);

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Operator names shown before the digest.
const SHOWN_OPS: usize = 3;

/// The signature of a group of nodes (ascending). Depends on operators, attributes, bodies, facts of what they read and
/// write, small constants' values and how the nodes are wired to each other; not on names or on weights' contents.
pub fn signature(graph: &Graph, nodes: &[NodeId]) -> Signature {
    let mut hasher = Hasher::default();
    // Local numbers of tensors make the digest independent of names and of the rest of the graph.
    let mut local = std::collections::HashMap::new();
    for id in nodes {
        let node = graph.node(*id);
        hasher.field(node.op.domain.as_bytes()).field(node.op.name.as_bytes()).number(node.op.version as u64);
        for (name, attr) in &node.attrs {
            hasher.field(name.as_bytes());
            attr_fields(&mut hasher, attr);
        }
        for (name, body) in &node.bodies {
            let all: Vec<NodeId> = body.node_ids().collect();
            hasher.field(name.as_bytes()).field(signature(body, &all).0.as_bytes());
        }
        let captures = node.captures.iter().map(Some);
        let tensors =
            node.inputs.iter().map(Option::as_ref).chain(captures).chain(node.outputs.iter().map(Option::as_ref));
        for tensor in tensors {
            let Some(tensor) = tensor else {
                hasher.number(u64::MAX);
                continue;
            };
            let next = local.len() as u64;
            hasher.number(*local.entry(*tensor).or_insert(next));
            let t = graph.tensor(*tensor);
            hasher.field(t.fact.to_string().as_bytes());
            hasher.number(u64::from(graph.is_constant(*tensor)));
            if let Some(values) = t.constant.as_ref().and_then(|c| c.values.as_ref()) {
                values.iter().for_each(|v| {
                    hasher.number(*v as u64);
                });
            }
        }
    }
    let digest = hasher.finish().to_string();
    let mut ops: Vec<&str> = nodes.iter().take(SHOWN_OPS).map(|id| graph.node(*id).op.name.as_str()).collect();
    if nodes.len() > SHOWN_OPS {
        ops.push("..");
    }
    Signature(format!("{}-{}", ops.join("+"), &digest[..16]))
}

fn attr_fields(hasher: &mut Hasher, attr: &Attr) {
    match attr {
        Attr::Int(v) => hasher.field(b"i").number(*v as u64),
        Attr::Ints(v) => v.iter().fold(hasher.field(b"is"), |h, x| h.number(*x as u64)),
        Attr::Float(v) => hasher.field(b"f").number(u64::from(*v)),
        Attr::Floats(v) => v.iter().fold(hasher.field(b"fs"), |h, x| h.number(u64::from(*x))),
        Attr::Text(v) => hasher.field(b"s").field(v),
        Attr::Texts(v) => v.iter().fold(hasher.field(b"ss"), |h, x| h.field(x)),
        Attr::Opaque(f) => hasher.field(b"o").field(&f.0),
    };
}
