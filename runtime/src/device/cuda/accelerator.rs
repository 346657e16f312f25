//! An accelerator as the rest of the runtime sees it: in-order streams, a memory of its own, and host memory that it
//! reads and writes by itself.
//!
//! [`super::gpu::Gpu`] is the one there is. What is built on these traits (queues, values, drivers) runs in the tests
//! over accelerators that are made up, for it has to be right on machines that have none.
//!
//! Nothing here waits but [`Streams::wait`]: everything else is put on a stream and happens later, in the order of the
//! stream.

use std::any::Any;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use tandem_ir::{DType, Nanos};

use crate::engine::EngineError;

/// An in-order queue of an accelerator. Streams run beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Runs segments. There is at least the one of number 0.
    Compute(usize),
    /// Copies from the host.
    Upload,
    /// Copies to the host.
    Download,
}

/// A place in a stream, behind what was on it when the mark was put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark(pub u32);

/// The streams of an accelerator.
///
/// An error is [`EngineError::Lost`] where nothing on the accelerator can work any more.
pub trait Streams: Send + Sync + 'static {
    /// Puts a mark on a stream.
    ///
    /// # Errors
    /// The stream is not there, or broken.
    fn mark(&self, stream: Stream) -> Result<Mark, EngineError>;

    /// Has a stream wait for what is on another one now.
    ///
    /// # Errors
    /// As [`Streams::mark`].
    fn follow(&self, stream: Stream, other: Stream) -> Result<(), EngineError>;

    /// Whether the stream has come to the mark.
    ///
    /// # Errors
    /// What was on the stream before it failed.
    fn is_reached(&self, mark: Mark) -> Result<bool, EngineError>;

    /// Waits until the stream has come to the mark.
    ///
    /// # Errors
    /// As [`Streams::is_reached`].
    fn wait(&self, mark: Mark) -> Result<(), EngineError>;

    /// The accelerator's own time between two marks that were reached; nothing where the second was reached first.
    ///
    /// # Errors
    /// As [`Streams::is_reached`].
    fn elapsed(&self, from: Mark, to: Mark) -> Result<Nanos, EngineError>;

    /// A mark is not needed any more.
    fn forget(&self, mark: Mark);
}

/// An accelerator.
pub trait Accelerator: Streams {
    /// Its position among the machine's accelerators.
    fn ordinal(&self) -> usize;

    /// Memory of its own, with undefined contents, freed with the block. May take long: not for use between batches.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`].
    fn allocate(self: Arc<Self>, bytes: u64) -> Result<Arc<Block>, EngineError>;

    /// Host memory that it can copy from and to by itself. May take long.
    ///
    /// # Errors
    /// [`EngineError::OutOfMemory`].
    fn pin(self: Arc<Self>, bytes: usize) -> Result<Pinned, EngineError>;

    /// Puts a copy from the host on a stream: as many bytes as the place has.
    ///
    /// # Safety
    /// Until the stream has come so far: neither memory is freed, the host's is not written, and nothing else uses the
    /// place.
    ///
    /// # Errors
    /// The stream is broken.
    ///
    /// # Panics
    /// If the host's memory is smaller than the place.
    unsafe fn upload(&self, stream: Stream, from: &Pinned, to: &Place) -> Result<(), EngineError>;

    /// Puts a copy to the host on a stream: as many bytes as the place has.
    ///
    /// # Safety
    /// Until the stream has come so far: neither memory is freed, the host's is not read, and nothing writes to the
    /// place.
    ///
    /// # Errors
    /// The stream is broken.
    ///
    /// # Panics
    /// If the host's memory is smaller than the place.
    unsafe fn download(&self, stream: Stream, from: &Place, to: &Pinned) -> Result<(), EngineError>;
}

/// Memory of an accelerator.
pub struct Block {
    address: u64,
    bytes: u64,
    /// Frees it.
    _owner: Box<dyn Any + Send + Sync>,
}

