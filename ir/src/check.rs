//! Findings: what is wrong, or worth knowing, in a document. Every finding, not the first.

use std::collections::HashSet;
use std::fmt;

use crate::dtype::DType;
use crate::graph::{Graph, TensorId};
use crate::limits::{BATCH_MAX, BODY_DEPTH_MAX, CORES_MAX};
use crate::machine::{Device, DeviceKind, Machine};
use crate::profile::{Method, Profile};

mod against;
mod plan;
mod route;

pub use against::check_plan_against;
pub use plan::{check_plan, check_serving};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The document cannot be used.
    Error,
    /// It can be used, and somebody should look.
    Warning,
    /// Worth knowing.
    Note,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about, as a path into the document: `route[0] "resnet50" batch 4: step[3]`.
    pub component: String,
    /// What was expected and what was found.
    pub message: String,
}

impl Finding {
    /// An error.
    pub fn error(component: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, component: component.into(), message: message.into() }
    }

    /// A warning.
    pub fn warning(component: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, component: component.into(), message: message.into() }
    }

    /// A note.
    pub fn note(component: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Note, component: component.into(), message: message.into() }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.severity, self.component, self.message)
    }
}

/// Whether any finding is an error.
pub fn has_errors(findings: &[Finding]) -> bool {
    findings.iter().any(|f| f.severity == Severity::Error)
}

/// Collects findings about one component.
pub(crate) struct Collect<'f> {
    findings: &'f mut Vec<Finding>,
    prefix: String,
}

impl<'f> Collect<'f> {
    pub(crate) fn new(findings: &'f mut Vec<Finding>, prefix: impl Into<String>) -> Self {
        Self { findings, prefix: prefix.into() }
    }

    /// The same for a component inside.
    pub(crate) fn inside(&mut self, component: &str) -> Collect<'_> {
        let colon = if self.prefix.is_empty() { "" } else { ": " };
        Collect { prefix: format!("{}{colon}{component}", self.prefix), findings: self.findings }
    }

    pub(crate) fn error(&mut self, message: impl Into<String>) {
        self.findings.push(Finding::error(self.prefix.clone(), message));
    }

    pub(crate) fn warning(&mut self, message: impl Into<String>) {
        self.findings.push(Finding::warning(self.prefix.clone(), message));
    }

    pub(crate) fn note(&mut self, message: impl Into<String>) {
        self.findings.push(Finding::note(self.prefix.clone(), message));
    }

    /// An error unless `holds`.
    pub(crate) fn expect(&mut self, holds: bool, message: impl FnOnce() -> String) {
        if !holds {
            self.error(message());
        }
    }
}

/// Positions whose value occurred before.
pub(crate) fn repeated<T: PartialEq>(values: &[T]) -> impl Iterator<Item = usize> + '_ {
    (1..values.len()).filter(|i| values[..*i].contains(&values[*i]))
}

/// Checks a graph: the order of nodes, names, how deep bodies nest, and what is not known of its values.
pub fn check_graph(graph: &Graph) -> Vec<Finding> {
    let mut findings = vec![];
    graph_in(graph, &mut Collect::new(&mut findings, "graph"), 0);
    findings
}

