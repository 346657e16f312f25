//! The interpreter of one route for one batch: which steps may be submitted, which are done.
//!
//! A lane is an in-order queue, so a step may be submitted as soon as every earlier step of its lane is submitted and
//! every step it comes after is done, or is itself earlier on its lane. There is no other choice to make here: what
//! runs where and in which order is the plan's.
//!
//! Deliberately absent: time, devices, data. The caller submits what [`Execution::poll_step`] names and says what
//! became of it. Every call takes constant time (amortised over the route's edges), and nothing is allocated after
//! `new`.

use std::collections::VecDeque;
use std::sync::Arc;

use tandem_ir::plan::{Action, Route};

/// A route that cannot be interpreted. A plan that passed `check` has none of these.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("route of \"{tenant}\" at batch {batch}, {place}: expected {expected}, found {found}")]
pub struct RouteError {
    /// Tenant of the route.
    pub tenant: String,
    /// Batch size of the route.
    pub batch: u64,
    /// `step 3`, `segment 0`.
    pub place: String,
    /// What should have been there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Waiting,
    Submitted,
    Done,
    Failed,
}

/// What never changes between batches, shared by all executions of a route. Lists of lists are flat, with offsets.
#[derive(Debug)]
struct Order {
    lane_steps: Vec<u32>,
    lane_start: Vec<u32>,
    /// Steps of other lanes that come after each step.
    next: Vec<u32>,
    next_start: Vec<u32>,
    /// How many steps of other lanes each step comes after.
    waits: Vec<u32>,
    /// By lane: whether a step is submitted only once the one before it on the lane is done.
    paced: Vec<bool>,
}

/// One batch on its way through a route.
///
/// Commands: [`done`](Self::done), [`failed`](Self::failed), [`reset`](Self::reset). What to do next:
/// [`poll_step`](Self::poll_step), until it says `None`. The rest are getters.
#[derive(Clone, Debug)]
pub struct Execution {
    route: Arc<Route>,
    order: Arc<Order>,
    progress: Vec<Progress>,
    waits: Vec<u32>,
    /// By lane, how many of its steps are submitted.
    cursor: Vec<u32>,
    /// By lane, whether a submitted step keeps the next one back; only on paced lanes.
    held: Vec<bool>,
    /// Lanes whose next step may be submitted, each once.
    ready: VecDeque<u32>,
    outstanding: usize,
    done: usize,
    failure: Option<(usize, String)>,
}

impl Execution {
    /// A batch that has not begun.
    ///
    /// # Errors
    /// The first segment or step that names a lane, segment, value or device the route does not have (it has as many
    /// devices as it has memory entries), or that comes after itself or a later step.
    pub fn new(route: Arc<Route>) -> Result<Self, RouteError> {
        let lanes = route.lane_names.len();
        Self::paced(route, vec![false; lanes])
    }

    /// A batch that has not begun, on lanes some of which are several queues (a CPU's groups of threads): of a lane that
    /// is `paced`, a step is submitted only once the one before it there is done, whichever queue each goes to.
    ///
    /// # Errors
    /// As [`Self::new`].
    ///
    /// # Panics
    /// If there is not one flag a lane of the route.
    pub fn paced(route: Arc<Route>, paced: Vec<bool>) -> Result<Self, RouteError> {
        check(&route)?;
        assert_eq!(paced.len(), route.lane_names.len(), "one flag a lane");
        let order = Arc::new(Order { paced, ..Order::of(&route) });
        let (steps, lanes) = (route.steps.len(), route.lane_names.len());
        let mut execution = Self {
            route,
            order,
            progress: vec![Progress::Waiting; steps],
            waits: vec![0; steps],
            cursor: vec![0; lanes],
            held: vec![false; lanes],
            ready: VecDeque::with_capacity(lanes),
            outstanding: 0,
            done: 0,
            failure: None,
        };
        execution.reset();
        Ok(execution)
    }

    /// Another batch of the same route, which has not begun; the route's tables are shared.
    pub fn sibling(&self) -> Self {
        let mut other = self.clone();
        other.outstanding = 0;
        other.reset();
        other
    }

