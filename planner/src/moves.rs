//! Makespan search: local moves on segments, and a beam over downward-closed sets of atoms. Heuristics, in counted steps.

use std::collections::BTreeSet;

use crate::baselines::{Partial, rank_order};
use crate::problem::Problem;
use crate::search::{Candidate, Goal, judge};
use crate::segments::{Segments, join, quotient};

/// Boundaries move by so many atoms.
const STRIDES: [usize; 3] = [1, 2, 4];

/// Up to this many atoms, every atom is also tried in every other segment and in one of its own.
const ATOMWISE_MAX: usize = 64;

/// Improves a candidate by the first move that ranks better, again and again, until none does or `budget` candidates were
/// scored. Returns the best and how many were scored.
pub fn improve(problem: &Problem, goal: Goal, start: Candidate, budget: u64) -> (Candidate, u64, bool) {
    let mut best = start;
    let mut scored = 0;
    let mut seen: BTreeSet<Segments> = BTreeSet::from([best.segments.clone()]);
    'again: loop {
        let rank = goal.key(&best.score);
        let from = best.segments.clone();
        for next in neighbours(problem, &from) {
            if scored == budget {
                return (best, scored, false);
            }
            if !seen.insert(next.clone()) {
                continue;
            }
            scored += 1;
            if let Some(better) = judge(problem, next).filter(|c| goal.key(&c.score) < rank) {
                best = better;
                continue 'again;
            }
        }
        return (best, scored, true);
    }
}

/// Neighbours in a fixed order: flips, boundary moves, merges, splits, then single atoms. Made one at a time, for the first
/// that is better ends the round.
fn neighbours<'a>(problem: &'a Problem, segments: &'a Segments) -> impl Iterator<Item = Segments> + 'a {
    let members = segments.members();
    let edges = quotient(problem, &segments.of);
    let mut plans: Vec<Move> = vec![];
    for s in 0..segments.len() {
        let others = (0..problem.devices.len()).filter(|d| *d != usize::from(segments.device[s]));
        plans.extend(others.map(|d| Move::Flip(s as u32, d as u8)));
    }
    for (a, b) in &edges {
        for stride in STRIDES {
            plans.extend([Move::Forward(*a, *b, stride), Move::Back(*a, *b, stride)]);
        }
    }
    for a in 0..segments.len() as u32 {
        let same =
            (a + 1..segments.len() as u32).filter(|b| segments.device[a as usize] == segments.device[*b as usize]);
        plans.extend(same.map(|b| Move::Merge(a, b)));
    }
    for (s, atoms) in members.iter().enumerate() {
        let cuts: BTreeSet<usize> =
            [1, atoms.len() / 4, atoms.len() / 2, 3 * atoms.len() / 4, atoms.len().saturating_sub(1)]
                .into_iter()
                .filter(|c| (1..atoms.len()).contains(c))
                .collect();
        for cut in cuts {
            plans.push(Move::Split(s as u32, cut, None));
            let others = (0..problem.devices.len()).filter(|d| *d != usize::from(segments.device[s]));
            plans.extend(others.map(|d| Move::Split(s as u32, cut, Some(d as u8))));
        }
    }
    if problem.atoms.len() <= ATOMWISE_MAX {
        for a in 0..problem.atoms.len() {
            plans.extend((0..segments.len() as u32).map(|s| Move::Atom(a, s)));
            plans.extend((0..problem.devices.len()).map(|d| Move::Alone(a, d as u8)));
        }
    }
    plans.into_iter().filter_map(move |m| apply(problem, segments, &members, m))
}

#[derive(Clone, Copy, Debug)]
enum Move {
    /// A segment goes to another device.
    Flip(u32, u8),
    /// The last atoms of a segment go to its successor.
    Forward(u32, u32, usize),
    /// The first atoms of a segment go to its predecessor.
    Back(u32, u32, usize),
    /// Two segments of one device become one.
    Merge(u32, u32),
    /// A segment is parted after so many atoms; the second part may go to another device.
    Split(u32, usize, Option<u8>),
    /// An atom goes to another segment.
    Atom(usize, u32),
    /// An atom becomes a segment of its own.
    Alone(usize, u8),
}

fn apply(problem: &Problem, segments: &Segments, members: &[Vec<usize>], m: Move) -> Option<Segments> {
    let fresh = segments.len() as u32;
    let mut of = segments.of.clone();
    let mut device = segments.device.clone();
    match m {
        Move::Merge(a, b) => return join(problem, segments, a, b),
        Move::Flip(s, d) => device[s as usize] = d,
        Move::Forward(a, b, stride) => {
            let atoms = &members[a as usize];
            atoms[atoms.len().saturating_sub(stride)..].iter().for_each(|x| of[*x] = b);
        }
        Move::Back(a, b, stride) => members[b as usize].iter().take(stride).for_each(|x| of[*x] = a),
        Move::Split(s, cut, to) => {
            members[s as usize][cut..].iter().for_each(|x| of[*x] = fresh);
            device.push(to.unwrap_or(device[s as usize]));
        }
        Move::Atom(a, s) => of[a] = s,
        Move::Alone(a, d) => {
            of[a] = fresh;
            device.push(d);
        }
    }
    let runnable = of.iter().enumerate().all(|(a, s)| problem.time(a, usize::from(device[*s as usize])).is_some());
    let moved = Segments::canonical(problem, &of, |s| device[s as usize]).filter(|_| runnable)?;
    (moved != *segments).then_some(moved)
}

/// Placements by a beam: atoms in the order of their upward rank (every prefix of it is downward closed), each state with
/// every device, the `width` states kept that end soonest by estimate. O(atoms * width * devices) states.
pub fn beam(problem: &Problem, width: usize) -> Vec<Vec<u8>> {
    let order = rank_order(problem);
    let mut states = vec![Partial::new(problem)];
    for a in order {
        let mut offers: Vec<((u64, u64), usize, usize)> = vec![];
        for (i, state) in states.iter().enumerate() {
            for d in 0..problem.devices.len() {
                if let Some(end) = state.end(problem, a, d) {
                    offers.push(((end.max(state.makespan()), state.load().saturating_add(end)), i, d));
                }
            }
        }
        offers.sort_unstable();
        offers.truncate(width);
        let grown = |(_, i, d): &(_, usize, usize)| {
            let mut state = states[*i].clone();
            state.place(problem, a, *d);
            state
        };
        states = offers.iter().map(grown).collect();
    }
    let mut found: Vec<Vec<u8>> = states.into_iter().map(|s| s.device).collect();
    found.sort_unstable();
    found.dedup();
    found
}
