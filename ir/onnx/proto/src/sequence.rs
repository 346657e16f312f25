//! Values that are no tensors, as files of test data hold them.

use crate::blob::Blob;
use crate::tensor::{SparseTensorProto, TensorProto};

/// Values of [`SequenceProto::elem_type`] and [`OptionalProto::elem_type`].
pub mod value_type {
    /// Not said.
    pub const UNDEFINED: i32 = 0;
    /// Dense tensors.
    pub const TENSOR: i32 = 1;
    /// Sparse tensors.
    pub const SPARSE_TENSOR: i32 = 2;
    /// Sequences.
    pub const SEQUENCE: i32 = 3;
    /// Maps.
    pub const MAP: i32 = 4;
    /// Optional values.
    pub const OPTIONAL: i32 = 5;
}

message! {
    /// A list of values of one kind: `elem_type` says which of the lists holds them.
    pub struct SequenceProto {
        /// Name of the value.
        pub name: String = 1;
        /// Kind of the elements, one of [`value_type`].
        pub elem_type: i32 = 2;
        /// Elements that are tensors.
        pub tensor_values: Vec<TensorProto> = 3;
        /// Elements that are sparse tensors.
        pub sparse_tensor_values: Vec<SparseTensorProto> = 4;
        /// Elements that are sequences.
        pub sequence_values: Vec<SequenceProto> = 5;
        /// Elements that are maps.
        pub map_values: Vec<MapProto> = 6;
        /// Elements that are optional values.
        pub optional_values: Vec<OptionalProto> = 7;
    }
}

message! {
    /// Values by key: as many `values` as there are `keys` or `string_keys`.
    pub struct MapProto {
        /// Name of the value.
        pub name: String = 1;
        /// Type of the keys: an integer type or `STRING` of [`crate::data_type`].
        pub key_type: i32 = 2;
        /// Keys that are integers.
        pub keys: Vec<i64> = 3;
        /// Keys that are byte strings.
        pub string_keys: Vec<Blob> = 4;
        /// The values in the order of the keys.
        pub values: Option<Box<SequenceProto>> = 5;
    }
}

message! {
    /// A value or none: `elem_type` says which of the fields holds it.
    pub struct OptionalProto {
        /// Name of the value.
        pub name: String = 1;
        /// Kind of the value, one of [`value_type`].
        pub elem_type: i32 = 2;
        /// A tensor.
        pub tensor_value: Option<Box<TensorProto>> = 3;
        /// A sparse tensor.
        pub sparse_tensor_value: Option<Box<SparseTensorProto>> = 4;
        /// A sequence.
        pub sequence_value: Option<Box<SequenceProto>> = 5;
        /// A map.
        pub map_value: Option<Box<MapProto>> = 6;
        /// An optional value.
        pub optional_value: Option<Box<OptionalProto>> = 7;
    }
}
