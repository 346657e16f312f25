//! The `.npy` format (numpy's NEP 1, versions 1 to 3): one array, as a text header and its elements.
//!
//! Read: booleans, integers, floats of 2, 4 and 8 bytes, complex numbers, byte strings (`S`) and unicode strings (`U`),
//! in either byte order, row- or column-major. Refused: pickled objects, structures, dates, extended precision.
//! Types that numpy has not (bf16, f8 and those narrower than a byte) are carried as raw unsigned integers; see
//! [`crate::npz`] for how a member's name says so.

use std::io::{Read, Write};
use std::sync::Arc;

use tandem_ir::DType;
use tandem_onnx::value::{Data, TensorValue};

use crate::limits::{NPY_AXES_MAX, NPY_HEADER_BYTES_MAX, NPY_STRINGS_MAX, NPZ_BYTES_MAX};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// What is wrong with an array: the field, what was expected, what was found.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    /// The bytes are not those of an array.
    #[error("{field}: expected {expected}, found {found}")]
    Format {
        /// Part of the format: `magic`, `descr`, `shape`, `data`.
        field: &'static str,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

fn wrong<T>(field: &'static str, expected: impl Into<String>, found: impl Into<String>) -> Result<T, NpyError> {
    Err(NpyError::Format { field, expected: expected.into(), found: found.into() })
}

/// How elements lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    /// A number: its type, and the bytes of the parts to swap in a big-endian file (a complex number has two).
    Number(DType, usize),
    /// So many bytes, padded with zeros.
    ByteString(usize),
    /// So many UTF-32 characters, padded with zeros.
    Unicode(usize),
}

impl Item {
    /// Bytes of an element in the file; `None` beyond any memory.
    fn bytes(self) -> Option<usize> {
        match self {
            Item::Number(dtype, _) => Some(dtype.bits() as usize / 8),
            Item::ByteString(n) => Some(n),
            Item::Unicode(n) => n.checked_mul(4),
        }
    }
}

#[derive(Debug)]
struct Header {
    item: Item,
    big_endian: bool,
    fortran: bool,
    dims: Vec<u64>,
}

/// Reads one array; `raw` is the type it really holds where numpy has none (see the module). Memory grows with the
/// bytes that are really there, never with what a header claims.
///
/// # Errors
/// The bytes are no such array, hold less or more than one, or are of a type that models cannot take.
pub fn read(mut reader: impl Read, raw: Option<DType>) -> Result<TensorValue, NpyError> {
    let header = read_header(&mut reader, raw)?;
    let (elements, bytes) = size(&header)?;
    let mut data = vec![];
    reader.by_ref().take(bytes).read_to_end(&mut data)?;
    if (data.len() as u64) < bytes {
        return wrong("data", format!("{bytes} bytes"), format!("{} bytes", data.len()));
    }
    if reader.read(&mut [0])? != 0 {
        return wrong("data", format!("{bytes} bytes"), "more than that");
    }
    if header.big_endian {
        let part = match header.item {
            Item::Number(_, part) => part,
            Item::ByteString(_) => 1,
            Item::Unicode(_) => 4,
        };
        data.chunks_exact_mut(part.max(1)).for_each(<[u8]>::reverse);
    }
    let item = header.item.bytes().unwrap_or(0);
    if header.fortran && header.dims.len() > 1 && item > 0 {
        data = row_major(&data, &header.dims, item);
    }
    let data = match header.item {
        Item::Number(dtype, _) => return number(dtype, header.dims, data, raw),
        Item::ByteString(n) => strings(&data, n, elements, |b| Ok(trimmed(b).to_vec()))?,
        Item::Unicode(n) => strings(&data, 4 * n, elements, utf8)?,
    };
    Ok(TensorValue { dtype: DType::String, dims: header.dims, data: Data::Strings(Arc::new(data)) })
}

