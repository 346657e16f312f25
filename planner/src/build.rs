//! Builds [`Problem`]s of one graph on one machine: the same atoms at every batch and lane configuration.

use std::collections::BTreeMap;

use tandem_ir::graph::{Graph, NodeId, TensorId};
use tandem_ir::machine::{DeviceKind, Machine};
use tandem_ir::plan::Part;
use tandem_ir::profile::Profile;
use tandem_ir::units::{Bytes, Nanos};
use tandem_ir::{segment, work};

use crate::cost::{self, CostModel, GroupCosts, Measured, Roofline, value_bytes};
use crate::error::PlanError;
use crate::problem::{Atom, DeviceModel, HOST, Problem, Value};
use crate::simplify::{Clash, PassReport, Simplified, simplify};

/// A lane configuration of the host CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneConfig {
    /// Parallel instances of the route.
    pub lanes: u32,
    /// Threads of each.
    pub threads: u32,
}

/// One graph on one machine.
#[derive(Clone, Debug)]
pub struct Workbench<'a> {
    /// The model.
    pub graph: &'a Graph,
    /// The machine.
    pub machine: &'a Machine,
    /// What was measured, if anything was.
    pub profile: Option<&'a Profile>,
    /// Groups of nodes that are placed as one.
    pub atoms: Vec<Vec<NodeId>>,
    /// What simplification did.
    pub passes: Vec<PassReport>,
    /// Where it had to join what no device can run together.
    pub clashes: Vec<Clash>,
    /// Devices that each node may run on, as bits.
    pub allowed: Vec<u32>,
    /// Why nodes may not run everywhere: reason, devices left (as bits), nodes.
    pub pins: Vec<(String, u32, Vec<NodeId>)>,
}

impl<'a> Workbench<'a> {
    /// Groups the graph's nodes and finds out where each may run.
    ///
    /// # Errors
    /// Pins that name unknown nodes or devices, nodes that can run nowhere, a device of which nothing is known.
    pub fn new(
        graph: &'a Graph,
        machine: &'a Machine,
        profile: Option<&'a Profile>,
        pins: &[Part],
    ) -> Result<Self, PlanError> {
        let table = |d: &tandem_ir::machine::Device| profile.and_then(|p| p.table(graph.fingerprint, &d.name));
        let mut groups = vec![];
        let mut fuse = false;
        for device in &machine.devices {
            match (table(device), &device.rates) {
                (Some(t), _) => groups.push(t.atoms.iter().map(|a| a.nodes.clone()).collect::<Vec<_>>()),
                (None, Some(_)) => fuse = true,
                (None, None) => return Err(PlanError::NoCosts { device: device.name.clone() }),
            }
        }
        let groups: Vec<&[Vec<NodeId>]> = groups.iter().map(Vec::as_slice).collect();
        let (allowed, pins) = allowed(graph, machine, pins)?;
        let Simplified { atoms, passes, clashes } = simplify(graph, &groups, fuse, &allowed);
        Ok(Self { graph, machine, profile, atoms, passes, clashes, allowed, pins })
    }

    /// The same graph in other groups (a hand-edited placement may part an atom): each atom is split where labels differ.
    #[must_use]
    pub fn split(&self, label: &[usize]) -> Self {
        let mut other = self.clone();
        let parted = |atom: &Vec<NodeId>| atom.iter().any(|n| label[n.index()] != label[atom[0].index()]);
        if self.atoms.iter().any(parted) {
            // Pieces of an atom may depend on each other in turns, so parted atoms fall to single nodes.
            other.atoms = vec![];
            for atom in &self.atoms {
                match parted(atom) {
                    true => other.atoms.extend(atom.iter().map(|n| vec![*n])),
                    false => other.atoms.push(atom.clone()),
                }
            }
            other.atoms = crate::simplify::simplify_groups(self.graph, &other.atoms);
        }
        other
    }

    /// Numbers of threads, at most `cores`, for which CPU costs are known: of samples, or powers of two and all of the cores
    /// where modelled.
    pub fn thread_choices(&self, cores: u32) -> Vec<u32> {
        let host = &self.machine.devices[HOST];
        let measured = self.profile.and_then(|p| p.table(self.graph.fingerprint, &host.name).map(|t| (p, t)));
        let mut choices: Vec<u32> = match measured {
            Some((profile, table)) => {
                let mine = profile
                    .samples
                    .keys()
                    .map(|(_, s)| s)
                    .filter(|s| s.device == host.name && s.engine == table.engine);
                mine.map(|s| s.threads).collect()
            }
            None => (0..16).map(|k| 1 << k).chain([cores]).collect(),
        };
        choices.retain(|m| *m >= 1 && *m <= cores.max(1));
        choices.sort_unstable();
        choices.dedup();
        choices
    }

