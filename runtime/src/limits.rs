//! Every named bound of the runtime, with the why beside the number.

use std::time::Duration;

use tandem_ir::Nanos;

/// Bytes of one array read from `.npy` or of all arrays read from one `.npz`, after decompression. Inputs of models are
/// megabytes; above this a header is damaged or hostile.
pub const NPZ_BYTES_MAX: u64 = 8 << 30;

/// Members of one `.npz`: a hundred times the inputs of the widest model we have seen.
pub const NPZ_MEMBERS_MAX: usize = 10_000;

/// Bytes of an `.npy` header. Ours take 128; numpy itself refuses more than 10,000 unless told otherwise.
pub const NPY_HEADER_BYTES_MAX: usize = 10_000;

/// Axes of an array: numpy's own bound.
pub const NPY_AXES_MAX: usize = 64;

/// Strings of one array: each takes an allocation of its own, so that few bytes of file could ask for much memory.
pub const NPY_STRINGS_MAX: u64 = 1 << 24;

/// Address that tensors in memory begin at a multiple of: a cache line, and the widest vector register of today.
pub const TENSOR_ALIGN_BYTES: usize = 64;

/// Bytes of one request's body where nothing else is asked for: a hundred images of 224 by 224 in single precision.
pub const SERVER_BODY_BYTES_MAX: u64 = 64 << 20;

/// Bytes of all bodies at once where nothing else is asked for: 16 of the largest.
pub const SERVER_BODIES_BYTES_MAX: u64 = 1 << 30;

/// Unit in which memory for bodies is set aside: in bytes, counters of 32 bits would end at 4 GiB.
pub const SERVER_BODY_UNIT_BYTES: u64 = 1 << 10;

/// Bytes a second that a body must keep to once its grace ([`SERVER_READ_TIMEOUT`]) is used up: a client that sends a
/// byte now and then must not hold a place of the queue. Whole bodies of 60 MiB pass at half of it.
pub const SERVER_BODY_RATE_MIN: u64 = 1 << 20;

/// Wait for a request's head, and grace of its body: what reverse proxies commonly allow.
pub const SERVER_READ_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a client may leave a reply unread: what reverse proxies commonly allow. Until then it holds the reply's
/// tensors and a connection.
pub const SERVER_WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes a second that a client must read once its grace ([`SERVER_WRITE_TIMEOUT`]) is used up, as bodies must keep to.
pub const SERVER_WRITE_RATE_MIN: u64 = SERVER_BODY_RATE_MIN;

/// Threads that connections are served by: one alone can keep engines busy, two keep a long list of connections from
/// waiting behind one request.
pub const SERVER_THREADS: usize = 2;

/// Threads that long texts are read and written by: more would take cores from engines, and what waits for one holds
/// memory that is bounded elsewhere ([`SERVER_BODIES_BYTES_MAX`]).
pub const SERVER_TEXT_THREADS_MAX: usize = 2;

/// How long a server that is about to end goes on: two or three rounds of whoever checks readiness each second.
pub const SERVER_DRAIN_DELAY: Duration = Duration::from_secs(3);

/// How long requests in flight may take to finish at the end: most orchestrators kill after as much.
pub const SERVER_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between looks at whether everything is over, once a server is to end; only then does anybody look.
pub const SERVER_DRAIN_POLL: Duration = Duration::from_millis(5);

/// Connections at once: below the 1,024 open files that processes start with, with room for models and plans.
pub const SERVER_CONNECTIONS_MAX: usize = 960;

/// Pause after a connection could not be taken, commonly for want of open files: until others have ended.
pub const SERVER_ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Bytes of a refused body that are read and forgotten to keep the connection: cheaper than a new one, and most
/// requests are smaller (an image of 224 by 224 in single precision takes 0.6 MiB).
pub const SERVER_REFUSED_BODY_BYTES_MAX: u64 = 1 << 20;

/// How long and how much is still read of what a refused client sends, for it to get to the reply behind that.
pub const SERVER_LINGER: Duration = Duration::from_secs(2);

/// See [`SERVER_LINGER`].
pub const SERVER_LINGER_BYTES_MAX: u64 = SERVER_BODY_BYTES_MAX;

/// Bytes of text, or of packed bytes, that are read or written among the connections: some 0.3 ms of one thread. Above
/// it a thread of its own does it.
pub const SERVER_INLINE_BYTES_MAX: usize = 64 << 10;

/// Bytes unpacked at a time: what fits a core's own cache.
pub const SERVER_INFLATE_CHUNK_BYTES: usize = 64 << 10;

/// Characters of a client's text that an error shows: enough to recognise a name.
pub const SERVER_SHOWN_CHARS_MAX: usize = 128;

/// Characters of an error: a few lists of names.
pub const SERVER_ERROR_CHARS_MAX: usize = 1024;

/// When to ask again where the backend does not say: batches take less, a queue at its bound empties within seconds, and
/// the header has whole ones.
pub const SERVER_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Batches a lane remembers as failed, so that their later commands are skipped: as many as can be in flight.
pub const FAILED_BATCHES_KEPT: usize = tandem_core::limits::BATCHES_IN_FLIGHT_MAX;

/// How long the end of a command on a stream is looked for before its thread sleeps: driver interfaces take some 20-50 us
/// to wake one, about as long as a small segment computes; longer would take a core from the host's engines.
pub const MARK_SPIN: Duration = Duration::from_micros(50);

/// Age at which an anchor between an accelerator's clock and the host's is replaced: CUDA tells spans as milliseconds in
/// single precision, which at a second is still exact to 0.1 us.
pub const ANCHOR_AGE_MAX: Nanos = Nanos(1_000_000_000);

/// Copies of one value in pinned memory, for replies that are still being written while the next batches come. Beyond it
/// a value is copied into ordinary memory, for pinned memory is taken from the whole machine.
pub const PINNED_COPIES_MAX: usize = 4;

/// Runs of each route before it is ready: engines allocate in the first and settle in the second, which is measured.
pub const WARM_UP_RUNS: u64 = 2;
