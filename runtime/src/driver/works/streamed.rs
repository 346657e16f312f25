//! The values of a served plan on accelerators, whose commands are put on streams.

use std::sync::Arc;

use tandem_core::{Command, Ticket};

use super::Works;
use crate::device::accelerator::{Accelerator, Stream};
use crate::device::cuda::streamed::{Enqueue, Fault};

impl Works {
    /// The accelerator that computes on the machine's device of this position, for all routes.
    pub fn accelerator(&self, device: usize) -> Option<Arc<dyn Accelerator>> {
        self.routes.iter().find_map(|route| route.work.accelerator(device).cloned())
    }
}

impl Enqueue for Works {
    fn stream(&self, command: &Command) -> Stream {
        self.routes[command.ticket.route as usize].work.stream(command.ticket.step as usize)
    }

    fn begin(&self, command: &Command) -> Result<(), Fault> {
        let Ticket { route, ring, step, .. } = command.ticket;
        let (of, ring) = (&self.routes[route as usize], ring as usize);
        of.gather(ring)?;
        of.work.begin(ring, step as usize)
    }

    fn end(&self, command: &Command) -> Result<(), Fault> {
        let Ticket { route, ring, step, .. } = command.ticket;
        self.routes[route as usize].work.end(ring as usize, step as usize)
    }
}
