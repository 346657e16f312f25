//! TensorProto to plain bytes: one layout (packed little-endian) whatever field the file used, checked against the shape.

use std::sync::{Arc, OnceLock};

use tandem_ir::DType;
use tandem_ir::limits::CONSTANT_VALUES_MAX;
use tandem_onnx_proto::{Blob, GraphProto, SparseTensorProto, TensorProto, data_location};

use crate::fault::Fault;
use crate::value::{Buffer, Data, TensorValue};

/// Alignment of copied weights: a cache line, which every engine's vector loads are content with.
const ALIGNMENT: usize = 64;

/// Bytes of a dense form that a sparse constant may take when its value is asked for.
const SPARSE_BYTES_MAX: u64 = 256 << 20;

/// Bytes that the dense form of a sparse constant may count: engines will make it, so more is a mistake.
const SPARSE_DENSE_BYTES_MAX: u64 = 1 << 40;

/// Type and shape of a tensor; dims are not negative and their product, in bytes, fits 63 bits.
pub(crate) fn shape(tensor: &TensorProto, place: &str) -> Result<(DType, Vec<u64>, u64), Fault> {
    let fault = |field, expected: &str, found: String| Fault::tensor(&tensor.name, place, field, expected, found);
    let Some(dtype) = DType::from_onnx_code(tensor.data_type) else {
        return Err(fault("data_type", "an element type of ONNX IR 13 (1 to 26)", tensor.data_type.to_string()));
    };
    if tensor.segment.is_some() {
        return Err(fault("segment", "a whole tensor", "a part of one".into()));
    }
    let (dims, elements) = sizes(&tensor.dims).ok_or_else(|| {
        fault("dims", "sizes from 0 whose product is below 2^56", format!("{:?}", Shown(&tensor.dims)))
    })?;
    Ok((dtype, dims, elements))
}

/// Dims as sizes, and their product; `None` for a negative one and where bits of the widest type would not be counted
/// in 64 bits.
pub(crate) fn sizes(dims: &[i64]) -> Option<(Vec<u64>, u64)> {
    let sizes: Vec<u64> = dims.iter().map(|d| u64::try_from(*d).ok()).collect::<Option<_>>()?;
    // Zeros are looked past, so that a product in any order is safe ever after.
    let most = sizes.iter().try_fold(1u64, |a, d| a.checked_mul((*d).max(1))).filter(|n| *n < 1 << 56)?;
    let elements = if sizes.contains(&0) { 0 } else { most };
    Some((sizes, elements))
}

/// At most eight sizes, for messages.
struct Shown<'a>(&'a [i64]);

impl std::fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let more = self.0.len() > 8;
        write!(f, "{:?}{}", &self.0[..self.0.len().min(8)], if more { ".." } else { "" })
    }
}

/// Brings a tensor into the one layout: contents in `raw_data` (strings: `string_data`), no external reference.
/// `external` is asked for external contents.
pub(crate) fn normalize(
    tensor: &mut TensorProto,
    place: &str,
    external: &mut dyn FnMut(&TensorProto, u64) -> Result<Blob, Fault>,
) -> Result<(), Fault> {
    let (dtype, _, elements) = shape(tensor, place)?;
    let fault = |t: &TensorProto, field, expected: String, found: String| {
        Err(Fault::tensor(&t.name, place, field, expected, found))
    };
    if tensor.data_location == data_location::EXTERNAL {
        if dtype == DType::String {
            return fault(tensor, "data_location", "strings in the file itself".into(), "external data".into());
        }
        let blob = external(tensor, dtype.bytes_of(elements))?;
        tensor.raw_data = Some(blob);
        tensor.data_location = data_location::DEFAULT;
        tensor.external_data.clear();
        return Ok(());
    }
    if dtype == DType::String {
        let found = tensor.string_data.len() as u64;
        if found != elements {
            return fault(tensor, "string_data", format!("{elements} strings"), found.to_string());
        }
        return Ok(());
    }
    let bytes = dtype.bytes_of(elements);
    if let Some(raw) = &tensor.raw_data {
        let found = raw.len() as u64;
        if found != bytes {
            let expected = format!("{bytes} bytes for {dtype}{:?}", Shown(&tensor.dims));
            return fault(tensor, "raw_data", expected, format!("{found} bytes"));
        }
        return Ok(());
    }
    let (field, raw) = typed(tensor, dtype);
    if raw.len() as u64 != bytes {
        let expected = format!("values of {bytes} bytes together for {dtype}{:?}", Shown(&tensor.dims));
        return fault(tensor, field, expected, format!("{} bytes", raw.len()));
    }
    tensor.raw_data = Some(raw.into());
    Ok(())
}

