//! Values in host memory, as files hold them and engines take them.

use std::sync::Arc;

use tandem_ir::DType;

/// Elements of a tensor, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Little-endian elements, packed for types narrower than a byte (ONNX's order: low bits first). Cheap to clone.
    Bytes(Buffer),
    /// Strings, one an element.
    Strings(Arc<Vec<Vec<u8>>>),
}

/// A dense tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorValue {
    /// Element type.
    pub dtype: DType,
    /// Size of each axis.
    pub dims: Vec<u64>,
    /// Its elements.
    pub data: Data,
}

/// What a model takes or returns.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A dense tensor.
    Tensor(TensorValue),
    /// A list of values of one type.
    Sequence(Vec<Value>),
    /// A value or nothing.
    Optional(Option<Box<Value>>),
    /// Keys and values, in the file's order.
    Map(Vec<(Value, Value)>),
}

/// An immutable byte buffer; cheap to clone. Whoever builds it chooses the memory behind it (owned, mapped, an engine's).
#[derive(Clone)]
pub struct Buffer(Arc<dyn AsRef<[u8]> + Send + Sync>);

impl Buffer {
    /// Wraps memory that somebody else owns.
    pub fn shared(bytes: Arc<dyn AsRef<[u8]> + Send + Sync>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl From<Arc<Vec<u8>>> for Buffer {
    fn from(bytes: Arc<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Arc::new(bytes))
    }
}

impl std::ops::Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl PartialEq for Buffer {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} bytes)", self.len())
    }
}

impl TensorValue {
    /// A tensor of fixed-size elements from little-endian bytes.
    ///
    /// # Panics
    /// If the bytes are not exactly those of the shape.
    pub fn new(dtype: DType, dims: Vec<u64>, bytes: impl Into<Buffer>) -> Self {
        let bytes = bytes.into();
        let elements: u64 = dims.iter().product();
        assert_eq!(bytes.len() as u64, dtype.bytes_of(elements), "bytes of a {dtype} tensor of {dims:?}");
        Self { dtype, dims, data: Data::Bytes(bytes) }
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// The bytes; empty for strings.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Bytes(b) => b,
            Data::Strings(_) => &[],
        }
    }
}
