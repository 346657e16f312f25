//! An NVIDIA GPU, through CUDA's driver interface.
//!
//! The device's primary context is used, for that is the one CUDA's runtime interface, and so ONNX Runtime, computes in.
//! Streams do not wait for the default stream. Copies have streams of their own, of the highest priority, so that what
//! they launch is not behind a long queue of kernels.
//!
//! cudarc's functions panic where the driver lacks one. Everything here but the shares calls functions that drivers have
//! had since CUDA 5.5, and opening one is guarded besides.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::{CudaContext, sys};
use sys::CUevent_flags_enum as EventFlags;
use tandem_ir::Nanos;

use super::accelerator::{Accelerator, Block, Mark, Pinned, Place, Stream, Streams};
use super::codes;
use super::shares::Share;
use crate::device::guarded;
use crate::engine::EngineError;

/// The name that errors show.
pub const NAME: &str = "cuda";

/// How a GPU is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuOptions {
    /// Streams that segments run on.
    pub compute_streams: usize,
    /// The part of its multiprocessors that segments may use, in per mille; `None`: all.
    pub share_permille: Option<u32>,
}

impl Default for GpuOptions {
    fn default() -> Self {
        // A plan gives a GPU one lane.
        Self { compute_streams: 1, share_permille: None }
    }
}

/// A GPU, with its streams.
pub struct Gpu {
    context: Arc<CudaContext>,
    ordinal: usize,
    compute: Vec<RawStream>,
    turns: AtomicUsize,
    upload: RawStream,
    download: RawStream,
    events: Mutex<Events>,
    elapsed: Elapsed,
    /// After the streams, which are dropped by hand.
    share: Option<Share>,
}

/// A stream's handle.
#[derive(Clone, Copy)]
pub(super) struct RawStream(pub(super) sys::CUstream);

// SAFETY: CUDA's handles may be used from any thread that has their context, which every use here sees to.
unsafe impl Send for RawStream {}
// SAFETY: as above.
unsafe impl Sync for RawStream {}

/// Marks: events, by number, used over and over.
#[derive(Default)]
struct Events {
    all: Vec<RawEvent>,
    free: Vec<u32>,
}

#[derive(Clone, Copy)]
struct RawEvent(sys::CUevent);

// SAFETY: as for streams.
unsafe impl Send for RawEvent {}

/// Tells the milliseconds between two events.
type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> u32;

/// GPUs that are open, for all that use them alike to share.
static OPENED: Mutex<Vec<(usize, GpuOptions, Weak<Gpu>)>> = Mutex::new(vec![]);

impl Gpu {
    /// Opens the GPU of this number, or hands out the one that is open with the same options.
    ///
    /// # Errors
    /// [`EngineError::Missing`]: no driver, no such GPU, or a share of it that cannot be had here, and why.
    pub fn open(ordinal: usize, options: &GpuOptions) -> Result<Arc<Self>, EngineError> {
        let missing = |why: String| EngineError::Missing { engine: NAME.into(), why };
        let gpus = crate::discover::gpus().map_err(missing)?;
        if ordinal >= gpus.len() {
            return Err(missing(format!("expected a GPU of number {ordinal}, found {} GPU(s)", gpus.len())));
        }
        let mut opened = OPENED.lock().unwrap_or_else(|poison| poison.into_inner());
        opened.retain(|(.., gpu)| gpu.strong_count() > 0);
        let same = opened.iter().find(|(number, of, _)| *number == ordinal && of == options);
        if let Some(gpu) = same.and_then(|(.., gpu)| gpu.upgrade()) {
            return Ok(gpu);
        }
        let gpu = guarded(NAME, || Self::start(ordinal, options));
        let gpu = Arc::new(gpu.map_err(|error| match error {
            EngineError::Missing { .. } => error,
            other => missing(other.to_string()),
        })?);
        opened.push((ordinal, options.clone(), Arc::downgrade(&gpu)));
        Ok(gpu)
    }

    fn start(ordinal: usize, options: &GpuOptions) -> Result<Self, EngineError> {
        let context = CudaContext::new(ordinal).map_err(|e| said("opening the GPU", e))?;
        let (least, most) = result::stream::get_priority_range().map_err(|e| said("asking for priorities", e))?;
        let share = options.share_permille.map(|permille| Share::of(context.cu_device(), permille)).transpose()?;
        let stream = |priority: i32| {
            let made = result::stream::create_with_priority(result::stream::StreamKind::NonBlocking, priority);
            made.map(RawStream).map_err(|e| said("making a stream", e))
        };
        let mut gpu = Self {
            ordinal,
            compute: vec![],
            turns: AtomicUsize::new(0),
            upload: stream(most)?,
            download: stream(most)?,
            events: Mutex::default(),
            elapsed: elapsed_function()?,
            share,
            context,
        };
        for _ in 0..options.compute_streams.max(1) {
            let made = match &gpu.share {
                Some(share) => share.stream(least)?,
                None => stream(least)?,
            };
            gpu.compute.push(made);
        }
        Ok(gpu)
    }

