//! Upload of the next batch, compute of this one and download of the last at once, against one batch at a time: first
//! their numbers, each batch its own, then their pace.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::json;
use tandem_core::scheduler::{Served, Setup};
use tandem_core::{Command, Device, Execution, Ticket};
use tandem_ir::plan::Route;
use tandem_ir::{Nanos, Time};
use tandem_onnx::cut;
use tandem_onnx::value::Value;
use tandem_planner::search::Method;
use tandem_runtime::compare::compare;
use tandem_runtime::device::threaded::Clock;
use tandem_runtime::driver::RunnerOptions;
use tandem_runtime::driver::devices::devices;
use tandem_runtime::driver::drive::Store;
use tandem_runtime::driver::works::{Inputs, Works};
use tandem_runtime::engine::SessionOptions;

use super::{Rig, Said, models};

/// Items of a batch.
const BATCH: u64 = 8;
/// Batches whose numbers are compared, and then batches that are timed.
const CHECKED: u64 = 24;
const BATCHES: u64 = 60;
/// Inputs that batches have in turn: numbers of another batch are noticed.
const VARIANTS: u64 = 3;

/// When a command ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    batch: u64,
    copies: bool,
    start: Time,
    end: Time,
}

/// The largest model, all of it on the accelerator.
pub fn overlap(rig: &Rig<'_>) -> Result<Said> {
    let name = rig.large();
    let of = models::open(rig, name)?;
    let plan = models::plan(rig, name, &of, &[BATCH], Method::GpuOnly)?;
    let setup = Setup::of(&plan)?;
    let options = RunnerOptions::default();
    let works = Works::load(&plan, &setup, &[&of.0], &rig.engines()?, &options, |_, _| ());
    let works = Arc::new(works.map_err(|(place, error)| anyhow!("{place}: {error}"))?);
    let batch = setup.routes[0].batch;
    let whole = rig.host.load(&cut::original(&of.0), &SessionOptions::default())?;
    let known = |seed| -> Result<(Inputs, Vec<Value>)> {
        let inputs = models::inputs(&of.0, batch, seed)?;
        let expected = whole.run(&inputs)?;
        Ok((Arc::new(inputs), expected))
    };
    let known = (0..VARIANTS).map(known).collect::<Result<Vec<_>>>()?;
    let clock = Clock::start();
    let devices = devices(&setup, &rig.machine, &works, clock)?;
    let mut player = Player::new(devices, works, setup.routes[0].clone(), known, clock);
    let rings = setup.rings(&setup.routes[0]);
    player.play(CHECKED, rings, true)?;
    let serial = Figures::of(&player.play(BATCHES, 1, false)?);
    let pipelined = Figures::of(&player.play(BATCHES, rings, false)?);
    let words = format!(
        "a batch of {batch} of {name} each {} with {rings} in flight, each {} one by one; the busiest of copies and compute \
         takes {}; {:.0} % of the copies' time is hidden behind compute (one by one {:.0} %)",
        pipelined.period,
        serial.period,
        pipelined.busiest,
        pipelined.hidden * 100.0,
        serial.hidden * 100.0
    );
    let figures = |f: &Figures| json!({"period_ns": f.period.0, "busiest_ns": f.busiest.0, "compute_ns": f.compute.0, "copies_hidden": f.hidden});
    Ok((
        words,
        json!({"batch": batch, "in_flight": rings, "serial": figures(&serial), "pipelined": figures(&pipelined)}),
    ))
}

/// What a run came to, a batch.
#[derive(Clone, Debug, PartialEq)]
struct Figures {
    /// From the end of one batch to the end of the next.
    period: Nanos,
    /// Time of the lane that is busiest: compute, or all copies of one direction.
    busiest: Nanos,
    compute: Nanos,
    /// The part of the copies' time during which something computes.
    hidden: f64,
}

