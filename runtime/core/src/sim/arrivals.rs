//! When requests arrive: regularly, at random, in steps of the rate, or as a trace says.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use tandem_ir::{Nanos, Time};

use crate::rng::Rng;

/// A stream of requests, as people write it.
#[derive(Clone, Debug, PartialEq)]
pub enum ArrivalSpec {
    /// `uniform:400`: so many a second, evenly spaced.
    Uniform(f64),
    /// `poisson:400`: so many a second on average, independent of each other.
    Poisson(f64),
    /// `steps:400@10s,800@0.3s,400@10s`: evenly spaced at each rate for so long; then nothing.
    Steps(Vec<(f64, Nanos)>),
    /// `trace:FILE`: a file with one moment a line, read by whoever may read files ([`Arrivals::trace`]).
    Trace(String),
}

/// A stream or trace that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: expected {expected}, found \"{found}\"")]
pub struct ArrivalError {
    /// `arrivals`, `step 2`, `line 7`.
    pub place: String,
    /// What should have been there.
    pub expected: &'static str,
    /// What is there.
    pub found: String,
}

fn error<T>(place: impl Into<String>, expected: &'static str, found: &str) -> Result<T, ArrivalError> {
    Err(ArrivalError { place: place.into(), expected, found: found.to_owned() })
}

/// Most requests a second of one stream: one a nanosecond.
const RATE_MAX: f64 = 1e9;

fn rate(place: &str, text: &str) -> Result<f64, ArrivalError> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= RATE_MAX => Ok(rate),
        _ => error(place, "requests a second, above 0 and at most 1e9", text),
    }
}

impl FromStr for ArrivalSpec {
    type Err = ArrivalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORMS: &str = "uniform:RATE, poisson:RATE, steps:RATE@DURATION,.. or trace:FILE";
        let Some((kind, rest)) = text.split_once(':') else { return error("arrivals", FORMS, text) };
        match kind {
            "uniform" => Ok(Self::Uniform(rate("arrivals", rest)?)),
            "poisson" => Ok(Self::Poisson(rate("arrivals", rest)?)),
            "trace" if !rest.is_empty() => Ok(Self::Trace(rest.to_owned())),
            "steps" => {
                let step = |(i, step): (usize, &str)| {
                    let place = format!("step {}", i + 1);
                    let Some((r, duration)) = step.split_once('@') else {
                        return error(place, "RATE@DURATION", step);
                    };
                    // A pause is a step too.
                    let rate = if r == "0" { 0.0 } else { rate(&place, r)? };
                    match duration.parse::<Nanos>() {
                        Ok(duration) if duration > Nanos::ZERO => Ok((rate, duration)),
                        _ => error(place, "a duration like 0.3s", duration),
                    }
                };
                Ok(Self::Steps(rest.split(',').enumerate().map(step).collect::<Result<_, _>>()?))
            }
            _ => error("arrivals", FORMS, text),
        }
    }
}

