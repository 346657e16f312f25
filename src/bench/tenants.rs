//! Two tenants in one process: each on cores of its own, as a plan says, against each in a session with the engine's own
//! options, as two models in one server usually are.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
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
use tandem_runtime::driver::drive::{Answer, Ask, Driver};
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
    let options = SessionOptions { threads: 0, ..SessionOptions::default() };
    let session = || engine.load(&cut::original(&imported), &options);
    let sessions = [session()?, session()?];
    let (mut time, mut tail) = (vec![], vec![]);
    let (mut planned, mut own) = (vec![], vec![]);
    for round in 0..rounds + 1 {
        let mut seen = [Turn::default(), Turn::default()];
        for turn in 0..2 {
            let who = (turn + round) % 2;
            seen[who] = match who {
                0 => both(|tenant| ask(driver, tenant, &inputs, batch))?,
                _ => both(|tenant| direct(&sessions[tenant], &inputs))?,
            };
        }
        // The first round warms both.
        if round > 0 {
            planned.push(seen[0]);
            own.push(seen[1]);
            time.push(seen[1].runs as f64 / seen[0].runs as f64);
            tail.push(seen[0].p99.as_secs_f64() / seen[1].p99.as_secs_f64());
        }
    }
    for (who, turns) in [("planned", &planned), ("the engine's own options", &own)] {
        let runs = stats::median(&turns.iter().map(|t: &Turn| t.runs as f64 / TURN.as_secs_f64()).collect::<Vec<_>>());
        let p99 = stats::median(&turns.iter().map(|t| t.p99.as_secs_f64() * 1e3).collect::<Vec<_>>());
        context.say(&format!("{who}: {runs:.0} runs/s, p99 {p99:.2} ms (medians of {rounds} turns)"));
    }
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

/// Two clients, one a tenant, each with one request at a time.
fn both(work: impl Fn(usize) -> Result<()> + Sync) -> Result<Turn> {
    let end = Instant::now() + TURN;
    let client = |tenant: usize| -> Result<Vec<Duration>> {
        let mut took = vec![];
        while Instant::now() < end {
            let begin = Instant::now();
            work(tenant)?;
            took.push(begin.elapsed());
        }
        Ok(took)
    };
    let mut all = std::thread::scope(|scope| -> Result<Vec<Duration>> {
        let other = scope.spawn(|| client(1));
        let mut all = client(0)?;
        all.extend(other.join().map_err(|_| anyhow!("a client panicked"))??);
        Ok(all)
    })?;
    all.sort_unstable();
    let p99 = all.get((all.len() * 99).div_ceil(100).saturating_sub(1)).copied().context("no run in a turn")?;
    Ok(Turn { runs: all.len(), p99 })
}

fn direct(session: &Arc<dyn Session>, inputs: &[Value]) -> Result<()> {
    session.run(inputs).map(drop).map_err(Into::into)
}

fn ask(driver: &Driver<Works>, tenant: usize, inputs: &Arc<Vec<Value>>, batch: u64) -> Result<()> {
    let (tell, answered) = sync_channel(1);
    let answer = Box::new(move |answer| {
        let _ = tell.send(answer);
    });
    driver.ask(Ask { tenant, rows: batch as u32, timeout: None, inputs: inputs.clone(), answer });
    match answered.recv()? {
        Answer::Done(rows, _) => rows.values().map(drop).map_err(|e| anyhow!(e)),
        _ => bail!("a request was not served"),
    }
}
