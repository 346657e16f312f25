//! The planner's view of one tenant at one shape point and one lane configuration: integers only, no names of operators.
//!
//! Atoms are groups of nodes that are placed as one, numbered in a topological order. Values flow between atoms; graph
//! inputs start in the host's memory (device 0) and graph outputs must end there. A route has one lane a device; further
//! CPU lanes are parallel instances of the same route ([`DeviceModel::lanes`]).
//!
//! Deliberately absent: where the numbers come from ([`crate::cost`]) and what the atoms are made of
//! ([`crate::simplify`]).

use tandem_ir::graph::{NodeId, TensorId};
use tandem_ir::machine::{DeviceKind, Link};
use tandem_ir::units::{Bytes, Nanos};

pub use tandem_ir::machine::HOST;

/// An atom's position in [`Problem::atoms`].
pub type AtomId = usize;

/// What the timeline knows of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceModel {
    /// Its name in plans.
    pub name: String,
    /// What kind it is.
    pub kind: DeviceKind,
    /// Cost of launching a segment.
    pub launch: Nanos,
    /// What an engine loses where a run of operators is cut in two: fusion across the cut, a change of layout. Only the
    /// judge charges it, for each segment that is not the whole graph; lower bounds leave it out.
    pub cut_loss: Nanos,
    /// Least cost of an operator, for what is estimated.
    pub operator_overhead: Nanos,
    /// Memory a plan may use.
    pub memory: Bytes,
    /// Instances of the route that run at once on it (CPU lanes); its busy time a batch is divided by this.
    pub lanes: u32,
    /// How much slower a segment is with all lanes busy, in per mille (1000: not at all).
    pub factor_permille: u64,
}

impl DeviceModel {
    /// What entering the device costs beside the copy: a launch, and the cut's loss.
    pub fn entry(&self) -> Nanos {
        self.launch + self.cut_loss
    }
}

/// A link in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkModel {
    /// Position of the device the bytes come from.
    pub from: usize,
    /// Position of the device they go to.
    pub to: usize,
    /// Position of its lane in [`Problem::link_lanes`]: both directions of a shared link have the same.
    pub lane: usize,
    /// Its figures.
    pub link: Link,
}

/// A group of nodes placed as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Atom {
    /// Its nodes, ascending; empty in made-up problems.
    pub nodes: Vec<NodeId>,
    /// Duration by device; `None` where it cannot run or must not.
    pub time: Vec<Option<Nanos>>,
    /// Bytes of constants it reads.
    pub weights: Bytes,
}

/// A value that an atom reads and another (or the caller) made, or that the caller gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// Which tensor; `None` in made-up problems.
    pub tensor: Option<TensorId>,
    /// Its size.
    pub bytes: Bytes,
    /// The atom that makes it; `None` for graph inputs, which are in the host's memory.
    pub producer: Option<AtomId>,
    /// The atoms that read it, ascending, each once, the producer left out.
    pub consumers: Vec<AtomId>,
    /// Whether the caller gets it: it must end in the host's memory.
    pub output: bool,
}

/// A problem that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ProblemError {
    #[error("atom {atom} has {found} durations, but there are {expected} devices")]
    Durations { atom: usize, expected: usize, found: usize },
    #[error("atom {atom} can run on no device")]
    Unrunnable { atom: usize },
    #[error("value {value} is read by atom {consumer}, which does not come after its producer {producer}")]
    Order { value: usize, producer: usize, consumer: usize },
    #[error("expected 1 to {max} devices, found {found}")]
    Devices { max: usize, found: usize },
}

/// Devices of one machine that a problem can tell apart; a set of devices fits one word.
pub const DEVICES_MAX: usize = 32;

/// One tenant at one shape point and one lane configuration.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Devices; the first is the host.
    pub devices: Vec<DeviceModel>,
    /// Links, each direction by itself.
    pub links: Vec<LinkModel>,
    /// Names of the lanes that carry copies.
    pub link_lanes: Vec<String>,
    /// Atoms in a topological order.
    pub atoms: Vec<Atom>,
    /// Values between them.
    pub values: Vec<Value>,
    /// Batch size.
    pub batch: u64,
    /// Threads of a CPU lane.
    pub threads: u32,
    /// True when any cost was modelled or estimated, not measured.
    pub modelled: bool,
    /// What people should know of it.
    pub notes: Vec<String>,
    /// Values each atom reads, ascending.
    reads: Lists,
    /// Values each atom makes, ascending.
    writes: Lists,
    /// Atoms each atom depends on, ascending, each once.
    preds: Lists,
    /// Atoms that depend on it, ascending, each once.
    succs: Lists,
    /// Duration of each (value, link).
    copies: Vec<u64>,
    /// Links to take from device to device: none, one, or two by way of the host.
    hops: Vec<Vec<usize>>,
}

