//! What a message carries beyond its known fields.

use crate::blob::Blob;
use crate::sink::Sink;
use std::io;

/// Fields that this crate does not know, kept as raw bytes in their order, and which known fields were present with
/// their default value. Both are written again; a new message has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unknown(Option<Box<Extra>>);

#[derive(Clone, Debug, Default)]
struct Extra {
    /// Key and value of each unknown field; neighbours in the source share a piece.
    pieces: Vec<Blob>,
    /// Bit `n`: field `n` was present with its default value.
    explicit: u32,
}

impl PartialEq for Extra {
    fn eq(&self, other: &Self) -> bool {
        // Pieces may be cut differently: what counts is the bytes in a row.
        let bytes = |extra: &Self| extra.pieces.iter().map(|piece| piece.len()).sum::<usize>();
        self.explicit == other.explicit
            && bytes(self) == bytes(other)
            && self.pieces.iter().flat_map(|p| p.iter()).eq(other.pieces.iter().flat_map(|p| p.iter()))
    }
}

impl Unknown {
    /// Whether there is no unknown field.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|extra| extra.pieces.is_empty())
    }

    /// Bytes of all unknown fields together, keys included.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |extra| extra.pieces.iter().map(|piece| piece.len()).sum())
    }

    /// The unknown fields' raw bytes (keys and values) in a row.
    pub fn to_vec(&self) -> Vec<u8> {
        self.0.as_ref().map_or_else(Vec::new, |extra| extra.pieces.iter().flat_map(|p| p.iter().copied()).collect())
    }

    /// Adds one unknown field's raw bytes, key included. They are written as they are: bytes that are not a whole field
    /// make the message unreadable.
    pub fn push(&mut self, field: Blob) {
        let extra = self.0.get_or_insert_default();
        if !extra.pieces.last_mut().is_some_and(|last| last.extend_over(&field)) {
            extra.pieces.push(field);
        }
    }

    /// Notes whether the field `number` was present with its default value.
    pub(crate) fn set_explicit(&mut self, number: u32, explicit: bool) {
        // Every field number of ONNX is below 32; a higher one would lose its explicit default, nothing else.
        let bit = 1u32.checked_shl(number).unwrap_or(0);
        if explicit {
            self.0.get_or_insert_default().explicit |= bit;
        } else if let Some(extra) = &mut self.0 {
            extra.explicit &= !bit;
        }
    }

    /// Forgets explicit defaults of the fields in `forced`, which are written anyway, and an emptied allocation with them:
    /// equal messages then compare equal whether built or decoded.
    pub(crate) fn settle(&mut self, forced: u32) {
        if let Some(extra) = &mut self.0 {
            extra.explicit &= !forced;
            if extra.explicit == 0 && extra.pieces.is_empty() {
                self.0 = None;
            }
        }
    }

    /// Bit `n`: field `n` was present with its default value.
    pub(crate) fn explicit(&self) -> u32 {
        self.0.as_ref().map_or(0, |extra| extra.explicit)
    }

    pub(crate) fn emit(&self, sink: &mut Sink<'_>) -> io::Result<()> {
        let pieces = self.0.as_ref().map_or(&[][..], |extra| &extra.pieces);
        pieces.iter().try_for_each(|piece| sink.bytes(piece))
    }
}