/// Takes the typed field that the element type uses, as little-endian bytes, and the field's name.
fn typed(tensor: &mut TensorProto, dtype: DType) -> (&'static str, Vec<u8>) {
    use DType::*;
    // Room is taken once: these lists may be most of the memory.
    fn bytes<T: Copy, const N: usize>(values: Vec<T>, to: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        let mut out = Vec::with_capacity(values.len() * N);
        values.iter().for_each(|v| out.extend_from_slice(&to(*v)));
        out
    }
    match dtype {
        F32 | Complex64 => ("float_data", bytes(std::mem::take(&mut tensor.float_data), f32::to_le_bytes)),
        F64 | Complex128 => ("double_data", bytes(std::mem::take(&mut tensor.double_data), f64::to_le_bytes)),
        I64 => ("int64_data", bytes(std::mem::take(&mut tensor.int64_data), i64::to_le_bytes)),
        U64 => ("uint64_data", bytes(std::mem::take(&mut tensor.uint64_data), u64::to_le_bytes)),
        // The low bits are the value: the standard says that higher ones are not used.
        U32 => ("uint64_data", bytes(std::mem::take(&mut tensor.uint64_data), |v| (v as u32).to_le_bytes())),
        I32 => ("int32_data", bytes(std::mem::take(&mut tensor.int32_data), i32::to_le_bytes)),
        I16 | U16 | F16 | BF16 => {
            ("int32_data", bytes(std::mem::take(&mut tensor.int32_data), |v| (v as u16).to_le_bytes()))
        }
        // Types under 8 bits come packed, a byte an entry.
        _ => ("int32_data", bytes(std::mem::take(&mut tensor.int32_data), |v| [v as u8])),
    }
}

/// A constant of a model, in the one layout. Clones share the contents.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) dtype: DType,
    pub(crate) dims: Vec<u64>,
    pub(crate) content: Content,
    aligned: OnceLock<Buffer>,
}

#[derive(Clone)]
pub(crate) enum Content {
    Bytes(Blob),
    Strings(Vec<Blob>),
    /// Kept as the file has it, for engines to expand.
    Sparse(Box<SparseTensorProto>),
}

impl Held {
    /// A tensor that [`normalize`] accepted.
    pub(crate) fn dense(tensor: TensorProto, place: &str) -> Result<Self, Fault> {
        let (dtype, dims, _) = shape(&tensor, place)?;
        let content = match dtype {
            DType::String => Content::Strings(tensor.string_data),
            _ => Content::Bytes(tensor.raw_data.unwrap_or_default()),
        };
        Ok(Self { dtype, dims, content, aligned: OnceLock::new() })
    }

    /// A sparse tensor that [`sparse`] accepted.
    pub(crate) fn sparse(tensor: SparseTensorProto, dtype: DType, dims: Vec<u64>) -> Self {
        Self { dtype, dims, content: Content::Sparse(Box::new(tensor)), aligned: OnceLock::new() }
    }

