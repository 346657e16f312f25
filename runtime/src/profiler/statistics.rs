//! From many runs to one number that adds up.
//!
//! Pure. A run that was disturbed is disturbed everywhere at once, and durations are skewed: the sum of each part's
//! median lies well under the median of the whole (a third under it on a busy machine with two threads). So the middle
//! half of the *runs*, ranked by their total, is taken and averaged: robust as a median, and yet the parts add up to
//! the whole exactly.

use tandem_ir::Nanos;
use tandem_ir::profile::{Method, Timing};

/// Positions of the middle half of the runs by total, at least one; empty only if there are none.
pub fn middle_runs(totals: &[u64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..totals.len()).collect();
    order.sort_by_key(|run| (totals[*run], *run));
    let cut = totals.len() / 4;
    order[cut..totals.len() - cut].to_vec()
}

/// The mean of some of the runs, rounded.
pub fn mean_of(durations: &[u64], runs: &[usize]) -> u64 {
    let sum: u128 = runs.iter().filter_map(|r| durations.get(*r)).map(|d| u128::from(*d)).sum();
    let count = runs.len().max(1) as u128;
    u64::try_from((sum + count / 2) / count).unwrap_or(u64::MAX)
}

/// The middle of a list: mean of the two middle ones where their number is even; 0 of none.
pub fn median(durations: &[u64]) -> u64 {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let n = sorted.len();
    match n {
        0 => 0,
        _ if n % 2 == 1 => sorted[n / 2],
        _ => sorted[n / 2 - 1] / 2 + sorted[n / 2] / 2 + (sorted[n / 2 - 1] % 2 + sorted[n / 2] % 2) / 2,
    }
}

/// The 25th percentile (nearest rank); 0 of none.
pub fn quartile(durations: &[u64]) -> u64 {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len().max(1) + 1) / 4).or(sorted.first()).copied().unwrap_or(0)
}

/// Half the distance between the 25th and the 75th percentile (nearest ranks).
pub fn spread(durations: &[u64]) -> u64 {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    let Some(last) = sorted.len().checked_sub(1) else { return 0 };
    let at = |quarter: usize| sorted[(last * quarter + 2) / 4];
    (at(3) - at(1)) / 2
}

/// Durations of one thing alone, as a timing: mean of the middle half, spread of all.
pub fn timing(durations: &[u64], method: Method) -> Timing {
    let value = mean_of(durations, &middle_runs(durations));
    Timing { median: Nanos(value), spread: Nanos(spread(durations)), repeats: durations.len() as u32, method }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_whole_however_skewed() {
        // Two parts, each usually 100 and disturbed now and then: their medians add up to less than the whole's.
        let a = [100, 900, 100, 100, 700, 100, 100, 800];
        let b = [100, 100, 600, 100, 900, 500, 100, 100];
        let whole: Vec<u64> = a.iter().zip(b).map(|(a, b)| a + b).collect();
        let runs = middle_runs(&whole);
        assert_eq!(runs.len(), 4);
        assert_eq!(mean_of(&a, &runs) + mean_of(&b, &runs), mean_of(&whole, &runs));
        assert!(median(&a) + median(&b) < median(&whole));
    }

    #[test]
    fn small_lists() {
        assert_eq!((middle_runs(&[]), middle_runs(&[5]), middle_runs(&[9, 1, 5, 7])), (vec![], vec![0], vec![2, 3]));
        assert_eq!((median(&[]), median(&[3]), median(&[1, 4]), median(&[u64::MAX, u64::MAX])), (0, 3, 2, u64::MAX));
        assert_eq!((spread(&[]), spread(&[7]), spread(&[1, 2, 3, 4, 5])), (0, 0, 1));
        assert_eq!(mean_of(&[10, 20], &[]), 0);
        assert_eq!((quartile(&[]), quartile(&[7]), quartile(&[5, 1, 3, 2, 4])), (0, 7, 2));
    }

    #[test]
    fn one_disturbed_run_does_not_move_a_timing() {
        let t = timing(&[10, 11, 9, 10, 10_000], Method::EngineTimed);
        assert_eq!((t.median, t.spread, t.repeats), (Nanos(10), Nanos(0), 5));
    }
}
