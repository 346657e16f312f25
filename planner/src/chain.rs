//! Dynamic program over the topological order: f(j, q) = min over p of f(j-1, p) + switch(p -> q at j) + price_q * time(j, q).
//!
//! On a path ([`crate::mincut::is_path`]) whose graph inputs are read by one atom each, f is the additive objective itself, launches at
//! switches included, so the answer is exact and equals the minimum cut's. On other DAGs it places contiguous runs of the
//! order and takes every value alive at a switch for copied there: a heuristic. O(n D^2 + values).
//! Source: systems dossier 5.5 (a), a shortest path through a layered graph (Bellman 1957).

use crate::mincut::{Objective, additive};
use crate::problem::{HOST, Problem};

/// The best placement by the recurrence and its additive cost.
pub fn chain(problem: &Problem, objective: &Objective) -> Option<(Vec<u8>, u128)> {
    let (n, devices) = (problem.atoms.len(), problem.devices.len());
    if n == 0 {
        return Some((vec![], 0));
    }
    let crossing = crossings(problem, objective);
    let mut best: Vec<Option<u128>> = vec![None; devices];
    let mut from: Vec<Vec<u8>> = Vec::with_capacity(n);
    for a in 0..n {
        let mut next = vec![None; devices];
        let mut came = vec![0u8; devices];
        for q in 0..devices {
            let Some(own) = own(problem, objective, a, q) else { continue };
            for (p, known) in best.iter().enumerate() {
                let before = if a == 0 { (p == q).then_some(0) } else { *known };
                let Some(before) = before else { continue };
                let switch = if a == 0 { Some(0) } else { switch(problem, objective, &crossing[a - 1], a, p, q) };
                let Some(switch) = switch else { continue };
                let cost = before + switch + own;
                if next[q].is_none_or(|known| cost < known) {
                    next[q] = Some(cost);
                    came[q] = p as u8;
                }
            }
        }
        best = next;
        from.push(came);
    }
    let (_, mut at) = best.iter().enumerate().filter_map(|(q, c)| Some(((*c)?, q))).min()?;
    let mut placement = vec![0u8; n];
    for a in (0..n).rev() {
        placement[a] = at as u8;
        at = usize::from(from[a][at]);
    }
    let cost = additive(problem, objective, &placement)?;
    Some((placement, cost))
}

/// What an atom costs on a device whatever its neighbours do: its time, its graph inputs, what it hands back.
fn own(problem: &Problem, objective: &Objective, a: usize, q: usize) -> Option<u128> {
    let mut sum = u128::from(objective.price[q]) * u128::from(problem.time(a, q)?.0);
    if objective.launch && problem.preds(a).is_empty() {
        sum += u128::from(objective.price[q]) * u128::from(problem.devices[q].entry().0);
    }
    for v in problem.reads(a) {
        if problem.values[*v as usize].producer.is_none() {
            sum += priced(problem, objective, *v as usize, HOST, q)?;
        }
    }
    for v in problem.writes(a) {
        if problem.values[*v as usize].output {
            sum += priced(problem, objective, *v as usize, q, HOST)?;
        }
    }
    Some(sum)
}

fn priced(problem: &Problem, objective: &Objective, v: usize, from: usize, to: usize) -> Option<u128> {
    if !problem.connected(from, to) {
        return None;
    }
    let hop = |l: &usize| {
        let price = objective.price[problem.devices.len() + problem.links[*l].lane];
        u128::from(price) * u128::from(problem.copy_over(v, *l).0)
    };
    Some(problem.hops(from, to).iter().map(hop).sum())
}

/// Priced copies at a switch before each atom, by (from, to); `None` where there is no way.
type Crossing = Vec<Option<u128>>;

/// For the place between each atom and the next: copies of all values made before and read after, for every pair of devices.
fn crossings(problem: &Problem, objective: &Objective) -> Vec<Crossing> {
    let (n, devices) = (problem.atoms.len(), problem.devices.len());
    let mut alive = vec![(0i128, 0i64); devices * devices];
    let mut ends: Vec<Vec<u32>> = vec![vec![]; n];
    let mut places = Vec::with_capacity(n);
    let change = |alive: &mut Vec<(i128, i64)>, v: usize, sign: i128| {
        for p in 0..devices {
            for q in (0..devices).filter(|q| *q != p) {
                let entry = &mut alive[p * devices + q];
                // What is handed back is paid for already.
                if problem.values[v].output && q == HOST {
                    continue;
                }
                match priced(problem, objective, v, p, q) {
                    Some(cost) => entry.0 += sign * cost as i128,
                    None => entry.1 += sign as i64,
                }
            }
        }
    };
    for (a, _) in problem.atoms.iter().enumerate() {
        for v in ends[a].clone() {
            change(&mut alive, v as usize, -1);
        }
        for v in problem.writes(a) {
            if let Some(last) = problem.values[*v as usize].consumers.last() {
                change(&mut alive, *v as usize, 1);
                ends[*last].push(*v);
            }
        }
        places.push(alive.iter().map(|(cost, blocked)| (*blocked == 0).then_some(*cost as u128)).collect());
    }
    places
}

fn switch(problem: &Problem, objective: &Objective, crossing: &Crossing, a: usize, p: usize, q: usize) -> Option<u128> {
    if p == q {
        return Some(0);
    }
    let copies = crossing[p * problem.devices.len() + q]?;
    let enters = objective.launch && !problem.preds(a).is_empty();
    let launch = if enters { u128::from(objective.price[q]) * u128::from(problem.devices[q].entry().0) } else { 0 };
    Some(copies + launch)
}
