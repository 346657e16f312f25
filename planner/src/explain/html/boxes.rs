//! What is drawn of a route's graph: a box for each atom, copy, input and output; in a large graph a box for a chain of atoms
//! of one segment.

use std::collections::{BTreeMap, BTreeSet};

use super::super::{Explanation, Flow};
use super::limits::{BOXES_MAX, ENDS_MAX};
use crate::problem::HOST;

/// What a box stands for; none is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Atoms of one segment, ascending.
    Atoms(Vec<usize>),
    /// Steps that copy what one box makes from one device to another.
    Copies(Vec<usize>),
    /// Values of the caller.
    Inputs(Vec<usize>),
    /// Values for the caller.
    Outputs(Vec<usize>),
}

/// Boxes in a topological order, and what goes from one to the other.
#[derive(Debug, Default)]
pub(super) struct Boxes {
    pub(super) boxes: Vec<What>,
    pub(super) edges: Vec<(usize, usize)>,
}

impl Boxes {
    pub(super) fn of(route: &Explanation) -> Self {
        let groups = groups(route);
        let mut group_of = vec![0; route.atoms.len()];
        groups.iter().enumerate().for_each(|(g, atoms)| atoms.iter().for_each(|a| group_of[*a] = g));
        let mut copies: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (s, step) in route.steps.iter().enumerate() {
            if let Some(copy) = &step.copy {
                copies.entry(copy.flow).or_default().push(s);
            }
        }
        let mut growing = Growing {
            route,
            group_of,
            inputs: shared(route.flows.iter().filter(|f| f.from.is_none()).count()),
            outputs: shared(route.flows.iter().filter(|f| f.output).count()),
            found: BTreeMap::new(),
            boxes: groups.into_iter().map(What::Atoms).collect(),
            edges: BTreeSet::new(),
        };
        for (f, flow) in route.flows.iter().enumerate() {
            growing.add((f, flow), copies.get(&f).map_or(&[], Vec::as_slice));
        }
        Self { boxes: growing.boxes, edges: growing.edges.into_iter().collect() }.sorted()
    }

    /// Renumbered, so that every edge leads to a higher number.
    fn sorted(self) -> Self {
        let n = self.boxes.len();
        let (mut waits, mut after) = (vec![0usize; n], vec![vec![]; n]);
        self.edges.iter().for_each(|(a, b)| {
            waits[*b] += 1;
            after[*a].push(*b);
        });
        let mut ready: BTreeSet<usize> = (0..n).filter(|v| waits[*v] == 0).collect();
        let (mut order, mut place) = (vec![], vec![0; n]);
        while let Some(v) = ready.pop_first() {
            place[v] = order.len();
            order.push(v);
            for next in &after[v] {
                waits[*next] -= 1;
                if waits[*next] == 0 {
                    ready.insert(*next);
                }
            }
        }
        let edges: BTreeSet<(usize, usize)> = self.edges.iter().map(|(a, b)| (place[*a], place[*b])).collect();
        let mut boxes: Vec<Option<What>> = self.boxes.into_iter().map(Some).collect();
        let sorted = order.into_iter().filter_map(|v| boxes[v].take()).collect();
        Self { boxes: sorted, edges: edges.into_iter().collect() }
    }
}

/// Whether so many values of the caller share one box.
fn shared(values: usize) -> bool {
    values > ENDS_MAX
}

/// What may share a box with its like.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// Source box, device it comes from, device it goes to.
    Copy(usize, usize, usize),
    /// The value; `None`: all of them.
    Input(Option<usize>),
    Output(Option<usize>),
}

struct Growing<'a> {
    route: &'a Explanation,
    group_of: Vec<usize>,
    inputs: bool,
    outputs: bool,
    found: BTreeMap<Key, usize>,
    boxes: Vec<What>,
    edges: BTreeSet<(usize, usize)>,
}

