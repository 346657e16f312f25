//! Rules of the house that a test can keep: crate edges, lengths, links, words that must not be committed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// "About 600 lines a file, about 70 a function": the tests allow what "about" means.
const FILE_LINES_MAX: usize = 660;
const FUNCTION_LINES_MAX: usize = 80;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files git knows or would add, below the root.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && (!name.starts_with('.') || name == ".ci") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no .{extension} files found");
    found
}

fn short(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[test]
fn crates_depend_only_on_those_below_them() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("tandem-ir", &[][..]),
        ("tandem-onnx-proto", &[]),
        ("tandem-onnx", &["tandem-ir", "tandem-onnx-proto"]),
        ("tandem-planner", &["tandem-ir"]),
        ("tandem-core", &["tandem-ir"]),
        ("tandem-runtime", &["tandem-ir", "tandem-onnx", "tandem-core"]),
        ("tandem-models", &["tandem-onnx-proto"]),
    ]);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("a name");
        seen.insert(name.to_owned());
        let Some(allowed) = allowed.get(name) else {
            assert_eq!(name, "tandem", "a crate without a row in this test");
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("a name");
            let normal = dependency["kind"].is_null();
            assert!(!normal || !to.starts_with("tandem") || allowed.contains(&to), "{name} must not depend on {to}");
        }
    }
    assert_eq!(seen.len(), allowed.len() + 1, "every crate of the table exists: {seen:?}");
}

#[test]
fn files_and_functions_stay_short() {
    let mut long = vec![];
    for path in files("rs") {
        let text = fs::read_to_string(&path).expect("a source file");
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > FILE_LINES_MAX {
            long.push(format!("{}: {} lines", short(&path), lines.len()));
        }
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let body = line.trim_start();
            let is_fn = ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "unsafe fn "]
                .iter()
                .any(|p| body.starts_with(p));
            if !is_fn || body.ends_with(';') || body.ends_with('}') {
                continue;
            }
            // Formatted code closes a function with a brace at the indentation of its first line.
            let close = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|l| *l == close).unwrap_or(0) + 1;
            if length > FUNCTION_LINES_MAX {
                long.push(format!("{}:{}: a function of {length} lines", short(&path), start + 1));
            }
        }
    }
    assert!(long.is_empty(), "too long:\n{}", long.join("\n"));
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut broken = vec![];
    for path in files("md") {
        let text = fs::read_to_string(&path).expect("a document");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or("");
            let local = !target.is_empty() && !target.contains("://");
            if local && !path.parent().expect("a folder").join(target).exists() {
                broken.push(format!("{}: {link}", short(&path)));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn nothing_is_ignored_and_no_machine_is_named() {
    // Spelled in pieces, so that this file does not hold what it forbids.
    let forbidden = [concat!("#[", "ignore"), concat!("/wo", "rk/"), concat!("crates", ".io"), concat!("pypi", ".org")];
    let mut found = vec![];
    for extension in ["rs", "md", "yaml", "toml"] {
        for path in files(extension) {
            let text = fs::read_to_string(&path).expect("a text file");
            let hits = forbidden.iter().filter(|word| text.contains(**word));
            found.extend(hits.map(|word| format!("{}: {word}", short(&path))));
        }
    }
    assert!(found.is_empty(), "must not be committed:\n{}", found.join("\n"));
}
