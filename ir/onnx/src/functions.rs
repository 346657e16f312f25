//! Expansion of model-local functions into the nodes that call them.
//!
//! A function is expanded where its domain is not one that engines know themselves, and where its operator sets agree
//! with the model's. Otherwise the call stays an operator and the function stays with the model. Names inside get the
//! call's name as a prefix; references to the function's attributes get the call's values or the defaults.
//!
//! Memory is bounded: expansion stops with a fault at `limits::NODES_MAX` nodes or [`EXPANDED_BYTES_MAX`] bytes.

use std::collections::{BTreeMap, HashMap, HashSet};

use tandem_ir::limits::{BODY_DEPTH_MAX, NODES_MAX};
use tandem_onnx_proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto,
};

use crate::fault::Fault;
use crate::walk::{self, domain};

/// Names, integers and numbers that expansion may add, in bytes. A thousand times what exporters' functions come to.
const EXPANDED_BYTES_MAX: u64 = 128 << 20;

/// Domains whose operators engines know: a function there is a fallback for an engine's own kernel.
const ENGINE_DOMAINS: [&str; 7] = [
    "",
    "ai.onnx.ml",
    "ai.onnx.training",
    "ai.onnx.preview",
    "ai.onnx.preview.training",
    "com.microsoft",
    "com.microsoft.nchwc",
];

type Key = (String, String, String);

struct Expander<'a> {
    functions: &'a HashMap<Key, FunctionProto>,
    /// Versions the model imports; grows by domains that only functions use.
    opsets: BTreeMap<String, i64>,
    /// Whether a function can be expanded, once asked.
    verdicts: HashMap<Key, bool>,
    /// Every value name of the model, so that new ones differ.
    names: HashSet<String>,
    nodes: usize,
    bytes: u64,
    warnings: &'a mut Vec<String>,
}

/// Expands all calls of the model's functions; what remains in `model.functions` is what remaining nodes call.
pub(crate) fn expand(model: &mut ModelProto, warnings: &mut Vec<String>) -> Result<(), Fault> {
    if model.functions.is_empty() {
        return Ok(());
    }
    let mut functions = HashMap::new();
    for function in std::mem::take(&mut model.functions) {
        let key = key(&function.domain, &function.name, &function.overload);
        if let Some(twice) = functions.insert(key, function) {
            return Err(fault(&twice, "one definition", "two"));
        }
    }
    let opsets = imports(&model.opset_import);
    let before = opsets.clone();
    let mut names = HashSet::new();
    let Some(graph) = &mut model.graph else { return Ok(()) };
    collect_names(graph, &mut names);
    let verdicts = HashMap::new();
    let mut expander = Expander { functions: &functions, opsets, verdicts, names, nodes: 0, bytes: 0, warnings };
    expander.graph(graph, &mut vec![], 0)?;
    for (domain, version) in expander.opsets.iter().filter(|(domain, _)| !before.contains_key(*domain)) {
        model.opset_import.push(OperatorSetIdProto::new(domain.as_str(), *version));
    }
    let functions: Vec<FunctionProto> = functions.into_values().collect();
    model.functions = called(&graph.node, &functions);
    Ok(())
}

fn key(domain_: &str, name: &str, overload: &str) -> Key {
    (domain(domain_).to_owned(), name.to_owned(), overload.to_owned())
}

fn key_of(node: &NodeProto) -> Key {
    key(&node.domain, &node.op_type, &node.overload)
}

fn fault(function: &FunctionProto, expected: &str, found: &str) -> Fault {
    let function = format!("{}:{}", function.domain, function.name);
    Fault::Function { function, expected: expected.to_owned(), found: found.to_owned() }
}

/// Version a domain; where a domain comes twice, the higher.
pub(crate) fn imports(list: &[OperatorSetIdProto]) -> BTreeMap<String, i64> {
    let mut opsets = BTreeMap::new();
    for import in list {
        let version = opsets.entry(domain(&import.domain).to_owned()).or_insert(import.version);
        *version = import.version.max(*version);
    }
    opsets
}

