//! Attributes of nodes and functions.

use crate::blob::Blob;
use crate::model::GraphProto;
use crate::tensor::{SparseTensorProto, TensorProto};
use crate::types::TypeProto;

/// Values of `r#type` of [`AttributeProto`].
pub mod attribute_type {
    /// Not said, as in files before IR 2.
    pub const UNDEFINED: i32 = 0;
    /// One number, in `f`.
    pub const FLOAT: i32 = 1;
    /// One integer, in `i`.
    pub const INT: i32 = 2;
    /// One byte string, in `s`.
    pub const STRING: i32 = 3;
    /// One tensor, in `t`.
    pub const TENSOR: i32 = 4;
    /// One graph, in `g`.
    pub const GRAPH: i32 = 5;
    /// Numbers, in `floats`.
    pub const FLOATS: i32 = 6;
    /// Integers, in `ints`.
    pub const INTS: i32 = 7;
    /// Byte strings, in `strings`.
    pub const STRINGS: i32 = 8;
    /// Tensors, in `tensors`.
    pub const TENSORS: i32 = 9;
    /// Graphs, in `graphs`.
    pub const GRAPHS: i32 = 10;
    /// One sparse tensor, in `sparse_tensor`.
    pub const SPARSE_TENSOR: i32 = 11;
    /// Sparse tensors, in `sparse_tensors`.
    pub const SPARSE_TENSORS: i32 = 12;
    /// One type, in `tp`.
    pub const TYPE_PROTO: i32 = 13;
    /// Types, in `type_protos`.
    pub const TYPE_PROTOS: i32 = 14;
}

message! {
    /// A named constant of a node: `r#type` says which of the other fields holds it.
    pub struct AttributeProto forced attribute_forced {
        /// Name, unique in its node.
        pub name: String = 1;
        /// Value of type `FLOAT`.
        pub f: f32 = 2;
        /// Value of type `INT`.
        pub i: i64 = 3;
        /// Value of type `STRING`; UTF-8 as a rule.
        pub s: Blob = 4;
        /// Value of type `TENSOR`.
        pub t: Option<Box<TensorProto>> = 5;
        /// Value of type `GRAPH`.
        pub g: Option<Box<GraphProto>> = 6;
        /// Values of type `FLOATS`.
        pub floats: Vec<f32> = 7;
        /// Values of type `INTS`.
        pub ints: Vec<i64> = 8;
        /// Values of type `STRINGS`.
        pub strings: Vec<Blob> = 9;
        /// Values of type `TENSORS`.
        pub tensors: Vec<TensorProto> = 10;
        /// Values of type `GRAPHS`.
        pub graphs: Vec<GraphProto> = 11;
        /// Text for people.
        pub doc_string: String = 13;
        /// Value of type `TYPE_PROTO`.
        pub tp: Option<Box<TypeProto>> = 14;
        /// Values of type `TYPE_PROTOS`.
        pub type_protos: Vec<TypeProto> = 15;
        /// One of [`attribute_type`].
        pub r#type: i32 = 20;
        /// Inside a function: the function's attribute whose value this one takes; it holds none itself then.
        pub ref_attr_name: String = 21;
        /// Value of type `SPARSE_TENSOR`.
        pub sparse_tensor: Option<Box<SparseTensorProto>> = 22;
        /// Values of type `SPARSE_TENSORS`.
        pub sparse_tensors: Vec<SparseTensorProto> = 23;
    }
}

/// A zero attribute is a value like any other: the field of the type is written whatever it holds.
fn attribute_forced(attribute: &AttributeProto) -> u32 {
    if !attribute.ref_attr_name.is_empty() {
        return 0;
    }
    match attribute.r#type {
        attribute_type::FLOAT => 1 << 2,
        attribute_type::INT => 1 << 3,
        attribute_type::STRING => 1 << 4,
        _ => 0,
    }
}

impl AttributeProto {
    fn of(name: impl Into<String>, r#type: i32) -> Self {
        Self { name: name.into(), r#type, ..Self::default() }
    }

    /// An attribute of type `FLOAT`.
    pub fn float(name: impl Into<String>, f: f32) -> Self {
        Self { f, ..Self::of(name, attribute_type::FLOAT) }
    }

    /// An attribute of type `INT`.
    pub fn int(name: impl Into<String>, i: i64) -> Self {
        Self { i, ..Self::of(name, attribute_type::INT) }
    }

    /// An attribute of type `STRING`.
    pub fn string(name: impl Into<String>, s: impl Into<Blob>) -> Self {
        Self { s: s.into(), ..Self::of(name, attribute_type::STRING) }
    }

    /// An attribute of type `TENSOR`.
    pub fn tensor(name: impl Into<String>, t: TensorProto) -> Self {
        Self { t: Some(Box::new(t)), ..Self::of(name, attribute_type::TENSOR) }
    }

    /// An attribute of type `GRAPH`.
    pub fn graph(name: impl Into<String>, g: GraphProto) -> Self {
        Self { g: Some(Box::new(g)), ..Self::of(name, attribute_type::GRAPH) }
    }

    /// An attribute of type `FLOATS`.
    pub fn floats(name: impl Into<String>, floats: impl Into<Vec<f32>>) -> Self {
        Self { floats: floats.into(), ..Self::of(name, attribute_type::FLOATS) }
    }

    /// An attribute of type `INTS`.
    pub fn ints(name: impl Into<String>, ints: impl Into<Vec<i64>>) -> Self {
        Self { ints: ints.into(), ..Self::of(name, attribute_type::INTS) }
    }

    /// An attribute of type `STRINGS`.
    pub fn strings<S: Into<Blob>>(name: impl Into<String>, strings: impl IntoIterator<Item = S>) -> Self {
        Self { strings: strings.into_iter().map(Into::into).collect(), ..Self::of(name, attribute_type::STRINGS) }
    }
}
