//! Proven floors. They use relaxations only, so they hold whatever any search or solver said.
//!
//! For any prices pi >= 0 of lanes, the busiest lane's time is at least (sum of priced busy times) / (sum of pi times the
//! lane's instances), and the priced sum is at least the minimum cut at those prices: no launch, no interference, no lost
//! fusion. Weak duality; the prices are found by multiplicative weights, and any others would only make the floor lower.
//! One batch needs at least its busiest lane's time, and at least its longest path with the best devices and copies.

use tandem_ir::units::Nanos;

use crate::mincut::{MinCut, Objective, additive};
use crate::problem::{HOST, Problem};

/// Cuts tried for a floor: the multiplicative weights have settled by then to about a per cent.
const ROUNDS: usize = 12;

/// Sum of the prices; integer prices this fine lose at most a per mille.
const PRICE_SUM: u64 = 1 << 12;

/// A floor of any route's makespan.
pub fn makespan(problem: &Problem) -> Nanos {
    let lanes = vec![1; problem.lane_count()];
    longest_path(problem).max(busiest(problem, &lanes))
}

/// A floor of any route's busiest lane ([`Problem::bottleneck`]).
pub fn bottleneck(problem: &Problem) -> Nanos {
    let lanes = |q: usize| problem.devices.get(q).map_or(1, |d| u64::from(d.lanes.max(1)));
    busiest(problem, &(0..problem.lane_count()).map(lanes).collect::<Vec<_>>())
}

/// Placements met on the way to [`bottleneck`]'s floor: each the cheapest at some prices.
pub fn placements(problem: &Problem) -> Vec<Vec<u8>> {
    let lanes = |q: usize| problem.devices.get(q).map_or(1, |d| u64::from(d.lanes.max(1)));
    let mut met = vec![];
    priced(problem, &(0..problem.lane_count()).map(lanes).collect::<Vec<_>>(), &mut |devices| {
        met.push(devices.to_vec())
    });
    met
}

/// The best floor of max over lanes of busy / instances that priced cuts prove.
fn busiest(problem: &Problem, instances: &[u64]) -> Nanos {
    priced(problem, instances, &mut |_| ())
}

/// Raises prices round by round, shows each round's placement, and returns the best floor.
fn priced(problem: &Problem, instances: &[u64], show: &mut dyn FnMut(&[u8])) -> Nanos {
    let lanes = problem.lane_count();
    let mut cut = MinCut::default();
    let mut price: Vec<u64> =
        (0..lanes).map(|q| if q < problem.devices.len() { PRICE_SUM } else { PRICE_SUM / 8 }).collect();
    let mut best = 0u64;
    for round in 0..ROUNDS {
        let objective = Objective { price: price.clone(), launch: false };
        let Some((floor, devices)) = priced_floor(problem, &objective, &mut cut) else { break };
        let weight: u128 = price.iter().zip(instances).map(|(p, n)| u128::from(*p) * u128::from(*n)).sum();
        let value = u64::try_from(floor.div_ceil(weight.max(1))).unwrap_or(u64::MAX);
        best = best.max(value);
        show(&devices);
        reprice(problem, &devices, instances, &mut price, round);
    }
    Nanos(best)
}

/// The least priced sum any placement can have, and a placement that shows where the load is.
pub(crate) fn priced_floor(problem: &Problem, objective: &Objective, cut: &mut MinCut) -> Option<(u128, Vec<u8>)> {
    if problem.devices.len() == 2 {
        return cut.two(problem, objective, 1).map(|(devices, cost)| (cost, devices));
    }
    // The cut is not exact beyond two devices: each atom by itself, copies free.
    let (mut sum, mut devices) = (0u128, vec![]);
    for a in 0..problem.atoms.len() {
        let on = |d: usize| problem.time(a, d).map(|t| u128::from(t.0) * u128::from(objective.price[d]));
        let (least, d) = (0..problem.devices.len()).filter_map(|d| Some((on(d)?, d))).min()?;
        sum += least;
        devices.push(d as u8);
    }
    Some((sum, devices))
}

/// Raises the price of lanes in proportion to their load: by half of themselves at first, less later.
fn reprice(problem: &Problem, devices: &[u8], instances: &[u64], price: &mut [u64], round: usize) {
    let mut load = vec![0u128; price.len()];
    for (q, load) in load.iter_mut().enumerate() {
        let mut only = Objective { price: vec![0; price.len()], launch: false };
        only.price[q] = 1;
        *load = additive(problem, &only, devices).unwrap_or(0) / u128::from(instances[q].max(1));
    }
    let most = load.iter().copied().max().unwrap_or(0).max(1);
    let step = 1000 / (2 + round as u128 / 2);
    for (p, load) in price.iter_mut().zip(load) {
        // At least 1: a price of nothing would never rise again.
        *p = ((u128::from(*p) * (1000 + step * load / most)) / 1000).max(1) as u64;
    }
    let sum: u128 = price.iter().map(|p| u128::from(*p)).sum();
    let whole = u128::from(PRICE_SUM) * price.len() as u128;
    price.iter_mut().for_each(|p| *p = (u128::from(*p) * whole / sum.max(1)).max(1) as u64);
}

/// The longest path when each atom takes the best device for each path by itself: launches and copies are paid where the
/// device changes along the path. A segment holds all its atoms' time and one launch, so no route is faster.
fn longest_path(problem: &Problem) -> Nanos {
    let devices = problem.devices.len();
    // Shares of interference are left out: factors are never below 1000.
    let mut finish = vec![vec![u64::MAX; devices]; problem.atoms.len()];
    let mut longest = 0u64;
    for a in 0..problem.atoms.len() {
        for d in 0..devices {
            let Some(time) = problem.time(a, d) else { continue };
            let launch = problem.devices[d].launch.0;
            let mut begin = launch;
            for v in problem.reads(a) {
                begin = begin.max(arrival(problem, &finish, *v as usize, d, launch));
            }
            finish[a][d] = begin.saturating_add(time.0);
        }
        let end = |d: usize| -> u64 {
            let back = problem.writes(a).iter().filter(|v| problem.values[**v as usize].output);
            let back = back.filter_map(|v| problem.copy(*v as usize, d, HOST)).map(|t| t.0).max().unwrap_or(0);
            finish[a][d].saturating_add(back)
        };
        longest = longest.max((0..devices).map(end).min().unwrap_or(0));
    }
    Nanos(longest)
}

/// The soonest an atom on `d` may do its own work, for one value it reads.
fn arrival(problem: &Problem, finish: &[Vec<u64>], v: usize, d: usize, launch: u64) -> u64 {
    let from = |p: usize, at: u64| -> u64 {
        if p == d {
            return at;
        }
        problem.copy(v, p, d).map_or(u64::MAX, |c| at.saturating_add(c.0).saturating_add(launch))
    };
    match problem.values[v].producer {
        None => {
            if d == HOST {
                launch
            } else {
                from(HOST, 0)
            }
        }
        Some(p) => (0..problem.devices.len()).map(|e| from(e, finish[p][e])).min().unwrap_or(0),
    }
}
