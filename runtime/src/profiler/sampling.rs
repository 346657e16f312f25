//! Runs of a whole model in turn over all its settings, and what each atom took in them.
//!
//! One session a thread count, plain and profiled (one a point for engines that want it so); rounds over all (threads,
//! batch) in turn, so that drift of the machine hits all alike. Warm-up runs are not counted.
//!
//! What is corrected, and why: ONNX Runtime writes whole microseconds rounded down; the engine adds half of one to
//! each. Its timing also runs while a node's event is put together, 2 to 3 us with one thread and up to 5 with two, a
//! tenth of mobilenet-v2. That overhead is measured on a chain of small operators ([`super::overhead`]), the same for
//! all models, and taken off each node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tandem_ir::profile::{Atom, Method, Timing};
use tandem_ir::{Graph, Nanos};
use tandem_onnx::cut::SegmentImage;
use tandem_onnx::value::Value;

use super::budget::Budget;
use super::{ProfileError, mapping, statistics};
use crate::engine::{Engine, EngineProfile, Session, SessionOptions};

/// Runs of each setting that are not counted: the first allocates and packs weights, the second still finds caches
/// cold.
const WARM_UP_RUNS: usize = 2;

/// Runs that are not counted before each one that is, by how long it takes: a session that was not run for a while
/// finds caches cold and threads asleep, as a model that is served does not.
pub(super) fn uncounted_runs(last: Nanos) -> usize {
    match last.0 {
        0..1_000_000 => 4,
        1_000_000..10_000_000 => 1,
        _ => 0,
    }
}

/// Threads and batch size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// Threads of a run.
    pub threads: u32,
    /// Batch size.
    pub batch: u64,
}

/// Which sessions take part in the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Take {
    /// Sessions that time their nodes.
    pub profiled: bool,
    /// Plain sessions, for whole durations.
    pub whole: bool,
}

/// Sessions of one model over all settings.
pub struct Sampler<'a> {
    points: Vec<Point>,
    /// Feeds by point.
    inputs: Vec<Arc<Vec<Value>>>,
    lanes: Vec<Lane>,
    turns: u32,
    graph: &'a Graph,
}

/// One session, and its runs in order.
struct Lane {
    /// The points it serves.
    serves: Vec<usize>,
    threads: u32,
    profiled: bool,
    session: Arc<dyn Session>,
    /// Which point each run was of, and whether it counts.
    log: Vec<(usize, bool)>,
    /// Durations of counted runs, by point.
    taken: Vec<Vec<u64>>,
    /// Duration of the last run, by point.
    last: Vec<Nanos>,
}

/// What was measured of one model at one point.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// Where.
    pub point: Point,
    /// One an atom, in the table's order; empty where nodes were not timed.
    pub atoms: Vec<Timing>,
    /// What all atoms took together in each profiled run, in nanoseconds, in order.
    pub timed_ns: Vec<u64>,
    /// Durations of whole plain runs in nanoseconds, in order; empty where none were asked for.
    pub whole_ns: Vec<u64>,
}

/// A model's atoms and their durations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// Atoms as the engine runs them; empty if it does not time its nodes.
    pub atoms: Vec<Atom>,
    /// By point.
    pub points: Vec<Sampled>,
}

/// Whether a session of the engine is to be run at one input shape only: tract makes a plan, with weights packed anew,
/// for each shape, and numbers its nodes by plan.
pub fn one_shape_a_session(engine: &dyn Engine) -> bool {
    engine.name() == "tract"
}

/// Threads that a run of the engine truly uses when it may use so many: tract, as built here, uses one whatever it may.
pub fn threads_used(engine: &dyn Engine, threads: u32) -> u32 {
    if engine.name() == "tract" { 1 } else { threads }
}

impl Lane {
    /// One counted run and, of a short one, some before it that are not.
    fn visit(&mut self, point: usize, inputs: &[Value], counts: bool) -> Result<(), ProfileError> {
        for _ in 0..if counts { uncounted_runs(self.last[point]) } else { 0 } {
            self.run(point, inputs, false)?;
        }
        self.run(point, inputs, counts)
    }

    fn run(&mut self, point: usize, inputs: &[Value], counts: bool) -> Result<(), ProfileError> {
        let start = Instant::now();
        let outputs = self.session.run(inputs)?;
        let took = since(start);
        drop(outputs);
        self.log.push((point, counts));
        self.last[point] = took;
        if counts {
            self.taken[point].push(took.0);
        }
        Ok(())
    }
}

