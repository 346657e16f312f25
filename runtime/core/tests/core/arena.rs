//! The arena's promise on random routes: whatever the interleaving, no two values that are alive share a byte.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tandem_core::rng::Rng;
use tandem_core::{EmulationOptions, Execution, emulate};
use tandem_ir::arena::{ALIGNMENT, DeviceLayout, layout, memory};
use tandem_ir::plan::{Action, MemoryUse, Route, RouteTensor, Step};
use tandem_ir::{Bytes, DType};

use crate::memory::peak_in_order;
use crate::routes::{route, segment, step};

const DEVICES: usize = 3;

/// A value on a device.
type Place = (usize, usize);

/// Steps known to be done before each, by `after` and the order of its lane: every pair, in the plainest way.
fn happens_before(steps: &[Step]) -> Vec<Vec<bool>> {
    let mut before = vec![vec![false; steps.len()]; steps.len()];
    for later in 0..steps.len() {
        for earlier in 0..later {
            if steps[later].after.contains(&earlier) || steps[later].lane == steps[earlier].lane {
                before[later][earlier] = true;
                (0..earlier).for_each(|e| before[later][e] |= before[earlier][e]);
            }
        }
    }
    before
}

/// What a step reads and writes.
fn uses(route: &Route, action: Action) -> (Vec<Place>, Vec<Place>) {
    let on = |tensors: &[usize], d: usize| tensors.iter().map(|t| (*t, d)).collect();
    match action {
        Action::Run(s) => {
            let segment = &route.segments[s];
            (on(&segment.inputs, segment.device), on(&segment.outputs, segment.device))
        }
        Action::Copy { tensor, from, to } => (vec![(tensor, from)], vec![(tensor, to)]),
        Action::Barrier => (vec![], vec![]),
    }
}

/// A route as plans have them: segments on three devices (the host has two lanes), copies on a lane a direction, every
/// reader after who brings what it reads, every value freed by the first step from which all its readers are done.
fn random(seed: u64, steps_max: u64) -> Route {
    let mut rng = Rng::new(seed);
    let value = |rng: &mut Rng, t: usize| {
        let magnitude = 1 + rng.below(12);
        let bytes = 1 + rng.below(1 << magnitude);
        let dims = (rng.below(20) > 0).then(|| vec![bytes]);
        RouteTensor { name: format!("v{t}"), dtype: Some(DType::U8), dims, bytes: Bytes(bytes) }
    };
    let mut r = route(2 + DEVICES * DEVICES, vec![], vec![], vec![]);
    r.memory.resize(DEVICES, Default::default());
    // Where each value is, and the step that brought it.
    let mut places: Vec<(Place, Option<usize>)> = vec![];
    for t in 0..1 + rng.below(3) as usize {
        r.tensors.push(value(&mut rng, t));
        r.inputs.push(t);
        places.push(((t, 0), None));
    }
    for i in 0..1 + rng.below(steps_max) as usize {
        // Mostly what is new: models are deep.
        let pick = |rng: &mut Rng| {
            let reach = if rng.below(4) == 0 { places.len() } else { places.len().min(4) } as u64;
            places[places.len() - 1 - rng.below(reach) as usize]
        };
        let ((tensor, from), brought) = pick(&mut rng);
        let to = rng.below(DEVICES as u64) as usize;
        let here = |t: usize, d: usize| places.iter().any(|(p, _)| *p == (t, d));
        let mut after: Vec<usize> = brought.into_iter().collect();
        if !here(tensor, to) && rng.below(2) == 0 {
            r.steps.push(step(2 + from * DEVICES + to, Action::Copy { tensor, from, to }, 1, &after, &[]));
            places.push(((tensor, to), Some(i)));
            continue;
        }
        let more = (0..rng.below(3)).map(|_| pick(&mut rng)).filter(|((_, d), _)| *d == from);
        let reads: BTreeMap<usize, Option<usize>> =
            more.map(|((t, _), by)| (t, by)).chain([(tensor, brought)]).collect();
        after.extend(reads.values().flatten());
        let made: Vec<usize> = (0..rng.below(3) as usize).map(|k| r.tensors.len() + k).collect();
        made.iter().for_each(|t| r.tensors.push(value(&mut rng, *t)));
        let inputs: Vec<usize> = reads.keys().copied().collect();
        let lane = if from == 0 { rng.below(2) as usize } else { 2 + from * DEVICES + from };
        r.steps.push(step(lane, Action::Run(r.segments.len()), 1, &after, &[]));
        r.segments.push(segment(from, &inputs, &made, rng.below(5000)));
        places.extend(made.iter().map(|t| ((*t, from), Some(i))));
    }
    r.outputs = places.iter().filter(|((_, d), _)| *d == 0 && rng.below(8) == 0).map(|((t, _), _)| *t).collect();
    free(&mut r);
    r.lanes = 1 + rng.below(3) as u32;
    r.memory = memory(&r).unwrap();
    r
}

