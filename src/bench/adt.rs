//! `tandem bench adt`: batching with asynchronous transfers, its closed forms beside the real scheduler on the timing
//! emulator, and both beside what the method's authors claim.
//!
//! Nothing here is measured in wall time: the same parameters give the same tables on every machine.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tandem_core::adt::{self, Lines, Mode};
use tandem_core::rng::Rng;
use tandem_core::sim::{ArrivalSpec, Arrivals, GroupReport, Workload, WorldOptions, simulate, synthetic};
use tandem_ir::Nanos;
use tandem_ir::plan::Policy;

use crate::cli::AdtArgs;
use crate::context::read_document;
use crate::output::{print_as, table};

/// Largest batch that is simulated: beyond it, what a further request adds to the rate is below half a percent.
const BATCH_MAX: u64 = 256;
/// Most requests of a run: a few seconds of this machine's time, of some hundred runs.
const REQUESTS_MAX: f64 = 1e7;
/// Parts of the highest rate at which latency is shown, in percent.
const PERCENTS: [u64; 9] = [10, 20, 30, 40, 50, 60, 70, 80, 90];
/// The burst: from and to these percents of the highest rate, for so long, in the middle of twenty seconds.
const BURST: (f64, f64) = (0.4, 0.8);
const BURST_FOR: Nanos = Nanos(300_000_000);
const BESIDE_BURST: Nanos = Nanos(10_000_000_000);
/// Where the search for the highest rate ends, in percent of what no batch size carries, and halvings of a percent until
/// that rate is known to a thousandth.
const STEPS: u32 = 100;
const HALVINGS: u32 = 4;
/// A latency that grows by more than this part from half a run to the whole run goes on growing.
const GROWTH: f64 = 1.05;
/// A simulated latency this many times what is foretold is none that a rule settles at.
const DIVERGED: f64 = 2.0;

/// What the authors of the method report of it: highest rate, latency against rate, peak of a burst.
const CLAIMS: [&str; 3] = ["+9 %", "-3 % to -76 %", "-16 %"];

const MODES: [(Mode, &str, Policy); 3] = [
    (Mode::Serial, "serial", Policy::AdtSerial),
    (Mode::Slide, "slide", Policy::AdtSlide),
    (Mode::Flow, "flow", Policy::AdtFlow),
];

/// A duration over the batch size, as people write it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LineMs {
    slope_ms: f64,
    fixed_ms: f64,
}

/// A device: upload, compute and download.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceMs {
    up: LineMs,
    calc: LineMs,
    down: LineMs,
}

/// The synthetic device of the project's design notes, made so that transfers are 9 % of the compute.
const DEVICE: DeviceMs = DeviceMs {
    up: LineMs { slope_ms: 0.06, fixed_ms: 0.30 },
    calc: LineMs { slope_ms: 1.0, fixed_ms: 6.0 },
    down: LineMs { slope_ms: 0.03, fixed_ms: 0.15 },
};

impl DeviceMs {
    fn read(file: &Path) -> Result<Self> {
        let name = file.display();
        let device: Self = serde_yaml::from_str(&read_document(file)?).with_context(|| name.to_string())?;
        for (phase, line) in [("up", device.up), ("calc", device.calc), ("down", device.down)] {
            for (what, value) in [("slope_ms", line.slope_ms), ("fixed_ms", line.fixed_ms)] {
                // Above an hour neither formulas nor tables say anything.
                if !(0.0..=3.6e6).contains(&value) {
                    bail!("{name}: {phase}.{what}: expected milliseconds from 0 to 3600000, found {value}");
                }
            }
        }
        Ok(device)
    }

    fn lines(&self) -> Lines {
        let line = |l: LineMs| adt::Line { slope: l.slope_ms * 1e6, fixed: l.fixed_ms * 1e6 };
        Lines { up: line(self.up), calc: line(self.calc), down: line(self.down) }
    }
}

/// All tables.
#[derive(Serialize)]
struct Tables {
    schema_version: u32,
    device: &'static str,
    lines: DeviceMs,
    seconds: u64,
    seed: u64,
    batch_max: u64,
    steady: Vec<Steady>,
    capacity: Vec<Capacity>,
    latency: Vec<Latency>,
    burst: Burst,
}

