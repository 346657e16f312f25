//! Tests of the core: hand-made routes, and properties on seeded random ones.

mod alloc;
mod arena;
mod counted;
#[path = "../support/counting.rs"]
mod counting;
mod emulator;
mod execution;
mod memory;
mod routes;
mod scheduler;
mod sim;
mod stage;
mod trace;
