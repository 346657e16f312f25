//! One suite for all devices: the contract that `tandem_core::device` states, check by check.
//!
//! It waits for what devices tell and never for time to pass: a device that breaks a promise to go on hangs here. A
//! device that knows its future (the timing emulator) is asked for it instead.

mod subjects;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::ThreadId;

use tandem_core::{Command, Completion, Device, DeviceError, DeviceSpec, Ticket};
use tandem_ir::plan::{Action, Prediction, Route, Step};
use tandem_ir::{Bytes, DeviceKind, Nanos, Time};

pub use subjects::{OnStreams, OnThreads};

/// Lanes of the devices that are made for the suite.
pub const LANES: [&str; 3] = ["device", "host>device", "device>host"];

/// What a command does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Does {
    /// What the device is there for.
    Work,
    /// Its work, but not before the gate of this number is open.
    Wait(usize),
    /// Fails.
    Fail,
    /// Finds no memory.
    Exhaust,
    /// Panics.
    Panic,
}

/// What the commands of a check do, and what became of them.
#[derive(Default)]
pub struct Script {
    does: Vec<Does>,
    gates: Mutex<BTreeMap<usize, Gate>>,
    changed: Condvar,
    /// Batch and step of commands that are over, and who executed them.
    freed: Mutex<Vec<(u64, u32, ThreadId)>>,
}

#[derive(Default)]
struct Gate {
    open: bool,
    /// Commands that wait for it.
    waiting: usize,
    /// What holds something up until it is dropped.
    holds: Vec<Box<dyn Any + Send>>,
}

impl Script {
    /// What a command does.
    pub fn does(&self, command: &Command) -> &Does {
        &self.does[command.ticket.step as usize]
    }

    /// What all steps do.
    pub fn steps(&self) -> &[Does] {
        &self.does
    }

    /// Waits until a gate is open.
    pub fn wait(&self, gate: usize) {
        let mut gates = self.gates();
        gates.entry(gate).or_default().waiting += 1;
        self.changed.notify_all();
        while !gates.entry(gate).or_default().open {
            gates = self.changed.wait(gates).unwrap_or_else(|poison| poison.into_inner());
        }
    }

    /// Waits until so many commands wait for a gate.
    fn wait_held(&self, gate: usize, commands: usize) {
        let mut gates = self.gates();
        while gates.entry(gate).or_default().waiting < commands {
            gates = self.changed.wait(gates).unwrap_or_else(|poison| poison.into_inner());
        }
    }

    /// Keeps something until a gate is open.
    pub fn keep(&self, gate: usize, hold: Box<dyn Any + Send>) {
        let mut gates = self.gates();
        let gate = gates.entry(gate).or_default();
        if !gate.open {
            gate.holds.push(hold);
        }
    }

    /// A command frees what it frees.
    pub fn free(&self, command: &Command) {
        self.freed().push((command.ticket.batch, command.ticket.step, std::thread::current().id()));
    }

    fn open(&self, gate: usize) {
        let mut gates = self.gates();
        let gate = gates.entry(gate).or_default();
        gate.open = true;
        gate.holds.clear();
        drop(gates);
        self.changed.notify_all();
    }

    fn has_freed(&self, batch: u64, step: u32) -> bool {
        self.executed_by(batch, step).is_some()
    }

    /// The thread that executed a command.
    fn executed_by(&self, batch: u64, step: u32) -> Option<ThreadId> {
        self.freed().iter().find(|(b, s, _)| (*b, *s) == (batch, step)).map(|(.., thread)| *thread)
    }

    fn gates(&self) -> MutexGuard<'_, BTreeMap<usize, Gate>> {
        self.gates.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn freed(&self) -> MutexGuard<'_, Vec<(u64, u32, ThreadId)>> {
        self.freed.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

/// Makes devices to be checked.
pub trait Subject {
    /// What it is, for people.
    fn name(&self) -> String;

    /// A device with the lanes of the specification, whose commands do what the script says. One that can be helped has
    /// fewer threads than lanes, so that there is something to do for who helps while all of them are held up.
    ///
    /// # Errors
    /// Why it cannot be made.
    fn make(&self, spec: DeviceSpec, script: &Arc<Script>) -> Result<Box<dyn Device + Send>, String>;

