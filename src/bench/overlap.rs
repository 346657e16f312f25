//! Transfers hidden behind compute: the real driver on the timing emulator in wall time, with real copies between real
//! buffers, pipelined beside serial in the same rounds.
//!
//! Three routes: one bound by its compute, one by its upload, one balanced. Requests never run out. Pipelined, a batch
//! follows another every so often as the busiest lane takes for one; that is the bound. The trace shows each step of one
//! run of every route, pipelined and serial.

use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use tandem_core::adt::{Line as Duration, Lines};
use tandem_core::scheduler::Setup;
use tandem_core::sim::synthetic::{self, ITEM_BYTES};
use tandem_core::trace::{TraceEvent, TraceKind, chrome_trace, step_event};
use tandem_core::{Command, DeviceError, DeviceSpec, Ticket, memory};
use tandem_ir::plan::Policy;
use tandem_ir::{Bytes, DeviceKind, Time};
use tandem_runtime::device::threaded::{Clock, Execute, Threaded};
use tandem_runtime::device::timed::Timed;
use tandem_runtime::driver::drive::{Answer, Ask, Driver};

use super::{Line, stats};
use crate::cli::BenchCommon;
use crate::context::Context;
use crate::output::write_file;

/// Requests of a batch.
const BATCH: u64 = 8;
/// Batches of a measurement.
const BATCHES: u64 = 60;
/// Least part of the bound that a pipelined route has to reach.
const BOUND_RATIO_MIN: f64 = 0.97;
/// Rounds unless told: each takes some seconds.
const ROUNDS: usize = 30;

/// Milliseconds of upload, compute and download of a batch.
const ROUTES: [(&str, [f64; 3]); 3] =
    [("compute-bound", [5.0, 10.0, 5.0]), ("upload-bound", [10.0, 6.0, 5.0]), ("balanced", [8.0, 8.0, 8.0])];

/// Measures all routes; the trace goes to a file where one is named.
pub fn run(context: &Context, trace: Option<&Path>, common: &BenchCommon) -> Result<Vec<Line>> {
    context.say("timing emulator in wall time: runs take as long as planned, copies copy and take at least as long");
    let rounds = common.rounds.unwrap_or(ROUNDS);
    let (mut lines, mut events) = (vec![], vec![]);
    for (name, phases) in ROUTES {
        let bound = phases.iter().copied().fold(0.0, f64::max) / 1e3;
        let (mut pipelined, mut serial, mut gain, mut hidden) = (vec![], vec![], vec![], vec![]);
        for round in 0..rounds {
            let mut took = [0.0; 2];
            for turn in 0..2 {
                let who = (turn + round) % 2;
                let seen = measure(&phases, if who == 0 { Policy::AdtFlow } else { Policy::AdtSerial })?;
                took[who] = seen.period;
                if who == 0 {
                    hidden.push(seen.hidden());
                }
                if round == 0 {
                    let mode = if who == 0 { "pipelined" } else { "serial" };
                    events.extend(seen.events(&format!("{name}, {mode}: ")));
                }
            }
            // As a target that must not be exceeded: the bound's throughput over ours.
            pipelined.push(took[0] / bound);
            serial.push(took[1] / bound);
            gain.push(took[1] / took[0]);
        }
        let line = |what: &str, values: &[f64], most| {
            Line::new(format!("{name}: {what}"), "ratio", stats::bootstrap(values), most, rounds)
        };
        lines.push(line("pipelined, time a batch / busiest lane's", &pipelined, Some(1.0 / BOUND_RATIO_MIN)));
        lines.push(line("serial, time a batch / busiest lane's", &serial, None));
        lines.push(line("serial / pipelined", &gain, None));
        lines.push(line("copying hidden behind compute, pipelined", &hidden, None));
    }
    if let Some(path) = trace {
        write_file(path, chrome_trace(&events).as_bytes())?;
    }
    Ok(lines)
}

/// A command as it ran.
type Span = (usize, Ticket, Time, Time);

/// Notes when each command ran.
struct Noted {
    timed: Arc<Timed>,
    clock: Clock,
    spans: Mutex<Vec<Span>>,
}

impl Execute for Noted {
    fn execute(&self, command: &Command, submitted: Time) -> Result<(), DeviceError> {
        let start = self.clock.now();
        let result = self.timed.execute(command, submitted);
        let mut spans = self.spans.lock().unwrap_or_else(|poison| poison.into_inner());
        spans.push((command.lane, command.ticket, start, self.clock.now()));
        result
    }
}

