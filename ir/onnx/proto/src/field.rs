//! How each Rust type is read and written: [`Value`] for one value, [`Field`] for a field with its key and presence.

use crate::blob::Blob;
use crate::error::{DecodeError, DecodeErrorKind};
use crate::reader::{Key, Reader, Wire};
use crate::sink::{Lens, Sink, key_len, varint_len};
use std::io;

/// One value without its key.
pub trait Value: Default {
    /// How it is encoded.
    const WIRE: Wire;
    /// Bytes of one packed value where that is fixed.
    const WIDTH: Option<u64> = None;
    /// Reads a value; a message is merged into `self`, everything else replaces it.
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError>;
    /// Bytes that `put` will write.
    fn size(&self, lens: &mut Lens) -> u64;
    /// Writes the value; meets nested lengths in the order of `size`.
    fn put(&self, sink: &mut Sink<'_>, lens: &mut Lens) -> io::Result<()>;
}

/// How a field is written beyond its value.
#[derive(Clone, Copy)]
pub struct Style {
    /// Field number.
    pub number: u32,
    /// Write a plain value although it is the default.
    pub explicit: bool,
    /// Write a list of numbers as one packed piece.
    pub packed: bool,
}

/// A field: nothing, one value or a list.
pub trait Field {
    /// Reads the value that follows `key`.
    fn merge(&mut self, key: Key, reader: &mut Reader<'_>) -> Result<(), DecodeError>;
    /// Bytes that `emit` will write, keys included.
    fn measure(&self, style: Style, lens: &mut Lens) -> u64;
    /// Writes keys and values.
    fn emit(&self, style: Style, sink: &mut Sink<'_>, lens: &mut Lens) -> io::Result<()>;
    /// Elements so far where the field is a list.
    fn count(&self) -> Option<usize> {
        None
    }
    /// Whether this is a plain value at its default, which is not written of itself.
    fn is_default(&self) -> bool {
        false
    }
}

/// Reads one value after comparing its wire type with the key's.
pub fn read_one<T: Value>(value: &mut T, key: Key, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    reader.expect(key, T::WIRE)?;
    value.read(reader)
}

/// Bytes of a key and one value.
pub fn measure_one<T: Value>(value: &T, style: Style, lens: &mut Lens) -> u64 {
    key_len(style.number) + value.size(lens)
}

/// Writes a key and one value.
pub fn emit_one<T: Value>(value: &T, style: Style, sink: &mut Sink<'_>, lens: &mut Lens) -> io::Result<()> {
    sink.key(style.number, T::WIRE)?;
    value.put(sink, lens)
}

/// A plain scalar: a value whose default is absence.
macro_rules! scalar {
    ($type:ty, |$value:ident| $is_default:expr) => {
        impl Field for $type {
            fn merge(&mut self, key: Key, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
                read_one(self, key, reader)
            }

            fn measure(&self, style: Style, lens: &mut Lens) -> u64 {
                if self.is_default() && !style.explicit { 0 } else { measure_one(self, style, lens) }
            }

            fn emit(&self, style: Style, sink: &mut Sink<'_>, lens: &mut Lens) -> io::Result<()> {
                if self.is_default() && !style.explicit { Ok(()) } else { emit_one(self, style, sink, lens) }
            }

            fn is_default(&self) -> bool {
                let $value = self;
                $is_default
            }
        }
    };
}

scalar!(i32, |value| *value == 0);
scalar!(i64, |value| *value == 0);
// Negative zero is not the default: compare bits.
scalar!(f32, |value| value.to_bits() == 0);
scalar!(String, |value| value.is_empty());
scalar!(Blob, |value| value.is_empty());

/// Integers: negative ones are written in their 64-bit form, whatever their type, as protobuf does.
macro_rules! varint_value {
    ($type:ty, |$value:ident| $to_wire:expr) => {
        impl Value for $type {
            const WIRE: Wire = Wire::Varint;

            fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
                // Too large for the type: protobuf keeps the low bits.
                *self = reader.varint()? as $type;
                Ok(())
            }

            fn size(&self, _: &mut Lens) -> u64 {
                let $value = *self;
                varint_len($to_wire)
            }

            fn put(&self, sink: &mut Sink<'_>, _: &mut Lens) -> io::Result<()> {
                let $value = *self;
                sink.varint($to_wire)
            }
        }
    };
}

varint_value!(i32, |value| i64::from(value) as u64);
varint_value!(i64, |value| value as u64);
varint_value!(u64, |value| value);

/// Floating-point numbers, little endian.
macro_rules! fixed_value {
    ($type:ty, $wire:expr, $width:literal) => {
        impl Value for $type {
            const WIRE: Wire = $wire;
            const WIDTH: Option<u64> = Some($width);

            fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
                *self = <$type>::from_le_bytes(reader.array()?);
                Ok(())
            }

            fn size(&self, _: &mut Lens) -> u64 {
                $width
            }

            fn put(&self, sink: &mut Sink<'_>, _: &mut Lens) -> io::Result<()> {
                sink.bytes(&self.to_le_bytes())
            }
        }
    };
}

fixed_value!(f32, Wire::Fixed32, 4);
fixed_value!(f64, Wire::Fixed64, 8);

impl Value for String {
    const WIRE: Wire = Wire::Len;

    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        *self = reader.text()?;
        Ok(())
    }

