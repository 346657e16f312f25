//! Durations counted in buckets that are a constant fraction wide: percentiles of any number of them in fixed memory.

use tandem_ir::Nanos;

/// Buckets for each doubling: a percentile is at most 1/128 off, and never beyond the largest or smallest duration.
const PER_DOUBLING: u32 = 7;

/// Durations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum: u128,
    least: u64,
    most: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = bucket(u64::MAX) + 1;
        Self { counts: vec![0; buckets], count: 0, sum: 0, least: u64::MAX, most: 0 }
    }
}

impl Histogram {
    /// Counts a duration.
    pub fn add(&mut self, duration: Nanos) {
        let ns = duration.0;
        self.counts[bucket(ns)] += 1;
        self.count += 1;
        self.sum += u128::from(ns);
        (self.least, self.most) = (self.least.min(ns), self.most.max(ns));
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean; zero of none.
    pub fn mean(&self) -> Nanos {
        Nanos((self.sum / u128::from(self.count.max(1))) as u64)
    }

    /// The largest; zero of none.
    pub fn most(&self) -> Nanos {
        Nanos(self.most)
    }

    /// The least duration that so many of a thousand do not exceed; zero of none.
    pub fn permille(&self, permille: u64) -> Nanos {
        let rank = (u128::from(self.count) * u128::from(permille)).div_ceil(1000).max(1) as u64;
        let mut seen = 0;
        for (i, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Nanos(end(i).clamp(self.least, self.most));
            }
        }
        Nanos(self.most)
    }
}

/// Exact below 128, then seven bits behind the first.
fn bucket(ns: u64) -> usize {
    let bits = 64 - ns.leading_zeros();
    let Some(shift) = bits.checked_sub(PER_DOUBLING + 1) else { return ns as usize };
    ((shift as usize) << PER_DOUBLING) + (ns >> shift) as usize
}

/// The largest duration of a bucket.
fn end(bucket: usize) -> u64 {
    let full = 1usize << PER_DOUBLING;
    if bucket < 2 * full {
        return bucket as u64;
    }
    let shift = (bucket >> PER_DOUBLING) - 1;
    let first = ((bucket & (full - 1)) + full) as u128;
    u64::try_from(((first + 1) << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let mut rng = Rng::new(1);
        for scale in [10u64, 1_000, 1_000_000_000, u64::MAX] {
            let mut all: Vec<u64> = (0..5_000).map(|_| rng.below(scale)).collect();
            let mut histogram = Histogram::default();
            all.iter().for_each(|ns| histogram.add(Nanos(*ns)));
            all.sort_unstable();
            for permille in [1, 500, 900, 990, 999, 1000] {
                let exact = all[(all.len() * permille as usize).div_ceil(1000) - 1];
                let found = histogram.permille(permille).0;
                assert!(found >= exact && found - exact <= exact / 128 + 1, "{permille}: {found} for {exact}");
            }
            assert_eq!(histogram.most().0, all[all.len() - 1]);
            assert_eq!(u128::from(histogram.mean().0), all.iter().map(|n| u128::from(*n)).sum::<u128>() / 5_000);
        }
        assert_eq!(Histogram::default().permille(990), Nanos::ZERO);
    }

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        for ns in (0..100_000).chain([u64::MAX / 2, u64::MAX - 1, u64::MAX]) {
            let b = bucket(ns);
            assert!(end(b) >= ns && (b == 0 || end(b - 1) < ns), "{ns}: {b}");
        }
    }
}
