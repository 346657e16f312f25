//! Which atoms are launched together: segments of a problem, formed and canonically numbered.
//!
//! The same rule as `tandem_ir::segment::form`, on atoms: level(v) = max over predecessors of level + (device differs ? 1 :
//! 0); atoms of equal (device, level) are one segment. [`merged`] then merges segments of one device while the graph of
//! segments stays acyclic. The two are different candidates: merging saves launches, not merging lets work begin earlier.

use crate::problem::Problem;

/// A labelling of atoms with segments, and of segments with devices. Canonical: segments are numbered in a topological
/// order, the one with the smallest first atom first where free, so that equal labellings compare equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segments {
    /// Segment of each atom.
    pub of: Vec<u32>,
    /// Device of each segment.
    pub device: Vec<u8>,
}

impl Segments {
    /// The canonical form of a labelling; labels may be any numbers. `None` where the graph of segments has a cycle.
    pub fn canonical(problem: &Problem, labels: &[u32], device_of: impl Fn(u32) -> u8) -> Option<Segments> {
        // Numbered by first atom so far; the topological order takes the smallest that is ready.
        let (of, first) = dense(labels);
        let count = first.len();
        let device: Vec<u8> = first.iter().map(|label| device_of(*label)).collect();
        let order = topological(problem, &of, count)?;
        let mut place = vec![0u32; count];
        order.iter().enumerate().for_each(|(new, old)| place[*old as usize] = new as u32);
        let of = of.into_iter().map(|s| place[s as usize]).collect();
        let device = order.iter().map(|old| device[*old as usize]).collect();
        Some(Segments { of, device })
    }

    /// All atoms in one segment on one device.
    pub fn single(problem: &Problem, device: usize) -> Segments {
        let any = !problem.atoms.is_empty();
        Segments { of: vec![0; problem.atoms.len()], device: if any { vec![device as u8] } else { vec![] } }
    }

    /// A digest for sets of candidates met: FNV-1a (Fowler, Noll, Vo), the same on every machine.
    pub(crate) fn digest(&self) -> u64 {
        let words = self.of.iter().copied().chain([u32::MAX]).chain(self.device.iter().map(|d| u32::from(*d)));
        words.fold(0xCBF2_9CE4_8422_2325, |h: u64, w| (h ^ u64::from(w)).wrapping_mul(0x0000_0100_0000_01B3))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.device.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.device.is_empty()
    }

    /// Device of each atom.
    pub fn devices(&self) -> Vec<u8> {
        self.of.iter().map(|s| self.device[*s as usize]).collect()
    }

    /// Atoms of each segment, ascending.
    pub fn members(&self) -> Vec<Vec<usize>> {
        let mut members = vec![vec![]; self.len()];
        self.of.iter().enumerate().for_each(|(a, s)| members[*s as usize].push(a));
        members
    }

    /// Whether every atom can run where it is put.
    pub fn runnable(&self, problem: &Problem) -> bool {
        self.of.iter().enumerate().all(|(a, s)| problem.time(a, usize::from(self.device[*s as usize])).is_some())
    }
}

/// Labels numbered by first occurrence, and the label behind each number. By a table where labels are small, as they are in
/// a search; else by sorting.
fn dense(labels: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let most = labels.iter().copied().max().unwrap_or(0) as usize;
    let mut first = vec![];
    if most < 4 * labels.len() + 64 {
        let mut number = vec![u32::MAX; most + 1];
        let of = labels.iter().map(|label| {
            let known = &mut number[*label as usize];
            if *known == u32::MAX {
                *known = first.len() as u32;
                first.push(*label);
            }
            *known
        });
        return (of.collect(), first);
    }
    let mut number = std::collections::BTreeMap::new();
    let of = labels.iter().map(|label| {
        let next = first.len() as u32;
        *number.entry(*label).or_insert_with(|| {
            first.push(*label);
            next
        })
    });
    (of.collect(), first)
}

/// Edges of the graph of segments, each once.
pub(crate) fn quotient(problem: &Problem, of: &[u32]) -> Vec<(u32, u32)> {
    let mut edges: Vec<(u32, u32)> = vec![];
    for a in 0..problem.atoms.len() {
        let to = of[a];
        let mut last = to;
        for p in problem.preds(a) {
            let from = of[*p as usize];
            if from != to && from != last {
                edges.push((from, to));
                last = from;
            }
        }
    }
    edges.sort_unstable();
    edges.dedup();
    edges
}