    /// Lane configurations worth trying on so many of the host's cores: for each number of threads one lane, as many as
    /// fit, and powers of two between. The host's lanes go with its cores.
    pub fn lane_configs(&self, cores: u32) -> Vec<LaneConfig> {
        let host = &self.machine.devices[HOST];
        let lanes_max = u64::from(host.lanes_max) * u64::from(cores) / u64::from(host.cores.max(1));
        let lanes_max = u32::try_from(lanes_max).unwrap_or(u32::MAX).max(1);
        let mut configs = vec![];
        for threads in self.thread_choices(cores) {
            let most = (cores.max(1) / threads).clamp(1, lanes_max);
            let mut lanes: Vec<u32> = (0..16).map(|k| 1u32 << k).filter(|n| *n < most).collect();
            lanes.push(most);
            configs.extend(lanes.into_iter().map(|lanes| LaneConfig { lanes, threads }));
        }
        configs
    }

    /// The problem at a batch and lane configuration.
    ///
    /// # Errors
    /// Nodes that can run nowhere, costs that are not known, an interference factor neither measured nor modelled.
    pub fn problem(&self, batch: u64, config: LaneConfig) -> Result<Problem, PlanError> {
        self.build(batch, config, true)
    }

    /// The same without interference, whether or not it is known: what floors are proven on.
    ///
    /// # Errors
    /// Nodes that can run nowhere, costs that are not known.
    pub fn undisturbed(&self, batch: u64, config: LaneConfig) -> Result<Problem, PlanError> {
        self.build(batch, config, false)
    }

    fn build(&self, batch: u64, config: LaneConfig, interference: bool) -> Result<Problem, PlanError> {
        let (graph, machine) = (self.graph, self.machine);
        let mut notes = vec![];
        let mut models: Vec<Box<dyn CostModel>> = vec![];
        for (d, device) in machine.devices.iter().enumerate() {
            let threads = if device.kind == DeviceKind::Cpu { config.threads } else { 1 };
            let model = self.model(d, batch, threads, &mut notes)?;
            models.push(model);
        }
        let groups: Vec<GroupCosts<'_>> = models.iter().map(|m| GroupCosts::new(graph, m.as_ref(), batch)).collect();
        let mut modelled = false;
        let mut atoms = vec![];
        for nodes in &self.atoms {
            let allowed = nodes.iter().fold(u32::MAX, |a, n| a & self.allowed[n.index()]);
            let mut time = vec![None; machine.devices.len()];
            for (d, costs) in groups.iter().enumerate().filter(|(d, _)| allowed >> d & 1 == 1) {
                if let Ok(cost) = costs.group(nodes) {
                    time[d] = Some(cost.time);
                    modelled |= cost.modelled;
                }
            }
            if time.iter().all(Option::is_none) {
                return Err(self.unrunnable(nodes, config));
            }
            atoms.push(Atom { nodes: nodes.clone(), time, weights: Bytes(crate::emit::weight_bytes(graph, nodes)) });
        }
        let (links, links_measured) = cost::links(machine, self.profile);
        let factors = match interference {
            true => self.factors(batch, config, &atoms)?,
            false => vec![1000; machine.devices.len()],
        };
        let launches: Vec<cost::Cost> = models.iter().map(|m| m.launch()).collect();
        let devices = machine.devices.iter().enumerate().map(|(d, device)| DeviceModel {
            name: device.name.clone(),
            kind: device.kind,
            launch: launches[d].time,
            cut_loss: cut_loss(&atoms, d),
            operator_overhead: device.operator_overhead,
            memory: device.memory,
            lanes: if d == HOST { config.lanes } else { 1 },
            factor_permille: factors[d],
        });
        let values = values(graph, &self.atoms, batch);
        let mut problem = Problem::new(devices.collect(), links, atoms, values).map_err(PlanError::Problem)?;
        problem.batch = batch;
        problem.threads = config.threads;
        problem.modelled = modelled || (machine.devices.len() > 1 && !links_measured);
        problem.notes = notes;
        Ok(problem)
    }