    /// A stream for segments: each in turn.
    pub(in crate::device) fn turn(&self) -> Stream {
        Stream::Compute(self.turns.fetch_add(1, Ordering::Relaxed) % self.compute.len())
    }

    /// Multiprocessors that segments may use, and of how many; `None` where it is all of them.
    pub fn share(&self) -> Option<(u32, u32)> {
        self.share.as_ref().map(|share| (share.multiprocessors, share.of))
    }

    /// A stream's handle, for engines that take it as a number.
    ///
    /// # Errors
    /// There is no such stream.
    pub(in crate::device) fn handle(&self, stream: Stream) -> Result<*mut c_void, EngineError> {
        self.raw(stream).map(|raw| raw.0.cast())
    }

    fn raw(&self, stream: Stream) -> Result<RawStream, EngineError> {
        let found = match stream {
            Stream::Compute(number) => self.compute.get(number).copied(),
            Stream::Upload => Some(self.upload),
            Stream::Download => Some(self.download),
        };
        found.ok_or_else(|| EngineError::Failed { engine: NAME.into(), why: format!("there is no stream {stream:?}") })
    }

    fn bind(&self) -> Result<(), EngineError> {
        self.context.bind_to_thread().map_err(|e| said("taking the GPU's context", e))
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// The event of a mark.
    fn event(&self, mark: Mark) -> sys::CUevent {
        self.events().all[mark.0 as usize].0
    }
}

/// What CUDA said to a call.
fn said(what: &str, error: DriverError) -> EngineError {
    codes::error(NAME, error.0 as u32, 0, words(what, error))
}

fn words(what: &str, error: DriverError) -> String {
    format!("{what}: {error:?} (CUDA error {})", error.0 as u32)
}

/// The function that tells the time between events. Since CUDA 12.8 it has another name, which cudarc calls alone.
fn elapsed_function() -> Result<Elapsed, EngineError> {
    // SAFETY: the driver's library is loaded; both names have this type, but for the result, an enumeration of C.
    let found = unsafe {
        let library = sys::culib();
        let newer = library.get::<Elapsed>(b"cuEventElapsedTime_v2\0").map(|f| *f);
        newer.or_else(|_| library.get::<Elapsed>(b"cuEventElapsedTime\0").map(|f| *f))
    };
    found.map_err(|e| EngineError::Failed { engine: NAME.into(), why: e.to_string() })
}

impl Streams for Gpu {
    fn mark(&self, stream: Stream) -> Result<Mark, EngineError> {
        let raw = self.raw(stream)?;
        self.bind()?;
        let mut events = self.events();
        let number = match events.free.pop() {
            Some(number) => number,
            None => {
                // Threads that wait for it sleep: those of the host's engines need the cores.
                let event = result::event::create(EventFlags::CU_EVENT_BLOCKING_SYNC);
                events.all.push(RawEvent(event.map_err(|e| said("making an event", e))?));
                (events.all.len() - 1) as u32
            }
        };
        let event = events.all[number as usize].0;
        drop(events);
        // SAFETY: the event and the stream are of this context, and live as long as `self`.
        let recorded = unsafe { result::event::record(event, raw.0) };
        recorded.map(|()| Mark(number)).map_err(|e| {
            self.forget(Mark(number));
            said("recording an event", e)
        })
    }

    fn follow(&self, stream: Stream, other: Stream) -> Result<(), EngineError> {
        let (raw, mark) = (self.raw(stream)?, self.mark(other)?);
        // SAFETY: as above. What the stream waits for is the event as it was recorded, whatever becomes of it.
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        let followed = unsafe { result::stream::wait_event(raw.0, self.event(mark), flags) };
        self.forget(mark);
        followed.map_err(|e| said("waiting for a stream on another", e))
    }

    fn is_reached(&self, mark: Mark) -> Result<bool, EngineError> {
        self.bind()?;
        // SAFETY: events live as long as `self`.
        match unsafe { result::event::query(self.event(mark)) } {
            Ok(()) => Ok(true),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(error) => Err(said("asking for an event", error)),
        }
    }

    fn wait(&self, mark: Mark) -> Result<(), EngineError> {
        self.bind()?;
        // SAFETY: events live as long as `self`.
        unsafe { result::event::synchronize(self.event(mark)) }.map_err(|e| said("waiting for an event", e))
    }

