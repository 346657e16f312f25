//! Many clients, some of them badly behaved: no request is lost, none is answered twice or with another's numbers.

use std::net::SocketAddr;

use serde_json::json;
use tandem_core::rng::Rng;

use crate::asking::{Named, in_binary, in_json, json_body, named, outputs};
use crate::build::tensor;
use crate::client::{Client, Response, get, request};
use crate::models::{place, plan};
use crate::process::Server;

const CLIENTS: u64 = 12;

/// Tenants, and the most rows of a request of each.
const TENANTS: [(&str, u64); 3] = [("affine", 8), ("pair", 4), ("scaled", 2)];

/// What a client saw.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Requests sent whole, of the right form.
    asked: u64,
    /// Replies to them with their own numbers.
    answered: u64,
    /// Rows of them.
    rows: u64,
    /// Bad ones, and their refusals.
    bad: u64,
    /// Left before their reply, at any moment: maybe a request, maybe not.
    cut: u64,
}

/// A request that is like no other, as inputs and outputs.
struct Own {
    tenant: &'static str,
    rows: u64,
    inputs: Named,
    outputs: Named,
}

impl Own {
    fn made_up(rng: &mut Rng) -> Self {
        let (tenant, most) = TENANTS[rng.below(TENANTS.len() as u64) as usize];
        let rows = 1 + rng.below(most);
        let dims = [rows, 4];
        let mut some = || -> Vec<f32> { (0..4 * rows).map(|_| rng.below(1 << 16) as f32).collect() };
        let (a, b) = (some(), some());
        let pairs = |f: fn(f32, f32) -> f32| {
            let values: Vec<f32> = a.iter().zip(&b).map(|(a, b)| f(*a, *b)).collect();
            tensor(&dims, &values)
        };
        let (inputs, outputs) = match tenant {
            "affine" => (named(&[("x", tensor(&dims, &a))]), named(&[("y", pairs(|a, _| 3.0 * a + 1.0))])),
            "pair" => (
                named(&[("a", tensor(&dims, &a)), ("b", tensor(&dims, &b))]),
                named(&[("sum", pairs(|a, b| a + b)), ("difference", pairs(|a, b| a - b))]),
            ),
            _ => {
                let scale = (b[0] % 128.0) + 1.0;
                let scaled: Vec<f32> = a.iter().map(|a| a * scale).collect();
                let inputs = named(&[("x", tensor(&dims, &a)), ("scale", tensor(&[], &[scale]))]);
                (inputs, named(&[("y", tensor(&dims, &scaled))]))
            }
        };
        Self { tenant, rows, inputs, outputs }
    }

    fn bytes(&self, rng: &mut Rng) -> Vec<u8> {
        match rng.below(2) {
            0 => in_binary(self.tenant, &self.inputs),
            _ => in_json(self.tenant, &self.inputs, &json!({ "timeout": 60_000_000 })),
        }
    }

    fn check(&self, response: &Response, tally: &mut Tally) {
        assert_eq!(outputs(response), self.outputs, "its own numbers");
        tally.answered += 1;
        tally.rows += self.rows;
    }
}

