//! Drivers on the timing emulator in wall time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use tandem_core::adt::{Line, Lines};
use tandem_core::scheduler::Setup;
use tandem_core::sim::synthetic::{self, ITEM_BYTES};
use tandem_core::{Command, Completion, Device, DeviceError, DeviceSpec, Help};
use tandem_ir::plan::Policy;
use tandem_ir::{Bytes, DeviceKind, Time};
use tandem_runtime::device::threaded::{Clock, Execute, Threaded};
use tandem_runtime::device::timed::Timed;
use tandem_runtime::driver::drive::Driver;

/// An accelerator whose phases take a microsecond a batch and a tenth of one an item.
pub fn setup(policy: Policy) -> Setup {
    setup_up_to(8, policy)
}

/// The same, with batches of so many items at most.
pub fn setup_up_to(batch: u64, policy: Policy) -> Setup {
    let line = Line { slope: 100.0, fixed: 1_000.0 };
    let mut setup = synthetic::device(&Lines { up: line, calc: line, down: line }, batch, policy);
    setup.groups[0].queue_max = 1 << 20;
    setup
}

/// Something that happens once, and whoever waits for it.
#[derive(Default)]
pub struct Moment {
    is_there: Mutex<bool>,
    told: Condvar,
}

impl Moment {
    pub fn tell(&self) {
        *self.is_there.lock().expect("nobody panics with it") = true;
        self.told.notify_all();
    }

    pub fn wait(&self) {
        let mut is_there = self.is_there.lock().expect("nobody panics with it");
        while !*is_there {
            is_there = self.told.wait(is_there).expect("nobody panics with it");
        }
    }
}

/// What commands do beside what the emulator does.
type Before = Box<dyn Fn(&Command) -> Result<(), DeviceError> + Send + Sync>;

struct Hooked {
    timed: Arc<Timed>,
    before: Arc<Before>,
    /// By lane: the queue of the setup, which is what the emulator knows lanes by.
    queues: Vec<usize>,
}

impl Execute for Hooked {
    fn execute(&self, command: &Command, submitted: Time) -> Result<(), DeviceError> {
        (self.before)(command)?;
        self.timed.execute(&Command { lane: self.queues[command.lane], ..command.clone() }, submitted)
    }
}

/// The name of the lane that a command's route states.
pub fn lane_of(command: &Command) -> &str {
    &command.route.lane_names[command.step().lane]
}

/// A driver over devices of threads, each with the lanes of which `device_of` says its number.
pub fn start_on(setup: &Setup, devices: usize, device_of: impl Fn(&str) -> usize, before: Before) -> Driver<Timed> {
    let clock = Clock::start();
    let timed = Arc::new(Timed::new(setup, clock));
    let before = Arc::new(before);
    let device = |number: usize| {
        let mine = setup.queues().enumerate().filter(|(_, queue)| device_of(&queue.name) == number);
        let (queues, lanes): (Vec<usize>, Vec<String>) = mine.map(|(i, queue)| (i, queue.name.clone())).unzip();
        let threads = lanes.len();
        let execute = Hooked { timed: timed.clone(), before: before.clone(), queues };
        let device = Threaded::start(spec(lanes), execute, clock, threads).expect("threads start");
        Box::new(device) as Box<dyn Device + Send>
    };
    let devices = (0..devices).map(device).collect();
    Driver::start(setup, timed.clone(), devices, clock).expect("the devices have all lanes")
}

/// A device with these lanes.
pub fn spec(lanes: Vec<String>) -> DeviceSpec {
    DeviceSpec {
        name: "emulated".into(),
        kind: DeviceKind::Gpu,
        lanes,
        memory: Bytes(u64::MAX),
        engine: "timing emulator".into(),
    }
}

/// An accelerator that can be taken away: its commands are lost then.
#[derive(Default)]
pub struct Away {
    pub is_away: AtomicBool,
    /// Commands on its lanes that were submitted and have not been told of.
    outstanding: AtomicUsize,
}

impl Away {
    /// Whether nothing is on its lanes.
    pub fn is_empty(&self) -> bool {
        self.outstanding.load(Ordering::SeqCst) == 0
    }
}

/// A device that counts what is on the accelerator's lanes.
struct Counting<D> {
    device: D,
    away: Arc<Away>,
}

impl<D: Device> Counting<D> {
    fn is_accelerators(&self, lane: usize) -> bool {
        self.device.spec().lanes[lane].contains("gpu0")
    }
}

impl<D: Device> Device for Counting<D> {
    fn spec(&self) -> &DeviceSpec {
        self.device.spec()
    }

    fn submit(&mut self, now: Time, command: Command) -> Result<(), DeviceError> {
        if self.is_accelerators(command.lane) {
            self.away.outstanding.fetch_add(1, Ordering::SeqCst);
        }
        self.device.submit(now, command)
    }

    fn poll(&mut self, now: Time) -> Option<Completion> {
        let completion = self.device.poll(now)?;
        if self.is_accelerators(completion.lane) {
            self.away.outstanding.fetch_sub(1, Ordering::SeqCst);
        }
        Some(completion)
    }

    fn set_waker(&mut self, waker: Arc<dyn Fn() + Send + Sync>) {
        self.device.set_waker(waker);
    }

    fn help(&self) -> Option<Arc<dyn Help>> {
        self.device.help()
    }
}

/// A driver over one device with all lanes.
pub fn start(setup: &Setup) -> (Driver<Timed>, Arc<Away>) {
    let clock = Clock::start();
    let timed = Arc::new(Timed::new(setup, clock));
    let away = Arc::new(Away::default());
    let of = away.clone();
    let before: Before = Box::new(move |command| match of.is_away.load(Ordering::SeqCst) {
        true if lane_of(command).contains("gpu0") => {
            Err(DeviceError::Lost { device: "gpu0".into(), why: "taken away".into() })
        }
        _ => Ok(()),
    });
    let lanes: Vec<String> = setup.queues().map(|q| q.name.clone()).collect();
    let threads = lanes.len();
    let execute = Hooked { timed: timed.clone(), before: Arc::new(before), queues: (0..threads).collect() };
    let device = Threaded::start(spec(lanes), execute, clock, threads).expect("threads start");
    let device = Counting { device, away: away.clone() };
    let driver = Driver::start(setup, timed, vec![Box::new(device)], clock).expect("the device has all lanes");
    (driver, away)
}

/// A row of this request alone.
pub fn row(request: u64) -> Arc<Vec<u8>> {
    Arc::new((0..ITEM_BYTES / 8).flat_map(|i| (request << 20 | i).to_le_bytes()).collect())
}
