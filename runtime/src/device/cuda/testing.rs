//! An accelerator that is made up of this host's threads and memory, for tests where there is none: a thread a stream,
//! and "its" memory beside everybody else's.
//!
//! It says nothing about CUDA, and everything about what is built on streams: a value that is read before its stream has
//! come so far is wrong here too, and a stream that is held up holds up nobody else.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use tandem_ir::{Bytes, Nanos};
use tandem_onnx::cut::SegmentImage;
use tandem_onnx::value::{Data, TensorValue, Value};

use super::accelerator::{Accelerator, Block, Bound, Mark, Pinned, Place, Resident, Stream, Streams};
use crate::engine::{Engine, EngineError, Session, SessionOptions};

/// The name that errors show.
const NAME: &str = "made up";

type Job = Box<dyn FnOnce() + Send>;

/// An accelerator of this host's threads and memory.
pub struct HostAccelerator {
    ordinal: usize,
    queues: Vec<(Stream, Sender<Job>)>,
    marks: Mutex<HashMap<u32, Arc<Reached>>>,
    next: AtomicU32,
    lost: Arc<AtomicBool>,
    /// Bytes that may still be allocated.
    left: AtomicU64,
}

/// When a stream came to a mark.
#[derive(Default)]
struct Reached {
    at: Mutex<Option<Instant>>,
    told: Condvar,
}

impl Reached {
    fn locked(&self) -> MutexGuard<'_, Option<Instant>> {
        self.at.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn tell(&self) {
        *self.locked() = Some(Instant::now());
        self.told.notify_all();
    }

    fn wait(&self) {
        let mut at = self.locked();
        while at.is_none() {
            at = self.told.wait(at).unwrap_or_else(|poison| poison.into_inner());
        }
    }
}

impl HostAccelerator {
    /// One with so many streams for segments, and the two for copies.
    pub fn new(ordinal: usize, compute: usize) -> Arc<Self> {
        let streams = (0..compute.max(1)).map(Stream::Compute).chain([Stream::Upload, Stream::Download]);
        let queue = |stream| {
            let (jobs, received) = channel::<Job>();
            // Ends when nobody can send any more.
            std::thread::spawn(move || received.into_iter().for_each(|job| job()));
            (stream, jobs)
        };
        Arc::new(Self {
            ordinal,
            queues: streams.map(queue).collect(),
            marks: Mutex::default(),
            next: AtomicU32::new(0),
            lost: Arc::default(),
            left: AtomicU64::new(u64::MAX),
        })
    }

    /// Holds a stream up, behind what is on it, until the sender that is returned is dropped.
    pub fn hold(&self, stream: Stream) -> Sender<()> {
        let (held, until): (Sender<()>, Receiver<()>) = channel();
        self.put(stream, move || while until.recv().is_ok() {}).expect("there is such a stream");
        held
    }

    /// From now on nothing works any more.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        // Whoever waits for a mark is told.
        self.marks().values().for_each(|reached| reached.tell());
    }

    /// Leaves so many bytes to be allocated.
    pub fn leave(&self, bytes: u64) {
        self.left.store(bytes, Ordering::Release);
    }

    /// Marks that nobody has forgotten.
    pub fn marks_held(&self) -> usize {
        self.marks().len()
    }

    fn marks(&self) -> MutexGuard<'_, HashMap<u32, Arc<Reached>>> {
        self.marks.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn check(&self) -> Result<(), EngineError> {
        match self.lost.load(Ordering::Acquire) {
            true => Err(EngineError::Lost { engine: NAME.into(), why: "it was lost on purpose".into() }),
            false => Ok(()),
        }
    }

    /// Puts a job on a stream; one of a lost accelerator is not done.
    fn put(&self, stream: Stream, job: impl FnOnce() + Send + 'static) -> Result<(), EngineError> {
        self.check()?;
        let queue = self.queues.iter().find(|(of, _)| *of == stream).map(|(_, jobs)| jobs);
        let queue = queue.ok_or_else(|| failed(format!("there is no stream {stream:?}")))?;
        let lost = self.lost.clone();
        let job = move || {
            if !lost.load(Ordering::Acquire) {
                job();
            }
        };
        queue.send(Box::new(job)).map_err(|_| failed("the stream's thread is gone".into()))
    }

    fn reached(&self, mark: Mark) -> Arc<Reached> {
        self.marks()[&mark.0].clone()
    }

    fn take(&self, bytes: u64) -> Result<(), EngineError> {
        let less = |left: u64| left.checked_sub(bytes);
        let taken = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        let why = || format!("{bytes} bytes");
        let none = |_| EngineError::OutOfMemory { needed: Bytes(bytes), why: why() };
        taken.map(drop).map_err(none)
    }
}

