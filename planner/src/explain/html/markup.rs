//! Texts and tables as HTML.

use std::fmt::Write as _;

use tandem_ir::units::Bytes;

/// A text that is nothing but text, between tags and in quoted attributes. Characters that no reader sees, or that turn the
/// order of those around them, are written as their number.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push_str("&#10;"),
            c if unseen(c) => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// Control characters, the marks and overrides of writing direction, what has no width, and what is no character.
fn unseen(c: char) -> bool {
    let c32 = u32::from(c);
    c.is_control()
        || matches!(c32, 0x61C | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F | 0xFEFF | 0xFFF9..=0xFFFB)
        || matches!(c32, 0xFDD0..=0xFDEF)
        || c32 & 0xFFFE == 0xFFFE
        || matches!(c32, 0xE0000..=0xE0FFF)
}

/// As much of a text as fits so many characters.
pub(super) fn clipped(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some(_) => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Rows of cells that are HTML already, under a head that is too.
pub(super) fn table(class: &str, head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head: String = head.iter().map(|h| format!("<th scope=\"col\">{h}</th>")).collect();
    let mut out = format!("<div class=\"scroll\"><table class=\"{class}\"><thead><tr>{head}</tr></thead><tbody>\n");
    for row in rows {
        let cells: String = row.iter().map(|cell| format!("<td>{cell}</td>")).collect();
        let _ = writeln!(out, "<tr>{cells}</tr>");
    }
    out + "</tbody></table></div>\n"
}

/// A part of a whole, as a share and a bar.
pub(super) fn bar_of(part: Bytes, whole: Bytes) -> String {
    let permille = u128::from(part.0) * 1000 / u128::from(whole.0.max(1));
    bar(u64::try_from(permille).unwrap_or(u64::MAX))
}

/// A share in per mille, as a number and a bar; what is more than all is marked.
pub(super) fn bar(permille: u64) -> String {
    let class = if permille > 1000 { "bar over" } else { "bar" };
    let (width, percent) = (permille.min(1000) as f64 / 10.0, permille as f64 / 10.0);
    format!(
        "<span class=\"share\"><svg class=\"{class}\" viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <rect class=\"whole\" width=\"100\" height=\"8\"/><rect class=\"part\" width=\"{width:.1}\" height=\"8\"/></svg> \
         {percent:.1} %</span>"
    )
}

/// RFC 4648, section 4.
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0u32, |word, b| word << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let known = digit <= three.len();
            out.push(if known { char::from(DIGITS[(word >> (18 - 6 * digit) & 63) as usize]) } else { '=' });
        }
    }
    out
}
