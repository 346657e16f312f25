//! Writes a tree as YAML that people read and edit: block style for structure, one line of flow style for records.
//!
//! Every string that any YAML reader could take for something else is quoted, so that the text means the same to YAML 1.1,
//! YAML 1.2 and a JSON-minded reader.

use std::fmt::Write;

use serde_json::{Map, Value};

/// Columns a wrapped list may take.
const WIDTH: usize = 118;

/// Keys longer than this are written with an explicit `?`: YAML allows a plain key 1,024 bytes.
const KEY_MAX: usize = 900;

/// Lists whose items are records, each on one line however long.
const RECORDS: [&str; 16] = [
    "links",
    "tensors",
    "steps",
    "graphs",
    "memory",
    "work",
    "tried",
    "passes",
    "samples",
    "launches",
    "copies",
    "runs",
    "atoms",
    "interference",
    "proofs",
    "engines",
];

/// Lists of sentences: one a line.
const SENTENCES: [&str; 2] = ["sources", "notes"];

/// Maps that go on one line.
const INLINE_MAPS: [&str; 1] = ["flops"];

/// A document as YAML.
pub(super) fn document(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block_map(&mut out, map, 0, false),
        other => {
            out.push_str(&flow(other));
            out.push('\n');
        }
    }
    out
}

/// A document as JSON that YAML parsers read as well: characters YAML forbids or folds are escaped.
pub(super) fn json(value: &Value) -> String {
    let mut out = String::new();
    for c in format!("{value:#}").chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('\n');
    out
}

