//! The one judge of schedules: what a round takes, by barriers and by events.
//!
//! Barriers: a stage ends when all its segments have; a processor's part of it is the longest segment on it or, where that is
//! more, the segments' times weighed by occupancy, slowed by how many meet there. Launch, switch and copies to and from
//! the host are part of a segment's time and fill its processor: nothing hides behind them here.
//!
//! Events: segments are taken stage by stage and tenant by tenant. Each waits for its tenant's previous segment, for
//! copies (one at a time on each way between two processors), and until its processor has room for its occupancy, for
//! processors start segments in this order. Copies overlap with computing here, and there is no barrier to pay for.

use tandem_ir::units::Nanos;

use super::limits::FULL;
use super::problem::{Semantics, StageProblem};
use super::schedule::{Schedule, ScheduleError, Segment};
use crate::problem::HOST;

/// What a schedule comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluation {
    /// Makespan of a round by barriers.
    pub barrier: Nanos,
    /// Makespan of a round by events.
    pub event: Nanos,
    /// What each stage takes by barriers, its synchronisation included.
    pub stages: Vec<Nanos>,
    /// Work of each processor in a round, weighed by occupancy, rounded up: rounds that follow each other without a gap
    /// cannot be closer than the largest.
    pub busy: Vec<Nanos>,
    /// Switches between processors.
    pub switches: usize,
}

impl Evaluation {
    /// The makespan by one of the semantics.
    pub fn makespan(&self, semantics: Semantics) -> Nanos {
        match semantics {
            Semantics::Barrier => self.barrier,
            Semantics::Event => self.event,
        }
    }
}

/// Judges a schedule.
///
/// # Errors
/// What [`Schedule::check`] finds.
pub fn evaluate(problem: &StageProblem, schedule: &Schedule) -> Result<Evaluation, ScheduleError> {
    schedule.check(problem)?;
    let mut judge = Judge::new(problem);
    judge.load_rows(schedule);
    let stages: Vec<u64> = (0..schedule.stages()).map(|k| judge.stage(k)).collect();
    let mut share = vec![0u64; problem.processors().len()];
    for load in judge.loads.iter().flatten() {
        share[usize::from(load.processor)] += load.share();
    }
    Ok(Evaluation {
        barrier: Nanos(stages.iter().sum()),
        event: Nanos(judge.event()),
        stages: stages.into_iter().map(Nanos).collect(),
        busy: share.into_iter().map(|s| Nanos(s.div_ceil(FULL))).collect(),
        switches: schedule.canonical().switches(),
    })
}

/// What a segment takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) processor: u8,
    /// Where its tenant's previous segment ran, and how long values take from there.
    pub(crate) from: u8,
    pub(crate) switch: u64,
    /// Copies from the host.
    pub(crate) upload: u64,
    /// Launch, loss at the cut, operators.
    pub(crate) run: u64,
    /// `run` by occupancy, ns per mille; launch and loss count in full.
    pub(crate) run_share: u64,
    /// Copies to the host.
    pub(crate) download: u64,
}

impl Load {
    /// A tenant's operators from `begin` to `end` (not empty) on `q`, after a segment on `before`; `None` where they cannot
    /// run there or nothing can get there.
    pub(crate) fn of(
        problem: &StageProblem,
        t: usize,
        (begin, end): (usize, usize),
        q: usize,
        before: Option<usize>,
    ) -> Option<Self> {
        let tenant = &problem.tenants()[t];
        let sums = tenant.span(q, begin, end)?;
        let switch = before.map_or(Some(Nanos::ZERO), |p| tenant.crossing(begin, p, q))?.0;
        let processor = &problem.processors()[q];
        let part = begin > 0 || end < tenant.operators();
        let fixed = processor.launch.0 + if part { processor.cut_loss.0 } else { 0 };
        Some(Self {
            processor: q as u8,
            from: before.unwrap_or(q) as u8,
            switch,
            upload: sums.upload,
            run: fixed + sums.time,
            run_share: fixed * FULL + sums.share,
            download: sums.download,
        })
    }

    /// All of it, one after another.
    pub(crate) fn solo(&self) -> u64 {
        self.switch + self.upload + self.run + self.download
    }

    /// Its work on the processor, ns per mille; copies count in full.
    pub(crate) fn share(&self) -> u64 {
        (self.switch + self.upload + self.download) * FULL + self.run_share
    }
}

