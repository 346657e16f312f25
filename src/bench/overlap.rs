//! Transfers hidden behind compute: the real driver on the timing emulator in wall time, with real copies between real
//! buffers, pipelined beside serial in the same rounds.
//!
//! Three routes: one bound by its compute, one by its upload, one balanced. Requests never run out. Pipelined, a batch
//! follows another every so often as the busiest lane takes for one; that is the bound.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use tandem_core::DeviceSpec;
use tandem_core::adt::{Line as Duration, Lines};
use tandem_core::scheduler::Setup;
use tandem_core::sim::synthetic::{self, ITEM_BYTES};
use tandem_ir::plan::Policy;
use tandem_ir::{Bytes, DeviceKind};
use tandem_runtime::device::threaded::{Clock, Threaded};
use tandem_runtime::device::timed::Timed;
use tandem_runtime::driver::drive::{Answer, Ask, Driver};

use super::{Line, stats};
use crate::cli::BenchCommon;
use crate::context::Context;

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

/// Measures all routes.
pub fn run(context: &Context, common: &BenchCommon) -> Result<Vec<Line>> {
    context.say("timing emulator in wall time: runs take as long as planned, copies copy and take at least as long");
    let rounds = common.rounds.unwrap_or(ROUNDS);
    let mut lines = vec![];
    for (name, phases) in ROUTES {
        let bound = phases.iter().copied().fold(0.0, f64::max) / 1e3;
        let (mut pipelined, mut serial, mut gain) = (vec![], vec![], vec![]);
        for round in 0..rounds {
            let mut took = [0.0; 2];
            for turn in 0..2 {
                let who = (turn + round) % 2;
                took[who] = period(&phases, if who == 0 { Policy::AdtFlow } else { Policy::AdtSerial })?;
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
    }
    Ok(lines)
}

/// Seconds a batch takes while requests never run out.
fn period(phases: &[f64; 3], policy: Policy) -> Result<f64> {
    let [up, calc, down] = phases.map(|ms| Duration { slope: 0.0, fixed: ms * 1e6 });
    let mut setup = synthetic::device(&Lines { up, calc, down }, BATCH, policy);
    setup.groups[0].queue_max = (BATCH * BATCHES) as usize;
    // Every batch is a full one; and a lane may have the next command before it needs it.
    setup.routes.drain(..BATCH as usize - 1);
    setup.groups[0].routes = vec![0];
    setup.lanes.iter_mut().filter(|l| !l.threads).for_each(|l| l.depth = 2);
    let driver = start(&setup)?;
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
    Ok((last - first).as_secs_f64() / (batches - 1) as f64)
}

fn start(setup: &Setup) -> Result<Driver<Timed>> {
    let clock = Clock::start();
    let timed = Arc::new(Timed::new(setup, clock));
    let lanes: Vec<String> = setup.queues().map(|q| q.name.clone()).collect();
    let threads = lanes.len();
    let spec = DeviceSpec {
        name: "emulated".into(),
        kind: DeviceKind::Gpu,
        lanes,
        memory: Bytes(u64::MAX),
        engine: "timing emulator, wall time".into(),
    };
    let device = Threaded::start(spec, timed.clone(), clock, threads)?;
    Driver::start(setup, timed, vec![Box::new(device)], clock).map_err(|e| anyhow!(e))
}