impl fmt::Display for ArrivalSpec {
    /// As it is written; read again it is the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform(rate) => write!(f, "uniform:{rate}"),
            Self::Poisson(rate) => write!(f, "poisson:{rate}"),
            Self::Trace(file) => write!(f, "trace:{file}"),
            Self::Steps(steps) => {
                let one = |(rate, duration): &(f64, Nanos)| format!("{rate}@{}s", duration.0 as f64 / 1e9);
                write!(f, "steps:{}", steps.iter().map(one).collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// Moments in order, from 0, one after the other; without end but for steps and traces.
#[derive(Clone, Debug)]
pub struct Arrivals(Source);

#[derive(Clone, Debug)]
enum Source {
    /// Evenly spaced: the `next`-th of a rate that began at `begin`; none at or after `end`. Then the steps left.
    Even {
        rate: f64,
        begin: Time,
        end: Option<Time>,
        next: u64,
        left: VecDeque<(f64, Nanos)>,
    },
    Poisson {
        rate: f64,
        at: f64,
        rng: Rng,
    },
    Trace(VecDeque<Time>),
}

impl Arrivals {
    /// A stream; `None` for a trace, whose file somebody has to read. The seed is that of random ones.
    pub fn new(spec: &ArrivalSpec, seed: u64) -> Option<Self> {
        let even = |rate: f64| Source::Even { rate, begin: Time::ZERO, end: None, next: 0, left: VecDeque::new() };
        Some(Self(match spec {
            ArrivalSpec::Uniform(rate) => even(*rate),
            ArrivalSpec::Poisson(rate) => Source::Poisson { rate: *rate, at: 0.0, rng: Rng::new(seed) },
            ArrivalSpec::Steps(steps) => {
                let (end, left) = (Some(Time::ZERO), steps.iter().copied().collect());
                Source::Even { rate: 0.0, begin: Time::ZERO, end, next: 0, left }
            }
            ArrivalSpec::Trace(_) => return None,
        }))
    }

    /// A trace: a line a request, its moment in seconds since the beginning (`0.0125`) or as a duration (`12.5ms`), in
    /// order. Empty lines and those that begin with `#` are left out.
    ///
    /// # Errors
    /// The first line that is no moment, or earlier than the one before.
    pub fn trace(text: &str) -> Result<Self, ArrivalError> {
        let mut times = VecDeque::new();
        for (i, line) in text.lines().enumerate() {
            let (line, place) = (line.trim(), || format!("line {}", i + 1));
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let since = match line.parse::<f64>() {
                // What is beyond the last moment there is, is none.
                Ok(seconds) => {
                    Some(seconds * 1e9).filter(|n| (0.0..u64::MAX as f64).contains(n)).map(|n| n.round() as u64)
                }
                Err(_) => line.parse::<Nanos>().ok().map(|n| n.0),
            };
            let Some(since) = since else {
                return error(place(), "a moment in seconds, or a duration like 12.5ms", line);
            };
            let time = Time(since);
            if times.back().is_some_and(|last| *last > time) {
                return error(place(), "a moment that is not before the one above", line);
            }
            times.push_back(time);
        }
        Ok(Self(Source::Trace(times)))
    }
}

impl Iterator for Arrivals {
    type Item = Time;

    fn next(&mut self) -> Option<Time> {
        match &mut self.0 {
            Source::Trace(times) => times.pop_front(),
            Source::Poisson { rate, at, rng } => {
                // Above 0, at most 1.
                let uniform = 1.0 - rng.unit();
                *at += -ln(uniform) * 1e9 / *rate;
                Some(Time(*at as u64))
            }
            Source::Even { rate, begin, end, next, left } => loop {
                let at = *begin + Nanos((*next as f64 * 1e9 / *rate).round() as u64);
                if *rate > 0.0 && end.is_none_or(|end| at < end) {
                    *next += 1;
                    return Some(at);
                }
                let (following, duration) = left.pop_front()?;
                let from = end.unwrap_or(Time::ZERO);
                (*rate, *begin, *end, *next) = (following, from, Some(from + duration), 0);
            },
        }
    }
}

/// The natural logarithm of a number above 0 and at most 1, by additions and multiplications alone: the same on every
/// machine, which the standard library's is not. Within 1e-15 of the true one.
fn ln(x: f64) -> f64 {
    // x = m * 2^e with m from 1 to 2.
    let bits = x.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    // ln m = 2 artanh((m - 1) / (m + 1)), whose series falls by a ninth a term at least.
    let t = (m - 1.0) / (m + 1.0);
    let square = t * t;
    let (mut power, mut sum) = (t, 0.0);
    for n in 0..18 {
        sum += power / f64::from(2 * n + 1);
        power *= square;
    }
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Arrivals {
        Arrivals::new(&text.parse().expect("a stream"), 1).expect("no trace")
    }

    fn nanos(arrivals: Arrivals, most: usize) -> Vec<u64> {
        arrivals.take(most).map(|t| t.0).collect()
    }

    #[test]
    fn even_streams_do_not_drift() {
        assert_eq!(nanos(of("uniform:400"), 3), [0, 2_500_000, 5_000_000]);
        // A third of a second is no whole number of nanoseconds.
        assert_eq!(of("uniform:3").nth(3_000_000).map(|t| t.0), Some(1_000_000_000_000_000));
    }

    #[test]
    fn steps_change_the_rate_and_end() {
        let times = nanos(of("steps:400@10ms,0@1ms,1000@3ms"), 100);
        assert_eq!(times, [0, 2_500_000, 5_000_000, 7_500_000, 11_000_000, 12_000_000, 13_000_000]);
        assert_eq!(of("steps:400@10s,800@0.3s,400@10s").count(), 4_000 + 240 + 4_000);
    }

    #[test]
    fn random_streams_have_their_rate_and_are_seeded() {
        let count = of("poisson:1000").take_while(|t| t.0 < 100_000_000_000).count() as f64;
        assert!((count - 100_000.0).abs() < 4.0 * 100_000f64.sqrt(), "{count}");
        let spec: ArrivalSpec = "poisson:400".parse().expect("a stream");
        let seeded = |seed| nanos(Arrivals::new(&spec, seed).expect("no trace"), 50);
        assert_eq!(seeded(3), seeded(3));
        assert_ne!(seeded(3), seeded(4));
        assert!(seeded(3).is_sorted());
    }

    #[test]
    fn traces_are_read_by_line() {
        let trace = Arrivals::trace("# when\n0\n0.0125\n\n 20ms \n1.5s\n").expect("a trace");
        assert_eq!(nanos(trace, 9), [0, 12_500_000, 20_000_000, 1_500_000_000]);
        let bad = |text: &str| Arrivals::trace(text).expect_err("no trace").to_string();
        assert_eq!(bad("1\nsoon\n"), "line 2: expected a moment in seconds, or a duration like 12.5ms, found \"soon\"");
        assert_eq!(bad("1\n0.5\n"), "line 2: expected a moment that is not before the one above, found \"0.5\"");
        ["-1", "nan", "inf", "1e300"].iter().for_each(|text| assert!(bad(text).starts_with("line 1"), "{text}"));
        // As programs write them.
        let printed = Arrivals::trace("1e-05\n0.012500000000000001\n1e3").expect("a trace");
        assert_eq!(nanos(printed, 9), [10_000, 12_500_000, 1_000_000_000_000]);
        assert!(Arrivals::new(&"trace:a:b".parse().expect("a stream"), 0).is_none());
    }

    #[test]
    fn streams_are_written_as_they_are_read() {
        for text in ["uniform:400", "poisson:0.5", "steps:400@10s,0@0.001s,800@0.3s", "trace:a b.txt"] {
            assert_eq!(text.parse::<ArrivalSpec>().expect("a stream").to_string(), text);
        }
    }

    #[test]
    fn what_is_no_stream_is_refused_by_name() {
        let bad = |text: &str| text.parse::<ArrivalSpec>().expect_err(text).to_string();
        for text in ["", "400", "poisson", "gauss:4", "trace:"] {
            assert!(bad(text).starts_with("arrivals: expected uniform:RATE"), "{}", bad(text));
        }
        for text in ["poisson:0", "uniform:-1", "uniform:nan", "uniform:inf", "poisson:2e9", "uniform:4x"] {
            assert!(bad(text).starts_with("arrivals: expected requests a second"), "{}", bad(text));
        }
        assert!(bad("steps:400@1s,800").starts_with("step 2: expected RATE@DURATION"), "{}", bad("steps:400@1s,800"));
        assert!(bad("steps:400@0s").starts_with("step 1: expected a duration"));
    }

    #[test]
    fn the_logarithm_is_the_true_one() {
        let mut rng = Rng::new(5);
        for x in (0..10_000).map(|_| 1.0 - rng.unit()).chain([1.0, 0.5, f64::MIN_POSITIVE, 1.0 - f64::EPSILON]) {
            assert!((ln(x) - x.ln()).abs() <= 2e-15 * x.ln().abs().max(1.0), "{x}: {} {}", ln(x), x.ln());
        }
    }
}
