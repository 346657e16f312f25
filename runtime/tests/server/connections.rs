//! Connections: kept, shared by several requests, and cut.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tandem_runtime::server::{Ended, ServerOptions};

use crate::client::{Client, get, request};
use crate::fake::{Running, brief};
use crate::sums::{INFER, infer_binary, infer_json, sums};

#[test]
fn a_connection_serves_many_requests() {
    let server = Running::usual();
    let mut client = Client::connect(server.address);
    for i in 0..100 {
        let response = client.ask(infer_json(&sums(i as f32, 1.0)));
        assert_eq!(response.json()["outputs"][0]["data"][0], f64::from(i) + 1.0);
    }
    assert_eq!(server.shared.counts(), (100, 100));
}

#[test]
fn requests_sent_at_once_are_answered_in_order() {
    let server = Running::usual();
    let mut client = Client::connect(server.address);
    let mut all = vec![];
    for i in 0..20 {
        all.extend(infer_json(&sums(i as f32, 0.0)));
        all.extend(get("/v2/health/live").into_bytes());
        all.extend(request(INFER, "", b"no json"));
        all.extend(infer_binary(1, i as f32, 0.0));
    }
    client.send(all);
    for i in 0..20 {
        let mut next = || client.receive().expect("a reply");
        assert_eq!(next().json()["outputs"][0]["data"][0], f64::from(i));
        assert_eq!(next().status, 200);
        assert_eq!(next().status, 400);
        assert!(next().body.ends_with(&(i as f32).to_le_bytes()));
    }
}

#[test]
fn connections_close_where_the_client_asks_for_it() {
    let server = Running::usual();
    let mut client = Client::connect(server.address);
    assert_eq!(client.ask("GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").status, 200);
    assert!(client.is_closed());
    let mut client = Client::connect(server.address);
    assert_eq!(client.ask("GET /v2 HTTP/1.0\r\n\r\n").status, 200);
    assert!(client.is_closed());
    let mut client = Client::connect(server.address);
    client.send("no request at all\r\n\r\n");
    assert_eq!(client.receive().expect("a reply").status, 400);
    assert!(client.is_closed());
}

#[test]
fn a_client_that_goes_away_while_sending_frees_its_place() {
    let server = Running::usual();
    for request in [infer_json(&sums(1.0, 2.0)), infer_binary(8, 1.0, 2.0)] {
        for end in [request.len() / 2, request.len() - 1] {
            let mut client = Client::connect(server.address);
            client.send(&request[..end]);
            // Its head has been read, so that there is a place to free.
            server.shared.wait_places(1);
            drop(client);
            server.shared.wait_places(0);
        }
    }
    assert_eq!(server.shared.counts(), (0, 0));
}

#[test]
fn a_client_that_goes_away_while_waiting_cancels_its_request() {
    let server = Running::usual();
    server.shared.holds.store(true, Ordering::SeqCst);
    let mut others = Client::connect(server.address);
    others.send(infer_json(&sums(5.0, 2.0)));
    server.shared.wait_held(1);
    for round in 1..=3 {
        let mut client = Client::connect(server.address);
        client.send(infer_json(&sums(1.0, 2.0)));
        server.shared.wait_held(2);
        drop(client);
        server.shared.wait_cancelled(round);
        server.shared.wait_places(1);
    }
    server.shared.release();
    assert_eq!(others.receive().expect("a reply").json()["outputs"][0]["data"][0], 7.0);
    assert_eq!(server.shared.counts(), (4, 4), "one reply each");
    server.shared.wait_cancelled(3);
}

/// A reply that nobody reads holds its tensors: it is given up, and so is its connection.
#[test]
fn a_client_that_never_reads_is_given_up() {
    let options = ServerOptions { write_timeout: Duration::from_millis(20), body_bytes_max: 64 << 20, ..brief() };
    let mut server = Running::start(16, options);
    let mut client = Client::connect(server.address);
    // More than the system keeps for a connection.
    let name = "x".repeat(40 << 20);
    let mut request_of = sums(1.0, 2.0);
    request_of["id"] = name.into();
    client.send(infer_json(&request_of));
    server.shared.wait_replied(1);
    server.stop();
    assert_eq!(server.ended(), Ended::Drained, "nothing was left to cut");
    drop(client);
}
