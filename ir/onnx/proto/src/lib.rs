//! ONNX protobuf messages, complete for IR 13, that keep unknown fields.
//!
//! What it is: one plain struct for each message of `onnx.proto` and `onnx-data.proto`, and a small protobuf codec for
//! them ([`Message::decode`], [`Message::encode`], [`Message::write_to`]). Field names are those of the schema.
//!
//! What it deliberately does not do: it checks no meaning (types, names, operator schemas), opens no file and follows
//! no reference to external data.
//!
//! Invariants:
//! - What was read is written again: fields that this crate does not know, and fields present with their default value,
//!   survive decoding and encoding (both live in each message's [`Unknown`]).
//! - `bytes` fields are never copied: each is a [`Blob`], a window of the source. Lengths are 64-bit throughout.
//! - Decoding any input ends in a message or a [`DecodeError`], never in a panic. Every length is compared with what
//!   remains before anything is allocated, and one input byte costs at most [`MEMORY_PER_BYTE`] bytes of memory.
//!
//! Presence: strings, numbers and enums are plain values, and the default (empty, zero) means absent; where absence
//! differs from zero the field is an `Option`. A few fields are written always, so that a reader need not guess:
//! [`ModelProto::ir_version`], [`OperatorSetIdProto::version`], [`IntIntListEntryProto::key`], and the one of
//! [`AttributeProto`]'s `f`, `i`, `s` that its type names (unless the attribute refers to a function's attribute).

#[macro_use]
mod message;

mod attribute;
mod blob;
pub mod data_type;
mod device;
mod error;
mod field;
mod model;
mod reader;
mod sequence;
mod sink;
mod tensor;
mod types;
mod unknown;

pub use attribute::{AttributeProto, attribute_type};
pub use blob::Blob;
pub use device::{
    DeviceConfigurationProto, IntIntListEntryProto, NodeDeviceConfigurationProto, ShardedDimProto, ShardingSpecProto,
    SimpleShardedDimProto,
};
pub use error::{DecodeError, DecodeErrorKind};
pub use message::Message;
pub use model::{
    FunctionProto, GraphProto, IR_VERSION, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorAnnotation, TrainingInfoProto,
};
pub use reader::MAX_DEPTH;
pub use sequence::{MapProto, OptionalProto, SequenceProto, value_type};
pub use tensor::{Segment, SparseTensorProto, TensorProto, data_location};
pub use types::{
    DimValue, Dimension, TensorShapeProto, TypeMap, TypeOpaque, TypeOptional, TypeProto, TypeSequence,
    TypeSparseTensor, TypeTensor, TypeValue, ValueInfoProto,
};
pub use unknown::Unknown;

/// Bytes of memory that decoding allocates at most for each byte of input, source excluded.
///
/// The worst input is a row of empty messages: two bytes of input make one struct (at most 384 bytes, checked when
/// compiling) in a vector that may be growing, which holds the old and the doubled storage at once. Ordinary models
/// need less memory than their file, for weights stay in the source.
pub const MEMORY_PER_BYTE: usize = 3 * MAX_STRUCT / 2;

/// Size in bytes that no message struct exceeds.
const MAX_STRUCT: usize = 384;

const _: () = {
    assert!(size_of::<AttributeProto>() <= MAX_STRUCT);
    assert!(size_of::<FunctionProto>() <= MAX_STRUCT);
    assert!(size_of::<GraphProto>() <= MAX_STRUCT);
    assert!(size_of::<NodeProto>() <= MAX_STRUCT);
    assert!(size_of::<TensorProto>() <= MAX_STRUCT);
    assert!(size_of::<SequenceProto>() <= MAX_STRUCT);
};
