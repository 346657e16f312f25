//! File formats: versioned YAML twins of the documents.
//!
//! A document in memory is not its file: each kind has a serialisable twin here, with a fixed order of fields, unknown
//! fields refused, and `apiVersion` and `kind` first. `from_yaml(to_yaml(x)) == x`, and `to_yaml(from_yaml(text)) == text`
//! for text that tandem wrote. JSON is read by the same functions, for YAML contains it.
//!
//! Reading is bounded before the parser sees the text: size, nesting, values; anchors, aliases, tags and block scalars are
//! refused, for the documents never need them. Writing is ours as well (`emit`): the YAML crate writes block style only,
//! and a plan's steps are read best one a line.

use std::fmt;

use serde::Serialize;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;

mod derived;
mod emit;
pub mod machine;
pub mod plan;
pub mod profile;
pub mod scalar;
mod scan;
mod serving;
#[cfg(test)]
mod tests;

/// The version all kinds are at.
pub const API_VERSION: &str = "tandem/v1";

/// What is wrong with a document, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {}{message}", field_prefix(.field))]
pub struct FormatError {
    /// The file as the caller named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// Dotted path of the field, `derived.routes[0].steps[3].lane`; empty for the document itself.
    pub field: String,
    /// `expected ..., found ...`.
    pub message: String,
}

fn field_prefix(field: &str) -> String {
    if field.is_empty() { String::new() } else { format!("{field}: ") }
}

/// A step of a path into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seg {
    Key(String),
    Index(usize),
}

/// A fault found after parsing, with the path to it, innermost first while it travels outwards.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    path: Vec<Seg>,
    message: String,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { path: vec![], message: message.into() }
    }

    /// The fault seen from the holder of a field.
    pub(crate) fn under(mut self, key: &str) -> Self {
        self.path.push(Seg::Key(key.to_owned()));
        self
    }

    /// The fault seen from the holder of a list.
    pub(crate) fn item(mut self, key: &str, index: usize) -> Self {
        self.path.push(Seg::Index(index));
        self.under(key)
    }
}

/// The fields every file starts with.
#[derive(serde::Deserialize)]
#[serde(expecting = "a map of fields that begins with apiVersion and kind")]
struct Header {
    #[serde(rename = "apiVersion")]
    api_version: Option<String>,
    kind: Option<String>,
}

/// Parses a document of a kind into its twin.
pub(crate) fn read<T: DeserializeOwned>(text: &str, file: &str, kind: &str) -> Result<T, FormatError> {
    let error = |line, column, message: String| FormatError {
        file: file.to_owned(),
        line,
        column,
        field: String::new(),
        message,
    };
    scan::scan(text).map_err(|e| error(e.line, e.column, e.message))?;
    let header: Header = serde_yaml::from_str(text).map_err(|e| convert(&e, file))?;
    let found = |v: &Option<String>| v.as_ref().map_or("none".to_owned(), |v| format!("\"{v}\""));
    let at = |key: &str, message: String| {
        let (line, column) = locate(text, &[Seg::Key(key.to_owned())]);
        FormatError { field: key.to_owned(), ..error(line, column, message) }
    };
    if header.api_version.as_deref() != Some(API_VERSION) {
        let message = format!("expected \"{API_VERSION}\", found {}", found(&header.api_version));
        return Err(at("apiVersion", message));
    }
    if header.kind.as_deref() != Some(kind) {
        return Err(at("kind", format!("expected a document of kind \"{kind}\", found {}", found(&header.kind))));
    }
    serde_yaml::from_str(text).map_err(|e| convert(&e, file))
}

/// Turns a fault of a parsed document into an error that names its line.
pub(crate) fn place(fault: Fault, text: &str, file: &str) -> FormatError {
    let path: Vec<Seg> = fault.path.into_iter().rev().collect();
    let mut field = String::new();
    for seg in &path {
        match seg {
            Seg::Key(key) if field.is_empty() => field.push_str(key),
            Seg::Key(key) => field.push_str(&format!(".{key}")),
            Seg::Index(i) => field.push_str(&format!("[{i}]")),
        }
    }
    let (line, column) = locate(text, &path);
    FormatError { file: file.to_owned(), line, column, field, message: fault.message }
}

/// Writes a twin: header first, then its fields.
pub(crate) fn write<T: Serialize>(twin: &T, kind: &str) -> String {
    emit::document(&with_header(twin, kind))
}

/// The same as JSON.
pub(crate) fn write_json<T: Serialize>(twin: &T, kind: &str) -> String {
    emit::json(&with_header(twin, kind))
}

