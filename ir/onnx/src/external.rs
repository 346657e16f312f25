//! Contents of tensors in files beside the model.
//!
//! A model may be hostile: what it names is opened only if it lies inside the model's own folder after every link is
//! followed, is a regular file, and has no second name (a hard link could lead anywhere). Each file is mapped once.

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use tandem_onnx_proto::{Blob, TensorProto};

use crate::fault::Fault;
use crate::mmap;

/// The folder of a model and the files in it that were opened.
pub(crate) struct Store {
    base: Option<PathBuf>,
    files: HashMap<PathBuf, Blob>,
}

/// What `external_data` says.
struct Reference<'a> {
    location: &'a str,
    offset: u64,
    length: Option<u64>,
}

impl Store {
    /// Files inside `base`; with none, external data is refused.
    pub(crate) fn new(base: Option<&Path>) -> Self {
        Self { base: base.map(Path::to_owned), files: HashMap::new() }
    }

    /// The window of a file that holds the tensor's `bytes` bytes.
    pub(crate) fn contents(&mut self, tensor: &TensorProto, bytes: u64) -> Result<Blob, Fault> {
        let reference = Reference::of(tensor)?;
        let fault = |expected: String, found: String| Fault::External {
            tensor: tensor.name.clone(),
            location: reference.location.to_owned(),
            expected,
            found,
        };
        if reference.length.is_some_and(|length| length != bytes) {
            let found = reference.length.unwrap_or_default();
            return Err(fault(format!("length {bytes}, as type and dims give"), format!("length {found}")));
        }
        let file = self.file(reference.location).map_err(|(expected, found)| fault(expected, found))?;
        let end = reference.offset.checked_add(bytes);
        let window = end.and_then(|end| {
            let range = usize::try_from(reference.offset).ok()?..usize::try_from(end).ok()?;
            file.window(range)
        });
        window.ok_or_else(|| {
            let expected = format!("{bytes} bytes from offset {}", reference.offset);
            fault(expected, format!("a file of {} bytes", file.len()))
        })
    }

    /// The file's bytes, or what was expected and what was found.
    fn file(&mut self, location: &str) -> Result<Blob, (String, String)> {
        let fault = |expected: &str, found: String| Err((expected.to_owned(), found));
        let relative = Path::new(location);
        let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
        if location.is_empty() || !relative.components().all(plain) {
            let expected = "a path inside the model's folder, relative, without \"..\"";
            return fault(expected, format!("\"{location}\""));
        }
        let Some(base) = &self.base else {
            return fault("a model with a folder", "bytes without one".into());
        };
        let base = fs::canonicalize(base).map_err(|e| ("the model's folder".to_owned(), e.to_string()))?;
        let path = fs::canonicalize(base.join(relative)).map_err(|e| ("a readable file".to_owned(), e.to_string()))?;
        if !path.starts_with(&base) {
            return fault("a file inside the model's folder", "a symbolic link that leads out of it".into());
        }
        if let Some(blob) = self.files.get(&path) {
            return Ok(blob.clone());
        }
        let file = mmap::open(&path).map_err(|e| ("a readable file".to_owned(), e.to_string()))?;
        let names = link_count(&file).map_err(|e| ("a readable file".to_owned(), e.to_string()))?;
        if names > 1 {
            let found = format!("one with {names} (hard links); a copy of it would be read");
            return fault("a file with one name", found);
        }
        let blob = mmap::load(file).map_err(|e| ("a readable file".to_owned(), e.to_string()))?;
        self.files.insert(path, blob.clone());
        Ok(blob)
    }
}

impl<'a> Reference<'a> {
    fn of(tensor: &'a TensorProto) -> Result<Self, Fault> {
        let value = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let Some(location) = value("location") else {
            return Err(Fault::External {
                tensor: tensor.name.clone(),
                location: String::new(),
                expected: "a location".into(),
                found: "none".into(),
            });
        };
        let number = |key: &'static str| match value(key) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| Fault::External {
                tensor: tensor.name.clone(),
                location: location.to_owned(),
                expected: format!("{key} as a count of bytes"),
                found: format!("\"{text}\""),
            }),
        };
        Ok(Self { location, offset: number("offset")?.unwrap_or(0), length: number("length")? })
    }
}

#[cfg(unix)]
fn link_count(file: &fs::File) -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(file.metadata()?.nlink())
}

#[cfg(not(unix))]
fn link_count(_: &fs::File) -> std::io::Result<u64> {
    Ok(1)
}
