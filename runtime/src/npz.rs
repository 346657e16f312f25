//! Named arrays in files: `.npz` (numpy's archive of `.npy` members, stored or deflated) and single `.npy` files.
//!
//! numpy lacks some of ONNX's types. They are written as the unsigned integers that stand for them, and the member's
//! name says which type it is: `NAME@bf16` holds `uint16`; `NAME@f8e5m2`, `NAME@u4`, `NAME@i2` and their like hold
//! `uint8`, one element each (narrow types unpacked, the sign bit of a 4-bit number being bit 3). Such a suffix is
//! taken off when read.
//!
//! Values that are no tensors: a sequence is written as `NAME[0]`, `NAME[1]`, ...; an optional as what it holds, or not
//! at all; a map as `NAME.keys` and `NAME.values`. Files are written aside and renamed, so that none is ever
//! half-written.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use tandem_ir::DType;
use tandem_onnx::value::{TensorValue, Value};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::limits::{NPZ_BYTES_MAX, NPZ_MEMBERS_MAX};
use crate::npy::{self, NpyError};
use crate::rows;

/// A file of arrays that cannot be read or written: which file and member, and why.
#[derive(Debug, thiserror::Error)]
pub enum NpzError {
    /// The file as a whole.
    #[error("{}: {why}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// One of its arrays.
    #[error("{}, array \"{member}\": {source}", file.display())]
    Array {
        /// The file.
        file: PathBuf,
        /// Name of the array.
        member: String,
        /// What is wrong, naming the field.
        source: NpyError,
    },
}

/// Reads a file of either kind, told apart by content. The array of an `.npy` file has no name: it is called `""`.
///
/// # Errors
/// The file cannot be read, or is neither; see [`NpzError`].
pub fn read(path: &Path) -> Result<Vec<(String, TensorValue)>, NpzError> {
    let fail = |why: String| NpzError::File { file: path.to_owned(), why };
    let mut file = File::open(path).map_err(|e| fail(e.to_string()))?;
    let mut magic = [0; 4];
    let n = file.read(&mut magic).map_err(|e| fail(e.to_string()))?;
    file.rewind().map_err(|e| fail(e.to_string()))?;
    match &magic[..n] {
        b"\x93NUM" => {
            let array = npy::read(BufReader::new(file), None);
            let array =
                array.map_err(|source| NpzError::Array { file: path.to_owned(), member: String::new(), source });
            Ok(vec![(String::new(), array?)])
        }
        // A local header, or the end record of an empty archive.
        b"PK\x03\x04" | b"PK\x05\x06" => read_archive(BufReader::new(file), path),
        other => Err(fail(format!("expected an .npz or .npy file, found one that begins with {other:02x?}"))),
    }
}

/// Reads an archive from memory or a file; `name` is for messages.
///
/// # Errors
/// As [`read()`].
pub fn read_archive(reader: impl Read + Seek, name: &Path) -> Result<Vec<(String, TensorValue)>, NpzError> {
    let fail = |why: String| NpzError::File { file: name.to_owned(), why };
    let mut archive = ZipArchive::new(reader).map_err(|e| fail(e.to_string()))?;
    if archive.len() > NPZ_MEMBERS_MAX {
        return Err(fail(format!("expected at most {NPZ_MEMBERS_MAX} arrays, found {}", archive.len())));
    }
    if archive.has_duplicate_names() {
        return Err(fail("expected arrays of different names, found one name twice".into()));
    }
    let mut arrays: Vec<(String, TensorValue)> = Vec::with_capacity(archive.len());
    let mut left = NPZ_BYTES_MAX;
    for i in 0..archive.len() {
        let entry = archive.by_index(i).map_err(|e| fail(format!("member {i}: {e}")))?;
        let member = entry.name().map_err(|e| fail(format!("member {i}: {e}")))?.into_owned();
        let Some(stem) = member.strip_suffix(".npy") else {
            return Err(fail(format!("expected members NAME.npy, found \"{member}\"")));
        };
        let (array_name, raw) = split_suffix(stem);
        // One byte more than allowed is asked for, so that an array cut off at the bound is an error and not a short
        // one.
        let mut bounded = entry.take(left + 1);
        let array = npy::read(BufReader::new(&mut bounded), raw);
        let array =
            array.map_err(|source| NpzError::Array { file: name.to_owned(), member: stem.to_owned(), source })?;
        left = match left.checked_sub(left + 1 - bounded.limit()) {
            Some(left) => left,
            None => return Err(fail(format!("expected at most {NPZ_BYTES_MAX} bytes of arrays, found more"))),
        };
        if arrays.iter().any(|(name, _)| name == array_name) {
            return Err(fail(format!("expected arrays of different names, found \"{array_name}\" twice")));
        }
        arrays.push((array_name.to_owned(), array));
    }
    Ok(arrays)
}

/// The name without its type suffix, and the type.
fn split_suffix(stem: &str) -> (&str, Option<DType>) {
    let found = stem.rsplit_once('@').and_then(|(name, suffix)| Some((name, suffix.parse::<DType>().ok()?)));
    match found.filter(|(_, dtype)| npy::raw_type(*dtype).is_some()) {
        Some((name, dtype)) => (name, Some(dtype)),
        None => (stem, None),
    }
}

