//! The [`Message`] trait and the macro that makes messages from field tables.

use crate::blob::Blob;
use crate::error::DecodeError;
use crate::reader::Reader;
use crate::sink::{Lens, Sink};
use std::io;

/// What the macro gives each message; private, so that [`Message`] is implemented here alone.
pub trait Raw: Default {
    /// The message's name in errors.
    const NAME: &'static str;
    /// Reads fields until the reader's end and merges them into `self`.
    fn merge_from(&mut self, reader: &mut Reader<'_>) -> Result<(), DecodeError>;
    /// Bytes that `emit` will write.
    fn measure(&self, lens: &mut Lens) -> u64;
    /// Writes all fields; meets nested lengths in the order of `measure`.
    fn emit(&self, sink: &mut Sink<'_>, lens: &mut Lens) -> io::Result<()>;
}

/// A protobuf message of ONNX.
///
/// Encoding recurses with the nesting of the message; decoded ones are at most [`crate::MAX_DEPTH`] deep.
pub trait Message: Raw {
    /// Reads a message that fills `source` to its end. Its `bytes` fields are windows of `source`.
    ///
    /// # Errors
    /// Names the byte and the field where the source stops being this message.
    fn decode(source: &Blob) -> Result<Self, DecodeError> {
        let mut message = Self::default();
        message.merge_from(&mut Reader::new(source)).map_err(|error| error.rooted(Self::NAME))?;
        Ok(message)
    }

    /// The encoded message in memory.
    fn encode(&self) -> Vec<u8> {
        let mut lens = Lens::default();
        let len = self.measure(&mut lens);
        // More than the address space cannot be in memory: the vector would fail to allocate anyway.
        let mut out = Vec::with_capacity(usize::try_from(len).unwrap_or(usize::MAX));
        write_measured(self, &mut out, &mut lens).expect("a vector takes all bytes");
        debug_assert_eq!(out.len() as u64, len);
        out
    }

    /// Bytes of the encoded message.
    fn encoded_len(&self) -> u64 {
        self.measure(&mut Lens::default())
    }

    /// Writes the encoded message to `out` piece by piece: large blobs go straight from their source, and what is held
    /// besides is a small buffer and 8 bytes for each nested message. Does not flush `out`.
    ///
    /// # Errors
    /// Those of `out`.
    fn write_to(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let mut lens = Lens::default();
        self.measure(&mut lens);
        write_measured(self, out, &mut lens)
    }
}

fn write_measured<M: Message>(message: &M, out: &mut dyn io::Write, lens: &mut Lens) -> io::Result<()> {
    let mut sink = Sink::new(out);
    message.emit(&mut sink, lens)?;
    sink.flush()
}

/// Makes a message from its field table: the struct, its codec, and its place as a value in other messages.
///
/// A row is `pub name: Type = number;`, with `packed` after the number where the schema packs the list. At most one
/// `oneof` block may follow the rows. `forced path` after the name gives a function from the message to the bits
/// (1 << number) of plain fields that are written although they hold the default.
macro_rules! message {
    (
        $(#[$meta:meta])*
        pub struct $Name:ident $(forced $forced:path)? {
            $( $(#[$fmeta:meta])* pub $field:ident: $Type:ty = $number:literal $($packed:ident)?; )*
            $(
                oneof
                $(#[$ometa:meta])*
                $oneof:ident: $Oneof:ident { $( $Variant:ident($Member:ty) = $onumber:literal; )* }
            )?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $Name {
            $( $(#[$fmeta])* pub $field: $Type, )*
            $( $(#[$ometa])* pub $oneof: Option<$Oneof>, )?
            /// Fields that this crate does not know; written again.
            pub unknown: $crate::unknown::Unknown,
        }

        impl $Name {
            /// Bits of plain fields that are written although they hold the default.
            fn forced(&self) -> u32 {
                0 $( | $forced(self) )?
            }
        }

        impl $crate::message::Raw for $Name {
            const NAME: &'static str = stringify!($Name);

            fn merge_from(
                &mut self,
                reader: &mut $crate::reader::Reader<'_>,
            ) -> Result<(), $crate::error::DecodeError> {
                while !reader.at_end() {
                    let start = reader.pos();
                    let key = reader.key()?;
                    match key.number {
                        $(
                            $number => {
                                let at = $crate::field::Field::count(&self.$field);
                                $crate::field::Field::merge(&mut self.$field, key, reader)
                                    .map_err(|error| error.within(stringify!($field), at))?;
                                let explicit = $crate::field::Field::is_default(&self.$field);
                                self.unknown.set_explicit($number, explicit);
                            }
                        )*
                        $($(
                            $onumber => {
                                // The last member wins; a message met twice is merged.
                                let mut value = match self.$oneof.take() {
                                    Some($Oneof::$Variant(value)) => value,
                                    _ => <$Member>::default(),
                                };
                                $crate::field::read_one(&mut value, key, reader)
                                    .map_err(|error| error.within(stringify!($oneof), None))?;
                                self.$oneof = Some($Oneof::$Variant(value));
                            }
                        )*)?
                        _ => {
                            reader.skip(key)?;
                            self.unknown.push(reader.since(start));
                        }
                    }
                }
                let forced = self.forced();
                self.unknown.settle(forced);
                Ok(())
            }

            #[allow(unused_variables)]
            fn measure(&self, lens: &mut $crate::sink::Lens) -> u64 {
                let explicit = self.unknown.explicit() | self.forced();
                let mut len = self.unknown.len() as u64;
                $(
                    let style = message!(@style $number explicit $($packed)?);
                    len += $crate::field::Field::measure(&self.$field, style, lens);
                )*
                $(
                    match &self.$oneof {
                        $(
                            Some($Oneof::$Variant(value)) => {
                                let style = message!(@style $onumber explicit);
                                len += $crate::field::measure_one(value, style, lens);
                            }
                        )*
                        None => {}
                    }
                )?
                len
            }

            #[allow(unused_variables)]
            fn emit(
                &self,
                sink: &mut $crate::sink::Sink<'_>,
                lens: &mut $crate::sink::Lens,
            ) -> std::io::Result<()> {
                let explicit = self.unknown.explicit() | self.forced();
                $(
                    let style = message!(@style $number explicit $($packed)?);
                    $crate::field::Field::emit(&self.$field, style, sink, lens)?;
                )*
                $(
                    match &self.$oneof {
                        $(
                            Some($Oneof::$Variant(value)) => {
                                let style = message!(@style $onumber explicit);
                                $crate::field::emit_one(value, style, sink, lens)?;
                            }
                        )*
                        None => {}
                    }
                )?
                self.unknown.emit(sink)
            }
        }

        impl $crate::message::Message for $Name {}

        impl $crate::field::Value for $Name {
            const WIRE: $crate::reader::Wire = $crate::reader::Wire::Len;

            fn read(&mut self, reader: &mut $crate::reader::Reader<'_>) -> Result<(), $crate::error::DecodeError> {
                reader.nested(|reader| $crate::message::Raw::merge_from(self, reader))
            }

            fn size(&self, lens: &mut $crate::sink::Lens) -> u64 {
                lens.nest(|lens| $crate::message::Raw::measure(self, lens))
            }

            fn put(&self, sink: &mut $crate::sink::Sink<'_>, lens: &mut $crate::sink::Lens) -> std::io::Result<()> {
                sink.varint(lens.take())?;
                $crate::message::Raw::emit(self, sink, lens)
            }
        }
    };
    (@style $number:literal $explicit:ident) => {
        $crate::field::Style { number: $number, explicit: $explicit & (1 << $number) != 0, packed: false }
    };
    (@style $number:literal $explicit:ident packed) => {
        $crate::field::Style { number: $number, explicit: false, packed: true }
    };
}
