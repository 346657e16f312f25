//! A control-flow body as a model of its own, to be run alone.

use std::collections::HashMap;

use tandem_ir::{NodeId, TensorId};
use tandem_onnx_proto::ValueInfoProto;

use crate::digest::Contents;
use crate::import::Model;
use crate::lower::{self, Lowering};

impl Model {
    /// A body of a node, by its name in [`tandem_ir::Node::bodies`], as a model. Its inputs are the body's, then the values
    /// that it captures; captured constants are constants of its own. Nodes and names are those of the body; tensor ids are
    /// not. It has no fingerprint and no file: it is to be cut and run, not to be planned or written.
    ///
    /// `None` if the node has no such body.
    pub fn body(&self, node: NodeId, name: &str) -> Option<Model> {
        let inner = self.graph.node(node).bodies.get(name)?;
        let (_, body) = lower::named_bodies(&self.nodes[node.index()]).find(|(n, _)| n == name)?;
        let mut proto = body.clone();
        let outer: HashMap<&str, TensorId> =
            self.graph.node(node).captures.iter().map(|t| (self.graph.tensor(*t).name.as_str(), *t)).collect();
        for tensor in &inner.tensors {
            let Some(id) = outer.get(tensor.name.as_str()) else { continue };
            // A body may have a value of its own by the name of one that another body of the node captures.
            let own = tensor.producer.is_some() || tensor.constant.is_some();
            if own || inner.inputs.iter().any(|i| inner.tensor(*i).name == tensor.name) {
                continue;
            }
            match self.held.get(id) {
                Some(held) => held.add_to(&tensor.name, &mut proto),
                None => {
                    let (name, r#type) = (tensor.name.clone(), self.types.get(id).cloned());
                    proto.input.push(ValueInfoProto { name, r#type, ..ValueInfoProto::default() });
                }
            }
        }
        let lowering = Lowering {
            opsets: self.graph.opsets.clone(),
            ir_version: self.graph.ir_version,
            contents: &Contents::skip(),
            warnings: &mut vec![],
            nodes: 0,
        };
        let mut lowered = { lowering }.model(&proto).ok()?;
        // What reads captured constants alone is folded here, but not in the body as the graph around holds it.
        for (node, around) in lowered.graph.nodes.iter_mut().zip(&inner.nodes) {
            node.folded = around.folded;
        }
        Some(Model::of(lowered, proto, self.proto.clone(), self.functions.clone()))
    }
}
