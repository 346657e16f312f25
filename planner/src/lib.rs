//! Where operators run and in which batches: problem, timeline, search, explanation.
//!
//! Pure: no I/O, no clock, no logging. Integers everywhere, and the same answer at any number of threads. [`plan::plan`] is
//! the entry; [`timeline`] is the one judge of every method.

#![forbid(unsafe_code)]

pub mod baselines;
pub mod bound;
pub mod build;
pub mod chain;
mod columns;
pub mod cost;
pub mod diff;
pub mod emit;
pub mod enumerate;
pub mod error;
pub mod explain;
pub mod joint;
pub mod master;
pub mod maxflow;
pub mod mincut;
pub mod moves;
pub mod plan;
pub mod problem;
mod rng;
pub mod search;
pub mod segments;
pub mod shares;
pub mod simplify;
pub mod stages;
mod survey;
#[doc(hidden)]
pub mod testing;
pub mod timeline;

#[cfg(test)]
mod tests;

pub use error::{Infeasible, PlanError};
pub use problem::Problem;
