//! Types and shapes of values.

use crate::model::StringStringEntryProto;

message! {
    /// A value's name and type.
    pub struct ValueInfoProto {
        /// Name of the value.
        pub name: String = 1;
        /// Its type; absent where unknown.
        pub r#type: Option<TypeProto> = 2;
        /// Text for people.
        pub doc_string: String = 3;
        /// Named texts about the value (IR 10).
        pub metadata_props: Vec<StringStringEntryProto> = 4;
    }
}

impl ValueInfoProto {
    /// A tensor of element type `elem_type` (see [`crate::data_type`]) and the shape `dims`, one entry for each axis;
    /// no entry makes a scalar.
    pub fn tensor(name: impl Into<String>, elem_type: i32, dims: &[DimValue]) -> Self {
        let r#type = Some(TypeProto::tensor(elem_type, Some(TensorShapeProto::new(dims))));
        Self { name: name.into(), r#type, ..Self::default() }
    }
}

/// What kind of value a type is of.
#[derive(Clone, Debug, PartialEq)]
pub enum TypeValue {
    /// A dense tensor.
    Tensor(Box<TypeTensor>),
    /// A list of values of one type.
    Sequence(Box<TypeSequence>),
    /// Values of one type by key.
    Map(Box<TypeMap>),
    /// A value or none.
    Optional(Box<TypeOptional>),
    /// A sparse tensor.
    Sparse(Box<TypeSparseTensor>),
    /// Something that only its name describes.
    Opaque(Box<TypeOpaque>),
}

message! {
    /// The type of a value.
    pub struct TypeProto {
        /// What the value means, by a standard name.
        pub denotation: String = 6;
        oneof
        /// What kind of value it is; absent where unknown.
        value: TypeValue {
            Tensor(Box<TypeTensor>) = 1;
            Sequence(Box<TypeSequence>) = 4;
            Map(Box<TypeMap>) = 5;
            Optional(Box<TypeOptional>) = 9;
            Sparse(Box<TypeSparseTensor>) = 8;
            Opaque(Box<TypeOpaque>) = 7;
        }
    }
}

impl TypeProto {
    /// A dense tensor of element type `elem_type`; without a shape its rank is unknown.
    pub fn tensor(elem_type: i32, shape: Option<TensorShapeProto>) -> Self {
        TypeValue::Tensor(Box::new(TypeTensor { elem_type, shape, ..Default::default() })).into()
    }

    /// A list of values of type `elem`.
    pub fn sequence(elem: Self) -> Self {
        let elem_type = Some(Box::new(elem));
        TypeValue::Sequence(Box::new(TypeSequence { elem_type, ..Default::default() })).into()
    }

    /// A value of type `elem`, or none.
    pub fn optional(elem: Self) -> Self {
        let elem_type = Some(Box::new(elem));
        TypeValue::Optional(Box::new(TypeOptional { elem_type, ..Default::default() })).into()
    }

    /// The dense tensor's type, if it is one.
    pub fn as_tensor(&self) -> Option<&TypeTensor> {
        match &self.value {
            Some(TypeValue::Tensor(tensor)) => Some(tensor),
            _ => None,
        }
    }
}

impl From<TypeValue> for TypeProto {
    fn from(value: TypeValue) -> Self {
        Self { value: Some(value), ..Self::default() }
    }
}

message! {
    /// Type of a dense tensor.
    pub struct TypeTensor {
        /// Element type, one of [`crate::data_type`].
        pub elem_type: i32 = 1;
        /// Shape; absent where even the rank is unknown, without dimensions for a scalar.
        pub shape: Option<TensorShapeProto> = 2;
    }
}

message! {
    /// Type of a sparse tensor.
    pub struct TypeSparseTensor {
        /// Element type, one of [`crate::data_type`].
        pub elem_type: i32 = 1;
        /// Shape; absent where even the rank is unknown.
        pub shape: Option<TensorShapeProto> = 2;
    }
}

message! {
    /// Type of a list.
    pub struct TypeSequence {
        /// Type of each element.
        pub elem_type: Option<Box<TypeProto>> = 1;
    }
}

message! {
    /// Type of a map.
    pub struct TypeMap {
        /// Type of the keys: an integer type or `STRING` of [`crate::data_type`].
        pub key_type: i32 = 1;
        /// Type of the values.
        pub value_type: Option<Box<TypeProto>> = 2;
    }
}

message! {
    /// Type of a value that may be absent.
    pub struct TypeOptional {
        /// Type of the value.
        pub elem_type: Option<Box<TypeProto>> = 1;
    }
}

message! {
    /// Type that only its name describes.
    pub struct TypeOpaque {
        /// Namespace of the name.
        pub domain: String = 1;
        /// Name of the type.
        pub name: String = 2;
    }
}

message! {
    /// Shape of a tensor: one dimension for each axis, none for a scalar.
    pub struct TensorShapeProto {
        /// Dimensions, outermost first.
        pub dim: Vec<Dimension> = 1;
    }
}

impl TensorShapeProto {
    /// A shape with one entry of `dims` for each axis.
    pub fn new(dims: &[DimValue]) -> Self {
        let dim = dims.iter().map(|dim| Dimension { value: Some(dim.clone()), ..Dimension::default() }).collect();
        Self { dim, ..Self::default() }
    }
}

/// How long an axis is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DimValue {
    /// So many elements.
    Value(i64),
    /// As many as the symbol of this name stands for.
    Param(String),
}

impl From<i64> for DimValue {
    fn from(value: i64) -> Self {
        Self::Value(value)
    }
}

impl From<&str> for DimValue {
    fn from(param: &str) -> Self {
        Self::Param(param.to_owned())
    }
}

message! {
    /// One axis of a shape.
    pub struct Dimension {
        /// What the axis means, by a standard name.
        pub denotation: String = 3;
        oneof
        /// Its length; absent where unknown.
        value: DimValue {
            Value(i64) = 1;
            Param(String) = 2;
        }
    }
}
