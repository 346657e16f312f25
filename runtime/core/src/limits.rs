//! Every named bound of the core, with the why beside the number.

use tandem_ir::Nanos;

/// Batches of one route in flight at once. Bounds every queue: a batch submits each of its steps once.
pub use tandem_ir::limits::BATCHES_IN_FLIGHT_MAX;

/// Batches of one emulation: a second of a 1 MHz route, and a few megabytes of results.
pub const BATCHES_MAX: usize = 1_000_000;

/// Requests that have not been answered, of all tenants: their table takes 80 bytes each.
pub const REQUESTS_MAX: usize = 1 << 20;

/// Requests of a tenant that wait, unless its plan says another number: some seconds of a fast model, beyond which an
/// answer helps nobody.
pub const QUEUE_MAX: usize = 4096;

/// Moments at which requests are looked at again, beyond which those of requests that were answered are thrown out; twice
/// as many as are needed, where that is more. So that to throw out costs each request a constant.
pub const EXPIRIES_KEPT: usize = 1024;

/// Lanes of a machine: a bit each in the set of lanes to look at.
pub const LANES_MAX: usize = 64;

/// Devices of a machine: a bit each in the set that a route uses.
pub const DEVICES_MAX: usize = 64;

/// Tenants of a plan: the next moment to wake for is looked up among all of them.
pub const GROUPS_MAX: usize = 256;

/// Finished batches that the lines of a class are fitted to: enough to average noise out, few enough to follow a change
/// within seconds, and a fit costs a microsecond.
pub const FIT_RING: usize = 32;

/// How often a step may fail with a request aboard before the request fails. After the first failure it runs alone, so
/// that a request which breaks its batch breaks itself only.
pub const FAILURES_MAX: u32 = 2;

/// How often a request may be moved because a device was lost under it: a device that flaps must not keep it for ever.
pub const MOVES_MAX: u32 = 4;

/// How long requests wait for a tenant none of whose routes has all its devices, before they fail.
pub const LOST_WAIT: Nanos = Nanos(10_000_000_000);

/// Latency that a request without an objective is scheduled for: late enough to yield to those that have one, early
/// enough not to wait behind them for ever.
pub const DUE_DEFAULT: Nanos = Nanos(1_000_000_000);

/// How much of a lane a tenant may use ahead of its part before its batches count as less urgent than their requests: a
/// burst is no overload.
pub const PACE_AHEAD: Nanos = Nanos(100_000_000);

/// A step that takes this much longer than planned, and at least [`HUNG_MIN`], is taken for hung: plans may be made for
/// a quieter machine, never for one fifty times as fast.
pub const HUNG_FACTOR: u64 = 50;

/// See [`HUNG_FACTOR`]: no step is taken for hung earlier.
pub const HUNG_MIN: Nanos = Nanos(10_000_000_000);