    fn model(
        &self,
        d: usize,
        batch: u64,
        threads: u32,
        notes: &mut Vec<String>,
    ) -> Result<Box<dyn CostModel>, PlanError> {
        let device = &self.machine.devices[d];
        let table = self.profile.and_then(|p| p.table(self.graph.fingerprint, &device.name).map(|t| (p, t)));
        if let Some((profile, table)) = table {
            return Ok(Box::new(Measured::new(profile, table, device, batch, threads)));
        }
        let host = &self.machine.devices[HOST];
        let model = Roofline::new(self.graph, device, host, batch, threads);
        let model = model.ok_or_else(|| PlanError::NoCosts { device: device.name.clone() })?;
        if model.unknown > 0 {
            let (n, name) = (model.unknown, &device.name);
            notes.push(format!("on {name}, what is not known of the work of {n} kernels counts as dispatch only"));
        }
        Ok(Box::new(model))
    }

    /// Why a group has no device: what restricts its nodes, and what joined them where that is the fault.
    fn unrunnable(&self, nodes: &[NodeId], config: LaneConfig) -> PlanError {
        let mut reasons = vec![];
        for (reason, _, restricted) in &self.pins {
            let mine: Vec<NodeId> = restricted.iter().copied().filter(|n| nodes.binary_search(n).is_ok()).collect();
            if let Some(first) = mine.first() {
                let more = if mine.len() > 1 { format!(" and {} more", mine.len() - 1) } else { String::new() };
                reasons.push(format!("\"{}\"{more}: {reason}", self.graph.node_name(*first)));
            }
        }
        if nodes.iter().fold(u32::MAX, |mask, n| mask & self.allowed[n.index()]) != 0 {
            reasons.push(format!("the profile has no sample at {} threads", config.threads));
        }
        let pinned = reasons.iter().any(|r| r.contains(PINNED));
        let inside = |n: &NodeId| nodes.binary_search(n).is_ok();
        let clash = self.clashes.iter().find(|c| inside(&c.nodes.0) && inside(&c.nodes.1));
        let name = |n: NodeId| self.graph.node_name(n);
        match clash {
            Some(Clash { nodes: (a, b), pass, reason }) => {
                PlanError::Clash { nodes: (name(*a), name(*b)), pass, reason, pinned, reasons }
            }
            None => PlanError::Unrunnable { node: name(nodes[0]), operators: nodes.len(), pinned, reasons },
        }
    }

    /// Interference of each device's lanes, in per mille.
    fn factors(&self, batch: u64, config: LaneConfig, atoms: &[Atom]) -> Result<Vec<u64>, PlanError> {
        let mut factors = vec![1000u64; self.machine.devices.len()];
        if config.lanes <= 1 {
            return Ok(factors);
        }
        let host = &self.machine.devices[HOST];
        let samples = self.profile.iter().flat_map(|p| &p.interference).filter(|i| {
            let s = &i.setting;
            i.graph == self.graph.fingerprint
                && s.device == host.name
                && s.threads == config.threads
                && i.lanes == config.lanes
        });
        // The sample at this batch, else the worst of the others.
        let (mut exact, mut worst) = (None, None);
        for sample in samples {
            worst = worst.max(Some(sample.factor_permille));
            exact = exact.or((sample.setting.batch == batch).then_some(sample.factor_permille));
        }
        factors[HOST] = match (exact.or(worst), &host.rates) {
            (Some(factor), _) => factor.max(1000),
            (None, Some(rates)) => self.bandwidth_factor(batch, config.lanes, rates.memory_bytes_per_s, atoms),
            (None, None) => {
                return Err(PlanError::NoInterference {
                    device: host.name.clone(),
                    lanes: config.lanes,
                    threads: config.threads,
                });
            }
        };
        Ok(factors)
    }

    /// Lanes slow down by max(1, sum of their bandwidth demand / the machine's bandwidth), the demand being the model's
    /// traffic over its time on the CPU.
    fn bandwidth_factor(&self, batch: u64, lanes: u32, bytes_per_s: u64, atoms: &[Atom]) -> u64 {
        let (mut bytes, mut time) = (0u128, 0u128);
        for atom in atoms {
            if let Some(t) = atom.time[HOST] {
                time += u128::from(t.0);
                let work = atom.nodes.iter().filter_map(|n| work::node_work(self.graph, *n, batch));
                bytes += work.map(|w| u128::from(w.traffic().0)).sum::<u128>();
            }
        }
        let demand = bytes * 1_000_000_000 * u128::from(lanes) * 1000;
        let factor = demand.div_ceil((time * u128::from(bytes_per_s)).max(1));
        u64::try_from(factor).unwrap_or(u64::MAX).clamp(1000, 1000 * u64::from(lanes))
    }
}

/// How the reason for a pin begins.
const PINNED: &str = "the author pins it to ";

