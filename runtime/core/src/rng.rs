//! A small seeded generator, for jitter and for tests: the same numbers on every machine, for ever.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): a counter behind
/// a mixing function, so any seed is good and nearby seeds are unrelated. Not for secrets.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// A generator that is determined by the seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A generator that is determined by a seed and further keys, whatever the order in which generators are asked for.
    pub fn keyed(seed: u64, keys: &[u64]) -> Self {
        let mut state = seed;
        for key in keys {
            state = Self(state ^ key.rotate_left(32)).u64();
        }
        Self(state)
    }

    /// 64 random bits.
    pub fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, by multiplication (the bias is below `end` / 2^64).
    ///
    /// # Panics
    /// If `end` is zero.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "a number below zero");
        ((u128::from(self.u64()) * u128::from(end)) >> 64) as u64
    }

    /// A number in [0, 1) with 53 random bits.
    pub fn unit(&mut self) -> f64 {
        (self.u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}
