//! Simple ways to place a model, for comparison and as starting points. None is exact; all are judged by the timeline.

use tandem_ir::units::Nanos;

use crate::chain::chain;
use crate::mincut::{MinCut, Objective};
use crate::problem::{Atom, HOST, Problem, Value};
use crate::rng::Rng;
use crate::segments::{self, Segments};

/// Every atom on the device where it can run there, else on the first where it can: `cpu-only`, `gpu-only`, and, over all
/// devices, model-level placement of one tenant.
pub fn preferring(problem: &Problem, device: usize) -> Vec<u8> {
    let first = |a: usize| (0..problem.devices.len()).find(|d| problem.time(a, *d).is_some()).unwrap_or(HOST);
    let place = |a: usize| if problem.time(a, device).is_some() { device } else { first(a) };
    (0..problem.atoms.len()).map(|a| place(a) as u8).collect()
}

/// Blocks: maximal runs of the topological order such that at each end only the last atom's values go on (an articulation
/// point: everything after depends on what came before through it alone). Graph inputs do not count. Returns each atom's block.
pub fn blocks(problem: &Problem) -> Vec<usize> {
    let last_reader = |a: usize| problem.succs(a).last().map_or(0, |s| *s as usize);
    let (mut block, mut of, mut reach) = (0, Vec::with_capacity(problem.atoms.len()), 0);
    for a in 0..problem.atoms.len() {
        of.push(block);
        // What atoms before this one made is read at the latest here.
        if reach <= a {
            block += 1;
        }
        reach = reach.max(last_reader(a));
    }
    of
}

/// The problem whose atoms are groups of another's. Groups must be numbered in a topological order. `None` where a group
/// can run nowhere as a whole.
pub fn contract(problem: &Problem, group: &[usize]) -> Option<Problem> {
    let count = group.iter().max().map_or(0, |g| g + 1);
    let mut atoms = vec![Atom { time: vec![Some(Nanos::ZERO); problem.devices.len()], ..Atom::default() }; count];
    for (atom, g) in problem.atoms.iter().zip(group) {
        let whole = &mut atoms[*g];
        whole.nodes.extend(&atom.nodes);
        whole.weights += atom.weights;
        for (sum, t) in whole.time.iter_mut().zip(&atom.time) {
            *sum = sum.zip(*t).map(|(a, b)| a + b);
        }
    }
    let value = |v: &Value| {
        let producer = v.producer.map(|p| group[p]);
        let mut consumers: Vec<usize> =
            v.consumers.iter().map(|c| group[*c]).filter(|c| Some(*c) != producer).collect();
        consumers.sort_unstable();
        consumers.dedup();
        Value { producer, consumers, ..v.clone() }
    };
    let values = problem.values.iter().map(value).filter(|v| v.output || !v.consumers.is_empty()).collect();
    let links = problem.links.iter().map(|l| l.link.clone()).collect();
    let mut other = Problem::new(problem.devices.clone(), links, atoms, values).ok()?;
    (other.batch, other.threads, other.modelled) = (problem.batch, problem.threads, problem.modelled);
    Some(other)
}

/// Block-level placements: the cut and the chain program on blocks. Blocks no device can run whole fall to their atoms.
pub fn block_level(problem: &Problem, objectives: &[Objective], cut: &mut MinCut) -> Vec<Vec<u8>> {
    let mut block = blocks(problem);
    split_unrunnable(problem, &mut block);
    let Some(coarse) = contract(problem, &block) else { return vec![] };
    let mut placements = vec![];
    for objective in objectives {
        let found = [cut.all(&coarse, objective), chain(&coarse, objective)];
        placements.extend(found.into_iter().flatten().map(|(devices, _)| devices));
    }
    placements.sort_unstable();
    placements.dedup();
    placements.into_iter().map(|devices| block.iter().map(|b| devices[*b]).collect()).collect()
}

/// Numbers blocks anew so that each atom of a block that runs nowhere as a whole is a block of its own.
fn split_unrunnable(problem: &Problem, block: &mut [usize]) {
    let count = block.iter().max().map_or(0, |b| b + 1);
    let mut can = vec![vec![true; problem.devices.len()]; count];
    for (a, b) in block.iter().enumerate() {
        (0..problem.devices.len()).for_each(|d| can[*b][d] &= problem.time(a, d).is_some());
    }
    let (mut next, mut last) = (0, usize::MAX);
    for b in block.iter_mut() {
        let whole = can[*b].contains(&true);
        if last != usize::MAX && !(whole && *b == last) {
            next += 1;
        }
        last = *b;
        *b = next;
    }
}

