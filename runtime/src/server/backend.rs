//! What the server needs of whoever executes requests.
//!
//! Nothing here knows HTTP, and nothing here blocks: a request asks for a place ([`Backend::admit`]) when its head has
//! been read, is submitted once its body has been decoded, and gets its one reply through a closure. Whoever waits for
//! it may go away at any moment, which cancels it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tandem_ir::DType;
use tandem_ir::graph::Dim;
use tandem_onnx::value::TensorValue;

/// The version of every tenant. A plan has one of each; the protocol wants it named.
pub const VERSION: &str = "1";

/// An input or output of a tenant as clients see it.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// Name in the model.
    pub name: String,
    /// Element type. The protocol has no name for complex numbers, bytes' fractions and 8-bit floats.
    pub dtype: DType,
    /// Its axes: of a fixed size, a multiple of the request's rows, or free (named or not). A request's inputs agree in
    /// rows. An output of unknown rank has one free axis.
    pub dims: Vec<Dim>,
}

/// A tenant as clients see it.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantSpec {
    /// Name in the plan and in addresses.
    pub name: String,
    /// Inputs, all of them needed, in the order of [`Request::inputs`].
    pub inputs: Vec<TensorSpec>,
    /// Outputs, in the order of a reply's.
    pub outputs: Vec<TensorSpec>,
    /// Most rows one request may have; 1 where no input has an axis of rows.
    pub rows_max: u64,
    /// Batch sizes that are closed at once, ascending; may be empty.
    pub preferred: Vec<u64>,
    /// Longest wait for a batch to fill.
    pub queue_delay: Duration,
}

/// One inference.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// One an input, in the tenant's order: of its type, rank and fixed sizes.
    pub inputs: Vec<TensorValue>,
    /// Rows of every input that has an axis of them, from 1 to the tenant's most; 1 where none has.
    pub rows: u64,
    /// How long the client waits from now on, if it says so; never 0.
    pub timeout: Option<Duration>,
}

/// Why a request got no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// The tenant's queue is at its bound.
    Full,
    /// It would miss its tenant's latency objective.
    Late,
    /// No more requests are taken.
    Draining,
    /// Not loaded, or its devices are lost.
    Unavailable,
}

impl fmt::Display for RefusalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the queue is full",
            Self::Late => "it would miss the latency objective",
            Self::Draining => "no more requests are taken, the server is about to end",
            Self::Unavailable => "not ready to run requests",
        })
    }
}

/// No place for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// When asking again makes sense, where that is known.
    pub retry_after: Option<Duration>,
}

/// Why an accepted request has no outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// Its inputs are wrong in a way that only shows when they are looked at: the client's fault.
    Invalid,
    /// It was not let in after all.
    Refused(RefusalReason),
    /// A step failed.
    Failed,
    /// Its deadline passed.
    Expired,
    /// It was cancelled.
    Cancelled,
    /// No device is left to run it.
    Unavailable,
}

/// An accepted request without outputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// In words, for the client.
    pub message: String,
}

/// Where the latency of a request went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// From submission to its batch's first step.
    pub queue: Duration,
    /// Bringing inputs to where they are used.
    pub upload: Duration,
    /// Running segments.
    pub compute: Duration,
    /// Bringing outputs back.
    pub download: Duration,
}

/// The one answer to an accepted request.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Every output of the tenant in its order, of the request's rows alone; or why there are none.
    pub result: Result<Vec<TensorValue>, Failure>,
    /// Where the latency went.
    pub phases: Phases,
}

/// Takes the reply, exactly once, on any thread, without blocking.
pub type ReplyTo = Box<dyn FnOnce(Reply) + Send>;

/// Takes places back.
pub trait Places: Send + Sync {
    /// A place of the tenant is free again. Must not block.
    fn free(&self, tenant: usize);
}

/// A place in a tenant's queue, from admission on. Dropped, it is free: at once where the request never was submitted,
/// otherwise when the backend sees fit.
pub struct Permit {
    tenant: usize,
    places: Arc<dyn Places>,
}

