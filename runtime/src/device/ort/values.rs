//! Values of every kind, from our memory to ONNX Runtime's and back.
//!
//! Tensors of numbers are lent (in) and owned where they lie (out). Strings, and the elements of sequences and maps on
//! their way out, are copied, for the interface offers nothing else.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::null_mut;
use std::sync::Arc;

use tandem_ir::DType;
use tandem_onnx::literal;
use tandem_onnx::value::{Buffer, Data, TensorValue, Value};

use super::Inner;
use super::raw::{self, Owned, api, check, failed, sys, unsupported};
use crate::engine::EngineError;

/// Depth of nested sequences, optionals and maps. ONNX Runtime's own types nest at most three deep.
const NESTING_MAX: usize = 8;

/// The type of an input or output as a session declares it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum PortKind {
    /// A dense tensor of this element type.
    Tensor(Option<DType>),
    /// A sequence.
    Sequence(Box<PortKind>),
    /// A value or nothing.
    Optional(Box<PortKind>),
    /// Something else: maps, sparse and opaque values.
    Other,
}

/// Inputs or outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Input,
    Output,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Side::Input { "input" } else { "output" })
    }
}

/// All inputs or outputs of a session, by name.
pub(super) fn declared(session: &Owned<sys::OrtSession>, side: Side) -> Result<HashMap<String, PortKind>, EngineError> {
    let (count_of, name_of, type_of) = match side {
        Side::Input => (api().SessionGetInputCount, api().SessionGetInputName, api().SessionGetInputTypeInfo),
        Side::Output => (api().SessionGetOutputCount, api().SessionGetOutputName, api().SessionGetOutputTypeInfo),
    };
    let mut count = 0;
    // SAFETY (and below): the session lives, the index is below the count, results are written by the calls.
    check(unsafe { count_of(session.ptr(), &mut count) })?;
    let mut found = HashMap::with_capacity(count);
    for i in 0..count {
        let (mut name, mut info) = (null_mut(), null_mut());
        check(unsafe { name_of(session.ptr(), i, raw::allocator()?, &mut name) })?;
        let name = raw::c_string(name)?;
        check(unsafe { type_of(session.ptr(), i, &mut info) })?;
        let info = Owned::new(info, api().ReleaseTypeInfo)?;
        found.insert(name, port_kind(&info, 0)?);
    }
    Ok(found)
}

fn port_kind(info: &Owned<sys::OrtTypeInfo>, depth: usize) -> Result<PortKind, EngineError> {
    if depth > NESTING_MAX {
        return Ok(PortKind::Other);
    }
    let mut kind = 0i32;
    // SAFETY (and below): the description lives; enumerations are read as the integers they are in C, for a later
    // library may know more of them; casts inside a description give borrowed pointers.
    check(unsafe { (api().GetOnnxTypeFromTypeInfo)(info.ptr(), (&raw mut kind).cast()) })?;
    if kind == sys::ONNXType::ONNX_TYPE_TENSOR as i32 {
        let (mut tensor, mut code) = (std::ptr::null(), 0i32);
        check(unsafe { (api().CastTypeInfoToTensorInfo)(info.ptr(), &mut tensor) })?;
        check(unsafe { (api().GetTensorElementType)(tensor, (&raw mut code).cast()) })?;
        return Ok(PortKind::Tensor(dtype_of(code)));
    }
    let mut inner = null_mut();
    if kind == sys::ONNXType::ONNX_TYPE_SEQUENCE as i32 {
        let mut sequence = std::ptr::null();
        check(unsafe { (api().CastTypeInfoToSequenceTypeInfo)(info.ptr(), &mut sequence) })?;
        check(unsafe { (api().GetSequenceElementType)(sequence, &mut inner) })?;
        let inner = Owned::new(inner, api().ReleaseTypeInfo)?;
        return Ok(PortKind::Sequence(Box::new(port_kind(&inner, depth + 1)?)));
    }
    if kind == sys::ONNXType::ONNX_TYPE_OPTIONAL as i32 {
        let mut optional = std::ptr::null();
        check(unsafe { (api().CastTypeInfoToOptionalTypeInfo)(info.ptr(), &mut optional) })?;
        check(unsafe { (api().GetOptionalContainedTypeInfo)(optional, &mut inner) })?;
        let inner = Owned::new(inner, api().ReleaseTypeInfo)?;
        return Ok(PortKind::Optional(Box::new(port_kind(&inner, depth + 1)?)));
    }
    Ok(PortKind::Other)
}

