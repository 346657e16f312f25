//! What executes steps, seen from the core: worker threads around a CPU engine, CUDA streams, and the emulator.
//!
//! A device runs segments and copies. It knows nothing of requests, batches' contents or deadlines. Values are named by
//! slots, (batch, position in the route, device), and the core never looks into one.
//!
//! The contract, which one conformance suite checks for all devices:
//! - a lane is a queue: its commands start in the order they were submitted, one at a time;
//! - commands on different lanes are independent: whoever submits has seen to it that what a command reads is there;
//! - every submitted command completes exactly once, in order on its lane, and `submit` never blocks;
//! - once a command has failed, the same batch's later commands on that lane complete as [`DeviceError::Skipped`];
//! - what a command frees is free when it completes, not before.

use std::fmt;
use std::sync::Arc;

use tandem_ir::plan::{Action, Route, Step};
use tandem_ir::{Bytes, DeviceKind, Nanos, Time};

/// What a device is, as far as its user has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Its name in plans.
    pub name: String,
    /// What kind of processor it is.
    pub kind: DeviceKind,
    /// Names of the lanes it serves, its own and those of the links it drives (`gpu0`, `cpu>gpu0`). A lane belongs to
    /// exactly one device.
    pub lanes: Vec<String>,
    /// Memory that plans may use.
    pub memory: Bytes,
    /// What people should know of how it computes: `timing emulator`, `onnxruntime 1.31.1`.
    pub engine: String,
}

/// Which step of which batch a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// The route, numbered by whoever loaded it.
    pub route: u32,
    /// The batch, never used twice while any of its commands is outstanding.
    pub batch: u64,
    /// Which of the route's sets of buffers holds the batch's values: below the route's bound of batches in flight, and
    /// of one batch until its last command has completed.
    pub ring: u32,
    /// Position of the step in the route.
    pub step: u32,
}

/// One step to execute. Owns what it needs, so that it can go to another thread; making one allocates nothing.
#[derive(Clone)]
pub struct Command {
    /// Position of the lane in [`DeviceSpec::lanes`].
    pub lane: usize,
    /// Which step of which batch it is.
    pub ticket: Ticket,
    /// The route that the ticket's step is in.
    pub route: Arc<Route>,
}

impl Command {
    /// The step.
    pub fn step(&self) -> &Step {
        &self.route.steps[self.ticket.step as usize]
    }

    /// What to do. `Run` reads and writes values on the segment's own device.
    pub fn action(&self) -> Action {
        self.step().action
    }

    /// Values (position in the route, device) that nobody reads after it.
    pub fn frees(&self) -> &[(usize, usize)] {
        &self.step().frees
    }

    /// How long the planner says it takes.
    pub fn planned(&self) -> Nanos {
        self.step().duration
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("lane", &self.lane)
            .field("ticket", &self.ticket)
            .field("action", &self.action())
            .finish()
    }
}

/// The end of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Which command.
    pub ticket: Ticket,
    /// Position of its lane in [`DeviceSpec::lanes`].
    pub lane: usize,
    /// When it started, by the clock that `now` comes from.
    pub start: Time,
    /// When it ended.
    pub end: Time,
    /// How.
    pub result: Result<(), DeviceError>,
}

/// What a device says no to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The command names a lane the device does not have.
    #[error("device {device} has {lanes} lanes, not a lane {lane}")]
    NoSuchLane {
        /// Device.
        device: String,
        /// How many it has.
        lanes: usize,
        /// The one asked for.
        lane: usize,
    },
    /// A value is read that nothing wrote, or that was freed.
    #[error("value \"{value}\" is read on device {device}, where it is not")]
    NoSuchValue {
        /// Device.
        device: String,
        /// Its name.
        value: String,
    },
    /// Memory has run out.
    #[error("device {device} has no {needed} left for \"{value}\"")]
    OutOfMemory {
        /// Device.
        device: String,
        /// What the memory is for.
        value: String,
        /// How much was asked for.
        needed: Bytes,
    },
    /// The engine failed.
    #[error("{engine} on device {device}: {why}")]
    Failed {
        /// Device.
        device: String,
        /// Engine.
        engine: String,
        /// Its words.
        why: String,
    },
    /// An earlier command of the same batch on the lane failed, so this one was not run.
    #[error("not run, for an earlier step of the batch failed")]
    Skipped,
    /// The device is gone.
    #[error("device {device} is lost: {why}")]
    Lost {
        /// Device.
        device: String,
        /// Its words.
        why: String,
    },
}

/// A processor that executes commands on lanes, made with all that its routes need. See the module for the contract.
pub trait Device {
    /// What it is.
    fn spec(&self) -> &DeviceSpec;

    /// Puts a command at the end of its lane's queue. Never blocks.
    ///
    /// # Errors
    /// The command was not accepted and will not complete: no such lane.
    fn submit(&mut self, now: Time, command: Command) -> Result<(), DeviceError>;

    /// The next completion, if a command has ended by `now`. To be asked until it says `None`.
    fn poll(&mut self, now: Time) -> Option<Completion>;

    /// When the next command ends, where that is known: only the emulator knows its future.
    fn next_wakeup(&self) -> Option<Time> {
        None
    }

    /// What to call, from any thread, whenever there may be something new to poll. Devices that know their future call
    /// nothing.
    fn set_waker(&mut self, _waker: Arc<dyn Fn() + Send + Sync>) {}

    /// How threads that would only wait for commands may execute them instead, where commands are executed by threads.
    fn help(&self) -> Option<Arc<dyn Help>> {
        None
    }
}

/// Takes the work of threads that have nothing to do but wait for it. The device's own threads help, too, while they tell
/// of a completion: who does more there than to submit what follows may leave, and come again.
pub trait Help: Send + Sync {
    /// The calling thread is about to help: commands submitted from now on need not wake another.
    fn come(&self);

    /// Executes one submitted command of those that are its business, by ticket; whether there was one.
    fn help(&self, mine: &dyn Fn(&Ticket) -> bool) -> bool;

    /// The calling thread helps no more.
    fn leave(&self);
}