/// Lists of small integers, flat.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lists {
    start: Vec<u32>,
    items: Vec<u32>,
}

impl Lists {
    /// Builds from (list, item) pairs; sorts each list and drops repetitions.
    pub(crate) fn from_pairs(lists: usize, mut pairs: Vec<(u32, u32)>) -> Self {
        pairs.sort_unstable();
        pairs.dedup();
        let mut start = vec![0u32; lists + 1];
        pairs.iter().for_each(|(list, _)| start[*list as usize + 1] += 1);
        for i in 0..lists {
            start[i + 1] += start[i];
        }
        Self { start, items: pairs.into_iter().map(|(_, item)| item).collect() }
    }

    /// One list.
    pub(crate) fn get(&self, list: usize) -> &[u32] {
        &self.items[self.start[list] as usize..self.start[list + 1] as usize]
    }
}

impl Problem {
    /// Checks and links a problem. `links` may name a lane twice (a shared copy engine).
    ///
    /// # Errors
    /// What [`ProblemError`] says: wrong numbers of durations, atoms that run nowhere, an order that is not topological.
    pub fn new(
        devices: Vec<DeviceModel>,
        links: Vec<Link>,
        atoms: Vec<Atom>,
        mut values: Vec<Value>,
    ) -> Result<Self, ProblemError> {
        if devices.is_empty() || devices.len() > DEVICES_MAX {
            return Err(ProblemError::Devices { max: DEVICES_MAX, found: devices.len() });
        }
        for (i, atom) in atoms.iter().enumerate() {
            if atom.time.len() != devices.len() {
                let found = atom.time.len();
                return Err(ProblemError::Durations { atom: i, expected: devices.len(), found });
            }
            if atom.time.iter().all(Option::is_none) {
                return Err(ProblemError::Unrunnable { atom: i });
            }
        }
        for (i, value) in values.iter_mut().enumerate() {
            value.consumers.sort_unstable();
            value.consumers.dedup();
            let early = value.producer.zip(value.consumers.first().copied()).filter(|(p, c)| c <= p);
            if let Some((producer, consumer)) = early {
                return Err(ProblemError::Order { value: i, producer, consumer });
            }
        }
        let (links, link_lanes) = link_models(&devices, links);
        let (reads, writes, preds, succs) = adjacency(atoms.len(), &values);
        let hops = all_hops(devices.len(), &links);
        let copies = values.iter().flat_map(|v| links.iter().map(|l| l.link.duration(v.bytes).0)).collect();
        let (batch, threads, modelled, notes) = (1, 1, false, vec![]);
        Ok(Self {
            devices,
            links,
            link_lanes,
            atoms,
            values,
            batch,
            threads,
            modelled,
            notes,
            reads,
            writes,
            preds,
            succs,
            copies,
            hops,
        })
    }

    /// Duration of an atom on a device; `None` where it cannot run.
    pub fn time(&self, atom: AtomId, device: usize) -> Option<Nanos> {
        self.atoms[atom].time[device]
    }

    /// Whether an atom may run on more than one device.
    pub fn movable(&self, atom: AtomId) -> bool {
        self.atoms[atom].time.iter().flatten().nth(1).is_some()
    }

    /// The only device an atom can run on.
    pub fn pinned(&self, atom: AtomId) -> Option<usize> {
        match self.movable(atom) {
            true => None,
            false => self.atoms[atom].time.iter().position(Option::is_some),
        }
    }

    /// Values an atom reads.
    pub fn reads(&self, atom: AtomId) -> &[u32] {
        self.reads.get(atom)
    }

    /// Values an atom makes.
    pub fn writes(&self, atom: AtomId) -> &[u32] {
        self.writes.get(atom)
    }

    /// Atoms an atom depends on.
    pub fn preds(&self, atom: AtomId) -> &[u32] {
        self.preds.get(atom)
    }

    /// Atoms that depend on an atom.
    pub fn succs(&self, atom: AtomId) -> &[u32] {
        self.succs.get(atom)
    }