impl<'a> Sampler<'a> {
    /// Loads the sessions. Inputs are given by point: values in the order of the image's inputs.
    ///
    /// # Errors
    /// What the engine says while loading.
    pub fn load(
        engine: &dyn Engine,
        image: &SegmentImage,
        graph: &'a Graph,
        points: &[(Point, Arc<Vec<Value>>)],
        take: Take,
    ) -> Result<Self, ProfileError> {
        // A session serves all batches of a thread count where the engine can: weights are held once.
        let group = |p: &Point| (p.threads, if one_shape_a_session(engine) { p.batch } else { 0 });
        let mut groups: BTreeMap<(u32, u64), Vec<usize>> = BTreeMap::new();
        for (i, (point, _)) in points.iter().enumerate() {
            groups.entry(group(point)).or_default().push(i);
        }
        let mut lanes = vec![];
        for ((threads, _), serves) in groups {
            let kinds = [(take.profiled, true), (take.whole, false)];
            for (_, profiled) in kinds.into_iter().filter(|(wanted, _)| *wanted) {
                let options = SessionOptions { threads, optimize: true, profile: profiled };
                let (session, serves) = (engine.load(image, &options)?, serves.clone());
                let (taken, last) = (vec![vec![]; points.len()], vec![Nanos::ZERO; points.len()]);
                lanes.push(Lane { serves, threads, profiled, session, log: vec![], taken, last });
            }
        }
        let (points, inputs) = points.iter().map(|(p, i)| (*p, i.clone())).unzip();
        Ok(Self { points, inputs, lanes, turns: 0, graph })
    }

    /// Runs everything without counting, and returns how many rounds each point gets: each has an equal share of the
    /// budget, so that small batches are repeated often where large ones cannot be.
    ///
    /// # Errors
    /// What the engine says while running.
    pub fn warm_up(&mut self, budget: &Budget) -> Result<Vec<u32>, ProfileError> {
        let mut points: Vec<bool> = vec![true; self.points.len()];
        for _ in 0..WARM_UP_RUNS {
            self.turn(false, &points)?;
            // A second warm-up of a huge model would cost more than it brings.
            (0..points.len()).for_each(|p| points[p] &= self.visit_duration(p) < Budget::HUGE_RUN);
        }
        let share = budget.shared(self.points.len() as u64);
        Ok((0..self.points.len()).map(|p| share.rounds(self.visit_duration(p))).collect())
    }

    /// How long the last runs of all sessions that serve a point took together.
    fn visit_duration(&self, point: usize) -> Nanos {
        self.lanes.iter().map(|l| l.last[point]).sum()
    }

    /// Counted rounds over all sessions and points, so many a point, those with fewer spread evenly. Says before each
    /// round how many are done, and of how many; what else takes a turn in each round takes it then.
    ///
    /// # Errors
    /// What the engine says while running, and the step.
    pub fn measure(
        &mut self,
        rounds: &[u32],
        step: &mut dyn FnMut(u32, u32) -> Result<(), ProfileError>,
    ) -> Result<(), ProfileError> {
        let most = rounds.iter().copied().max().unwrap_or(0);
        for done in 0..most {
            step(done, most)?;
            let due = |n: &u32| {
                u64::from(done + 1) * u64::from(*n) / u64::from(most)
                    > u64::from(done) * u64::from(*n) / u64::from(most)
            };
            let due: Vec<bool> = rounds.iter().map(due).collect();
            self.turn(true, &due)?;
        }
        Ok(())
    }

    fn turn(&mut self, counts: bool, due: &[bool]) -> Result<(), ProfileError> {
        self.turns += 1;
        for p in (0..self.points.len()).filter(|p| due[*p]) {
            let mut serving: Vec<&mut Lane> = self.lanes.iter_mut().filter(|l| l.serves.contains(&p)).collect();
            // Who comes second finds the processor awake and shared code in its caches: so they take turns at that too.
            if self.turns.is_multiple_of(2) {
                serving.reverse();
            }
            for lane in serving {
                lane.visit(p, &self.inputs[p], counts)?;
            }
        }
        Ok(())
    }