fn free(r: &mut Route) {
    let before = happens_before(&r.steps);
    let mut readers: BTreeMap<Place, Vec<usize>> = BTreeMap::new();
    for (i, step) in r.steps.iter().enumerate() {
        uses(r, step.action).0.into_iter().for_each(|place| readers.entry(place).or_default().push(i));
    }
    readers.retain(|(t, d), _| *d != 0 || !r.outputs.contains(t));
    for (place, readers) in readers {
        let knows = |s: &usize| readers.iter().all(|r| r == s || before[*s][*r]);
        if let Some(s) = (0..r.steps.len()).find(knows) {
            r.steps[s].frees.push(place);
        }
    }
}

/// Bytes in use, by device: (first byte, end, value).
struct Memory<'a> {
    layouts: &'a [DeviceLayout],
    used: Vec<Vec<(u64, u64, usize)>>,
    /// The most bytes, padded, that were in use.
    most: Vec<u64>,
}

impl Memory<'_> {
    fn open(&mut self, (t, d): Place) {
        let Some(slot) = self.layouts[d].slot(t) else { return };
        let (start, end) = (slot.offset.0, slot.offset.0 + slot.bytes.0);
        assert!(end <= self.layouts[d].size.0, "value {t} ends at {end} on device {d}");
        let other = self.used[d].iter().find(|(s, e, _)| start < *e && *s < end);
        assert_eq!(other, None, "value {t} is written to {start}..{end} of device {d}");
        self.used[d].push((start, end, t));
        let padded = |(s, e, _): &(u64, u64, usize)| (e - s).next_multiple_of(ALIGNMENT);
        self.most[d] = self.most[d].max(self.used[d].iter().map(padded).sum());
    }

    fn read(&self, (t, d): Place) {
        let here = self.used[d].iter().any(|(_, _, v)| *v == t);
        assert!(here || self.layouts[d].engine_owned.contains(&t), "value {t} is read on device {d} after its life");
    }

    fn close(&mut self, (t, d): Place) {
        self.used[d].retain(|(_, _, v)| *v != t);
    }
}

/// Plays a random interleaving: of all that may start or end now, one does. Returns the most bytes in use by device.
fn play(route: &Arc<Route>, layouts: &[DeviceLayout], rng: &mut Rng) -> Vec<u64> {
    let mut execution = Execution::new(route.clone()).unwrap();
    let devices = layouts.len();
    let mut memory = Memory { layouts, used: vec![vec![]; devices], most: vec![0; devices] };
    route.inputs.iter().for_each(|t| memory.open((*t, 0)));
    let mut queues: Vec<VecDeque<usize>> = vec![VecDeque::new(); route.lane_names.len()];
    let mut running = vec![false; queues.len()];
    // Some runs drain a lane before they turn to the next, for worst cases are not evenly mixed.
    let stubborn = rng.below(3);
    let mut lane = 0;
    while !execution.is_over() {
        std::iter::from_fn(|| execution.poll_step()).for_each(|s| queues[route.steps[s].lane].push_back(s));
        let busy: Vec<usize> = (0..queues.len()).filter(|l| !queues[*l].is_empty()).collect();
        if !busy.contains(&lane) || rng.below(1 + 4 * stubborn) == 0 {
            lane = busy[rng.below(busy.len() as u64) as usize];
        }
        let at = queues[lane][0];
        let (reads, writes) = uses(route, route.steps[at].action);
        reads.iter().for_each(|place| memory.read(*place));
        if running[lane] {
            route.steps[at].frees.iter().for_each(|place| memory.close(*place));
            queues[lane].pop_front();
            execution.done(at);
        } else {
            writes.into_iter().for_each(|place| memory.open(place));
        }
        running[lane] = !running[lane];
    }
    memory.most
}