/// Devices each node may run on, and why.
#[allow(clippy::type_complexity)]
fn allowed(
    graph: &Graph,
    machine: &Machine,
    pins: &[Part],
) -> Result<(Vec<u32>, Vec<(String, u32, Vec<NodeId>)>), PlanError> {
    let all = ((1u64 << machine.devices.len()) - 1) as u32;
    let mut allowed = vec![all; graph.nodes.len()];
    let mut reasons: BTreeMap<(String, u32), Vec<NodeId>> = BTreeMap::new();
    let mut restrict = |id: NodeId, mask: u32, reason: String| {
        if all & !mask != 0 {
            allowed[id.index()] &= mask;
            reasons.entry((reason, mask & all)).or_default().push(id);
        }
    };
    let authored = tandem_ir::placement::expand_parts(graph, pins, "pins").map_err(PlanError::Pins)?;
    for id in graph.placeable() {
        for (d, device) in machine.devices.iter().enumerate() {
            if let Some(op) = unsupported(graph, id, &device.unsupported) {
                restrict(id, !(1 << d), format!("{} cannot run {op}", device.name));
            }
        }
        if let Some(part) = authored[id.index()] {
            let name = &pins[part].device;
            let d = machine.device_index(name).ok_or_else(|| PlanError::UnknownDevice { device: name.clone() })?;
            restrict(id, 1 << d, format!("{PINNED}{name}"));
        }
        // The caller hands such values to, and takes them from, the host.
        let inputs = graph.node(id).reads().into_iter().filter(|t| graph.inputs.contains(t));
        let ends = inputs.chain(graph.node(id).writes().filter(|t| graph.is_output(*t)));
        if ends.into_iter().any(|t| !graph.tensor(t).fact.crosses_devices()) {
            restrict(
                id,
                1 << HOST,
                "it reads or makes a value of the caller that cannot be copied between devices".into(),
            );
        }
    }
    Ok((allowed, reasons.into_iter().map(|((reason, mask), nodes)| (reason, mask, nodes)).collect()))
}

/// Per mille of a device's whole work that one more cut costs. Measured on ONNX Runtime (docs/decisions/0004): ResNet-50 in
/// 8 pieces takes 1.06 times the whole's time, in 16 pieces 1.09.
const CUT_LOSS_PERMILLE: u64 = 8;

/// What a cut loses on a device.
fn cut_loss(atoms: &[Atom], device: usize) -> Nanos {
    let work: Nanos = atoms.iter().filter_map(|a| a.time[device]).sum();
    Nanos(work.0 / 1000 * CUT_LOSS_PERMILLE)
}

/// The operator (of the node or of its bodies) that is in the list.
fn unsupported(graph: &Graph, id: NodeId, list: &[String]) -> Option<String> {
    if list.is_empty() {
        return None;
    }
    let node = graph.node(id);
    let name = node.op.to_string();
    if list.contains(&name) {
        return Some(name);
    }
    node.bodies.values().find_map(|body| body.node_ids().find_map(|n| unsupported(body, n, list)))
}

/// Values between atoms, graph inputs that are read, and graph outputs that are made; ascending by tensor.
fn values(graph: &Graph, atoms: &[Vec<NodeId>], batch: u64) -> Vec<Value> {
    let mut atom_of = vec![usize::MAX; graph.nodes.len()];
    atoms.iter().enumerate().for_each(|(a, nodes)| nodes.iter().for_each(|n| atom_of[n.index()] = a));
    let outputs: std::collections::BTreeSet<TensorId> = graph.outputs.iter().copied().collect();
    let mut values = vec![];
    for id in graph.tensor_ids().filter(|t| !graph.is_constant(*t)) {
        let tensor = graph.tensor(id);
        let producer = tensor.producer.map(|p| atom_of[p.index()]);
        let readers = tensor.consumers.iter().map(|c| atom_of[c.index()]);
        let mut consumers: Vec<usize> = readers.filter(|a| *a != usize::MAX && Some(*a) != producer).collect();
        consumers.sort_unstable();
        consumers.dedup();
        let output = outputs.contains(&id) && producer.is_some();
        if !consumers.is_empty() || output {
            values.push(Value { tensor: Some(id), bytes: value_bytes(graph, id, batch), producer, consumers, output });
        }
    }
    values
}

/// Uncuttable pairs whose nodes have different labels.
pub fn parted_pair(graph: &Graph, label: &[usize]) -> Option<(NodeId, NodeId)> {
    segment::uncuttable(graph).into_iter().find(|(a, b)| label[a.index()] != label[b.index()])
}