impl Block {
    /// Memory that lives as long as its owner does.
    ///
    /// # Safety
    /// There are so many bytes at this address of the accelerator's memory until the owner is dropped.
    pub(crate) unsafe fn new(address: u64, bytes: u64, owner: Box<dyn Any + Send + Sync>) -> Self {
        Self { address, bytes, _owner: owner }
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({:#x}, {} bytes)", self.address, self.bytes)
    }
}

/// Host memory that an accelerator reads and writes by itself.
pub struct Pinned {
    data: NonNull<u8>,
    bytes: usize,
    /// Frees it.
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: it is plain memory that lives as long as this does; who may read or write it when is in the contract of
// `Accelerator::upload` and `download`.
unsafe impl Send for Pinned {}
// SAFETY: as above; through a shared reference it is only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Memory that lives as long as its owner does.
    ///
    /// # Safety
    /// There are so many initialised bytes at this address until the owner is dropped, and nobody else uses them.
    pub(crate) unsafe fn new(data: NonNull<u8>, bytes: usize, owner: Box<dyn Any + Send + Sync>) -> Self {
        Self { data, bytes, _owner: owner }
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its first byte, for an accelerator to copy from or to.
    pub(crate) fn address(&self) -> NonNull<u8> {
        self.data
    }

    /// Writes to its beginning.
    ///
    /// # Panics
    /// If it is smaller.
    pub fn fill(&mut self, bytes: &[u8]) {
        assert!(bytes.len() <= self.bytes, "{} bytes do not fit into {}", bytes.len(), self.bytes);
        // SAFETY: as many bytes are there, they are ours alone for `self` is borrowed mutably, and the source is not
        // among them for it could not be borrowed beside.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.data.as_ptr(), bytes.len()) }
    }
}

impl AsRef<[u8]> for Pinned {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the bytes are initialised and live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.bytes) }
    }
}

/// Where a dense tensor is in an accelerator's memory.
#[derive(Clone, Debug)]
pub struct Place {
    block: Arc<Block>,
    offset: u64,
    bytes: u64,
    dtype: DType,
    dims: Arc<[u64]>,
}

impl Place {
    /// A tensor that begins so many bytes into a block. `None` if it ends beyond it, or has no size in bytes.
    pub fn new(block: Arc<Block>, offset: u64, dtype: DType, dims: Arc<[u64]>) -> Option<Self> {
        let bytes = dense_bytes(dtype, &dims)?;
        let inside = offset.checked_add(bytes)? <= block.bytes;
        inside.then_some(Self { block, offset, bytes, dtype, dims })
    }

    /// The address of its first byte, as the accelerator counts.
    pub fn address(&self) -> u64 {
        self.block.address + self.offset
    }

    /// How many bytes it has.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Its shape.
    pub fn dims(&self) -> &Arc<[u64]> {
        &self.dims
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        (self.address(), self.dtype, &self.dims) == (other.address(), other.dtype, &other.dims)
    }
}

/// Bytes of a dense tensor; `None` for strings, and beyond 64 bits.
pub fn dense_bytes(dtype: DType, dims: &[u64]) -> Option<u64> {
    if dtype == DType::String {
        return None;
    }
    let bits = dims.iter().try_fold(dtype.bits(), |bits, dim| bits.checked_mul(*dim));
    // Shapes whose bits do not fit are far beyond any memory.
    bits.map(|bits| bits.div_ceil(8))
}

/// A session that can run on values in its accelerator's memory.
pub trait Resident: Send + Sync {
    /// Prepares runs that read and write these places, in the order of the session's inputs and outputs. An output
    /// without a place is made wherever the engine likes, for its shape is not known before.
    ///
    /// # Errors
    /// What the engine says.
    fn bind(&self, inputs: &[Place], outputs: &[Option<Place>]) -> Result<Box<dyn Bound>, EngineError>;
}

/// Runs of a session from and to fixed places.
pub trait Bound: Send {
    /// Puts a run on the session's stream. Returns where the outputs without a place are, each with its position, once
    /// that is known; they are there when the stream has come so far.
    ///
    /// # Errors
    /// What the engine says.
    fn enqueue(&mut self) -> Result<Vec<(usize, Place)>, EngineError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_lies_inside_its_block() {
        // SAFETY: nothing reads or writes there.
        let block = Arc::new(unsafe { Block::new(4096, 100, Box::new(())) });
        let place = |offset, dims: &[u64]| Place::new(block.clone(), offset, DType::F32, dims.into());
        let fits = place(64, &[3, 3]).expect("64 + 36 bytes are 100");
        assert_eq!((fits.address(), fits.bytes()), (4160, 36));
        assert_eq!(Some(fits), place(64, &[3, 3]));
        assert!(place(68, &[3, 3]).is_none() && place(u64::MAX, &[1]).is_none());
        assert!(place(100, &[0, 7]).is_some_and(|p| p.bytes() == 0));
        assert!(Place::new(block.clone(), 0, DType::String, [1].into()).is_none());
        assert_eq!(dense_bytes(DType::I4, &[3]), Some(2));
        assert_eq!(dense_bytes(DType::F64, &[u64::MAX, 2]), None);
    }
}