/// Writes values as an `.npz` that numpy reads, uncompressed. A name that comes twice is written once.
///
/// # Errors
/// The file cannot be written, a string or map cannot be said in numpy's types (see the module).
pub fn write(path: &Path, values: &[(String, Value)]) -> Result<(), NpzError> {
    write_aside(path, |file| write_archive(BufWriter::new(file), path, values))
}

/// Writes an archive to anything; `name` is for messages.
///
/// # Errors
/// As [`write()`].
pub fn write_archive(writer: impl Write + Seek, name: &Path, values: &[(String, Value)]) -> Result<(), NpzError> {
    let fail = |why: String| NpzError::File { file: name.to_owned(), why };
    let mut arrays = vec![];
    for (value_name, value) in values {
        flatten(value_name.clone(), value, &mut arrays).map_err(fail)?;
    }
    let mut zip = ZipWriter::new(Lenient { writer, failed: None });
    let mut written = std::collections::HashSet::new();
    for (array_name, tensor) in arrays {
        let member = match npy::raw_type(tensor.dtype) {
            Some(_) => format!("{array_name}@{}", tensor.dtype),
            None => array_name,
        };
        if !written.insert(member.clone()) {
            continue;
        }
        let large = tensor.elements().saturating_mul(tensor.dtype.bits().max(8)) / 8 > u64::from(u32::MAX) / 2;
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(large || tensor.dtype == DType::String);
        zip.start_file(format!("{member}.npy"), options).map_err(|e| fail(format!("array \"{member}\": {e}")))?;
        npy::write(&mut zip, &tensor).map_err(|source| NpzError::Array { file: name.to_owned(), member, source })?;
    }
    let mut inner = zip.finish().map_err(|e| fail(e.to_string()))?;
    let flushed = inner.flush();
    match inner.failed {
        Some(error) => Err(fail(error.to_string())),
        None => flushed.map_err(|e| fail(e.to_string())),
    }
}

/// Keeps the first error for the end: a [`ZipWriter`] dropped before its archive is whole tries to end it, and prints to
/// stderr where that fails.
struct Lenient<W> {
    writer: W,
    failed: Option<std::io::Error>,
}

impl<W> Lenient<W> {
    fn or_keep<T>(&mut self, done: T, attempt: impl FnOnce(&mut W) -> std::io::Result<T>) -> std::io::Result<T> {
        if self.failed.is_some() {
            return Ok(done);
        }
        attempt(&mut self.writer).or_else(|error| {
            self.failed = Some(error);
            Ok(done)
        })
    }
}

impl<W: Write> Write for Lenient<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.or_keep(bytes.len(), |writer| writer.write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.or_keep((), Write::flush)
    }
}

impl<W: Seek> Seek for Lenient<W> {
    fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
        self.or_keep(0, |writer| writer.seek(to))
    }
}

/// Writes one array as `.npy`.
///
/// # Errors
/// As [`write()`].
pub fn write_npy(path: &Path, tensor: &TensorValue) -> Result<(), NpzError> {
    let array = |source| NpzError::Array { file: path.to_owned(), member: String::new(), source };
    write_aside(path, |file| {
        let mut buffered = BufWriter::new(file);
        npy::write(&mut buffered, tensor).map_err(array)?;
        buffered.flush().map_err(|e| array(e.into()))
    })
}

/// Lists the tensors of a value with their names.
fn flatten(name: String, value: &Value, into: &mut Vec<(String, TensorValue)>) -> Result<(), String> {
    match value {
        Value::Tensor(tensor) => into.push((name, tensor.clone())),
        Value::Sequence(items) => {
            for (i, item) in items.iter().enumerate() {
                flatten(format!("{name}[{i}]"), item, into)?;
            }
        }
        Value::Optional(Some(inner)) => flatten(name, inner, into)?,
        Value::Optional(None) => {}
        Value::Map(pairs) if pairs.is_empty() => {}
        Value::Map(pairs) => {
            let (keys, values): (Vec<&Value>, Vec<&Value>) = pairs.iter().map(|(k, v)| (k, v)).unzip();
            for (part, items) in [("keys", keys), ("values", values)] {
                let fail = |why: String| format!("map \"{name}\": its {part} cannot be written as one array: {why}");
                let items: Option<Vec<&TensorValue>> = items.iter().map(|v| tensor_of(v)).collect();
                let items = items.ok_or_else(|| fail("they are no tensors".into()))?;
                let rows: Vec<TensorValue> = items.into_iter().map(rows::unsqueezed).collect();
                let stacked = rows::stack_tensors(&rows, 0).map_err(|e| fail(e.to_string()))?;
                into.push((format!("{name}.{part}"), stacked));
            }
        }
    }
    Ok(())
}

fn tensor_of(value: &Value) -> Option<&TensorValue> {
    if let Value::Tensor(tensor) = value { Some(tensor) } else { None }
}

/// Writes a file beside its place and renames it, so that readers see all of it or nothing.
fn write_aside(path: &Path, write: impl FnOnce(&File) -> Result<(), NpzError>) -> Result<(), NpzError> {
    let fail = |e: std::io::Error| NpzError::File { file: path.to_owned(), why: e.to_string() };
    // Renaming over a device or a pipe would replace it, and an archive needs a file to seek in.
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return Err(NpzError::File {
            file: path.to_owned(),
            why: "expected a file's name, found what is no file".into(),
        });
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".tandem-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let aside = builder.tempfile_in(folder).map_err(fail)?;
    write(aside.as_file())?;
    aside.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests;
