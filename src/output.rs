//! Results to stdout, files written aside and renamed, exit codes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cli::Format;

/// A negative answer (infeasible, findings, a missed target): exit code 1, not 2.
#[derive(Debug)]
pub struct Negative(pub String);

impl std::fmt::Display for Negative {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Negative {}

/// Writes a whole file beside its place and renames it there, so that nobody ever sees half of it.
///
/// A link keeps leading where it leads, and what is no file (`/dev/null`, a pipe) is written to as it stands: renaming
/// would replace the device itself.
///
/// # Errors
/// Names the file; the old content is untouched and nothing is left behind.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let aside = aside_path(&place);
    let written = (|| {
        if fs::metadata(&place).is_ok_and(|m| !m.is_file() && !m.is_dir()) {
            return fs::OpenOptions::new().write(true).open(&place)?.write_all(bytes);
        }
        let mut file = fs::File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, &place)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written.with_context(|| format!("{}: cannot write {} bytes", path.display(), bytes.len()))
}

fn aside_path(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}.tmp", std::process::id()))
}

/// Writes to a file, or to stdout where none (or `-`) is given.
pub fn write_out(path: Option<&Path>, text: &str) -> Result<()> {
    match path.filter(|p| *p != Path::new("-")) {
        Some(path) => write_file(path, text.as_bytes()),
        None => print(text),
    }
}

/// Prints to stdout. A reader that went away (`| head`) is no error.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write to stdout"),
    }
}

/// Prints data in the asked form; `text` renders it for people.
pub fn print_as<T: Serialize>(format: Format, data: &T, text: impl FnOnce() -> String) -> Result<()> {
    match format {
        Format::Text => print(&text()),
        Format::Json => print(&(serde_json::to_string_pretty(data)? + "\n")),
        Format::Yaml => print(&serde_yaml::to_string(data)?),
    }
}

/// A table with columns as wide as their widest cell, the first one left-aligned, the others right-aligned.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let columns = header.len();
    let mut width: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (c, cell) in row.iter().enumerate().take(columns) {
            width[c] = width[c].max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (c, cell) in cells.enumerate() {
            let pad = width.get(c).map_or(0, |w| w - cell.chars().count().min(*w));
            match c {
                0 => text.push_str(&format!("{cell}{}", " ".repeat(pad))),
                _ => text.push_str(&format!("  {}{cell}", " ".repeat(pad))),
            }
        }
        while text.ends_with(' ') {
            text.pop();
        }
        text.push('\n');
    };
    line(&mut header.iter().copied());
    rows.iter().for_each(|row| line(&mut row.iter().map(String::as_str)));
    text
}
