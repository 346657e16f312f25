//! Whether a request is let in, and how long it would take.

use tandem_ir::plan::Policy;

use super::form::Head;
use super::{Action, Arrival, Refusal, Scheduler};
use crate::limits::REQUESTS_MAX;

impl Scheduler {
    /// Why an arrival would be refused now; `None` where it would be let in.
    pub fn refusal(&self, group: usize, rows: u32) -> Option<Refusal> {
        self.admit(group, rows).err()
    }

    /// The latency that is foreseen of a request that came now, in nanoseconds; 0 where nothing depends on it.
    fn admit(&self, group: usize, rows: u32) -> Result<f64, Refusal> {
        let of = &self.groups[group];
        match () {
            () if self.draining => return Err(Refusal::Draining),
            () if rows == 0 || u64::from(rows) > of.rows_max => return Err(Refusal::Rows),
            () if !of.is_usable() => return Err(Refusal::Unavailable),
            () if of.waiting >= of.queue_max || self.requests.held >= REQUESTS_MAX => return Err(Refusal::Full),
            () => {}
        }
        let adt = !matches!(of.policy, Policy::Fixed { .. });
        let Some(slo) = of.slo.filter(|_| adt) else { return Ok(0.0) };
        // One that finds its tenant idle is never late: it is the plan's promise that it can be met.
        let foreseen = self.foreseen(group, u64::from(rows));
        let idle = of.waiting == 0 && of.classes.iter().all(|c| c.in_flight == 0);
        match !idle && foreseen + of.margin > slo.0 as f64 {
            true => Err(Refusal::Late),
            false => Ok(foreseen),
        }
    }

    /// From now until the reply, behind those that wait, by the lines of the class that would be soonest done with its
    /// part of the queue. Those that come later make the last batch larger, and this one's reply later.
    fn foreseen(&self, group: usize, rows: u64) -> f64 {
        let of = &self.groups[group];
        let ends = (0..of.classes.len()).filter(|c| of.classes[*c].capacity > 0).map(|c| {
            let head = Head { rows, arrived: self.now, due: self.now + of.objective() };
            let view = self.view(group, c, head);
            let largest = view.capacity.max(rows);
            let ahead = ((of.rows + rows) as f64 * of.part(c)).ceil().max(1.0) as u64;
            let batches = ahead.div_ceil(largest);
            let turns = (batches.div_ceil(view.servers as u64) - 1) as f64;
            let wait = view.free_at.0.saturating_sub(self.now.0) as f64 + turns * view.lines.calc.at(largest as f64);
            let fills = of.rate_of(c, self.now) * (wait - view.ahead.0 as f64).max(0.0);
            let last = ((ahead - (batches - 1) * largest) as f64 + fills).min(largest as f64);
            wait.max(view.lines.up.at(last)) + view.lines.calc.at(last) + view.lines.down.at(last)
        });
        ends.fold(f64::INFINITY, f64::min)
    }

    pub(super) fn arrive(&mut self, arrival: Arrival) {
        let Arrival { request, group, rows, timeout } = arrival;
        assert!(self.requests.is_free(request), "request {request} has not been answered yet");
        let foreseen = match self.admit(group, rows) {
            Ok(foreseen) => foreseen,
            Err(why) => {
                let of = &mut self.groups[group];
                of.counters.refused += 1;
                if matches!(why, Refusal::Late | Refusal::Full) {
                    // They would have come.
                    of.rate.arrive(self.now, u64::from(rows));
                }
                self.actions.push_back(Action::Refuse { request, why });
                return;
            }
        };
        let of = &mut self.groups[group];
        of.counters.accepted += 1;
        of.rate.arrive(self.now, u64::from(rows));
        of.waiting += 1;
        of.rows += u64::from(rows);
        let due = self.now + of.objective();
        let expires = timeout.map(|t| self.now + t);
        self.requests.enter(request, group as u32, rows, self.now, due, expires);
        self.requests.get_mut(request).foreseen = foreseen;
        self.requests.push_back(&mut self.groups[group].queue, request);
        if let Some(at) = expires {
            self.expire_at(at, request);
        }
        self.form(group);
    }
}