    /// The route.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The next step to submit, which counts as submitted from then on; `None` while none may be. After a failure there
    /// is no next step.
    pub fn poll_step(&mut self) -> Option<usize> {
        let lane = self.ready.pop_front()? as usize;
        let step = self.order.head(lane, self.cursor[lane]).expect("a ready lane has a next step");
        self.progress[step] = Progress::Submitted;
        self.outstanding += 1;
        self.cursor[lane] += 1;
        self.held[lane] = self.order.paced[lane];
        self.offer(lane);
        Some(step)
    }

    /// A submitted step is done: what it made may be read.
    ///
    /// # Panics
    /// If the step was not submitted, or has already ended.
    pub fn done(&mut self, step: usize) {
        self.end(step, Progress::Done);
        self.done += 1;
        let (from, to) = (self.order.next_start[step] as usize, self.order.next_start[step + 1] as usize);
        for i in from..to {
            let next = self.order.next[i] as usize;
            self.waits[next] -= 1;
            let lane = self.route.steps[next].lane;
            if self.waits[next] == 0 && self.order.head(lane, self.cursor[lane]) == Some(next) {
                self.offer(lane);
            }
        }
        let lane = self.route.steps[step].lane;
        if std::mem::take(&mut self.held[lane]) {
            self.offer(lane);
        }
    }

    /// A submitted step has failed. Nothing more is submitted; what is outstanding is still to be waited for. The first
    /// failure's reason is kept.
    ///
    /// # Panics
    /// If the step was not submitted, or has already ended.
    pub fn failed(&mut self, step: usize, why: impl Into<String>) {
        self.end(step, Progress::Failed);
        self.ready.clear();
        if self.failure.is_none() {
            self.failure = Some((step, why.into()));
        }
    }

    /// A submitted step is taken back, for no device has it yet, and nothing more is submitted.
    ///
    /// # Panics
    /// If the step was not submitted, or has already ended.
    pub fn taken_back(&mut self, step: usize) {
        self.end(step, Progress::Failed);
        self.stop();
    }

    /// Submits nothing more, though nothing has failed: nobody wants the batch any longer.
    pub fn stop(&mut self) {
        self.ready.clear();
        self.failure.get_or_insert_with(|| (0, String::new()));
    }

    /// Begins anew, for the next batch.
    ///
    /// # Panics
    /// If any step is outstanding: its buffers are in use.
    pub fn reset(&mut self) {
        assert_eq!(self.outstanding, 0, "a batch is reused only when none of its steps is outstanding");
        self.progress.fill(Progress::Waiting);
        self.waits.copy_from_slice(&self.order.waits);
        self.cursor.fill(0);
        self.held.fill(false);
        self.ready.clear();
        self.done = 0;
        self.failure = None;
        for lane in 0..self.cursor.len() {
            self.offer(lane);
        }
    }

    /// Whether every step is done.
    pub fn is_finished(&self) -> bool {
        self.done == self.progress.len()
    }

    /// Whether a step has failed.
    pub fn is_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Whether nothing more will happen: every step is done, or one has failed and none is outstanding.
    pub fn is_over(&self) -> bool {
        self.is_finished() || (self.is_failed() && self.outstanding == 0)
    }

    /// Steps that are submitted and have not ended.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// The first step that failed, and why.
    pub fn failure(&self) -> Option<(usize, &str)> {
        self.failure.as_ref().map(|(step, why)| (*step, why.as_str()))
    }

    fn end(&mut self, step: usize, how: Progress) {
        assert_eq!(self.progress[step], Progress::Submitted, "step {step} ends once, after it was submitted");
        self.progress[step] = how;
        self.outstanding -= 1;
    }

    /// Makes the lane ready if its next step waits for nothing.
    fn offer(&mut self, lane: usize) {
        let head = self.order.head(lane, self.cursor[lane]);
        if self.failure.is_none() && !self.held[lane] && head.is_some_and(|step| self.waits[step] == 0) {
            self.ready.push_back(lane as u32);
        }
    }
}