impl Growing<'_> {
    /// Adds the boxes of one value and the edges from its maker, by way of its copies, to its readers.
    fn add(&mut self, (f, flow): (usize, &Flow), copies: &[usize]) {
        let source = match flow.from {
            Some(atom) => self.group_of[atom],
            None => self.member(Key::Input((!self.inputs).then_some(f)), f),
        };
        // Which box brought it to each device. The caller's values are in the host's memory.
        let mut lies = BTreeMap::from([(flow.from.map_or(HOST, |a| self.device(a)), source)]);
        for step in copies {
            let Some(copy) = &self.route.steps[*step].copy else { continue };
            let from = lies.get(&copy.from).copied().unwrap_or(source);
            let arrived = self.member(Key::Copy(from, copy.from, copy.to), *step);
            self.edges.insert((from, arrived));
            lies.insert(copy.to, arrived);
        }
        for reader in &flow.to {
            let from = lies.get(&self.device(*reader)).copied().unwrap_or(source);
            let to = self.group_of[*reader];
            if from != to {
                self.edges.insert((from, to));
            }
        }
        if flow.output {
            let output = self.member(Key::Output((!self.outputs).then_some(f)), f);
            self.edges.insert((lies.get(&HOST).copied().unwrap_or(source), output));
        }
    }

    /// The box of this key, with one more member.
    fn member(&mut self, key: Key, member: usize) -> usize {
        let new = match key {
            Key::Copy(..) => What::Copies(vec![]),
            Key::Input(_) => What::Inputs(vec![]),
            Key::Output(_) => What::Outputs(vec![]),
        };
        let at = *self.found.entry(key).or_insert(self.boxes.len());
        if at == self.boxes.len() {
            self.boxes.push(new);
        }
        match &mut self.boxes[at] {
            What::Atoms(members) | What::Copies(members) | What::Inputs(members) | What::Outputs(members) => {
                members.push(member);
            }
        }
        at
    }

    fn device(&self, atom: usize) -> usize {
        self.route.device_of(self.route.atoms[atom].segment).unwrap_or(HOST)
    }
}

/// Atoms by box: each by itself where there is room, else chains within a segment, else runs of equal length in the order of
/// the segments, between which no two wait for each other.
fn groups(route: &Explanation) -> Vec<Vec<usize>> {
    let n = route.atoms.len();
    if n <= BOXES_MAX {
        return (0..n).map(|a| vec![a]).collect();
    }
    let chains = chains(route);
    if chains.len() <= BOXES_MAX {
        return chains;
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|a| (route.atoms[*a].segment, *a));
    let same = order.chunk_by(|a, b| route.atoms[*a].segment == route.atoms[*b].segment);
    same.flat_map(|segment| segment.chunks(n.div_ceil(BOXES_MAX))).map(<[usize]>::to_vec).collect()
}

/// Joins each atom with the only one it depends on, where that one has no other reader and is of the same segment.
fn chains(route: &Explanation) -> Vec<Vec<usize>> {
    let n = route.atoms.len();
    let (mut before, mut after) = (vec![BTreeSet::new(); n], vec![BTreeSet::new(); n]);
    for flow in &route.flows {
        for (maker, reader) in flow.from.iter().flat_map(|m| flow.to.iter().map(move |r| (*m, *r))) {
            before[reader].insert(maker);
            after[maker].insert(reader);
        }
    }
    let mut chain_of = vec![usize::MAX; n];
    let mut chains: Vec<Vec<usize>> = vec![];
    for atom in 0..n {
        let only = before[atom].first().filter(|_| before[atom].len() == 1).copied();
        let joined = only.filter(|p| after[*p].len() == 1 && route.atoms[*p].segment == route.atoms[atom].segment);
        chain_of[atom] = joined.map_or(chains.len(), |p| chain_of[p]);
        match joined {
            Some(_) => chains[chain_of[atom]].push(atom),
            None => chains.push(vec![atom]),
        }
    }
    chains
}
