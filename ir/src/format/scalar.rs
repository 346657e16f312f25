//! Scalars of the files: quantities with units, names with escapes, references by name or position.
//!
//! Quantities are read and written exactly, in integers: `12.5ms` is 12 500 000 ns, and what would have to be rounded is
//! refused.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::dtype::DType;
use crate::fingerprint::Fingerprint;
use crate::limits::MILLIRATE_MAX;
use crate::plan::{BoundDim, NodePattern};
use crate::units::{Bytes, Nanos};

type Units = &'static [(&'static str, u64)];

/// Units of durations, largest first.
const DURATION: Units = &[("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("ns", 1)];
/// Units of sizes, binary ones first: they are written where they leave no fraction.
const SIZE: Units = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];
const BANDWIDTH: Units =
    &[("TB/s", 1_000_000_000_000), ("GB/s", 1_000_000_000), ("MB/s", 1_000_000), ("kB/s", 1_000), ("B/s", 1)];
const ARITHMETIC: Units = &[
    ("P", 1_000_000_000_000_000),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
    ("", 1),
];
const MONEY: Units = &[("USD", 1_000_000)];
const PERCENT_OF_REQUESTS: Units = &[("", 10)];
const THOUSANDTHS: Units = &[("", 1000)];

/// Fraction digits that are written; a value that needs more goes to a smaller unit.
const FRACTION_DIGITS: usize = 3;

/// Reads a decimal number with a unit exactly.
fn parse_exact(text: &str, units: Units, expected: &str) -> Result<u64, String> {
    let error = || format!("expected {expected}, found \"{text}\"");
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = (&trimmed[..split], trimmed[split..].trim());
    let scale = units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| u128::from(*scale)).ok_or_else(error)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || whole.len() > 20 || fraction.len() > 18 || fraction.contains('.') {
        return Err(error());
    }
    let digits = |d: &str| if d.is_empty() { Ok(0) } else { d.parse::<u128>().map_err(|_| error()) };
    let part = digits(fraction)? * scale;
    let power = 10u128.pow(fraction.len() as u32);
    if part % power != 0 {
        return Err(format!("{} without a fraction of the smallest unit", error()));
    }
    u64::try_from(digits(whole)? * scale + part / power).map_err(|_| error())
}

/// Writes a number with the largest unit that says it in at most `digits` fraction digits.
fn print_exact(value: u64, units: Units, digits: usize) -> String {
    for (unit, scale) in units {
        let binary = scale.is_power_of_two() && *scale > 1;
        if value < *scale && *scale > 1 || binary && !value.is_multiple_of(*scale) {
            continue;
        }
        let (whole, mut rest, mut fraction) = (value / scale, u128::from(value % scale), String::new());
        while rest > 0 && fraction.len() < digits {
            rest *= 10;
            fraction.push(char::from(b'0' + (rest / u128::from(*scale)) as u8));
            rest %= u128::from(*scale);
        }
        if rest == 0 {
            let point = if fraction.is_empty() { "" } else { "." };
            return format!("{whole}{point}{fraction}{unit}");
        }
    }
    let (unit, scale) = units.last().copied().unwrap_or(("", 1));
    format!("{}{unit}", value / scale.max(1))
}

