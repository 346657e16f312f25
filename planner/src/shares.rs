//! Cores of the host for each of several tenants that are planned alone: in proportion to their work.
//!
//! Work is the host's: what a tenant's items take on it, times the items a second that are wanted of it. Accelerators are
//! not shared out, and nothing here looks at what the plans then do: it is where planning begins.

use tandem_ir::machine::Machine;
use tandem_ir::plan::AuthoredRoute;
use tandem_ir::units::Nanos;

use crate::build::{LaneConfig, Workbench};
use crate::error::PlanError;
use crate::plan::{PlanInput, TenantInput};
use crate::problem::HOST;
use crate::survey;

/// Where no tenant names a rate, all have this one, in thousandths: only proportions matter.
const MILLIRATE: u64 = 1000;

/// Cores for each tenant of the input, in proportion to rate x work of an item at its largest batch. A tenant that names no
/// rate is taken to want what the others want on average.
///
/// # Errors
/// Tenants whose costs are not known: see [`PlanError`].
pub fn by_work(input: &PlanInput<'_>) -> Result<Vec<u32>, PlanError> {
    let host = input.machine.devices.get(HOST).ok_or(PlanError::NoDevices)?;
    let rates: Vec<u64> = input.tenants.iter().filter_map(|t| t.millirate).collect();
    let named: u128 = rates.iter().map(|r| u128::from(*r)).sum();
    let usual = named.checked_div(rates.len() as u128).unwrap_or(u128::from(MILLIRATE));
    let mut work = vec![];
    for tenant in &input.tenants {
        let rate = tenant.millirate.map_or(usual, u128::from);
        let item = item(input, tenant).map_err(|error| input.blame(tenant, error))?;
        work.push(u64::try_from(rate * u128::from(item.0) / u128::from(MILLIRATE)).unwrap_or(u64::MAX));
    }
    Ok(split(&work, host.cores))
}

/// Core time that an item of the tenant takes on the host, at its largest batch and the fewest threads that are known.
fn item(input: &PlanInput<'_>, tenant: &TenantInput<'_>) -> Result<Nanos, PlanError> {
    let bench = Workbench::new(tenant.graph, input.machine, input.profile, &tenant.pins)?;
    let batch = survey::batches(tenant)?.0.last().copied().unwrap_or(1);
    let threads = bench.thread_choices(input.machine.devices[HOST].cores).first().copied().unwrap_or(1);
    let problem = bench.undisturbed(batch, LaneConfig { lanes: 1, threads })?;
    // What the host cannot run takes none of its cores.
    let busy: Nanos = problem.atoms.iter().filter_map(|a| a.time[HOST]).sum();
    Ok(Nanos(busy.0.saturating_mul(u64::from(threads)) / batch))
}

/// Cores for each tenant by its work: they sum to `cores`, each has at least one, and the most work a core is as little as
/// it can be. With more tenants than cores each has one, which it shares.
pub fn split(work: &[u64], cores: u32) -> Vec<u32> {
    let mut shares = vec![1u32; work.len()];
    let spare = u64::from(cores).saturating_sub(work.len() as u64);
    for _ in 0..spare {
        // One more core goes where a core has most to do; the first of equals has it. No work counts as little.
        let by = |work: u64, cores: u32| u128::from(work.max(1)) * u128::from(cores);
        let busier = |a: usize, b: usize| if by(work[b], shares[a]) > by(work[a], shares[b]) { b } else { a };
        let Some(busiest) = (0..work.len()).reduce(busier) else { break };
        shares[busiest] += 1;
    }
    shares
}

/// Cores of the host that a tenant's routes take: the most that one of them does.
pub fn of_routes(routes: &[AuthoredRoute], machine: &Machine) -> u32 {
    let host = machine.devices.first().map_or(1, |d| d.cores.max(1));
    let most = routes.iter().map(|r| r.lanes.saturating_mul(r.threads)).max().unwrap_or(1);
    most.clamp(1, host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    #[test]
    fn cores_follow_work() {
        assert_eq!(split(&[7, 1], 8), [7, 1]);
        assert_eq!(split(&[1, 1], 8), [4, 4]);
        assert_eq!(split(&[1, 1, 1], 8), [3, 3, 2], "the first of equals has the odd one");
        assert_eq!(split(&[1000, 1], 4), [3, 1], "nobody has none");
        assert_eq!(split(&[0, 0], 3), [2, 1], "no work at all");
        assert_eq!(split(&[5, 5, 5], 2), [1, 1, 1], "more tenants than cores share them");
        assert_eq!(split(&[u64::MAX, u64::MAX / 3], 4), [3, 1]);
        assert_eq!(split(&[], 4), Vec::<u32>::new());
        assert_eq!(split(&[3], 6), [6]);
    }

    /// Every way to hand out the cores, and the least of the most work a core.
    fn least(work: &[u64], cores: u32) -> (u64, u64) {
        fn go(work: &[u64], cores: u32, worst: (u64, u64), best: &mut Option<(u64, u64)>) {
            let more =
                |a: (u64, u64), b: (u64, u64)| u128::from(a.0) * u128::from(b.1) > u128::from(b.0) * u128::from(a.1);
            let Some((first, rest)) = work.split_first() else {
                if cores == 0 && best.is_none_or(|best| more(best, worst)) {
                    *best = Some(worst);
                }
                return;
            };
            for n in 1..=cores {
                let here = (*first, u64::from(n));
                go(rest, cores - n, if more(here, worst) { here } else { worst }, best);
            }
        }
        let mut best = None;
        go(work, cores, (0, 1), &mut best);
        best.expect("there are cores enough")
    }

    #[test]
    fn splits_sum_to_the_cores_and_are_the_best_there_are() {
        let mut rng = Rng::new(5);
        for _ in 0..500 {
            let work: Vec<u64> = (0..1 + rng.below(4)).map(|_| 1 + rng.below(1000)).collect();
            let cores = work.len() as u32 + rng.below(8) as u32;
            let shares = split(&work, cores);
            assert_eq!(shares.iter().sum::<u32>(), cores, "{work:?}");
            assert!(shares.iter().all(|s| *s >= 1), "{work:?} on {cores}: {shares:?}");
            assert_eq!(shares, split(&work, cores));
            let (most, by) = least(&work, cores);
            for (w, s) in work.iter().zip(&shares) {
                let within = u128::from(*w) * u128::from(by) <= u128::from(most) * u128::from(*s);
                assert!(within, "{work:?} on {cores}: {shares:?}");
            }
        }
    }
}
