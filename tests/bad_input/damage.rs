//! Truncated and mutated files, seeded: through the library by the hundred, through the binary by the dozen.

use std::io::Cursor;
use std::path::Path;

use tandem_ir::{check, format};
use tandem_onnx::import::import_bytes;
use tandem_onnx::value::{TensorValue, Value};
use tandem_runtime::npz;

use crate::binary::{Place, T4};

/// SplitMix64: a generator of one line, so that a failing seed can be replayed anywhere.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// A file cut off, with bytes changed, a stretch doubled or one removed.
fn damaged(bytes: &[u8], seed: u64) -> Vec<u8> {
    let state = &mut seed.wrapping_mul(0x5851_f42d_4c95_7f2d);
    let mut bytes = bytes.to_vec();
    let below = |state: &mut u64, n: usize| (random(state) % n.max(1) as u64) as usize;
    match random(state) % 5 {
        0 => bytes.truncate(below(state, bytes.len())),
        1 => {
            for _ in 0..1 + below(state, 8) {
                let at = below(state, bytes.len());
                bytes[at] = random(state) as u8;
            }
        }
        2 => {
            let at = below(state, bytes.len());
            bytes[at] ^= 1 << below(state, 8);
        }
        3 => {
            let (from, length) = (below(state, bytes.len()), below(state, 64));
            let stretch = bytes[from..(from + length).min(bytes.len())].to_vec();
            let at = below(state, bytes.len());
            bytes.splice(at..at, stretch);
        }
        _ => {
            let (from, length) = (below(state, bytes.len()), 1 + below(state, 64));
            let end = (from + length).min(bytes.len());
            bytes.drain(from..end);
        }
    }
    bytes
}

/// A document with a word in it replaced by another, or damaged as bytes are.
fn damaged_text(text: &str, seed: u64) -> String {
    const WORDS: [&str; 12] =
        ["-1", "99999999999999999999", "null", "[]", "{}", "\"\"", "1e400", "0", "*a", "&a x", "gpu9", "!!binary x"];
    let state = &mut seed.wrapping_add(77);
    if random(state).is_multiple_of(2) {
        return String::from_utf8_lossy(&damaged(text.as_bytes(), seed)).into_owned();
    }
    let places: Vec<(usize, &str)> = text.match_indices(": ").collect();
    let (at, _) = places[(random(state) % places.len() as u64) as usize];
    let end = text[at + 2..].find(['\n', ',', '}']).map_or(text.len(), |n| at + 2 + n);
    format!("{}: {}{}", &text[..at], WORDS[(random(state) % 12) as usize], &text[end..])
}

fn planned(place: &Place) -> String {
    place.tandem(&format!("plan zoo:tiny-resnet --machine {T4} --slo 50ms --batch 1,2 -o plan.yaml -q")).code(0);
    place.read("plan.yaml")
}

#[test]
fn damaged_models_are_models_or_errors() {
    let place = Place::new();
    let mut refused = 0;
    for (model, rounds) in [("tiny-lstm", 250), ("tiny-control-flow", 150)] {
        place.tandem(&format!("models build {model} -o {model}.onnx -q")).code(0);
        let whole = std::fs::read(place.path(&format!("{model}.onnx"))).expect("a model");
        for seed in 0..rounds {
            if let Err(error) = import_bytes("damaged.onnx", damaged(&whole, seed), None) {
                refused += 1;
                assert!(error.to_string().contains("damaged.onnx"), "seed {seed}: names the file: {error}");
            }
        }
    }
    assert!(refused > 100, "much of the damage is found: {refused}");
}

#[test]
fn damaged_documents_are_documents_or_errors() {
    let place = Place::new();
    let plan = planned(&place);
    place.tandem("profile zoo:tiny-lstm --batch 1 --threads 1 -o profile.yaml -q").code(0);
    let (profile, machine) = (place.read("profile.yaml"), place.read(T4));
    let (mut refused, mut found) = (0, 0);
    for seed in 0..250 {
        let parsed: [(&str, Result<Vec<check::Finding>, _>); 3] = [
            (
                "plan",
                format::plan::from_yaml(&damaged_text(&plan, seed), "d.yaml").map(|p| check::check_plan(&p, "d.yaml")),
            ),
            (
                "machine",
                format::machine::from_yaml(&damaged_text(&machine, seed), "d.yaml").map(|m| check::check_machine(&m)),
            ),
            (
                "profile",
                format::profile::from_yaml(&damaged_text(&profile, seed), "d.yaml").map(|p| check::check_profile(&p)),
            ),
        ];
        for (kind, outcome) in parsed {
            match outcome {
                Ok(findings) => found += usize::from(!findings.is_empty()),
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("d.yaml"), "{kind}, seed {seed}: names the file: {error}");
                }
            }
        }
    }
    assert!(refused > 200 && found > 10, "much of the damage is found: {refused} unreadable, {found} inconsistent");
}