/// A topological order of segments, smallest number first where free; `None` where there is a cycle.
fn topological(problem: &Problem, of: &[u32], count: usize) -> Option<Vec<u32>> {
    let edges = quotient(problem, of);
    let mut waits = vec![0u32; count];
    edges.iter().for_each(|(_, to)| waits[*to as usize] += 1);
    let mut ready: std::collections::BinaryHeap<std::cmp::Reverse<u32>> =
        (0..count as u32).filter(|s| waits[*s as usize] == 0).map(std::cmp::Reverse).collect();
    let mut order = Vec::with_capacity(count);
    while let Some(std::cmp::Reverse(s)) = ready.pop() {
        order.push(s);
        let first = edges.partition_point(|e| e.0 < s);
        for (_, to) in edges[first..].iter().take_while(|e| e.0 == s) {
            waits[*to as usize] -= 1;
            if waits[*to as usize] == 0 {
                ready.push(std::cmp::Reverse(*to));
            }
        }
    }
    (order.len() == count).then_some(order)
}

/// Segments by level: acyclic for every placement, for along each edge (level, then nothing) never falls.
pub fn by_level(problem: &Problem, devices: &[u8]) -> Segments {
    let mut level = vec![0u32; devices.len()];
    let mut labels = Vec::with_capacity(devices.len());
    for v in 0..devices.len() {
        let up = |p: &u32| level[*p as usize] + u32::from(devices[*p as usize] != devices[v]);
        level[v] = problem.preds(v).iter().map(up).max().unwrap_or(0);
        labels.push(level[v] * crate::problem::DEVICES_MAX as u32 + u32::from(devices[v]));
    }
    let device_of = |label: u32| (label % crate::problem::DEVICES_MAX as u32) as u8;
    Segments::canonical(problem, &labels, device_of).expect("levels never fall along an edge")
}

/// Segments of one device merged, first pairs first, while the graph of segments stays acyclic.
pub fn merged(problem: &Problem, segments: &Segments) -> Segments {
    let mut current = segments.clone();
    'again: loop {
        let n = current.len();
        let reach = reachability(problem, &current);
        for a in 0..n {
            for b in a + 1..n {
                if current.device[a] == current.device[b] && !through_third(&reach, a, b) {
                    current = join(problem, &current, a as u32, b as u32).expect("no path through a third");
                    continue 'again;
                }
            }
        }
        return current;
    }
}

/// The segments with two of them joined (on the first one's device); `None` where that makes a cycle.
pub(crate) fn join(problem: &Problem, segments: &Segments, a: u32, b: u32) -> Option<Segments> {
    let labels: Vec<u32> = segments.of.iter().map(|s| if *s == b { a } else { *s }).collect();
    Segments::canonical(problem, &labels, |s| segments.device[s as usize])
}

/// For each segment, the set of segments it leads to, as bits.
fn reachability(problem: &Problem, segments: &Segments) -> Vec<Vec<u64>> {
    let n = segments.len();
    let mut reach = vec![vec![0u64; n.div_ceil(64)]; n];
    // Segments are numbered topologically, so going backwards meets complete sets.
    for (from, to) in quotient(problem, &segments.of).into_iter().rev() {
        let (from, to) = (from as usize, to as usize);
        let (head, tail) = reach.split_at_mut(to);
        head[from].iter_mut().zip(&tail[0]).for_each(|(a, b)| *a |= b);
        head[from][to / 64] |= 1 << (to % 64);
    }
    reach
}

fn through_third(reach: &[Vec<u64>], a: usize, b: usize) -> bool {
    let has = |from: usize, to: usize| reach[from][to / 64] >> (to % 64) & 1 == 1;
    (a + 1..b).any(|m| has(a, m) && has(m, b))
}

