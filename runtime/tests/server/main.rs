//! The HTTP server in front of a backend that is made up, spoken to over real sockets.

mod bodies;
mod client;
mod connections;
mod draining;
mod fake;
mod protocol;
mod storm;
mod sums;
mod tritonclient;

/// Counts what the whole process holds: requests must not make it take memory on the word of a number.
#[global_allocator]
static MEMORY: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;
