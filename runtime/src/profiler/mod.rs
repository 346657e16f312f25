//! (being written) What operators cost on this machine.

pub mod cache;
pub mod mapping;
pub mod statistics;