/// Atoms in topological order, each to the device where it ends soonest. `ranked`: in the order of HEFT's upward rank
/// instead (Topcuoglu, Hariri, Wu, "Performance-effective and low-complexity task scheduling", 2002), without its
/// insertion into gaps, for lanes are in-order queues here.
///
/// `None` where an atom can run nowhere that its values can reach.
pub fn list_placement(problem: &Problem, ranked: bool) -> Option<Vec<u8>> {
    let order = if ranked { rank_order(problem) } else { (0..problem.atoms.len()).collect() };
    let mut state = Partial::new(problem);
    for a in order {
        let ends = (0..problem.devices.len()).filter_map(|d| state.end(problem, a, d).map(|end| (end, d)));
        let (_, d) = ends.min()?;
        state.place(problem, a, d);
    }
    Some(state.device)
}

/// Atoms by descending upward rank: rank(a) = mean time + max over successors of (mean copy + rank). Topological, for ranks
/// fall along edges or tie, and ties go by number.
pub fn rank_order(problem: &Problem) -> Vec<usize> {
    let n = problem.atoms.len();
    let mean_copy = |v: usize| {
        let sum: u64 = (0..problem.links.len()).map(|l| problem.copy_over(v, l).0).sum();
        sum / (2 * problem.links.len() as u64).max(1)
    };
    let mut rank = vec![0u64; n];
    for a in (0..n).rev() {
        let times = problem.atoms[a].time.iter().flatten();
        let mean = times.clone().map(|t| t.0).sum::<u64>() / times.count().max(1) as u64;
        let mut after = 0;
        for v in problem.writes(a) {
            let copy = mean_copy(*v as usize);
            let readers = problem.values[*v as usize].consumers.iter().map(|c| copy + rank[*c]);
            after = after.max(readers.max().unwrap_or(0));
        }
        rank[a] = mean + after;
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|a| (std::cmp::Reverse(rank[*a]), *a));
    order
}

/// A placement on its way, with estimates of when lanes and atoms are done.
#[derive(Clone, Debug)]
pub struct Partial {
    /// Device by atom; meaningless for atoms not placed yet.
    pub device: Vec<u8>,
    done: Vec<u64>,
    lane: Vec<u64>,
    /// Copies of each value that are there: (value, device, moment).
    copied: std::collections::BTreeMap<(u32, u8), u64>,
}

impl Partial {
    /// Nothing placed.
    pub fn new(problem: &Problem) -> Self {
        let n = problem.atoms.len();
        let copied = std::collections::BTreeMap::new();
        Self { device: vec![0; n], done: vec![0; n], lane: vec![0; problem.lane_count()], copied }
    }

    /// When the atom would end on a device; `None` where it cannot run there or its values cannot get there.
    pub fn end(&self, problem: &Problem, a: usize, d: usize) -> Option<u64> {
        let time = problem.time(a, d)?.0;
        let mut start = self.lane[d];
        let mut entry = problem.preds(a).is_empty();
        for v in problem.reads(a) {
            let at = self.arrival(problem, *v as usize, d)?;
            // What arrives after the lane is free begins a new segment.
            entry |= at > self.lane[d];
            start = start.max(at);
        }
        Some(start + time + if entry { problem.devices[d].launch.0 } else { 0 })
    }

    fn home(&self, problem: &Problem, v: usize) -> (usize, u64) {
        problem.values[v].producer.map_or((HOST, 0), |p| (usize::from(self.device[p]), self.done[p]))
    }

    fn arrival(&self, problem: &Problem, v: usize, d: usize) -> Option<u64> {
        let (home, at) = self.home(problem, v);
        if home == d {
            return Some(at);
        }
        if let Some(at) = self.copied.get(&(v as u32, d as u8)) {
            return Some(*at);
        }
        let hops = problem.hops(home, d);
        let step = |at: u64, l: &usize| {
            let lane = problem.devices.len() + problem.links[*l].lane;
            at.max(self.lane[lane]) + problem.copy_over(v, *l).0
        };
        (!hops.is_empty()).then(|| hops.iter().fold(at, step))
    }

    /// Places an atom.
    pub fn place(&mut self, problem: &Problem, a: usize, d: usize) {
        let end = self.end(problem, a, d).unwrap_or(u64::MAX);
        for v in problem.reads(a).iter().map(|v| *v as usize) {
            let (home, mut at) = self.home(problem, v);
            if home == d || self.copied.contains_key(&(v as u32, d as u8)) {
                continue;
            }
            for l in problem.hops(home, d) {
                let lane = problem.devices.len() + problem.links[*l].lane;
                at = at.max(self.lane[lane]) + problem.copy_over(v, *l).0;
                self.lane[lane] = at;
            }
            self.copied.insert((v as u32, d as u8), at);
        }
        self.device[a] = d as u8;
        self.done[a] = end;
        self.lane[d] = end;
    }

    /// When everything placed so far is done.
    pub fn makespan(&self) -> u64 {
        self.lane.iter().copied().max().unwrap_or(0)
    }

