//! Plans that run: verified against the whole model, with inputs and outputs in files, traced, repeated.

use std::path::Path;

use tandem_ir::DType;
use tandem_onnx::value::{TensorValue, Value};
use tandem_runtime::npz;

use crate::binary::{Outcome, Place, T4, engines};

fn plan(place: &Place, model: &str, more: &str) {
    place.tandem(&format!("plan zoo:{model} --machine {T4} -o plan.yaml -q {more}")).code(0);
}

fn floats(dims: &[u64], from: f32) -> TensorValue {
    let count: u64 = dims.iter().product();
    let bytes: Vec<u8> = (0..count).flat_map(|i| (from + (i % 97) as f32 / 97.0).to_le_bytes()).collect();
    TensorValue::new(DType::F32, dims.to_vec(), bytes)
}

#[track_caller]
fn verified(outcome: Outcome) -> serde_json::Value {
    let data = outcome.code(0).json();
    assert_eq!(data["verified"]["equal"], true, "{data:#}");
    assert!(data["verified"]["elements"].as_u64() > Some(0), "something was compared: {data:#}");
    data
}

/// Every tiny model, placed by the search, by the cut and at random, on every engine that is here.
#[test]
fn placements_compute_what_the_whole_model_computes() {
    for model in ["tiny-resnet", "tiny-bert", "tiny-ssd", "tiny-branchy"] {
        let place = Place::new();
        for search in ["auto", "cut", "random:1", "random:7"] {
            plan(&place, model, &format!("--search {search} --batch 1,2"));
            for engine in engines() {
                let data = verified(place.tandem_on(engine, "run plan.yaml --emulate --verify --format json"));
                let devices = data["devices"].to_string();
                assert!(devices.contains(engine), "{model} ran on {engine}: {devices}");
                if search.starts_with("random") {
                    assert!(devices.contains("numeric emulator"), "{model} {search}: split over both: {devices}");
                    let copies = data["steps"].as_array().expect("steps").iter();
                    let copies = copies.filter(|s| s["step"].as_str().is_some_and(|s| s.starts_with("copy"))).count();
                    assert!(copies > 0, "{model} {search}: something crosses from one device to the other");
                }
            }
        }
    }
    if engines().len() == 1 {
        println!("skipped: ONNX Runtime (ORT_DYLIB_PATH is not set); tract ran");
    }
}

#[test]
fn control_flow_runs_where_an_engine_has_it() {
    let place = Place::new();
    if !engines().contains(&"ort") {
        println!("skipped: tract has no Loop, and ORT_DYLIB_PATH is not set");
        return;
    }
    let words = format!("plan zoo:tiny-control-flow --machine {T4} --search random:2 -o plan.yaml -q");
    place.tandem_on("ort", &words).code(0);
    verified(place.tandem_on("ort", "run plan.yaml --emulate --verify --format json"));
}

/// The same inputs give the same outputs, whatever file brings them, and what is written is read back.
#[test]
fn inputs_and_outputs_are_files_of_numpy_and_onnx() {
    let place = Place::new();
    plan(&place, "tiny-resnet", "--search random:3 --batch 1,2");
    let image = floats(&[2, 3, 64, 64], -0.5);
    let named = [("input".to_owned(), Value::Tensor(image.clone()))];
    npz::write(&place.path("in.npz"), &named).expect("an .npz");
    npz::write_npy(&place.path("in.npy"), &image).expect("an .npy");
    std::fs::create_dir(place.path("set")).expect("a folder");
    let message = tandem_onnx_proto::TensorProto::from_raw("input", 1, &[2, 3, 64, 64], image.bytes().to_vec());
    place.write("set/input_0.pb", tandem_onnx_proto::Message::encode(&message));
    let mut outputs = vec![];
    for (file, input) in ["in.npz", "in.npy", "set"].into_iter().enumerate() {
        let words = format!("run plan.yaml --emulate --batch 2 --verify --input {input} --output out{file}.npz");
        place.tandem(&words).code(0);
        outputs.push(npz::read(&place.path(&format!("out{file}.npz"))).expect("an .npz"));
    }
    assert_eq!(outputs[0].len(), 1);
    let (name, output) = &outputs[0][0];
    assert_eq!((name.as_str(), output.dims.as_slice()), ("output", &[2, 10][..]));
    assert_eq!(outputs[0], outputs[1]);
    assert_eq!(outputs[0], outputs[2]);
    // Other inputs, other outputs: the files were really read.
    npz::write_npy(&place.path("in.npy"), &floats(&[2, 3, 64, 64], 0.25)).expect("an .npy");
    place.tandem("run plan.yaml --emulate --batch 2 --input in.npy --output other.npz").code(0);
    assert_ne!(npz::read(&place.path("other.npz")).expect("an .npz"), outputs[0]);
}

