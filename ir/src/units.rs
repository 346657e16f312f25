//! Integer quantities with their unit in the type: no bare integers for quantities, no floats for time.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul, Sub};
use std::str::FromStr;

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// None of it.
            pub const ZERO: Self = Self(0);
            /// The difference, or zero where `other` is larger.
            pub fn saturating_sub(self, other: Self) -> Self { Self(self.0.saturating_sub(other.0)) }
        }
        impl Add for $name {
            type Output = Self;
            // Sums saturate: a quantity beyond 2^64 is a plan no machine can hold, and `u64::MAX` reads as "never".
            fn add(self, other: Self) -> Self { Self(self.0.saturating_add(other.0)) }
        }
        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) { *self = *self + other; }
        }
        impl Mul<u64> for $name {
            type Output = Self;
            fn mul(self, factor: u64) -> Self { Self(self.0.saturating_mul(factor)) }
        }
        impl Sum for $name {
            fn sum<I: Iterator<Item = Self>>(items: I) -> Self { items.fold(Self(0), |a, b| a + b) }
        }
    };
}

quantity! {
    /// A duration in nanoseconds.
    Nanos
}
quantity! {
    /// A moment: nanoseconds since the epoch of whoever owns the clock.
    Time
}
quantity! {
    /// A size in bytes.
    Bytes
}
quantity! {
    /// Floating-point (or integer multiply-accumulate) operations; a multiply-add counts as two.
    Flops
}

impl Add<Nanos> for Time {
    type Output = Time;
    fn add(self, other: Nanos) -> Time {
        Time(self.0.saturating_add(other.0))
    }
}

impl Sub for Time {
    type Output = Nanos;
    /// The duration from `other` to `self`; zero where time would run backwards.
    fn sub(self, other: Time) -> Nanos {
        Nanos(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Nanos {
    /// The shortest exact-enough form for people: `12 ns`, `3.4 us`, `25.10 ms`, `1.250 s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0 as f64;
        match self.0 {
            0..=999 => write!(f, "{} ns", self.0),
            1_000..=999_999 => write!(f, "{:.1} us", v / 1e3),
            1_000_000..=999_999_999 => write!(f, "{:.2} ms", v / 1e6),
            _ => write!(f, "{:.3} s", v / 1e9),
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0 as f64;
        match self.0 {
            0..=9_999 => write!(f, "{} B", self.0),
            10_000..=9_999_999 => write!(f, "{:.1} kB", v / 1e3),
            10_000_000..=9_999_999_999 => write!(f, "{:.1} MB", v / 1e6),
            _ => write!(f, "{:.2} GB", v / 1e9),
        }
    }
}

impl fmt::Display for Flops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0 as f64;
        match self.0 {
            0..=9_999 => write!(f, "{} flop", self.0),
            10_000..=9_999_999 => write!(f, "{:.2} Mflop", v / 1e6),
            10_000_000..=9_999_999_999_999 => write!(f, "{:.2} Gflop", v / 1e9),
            _ => write!(f, "{:.2} Tflop", v / 1e12),
        }
    }
}

/// A quantity that could not be read, with what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found \"{found}\"")]
pub struct ParseQuantityError {
    expected: &'static str,
    found: String,
}

/// Reads `NUMBER UNIT` exactly, without floats: `12.5ms` is 12 500 000 ns. The scale is the unit's size in base units.
fn parse_scaled(text: &str, units: &[(&str, u64)], expected: &'static str) -> Result<u64, ParseQuantityError> {
    let error = || ParseQuantityError { expected, found: text.to_owned() };
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).ok_or_else(error)?;
    let (number, unit) = (&text[..split], text[split..].trim());
    let scale = units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale).ok_or_else(error)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 9 || fraction.contains('.') {
        return Err(error());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| error())? };
    let part: u64 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| error())? };
    let part = u128::from(part) * u128::from(scale) / 10u128.pow(fraction.len() as u32);
    let total = u128::from(whole) * u128::from(scale) + part;
    u64::try_from(total).map_err(|_| error())
}

impl FromStr for Nanos {
    type Err = ParseQuantityError;
    /// `400ms`, `1.5s`, `250us`, `90 ns`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];
        parse_scaled(text, &units, "a duration such as 400ms, 1.5s, 250us or 90ns").map(Nanos)
    }
}

impl FromStr for Bytes {
    type Err = ParseQuantityError;
    /// `16GiB`, `512MB`, `24kB`, `100B`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let units = [
            ("B", 1),
            ("kB", 1_000),
            ("MB", 1_000_000),
            ("GB", 1_000_000_000),
            ("TB", 1_000_000_000_000),
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("TiB", 1 << 40),
        ];
        parse_scaled(text, &units, "a size such as 16GiB, 512MB or 100B").map(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_exactly() {
        assert_eq!("400ms".parse(), Ok(Nanos(400_000_000)));
        assert_eq!("12.5 ms".parse(), Ok(Nanos(12_500_000)));
        assert_eq!(".5s".parse(), Ok(Nanos(500_000_000)));
        for bad in ["", "ms", "400", "1..5s", "-3ms", "1e3ms", "4 weeks", "99999999999999999999s"] {
            assert!(bad.parse::<Nanos>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_read_exactly() {
        assert_eq!("16GiB".parse(), Ok(Bytes(16 << 30)));
        assert_eq!("1.5kB".parse(), Ok(Bytes(1500)));
    }
}
