//! Faults of input: one clear error that names file, node or field, what was expected and what was found; exit code 2,
//! or 1 with the nearest feasible answer; never a panic, a half-written file, or memory beyond a bound.

#[path = "cli/binary.rs"]
mod binary;
#[path = "bad_input/damage.rs"]
mod damage;
#[path = "bad_input/limits.rs"]
mod limits;

use binary::{Place, T4};

fn planned(place: &Place, model: &str) {
    place.tandem(&format!("plan zoo:{model} --machine {T4} --slo 50ms --batch 1,2 -o plan.yaml -q")).code(0);
}

#[test]
fn a_plan_for_another_model_is_refused() {
    let place = Place::new();
    planned(&place, "tiny-resnet");
    place.tandem("models build tiny-resnet --seed 9 -o other.onnx").code(0);
    let said = place.tandem("run plan.yaml --emulate --model tiny-resnet=other.onnx");
    let said = said.refused(&["plan.yaml", "tiny-resnet", "another model", "expected fingerprint"]);
    assert!(said.stderr.lines().count() <= 4, "the one line that matters, not what follows from it:\n{}", said.stderr);
    let checked = place.tandem("check plan.yaml --model tiny-resnet=other.onnx").code(1);
    assert!(checked.stdout.contains("made for another model"), "{}", checked.stdout);
    place.tandem("run plan.yaml --emulate --model resnet=other.onnx").refused(&["no tenant \"resnet\""]);
    place.tandem("run plan.yaml --emulate --model other.onnx").refused(&["--model other.onnx", "expected NAME=PATH"]);
}

#[test]
fn a_plan_for_another_machine_is_refused() {
    let place = Place::new();
    planned(&place, "tiny-resnet");
    place.tandem("run plan.yaml").refused(&["gpu0", "not here", "--emulate"]);
    // More threads than any machine has, in both parts alike: the file is consistent, the machine is not this one.
    place.write(
        "wide.yaml",
        place
            .read(T4)
            .replace("cores: 4\n", "cores: 4096\n")
            .replace("lanes_max: 4\n  memory: 30", "lanes_max: 1\n  memory: 30"),
    );
    place.tandem("plan zoo:tiny-resnet --machine wide.yaml --search cpu-only --batch 1 -o wide-plan.yaml -q").code(0);
    assert!(place.read("wide-plan.yaml").contains("threads: 4096"));
    place.tandem("run wide-plan.yaml").refused(&["4096 threads", "this machine has", "--emulate"]);
    place.tandem("run wide-plan.yaml --emulate --verify").code(0);
}

#[test]
fn an_impossible_objective_is_answered_with_the_nearest() {
    let place = Place::new();
    let never = format!("plan zoo:tiny-resnet --machine {T4} --batch 1 -o plan.yaml -q");
    let said =
        place.tandem(&format!("{never} --slo 1us")).code(1).says(&["infeasible", "nearest", "cpu alone", "gpu0 alone"]);
    assert!(!place.path("plan.yaml").exists(), "no plan is written");
    let nearest = said.stderr.split("nearest that can be met is ").nth(1).expect("the nearest objective");
    let nanos: u64 = nearest.split(' ').next().and_then(|n| n.parse().ok()).expect("in whole nanoseconds");
    place.tandem(&format!("{never} --slo {}ns", nanos - 1)).code(1);
    place.tandem(&format!("{never} --slo {nanos}ns")).code(0);
    place.tandem("check plan.yaml").code(0);
}