/// A seed decides the random inputs, so the outputs too.
#[test]
fn random_inputs_follow_their_seed() {
    let place = Place::new();
    plan(&place, "tiny-branchy", "--search cut --batch 1");
    for (name, seed) in [("a", 1), ("b", 1), ("c", 2)] {
        place.tandem(&format!("run plan.yaml --emulate --seed {seed} --output {name}.npz")).code(0);
    }
    let read = |name: &str| npz::read(&place.path(name)).expect("an .npz");
    assert_eq!(read("a.npz"), read("b.npz"));
    assert_ne!(read("a.npz"), read("c.npz"));
}

#[test]
fn traces_hold_predicted_and_measured_rows_of_every_lane() {
    let place = Place::new();
    plan(&place, "tiny-resnet", "--search random:3 --batch 1");
    place.tandem("run plan.yaml --emulate --trace trace.json").code(0);
    let trace: serde_json::Value = serde_json::from_str(&place.read("trace.json")).expect("JSON");
    let events = trace["traceEvents"].as_array().expect("events of the Chrome trace format");
    let names = events.iter().filter(|e| e["name"] == "thread_name").map(|e| e["args"]["name"].to_string());
    let names: Vec<String> = names.map(|n| n.trim_matches('"').to_owned()).collect();
    for lane in ["cpu", "gpu0", "cpu>gpu0"] {
        for kind in ["predicted", "measured"] {
            let row = format!("{lane} ({kind})");
            assert!(names.contains(&row), "a row \"{row}\" among {names:?}");
        }
    }
    let spans: Vec<_> = events.iter().filter(|e| e["ph"] == "X").collect();
    let steps = place.read("plan.yaml").matches("{lane: ").count();
    assert_eq!(spans.len(), 2 * steps, "each step once predicted and once measured");
    assert!(steps >= 3, "something runs on each side and something is copied");
    for span in &spans {
        assert!(span["ts"].as_f64() >= Some(0.0) && span["dur"].as_f64() >= Some(0.0), "{span}");
        let row =
            events.iter().any(|e| e["name"] == "thread_name" && e["tid"] == span["tid"] && e["pid"] == span["pid"]);
        assert!(row, "every span lies in a named row: {span}");
    }
}

#[test]
fn runs_repeat_and_choose_their_batch() {
    let place = Place::new();
    plan(&place, "tiny-resnet", "--search cut --batch 1,4");
    let once = place.tandem("run plan.yaml --emulate --format json --batch 1").code(0).json();
    assert_eq!((once["runs"].as_u64(), once["batch"].as_u64()), (Some(1), Some(1)));
    let thrice = verified(place.tandem("run plan.yaml --emulate --format json --batch 4 --repeat 3 --verify"));
    assert_eq!((thrice["runs"].as_u64(), thrice["batch"].as_u64()), (Some(3), Some(4)));
    let text = place.tandem("run plan.yaml --emulate --batch 4 --repeat 3").code(0).stdout;
    assert!(text.contains("batch 4: predicted ") && text.contains("(median of 3)"), "{text}");
    assert!(text.contains("(modelled)"), "a plan for a described machine says that it is modelled: {text}");
    assert!(text.contains("numeric emulator"), "what is emulated says so: {text}");
    place.tandem("run plan.yaml --emulate --batch 3").refused(&["no route of batch 3", "1, 4"]);
}

