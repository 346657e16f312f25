//! The published client, unchanged, where it is installed.

use std::path::Path;
use std::process::Command;

use crate::fake::Running;

/// Runs `tests/serve/client.py` with the packages in the folder `TANDEM_TRITONCLIENT`.
#[test]
fn the_published_client_works_unchanged() {
    let Ok(packages) = std::env::var("TANDEM_TRITONCLIENT") else {
        eprintln!("skipped: TANDEM_TRITONCLIENT names no folder with the package tritonclient[http]");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/serve/client.py");
    let server = Running::usual();
    for model in ["sum", "echo"] {
        let ran = Command::new("python3")
            .arg(&script)
            .args([&format!("127.0.0.1:{}", server.address.port()), model])
            .env("PYTHONPATH", &packages)
            .output()
            .expect("python3 runs");
        let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{model}\n{out}\n{err}");
        assert!(out.lines().filter(|l| l.starts_with("OK")).count() >= 10, "{out}");
    }
}