fn failed(why: String) -> EngineError {
    EngineError::Failed { engine: NAME.into(), why }
}

impl Streams for HostAccelerator {
    fn mark(&self, stream: Stream) -> Result<Mark, EngineError> {
        let reached = Arc::new(Reached::default());
        let mark = self.next.fetch_add(1, Ordering::Relaxed);
        self.marks().insert(mark, reached.clone());
        let put = self.put(stream, move || reached.tell());
        put.inspect_err(|_| self.forget(Mark(mark))).map(|()| Mark(mark))
    }

    fn follow(&self, stream: Stream, other: Stream) -> Result<(), EngineError> {
        let (mine, theirs) = (Arc::new(Reached::default()), Arc::new(Reached::default()));
        let tell = theirs.clone();
        self.put(other, move || tell.tell())?;
        self.put(stream, move || {
            theirs.wait();
            mine.tell();
        })
    }

    fn is_reached(&self, mark: Mark) -> Result<bool, EngineError> {
        self.check()?;
        Ok(self.reached(mark).locked().is_some())
    }

    fn wait(&self, mark: Mark) -> Result<(), EngineError> {
        self.check()?;
        self.reached(mark).wait();
        self.check()
    }

    fn elapsed(&self, from: Mark, to: Mark) -> Result<Nanos, EngineError> {
        self.check()?;
        let at = |mark: Mark| *self.reached(mark).locked();
        let (from, to) = at(from).zip(at(to)).ok_or_else(|| failed("a mark that was not reached".into()))?;
        Ok(Nanos(to.saturating_duration_since(from).as_nanos() as u64))
    }

    fn forget(&self, mark: Mark) {
        self.marks().remove(&mark.0);
    }
}

impl Accelerator for HostAccelerator {
    fn ordinal(&self) -> usize {
        self.ordinal
    }

    fn allocate(self: Arc<Self>, bytes: u64) -> Result<Arc<Block>, EngineError> {
        self.take(bytes)?;
        // Words, for elements of all types to be aligned; never zero, for nobody may count on what was not written.
        let mut memory = vec![0xa5a5_a5a5_a5a5_a5a5_u64; bytes.div_ceil(8) as usize].into_boxed_slice();
        let address = memory.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: as many bytes are there until the box is dropped, which does not move them.
        Ok(Arc::new(unsafe { Block::new(address, bytes, Box::new(memory)) }))
    }

    fn pin(self: Arc<Self>, bytes: usize) -> Result<Pinned, EngineError> {
        self.take(bytes as u64)?;
        let mut memory = vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
        let data = NonNull::new(memory.as_mut_ptr().cast()).ok_or_else(|| failed("no memory".into()))?;
        // SAFETY: as above.
        Ok(unsafe { Pinned::new(data, bytes, Box::new(memory)) })
    }

    unsafe fn upload(&self, stream: Stream, from: &Pinned, to: &Place) -> Result<(), EngineError> {
        assert!(to.bytes() as usize <= from.bytes(), "more than is there");
        let (from, to, bytes) = (from.address().as_ptr().expose_provenance(), to.address() as usize, to.bytes());
        // SAFETY: the caller keeps both memories alive and unused until the stream has come here.
        self.put(stream, move || unsafe { copy(from, to, bytes as usize) })
    }

    unsafe fn download(&self, stream: Stream, from: &Place, to: &Pinned) -> Result<(), EngineError> {
        assert!(from.bytes() as usize <= to.bytes(), "more than there is room for");
        let (from, to, bytes) =
            (from.address() as usize, to.address().as_ptr().expose_provenance(), from.bytes() as usize);
        // SAFETY: as above.
        self.put(stream, move || unsafe { copy(from, to, bytes) })
    }
}

/// # Safety
/// So many bytes are at both addresses, and nobody else uses them.
unsafe fn copy(from: usize, to: usize, bytes: usize) {
    let (from, to) = (std::ptr::with_exposed_provenance::<u8>(from), std::ptr::with_exposed_provenance_mut::<u8>(to));
    // SAFETY: the caller says so.
    unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) }
}

/// An engine of the host that claims to be another, on an accelerator that is made up.
pub struct HostEngine {
    name: String,
    inner: Arc<dyn Engine>,
    on: (Arc<HostAccelerator>, Stream),
}

impl HostEngine {
    /// Computes with `inner` on a stream, and says it is the engine of this name.
    pub fn new(name: &str, inner: Arc<dyn Engine>, on: (Arc<HostAccelerator>, Stream)) -> Self {
        Self { name: name.to_owned(), inner, on }
    }
}

