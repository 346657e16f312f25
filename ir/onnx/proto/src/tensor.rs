//! Tensors with their contents, dense and sparse.

use crate::blob::Blob;
use crate::data_type;
use crate::model::StringStringEntryProto;

/// Values of [`TensorProto::data_location`].
pub mod data_location {
    /// In the message itself.
    pub const DEFAULT: i32 = 0;
    /// In a file that `external_data` names.
    pub const EXTERNAL: i32 = 1;
}

message! {
    /// A tensor: shape, element type, and contents in `raw_data`, in one of the typed lists, or in another file.
    pub struct TensorProto {
        /// Shape, in elements; none for a scalar.
        pub dims: Vec<i64> = 1;
        /// Element type, one of [`crate::data_type`].
        pub data_type: i32 = 2;
        /// Which part of a larger tensor this is.
        pub segment: Option<Box<Segment>> = 3;
        /// Elements of `FLOAT`; pairs of `COMPLEX64`.
        pub float_data: Vec<f32> = 4 packed;
        /// Elements of the integer types up to 32 bits and of `BOOL`; bits of the smaller floating-point types.
        pub int32_data: Vec<i32> = 5 packed;
        /// Elements of `STRING`.
        pub string_data: Vec<Blob> = 6;
        /// Elements of `INT64`.
        pub int64_data: Vec<i64> = 7 packed;
        /// Name of the value.
        pub name: String = 8;
        /// All elements in a row, little endian, row-major; types under 8 bits are packed, low bits first.
        pub raw_data: Option<Blob> = 9;
        /// Elements of `DOUBLE`; pairs of `COMPLEX128`.
        pub double_data: Vec<f64> = 10 packed;
        /// Elements of `UINT64` and `UINT32`.
        pub uint64_data: Vec<u64> = 11 packed;
        /// Text for people.
        pub doc_string: String = 12;
        /// Where external contents are: `location`, `offset` and `length` (bytes), `checksum`.
        pub external_data: Vec<StringStringEntryProto> = 13;
        /// Where the contents are, one of [`data_location`].
        pub data_location: i32 = 14;
        /// Named texts about the tensor (IR 11).
        pub metadata_props: Vec<StringStringEntryProto> = 16;
    }
}

impl TensorProto {
    /// A tensor of element type `data_type` whose `raw` bytes are its elements in a row, little endian.
    pub fn from_raw(name: impl Into<String>, data_type: i32, dims: &[i64], raw: impl Into<Blob>) -> Self {
        Self { name: name.into(), data_type, dims: dims.to_vec(), raw_data: Some(raw.into()), ..Self::default() }
    }

    /// A `FLOAT` tensor with the elements `values` in row-major order, kept in `raw_data`.
    pub fn from_f32(name: impl Into<String>, dims: &[i64], values: &[f32]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::from_raw(name, data_type::FLOAT, dims, raw)
    }

    /// An `INT32` tensor with the elements `values` in row-major order, kept in `raw_data`.
    pub fn from_i32(name: impl Into<String>, dims: &[i64], values: &[i32]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::from_raw(name, data_type::INT32, dims, raw)
    }

    /// An `INT64` tensor with the elements `values` in row-major order, kept in `raw_data`.
    pub fn from_i64(name: impl Into<String>, dims: &[i64], values: &[i64]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self::from_raw(name, data_type::INT64, dims, raw)
    }
}

message! {
    /// The part of a larger tensor that a tensor holds.
    pub struct Segment {
        /// First element.
        pub begin: i64 = 1;
        /// Behind the last element.
        pub end: i64 = 2;
    }
}

message! {
    /// A sparse tensor: its non-zero elements and where they are.
    pub struct SparseTensorProto {
        /// The elements, shape `[count]`; its name is the value's name.
        pub values: Option<Box<TensorProto>> = 1;
        /// Where they are, `INT64`: row-major positions of shape `[count]`, or coordinates of shape `[count, rank]`.
        pub indices: Option<Box<TensorProto>> = 2;
        /// Shape of the whole, in elements.
        pub dims: Vec<i64> = 3;
    }
}
