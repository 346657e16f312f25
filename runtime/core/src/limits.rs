//! Every named bound of the core, with the why beside the number.

/// Batches of one route in flight at once. Two hide the transfers, one more a lane hides jitter; beyond 64 the memory
/// of the batches, not their number, is what runs out. Bounds every queue: a batch submits each of its steps once.
pub const BATCHES_IN_FLIGHT_MAX: usize = 64;

/// Batches of one emulation: a second of a 1 MHz route, and a few megabytes of results.
pub const BATCHES_MAX: usize = 1_000_000;
