//! Tensor data in JSON: numbers, booleans and strings, nested as the shape says or flat, row-major.
//!
//! The text is known to be valid JSON (serde_json has delimited it), so that what is left is to find the scalars and to
//! read each straight into the tensor's bytes: as a number of the tensor's own type, for a detour over a wider one
//! would round twice. Nothing here recurses.

use std::sync::Arc;

use tandem_ir::DType;
use tandem_onnx::value::{Data, TensorValue};

use super::aligned::Aligned;
use super::oip::{OipError, Shape, datatype, shown};

/// Whether arrays follow the axes.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Flat,
    Nested,
}

/// The scalars of one JSON array, and the shape they must keep to.
struct Scalars<'a> {
    input: &'a str,
    text: &'a str,
    at: usize,
    dims: &'a [u64],
    /// Known from the first scalar on.
    form: Option<Form>,
    /// Members so far of each array that is open.
    open: Vec<u64>,
    /// Scalars seen.
    seen: u64,
}

impl<'a> Scalars<'a> {
    fn new(input: &'a str, text: &'a str, dims: &'a [u64]) -> Result<Self, OipError> {
        let scalars = Self { input, text, at: 0, dims, form: None, open: vec![], seen: 0 };
        if text.starts_with('[') { Ok(scalars) } else { Err(scalars.wrong("an array", kind(text))) }
    }

    fn wrong(&self, expected: impl Into<String>, found: impl Into<String>) -> OipError {
        OipError::Data { input: self.input.to_owned(), expected: expected.into(), found: found.into() }
    }

    /// The scalar that [`Self::next`] gave last is not what it should be.
    fn wrong_element(&self, expected: &str, token: &str) -> OipError {
        OipError::Element {
            input: self.input.to_owned(),
            element: self.seen - 1,
            expected: expected.to_owned(),
            found: shown(token),
        }
    }

    /// The next scalar as it is written, strings with their quotes.
    fn next(&mut self) -> Result<Option<&'a str>, OipError> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b',' | b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                b'[' => self.open()?,
                b']' => self.close()?,
                b'{' => return Err(self.wrong("numbers, booleans or strings in arrays", "an object")),
                _ => {
                    let length =
                        if byte == b'"' { string_length(&bytes[self.at..]) } else { length(&bytes[self.at..]) };
                    let token = &self.text[self.at..self.at + length];
                    self.at += length;
                    self.count()?;
                    return Ok(Some(token));
                }
            }
        }
        Ok(None)
    }

    fn open(&mut self) -> Result<(), OipError> {
        if self.form == Some(Form::Flat) || self.open.len() >= self.dims.len().max(1) {
            return Err(self.misnested());
        }
        if let Some(members) = self.open.last_mut() {
            *members += 1;
        }
        self.open.push(0);
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) -> Result<(), OipError> {
        let members = self.open.pop().unwrap_or(0);
        let axis = self.open.len();
        if self.form == Some(Form::Nested) && members != self.dims[axis] {
            let expected = format!("{} members in each array of axis {axis}", self.dims[axis]);
            return Err(self.wrong(expected, format!("{members} before element {}", self.seen)));
        }
        self.at += 1;
        Ok(())
    }

    fn count(&mut self) -> Result<(), OipError> {
        let depth = self.open.len();
        let rank = self.dims.len();
        let form = *self.form.get_or_insert(if rank > 1 && depth == rank { Form::Nested } else { Form::Flat });
        if depth != if form == Form::Nested { rank } else { 1 } {
            return Err(self.misnested());
        }
        if let Some(members) = self.open.last_mut() {
            *members += 1;
        }
        self.seen += 1;
        Ok(())
    }

    fn misnested(&self) -> OipError {
        let expected = format!("one flat array, or arrays nested as the shape's {} axes", self.dims.len());
        self.wrong(expected, format!("others at element {}", self.seen))
    }

    /// Another one than the shape has room for.
    fn check_room(&self, elements: u64) -> Result<(), OipError> {
        if self.seen > elements { Err(self.miscounted(elements, "more".to_owned())) } else { Ok(()) }
    }

    /// After the last one.
    fn finish(self, elements: u64) -> Result<(), OipError> {
        if self.seen == elements { Ok(()) } else { Err(self.miscounted(elements, self.seen.to_string())) }
    }

    fn miscounted(&self, elements: u64, found: String) -> OipError {
        self.wrong(format!("{elements} elements for shape {}", Shape(self.dims)), found)
    }
}