    /// All lanes' free moments together.
    pub fn load(&self) -> u64 {
        self.lane.iter().sum()
    }
}

/// Most parts of a random placement.
const RANDOM_PARTS_MAX: u64 = 6;

/// Draws tried for a random placement before the simple one.
const RANDOM_DRAWS: usize = 64;

/// Random segments: 2 to 6 where there are two atoms, with a boundary between devices wherever two atoms can be parted (two
/// movable ones, or one movable and another that may run elsewhere than it). On one device the model is cut all the same.
/// Pins that scatter over the model can force more than 6.
pub fn random(problem: &Problem, seed: u64) -> Option<Segments> {
    let n = problem.atoms.len();
    if n < 2 {
        return (n == 1).then(|| Segments::single(problem, usize::from(preferring(problem, HOST)[0])));
    }
    let mut rng = Rng::new(seed);
    let movable: Vec<usize> = (0..n).filter(|a| problem.movable(*a)).collect();
    let two = !movable.is_empty() && problem.devices.len() > 1;
    let mut best: Option<Segments> = None;
    for _ in 0..RANDOM_DRAWS {
        let drawn = draw(problem, &mut rng);
        let mixed = drawn.device.iter().any(|d| *d != drawn.device[0]);
        if (2..=RANDOM_PARTS_MAX as usize).contains(&drawn.len()) && (mixed || !two) {
            return Some(drawn);
        }
        let fewer = |b: &Segments| drawn.len() < b.len();
        if drawn.len() > 1 && (mixed || !two) && best.as_ref().is_none_or(fewer) {
            best = Some(drawn);
        }
    }
    Some(best.unwrap_or_else(|| parted(problem, &movable, &mut rng)))
}

/// Contiguous runs of the topological order, each on a device of its own choice; pinned atoms go where they can.
fn draw(problem: &Problem, rng: &mut Rng) -> Segments {
    let n = problem.atoms.len();
    let parts = (2 + rng.below(RANDOM_PARTS_MAX - 1)).min(n as u64) as usize;
    let mut starts: Vec<usize> = vec![0];
    while starts.len() < parts {
        let at = 1 + rng.below(n as u64 - 1) as usize;
        if !starts.contains(&at) {
            starts.push(at);
        }
    }
    starts.sort_unstable();
    let devices = problem.devices.len() as u64;
    let wanted: Vec<usize> = starts.iter().map(|_| rng.below(devices) as usize).collect();
    let mut label = vec![0u32; n];
    let mut level = vec![0u32; n];
    // Levels part what would make a cycle; runs and devices part the rest.
    for a in 0..n {
        let run = starts.partition_point(|s| *s <= a) - 1;
        let d =
            if problem.time(a, wanted[run]).is_some() { wanted[run] } else { usize::from(preferring_one(problem, a)) };
        label[a] = (run * problem.devices.len() + d) as u32;
        let up = |p: &u32| level[*p as usize] + u32::from(label[*p as usize] != label[a]);
        level[a] = problem.preds(a).iter().map(up).max().unwrap_or(0);
    }
    // A run on one device is one segment whatever its levels: only pinned strangers inside it can force more.
    let whole = Segments::canonical(problem, &label, |l| (l as usize % problem.devices.len()) as u8);
    let parts = (starts.len() * problem.devices.len()) as u32;
    whole.unwrap_or_else(|| {
        let labels: Vec<u32> = label.iter().zip(&level).map(|(l, level)| level * parts + l).collect();
        let device = |l: u32| ((l % parts) as usize % problem.devices.len()) as u8;
        Segments::canonical(problem, &labels, device).expect("levels never fall along an edge")
    })
}

fn preferring_one(problem: &Problem, a: usize) -> u8 {
    problem.atoms[a].time.iter().position(Option::is_some).unwrap_or(HOST) as u8
}

/// The simple placement with a boundary: all on their first device, one movable atom elsewhere; without a movable atom, all
/// but the last atom together.
fn parted(problem: &Problem, movable: &[usize], rng: &mut Rng) -> Segments {
    let mut devices = preferring(problem, HOST);
    if let Some(a) = (!movable.is_empty()).then(|| movable[rng.below(movable.len() as u64) as usize]) {
        let others = (0..problem.devices.len()).filter(|d| *d != usize::from(devices[a]));
        let other = others.into_iter().find(|d| problem.time(a, *d).is_some());
        devices[a] = other.expect("a movable atom has another device") as u8;
        return segments::absorbed(problem, &devices);
    }
    let few = segments::absorbed(problem, &devices);
    if few.len() > 1 {
        return few;
    }
    let last = problem.atoms.len() - 1;
    let label: Vec<u32> = (0..=last).map(|a| u32::from(a == last)).collect();
    Segments::canonical(problem, &label, |_| devices[0]).expect("the last atom feeds none")
}
