//! Batches on their way, and the routes they are on.

use std::sync::Arc;

use tandem_ir::Time;
use tandem_ir::plan::{Action, Route};

use super::phases::Phases;
use super::requests::List;
use super::setup::{Setup, SetupError};
use crate::execution::Execution;

/// What a batch is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The place is free.
    Free,
    /// On its way.
    Flying,
    /// Its requests are elsewhere; what it submitted is waited for.
    Abandoned,
}

/// Requests that run together.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) state: State,
    /// Tells uses of the place apart.
    generation: u32,
    pub(super) route: usize,
    /// Which of the route's sets of buffers it has.
    pub(super) ring: u32,
    pub(super) execution: Option<Execution>,
    pub(super) members: List,
    pub(super) rows: u32,
    pub(super) formed: Time,
    /// By when it should be over.
    pub(super) due: Time,
    /// Order in which batches were formed.
    pub(super) sequence: u64,
    /// Steps of each phase that have not ended.
    pub(super) left: [u32; 3],
    /// Time its steps took, by phase, in nanoseconds.
    pub(super) spent: [u64; 3],
}

/// All batches.
#[derive(Clone, Debug)]
pub(super) struct Batches {
    table: Vec<Batch>,
    free: Vec<u32>,
}

impl Batches {
    /// Places for so many.
    pub(super) fn new(in_flight: usize) -> Self {
        Self { table: Vec::with_capacity(in_flight), free: Vec::with_capacity(in_flight) }
    }

    /// The place of a batch, unless it is over.
    pub(super) fn place(&self, id: u64) -> Option<usize> {
        let place = (id & u64::from(u32::MAX)) as usize;
        let batch = self.table.get(place)?;
        (batch.state != State::Free && batch.generation == (id >> 32) as u32).then_some(place)
    }

    pub(super) fn id(&self, place: usize) -> u64 {
        u64::from(self.table[place].generation) << 32 | place as u64
    }

    /// Takes a place; its content is that of its former use but for the generation and what the caller sets.
    pub(super) fn enter(&mut self) -> usize {
        let place = self.free.pop().map(|p| p as usize).unwrap_or_else(|| {
            self.table.push(Batch {
                state: State::Free,
                generation: 0,
                route: 0,
                ring: 0,
                execution: None,
                members: List::EMPTY,
                rows: 0,
                formed: Time::ZERO,
                due: Time::ZERO,
                sequence: 0,
                left: [0; 3],
                spent: [0; 3],
            });
            self.table.len() - 1
        });
        let batch = &mut self.table[place];
        (batch.state, batch.generation) = (State::Flying, batch.generation.wrapping_add(1));
        place
    }

    /// Gives a place back.
    pub(super) fn leave(&mut self, place: usize) {
        self.table[place].state = State::Free;
        self.free.push(place as u32);
    }

    pub(super) fn get(&self, place: usize) -> &Batch {
        &self.table[place]
    }

    pub(super) fn get_mut(&mut self, place: usize) -> &mut Batch {
        &mut self.table[place]
    }

    /// Batches on their way, with their places.
    pub(super) fn flying(&self) -> impl Iterator<Item = (usize, &Batch)> {
        self.table.iter().enumerate().filter(|(_, b)| b.state == State::Flying)
    }

    /// Places in use.
    pub(super) fn held(&self) -> usize {
        self.table.len() - self.free.len()
    }
}

/// A route, and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct RouteState {
    pub(super) route: Arc<Route>,
    pub(super) phases: Phases,
    /// By lane of the route: which lane that is among all.
    pub(super) lanes: Vec<usize>,
    /// By lane of the route: units a command takes there.
    pub(super) need: Vec<u32>,
    /// By lane of the route: its tenant's crew there, where it is a lane of threads.
    pub(super) crews: Vec<Option<usize>>,
    /// A bit a device it needs.
    pub(super) devices: u64,
    pub(super) group: usize,
    pub(super) class: usize,
    /// Sets of buffers that no batch has, each with an execution to be used again.
    pub(super) idle: Vec<(u32, Execution)>,
    /// Commands of it that are taken for hung.
    pub(super) stuck: u32,
    /// Whether its devices are all there and nothing of it hangs.
    pub(super) usable: bool,
    /// What its phases take, measured over planned, newest first.
    pub(super) scale: [f64; 3],
}

/// Weight of the newest batch in [`RouteState::scale`].
const NEWEST: f64 = 0.25;

impl RouteState {
    pub(super) fn new(setup: &Setup, index: usize, group: usize) -> Result<Self, SetupError> {
        let route = setup.routes[index].clone();
        let lanes: Vec<usize> = (0..route.lane_names.len()).filter_map(|l| setup.lane_of(&route, l)).collect();
        let threads: Vec<bool> = lanes.iter().map(|l| setup.lanes[*l].threads).collect();
        let need = threads.iter().map(|t| if *t { route.threads.max(1) } else { 1 }).collect();
        let first = Execution::paced(route.clone(), threads)?;
        let rings = setup.rings(&route) as u32;
        // The last is taken first.
        let mut idle: Vec<(u32, Execution)> = (1..rings).rev().map(|ring| (ring, first.sibling())).collect();
        idle.push((0, first));
        let mut devices = 0u64;
        lanes.iter().for_each(|l| devices |= 1 << setup.lanes[*l].device);
        for step in &route.steps {
            match step.action {
                Action::Run(s) => devices |= 1 << route.segments[s].device,
                Action::Copy { from, to, .. } => devices |= 1 << from | 1 << to,
                Action::Barrier => {}
            }
        }
        let phases = Phases::of(&route);
        let crews = vec![None; lanes.len()];
        Ok(Self {
            route,
            phases,
            lanes,
            need,
            crews,
            devices,
            group,
            class: 0,
            idle,
            stuck: 0,
            usable: true,
            scale: [1.0; 3],
        })
    }

    /// Which lane its busiest is among all.
    pub(super) fn busiest(&self) -> usize {
        self.lanes[self.phases.busiest]
    }

    /// What a phase is expected to take now.
    pub(super) fn expected(&self, phase: usize) -> u64 {
        (self.phases.planned[phase].0 as f64 * self.scale[phase]) as u64
    }

    /// What a phase of a batch took, from the time its steps took: waiting for other batches' steps left out.
    pub(super) fn took(&self, phase: usize, spent: u64) -> f64 {
        let (planned, work) = (self.phases.planned[phase].0 as f64, self.phases.work[phase].0 as f64);
        if work > 0.0 { planned * spent as f64 / work } else { spent as f64 }
    }

    /// Believes a first batch.
    pub(super) fn settle(&mut self, took: [f64; 3]) {
        for (phase, took) in took.into_iter().enumerate() {
            let planned = self.phases.planned[phase].0 as f64;
            if planned > 0.0 {
                self.scale[phase] = took / planned;
            }
        }
    }

    /// Learns from a finished batch.
    pub(super) fn learn(&mut self, took: [f64; 3]) {
        for (phase, took) in took.into_iter().enumerate() {
            let planned = self.phases.planned[phase].0 as f64;
            if planned > 0.0 {
                self.scale[phase] += NEWEST * (took / planned - self.scale[phase]);
            }
        }
    }
}
