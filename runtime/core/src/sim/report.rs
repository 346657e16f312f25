//! What a simulated world came to.

use std::collections::BTreeMap;

use tandem_ir::{Nanos, Time};

use super::histogram::Histogram;
use crate::scheduler::{Counters, Event, GroupSpec, LaneSpec};
use crate::trace::TraceEvent;

/// A tenant's part.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupReport {
    /// Tenant.
    pub name: String,
    /// Its objective.
    pub slo: Option<Nanos>,
    /// Requests that came.
    pub offered: u64,
    /// Replies within the objective.
    pub good: u64,
    /// From arrival to reply, of requests with outputs.
    pub latency: Histogram,
    /// From arrival until the batch was closed.
    pub queued: Histogram,
    /// Batches by their number of items.
    pub batches: BTreeMap<u32, u64>,
    /// What the scheduler counted.
    pub counters: Counters,
}

impl GroupReport {
    pub(super) fn new(spec: &GroupSpec) -> Self {
        Self {
            name: spec.name.clone(),
            slo: spec.slo,
            offered: 0,
            good: 0,
            latency: Histogram::default(),
            queued: Histogram::default(),
            batches: BTreeMap::new(),
            counters: Counters::default(),
        }
    }

    /// Mean number of items of a batch.
    pub fn batch_mean(&self) -> f64 {
        let (mut items, mut batches) = (0, 0);
        for (size, count) in &self.batches {
            items += u64::from(*size) * count;
            batches += count;
        }
        items as f64 / batches.max(1) as f64
    }

    /// The part of all requests that came that were answered within the objective, in millionths.
    pub fn attainment_ppm(&self) -> u64 {
        (u128::from(self.good) * 1_000_000 / u128::from(self.offered.max(1))) as u64
    }
}

/// A lane's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneReport {
    /// Lane.
    pub name: String,
    /// Its queues; of a CPU, its cores.
    pub slots: usize,
    /// Whether it copies.
    pub is_link: bool,
    /// Busy time of all its queues; of a CPU, of all its cores: a command takes as many as its route has threads.
    pub busy: Nanos,
}

impl LaneReport {
    pub(super) fn new(spec: &LaneSpec) -> Self {
        Self { name: spec.name.clone(), slots: spec.slots, is_link: spec.name.contains('>'), busy: Nanos::ZERO }
    }
}

/// What a world came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// How long requests came.
    pub duration: Nanos,
    /// When the last was answered.
    pub end: Time,
    /// Tenants.
    pub groups: Vec<GroupReport>,
    /// Lanes.
    pub lanes: Vec<LaneReport>,
    /// Time during which something was copied.
    pub copying: Nanos,
    /// Of that, time during which something computed.
    pub overlapped: Nanos,
    /// The first steps.
    pub trace: Vec<TraceEvent>,
    /// Events the scheduler took in.
    pub events: u64,
    /// All of them, where they were to be kept.
    pub kept: Vec<(Time, Event)>,
}

impl Report {
    /// The part of the copying that was hidden behind compute; 1 where nothing was copied.
    pub fn overlap(&self) -> f64 {
        if self.copying == Nanos::ZERO { 1.0 } else { self.overlapped.0 as f64 / self.copying.0 as f64 }
    }

    /// Busy time of a lane over the whole time of all its queues or cores.
    pub fn utilisation(&self, lane: &LaneReport) -> f64 {
        lane.busy.0 as f64 / (self.end.0.max(1) as f64 * lane.slots as f64)
    }
}
