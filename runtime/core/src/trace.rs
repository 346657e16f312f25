//! What ran when, as a trace that Chrome (`chrome://tracing`) and Perfetto read: a row a lane, predicted beside
//! measured.

use std::collections::BTreeMap;
use std::fmt::Write;

use tandem_ir::plan::{Action, Route};
use tandem_ir::{Nanos, Time};

use crate::memory::Span;

/// Which of a lane's two rows an event is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TraceKind {
    /// As the plan says.
    Predicted,
    /// As it ran.
    Measured,
}

/// Something that took time on a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// Name of the lane.
    pub lane: String,
    /// Predicted or measured.
    pub kind: TraceKind,
    /// What it was, for people.
    pub name: String,
    /// `run`, `copy`, `barrier`; colours and filters in the viewer.
    pub category: &'static str,
    /// When it began; all events of a trace share one epoch.
    pub start: Time,
    /// How long it took.
    pub duration: Nanos,
    /// Further facts, shown when it is selected.
    pub facts: Vec<(String, String)>,
}

/// The events of one batch of a route that began at `epoch`, given when each step ran relative to that.
///
/// # Panics
/// If there is not one span a step.
pub fn route_events(route: &Route, spans: &[Span], kind: TraceKind, epoch: Time) -> Vec<TraceEvent> {
    assert_eq!(spans.len(), route.steps.len(), "one span a step");
    let steps = spans.iter().enumerate();
    let shifted = |span: &Span| Span { start: epoch + (span.start - Time::ZERO), end: epoch + (span.end - Time::ZERO) };
    steps.map(|(i, span)| step_event(route, i, shifted(span), kind)).collect()
}

/// The event of one step of a route.
///
/// # Panics
/// If the route has no such step.
pub fn step_event(route: &Route, index: usize, span: Span, kind: TraceKind) -> TraceEvent {
    let step = &route.steps[index];
    let (name, category) = describe(route, step.action);
    let facts = vec![
        ("tenant".to_owned(), route.tenant.clone()),
        ("batch".to_owned(), route.batch.to_string()),
        ("step".to_owned(), index.to_string()),
        ("planned".to_owned(), step.duration.to_string()),
    ];
    TraceEvent {
        lane: route.lane_names[step.lane].clone(),
        kind,
        name,
        category,
        start: span.start,
        duration: span.end - span.start,
        facts,
    }
}

fn describe(route: &Route, action: Action) -> (String, &'static str) {
    match action {
        Action::Run(s) => {
            let nodes = &route.segments[s].nodes;
            let name = match nodes.as_slice() {
                [] => format!("segment {s}"),
                [one] => format!("segment {s}: {one}"),
                [first, .., last] => format!("segment {s}: {first} .. {last} ({} nodes)", nodes.len()),
            };
            (name, "run")
        }
        Action::Copy { tensor, .. } => {
            let tensor = &route.tensors[tensor];
            (format!("copy {} ({})", tensor.name, tensor.bytes), "copy")
        }
        Action::Barrier => ("barrier".into(), "barrier"),
    }
}

/// The trace as Chrome's JSON object format. Lanes come in the order in which they are first named, each with its
/// predicted row above its measured one; rows without events are left out.
pub fn chrome_trace(events: &[TraceEvent]) -> String {
    let mut lanes: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rows: BTreeMap<usize, (&str, TraceKind)> = BTreeMap::new();
    let mut lines = vec![];
    for event in events {
        let known = lanes.len();
        let lane = *lanes.entry(&event.lane).or_insert(known);
        let row = 1 + 2 * lane + usize::from(event.kind == TraceKind::Measured);
        rows.insert(row, (&event.lane, event.kind));
        lines.push(complete_event(event, row));
    }
    let mut out = String::from("{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n");
    out.push_str(r#"{"ph":"M","pid":1,"tid":0,"name":"process_name","args":{"name":"tandem"}}"#);
    for (row, (lane, kind)) in rows {
        let kind = if kind == TraceKind::Predicted { "predicted" } else { "measured" };
        let name = json_string(&format!("{lane} ({kind})"));
        let _ = write!(
            out,
            ",\n{{\"ph\":\"M\",\"pid\":1,\"tid\":{row},\"name\":\"thread_name\",\"args\":{{\"name\":{name}}}}}"
        );
        let _ = write!(
            out,
            ",\n{{\"ph\":\"M\",\"pid\":1,\"tid\":{row},\"name\":\"thread_sort_index\",\"args\":{{\"sort_index\":{row}}}}}"
        );
    }
    for line in lines {
        out.push_str(",\n");
        out.push_str(&line);
    }
    out.push_str("\n]}\n");
    out
}

fn complete_event(event: &TraceEvent, row: usize) -> String {
    let facts: Vec<String> =
        event.facts.iter().map(|(key, value)| format!("{}:{}", json_string(key), json_string(value))).collect();
    format!(
        r#"{{"ph":"X","pid":1,"tid":{row},"name":{},"cat":"{}","ts":{},"dur":{},"args":{{{}}}}}"#,
        json_string(&event.name),
        event.category,
        microseconds(event.start.0),
        microseconds(event.duration.0),
        facts.join(",")
    )
}

/// Microseconds with the nanoseconds as their fraction, without going through a float.
fn microseconds(ns: u64) -> String {
    format!("{}.{:03}", ns / 1000, ns % 1000)
}

fn json_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
