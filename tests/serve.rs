//! `tandem serve` as its clients meet it: the real binary, on a port of its own, with tiny models, on every engine that is
//! here. Nothing here waits for a while: what must happen is waited for, and where a request has to wait in the server, its
//! plan says that it waits for company which does not come.

#[path = "serve/asking.rs"]
mod asking;
#[path = "serve/batches.rs"]
mod batches;
#[path = "cli/binary.rs"]
mod binary;
#[path = "serve/bounds.rs"]
mod bounds;
#[allow(dead_code)]
#[path = "real_files/build.rs"]
mod build;
#[path = "../runtime/tests/server/client.rs"]
mod client;
#[path = "serve/ending.rs"]
mod ending;
#[cfg(feature = "full-size")]
#[path = "serve/full_size.rs"]
mod full_size;
#[path = "serve/models.rs"]
mod models;
#[path = "serve/numbers.rs"]
mod numbers;
#[path = "serve/process.rs"]
mod process;
#[path = "serve/published.rs"]
mod published;
#[path = "serve/storm.rs"]
mod storm;

/// Requests of a storm, of which there are two on each engine; `TANDEM_STORM` says another number.
const STORM: u64 = if cfg!(feature = "full-size") { 100_000 } else { 2_500 };

#[test]
fn no_request_is_lost_or_answered_twice() {
    let requests = std::env::var("TANDEM_STORM").map_or(STORM, |n| n.parse().expect("TANDEM_STORM: a number"));
    for engine in binary::engines() {
        // Batches of whoever happens to be there, and batches that requests wait for.
        for policy in ["adt-flow", "fixed --queue-delay 2ms --preferred 8"] {
            storm::storm(engine, policy, requests);
        }
    }
}