fn graph_in(graph: &Graph, out: &mut Collect<'_>, depth: usize) {
    if depth > BODY_DEPTH_MAX {
        return out.error(format!("expected bodies nested at most {BODY_DEPTH_MAX} deep, found deeper ones"));
    }
    let (tensors, mut names) = (graph.tensors.len(), HashSet::new());
    for id in graph.node_ids() {
        let (node, name) = (graph.node(id), graph.node_name(id));
        let mut at = out.inside(&format!("node \"{name}\" ({})", node.op));
        for t in node.reads().into_iter().chain(node.writes()) {
            at.expect(t.index() < tensors, || format!("expected one of {tensors} tensors, found number {}", t.0));
        }
        for t in node.reads().into_iter().filter(|t| t.index() < tensors) {
            let late = graph.tensor(t).producer.is_some_and(|p| p >= id);
            at.expect(!late, || format!("reads \"{}\", which a later node makes", graph.tensor(t).name));
        }
        for t in node.writes().filter(|t| t.index() < tensors) {
            at.expect(graph.tensor(t).producer == Some(id), || {
                format!("makes \"{}\", which names another producer", graph.tensor(t).name)
            });
        }
        for (key, body) in &node.bodies {
            graph_in(body, &mut at.inside(key), depth + 1);
        }
        at.expect(names.insert(name), || "expected a name of its own, found one that another node has".into());
    }
    if depth > 0 {
        return;
    }
    let outside = |t: &&TensorId| t.index() >= tensors;
    for t in graph.inputs.iter().chain(&graph.outputs).filter(outside) {
        out.error(format!("expected one of {tensors} tensors as input or output, found number {}", t.0));
    }
    let made = graph.placeable().flat_map(|id| graph.node(id).writes()).filter(|t| t.index() < tensors);
    let unknown =
        made.filter(|t| graph.tensor(*t).fact.crosses_devices() && graph.tensor(*t).fact.bytes_at(1).is_none());
    match unknown.count() {
        0 => {}
        n => out.note(format!("type or shape of {n} values is unknown: their cost and memory are estimates")),
    }
}

/// Checks a machine: names, the host first, rates, links both ways.
pub fn check_machine(machine: &Machine) -> Vec<Finding> {
    let mut findings = vec![];
    machine_in(machine, &mut Collect::new(&mut findings, format!("machine \"{}\"", machine.name)));
    findings
}

fn machine_in(machine: &Machine, out: &mut Collect<'_>) {
    match machine.devices.first() {
        None => out.error("expected at least the host CPU, found no device"),
        Some(host) => out.expect(host.kind == DeviceKind::Cpu, || {
            format!("expected the host CPU as first device, found \"{}\"", host.name)
        }),
    }
    let names: Vec<&str> = machine.devices.iter().map(|d| d.name.as_str()).collect();
    for i in repeated(&names) {
        out.error(format!("expected unique device names, found \"{}\" again", names[i]));
    }
    for device in &machine.devices {
        device_in(device, &mut out.inside(&format!("device \"{}\"", device.name)));
    }
    let ends: Vec<(&str, &str)> = machine.links.iter().map(|l| (l.from.as_str(), l.to.as_str())).collect();
    for i in repeated(&ends) {
        out.error(format!("expected one link from \"{}\" to \"{}\", found another", ends[i].0, ends[i].1));
    }
    for link in &machine.links {
        let mut at = out.inside(&format!("link {}>{}", link.from, link.to));
        for end in [&link.from, &link.to] {
            at.expect(names.contains(&end.as_str()), || format!("expected a device, found \"{end}\""));
        }
        at.expect(link.from != link.to, || "expected two devices, found one twice".into());
        at.expect(link.bytes_per_s > 0, || "expected a bandwidth above 0, found 0".into());
        let back = machine.link(&link.to, &link.from);
        at.expect(back.is_none_or(|b| b.shared == link.shared), || {
            "expected the same `shared` in both directions, found different ones".into()
        });
    }
    for name in names.iter().skip(1) {
        for (from, to) in [(names[0], *name), (*name, names[0])] {
            if machine.link(from, to).is_none() {
                out.warning(format!("no link from \"{from}\" to \"{to}\": what needs it must go by way of others"));
            }
        }
    }
}

fn device_in(device: &Device, at: &mut Collect<'_>) {
    let sound = !device.name.is_empty() && !device.name.contains(['<', '>', '#']);
    at.expect(sound, || "expected a name without <, > and #, which lanes use".into());
    at.expect(device.cores > 0 && device.lanes_max > 0, || {
        "expected cores and lanes_max of at least 1, found 0".into()
    });
    at.expect(device.cores <= CORES_MAX, || format!("expected at most {CORES_MAX} cores, found {}", device.cores));
    at.expect(device.memory.0 > 0, || "expected memory, found none".into());
    at.expect(!device.engines.is_empty(), || "expected at least one engine, found none".into());
    let facts: Vec<&str> = device.facts.iter().map(|(k, _)| k.as_str()).collect();
    for i in repeated(&facts) {
        at.error(format!("expected each fact once, found \"{}\" again", facts[i]));
    }
    let Some(rates) = &device.rates else { return };
    let types: Vec<DType> = rates.flops_per_s.iter().map(|(t, _)| *t).collect();
    for i in repeated(&types) {
        at.error(format!("expected one rate an element type, found {} again", types[i]));
    }
    at.expect(types.contains(&DType::F32), || "expected a rate for f32, found none".into());
    at.expect(rates.flops_per_s.iter().all(|(_, r)| *r > 0), || "expected rates above 0, found 0".into());
    at.expect(rates.memory_bytes_per_s > 0, || "expected a memory bandwidth above 0, found 0".into());
    let efficiency = rates.efficiency_permille;
    at.expect((1..=1000).contains(&efficiency), || format!("expected an efficiency of 1 to 1000, found {efficiency}"));
}