impl Figures {
    fn of(lanes: &BTreeMap<String, Vec<Span>>) -> Self {
        let spans = || lanes.values().flatten();
        let mut ends: BTreeMap<u64, Time> = BTreeMap::new();
        for span in spans() {
            let end = ends.entry(span.batch).or_default();
            *end = (*end).max(span.end);
        }
        let (first, last) = (ends.values().min().copied(), ends.values().max().copied());
        let between = first.zip(last).map_or(Nanos::ZERO, |(first, last)| last - first);
        let batches = (ends.len() as u64).max(1);
        let took = |spans: &[Span]| spans.iter().map(|s| (s.end - s.start).0).sum::<u64>();
        let a_batch = |total: u64| Nanos(total / batches);
        let compute: Vec<Span> = spans().filter(|s| !s.copies).copied().collect();
        let copies: Vec<Span> = spans().filter(|s| s.copies).copied().collect();
        Self {
            period: Nanos(between.0 / (batches - 1).max(1)),
            busiest: a_batch(lanes.values().map(|spans| took(spans)).max().unwrap_or(0)),
            compute: a_batch(took(&compute)),
            hidden: hidden(&copies, &compute),
        }
    }
}

/// The part of some spans' time during which one of others, which follow each other, runs.
fn hidden(these: &[Span], behind: &[Span]) -> f64 {
    let common = |a: &Span, b: &Span| a.end.min(b.end).0.saturating_sub(a.start.max(b.start).0);
    let shared: u64 = these.iter().map(|a| behind.iter().map(|b| common(a, b)).sum::<u64>()).sum();
    let all: u64 = these.iter().map(|s| (s.end - s.start).0).sum();
    if all == 0 { 0.0 } else { shared as f64 / all as f64 }
}

/// Plays batches of one route on real devices, each step as soon as it may be submitted.
struct Player {
    devices: Vec<Box<dyn Device + Send>>,
    works: Arc<Works>,
    route: Arc<Route>,
    /// Inputs, and what they give.
    known: Vec<(Inputs, Vec<Value>)>,
    clock: Clock,
    told: Arc<(Mutex<u64>, Condvar)>,
    next: u64,
}

impl Player {
    fn new(
        mut devices: Vec<Box<dyn Device + Send>>,
        works: Arc<Works>,
        route: Arc<Route>,
        known: Vec<(Inputs, Vec<Value>)>,
        clock: Clock,
    ) -> Self {
        let told = Arc::new((Mutex::new(0), Condvar::new()));
        for device in &mut devices {
            let tell = told.clone();
            device.set_waker(Arc::new(move || {
                *tell.0.lock().unwrap_or_else(|poison| poison.into_inner()) += 1;
                tell.1.notify_all();
            }));
        }
        Self { devices, works, route, known, clock, told, next: 0 }
    }

    /// The inputs of a batch, and what they give.
    fn known(&self, batch: u64) -> &(Inputs, Vec<Value>) {
        &self.known[batch as usize % self.known.len()]
    }

    /// Plays so many batches, at most so many at once: what ran when, by lane. Compares their numbers where asked to.
    fn play(&mut self, batches: u64, at_once: usize, compared: bool) -> Result<BTreeMap<String, Vec<Span>>> {
        let first = Execution::new(self.route.clone())?;
        let mut idle: Vec<(u32, Execution)> = (1..at_once).map(|ring| (ring as u32, first.sibling())).collect();
        idle.push((0, first));
        let mut flying: VecDeque<(Ticket, Execution)> = VecDeque::new();
        let (mut spans, mut begun, mut seen) = (BTreeMap::new(), 0, 0);
        while begun < batches || !flying.is_empty() {
            while begun < batches
                && let Some((ring, execution)) = idle.pop()
            {
                let ticket = Ticket { route: 0, batch: self.next, ring, step: 0 };
                let rows = self.route.batch as u32;
                self.works.form(ticket, std::iter::once((0, rows, &self.known(self.next).0)));
                flying.push_back((ticket, execution));
                (begun, self.next) = (begun + 1, self.next + 1);
            }
            self.submit(&mut flying)?;
            let news = self.collect(&mut flying, &mut spans)?;
            while flying.front().is_some_and(|(_, execution)| execution.is_over()) {
                let (ticket, mut execution) = flying.pop_front().context("it is there")?;
                if compared {
                    self.compare(ticket)?;
                }
                self.works.retire(ticket);
                execution.reset();
                idle.push((ticket.ring, execution));
            }
            // What has ended makes room for what comes after it.
            if news == 0 && !flying.is_empty() {
                self.wait(&mut seen);
            }
        }
        Ok(spans)
    }