impl Permit {
    /// A place of the tenant, which the caller has counted already.
    pub fn new(tenant: usize, places: Arc<dyn Places>) -> Self {
        Self { tenant, places }
    }

    /// Whose place it is: a position in [`Backend::tenants`].
    pub fn tenant(&self) -> usize {
        self.tenant
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.places.free(self.tenant);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({})", self.tenant)
    }
}

/// Cancels requests.
pub trait Cancels: Send + Sync {
    /// Nobody waits for the request any more. Nothing happens where it has its reply already. Must not block.
    fn cancel(&self, request: u64);
}

/// A submitted request. Dropped before its reply is there, it cancels the request.
pub struct RequestHandle {
    request: u64,
    cancels: Option<Arc<dyn Cancels>>,
}

impl RequestHandle {
    /// The request of this number, which no other request of the process has or will have.
    pub fn new(request: u64, cancels: Arc<dyn Cancels>) -> Self {
        Self { request, cancels: Some(cancels) }
    }

    /// The reply is there: there is nothing to cancel.
    pub fn replied(mut self) {
        self.cancels = None;
    }
}

impl Drop for RequestHandle {
    fn drop(&mut self) {
        if let Some(cancels) = self.cancels.take() {
            cancels.cancel(self.request);
        }
    }
}

impl fmt::Debug for RequestHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestHandle({})", self.request)
    }
}

/// How often something happened, and how long it took in sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How often.
    pub count: u64,
    /// Nanoseconds, summed.
    pub ns: u64,
}

/// Batches of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchStats {
    /// Rows of the batch.
    pub batch: u64,
    /// Uploads of such batches.
    pub upload: Counted,
    /// Their runs.
    pub compute: Counted,
    /// Downloads.
    pub download: Counted,
}

/// What a tenant has done since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantStats {
    /// Requests answered with outputs, from submission to reply.
    pub success: Counted,
    /// Requests answered without.
    pub fail: Counted,
    /// Waits of answered requests for their batch.
    pub queue: Counted,
    /// Their uploads.
    pub upload: Counted,
    /// Their runs.
    pub compute: Counted,
    /// Their downloads.
    pub download: Counted,
    /// Rows answered with outputs.
    pub inference_count: u64,
    /// Batches run. Rows divided by it are the average batch.
    pub execution_count: u64,
    /// When the last request arrived.
    pub last_inference: Option<SystemTime>,
    /// By batch size, ascending; sizes that ran.
    pub batches: Vec<BatchStats>,
}

/// Whoever executes requests. Positions of tenants are those of [`Backend::tenants`]. No call blocks.
pub trait Backend: Send + Sync + 'static {
    /// The tenants, fixed from the start.
    fn tenants(&self) -> &[TenantSpec];

    /// It can go on, now or later: nothing in it is broken for good.
    fn is_live(&self) -> bool;

    /// Every segment and batch size of every tenant is loaded and warm, and no device is lost.
    fn is_ready(&self) -> bool;

    /// As [`Backend::is_ready`], of one tenant.
    fn is_tenant_ready(&self, tenant: usize) -> bool;

    /// Asks for a place in the tenant's queue. Called when the head of a request has been read and nothing of its body:
    /// the first that is heard of a request, and the way to be refused cheaply.
    ///
    /// # Errors
    /// There is none.
    fn admit(&self, tenant: usize) -> Result<Permit, Refusal>;

    /// Runs a request of the permit's tenant. `reply` is called exactly once, be it from within this call. A permit
    /// that was given before [`Backend::drain`] is honoured after it.
    fn submit(&self, permit: Permit, request: Request, reply: ReplyTo) -> RequestHandle;

    /// What the tenant has done so far.
    fn stats(&self, tenant: usize) -> TenantStats;

    /// From now on nobody is admitted.
    fn drain(&self);

    /// After [`Backend::drain`]: no permit is out and every request has its reply. Asked again and again until it is so:
    /// requests that wait for company go without it once no permit is out.
    fn is_drained(&self) -> bool;
}
