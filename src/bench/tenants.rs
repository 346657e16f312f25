//! Two tenants in one process: each on cores of its own, as a plan says, against each in a session with the engine's own
//! options, as two models in one server usually are.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use tandem_ir::plan::Objective;
use tandem_onnx::cut;
use tandem_onnx::import::Model;
use tandem_onnx::value::Value;
use tandem_planner::build::LaneConfig;
use tandem_planner::plan::{PlanInput, TenantInput};
use tandem_planner::search::Method;
use tandem_runtime::driver::RunnerOptions;
use tandem_runtime::driver::drive::{Answer, Driver};
use tandem_runtime::driver::works::Works;
use tandem_runtime::engine::{Engine, Session, SessionOptions};
use tandem_runtime::profiler;
use tandem_runtime::serving::Serving;

use super::{Line, runtime, stats};
use crate::cli::{BenchCommon, BindArgs};
use crate::context::Context;
use crate::{commands, prepare};

/// Most times the planned tenants' time a run (both together) may be of the engine's own options': 1 / 1.3.
const TIME_RATIO_MAX: f64 = 1.0 / 1.3;
/// Most times the p99 of the engine's own options that the planned tenants' may be.
const TAIL_RATIO_MAX: f64 = 0.5;
/// How long each side runs in a round.
const TURN: Duration = Duration::from_millis(500);

/// Measures.
pub fn run(context: &Context, model: &str, batch: u64, common: &BenchCommon) -> Result<Vec<Line>> {
    let rounds = common.rounds.unwrap_or(super::ROUNDS);
    let engine = context.engine()?;
    let mut imported = prepare::open(context, model, None)?;
    prepare::bind(&mut imported, model, &BindArgs::default())?;
    commands::profile::observe(context, &mut imported, &BindArgs::default())?;
    let inputs = Arc::new(profiler::feeds(&imported.graph, batch)?);
    context.say(&format!("{} {}, two tenants of {model} at batch {batch}", engine.name(), engine.version()));
    let serving = planned(context, &imported, &engine, batch)?;
    let driver = serving.driver().context("it is loaded")?;
    let sessions = |threads| -> Result<[Arc<dyn Session>; 2]> {
        let options = SessionOptions { threads, ..SessionOptions::default() };
        let session = || engine.load(&cut::original(&imported), &options);
        Ok([session()?, session()?])
    };
    let (own_options, one_thread) = (sessions(0)?, sessions(1)?);
    let sides: [(&str, &Work<'_>); 3] = [
        ("planned", &|tenant| ask(driver, tenant, &inputs, batch)),
        ("the engine's own options", &|tenant| direct(&own_options[tenant], &inputs)),
        ("bare sessions of one thread", &|tenant| direct(&one_thread[tenant], &inputs)),
    ];
    let turns = turns(&sides.map(|(_, work)| work), rounds)?;
    for (side, (who, _)) in sides.iter().enumerate() {
        let runs = stats::median(&turns.iter().map(|t| t[side].runs as f64 / TURN.as_secs_f64()).collect::<Vec<_>>());
        let p99 = stats::median(&turns.iter().map(|t| t[side].p99.as_secs_f64() * 1e3).collect::<Vec<_>>());
        context.say(&format!("{who}: {runs:.0} runs/s, p99 {p99:.2} ms (medians of {rounds} turns)"));
    }
    let time: Vec<f64> = turns.iter().map(|t| t[1].runs as f64 / t[0].runs as f64).collect();
    let tail: Vec<f64> = turns.iter().map(|t| t[0].p99.as_secs_f64() / t[1].p99.as_secs_f64()).collect();
    let line =
        |what: &str, values: &[f64], most| Line::new(what, "ratio", stats::bootstrap(values), Some(most), rounds);
    Ok(vec![
        line("total rate, the engine's own options / planned", &time, TIME_RATIO_MAX),
        line("p99, planned / the engine's own options", &tail, TAIL_RATIO_MAX),
    ])
}

/// A plan of two tenants with one lane of one thread each (of half the cores where there are more), loaded.
fn planned(context: &Context, model: &Model, engine: &Arc<dyn Engine>, batch: u64) -> Result<Serving> {
    let machine = runtime::machine(context)?;
    let threads = (machine.devices[0].cores / 2).max(1);
    let tenant = |name: &str| {
        let lanes = Some(LaneConfig { lanes: 1, threads });
        TenantInput { lanes, batches: vec![batch], ..TenantInput::new(name, &model.graph) }
    };
    let (objective, search, tandem) = (Objective::Latency, Method::CpuOnly, commands::plan::VERSION.to_owned());
    let tenants = vec![tenant("a"), tenant("b")];
    let input = PlanInput { objective, search, tandem, ..PlanInput::new(&machine, tenants) };
    let plan = tandem_planner::plan::plan(&input)?;
    let models = [model, model];
    let serving = Serving::new(&plan, &models)?;
    let engines = [engine.clone()];
    serving.load(&plan, &models, &engines, &RunnerOptions::default(), |_| ())?;
    Ok(serving)
}

/// What both tenants did in a turn.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    runs: usize,
    p99: Duration,
}

