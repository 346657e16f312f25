//! The published client, unchanged, where it is installed.

use std::process::Command;

use tandem_onnx::value::Value;
use tandem_runtime::npz;

use crate::asking::made_up;
use crate::binary::{Place, engines};
use crate::models::plan;
use crate::numbers::run;
use crate::process::Server;

/// The folder with the package, if there is one.
pub fn packages() -> Option<String> {
    let found = std::env::var("TANDEM_TRITONCLIENT").ok();
    if found.is_none() {
        println!("skipped: TANDEM_TRITONCLIENT names no folder with the package tritonclient[http]");
    }
    found
}

/// Runs `client.py` against a tenant, and compares with `tandem run` at batch 1.
#[track_caller]
pub fn check(place: &Place, engine: &str, server: &Server, tenant: &str, packages: &str) {
    let inputs = made_up(&server.metadata(tenant), 1, 5);
    let expected = run(place, engine, tenant, 1, &inputs);
    for (file, named) in [("inputs.npz", inputs), ("expected.npz", expected)] {
        let named: Vec<(String, Value)> = named.into_iter().map(|(name, t)| (name, Value::Tensor(t))).collect();
        npz::write(&place.path(file), &named).expect("an .npz");
    }
    let ran = Command::new("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/serve/client.py"))
        .args([&server.address.to_string(), tenant, "--inputs", "inputs.npz", "--expected", "expected.npz"])
        .env("PYTHONPATH", packages)
        .current_dir(place.path(""))
        .output()
        .expect("python3 runs");
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{engine} {tenant}\n{out}\n{err}");
    assert!(out.contains("OK outputs are those expected"), "{out}");
}

#[test]
fn the_published_client_works_unchanged() {
    let Some(packages) = packages() else { return };
    for engine in engines() {
        let place = Place::new();
        plan(&place, engine, "r=zoo:tiny-resnet b=zoo:tiny-bert --batch 1,2,4");
        let server = Server::ready(&place, engine, "plan.yaml");
        for tenant in ["r", "b"] {
            check(&place, engine, &server, tenant, &packages);
        }
        server.end();
    }
}