/// A scalar of the files that is written and read as text.
macro_rules! text_scalar {
    ($(#[$doc:meta])* $name:ident($inner:ty), $print:expr, $parse:expr, $expecting:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(pub $inner);

        impl $name {
            /// The text that stands in the file.
            pub fn text(&self) -> String {
                let print: fn(&$inner) -> String = $print;
                print(&self.0)
            }

            /// Reads the text that stands in a file.
            ///
            /// # Errors
            /// A sentence `expected ..., found ...`.
            pub fn parse(text: &str) -> Result<Self, String> {
                let parse: fn(&str) -> Result<$inner, String> = $parse;
                parse(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.text())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

text_scalar!(
    /// `400ms`, `12.5us`.
    Duration(Nanos),
    |v| print_exact(v.0, DURATION, FRACTION_DIGITS),
    |t| parse_exact(t, DURATION, "a duration such as 400ms, 1.5s, 250us or 90ns").map(Nanos),
    "a duration such as 400ms"
);
text_scalar!(
    /// `16GiB`, `1.5kB`.
    Size(Bytes),
    |v| print_exact(v.0, SIZE, FRACTION_DIGITS),
    |t| parse_exact(t, SIZE, "a size such as 16GiB, 512MB or 100B").map(Bytes),
    "a size such as 16GiB"
);
text_scalar!(
    /// `12GB/s`.
    Bandwidth(u64),
    |v| print_exact(*v, BANDWIDTH, FRACTION_DIGITS),
    |t| parse_exact(t, BANDWIDTH, "a bandwidth such as 12GB/s"),
    "a bandwidth such as 12GB/s"
);
text_scalar!(
    /// Arithmetic a second: `8.1T`.
    Arithmetic(u64),
    |v| print_exact(*v, ARITHMETIC, FRACTION_DIGITS),
    |t| parse_exact(t, ARITHMETIC, "operations a second such as 8.1T or 500G"),
    "operations a second such as 8.1T"
);
text_scalar!(
    /// Rent in millionths of a dollar, written `0.526USD`.
    Money(u64),
    |v| {
        let fraction = format!("{:06}", v % 1_000_000);
        let fraction = fraction.trim_end_matches('0');
        format!("{}{}{fraction}USD", v / 1_000_000, if fraction.is_empty() { "" } else { "." })
    },
    |t| parse_exact(t, MONEY, "a price such as 0.526USD"),
    "a price such as 0.526USD"
);
text_scalar!(
    /// A percentile in per mille, written `p99` or `p99.9`.
    Percentile(u64),
    |v| if v % 10 == 0 { format!("p{}", v / 10) } else { format!("p{}.{}", v / 10, v % 10) },
    |t| {
        let number = t.strip_prefix('p').filter(|n| n.starts_with(|c: char| c.is_ascii_digit()));
        let number = number.ok_or_else(|| format!("expected a percentile such as p99 or p99.9, found \"{t}\""))?;
        parse_exact(number, PERCENT_OF_REQUESTS, "a percentile such as p99 or p99.9")
    },
    "a percentile such as p99"
);
text_scalar!(
    /// `f32`.
    Element(DType),
    |v| v.name().to_owned(),
    |t| t.parse(),
    "an element type such as f32"
);
text_scalar!(
    /// 64 hexadecimal digits.
    Digest(Fingerprint),
    |v| v.to_string(),
    |t| t.parse(),
    "64 hexadecimal digits"
);
text_scalar!(
    /// Which nodes: see [`print_pattern`].
    Pattern(NodePattern),
    print_pattern,
    parse_pattern,
    "a node, a range \"a .. b\", or a pattern with \"*\""
);

/// A dimension of an input: `224`, `N` or `2N`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis(pub BoundDim);

impl Axis {
    /// Reads `224`, `N` or `2N`.
    ///
    /// # Errors
    /// A sentence `expected ..., found ...`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let error = || format!("expected a dimension such as 224, N or 2N, found \"{text}\"");
        let (digits, batch) = match text.strip_suffix('N') {
            Some("") => return Ok(Self(BoundDim::Batch(1))),
            Some(digits) => (digits, true),
            None => (text, false),
        };
        if !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        let n: u64 = digits.parse().map_err(|_| error())?;
        Ok(Self(if batch { BoundDim::Batch(n) } else { BoundDim::Fixed(n) }))
    }
}

impl Serialize for Axis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            BoundDim::Fixed(n) => serializer.serialize_u64(n),
            BoundDim::Batch(1) => serializer.serialize_str("N"),
            BoundDim::Batch(n) => serializer.collect_str(&format_args!("{n}N")),
        }
    }
}

/// Requests a second in thousandths, at most [`MILLIRATE_MAX`], written as the number `400` or `0.125`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u64);

impl Rate {
    /// Reads `400` or `0.125`.
    ///
    /// # Errors
    /// A sentence `expected ..., found ...`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rate = parse_exact(text, THOUSANDTHS, "requests a second, to thousandths, such as 400 or 0.125")?;
        if rate > MILLIRATE_MAX {
            return Err(format!("expected at most {} requests a second, found \"{text}\"", MILLIRATE_MAX / 1000));
        }
        Ok(Self(rate))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = format!("{:03}", self.0 % 1000);
        let fraction = fraction.trim_end_matches('0');
        write!(f, "{}{}{fraction}", self.0 / 1000, if fraction.is_empty() { "" } else { "." })
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 % 1000 {
            0 => serializer.serialize_u64(self.0 / 1000),
            // The nearest double prints as the decimals it came from, for rates are small enough.
            _ => serializer.serialize_f64(self.0 as f64 / 1000.0),
        }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Rate;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("requests a second such as 400 or 0.125")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Rate, E> {
                Rate::parse(text).map_err(E::custom)
            }
        }
        // As text: numbers of YAML would go through floats.
        deserializer.deserialize_str(Text)
    }
}

/// A thing of the document, by name where the name is unique, else by position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ref {
    /// Its name.
    Name(String),
    /// Its position.
    Position(usize),
}

