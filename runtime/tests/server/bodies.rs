//! Bodies: when they are read, in which pieces, how large and how slow they may be.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::json;
use tandem_runtime::server::ServerOptions;

use crate::MEMORY;
use crate::client::{Client, get, request};
use crate::fake::{Running, brief};
use crate::sums::{INFER, infer_binary, infer_json, sums};

/// A server with one place, and a request that is in it.
fn full() -> (Running, Client) {
    let server = Running::start(1, brief());
    server.shared.holds.store(true, Ordering::SeqCst);
    let mut first = Client::connect(server.address);
    first.send(infer_json(&sums(1.0, 2.0)));
    server.shared.wait_held(1);
    (server, first)
}

fn head(length: usize, headers: &str) -> String {
    format!("POST {INFER} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n")
}

#[test]
fn a_full_queue_refuses_before_the_body_is_there() {
    let (server, mut first) = full();
    let mut second = Client::connect(server.address);
    // Nothing of the body is ever sent.
    second.send(head(4 << 20, ""));
    let response = second.receive().expect("a reply");
    assert_eq!((response.status, response.header("retry-after")), (429, Some("2")));
    assert_eq!((response.error().as_str(), response.header("connection")), ("the queue is full", Some("close")));
    assert!(second.is_closed());
    server.shared.release();
    assert_eq!(first.receive().expect("a reply").status, 200);
    assert_eq!(first.ask(infer_json(&sums(1.0, 2.0))).status, 200);
}

#[test]
fn refused_clients_read_their_reply_behind_all_they_send() {
    let (server, _first) = full();
    for _ in 0..10 {
        let mut client = Client::connect(server.address);
        client.send(head(4 << 20, ""));
        // The server has replied by the time most of this is sent; to reset the connection now would lose the reply.
        assert!(client.try_send(vec![b' '; 4 << 20]), "the server reads on");
        assert_eq!(client.receive().expect("a reply").status, 429);
        assert!(client.is_closed());
    }
}

#[test]
fn small_refused_requests_keep_their_connection() {
    let (server, _first) = full();
    let mut client = Client::connect(server.address);
    for _ in 0..3 {
        let response = client.ask(infer_json(&sums(1.0, 2.0)));
        assert_eq!((response.status, response.header("connection")), (429, None));
        let response = client.ask(request(INFER, "", &vec![b' '; 600_000]));
        assert_eq!((response.status, response.header("connection")), (429, None));
    }
    server.shared.release();
    assert_eq!(client.ask(infer_json(&sums(1.0, 2.0))).status, 200);
}

#[test]
fn who_asks_leave_to_send_gets_it_or_the_refusal() {
    let (server, _first) = full();
    let mut client = Client::connect(server.address);
    client.send(head(100, "Expect: 100-continue\r\n"));
    assert_eq!(client.receive().expect("a reply").status, 429, "and not 100 before it");
    assert!(client.is_closed());
    server.shared.release();
    let mut client = Client::connect(server.address);
    let body = sums(1.0, 2.0).to_string();
    client.send(head(body.len(), "Expect: 100-continue\r\n"));
    assert_eq!(client.receive().expect("leave to send").status, 100);
    assert_eq!(client.ask(body).status, 200);
    let response = client.ask(head(9 << 20, "Expect: 100-continue\r\n"));
    assert_eq!(response.status, 413);
}

fn chunked(pieces: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes();
    for piece in pieces {
        bytes.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        bytes.extend(*piece);
        bytes.extend(b"\r\n");
    }
    bytes
}

#[test]
fn bodies_in_chunks_are_whole_requests() {
    let server = Running::usual();
    let mut client = Client::connect(server.address);
    let body = sums(1.0, 2.0).to_string().into_bytes();
    for size in [1, 7, body.len()] {
        let pieces: Vec<&[u8]> = body.chunks(size).chain([&b""[..]]).collect();
        assert_eq!(client.ask(chunked(&pieces)).status, 200, "chunks of {size}");
    }
    // Arriving byte by byte.
    for byte in infer_binary(1, 1.0, 2.0) {
        client.send([byte]);
    }
    assert_eq!(client.receive().expect("a reply").status, 200);
}

#[test]
fn malformed_chunks_cost_the_connection_and_nothing_else() {
    let server = Running::usual();
    let start = String::from_utf8(chunked(&[])).expect("text");
    for rest in [
        "x\r\nabc\r\n",
        "-1\r\n",
        "ffffffffffffffffffff\r\n",
        "3\r\nabcdef\r\n0\r\n\r\n",
        "0;\u{7f}\u{1}\r\nx: \u{1}\r\n\r\n",
    ] {
        let mut client = Client::connect(server.address);
        client.send(format!("{start}{rest}"));
        if let Some(response) = client.receive() {
            assert_eq!(response.status, 400, "{rest:?}");
        }
        assert!(client.is_closed());
    }
    server.shared.wait_places(0);
    assert_eq!(server.shared.counts(), (0, 0));
}

#[test]
fn lengths_that_lie_are_refused() {
    let server = Running::usual();
    for length in ["-1", "x", "18446744073709551616", "1, 2"] {
        let mut client = Client::connect(server.address);
        client.send(format!("POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{{}}"));
        let response = client.receive().expect("a reply");
        assert_eq!(response.status, 400, "{length}");
        assert!(client.is_closed());
    }
    // Less than was said, and nothing more will come.
    let mut client = Client::connect(server.address);
    client.send(head(1000, ""));
    client.send("{}");
    client.finish();
    if let Some(response) = client.receive() {
        assert_eq!(response.status, 400);
    }
    assert!(client.is_closed());
    server.shared.wait_places(0);
}

