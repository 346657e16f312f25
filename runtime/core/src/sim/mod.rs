//! Worlds to simulate a plan in: who asks for what, and when.

pub mod arrivals;

pub use arrivals::{ArrivalError, ArrivalSpec, Arrivals};
