//! `tandem simulate`: a plan in virtual time, the real scheduler on the timing emulator.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};
use tandem_core::chrome_trace;
use tandem_core::rng::Rng;
use tandem_core::scheduler::{Close, Setup};
use tandem_core::sim::{ArrivalSpec, Arrivals, GroupReport, Histogram, Report, Workload, WorldOptions, simulate};
use tandem_ir::Plan;

use crate::bench::seconds;
use crate::binding;
use crate::cli::SimulateArgs;
use crate::commands::run::load_plan;
use crate::context::{Context, negative, read_document};
use crate::output::{print_as, table, write_file};

/// Steps that a trace has at most: some 20 MB, which viewers still open.
const TRACE_MAX: usize = 100_000;

/// Why batches are closed, in the order in which the scheduler counts it.
const WHY: [(Close, &str); 6] = [
    (Close::Full, "full"),
    (Close::Idle, "idle"),
    (Close::Early, "early"),
    (Close::Due, "due"),
    (Close::Short, "short"),
    (Close::Delay, "delay"),
];

/// A tenant's promise, and who asks for it.
struct Asked {
    arrivals: ArrivalSpec,
    /// Percentile that the objective speaks of, in per mille.
    permille: u64,
}

/// Simulates.
pub fn run(context: &Context, args: &SimulateArgs) -> Result<()> {
    let mut plan = load_plan(&args.plan)?;
    // Of all batches that the plan may choose from, as `plan` and `check` have it, not only of those of its routes.
    let largest = plan.authored.tenants().flat_map(|t| &t.batches).max().copied().unwrap_or(0);
    plan.authored.serving = binding::serving(&args.serving, &plan.authored.serving, largest)?;
    let asked = asked(&plan, args)?;
    let setup = Setup::of(&plan).with_context(|| args.plan.display().to_string())?;
    let workloads =
        asked.iter().enumerate().map(|(g, a)| workload(g, &a.arrivals, args.seed)).collect::<Result<_>>()?;
    let options = WorldOptions {
        duration: binding::duration("--duration", &args.duration)?,
        seed: args.seed,
        jitter_permille: args.jitter,
        trace_max: if args.trace.is_some() { TRACE_MAX } else { 0 },
        ..WorldOptions::default()
    };
    let (took, report) = seconds(|| simulate(&setup, workloads, &options));
    let report = report?;
    let offered: u64 = report.groups.iter().map(|g| g.offered).sum();
    context.say(&format!(
        "{offered} requests and {} events in {took:.3} s: {:.0} requests/s, {:.2} million events/s",
        report.events,
        offered as f64 / took,
        report.events as f64 / took / 1e6
    ));
    if let Some(path) = &args.trace {
        write_file(path, chrome_trace(&report.trace).as_bytes())?;
        if report.trace.len() == TRACE_MAX {
            context.say(&format!("note: the trace ends after {TRACE_MAX} steps"));
        }
    }
    let told = Told { report: &report, asked: &asked, policy: plan.authored.serving.policy.name(), args };
    print_as(args.format, &told.data(), || told.text())?;
    let missed: Vec<&str> =
        told.tenants().filter(|(g, a)| is_met(g, a.permille) == Some(false)).map(|(g, _)| &*g.name).collect();
    if missed.is_empty() { Ok(()) } else { negative(format!("missed: the objective of {}", missed.join(", "))) }
}

/// Who asks, by tenant: as was said, else at random at the rate that the plan is for.
fn asked(plan: &Plan, args: &SimulateArgs) -> Result<Vec<Asked>> {
    if let Some(application) = plan.authored.applications.iter().find(|a| !a.edges.is_empty()) {
        bail!("application \"{}\": expected tenants that do not feed each other", application.name);
    }
    let tenants = plan.authored.applications.iter().flat_map(|a| a.tenants.iter().map(move |t| (a, t)));
    let names: Vec<&str> = plan.authored.tenants().map(|t| t.name.as_str()).collect();
    let given = binding::arrivals(&args.arrivals, &names)?;
    let one = |((application, tenant), given): ((_, &tandem_ir::plan::Tenant), Option<ArrivalSpec>)| {
        let application: &tandem_ir::plan::Application = application;
        let planned = tenant.millirate.map(|m| ArrivalSpec::Poisson(m as f64 / 1e3));
        let arrivals = given.or(planned).with_context(|| {
            let hint = if names.len() > 1 { format!("{}=", tenant.name) } else { String::new() };
            format!("tenant \"{0}\": expected --arrivals {hint}SPEC, for the plan has no rate for it", tenant.name)
        })?;
        Ok(Asked { arrivals, permille: application.percentile_permille })
    };
    tenants.zip(given).map(one).collect()
}

