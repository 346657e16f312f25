//! Bounds: of the queue, of a client's patience, of bodies; and clients that go away.

use serde_json::json;

use crate::asking::{Named, begin, in_json, json_body, named, outputs};
use crate::binary::Place;
use crate::build::tensor;
use crate::client::{Client, request};
use crate::models::{place, plan, waiting_for};
use crate::process::Server;

/// Two tenants, with room for one request each to wait in, which it does until another row comes.
fn server(place: &Place) -> Server {
    plan(place, "tract", &format!("affine.onnx pair.onnx --queue-max 1 {}", waiting_for(2)));
    Server::ready(place, "tract", "plan.yaml")
}

fn ones(rows: u64) -> Named {
    named(&[("x", tensor(&[rows, 4], &vec![1.0; 4 * rows as usize]))])
}

fn affine(rows: u64) -> Vec<u8> {
    in_json("affine", &ones(rows), &json!({}))
}

/// A client whose request waits in the server.
fn waiting(server: &Server) -> Client {
    let mut client = server.client();
    client.send(affine(1));
    server.wait_stats("affine", |stats| stats.is_used);
    client
}

const FOUR: [f32; 4] = [4.0; 4];

#[test]
fn a_full_queue_refuses_before_the_body_and_loses_nobody() {
    let place = place();
    let server = server(&place);
    let mut first = waiting(&server);
    for _ in 0..3 {
        let mut second = server.client();
        // Nothing of the body is ever sent.
        second.send("POST /v2/models/affine/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n");
        let response = second.receive().expect("a refusal");
        assert_eq!((response.status, response.header("retry-after")), (429, Some("1")), "{}", response.error());
        assert!(second.is_closed());
    }
    // Another tenant has a queue of its own.
    let both = named(&[("a", tensor(&[2, 4], &[3.0; 8])), ("b", tensor(&[2, 4], &[1.0; 8]))]);
    let found = outputs(&server.client().ask(in_json("pair", &both, &json!({}))));
    let expected = [("sum", tensor(&[2, 4], &[4.0; 8])), ("difference", tensor(&[2, 4], &[2.0; 8]))];
    assert_eq!(found, named(&expected));
    // Whoever waits does not wait for company that will not come: the end of the server is the end of its wait.
    server.signal("TERM");
    let found = outputs(&first.receive().expect("a reply"));
    assert_eq!(found, named(&[("y", tensor(&[1, 4], &FOUR))]));
    drop(first);
    let (code, said) = server.ended();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn who_waits_longer_than_it_says_is_told() {
    let place = place();
    let server = server(&place);
    let mut client = server.client();
    for failed in 1..=3 {
        let response = client.ask(in_json("affine", &ones(1), &json!({ "timeout": 1000 })));
        assert_eq!(response.status, 504, "{}", response.error());
        assert!(response.error().contains("timeout"), "{}", response.error());
        assert_eq!(server.stats("affine").fail, failed);
    }
    // Its place is free again.
    assert_eq!(client.ask(affine(2)).status, 200);
    let stats = server.stats("affine");
    assert_eq!((stats.success, stats.fail, stats.rows), (1, 3, 2));
    server.end();
}

#[test]
fn who_goes_away_is_forgotten() {
    let place = place();
    let server = server(&place);
    let client = waiting(&server);
    drop(client);
    server.wait_stats("affine", |stats| stats.fail == 1);
    // In the middle of its body: it never was a request.
    let mut client = server.client();
    let body = begin(&mut client, &affine(1));
    assert_eq!(server.client().ask(affine(1)).status, 429, "it has the only place");
    client.send(&body[..body.len() - 3]);
    drop(client);
    // Its place is given back once the server has seen that it is gone.
    let mut client = server.client();
    server.wait_stats("affine", |_| client.ask(affine(2)).status == 200);
    let stats = server.stats("affine");
    assert_eq!((stats.fail, stats.success, stats.sizes), (1, 1, vec![(2, 1)]));
    server.end();
}

#[test]
fn bodies_have_a_bound() {
    let place = place();
    plan(&place, "tract", "affine.onnx --batch 1");
    let server = Server::ready(&place, "tract", "plan.yaml --body-max 1kB");
    let mut client = server.client();
    assert_eq!(client.ask(affine(1)).status, 200);
    let mut large = json_body(&ones(1), &json!({}));
    large.resize(1001, b' ');
    let response = client.ask(request("/v2/models/affine/infer", "", &large));
    assert_eq!(response.status, 413);
    assert!(response.error().contains("1000 bytes"), "{}", response.error());
    server.end();
}
