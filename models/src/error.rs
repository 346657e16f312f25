//! What can go wrong with building, caching and fetching models.

use std::path::{Path, PathBuf};

/// Why a model could not be built, stored or fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelsError {
    /// No model of that name.
    #[error("expected the name of a model, found `{name}`; known are: {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// All names, separated by commas.
        known: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A manifest that is not valid.
    #[error("manifest: {problem}")]
    Manifest {
        /// Where and what.
        problem: String,
    },
    /// The program that downloads packages could not be started.
    #[error("expected a Python interpreter with pip as `{program}` to download packages, could not start it: {source}")]
    InstallerMissing {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The program that downloads packages could not do it.
    #[error("pip could not download {package} ({status}): {complaint}")]
    InstallerFailed {
        /// Package and version.
        package: String,
        /// How it ended.
        status: String,
        /// The end of what it wrote.
        complaint: String,
    },
    /// The archive is not where it should be.
    #[error("expected the archive {archive}, found {installed}")]
    ArchiveMissing {
        /// The archive.
        archive: PathBuf,
        /// What is in its folder instead.
        installed: String,
    },
    /// The archive cannot be read.
    #[error("{archive}: {problem}")]
    Archive {
        /// The archive.
        archive: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The archive has no such file.
    #[error("{archive}: expected the file `{member}` in it, found none")]
    MemberMissing {
        /// The archive.
        archive: PathBuf,
        /// The file's path in it.
        member: String,
    },
    /// An archive or a file in it is not what the manifest says.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// The archive, or the file's path in it.
        what: String,
        /// SHA-256 or size of the manifest.
        expected: String,
        /// SHA-256 or size found.
        found: String,
    },
}

impl ModelsError {
    /// Wraps what the system said about `path`; for `map_err`.
    pub(crate) fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { path: path.to_owned(), source }
    }

    /// The name `name` is not among `known`.
    pub(crate) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Self {
        Self::Unknown { name: name.to_owned(), known: known.collect::<Vec<_>>().join(", ") }
    }
}