/// Segments that meet on a processor in a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meet {
    /// The longest, alone.
    pub(crate) longest: u64,
    /// All their work, ns per mille.
    pub(crate) share: u64,
    pub(crate) tenants: usize,
}

impl Meet {
    pub(crate) fn add(&mut self, load: &Load) {
        self.longest = self.longest.max(load.solo());
        self.share += load.share();
        self.tenants += 1;
    }

    /// What they take together, but for the slowdown.
    pub(crate) fn time(&self) -> u64 {
        self.longest.max(self.share.div_ceil(FULL))
    }
}

/// Scores schedules of one problem; keeps the loads of rows that did not change since the last one.
pub(crate) struct Judge<'a> {
    problem: &'a StageProblem,
    stages: usize,
    seen: Vec<Segment>,
    /// By (tenant, stage); `None` where the segment is empty.
    loads: Vec<Option<Load>>,
    /// Rows that can run.
    sound: Vec<bool>,
    /// Whether any schedule could want more memory than there is.
    memory_binds: bool,
    /// Scratch by processor.
    meet: Vec<Meet>,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(problem: &'a StageProblem) -> Self {
        let tenants = problem.tenants();
        let all = |q: usize| {
            let sums = tenants.iter().map(|t| t.live().0.saturating_add(t.all_weights(q)));
            sums.fold(0u64, u64::saturating_add)
        };
        let memory_binds = problem.processors().iter().enumerate().any(|(q, p)| all(q) > p.memory.0);
        let meet = vec![Meet::default(); problem.processors().len()];
        let sound = vec![true; tenants.len()];
        Self { problem, stages: 0, seen: vec![], loads: vec![], sound, memory_binds, meet }
    }

    /// Makespan by the problem's semantics; `None` where the schedule cannot run. The schedule must be in shape: rows of
    /// ascending pointers that end at their tenants' last operators, at most as many stages as allowed.
    pub(crate) fn score(&mut self, schedule: &Schedule) -> Option<u64> {
        self.weigh(schedule).filter(|(_, over)| *over == 0).map(|(makespan, _)| makespan)
    }

    /// Makespan as if memory were no matter, and by how many per mille the schedule's need is over it where that is worst.
    pub(crate) fn weigh(&mut self, schedule: &Schedule) -> Option<(u64, u64)> {
        if !self.load_rows(schedule) {
            return None;
        }
        let mut over = 0;
        if self.memory_binds {
            let needed = schedule.memory(self.problem);
            for (needed, p) in needed.iter().zip(self.problem.processors()) {
                let lacks = u128::from(needed.saturating_sub(p.memory).0) * 1000;
                over = over.max(lacks.div_ceil(u128::from(needed.0.max(1))) as u64);
            }
        }
        let makespan = match self.problem.rules().semantics {
            Semantics::Barrier => (0..self.stages).map(|k| self.stage(k)).sum(),
            Semantics::Event => self.event(),
        };
        Some((makespan, over))
    }

    /// Works out the loads of rows that changed; false where one cannot run.
    fn load_rows(&mut self, schedule: &Schedule) -> bool {
        let (stages, tenants) = (schedule.stages(), self.problem.tenants().len());
        let other = self.stages != stages || self.seen.len() != schedule.segments().len();
        if other {
            self.stages = stages;
            self.seen = schedule.segments().to_vec();
            self.loads = vec![None; tenants * stages];
        }
        for t in 0..tenants {
            let span = t * stages..(t + 1) * stages;
            if other || self.seen[span.clone()] != *schedule.row(t) {
                self.seen[span].copy_from_slice(schedule.row(t));
                self.sound[t] = self.load_row(t);
            }
        }
        self.sound.iter().all(|s| *s)
    }

    fn load_row(&mut self, t: usize) -> bool {
        let (mut begin, mut before) = (0, None);
        for i in t * self.stages..(t + 1) * self.stages {
            let (end, q) = (self.seen[i].end as usize, usize::from(self.seen[i].processor));
            self.loads[i] = None;
            if begin < end {
                let load = Load::of(self.problem, t, (begin, end), q, before);
                if load.is_none() {
                    return false;
                }
                self.loads[i] = load;
                (begin, before) = (end, Some(q));
            }
        }
        true
    }

    /// What a stage takes by barriers; nothing where it is empty.
    fn stage(&mut self, k: usize) -> u64 {
        self.meet.fill(Meet::default());
        for load in self.loads.iter().skip(k).step_by(self.stages).flatten() {
            self.meet[usize::from(load.processor)].add(load);
        }
        stage_time(self.problem, &self.meet)
    }

    /// What all tenants but one take in each stage of a schedule that can run.
    pub(crate) fn others(&mut self, schedule: &Schedule, tenant: usize) -> Vec<Vec<Meet>> {
        self.load_rows(schedule);
        let mut stages = vec![vec![Meet::default(); self.meet.len()]; self.stages];
        for (i, load) in self.loads.iter().enumerate().filter(|(i, _)| i / self.stages != tenant) {
            if let Some(load) = load {
                stages[i % self.stages][usize::from(load.processor)].add(load);
            }
        }
        stages
    }

    /// Makespan by events.
    fn event(&mut self) -> u64 {
        let mut play = Play::new(self.problem);
        for k in 0..self.stages {
            self.meet.fill(Meet::default());
            let stage = || self.loads.iter().skip(k).step_by(self.stages).enumerate();
            for load in stage().filter_map(|(_, load)| *load) {
                self.meet[usize::from(load.processor)].tenants += 1;
            }
            for (t, load) in stage().filter_map(|(t, load)| Some((t, (*load)?))) {
                play.segment(t, &load, self.meet[usize::from(load.processor)].tenants);
            }
        }
        play.end
    }
}

