//! Full-size models, one and two on one machine: both forms of requests, and the published client, with the numbers of
//! `tandem run`. Needs ONNX Runtime.

use crate::asking::{in_binary, made_up, outputs};
use crate::binary::{Place, engines};
use crate::models::plan;
use crate::process::Server;
use crate::{numbers, published};

#[test]
fn full_size_models_are_answered_with_the_numbers_of_run() {
    if !engines().contains(&"ort") {
        println!("skipped: ORT_DYLIB_PATH is not set");
        return;
    }
    let packages = published::packages();
    for models in [&["resnet50"][..], &["resnet50", "mobilenet-v2"]] {
        let place = Place::new();
        let named: Vec<String> = models.iter().map(|model| format!("zoo:{model}")).collect();
        plan(&place, "ort", &format!("{} --batch 1,2", named.join(" ")));
        let server = Server::ready(&place, "ort", "plan.yaml");
        for model in models {
            let inputs = made_up(&server.metadata(model), 1, 3);
            let expected = numbers::run(&place, "ort", model, 1, &inputs);
            for _ in 0..3 {
                let found = outputs(&server.client().ask(in_binary(model, &inputs)));
                assert_eq!(found, expected, "{model}: the same batch, the same bits");
            }
            if let Some(packages) = &packages {
                published::check(&place, "ort", &server, model, packages);
                println!("{model} of {models:?}: the published client has the numbers of run");
            }
        }
        server.end();
    }
}
