//! Beginning and ending: readiness, signals, plans and addresses that cannot be served.

use std::net::TcpListener;

use serde_json::json;

use crate::asking::{Named, begin, in_json, integers, named, outputs};
use crate::binary::{Place, T4, engines};
use crate::build::tensor;
use crate::client::get;
use crate::models::{place, plan, waiting_for};
use crate::process::Server;

fn affine() -> Vec<u8> {
    in_json("affine", &one(), &json!({}))
}

fn one() -> Named {
    named(&[("x", tensor(&[1, 4], &[1.0; 4]))])
}

const READY: &str = "/v2/health/ready";

/// Many batch sizes, so that loading takes a while.
const SLOW: &str = "a=zoo:tiny-bert b=zoo:tiny-resnet --batch 1,2,3,4,5,6,7,8";

/// Live from the first moment; ready once all is warm, and not before.
#[test]
fn readiness_comes_with_the_last_route() {
    let place = Place::new();
    plan(&place, "tract", SLOW);
    let mut server = Server::start(&place, "tract", "plan.yaml --verbose");
    let mut client = server.client();
    let mut refused = 0;
    let ready = loop {
        assert_eq!(client.ask(get("/v2/health/live")).status, 200);
        let ready = client.ask(get(READY));
        if ready.status == 200 {
            break ready;
        }
        assert_eq!((ready.status, &ready.json()["ready"]), (503, &json!(false)));
        refused += 1;
        // Documents are there, inference is not (or no longer, should it have become ready meanwhile).
        assert_eq!(client.ask(get("/v2/models/a")).status, 200);
        let early = client.ask("POST /v2/models/a/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n[");
        assert!([503, 400].contains(&early.status), "{}", early.error());
    };
    println!("not ready {refused} times");
    assert_eq!(ready.json(), json!({ "ready": true }));
    assert_eq!(client.ask(get("/v2/models/b/ready")).status, 200);
    server.signal("TERM");
    for tenant in ["a", "b"] {
        for batch in 1..=8 {
            server.wait_said(&format!("warm: {tenant} at batch {batch}"));
        }
    }
    assert_eq!(server.ended().0, Some(0));
}

/// At once not ready, and for the drain delay serving as before; whoever asks a second time is not kept waiting.
#[test]
fn readiness_goes_first_and_a_second_signal_ends() {
    let place = place();
    plan(&place, "tract", "affine.onnx --batch 1");
    for (first, second, code) in [("TERM", "TERM", 143), ("INT", "INT", 130), ("TERM", "INT", 130)] {
        let server = Server::ready(&place, "tract", "plan.yaml --drain-delay 3600s");
        let mut client = server.client();
        assert_eq!(client.ask(get(READY)).status, 200);
        server.signal(first);
        while client.ask(get(READY)).status == 200 {
            std::thread::yield_now();
        }
        assert_eq!(client.ask(get("/v2/models/affine/ready")).status, 503);
        assert_eq!(client.ask(get("/v2/health/live")).status, 200);
        let found = outputs(&server.client().ask(affine()));
        assert_eq!(found, named(&[("y", tensor(&[1, 4], &[4.0; 4]))]), "on a new connection");
        server.signal(second);
        assert_eq!(server.ended().0, Some(code), "{first} and {second}");
    }
}

/// Requests that wait and one whose body is still on its way are answered; connections without one are closed.
#[test]
fn requests_in_flight_are_answered_before_the_end() {
    let place = place();
    plan(&place, "tract", &format!("affine.onnx b=affine.onnx {}", waiting_for(8)));
    let server = Server::ready(&place, "tract", "plan.yaml");
    let mut idle = server.client();
    assert_eq!(idle.ask(get("/v2/health/live")).status, 200);
    let mut waiting = server.client();
    waiting.send(affine());
    server.wait_stats("affine", |stats| stats.is_used);
    let mut late = server.client();
    let body = begin(&mut late, &in_json("b", &one(), &json!({})));
    server.signal("TERM");
    assert!(idle.is_closed());
    late.send(body);
    for mut client in [waiting, late] {
        let response = client.receive().expect("a reply");
        assert_eq!(outputs(&response), named(&[("y", tensor(&[1, 4], &[4.0; 4]))]));
        assert!(client.is_closed(), "and one reply only");
    }
    let (code, said) = server.ended();
    assert_eq!(code, Some(0), "{said}");
}