/// A value lent to ONNX Runtime: valid while the value it was made from lives.
pub(super) struct Feed<'a> {
    value: Owned<sys::OrtValue>,
    _lender: PhantomData<&'a Value>,
}

impl Feed<'_> {
    pub(super) fn ptr(&self) -> *mut sys::OrtValue {
        self.value.ptr()
    }
}

/// Lends a value to an input of the given type. `None` for an optional without a value: the input is left out of the
/// run, which is how ONNX Runtime takes it (fed as a value without contents, version 1.31 reads through a null
/// pointer).
pub(super) fn feed<'a>(value: &'a Value, kind: &PortKind) -> Result<Option<Feed<'a>>, EngineError> {
    if *value == Value::Optional(None) {
        let declared = matches!(kind, PortKind::Optional(_));
        return if declared { Ok(None) } else { Err(failed("expected a value, found an optional without one")) };
    }
    Ok(Some(Feed { value: feed_raw(value, kind, 0)?, _lender: PhantomData }))
}

fn feed_raw(value: &Value, kind: &PortKind, depth: usize) -> Result<Owned<sys::OrtValue>, EngineError> {
    if depth > NESTING_MAX {
        return Err(unsupported(format!("a value nested more than {NESTING_MAX} deep")));
    }
    let inner = match kind {
        PortKind::Sequence(inner) | PortKind::Optional(inner) => inner,
        _ => kind,
    };
    match value {
        Value::Tensor(tensor) => lend_tensor(tensor),
        Value::Optional(Some(held)) => feed_raw(held, inner, depth + 1),
        Value::Optional(None) => Err(unsupported("an optional without a value inside another value")),
        Value::Sequence(items) if items.is_empty() => {
            let kind = if let PortKind::Optional(inner) = kind { inner } else { kind };
            let PortKind::Sequence(element) = kind else {
                return Err(failed("expected no sequence, found an empty one"));
            };
            match **element {
                PortKind::Tensor(Some(dtype)) => super::make_by_model(&literal::empty_sequence(dtype), literal::OUTPUT),
                _ => Err(unsupported("an empty sequence of anything but tensors")),
            }
        }
        Value::Sequence(items) => {
            let made: Result<Vec<_>, _> = items.iter().map(|item| feed_raw(item, inner, depth + 1)).collect();
            group(&made?, sys::ONNXType::ONNX_TYPE_SEQUENCE)
        }
        Value::Map(pairs) => {
            let keys = column(pairs.iter().map(|(key, _)| key))?;
            let values = column(pairs.iter().map(|(_, value)| value))?;
            // The tensors are copied into the map, so that lending them from here is enough.
            group(&[lend_tensor(&keys)?, lend_tensor(&values)?], sys::ONNXType::ONNX_TYPE_MAP)
        }
    }
}

fn group(members: &[Owned<sys::OrtValue>], kind: sys::ONNXType) -> Result<Owned<sys::OrtValue>, EngineError> {
    let pointers: Vec<_> = members.iter().map(|m| m.ptr().cast_const()).collect();
    let mut made = null_mut();
    // SAFETY: the members live through the call, which takes its own references.
    check(unsafe { (api().CreateValue)(pointers.as_ptr(), pointers.len(), kind, &mut made) })?;
    Owned::new(made, api().ReleaseValue)
}

/// Scalars as one tensor of one axis.
fn column<'a>(scalars: impl Iterator<Item = &'a Value>) -> Result<TensorValue, EngineError> {
    let (mut dtype, mut bytes, mut strings, mut count) = (None, vec![], vec![], 0u64);
    for scalar in scalars {
        let Value::Tensor(tensor) = scalar else { return Err(unsupported("a map of anything but scalars")) };
        if tensor.elements() != 1 || *dtype.get_or_insert(tensor.dtype) != tensor.dtype {
            return Err(failed("keys and values of a map are single elements of one type each"));
        }
        match &tensor.data {
            Data::Bytes(one) => bytes.extend_from_slice(one),
            Data::Strings(one) => strings.extend(one.iter().cloned()),
        }
        count += 1;
    }
    let dtype = dtype.ok_or_else(|| unsupported("an empty map"))?;
    let data = if dtype == DType::String { Data::Strings(Arc::new(strings)) } else { Data::Bytes(bytes.into()) };
    Ok(TensorValue { dtype, dims: vec![count], data })
}

