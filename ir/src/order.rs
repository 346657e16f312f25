//! Which steps of a route are done before which, whatever their durations turn out to be.
//!
//! A step comes after those it names and after the one before it on its lane, and after all that those come after. Kept
//! as vector clocks (Fidge, "Timestamps in message-passing systems that preserve the partial ordering", 1988; Mattern,
//! "Virtual time and global states of distributed systems", 1989), a lane being a process: a number a step and lane.

use crate::plan::Route;

/// The partial order of a route's steps.
#[derive(Clone, Debug)]
pub struct Order {
    lanes: usize,
    /// Lane of each step, and how many steps of the lane are before it.
    place: Vec<(usize, u32)>,
    /// By step, then by lane: how many steps of the lane are done before it starts.
    done: Vec<u32>,
    /// What each step waits for, without what another of these waits for.
    waits: Vec<Vec<usize>>,
}

impl Order {
    /// The order of a route's steps, in time of (steps + waits) x lanes and memory of steps x lanes.
    ///
    /// # Panics
    /// If a step is on a lane that the route does not have, or comes after itself or a later one.
    pub fn of(route: &Route) -> Self {
        let lanes = route.lane_names.len();
        let mut order = Self { lanes, place: vec![], done: vec![], waits: vec![] };
        let (mut last, mut count) = (vec![None; lanes], vec![0; lanes]);
        for (i, step) in route.steps.iter().enumerate() {
            let mut waits: Vec<usize> = step.after.iter().copied().chain(last[step.lane].replace(i)).collect();
            waits.sort_unstable();
            waits.dedup();
            let mut done = vec![0; lanes];
            for p in &waits {
                done.iter_mut().zip(order.done_before(*p)).for_each(|(now, then)| *now = (*then).max(*now));
            }
            waits.retain(|p| {
                let (lane, place) = order.place[*p];
                done[lane] <= place
            });
            for p in &waits {
                let (lane, place) = order.place[*p];
                done[lane] = place + 1;
            }
            order.place.push((step.lane, count[step.lane]));
            count[step.lane] += 1;
            order.done.extend(done);
            order.waits.push(waits);
        }
        order
    }

    fn done_before(&self, step: usize) -> &[u32] {
        &self.done[step * self.lanes..(step + 1) * self.lanes]
    }

    /// How many steps there are.
    pub fn steps(&self) -> usize {
        self.place.len()
    }

    /// Whether one step is known to be done before another starts. No step is before itself.
    pub fn before(&self, earlier: usize, later: usize) -> bool {
        let (lane, place) = self.place[earlier];
        self.done_before(later)[lane] > place
    }

    /// The least steps to wait for, ascending, at most one a lane: whatever is before the step is one of them or before one.
    pub fn waits(&self, step: usize) -> &[usize] {
        &self.waits[step]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Action, Step};
    use crate::random::{self, Random};
    use crate::units::Nanos;

    fn random_steps(r: &mut Random) -> Route {
        let mut route = random::route(r);
        route.lane_names = (0..1 + r.below(5)).map(|l| format!("lane{l}")).collect();
        let lanes = route.lane_names.len();
        let step = |i: usize, r: &mut Random| Step {
            lane: r.below(lanes),
            action: Action::Barrier,
            after: if i == 0 { vec![] } else { r.list(3, |r| r.below(i)) },
            duration: Nanos::ZERO,
            frees: vec![],
        };
        route.steps = (0..r.below(40)).map(|i| step(i, r)).collect();
        route
    }

    /// Every pair, in the plainest way.
    fn closure(route: &Route) -> Vec<Vec<bool>> {
        let mut before = vec![vec![false; route.steps.len()]; route.steps.len()];
        for (later, step) in route.steps.iter().enumerate() {
            for earlier in 0..later {
                if step.after.contains(&earlier) || step.lane == route.steps[earlier].lane {
                    before[later][earlier] = true;
                    (0..earlier).for_each(|e| before[later][e] |= before[earlier][e]);
                }
            }
        }
        before
    }

    #[test]
    fn the_order_is_the_closure_of_lanes_and_waits() {
        for seed in 0..500 {
            let mut r = Random(seed);
            let route = random_steps(&mut r);
            let (order, before) = (Order::of(&route), closure(&route));
            assert_eq!(order.steps(), route.steps.len());
            for (later, before) in before.iter().enumerate() {
                let waits = order.waits(later);
                for (earlier, known) in before.iter().enumerate() {
                    assert_eq!(order.before(earlier, later), *known, "seed {seed}: {earlier} and {later}");
                    let by = waits.iter().filter(|w| **w == earlier || order.before(earlier, **w)).count();
                    assert_eq!(by > 0, *known, "seed {seed}: {earlier} by way of {waits:?} before {later}");
                    assert!(by <= 1 || !waits.contains(&earlier), "seed {seed}: {later} waits for {waits:?}");
                }
                assert!(!order.before(later, later));
            }
        }
    }
}