impl Engine for HostEngine {
    fn name(&self) -> &str {
        &self.name
    }

    fn version(&self) -> &str {
        self.inner.version()
    }

    fn runs_on(&self) -> Option<(Arc<dyn Accelerator>, Stream)> {
        Some((self.on.0.clone(), self.on.1))
    }

    fn load(&self, image: &SegmentImage, options: &SessionOptions) -> Result<Arc<dyn Session>, EngineError> {
        let session = self.inner.load(image, options)?;
        Ok(Arc::new(HostSession { session, on: self.on.clone() }))
    }
}

struct HostSession {
    session: Arc<dyn Session>,
    on: (Arc<HostAccelerator>, Stream),
}

impl Session for HostSession {
    fn run(&self, inputs: &[Value]) -> Result<Vec<Value>, EngineError> {
        self.session.run(inputs)
    }

    fn resident(&self) -> Option<&dyn Resident> {
        Some(self)
    }
}

impl Resident for HostSession {
    fn bind(&self, inputs: &[Place], outputs: &[Option<Place>]) -> Result<Box<dyn Bound>, EngineError> {
        let (inputs, outputs) = (inputs.to_vec(), outputs.to_vec());
        Ok(Box::new(HostRuns { session: self.session.clone(), on: self.on.clone(), inputs, outputs }))
    }
}

struct HostRuns {
    session: Arc<dyn Session>,
    on: (Arc<HostAccelerator>, Stream),
    inputs: Vec<Place>,
    outputs: Vec<Option<Place>>,
}

impl Bound for HostRuns {
    fn enqueue(&mut self) -> Result<Vec<(usize, Place)>, EngineError> {
        let (accelerator, stream) = &self.on;
        let (session, inputs, outputs) = (self.session.clone(), self.inputs.clone(), self.outputs.clone());
        if outputs.iter().all(Option::is_some) {
            let of = accelerator.clone();
            accelerator.put(*stream, move || {
                let made = session.run(&inputs.iter().map(read).collect::<Vec<_>>());
                // Nobody is there any more to be told: as on a GPU, that is the end of it.
                let Ok(made) = made else { return of.lose() };
                let fits = |(place, value): (&Place, &Value)| bytes_of(value).is_some_and(|b| b == place.bytes());
                if !outputs.iter().flatten().zip(&made).all(fits) {
                    return of.lose();
                }
                outputs.iter().flatten().zip(&made).for_each(|(place, value)| write(place, value));
            })?;
            return Ok(vec![]);
        }
        // Shapes are known only after the run.
        let mark = accelerator.mark(*stream)?;
        let reached = accelerator.wait(mark);
        accelerator.forget(mark);
        reached?;
        let made = session.run(&inputs.iter().map(read).collect::<Vec<_>>())?;
        let mut own = vec![];
        for (i, value) in made.iter().enumerate() {
            let place = match (&self.outputs[i], value) {
                (Some(place), _) => place.clone(),
                (None, Value::Tensor(tensor)) => {
                    let block = accelerator.clone().allocate(tensor.bytes().len().max(1) as u64)?;
                    let place = Place::new(block, 0, tensor.dtype, tensor.dims.as_slice().into());
                    let place = place.ok_or_else(|| failed("a value without a size".into()))?;
                    own.push((i, place.clone()));
                    place
                }
                _ => return Err(failed("a value that is no tensor".into())),
            };
            write(&place, value);
        }
        Ok(own)
    }
}

fn bytes_of(value: &Value) -> Option<u64> {
    match value {
        Value::Tensor(tensor) => Some(tensor.bytes().len() as u64),
        _ => None,
    }
}

fn read(place: &Place) -> Value {
    let mut bytes = vec![0u8; place.bytes() as usize];
    // SAFETY: the place has as many bytes in this host's memory; the stream's order keeps writers apart.
    unsafe { copy(place.address() as usize, bytes.as_mut_ptr().expose_provenance(), bytes.len()) };
    Value::Tensor(TensorValue { dtype: place.dtype(), dims: place.dims().to_vec(), data: Data::Bytes(bytes.into()) })
}

fn write(place: &Place, value: &Value) {
    let Value::Tensor(tensor) = value else { return };
    let bytes = tensor.bytes();
    assert_eq!(bytes.len() as u64, place.bytes(), "the shape is as planned");
    // SAFETY: as above.
    unsafe { copy(bytes.as_ptr().expose_provenance(), place.address() as usize, bytes.len()) };
}
