//! Tests of the core: hand-made routes, and properties on seeded random ones.

mod emulator;
mod execution;
mod memory;
mod routes;
mod trace;