    /// Whether its time is a number, and it executes nothing: steps then fail as the script says, and neither panic nor
    /// free.
    fn is_played(&self) -> bool {
        false
    }
}

/// What a check found wrong.
pub type Verdict = Result<(), String>;

type Check = fn(&dyn Subject) -> Verdict;

/// The checks, each with the sentence of the contract it is for.
pub const CHECKS: [(&str, Check); 11] = [
    ("a lane is a queue: its commands run in the order they were submitted, one at a time", queues),
    ("commands on different lanes are independent", independent),
    ("every command completes exactly once", once),
    ("submit never blocks, whatever the lane is at", never_blocks),
    ("after a failure the batch's later commands on the lane are skipped, and nobody else's are", skips),
    ("an engine that panics has failed, and the device goes on", panics),
    ("memory that runs out is said as such", exhausts),
    ("what a command frees is free when it completes, not before", frees),
    ("a lane that is not there is an error", unknown_lane),
    ("whoever waits is told of every completion", wakes),
    ("who helps executes what is its business and nothing else, and what it leaves is executed all the same", helps),
];

/// Runs all checks; each with what it found.
pub fn run(subject: &dyn Subject) -> Vec<(&'static str, Verdict)> {
    CHECKS.iter().map(|(name, check)| (*name, check(subject))).collect()
}

/// A command that holds a lane up, by the emulator's clock.
const LONG: Nanos = Nanos(1_000_000);
const SHORT: Nanos = Nanos(10);

/// A device with a script.
struct Rig {
    device: Box<dyn Device + Send>,
    script: Arc<Script>,
    route: Arc<Route>,
    now: Time,
    played: bool,
    told: Arc<(Mutex<u64>, Condvar)>,
    /// How often we were told when we last looked.
    seen: u64,
}

impl Rig {
    /// Steps by lane and what they do; their number is their place in the list.
    fn new(subject: &dyn Subject, steps: &[(usize, Does)]) -> Result<Self, String> {
        let script =
            Arc::new(Script { does: steps.iter().map(|(_, does)| does.clone()).collect(), ..Script::default() });
        let lanes: Vec<String> = LANES.map(str::to_owned).to_vec();
        let spec = DeviceSpec {
            name: "device".into(),
            kind: DeviceKind::Gpu,
            lanes: lanes.clone(),
            memory: Bytes(1 << 30),
            engine: subject.name(),
        };
        let mut device = subject.make(spec, &script)?;
        let told = Arc::new((Mutex::new(0), Condvar::new()));
        let tell = told.clone();
        device.set_waker(Arc::new(move || {
            *tell.0.lock().unwrap_or_else(|poison| poison.into_inner()) += 1;
            tell.1.notify_all();
        }));
        let route = Arc::new(route(lanes, steps));
        Ok(Self { device, script, route, now: Time::ZERO, played: subject.is_played(), told, seen: 0 })
    }

    fn submit(&mut self, batch: u64, step: u32) -> Verdict {
        let lane = self.route.steps[step as usize].lane;
        let command = Command { lane, ticket: Ticket { route: 0, batch, ring: 0, step }, route: self.route.clone() };
        self.device.submit(self.now, command).map_err(|e| format!("step {step} was not accepted: {e}"))
    }

    /// The next completion, however long it takes.
    fn next(&mut self) -> Result<Completion, String> {
        loop {
            if let Some(completion) = self.device.poll(self.now) {
                return Ok(completion);
            }
            if self.played {
                let wakeup = self.device.next_wakeup().ok_or("nothing will ever end")?;
                self.now = self.now.max(wakeup);
                continue;
            }
            let mut told = self.told.0.lock().unwrap_or_else(|poison| poison.into_inner());
            while *told == self.seen {
                told = self.told.1.wait(told).unwrap_or_else(|poison| poison.into_inner());
            }
            self.seen = *told;
        }
    }

    /// So many completions.
    fn all(&mut self, count: usize) -> Result<Vec<Completion>, String> {
        (0..count).map(|_| self.next()).collect()
    }