/// A rate at which a mode settles: closed forms beside regular arrivals.
#[derive(Serialize)]
struct Steady {
    rate_per_s: f64,
    mode: &'static str,
    /// `None` beyond the mode's highest rate.
    batch_closed: Option<f64>,
    batch_simulated: f64,
    latency_closed_ms: Option<f64>,
    latency_simulated_ms: f64,
}

/// The highest rate within a latency bound, by mode; without bound, the highest whose latency does not go on growing.
#[derive(Serialize)]
struct Capacity {
    bound_ms: Option<f64>,
    closed_per_s: [Option<f64>; 3],
    simulated_per_s: [f64; 3],
    claim: &'static str,
}

/// Latencies at a rate, by mode: the worst of regular arrivals, and the 99th percentile of random ones.
#[derive(Serialize)]
struct Latency {
    rate_per_s: f64,
    regular_worst_ms: [f64; 3],
    poisson_p99_ms: [f64; 3],
    claim: &'static str,
}

/// The worst latency about a burst, by mode.
#[derive(Serialize)]
struct Burst {
    arrivals: String,
    worst_ms: [f64; 3],
    claim: &'static str,
}

/// A device under test.
struct Subject {
    lines: Lines,
    duration: Nanos,
    seed: u64,
}

/// Makes all tables.
pub fn run(args: &AdtArgs) -> Result<()> {
    let device = args.lines.as_deref().map_or(Ok(DEVICE), DeviceMs::read)?;
    if let Some(bad) = args.rates.iter().chain(&args.bounds_ms).find(|v| !(**v > 0.0 && **v <= 1e9)) {
        bail!("--rates and --bounds-ms: expected numbers above 0, found {bad}");
    }
    let duration = args.seconds.checked_mul(1_000_000_000).filter(|ns| *ns > 0);
    let duration = Nanos(duration.with_context(|| format!("--seconds {}: expected some seconds", args.seconds))?);
    let subject = Subject { lines: device.lines(), duration, seed: args.seed };
    let fastest = args.rates.iter().copied().fold(subject.limit(), f64::max);
    if fastest * args.seconds as f64 > REQUESTS_MAX {
        bail!("{fastest:.0} requests a second for {} s: expected at most {REQUESTS_MAX} in a run", args.seconds);
    }
    let bounds = args.bounds_ms.iter().copied().map(Some).chain([None]);
    let tables = Tables {
        schema_version: 1,
        device: "timing emulator",
        lines: device,
        seconds: args.seconds,
        seed: args.seed,
        batch_max: BATCH_MAX,
        steady: args
            .rates
            .iter()
            .flat_map(|r| MODES.map(|mode| (*r, mode)))
            .map(|(r, m)| subject.steady(r, m))
            .collect::<Result<_>>()?,
        capacity: bounds.map(|bound| subject.capacity(bound)).collect::<Result<_>>()?,
        latency: PERCENTS.iter().map(|p| subject.latency(*p)).collect::<Result<_>>()?,
        burst: subject.burst()?,
    };
    print_as(args.format, &tables, || tables.text())
}

fn ms(duration: Nanos) -> f64 {
    duration.0 as f64 / 1e6
}

impl Subject {
    /// A run of one policy.
    fn served(&self, policy: &Policy, spec: &ArrivalSpec, duration: Nanos) -> Result<GroupReport> {
        let mut setup = synthetic::device(&self.lines, BATCH_MAX, policy.clone());
        // So that latency shows what is too much.
        setup.groups[0].queue_max = usize::MAX;
        let arrivals = Arrivals::new(spec, Rng::keyed(self.seed, &[0]).u64()).context("no trace")?;
        let options = WorldOptions { duration, seed: self.seed, ..WorldOptions::default() };
        let mut report = simulate(&setup, vec![Workload::new(0, arrivals)], &options)?;
        Ok(report.groups.swap_remove(0))
    }

    /// Worst latency of regular arrivals.
    fn worst_ms(&self, policy: &Policy, rate: f64, duration: Nanos) -> Result<f64> {
        Ok(ms(self.served(policy, &ArrivalSpec::Uniform(rate), duration)?.latency.most()))
    }

    /// The rate a second that no overlapped batch size carries.
    fn limit(&self) -> f64 {
        Mode::Flow.rate_max(&self.lines) * 1e9
    }

