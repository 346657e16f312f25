//! Whether two runs gave the same numbers: the tolerances, in this one place.
//!
//! | elements | equal when |
//! | --- | --- |
//! | f32, f64, complex (by part) | within 1e-3 of the expected value, plus 1e-5 of the tensor's largest finite magnitude |
//! | f16, bf16 | within 1e-2 of it, plus 1e-3 of the largest magnitude (their own spacing is 1e-3 and 8e-3) |
//! | f8, f4 | the same or neighbouring values of the type: one rounding the other way |
//! | integers, booleans, strings, shapes | equal |
//!
//! NaN equals NaN, whatever its bits; an infinity equals itself only; zeros are equal whatever their sign.

use half::{bf16, f16};
use tandem_ir::DType;
use tandem_onnx::value::{Data, TensorValue, Value};

/// Relative tolerance and tolerance as a share of the largest magnitude, for single and double precision.
const SINGLE: (f64, f64) = (1e-3, 1e-5);
/// The same, for half precision.
const HALF: (f64, f64) = (1e-2, 1e-3);

/// What comparing outputs found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Elements compared.
    pub elements: u64,
    /// Largest error as a share of the tolerance at its element: above 1 is a mismatch. Infinite where numbers are not
    /// to be compared (one is NaN, shapes or integers differ).
    pub largest_share: f64,
    /// Largest difference of two finite numbers, in their unit.
    pub largest_error: f64,
    /// Where the largest share is: output and index, `probabilities[0, 17]`; empty while all is equal.
    pub at: String,
    /// Number of elements that differ by more than they may (a wrong type, shape or length counts as one).
    pub mismatch_count: u64,
    /// The first few of them, in words.
    pub mismatches: Vec<String>,
}

/// How many mismatches are put into words.
const WORDS_MAX: usize = 8;

impl Comparison {
    /// Whether everything is equal within tolerance.
    pub fn is_equal(&self) -> bool {
        self.mismatch_count == 0
    }

    /// Something that cannot be close: it is equal or not.
    fn differ(&mut self, at: String, message: String) {
        self.mismatch(|| format!("{at}: {message}"));
        if self.largest_share < f64::INFINITY {
            (self.largest_share, self.at) = (f64::INFINITY, at);
        }
    }

    /// Only the first few are put into words: there may be millions.
    fn mismatch(&mut self, words: impl FnOnce() -> String) {
        self.mismatch_count += 1;
        if self.mismatches.len() < WORDS_MAX {
            self.mismatches.push(words());
        }
    }
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_equal() {
            let (elements, error) = (self.elements, self.largest_error);
            write!(f, "equal: {elements} elements, largest error {error:.3e}")?;
            let percent = 100.0 * self.largest_share;
            return if self.at.is_empty() { Ok(()) } else { write!(f, ", {percent:.2} % of tolerance at {}", self.at) };
        }
        write!(f, "{} of {} elements differ", self.mismatch_count, self.elements)?;
        self.mismatches.iter().try_for_each(|m| write!(f, "\n  {m}"))?;
        let more = self.mismatch_count - self.mismatches.len() as u64;
        if more > 0 { write!(f, "\n  and {more} more") } else { Ok(()) }
    }
}

/// Compares what was found with what was expected, by output.
pub fn compare(names: &[String], expected: &[Value], found: &[Value]) -> Comparison {
    let mut comparison = Comparison::default();
    if expected.len() != found.len() {
        let message = format!("expected {}, found {}", expected.len(), found.len());
        comparison.differ("number of outputs".into(), message);
    }
    for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
        let name = names.get(i).cloned().unwrap_or_else(|| format!("output {i}"));
        compare_value(&mut comparison, &name, expected, found);
    }
    comparison
}