fn with_header<T: Serialize>(twin: &T, kind: &str) -> Value {
    let mut fields = serde_json::Map::new();
    fields.insert("apiVersion".into(), API_VERSION.into());
    fields.insert("kind".into(), kind.into());
    if let Value::Object(own) = value_of(twin) {
        fields.extend(own);
    }
    Value::Object(fields)
}

/// A twin as a tree. Twins hold strings, integers, lists and maps keyed by strings: nothing JSON cannot say.
pub(crate) fn value_of<T: Serialize>(twin: &T) -> Value {
    serde_json::to_value(twin).expect("twins are trees of strings, integers and lists")
}

/// How the YAML crate's messages start, and ours.
const STARTS: [&str; 12] = [
    "expected ",
    "invalid type: ",
    "invalid value: ",
    "invalid length ",
    "unknown field ",
    "unknown variant ",
    "missing field ",
    "duplicate field ",
    "EOF while ",
    "recursion limit ",
    "repetition limit ",
    "deserializing from YAML containing more",
];

/// The YAML crate's error in our words.
fn convert(error: &serde_yaml::Error, file: &str) -> FormatError {
    let (line, column) = error.location().map_or((1, 1), |l| (l.line(), l.column()));
    let text = error.to_string();
    // The crate's text is `path: message at line L column C`; the path may hold odd keys, so the message is found first.
    let begins = |rest: &str| STARTS.iter().any(|s| rest.starts_with(s));
    let splits = text.match_indices(": ").map(|(i, _)| i);
    let (field, message) = match splits.filter(|i| begins(&text[i + 2..])).min() {
        Some(i) if !begins(&text) => {
            (text[..i].trim_end_matches(".?").trim_end_matches('?').to_owned(), &text[i + 2..])
        }
        _ => (String::new(), text.as_str()),
    };
    let message = match message.rfind(" at line ") {
        Some(i) if begins(message) => &message[..i],
        _ => message,
    };
    FormatError { file: file.to_owned(), line, column, field, message: reword(message) }
}

fn reword(message: &str) -> String {
    for start in ["invalid type: ", "invalid value: ", "unknown variant "] {
        if let Some((found, expected)) = message.strip_prefix(start).and_then(|m| m.rsplit_once(", expected ")) {
            return format!("expected {expected}, found {found}");
        }
    }
    if let Some((found, expected)) = message.strip_prefix("invalid length ").and_then(|m| m.split_once(", expected ")) {
        return format!("expected {expected}, found {found}");
    }
    if let Some(rest) = message.strip_prefix("unknown field ") {
        let (found, expected) = rest.split_once(", expected ").unwrap_or((rest, "no such field"));
        return format!("expected {expected}, found the unknown field {found}");
    }
    if let Some(field) = message.strip_prefix("missing field ") {
        return format!("expected the field {field}, found none");
    }
    if let Some(field) = message.strip_prefix("duplicate field ") {
        return format!("expected the field {field} once, found it again");
    }
    match message {
        m if m.starts_with("expected ") => m.to_owned(),
        m if m.starts_with("EOF while") => "expected a document, found nothing".into(),
        m if m.starts_with("deserializing") => "expected one document, found more than one".into(),
        m => format!("expected well-formed YAML, found a fault: {m}"),
    }
}

/// Line and column of the value at a path; of the deepest holder of it that exists, else the document's start.
fn locate(text: &str, path: &[Seg]) -> (usize, usize) {
    // The parser gives positions with errors only: walk to the value and fail there on purpose.
    for end in (0..=path.len()).rev() {
        let error = Locate(&path[..end]).deserialize(serde_yaml::Deserializer::from_str(text)).err();
        if let Some(at) = error.and_then(|e| e.location().map(|l| (l.line(), l.column()))) {
            return at;
        }
    }
    (1, 1)
}

struct Locate<'p>(&'p [Seg]);

impl<'de> DeserializeSeed<'de> for Locate<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Locate<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Seg::Key(wanted), rest)) = self.0.split_first() else { return Err(A::Error::custom("here")) };
        while let Some(key) = map.next_key::<String>()? {
            if key == *wanted {
                map.next_value_seed(Locate(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((Seg::Index(wanted), rest)) = self.0.split_first() else { return Err(A::Error::custom("here")) };
        for _ in 0..*wanted {
            seq.next_element::<IgnoredAny>()?;
        }
        seq.next_element_seed(Locate(rest))?;
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}