fn number(dtype: DType, dims: Vec<u64>, mut data: Vec<u8>, raw: Option<DType>) -> Result<TensorValue, NpyError> {
    if dtype == DType::Bool {
        data.iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    match raw {
        None => Ok(TensorValue::new(dtype, dims, data)),
        Some(raw) if raw.bits() >= 8 => Ok(TensorValue::new(raw, dims, data)),
        Some(raw) => {
            let Some(packed) = pack(&data, raw.bits() as usize) else {
                return wrong("data", format!("values of {} bits", raw.bits()), "larger ones");
            };
            Ok(TensorValue::new(raw, dims, packed))
        }
    }
}

/// The type that stands for one that numpy has not; `None` where numpy has it.
pub fn raw_type(dtype: DType) -> Option<DType> {
    use DType::*;
    match dtype {
        BF16 => Some(U16),
        F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 | U4 | I4 | F4E2M1 | U2 | I2 => Some(U8),
        F32 | U8 | I8 | U16 | I16 | I32 | I64 | String | Bool | F16 | F64 | U32 | U64 | Complex64 | Complex128 => None,
    }
}

/// One element a byte to ONNX's packing, low bits first. `None` if a value does not fit.
fn pack(values: &[u8], bits: usize) -> Option<Vec<u8>> {
    let per_byte = 8 / bits;
    let fits = values.iter().all(|v| *v >> bits == 0);
    let joined = values.chunks(per_byte).map(|c| c.iter().rev().fold(0, |byte, v| (byte << bits) | v));
    fits.then(|| joined.collect())
}

fn unpack(packed: &[u8], bits: usize, elements: usize) -> Vec<u8> {
    let per_byte = 8 / bits;
    let mask = (1u8 << bits) - 1;
    (0..elements).map(|i| (packed[i / per_byte] >> (i % per_byte * bits)) & mask).collect()
}

fn trimmed(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    &bytes[..end]
}

fn utf8(bytes: &[u8]) -> Result<Vec<u8>, NpyError> {
    let mut text = String::new();
    for four in bytes.as_chunks::<4>().0 {
        let code = u32::from_le_bytes(*four);
        match char::from_u32(code) {
            Some(c) => text.push(c),
            None => return wrong("data", "unicode characters", format!("{code:#x}")),
        }
    }
    Ok(text.trim_end_matches('\0').as_bytes().to_vec())
}

fn strings(
    data: &[u8],
    bytes: usize,
    elements: u64,
    one: impl Fn(&[u8]) -> Result<Vec<u8>, NpyError>,
) -> Result<Vec<Vec<u8>>, NpyError> {
    (0..elements as usize).map(|i| one(&data[i * bytes..(i + 1) * bytes])).collect()
}

/// Number of elements and of bytes, both known to be small enough to hold.
fn size(header: &Header) -> Result<(u64, u64), NpyError> {
    let dims = &header.dims;
    // Sizes beside a zero count too: later code multiplies axes in any order.
    let span = dims.iter().filter(|d| **d > 0).try_fold(1u64, |a, d| a.checked_mul(*d));
    let item = header.item.bytes().map(|b| b as u64);
    let total = span.zip(item).and_then(|(s, i)| s.checked_mul(i.max(1))).filter(|t| *t <= NPZ_BYTES_MAX);
    let (Some(span), Some(item), Some(_)) = (span, item, total) else {
        return wrong("shape", format!("an array of at most {NPZ_BYTES_MAX} bytes"), format!("{dims:?}"));
    };
    let elements = if dims.contains(&0) { 0 } else { span };
    if !matches!(header.item, Item::Number(..)) && elements > NPY_STRINGS_MAX {
        return wrong("shape", format!("at most {NPY_STRINGS_MAX} strings"), format!("{elements}"));
    }
    Ok((elements, elements * item))
}

/// Column-major elements to row-major.
fn row_major(data: &[u8], dims: &[u64], item: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut strides = Vec::with_capacity(dims.len());
    let mut stride = item;
    for d in dims {
        strides.push(stride);
        stride *= *d as usize;
    }
    let mut at = vec![0u64; dims.len()];
    let mut offset = 0;
    while out.len() < data.len() {
        out.extend_from_slice(&data[offset..offset + item]);
        // Counts up, the last axis fastest, and keeps the offset in step.
        for axis in (0..dims.len()).rev() {
            at[axis] += 1;
            offset += strides[axis];
            if at[axis] < dims[axis] {
                break;
            }
            offset -= strides[axis] * at[axis] as usize;
            at[axis] = 0;
        }
    }
    out
}

fn read_header(reader: &mut impl Read, raw: Option<DType>) -> Result<Header, NpyError> {
    let mut start = [0; 8];
    read_exactly(reader, &mut start, "magic")?;
    if &start[..6] != MAGIC {
        return wrong("magic", "\\x93NUMPY", format!("{:?}", String::from_utf8_lossy(&start[..6])));
    }
    let length = match start[6] {
        1 => {
            let mut two = [0; 2];
            read_exactly(reader, &mut two, "header length")?;
            usize::from(u16::from_le_bytes(two))
        }
        2 | 3 => {
            let mut four = [0; 4];
            read_exactly(reader, &mut four, "header length")?;
            u32::from_le_bytes(four) as usize
        }
        other => return wrong("version", "1, 2 or 3", other.to_string()),
    };
    if length > NPY_HEADER_BYTES_MAX {
        return wrong("header length", format!("at most {NPY_HEADER_BYTES_MAX}"), length.to_string());
    }
    let mut text = vec![0; length];
    read_exactly(reader, &mut text, "header")?;
    match String::from_utf8(text) {
        Ok(text) => parse_header(&text, raw),
        Err(error) => wrong("header", "text", format!("byte {} is not", error.utf8_error().valid_up_to())),
    }
}

fn read_exactly(reader: &mut impl Read, into: &mut [u8], field: &'static str) -> Result<(), NpyError> {
    reader.read_exact(into).or_else(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => wrong(field, format!("{} bytes", into.len()), "the end of the data"),
        _ => Err(error.into()),
    })
}

