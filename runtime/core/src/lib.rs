//! The sans-IO heart of the runtime: execution, device interface, timing emulator.
//!
//! Pure: this crate never reads a clock, blocks, spawns a thread or touches a tensor's contents. Time comes in as an
//! argument and never goes backwards; data is named by handle, a value's position in its route and the device it lies
//! on. It depends on `tandem-ir` alone and knows no engine.
//!
//! - [`adt`]: how large batches should be when transfers overlap with compute.
//! - [`execution`]: which steps of a route may be submitted now, for one batch.
//! - [`device`]: what engines, CUDA and the emulator look like from here.
//! - [`emulator`]: the timing emulator, a device that plays the steps' planned durations.
//! - [`memory`]: what is alive where, and the peak of it.
//! - [`scheduler`]: from requests to batches to commands: the one loop that the driver and the simulator share.
//! - [`sim`]: worlds in virtual time: who asks when, what goes wrong, and rules that are checked after every event.
//! - [`trace`]: what ran when, predicted beside measured, as a Chrome trace.

#![forbid(unsafe_code)]

pub mod adt;
pub mod device;
pub mod emulator;
pub mod execution;
pub mod limits;
pub mod memory;
pub mod rng;
pub mod scheduler;
pub mod sim;
pub mod trace;

pub use device::{Command, Completion, Device, DeviceError, DeviceSpec, Help, Ticket};
pub use emulator::{
    EmulatedDevice, Emulation, EmulationError, EmulationOptions, PipelinedEmulation, emulate, emulate_batches,
};
pub use execution::{Execution, RouteError};
pub use scheduler::Scheduler;
pub use trace::{TraceEvent, TraceKind, chrome_trace};
