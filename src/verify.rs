//! Plans of several tenants are simulated before they are written: the fluid program knows no chance.

use anyhow::Result;
use tandem_core::rng::Rng;
use tandem_core::scheduler::Setup;
use tandem_core::sim::{ArrivalSpec, Arrivals, Workload, WorldOptions, simulate};
use tandem_ir::{Nanos, Plan};
use tandem_planner::joint::millirates;

use crate::commands::simulate::is_met;

/// Requests that the tenant which is asked least has in a simulation: its 99th percentile is then of fifty.
const REQUESTS: f64 = 5_000.0;
/// Requests of all tenants in a simulation: where the rates are far apart, the rarest has fewer.
const REQUESTS_MAX: f64 = 300_000.0;
/// Steps of the search for the most that meets all objectives: to about half a per cent.
const STEPS: usize = 8;
/// Seed of the arrivals.
const SEED: u64 = 1;

/// What a simulation says of a plan.
pub struct Verdict {
    /// Multiples of the rates it is planned for, in parts per million, at which all objectives are met.
    pub ppm: u64,
    /// Tenants that miss theirs at a little more.
    pub misses: Vec<String>,
}

/// The most, up to what the routes carry, at which every tenant with an objective meets it, arrivals being random. Where
/// tenants say what they are planned for, that is tried first, and no more than that. `None` where there is nothing to
/// verify: one tenant, no objectives, tenants that feed each other.
pub fn verify(plan: &Plan) -> Result<Option<Verdict>> {
    let Some(together) = &plan.derived.together else { return Ok(None) };
    let applications = &plan.authored.applications;
    if applications.iter().all(|a| a.slo.is_none()) || applications.iter().any(|a| !a.edges.is_empty()) {
        return Ok(None);
    }
    let setup = Setup::of(plan)?;
    let is_asked = plan.authored.tenants().all(|t| t.millirate.is_some());
    let most = if is_asked { together.carried_ppm.min(1_000_000) } else { together.carried_ppm };
    let mut misses = missing(plan, &setup, most)?;
    if misses.is_empty() {
        return Ok(Some(Verdict { ppm: most, misses }));
    }
    let (mut met, mut missed) = (0, most);
    for _ in 0..STEPS {
        let middle = met + (missed - met) / 2;
        let missing = missing(plan, &setup, middle)?;
        if missing.is_empty() {
            met = middle;
        } else {
            (missed, misses) = (middle, missing);
        }
    }
    Ok(Some(Verdict { ppm: met, misses }))
}

/// Tenants that miss their objective at so many parts per million of the rates.
fn missing(plan: &Plan, setup: &Setup, ppm: u64) -> Result<Vec<String>> {
    let rates = millirates(&plan.authored.tenants().map(|t| t.millirate).collect::<Vec<_>>());
    let rates: Vec<f64> = rates.iter().map(|r| *r as f64 / 1e3 * ppm as f64 / 1e6).collect();
    let least = rates.iter().copied().fold(f64::INFINITY, f64::min).max(1e-9);
    let seconds = (REQUESTS / least).min(REQUESTS_MAX / rates.iter().sum::<f64>().max(1e-9));
    let workload = |(group, rate): (usize, &f64)| {
        let arrivals = Arrivals::new(&ArrivalSpec::Poisson(*rate), Rng::keyed(SEED, &[group as u64]).u64());
        Some(Workload::new(group, arrivals?))
    };
    let workloads = rates.iter().enumerate().filter_map(workload).collect();
    let options = WorldOptions { duration: Nanos((seconds * 1e9) as u64), seed: SEED, ..WorldOptions::default() };
    let report = simulate(setup, workloads, &options)?;
    let permilles = plan.authored.applications.iter().flat_map(|a| a.tenants.iter().map(|_| a.percentile_permille));
    let judged = report.groups.iter().zip(permilles);
    Ok(judged.filter(|(g, p)| is_met(g, *p) == Some(false)).map(|(g, _)| g.name.clone()).collect())
}