fn compare_value(c: &mut Comparison, at: &str, expected: &Value, found: &Value) {
    match (expected, found) {
        (Value::Tensor(e), Value::Tensor(f)) => compare_tensor(c, at, e, f),
        (Value::Sequence(e), Value::Sequence(f)) => {
            if e.len() != f.len() {
                c.differ(at.into(), format!("expected a sequence of {}, found one of {}", e.len(), f.len()));
            }
            e.iter().zip(f).enumerate().for_each(|(i, (e, f))| compare_value(c, &format!("{at}({i})"), e, f));
        }
        (Value::Optional(None), Value::Optional(None)) => {}
        (Value::Optional(Some(e)), Value::Optional(Some(f))) => compare_value(c, at, e, f),
        (Value::Map(e), Value::Map(f)) => {
            if e.len() != f.len() {
                c.differ(at.into(), format!("expected a map of {}, found one of {}", e.len(), f.len()));
            }
            for (i, ((ek, ev), (fk, fv))) in e.iter().zip(f).enumerate() {
                compare_value(c, &format!("{at}(key {i})"), ek, fk);
                compare_value(c, &format!("{at}(value {i})"), ev, fv);
            }
        }
        (e, f) => c.differ(at.into(), format!("expected {}, found {}", kind(e), kind(f))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Tensor(_) => "a tensor",
        Value::Sequence(_) => "a sequence",
        Value::Optional(Some(_)) => "an optional with a value",
        Value::Optional(None) => "an empty optional",
        Value::Map(_) => "a map",
    }
}

fn compare_tensor(c: &mut Comparison, at: &str, expected: &TensorValue, found: &TensorValue) {
    let say = |t: &TensorValue| format!("{}{:?}", t.dtype, t.dims);
    if expected.dtype != found.dtype || expected.dims != found.dims {
        return c.differ(at.into(), format!("expected {}, found {}", say(expected), say(found)));
    }
    c.elements += expected.elements();
    let index = |i: usize| format!("{at}{}", index_of(&expected.dims, i));
    match (&expected.data, &found.data) {
        (Data::Strings(e), Data::Strings(f)) => {
            for (i, (e, f)) in e.iter().zip(f.iter()).enumerate().filter(|(_, (e, f))| e != f) {
                let (e, f) = (String::from_utf8_lossy(e), String::from_utf8_lossy(f));
                c.differ(index(i), format!("expected {e:?}, found {f:?}"));
            }
        }
        (Data::Bytes(e), Data::Bytes(f)) if e == f => {
            // Bit-equal, which includes every NaN: the usual case for integers, and quick for all.
        }
        (Data::Bytes(e), Data::Bytes(f)) => compare_bytes(c, expected, e, f, index),
        _ => c.differ(at.into(), "expected elements of the same form, found strings and numbers".into()),
    }
}

fn compare_bytes(c: &mut Comparison, tensor: &TensorValue, e: &[u8], f: &[u8], index: impl Fn(usize) -> String) {
    let dtype = tensor.dtype;
    if let Some((tolerance, read)) = reader(dtype) {
        let parts = if matches!(dtype, DType::Complex64 | DType::Complex128) { 2 } else { 1 };
        return compare_floats(c, tolerance, e, f, dtype.bits() as usize / 8 / parts, read, |i| index(i / parts));
    }
    let elements = tensor.elements() as usize;
    let bits = dtype.bits() as usize;
    for i in 0..elements {
        let (x, y) = (bits_at(e, bits, i), bits_at(f, bits, i));
        if x != y && !neighbours(dtype, x as u8, y as u8) {
            let show = |v: u64| shown(dtype, v);
            c.differ(index(i), format!("expected {}, found {}", show(x), show(y)));
        }
    }
}

type Read = fn(&[u8]) -> f64;

/// Tolerance and decoder of types that are compared by difference.
fn reader(dtype: DType) -> Option<((f64, f64), Read)> {
    fn f32_of(b: &[u8]) -> f64 {
        f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
    fn f64_of(b: &[u8]) -> f64 {
        f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])
    }
    match dtype {
        DType::F32 | DType::Complex64 => Some((SINGLE, f32_of)),
        DType::F64 | DType::Complex128 => Some((SINGLE, f64_of)),
        DType::F16 => Some((HALF, |b| f16::from_le_bytes([b[0], b[1]]).to_f64())),
        DType::BF16 => Some((HALF, |b| bf16::from_le_bytes([b[0], b[1]]).to_f64())),
        _ => None,
    }
}

