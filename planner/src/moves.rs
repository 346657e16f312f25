//! Makespan search: local moves on segments, and a beam over downward-closed sets of atoms. Heuristics, in counted steps.

use std::collections::BTreeSet;

use crate::baselines::{Partial, rank_order};
use crate::problem::Problem;
use crate::rng::Rng;
use crate::search::{Candidate, Goal, Key, judge};
use crate::segments::{Segments, join, quotient};

/// Boundaries move by so many atoms.
const STRIDES: [usize; 3] = [1, 2, 4];

/// Up to this many atoms, every atom is also tried in every other segment and in one of its own.
const ATOMWISE_MAX: usize = 64;

/// Moves of a kick: enough to leave the neighbourhood, few enough to stay near.
const KICK: usize = 3;

/// Improves a candidate by the first move that ranks better, again and again; where none does, kicks the best by a few random
/// moves (seeded, the same every time) and descends again: iterated local search (Lourenco, Martin, Stützle 2003). Ends when
/// `budget` candidates were scored, or when kicks meet nothing new. Returns the best, how many were scored, and whether the
/// first descent was finished.
pub fn improve(problem: &Problem, goal: Goal, start: Candidate, budget: u64) -> (Candidate, u64, bool) {
    improve_by(problem, &|c| goal.key(&c.score), start, budget)
}

/// The same by any rank: smaller is better.
pub fn improve_by(
    problem: &Problem,
    rank: &dyn Fn(&Candidate) -> Key,
    start: Candidate,
    budget: u64,
) -> (Candidate, u64, bool) {
    let rng = Rng::new(start.segments.len() as u64);
    let mut descent =
        Descent { problem, rank, budget, scored: 0, rng, seen: BTreeSet::from([start.segments.digest()]) };
    let mut best = descent.descend(start);
    let settled = descent.scored < budget;
    let mut stale = 0;
    while descent.scored < budget && stale < KICKS_STALE_MAX {
        let kicked = kick(problem, &best.segments, &mut descent.rng);
        if !descent.seen.insert(kicked.digest()) {
            stale += 1;
            continue;
        }
        stale = 0;
        descent.scored += 1;
        let Some(from) = judge(problem, kicked) else { continue };
        let found = descent.descend(from);
        if rank(&found) < rank(&best) {
            best = found;
        }
    }
    (best, descent.scored, settled)
}

/// Kicks in a row that lead to nothing new before the search gives up: small problems have little more to show.
const KICKS_STALE_MAX: u32 = 64;

struct Descent<'a> {
    problem: &'a Problem,
    rank: &'a dyn Fn(&Candidate) -> Key,
    budget: u64,
    scored: u64,
    rng: Rng,
    /// Digests of what was scored: two that collide cost a candidate, never a wrong answer.
    seen: BTreeSet<u64>,
}

impl Descent<'_> {
    fn descend(&mut self, start: Candidate) -> Candidate {
        let mut best = start;
        'again: loop {
            let (from, rank) = (best.segments.clone(), (self.rank)(&best));
            let members = from.members();
            let mut moves = moves_of(self.problem, &from, &members);
            // A budget rarely reaches all of them: a seeded order gives every kind its share.
            self.rng.shuffle(&mut moves);
            for m in moves {
                if self.scored == self.budget {
                    return best;
                }
                let Some(next) = apply(self.problem, &from, &members, m) else { continue };
                if !self.seen.insert(next.digest()) {
                    continue;
                }
                self.scored += 1;
                if let Some(better) = judge(self.problem, next).filter(|c| (self.rank)(c) < rank) {
                    best = better;
                    continue 'again;
                }
            }
            return best;
        }
    }
}

/// A few random moves one after another.
fn kick(problem: &Problem, segments: &Segments, rng: &mut Rng) -> Segments {
    let mut at = segments.clone();
    for _ in 0..KICK {
        let members = at.members();
        let moves = moves_of(problem, &at, &members);
        if moves.is_empty() {
            return at;
        }
        let m = moves[rng.below(moves.len() as u64) as usize];
        at = apply(problem, &at, &members, m).unwrap_or(at);
    }
    at
}

/// Moves in a fixed order: flips, boundary moves, merges, splits, then single atoms.
fn moves_of(problem: &Problem, segments: &Segments, members: &[Vec<usize>]) -> Vec<Move> {
    let edges = quotient(problem, &segments.of);
    let mut moves: Vec<Move> = vec![];
    let others = |s: usize| (0..problem.devices.len()).filter(move |d| *d != usize::from(segments.device[s]));
    for s in 0..segments.len() {
        moves.extend(others(s).map(|d| Move::Flip(s as u32, d as u8)));
    }
    for (a, b) in &edges {
        for stride in STRIDES {
            moves.extend([Move::Forward(*a, *b, stride), Move::Back(*a, *b, stride)]);
        }
    }
    let count = segments.len() as u32;
    for a in 0..count {
        let same = (a + 1..count).filter(|b| segments.device[a as usize] == segments.device[*b as usize]);
        moves.extend(same.map(|b| Move::Merge(a, b)));
    }
    for (s, atoms) in members.iter().enumerate() {
        let n = atoms.len();
        let cuts: BTreeSet<usize> = BTreeSet::from([1, n / 4, n / 2, 3 * n / 4, n.saturating_sub(1)]);
        for cut in cuts.into_iter().filter(|c| (1..n).contains(c)) {
            moves.push(Move::Split(s as u32, cut, None));
            moves.extend(others(s).map(|d| Move::Split(s as u32, cut, Some(d as u8))));
        }
    }
    if problem.atoms.len() <= ATOMWISE_MAX {
        for a in 0..problem.atoms.len() {
            moves.extend((0..count).filter(|s| *s != segments.of[a]).map(|s| Move::Atom(a, s)));
            moves.extend((0..problem.devices.len()).map(|d| Move::Alone(a, d as u8)));
        }
    }
    moves
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