    fn compare(&self, ticket: Ticket) -> Result<()> {
        let rows = self.route.batch as u32;
        let (queued, executed, phases) = (Nanos::ZERO, Nanos::ZERO, [Nanos::ZERO; 3]);
        let served = Served { ticket, row: 0, batch_rows: rows, queued, executed, phases };
        let (inputs, expected) = self.known(ticket.batch);
        let found = self.works.outputs(&served, rows, inputs.clone()).values().map_err(anyhow::Error::msg)?;
        let found = compare(&[], expected, &found);
        if found.is_equal() { Ok(()) } else { bail!("batch {}: {found}", ticket.batch) }
    }

    fn submit(&mut self, flying: &mut VecDeque<(Ticket, Execution)>) -> Result<()> {
        for (ticket, execution) in flying {
            while let Some(step) = execution.poll_step() {
                let name = &self.route.lane_names[self.route.steps[step].lane];
                let lanes = self.devices.iter().enumerate();
                let mut found =
                    lanes.filter_map(|(d, device)| Some((d, device.spec().lanes.iter().position(|l| l == name)?)));
                let (device, lane) = found.next().with_context(|| format!("no device has the lane {name}"))?;
                let command =
                    Command { lane, ticket: Ticket { step: step as u32, ..*ticket }, route: self.route.clone() };
                self.devices[device].submit(self.clock.now(), command)?;
            }
        }
        Ok(())
    }

    /// Takes in what has ended; how much that was.
    fn collect(
        &mut self,
        flying: &mut VecDeque<(Ticket, Execution)>,
        spans: &mut BTreeMap<String, Vec<Span>>,
    ) -> Result<usize> {
        let mut news = 0;
        for device in &mut self.devices {
            while let Some(ended) = device.poll(self.clock.now()) {
                ended.result?;
                let step = ended.ticket.step as usize;
                let of = flying.iter_mut().find(|(ticket, _)| ticket.batch == ended.ticket.batch);
                let Some((ticket, execution)) = of else { bail!("an end of a batch that is over") };
                execution.done(step);
                let copies = matches!(self.route.steps[step].action, tandem_ir::plan::Action::Copy { .. });
                let lane = self.route.lane_names[self.route.steps[step].lane].clone();
                let span = Span { batch: ticket.batch, copies, start: ended.start, end: ended.end };
                spans.entry(lane).or_default().push(span);
                news += 1;
            }
        }
        Ok(news)
    }

    /// Waits until a device has told of something since we last looked.
    fn wait(&self, seen: &mut u64) {
        let mut told = self.told.0.lock().unwrap_or_else(|poison| poison.into_inner());
        while *told == *seen {
            told = self.told.1.wait(told).unwrap_or_else(|poison| poison.into_inner());
        }
        *seen = *told;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(batch: u64, copies: bool, start: u64, end: u64) -> Span {
        Span { batch, copies, start: Time(start), end: Time(end) }
    }

    #[test]
    fn what_overlaps_is_counted_once() {
        let copies = [span(0, true, 0, 10), span(1, true, 10, 20)];
        assert_eq!(hidden(&copies, &[span(0, false, 10, 30)]), 0.5);
        assert_eq!(hidden(&copies, &[span(0, false, 5, 10), span(1, false, 10, 15)]), 0.5);
        assert_eq!((hidden(&copies, &[]), hidden(&[], &copies)), (0.0, 0.0));
    }

    #[test]
    fn figures_are_of_a_batch() {
        let lanes = BTreeMap::from([
            ("up".to_owned(), vec![span(0, true, 0, 10), span(1, true, 10, 20)]),
            ("gpu".to_owned(), vec![span(0, false, 10, 30), span(1, false, 30, 50)]),
        ]);
        let found = Figures::of(&lanes);
        let expected = Figures { period: Nanos(20), busiest: Nanos(20), compute: Nanos(20), hidden: 0.5 };
        assert_eq!(found, expected);
    }
}