fn compare_floats(
    c: &mut Comparison,
    (relative, of_largest): (f64, f64),
    e: &[u8],
    f: &[u8],
    size: usize,
    read: Read,
    index: impl Fn(usize) -> String,
) {
    let finite = e.chunks_exact(size).map(|b| read(b).abs()).filter(|x| x.is_finite());
    let floor = of_largest * finite.fold(0.0, f64::max);
    let mut worst = (c.largest_share, None);
    for (i, (x, y)) in e.chunks_exact(size).zip(f.chunks_exact(size)).enumerate() {
        let (x, y) = (read(x), read(y));
        if x == y || x.is_nan() && y.is_nan() {
            continue;
        }
        let (error, tolerance) = ((x - y).abs(), relative * x.abs() + floor);
        let comparable = x.is_finite() && y.is_finite();
        let share = if comparable && tolerance > 0.0 { error / tolerance } else { f64::INFINITY };
        if comparable {
            c.largest_error = c.largest_error.max(error);
        }
        if share > worst.0 {
            worst = (share, Some(i));
        }
        if share > 1.0 {
            c.mismatch(|| {
                let allowed = format!(", off by {error:.3e}, allowed {tolerance:.3e}");
                format!("{}: expected {x}, found {y}{}", index(i), if comparable { &allowed } else { "" })
            });
        }
    }
    if let (share, Some(i)) = worst {
        (c.largest_share, c.at) = (share, index(i));
    }
}

/// The element's bits (of the first eight bytes, which is all but for complex doubles, compared elsewhere).
fn bits_at(bytes: &[u8], bits: usize, i: usize) -> u64 {
    if bits < 8 {
        let per_byte = 8 / bits;
        let mask = (1u8 << bits) - 1;
        return u64::from((bytes[i / per_byte] >> (i % per_byte * bits)) & mask);
    }
    let size = bits / 8;
    let mut eight = [0; 8];
    eight[..size].copy_from_slice(&bytes[i * size..(i + 1) * size]);
    u64::from_le_bytes(eight)
}

/// Whether two small floats are the same value, both NaN, or next to each other.
fn neighbours(dtype: DType, x: u8, y: u8) -> bool {
    let (sign_bit, nan): (u8, fn(u8) -> bool) = match dtype {
        DType::F8E4M3FN => (0x80, |b| b & 0x7f == 0x7f),
        DType::F8E5M2 => (0x80, |b| b & 0x7f > 0x7c),
        DType::F8E4M3FNUZ | DType::F8E5M2FNUZ => (0x80, |b| b == 0x80),
        DType::F4E2M1 => (0x08, |_| false),
        DType::F8E8M0 => (0x00, |b| b == 0xff),
        _ => return false,
    };
    if nan(x) || nan(y) {
        return nan(x) && nan(y);
    }
    // An infinity equals itself only.
    if dtype == DType::F8E5M2 && (x & 0x7f == 0x7c || y & 0x7f == 0x7c) {
        return x == y;
    }
    // Sign and magnitude to a line on which neighbours differ by one, both zeros being one point.
    let place = |b: u8| {
        let magnitude = i16::from(b & !sign_bit);
        if b & sign_bit != 0 { -magnitude } else { magnitude }
    };
    (place(x) - place(y)).abs() <= 1
}

fn shown(dtype: DType, bits: u64) -> String {
    match dtype {
        DType::Bool => (bits != 0).to_string(),
        DType::I8 => (bits as i8).to_string(),
        DType::I16 => (bits as i16).to_string(),
        DType::I32 => (bits as i32).to_string(),
        DType::I64 => (bits as i64).to_string(),
        DType::I4 => (((bits as i8) << 4) >> 4).to_string(),
        DType::I2 => (((bits as i8) << 6) >> 6).to_string(),
        d if d.is_float() => format!("{bits:#04x}"),
        _ => bits.to_string(),
    }
}

/// `[0, 17]`, for the element at this place in row-major order; nothing for a scalar.
fn index_of(dims: &[u64], mut place: usize) -> String {
    let mut index = vec![0; dims.len()];
    for (axis, dim) in dims.iter().enumerate().rev() {
        let dim = (*dim as usize).max(1);
        index[axis] = place % dim;
        place /= dim;
    }
    if index.is_empty() { String::new() } else { format!("{index:?}") }
}

#[cfg(test)]
mod tests;