#[test]
fn shapes_and_inputs_that_do_not_fit_are_named() {
    let place = Place::new();
    planned(&place, "tiny-resnet");
    let plan = "plan zoo:tiny-resnet";
    place.tandem(&format!("{plan} --shape images=1x3x64x64")).refused(&["images", "expected one of input"]);
    place.tandem(&format!("{plan} --shape input=1x3x64")).refused(&["\"input\"", "expected 4 dimensions", "found 3"]);
    place.tandem(&format!("{plan} --shape input=Nx3xqx64")).refused(&[
        "--shape input=Nx3xqx64",
        "expected a size",
        "\"q\"",
    ]);
    place.tandem(&format!("{plan} --shape input=Nx3x64x64 --shape input=1")).refused(&["\"input\" is bound twice"]);
    place.tandem(&format!("{plan} --sample nothing.npz")).refused(&["nothing.npz"]);
    // An axis that the first convolution cannot take: the engine's words, with the node they are about.
    let wrong = "Impossible to unify Val(4) with Val(3)";
    let said = place.tandem(&format!("{plan} --shape input=1x4x64x64"));
    let said = said.refused(&["tiny-resnet: no engine here runs it", "Conv \"/conv1/Conv_output_0\"", wrong]);
    assert_eq!(said.stderr.matches(wrong).count(), 1, "an engine's words stand there once: {}", said.stderr);
    let array = |dims: &[u64]| {
        let bytes = vec![0; dims.iter().product::<u64>() as usize * 4];
        tandem_onnx::value::TensorValue::new(tandem_ir::DType::F32, dims.to_vec(), bytes)
    };
    let write = |name: &str, arrays: &[(&str, &[u64])]| {
        let named: Vec<_> =
            arrays.iter().map(|(n, dims)| ((*n).to_owned(), tandem_onnx::value::Value::Tensor(array(dims)))).collect();
        tandem_runtime::npz::write(&place.path(name), &named).expect("an .npz");
    };
    write("wrong-name.npz", &[("image", &[1, 3, 64, 64])]);
    write("wrong-shape.npz", &[("input", &[1, 3, 64, 63])]);
    write("wrong-batch.npz", &[("input", &[2, 3, 64, 64])]);
    write("extra.npz", &[("input", &[1, 3, 64, 64]), ("more", &[1])]);
    let run = "run plan.yaml --emulate --batch 1 --input";
    place.tandem(&format!("{run} wrong-name.npz")).refused(&["wrong-name.npz", "expected an array \"input\""]);
    place.tandem(&format!("{run} wrong-shape.npz")).refused(&[
        "wrong-shape.npz",
        "\"input\"",
        "f32[1x3x64x64]",
        "f32[1x3x64x63]",
    ]);
    place.tandem(&format!("{run} wrong-batch.npz")).refused(&[
        "wrong-batch.npz",
        "\"input\"",
        "f32[1x3x64x64]",
        "f32[2x3x64x64]",
    ]);
    place.tandem(&format!("{run} extra.npz")).refused(&["extra.npz", "\"more\" is no input"]);
    place.tandem(&format!("{run} machines")).refused(&["input_0.pb"]);
    place.tandem(&format!("{run} nowhere.npz")).refused(&["nowhere.npz"]);
}

#[test]
fn unknown_names_come_with_known_ones() {
    let place = Place::new();
    place.tandem("import zoo:resnet5").refused(&["resnet5", "resnet50"]);
    place.tandem("models build resnet5 -o x.onnx").refused(&["resnet5", "resnet50"]);
    place.tandem("models fetch silero").refused(&["silero", "silero-vad"]);
    place.tandem("import fetched:magica").refused(&["magica", "magika"]);
    place.tandem("import nothing.onnx").refused(&["nothing.onnx", "No such file"]);
    place.tandem("import machines").refused(&["machines", "model.onnx"]);
    place.tandem("plan zoo:tiny-resnet --machine nothing.yaml").refused(&["nothing.yaml", "No such file"]);
    assert!(!place.path("x.onnx").exists());
}