/// One request of a tenant.
type Work<'a> = dyn Fn(usize) -> Result<()> + Sync + 'a;

/// What both tenants did, by round and side. Two clients, one a tenant, each with one request at a time; the same threads
/// for all sides. A round before the first warms all.
fn turns<const SIDES: usize>(sides: &[&Work<'_>; SIDES], rounds: usize) -> Result<Vec<[Turn; SIDES]>> {
    let start = Barrier::new(2);
    let client = |tenant: usize| -> Vec<[Result<Vec<Duration>>; SIDES]> {
        let mut all = vec![];
        for round in 0..=rounds {
            let mut took = std::array::from_fn(|_| Ok(vec![]));
            for side in (0..SIDES).map(|turn| (turn + round) % SIDES) {
                start.wait();
                took[side] = turn(|| sides[side](tenant));
            }
            all.push(took);
        }
        all
    };
    let (a, b) = std::thread::scope(|scope| {
        let other = scope.spawn(|| client(1));
        (client(0), other.join())
    });
    let b = b.map_err(|_| anyhow!("a client panicked"))?;
    let mut turns = vec![];
    for (a, b) in a.into_iter().zip(b).skip(1) {
        let mut of = [Turn::default(); SIDES];
        for ((a, b), of) in a.into_iter().zip(b).zip(&mut of) {
            let mut all = a?;
            all.extend(b?);
            all.sort_unstable();
            let last = (all.len() * 99).div_ceil(100).saturating_sub(1);
            *of = Turn { runs: all.len(), p99: *all.get(last).context("no run in a turn")? };
        }
        turns.push(of);
    }
    Ok(turns)
}

/// What each request of one client took. One that panics has failed: the other client waits for this one at the next start.
fn turn(work: impl Fn() -> Result<()>) -> Result<Vec<Duration>> {
    let all = || {
        let end = Instant::now() + TURN;
        let mut took = vec![];
        while Instant::now() < end {
            let begin = Instant::now();
            work()?;
            took.push(begin.elapsed());
        }
        Ok(took)
    };
    catch_unwind(AssertUnwindSafe(all)).unwrap_or_else(|_| Err(anyhow!("a client panicked")))
}

fn direct(session: &Arc<dyn Session>, inputs: &[Value]) -> Result<()> {
    session.run(inputs).map(drop).map_err(Into::into)
}

fn ask(driver: &Driver<Works>, tenant: usize, inputs: &Arc<Vec<Value>>, batch: u64) -> Result<()> {
    match driver.run(tenant, batch as u32, inputs.clone()) {
        Answer::Done(rows, _) => rows.values().map(drop).map_err(|e| anyhow!(e)),
        _ => bail!("a request was not served"),
    }
}

#[cfg(test)]
mod tests {
    use std::panic::resume_unwind;

    use super::*;

    #[test]
    fn a_client_that_panics_holds_up_nobody() {
        // Without a message on stderr, which would look like a failure.
        let panics = |tenant: usize| if tenant == 1 { resume_unwind(Box::new("as told")) } else { bail!("as told") };
        let work: &Work<'_> = &panics;
        assert_eq!(turns(&[work, work], 1).expect_err("both fail").to_string(), "as told");
    }
}
