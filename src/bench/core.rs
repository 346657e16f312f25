//! What a decision costs: the scheduler alone, on events that are told to it again, and in a world with the timing
//! emulator. One thread; nothing else runs meanwhile, or the figures are of both.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tandem_core::Scheduler;
use tandem_core::adt::{self, Lines};
use tandem_core::limits::QUEUE_MAX;
use tandem_core::scheduler::{Event, GroupSpec, Setup};
use tandem_core::sim::{ArrivalSpec, Arrivals, Workload, WorldOptions, simulate, synthetic};
use tandem_ir::plan::{Policy, Route};
use tandem_ir::{Nanos, Time};

use super::{Line, seconds, stats};
use crate::cli::BenchCommon;

/// Most nanoseconds an event may take: two million a second.
const EVENT_NS_MAX: f64 = 500.0;
/// Most nanoseconds a simulated request may take: 500,000 a second.
const REQUEST_NS_MAX: f64 = 2_000.0;
/// Requests of a round.
const REQUESTS: f64 = 100_000.0;
/// Batches of each tenant.
const BATCHES: [u64; 6] = [1, 2, 4, 8, 16, 32];
/// Worlds: requests a second of each tenant. In the first nearly every request is a batch, in the second the lanes are
/// nearly full.
const WORLDS: [(&str, f64); 2] = [("at leisure", 300.0), ("busy", 2_000.0)];

/// Measures both worlds.
pub fn run(common: &BenchCommon) -> Result<Vec<Line>> {
    let rounds = common.rounds.unwrap_or(super::ROUNDS);
    let setup = setup();
    let mut lines = vec![];
    for (name, rate) in WORLDS {
        let tenants = setup.groups.len();
        let duration = Nanos((REQUESTS / (rate * tenants as f64) * 1e9) as u64);
        let play = |keep_events| {
            let options = WorldOptions { duration, keep_events, ..WorldOptions::default() };
            seconds(|| simulate(&setup, workloads(tenants, rate), &options))
        };
        let kept = play(true).1?.kept;
        let (mut alone, mut event, mut request) = (vec![], vec![], vec![]);
        // The first round grows the heap.
        for round in 0..=rounds {
            let (time, report) = play(false);
            let report = report?;
            let offered: u64 = report.groups.iter().map(|g| g.offered).sum();
            let told = tell(&setup, kept.clone())?;
            if round > 0 {
                alone.push(told * 1e9 / kept.len() as f64);
                event.push(time * 1e9 / report.events as f64);
                request.push(time * 1e9 / offered as f64);
            }
        }
        let line = |what: &str, values: &[f64], most| {
            Line::new(format!("{name}: {what}"), "ns", stats::bootstrap(values), Some(most), rounds)
        };
        lines.push(line("the scheduler alone, an event", &alone, EVENT_NS_MAX));
        lines.push(line("scheduler and emulator, an event", &event, EVENT_NS_MAX));
        lines.push(line("scheduler and emulator, a request", &request, REQUEST_NS_MAX));
    }
    Ok(lines)
}

/// Three tenants that share an accelerator, by three policies, and one on cores of its own.
fn setup() -> Setup {
    let line = |slope: f64, fixed: f64| adt::Line { slope: slope * 1e6, fixed: fixed * 1e6 };
    let lines = Lines { up: line(0.006, 0.03), calc: line(0.1, 0.6), down: line(0.003, 0.015) };
    let delay = Policy::Fixed { preferred: vec![8, 16], queue_delay: Nanos(500_000) };
    let policies = [Policy::AdtFlow, Policy::AdtSerial, delay, Policy::AdtFlow];
    let (mut routes, mut groups) = (vec![], vec![]);
    for (t, policy) in policies.into_iter().enumerate() {
        let (name, first) = (format!("t{t}"), routes.len());
        routes.extend(BATCHES.map(|batch| {
            let share_permille = if batch == BATCHES[BATCHES.len() - 1] { 1000 } else { 0 };
            let route = match t {
                3 => synthetic::chain(&name, batch, &[("cpu", Nanos(lines.calc.at(batch as f64) as u64))]),
                _ => synthetic::offload(&name, batch, &lines),
            };
            Arc::new(Route { share_permille, lanes: 2, ..route })
        }));
        let (slo, routes) = (Some(Nanos(100_000_000)), (first..routes.len()).collect());
        groups.push(GroupSpec { name, policy, slo, queue_max: QUEUE_MAX, millirate: None, routes, alone: false });
    }
    Setup { lanes: synthetic::lanes(4), routes, groups, devices: 2 }
}

fn workloads(tenants: usize, rate: f64) -> Vec<Workload> {
    let of = |t: usize| Some(Workload::new(t, Arrivals::new(&ArrivalSpec::Poisson(rate), t as u64)?));
    (0..tenants).filter_map(of).collect()
}

/// Tells a fresh scheduler what another one was told, as a driver does; the seconds that took.
fn tell(setup: &Setup, events: Vec<(Time, Event)>) -> Result<f64> {
    let mut scheduler = Scheduler::new(setup, Time::ZERO).context("a sound setup")?;
    let (time, ()) = seconds(|| {
        for (now, event) in events {
            scheduler.handle(now, event);
            while let Some(action) = scheduler.poll_action() {
                black_box(&action);
            }
            black_box(scheduler.poll_timeout());
        }
    });
    Ok(time)
}