    fn elapsed(&self, from: Mark, to: Mark) -> Result<Nanos, EngineError> {
        self.bind()?;
        let mut milliseconds = 0f32;
        // SAFETY: events live as long as `self`; one float is written.
        let code = unsafe { (self.elapsed)(&mut milliseconds, self.event(from), self.event(to)) };
        match code {
            0 => Ok(Nanos((f64::from(milliseconds) * 1e6).max(0.0).round() as u64)),
            code => Err(codes::error(NAME, code, 0, format!("the time between events: CUDA error {code}"))),
        }
    }

    fn forget(&self, mark: Mark) {
        self.events().free.push(mark.0);
    }
}

/// Frees memory of the GPU.
struct Allocation {
    gpu: Arc<Gpu>,
    address: sys::CUdeviceptr,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // Where the context is broken, its memory is gone as well.
        if self.gpu.bind().is_ok() {
            // SAFETY: it was allocated in this context, and is freed once.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Frees pinned memory.
struct HostAllocation {
    gpu: Arc<Gpu>,
    data: NonNull<u8>,
}

// SAFETY: it only frees, which any thread may do.
unsafe impl Send for HostAllocation {}
// SAFETY: as above.
unsafe impl Sync for HostAllocation {}

impl Drop for HostAllocation {
    fn drop(&mut self) {
        if self.gpu.bind().is_ok() {
            // SAFETY: it was allocated so, and is freed once.
            let _ = unsafe { result::free_host(self.data.as_ptr().cast()) };
        }
    }
}

impl Accelerator for Gpu {
    fn ordinal(&self) -> usize {
        self.ordinal
    }

    fn allocate(self: Arc<Self>, bytes: u64) -> Result<Arc<Block>, EngineError> {
        self.bind()?;
        // SAFETY: the contents are undefined until something is copied there or made there.
        let address = unsafe { result::malloc_sync(bytes as usize) };
        let what = format!("{bytes} bytes of the GPU's memory");
        let address = address.map_err(|e| codes::error(NAME, e.0 as u32, bytes, words(&what, e)))?;
        // SAFETY: so many bytes are there until they are freed.
        Ok(Arc::new(unsafe { Block::new(address, bytes, Box::new(Allocation { gpu: self, address })) }))
    }

    fn pin(self: Arc<Self>, bytes: usize) -> Result<Pinned, EngineError> {
        self.bind()?;
        let room = bytes.max(1);
        // Pinned for every context, so that another GPU can copy from it as well.
        // SAFETY: the memory is written below before anybody reads it.
        let data = unsafe { result::malloc_host(room, sys::CU_MEMHOSTALLOC_PORTABLE) };
        let what = format!("{bytes} bytes of pinned memory");
        let data = data.map_err(|e| codes::error(NAME, e.0 as u32, bytes as u64, words(&what, e)))?;
        let nothing = || EngineError::Failed { engine: NAME.into(), why: format!("{what}: at no address") };
        let data = NonNull::new(data.cast::<u8>()).ok_or_else(nothing)?;
        // SAFETY: so many bytes were allocated, and are ours until they are freed.
        unsafe {
            data.as_ptr().write_bytes(0, room);
            Ok(Pinned::new(data, bytes, Box::new(HostAllocation { gpu: self, data })))
        }
    }

    unsafe fn upload(&self, stream: Stream, from: &Pinned, to: &Place) -> Result<(), EngineError> {
        let (raw, bytes) = (self.raw(stream)?, to.bytes() as usize);
        assert!(bytes <= from.bytes(), "{bytes} bytes from {} of pinned memory", from.bytes());
        self.bind()?;
        let data = from.address().as_ptr().cast::<c_void>();
        // SAFETY: both have so many bytes, and live until the stream has come so far, which the caller sees to.
        let copied = unsafe { sys::cuMemcpyHtoDAsync_v2(to.address(), data, bytes, raw.0) };
        copied.result().map_err(|e| said("a copy to the GPU", e))
    }

    unsafe fn download(&self, stream: Stream, from: &Place, to: &Pinned) -> Result<(), EngineError> {
        let (raw, bytes) = (self.raw(stream)?, from.bytes() as usize);
        assert!(bytes <= to.bytes(), "{bytes} bytes to {} of pinned memory", to.bytes());
        self.bind()?;
        let data = to.address().as_ptr().cast::<c_void>();
        // SAFETY: as above.
        let copied = unsafe { sys::cuMemcpyDtoHAsync_v2(data, from.address(), bytes, raw.0) };
        copied.result().map_err(|e| said("a copy from the GPU", e))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        if self.bind().is_err() {
            return;
        }
        let events = std::mem::take(&mut *self.events());
        // SAFETY: nobody else has these handles: memory and sessions on the streams hold the GPU and are gone. Each is
        // destroyed once.
        unsafe {
            for event in events.all {
                let _ = result::event::destroy(event.0);
            }
            for stream in self.compute.iter().chain([&self.upload, &self.download]) {
                let _ = result::stream::destroy(stream.0);
            }
        }
    }
}