    /// Bytes as a dense tensor; of strings, their lengths.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.content {
            Content::Bytes(blob) => blob.len() as u64,
            Content::Strings(strings) => strings.iter().map(|s| s.len() as u64).sum(),
            Content::Sparse(_) => self.dtype.bytes_of(self.dims.iter().fold(1u64, |a, d| a.saturating_mul(*d))),
        }
    }

    /// The elements, if they are few and integers or booleans.
    pub(crate) fn small_integers(&self) -> Option<Vec<i64>> {
        let Content::Bytes(blob) = &self.content else { return None };
        let elements = self.dims.iter().product::<u64>();
        if elements > CONSTANT_VALUES_MAX as u64 {
            return None;
        }
        integers(self.dtype, blob, elements as usize)
    }

    /// The bytes, aligned to the element's size: the file's own where they are, else one copy that is kept.
    pub(crate) fn buffer(&self) -> Option<Buffer> {
        let Content::Bytes(blob) = &self.content else { return None };
        let align = usize::try_from(self.dtype.bits() / 8).unwrap_or(1).clamp(1, 8);
        if blob.as_ptr().align_offset(align) == 0 {
            return Some(Buffer::shared(Arc::new(blob.clone())));
        }
        Some(self.aligned.get_or_init(|| Buffer::shared(Arc::new(Aligned::copy(blob)))).clone())
    }

    /// Adds it to a graph as an initialiser, with its contents.
    pub(crate) fn add_to(&self, name: &str, graph: &mut GraphProto) {
        let dims = self.dims.iter().map(|d| *d as i64).collect();
        let tensor =
            TensorProto { name: name.to_owned(), dims, data_type: self.dtype.onnx_code(), ..Default::default() };
        match &self.content {
            Content::Bytes(blob) => graph.initializer.push(TensorProto { raw_data: Some(blob.clone()), ..tensor }),
            Content::Strings(list) => {
                graph.initializer.push(TensorProto { string_data: list.clone(), ..tensor });
            }
            Content::Sparse(sparse) => {
                let values = sparse.values.clone().map(|v| Box::new(TensorProto { name: name.to_owned(), ..*v }));
                graph.sparse_initializer.push(SparseTensorProto { values, ..(**sparse).clone() });
            }
        }
    }

    /// The value; `None` for a sparse one that would be too large as a dense one.
    pub(crate) fn value(&self) -> Option<TensorValue> {
        let data = match &self.content {
            Content::Bytes(_) => Data::Bytes(self.buffer()?),
            Content::Strings(strings) => Data::Strings(Arc::new(strings.iter().map(|s| s.to_vec()).collect())),
            Content::Sparse(sparse) => Data::Bytes(expand(sparse, self.dtype, &self.dims)?.into()),
        };
        Some(TensorValue { dtype: self.dtype, dims: self.dims.clone(), data })
    }
}

/// A copy of bytes that starts at a multiple of [`ALIGNMENT`].
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn copy(source: &[u8]) -> Self {
        let mut bytes: Vec<u8> = Vec::with_capacity(source.len() + ALIGNMENT);
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        bytes.resize(start, 0);
        bytes.extend_from_slice(source);
        Self { bytes, start, len: source.len() }
    }
}

impl AsRef<[u8]> for Aligned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

/// `count` packed elements as integers; `None` for other types and for values above `i64`.
pub(crate) fn integers(dtype: DType, raw: &[u8], count: usize) -> Option<Vec<i64>> {
    use DType::*;
    let wide = |width: usize, to: &dyn Fn(&[u8]) -> Option<i64>| raw.chunks_exact(width).map(to).collect();
    let narrow = |bits: usize, signed: bool| {
        let value = |i: usize| {
            let byte = i64::from(*raw.get(i * bits / 8)?);
            let v = byte >> (i * bits % 8) & ((1 << bits) - 1);
            Some(if signed && v >> (bits - 1) == 1 { v - (1 << bits) } else { v })
        };
        (0..count).map(value).collect()
    };
    match dtype {
        Bool | U8 => wide(1, &|b| Some(i64::from(b[0]))),
        I8 => wide(1, &|b| Some(i64::from(b[0] as i8))),
        U16 => wide(2, &|b| Some(i64::from(u16::from_le_bytes(b.try_into().ok()?)))),
        I16 => wide(2, &|b| Some(i64::from(i16::from_le_bytes(b.try_into().ok()?)))),
        U32 => wide(4, &|b| Some(i64::from(u32::from_le_bytes(b.try_into().ok()?)))),
        I32 => wide(4, &|b| Some(i64::from(i32::from_le_bytes(b.try_into().ok()?)))),
        U64 => wide(8, &|b| i64::try_from(u64::from_le_bytes(b.try_into().ok()?)).ok()),
        I64 => wide(8, &|b| Some(i64::from_le_bytes(b.try_into().ok()?))),
        U4 => narrow(4, false),
        I4 => narrow(4, true),
        U2 => narrow(2, false),
        I2 => narrow(2, true),
        _ => None,
    }
}

