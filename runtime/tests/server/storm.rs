//! Many clients, most of them badly behaved: no request is lost, none is answered twice.

use tandem_core::rng::Rng;

use crate::client::{Client, request};
use crate::fake::Running;
use crate::sums::{INFER, infer_binary, infer_json, sums};

const CLIENTS: u64 = 4;
const REQUESTS: u64 = 750;

/// What the client did with the connection.
enum Left {
    Open,
    Closed,
}

fn total(response: &crate::client::Response) -> f64 {
    response.json()["outputs"][0]["data"][0].as_f64().expect("a number")
}

/// One request of a client: good, bad or cut. Checks the reply of those that wait for it.
fn step(client: &mut Client, rng: &mut Rng) -> Left {
    let (a, b) = (rng.below(1000) as f32, rng.below(1000) as f32);
    let good = infer_json(&sums(a, b));
    match rng.below(10) {
        0 => {
            client.send(&good[..rng.below(good.len() as u64) as usize]);
            return Left::Closed;
        }
        1 => {
            // Away while it waits, or before the reply is read.
            client.send(&good);
            return Left::Closed;
        }
        2 => {
            let mut damaged = sums(a, b).to_string().into_bytes();
            let at = rng.below(damaged.len() as u64) as usize;
            damaged[at] = rng.u64() as u8;
            let response = client.ask(request(INFER, "", &damaged));
            assert!([200, 400].contains(&response.status), "{}", response.status);
        }
        3 => {
            client.send(b"POST /v2/models/sum/infer HTTP/1.1\r\nContent-Length: 9999999\r\n\r\n{");
            client.finish();
            let status = client.receive().map_or(413, |r| r.status);
            assert_eq!(status, 413);
            return Left::Closed;
        }
        4 => {
            let sent = [&good[..], &good[..], &request(INFER, "", b"[")].concat();
            client.send(sent);
            assert_eq!([(); 2].map(|()| total(&client.receive().expect("a reply"))), [f64::from(a + b); 2]);
            assert_eq!(client.receive().expect("a reply").status, 400);
        }
        5 | 6 => {
            let response = client.ask(infer_binary(1 + rng.below(8) as usize, a, b));
            assert!(response.body.ends_with(&(a - b).to_le_bytes()));
        }
        _ => assert_eq!(total(&client.ask(good)), f64::from(a + b)),
    }
    Left::Open
}

#[test]
fn no_request_is_lost_or_answered_twice() {
    // Places for all that can be under way: two of each client, and those whose going has not been noticed yet.
    let server = Running::start(usize::MAX, crate::fake::brief());
    let address = server.address;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|seed| {
            std::thread::spawn(move || {
                let mut rng = Rng::keyed(seed, &[0x5702]);
                let mut client = Client::connect(address);
                for _ in 0..REQUESTS {
                    if let Left::Closed = step(&mut client, &mut rng) {
                        client = Client::connect(address);
                    }
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|c| c.join().expect("every reply was right"));
    server.shared.wait_places(0);
    server.shared.wait_settled();
    let (submitted, replied) = server.shared.counts();
    assert_eq!(submitted, replied, "one reply each");
    assert!(submitted > CLIENTS * REQUESTS / 2);
}
