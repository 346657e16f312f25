//! A driver on the timing emulator in wall time.

use std::sync::{Arc, Mutex};

use tandem_core::adt::{Line, Lines};
use tandem_core::scheduler::Setup;
use tandem_core::sim::synthetic::{self, ITEM_BYTES};
use tandem_core::{Command, DeviceError, DeviceSpec};
use tandem_ir::plan::Policy;
use tandem_ir::{Bytes, DeviceKind, Time};
use tandem_runtime::device::threaded::{Clock, Execute, Threaded};
use tandem_runtime::device::timed::Timed;
use tandem_runtime::driver::drive::Driver;

/// An accelerator whose phases take a microsecond a batch and a tenth of one an item.
pub fn setup(policy: Policy) -> Setup {
    let line = Line { slope: 100.0, fixed: 1_000.0 };
    let mut setup = synthetic::device(&Lines { up: line, calc: line, down: line }, 8, policy);
    setup.groups[0].queue_max = 1 << 20;
    setup
}

/// Commands on the accelerator are lost while it is away.
pub struct Away {
    timed: Arc<Timed>,
    pub is_away: Mutex<bool>,
}

impl Execute for Away {
    fn execute(&self, command: &Command, submitted: Time) -> Result<(), DeviceError> {
        let lanes = &command.route.lane_names[command.step().lane];
        if lanes.contains("gpu0") && *self.is_away.lock().expect("nobody panics with it") {
            return Err(DeviceError::Lost { device: "gpu0".into(), why: "taken away".into() });
        }
        self.timed.execute(command, submitted)
    }
}

pub fn start(setup: &Setup) -> (Driver<Timed>, Arc<Away>) {
    let clock = Clock::start();
    let timed = Arc::new(Timed::new(setup, clock));
    let away = Arc::new(Away { timed: timed.clone(), is_away: Mutex::new(false) });
    let lanes: Vec<String> = setup.queues().map(|q| q.name.clone()).collect();
    let threads = lanes.len();
    let spec = DeviceSpec {
        name: "emulated".into(),
        kind: DeviceKind::Gpu,
        lanes,
        memory: Bytes(u64::MAX),
        engine: "timing emulator".into(),
    };
    let device = Threaded::start(spec, away.clone(), clock, threads).expect("threads start");
    let driver = Driver::start(setup, timed, vec![Box::new(device)], clock).expect("the device has all lanes");
    (driver, away)
}

/// A row of this request alone.
pub fn row(request: u64) -> Arc<Vec<u8>> {
    Arc::new((0..ITEM_BYTES / 8).flat_map(|i| (request << 20 | i).to_le_bytes()).collect())
}