/// Bytes of a number or a word.
fn length(bytes: &[u8]) -> usize {
    bytes.iter().position(|b| matches!(b, b',' | b']' | b' ' | b'\n' | b'\r' | b'\t')).unwrap_or(bytes.len())
}

/// Bytes of a string with both its quotes.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// What a JSON value is, in words.
fn kind(text: &str) -> &'static str {
    match text.as_bytes().first() {
        Some(b'"') => "a string",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        _ => "a number",
    }
}

/// An element type with a form in JSON.
trait Element: Copy {
    const BYTES: usize;
    /// What is expected where a token is none.
    const EXPECTED: &'static str;
    fn read(token: &str) -> Option<Self>;
    fn put(self, out: &mut Aligned);
}

macro_rules! element {
    ($type:ty, $expected:literal, $token:ident => $read:expr) => {
        impl Element for $type {
            const BYTES: usize = size_of::<$type>();
            const EXPECTED: &'static str = $expected;
            fn read($token: &str) -> Option<Self> {
                $read
            }
            fn put(self, out: &mut Aligned) {
                out.push(&self.to_le_bytes());
            }
        }
    };
}

// JSON's numbers are a part of what the standard library reads; what it reads beyond them is not in valid JSON.
element!(u8, "an integer from 0 to 255", token => token.parse().ok());
element!(u16, "an integer from 0 to 65535", token => token.parse().ok());
element!(u32, "an integer from 0 to 4294967295", token => token.parse().ok());
element!(u64, "an integer from 0 to 18446744073709551615", token => token.parse().ok());
element!(i8, "an integer from -128 to 127", token => token.parse().ok());
element!(i16, "an integer from -32768 to 32767", token => token.parse().ok());
element!(i32, "an integer from -2147483648 to 2147483647", token => token.parse().ok());
element!(i64, "an integer from -9223372036854775808 to 9223372036854775807", token => token.parse().ok());
element!(f32, "a number within the range of FP32", token => token.parse().ok().filter(|n: &f32| n.is_finite()));
element!(f64, "a number within the range of FP64", token => token.parse().ok().filter(|n: &f64| n.is_finite()));

/// Reads the data of an input from the JSON value `text`.
///
/// # Errors
/// Another number of elements than the shape's, other nesting, or an element that is not of the type.
///
/// # Panics
/// May do so if `text` is no valid JSON, or the type is none of the protocol's.
pub(super) fn read(input: &str, text: &str, dtype: DType, dims: &[u64], elements: u64) -> Result<Data, OipError> {
    let scalars = Scalars::new(input, text, dims)?;
    match dtype {
        DType::U8 => numbers::<u8>(scalars, elements),
        DType::U16 => numbers::<u16>(scalars, elements),
        DType::U32 => numbers::<u32>(scalars, elements),
        DType::U64 => numbers::<u64>(scalars, elements),
        DType::I8 => numbers::<i8>(scalars, elements),
        DType::I16 => numbers::<i16>(scalars, elements),
        DType::I32 => numbers::<i32>(scalars, elements),
        DType::I64 => numbers::<i64>(scalars, elements),
        DType::F32 => numbers::<f32>(scalars, elements),
        DType::F64 => numbers::<f64>(scalars, elements),
        DType::Bool => booleans(scalars, elements),
        DType::String => strings(scalars, elements),
        other => Err(OipError::BinaryOnly { tensor: input.to_owned(), dtype: datatype(other).unwrap_or(other.name()) }),
    }
}

/// Room for so many elements, but for no more than the text can hold: each takes a byte and a separator at least.
fn room(scalars: &Scalars<'_>, elements: u64) -> usize {
    (scalars.text.len() / 2 + 1).min(usize::try_from(elements).unwrap_or(usize::MAX))
}

fn numbers<T: Element>(mut scalars: Scalars<'_>, elements: u64) -> Result<Data, OipError> {
    let mut out = Aligned::with_capacity(room(&scalars, elements) * T::BYTES, 0);
    while let Some(token) = scalars.next()? {
        scalars.check_room(elements)?;
        let number = T::read(token).ok_or_else(|| scalars.wrong_element(T::EXPECTED, token))?;
        number.put(&mut out);
    }
    scalars.finish(elements)?;
    Ok(Data::Bytes(out.into_buffer()))
}

