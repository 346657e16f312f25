//! Every answer there is, for small problems: the twin of all other methods.

use crate::mincut::{Objective, additive};
use crate::problem::Problem;
use crate::segments::Segments;

/// Most atoms for which every set of segments is tried, by number of devices: 8 atoms on two have 89,918 labelled
/// partitions, 7 on three 69,957.
pub fn segmentations_max(devices: usize) -> usize {
    match devices {
        1 => 9,
        2 => 8,
        3 => 7,
        4..=6 => 5,
        _ => 3,
    }
}

/// Most placements (device choices multiplied) that are tried one by one.
pub const PLACEMENTS_MAX: u128 = 1 << 16;

/// How many placements there are.
pub fn placement_count(problem: &Problem) -> u128 {
    let choices = problem.atoms.iter().map(|a| a.time.iter().flatten().count() as u128);
    choices.fold(1u128, |product, n| product.saturating_mul(n))
}

/// Calls `visit` with every placement (device by atom), in lexicographic order.
pub fn placements(problem: &Problem, visit: &mut dyn FnMut(&[u8])) {
    let can = |a: usize, from: usize| (from..problem.devices.len()).find(|d| problem.time(a, *d).is_some());
    let n = problem.atoms.len();
    let mut devices: Vec<u8> = (0..n).map(|a| can(a, 0).expect("every atom runs somewhere") as u8).collect();
    loop {
        visit(&devices);
        let step = (0..n).rev().find_map(|a| can(a, usize::from(devices[a]) + 1).map(|d| (a, d)));
        let Some((a, d)) = step else { return };
        devices[a] = d as u8;
        (a + 1..n).for_each(|b| devices[b] = can(b, 0).expect("every atom runs somewhere") as u8);
    }
}

/// The least additive cost over all placements, and the first placement that has it.
pub fn additive_optimum(problem: &Problem, objective: &Objective) -> Option<(Vec<u8>, u128)> {
    let mut best: Option<(Vec<u8>, u128)> = None;
    placements(problem, &mut |devices| {
        let better = |cost: &u128| best.as_ref().is_none_or(|b| *cost < b.1);
        if let Some(cost) = additive(problem, objective, devices).filter(better) {
            best = Some((devices.to_vec(), cost));
        }
    });
    best
}

/// Calls `visit` with every set of segments there is: every partition of the atoms, every device for each part, whenever the
/// graph of segments is acyclic. This is the whole space of routes.
pub fn segmentations(problem: &Problem, visit: &mut dyn FnMut(Segments)) {
    let n = problem.atoms.len();
    extend(problem, &mut Vec::with_capacity(n), &mut vec![], visit);
}

fn extend(problem: &Problem, of: &mut Vec<u32>, device: &mut Vec<u8>, visit: &mut dyn FnMut(Segments)) {
    let a = of.len();
    if a == problem.atoms.len() {
        if let Some(segments) = Segments::canonical(problem, of, |s| device[s as usize]) {
            visit(segments);
        }
        return;
    }
    for s in 0..device.len() {
        if problem.time(a, usize::from(device[s])).is_some() {
            of.push(s as u32);
            extend(problem, of, device, visit);
            of.pop();
        }
    }
    for d in (0..problem.devices.len()).filter(|d| problem.time(a, *d).is_some()) {
        of.push(device.len() as u32);
        device.push(d as u8);
        extend(problem, of, device, visit);
        device.pop();
        of.pop();
    }
}
