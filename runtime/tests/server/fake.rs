//! A backend without engines. Another thread answers, as a driver would; tests may hold requests back.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tandem_ir::DType;
use tandem_ir::graph::Dim;
use tandem_onnx::value::{Data, TensorValue};
use tandem_runtime::server::{
    Backend, BatchStats, Cancels, Counted, Ended, Failure, FailureKind, Permit, Phases, Places, Refusal, RefusalReason,
    Reply, ReplyTo, Request, RequestHandle, ServeError, ServerOptions, TenantSpec, TenantStats, TensorSpec, serve,
};
use tokio::sync::oneshot;

use crate::client::PATIENCE;

/// Tenants of [`Fake`], by position.
pub const SUM: usize = 0;
/// See [`SUM`].
pub const FAIL: usize = 2;

/// Every type of the protocol.
pub const TYPES: [DType; 14] = [
    DType::Bool,
    DType::U8,
    DType::U16,
    DType::U32,
    DType::U64,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::F16,
    DType::BF16,
    DType::F32,
    DType::F64,
    DType::String,
];

struct Job {
    number: u64,
    permit: Permit,
    request: Request,
    reply: ReplyTo,
}

#[derive(Default)]
struct Ledger {
    places: [usize; 3],
    admitted: u64,
    submitted: u64,
    replied: u64,
    cancelled: u64,
    held: Vec<Job>,
}

/// What tests see and set.
pub struct Shared {
    ledger: Mutex<Ledger>,
    changed: Condvar,
    pub holds: AtomicBool,
    pub is_ready: AtomicBool,
    pub is_broken: AtomicBool,
    drains: AtomicBool,
    next: AtomicU64,
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let result = change(&mut self.ledger());
        self.changed.notify_all();
        result
    }

    fn wait(&self, what: &str, until: impl Fn(&Ledger) -> bool) {
        let (_ledger, waited) = self
            .changed
            .wait_timeout_while(self.ledger(), PATIENCE, |ledger| !until(ledger))
            .unwrap_or_else(PoisonError::into_inner);
        assert!(!waited.timed_out(), "{what} never happened");
    }

    /// Waits until so many requests are held back.
    pub fn wait_held(&self, count: usize) {
        self.wait("a request to hold", |l| l.held.len() == count);
    }

    /// Waits until so many places are taken.
    pub fn wait_places(&self, count: usize) {
        self.wait("a place", |l| l.places.iter().sum::<usize>() == count);
    }

    /// Waits until so many requests were cancelled.
    pub fn wait_cancelled(&self, count: u64) {
        self.wait("a cancellation", |l| l.cancelled == count);
    }

    /// Waits until so many requests had their reply.
    pub fn wait_replied(&self, count: u64) {
        self.wait("a reply", |l| l.replied == count);
    }

    /// Waits until each submitted request has a reply.
    pub fn wait_settled(&self) {
        self.wait("the last reply", |l| l.submitted == l.replied);
    }

    /// Requests submitted, and replies given, with those to cancelled ones.
    pub fn counts(&self) -> (u64, u64) {
        let ledger = self.ledger();
        (ledger.submitted, ledger.replied)
    }

    /// Answers what is held back, and holds nothing more.
    pub fn release(&self) {
        self.holds.store(false, Ordering::SeqCst);
        let held = self.change(|l| std::mem::take(&mut l.held));
        held.into_iter().for_each(|job| self.finish(job));
    }

    fn finish(&self, job: Job) {
        let result = outputs(job.permit.tenant(), &job.request);
        self.reply(job, result);
    }

    fn reply(&self, job: Job, result: Result<Vec<TensorValue>, Failure>) {
        drop(job.permit);
        self.change(|l| l.replied += 1);
        (job.reply)(Reply { result, phases: Phases::default() });
    }
}

impl Places for Shared {
    fn free(&self, tenant: usize) {
        self.change(|l| l.places[tenant] -= 1);
    }
}

impl Cancels for Shared {
    fn cancel(&self, number: u64) {
        let held = self.change(|l| {
            l.cancelled += 1;
            let at = l.held.iter().position(|job| job.number == number)?;
            Some(l.held.remove(at))
        });
        if let Some(job) = held {
            let message = "nobody waits for it".to_owned();
            self.reply(job, Err(Failure { kind: FailureKind::Cancelled, message }));
        }
    }
}

