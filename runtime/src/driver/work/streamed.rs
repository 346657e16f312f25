//! A route's steps put on an accelerator's streams: begun, and ended when the stream has come so far.
//!
//! What a step does on the host, it does when it begins (the host's value is there to be copied) or when it ends (a copy
//! to the host has arrived, values are freed).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tandem_ir::plan::Action;

use super::{Work, bytes_of};
use crate::device::accelerator::{Accelerator, Stream};
use crate::engine::EngineError;

impl Work {
    /// The accelerator that computes on a device.
    pub(in crate::driver) fn accelerator(&self, device: usize) -> Option<&Arc<dyn Accelerator>> {
        self.rings.first()?.get(device)?.resident().map(|values| values.accelerator())
    }

    /// The stream that a step goes to, on the accelerator whose lane it is on.
    pub(in crate::driver) fn stream(&self, step: usize) -> Stream {
        let resident = |device: usize| self.rings[0][device].resident();
        match self.route.steps[step].action {
            Action::Run(s) => match resident(self.route.segments[s].device) {
                Some(values) => values.compute(),
                None => Stream::Compute(0),
            },
            Action::Copy { to, .. } if resident(to).is_some() => Stream::Upload,
            Action::Copy { .. } => Stream::Download,
            Action::Barrier => Stream::Compute(0),
        }
    }

    /// Puts a step on its stream; what it does in the host's or another accelerator's memory is done when this returns.
    pub(in crate::driver) fn begin(&self, ring: usize, step: usize) -> Result<(), (String, EngineError)> {
        let spaces = &self.rings[ring];
        match self.route.steps[step].action {
            Action::Run(s) => {
                let piece = &self.pieces[s];
                let (space, label) = (&spaces[self.route.segments[s].device], |e| (piece.label.clone(), e));
                if let Some(session) = &piece.session {
                    let begun = match space.resident() {
                        Some(values) => values.begin_run(session.as_ref(), &piece.inputs, &piece.outputs),
                        None => space.run(session.as_ref(), &piece.inputs, &piece.outputs),
                    };
                    begun.map_err(label)?;
                }
                piece.constants.iter().try_for_each(|(value, c)| space.put(*value, c.clone())).map_err(label)
            }
            Action::Copy { tensor, from, to } => {
                let begun = match (spaces[from].resident(), spaces[to].resident()) {
                    (Some(values), None) => values.begin_get(tensor, to),
                    (_, Some(values)) => spaces[from].get(tensor).and_then(|value| {
                        self.copied.fetch_add(bytes_of(&value), Ordering::Relaxed);
                        values.begin_put(tensor, &value)
                    }),
                    (None, None) => spaces[from].get(tensor).and_then(|value| spaces[to].put(tensor, value)),
                };
                begun.map_err(|e| (self.copy_label(tensor, from, to), e))
            }
            Action::Barrier => Ok(()),
        }
    }

    /// The step's stream has done it.
    pub(in crate::driver) fn end(&self, ring: usize, step: usize) -> Result<(), (String, EngineError)> {
        let (step, spaces) = (&self.route.steps[step], &self.rings[ring]);
        match step.action {
            Action::Run(s) => {
                let space = &spaces[self.route.segments[s].device];
                self.pieces[s].frees.iter().for_each(|value| space.free(*value));
            }
            Action::Copy { tensor, from, to } if spaces[to].resident().is_none() => {
                if let Some(values) = spaces[from].resident() {
                    let ended = values.end_get(tensor, to).and_then(|value| {
                        self.copied.fetch_add(bytes_of(&value), Ordering::Relaxed);
                        spaces[to].put(tensor, value)
                    });
                    ended.map_err(|e| (self.copy_label(tensor, from, to), e))?;
                }
            }
            Action::Copy { .. } | Action::Barrier => {}
        }
        step.frees.iter().for_each(|(tensor, device)| spaces[*device].free(*tensor));
        Ok(())
    }
}
