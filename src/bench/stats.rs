//! Medians and bootstrap intervals: what every bench line is made of.

use tandem_core::rng::Rng;

/// The median; the mean of the middle two where there is an even number.
///
/// # Panics
/// If there is no value.
pub fn median(values: &[f64]) -> f64 {
    assert!(!values.is_empty(), "a median of nothing");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mid = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[mid] } else { (sorted[mid - 1] + sorted[mid]) / 2.0 }
}

/// A median with both ends of its 95 % bootstrap interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// 2.5th percentile of resampled medians.
    pub low: f64,
    /// 97.5th percentile.
    pub high: f64,
}

/// Resamples a bootstrap draws: the ends of the interval are stable to about 1 % of its width.
const RESAMPLES: usize = 2000;

/// The percentile bootstrap of the median (Efron 1979), seeded, so that the same rounds give the same interval.
pub fn bootstrap(values: &[f64]) -> Estimate {
    let mut rng = Rng::new(1);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let draw: Vec<f64> = values.iter().map(|_| values[rng.below(values.len() as u64) as usize]).collect();
            median(&draw)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Estimate { median: median(values), low: medians[RESAMPLES / 40], high: medians[RESAMPLES - 1 - RESAMPLES / 40] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_median_and_shrinks_with_more_rounds() {
        let few: Vec<f64> = (0..30).map(|i| f64::from((i * 7919) % 101)).collect();
        let many: Vec<f64> = (0..3000).map(|i| f64::from((i * 7919) % 101)).collect();
        let (few, many) = (bootstrap(&few), bootstrap(&many));
        assert!(few.low <= few.median && few.median <= few.high);
        assert!(many.high - many.low < few.high - few.low);
    }

    #[test]
    fn an_even_number_of_values_has_the_mean_of_the_middle_two() {
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
    }
}
