//! Batching with asynchronous transfers: how large a batch should be, and when its upload begins.
//!
//! A batch is uploaded, computed and downloaded; each phase takes a fixed part and a part an item ([`lines`]). Requests
//! arrive at a rate; while one batch is computed the next one fills. [`steady`] says in closed form which batch size that
//! settles at, what latency it has, and which rate a latency bound admits.
//!
//! Three modes. *Serial*: the phases of one batch after another, nothing overlaps. *Slide*: transfers overlap with compute,
//! as the published slides state it; its fill window leaves out the time a batch waits behind its own upload, so that it
//! promises more than one compute engine can do, and at high rates requests pile up. *Flow*: the same with flow
//! conserved, and the download counted.
//!
//! Source: the slides "GPU inference scheduling with asynchronous data transfer" for serial and slide; flow is ours.

pub mod lines;
pub mod rate;
pub mod steady;

pub use lines::{Fit, Line, Lines, PhaseSample};
pub use rate::RateEstimator;
pub use steady::{Mode, Steady, Within};
