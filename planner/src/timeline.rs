//! The one judge: deterministic list scheduling of a route's steps on its lanes.
//!
//! Steps are the launches of segments and the copies of values, one a (value, far device) however many read it there; a copy
//! between devices without a link goes by way of the host. A free lane takes, among the steps that are ready, the one with
//! the longest path to the end, then the smallest number (segments first, then copies by value and device). The order of
//! dispatch is the order of the plan's steps, so a strict in-order replay of each lane starts every step at the same
//! moment: a lane that idles here idles there, for the step it takes next is not ready before.
//!
//! Source: Graham, "Bounds on multiprocessing timing anomalies" (1969), for list scheduling.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tandem_ir::units::{Nanos, Time};

use crate::problem::{HOST, Problem};
use crate::segments::Segments;

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Launches a segment.
    Run(usize),
    /// Copies a value over one link.
    Copy {
        /// Position of the value.
        value: usize,
        /// Device it comes from.
        from: usize,
        /// Device it goes to.
        to: usize,
    },
}

/// A step with its moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimedStep {
    /// Lane: devices first, then [`Problem::link_lanes`].
    pub lane: usize,
    /// What it does.
    pub work: Work,
    /// Steps it waits for, ascending.
    pub after: Vec<usize>,
    /// How long it takes.
    pub duration: Nanos,
    /// When it starts.
    pub start: Time,
}

/// A route in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// Steps in the order of dispatch, which is topological.
    pub steps: Vec<TimedStep>,
    /// First start to last end.
    pub makespan: Nanos,
    /// Busy time of every lane of the problem, used or not.
    pub busy: Vec<Nanos>,
}

/// What candidates are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Score {
    /// First start to last end.
    pub makespan: Nanos,
    /// The busiest lane's time a batch ([`Problem::bottleneck`]).
    pub bottleneck: Nanos,
    /// All lanes' time together.
    pub total: Nanos,
    /// Bytes of constants beyond a device's memory, all devices together.
    pub excess: u64,
}

/// Why segments have no timeline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum TimelineError {
    #[error("atom {atom} cannot run on {device}")]
    Unrunnable { atom: usize, device: String },
    #[error("value {value} cannot get from {from} to {to}: the machine has no such link, and none by way of the host")]
    NoLink { value: usize, from: String, to: String },
    #[error("the segments depend on each other in a cycle")]
    Cycle,
}

/// Steps before they have an order: in numbering order, segments then copies.
#[derive(Default)]
struct Draft {
    lane: Vec<u32>,
    work: Vec<Work>,
    duration: Vec<u64>,
    /// (earlier, later), sorted, each once.
    edges: Vec<(u32, u32)>,
    /// Where the edges of each step start.
    first: Vec<u32>,
    waits: Vec<u32>,
}

/// Plays segments on their lanes.
///
/// # Errors
/// Atoms that cannot run where they are put, values that cannot get where they are read, segments in a cycle.
pub fn evaluate(problem: &Problem, segments: &Segments) -> Result<Timeline, TimelineError> {
    let draft = draft(problem, segments)?;
    let (order, start, makespan) = play(&draft, problem.lane_count())?;
    let mut place = vec![0usize; order.len()];
    order.iter().enumerate().for_each(|(new, old)| place[*old as usize] = new);
    let mut after = vec![vec![]; order.len()];
    draft.edges.iter().for_each(|(a, b)| after[place[*b as usize]].push(place[*a as usize]));
    after.iter_mut().for_each(|a| a.sort_unstable());
    let timed = |(old, after): (&u32, Vec<usize>)| {
        let i = *old as usize;
        let (lane, work, duration) = (draft.lane[i] as usize, draft.work[i], Nanos(draft.duration[i]));
        TimedStep { lane, work, after, duration, start: Time(start[i]) }
    };
    let steps = order.iter().zip(after).map(timed).collect();
    Ok(Timeline { steps, makespan: Nanos(makespan), busy: busy(problem, &draft) })
}