/// A run of many batches.
struct Seen {
    setup: Setup,
    /// Seconds a batch took while requests never ran out.
    period: f64,
    spans: Vec<Span>,
}

impl Seen {
    /// The part of the copying during which something computed.
    fn hidden(&self) -> f64 {
        let copies = |lane: usize| self.setup.queues().nth(lane).is_some_and(|q| q.name.contains('>'));
        let mut ends: Vec<(Time, bool, i32)> = vec![];
        for (lane, _, start, end) in &self.spans {
            ends.extend([(*start, copies(*lane), 1), (*end, copies(*lane), -1)]);
        }
        ends.sort_unstable();
        let (mut running, mut last, mut copying, mut both) = ([0i32; 2], Time::ZERO, 0, 0);
        for (at, copies, change) in ends {
            let passed = (at - last).0;
            copying += if running[1] > 0 { passed } else { 0 };
            both += if running[1] > 0 && running[0] > 0 { passed } else { 0 };
            running[usize::from(copies)] += change;
            last = at;
        }
        both as f64 / copying.max(1) as f64
    }

    fn events(&self, prefix: &str) -> Vec<TraceEvent> {
        let begin = self.spans.iter().map(|(_, _, start, _)| *start).min().unwrap_or(Time::ZERO);
        let event = |(_, ticket, start, end): &Span| {
            let span = memory::Span { start: Time::ZERO + (*start - begin), end: Time::ZERO + (*end - begin) };
            let route = &self.setup.routes[ticket.route as usize];
            let mut event = step_event(route, ticket.step as usize, span, TraceKind::Measured);
            event.lane = format!("{prefix}{}", event.lane);
            event
        };
        self.spans.iter().map(event).collect()
    }
}

/// Runs batches back to back.
fn measure(phases: &[f64; 3], policy: Policy) -> Result<Seen> {
    let [up, calc, down] = phases.map(|ms| Duration { slope: 0.0, fixed: ms * 1e6 });
    let mut setup = synthetic::device(&Lines { up, calc, down }, BATCH, policy);
    setup.groups[0].queue_max = (BATCH * BATCHES) as usize;
    // Every batch is a full one; and a lane may have the next command before it needs it.
    setup.routes.drain(..BATCH as usize - 1);
    setup.groups[0].routes = vec![0];
    setup.lanes.iter_mut().filter(|l| !l.threads).for_each(|l| l.depth = 2);
    let (driver, noted) = start(&setup)?;
    let (tell, answers) = channel();
    let inputs = Arc::new(vec![1u8; ITEM_BYTES as usize]);
    for _ in 0..BATCH * BATCHES {
        let tell = tell.clone();
        let answer = Box::new(move |answer| {
            let _ = tell.send((Instant::now(), matches!(answer, Answer::Done(..))));
        });
        driver.ask(Ask { tenant: 0, rows: 1, timeout: None, inputs: inputs.clone(), answer });
    }
    let answers: Vec<(Instant, bool)> = answers.iter().take((BATCH * BATCHES) as usize).collect();
    let refused = answers.iter().filter(|(_, done)| !done).count();
    if refused > 0 {
        bail!("{refused} of {} requests were not served", answers.len());
    }
    // From the first batch's end to the last one's: the way through an empty pipeline is not its pace.
    let times = || answers.iter().map(|(at, _)| *at);
    let (first, last) = times().min().zip(times().max()).context("there are answers")?;
    // The first request found nothing running and went alone: there is one batch more than full ones.
    let batches = driver.stand(0).counters.batches();
    let period = (last - first).as_secs_f64() / (batches - 1) as f64;
    drop(driver);
    let spans = std::mem::take(&mut *noted.spans.lock().unwrap_or_else(|poison| poison.into_inner()));
    Ok(Seen { setup, period, spans })
}

fn start(setup: &Setup) -> Result<(Driver<Timed>, Arc<Noted>)> {
    let clock = Clock::start();
    let timed = Arc::new(Timed::new(setup, clock));
    let noted = Arc::new(Noted { timed: timed.clone(), clock, spans: Mutex::default() });
    let lanes: Vec<String> = setup.queues().map(|q| q.name.clone()).collect();
    let threads = lanes.len();
    let spec = DeviceSpec {
        name: "emulated".into(),
        kind: DeviceKind::Gpu,
        lanes,
        memory: Bytes(u64::MAX),
        engine: "timing emulator, wall time".into(),
    };
    let device = Threaded::start(spec, noted.clone(), clock, threads)?;
    let driver = Driver::start(setup, timed, vec![Box::new(device)], clock).map_err(|e| anyhow!(e))?;
    Ok((driver, noted))
}