/// What a stage takes where these meet; nothing where nobody does.
pub(crate) fn stage_time(problem: &StageProblem, meet: &[Meet]) -> u64 {
    let busy = meet.iter().enumerate().filter(|(_, m)| m.tenants > 0);
    let longest = busy.map(|(q, m)| slowed(problem, q, m.tenants, m.time())).max();
    longest.map_or(0, |g| g + problem.rules().sync.0)
}

/// A time with the slowdown of so many tenants on a processor, rounded up.
fn slowed(problem: &StageProblem, q: usize, tenants: usize, time: u64) -> u64 {
    let chi = &problem.processors()[q].chi_permille;
    let Some(last) = chi.len().checked_sub(1) else { return time };
    let whole = u128::from(time) * (1000 + u128::from(chi[last.min(tenants - 1)]));
    u64::try_from(whole.div_ceil(1000)).unwrap_or(u64::MAX >> 8).min(u64::MAX >> 8)
}

/// A round being played by events.
struct Play<'a> {
    problem: &'a StageProblem,
    /// When each tenant's last segment ended.
    done: Vec<u64>,
    /// When each way between two processors is free.
    ways: Vec<u64>,
    /// When the last segment of each processor started, and those that may still run: (end, occupancy).
    started: Vec<u64>,
    running: Vec<Vec<(u64, u64)>>,
    end: u64,
}

impl<'a> Play<'a> {
    fn new(problem: &'a StageProblem) -> Self {
        let processors = problem.processors().len();
        Self {
            problem,
            done: vec![0; problem.tenants().len()],
            ways: vec![0; processors * processors],
            started: vec![0; processors],
            running: vec![vec![]; processors],
            end: 0,
        }
    }

    /// When a copy that may start at `ready` has arrived.
    fn copy(&mut self, from: usize, to: usize, ready: u64, duration: u64) -> u64 {
        if duration == 0 {
            return ready;
        }
        let way = &mut self.ways[from * self.started.len() + to];
        *way = (*way).max(ready) + duration;
        *way
    }

    fn segment(&mut self, t: usize, load: &Load, tenants: usize) {
        let q = usize::from(load.processor);
        let data = self.copy(usize::from(load.from), q, self.done[t], load.switch);
        let given = self.copy(HOST, q, 0, load.upload);
        let duration = slowed(self.problem, q, tenants, load.run);
        let occupancy = if load.run == 0 { 0 } else { load.run_share.div_ceil(load.run) };
        let start = self.room(q, data.max(given), occupancy);
        self.started[q] = start;
        self.done[t] = start + duration;
        self.running[q].push((self.done[t], occupancy));
        self.end = self.end.max(self.copy(q, HOST, self.done[t], load.download));
    }

    /// The first moment from `ready` on when a processor has room. Nothing starts later than what is asked for here, so
    /// the room only grows.
    fn room(&mut self, q: usize, ready: u64, occupancy: u64) -> u64 {
        let mut at = ready.max(self.started[q]);
        let running = &mut self.running[q];
        running.retain(|(end, _)| *end > at);
        while running.iter().map(|(_, o)| o).sum::<u64>() + occupancy > FULL {
            at = running.iter().map(|(end, _)| *end).min().unwrap_or(at);
            running.retain(|(end, _)| *end > at);
        }
        at
    }
}
