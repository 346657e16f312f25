//! A running `tandem serve`, which ends with its test whatever happens.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use serde_json::Value as Json;

use crate::binary::Place;
use crate::client::{Client, PATIENCE, get};

/// The process. Dropped, it is killed.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// What it says on stdout and stderr, line by line, until it ends.
    lines: Receiver<String>,
    said: String,
}

/// What a tenant has done.
#[derive(Clone, Debug, PartialEq)]
pub struct Stats {
    pub success: u64,
    pub fail: u64,
    /// Rows of answered requests.
    pub rows: u64,
    /// Batches run.
    pub batches: u64,
    /// By rows in them: batches.
    pub sizes: Vec<(u64, u64)>,
    /// Whether any request was submitted.
    pub is_used: bool,
}

fn lines(child: &mut Child) -> Receiver<String> {
    let (sender, lines) = channel();
    let outs: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|out| Box::new(out) as Box<dyn Read + Send>),
        child.stderr.take().map(|out| Box::new(out) as Box<dyn Read + Send>),
    ];
    for out in outs.into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                // Nobody may be left to hear it.
                let _ = sender.send(line);
            }
        });
    }
    lines
}

impl Server {
    /// Starts `tandem serve` and waits until it listens. It may not be ready.
    #[track_caller]
    pub fn start(place: &Place, engine: &str, words: &str) -> Self {
        Self::try_start(place, engine, words)
            .unwrap_or_else(|(code, said)| panic!("`serve {words}` ended with {code:?}:\n{said}"))
    }

    /// The same, until it is ready.
    #[track_caller]
    pub fn ready(place: &Place, engine: &str, words: &str) -> Self {
        let mut server = Self::start(place, engine, words);
        server.wait_said("ready");
        server
    }

    /// Starts; where the process ends before it listens, its exit code and all it said.
    pub fn try_start(place: &Place, engine: &str, words: &str) -> Result<Self, (Option<i32>, String)> {
        let given: Vec<&str> = words.split_whitespace().collect();
        let mut list = vec!["serve"];
        list.extend(&given);
        for usual in [["--http", "127.0.0.1:0"], ["--drain-delay", "0s"]] {
            if !given.contains(&usual[0]) {
                list.extend(usual);
            }
        }
        list.extend(["--engine", engine]);
        let mut command = place.command(&list);
        if engine == "ort" {
            command.arg("--ort").arg(std::env::var_os("ORT_DYLIB_PATH").unwrap_or_default());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        let lines = lines(&mut child);
        let mut server = Self { child, address: ([127, 0, 0, 1], 0).into(), lines, said: String::new() };
        match server.until(|line| line.starts_with("http://")) {
            Some(line) => {
                server.address = line["http://".len()..].parse().expect("an address");
                Ok(server)
            }
            None => Err(server.ended()),
        }
    }

    /// Waits for a line; `None` where the process ends before it says one.
    #[track_caller]
    fn until(&mut self, is_it: impl Fn(&str) -> bool) -> Option<String> {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.said += &format!("{line}\n");
                    if is_it(&line) {
                        return Some(line);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("the server says nothing more:\n{}", self.said),
            }
        }
    }

    /// Waits until it has said this; stdout and stderr may come in any order.
    #[track_caller]
    pub fn wait_said(&mut self, part: &str) {
        let said = self.said.contains(part) || self.until(|line| line.contains(part)).is_some();
        assert!(said, "the server ended and never said \"{part}\":\n{}", self.said);
    }

    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Asks for a document.
    pub fn get(&self, path: &str) -> Json {
        let response = self.client().ask(get(path));
        assert_eq!(response.status, 200, "{path}: {}", String::from_utf8_lossy(&response.body));
        response.json()
    }

    pub fn metadata(&self, tenant: &str) -> Json {
        self.get(&format!("/v2/models/{tenant}"))
    }

    pub fn stats(&self, tenant: &str) -> Stats {
        let all = self.get(&format!("/v2/models/{tenant}/stats"));
        let of = &all["model_stats"][0];
        let number = |value: &Json| value.as_u64().unwrap_or_else(|| panic!("a number in {all:#}"));
        let sizes = of["batch_stats"].as_array().expect("batches").iter();
        Stats {
            success: number(&of["inference_stats"]["success"]["count"]),
            fail: number(&of["inference_stats"]["fail"]["count"]),
            rows: number(&of["inference_count"]),
            batches: number(&of["execution_count"]),
            sizes: sizes.map(|b| (number(&b["batch_size"]), number(&b["compute_infer"]["count"]))).collect(),
            is_used: number(&of["last_inference"]) > 0,
        }
    }

    /// Waits until a tenant's statistics are so.
    #[track_caller]
    pub fn wait_stats(&self, tenant: &str, mut are: impl FnMut(&Stats) -> bool) -> Stats {
        let begin = Instant::now();
        loop {
            let stats = self.stats(tenant);
            if are(&stats) {
                return stats;
            }
            assert!(begin.elapsed() < PATIENCE, "the statistics stay as they are: {stats:?}");
            std::thread::yield_now();
        }
    }

    /// Sends a signal: `TERM`, `INT`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success(), "SIG{name} is sent");
    }

    /// Waits for the end: the exit code, and all it said.
    #[track_caller]
    pub fn ended(mut self) -> (Option<i32>, String) {
        while self.until(|_| false).is_some() {}
        let status = self.child.wait().expect("a process of ours");
        assert!(!self.said.contains("panicked"), "a panic:\n{}", self.said);
        (status.code(), std::mem::take(&mut self.said))
    }

    /// Tells it to end, which it does in good order.
    #[track_caller]
    pub fn end(self) {
        self.signal("TERM");
        let (code, said) = self.ended();
        assert_eq!(code, Some(0), "{said}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
