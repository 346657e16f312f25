//! The binary under test, run in a folder of its own. Three suites share this file; none uses all of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs share built models and measured samples: the binary writes both aside and renames them.
pub const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/cli-cache");

/// The machine that plans are made for: described, so that the answer is the same everywhere.
pub const T4: &str = "machines/t4-8vcpu.yaml";

/// A folder that lives as long as its test, with the machine files in `machines/`.
pub struct Place(tempfile::TempDir);

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    pub args: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let machines = folder.path().join("machines");
        std::fs::create_dir(&machines).expect("a folder");
        let known = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans/machines");
        for entry in std::fs::read_dir(known).expect("machine files").flatten() {
            std::fs::copy(entry.path(), machines.join(entry.file_name())).expect("a copied machine file");
        }
        Self(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Names in the folder, hidden ones too: what a run left behind.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("the folder").flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The binary, with the built-in engine unless the words name another.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
        self.dress(&mut command);
        command.args(words);
        if !words.iter().any(|w| w.starts_with("--engine")) {
            command.args(["--engine", "tract"]);
        }
        command
    }

    /// Environment and folder of a run; what the tester's shell has set must not matter.
    pub fn dress(&self, command: &mut Command) {
        command.current_dir(self.0.path()).env("TANDEM_CACHE", CACHE).env_remove("TANDEM_LOG").env("NO_COLOR", "1");
        command.env_remove("ORT_DYLIB_PATH").env_remove("VIRTUAL_ENV").env_remove("CONDA_PREFIX");
    }

    /// Runs; words are separated by blanks.
    pub fn tandem(&self, words: &str) -> Outcome {
        let list: Vec<&str> = words.split_whitespace().collect();
        outcome(words, self.command(&list).output().expect("the binary starts"))
    }

    /// Runs on an engine: `tract`, or `ort` from where [`engines`] found it.
    pub fn tandem_on(&self, engine: &str, words: &str) -> Outcome {
        let mut list: Vec<&str> = words.split_whitespace().collect();
        list.extend(["--engine", engine]);
        let mut command = self.command(&list);
        if engine == "ort" {
            command.arg("--ort").arg(std::env::var_os("ORT_DYLIB_PATH").unwrap_or_default());
        }
        outcome(&list.join(" "), command.output().expect("the binary starts"))
    }

    /// Runs in a shell that first sets limits. `$TANDEM` is the binary.
    pub fn shell(&self, script: &str) -> Outcome {
        let mut command = Command::new("sh");
        self.dress(&mut command);
        command.arg("-c").arg(script).env("TANDEM", env!("CARGO_BIN_EXE_tandem"));
        outcome(script, command.output().expect("a shell starts"))
    }
}

pub fn outcome(words: &str, output: Output) -> Outcome {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let found = Outcome {
        args: words.to_owned(),
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    };
    assert!(!found.stderr.contains("panicked"), "a panic: {found:#?}");
    assert!(!found.stderr.contains("RUST_BACKTRACE"), "a panic: {found:#?}");
    found
}

impl Outcome {
    /// The run ended with this exit code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code of `tandem {}`\n{}\n{}", self.args, self.stdout, self.stderr);
        self
    }

    /// The run failed as a fault of input does: exit code 2, nothing on stdout that could be taken for a result, one
    /// error that says all of `parts`.
    #[track_caller]
    pub fn refused(self, parts: &[&str]) -> Self {
        let found = self.code(2).says(parts);
        let errors = found.stderr.lines().filter(|l| l.starts_with("error:")).count();
        assert_eq!(errors, 1, "one error, and no more, of `tandem {}`:\n{}", found.args, found.stderr);
        found
    }

    /// Stderr holds all of `parts`.
    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "`tandem {}` should say \"{part}\":\n{}", self.args, self.stderr);
        }
        self
    }

    /// Stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("`tandem {}`: {e}\n{}", self.args, self.stdout))
    }
}

/// Engines that are here: tract always, ONNX Runtime where the environment says where it is.
pub fn engines() -> Vec<&'static str> {
    match std::env::var_os("ORT_DYLIB_PATH") {
        Some(path) if !path.is_empty() => vec!["tract", "ort"],
        _ => vec!["tract"],
    }
}