fn booleans(mut scalars: Scalars<'_>, elements: u64) -> Result<Data, OipError> {
    let mut out = Aligned::with_capacity(room(&scalars, elements), 0);
    while let Some(token) = scalars.next()? {
        scalars.check_room(elements)?;
        match token {
            "true" => out.push(&[1]),
            "false" => out.push(&[0]),
            _ => return Err(scalars.wrong_element("true or false", token)),
        }
    }
    scalars.finish(elements)?;
    Ok(Data::Bytes(out.into_buffer()))
}

fn strings(mut scalars: Scalars<'_>, elements: u64) -> Result<Data, OipError> {
    let mut out = Vec::with_capacity(room(&scalars, elements));
    while let Some(token) = scalars.next()? {
        scalars.check_room(elements)?;
        let plain = token.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
        let string = match plain {
            Some(plain) if !plain.contains('\\') => Some(plain.as_bytes().to_vec()),
            Some(_) => serde_json::from_str::<String>(token).ok().map(String::into_bytes),
            None => None,
        };
        out.push(string.ok_or_else(|| scalars.wrong_element("a string", token))?);
    }
    scalars.finish(elements)?;
    Ok(Data::Strings(Arc::new(out)))
}

/// Appends the tensor's elements as one flat array, numbers in the shortest form that reads back as the same number.
///
/// # Errors
/// An element without a form in JSON: NaN and infinities, strings that are no UTF-8, types that travel as binary data
/// only.
pub(super) fn write(out: &mut Vec<u8>, output: &str, tensor: &TensorValue) -> Result<(), OipError> {
    match (tensor.dtype, &tensor.data) {
        (DType::U8, _) => list(out, output, tensor, |b| Ok(u8::from_le_bytes(b))),
        (DType::U16, _) => list(out, output, tensor, |b| Ok(u16::from_le_bytes(b))),
        (DType::U32, _) => list(out, output, tensor, |b| Ok(u32::from_le_bytes(b))),
        (DType::U64, _) => list(out, output, tensor, |b| Ok(u64::from_le_bytes(b))),
        (DType::I8, _) => list(out, output, tensor, |b| Ok(i8::from_le_bytes(b))),
        (DType::I16, _) => list(out, output, tensor, |b| Ok(i16::from_le_bytes(b))),
        (DType::I32, _) => list(out, output, tensor, |b| Ok(i32::from_le_bytes(b))),
        (DType::I64, _) => list(out, output, tensor, |b| Ok(i64::from_le_bytes(b))),
        (DType::Bool, _) => list(out, output, tensor, |[b]| Ok(b != 0)),
        (DType::F32, _) => list(out, output, tensor, |b| {
            let number = f32::from_le_bytes(b);
            if number.is_finite() { Ok(number) } else { Err(not_finite(number.is_nan())) }
        }),
        (DType::F64, _) => list(out, output, tensor, |b| {
            let number = f64::from_le_bytes(b);
            if number.is_finite() { Ok(number) } else { Err(not_finite(number.is_nan())) }
        }),
        (DType::String, Data::Strings(strings)) => {
            let texts = strings.iter().map(|s| std::str::from_utf8(s).map_err(|_| "no UTF-8"));
            members(out, output, texts)
        }
        (other, _) => {
            Err(OipError::BinaryOnly { tensor: output.to_owned(), dtype: datatype(other).unwrap_or(other.name()) })
        }
    }
}

fn not_finite(is_nan: bool) -> &'static str {
    if is_nan { "NaN" } else { "infinite" }
}

/// Elements of `N` bytes.
fn list<T: serde::Serialize, const N: usize>(
    out: &mut Vec<u8>,
    output: &str,
    tensor: &TensorValue,
    read: impl Fn([u8; N]) -> Result<T, &'static str>,
) -> Result<(), OipError> {
    members(out, output, tensor.bytes().as_chunks().0.iter().map(|chunk| read(*chunk)))
}

fn members<T: serde::Serialize>(
    out: &mut Vec<u8>,
    output: &str,
    all: impl Iterator<Item = Result<T, &'static str>>,
) -> Result<(), OipError> {
    out.push(b'[');
    for (i, member) in all.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let not_in_json = |found| OipError::NotInJson { output: output.to_owned(), element: i as u64, found };
        let member = member.map_err(not_in_json)?;
        serde_json::to_writer(&mut *out, &member).expect("numbers and text are written to memory without fail");
    }
    out.push(b']');
    Ok(())
}

#[cfg(test)]
mod tests;
