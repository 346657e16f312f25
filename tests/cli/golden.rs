//! Golden plans: tiny models on the described T4. A difference is read in review; `TANDEM_REFRESH=1` takes it over.

use std::path::{Path, PathBuf};

use crate::binary::{Place, T4};

/// Names, and the models planned.
const PLANS: [(&str, &str); 7] = [
    ("tiny-resnet", "zoo:tiny-resnet"),
    ("tiny-bert", "zoo:tiny-bert"),
    ("tiny-ssd", "zoo:tiny-ssd"),
    ("tiny-branchy", "zoo:tiny-branchy"),
    ("tiny-lstm", "zoo:tiny-lstm"),
    ("tiny-int8", "zoo:tiny-int8"),
    ("two-tenants", "a=zoo:tiny-resnet,rate=400 b=zoo:tiny-bert,rate=100,slo=20ms"),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("plans/golden")
}

fn file(name: &str) -> String {
    format!("{name}.t4-8vcpu.yaml")
}

#[test]
fn plans_for_the_t4_are_the_golden_ones() {
    let place = Place::new();
    let mut wrong = vec![];
    for (name, models) in PLANS {
        place.tandem(&format!("plan {models} --machine {T4} --slo 50ms -o plan.yaml")).code(0);
        let (found, golden) = (place.read("plan.yaml"), folder().join(file(name)));
        if std::env::var_os("TANDEM_REFRESH").is_some() {
            std::fs::write(&golden, &found).expect("a golden plan");
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if let Some((i, line)) =
            expected.lines().chain([""]).enumerate().find(|(i, l)| found.lines().nth(*i) != Some(l))
            && found != expected
        {
            let now = found.lines().nth(i).unwrap_or("(the end)");
            wrong.push(format!("{}:{}\n  expected {line}\n  found    {now}", golden.display(), i + 1));
        }
    }
    assert!(wrong.is_empty(), "{}\n(TANDEM_REFRESH=1 takes over what was found)", wrong.join("\n"));
}

#[test]
fn golden_plans_are_alive_and_sound() {
    let place = Place::new();
    let mut known: Vec<String> = PLANS.iter().map(|(name, _)| file(name)).collect();
    let mut found: Vec<String> = std::fs::read_dir(folder())
        .expect("golden plans")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    known.sort();
    assert_eq!(found, known, "each golden plan belongs to a model of the test, and the other way round");
    for name in found {
        place.write(&name, std::fs::read(folder().join(&name)).expect("a golden plan"));
        place.tandem(&format!("check {name}")).code(0);
    }
}
