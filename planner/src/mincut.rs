//! The cheapest placement under the additive objective, exactly, for two devices: an s-t minimum cut.
//!
//! Additive objective at prices pi of lanes: sum over atoms of pi(device) * time(atom, device), plus, for every value and
//! every far device that needs it, pi(link lane) * copy. A value that several atoms read on the far side pays once: its
//! producer has an edge of that capacity to a gadget node, which has infinite edges to the readers (and the mirror image for
//! the way back). Graph inputs and outputs are tied to the host's side, pins are infinite. All capacities are integers, so the
//! cut is the exact optimum, for any DAG. Source of the construction: Stone, "Multiprocessor scheduling with the aid of network
//! flow algorithms" (1977), with Hu and Moerder's star for values read more than once.
//!
//! Launch costs are not additive: a segment pays once however many edges enter it. With [`Objective::launch`] each atom
//! without predecessors pays its device's launch, and each producer's first value the far device's launch with its copy. On
//! problems where every atom has at most one predecessor and at most one successor ([`is_path`]) a segment begins at an
//! atom without predecessor or where the device changes, so this is *exactly* the judge's sum of step durations (at unit
//! prices and factor 1). On any other DAG it is a heuristic: a segment with two entries pays twice.
//!
//! More than two devices: alpha-expansion over the same cut (Boykov, Veksler, Zabih 2001): the move "any set of atoms goes to
//! device alpha" is a cut; it is taken only when the true additive cost falls. A local optimum, not exact.

use crate::maxflow::{INFINITE, Solver};
use crate::problem::{HOST, Problem};

/// Prices of lanes and what counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objective {
    /// Price a nanosecond of each lane of the problem.
    pub price: Vec<u64>,
    /// Whether launches are charged at entries and at crossings.
    pub launch: bool,
}

impl Objective {
    /// Every lane at price 1, no launches.
    pub fn unit(problem: &Problem) -> Self {
        Self { price: vec![1; problem.lane_count()], launch: false }
    }
}

/// Whether the atoms form one path: at most one predecessor and one successor each, and one atom without predecessor.
pub fn is_path(problem: &Problem) -> bool {
    let entries = (0..problem.atoms.len()).filter(|a| problem.preds(*a).is_empty()).count();
    entries <= 1 && (0..problem.atoms.len()).all(|a| problem.preds(a).len() <= 1 && problem.succs(a).len() <= 1)
}

/// The additive cost of a placement (device by atom); `None` where an atom cannot run or a value cannot get through.
pub fn additive(problem: &Problem, objective: &Objective, devices: &[u8]) -> Option<u128> {
    let price = |lane: usize| u128::from(objective.price[lane]);
    let mut sum = 0u128;
    for (a, d) in devices.iter().enumerate() {
        let d = usize::from(*d);
        let mut time = problem.time(a, d)?;
        if objective.launch && problem.preds(a).is_empty() {
            time += problem.devices[d].entry();
        }
        sum += price(d) * u128::from(time.0);
    }
    let mut paid = vec![false; problem.links.len()];
    for (v, value) in problem.values.iter().enumerate() {
        let home = value.producer.map_or(HOST, |p| usize::from(devices[p]));
        let mut far = value.consumers.iter().fold(0u32, |m, c| m | 1 << devices[*c]);
        far |= u32::from(value.output) << HOST;
        far &= !(1 << home);
        paid.fill(false);
        for to in (0..problem.devices.len()).filter(|d| far >> d & 1 == 1) {
            let hops = problem.hops(home, to);
            if hops.is_empty() {
                return None;
            }
            for l in hops {
                if !std::mem::replace(&mut paid[*l], true) {
                    let lane = problem.devices.len() + problem.links[*l].lane;
                    sum += price(lane) * u128::from(problem.copy_over(v, *l).0);
                }
            }
            if objective.launch
                && charges_launch(problem, v)
                && value.consumers.iter().any(|c| devices[*c] as usize == to)
            {
                sum += price(to) * u128::from(problem.devices[to].entry().0);
            }
        }
    }
    Some(sum)
}