/// `sum` adds and subtracts, `echo` gives back one tensor of each type, `fail` fails as it is told.
pub struct Fake {
    pub shared: Arc<Shared>,
    tenants: Vec<TenantSpec>,
    queue_max: usize,
    jobs: Mutex<mpsc::Sender<Job>>,
}

fn tenant(name: &str, inputs: Vec<TensorSpec>, outputs: Vec<TensorSpec>) -> TenantSpec {
    TenantSpec {
        name: name.to_owned(),
        inputs,
        outputs,
        rows_max: 8,
        preferred: vec![4],
        queue_delay: Duration::from_millis(2),
    }
}

fn tensor(name: &str, dtype: DType, last: Dim) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype, dims: vec![Dim::Batch { per_item: 1 }, last] }
}

impl Fake {
    /// With so many places for each tenant.
    pub fn new(queue_max: usize) -> Arc<Self> {
        let shared = Arc::new(Shared {
            ledger: Mutex::default(),
            changed: Condvar::new(),
            holds: AtomicBool::new(false),
            is_ready: AtomicBool::new(true),
            is_broken: AtomicBool::new(false),
            drains: AtomicBool::new(false),
            next: AtomicU64::new(0),
        });
        let (jobs, taken) = mpsc::channel::<Job>();
        let answering = shared.clone();
        std::thread::spawn(move || taken.into_iter().for_each(|job| answering.finish(job)));
        let four = |name: &str| tensor(name, DType::F32, Dim::Known(4));
        let typed = |prefix: &str| {
            TYPES.iter().map(|t| tensor(&format!("{prefix}_{t}"), *t, Dim::Known(2))).collect::<Vec<_>>()
        };
        let word = TensorSpec { name: "kind".to_owned(), dtype: DType::String, dims: vec![Dim::Known(1)] };
        let tenants = vec![
            tenant("sum", vec![four("a"), four("b")], vec![four("total"), four("difference")]),
            tenant("echo", typed("in"), typed("out")),
            tenant("fail", vec![word.clone()], vec![word]),
        ];
        Arc::new(Self { shared, tenants, queue_max, jobs: Mutex::new(jobs) })
    }
}

fn outputs(tenant: usize, request: &Request) -> Result<Vec<TensorValue>, Failure> {
    let failure = |kind, message: &str| Err(Failure { kind, message: message.to_owned() });
    match tenant {
        SUM => {
            let (a, b) = (&request.inputs[0], &request.inputs[1]);
            let each = |f: fn(f32, f32) -> f32| {
                let pairs = a.bytes().as_chunks::<4>().0.iter().zip(b.bytes().as_chunks::<4>().0);
                let bytes = pairs.flat_map(|(a, b)| f(f32::from_le_bytes(*a), f32::from_le_bytes(*b)).to_le_bytes());
                TensorValue::new(DType::F32, a.dims.clone(), bytes.collect::<Vec<u8>>())
            };
            Ok(vec![each(|a, b| a + b), each(|a, b| a - b)])
        }
        FAIL => {
            let Data::Strings(words) = &request.inputs[0].data else { panic!("strings") };
            match &*words[0] {
                b"invalid" => failure(FailureKind::Invalid, "index 7 is out of range"),
                b"full" => failure(FailureKind::Refused(RefusalReason::Full), "the queue is full by now"),
                b"late" => failure(FailureKind::Refused(RefusalReason::Late), "it would be late by now"),
                b"draining" => failure(FailureKind::Refused(RefusalReason::Draining), "nothing is let in any more"),
                b"failed" => failure(FailureKind::Failed, "a step failed"),
                b"expired" => failure(FailureKind::Expired, "its deadline has passed"),
                b"cancelled" => failure(FailureKind::Cancelled, "it was cancelled"),
                b"unavailable" => failure(FailureKind::Unavailable, "the device is lost"),
                b"wrong" => Ok(vec![]),
                _ => Ok(request.inputs.clone()),
            }
        }
        _ => Ok(request.inputs.clone()),
    }
}

impl Backend for Fake {
    fn tenants(&self) -> &[TenantSpec] {
        &self.tenants
    }

