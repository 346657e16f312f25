//! What is alive where while a route runs, and the peak of it.
//!
//! A value (tensor, device) is alive from the start of the step that writes it there (graph inputs: from the beginning,
//! in the host's memory) to the end of the step that frees it. A segment's workspace is alive while it runs. Weights
//! are kept apart ([`MemoryUse::weights`]), for all batches share them. Of two steps that
//! meet in a moment, the one that ends is handled first.
//!
//! Here a route is played as it went. Where its values lie, and what the plan says of it, is safe for every way it may go
//! and [`tandem_ir::arena`]'s.

use std::fmt;

use tandem_ir::machine::HOST;
use tandem_ir::plan::{Action, MemoryUse, Route};
use tandem_ir::{Bytes, Time};

/// When a step ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Its start.
    pub start: Time,
    /// Its end.
    pub end: Time,
}

/// A step that uses memory wrongly, in the order the spans say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("step {step} {what} value \"{value}\" on device {device}, {why}")]
pub struct MemoryError {
    /// Position of the step.
    pub step: usize,
    /// `reads`, `writes`, `frees`.
    pub what: &'static str,
    /// Name of the value.
    pub value: String,
    /// Position of the device.
    pub device: usize,
    /// What is wrong with that.
    pub why: &'static str,
}

/// A device on which a route needs more than its plan says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Position of the device.
    pub device: usize,
    /// What the plan says.
    pub planned: Bytes,
    /// What was alive at once.
    pub found: Bytes,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (planned, found) = (self.planned.0, self.found.0);
        write!(f, "device {}: at most {planned} bytes alive as planned, {found} found", self.device)
    }
}

/// Peak bytes alive by position of the device, when the steps run at these moments.
///
/// # Errors
/// The first step that reads a value before it is written or after it is freed, frees one that is not there, or writes
/// one that is there already.
///
/// # Panics
/// If there is not one span a step.
pub fn peak(route: &Route, spans: &[Span]) -> Result<Vec<Bytes>, MemoryError> {
    assert_eq!(spans.len(), route.steps.len(), "one span a step");
    // At one moment: what ends, then what starts; a step of no length ends after its own start, in list order with
    // others of its kind, for they are in a topological order.
    let mut events: Vec<(Time, bool, usize, bool)> = Vec::with_capacity(2 * spans.len());
    for (step, span) in spans.iter().enumerate() {
        let instant = span.start == span.end;
        events.push((span.start, true, step, false));
        events.push((span.end, instant, step, true));
    }
    events.sort_unstable();
    let mut alive = Alive::new(route);
    for (_, _, step, is_end) in events {
        if is_end { alive.end(step)? } else { alive.begin(step)? }
    }
    Ok(alive.peak)
}

/// Devices whose peak is above what the route's memory says for one batch ([`MemoryUse::peak`]).
pub fn excess(route: &Route, peak: &[Bytes]) -> Vec<Excess> {
    let planned = route.memory.iter().map(MemoryUse::peak).chain(std::iter::repeat(Bytes::ZERO));
    let both = peak.iter().zip(planned).enumerate();
    both.filter(|(_, (found, planned))| *found > planned)
        .map(|(device, (found, planned))| Excess { device, planned, found: *found })
        .collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Empty,
    Writing,
    Full,
}

struct Alive<'a> {
    route: &'a Route,
    /// By device, by value.
    slots: Vec<Vec<Slot>>,
    bytes: Vec<u128>,
    peak: Vec<Bytes>,
}

impl<'a> Alive<'a> {
    fn new(route: &'a Route) -> Self {
        let devices = devices(route);
        let mut alive = Self {
            route,
            slots: vec![vec![Slot::Empty; route.tensors.len()]; devices],
            bytes: vec![0; devices],
            peak: vec![Bytes::ZERO; devices],
        };
        for t in &route.inputs {
            if alive.slots[HOST][*t] == Slot::Empty {
                alive.slots[HOST][*t] = Slot::Full;
                alive.add(HOST, route.tensors[*t].bytes.0);
            }
        }
        alive
    }

    fn begin(&mut self, step: usize) -> Result<(), MemoryError> {
        match self.route.steps[step].action {
            Action::Run(s) => {
                let segment = &self.route.segments[s];
                for t in &segment.inputs {
                    self.read(step, *t, segment.device)?;
                }
                for t in &segment.outputs {
                    self.open(step, *t, segment.device)?;
                }
                self.add(segment.device, segment.workspace_bytes.0);
            }
            Action::Copy { tensor, from, to } => {
                self.read(step, tensor, from)?;
                self.open(step, tensor, to)?;
            }
            Action::Barrier => {}
        }
        Ok(())
    }

    fn end(&mut self, step: usize) -> Result<(), MemoryError> {
        match self.route.steps[step].action {
            Action::Run(s) => {
                let segment = &self.route.segments[s];
                segment.outputs.iter().for_each(|t| self.slots[segment.device][*t] = Slot::Full);
                self.bytes[segment.device] -= u128::from(segment.workspace_bytes.0);
            }
            Action::Copy { tensor, to, .. } => self.slots[to][tensor] = Slot::Full,
            Action::Barrier => {}
        }
        for (t, d) in &self.route.steps[step].frees {
            if self.slots[*d][*t] != Slot::Full {
                return Err(self.error(step, "frees", *t, *d, "where it is not"));
            }
            self.slots[*d][*t] = Slot::Empty;
            self.bytes[*d] -= u128::from(self.route.tensors[*t].bytes.0);
        }
        Ok(())
    }

    fn read(&self, step: usize, tensor: usize, device: usize) -> Result<(), MemoryError> {
        match self.slots[device][tensor] {
            Slot::Full => Ok(()),
            Slot::Writing => Err(self.error(step, "reads", tensor, device, "while it is being written")),
            Slot::Empty => Err(self.error(step, "reads", tensor, device, "where it is not")),
        }
    }

    fn open(&mut self, step: usize, tensor: usize, device: usize) -> Result<(), MemoryError> {
        if self.slots[device][tensor] != Slot::Empty {
            return Err(self.error(step, "writes", tensor, device, "where it is already"));
        }
        self.slots[device][tensor] = Slot::Writing;
        self.add(device, self.route.tensors[tensor].bytes.0);
        Ok(())
    }

    fn add(&mut self, device: usize, bytes: u64) {
        self.bytes[device] += u128::from(bytes);
        let alive = u64::try_from(self.bytes[device]).unwrap_or(u64::MAX);
        self.peak[device] = self.peak[device].max(Bytes(alive));
    }

    fn error(&self, step: usize, what: &'static str, tensor: usize, device: usize, why: &'static str) -> MemoryError {
        MemoryError { step, what, value: self.route.tensors[tensor].name.clone(), device, why }
    }
}

/// How many devices the route speaks of.
fn devices(route: &Route) -> usize {
    let segments = route.segments.iter().map(|s| s.device);
    let copies = route.steps.iter().filter_map(|s| match s.action {
        Action::Copy { from, to, .. } => Some(from.max(to)),
        Action::Run(_) | Action::Barrier => None,
    });
    let frees = route.steps.iter().flat_map(|s| s.frees.iter().map(|(_, d)| *d));
    let named = segments.chain(copies).chain(frees).max().unwrap_or(HOST) + 1;
    named.max(route.memory.len())
}
