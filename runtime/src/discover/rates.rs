//! Rates of this CPU, measured in about a tenth of a second: for machine files that describe an accelerator beside
//! *this* CPU.
//!
//! Rough by design (one size of matrices, a few repeats): plans for this machine are made from profiles.

use std::time::{Duration, Instant};

use ndarray::Array2;

/// What this CPU reaches with so many threads at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuickRates {
    /// Arithmetic a second in f32 matrix products (a multiply-add is two).
    pub f32_flops_per_s: u64,
    /// Bytes a second read and written by copies in memory.
    pub memory_bytes_per_s: u64,
    /// Threads that were used.
    pub threads: u32,
}

/// Time for each of the two measurements.
const BUDGET: Duration = Duration::from_millis(25);
/// Rows and columns: three of these in f32 are 2.3 MB, which mostly stays in a core's cache.
const MATRIX: usize = 384;
/// Bytes each thread copies: with their copy 32 MiB, more than a core's share of most last caches.
const BYTES: usize = 16 << 20;

/// Measures. The rates are the threads' together, each at its best repeat.
pub fn quick_rates(threads: u32) -> QuickRates {
    let threads = threads.max(1);
    QuickRates { f32_flops_per_s: together(threads, products), memory_bytes_per_s: together(threads, copies), threads }
}

/// Runs the measurement on all threads at once and adds up their rates.
fn together(threads: u32, measure: fn(Instant) -> f64) -> u64 {
    std::thread::scope(|scope| {
        let started = Instant::now();
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(move || measure(started))).collect();
        let rates = running.into_iter().map(|t| t.join().expect("a measurement does not panic"));
        rates.sum::<f64>() as u64
    })
}

fn products(started: Instant) -> f64 {
    let (a, b) = (Array2::<f32>::from_elem((MATRIX, MATRIX), 0.5), Array2::<f32>::from_elem((MATRIX, MATRIX), 0.25));
    let flops = 2.0 * (MATRIX * MATRIX * MATRIX) as f64;
    best(started, flops, || {
        std::hint::black_box(a.dot(&b));
    })
}

fn copies(started: Instant) -> f64 {
    let (from, mut to) = (vec![1u8; BYTES], vec![2u8; BYTES]);
    best(started, (2 * BYTES) as f64, || {
        to.copy_from_slice(std::hint::black_box(&from));
        std::hint::black_box(&mut to);
    })
}

/// The best rate of repeats until the budget is spent, at least two: the first warms caches and clocks up.
fn best(started: Instant, work: f64, mut run: impl FnMut()) -> f64 {
    let mut best = 0.0f64;
    let mut repeats = 0;
    while repeats < 2 || started.elapsed() < BUDGET {
        let start = Instant::now();
        run();
        best = best.max(work / start.elapsed().as_secs_f64().max(1e-9));
        repeats += 1;
    }
    best
}