/// A client that never finishes its body is not waited for longer than the drain timeout.
#[test]
fn the_drain_timeout_cuts_what_is_left() {
    let place = place();
    plan(&place, "tract", "affine.onnx --batch 1");
    let server = Server::ready(&place, "tract", "plan.yaml --drain-timeout 50ms");
    let mut client = server.client();
    let body = begin(&mut client, &affine());
    client.send(&body[..body.len() - 5]);
    server.signal("TERM");
    let (code, said) = server.ended();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("error: 1 connections were cut after the drain timeout"), "{said}");
}

/// A step that never returns is not waited for either.
#[test]
fn an_engine_that_hangs_keeps_no_process() {
    if !engines().contains(&"ort") {
        println!("skipped: tract has no Loop, and ORT_DYLIB_PATH is not set");
        return;
    }
    let place = place();
    plan(&place, "ort", "turning.onnx --batch 1");
    let server = Server::ready(&place, "ort", "plan.yaml --drain-timeout 50ms");
    let mut client = server.client();
    let forever = [&one()[..], &named(&[("turns", integers(&[], &[i64::MAX]))])].concat();
    client.send(in_json("turning", &forever, &json!({})));
    server.wait_stats("turning", |stats| stats.is_used);
    server.signal("TERM");
    let (code, said) = server.ended();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("connections were cut after the drain timeout"), "{said}");
}

/// Before anything is loaded: there is nothing to finish.
#[test]
fn a_signal_while_loading_ends_in_good_order() {
    let place = Place::new();
    plan(&place, "tract", SLOW);
    for signal in ["TERM", "INT"] {
        let server = Server::start(&place, "tract", "plan.yaml");
        server.signal(signal);
        let (code, said) = server.ended();
        assert_eq!(code, Some(0), "{said}");
    }
}

/// The process ends before it listens: one error that says all of `parts`.
#[track_caller]
fn refused(place: &Place, words: &str, parts: &[&str]) {
    let Err((code, said)) = Server::try_start(place, "tract", words) else { panic!("`serve {words}` listens") };
    assert_eq!(code, Some(2), "{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("error:")).count(), 1, "{said}");
    parts.iter().for_each(|part| assert!(said.contains(part), "\"{part}\" in: {said}"));
}

#[test]
fn what_cannot_be_served_is_refused() {
    let place = place();
    plan(&place, "tract", "affine.onnx --batch 1,2");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    refused(&place, &format!("plan.yaml --http {address}"), &[&address, "in use"]);
    refused(&place, "plan.yaml --http nowhere", &["--http nowhere"]);
    refused(&place, "plan.yaml --drain-delay soon", &["--drain-delay soon", "expected a duration"]);
    refused(&place, "plan.yaml --body-max much", &["--body-max much", "expected a size"]);
    refused(&place, "none.yaml", &["none.yaml"]);
    // The model is another one than was planned.
    std::fs::copy(place.path("pair.onnx"), place.path("affine.onnx")).expect("a copied model");
    refused(&place, "plan.yaml", &["plan.yaml", "affine", "fingerprint"]);
    std::fs::remove_file(place.path("affine.onnx")).expect("a removed model");
    refused(&place, "plan.yaml", &["affine.onnx", "--model affine=PATH"]);
}

/// A plan for an accelerator that is not here: refused once loading comes to it, unless it may be emulated.
#[test]
fn absent_devices_are_refused_or_emulated() {
    let place = place();
    let words = format!("plan affine.onnx --machine {T4} --search gpu-only --batch 1,2 -q -o plan.yaml");
    place.tandem(&words).code(0);
    let server = Server::start(&place, "tract", "plan.yaml");
    let (code, said) = server.ended();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("error: plan.yaml: ") && said.contains("gpu0") && said.contains("--emulate"), "{said}");
    let server = Server::ready(&place, "tract", "plan.yaml --emulate");
    assert_eq!(outputs(&server.client().ask(affine())), named(&[("y", tensor(&[1, 4], &[4.0; 4]))]));
    server.end();
}
