//! Where encoded bytes go: lengths are measured in a first pass and consumed in a second, so that nothing nested is
//! ever held in memory or measured twice.

use std::io::{self, Write};

/// Bytes gathered before they are handed on; larger pieces (weights) are handed on as they are.
const BUFFER: usize = 32 * 1024;

/// Bytes that `value` takes as a variable-length integer, 1 to 10.
pub fn varint_len(value: u64) -> u64 {
    let bits = 64 - (value | 1).leading_zeros();
    u64::from(bits.div_ceil(7))
}

/// Bytes that a field's key takes.
pub fn key_len(number: u32) -> u64 {
    varint_len(u64::from(number) << 3)
}

/// Lengths of nested messages and packed lists, in the order in which both passes meet them.
#[derive(Default)]
pub struct Lens {
    lens: Vec<u64>,
    next: usize,
}

impl Lens {
    /// First pass: measures a nested value with `measure` and returns its bytes with their length before them.
    pub fn nest(&mut self, measure: impl FnOnce(&mut Self) -> u64) -> u64 {
        let slot = self.lens.len();
        self.lens.push(0);
        let len = measure(self);
        self.lens[slot] = len;
        varint_len(len) + len
    }

    /// Second pass: the length of the next nested value.
    pub fn take(&mut self) -> u64 {
        let len = self.lens[self.next];
        self.next += 1;
        len
    }
}

/// A buffered writer that knows the wire format.
pub struct Sink<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
}

impl<'a> Sink<'a> {
    /// Writes to `out`.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self { out, buffer: Vec::with_capacity(BUFFER) }
    }

    /// Raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() >= BUFFER {
            return self.out.write_all(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// A variable-length integer.
    pub fn varint(&mut self, mut value: u64) -> io::Result<()> {
        let mut bytes = [0; 10];
        let mut len = 0;
        while value >= 0x80 {
            // The low seven bits; the mask makes the cast exact.
            bytes[len] = (value & 0x7f) as u8 | 0x80;
            value >>= 7;
            len += 1;
        }
        bytes[len] = value as u8;
        self.bytes(&bytes[..=len])
    }

    /// A field's key.
    pub fn key(&mut self, number: u32, wire: crate::reader::Wire) -> io::Result<()> {
        self.varint(u64::from(number) << 3 | wire as u64)
    }

    /// A length, then the bytes.
    pub fn sized(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.varint(bytes.len() as u64)?;
        self.bytes(bytes)
    }

    /// Hands on what is gathered.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }
}
