//! Taking single files out of wheels (zip) and source archives (tar.gz).
//!
//! What it deliberately does not do: it never turns a name of the archive into a path on disk; the caller says which
//! member it wants and where it goes. It follows no links.
//!
//! Invariants: at most the bytes that were announced are read from a member, so that an archive that expands without
//! end costs nothing; the contents are checked before anybody sees them.

use crate::error::ModelsError;
use crate::manifest::Member;
use crate::zoo::write_aside;
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// Longest member name that a tar archive may announce in an entry of its own, in bytes.
const NAME_MAX: u64 = 4096;

/// SHA-256 of the file `path`, 64 lower-case hexadecimal digits.
pub(crate) fn file_hash(path: &Path) -> Result<String, ModelsError> {
    let mut file = File::open(path).map_err(ModelsError::file(path))?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk).map_err(ModelsError::file(path))? {
            0 => return Ok(hex(hash)),
            count => hash.update(&chunk[..count]),
        }
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Takes `member` out of `archive` and puts it at `target` once its size and hash are found right.
pub(crate) fn extract(archive: &Path, member: &Member, target: &Path) -> Result<(), ModelsError> {
    let file = File::open(archive).map_err(ModelsError::file(archive))?;
    let missing = || ModelsError::MemberMissing { archive: archive.to_owned(), member: member.path.clone() };
    let broken = |problem: String| ModelsError::Archive { archive: archive.to_owned(), problem };
    let name = archive.to_string_lossy();
    if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
        let mut tar = Tar { input: GzDecoder::new(BufReader::new(file)) };
        let size = tar.seek_to(&member.path).map_err(|error| broken(error.to_string()))?.ok_or_else(missing)?;
        return store(&mut tar.input.take(size), member, target);
    }
    let mut zip = zip::ZipArchive::new(BufReader::new(file)).map_err(|error| broken(error.to_string()))?;
    let mut found = match zip.by_name(&member.path) {
        Ok(found) if found.is_file() => found,
        Ok(_) | Err(zip::result::ZipError::FileNotFound) => return Err(missing()),
        Err(error) => return Err(broken(error.to_string())),
    };
    store(&mut found, member, target)
}

/// Copies `source` beside `target` and puts it there if it is what the manifest says.
fn store(source: &mut dyn Read, member: &Member, target: &Path) -> Result<(), ModelsError> {
    let mut wrong = None;
    let written = write_aside(target, |out| {
        let mut hash = Sha256::new();
        let mut size = 0;
        let mut chunk = vec![0; CHUNK];
        // One byte more than announced is enough to know that there are too many.
        let mut limited = source.take(member.bytes.saturating_add(1));
        loop {
            match limited.read(&mut chunk)? {
                0 => break,
                count => {
                    hash.update(&chunk[..count]);
                    size += count as u64;
                    out.write_all(&chunk[..count])?;
                }
            }
        }
        let found = hex(hash);
        if size != member.bytes {
            let more = if size > member.bytes { "more than " } else { "" };
            let found = format!("{more}{} bytes", size.min(member.bytes));
            wrong = Some((format!("{} bytes", member.bytes), found));
        } else if found != member.sha256 {
            wrong = Some((member.sha256.clone(), found));
        }
        // The error only keeps the file from being put in place; its text is never seen.
        if wrong.is_some() { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) }
    });
    match wrong {
        Some((expected, found)) => Err(ModelsError::Mismatch { what: member.path.clone(), expected, found }),
        None => written,
    }
}

/// A reader of tar archives (POSIX ustar, with the long names of GNU and pax).
struct Tar<R> {
    input: R,
}

impl<R: Read> Tar<R> {
    /// Moves to the contents of the regular file `path` and returns its size in bytes, or `None` at the end.
    fn seek_to(&mut self, path: &str) -> io::Result<Option<u64>> {
        let mut long_name = None;
        loop {
            let mut header = [0; 512];
            self.input.read_exact(&mut header)?;
            if header.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let size = octal(&header[124..136])?;
            match header[156] {
                b'L' => long_name = Some(text(&self.contents(size)?)),
                b'x' => long_name = pax_path(&self.contents(size)?).or(long_name),
                kind => {
                    let name = long_name.take().unwrap_or_else(|| header_name(&header));
                    if matches!(kind, b'0' | 0) && name.trim_start_matches("./") == path {
                        return Ok(Some(size));
                    }
                    self.skip(size.next_multiple_of(512))?;
                }
            }
        }
    }

    /// The contents of a small entry that describes the next one.
    fn contents(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > NAME_MAX {
            return Err(invalid("a name in the archive is too long"));
        }
        let mut contents = Vec::new();
        (&mut self.input).take(size.next_multiple_of(512)).read_to_end(&mut contents)?;
        contents.truncate(size as usize);
        Ok(contents)
    }

    fn skip(&mut self, size: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.input).take(size), &mut io::sink())?;
        if skipped == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

fn invalid(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// Text up to the first zero byte.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// A number in octal digits between blanks or zero bytes, below 2^33 as the field's width has it.
fn octal(field: &[u8]) -> io::Result<u64> {
    let digits = text(field);
    u64::from_str_radix(digits.trim(), 8).map_err(|_| invalid("a size in the archive is no octal number"))
}

/// The name in a header: prefix and name of ustar.
fn header_name(header: &[u8; 512]) -> String {
    let name = text(&header[..100]);
    let prefix = if header[257..].starts_with(b"ustar\0") { text(&header[345..500]) } else { String::new() };
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

/// The `path` record of a pax entry: lines of length, blank, key, `=`, value.
fn pax_path(contents: &[u8]) -> Option<String> {
    let lines = std::str::from_utf8(contents).ok()?.lines();
    let records = lines.filter_map(|line| line.split_once(' '));
    records.filter_map(|(_, record)| record.strip_prefix("path=")).next_back().map(str::to_owned)
}
