//! The end of a server.

use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tandem_runtime::server::{Ended, ServerOptions};

use crate::client::{Client, PATIENCE, get};
use crate::fake::{Running, brief};
use crate::sums::{infer_json, sums};

/// Waits until nobody listens any more.
fn wait_deaf(server: &Running) {
    while TcpStream::connect(server.address).is_ok() {
        std::thread::yield_now();
    }
}

#[test]
fn readiness_goes_first_while_requests_are_still_taken() {
    let mut server = Running::start(16, ServerOptions { drain_delay: PATIENCE, ..brief() });
    let mut client = Client::connect(server.address);
    assert_eq!(client.ask(get("/v2/health/ready")).status, 200);
    server.stop();
    while client.ask(get("/v2/health/ready")).status == 200 {
        std::thread::yield_now();
    }
    assert_eq!(client.ask(get("/v2/models/sum/ready")).status, 503);
    assert_eq!(client.ask(get("/v2/health/live")).status, 200);
    assert_eq!(client.ask(infer_json(&sums(1.0, 2.0))).status, 200);
    assert_eq!(Client::connect(server.address).ask(infer_json(&sums(1.0, 2.0))).status, 200, "a new connection");
    // Its delay is not waited for: it ends with the process.
    std::mem::forget(server);
}

#[test]
fn requests_in_flight_get_their_reply() {
    let mut server = Running::usual();
    server.shared.holds.store(true, Ordering::SeqCst);
    let mut waiting = Client::connect(server.address);
    waiting.send(infer_json(&sums(1.0, 2.0)));
    server.shared.wait_held(1);
    let mut sending = Client::connect(server.address);
    let late = infer_json(&sums(2.0, 3.0));
    sending.send(&late[..late.len() - 10]);
    server.shared.wait_places(2);
    let mut idle = Client::connect(server.address);
    assert_eq!(idle.ask(get("/v2")).status, 200);
    server.stop();
    wait_deaf(&server);
    assert!(idle.is_closed());
    // Admitted before the end, and so served.
    sending.send(&late[late.len() - 10..]);
    server.shared.wait_held(2);
    server.shared.release();
    for (client, total) in [(&mut waiting, 3.0), (&mut sending, 5.0)] {
        let response = client.receive().expect("a reply");
        assert_eq!((response.status, response.header("connection")), (200, Some("close")));
        assert_eq!(response.json()["outputs"][0]["data"][0], total);
        assert!(client.is_closed());
    }
    assert_eq!(server.ended(), Ended::Drained);
}

#[test]
fn requests_that_take_too_long_are_cut_and_cancelled() {
    let mut server = Running::start(16, ServerOptions { drain_timeout: Duration::from_millis(20), ..brief() });
    server.shared.holds.store(true, Ordering::SeqCst);
    let mut client = Client::connect(server.address);
    client.send(infer_json(&sums(1.0, 2.0)));
    server.shared.wait_held(1);
    server.stop();
    server.shared.wait_cancelled(1);
    server.shared.wait_places(0);
    assert!(client.is_closed(), "without a reply");
    assert_eq!(server.ended(), Ended::Cut { connections: 1 });
}
