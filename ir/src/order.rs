//! Which steps of a route are done before which, whatever their durations turn out to be.
//!
//! A step comes after those it names and after the one before it on its lane, and after all that those come after. Kept
//! as vector clocks (Fidge, "Timestamps in message-passing systems that preserve the partial ordering", 1988; Mattern,
//! "Virtual time and global states of distributed systems", 1989), a lane being a process: a number a step and lane.

use crate::plan::Route;

/// The partial order of a route's steps.
#[derive(Clone, Debug)]
pub struct Order {
    /// Lane of each step, and how many steps of the lane are before it.
    place: Vec<(usize, u32)>,
    /// Steps of each lane.
    on: Vec<Vec<usize>>,
    /// By step, then by lane: how many steps of the lane are done before it starts.
    done: Vec<u32>,
}

impl Order {
    /// The order of a route's steps, in time and memory of steps x lanes.
    ///
    /// # Panics
    /// If a step is on a lane that the route does not have, or comes after itself or a later one.
    pub fn of(route: &Route) -> Self {
        let lanes = route.lane_names.len();
        let mut order = Self { place: vec![], on: vec![vec![]; lanes], done: vec![] };
        for (i, step) in route.steps.iter().enumerate() {
            let mut done = vec![0; lanes];
            for p in step.after.iter().chain(order.on[step.lane].last()) {
                done.iter_mut().zip(order.known(*p)).for_each(|(now, then)| *now = (*then).max(*now));
                let (lane, place) = order.place[*p];
                done[lane] = done[lane].max(place + 1);
            }
            order.place.push((step.lane, order.on[step.lane].len() as u32));
            order.on[step.lane].push(i);
            order.done.extend(done);
        }
        order
    }

    fn known(&self, step: usize) -> &[u32] {
        let lanes = self.on.len();
        &self.done[step * lanes..(step + 1) * lanes]
    }

    /// How many steps there are.
    pub fn steps(&self) -> usize {
        self.place.len()
    }

    /// Whether one step is known to be done before another starts. No step is before itself.
    pub fn before(&self, earlier: usize, later: usize) -> bool {
        let (lane, place) = self.place[earlier];
        self.known(later)[lane] > place
    }

    /// The last step of each lane that is known to be done before a step starts: whatever is before it is one of these or
    /// before one.
    pub fn latest_before(&self, step: usize) -> impl Iterator<Item = usize> + '_ {
        self.on.iter().zip(self.known(step)).filter_map(|(on, done)| Some(on[done.checked_sub(1)? as usize]))
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
                let latest: Vec<usize> = order.latest_before(later).collect();
                for (earlier, known) in before.iter().enumerate() {
                    assert_eq!(order.before(earlier, later), *known, "seed {seed}: {earlier} and {later}");
                    let covered = latest.iter().any(|l| *l == earlier || order.before(earlier, *l));
                    assert_eq!(covered, *known, "seed {seed}: {earlier} by way of {latest:?} before {later}");
                }
                assert!(!order.before(later, later));
            }
        }
    }
}
