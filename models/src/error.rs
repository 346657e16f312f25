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
