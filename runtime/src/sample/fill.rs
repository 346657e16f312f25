//! Ways to fill a tensor, for every element type.

use std::sync::Arc;

use half::{bf16, f16};
use tandem_core::rng::Rng;
use tandem_ir::DType;
use tandem_onnx::value::{Data, TensorValue};

use super::build;

/// What a tensor's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// Floats: standard normal. Bytes: any. Wider integers: 0 to 7, of which nothing can overflow. Booleans: either.
    Any,
    /// Evenly between 0 and 1.
    Unit,
    /// Evenly between 0.5 and 1.5: scales, variances.
    Positive,
    /// This number everywhere.
    Constant(u64),
    /// Evenly, from the first to before the second.
    Integers(u64, u64),
    /// 0, 1, 2, ... along the last axis, beginning again at the bound.
    Positions(Option<u64>),
    /// These two in turn.
    Pair(u64, u64),
}

/// Integers that no operator bounds: small, for sums and products of them stay exact in any type.
const SMALL: u64 = 8;

impl Fill {
    /// A tensor of such elements; `None` for types that cannot be filled so.
    pub(super) fn tensor(self, dtype: DType, dims: &[u64], rng: &mut Rng) -> Option<TensorValue> {
        use DType::*;
        match dtype {
            // Zero is no bits set in all types but the one that has no zero.
            U4 | I4 | F4E2M1 | U2 | I2 | F8E4M3FN | F8E5M2 | F8E4M3FNUZ | F8E5M2FNUZ if self == Fill::Constant(0) => {
                let elements = dims.iter().product();
                Some(TensorValue::new(dtype, dims.to_vec(), vec![0; dtype.bytes_of(elements) as usize]))
            }
            String => Some(words(dims, rng)),
            Bool => Some(build(dtype, dims, |_, out| out.push(self.boolean(rng)))),
            U8 | I8 | U16 | I16 | U32 | I32 | U64 | I64 => {
                let size = dtype.bits() as usize / 8;
                let last = dims.last().copied().unwrap_or(1);
                Some(build(dtype, dims, |i, out| {
                    out.extend_from_slice(&self.integer(i, last, size, rng).to_le_bytes()[..size]);
                }))
            }
            Complex64 => Some(build(dtype, dims, |_, out| {
                for _ in 0..2 {
                    out.extend_from_slice(&(normal(rng) as f32).to_le_bytes());
                }
            })),
            Complex128 => Some(build(dtype, dims, |_, out| {
                for _ in 0..2 {
                    out.extend_from_slice(&normal(rng).to_le_bytes());
                }
            })),
            F32 | F64 | F16 | BF16 => Some(build(dtype, dims, |i, out| match (dtype, self.real(i, rng)) {
                (F32, x) => out.extend_from_slice(&(x as f32).to_le_bytes()),
                (F64, x) => out.extend_from_slice(&x.to_le_bytes()),
                (F16, x) => out.extend_from_slice(&f16::from_f64(x).to_le_bytes()),
                (_, x) => out.extend_from_slice(&bf16::from_f64(x).to_le_bytes()),
            })),
            // Codes below that of 2.0 in magnitude, away from the types' NaN and infinity. 0x80 is NaN in the FNUZ
            // types.
            F8E4M3FN | F8E5M2 | F8E4M3FNUZ | F8E5M2FNUZ => Some(build(dtype, dims, |_, out| {
                out.push((1 + rng.below(0x3f) as u8) | ((rng.u64() as u8) & 0x80));
            })),
            F8E8M0 => Some(build(dtype, dims, |_, out| out.push(124 + rng.below(7) as u8))),
            U4 | I4 | F4E2M1 | U2 | I2 => Some(packed(dtype, dims, rng)),
        }
    }

    fn boolean(self, rng: &mut Rng) -> u8 {
        match self {
            Fill::Constant(c) => u8::from(c != 0),
            _ => rng.below(2) as u8,
        }
    }

    fn integer(self, place: u64, last: u64, size: usize, rng: &mut Rng) -> u64 {
        match self {
            Fill::Any if size == 1 => rng.below(256),
            Fill::Any => rng.below(SMALL),
            Fill::Unit => rng.below(2),
            Fill::Positive => 1 + rng.below(3),
            Fill::Constant(c) => c,
            Fill::Integers(from, to) => from + rng.below((to - from).max(1)),
            Fill::Positions(bound) => place % last.max(1) % bound.unwrap_or(u64::MAX).max(1),
            Fill::Pair(a, b) => [a, b][(place % 2) as usize],
        }
    }

    fn real(self, place: u64, rng: &mut Rng) -> f64 {
        match self {
            Fill::Any => normal(rng),
            Fill::Unit => rng.unit(),
            Fill::Positive => 0.5 + rng.unit(),
            _ => self.integer(place, 1, 8, rng) as f64,
        }
    }
}

/// The Box-Muller transform; of its two numbers the second is not used, so that each element takes the same draws.
fn normal(rng: &mut Rng) -> f64 {
    let (u, v) = (1.0 - rng.unit(), rng.unit());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

fn packed(dtype: DType, dims: &[u64], rng: &mut Rng) -> TensorValue {
    let elements: u64 = dims.iter().product();
    let mut bytes: Vec<u8> = (0..dtype.bytes_of(elements)).map(|_| rng.u64() as u8).collect();
    let used = elements * dtype.bits() % 8;
    if let Some(last) = bytes.last_mut().filter(|_| used > 0) {
        *last &= (1 << used) - 1;
    }
    TensorValue::new(dtype, dims.to_vec(), bytes)
}

fn words(dims: &[u64], rng: &mut Rng) -> TensorValue {
    let word = |rng: &mut Rng| (0..1 + rng.below(8)).map(|_| b'a' + rng.below(26) as u8).collect();
    let elements: u64 = dims.iter().product();
    let strings = (0..elements).map(|_| word(rng)).collect();
    TensorValue { dtype: DType::String, dims: dims.to_vec(), data: Data::Strings(Arc::new(strings)) }
}