/// A tensor over our memory, or a copy of it where ONNX Runtime has to own it: strings, and what is not aligned.
fn lend_tensor(tensor: &TensorValue) -> Result<Owned<sys::OrtValue>, EngineError> {
    let dims = signed(&tensor.dims)?;
    match &tensor.data {
        Data::Strings(strings) => {
            if strings.len() as u64 != tensor.elements() {
                return Err(failed(format!("{} strings for a shape of {:?}", strings.len(), tensor.dims)));
            }
            let made = new_tensor(DType::String, &dims)?;
            for (i, text) in strings.iter().enumerate() {
                write_string(&made, i, text)?;
            }
            Ok(made)
        }
        Data::Bytes(bytes) => lend_bytes(tensor.dtype, &dims, tensor.elements(), bytes),
    }
}

fn lend_bytes(dtype: DType, dims: &[i64], elements: u64, bytes: &[u8]) -> Result<Owned<sys::OrtValue>, EngineError> {
    if dtype == DType::String || bytes.len() as u64 != dtype.bytes_of(elements) {
        return Err(failed(format!("{} bytes for {elements} elements of {dtype}", bytes.len())));
    }
    let align = (dtype.bits() / 8).clamp(1, 8) as usize;
    if bytes.as_ptr().addr().is_multiple_of(align) {
        let mut made = null_mut();
        let data = bytes.as_ptr().cast_mut().cast();
        // SAFETY: the caller keeps the bytes alive while the value is used, and they are as many as the shape says.
        // ONNX Runtime does not write to inputs and initialisers, though its interface takes a pointer to mutable
        // memory.
        check(unsafe {
            let (host, code) = (raw::host()?, code_of(dtype));
            let (shape, rank) = (dims.as_ptr(), dims.len());
            (api().CreateTensorWithDataAsOrtValue)(host, data, bytes.len(), shape, rank, code, &mut made)
        })?;
        return Owned::new(made, api().ReleaseValue);
    }
    let made = new_tensor(dtype, dims)?;
    let mut data = null_mut();
    // SAFETY: the tensor was just made with room for exactly these bytes.
    unsafe {
        check((api().GetTensorMutableData)(made.ptr(), &mut data))?;
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), data.cast::<u8>(), bytes.len());
    }
    Ok(made)
}

fn new_tensor(dtype: DType, dims: &[i64]) -> Result<Owned<sys::OrtValue>, EngineError> {
    let mut made = null_mut();
    // SAFETY: the shape lives through the call.
    check(unsafe {
        (api().CreateTensorAsOrtValue)(raw::allocator()?, dims.as_ptr(), dims.len(), code_of(dtype), &mut made)
    })?;
    Owned::new(made, api().ReleaseValue)
}

/// Sets an element, NUL bytes included (the interface's own fillers stop at the first).
fn write_string(tensor: &Owned<sys::OrtValue>, index: usize, text: &[u8]) -> Result<(), EngineError> {
    let mut room = null_mut();
    // SAFETY: the index is below the tensor's size, and the call gives room for the text's length.
    unsafe {
        check((api().GetResizedStringTensorElementBuffer)(tensor.ptr(), index, text.len(), &mut room))?;
        if !text.is_empty() {
            std::ptr::copy_nonoverlapping(text.as_ptr(), room.cast::<u8>(), text.len());
        }
    }
    Ok(())
}

pub(super) fn signed(dims: &[u64]) -> Result<Vec<i64>, EngineError> {
    let convert = |d: &u64| i64::try_from(*d).map_err(|_| failed(format!("a size of {d}")));
    dims.iter().map(convert).collect()
}