#[test]
fn bodies_over_the_bound_are_refused() {
    let server = Running::usual();
    let mut client = Client::connect(server.address);
    let response = client.ask(head((8 << 20) + 1, ""));
    assert_eq!(response.status, 413);
    assert_eq!(response.error(), "expected a body of at most 8388608 bytes, found a larger one");
    assert!(client.is_closed());
    let mut client = Client::connect(server.address);
    client.send(head(1 << 62, ""));
    assert_eq!(client.receive().expect("a reply").status, 413);
    // Without a length it shows on the way.
    let mut client = Client::connect(server.address);
    let piece = vec![b' '; 1 << 20];
    client.send(chunked(&[&piece[..]; 9]));
    assert_eq!(client.receive().expect("a reply").status, 413);
    server.shared.wait_places(0);
}

#[test]
fn memory_for_bodies_is_set_aside_before_they_are_read() {
    let options = ServerOptions { bodies_bytes_max: 1 << 20, ..brief() };
    let server = Running::start(16, options);
    server.shared.holds.store(true, Ordering::SeqCst);
    let mut first = Client::connect(server.address);
    first.send(head(600_000, "Expect: 100-continue\r\n"));
    // Leave to send comes once the body is waited for, so its memory is set aside by then.
    assert_eq!(first.receive().expect("leave to send").status, 100);
    let mut second = Client::connect(server.address);
    let response = second.ask(request(INFER, "", &vec![b' '; 600_000]));
    assert_eq!((response.status, response.header("retry-after")), (429, Some("1")));
    assert_eq!(response.error(), "the memory for requests' bodies is in use");
    let mut small = sums(1.0, 2.0).to_string().into_bytes();
    small.resize(600_000, b' ');
    first.send(small);
    server.shared.wait_held(1);
    assert_eq!(second.ask(request(INFER, "", &vec![b' '; 600_000])).status, 429, "held until the reply");
    server.shared.release();
    assert_eq!(first.receive().expect("a reply").status, 200);
    assert_eq!(second.ask(infer_json(&sums(1.0, 2.0))).status, 200);
    // Larger than all bodies may be together, but alone.
    let mut large = sums(1.0, 2.0).to_string().into_bytes();
    large.resize(2 << 20, b' ');
    assert_eq!(second.ask(request(INFER, "", &large)).status, 200);
}

#[test]
fn clients_that_stall_lose_their_place() {
    let options = ServerOptions { read_timeout: Duration::from_millis(20), ..brief() };
    let server = Running::start(1, options);
    let mut client = Client::connect(server.address);
    client.send(head(1000, ""));
    client.send("{");
    let response = client.receive().expect("a reply");
    assert_eq!((response.status, response.header("connection")), (408, Some("close")));
    assert_eq!(response.error(), "expected the body sooner, found 1 bytes of it so far");
    assert!(client.is_closed());
    server.shared.wait_places(0);
    let mut client = Client::connect(server.address);
    client.send("GET /v2 HTTP/1.1\r\nHo");
    assert!(client.is_closed(), "a head that never ends");
    let mut client = Client::connect(server.address);
    assert_eq!(client.ask(get("/v2")).status, 200);
    assert!(client.is_closed(), "nothing is asked any more");
}

#[test]
fn hostile_numbers_take_no_memory() {
    let server = Running::usual();
    let before = MEMORY.current_usage();
    let input = |shape: serde_json::Value, size: u64| {
        let parameters = json!({ "binary_data_size": size });
        let input = json!({ "name": "in_string", "shape": shape, "datatype": "BYTES", "parameters": parameters });
        json!({ "inputs": [input] }).to_string()
    };
    for _ in 0..100 {
        let mut client = Client::connect(server.address);
        let body = input(json!([8, 2]), 4) + "\u{7f}\u{7f}\u{7f}\u{7f}";
        let headers = format!("Inference-Header-Content-Length: {}\r\n", body.len() - 4);
        assert_eq!(client.ask(request("/v2/models/echo/infer", &headers, body.as_bytes())).status, 400);
        let body = input(json!([1u64 << 62, 1u64 << 62]), 1 << 62);
        assert_eq!(client.ask(request("/v2/models/echo/infer", "", body.as_bytes())).status, 400);
        let body = format!("{{\"inputs\":{}", "[".repeat(1 << 16));
        assert_eq!(client.ask(request(INFER, "", body.as_bytes())).status, 400);
        let mut deep = sums(1.0, 2.0).to_string();
        deep = deep.replacen("[1.0,1.0,1.0,1.0]", &format!("{}{}", "[".repeat(1 << 16), "]".repeat(1 << 16)), 1);
        assert_eq!(client.ask(request(INFER, "", deep.as_bytes())).status, 400);
        let headers = "Inference-Header-Content-Length: 18446744073709551615\r\n";
        assert_eq!(client.ask(request(INFER, headers, b"{}")).status, 400);
    }
    // Many times what this test sends, and what the others beside it hold; a millionth of what was claimed.
    let grown = MEMORY.peak_usage().saturating_sub(before);
    assert!(grown < 512 << 20, "{grown} bytes");
}