/// Checks a sparse tensor whose parts [`normalize`] accepted: type and shape of the whole.
pub(crate) fn sparse(tensor: &SparseTensorProto, place: &str) -> Result<(DType, Vec<u64>), Fault> {
    let name = tensor.values.as_ref().map_or("", |v| v.name.as_str());
    let fault = |field, expected: String, found: String| Err(Fault::tensor(name, place, field, expected, found));
    let (Some(values), Some(indices)) = (&tensor.values, &tensor.indices) else {
        return fault("values and indices", "both".into(), "one missing".into());
    };
    let (dtype, value_dims, count) = shape(values, place)?;
    let Some((dims, elements)) = sizes(&tensor.dims) else {
        return fault("dims", "sizes from 0".into(), format!("{:?}", Shown(&tensor.dims)));
    };
    if dtype.bytes_of(elements) > SPARSE_DENSE_BYTES_MAX {
        let found = format!("{:?}", Shown(&tensor.dims));
        return fault("dims", format!("at most {SPARSE_DENSE_BYTES_MAX} bytes as a dense tensor"), found);
    }
    let (index_type, index_dims, _) = shape(indices, place)?;
    let linear = index_dims == [count];
    if value_dims.len() != 1 || index_type != DType::I64 || !(linear || index_dims == [count, dims.len() as u64]) {
        let expected = format!("i64[{count}] or i64[{count}x{}]", dims.len());
        return fault("indices", expected, format!("{index_type}{index_dims:?}"));
    }
    let raw = indices.raw_data.as_deref().unwrap_or_default();
    let outside = |(i, b): (usize, &[u8])| {
        let index = i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        let bound = if linear { elements } else { dims[i % dims.len()] };
        (!u64::try_from(index).is_ok_and(|index| index < bound)).then_some((index, bound))
    };
    match raw.chunks_exact(8).enumerate().find_map(outside) {
        Some((index, bound)) => fault("indices", format!("positions from 0 below {bound}"), index.to_string()),
        None => Ok((dtype, dims)),
    }
}

/// A checked sparse tensor as dense bytes; `None` where it would be too large, or of strings or packed types.
fn expand(tensor: &SparseTensorProto, dtype: DType, dims: &[u64]) -> Option<Vec<u8>> {
    let width = usize::try_from(dtype.bits() / 8).ok().filter(|w| *w > 0)?;
    let bytes = dtype.bytes_of(dims.iter().product());
    if bytes > SPARSE_BYTES_MAX {
        return None;
    }
    let values = tensor.values.as_ref()?.raw_data.as_deref()?;
    let indices = tensor.indices.as_ref()?;
    let raw = indices.raw_data.as_deref().unwrap_or_default();
    let index = |b: &[u8]| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as usize;
    let coordinates = if indices.dims.len() == 2 { dims.len() } else { 1 };
    if coordinates == 0 {
        return None;
    }
    let mut out = vec![0; bytes as usize];
    for (value, at) in values.chunks_exact(width).zip(raw.chunks_exact(8 * coordinates)) {
        let linear = match coordinates {
            1 => index(at),
            _ => at.chunks_exact(8).zip(dims).fold(0, |a, (i, d)| a * *d as usize + index(i)),
        };
        out.get_mut(linear * width..(linear + 1) * width)?.copy_from_slice(value);
    }
    Some(out)
}