/// The score of [`evaluate`]'s answer, without building its steps.
///
/// # Errors
/// As [`evaluate`].
pub fn score(problem: &Problem, segments: &Segments) -> Result<Score, TimelineError> {
    let draft = draft(problem, segments)?;
    let (_, _, makespan) = play(&draft, problem.lane_count())?;
    let busy = busy(problem, &draft);
    let excess = excess(problem, segments);
    Ok(Score {
        makespan: Nanos(makespan),
        bottleneck: problem.bottleneck(&busy),
        total: busy.into_iter().sum(),
        excess,
    })
}

fn busy(problem: &Problem, draft: &Draft) -> Vec<Nanos> {
    let mut busy = vec![Nanos::ZERO; problem.lane_count()];
    draft.lane.iter().zip(&draft.duration).for_each(|(l, d)| busy[*l as usize] += Nanos(*d));
    busy
}

/// Bytes of constants beyond the devices' memories. All lanes of a device share them.
fn excess(problem: &Problem, segments: &Segments) -> u64 {
    let mut held = vec![0u64; problem.devices.len()];
    for (atom, s) in problem.atoms.iter().zip(&segments.of) {
        let d = usize::from(segments.device[*s as usize]);
        held[d] = held[d].saturating_add(atom.weights.0);
    }
    held.into_iter().zip(&problem.devices).map(|(held, device)| held.saturating_sub(device.memory.0)).sum()
}

/// Makes the steps and what they wait for.
fn draft(problem: &Problem, segments: &Segments) -> Result<Draft, TimelineError> {
    let count = segments.len();
    let mut draft = Draft::default();
    let mut work = vec![0u64; count];
    for (a, s) in segments.of.iter().enumerate() {
        let d = usize::from(segments.device[*s as usize]);
        let time = problem.time(a, d);
        let device = || problem.devices[d].name.clone();
        let time = time.ok_or_else(|| TimelineError::Unrunnable { atom: a, device: device() })?;
        work[*s as usize] = work[*s as usize].saturating_add(time.0);
    }
    for (s, work) in work.iter().enumerate() {
        let d = usize::from(segments.device[s]);
        draft.push(d, Work::Run(s), problem.segment_duration(d, Nanos(*work), segments.len() > 1).0);
    }
    // Step that brings a value to each device, for the value at hand.
    let mut brings = vec![u32::MAX; problem.devices.len()];
    for v in 0..problem.values.len() {
        copies_of(problem, segments, v, &mut draft, &mut brings)?;
    }
    draft.finish();
    Ok(draft)
}

/// Adds the copies of one value, and the edges from its producer to its copies and its readers.
fn copies_of(
    problem: &Problem,
    segments: &Segments,
    v: usize,
    draft: &mut Draft,
    brings: &mut [u32],
) -> Result<(), TimelineError> {
    let value = &problem.values[v];
    let maker = value.producer.map(|p| segments.of[p]);
    let home = maker.map_or(HOST, |s| usize::from(segments.device[s as usize]));
    let mut far = 0u32;
    for c in &value.consumers {
        far |= 1 << segments.device[segments.of[*c] as usize];
    }
    if value.output {
        far |= 1 << HOST;
    }
    far &= !(1 << home);
    if far == 0 {
        if let Some(maker) = maker {
            let readers = value.consumers.iter().map(|c| segments.of[*c]).filter(|s| *s != maker);
            draft.edges.extend(readers.map(|s| (maker, s)));
        }
        return Ok(());
    }
    brings.fill(u32::MAX);
    // The host first: values that go on by way of it then find it there.
    for to in (0..problem.devices.len()).filter(|d| far >> d & 1 == 1) {
        let hops = problem.hops(home, to);
        if hops.is_empty() {
            let name = |d: usize| problem.devices[d].name.clone();
            return Err(TimelineError::NoLink { value: v, from: name(home), to: name(to) });
        }
        for link in hops {
            let l = &problem.links[*link];
            if brings[l.to] != u32::MAX {
                continue;
            }
            let lane = problem.devices.len() + l.lane;
            let step = draft.push(lane, Work::Copy { value: v, from: l.from, to: l.to }, problem.copy_over(v, *link).0);
            let source = if l.from == home { maker } else { Some(brings[l.from]) };
            draft.edges.extend(source.map(|s| (s, step)));
            brings[l.to] = step;
        }
    }
    for c in &value.consumers {
        let reader = segments.of[*c];
        let at = usize::from(segments.device[reader as usize]);
        let source = if at == home { maker } else { Some(brings[at]) };
        draft.edges.extend(source.filter(|s| *s != reader).map(|s| (s, reader)));
    }
    Ok(())
}