fn pad(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

/// Writes the fields of a map; `inline` when the cursor already stands where the first key goes.
fn block_map(out: &mut String, map: &Map<String, Value>, indent: usize, inline: bool) {
    for (i, (key, value)) in map.iter().enumerate() {
        if i > 0 || !inline {
            pad(out, indent);
        }
        let text = scalar_text(key, true);
        if text.len() > KEY_MAX {
            let _ = write!(out, "? {text}\n{:indent$}:", "");
        } else {
            let _ = write!(out, "{text}:");
        }
        field(out, key, value, indent, text.len().min(KEY_MAX));
    }
}

/// Writes a field's value behind its colon, and ends the line.
fn field(out: &mut String, key: &str, value: &Value, indent: usize, key_columns: usize) {
    match value {
        Value::Object(map) if !map.is_empty() && !INLINE_MAPS.contains(&key) => {
            out.push('\n');
            block_map(out, map, indent + 2, false);
        }
        Value::Array(items) if !items.is_empty() && !is_flow_list(key, items) => {
            out.push('\n');
            for item in items {
                pad(out, indent);
                out.push_str("- ");
                list_item(out, key, item, indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            out.push(' ');
            wrapped(out, items, indent + 2, indent + key_columns + 2);
            out.push('\n');
        }
        other => {
            let text = match other {
                Value::String(s) => scalar_text(s, false),
                other => flow(other),
            };
            let _ = writeln!(out, " {text}");
        }
    }
}

fn list_item(out: &mut String, key: &str, item: &Value, indent: usize) {
    match item {
        Value::Object(map) if !map.is_empty() && !RECORDS.contains(&key) => {
            block_map(out, map, indent + 2, true);
        }
        Value::String(s) => {
            let _ = writeln!(out, "{}", scalar_text(s, false));
        }
        other => {
            let _ = writeln!(out, "{}", flow(other));
        }
    }
}

/// Whether a list goes in flow style: scalars, or short lists of scalars.
fn is_flow_list(key: &str, items: &[Value]) -> bool {
    let plain = |v: &Value| !v.is_object() && !v.is_array();
    let small = |v: &Value| plain(v) || v.as_array().is_some_and(|l| l.iter().all(plain));
    !SENTENCES.contains(&key) && items.iter().all(small)
}

/// A list in flow style, broken at [`WIDTH`] columns; lines after the first are indented.
fn wrapped(out: &mut String, items: &[Value], indent: usize, column: usize) {
    out.push('[');
    let mut column = column + 1;
    for (i, item) in items.iter().enumerate() {
        let text = flow(item);
        let columns = text.chars().count() + 2;
        if i > 0 && column + columns > WIDTH {
            out.push_str(",\n");
            pad(out, indent);
            column = indent;
        } else if i > 0 {
            out.push_str(", ");
        }
        out.push_str(&text);
        column += columns;
    }
    out.push(']');
}

fn flow(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::String(s) => scalar_text(s, true),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let field = |(k, v): (&String, &Value)| {
                let key = scalar_text(k, true);
                let mark = if key.len() > KEY_MAX { "? " } else { "" };
                format!("{mark}{key}: {}", flow(v))
            };
            format!("{{{}}}", map.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// A string as a scalar: plain where no reader can mistake it, else in double quotes. `strict` inside flow style and for
/// keys, where more characters have a meaning.
pub(super) fn scalar_text(text: &str, strict: bool) -> String {
    if is_plain(text, strict) { text.to_owned() } else { quoted(text) }
}

fn is_plain(text: &str, strict: bool) -> bool {
    let Some(first) = text.chars().next() else { return false };
    if text.len() > 200 || text.ends_with([' ', ':']) || !(first.is_ascii_alphanumeric() || matches!(first, '_' | '/'))
    {
        return false;
    }
    if text.contains(": ") || text.contains(" #") || is_word(text) || first.is_ascii_digit() && !is_measure(text) {
        return false;
    }
    let loose = |c: char| matches!(c, ':' | ',' | '*' | '\'' | '%' | '[' | ']' | '{' | '}' | '&' | '!' | '"' | '|');
    let safe = |c: char| c.is_ascii_alphanumeric() || " _-./<>+=@()#~;$^".contains(c) || !strict && loose(c);
    text.chars().all(safe)
}

/// Words that some YAML reader takes for a boolean, a null or a number.
fn is_word(text: &str) -> bool {
    let words = ["true", "false", "yes", "no", "on", "off", "null", "nan", "inf", "infinity", "y"];
    words.contains(&text.to_ascii_lowercase().as_str()) || text == "n"
}

/// A number with a unit, such as `400ms`, `2N`, `8.1T` or `12GB/s`, which no reader takes for a number.
fn is_measure(text: &str) -> bool {
    let number = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let unit = number.trim_end_matches("/s");
    let digits = &text[..text.len() - number.len()];
    let numberlike = digits == "0" && unit.starts_with(['x', 'o', 'b', 'X', 'O', 'B']);
    !unit.is_empty() && unit.chars().all(|c| c.is_ascii_alphabetic()) && !numberlike
}

fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        let _ = match c {
            '"' => write!(out, "\\\""),
            '\\' => write!(out, "\\\\"),
            '\n' => write!(out, "\\n"),
            '\t' => write!(out, "\\t"),
            ' '..='~' => write!(out, "{c}"),
            c if c.is_alphanumeric() => write!(out, "{c}"),
            c if (c as u32) <= 0xff => write!(out, "\\x{:02x}", c as u32),
            c if (c as u32) <= 0xffff => write!(out, "\\u{:04x}", c as u32),
            c => write!(out, "\\U{:08x}", c as u32),
        };
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn strings_are_read_back_as_they_were() {
        let odd = [
            "",
            " ",
            "input:0",
            "463",
            "onnx::Shape_422",
            "a .. b",
            "*",
            "conv*",
            "true",
            "No",
            "null",
            "~",
            "1e5",
            "0x1F",
            "0b1",
            "1_000",
            ".5",
            "-",
            "- a",
            "a: b",
            "a #b",
            "#",
            "é",
            "名前",
            "😀",
            "a\nb",
            "\u{85}",
            "\u{2028}",
            "\u{feff}",
            "\u{0}",
            "\"",
            "'",
            "\\",
            "[a]",
            "{a}",
            "a,b",
            "2026-11-21",
            "400ms",
            "N",
            "2N",
            "n",
            "y",
            "?",
            "=x",
            "%",
            "@",
            "`",
            "!t",
            "&a",
            "|",
            ">",
            "12:30",
            "a:",
            "<<",
            "=",
            "1.5GiB",
            "cpu>gpu0",
            "\u{10ffff}",
            "0.5e",
            "12e3",
            "Infinity",
            "...",
            "---",
            "null ",
            "tab\tbed",
            "1 2",
        ];
        for text in odd {
            let tree = json!({"key": text, text: 1, "list": [text, text], "records": {"steps": [{"a": text, "b": [text]}]},
                "notes": [text]});
            let yaml = document(&tree);
            let back: Value = serde_yaml::from_str(&yaml).unwrap_or_else(|e| panic!("{text:?}: {e}\n{yaml}"));
            assert_eq!(back, tree, "{text:?}\n{yaml}");
            super::super::scan::scan(&yaml).unwrap_or_else(|e| panic!("{text:?}: {e:?}\n{yaml}"));
            let back: Value = serde_yaml::from_str(&json(&tree)).unwrap_or_else(|e| panic!("{text:?}: {e}"));
            assert_eq!(back, tree, "{text:?}");
        }
    }

    #[test]
    fn long_keys_and_lists_are_read_back() {
        let key = "k".repeat(3000);
        let items: Vec<String> = (0..500).map(|i| format!("node_{i}")).collect();
        let tree =
            json!({key.clone(): [1, 2], "a": {key.clone(): {"b": items}}, "steps": [{key: 1}], "e": [], "f": {}});
        let yaml = document(&tree);
        assert_eq!(serde_yaml::from_str::<Value>(&yaml).unwrap(), tree, "{yaml}");
        assert!(yaml.lines().filter(|l| l.contains("node_")).all(|l| l.len() <= WIDTH + 2));
    }
}