fn parse_header(text: &str, raw: Option<DType>) -> Result<Header, NpyError> {
    let mut literal = Literal(text);
    let (mut descr, mut fortran, mut dims) = (None, None, None);
    literal.expect('{', "header")?;
    while !literal.take('}') {
        let key = literal.text("header")?;
        literal.expect(':', "header")?;
        match key {
            "descr" => descr = Some(parse_descr(literal.descr()?, raw)?),
            "fortran_order" => fortran = Some(literal.boolean()?),
            "shape" => dims = Some(literal.shape()?),
            other => return wrong("header", "descr, fortran_order and shape", format!("{other:?}")),
        }
        if !literal.take(',') {
            literal.expect('}', "header")?;
            break;
        }
    }
    if !literal.0.trim().is_empty() {
        return wrong("header", "nothing after }", format!("{:?}", literal.0.trim()));
    }
    let Some((item, big_endian)) = descr else { return wrong("header", "descr", "none") };
    let Some(fortran) = fortran else { return wrong("header", "fortran_order", "none") };
    let Some(dims) = dims else { return wrong("header", "shape", "none") };
    Ok(Header { item, big_endian, fortran, dims })
}

/// What is left of a Python literal.
struct Literal<'a>(&'a str);

impl<'a> Literal<'a> {
    fn take(&mut self, c: char) -> bool {
        let rest = self.0.trim_start().strip_prefix(c);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn expect(&mut self, c: char, field: &'static str) -> Result<(), NpyError> {
        if self.take(c) { Ok(()) } else { wrong(field, format!("{c:?}"), self.ahead()) }
    }

    /// The next few characters, for messages.
    fn ahead(&self) -> String {
        format!("{:?}", self.0.trim_start().chars().take(24).collect::<String>())
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str, NpyError> {
        for quote in ['\'', '"'] {
            if self.take(quote)
                && let Some((text, rest)) = self.0.split_once(quote)
            {
                self.0 = rest;
                return Ok(text);
            }
        }
        wrong(field, "a quoted text", self.ahead())
    }

    fn descr(&mut self) -> Result<&'a str, NpyError> {
        if self.0.trim_start().starts_with('[') {
            return wrong("descr", "a plain element type", "a structure");
        }
        self.text("descr")
    }

    fn boolean(&mut self) -> Result<bool, NpyError> {
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.0.trim_start().strip_prefix(word) {
                self.0 = rest;
                return Ok(value);
            }
        }
        wrong("fortran_order", "True or False", self.ahead())
    }

    fn shape(&mut self) -> Result<Vec<u64>, NpyError> {
        let mut dims = vec![];
        self.expect('(', "shape")?;
        while !self.take(')') {
            let text = self.0.trim_start();
            let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let Ok(dim) = text[..digits].parse() else { return wrong("shape", "a size", self.ahead()) };
            dims.push(dim);
            if dims.len() > NPY_AXES_MAX {
                return wrong("shape", format!("at most {NPY_AXES_MAX} axes"), "more");
            }
            // Python 2 wrote long integers with an L.
            self.0 = text[digits..].strip_prefix('L').unwrap_or(&text[digits..]);
            if !self.take(',') {
                self.expect(')', "shape")?;
                break;
            }
        }
        Ok(dims)
    }
}