impl Serialize for Ref {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Ref::Name(name) => serializer.serialize_str(name),
            Ref::Position(i) => serializer.serialize_u64(*i as u64),
        }
    }
}

/// Reads integers and strings.
struct NumberOrText<F>(F, &'static str);

impl<T, F: FnOnce(Result<u64, &str>) -> Result<T, String>> Visitor<'_> for NumberOrText<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }

    fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<T, E> {
        (self.0)(Ok(n)).map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(Err(text)).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Ref {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let take = |found: Result<u64, &str>| match found {
            Ok(n) => usize::try_from(n).map(Ref::Position).map_err(|_| format!("expected a position, found {n}")),
            Err(name) => Ok(Ref::Name(name.to_owned())),
        };
        deserializer.deserialize_any(NumberOrText(take, "a name or a position"))
    }
}

impl<'de> Deserialize<'de> for Axis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let take = |found: Result<u64, &str>| match found {
            Ok(n) => Ok(Axis(BoundDim::Fixed(n))),
            Err(text) => Axis::parse(text),
        };
        deserializer.deserialize_any(NumberOrText(take, "a dimension such as 224, N or 2N"))
    }
}

/// A flag that is only ever `true`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Yes;

impl Serialize for Yes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(true)
    }
}

impl<'de> Deserialize<'de> for Yes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match bool::deserialize(deserializer)? {
            true => Ok(Yes),
            false => Err(D::Error::custom("expected true or no such field, found false")),
        }
    }
}

/// What separates the ends of a range.
const RANGE: &str = " .. ";

/// A pattern's text. `*` is all the rest; `a .. b` is a range; a text with `*` is a glob; any other is one node's name.
/// Names that would read as something else are written `=NAME`; globs that would, `~GLOB`; ends of a range that would, in
/// double quotes with `\"` and `\\`.
pub fn print_pattern(pattern: &NodePattern) -> String {
    match pattern {
        NodePattern::Rest => "*".into(),
        NodePattern::Range(a, b) => format!("{}{RANGE}{}", range_end(a), range_end(b)),
        // Whatever reads back as itself needs no mark.
        NodePattern::One(name) if parse_pattern(name).as_ref() == Ok(pattern) => name.clone(),
        NodePattern::One(name) => format!("={name}"),
        NodePattern::Glob(glob) if parse_pattern(glob).as_ref() == Ok(pattern) => glob.clone(),
        NodePattern::Glob(glob) => format!("~{glob}"),
    }
}

fn range_end(name: &str) -> String {
    let plain = !name.is_empty() && !name.contains("..") && name.trim() == name && !name.starts_with(['"', '=', '~']);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")) }
}

/// Reads what [`print_pattern`] writes.
///
/// # Errors
/// A sentence `expected ..., found ...`.
pub fn parse_pattern(text: &str) -> Result<NodePattern, String> {
    if let Some(name) = text.strip_prefix('=') {
        return Ok(NodePattern::One(name.to_owned()));
    }
    if let Some(glob) = text.strip_prefix('~') {
        return Ok(NodePattern::Glob(glob.to_owned()));
    }
    if text == "*" {
        return Ok(NodePattern::Rest);
    }
    if text.starts_with('"') || text.contains(RANGE) {
        let error = || {
            format!("expected a range such as \"a .. b\", found \"{text}\" (a name like this is written \"={text}\")")
        };
        let (first, rest) = take_end(text).ok_or_else(error)?;
        let rest = rest.strip_prefix(RANGE).ok_or_else(error)?;
        let (last, rest) = take_end(rest).ok_or_else(error)?;
        return if rest.is_empty() { Ok(NodePattern::Range(first, last)) } else { Err(error()) };
    }
    match text.contains('*') {
        true => Ok(NodePattern::Glob(text.to_owned())),
        false if text.is_empty() => {
            Err("expected a node's name, found an empty one (write \"=\" if it is meant)".into())
        }
        false => Ok(NodePattern::One(text.to_owned())),
    }
}

