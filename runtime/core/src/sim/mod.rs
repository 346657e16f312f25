//! Worlds to simulate a plan in: who asks for what, and when; the real scheduler on the timing emulator; and rules that
//! are checked after every event.

pub mod arrivals;
pub mod checker;
pub mod histogram;
pub mod report;
pub mod synthetic;
pub mod world;
pub mod worlds;

pub use arrivals::{ArrivalError, ArrivalSpec, Arrivals};
pub use checker::{Canary, Violation};
pub use histogram::Histogram;
pub use report::{GroupReport, LaneReport, Report};
pub use world::{Fault, Workload, WorldError, WorldOptions, simulate};
