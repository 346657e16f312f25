//! Worlds made by seed: machines, tenants, arrivals and faults of many kinds.

use std::sync::Arc;

use tandem_ir::plan::{Policy, Route};
use tandem_ir::{Nanos, Time};

use super::arrivals::{ArrivalSpec, Arrivals};
use super::synthetic::{self, Stage};
use super::world::{Fault, Workload, WorldOptions};
use crate::rng::Rng;
use crate::scheduler::{GroupSpec, Setup};

/// A world: what is served, who asks, and what goes wrong.
#[derive(Clone, Debug)]
pub struct Seeded {
    /// Lanes, routes, tenants.
    pub setup: Setup,
    /// Requests.
    pub workloads: Vec<Workload>,
    /// The rest. Rules are checked.
    pub options: WorldOptions,
}

const MS: u64 = 1_000_000;

/// The world of a seed: one to four tenants on up to four cores and an accelerator, for 200 ms to 2 s, two thirds of them
/// with faults, which end before the requests do.
pub fn world(seed: u64) -> Seeded {
    let mut rng = Rng::keyed(seed, &[0x0517]);
    let cores = 1 + rng.below(4) as usize;
    let lanes = synthetic::lanes(cores);
    let tenants = 1 + rng.below(4) as usize;
    let (mut routes, mut groups, mut workloads) = (vec![], vec![], vec![]);
    for t in 0..tenants {
        let name = format!("t{t}");
        let first = routes.len();
        routes.extend(tenant_routes(&name, cores, &mut rng));
        let slo = (rng.below(2) == 0).then(|| Nanos((20 + rng.below(400)) * MS));
        let queue_max = [4, 32, 4096][rng.below(3) as usize];
        let millirate = (rng.below(2) == 0).then(|| 1000 * (1 + rng.below(2000)));
        let policy = policy(&mut rng);
        let (routes, alone) = ((first..routes.len()).collect(), seed % 8 == 7);
        groups.push(GroupSpec { name, policy, slo, queue_max, millirate, routes, alone });
        let rate = (1 + rng.below(1500)) as f64;
        let spec = match rng.below(3) {
            0 => ArrivalSpec::Uniform(rate),
            1 => ArrivalSpec::Poisson(rate),
            _ => {
                ArrivalSpec::Steps(vec![(rate, Nanos(50 * MS)), (rate * 4.0, Nanos(60 * MS)), (rate, Nanos(500 * MS))])
            }
        };
        let arrivals = Arrivals::new(&spec, rng.u64()).expect("no trace");
        workloads.push(Workload {
            group: t,
            arrivals,
            rows_max: [1, 1, 3][rng.below(3) as usize],
            timeout: (rng.below(3) == 0).then(|| Nanos((1 + rng.below(100)) * MS)),
            cancel_permille: [0, 0, 30, 300][rng.below(4) as usize],
        });
    }
    let setup = Setup { lanes, routes: routes.into_iter().map(Arc::new).collect(), groups, devices: 2 };
    let duration = Nanos((200 + rng.below(1_800)) * MS);
    let faults = if rng.below(3) == 0 { vec![] } else { faults(&setup, duration, &mut rng) };
    let jitter_permille = [0, 0, 50, 900][rng.below(4) as usize];
    let options = WorldOptions { duration, seed, jitter_permille, faults, check: true, ..WorldOptions::default() };
    Seeded { setup, workloads, options }
}

fn policy(rng: &mut Rng) -> Policy {
    match rng.below(6) {
        0 => Policy::AdtSerial,
        1 => Policy::AdtSlide,
        2 | 3 => Policy::AdtFlow,
        n => {
            let queue_delay = Nanos(if n == 4 { 0 } else { rng.below(10 * MS) });
            Policy::Fixed { preferred: if rng.below(2) == 0 { vec![] } else { vec![2, 4] }, queue_delay }
        }
    }
}

/// A tenant's routes: on the host alone, on the accelerator, on both one after the other, or shared between the two.
fn tenant_routes(tenant: &str, cores: usize, rng: &mut Rng) -> Vec<Route> {
    let batches: &[u64] = [&[1u64] as &[u64], &[1, 2, 4, 8], &[4], &[1, 3, 16]][rng.below(4) as usize];
    let kind = rng.below(4);
    let (lanes, threads) = lanes_and_threads(cores, rng);
    let mut part = |most: u64| (rng.below(most), rng.below(most / 4 + 1));
    let (pre, up, calc, down, post) = (part(MS), part(MS), part(8 * MS), part(MS), part(MS));
    let at = |(slope, fixed): (u64, u64), batch: u64| Nanos(slope * batch / 4 + fixed);
    let mut routes = vec![];
    let mut add = |batch: u64, stages: &[Stage<'_>], share: u64| {
        let mut route = synthetic::chain(tenant, batch, stages);
        (route.lanes, route.threads, route.share_permille) = (lanes, threads, share);
        routes.push(route);
    };
    let largest = batches[batches.len() - 1];
    for batch in batches.iter().copied() {
        let host = [("cpu", at(calc, batch))];
        let offload = [("cpu>gpu0", at(up, batch)), ("gpu0", at(calc, batch)), ("gpu0>cpu", at(down, batch))];
        let whole = if batch == largest { 1000 } else { 0 };
        match kind {
            0 => add(batch, &host, whole),
            1 => add(batch, &offload, whole),
            2 => {
                let all = [&[("cpu", at(pre, batch))] as &[Stage<'_>], &offload, &[("cpu", at(post, batch))]].concat();
                add(batch, &all, whole);
            }
            _ => {
                add(batch, &offload, whole * 7 / 10);
                add(batch, &host, whole * 3 / 10);
            }
        }
    }
    routes
}

fn lanes_and_threads(cores: usize, rng: &mut Rng) -> (u32, u32) {
    let threads = 1 + rng.below(cores as u64) as u32;
    (1 + rng.below(u64::from(cores as u32 / threads)) as u32, threads)
}

/// Things that go wrong in the first two thirds; the accelerator is back by then.
fn faults(setup: &Setup, duration: Nanos, rng: &mut Rng) -> Vec<(Time, Fault)> {
    let queues = setup.queues().count() as u64;
    let until = duration.0 * 2 / 3;
    let mut faults = vec![];
    for _ in 0..rng.below(12) {
        let (at, queue) = (Time(rng.below(until)), rng.below(queues) as usize);
        faults.push((
            at,
            match rng.below(3) {
                0 => Fault::Fail(queue),
                1 => Fault::OutOfMemory(queue),
                _ => Fault::Hang(queue, Nanos(rng.below(30_000) * MS)),
            },
        ));
    }
    // Never lost twice without being back.
    let mut at = rng.below(until);
    for _ in 0..rng.below(4) {
        let back = at + 1 + rng.below(until / 4);
        faults.push((Time(at), Fault::Lose(1)));
        faults.push((Time(back), Fault::Back(1)));
        at = back + 1 + rng.below(until / 4);
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}
