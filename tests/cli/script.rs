//! Scripts of the command line: what is typed, and what comes back, as text.
//!
//! A script is lines: `$ tandem …` (or `$ replace FILE "A" "B"`, `$ same A B`, `$ remove FILE`), then what is expected:
//! lines of stdout as they are, lines of stderr behind `! `, and `? 1` where the exit code is not 0. `[..]` stands for
//! anything within a line, a line `…` (or `! …`) for any number of lines. `#` begins a comment. With `TANDEM_REFRESH=1`
//! expectations that do not hold are replaced by what was found; wildcards that still fit are kept.

use std::path::Path;

use crate::binary::Place;

/// A command and what is expected of it.
#[derive(Default)]
struct Step {
    comments: Vec<String>,
    command: String,
    stdout: Vec<String>,
    stderr: Vec<String>,
    code: i32,
}

/// Runs a script of `tests/cli/scripts`.
#[track_caller]
pub fn run(name: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/scripts").join(name);
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
    let place = Place::new();
    let (mut wrong, mut fresh) = (vec![], vec![]);
    for step in parse(&text) {
        let found = perform(&place, &step.command);
        let fits = matches(&step.stdout, &found.stdout) && matches(&step.stderr, &found.stderr);
        let fits = fits && step.code == found.code;
        fresh.push(print(if fits { &step } else { &found }, &step));
        if !fits {
            wrong.push(format!("{name}\nexpected:\n{}\nfound:\n{}", print(&step, &step), print(&found, &step)));
        }
    }
    if std::env::var_os("TANDEM_REFRESH").is_some() {
        std::fs::write(&file, fresh.join("\n")).expect("a refreshed script");
        return;
    }
    assert!(wrong.is_empty(), "{}\n(TANDEM_REFRESH=1 takes over what was found)", wrong.join("\n"));
}

fn parse(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = vec![];
    let mut comments = vec![];
    for line in text.lines() {
        if line.starts_with("# ") {
            comments.push(line.to_owned());
        } else if let Some(command) = line.strip_prefix("$ ") {
            let comments = std::mem::take(&mut comments);
            steps.push(Step { comments, command: command.to_owned(), ..Step::default() });
        } else {
            let step = steps.last_mut().expect("a script begins with a command");
            match (line.strip_prefix("! "), line.strip_prefix("? ")) {
                (Some(stderr), _) => step.stderr.push(stderr.to_owned()),
                (_, Some(code)) => step.code = code.parse().expect("an exit code"),
                _ => step.stdout.push(line.to_owned()),
            }
        }
    }
    // The blank lines before the next command are the script's, not the output's.
    for step in &mut steps {
        while step.stdout.last().is_some_and(String::is_empty) {
            step.stdout.pop();
        }
    }
    steps
}

fn print(step: &Step, asked: &Step) -> String {
    let mut text: String = asked.comments.iter().map(|c| format!("{c}\n")).collect();
    text += &format!("$ {}\n", asked.command);
    step.stdout.iter().for_each(|l| text += &format!("{l}\n"));
    step.stderr.iter().for_each(|l| text += &format!("! {l}\n"));
    if step.code != 0 {
        text += &format!("? {}\n", step.code);
    }
    text
}

fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

fn perform(place: &Place, command: &str) -> Step {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words.as_slice() {
        ["tandem", ..] => {
            let found = place.tandem(&words[1..].join(" "));
            let code = found.code.expect("an exit code, not a signal");
            Step { stdout: lines(&found.stdout), stderr: lines(&found.stderr), code, ..Step::default() }
        }
        ["same", a, b] => {
            let read = |name: &str| std::fs::read(place.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
            said(if read(a) == read(b) { "same" } else { "different" })
        }
        ["remove", file] => {
            std::fs::remove_file(place.path(file)).expect("a file to remove");
            Step::default()
        }
        ["replace", file, ..] => {
            let quoted: Vec<&str> = command.split('"').collect();
            let [_, from, _, to, _] = quoted.as_slice() else { panic!("{command}: expected FILE \"A\" \"B\"") };
            let text = place.read(file);
            assert!(text.contains(from), "{file} holds no \"{from}\":\n{text}");
            place.write(file, text.replacen(from, to, 1));
            Step::default()
        }
        _ => panic!("an unknown command: {command}"),
    }
}

fn said(word: &str) -> Step {
    Step { stdout: vec![word.to_owned()], ..Step::default() }
}

/// Whether lines are as expected.
fn matches(expected: &[String], found: &[String]) -> bool {
    match expected.split_first() {
        None => found.is_empty(),
        Some((line, rest)) if line == "…" => (0..=found.len()).any(|n| matches(rest, &found[n..])),
        Some((line, rest)) => found.split_first().is_some_and(|(l, more)| fits(line, l) && matches(rest, more)),
    }
}

/// Whether one line is as expected.
fn fits(pattern: &str, line: &str) -> bool {
    match pattern.split_once("[..]") {
        None => pattern == line,
        Some((head, rest)) => line.strip_prefix(head).is_some_and(|line| {
            line.char_indices().map(|(i, _)| i).chain([line.len()]).any(|i| fits(rest, &line[i..]))
        }),
    }
}

/// So a refresh of a tree that is as it was changes nothing.
#[test]
fn scripts_are_written_as_they_stand() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/scripts");
    for entry in std::fs::read_dir(folder).expect("scripts").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a script");
        let written: Vec<String> = parse(&text).iter().map(|step| print(step, step)).collect();
        assert_eq!(written.join("\n"), text, "{}", entry.path().display());
    }
}

#[test]
fn wildcards_fit_and_do_not_overfit() {
    let text = |lines: &[&str]| lines.iter().map(|l| (*l).to_owned()).collect::<Vec<_>>();
    assert!(fits("a [..] c", "a b c") && fits("[..]", "") && !fits("a [..] c", "a b d") && !fits("a", "ab"));
    assert!(matches(&text(&["a", "…", "d"]), &text(&["a", "b", "c", "d"])));
    assert!(matches(&text(&["…"]), &[]));
    assert!(!matches(&text(&["a", "…", "d"]), &text(&["a", "b"])));
    assert!(!matches(&text(&["a"]), &text(&["a", "b"])));
}