#[test]
fn damaged_archives_are_archives_or_errors() {
    let bytes: Vec<u8> = (0..240u32).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let tensor = TensorValue::new(tandem_ir::DType::F32, vec![2, 3, 40], bytes);
    let mut whole = Cursor::new(vec![]);
    let values = [("a".to_owned(), Value::Tensor(tensor.clone())), ("b:0".to_owned(), Value::Tensor(tensor))];
    npz::write_archive(&mut whole, Path::new("whole.npz"), &values).expect("an archive");
    let whole = whole.into_inner();
    let mut refused = 0;
    for seed in 0..400 {
        if let Err(error) = npz::read_archive(Cursor::new(damaged(&whole, seed)), Path::new("damaged.npz")) {
            refused += 1;
            assert!(error.to_string().contains("damaged.npz"), "seed {seed}: names the file: {error}");
        }
    }
    assert!(refused > 200, "much of the damage is found: {refused}");
}

/// What the binary makes of damaged files: an error that names the file, or a result; never a signal or a panic.
#[test]
fn the_binary_survives_damaged_files() {
    let place = Place::new();
    let plan = planned(&place);
    let machine = place.read(T4);
    place.tandem("models build tiny-lstm -o whole.onnx -q").code(0);
    let model = std::fs::read(place.path("whole.onnx")).expect("a model");
    for seed in 0..16 {
        place.write("d.onnx", damaged(&model, 1000 + seed));
        place.write("plan-d.yaml", damaged_text(&plan, 1000 + seed));
        place.write("machine-d.yaml", damaged_text(&machine, 1000 + seed));
        for (file, words) in [
            ("d.onnx", "import d.onnx"),
            ("plan-d.yaml", "run plan-d.yaml --emulate --verify"),
            ("plan-d.yaml", "check plan-d.yaml"),
            ("machine-d.yaml", "plan zoo:tiny-resnet --machine machine-d.yaml --batch 1 --search cut -q"),
        ] {
            let found = place.tandem(words);
            let code = found.code.unwrap_or_else(|| panic!("seed {seed}: ended by a signal: {found:#?}"));
            assert!(code <= 2, "seed {seed}: {found:#?}");
            if code == 2 && !file.starts_with("machine") {
                let named = found.stderr.contains(file) || found.stderr.contains("tenant");
                assert!(named || found.stderr.contains("segment"), "seed {seed}: names what is wrong: {found:#?}");
            }
        }
    }
}

/// Cut off at the worst places: nothing, a byte, half, all but a byte.
#[test]
fn files_cut_off_are_named() {
    let place = Place::new();
    let plan = planned(&place);
    place.tandem("models build tiny-resnet -o whole.onnx -q").code(0);
    let model = std::fs::read(place.path("whole.onnx")).expect("a model");
    for keep in [0, 1, model.len() / 2, model.len() - 1] {
        place.write("cut.onnx", &model[..keep]);
        place.tandem("import cut.onnx").refused(&["cut.onnx"]);
    }
    for keep in [0, 1, plan.len() / 2, plan.len() - plan.len() / 10] {
        place.write("cut.yaml", &plan.as_bytes()[..keep]);
        place.tandem("run cut.yaml --emulate").refused(&["cut.yaml"]);
        place.write("machines/cut.yaml", &place.read(T4).as_bytes()[..keep.min(300)]);
        place.tandem("machines machines/cut.yaml").refused(&["cut.yaml"]);
    }
    place.tandem("run plan.yaml --emulate --batch 1 --output out.npz -q").code(0);
    let archive = std::fs::read(place.path("out.npz")).expect("an archive");
    for keep in [0, 3, archive.len() / 2, archive.len() - 1] {
        place.write("cut.npz", &archive[..keep]);
        place.tandem("run plan.yaml --emulate --batch 1 --input cut.npz").refused(&["cut.npz"]);
    }
    place.write("latin1.yaml", b"apiVersion: tandem/v1\nkind: Plan\nname: \xe9\n");
    place.tandem("check latin1.yaml").refused(&["latin1.yaml"]);
}