    /// Ends the sessions and sums what each atom took. The overhead of timing a node is given by thread count. With
    /// known atoms, times are attributed to those.
    ///
    /// # Errors
    /// The engine cannot tell its times.
    pub fn finish(self, known: Option<&[Atom]>, overhead_ns: &dyn Fn(u32) -> u64) -> Result<Samples, ProfileError> {
        let mut atoms: Option<Vec<Atom>> = known.map(<[Atom]>::to_vec);
        let mut sampled: Vec<Sampled> = self
            .points
            .iter()
            .map(|p| Sampled { point: *p, atoms: vec![], timed_ns: vec![], whole_ns: vec![] })
            .collect();
        for lane in self.lanes {
            if !lane.profiled {
                let mut taken = lane.taken;
                lane.serves.iter().for_each(|p| sampled[*p].whole_ns = std::mem::take(&mut taken[*p]));
                continue;
            }
            let Some(profile) = lane.session.end_profile()?.filter(|p| !p.nodes.is_empty()) else { continue };
            let atoms = atoms.get_or_insert_with(|| mapping::map(self.graph, &profile).atoms);
            let timed = mapping::collect(atoms.len(), &mapping::attribute(self.graph, atoms, &profile));
            for p in lane.serves {
                let runs: Vec<usize> = (0..lane.log.len()).filter(|r| lane.log[*r] == (p, true)).collect();
                let overhead = overhead_ns(lane.threads);
                sampled[p].atoms = atom_timings(&profile, &timed, &runs, overhead);
                sampled[p].timed_ns = totals(&profile, &runs, overhead);
            }
        }
        Ok(Samples { atoms: atoms.unwrap_or_default(), points: sampled })
    }
}

fn since(start: Instant) -> Nanos {
    Nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

/// The duration of each atom over some of the session's runs, from its engine nodes' durations, less the overhead of
/// each. Atoms' durations add up to the middle of the runs' totals ([`statistics::middle_runs`]).
pub fn atom_timings(profile: &EngineProfile, timed: &[Vec<usize>], runs: &[usize], overhead_ns: u64) -> Vec<Timing> {
    let runs = told(profile, runs);
    let of = |node: usize, run: usize| profile.nodes[node].runs_ns.get(run).copied().unwrap_or(0);
    let totals = totals(profile, &runs, 0);
    let middle = statistics::middle_runs(&totals);
    let timing = |nodes: &Vec<usize>| {
        let sums: Vec<u64> = runs.iter().map(|r| nodes.iter().map(|n| of(*n, *r)).sum()).collect();
        let value = statistics::mean_of(&sums, &middle).saturating_sub(overhead_ns * nodes.len() as u64);
        let spread = Nanos(statistics::spread(&sums));
        Timing { median: Nanos(value), spread, repeats: runs.len() as u32, method: Method::EngineTimed }
    };
    timed.iter().map(timing).collect()
}

/// What all nodes took together in each of the runs, less the overhead of each.
fn totals(profile: &EngineProfile, runs: &[usize], overhead_ns: u64) -> Vec<u64> {
    let overhead = overhead_ns * profile.nodes.len() as u64;
    let total = |run: &usize| profile.nodes.iter().filter_map(|n| n.runs_ns.get(*run)).sum::<u64>();
    told(profile, runs).iter().map(|run| total(run).saturating_sub(overhead)).collect()
}

/// The runs that the engine tells of: it may stop writing events after many.
fn told(profile: &EngineProfile, runs: &[usize]) -> Vec<usize> {
    let told = profile.nodes.iter().map(|n| n.runs_ns.len()).max().unwrap_or(0);
    runs.iter().copied().filter(|r| *r < told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::NodeTiming;

    fn profile(nodes: &[&[u64]]) -> EngineProfile {
        let node = |runs: &&[u64]| NodeTiming { name: String::new(), op: String::new(), runs_ns: runs.to_vec() };
        EngineProfile { nodes: nodes.iter().map(node).collect(), graph: vec![], whole_ns: vec![] }
    }

    #[test]
    fn atoms_sum_their_nodes_without_the_overhead_of_timing() {
        let p = profile(&[&[9_000, 10_000, 10_000], &[9_000, 3_000, 3_000], &[9_000, 5_000, 7_000]]);
        let timings = atom_timings(&p, &[vec![0, 1], vec![2], vec![]], &[1, 2], 2_000);
        let medians: Vec<u64> = timings.iter().map(|t| t.median.0).collect();
        assert_eq!(medians, [9_000, 4_000, 0]);
        assert_eq!((timings[1].spread, timings[1].repeats), (Nanos(1_000), 2));
    }

    #[test]
    fn runs_the_engine_says_nothing_of_do_not_count() {
        let p = profile(&[&[8_000, 4_000]]);
        let timings = atom_timings(&p, &[vec![0]], &[1, 2, 3], 0);
        assert_eq!((timings[0].median, timings[0].repeats), (Nanos(4_000), 1));
        assert_eq!(atom_timings(&p, &[vec![0]], &[5], 0)[0].repeats, 0);
    }
}
