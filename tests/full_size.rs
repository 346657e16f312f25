//! Every zoo model and every model of the manifest, the whole way through the binary: plan for this machine and for a
//! described CPU and GPU, by search and at random, and run with every output compared to the untouched model.
//!
//! Needs `ORT_DYLIB_PATH` (the control-flow and int8 models are beyond tract); without it, it says "skipped".
//! `TANDEM_FULL_SIZE` picks models by a comma-separated list.

use std::path::Path;
use std::process::{Command, Output};

fn tandem(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tandem")).args(args).output().expect("the binary runs")
}

fn ok(args: &[&str]) -> Result<String, String> {
    let output = tandem(args);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("tandem {}: exit {:?}\n{error}", args.join(" "), output.status.code())),
    }
}

/// Plans and runs one model one way; returns segments and the largest error.
fn way(model: &str, machine: &str, search: &str, folder: &Path) -> Result<(usize, f64), String> {
    let plan = folder.join("plan.yaml");
    let plan = plan.to_str().ok_or("a path")?;
    ok(&[
        "plan",
        model,
        "--machine",
        machine,
        "--search",
        search,
        "--batch",
        "1,2",
        "--slo",
        "100s",
        "-q",
        "-o",
        plan,
    ])?;
    ok(&["check", plan])?;
    let text = ok(&["run", plan, "--verify", "--emulate", "--format", "json", "-q"])?;
    let run: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("{model}: {e}: {text}"))?;
    if run["verified"]["equal"] != true {
        return Err(format!("{model} on {machine} by {search}: {}", run["verified"]));
    }
    let steps = run["steps"].as_array().ok_or("steps")?;
    let segments = steps.iter().filter(|s| s["step"].as_str().is_some_and(|s| s.starts_with("run"))).count();
    Ok((segments, run["verified"]["largest_error"].as_f64().unwrap_or(f64::NAN)))
}

#[test]
fn every_model_goes_the_whole_way() {
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        println!("skipped: ORT_DYLIB_PATH is not set");
        return;
    }
    let pick = std::env::var("TANDEM_FULL_SIZE").ok();
    let mut models: Vec<String> = tandem_models::zoo().iter().map(|m| format!("zoo:{}", m.name)).collect();
    models.extend(tandem_models::manifest().iter().map(|m| format!("fetched:{}", m.name)));
    models.retain(|m| pick.as_ref().is_none_or(|p| p.split(',').any(|p| p == m)));
    let t4 = concat!(env!("CARGO_MANIFEST_DIR"), "/plans/machines/t4-8vcpu.yaml");
    let folder = tempfile::tempdir().expect("a folder");
    let (mut failed, mut ways) = (vec![], 0);
    for model in &models {
        if let Some(name) = model.strip_prefix("fetched:")
            && let Err(why) = ok(&["models", "fetch", name])
        {
            failed.push(why);
            continue;
        }
        for (machine, search) in [("auto", "auto"), ("auto", "random:1"), (t4, "auto"), (t4, "random:2"), (t4, "cut")] {
            match way(model, machine, search, folder.path()) {
                Ok((segments, error)) => {
                    ways += 1;
                    let short = if machine == "auto" { "auto" } else { "t4" };
                    println!("{model} {short} {search}: {segments} segments, largest error {error:.2e}");
                }
                Err(why) => {
                    println!("FAILED {why}");
                    failed.push(why);
                }
            }
        }
    }
    println!("{ways} ways passed, {} failed, over {} models", failed.len(), models.len());
    assert!(failed.is_empty(), "failed:\n{}", failed.join("\n"));
    assert!(ways > 0, "no model was tried");
}
