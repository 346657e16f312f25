//! A browser of our own: ChromeDriver as a child, and the little of the WebDriver protocol that tests need.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// Headless, without a sandbox (tests run as root) and without its maker's background traffic, which a closed network
/// refuses many times a second.
const ARGUMENTS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1300,2000",
];

/// How long a reply may take: a browser starts in seconds, on a busy machine in tens of them.
const REPLY_MAX: Duration = Duration::from_secs(120);

/// How WebDriver marks an element's identifier.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// The driver; its browser ends with it.
pub struct Chromium {
    driver: Child,
    port: u16,
    session: String,
    /// A fresh profile.
    _profile: tempfile::TempDir,
    /// Open as long as the driver may write to it.
    _said: BufReader<ChildStdout>,
}

impl Chromium {
    /// Starts; `None` where the environment names no driver.
    pub fn start() -> Option<Self> {
        let Some(program) = std::env::var_os("TANDEM_CHROMEDRIVER") else {
            println!("skipped: TANDEM_CHROMEDRIVER names no program");
            return None;
        };
        let command = Command::new(program).arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut driver = command.expect("ChromeDriver starts");
        let mut said = BufReader::new(driver.stdout.take().expect("its output"));
        let port = said.by_ref().lines().map_while(Result::ok).find_map(|line| {
            line.strip_prefix("ChromeDriver was started successfully on port ")?.trim_end_matches('.').parse().ok()
        });
        let profile = tempfile::tempdir().expect("a folder");
        let port = port.expect("ChromeDriver says its port");
        let mut chromium = Self { driver, port, session: String::new(), _profile: profile, _said: said };
        let profile = format!("--user-data-dir={}", chromium._profile.path().display());
        let arguments: Vec<&str> = ARGUMENTS.into_iter().chain([profile.as_str()]).collect();
        let wanted = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let opened = chromium.ask("POST", "session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        chromium.session = format!("session/{}", opened["sessionId"].as_str().expect("a session"));
        Some(chromium)
    }

    /// One command of the protocol; what fails ends the test.
    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        self.asked(method, path, body).unwrap_or_else(|why| panic!("{method} {path}: {why}"))
    }

    fn asked(&self, method: &str, path: &str, body: &Value) -> Result<Value, Box<dyn std::error::Error>> {
        let body = body.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(REPLY_MAX))?;
        let head = format!("{method} /{path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n", self.port);
        stream.write_all(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && lines.read_line(&mut head)? > 0 {}
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse().ok());
        let mut body = vec![0; length.ok_or("a reply without a length")?];
        lines.read_exact(&mut body)?;
        let mut answer: Value = serde_json::from_slice(&body)?;
        match head.starts_with("http/1.1 200") {
            true => Ok(answer["value"].take()),
            false => Err(format!("{answer:#}").into()),
        }
    }

    #[track_caller]
    fn post(&self, path: &str, body: Value) -> Value {
        self.ask("POST", &format!("{}/{path}", self.session), &body)
    }

    /// Opens a file, and waits until it is loaded.
    pub fn open(&self, page: &Path) {
        self.post("url", json!({ "url": format!("file://{}", page.display()) }));
    }

    /// What a function body returns in the page.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        self.post("execute/sync", json!({ "script": script, "args": [] }))
    }

    fn find(&self, selector: &str) -> Value {
        let found = self.post("element", json!({ "using": "css selector", "value": selector }));
        assert!(found[ELEMENT].is_string(), "{selector}: {found}");
        found
    }

    /// Moves the pointer to the first element that fits, wherever it is on the page; presses it where asked to.
    pub fn point(&self, selector: &str, press: bool) {
        let element = self.find(selector);
        let middle = "arguments[0].scrollIntoView({ block: 'center' })";
        self.post("execute/sync", json!({ "script": middle, "args": [element] }));
        let mut moves = vec![json!({ "type": "pointerMove", "origin": element, "x": 0, "y": 0 })];
        if press {
            moves.extend(["pointerDown", "pointerUp"].map(|kind| json!({ "type": kind, "button": 0 })));
        }
        self.post("actions", json!({ "actions": [{ "type": "pointer", "id": "mouse", "actions": moves }] }));
    }

    /// Types into the first element that fits.
    pub fn type_into(&self, selector: &str, text: &str) {
        let element = self.find(selector)[ELEMENT].as_str().expect("an element").to_owned();
        self.post(&format!("element/{element}/value"), json!({ "text": text }));
    }

    /// Everything said on the console since last asked, and every address that pages from files asked for.
    pub fn logged(&self) -> (Vec<String>, Vec<String>) {
        let log = |kind: &str| self.post("se/log", json!({ "type": kind })).as_array().cloned().unwrap_or_default();
        let console = log("browser").iter().map(Value::to_string).collect();
        let requests = log("performance").into_iter().filter_map(|entry| {
            let event: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            let event = &event["message"];
            let params = &event["params"];
            // The browser's own new tab asks for its parts too.
            let page = params["documentURL"].as_str().is_some_and(|url| url.starts_with("file:"));
            let sent = event["method"] == "Network.requestWillBeSent";
            (sent && page).then(|| params["request"]["url"].as_str().unwrap_or_default().to_owned())
        });
        (console, requests.collect())
    }

    /// Pretends that its user likes pages light or dark.
    pub fn prefer(&self, scheme: &str) {
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.post("goog/cdp/execute", json!({ "cmd": "Emulation.setEmulatedMedia", "params": media }));
    }

    /// The whole page, or what the window shows of it, as a PNG in base 64.
    pub fn picture(&self, whole: bool) -> String {
        let whole = json!({ "format": "png", "captureBeyondViewport": whole });
        let taken = self.post("goog/cdp/execute", json!({ "cmd": "Page.captureScreenshot", "params": whole }));
        taken["data"].as_str().expect("a picture").to_owned()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // The driver ends its browser when it is asked to, and not when it is killed.
        let _ = self.asked("DELETE", &self.session, &json!({}));
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
