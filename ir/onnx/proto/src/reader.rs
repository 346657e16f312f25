//! A cursor over encoded bytes: keys, integers, lengths and nested messages, each checked against what remains.

use crate::blob::Blob;
use crate::error::{DecodeError, DecodeErrorKind};

/// Most messages inside one another that are decoded, the outermost included. Each costs stack space, and the usual
/// protobuf readers stop at the same depth, so no model in circulation needs more.
pub const MAX_DEPTH: u32 = 100;

/// Highest number that a protobuf field can have.
const MAX_FIELD: u64 = (1 << 29) - 1;

/// How a value is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Variable-length integer.
    Varint = 0,
    /// Eight bytes, little endian.
    Fixed64 = 1,
    /// A length, then so many bytes.
    Len = 2,
    /// Four bytes, little endian.
    Fixed32 = 5,
}

impl Wire {
    /// The wire type in words, for errors.
    pub fn words(self) -> &'static str {
        match self {
            Self::Varint => "a variable-length integer",
            Self::Fixed64 => "a number of 8 bytes",
            Self::Len => "a length and bytes",
            Self::Fixed32 => "a number of 4 bytes",
        }
    }
}

/// What precedes each field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Field number, 1 to 2^29 - 1.
    pub number: u32,
    /// How the value is encoded.
    pub wire: Wire,
}

/// A cursor over one message's bytes inside a source.
pub struct Reader<'a> {
    source: &'a Blob,
    data: &'a [u8],
    pos: usize,
    /// End of the message being read; the source's end at the outermost one.
    end: usize,
    depth: u32,
}

impl<'a> Reader<'a> {
    /// A cursor at the start of `source`.
    pub fn new(source: &'a Blob) -> Self {
        let data = source.as_slice();
        Self { source, data, pos: 0, end: data.len(), depth: 1 }
    }

    /// Bytes from the source's start.
    pub fn pos(&self) -> usize {
        self.pos
    }

    /// Whether the message being read has ended.
    pub fn at_end(&self) -> bool {
        self.pos >= self.end
    }

    /// The bytes from `start` to the cursor, as a window of the source.
    pub fn since(&self, start: usize) -> Blob {
        self.source.window(start..self.pos).unwrap_or_default()
    }

    fn error(&self, kind: DecodeErrorKind) -> DecodeError {
        DecodeError::new(self.pos, kind)
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: u64) -> Result<&'a [u8], DecodeError> {
        let remaining = (self.end - self.pos) as u64;
        if len > remaining {
            return Err(self.error(DecodeErrorKind::Truncated { needed: len, remaining }));
        }
        let start = self.pos;
        // No loss: `len` is at most a difference of two `usize`.
        self.pos += len as usize;
        Ok(&self.data[start..self.pos])
    }

    /// The next `N` bytes by value.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    /// A variable-length integer.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let bytes = &self.data[self.pos..self.end];
        // Most integers of a model (keys, lengths, dims) fit one byte.
        if let Some(&first) = bytes.first()
            && first < 0x80
        {
            self.pos += 1;
            return Ok(u64::from(first));
        }
        let mut value = 0u64;
        for (at, &byte) in bytes.iter().take(10).enumerate() {
            if at == 9 && byte > 1 {
                return Err(self.error(DecodeErrorKind::Varint));
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte < 0x80 {
                self.pos += at + 1;
                return Ok(value);
            }
        }
        let remaining = bytes.len() as u64;
        Err(self.error(DecodeErrorKind::Truncated { needed: remaining + 1, remaining }))
    }

    /// A field's key.
    pub fn key(&mut self) -> Result<Key, DecodeError> {
        let start = self.pos;
        let found = self.varint()?;
        let fail = |kind| Err(DecodeError::new(start, kind));
        let number = found >> 3;
        if number == 0 || number > MAX_FIELD {
            return fail(DecodeErrorKind::Key { found });
        }
        let wire = match found & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Len,
            5 => Wire::Fixed32,
            3 | 4 => return fail(DecodeErrorKind::Group),
            _ => return fail(DecodeErrorKind::Key { found }),
        };
        // No loss: the number is below 2^29.
        Ok(Key { number: number as u32, wire })
    }

    /// Errors unless a value of wire type `expected` follows `key`.
    pub fn expect(&self, key: Key, expected: Wire) -> Result<(), DecodeError> {
        if key.wire == expected {
            return Ok(());
        }
        let kind = DecodeErrorKind::WireType { expected: expected.words(), found: key.wire.words() };
        Err(self.error(kind))
    }

    /// A length and so many bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.varint()?;
        self.take(len)
    }

    /// A length and so many bytes, as a window of the source.
    pub fn blob(&mut self) -> Result<Blob, DecodeError> {
        let len = self.bytes()?.len();
        Ok(self.since(self.pos - len))
    }

    /// A length and so many bytes of UTF-8 text.
    pub fn text(&mut self) -> Result<String, DecodeError> {
        let bytes = self.bytes()?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(fault) => {
                let valid = fault.valid_up_to();
                let kind = DecodeErrorKind::Text { valid: valid as u64 };
                Err(DecodeError::new(self.pos - bytes.len() + valid, kind))
            }
        }
    }

    /// Goes behind the value that follows `key`.
    pub fn skip(&mut self, key: Key) -> Result<(), DecodeError> {
        match key.wire {
            Wire::Varint => self.varint().map(drop),
            Wire::Fixed64 => self.take(8).map(drop),
            Wire::Len => self.bytes().map(drop),
            Wire::Fixed32 => self.take(4).map(drop),
        }
    }

    /// Reads a length, then `read`s a message that ends there.
    pub fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<(), DecodeError>) -> Result<(), DecodeError> {
        if self.depth >= MAX_DEPTH {
            return Err(self.error(DecodeErrorKind::Depth { limit: MAX_DEPTH }));
        }
        let len = self.bytes()?.len();
        self.depth += 1;
        self.again(len, read)?;
        self.depth -= 1;
        Ok(())
    }

    /// `read`s the last `len` bytes again, as if they were all there is.
    pub fn again(
        &mut self,
        len: usize,
        read: impl FnOnce(&mut Self) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        let after = self.pos;
        let outer_end = std::mem::replace(&mut self.end, after);
        self.pos = after - len;
        read(self)?;
        self.pos = after;
        self.end = outer_end;
        Ok(())
    }

    /// How often the field of `key`, whose value comes next, occurs from here to the message's end; 1 at least.
    ///
    /// Lets a list be allocated once and exactly. It looks at keys and lengths only and stops at the first fault, which
    /// the decoder will come to and report.
    pub fn occurrences(&self, key: Key) -> usize {
        let mut ahead =
            Reader { source: self.source, data: self.data, pos: self.pos, end: self.end, depth: self.depth };
        let mut count = 1;
        let mut current = key;
        while ahead.skip(current).is_ok() && !ahead.at_end() {
            let Ok(next) = ahead.key() else { break };
            count += usize::from(next.number == key.number);
            current = next;
        }
        count
    }
}