fn workload(group: usize, spec: &ArrivalSpec, seed: u64) -> Result<Workload> {
    let arrivals = match spec {
        ArrivalSpec::Trace(file) => {
            Arrivals::trace(&read_document(Path::new(file))?).map_err(|e| anyhow!("{file}: {e}"))?
        }
        spec => Arrivals::new(spec, Rng::keyed(seed, &[group as u64]).u64()).context("a trace is read")?,
    };
    Ok(Workload::new(group, arrivals))
}

/// Whether as many of the requests that came were answered within the objective as it says; `None` without objective,
/// or without requests.
pub fn is_met(group: &GroupReport, permille: u64) -> Option<bool> {
    let judged = group.slo.is_some() && group.offered > 0;
    judged.then(|| group.good * 1000 >= group.offered * permille)
}

/// What is printed.
struct Told<'a> {
    report: &'a Report,
    asked: &'a [Asked],
    policy: &'static str,
    args: &'a SimulateArgs,
}

impl Told<'_> {
    fn tenants(&self) -> impl Iterator<Item = (&GroupReport, &Asked)> {
        self.report.groups.iter().zip(self.asked)
    }

    fn per_second(&self, count: u64) -> f64 {
        count as f64 * 1e9 / self.report.duration.0 as f64
    }

    fn data(&self) -> Value {
        let tenant = |(g, a): (&GroupReport, &Asked)| {
            let c = g.counters;
            let batches: Vec<Value> = g.batches.iter().map(|(s, n)| json!({"size": s, "count": n})).collect();
            let closed: serde_json::Map<String, Value> =
                WHY.iter().map(|(why, name)| ((*name).to_owned(), c.closed[*why as usize].into())).collect();
            json!({
                "name": g.name, "arrivals": a.arrivals.to_string(), "offered": g.offered, "accepted": c.accepted,
                "refused": c.refused, "done": c.done, "failed": c.failed, "goodput_per_s": self.per_second(g.good),
                "latency_ns": percentiles(&g.latency), "queued_ns_mean": g.queued.mean().0,
                "batch_mean": g.batch_mean(), "batches": batches, "closed": closed,
                "slo_ns": g.slo.map(|s| s.0), "slo_permille": g.slo.map(|_| a.permille),
                "attained_ppm": g.attainment_ppm(), "met": is_met(g, a.permille),
            })
        };
        let lane =
            |l: &tandem_core::sim::LaneReport| json!({"name": l.name, "utilisation": self.report.utilisation(l)});
        json!({
            "schema_version": 1, "device": "timing emulator", "policy": self.policy,
            "duration_ns": self.report.duration.0, "end_ns": self.report.end.0, "seed": self.args.seed,
            "jitter_permille": self.args.jitter,
            "tenants": self.tenants().map(tenant).collect::<Vec<_>>(),
            "lanes": self.report.lanes.iter().map(lane).collect::<Vec<_>>(),
            "overlap": self.report.overlap(), "events": self.report.events,
        })
    }

    fn text(&self) -> String {
        let jitter =
            if self.args.jitter > 0 { format!(", jitter {} permille", self.args.jitter) } else { String::new() };
        let mut text = format!(
            "on the timing emulator, virtual time: {} for {}, seed {}{jitter}\n\n",
            self.policy, self.report.duration, self.args.seed
        );
        text += &(self.counts() + "\n" + &self.latencies() + "\n" + &self.batches() + "\n" + &self.lanes());
        text += &format!("copying hidden behind compute: {:.1} %\n", self.report.overlap() * 100.0);
        for (g, a) in self.tenants() {
            let (Some(slo), Some(met)) = (g.slo, is_met(g, a.permille)) else { continue };
            let (verdict, attained) = (if met { "meets" } else { "misses" }, g.attainment_ppm() as f64 / 1e4);
            let wanted = a.permille as f64 / 10.0;
            text += &format!("{} {verdict} its objective: {attained:.2} % within {slo}, of {wanted:.1} %\n", g.name);
        }
        text
    }

    fn counts(&self) -> String {
        let row = |(g, a): (&GroupReport, &Asked)| {
            let c = g.counters;
            let counts = [g.offered, c.accepted, c.refused, c.done, c.failed].map(|n| n.to_string());
            let mut row = vec![g.name.clone(), a.arrivals.to_string()];
            row.extend(counts);
            row.push(format!("{:.1}", self.per_second(g.good)));
            row
        };
        let header = ["tenant", "arrivals", "offered", "accepted", "refused", "done", "failed", "goodput/s"];
        table(&header, &self.tenants().map(row).collect::<Vec<_>>())
    }

    fn latencies(&self) -> String {
        let row = |(g, _): (&GroupReport, &Asked)| {
            let at = [500, 900, 990, 999, 1000].map(|p| g.latency.permille(p).to_string());
            let mut row = vec![g.name.clone()];
            row.extend(at);
            row.push(g.queued.mean().to_string());
            row
        };
        let header = ["latency", "p50", "p90", "p99", "p99.9", "most", "queued (mean)"];
        table(&header, &self.tenants().map(row).collect::<Vec<_>>())
    }

    fn batches(&self) -> String {
        let row = |(g, _): (&GroupReport, &Asked)| {
            let closed = g.counters.closed;
            let why: Vec<String> = WHY
                .iter()
                .filter(|(why, _)| closed[*why as usize] > 0)
                .map(|(why, name)| format!("{name} {}", closed[*why as usize]))
                .collect();
            let (count, mean) = (g.counters.batches().to_string(), format!("{:.2}", g.batch_mean()));
            vec![g.name.clone(), count, mean, sizes(g), why.join(", ")]
        };
        let header = ["batches", "count", "mean", "sizes", "closed"];
        table(&header, &self.tenants().map(row).collect::<Vec<_>>())
    }

    fn lanes(&self) -> String {
        let row = |l: &tandem_core::sim::LaneReport| {
            vec![l.name.clone(), format!("{:.1} %", self.report.utilisation(l) * 100.0)]
        };
        table(&["lane", "busy"], &self.report.lanes.iter().map(row).collect::<Vec<_>>())
    }
}