fn collect_names(graph: &GraphProto, names: &mut HashSet<String>) {
    names.extend(graph.input.iter().map(|v| v.name.clone()));
    names.extend(graph.initializer.iter().map(|t| t.name.clone()));
    names.extend(graph.sparse_initializer.iter().filter_map(|t| Some(t.values.as_ref()?.name.clone())));
    for node in &graph.node {
        names.extend(node.input.iter().chain(&node.output).cloned());
        walk::bodies(node).for_each(|g| collect_names(g, names));
    }
}

/// Those of the functions that nodes call, directly or through each other, in order of their keys.
pub(crate) fn called(nodes: &[NodeProto], functions: &[FunctionProto]) -> Vec<FunctionProto> {
    if functions.is_empty() {
        return vec![];
    }
    let mut left: BTreeMap<Key, &FunctionProto> =
        functions.iter().map(|f| (key(&f.domain, &f.name, &f.overload), f)).collect();
    let mut called = BTreeMap::new();
    let mut pending = vec![nodes];
    while let Some(nodes) = pending.pop() {
        walk::for_each_node(nodes, &mut |node| {
            if let Some((key, function)) = left.remove_entry(&key_of(node)) {
                called.insert(key, function.clone());
                pending.push(&function.node);
            }
        });
    }
    called.into_values().collect()
}

impl Expander<'_> {
    fn graph(&mut self, graph: &mut GraphProto, stack: &mut Vec<Key>, depth: usize) -> Result<(), Fault> {
        if depth > BODY_DEPTH_MAX {
            return Err(Fault::TooDeep { place: format!("graph \"{}\"", graph.name) });
        }
        let nodes = std::mem::take(&mut graph.node);
        let mut out = Vec::with_capacity(nodes.len());
        for node in nodes {
            self.node(node, &mut out, &mut graph.value_info, stack, depth)?;
        }
        graph.node = out;
        Ok(())
    }

    fn node(
        &mut self,
        mut node: NodeProto,
        out: &mut Vec<NodeProto>,
        types: &mut Vec<ValueInfoProto>,
        stack: &mut Vec<Key>,
        depth: usize,
    ) -> Result<(), Fault> {
        for attribute in &mut node.attribute {
            for graph in attribute.g.as_deref_mut().into_iter().chain(&mut attribute.graphs) {
                self.graph(graph, stack, depth + 1)?;
            }
        }
        let key = key_of(&node);
        let Some(function) = self.functions.get(&key) else {
            out.push(node);
            return Ok(());
        };
        if stack.contains(&key) || stack.len() >= BODY_DEPTH_MAX {
            let found = if stack.contains(&key) { "one that calls itself" } else { "deeper calls" };
            return Err(fault(function, &format!("calls at most {BODY_DEPTH_MAX} deep"), found));
        }
        if !self.expandable(&key, function) {
            out.push(node);
            return Ok(());
        }
        let (nodes, infos) = self.instance(function, &node)?;
        types.extend(infos);
        stack.push(key);
        for inner in nodes {
            self.node(inner, out, types, stack, depth)?;
        }
        stack.pop();
        Ok(())
    }

    /// Whether the function's operators mean the same in the model's graph.
    fn expandable(&mut self, key: &Key, function: &FunctionProto) -> bool {
        if let Some(verdict) = self.verdicts.get(key) {
            return *verdict;
        }
        let verdict = match ENGINE_DOMAINS.contains(&key.0.as_str()) {
            true => false,
            false => self.agrees(function),
        };
        self.verdicts.insert(key.clone(), verdict);
        verdict
    }

    fn agrees(&mut self, function: &FunctionProto) -> bool {
        let own = imports(&function.opset_import);
        let mut used = HashSet::new();
        walk::for_each_node(&function.node, &mut |node| {
            if !self.functions.contains_key(&key_of(node)) {
                used.insert(domain(&node.domain));
            }
        });
        let mut used: Vec<(&str, i64)> = used.into_iter().filter_map(|d| Some((d, *own.get(d)?))).collect();
        used.sort_unstable();
        for (domain, version) in &used {
            if let Some(model) = self.opsets.get(*domain).filter(|model| *model != version) {
                let domain = if domain.is_empty() { "ai.onnx" } else { domain };
                self.warnings.push(format!(
                    "function {}:{} stays an operator: it uses {domain} {version}, the model {domain} {model}",
                    function.domain, function.name
                ));
                return false;
            }
        }
        used.into_iter().for_each(|(domain, version)| {
            self.opsets.insert(domain.to_owned(), version);
        });
        true
    }

    /// A name that no value of the model has.
    fn fresh(&mut self, name: String) -> String {
        let mut candidate = name.clone();
        let mut count = 1;
        while !self.names.insert(candidate.clone()) {
            count += 1;
            candidate = format!("{name}_{count}");
        }
        candidate
    }

    /// The nodes that stand for one call, and the types the function states of its inner values.
    fn instance(
        &mut self,
        function: &FunctionProto,
        call: &NodeProto,
    ) -> Result<(Vec<NodeProto>, Vec<ValueInfoProto>), Fault> {
        let inputs = function.input.len();
        if call.input.len() > inputs || call.output.len() > function.output.len() {
            let expected = format!("at most {inputs} inputs and {} outputs", function.output.len());
            let found = format!("a call with {} and {}", call.input.len(), call.output.len());
            return Err(fault(function, &expected, &found));
        }
        let prefix = match (call.name.as_str(), call.output.iter().find(|o| !o.is_empty())) {
            ("", Some(output)) => format!("{output}/"),
            ("", None) => format!("{}/", function.name),
            (name, _) => format!("{name}/"),
        };
        let mut map: HashMap<String, String> = HashMap::new();
        for (i, name) in function.input.iter().enumerate() {
            map.insert(name.clone(), call.input.get(i).cloned().unwrap_or_default());
        }
        // An output that is an input, or that another output names too, needs a node of its own.
        let mut aliases = vec![];
        for (name, actual) in function.output.iter().zip(&call.output).filter(|(_, actual)| !actual.is_empty()) {
            if map.contains_key(name) {
                aliases.push((name.clone(), actual.clone()));
            } else {
                map.insert(name.clone(), actual.clone());
            }
        }
        let mut body = Body { expander: self, function, call, prefix: &prefix };
        let mut nodes = body.nodes(&function.node, &mut map, 0)?;
        for (name, actual) in aliases {
            let source = map.get(&name).cloned().unwrap_or_default();
            nodes.push(
                NodeProto::new("Identity", &[source], std::slice::from_ref(&actual)).named(format!("{prefix}{actual}")),
            );
        }
        let inner = |v: &&ValueInfoProto| !function.input.contains(&v.name);
        let renamed = |v: &ValueInfoProto| Some(ValueInfoProto { name: map.get(&v.name)?.clone(), ..v.clone() });
        let infos = function.value_info.iter().filter(inner).filter_map(renamed).collect();
        Ok((nodes, infos))
    }
}