    fn steady(&self, rate: f64, (mode, name, policy): (Mode, &'static str, Policy)) -> Result<Steady> {
        let closed = mode.steady(&self.lines, rate * 1e-9);
        let found = self.served(&policy, &ArrivalSpec::Uniform(rate), self.duration)?;
        Ok(Steady {
            rate_per_s: rate,
            mode: name,
            batch_closed: closed.map(|c| c.batch),
            batch_simulated: found.batch_mean(),
            latency_closed_ms: closed.map(|c| c.latency / 1e6),
            latency_simulated_ms: ms(found.latency.most()),
        })
    }

    fn capacity(&self, bound: Option<f64>) -> Result<Capacity> {
        let closed = MODES.map(|(mode, ..)| match bound {
            Some(bound) => mode.within(&self.lines, bound * 1e6).map(|w| w.rate * 1e9),
            None => Some(mode.rate_max(&self.lines) * 1e9).filter(|r| r.is_finite()),
        });
        let mut simulated = [0.0; 3];
        for (found, (_, _, policy)) in simulated.iter_mut().zip(&MODES) {
            *found = self.highest(|rate| {
                let whole = self.worst_ms(policy, rate, self.duration)?;
                Ok(match bound {
                    Some(bound) => whole <= bound,
                    None => whole <= GROWTH * self.worst_ms(policy, rate, Nanos(self.duration.0 / 2))?,
                })
            })?;
        }
        Ok(Capacity { bound_ms: bound, closed_per_s: closed, simulated_per_s: simulated, claim: CLAIMS[0] })
    }

    /// The rate up to which every one holds: in steps, for which rates hold need not end where it first does not, for
    /// batches are whole; then by halving.
    fn highest(&self, holds: impl Fn(f64) -> Result<bool>) -> Result<f64> {
        let rate = |step: u32| self.limit() * f64::from(step) / 100.0;
        let mut step = 0;
        while step < STEPS && holds(rate(step + 1))? {
            step += 1;
        }
        let (mut low, mut high) = (rate(step), rate(step + 1));
        for _ in 0..HALVINGS {
            let middle = (low + high) / 2.0;
            if holds(middle)? { low = middle } else { high = middle }
        }
        Ok(low)
    }

    fn latency(&self, percent: u64) -> Result<Latency> {
        let rate = self.limit() * percent as f64 / 100.0;
        let (mut regular, mut poisson) = ([0.0; 3], [0.0; 3]);
        for (m, (_, _, policy)) in MODES.iter().enumerate() {
            regular[m] = self.worst_ms(policy, rate, self.duration)?;
            let random = self.served(policy, &ArrivalSpec::Poisson(rate), self.duration)?;
            poisson[m] = ms(random.latency.permille(990));
        }
        Ok(Latency { rate_per_s: rate, regular_worst_ms: regular, poisson_p99_ms: poisson, claim: CLAIMS[1] })
    }

    fn burst(&self) -> Result<Burst> {
        let (before, during) = ((BURST.0 * self.limit()).round(), (BURST.1 * self.limit()).round());
        let arrivals = ArrivalSpec::Steps(vec![(before, BESIDE_BURST), (during, BURST_FOR), (before, BESIDE_BURST)]);
        let duration = BESIDE_BURST + BURST_FOR + BESIDE_BURST;
        let mut worst = [0.0; 3];
        for (worst, (_, _, policy)) in worst.iter_mut().zip(&MODES) {
            *worst = ms(self.served(policy, &arrivals, duration)?.latency.most());
        }
        Ok(Burst { arrivals: arrivals.to_string(), worst_ms: worst, claim: CLAIMS[2] })
    }
}

/// Of what serial takes, what flow takes less or more: `-9.0 %`.
fn against_serial(values: [f64; 3]) -> String {
    format!("{:+.1} %", (values[2] / values[0] - 1.0) * 100.0)
}

fn figures(values: [f64; 3]) -> impl Iterator<Item = String> {
    values.into_iter().map(|v| format!("{v:.1}"))
}

fn known(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |v| format!("{v:.digits$}"))
}

impl Tables {
    fn text(&self) -> String {
        let of = |name: &str, l: LineMs| format!("{name} {} ms + {} ms an item", l.fixed_ms, l.slope_ms);
        let lines = [of("upload", self.lines.up), of("compute", self.lines.calc), of("download", self.lines.down)];
        format!(
            "on the timing emulator, virtual time: {}\n{} s a run, seed {}, batches of at most {}; \
             serial, slide (as published) and flow (flow conserved)\n\n{}\n{}\n{}\n{}",
            lines.join(", "),
            self.seconds,
            self.seed,
            self.batch_max,
            self.steady_text(),
            self.capacity_text(),
            self.latency_text(),
            self.burst_text()
        )
    }