/// Takes over a value that a run made.
pub(super) fn take(
    value: Owned<sys::OrtValue>,
    kind: &PortKind,
    session: &Arc<Inner>,
    inputs: &[Value],
) -> Result<Value, EngineError> {
    let mut present = 0;
    // SAFETY: the value lives.
    check(unsafe { (api().HasValue)(value.ptr(), &mut present) })?;
    if present == 0 {
        return Ok(Value::Optional(None));
    }
    match kind {
        PortKind::Optional(inner) => Ok(Value::Optional(Some(Box::new(take(value, inner, session, inputs)?)))),
        _ => take_present(value, session, inputs, 0),
    }
}

fn take_present(
    value: Owned<sys::OrtValue>,
    session: &Arc<Inner>,
    inputs: &[Value],
    depth: usize,
) -> Result<Value, EngineError> {
    let mut kind = 0i32;
    // SAFETY (and below): the value lives; the kind is read as the integer it is in C; members are below the count.
    check(unsafe { (api().GetValueType)(value.ptr(), (&raw mut kind).cast()) })?;
    if kind == sys::ONNXType::ONNX_TYPE_TENSOR as i32 {
        return take_tensor(value, session, inputs).map(Value::Tensor);
    }
    let sequence = kind == sys::ONNXType::ONNX_TYPE_SEQUENCE as i32;
    if depth > NESTING_MAX || !(sequence || kind == sys::ONNXType::ONNX_TYPE_MAP as i32) {
        return Err(unsupported(format!("a value of kind {kind} (sparse or opaque)")));
    }
    let mut count = 0;
    check(unsafe { (api().GetValueCount)(value.ptr(), &mut count) })?;
    let mut members = Vec::with_capacity(count);
    for i in 0..i32::try_from(count).map_err(|_| failed("too many members"))? {
        let mut member = null_mut();
        check(unsafe { (api().GetValue)(value.ptr(), i, raw::allocator()?, &mut member) })?;
        let member = Owned::new(member, api().ReleaseValue)?;
        members.push(take_present(member, session, inputs, depth + 1)?);
    }
    if sequence {
        return Ok(Value::Sequence(members));
    }
    match <[Value; 2]>::try_from(members) {
        Ok([Value::Tensor(keys), Value::Tensor(values)]) => {
            Ok(Value::Map(scalars(&keys).into_iter().zip(scalars(&values)).collect()))
        }
        _ => Err(unsupported("a map of anything but scalars")),
    }
}

/// Each element as a value without axes.
fn scalars(tensor: &TensorValue) -> Vec<Value> {
    let one = |data| Value::Tensor(TensorValue { dtype: tensor.dtype, dims: vec![], data });
    match &tensor.data {
        Data::Strings(strings) => strings.iter().map(|s| one(Data::Strings(Arc::new(vec![s.clone()])))).collect(),
        Data::Bytes(bytes) => {
            let size = (tensor.dtype.bits() / 8).max(1) as usize;
            bytes.chunks_exact(size).map(|c| one(Data::Bytes(c.to_vec().into()))).collect()
        }
    }
}

/// Element type and shape of a tensor.
pub(super) fn shape(value: &Owned<sys::OrtValue>) -> Result<(DType, Vec<u64>), EngineError> {
    let (mut code, mut shape, mut rank) = (0i32, std::ptr::null(), 0usize);
    // SAFETY: the value lives and is a tensor; the code is read as the integer it is in C. The shape is the value's
    // own.
    let dims: Vec<u64> = unsafe {
        check((api().GetTensorElementTypeAndShapeDataReference)(
            value.ptr(),
            (&raw mut code).cast(),
            &mut shape,
            &mut rank,
        ))?;
        let shape = if rank == 0 { &[] } else { std::slice::from_raw_parts(shape, rank) };
        shape.iter().map(|d| u64::try_from(*d).unwrap_or(0)).collect()
    };
    let dtype = dtype_of(code).ok_or_else(|| unsupported(format!("element type {code}")))?;
    Ok((dtype, dims))
}

