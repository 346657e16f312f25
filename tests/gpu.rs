//! `tests/gpu/check` where there is no GPU: it says so, and is content.

use std::process::Command;

use tandem_runtime::discover;

#[test]
fn without_a_gpu_the_check_is_skipped() {
    if discover::gpus().is_ok_and(|found| !found.is_empty()) {
        eprintln!("skipped: the check without a GPU, for there is one; run tests/gpu/check");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let report = folder.path().join("report.json");
    let output = Command::new("bash")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gpu/check"))
        .arg(&report)
        .env("TANDEM", env!("CARGO_BIN_EXE_tandem"))
        .env_remove("TANDEM_CACHE")
        .output()
        .expect("bash runs");
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("skipped: no NVIDIA GPU"), "{said}{wrong}");
    let written = std::fs::read_to_string(&report).expect("a report");
    let written: serde_json::Value = serde_json::from_str(&written).expect("JSON");
    assert!(written["skipped"].as_str().is_some_and(|why| why.contains("no NVIDIA GPU")), "{written}");
}

#[test]
fn a_binary_that_is_not_there_is_said() {
    let output = Command::new("bash")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gpu/check"))
        .env("TANDEM", "/no/such/tandem")
        .output()
        .expect("bash runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no binary at /no/such/tandem"));
}