    fn steady_text(&self) -> String {
        let row = |s: &Steady| {
            let batches = [known(s.batch_closed, 2), format!("{:.2}", s.batch_simulated)];
            let latencies = [known(s.latency_closed_ms, 1), format!("{:.1}", s.latency_simulated_ms)];
            let mut row = vec![s.rate_per_s.to_string(), s.mode.to_owned()];
            row.extend(batches.into_iter().chain(latencies));
            row
        };
        let header = ["rate/s", "mode", "batch", "simulated", "latency ms", "simulated, worst"];
        let diverged =
            |s: &&Steady| s.latency_closed_ms.is_none_or(|closed| s.latency_simulated_ms > DIVERGED * closed);
        let diverged: Vec<String> =
            self.steady.iter().filter(diverged).map(|s| format!("{} at {}/s", s.mode, s.rate_per_s)).collect();
        let seen = match diverged.is_empty() {
            true => "All settle where their closed forms say, but that batches are whole.".to_owned(),
            false => format!("Requests pile up in {}; the others settle where their forms say.", diverged.join(", ")),
        };
        format!(
            "Steady states, regular arrivals\n{}{seen}\n",
            table(&header, &self.steady.iter().map(row).collect::<Vec<_>>())
        )
    }

    fn capacity_text(&self) -> String {
        let row = |c: &Capacity| {
            let mut row = vec![c.bound_ms.map_or("any".into(), |b| b.to_string())];
            for (closed, simulated) in c.closed_per_s.iter().zip(c.simulated_per_s) {
                row.extend([known(*closed, 1), format!("{simulated:.0}")]);
            }
            row.extend([against_serial(c.simulated_per_s), c.claim.to_owned()]);
            row
        };
        let header = [
            "bound ms",
            "serial/s",
            "simulated",
            "slide/s",
            "simulated",
            "flow/s",
            "simulated",
            "flow to serial",
            "claim",
        ];
        let gains: Vec<String> = self.capacity.iter().map(|c| against_serial(c.simulated_per_s)).collect();
        format!(
            "Capacity: the rate up to which the worst latency of regular arrivals stays within a bound\n{}Simulated, flow \
             carries {} against serial; slide is first too slow far below what its closed form promises.\n",
            table(&header, &self.capacity.iter().map(row).collect::<Vec<_>>()),
            gains.join(", ")
        )
    }

    fn latency_text(&self) -> String {
        let row = |l: &Latency| {
            let mut row = vec![format!("{:.0}", l.rate_per_s)];
            row.extend(figures(l.regular_worst_ms).chain([against_serial(l.regular_worst_ms)]));
            row.extend(figures(l.poisson_p99_ms).chain([against_serial(l.poisson_p99_ms), l.claim.to_owned()]));
            row
        };
        let header = [
            "rate/s",
            "serial",
            "slide",
            "flow",
            "flow to serial",
            "serial p99",
            "slide p99",
            "flow p99",
            "flow to serial",
            "claim",
        ];
        let change = |l: &Latency| l.regular_worst_ms[2] / l.regular_worst_ms[0] - 1.0;
        let least = self.latency.iter().map(change).fold(f64::NEG_INFINITY, f64::max) * 100.0;
        let most = self.latency.iter().map(change).fold(f64::INFINITY, f64::min) * 100.0;
        format!(
            "Latency in ms against rate: the worst of regular arrivals, and p99 of random ones\n{}Regular arrivals: flow takes \
             {least:+.1} % to {most:+.1} % against serial, the less the nearer serial is to its limit.\n",
            table(&header, &self.latency.iter().map(row).collect::<Vec<_>>())
        )
    }

    fn burst_text(&self) -> String {
        let Burst { arrivals, worst_ms, claim } = &self.burst;
        let mut row = vec![arrivals.clone()];
        row.extend(figures(*worst_ms).chain([against_serial(*worst_ms), (*claim).to_owned()]));
        let header = ["burst", "serial", "slide", "flow", "flow to serial", "claim"];
        format!(
            "Worst latency in ms about a burst\n{}The peak of flow is {} against serial's.\n",
            table(&header, &[row]),
            against_serial(*worst_ms)
        )
    }
}
