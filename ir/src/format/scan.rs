//! A look at a document before the parser sees it: refuses what the documents never need and hostile files live on.
//!
//! Not a parser: it knows where a value may start, skips quoted text and comments, and is stricter than YAML where the two
//! could differ. The parser itself still bounds repetition and recursion.

use crate::limits::{DOCUMENT_BYTES_MAX, DOCUMENT_DEPTH_MAX, DOCUMENT_VALUES_MAX};

/// Why a document is refused, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

/// Checks size, number of values, nesting in flow style, and that no anchor, alias, tag or block scalar occurs.
pub(super) fn scan(text: &str) -> Result<(), Refused> {
    if text.len() as u64 > DOCUMENT_BYTES_MAX {
        let message = format!("expected at most {DOCUMENT_BYTES_MAX} bytes, found {}", text.len());
        return Err(Refused { line: 1, column: 1, message });
    }
    Scan { bytes: text.as_bytes(), text, at: 0, values: 0, depth: 0 }.run()
}

struct Scan<'t> {
    bytes: &'t [u8],
    text: &'t str,
    at: usize,
    values: usize,
    depth: usize,
}

impl Scan<'_> {
    fn run(&mut self) -> Result<(), Refused> {
        // True where a value may start: at the start of a line, behind an indicator, behind a quoted key's colon.
        let mut fresh = true;
        let mut indent_run = 0usize;
        while let Some(byte) = self.bytes.get(self.at).copied() {
            let next_blank = self.bytes.get(self.at + 1).is_none_or(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r'));
            match byte {
                b'\n' | b'\r' => (fresh, indent_run) = (true, 0),
                b' ' | b'\t' => {}
                b'#' if self.at == 0 || matches!(self.bytes[self.at - 1], b' ' | b'\t' | b'\n' | b'\r') => {
                    while self.bytes.get(self.at + 1).is_some_and(|b| !matches!(b, b'\n' | b'\r')) {
                        self.at += 1;
                    }
                }
                b'[' | b'{' if fresh || self.depth > 0 => {
                    self.count(1)?;
                    self.depth += 1;
                    if self.depth > DOCUMENT_DEPTH_MAX {
                        return Err(self.refuse(format!("at most {DOCUMENT_DEPTH_MAX} nested lists"), "a deeper one"));
                    }
                    fresh = true;
                }
                b']' | b'}' if self.depth > 0 => (self.depth, fresh) = (self.depth - 1, false),
                b',' if self.depth > 0 => fresh = true,
                b'-' | b'?' if fresh && next_blank => {
                    self.count(1)?;
                    indent_run += 1;
                    if indent_run > DOCUMENT_DEPTH_MAX {
                        return Err(self.refuse(format!("at most {DOCUMENT_DEPTH_MAX} nested lists"), "a deeper one"));
                    }
                }
                b':' if next_blank || self.after_quote() => fresh = true,
                b'"' | b'\'' if fresh => {
                    self.count(1)?;
                    self.quoted(byte);
                    fresh = false;
                }
                b'&' | b'*' | b'!' | b'|' | b'>' | b'%' if fresh => return Err(self.indicator(byte)),
                _ => {
                    if fresh {
                        self.count(1)?;
                    }
                    fresh = false;
                }
            }
            self.at += 1;
        }
        Ok(())
    }

    fn after_quote(&self) -> bool {
        self.at > 0 && matches!(self.bytes[self.at - 1], b'"' | b'\'')
    }

    /// Moves to the closing quote.
    fn quoted(&mut self, quote: u8) {
        self.at += 1;
        while let Some(byte) = self.bytes.get(self.at).copied() {
            match byte {
                b'\\' if quote == b'"' => self.at += 1,
                b'\'' if quote == b'\'' && self.bytes.get(self.at + 1) == Some(&b'\'') => self.at += 1,
                b if b == quote => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    fn count(&mut self, values: usize) -> Result<(), Refused> {
        self.values += values;
        match self.values > DOCUMENT_VALUES_MAX {
            true => Err(self.refuse(format!("at most {DOCUMENT_VALUES_MAX} values"), "more")),
            false => Ok(()),
        }
    }

    fn indicator(&self, byte: u8) -> Refused {
        let found = match byte {
            b'&' => "an anchor",
            b'*' => "an alias",
            b'!' => "a tag",
            b'%' => "a directive",
            _ => "a block scalar",
        };
        let expected = format!("a plain or quoted value (put text that starts with \"{}\" in quotes)", byte as char);
        self.refuse(expected, found)
    }

    fn refuse(&self, expected: String, found: &str) -> Refused {
        let before = &self.text[..self.at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        Refused { line, column, message: format!("expected {expected}, found {found}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_documents_pass() {
        for text in [
            "a: b\nc: [1, 2, \"*\"]\n",
            "nodes: [conv1 .. relu2, \"conv*\"]\n",
            "{\"a\":\"*x\",\"b\":[\"&\"]}",
            "a: it's * 5 & more # *comment\nb: 'it''s &x'\n",
            "lane: cpu>gpu0\nprice: a|b\n",
        ] {
            assert_eq!(scan(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_documents_never_need_is_refused() {
        for (text, line, column, found) in [
            ("a: &x 1\nb: *x\n", 1, 4, "an anchor"),
            ("a: 1\nb: *x\n", 2, 4, "an alias"),
            ("- [1, *x]\n", 1, 7, "an alias"),
            ("a: !!int 1\n", 1, 4, "a tag"),
            ("a: |\n  x\n", 1, 4, "a block scalar"),
            ("{\"a\":*x}", 1, 6, "an alias"),
        ] {
            let refused = scan(text).unwrap_err();
            assert_eq!((refused.line, refused.column), (line, column), "{text}");
            assert!(refused.message.ends_with(found), "{}", refused.message);
        }
        assert!(scan(&"[".repeat(1000)).unwrap_err().message.contains("nested"));
        assert!(scan(&"- ".repeat(1000)).unwrap_err().message.contains("nested"));
    }
}