fn take_tensor(
    value: Owned<sys::OrtValue>,
    session: &Arc<Inner>,
    inputs: &[Value],
) -> Result<TensorValue, EngineError> {
    let (dtype, dims) = shape(&value)?;
    let elements: u64 = dims.iter().product();
    if dtype == DType::String {
        let data = Data::Strings(Arc::new(read_strings(&value, elements as usize)?));
        return Ok(TensorValue { dtype, dims, data });
    }
    let mut data = std::ptr::null();
    // SAFETY: the value lives and is a tensor of fixed-size elements.
    check(unsafe { (api().GetTensorData)(value.ptr(), &mut data) })?;
    let memory =
        Memory { data: data.cast(), len: dtype.bytes_of(elements) as usize, _value: value, _session: session.clone() };
    // An output that is an input comes back as the caller's own memory, which nothing here keeps alive.
    let lent = inputs.iter().any(|input| lies_in(input, memory.data));
    let data: Buffer = if lent { memory.as_ref().to_vec().into() } else { Buffer::shared(Arc::new(memory)) };
    Ok(TensorValue { dtype, dims, data: Data::Bytes(data) })
}

fn lies_in(value: &Value, data: *const u8) -> bool {
    match value {
        Value::Tensor(tensor) => tensor.bytes().as_ptr_range().contains(&data),
        Value::Sequence(items) => items.iter().any(|item| lies_in(item, data)),
        Value::Optional(held) => held.as_ref().is_some_and(|held| lies_in(held, data)),
        Value::Map(_) => false,
    }
}

fn read_strings(value: &Owned<sys::OrtValue>, count: usize) -> Result<Vec<Vec<u8>>, EngineError> {
    if count == 0 {
        return Ok(vec![]);
    }
    let mut len = 0;
    // SAFETY: the value lives and is a tensor of `count` strings; the buffers have the stated lengths.
    check(unsafe { (api().GetStringTensorDataLength)(value.ptr(), &mut len) })?;
    let (mut text, mut starts) = (vec![0u8; len], vec![0usize; count]);
    check(unsafe {
        (api().GetStringTensorContent)(value.ptr(), text.as_mut_ptr().cast(), len, starts.as_mut_ptr(), count)
    })?;
    let ends = starts.iter().skip(1).copied().chain([len]);
    let cut = |(from, to): (&usize, usize)| text.get(*from..to).map(<[u8]>::to_vec);
    let strings: Option<Vec<_>> = starts.iter().zip(ends).map(cut).collect();
    strings.ok_or_else(|| failed("offsets of strings beyond their text"))
}

/// An output's memory: the value, and the session it may lie in (an initialiser handed back).
struct Memory {
    data: *const u8,
    len: usize,
    _value: Owned<sys::OrtValue>,
    _session: Arc<Inner>,
}

// SAFETY: the memory is only read, and lives as long as the value, whichever thread drops it.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        if self.len == 0 || self.data.is_null() {
            return &[];
        }
        // SAFETY: the value owns `len` bytes here, as its shape and type say, and nobody writes to them any more.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

macro_rules! codes {
    ($($dtype:ident $code:ident,)*) => {
        /// The interface's element type. Its codes are not ONNX's from 23 on.
        pub(super) fn code_of(dtype: DType) -> sys::ONNXTensorElementDataType {
            match dtype { $(DType::$dtype => sys::ONNXTensorElementDataType::$code,)* }
        }

        fn dtype_of(code: i32) -> Option<DType> {
            $(if code == sys::ONNXTensorElementDataType::$code as i32 { return Some(DType::$dtype); })*
            None
        }
    };
}

codes! {
    F32 ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
    U8 ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
    I8 ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
    U16 ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
    I16 ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
    I32 ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
    I64 ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
    String ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
    Bool ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
    F16 ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
    F64 ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
    U32 ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
    U64 ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
    Complex64 ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX64,
    Complex128 ONNX_TENSOR_ELEMENT_DATA_TYPE_COMPLEX128,
    BF16 ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
    F8E4M3FN ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FN,
    F8E4M3FNUZ ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E4M3FNUZ,
    F8E5M2 ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2,
    F8E5M2FNUZ ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E5M2FNUZ,
    U4 ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT4,
    I4 ONNX_TENSOR_ELEMENT_DATA_TYPE_INT4,
    F4E2M1 ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT4E2M1,
    F8E8M0 ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT8E8M0,
    U2 ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT2,
    I2 ONNX_TENSOR_ELEMENT_DATA_TYPE_INT2,
}