#[test]
fn no_interleaving_makes_two_values_meet() {
    let (mut shared, mut reached, mut sizes, mut floors) = (0, 0, 0, 0);
    for seed in 0..300 {
        let route = Arc::new(random(seed, 60));
        let layouts = layout(&route).unwrap();
        let mut rng = Rng::new(!seed);
        let mut most = vec![0; layouts.len()];
        for _ in 0..20 {
            let now = play(&route, &layouts, &mut rng);
            most.iter_mut().zip(now).for_each(|(m, n)| *m = (*m).max(n));
        }
        for (device, most) in layouts.iter().zip(most) {
            assert!(device.slots.iter().all(|s| s.offset.0.is_multiple_of(ALIGNMENT)));
            assert!(device.size.0.is_multiple_of(ALIGNMENT));
            assert!(most <= device.floor.0 && device.floor <= device.size, "seed {seed}: {most}, {device:?}");
            let apart: u64 = device.slots.iter().map(|s| s.bytes.0.next_multiple_of(ALIGNMENT)).sum();
            shared += u32::from(device.size.0 < apart);
            reached += u32::from(most == device.floor.0);
            (sizes, floors) = (sizes + device.size.0, floors + device.floor.0);
        }
    }
    assert!(sizes * 100 <= floors * 101, "{sizes} bytes, where {floors} are the floor");
    // Arenas in which nothing is shared, and floors that nothing reaches, would prove little.
    assert!(shared > 300 && reached > 500, "{shared} arenas share, {reached} floors are reached");
}

/// When a value is on a device: written by, freed by.
type Life = (Option<usize>, Option<usize>);

fn life(route: &Route, device: usize, tensor: usize) -> Life {
    let step_of = |found: &dyn Fn(&Step) -> bool| route.steps.iter().position(found);
    let written = step_of(&|s| uses(route, s.action).1.contains(&(tensor, device)));
    (written, step_of(&|s| s.frees.contains(&(tensor, device))))
}

/// Lives of the values of a layout, with their padded sizes, in the order of its slots.
fn lives(route: &Route, device: usize, layout: &DeviceLayout) -> Vec<(Life, u64)> {
    let padded = |bytes: Bytes| bytes.0.next_multiple_of(ALIGNMENT);
    layout.slots.iter().map(|s| (life(route, device, s.tensor), padded(s.bytes))).collect()
}

/// The most bytes alive over all moments of all interleavings: each set of events that holds what its events come after.
fn most_alive(route: &Route, lives: &[(Life, u64)]) -> u64 {
    let before = happens_before(&route.steps);
    let count = route.steps.len();
    // A moment: bit s for a step that is done, bit count + s for one that has started.
    let (mut queue, mut seen) = (vec![0u32], std::collections::BTreeSet::from([0u32]));
    let mut most = 0;
    while let Some(moment) = queue.pop() {
        let (done, started) = (|s: usize| moment >> s & 1 == 1, |s: usize| moment >> (count + s) & 1 == 1);
        let alive = |(from, until): &Life| from.is_none_or(started) && !until.is_some_and(done);
        most = most.max(lives.iter().filter(|(life, _)| alive(life)).map(|(_, size)| size).sum());
        for (s, before) in before.iter().enumerate() {
            let may_start = (0..s).all(|p| !before[p] || done(p));
            let next = if started(s) { moment | 1 << s } else { moment | 1 << (count + s) };
            if (started(s) || may_start) && seen.insert(next) {
                queue.push(next);
            }
        }
    }
    most
}