/// One turn of a client; `None` where it left its connection.
fn turn(client: &mut Client, rng: &mut Rng, tally: &mut Tally) -> Option<()> {
    let own = Own::made_up(rng);
    let whole = own.bytes(rng);
    match rng.below(16) {
        0 => {
            tally.cut += 1;
            client.send(&whole[..rng.below(whole.len() as u64) as usize]);
            return None;
        }
        1 => {
            // While it waits, or before the reply is read.
            tally.cut += 1;
            client.send(&whole);
            return None;
        }
        2 => {
            tally.bad += 1;
            let body = json_body(&own.inputs, &json!({}));
            let cut = &body[..rng.below(body.len() as u64) as usize];
            let response = client.ask(request(&format!("/v2/models/{}/infer", own.tenant), "", cut));
            assert_eq!(response.status, 400, "{}", response.error());
        }
        3 => {
            tally.bad += 1;
            let large = format!("POST /v2/models/{}/infer HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n{{", own.tenant);
            client.send(large);
            client.finish();
            // To stop sending is to go away, as far as the server can see.
            assert!(client.receive().is_none_or(|response| response.status == 413));
            return None;
        }
        4 => {
            tally.bad += 2;
            let nobody = client.ask(request("/v2/models/nobody/infer", "", &[b'x'; 300]));
            assert_eq!(nobody.status, 404);
            let rows = named(&[("x", tensor(&[100, 4], &[0.0; 400]))]);
            assert_eq!(client.ask(in_binary("affine", &rows)).status, 400);
        }
        5 | 6 => {
            // Several at once on one connection, a bad one and a question among them.
            let others: Vec<Own> = (0..4).map(|_| Own::made_up(rng)).collect();
            let mut all = whole;
            all.extend(request("/v2/models/affine/infer", "", b"["));
            all.extend(get("/v2/health/live").into_bytes());
            others.iter().for_each(|other| all.extend(other.bytes(rng)));
            client.send(all);
            tally.asked += 5;
            tally.bad += 1;
            let mut next = || client.receive().expect("a reply");
            own.check(&next(), tally);
            assert_eq!(next().status, 400);
            assert_eq!(next().status, 200);
            others.iter().for_each(|other| other.check(&next(), tally));
        }
        _ => {
            tally.asked += 1;
            own.check(&client.ask(whole), tally);
        }
    }
    Some(())
}

fn client(address: SocketAddr, seed: u64, requests: u64) -> Tally {
    let mut rng = Rng::keyed(seed, &[0x5702]);
    let (mut client, mut tally) = (Client::connect(address), Tally::default());
    while tally.asked + tally.bad + tally.cut < requests {
        if turn(&mut client, &mut rng, &mut tally).is_none() {
            client = Client::connect(address);
        }
    }
    // Nothing is left on the connection that was not asked for.
    let last = client.ask("GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(last.status, 200);
    assert!(client.is_closed());
    tally
}

/// So many requests, of several tenants, over several connections, under a policy; then the server ends, which it does only when every
/// place and every buffer is back.
pub fn storm(engine: &str, policy: &str, requests: u64) {
    let place = place();
    let tenants = TENANTS.map(|(name, rows)| (name, format!("{name}.onnx"), rows));
    let models: Vec<String> = tenants.iter().map(|(name, file, _)| format!("{name}={file}")).collect();
    plan(&place, engine, &format!("{} --batch 1,2,4,8 --serving {policy}", models.join(" ")));
    let server = Server::ready(&place, engine, "plan.yaml");
    let tallies: Vec<Tally> = std::thread::scope(|threads| {
        let address = server.address;
        let clients: Vec<_> =
            (0..CLIENTS).map(|seed| threads.spawn(move || client(address, seed, requests / CLIENTS))).collect();
        clients.into_iter().map(|c| c.join().expect("every reply was right")).collect()
    });
    let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum::<u64>();
    let (asked, answered, rows) = (sum(|t| t.asked), sum(|t| t.answered), sum(|t| t.rows));
    let (bad, cut) = (sum(|t| t.bad), sum(|t| t.cut));
    assert_eq!(asked, answered, "one reply each");
    let stats = TENANTS.map(|(name, _)| server.stats(name));
    let total = |of: fn(&crate::process::Stats) -> u64| stats.iter().map(of).sum::<u64>();
    let (success, fail) = (total(|s| s.success), total(|s| s.fail));
    // Of those that were cut some were requests, and of these some were done before anybody noticed.
    assert!((answered..=answered + cut).contains(&success), "{success} successes, {answered} answered, {cut} cut");
    assert!(success + fail <= answered + cut, "{success} + {fail} of {answered} + {cut}");
    assert!(total(|s| s.rows) >= rows);
    let batches = total(|s| s.batches);
    println!(
        "{engine}, {policy}: {asked} requests answered, {bad} bad ones refused, {cut} cut, of which {fail} cancelled"
    );
    println!("{success} successes in {batches} batches");
    for stats in &stats {
        // Rows of members that went away are in a batch, too.
        assert!(stats.sizes.iter().map(|(rows, batches)| rows * batches).sum::<u64>() >= stats.rows, "{stats:?}");
    }
    server.end();
}