impl Draft {
    fn push(&mut self, lane: usize, work: Work, duration: u64) -> u32 {
        self.lane.push(lane as u32);
        self.work.push(work);
        self.duration.push(duration);
        self.lane.len() as u32 - 1
    }

    fn finish(&mut self) {
        self.edges.sort_unstable();
        self.edges.dedup();
        let n = self.lane.len();
        self.first = vec![0; n + 1];
        self.waits = vec![0; n];
        for (a, b) in &self.edges {
            self.first[*a as usize + 1] += 1;
            self.waits[*b as usize] += 1;
        }
        for i in 0..n {
            self.first[i + 1] += self.first[i];
        }
    }

    fn next(&self, step: u32) -> &[(u32, u32)] {
        &self.edges[self.first[step as usize] as usize..self.first[step as usize + 1] as usize]
    }
}

/// Longest path from each step's start to the end.
fn priorities(draft: &Draft) -> Result<Vec<u64>, TimelineError> {
    let mut waits = draft.waits.clone();
    let mut order: Vec<u32> = (0..waits.len() as u32).filter(|s| waits[*s as usize] == 0).collect();
    let mut done = 0;
    while let Some(step) = order.get(done).copied() {
        done += 1;
        for (_, next) in draft.next(step) {
            waits[*next as usize] -= 1;
            if waits[*next as usize] == 0 {
                order.push(*next);
            }
        }
    }
    if order.len() < waits.len() {
        return Err(TimelineError::Cycle);
    }
    let mut priority = vec![0u64; waits.len()];
    for step in order.into_iter().rev() {
        let rest = draft.next(step).iter().map(|(_, n)| priority[*n as usize]).max().unwrap_or(0);
        priority[step as usize] = rest.saturating_add(draft.duration[step as usize]);
    }
    Ok(priority)
}

/// List scheduling: (order of dispatch, starts by step, makespan).
fn play(draft: &Draft, lanes: usize) -> Result<(Vec<u32>, Vec<u64>, u64), TimelineError> {
    let priority = priorities(draft)?;
    let n = priority.len();
    let mut waits = draft.waits.clone();
    let mut ready: Vec<BinaryHeap<(u64, Reverse<u32>)>> = vec![BinaryHeap::new(); lanes];
    let offer = |ready: &mut Vec<BinaryHeap<_>>, s: u32| {
        ready[draft.lane[s as usize] as usize].push((priority[s as usize], Reverse(s)));
    };
    (0..n as u32).filter(|s| waits[*s as usize] == 0).for_each(|s| offer(&mut ready, s));
    let mut idle = vec![true; lanes];
    let mut running: BinaryHeap<Reverse<(u64, u32)>> = BinaryHeap::new();
    let (mut order, mut start, mut now) = (Vec::with_capacity(n), vec![0u64; n], 0u64);
    loop {
        for lane in 0..lanes {
            if let Some((_, Reverse(s))) = idle[lane].then(|| ready[lane].pop()).flatten() {
                idle[lane] = false;
                start[s as usize] = now;
                order.push(s);
                running.push(Reverse((now.saturating_add(draft.duration[s as usize]), s)));
            }
        }
        let Some(Reverse((end, _))) = running.peek() else { break };
        now = *end;
        // Everything that ends at this moment ends before anything starts.
        while let Some(Reverse((_, s))) = running.peek().filter(|r| r.0.0 == now).copied() {
            running.pop();
            idle[draft.lane[s as usize] as usize] = true;
            for (_, next) in draft.next(s) {
                waits[*next as usize] -= 1;
                if waits[*next as usize] == 0 {
                    offer(&mut ready, *next);
                }
            }
        }
    }
    Ok((order, start, now))
}