/// The smallest arena: the lowest that values put one by one reach, over all orders.
fn smallest(route: &Route, lives: &[(Life, u64)]) -> u64 {
    let before = happens_before(&route.steps);
    let ends = |a: &Life, b: &Life| a.1.zip(b.0).is_some_and(|(end, start)| before[start][end]);
    let overlap = |a: usize, b: usize| !ends(&lives[a].0, &lives[b].0) && !ends(&lives[b].0, &lives[a].0);
    let mut best = u64::MAX;
    let mut stack: Vec<Vec<(usize, u64)>> = vec![vec![]];
    while let Some(placed) = stack.pop() {
        let left: Vec<usize> = (0..lives.len()).filter(|i| placed.iter().all(|(p, _)| p != i)).collect();
        if left.is_empty() {
            best = best.min(placed.iter().map(|(i, at)| at + lives[*i].1).max().unwrap_or(0));
        }
        for i in left {
            // The lowest place is at the bottom or on top of another value.
            let tops = placed.iter().map(|(p, at)| at + lives[*p].1).chain([0]);
            let free = |at: &u64| {
                placed.iter().all(|(p, o)| !overlap(*p, i) || at + lives[i].1 <= *o || o + lives[*p].1 <= *at)
            };
            let at = tops.filter(free).min().expect("above all there is room");
            stack.push([placed.clone(), vec![(i, at)]].concat());
        }
    }
    best
}

#[test]
fn floors_are_exact_and_sizes_are_mostly_the_smallest() {
    let (mut compared, mut optimal) = (0, 0);
    for seed in 0..1_000 {
        let route = random(seed, 9);
        let layouts = layout(&route).unwrap();
        assert_eq!(layouts, layout(&route).unwrap(), "seed {seed}");
        for (d, device) in layouts.iter().enumerate() {
            let lives = lives(&route, d, device);
            assert_eq!(device.floor.0, most_alive(&route, &lives), "seed {seed} device {d}");
            let workspaces = route.steps.iter().enumerate().filter_map(|(i, step)| match step.action {
                Action::Run(s) if route.segments[s].device == d => {
                    Some(((Some(i), Some(i)), route.segments[s].workspace_bytes.0))
                }
                _ => None,
            });
            let workspace = most_alive(&route, &workspaces.collect::<Vec<_>>());
            let owned = device.engine_owned.iter().map(|t| (life(&route, d, *t), route.tensors[*t].bytes.0));
            let owned = most_alive(&route, &owned.collect::<Vec<_>>());
            assert_eq!((device.workspace.0, device.owned.0), (workspace, owned), "seed {seed} device {d}");
            if lives.len() <= 7 {
                let smallest = smallest(&route, &lives);
                assert!(device.floor.0 <= smallest && smallest <= device.size.0, "seed {seed} device {d}");
                compared += 1;
                optimal += u32::from(device.size.0 == smallest);
            }
        }
    }
    println!("{optimal} of {compared} layouts are the smallest");
    assert!(compared > 1_000 && optimal * 100 >= compared * 99, "{optimal} of {compared}");
}

/// Bytes of a batch that are in use beside the arenas, by device.
fn beside(route: &Route, layouts: &[DeviceLayout], here: &BTreeSet<Place>, running: &[usize]) -> Vec<u64> {
    let mut bytes = vec![0; layouts.len()];
    for (t, d) in here.iter().filter(|(t, d)| layouts[*d].engine_owned.contains(t)) {
        bytes[*d] += route.tensors[*t].bytes.0;
    }
    for step in running {
        if let Action::Run(s) = route.steps[*step].action {
            bytes[route.segments[s].device] += route.segments[s].workspace_bytes.0;
        }
    }
    bytes
}