#[test]
fn a_missing_engine_is_said_with_where_it_was_looked_for() {
    let place = Place::new();
    place.tandem("import zoo:tiny-resnet --engine auto --ort nowhere.so").refused(&["ONNX Runtime", "nowhere.so"]);
    place.write("broken.so", b"not a library");
    place.tandem("import zoo:tiny-resnet --engine ort --ort broken.so").refused(&["broken.so"]);
    let mut command = place.command(&["import", "zoo:tiny-resnet", "--engine=ort"]);
    // An empty path: no Python environment is found either.
    let output = command.env("PATH", "").output().expect("the binary starts");
    let found = binary::outcome("import --engine=ort", output);
    if found.code == Some(0) {
        println!("skipped: ONNX Runtime lies in a system folder");
    } else {
        found.refused(&["ONNX Runtime was not found", "looked in"]);
    }
}

#[test]
fn documents_of_another_kind_or_version_are_refused() {
    let place = Place::new();
    planned(&place, "tiny-resnet");
    place.tandem(&format!("check {T4}")).refused(&["t4-8vcpu.yaml:", "kind", "\"Plan\"", "\"Machine\""]);
    place.tandem("machines plan.yaml").refused(&["plan.yaml:", "kind", "\"Machine\"", "\"Plan\""]);
    place.tandem("plan zoo:tiny-resnet --profile plan.yaml").refused(&["plan.yaml:", "\"Profile\"", "\"Plan\""]);
    place.tandem("import plan.yaml").refused(&["plan.yaml", "expected an ONNX protobuf"]);
    let plan = place.read("plan.yaml");
    place.write("newer.yaml", plan.replacen("tandem/v1", "tandem/v9", 1));
    place.tandem("check newer.yaml").refused(&["newer.yaml:1", "apiVersion", "tandem/v9"]);
    place.write("unknown.yaml", plan.replacen("serving:", "surprise: 1\nserving:", 1));
    place.tandem("check unknown.yaml").refused(&["unknown.yaml:", "surprise"]);
    place.write("typed.yaml", plan.replacen("lanes: ", "lanes: many # ", 1));
    place.tandem("check typed.yaml").refused(&["typed.yaml:", "lanes", "many"]);
}

/// What was edited by hand is refused with the command that mends it.
#[test]
fn an_inconsistent_plan_says_how_to_mend_it() {
    let place = Place::new();
    planned(&place, "tiny-resnet");
    let plan = place.read("plan.yaml");
    let edited = plan.replacen("share_permille: 1000", "share_permille: 999", 1);
    assert_ne!(plan, edited);
    place.write("plan.yaml", edited);
    let mend = "`tandem plan --from plan.yaml --search none -o plan.yaml`";
    place.tandem("run plan.yaml --emulate").refused(&["plan.yaml", "authored", mend]);
    let checked = place.tandem("check plan.yaml").code(1);
    assert!(checked.stdout.contains(mend), "{}", checked.stdout);
    place.write("plan.yaml", plan.split("derived:").next().expect("an authored part"));
    place.tandem("run plan.yaml --emulate").refused(&["plan.yaml", "the field `derived`", mend]);
    // The machine is read even where the rest of the derived part is not understood.
    place.write("plan.yaml", plan.replacen("operators: ", "operations: ", 1));
    place.tandem("run plan.yaml --emulate").refused(&["plan.yaml:", "operations", mend]);
    place.tandem(mend.trim_matches('`').strip_prefix("tandem ").expect("a command")).code(0);
    place.tandem("check plan.yaml").code(0);
}

/// A plan's shapes are its model's: of another model it is said first that it is another.
#[test]
fn a_foreign_model_is_told_by_its_fingerprint() {
    let place = Place::new();
    planned(&place, "tiny-resnet");
    place.tandem("models build tiny-lstm -o other.onnx").code(0);
    let other = "--model tiny-resnet=other.onnx";
    let said = ["tenant \"tiny-resnet\"", "made for another model", "fingerprint"];
    place.tandem(&format!("run plan.yaml --emulate {other}")).refused(&said);
    place.tandem(&format!("explain plan.yaml {other}")).refused(&said);
    let checked = place.tandem(&format!("check plan.yaml {other}")).code(1);
    assert!(checked.stdout.lines().count() == 1 && checked.stdout.contains(said[1]), "{}", checked.stdout);
}