/// Whether a value's crossing stands for a launch: its producer's first one that anybody reads.
fn charges_launch(problem: &Problem, v: usize) -> bool {
    let Some(producer) = problem.values[v].producer else { return false };
    let first = problem.writes(producer).iter().find(|w| !problem.values[**w as usize].consumers.is_empty());
    first == Some(&(v as u32))
}

/// Reuses its buffers from call to call.
#[derive(Clone, Debug, Default)]
pub struct MinCut {
    solver: Solver,
}

/// A capacity: price times duration, below infinity.
fn capacity(price: u64, ns: u64) -> i64 {
    i64::try_from(u128::from(price) * u128::from(ns)).unwrap_or(INFINITE).min(INFINITE - 1)
}

impl MinCut {
    /// The cheapest placement on the host and `far` alone: devices by atom, and its additive cost. `None` where some atom
    /// can run on neither, or values cannot get through.
    pub fn two(&mut self, problem: &Problem, objective: &Objective, far: usize) -> Option<(Vec<u8>, u128)> {
        let keep = vec![HOST as u8; problem.atoms.len()];
        let devices = self.expand(problem, objective, &keep, far);
        let cost = additive(problem, objective, &devices)?;
        Some((devices, cost))
    }

    /// The cheapest placement found on all devices: exact for two, alpha-expansion from the best pair for more.
    pub fn all(&mut self, problem: &Problem, objective: &Objective) -> Option<(Vec<u8>, u128)> {
        let far = 1..problem.devices.len();
        let pairs = far.clone().filter_map(|d| self.two(problem, objective, d));
        let mut best = pairs.min_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0))).or_else(|| fallback(problem, objective))?;
        if problem.devices.len() == 2 {
            return Some(best);
        }
        loop {
            let before = best.1;
            for alpha in 0..problem.devices.len() {
                let devices = self.expand(problem, objective, &best.0, alpha);
                if let Some(cost) = additive(problem, objective, &devices).filter(|c| *c < best.1) {
                    best = (devices, cost);
                }
            }
            if best.1 == before {
                return Some(best);
            }
        }
    }

    /// The best of "each atom keeps its device or goes to alpha". Exact where all keep one and the same device.
    fn expand(&mut self, problem: &Problem, objective: &Objective, keep: &[u8], alpha: usize) -> Vec<u8> {
        let atoms = problem.atoms.len();
        let price = |lane: usize| objective.price[lane];
        // A value has at most one gadget there, and one back for each device kept.
        let gadgets: usize =
            problem.values.iter().map(|v| if v.consumers.len() > 1 { 1 + problem.devices.len() } else { 0 }).sum();
        self.solver.begin(atoms + gadgets);
        for (a, kept) in keep.iter().enumerate() {
            let side = |d: usize| {
                let launch = objective.launch && problem.preds(a).is_empty();
                let extra = if launch { problem.devices[d].entry().0 } else { 0 };
                problem.time(a, d).map_or(INFINITE, |t| capacity(price(d), t.0.saturating_add(extra)))
            };
            // Cut towards the sink when the atom stays on the source's side, which is "keep".
            let (stay, go) = (side(usize::from(*kept)), side(alpha));
            self.solver.terminal(a, go, stay);
        }
        let mut next = atoms;
        for v in 0..problem.values.len() {
            self.value(problem, objective, keep, alpha, v, &mut next);
        }
        self.solver.solve();
        let side = |(a, kept): (usize, &u8)| if self.solver.on_source_side(a) { *kept } else { alpha as u8 };
        keep.iter().enumerate().map(side).collect()
    }

    /// Edges and gadgets of one value.
    fn value(
        &mut self,
        problem: &Problem,
        objective: &Objective,
        keep: &[u8],
        alpha: usize,
        v: usize,
        next: &mut usize,
    ) {
        let value = &problem.values[v];
        let home = value.producer.map_or(HOST, |p| usize::from(keep[p]));
        let launch = objective.launch && charges_launch(problem, v);
        let cost = |from: usize, to: usize, launched: bool| way(problem, objective, v, from, to, launch && launched);
        // Copies back to a device kept: one group of readers a device, the caller among the host's.
        let mut groups: Vec<(usize, Vec<usize>)> = vec![];
        for c in &value.consumers {
            let d = usize::from(keep[*c]);
            match groups.iter_mut().find(|g| g.0 == d) {
                Some(g) => g.1.push(*c),
                None => groups.push((d, vec![*c])),
            }
        }
        let mut there = if home == alpha || value.consumers.is_empty() { 0 } else { cost(home, alpha, true) };
        if value.output {
            // The caller reads it on the host whatever else happens, so readers that stay there come free.
            let (stay, go) = (cost(home, HOST, false), cost(alpha, HOST, false));
            if let Some(p) = value.producer {
                self.solver.terminal(p, go, stay);
            }
        }
        for (d, _) in &groups {
            // Both stay, on different devices: what a crossing costs now. Not expressible beyond the cost of going there.
            let now = if *d == home || (value.output && *d == HOST) { 0 } else { cost(home, *d, true).min(there) };
            if let Some(p) = value.producer.filter(|_| now > 0 && now < INFINITE) {
                self.solver.terminal(p, 0, now);
                there -= now;
            }
        }
        self.star(value.producer, &value.consumers, there, true, next);
        for (d, readers) in &groups {
            let free = *d == alpha || (value.output && *d == HOST && !launch);
            if let Some(p) = value.producer.filter(|_| !free) {
                let back = cost(alpha, *d, true);
                // The caller's copy is paid already; a reader there adds its launch alone.
                let paid = if value.output && *d == HOST { cost(alpha, *d, false) } else { 0 };
                self.star(Some(p), readers, (back - paid).max(0), false, next);
            }
        }
    }

    /// Charges `cost` once if the producer is on one side and any reader on the other: `forward`, producer on the source's
    /// side; else on the sink's. A value without producer is on the source's side.
    fn star(&mut self, producer: Option<usize>, readers: &[usize], cost: i64, forward: bool, next: &mut usize) {
        if cost == 0 || readers.is_empty() {
            return;
        }
        let gate = match readers {
            [one] => *one,
            _ => {
                let gate = *next;
                *next += 1;
                for r in readers {
                    match forward {
                        true => self.solver.edge(gate, *r, INFINITE, 0),
                        false => self.solver.edge(*r, gate, INFINITE, 0),
                    }
                }
                gate
            }
        };
        match producer {
            None => self.solver.terminal(gate, cost, 0),
            Some(p) if forward => self.solver.edge(p, gate, cost, 0),
            Some(p) => self.solver.edge(gate, p, cost, 0),
        }
    }
}

/// Priced cost of a value's way, with the far device's launch where asked for.
fn way(problem: &Problem, objective: &Objective, v: usize, from: usize, to: usize, launch: bool) -> i64 {
    if from == to {
        return 0;
    }
    let hops = problem.hops(from, to);
    if hops.is_empty() {
        return INFINITE;
    }
    let hop = |l: &usize| {
        let lane = problem.devices.len() + problem.links[*l].lane;
        capacity(objective.price[lane], problem.copy_over(v, *l).0)
    };
    let launch = if launch { capacity(objective.price[to], problem.devices[to].entry().0) } else { 0 };
    hops.iter().map(hop).fold(launch, |a, b| a.saturating_add(b)).min(INFINITE - 1)
}

/// Any placement at all, each atom on its first device; only where no pair of devices does.
fn fallback(problem: &Problem, objective: &Objective) -> Option<(Vec<u8>, u128)> {
    let first = |a: usize| (0..problem.devices.len()).find(|d| problem.time(a, *d).is_some()).unwrap_or(HOST) as u8;
    let devices: Vec<u8> = (0..problem.atoms.len()).map(first).collect();
    let cost = additive(problem, objective, &devices)?;
    Some((devices, cost))
}
