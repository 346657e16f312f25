//! Immutable bytes that are cheap to clone: owned, or a window into a shared source such as a memory map.
//!
//! A blob never copies on clone or on [`Blob::window`]; it keeps its whole source alive.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

/// The shared source of a blob. It must return the same bytes at each call.
type Source = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// An immutable range of bytes; cloning costs one reference count.
#[derive(Clone, Default)]
pub struct Blob {
    /// Absent for the empty blob, so that a default costs no allocation.
    source: Option<Source>,
    start: usize,
    len: usize,
}

impl Blob {
    /// The window `range` (bytes) of `source`, or `None` where it does not lie inside.
    ///
    /// The source must return the same bytes whenever it is asked; the blob keeps it alive.
    pub fn shared(source: Arc<dyn AsRef<[u8]> + Send + Sync>, range: Range<usize>) -> Option<Self> {
        let total = (*source).as_ref().len();
        if range.start > range.end || range.end > total {
            return None;
        }
        Some(Self { source: Some(source), start: range.start, len: range.end - range.start })
    }

    /// All bytes of `source`.
    pub fn whole(source: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        let len = (*source).as_ref().len();
        Self { source: Some(source), start: 0, len }
    }

    /// The part `range` (bytes, counted from this blob's start) over the same source, or `None` where it does not lie
    /// inside this blob.
    pub fn window(&self, range: Range<usize>) -> Option<Self> {
        if range.start > range.end || range.end > self.len {
            return None;
        }
        let len = range.end - range.start;
        let source = if len == 0 { None } else { self.source.clone() };
        Some(Self { source, start: self.start + range.start, len })
    }

    /// Whether both are windows of one and the same source object (not merely of equal bytes).
    pub fn same_source(&self, other: &Self) -> bool {
        match (&self.source, &other.source) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        match &self.source {
            Some(source) => &(**source).as_ref()[self.start..self.start + self.len],
            None => &[],
        }
    }

    /// Makes `next` part of this blob where it follows it without a gap in the same source; false where it does not.
    pub(crate) fn extend_over(&mut self, next: &Self) -> bool {
        let follows = self.same_source(next) && self.start + self.len == next.start;
        if follows {
            self.len += next.len;
        }
        follows
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        if bytes.is_empty() {
            return Self::default();
        }
        Self::whole(Arc::new(bytes))
    }
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        bytes.to_vec().into()
    }
}

impl From<&str> for Blob {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<String> for Blob {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Blob {}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.len)
    }
}