    /// The links a copy from one device to another takes: one, or two by way of the host; none where there is no way (or
    /// none is needed).
    pub fn hops(&self, from: usize, to: usize) -> &[usize] {
        &self.hops[from * self.devices.len() + to]
    }

    /// Whether a value on one device can be read on the other.
    pub fn connected(&self, from: usize, to: usize) -> bool {
        from == to || !self.hops(from, to).is_empty()
    }

    /// Duration of a value's copy over one link.
    pub fn copy_over(&self, value: usize, link: usize) -> Nanos {
        Nanos(self.copies[value * self.links.len() + link])
    }

    /// Duration of a value's way from one device to another, all links after one another; `None` where there is none.
    pub fn copy(&self, value: usize, from: usize, to: usize) -> Option<Nanos> {
        if from == to {
            return Some(Nanos::ZERO);
        }
        let hops = self.hops(from, to);
        (!hops.is_empty()).then(|| hops.iter().map(|l| self.copy_over(value, *l)).sum())
    }

    /// Duration of a segment whose atoms take `work`: launch and work and, where the segment is `part` of the graph, what
    /// the cut loses; with the device's interference, rounded up once.
    pub fn segment_duration(&self, device: usize, work: Nanos, part: bool) -> Nanos {
        let d = &self.devices[device];
        let loss = if part { d.cut_loss } else { Nanos::ZERO };
        let whole = u128::from((d.launch + loss + work).0) * u128::from(d.factor_permille);
        Nanos(u64::try_from(whole.div_ceil(1000)).unwrap_or(u64::MAX))
    }

    /// Lanes of a route: devices, then links.
    pub fn lane_count(&self) -> usize {
        self.devices.len() + self.link_lanes.len()
    }

    /// Name of a lane.
    pub fn lane_name(&self, lane: usize) -> &str {
        match self.devices.get(lane) {
            Some(device) => &device.name,
            None => &self.link_lanes[lane - self.devices.len()],
        }
    }

    /// The busiest lane's time a batch, a CPU with n lanes counting a n-th (rounded up).
    pub fn bottleneck(&self, busy: &[Nanos]) -> Nanos {
        let lanes = |q: usize| self.devices.get(q).map_or(1, |d| u64::from(d.lanes.max(1)));
        Nanos(busy.iter().enumerate().map(|(q, b)| b.0.div_ceil(lanes(q))).max().unwrap_or(0))
    }
}

/// Gives each link its lane, in the order of first use.
fn link_models(devices: &[DeviceModel], links: Vec<Link>) -> (Vec<LinkModel>, Vec<String>) {
    let mut names: Vec<String> = vec![];
    let mut models = vec![];
    for link in links {
        let find = |name: &str| devices.iter().position(|d| d.name == name);
        let (Some(from), Some(to)) = (find(&link.from), find(&link.to)) else { continue };
        let name = link.lane();
        let lane = names.iter().position(|n| *n == name).unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        models.push(LinkModel { from, to, lane, link });
    }
    (models, names)
}

/// (reads, writes, predecessors, successors) of every atom.
fn adjacency(atoms: usize, values: &[Value]) -> (Lists, Lists, Lists, Lists) {
    let (mut reads, mut writes, mut preds, mut succs) = (vec![], vec![], vec![], vec![]);
    for (v, value) in values.iter().enumerate() {
        if let Some(p) = value.producer {
            writes.push((p as u32, v as u32));
        }
        for c in &value.consumers {
            reads.push((*c as u32, v as u32));
            if let Some(p) = value.producer {
                preds.push((*c as u32, p as u32));
                succs.push((p as u32, *c as u32));
            }
        }
    }
    let lists = |pairs| Lists::from_pairs(atoms, pairs);
    (lists(reads), lists(writes), lists(preds), lists(succs))
}

/// Direct links where there are any, else by way of the host.
fn all_hops(devices: usize, links: &[LinkModel]) -> Vec<Vec<usize>> {
    let direct = |a: usize, b: usize| links.iter().position(|l| l.from == a && l.to == b);
    let mut hops = vec![];
    for a in 0..devices {
        for b in 0..devices {
            let way = match (direct(a, b), direct(a, HOST), direct(HOST, b)) {
                _ if a == b => vec![],
                (Some(l), _, _) => vec![l],
                (None, Some(up), Some(down)) if a != HOST && b != HOST => vec![up, down],
                _ => vec![],
            };
            hops.push(way);
        }
    }
    hops
}