impl Order {
    fn of(route: &Route) -> Self {
        let steps = &route.steps;
        let mut lanes = vec![vec![]; route.lane_names.len()];
        let mut next = vec![vec![]; steps.len()];
        let mut waits = vec![0; steps.len()];
        for (i, step) in steps.iter().enumerate() {
            lanes[step.lane].push(i as u32);
            // Earlier steps of its own lane are submitted before it anyway, and one named twice is waited for once.
            let mut others: Vec<usize> = step.after.iter().copied().filter(|a| steps[*a].lane != step.lane).collect();
            others.sort_unstable();
            others.dedup();
            waits[i] = others.len() as u32;
            others.iter().for_each(|other| next[*other].push(i as u32));
        }
        let (lane_steps, lane_start) = flat(&lanes);
        let (next, next_start) = flat(&next);
        let paced = vec![false; lanes.len()];
        Self { lane_steps, lane_start, next, next_start, waits, paced }
    }

    /// The step at this place of the lane.
    fn head(&self, lane: usize, place: u32) -> Option<usize> {
        let at = self.lane_start[lane] + place;
        (at < self.lane_start[lane + 1]).then(|| self.lane_steps[at as usize] as usize)
    }
}

fn flat(lists: &[Vec<u32>]) -> (Vec<u32>, Vec<u32>) {
    let mut starts = Vec::with_capacity(lists.len() + 1);
    let mut at = 0;
    starts.push(at);
    for list in lists {
        at += list.len() as u32;
        starts.push(at);
    }
    (lists.concat(), starts)
}

/// Refuses positions beyond the route's lists, so that all code after it may index.
fn check(route: &Route) -> Result<(), RouteError> {
    let error = |place: String, expected: String, found: String| {
        Err(RouteError { tenant: route.tenant.clone(), batch: route.batch, place, expected, found })
    };
    let (tensors, devices) = (route.tensors.len(), route.memory.len());
    if let Some(t) = route.inputs.iter().chain(&route.outputs).find(|t| **t >= tensors) {
        return error("inputs and outputs".into(), format!("one of {tensors} values"), format!("value {t}"));
    }
    for (i, segment) in route.segments.iter().enumerate() {
        let place = format!("segment {i}");
        if segment.device >= devices {
            return error(place, format!("one of {devices} devices"), format!("device {}", segment.device));
        }
        if let Some(t) = segment.inputs.iter().chain(&segment.outputs).find(|t| **t >= tensors) {
            return error(place, format!("one of {tensors} values"), format!("value {t}"));
        }
    }
    for i in 0..route.steps.len() {
        if let Err((expected, found)) = check_step(route, i) {
            return error(format!("step {i}"), expected, found);
        }
    }
    Ok(())
}

/// What was expected of a step, and what was found.
fn check_step(route: &Route, index: usize) -> Result<(), (String, String)> {
    let step = &route.steps[index];
    let (lanes, segments) = (route.lane_names.len(), route.segments.len());
    let (tensors, devices) = (route.tensors.len(), route.memory.len());
    if step.lane >= lanes {
        return Err((format!("one of {lanes} lanes"), format!("lane {}", step.lane)));
    }
    if let Some(after) = step.after.iter().find(|a| **a >= index) {
        return Err(("to come after earlier steps only".into(), format!("step {after}")));
    }
    match step.action {
        Action::Run(s) if s >= segments => {
            return Err((format!("one of {segments} segments"), format!("segment {s}")));
        }
        Action::Copy { tensor, .. } if tensor >= tensors => {
            return Err((format!("one of {tensors} values"), format!("value {tensor}")));
        }
        Action::Copy { from, to, .. } if from == to || from >= devices || to >= devices => {
            return Err((format!("a copy between two of {devices} devices"), format!("from {from} to {to}")));
        }
        Action::Run(_) | Action::Copy { .. } | Action::Barrier => {}
    }
    match step.frees.iter().find(|(t, d)| *t >= tensors || *d >= devices) {
        Some((t, d)) => {
            Err((format!("to free one of {tensors} values on one of {devices} devices"), format!("value {t} on {d}")))
        }
        None => Ok(()),
    }
}
