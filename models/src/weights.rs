//! Weights from a seed: uniform numbers from a counter-based generator.
//!
//! What it is: each tensor has a stream of its own, chosen by the seed and the tensor's name, so that a layer added or
//! removed leaves all other weights as they were, and tensors can be filled in any order.
//!
//! What it deliberately does not do: it draws from no other distribution. Uniform numbers of a given variance keep
//! activations at unit scale as well as normal ones do, are several times faster to make, and have no outliers.
//!
//! Invariants: the bytes depend on seed, name, count and range alone, on every machine: only integer operations and
//! correctly rounded float ones are used. No element is zero, subnormal or infinite.

use tandem_onnx_proto::Blob;

/// Odd 64-bit constant nearest to 2^64 divided by the golden ratio: the step between counters of SplitMix64.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Where initializers get their contents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights {
    seed: u64,
    /// False where only names and shapes are wanted: contents stay empty then.
    fill: bool,
}

impl Weights {
    /// Weights of `seed`.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { seed, fill: true }
    }

    /// No contents at all, for outlines.
    pub(crate) fn absent() -> Self {
        Self { seed: 0, fill: false }
    }

    /// Whether contents are made.
    pub(crate) fn filled(self) -> bool {
        self.fill
    }

    /// `count` little-endian floats, uniform in `centre - limit ..= centre + limit`, for the tensor `name`.
    pub(crate) fn floats(self, name: &str, count: usize, centre: f32, limit: f32) -> Blob {
        if !self.fill {
            return Blob::default();
        }
        let mut bytes = vec![0_u8; count * 4];
        let key = self.key(name);
        // 2^-23: the numbers drawn are 24-bit integers around zero, moved by one half so that none is zero.
        let scale = limit / 8_388_608.0;
        let float = |bits: u32| ((bits >> 8) as f32 - 8_388_607.5) * scale + centre;
        let mut counter = 0;
        let mut pairs = bytes.chunks_exact_mut(8);
        for pair in &mut pairs {
            let bits = mix(key.wrapping_add(counter));
            counter = counter.wrapping_add(STEP);
            // The halves of one draw are two elements: the truncation is meant.
            let low = u64::from(float(bits as u32).to_bits());
            let high = u64::from(float((bits >> 32) as u32).to_bits());
            pair.copy_from_slice(&(high << 32 | low).to_le_bytes());
        }
        let rest = pairs.into_remainder();
        if !rest.is_empty() {
            rest.copy_from_slice(&float(mix(key.wrapping_add(counter)) as u32).to_le_bytes());
        }
        bytes.into()
    }

    /// `count` integers, uniform in `-limit ..= limit`, for the tensor `name`.
    pub(crate) fn integers(self, name: &str, count: usize, limit: u32) -> Vec<i32> {
        if !self.fill {
            return Vec::new();
        }
        let key = self.key(name);
        let width = u64::from(2 * limit + 1);
        (0..count as u64)
            .map(|index| {
                let bits = mix(key.wrapping_add(index.wrapping_mul(STEP)));
                // High word of the product: an integer below `width` without division; it fits by construction.
                let drawn = ((bits >> 32) * width) >> 32;
                drawn as i32 - limit as i32
            })
            .collect()
    }

    /// Start of the stream of the tensor `name`.
    fn key(self, name: &str) -> u64 {
        // FNV-1a of the name, then mixed: near names must give far streams.
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        mix(hash ^ mix(self.seed))
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood 2014; Stafford's variant 13): a bijection that scatters bits.
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(blob: &Blob) -> Vec<f32> {
        blob.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    #[test]
    fn floats_have_the_variance_asked_for() {
        let values = read(&Weights::seeded(1).floats("w", 99_999, 0.0, 3.0_f32.sqrt()));
        assert_eq!(values.len(), 99_999);
        let mean = values.iter().sum::<f32>() / 99_999.0;
        let variance = values.iter().map(|value| value * value).sum::<f32>() / 99_999.0;
        assert!(mean.abs() < 0.02, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
        assert!(values.iter().all(|value| value.is_normal() && value.abs() <= 1.7321));
    }

    #[test]
    fn streams_differ_by_seed_and_name_and_repeat() {
        let a = Weights::seeded(1).floats("a", 8, 0.0, 1.0);
        assert_eq!(a, Weights::seeded(1).floats("a", 8, 0.0, 1.0));
        assert_ne!(a, Weights::seeded(2).floats("a", 8, 0.0, 1.0));
        assert_ne!(a, Weights::seeded(1).floats("b", 8, 0.0, 1.0));
    }

    #[test]
    fn integers_reach_both_ends() {
        let values = Weights::seeded(1).integers("q", 10_000, 63);
        assert_eq!((values.iter().min(), values.iter().max()), (Some(&-63), Some(&63)));
    }
}