/// Takes one end of a range off a text: in quotes, or up to the next separator.
fn take_end(text: &str) -> Option<(String, &str)> {
    let Some(body) = text.strip_prefix('"') else {
        let split = text.find(RANGE).unwrap_or(text.len());
        return (split > 0).then(|| (text[..split].trim().to_owned(), &text[split..]));
    };
    let mut name = String::new();
    let mut chars = body.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Some((name, &body[i + 1..])),
            '\\' => name.push(chars.next()?.1),
            c => name.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_exact() {
        for (ns, text) in [
            (0, "0ns"),
            (1, "1ns"),
            (1500, "1.5us"),
            (400_000_000, "400ms"),
            (12_345_678, "12345.678us"),
            (1_000_000_001, "1000000.001us"),
            (u64::MAX, "18446744073709551.615us"),
        ] {
            let duration = Duration(Nanos(ns));
            assert_eq!(duration.text(), text);
            assert_eq!(Duration::parse(text), Ok(duration));
        }
        assert_eq!(Size(Bytes(16 << 30)).text(), "16GiB");
        assert_eq!(Size(Bytes(1500)).text(), "1.5kB");
        assert_eq!(Size(Bytes(1001)).text(), "1.001kB");
        assert_eq!(Arithmetic(8_100_000_000_000).text(), "8.1T");
        assert_eq!(Arithmetic(7).text(), "7");
        assert_eq!(Money(526_000).text(), "0.526USD");
        assert_eq!(Money::parse("0.526USD"), Ok(Money(526_000)));
        assert_eq!(Percentile(999).text(), "p99.9");
        assert_eq!(Percentile::parse("p99"), Ok(Percentile(990)));
        for v in [0, 1, 9, 10, 999, 12345, 1 << 20, u64::MAX, u64::MAX - 1, 1 << 63, 10u64.pow(18), 123_456_789_012_345]
        {
            assert_eq!(Size::parse(&Size(Bytes(v)).text()), Ok(Size(Bytes(v))));
            assert_eq!(Bandwidth::parse(&Bandwidth(v).text()), Ok(Bandwidth(v)));
            assert_eq!(Arithmetic::parse(&Arithmetic(v).text()), Ok(Arithmetic(v)));
            assert_eq!(Money::parse(&Money(v).text()), Ok(Money(v)));
            assert_eq!(Percentile::parse(&Percentile(v).text()), Ok(Percentile(v)));
        }
        for bad in ["", "ms", "400", "1..5s", "-3ms", "1e3ms", "0.5ns", "99999999999999999999s", "p", "p-1"] {
            assert!(Duration::parse(bad).is_err() && Percentile::parse(bad).is_err() && Money::parse(bad).is_err());
        }
    }

    #[test]
    fn patterns_are_read_back() {
        let odd = [
            "a",
            "input:0",
            "463",
            "onnx::Shape_422",
            "*",
            "a*",
            "=a",
            "~a",
            "\"a\"",
            "\"a",
            "a .. b",
            " .. ",
            "..",
            "",
            " ",
            " a",
            "a ",
            "a..b",
            "a \\",
            "é*",
            "a .. ",
            " .. b",
            "\"a\" .. b",
            "~",
            "=",
        ];
        for a in odd {
            for p in [NodePattern::One(a.into()), NodePattern::Glob(a.into()), NodePattern::Rest] {
                assert_eq!(parse_pattern(&print_pattern(&p)), Ok(p.clone()), "{p:?}");
            }
            for b in odd {
                let p = NodePattern::Range(a.into(), b.into());
                assert_eq!(parse_pattern(&print_pattern(&p)), Ok(p.clone()), "{}", print_pattern(&p));
            }
        }
        assert_eq!(print_pattern(&NodePattern::Range("conv1".into(), "relu 2".into())), "conv1 .. relu 2");
        assert_eq!(print_pattern(&NodePattern::One("input:0".into())), "input:0");
    }

    #[test]
    fn rates_are_exact_to_thousandths() {
        for (millirate, text) in [(0, "0"), (1, "0.001"), (125, "0.125"), (400_000, "400"), (1_234_560, "1234.56")] {
            assert_eq!(Rate::parse(text), Ok(Rate(millirate)));
            assert_eq!(Rate(millirate).to_string(), text);
        }
        for millirate in (0..2000).chain([MILLIRATE_MAX, MILLIRATE_MAX - 1, MILLIRATE_MAX / 3]) {
            let written = serde_json::to_string(&Rate(millirate)).expect("a number");
            assert_eq!(Rate::parse(&written), Ok(Rate(millirate)), "{written}");
        }
        for bad in ["", "-1", "0.0005", "1e3", "fast", "4/s", "1000000000.001", "99999999999999999999"] {
            assert!(Rate::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn dimensions_are_read() {
        assert_eq!(Axis::parse("N"), Ok(Axis(BoundDim::Batch(1))));
        assert_eq!(Axis::parse("2N"), Ok(Axis(BoundDim::Batch(2))));
        assert_eq!(Axis::parse("7"), Ok(Axis(BoundDim::Fixed(7))));
        for bad in ["", "n", "-1", "N2", "+3", "99999999999999999999", "1.5"] {
            assert!(Axis::parse(bad).is_err(), "{bad}");
        }
    }
}