/// Same inputs, same bytes, at any thread count; the placement of a plan does not depend on where it is written.
#[test]
fn plans_do_not_depend_on_threads_or_runs() {
    let place = Place::new();
    for model in ["tiny-resnet", "tiny-branchy"] {
        let mut plans = vec![];
        for threads in ["1", "4", "4"] {
            let words = format!("plan zoo:{model} --machine {T4} --slo 50ms -q");
            let list: Vec<&str> = words.split_whitespace().collect();
            let output = place.command(&list).env("RAYON_NUM_THREADS", threads).output().expect("the binary starts");
            plans.push(crate::binary::outcome(&words, output).code(0).stdout);
        }
        assert!(plans[0].starts_with("apiVersion: tandem/v1\nkind: Plan\n"), "{}", plans[0]);
        assert!(plans.iter().all(|p| *p == plans[0]), "{model}: three runs give the same bytes");
        for word in [place.path("").to_string_lossy().as_ref(), env!("CARGO_MANIFEST_DIR")] {
            assert!(!plans[0].contains(word), "no absolute path in a plan");
        }
    }
}

/// What was observed is kept; a plan does not show whether it was.
#[test]
fn plans_do_not_depend_on_what_is_kept() {
    let place = Place::new();
    let plan = || {
        let words = format!("plan zoo:tiny-branchy --machine {T4} --slo 50ms");
        let list: Vec<&str> = words.split_whitespace().collect();
        let output = place.command(&list).env("TANDEM_CACHE", place.path("cache")).output().expect("the binary starts");
        crate::binary::outcome(&words, output).code(0).stdout
    };
    let cold = plan();
    let kept = std::fs::read_dir(place.path("cache/samples/observed")).expect("what was observed").flatten();
    let kept: Vec<_> = kept.map(|e| e.path()).collect();
    assert_eq!((kept.len(), plan() == cold), (1, true), "warm and cold, the same bytes");
    std::fs::write(&kept[0], "damaged").expect("a damaged file");
    assert_eq!(plan(), cold);
}

/// Only tenants of their own applications can be searched for: the SLO of a joined one has to be split first.
#[test]
fn joined_tenants_are_rebuilt_and_not_searched() {
    let place = Place::new();
    place.tandem(&format!("plan a=zoo:tiny-lstm b=zoo:tiny-lstm --batch 1 --machine {T4} -o p.yaml -q")).code(0);
    let apart = place.read("p.yaml");
    let joined = apart.replacen("- name: b\n  percentile: p99\n  tenants:\n", "", 1);
    let joined = joined.replacen("derived:\n", "  edges: [[a, b]]\nderived:\n", 1);
    assert!(joined.len() < apart.len(), "{apart}");
    place.write("p.yaml", joined);
    place.tandem("plan --from p.yaml -o q.yaml").refused(&["application \"a\"", "expected one tenant", "found 2"]);
    place.tandem("plan --from p.yaml --search none -o p.yaml -q").code(0);
    place.tandem("check p.yaml").code(0);
    let data = verified(place.tandem("run p.yaml --emulate --tenant b --verify --format json"));
    assert_eq!(data["tenant"], "b");
}

/// A plan moves with its model: paths are relative to the plan file, and `--model` names another place.
#[test]
fn plans_find_their_models_from_where_they_lie() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("deploy/models")).expect("folders");
    place.tandem("models build tiny-resnet -o deploy/models/r.onnx").code(0);
    place.tandem(&format!("plan deploy/models/r.onnx --machine {T4} --batch 1 -o deploy/r.yaml")).code(0);
    assert!(place.read("deploy/r.yaml").contains("model: models/r.onnx"), "{}", place.read("deploy/r.yaml"));
    std::fs::rename(place.path("deploy"), place.path("moved")).expect("a moved folder");
    place.tandem("run moved/r.yaml --emulate --verify").code(0);
    std::fs::rename(place.path("moved/models/r.onnx"), place.path("elsewhere.onnx")).expect("a moved model");
    place.tandem("run moved/r.yaml --emulate").refused(&["r.onnx", "--model r=PATH"]);
    place.tandem("run moved/r.yaml --emulate --verify --model r=elsewhere.onnx").code(0);
    assert!(Path::new(&place.path("elsewhere.onnx")).is_file());
}

/// A plan for the processor here, measured, runs without emulation.
#[test]
fn this_machine_is_profiled_planned_and_run() {
    let place = Place::new();
    place.tandem("profile zoo:tiny-resnet --batch 1 -o profile.yaml").code(0);
    place.tandem("plan zoo:tiny-resnet --batch 1 --slo 10s --profile profile.yaml -o plan.yaml").code(0);
    place.tandem("check plan.yaml").code(0);
    let data = verified(place.tandem("run plan.yaml --verify --format json"));
    assert!(!data["devices"].to_string().contains("emulator"), "nothing is emulated: {data}");
}