    fn is_live(&self) -> bool {
        !self.shared.is_broken.load(Ordering::SeqCst)
    }

    fn is_ready(&self) -> bool {
        self.shared.is_ready.load(Ordering::SeqCst)
    }

    fn is_tenant_ready(&self, tenant: usize) -> bool {
        tenant == FAIL || self.is_ready()
    }

    fn admit(&self, tenant: usize) -> Result<Permit, Refusal> {
        let refuse = |reason, retry_after| Err(Refusal { reason, retry_after });
        if self.shared.drains.load(Ordering::SeqCst) {
            return refuse(RefusalReason::Draining, None);
        }
        if !self.is_tenant_ready(tenant) {
            return refuse(RefusalReason::Unavailable, None);
        }
        let is_full = self.shared.change(|l| {
            let is_full = l.places[tenant] == self.queue_max;
            l.places[tenant] += usize::from(!is_full);
            l.admitted += u64::from(!is_full);
            is_full
        });
        if is_full {
            return refuse(RefusalReason::Full, Some(Duration::from_millis(1500)));
        }
        Ok(Permit::new(tenant, self.shared.clone()))
    }

    fn submit(&self, permit: Permit, request: Request, reply: ReplyTo) -> RequestHandle {
        let number = self.shared.next.fetch_add(1, Ordering::SeqCst);
        let job = Job { number, permit, request, reply };
        let at_once = self.shared.change(|l| {
            l.submitted += 1;
            if !self.shared.holds.load(Ordering::SeqCst) {
                return Some(job);
            }
            l.held.push(job);
            None
        });
        if let Some(job) = at_once {
            self.jobs.lock().unwrap_or_else(PoisonError::into_inner).send(job).expect("the thread answers");
        }
        RequestHandle::new(number, self.shared.clone())
    }

    fn stats(&self, tenant: usize) -> TenantStats {
        let replied = self.shared.ledger().replied;
        let counted = Counted { count: replied, ns: 1000 * replied };
        TenantStats {
            success: counted,
            inference_count: replied,
            execution_count: replied,
            last_inference: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(tenant as u64)),
            batches: vec![BatchStats { batch: 1, compute: counted, ..BatchStats::default() }],
            ..TenantStats::default()
        }
    }

    fn drain(&self) {
        self.shared.drains.store(true, Ordering::SeqCst);
    }

    fn is_drained(&self) -> bool {
        let ledger = self.shared.ledger();
        ledger.places.iter().sum::<usize>() == 0 && ledger.submitted == ledger.replied
    }
}

/// A server on a port of its own.
pub struct Running {
    pub shared: Arc<Shared>,
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<Ended, ServeError>>>,
}

impl Running {
    pub fn start(queue_max: usize, options: ServerOptions) -> Self {
        let fake = Fake::new(queue_max);
        let shared = fake.shared.clone();
        let (stop, stopped) = oneshot::channel();
        let (found, address) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
                found.send(listener.local_addr().expect("an address")).expect("the test waits for it");
                let end = async { stopped.await.unwrap_or(()) };
                serve(fake, listener, options, end).await
            })
        });
        let address = address.recv().expect("the server has started");
        Self { shared, address, stop: Some(stop), thread: Some(thread) }
    }

    /// As is usual for tests: a server that ends at once when it is told to.
    pub fn usual() -> Self {
        Self::start(16, brief())
    }

    /// Tells the server to end.
    pub fn stop(&mut self) {
        self.stop.take().expect("it was not stopped yet").send(()).expect("the server is running");
    }

    /// Waits for the end.
    pub fn ended(mut self) -> Ended {
        let ended = self.thread.take().expect("it is joined once").join().expect("the server does not panic");
        ended.expect("tenants of the protocol's types")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let (Some(stop), Some(thread)) = (self.stop.take(), self.thread.take()) {
            self.shared.release();
            let _ = stop.send(());
            let ended = thread.join();
            // What a failing test leaves behind is not its failure.
            if !std::thread::panicking() {
                ended.expect("the server does not panic").expect("tenants of the protocol's types");
            }
        }
    }
}

/// Options of servers that end without a delay.
pub fn brief() -> ServerOptions {
    ServerOptions { drain_delay: Duration::ZERO, body_bytes_max: 8 << 20, ..ServerOptions::default() }
}
