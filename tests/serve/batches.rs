//! Which requests share a batch, and that none waits where nothing is to be waited for.

use serde_json::json;

use crate::asking::{Named, in_binary, in_json, named, outputs};
use crate::binary::engines;
use crate::build::tensor;
use crate::client::Client;
use crate::models::{place, plan, waiting_for};
use crate::process::Server;

fn rows(rows: u64, from: f32) -> Vec<f32> {
    (0..4 * rows).map(|i| from + i as f32).collect()
}

/// A request for three times these rows and one, and its answer.
fn affine(count: u64, from: f32) -> (Vec<u8>, Named) {
    let x = rows(count, from);
    let y: Vec<f32> = x.iter().map(|x| 3.0 * x + 1.0).collect();
    (in_binary("affine", &named(&[("x", tensor(&[count, 4], &x))])), named(&[("y", tensor(&[count, 4], &y))]))
}

/// Whatever the policy: who is alone is answered at once, in a batch of its own.
#[test]
fn a_lone_request_waits_for_nobody() {
    let place = place();
    for policy in ["adt-flow", "adt-serial", "adt-slide", "fixed"] {
        plan(&place, "tract", &format!("affine.onnx --batch 1,2,8 --serving {policy}"));
        let server = Server::ready(&place, "tract", "plan.yaml");
        let mut client = server.client();
        for i in 0..40 {
            let (request, expected) = affine(1, i as f32);
            assert_eq!(outputs(&client.ask(request)), expected, "{policy}");
        }
        let stats = server.stats("affine");
        assert_eq!((stats.success, stats.batches), (40, 40), "{policy}");
        assert_eq!(stats.sizes, [(1, 40)], "{policy}");
        server.end();
    }
}

/// Requests wait until four rows are there: they are one batch, and each gets its own rows of it.
#[test]
fn requests_that_wait_together_share_a_batch() {
    for engine in engines() {
        let place = place();
        plan(&place, engine, &format!("affine.onnx {}", waiting_for(4)));
        let server = Server::ready(&place, engine, "plan.yaml");
        for counts in [&[1, 1, 1, 1][..], &[3, 1], &[1, 2, 1]] {
            let asked: Vec<(Client, Named)> = (counts.iter().enumerate())
                .map(|(i, count)| {
                    let (request, expected) = affine(*count, 100.0 * i as f32);
                    let mut client = server.client();
                    client.send(request);
                    (client, expected)
                })
                .collect();
            for (mut client, expected) in asked {
                assert_eq!(outputs(&client.receive().expect("a reply")), expected, "{engine} {counts:?}");
            }
        }
        let stats = server.stats("affine");
        assert_eq!((stats.success, stats.rows, stats.batches), (9, 12, 3), "{engine}");
        assert_eq!(stats.sizes, [(4, 3)], "{engine}");
        server.end();
    }
}

/// Under load batches grow by themselves: requests that come while another batch computes share the next one.
#[test]
fn batches_form_under_load() {
    let place = place();
    plan(&place, "tract", "affine.onnx --batch 1,2,4,8");
    let server = Server::ready(&place, "tract", "plan.yaml");
    let mut clients: Vec<Client> = (0..8).map(|_| server.client()).collect();
    let mut asked = 0;
    server.wait_stats("affine", |stats| {
        assert_eq!((stats.success, stats.rows, stats.fail), (asked, asked, 0));
        assert_eq!(stats.sizes.iter().map(|(_, batches)| batches).sum::<u64>(), stats.batches);
        assert_eq!(stats.sizes.iter().map(|(rows, batches)| rows * batches).sum::<u64>(), stats.rows);
        if stats.batches < stats.rows {
            return true;
        }
        let requests: Vec<_> = (0..8).map(|i| affine(1, 10.0 * i as f32 + asked as f32)).collect();
        clients.iter_mut().zip(&requests).for_each(|(client, (request, _))| client.send(request));
        for (client, (_, expected)) in clients.iter_mut().zip(&requests) {
            assert_eq!(outputs(&client.receive().expect("a reply")), *expected);
        }
        asked += 8;
        false
    });
    server.end();
}

/// The scale is fed once a batch: requests that differ in it must not share one, and so none waits for company either.
#[test]
fn requests_that_differ_outside_their_rows_share_no_batch() {
    for engine in engines() {
        let place = place();
        plan(&place, engine, &format!("scaled.onnx {}", waiting_for(4)));
        let server = Server::ready(&place, engine, "plan.yaml");
        let ask = |count: u64, scale: f32| {
            let x = rows(count, 1.0);
            let y: Vec<f32> = x.iter().map(|x| x * scale).collect();
            let inputs = named(&[("x", tensor(&[count, 4], &x)), ("scale", tensor(&[], &[scale]))]);
            (inputs, named(&[("y", tensor(&[count, 4], &y))]))
        };
        let mut clients: Vec<(Client, Named)> = vec![];
        for i in 0..12 {
            let (inputs, expected) = ask(1 + i % 3, i as f32);
            let mut client = server.client();
            client.send(if i % 2 == 0 { in_binary("scaled", &inputs) } else { in_json("scaled", &inputs, &json!({})) });
            clients.push((client, expected));
        }
        for (client, expected) in &mut clients {
            assert_eq!(outputs(&client.receive().expect("a reply")), *expected, "{engine}");
        }
        let stats = server.stats("scaled");
        assert_eq!((stats.success, stats.batches, stats.rows), (12, 12, 24), "{engine}");
        server.end();
    }
}