fn parse_descr(descr: &str, raw: Option<DType>) -> Result<(Item, bool), NpyError> {
    use DType::*;
    let error = |expected: &str| wrong("descr", expected, format!("{descr:?}"));
    let (order, rest) = match descr.chars().next() {
        Some(c @ ('<' | '>' | '|' | '=')) => (c, &descr[1..]),
        _ => ('=', descr),
    };
    let big_endian = order == '>';
    if let Some(raw) = raw {
        // Extension types of other packages are saved as raw `V`.
        return match (raw_type(raw), rest) {
            (Some(U16), "u2" | "V2") => Ok((Item::Number(U16, 2), big_endian)),
            (Some(U8), "u1" | "V1") => Ok((Item::Number(U8, 1), false)),
            (stands, _) => error(&format!("{}, which stands for {raw}", stands.unwrap_or(raw))),
        };
    }
    let number = |dtype: DType, part: usize| Ok((Item::Number(dtype, part), big_endian));
    match rest {
        "b1" | "?" => number(Bool, 1),
        "i1" => number(I8, 1),
        "u1" => number(U8, 1),
        "i2" => number(I16, 2),
        "u2" => number(U16, 2),
        "i4" => number(I32, 4),
        "u4" => number(U32, 4),
        "i8" => number(I64, 8),
        "u8" => number(U64, 8),
        "f2" => number(F16, 2),
        "f4" => number(F32, 4),
        "f8" => number(F64, 8),
        "c8" => number(Complex64, 4),
        "c16" => number(Complex128, 8),
        "O" => error("an element type of fixed size (strings: save with dtype=str, not object)"),
        _ if rest.starts_with('V') => error("a type that numpy has (others: name the member NAME@bf16, NAME@u4, ...)"),
        _ => match (rest.get(..1), rest.get(1..).and_then(|n| n.parse::<u32>().ok())) {
            (Some("S"), Some(n)) => Ok((Item::ByteString(n as usize), false)),
            (Some("U"), Some(n)) => Ok((Item::Unicode(n as usize), big_endian)),
            _ => error("an element type that models take, such as <f4, <i8 or <U8"),
        },
    }
}

/// Writes one array, row-major and little-endian, as version 1. Types that numpy has not are written as the unsigned
/// integers that stand for them, one a byte for those narrower than a byte.
///
/// # Errors
/// Writing fails, or a string cannot be told apart from a shorter one once padded (it ends with a zero character).
pub fn write(mut writer: impl Write, tensor: &TensorValue) -> Result<(), NpyError> {
    let (descr, data) = encoded(tensor)?;
    let mut shape: String = tensor.dims.iter().map(|d| format!("{d}, ")).collect();
    // A tuple of one keeps its comma, longer ones end without.
    shape.truncate(shape.len().saturating_sub(if tensor.dims.len() == 1 { 1 } else { 2 }));
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let Ok(length) = u16::try_from(header.len()) else {
        return wrong("shape", format!("at most {NPY_AXES_MAX} axes"), tensor.dims.len().to_string());
    };
    writer.write_all(MAGIC)?;
    writer.write_all(&[1, 0])?;
    writer.write_all(&length.to_le_bytes())?;
    writer.write_all(header.as_bytes())?;
    writer.write_all(&data)?;
    Ok(())
}

/// numpy's name of the type, and the elements as numpy has them.
fn encoded(tensor: &TensorValue) -> Result<(String, std::borrow::Cow<'_, [u8]>), NpyError> {
    use DType::*;
    let strings = match &tensor.data {
        Data::Bytes(bytes) => {
            let bits = tensor.dtype.bits() as usize;
            let descr = match raw_type(tensor.dtype).unwrap_or(tensor.dtype) {
                Bool => "|b1",
                U8 => "|u1",
                I8 => "|i1",
                U16 => "<u2",
                I16 => "<i2",
                U32 => "<u4",
                I32 => "<i4",
                U64 => "<u8",
                I64 => "<i8",
                F16 => "<f2",
                F32 => "<f4",
                F64 => "<f8",
                Complex64 => "<c8",
                Complex128 => "<c16",
                other => return wrong("descr", "bytes of numbers", other.name()),
            };
            let narrow = bits < 8;
            let data =
                if narrow { unpack(bytes, bits, tensor.elements() as usize).into() } else { (&bytes[..]).into() };
            return Ok((descr.into(), data));
        }
        Data::Strings(strings) => strings,
    };
    if let Some(s) = strings.iter().find(|s| s.last() == Some(&0)) {
        return wrong("data", "strings that do not end with a zero character", std::string::String::from_utf8_lossy(s));
    }
    let texts: Option<Vec<&str>> = strings.iter().map(|s| std::str::from_utf8(s).ok()).collect();
    let (kind, width) = match &texts {
        Some(texts) => ('U', texts.iter().map(|t| t.chars().count()).max().unwrap_or(0).max(1)),
        None => ('S', strings.iter().map(Vec::len).max().unwrap_or(0).max(1)),
    };
    let item = if kind == 'U' { 4 * width } else { width };
    let total = (item as u64).saturating_mul(strings.len() as u64);
    if total > NPZ_BYTES_MAX {
        return wrong("data", format!("at most {NPZ_BYTES_MAX} bytes of padded strings"), total.to_string());
    }
    let mut data = Vec::with_capacity(total as usize);
    for (i, string) in strings.iter().enumerate() {
        match &texts {
            Some(texts) => texts[i].chars().for_each(|c| data.extend_from_slice(&u32::from(c).to_le_bytes())),
            None => data.extend_from_slice(string),
        }
        data.resize((i + 1) * item, 0);
    }
    let order = if kind == 'U' { '<' } else { '|' };
    Ok((format!("{order}{kind}{width}"), data.into()))
}