    fn size(&self, _: &mut Lens) -> u64 {
        let len = self.len() as u64;
        varint_len(len) + len
    }

    fn put(&self, sink: &mut Sink<'_>, _: &mut Lens) -> io::Result<()> {
        sink.sized(self.as_bytes())
    }
}

impl Value for Blob {
    const WIRE: Wire = Wire::Len;

    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        *self = reader.blob()?;
        Ok(())
    }

    fn size(&self, _: &mut Lens) -> u64 {
        let len = self.len() as u64;
        varint_len(len) + len
    }

    fn put(&self, sink: &mut Sink<'_>, _: &mut Lens) -> io::Result<()> {
        sink.sized(self)
    }
}

impl<T: Value> Value for Box<T> {
    const WIRE: Wire = T::WIRE;

    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        T::read(self, reader)
    }

    fn size(&self, lens: &mut Lens) -> u64 {
        T::size(self, lens)
    }

    fn put(&self, sink: &mut Sink<'_>, lens: &mut Lens) -> io::Result<()> {
        T::put(self, sink, lens)
    }
}

impl<T: Value> Field for Option<T> {
    fn merge(&mut self, key: Key, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        reader.expect(key, T::WIRE)?;
        self.get_or_insert_default().read(reader)
    }

    fn measure(&self, style: Style, lens: &mut Lens) -> u64 {
        self.as_ref().map_or(0, |value| measure_one(value, style, lens))
    }

    fn emit(&self, style: Style, sink: &mut Sink<'_>, lens: &mut Lens) -> io::Result<()> {
        self.as_ref().map_or(Ok(()), |value| emit_one(value, style, sink, lens))
    }
}

impl<T: Value> Field for Vec<T> {
    fn merge(&mut self, key: Key, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
        if key.wire == Wire::Len && T::WIRE != Wire::Len {
            return read_packed(self, reader);
        }
        reader.expect(key, T::WIRE)?;
        if self.is_empty() {
            self.reserve_exact(reader.occurrences(key));
        }
        // In place, for messages are large to move.
        let at = self.len();
        self.push(T::default());
        self[at].read(reader)
    }

    fn measure(&self, style: Style, lens: &mut Lens) -> u64 {
        if self.is_empty() {
            return 0;
        }
        if style.packed {
            return key_len(style.number) + lens.nest(|lens| self.iter().map(|value| value.size(lens)).sum());
        }
        self.iter().map(|value| measure_one(value, style, lens)).sum()
    }

    fn emit(&self, style: Style, sink: &mut Sink<'_>, lens: &mut Lens) -> io::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        if style.packed {
            sink.key(style.number, Wire::Len)?;
            sink.varint(lens.take())?;
            return self.iter().try_for_each(|value| value.put(sink, lens));
        }
        self.iter().try_for_each(|value| emit_one(value, style, sink, lens))
    }

    fn count(&self) -> Option<usize> {
        Some(self.len())
    }
}

/// Appends the numbers of one packed piece.
fn read_packed<T: Value>(list: &mut Vec<T>, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    let bytes = reader.bytes()?;
    let start = reader.pos() - bytes.len();
    let count = match T::WIDTH {
        Some(width) if !(bytes.len() as u64).is_multiple_of(width) => {
            let kind = DecodeErrorKind::Packed { width, found: bytes.len() as u64 };
            return Err(DecodeError::new(start, kind));
        }
        // No loss: a quotient of a `usize`.
        Some(width) => bytes.len() / width as usize,
        // Each integer has one last byte, the one without the continuation bit.
        None => bytes.iter().filter(|byte| **byte < 0x80).count(),
    };
    if list.is_empty() {
        list.reserve_exact(count);
    } else {
        // Many small pieces must not copy the list each time.
        list.reserve(count);
    }
    reader.again(bytes.len(), |reader| {
        while !reader.at_end() {
            let mut value = T::default();
            value.read(reader)?;
            list.push(value);
        }
        Ok(())
    })
}