/// Few segments: everything of one device that is ready goes into one segment, and what becomes ready by it; then the device
/// of the ready atom with the most switches still to come. The rule of `tandem_ir::segment::form` (Hu 1961), on atoms.
pub fn absorbed(problem: &Problem, devices: &[u8]) -> Segments {
    let n = devices.len();
    let mut level = vec![0u32; n];
    for v in (0..n).rev() {
        let down = |s: &u32| level[*s as usize] + u32::from(devices[*s as usize] != devices[v]);
        level[v] = problem.succs(v).iter().map(down).max().unwrap_or(0);
    }
    let mut waits: Vec<usize> = (0..n).map(|v| problem.preds(v).len()).collect();
    let mut ready: Vec<Vec<u32>> = vec![vec![]; problem.devices.len()];
    let mut queue = std::collections::BinaryHeap::new();
    for v in (0..n).filter(|v| waits[*v] == 0) {
        ready[usize::from(devices[v])].push(v as u32);
        queue.push((level[v], std::cmp::Reverse(v as u32)));
    }
    let mut label = vec![u32::MAX; n];
    let mut device = vec![];
    while let Some((_, std::cmp::Reverse(first))) = queue.pop() {
        if label[first as usize] != u32::MAX {
            continue;
        }
        let d = usize::from(devices[first as usize]);
        let mut atoms = std::mem::take(&mut ready[d]);
        while let Some(v) = atoms.pop() {
            label[v as usize] = device.len() as u32;
            for s in problem.succs(v as usize) {
                waits[*s as usize] -= 1;
                if waits[*s as usize] > 0 {
                    continue;
                }
                if usize::from(devices[*s as usize]) == d {
                    atoms.push(*s);
                } else {
                    ready[usize::from(devices[*s as usize])].push(*s);
                    queue.push((level[*s as usize], std::cmp::Reverse(*s)));
                }
            }
        }
        device.push(d as u8);
    }
    Segments::canonical(problem, &label, |s| device[s as usize]).expect("a segment depends on earlier rounds alone")
}

/// Times an atom may change its device in [`limited`] before it is left alone: keeps two segments from taking turns.
const FLIPS_MAX: u8 = 4;

/// At most `limit` segments: moves the cheapest segments to a neighbour's device, a quarter of the surplus at a time, none
/// beside another. `tandem_ir::segment::merge_to_limit` on atoms, which stay whole. `None` where pins leave more.
pub fn limited(problem: &Problem, segments: Segments, limit: usize) -> Option<Segments> {
    let mut current = segments;
    let mut flips = vec![0u8; problem.atoms.len()];
    while current.len() > limit {
        let mut devices = current.devices();
        let few = absorbed(problem, &devices);
        if few.len() < current.len() {
            current = few;
            continue;
        }
        if !flip_cheapest(problem, &current, &mut devices, &mut flips, limit) {
            return None;
        }
        current = absorbed(problem, &devices);
    }
    Some(current)
}

fn flip_cheapest(problem: &Problem, segments: &Segments, devices: &mut [u8], flips: &mut [u8], limit: usize) -> bool {
    let members = segments.members();
    let mut beside: Vec<Vec<u32>> = vec![vec![]; segments.len()];
    for (a, b) in quotient(problem, &segments.of) {
        beside[a as usize].push(b);
        beside[b as usize].push(a);
    }
    let mut offers: Vec<(i128, usize, usize, u8)> = vec![];
    for (s, atoms) in members.iter().enumerate().filter(|(_, a)| a.iter().all(|a| flips[*a] < FLIPS_MAX)) {
        let on = |d: u8| -> Option<i128> {
            atoms.iter().map(|a| problem.time(*a, usize::from(d)).map(|t| i128::from(t.0))).sum()
        };
        let here = on(segments.device[s]).unwrap_or(0);
        let mut others: Vec<u8> = beside[s].iter().map(|b| segments.device[*b as usize]).collect();
        others.sort_unstable();
        others.dedup();
        for d in others.into_iter().filter(|d| *d != segments.device[s]) {
            offers.extend(on(d).map(|there| (there - here, atoms.len(), s, d)));
        }
    }
    offers.sort_unstable();
    let wanted = (segments.len().saturating_sub(limit) / 4).max(1);
    let (mut touched, mut taken) = (vec![false; segments.len()], 0);
    for (_, _, s, d) in offers {
        if taken == wanted {
            break;
        }
        if touched[s] || beside[s].iter().any(|b| touched[*b as usize]) {
            continue;
        }
        touched[s] = true;
        taken += 1;
        for a in &members[s] {
            devices[*a] = d;
            flips[*a] += 1;
        }
    }
    taken > 0
}
