//! When waiting requests are closed into a batch: the policies, as functions of what is known now.
//!
//! Source of the ADT policies: the formulas and the loop of the slides on asynchronous transfers (see [`crate::adt`]),
//! with the download counted and flow conserved in the mode named so. Fixed is the dynamic batcher of inference servers.

use tandem_ir::plan::Policy;
use tandem_ir::{Nanos, Time};

use crate::adt::{Lines, Mode, steady};

/// What a policy looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) now: Time,
    /// Items that wait.
    pub(super) rows: u64,
    /// When the one that has waited longest arrived.
    pub(super) oldest: Time,
    /// Largest batch that the next one may be: of the routes it may take, within the objective where the policy heeds it.
    pub(super) capacity: u64,
    pub(super) lines: &'a Lines,
    /// Batches that have not finished their compute, and would do so before the next one.
    pub(super) computing: usize,
    /// Batches that compute at once.
    pub(super) servers: usize,
    /// Batches that have not finished.
    pub(super) in_flight: usize,
    /// When there is room for the next batch to compute.
    pub(super) free_at: Time,
    /// How long before that all that wait should be closed: what their upload takes.
    pub(super) ahead: Nanos,
    /// Items the next batch was meant to have when the one before was submitted.
    pub(super) target: f64,
    /// Nobody else will come.
    pub(super) draining: bool,
}

/// Why a batch is closed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// It is full, or of a preferred size.
    Full,
    /// Nothing was running.
    Idle,
    /// It reached its target (slide) or could not grow any more (flow) before its upload was due: the rate has risen.
    Early,
    /// Its upload was due.
    Due,
    /// Its upload was due before it reached its target: the rate has fallen.
    Short,
    /// Its oldest request has waited long enough.
    Delay,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Decision {
    /// Close a batch of at most so many items.
    Close(u64, Close),
    /// Nothing before this moment, unless something happens.
    Until(Time),
    /// Nothing until something happens.
    Wait,
}

/// Decides; there is at least one item.
pub(super) fn decide(policy: &Policy, view: &View<'_>) -> Decision {
    match policy {
        Policy::Fixed { preferred, queue_delay } => fixed(preferred, *queue_delay, view),
        Policy::AdtSerial if view.in_flight >= view.servers => Decision::Wait,
        Policy::AdtSerial => Decision::Close(view.rows.min(view.capacity), Close::Idle),
        Policy::AdtSlide => overlapped(Mode::Slide, view),
        Policy::AdtFlow => overlapped(Mode::Flow, view),
    }
}

/// Items that the next batch should have, as seen when one was submitted: (2.6) or (2.13). The rate is in items a
/// nanosecond.
pub(super) fn target(policy: &Policy, view: &View<'_>, rate: f64) -> f64 {
    let window = view.free_at.0.saturating_sub(view.now.0) as f64;
    match policy {
        Policy::AdtSlide => Mode::Slide.steady(view.lines, rate).map_or(f64::INFINITY, |s| s.batch),
        Policy::AdtFlow => steady::next_batch(view.lines, rate, 0.0, window),
        Policy::Fixed { .. } | Policy::AdtSerial => f64::INFINITY,
    }
}

fn fixed(preferred: &[u64], delay: Nanos, view: &View<'_>) -> Decision {
    // What cannot grow goes as soon as it has buffers.
    if view.rows >= view.capacity {
        return Decision::Close(view.capacity, Close::Full);
    }
    // Of others one more than compute at once where there is something to prepare, so that its upload is hidden.
    let ahead = usize::from(view.lines.up.at(1.0) > 0.0);
    if view.computing >= view.servers + ahead {
        return Decision::Wait;
    }
    if let Some(size) = preferred.iter().rev().find(|p| **p <= view.rows) {
        return Decision::Close(*size, Close::Full);
    }
    let until = view.oldest + delay;
    match view.draining || until <= view.now {
        true => Decision::Close(view.rows, Close::Delay),
        false => Decision::Until(until),
    }
}

fn overlapped(mode: Mode, view: &View<'_>) -> Decision {
    let mut capacity = view.capacity;
    if mode == Mode::Slide && !view.draining {
        // The published rule has no larger batch than its target: that is where requests pile up at high rates.
        capacity = capacity.min(view.target.ceil().max(1.0) as u64);
    }
    let rows = view.rows.min(capacity);
    if view.computing < view.servers {
        return Decision::Close(rows, Close::Idle);
    }
    // Flow waits for the upload's moment even when its target is reached: whoever comes until then may as well come along
    // (docs/decisions/0006). Only a batch that cannot grow goes as soon as it has buffers.
    if view.rows >= capacity && (mode == Mode::Flow || view.computing <= view.servers) {
        return Decision::Close(rows, Close::Early);
    }
    let due = Time(view.free_at.0.saturating_sub(view.ahead.0));
    let why = if (view.rows as f64) < view.target.floor() { Close::Short } else { Close::Due };
    match due <= view.now {
        true => Decision::Close(rows, why),
        false => Decision::Until(due),
    }
}

/// Items of the largest batch whose latency at a steady rate meets an objective (2.12), at least 1; `None` where the policy
/// heeds none.
pub(super) fn within(policy: &Policy, lines: &Lines, slo: Option<Nanos>, servers: usize) -> Option<u64> {
    let mode = match policy {
        Policy::Fixed { .. } => return None,
        Policy::AdtSerial => Mode::Serial,
        Policy::AdtSlide => Mode::Slide,
        Policy::AdtFlow => Mode::Flow,
    };
    let largest = mode.largest(lines, slo?.0 as f64, servers);
    // What falls short of a whole item by rounding alone is one.
    Some(largest.map_or(1, |batch| (batch * (1.0 + ROUNDING)) as u64).max(1))
}

/// More than sums of a few durations are off by, far less than an item of the largest batch.
const ROUNDING: f64 = 1e-9;
