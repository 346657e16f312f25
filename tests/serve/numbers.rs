//! Documents and numbers: what a server says of its tenants, and that it answers with the numbers of `tandem run`.

use serde_json::json;
use tandem_onnx::value::{TensorValue, Value};
use tandem_runtime::compare::compare;
use tandem_runtime::{npz, rows};

use crate::asking::{Named, in_binary, in_json, made_up, outputs};
use crate::binary::{Place, engines};
use crate::client::{Client, get};
use crate::models::{self, plan};
use crate::process::Server;

fn values(named: &Named) -> Vec<(String, Value)> {
    named.iter().map(|(name, tensor)| (name.clone(), Value::Tensor(tensor.clone()))).collect()
}

/// Outputs of `tandem run` for these inputs, at a batch.
#[track_caller]
pub fn run(place: &Place, engine: &str, tenant: &str, batch: u64, inputs: &Named) -> Named {
    npz::write(&place.path("in.npz"), &values(inputs)).expect("an .npz");
    let words = format!("run plan.yaml --tenant {tenant} --batch {batch} --input in.npz --output out.npz");
    place.tandem_on(engine, &words).code(0);
    npz::read(&place.path("out.npz")).expect("an .npz")
}

/// The same outputs within the tolerances of the house.
#[track_caller]
pub fn assert_close(what: &str, expected: &Named, found: &Named) {
    let names = |named: &Named| named.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(expected), names(found), "{what}");
    let tensors = |named: &Named| values(named).into_iter().map(|(_, value)| value).collect::<Vec<_>>();
    let compared = compare(&names(expected), &tensors(expected), &tensors(found));
    assert!(compared.is_equal(), "{what}: {compared}");
}

/// Tensors of several requests as one.
fn stacked(parts: &[Named]) -> Named {
    let column = |i: usize| {
        let tensors: Vec<TensorValue> = parts.iter().map(|named| named[i].1.clone()).collect();
        (parts[0][i].0.clone(), rows::stack_tensors(&tensors, 0).expect("rows of one shape"))
    };
    (0..parts[0].len()).map(column).collect()
}

#[test]
fn documents_say_what_is_served() {
    let place = models::place();
    plan(&place, "tract", "a=affine.onnx p=pair.onnx --batch 1,4 --serving fixed --queue-delay 2ms --preferred 2");
    let server = Server::ready(&place, "tract", "plan.yaml");
    assert_eq!(server.get("/v2/health/live"), json!({ "live": true }));
    assert_eq!(server.get("/v2/health/ready"), json!({ "ready": true }));
    assert_eq!(server.get("/v2/models/p/ready"), json!({ "name": "p", "ready": true }));
    let about = server.get("/v2");
    assert_eq!(about["name"], "tandem");
    for extension in ["binary_tensor_data", "statistics", "model_configuration"] {
        assert!(about["extensions"].as_array().is_some_and(|e| e.contains(&extension.into())), "{about}");
    }
    let float = |name: &str| json!({ "name": name, "datatype": "FP32", "shape": [-1, 4] });
    let metadata = server.metadata("p");
    assert_eq!(metadata["inputs"], json!([float("a"), float("b")]));
    assert_eq!(metadata["outputs"], json!([float("sum"), float("difference")]));
    assert_eq!((&metadata["platform"], &metadata["versions"]), (&"onnx_onnxv1".into(), &json!(["1"])));
    let config = server.get("/v2/models/a/config");
    assert_eq!(config["max_batch_size"], 4);
    let batching = json!({ "preferred_batch_size": [2], "max_queue_delay_microseconds": 2000 });
    assert_eq!(config["dynamic_batching"], batching);
    assert_eq!(server.get("/v2/models"), json!({ "models": ["a", "p"] }));
    let all = server.get("/v2/models/stats");
    assert_eq!(all["model_stats"].as_array().map(Vec::len), Some(2));
    assert!(!server.stats("a").is_used);
    for path in ["/v2/models/q", "/v2/models/a/versions/2/stats"] {
        assert_eq!(server.client().ask(get(path)).status, 404);
    }
    server.end();
}

/// Both forms, two tenants: where the batch is the same, so is every bit; where it is not, numbers are close.
#[test]
fn answers_are_those_of_run() {
    for engine in engines() {
        let place = Place::new();
        plan(&place, engine, "r=zoo:tiny-resnet b=zoo:tiny-bert --batch 1,2,4");
        let server = Server::ready(&place, engine, "plan.yaml");
        for tenant in ["r", "b"] {
            let metadata = server.metadata(tenant);
            let items: Vec<Named> = (0..3).map(|seed| made_up(&metadata, 1, seed)).collect();
            let expected: Vec<Named> = items.iter().map(|item| run(&place, engine, tenant, 1, item)).collect();
            let mut client = server.client();
            for (item, expected) in items.iter().zip(&expected) {
                assert_eq!(outputs(&client.ask(in_binary(tenant, item))), *expected, "{engine} {tenant}, binary");
                let json = in_json(tenant, item, &json!({}));
                assert_eq!(outputs(&client.ask(json)), *expected, "{engine} {tenant}, JSON");
            }
            // Three rows, in a batch of four.
            let found = outputs(&client.ask(in_binary(tenant, &stacked(&items))));
            assert_close(&format!("{engine} {tenant}, three rows"), &stacked(&expected), &found);
            let two = stacked(&items[..2]);
            let expected = run(&place, engine, tenant, 2, &two);
            assert_eq!(outputs(&client.ask(in_binary(tenant, &two))), expected, "{engine} {tenant}, two rows");
            let stats = server.stats(tenant);
            assert_eq!((stats.success, stats.rows, stats.fail), (8, 6 + 3 + 2, 0));
            assert_eq!(stats.sizes, [(1, 6), (2, 1), (3, 1)]);
        }
        server.end();
    }
}

/// Whatever else is asked at once, and in whichever batches it is run, each request gets its own numbers.
#[test]
fn tenants_are_served_at_once() {
    for engine in engines() {
        let place = Place::new();
        plan(&place, engine, "r=zoo:tiny-resnet,slo=2s b=zoo:tiny-bert --batch 1,2,4");
        let server = Server::ready(&place, engine, "plan.yaml");
        let known = |tenant: &'static str| {
            let metadata = server.metadata(tenant);
            let items = (0..4).map(|seed| made_up(&metadata, 1, seed));
            let known: Vec<_> = items.map(|item| (run(&place, engine, tenant, 1, &item), item)).collect();
            (tenant, known)
        };
        let known = [known("r"), known("b")];
        std::thread::scope(|threads| {
            for (thread, (tenant, known)) in known.iter().chain(&known).enumerate() {
                let address = server.address;
                threads.spawn(move || {
                    let mut client = Client::connect(address);
                    for i in 0..24 {
                        let (expected, item) = &known[(i + thread) % known.len()];
                        let response = client.ask(in_binary(tenant, item));
                        assert_close(&format!("{engine} {tenant} {i}"), expected, &outputs(&response));
                    }
                });
            }
        });
        for tenant in ["r", "b"] {
            let stats = server.stats(tenant);
            assert_eq!((stats.success, stats.rows, stats.fail), (48, 48, 0), "{engine} {tenant}");
        }
        server.end();
    }
}
