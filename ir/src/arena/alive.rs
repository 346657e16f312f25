//! The most bytes alive at once in any interleaving of a route's lanes, exactly.
//!
//! What has happened at a moment is a set of events, starts and ends of steps, that holds with each event all it comes
//! after; and every such set is a moment of some interleaving. Starts add bytes, ends take them away: the most is the
//! weight of a maximum closure, which a minimum cut gives (Picard, "Maximal closure of a graph and applications to
//! combinatorial problems", Management Science 22, 1976). Flow goes from starts, over what they come after, to ends;
//! what no end can take is alive at the worst moment.

use std::collections::VecDeque;

use super::Item;
use crate::order::Order;

/// Starts (`2 * step`) and ends (`2 * step + 1`), and what each comes after.
pub(super) struct Events {
    /// Arcs that leave each event. Arc `2k` leads to one it comes after, arc `2k + 1` back.
    arcs: Vec<Vec<u32>>,
    /// Where each arc leads.
    heads: Vec<u32>,
}

/// A flow on its way to the greatest.
struct Flow {
    /// By event, bytes that a start has to give.
    supply: Vec<u64>,
    /// By event, bytes that an end can take.
    demand: Vec<u64>,
    /// By pair of arcs. The arc to an earlier event takes any amount, the one back only what came over the other.
    over: Vec<u64>,
    /// Events from which nothing with a demand can be reached, now and for ever: no path goes through them any more, so
    /// none opens a way out.
    closed: Vec<bool>,
}

impl Events {
    pub(super) fn of(order: &Order) -> Self {
        let mut events = Self { arcs: vec![vec![]; 2 * order.steps()], heads: vec![] };
        for i in 0..order.steps() {
            events.link(2 * i + 1, 2 * i);
            order.waits(i).iter().for_each(|p| events.link(2 * i, 2 * p + 1));
        }
        events
    }

    fn link(&mut self, event: usize, earlier: usize) {
        for (tail, head) in [(event, earlier), (earlier, event)] {
            self.arcs[tail].push(self.heads.len() as u32);
            self.heads.push(head as u32);
        }
    }

    /// The most bytes of these items that are alive at once. `None` if all of them exceed 64 bits.
    pub(super) fn most_alive(&self, items: &[Item]) -> Option<u64> {
        items.iter().try_fold(0u64, |sum, item| sum.checked_add(item.size))?;
        let events = self.arcs.len();
        let mut flow = Flow {
            supply: vec![0; events],
            demand: vec![0; events],
            over: vec![0; self.heads.len() / 2],
            closed: vec![false; events],
        };
        let mut fed = 0;
        for item in items {
            match item.from {
                Some(step) => flow.supply[2 * step] += item.size,
                None => fed += item.size,
            }
            if let Some(step) = item.until {
                flow.demand[2 * step + 1] += item.size;
            }
        }
        for start in 0..events {
            while flow.supply[start] > 0 && self.augment(start, &mut flow) {}
        }
        Some(fed + flow.supply.iter().sum::<u64>())
    }

    /// Sends what fits over a shortest path from an event to one with a demand; false if there is none.
    fn augment(&self, start: usize, flow: &mut Flow) -> bool {
        let mut via: Vec<Option<u32>> = vec![None; self.arcs.len()];
        let (mut queue, mut seen) = (VecDeque::from([start]), vec![start]);
        while let Some(event) = queue.pop_front() {
            if flow.demand[event] > 0 {
                self.send(start, event, &via, flow);
                return true;
            }
            for arc in &self.arcs[event] {
                let head = self.heads[*arc as usize] as usize;
                let passable = arc % 2 == 0 || flow.over[*arc as usize / 2] > 0;
                if passable && head != start && via[head].is_none() && !flow.closed[head] {
                    via[head] = Some(*arc);
                    seen.push(head);
                    queue.push_back(head);
                }
            }
        }
        seen.into_iter().for_each(|event| flow.closed[event] = true);
        false
    }

    fn send(&self, start: usize, end: usize, via: &[Option<u32>], flow: &mut Flow) {
        let mut path = vec![];
        let mut event = end;
        while event != start {
            let arc = via[event].expect("every event of a path but the first was reached over an arc") as usize;
            path.push(arc);
            event = self.heads[arc ^ 1] as usize;
        }
        let back = path.iter().filter(|arc| *arc % 2 == 1).map(|arc| flow.over[arc / 2]).min();
        let bytes = flow.supply[start].min(flow.demand[end]).min(back.unwrap_or(u64::MAX));
        flow.supply[start] -= bytes;
        flow.demand[end] -= bytes;
        for arc in path {
            let over = &mut flow.over[arc / 2];
            *over = if arc % 2 == 0 { *over + bytes } else { *over - bytes };
        }
    }
}