    fn nothing_more(&mut self) -> Verdict {
        match self.device.poll(self.now) {
            None => Ok(()),
            Some(completion) => Err(format!("{:?} completed once too often", completion.ticket)),
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Of a check that has failed: the device waits for its threads when it is dropped.
        for does in self.script.steps() {
            if let Does::Wait(gate) = does {
                self.script.open(*gate);
            }
        }
    }
}

fn route(lane_names: Vec<String>, steps: &[(usize, Does)]) -> Route {
    let step = |(lane, does): &(usize, Does)| Step {
        lane: *lane,
        action: Action::Barrier,
        after: vec![],
        duration: if matches!(does, Does::Wait(_)) { LONG } else { SHORT },
        frees: vec![],
    };
    Route {
        tenant: "conformance".into(),
        batch: 1,
        lanes: 1,
        threads: 1,
        share_permille: 1000,
        tensors: vec![],
        inputs: vec![],
        outputs: vec![],
        segments: vec![],
        lane_names,
        steps: steps.iter().map(step).collect(),
        memory: vec![],
        work: vec![],
        prediction: Prediction::default(),
    }
}

fn ensure(holds: bool, words: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(words()) }
}

fn queues(subject: &dyn Subject) -> Verdict {
    const BATCHES: u64 = 8;
    let steps: Vec<(usize, Does)> = (0..9).map(|i| (i % 3, Does::Work)).collect();
    let mut rig = Rig::new(subject, &steps)?;
    let mut expected: [Vec<(u64, u32)>; 3] = Default::default();
    for batch in 0..BATCHES {
        for step in 0..9u32 {
            rig.submit(batch, step)?;
            expected[step as usize % 3].push((batch, step));
        }
    }
    let mut found: [Vec<(u64, u32)>; 3] = Default::default();
    let mut free = [Time::ZERO; 3];
    for completion in rig.all(9 * BATCHES as usize)? {
        let Completion { ticket, lane, start, end, result } = completion;
        result.map_err(|e| format!("{ticket:?}: {e}"))?;
        ensure(start >= free[lane] && end >= start, || format!("{ticket:?} ran while lane {lane} was busy"))?;
        free[lane] = end;
        found[lane].push((ticket.batch, ticket.step));
    }
    ensure(found == expected, || format!("expected the order {expected:?}, found {found:?}"))
}

fn independent(subject: &dyn Subject) -> Verdict {
    let mut rig = Rig::new(subject, &[(0, Does::Wait(0)), (1, Does::Work), (2, Does::Work)])?;
    for step in 0..3 {
        rig.submit(1, step)?;
    }
    let mut first: Vec<u32> = rig.all(2)?.into_iter().map(|c| c.ticket.step).collect();
    first.sort_unstable();
    ensure(first == [1, 2], || format!("lane 0 is held up, and {first:?} completed"))?;
    rig.script.open(0);
    let last = rig.next()?;
    ensure(last.ticket.step == 0 && last.result.is_ok(), || format!("the held command ended as {last:?}"))
}

fn once(subject: &dyn Subject) -> Verdict {
    const BATCHES: u64 = 40;
    let does = [(0, Does::Work), (1, Does::Work), (0, Does::Fail), (2, Does::Work), (0, Does::Work)];
    let mut rig = Rig::new(subject, &does)?;
    for batch in 0..BATCHES {
        for step in 0..does.len() as u32 {
            rig.submit(batch, step)?;
        }
    }
    let mut seen: Vec<(u64, u32)> =
        rig.all(does.len() * BATCHES as usize)?.iter().map(|c| (c.ticket.batch, c.ticket.step)).collect();
    seen.sort_unstable();
    let all: Vec<(u64, u32)> = (0..BATCHES).flat_map(|b| (0..does.len() as u32).map(move |s| (b, s))).collect();
    ensure(seen == all, || format!("expected every command once, found {seen:?}"))?;
    rig.nothing_more()
}

fn never_blocks(subject: &dyn Subject) -> Verdict {
    let mut rig = Rig::new(subject, &[(0, Does::Wait(0)), (0, Does::Work)])?;
    rig.submit(0, 0)?;
    // Comes back each time, though the gate is shut.
    for batch in 1..100 {
        rig.submit(batch, 1)?;
    }
    rig.nothing_more()?;
    rig.script.open(0);
    let order: Vec<u64> = rig.all(100)?.iter().map(|c| c.ticket.batch).collect();
    ensure(order.is_sorted(), || format!("the lane's commands completed in the order {order:?}"))
}

fn skips(subject: &dyn Subject) -> Verdict {
    let does = [(0, Does::Work), (0, Does::Fail), (0, Does::Work), (1, Does::Work), (0, Does::Work)];
    let mut rig = Rig::new(subject, &does)?;
    // Batch 1 fails in its second step; batch 2 has no such step.
    let submitted = [(1, 0), (1, 1), (2, 0), (1, 2), (1, 3), (2, 2), (1, 4), (2, 4)];
    for (batch, step) in submitted {
        rig.submit(batch, step)?;
    }
    for completion in rig.all(submitted.len())? {
        let Completion { ticket, result, .. } = completion;
        let fits = match (ticket.batch, ticket.step) {
            (1, 1) => matches!(result, Err(DeviceError::Failed { .. })),
            (1, 2 | 4) => result == Err(DeviceError::Skipped),
            _ => result.is_ok(),
        };
        ensure(fits, || format!("step {} of batch {} ended as {result:?}", ticket.step, ticket.batch))?;
    }
    // Batches come and go; what failed before is no reason to skip.
    rig.submit(3, 0)?;
    let later = rig.next()?;
    ensure(later.result.is_ok(), || format!("another batch ended as {:?}", later.result))
}

fn panics(subject: &dyn Subject) -> Verdict {
    if subject.is_played() {
        return Ok(());
    }
    let mut rig = Rig::new(subject, &[(0, Does::Panic), (0, Does::Work)])?;
    rig.submit(1, 0)?;
    let broken = rig.next()?.result;
    let said = matches!(&broken, Err(DeviceError::Failed { why, .. }) if why.contains("panicked"));
    ensure(said, || format!("a panic ended as {broken:?}"))?;
    rig.submit(2, 1)?;
    let after = rig.next()?.result;
    ensure(after.is_ok(), || format!("the next batch ended as {after:?}"))
}

fn exhausts(subject: &dyn Subject) -> Verdict {
    if subject.is_played() {
        return Ok(());
    }
    let mut rig = Rig::new(subject, &[(0, Does::Exhaust), (0, Does::Work)])?;
    rig.submit(1, 0)?;
    let ended = rig.next()?.result;
    ensure(matches!(ended, Err(DeviceError::OutOfMemory { .. })), || format!("it ended as {ended:?}"))?;
    rig.submit(2, 1)?;
    let after = rig.next()?.result;
    ensure(after.is_ok(), || format!("the next batch ended as {after:?}"))
}

fn frees(subject: &dyn Subject) -> Verdict {
    if subject.is_played() {
        return Ok(());
    }
    let mut rig = Rig::new(subject, &[(0, Does::Wait(0)), (1, Does::Work)])?;
    rig.submit(1, 0)?;
    rig.submit(1, 1)?;
    let other = rig.next()?.ticket.step;
    ensure(other == 1 && rig.script.has_freed(1, 1), || format!("step {other} completed before it freed anything"))?;
    ensure(!rig.script.has_freed(1, 0), || "a command freed what it frees before it was over".into())?;
    rig.script.open(0);
    rig.next()?;
    ensure(rig.script.has_freed(1, 0), || "a command completed before it freed what it frees".into())
}

fn unknown_lane(subject: &dyn Subject) -> Verdict {
    let mut rig = Rig::new(subject, &[(0, Does::Work)])?;
    let ticket = Ticket { route: 0, batch: 1, ring: 0, step: 0 };
    let refused = rig.device.submit(rig.now, Command { lane: LANES.len(), ticket, route: rig.route.clone() });
    let said = matches!(refused, Err(DeviceError::NoSuchLane { lanes: 3, lane: 3, .. }));
    ensure(said, || format!("lane 3 of 3 was answered with {refused:?}"))?;
    rig.submit(1, 0)?;
    rig.next()?.result.map_err(|e| format!("a good command after it: {e}"))?;
    rig.nothing_more()
}

fn wakes(subject: &dyn Subject) -> Verdict {
    let mut rig = Rig::new(subject, &[(0, Does::Work), (1, Does::Fail), (2, Does::Work)])?;
    for step in 0..3 {
        rig.submit(1, step)?;
        // Whoever waits here is not told by anything else.
        let ended = rig.next()?.ticket.step;
        ensure(ended == step, || format!("step {ended} completed, and only step {step} was submitted"))?;
    }
    Ok(())
}

fn helps(subject: &dyn Subject) -> Verdict {
    let mut rig = Rig::new(subject, &[(0, Does::Work), (1, Does::Wait(0)), (2, Does::Wait(0))])?;
    let Some(help) = rig.device.help() else { return Ok(()) };
    for batch in 0..20 {
        help.come();
        rig.submit(batch, 0)?;
        ensure(!help.help(&|ticket| ticket.batch != batch), || "it took what is not its business".into())?;
        help.leave();
        let ended = rig.next()?.ticket;
        ensure((ended.batch, ended.step) == (batch, 0), || format!("{ended:?} completed"))?;
    }
    // Nobody else can take the one that is left.
    (1..3).try_for_each(|step| rig.submit(20, step))?;
    rig.script.wait_held(0, 2);
    help.come();
    rig.submit(20, 0)?;
    ensure(!help.help(&|ticket| ticket.batch != 20), || "it took what is not its business".into())?;
    ensure(help.help(&|ticket| ticket.batch == 20), || "it found nothing to do, and there was something".into())?;
    let by = rig.script.executed_by(20, 0);
    ensure(by == Some(std::thread::current().id()), || "another thread executed what it found".into())?;
    help.leave();
    rig.script.open(0);
    rig.all(3)?;
    help.come();
    for batch in 21..40 {
        (0..3).try_for_each(|step| rig.submit(batch, step))?;
    }
    while help.help(&|_| true) {}
    help.leave();
    let ended = rig.all(57)?;
    ensure(ended.iter().all(|c| c.result.is_ok()), || format!("they ended as {ended:?}"))?;
    rig.nothing_more()
}
