//! Bytes in memory with a chosen position on an aligned address, and parts of them as values' buffers.
//!
//! A binary request is JSON followed by tensors. With the end of the JSON on an aligned address, tensors are used where
//! they lie in the body.

use std::ops::Range;
use std::sync::Arc;

use tandem_onnx::value::Buffer;

use crate::limits::TENSOR_ALIGN_BYTES;

/// Bytes whose position `aligned_at` lies on a multiple of [`TENSOR_ALIGN_BYTES`].
pub(super) struct Aligned {
    /// Padding, then the bytes.
    padded: Vec<u8>,
    start: usize,
    aligned_at: usize,
}

impl Aligned {
    /// Room for `capacity` bytes before anything has to move.
    pub(super) fn with_capacity(capacity: usize, aligned_at: usize) -> Self {
        let mut padded = Vec::<u8>::with_capacity(capacity.saturating_add(TENSOR_ALIGN_BYTES));
        let address = padded.as_ptr().addr().wrapping_add(aligned_at);
        let start = address.wrapping_neg() % TENSOR_ALIGN_BYTES;
        padded.resize(start, 0);
        Self { padded, start, aligned_at }
    }

    /// A copy on an aligned address.
    pub(super) fn copy_of(bytes: &[u8]) -> Self {
        let mut aligned = Self::with_capacity(bytes.len(), 0);
        aligned.push(bytes);
        aligned
    }

    /// Appends.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.padded.capacity() - self.padded.len() < bytes.len() {
            self.grow(bytes.len());
        }
        self.padded.extend_from_slice(bytes);
    }

    /// A vector would move to an address of another alignment.
    #[cold]
    fn grow(&mut self, more: usize) {
        let mut larger = Self::with_capacity((self.len() + more).max(2 * self.len()), self.aligned_at);
        larger.padded.extend_from_slice(self.as_ref());
        *self = larger;
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.padded.len() - self.start
    }

    /// As a buffer of a value.
    pub(super) fn into_buffer(self) -> Buffer {
        Buffer::shared(Arc::new(self))
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.padded[self.start..]
    }
}

/// A range of shared bytes, kept alive by each of its parts.
struct Part {
    whole: Arc<Aligned>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &(*self.whole).as_ref()[self.range.clone()]
    }
}

/// The range as a buffer whose address is a multiple of `align` bytes: where it lies if it does so, else a copy. Says
/// how many bytes were copied.
///
/// # Panics
/// If there is no such range, or the alignment is none or over [`TENSOR_ALIGN_BYTES`].
pub(super) fn part(whole: &Arc<Aligned>, range: Range<usize>, align: usize) -> (Buffer, usize) {
    assert!(align > 0 && TENSOR_ALIGN_BYTES.is_multiple_of(align), "an alignment of {align} bytes");
    let bytes = &(**whole).as_ref()[range.clone()];
    if bytes.as_ptr().addr().is_multiple_of(align) {
        (Buffer::shared(Arc::new(Part { whole: whole.clone(), range })), 0)
    } else {
        (Aligned::copy_of(bytes).into_buffer(), bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(bytes: &[u8]) -> usize {
        bytes.as_ptr().addr()
    }

    #[test]
    fn the_chosen_position_stays_aligned_while_bytes_arrive() {
        for at in [0, 1, 7, 63, 64, 100, 1000] {
            let mut aligned = Aligned::with_capacity(3, at);
            for chunk in 0..200u8 {
                aligned.push(&[chunk; 17]);
                assert_eq!((address(aligned.as_ref()) + at) % TENSOR_ALIGN_BYTES, 0);
            }
            let expected: Vec<u8> = (0..200u8).flat_map(|c| [c; 17]).collect();
            assert_eq!(aligned.as_ref(), expected);
            assert_eq!(aligned.len(), expected.len());
        }
    }

    #[test]
    fn nothing_moves_within_the_capacity() {
        let mut aligned = Aligned::with_capacity(1000, 5);
        let before = address(aligned.as_ref());
        (0..10).for_each(|_| aligned.push(&[1; 100]));
        assert_eq!(address(aligned.as_ref()), before);
    }

    #[test]
    fn parts_are_copied_only_where_their_address_is_odd() {
        let whole = Arc::new(Aligned::copy_of(&(0..64).collect::<Vec<u8>>()));
        let (lent, copied) = part(&whole, 8..16, 4);
        assert_eq!((&*lent, copied), (&(8..16).collect::<Vec<u8>>()[..], 0));
        assert_eq!(address(&lent), address((*whole).as_ref()) + 8);
        let (moved, copied) = part(&whole, 9..17, 4);
        assert_eq!((&*moved, copied), (&(9..17).collect::<Vec<u8>>()[..], 8));
        assert_eq!(address(&moved) % 4, 0);
        drop(whole);
        assert_eq!(lent[0], 8, "a part keeps the whole alive");
    }
}