/// Checks a profile: its machine, that tables cover a node once, that samples speak of devices there are.
pub fn check_profile(profile: &Profile) -> Vec<Finding> {
    let mut findings = vec![];
    let out = &mut Collect::new(&mut findings, "profile");
    machine_in(&profile.machine, &mut out.inside("machine"));
    let known = |name: &str| profile.machine.device(name).is_some();
    let sampled: HashSet<(&str, &str, &str)> = profile
        .samples
        .keys()
        .map(|(signature, s)| (signature.0.as_str(), s.device.as_str(), s.engine.as_str()))
        .collect();
    for table in &profile.tables {
        let mut at = out.inside(&format!("table of \"{}\" on \"{}\"", table.model, table.device));
        at.expect(known(&table.device), || format!("expected a device of the machine, found \"{}\"", table.device));
        let mut seen = HashSet::new();
        let mut unsampled = 0;
        for (i, atom) in table.atoms.iter().enumerate() {
            let ascending = !atom.nodes.is_empty() && atom.nodes.is_sorted_by(|a, b| a < b);
            at.expect(ascending, || format!("atom[{i}]: expected ascending nodes, found others"));
            for node in atom.nodes.iter().filter(|n| !seen.insert(**n)) {
                at.error(format!("atom[{i}]: expected each node in one atom, found node {} again", node.0));
            }
            let key = (atom.signature.0.as_str(), table.device.as_str(), table.engine.as_str());
            unsampled += usize::from(!sampled.contains(&key));
        }
        if unsampled > 0 {
            at.warning(format!("{unsampled} of {} atoms have no sample", table.atoms.len()));
        }
    }
    let samples = profile.samples.iter().map(|((signature, setting), t)| (signature.0.as_str(), setting, Some(t)));
    let launches = profile.launches.iter().map(|(setting, t)| ("launch", setting, Some(t)));
    let runs = profile.segments.iter().map(|s| ("run", &s.setting, Some(&s.timing)));
    let interference = profile.interference.iter().map(|i| ("interference", &i.setting, None));
    for (what, setting, timing) in samples.chain(launches).chain(runs).chain(interference) {
        let mut at = out.inside(&format!("{what} on \"{}\" ({})", setting.device, setting.engine));
        at.expect(known(&setting.device), || format!("expected a device of the machine, found \"{}\"", setting.device));
        at.expect(setting.threads > 0, || "expected at least one thread, found 0".into());
        at.expect(setting.batch <= BATCH_MAX, || {
            format!("expected a batch of at most {BATCH_MAX}, found {}", setting.batch)
        });
        if timing.is_some_and(|t| t.method != Method::Modelled && t.repeats == 0) {
            at.warning("measured with no repeats");
        }
    }
    for link in &profile.links {
        let mut at = out.inside(&format!("copy {}>{}", link.from, link.to));
        at.expect(known(&link.from) && known(&link.to), || "expected devices of the machine, found others".into());
    }
    for i in &profile.interference {
        let mut at = out.inside(&format!("interference of {} lanes on \"{}\"", i.lanes, i.setting.device));
        at.expect(i.lanes >= 2, || "expected at least two lanes".into());
        if i.factor_permille < 1000 {
            at.warning(format!("a factor of {} in 1000: lanes would speed each other up", i.factor_permille));
        }
    }
    findings
}

#[cfg(test)]
#[path = "check/tests.rs"]
mod tests;