/// Plays a random interleaving of several batches on the lanes they share. Returns the most bytes beside the arenas.
fn play_together(route: &Arc<Route>, layouts: &[DeviceLayout], batches: usize, rng: &mut Rng) -> Vec<u64> {
    let mut executions: Vec<Execution> = (0..batches).map(|_| Execution::new(route.clone()).unwrap()).collect();
    let mut here: Vec<BTreeSet<Place>> = vec![route.inputs.iter().map(|t| (*t, 0)).collect(); batches];
    let mut waiting: Vec<(usize, usize)> = vec![];
    let mut running: Vec<(usize, usize)> = vec![];
    let mut most = vec![0; layouts.len()];
    while executions.iter().any(|e| !e.is_over()) {
        for (batch, execution) in executions.iter_mut().enumerate() {
            waiting.extend(std::iter::from_fn(|| execution.poll_step()).map(|step| (batch, step)));
        }
        let lane = |step: usize| route.steps[step].lane;
        // The two lanes of the host have as many instances as the route says, each one batch at a time.
        let room = |(batch, step): &(usize, usize)| {
            let on: Vec<_> = running.iter().filter(|(_, s)| lane(*s) == lane(*step)).collect();
            let first = waiting.iter().find(|(b, s)| b == batch && lane(*s) == lane(*step));
            let instances = if lane(*step) < 2 { route.lanes as usize } else { 1 };
            on.len() < instances && on.iter().all(|(b, _)| b != batch) && first == Some(&(*batch, *step))
        };
        let ready: Vec<usize> = (0..waiting.len()).filter(|w| room(&waiting[*w])).collect();
        let choice = rng.below((ready.len() + running.len()) as u64) as usize;
        if let Some(w) = ready.get(choice) {
            let (batch, step) = waiting.remove(*w);
            here[batch].extend(uses(route, route.steps[step].action).1);
            running.push((batch, step));
        } else {
            let (batch, step) = running.remove(choice - ready.len());
            here[batch].retain(|place| !route.steps[step].frees.contains(place));
            executions[batch].done(step);
        }
        let each = here.iter().enumerate().map(|(batch, here)| {
            let steps: Vec<usize> = running.iter().filter(|(b, _)| *b == batch).map(|(_, s)| *s).collect();
            beside(route, layouts, here, &steps)
        });
        let now = each.fold(vec![0; most.len()], |a, b| a.iter().zip(b).map(|(a, b)| a + b).collect());
        most.iter_mut().zip(now).for_each(|(m, n): (&mut u64, u64)| *m = (*m).max(n));
    }
    most
}

#[test]
fn batches_in_flight_fit_into_the_plans_number() {
    let (mut found, mut planned) = (0, 0);
    for seed in 0..150 {
        let route = Arc::new(random(seed, 30));
        let layouts = layout(&route).unwrap();
        let batches = route.batches_in_flight();
        let mut rng = Rng::new(!seed);
        for _ in 0..5 {
            for (d, most) in play_together(&route, &layouts, batches, &mut rng).into_iter().enumerate() {
                let beside = route.memory_bytes(d).0 - batches as u64 * layouts[d].size.0;
                assert!(most <= beside, "seed {seed} device {d}: {most} of {beside} bytes beside the arenas");
                (found, planned) = (found + most, planned + beside);
            }
        }
    }
    // A number that nothing comes near would be met by anything.
    assert!(found * 2 > planned, "{found} of {planned} bytes");
}

#[test]
fn no_forecast_that_fails_takes_more_than_the_plans_number() {
    let mut tight = 0;
    for seed in 0..500 {
        let route = random(seed, 60);
        for run in 0..10 {
            let options = EmulationOptions { jitter_permille: 1000, seed: run, faults: vec![] };
            let played = emulate(&route, &options).unwrap();
            assert_eq!(played.excess, [], "seed {seed} run {run}");
            let near = |(found, memory): (&Bytes, &MemoryUse)| found.0 * 10 > memory.peak().0 * 9;
            tight += played.peak.iter().zip(&route.memory).filter(|both| near(*both)).count();
        }
    }
    assert!(tight > 1_000, "{tight} peaks come near the plan's number");
}

#[test]
fn golden_plans_say_their_layouts_and_fit_into_their_floor() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plans/golden");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let plan = tandem_ir::format::plan::from_yaml(&text, &file.display().to_string()).unwrap();
        for route in &plan.derived.routes {
            let name = format!("{} x{}", route.tenant, route.batch);
            assert_eq!(route.memory, memory(route).unwrap(), "{name}");
            for (d, (device, in_order)) in layout(route).unwrap().iter().zip(peak_in_order(route).unwrap()).enumerate()
            {
                assert_eq!(device.size, device.floor, "{name} on device {d}");
                assert!(in_order <= route.memory[d].peak(), "{name}: one of the interleavings that are allowed");
            }
        }
    }
}
