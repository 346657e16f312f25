//! What copies cost: of host memory, and of anything else that somebody can copy.

use std::hint::black_box;
use std::time::Instant;

use tandem_ir::profile::{LinkSample, Method};

use super::statistics;

/// Sizes of the copies that are measured: from a scalar's to more than any cache holds.
pub const SIZES: [u64; 6] = [64, 4 << 10, 64 << 10, 1 << 20, 8 << 20, 64 << 20];

/// Bytes copied a size, all repeats together, and repeats at least and at most: 64 MiB take some 10 ms each.
const BYTES_A_SIZE: u64 = 256 << 20;
const REPEATS: (u64, u64) = (5, 60);

/// Copies in a row that one measurement of a small size spans: a clock reading costs as much as a copy of 64 bytes.
const SMALL: (u64, u64) = (64 << 10, 64);

/// Measures copies within the host's memory, under the device's name on both ends.
pub fn host_copies(device: &str) -> Vec<LinkSample> {
    let largest = SIZES[SIZES.len() - 1] as usize;
    // Written once, so that every page is there: else the first copy pays for the system's.
    let source = vec![1u8; largest];
    let mut target = vec![0u8; largest];
    let measured = copies::<std::convert::Infallible>(device, device, &mut |bytes| {
        let times = if bytes < SMALL.0 { SMALL.1 } else { 1 };
        let start = Instant::now();
        for _ in 0..times {
            let (from, to) = (black_box(&source[..bytes as usize]), black_box(&mut target[..bytes as usize]));
            to.copy_from_slice(from);
        }
        Ok(start.elapsed().as_nanos() as u64 / times)
    });
    measured.unwrap_or_else(|never| match never {})
}

/// Measures copies from one device's memory to another's. The closure copies so many bytes once, waits until they are
/// there, and says how many nanoseconds that took. Sizes are taken in turn; the first copy of each is not counted.
///
/// # Errors
/// The closure's.
pub fn copies<E>(from: &str, to: &str, copy: &mut dyn FnMut(u64) -> Result<u64, E>) -> Result<Vec<LinkSample>, E> {
    let repeats = |bytes: u64| (BYTES_A_SIZE / bytes).clamp(REPEATS.0, REPEATS.1);
    let mut durations: Vec<Vec<u64>> = vec![vec![]; SIZES.len()];
    for round in 0..=REPEATS.1 {
        for (bytes, durations) in SIZES.iter().zip(&mut durations) {
            if round > repeats(*bytes) {
                continue;
            }
            let took = copy(*bytes)?;
            if round > 0 {
                durations.push(took);
            }
        }
    }
    let sample = |(bytes, durations): (&u64, &Vec<u64>)| LinkSample {
        from: from.to_owned(),
        to: to.to_owned(),
        bytes: *bytes,
        timing: statistics::timing(durations, Method::Isolated),
    };
    Ok(SIZES.iter().zip(&durations).map(sample).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_size_is_measured_and_the_first_copy_left_out() {
        let mut calls = 0u64;
        let samples = copies::<()>("cpu", "gpu0", &mut |bytes| {
            calls += 1;
            Ok(if calls <= SIZES.len() as u64 { 1 << 40 } else { bytes })
        });
        let samples = samples.unwrap();
        assert_eq!(samples.iter().map(|s| s.bytes).collect::<Vec<_>>(), SIZES);
        assert!(samples.iter().all(|s| s.timing.median.0 == s.bytes && s.timing.spread.0 == 0 && s.from == "cpu"));
        assert_eq!((samples[0].timing.repeats, samples[5].timing.repeats), (60, 5));
    }

    #[test]
    fn a_failing_copy_is_an_error() {
        assert_eq!(copies("a", "b", &mut |_| Err("lost")), Err("lost"));
    }

    #[test]
    fn the_host_can_copy() {
        assert_eq!(host_copies("cpu").len(), SIZES.len());
    }
}