/// One call being expanded.
struct Body<'e, 'a, 'f> {
    expander: &'e mut Expander<'a>,
    function: &'f FunctionProto,
    call: &'f NodeProto,
    prefix: &'f str,
}

impl Body<'_, '_, '_> {
    /// The nodes under new names. `map` holds what names stand for and gets this level's new ones.
    fn nodes(
        &mut self,
        nodes: &[NodeProto],
        map: &mut HashMap<String, String>,
        depth: usize,
    ) -> Result<Vec<NodeProto>, Fault> {
        self.count(nodes)?;
        for output in nodes.iter().flat_map(|n| &n.output).filter(|o| !o.is_empty()) {
            // Inside a body a name may hide one outside.
            if depth > 0 || !map.contains_key(output) {
                let fresh = self.expander.fresh(format!("{}{output}", self.prefix));
                map.insert(output.clone(), fresh);
            }
        }
        nodes.iter().map(|node| self.node(node, map, depth)).collect()
    }

    fn node(&mut self, node: &NodeProto, map: &HashMap<String, String>, depth: usize) -> Result<NodeProto, Fault> {
        let renamed = |name: &String| match map.get(name) {
            Some(known) => known.clone(),
            None if name.is_empty() => String::new(),
            // Defined by nothing: the graph's check will say so.
            None => format!("{}{name}", self.prefix),
        };
        let input = node.input.iter().map(renamed).collect();
        let output = node.output.iter().map(renamed).collect();
        let name = if node.name.is_empty() { String::new() } else { format!("{}{}", self.prefix, node.name) };
        let mut attributes = Vec::with_capacity(node.attribute.len());
        for attribute in &node.attribute {
            attributes.extend(self.attribute(attribute, map, depth)?);
        }
        Ok(NodeProto {
            input,
            output,
            name,
            attribute: attributes,
            op_type: node.op_type.clone(),
            domain: node.domain.clone(),
            overload: node.overload.clone(),
            metadata_props: node.metadata_props.clone(),
            ..NodeProto::default()
        })
    }

    /// The attribute with references resolved; `None` where the call leaves it out and it has no default.
    fn attribute(
        &mut self,
        attribute: &AttributeProto,
        map: &HashMap<String, String>,
        depth: usize,
    ) -> Result<Option<AttributeProto>, Fault> {
        if !attribute.ref_attr_name.is_empty() {
            let given = self.call.attr(&attribute.ref_attr_name);
            let default = || self.function.attribute_proto.iter().find(|a| a.name == attribute.ref_attr_name);
            let value = given.or_else(default).cloned();
            return Ok(value.map(|value| AttributeProto { name: attribute.name.clone(), ..value }));
        }
        if attribute.g.is_none() && attribute.graphs.is_empty() {
            return Ok(Some(attribute.clone()));
        }
        if depth >= BODY_DEPTH_MAX {
            return Err(Fault::TooDeep { place: format!("function {}", self.function.name) });
        }
        let mut renamed =
            AttributeProto { name: attribute.name.clone(), r#type: attribute.r#type, ..Default::default() };
        if let Some(graph) = &attribute.g {
            renamed.g = Some(Box::new(self.graph(graph, map, depth + 1)?));
        }
        for graph in &attribute.graphs {
            let graph = self.graph(graph, map, depth + 1)?;
            renamed.graphs.push(graph);
        }
        Ok(Some(renamed))
    }

    fn graph(
        &mut self,
        graph: &GraphProto,
        outer: &HashMap<String, String>,
        depth: usize,
    ) -> Result<GraphProto, Fault> {
        let values = graph.initializer.len() + graph.input.len() + graph.output.len() + graph.value_info.len();
        self.expander.bytes += (values * size_of::<tandem_onnx_proto::TensorProto>()) as u64;
        let mut map = outer.clone();
        let mut out = GraphProto { name: graph.name.clone(), ..GraphProto::default() };
        let sparse_names = graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref()).map(|v| &v.name);
        let locals = graph.input.iter().map(|v| &v.name).chain(graph.initializer.iter().map(|t| &t.name));
        for name in locals.chain(sparse_names) {
            let fresh = self.expander.fresh(format!("{}{name}", self.prefix));
            map.insert(name.clone(), fresh);
        }
        out.node = self.nodes(&graph.node, &mut map, depth)?;
        let renamed = |name: &String| map.get(name).cloned().unwrap_or_else(|| format!("{}{name}", self.prefix));
        let infos = |list: &[ValueInfoProto]| -> Vec<ValueInfoProto> {
            list.iter().map(|v| ValueInfoProto { name: renamed(&v.name), ..v.clone() }).collect()
        };
        out.input = infos(&graph.input);
        out.output = infos(&graph.output);
        out.value_info = infos(&graph.value_info);
        out.initializer = graph.initializer.clone();
        out.initializer.iter_mut().for_each(|t| t.name = renamed(&t.name));
        out.sparse_initializer = graph.sparse_initializer.clone();
        for values in out.sparse_initializer.iter_mut().filter_map(|s| s.values.as_mut()) {
            values.name = renamed(&values.name);
        }
        Ok(out)
    }

    fn count(&mut self, nodes: &[NodeProto]) -> Result<(), Fault> {
        let strings =
            |list: &[String]| -> usize { list.iter().map(|s| s.len() + self.prefix.len() + size_of::<String>()).sum() };
        let attribute = |a: &AttributeProto| {
            size_of::<AttributeProto>() + a.ints.len() * 8 + a.floats.len() * 4 + a.strings.len() * 64 + a.s.len()
        };
        for node in nodes {
            let names: usize = strings(&node.input) + strings(&node.output);
            let attributes: usize = node.attribute.iter().map(attribute).sum();
            self.expander.bytes += (size_of::<NodeProto>() + names + attributes) as u64;
        }
        self.expander.nodes += nodes.len();
        if self.expander.nodes > NODES_MAX || self.expander.bytes > EXPANDED_BYTES_MAX {
            return Err(Fault::TooManyNodes);
        }
        Ok(())
    }
}