fn percentiles(latency: &Histogram) -> Value {
    let at = |permille| latency.permille(permille).0;
    json!({
        "p50": at(500), "p90": at(900), "p99": at(990), "p999": at(999), "max": latency.most().0,
        "mean": latency.mean().0,
    })
}

/// Ranges of sizes that double, with the part of the batches that each has: `1: 20 %, 2-3: 80 %`.
fn sizes(group: &GroupReport) -> String {
    let batches: u64 = group.batches.values().sum();
    let ranges = (0..u32::BITS).map(|bit| (1u32 << bit, (1u32 << bit) - 1 + (1 << bit)));
    let part = |(from, to): (u32, u32)| {
        let count: u64 = group.batches.range(from..=to).map(|(_, count)| count).sum();
        let range = if from == to { from.to_string() } else { format!("{from}-{to}") };
        let part = count as f64 * 100.0 / batches as f64;
        (count > 0).then(|| if part < 0.5 { format!("{range}: <1 %") } else { format!("{range}: {part:.0} %") })
    };
    ranges.filter_map(part).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use tandem_ir::Nanos;

    use super::*;

    #[test]
    fn sizes_are_told_in_ranges() {
        let mut group = GroupReport {
            name: "a".into(),
            slo: Some(Nanos(5)),
            offered: 100,
            good: 99,
            latency: Histogram::default(),
            queued: Histogram::default(),
            batches: [(1, 2), (2, 1), (3, 1), (16, 4)].into(),
            counters: Default::default(),
        };
        assert_eq!(sizes(&group), "1: 25 %, 2-3: 25 %, 16-31: 50 %");
        assert_eq!(is_met(&group, 990), Some(true));
        group.good = 98;
        assert_eq!(is_met(&group, 990), Some(false));
        group.slo = None;
        assert_eq!(is_met(&group, 990), None);
    }
}
