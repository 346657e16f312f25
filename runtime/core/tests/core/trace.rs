use serde_json::Value;
use tandem_core::trace::{TraceKind, chrome_trace, route_events};
use tandem_core::{EmulationOptions, TraceEvent, emulate};
use tandem_ir::{Nanos, Time};

use crate::routes;

fn parsed(events: &[TraceEvent]) -> Vec<Value> {
    let json: Value = serde_json::from_str(&chrome_trace(events)).unwrap();
    assert_eq!(json["displayTimeUnit"], "ns");
    json["traceEvents"].as_array().unwrap().clone()
}

#[test]
fn predicted_rows_lie_beside_measured_ones() {
    let route = routes::there_and_back();
    let e = emulate(&route, &EmulationOptions::default()).unwrap();
    let mut events = route_events(&route, &e.spans, TraceKind::Predicted, Time(1_000));
    events.extend(route_events(&route, &e.spans, TraceKind::Measured, Time(1_234)));
    let events = parsed(&events);
    let names: Vec<(i64, &str)> = events
        .iter()
        .filter(|e| e["name"] == "thread_name")
        .map(|e| (e["tid"].as_i64().unwrap(), e["args"]["name"].as_str().unwrap()))
        .collect();
    assert_eq!(names[..3], [(1, "lane0 (predicted)"), (2, "lane0 (measured)"), (3, "lane1 (predicted)")]);
    let sorted = events.iter().filter(|e| e["name"] == "thread_sort_index");
    assert!(sorted.clone().all(|e| e["args"]["sort_index"] == e["tid"]) && sorted.count() == 8);
    let spans: Vec<&Value> = events.iter().filter(|e| e["ph"] == "X").collect();
    assert_eq!(spans.len(), 8);
    assert_eq!(spans[0]["name"], "segment 0: n0 .. m\"\\\n (2 nodes)");
    assert_eq!((spans[5]["tid"].as_i64(), spans[5]["cat"].as_str()), (Some(4), Some("copy")));
    assert_eq!(spans[5]["name"], "copy mid (40 B)");
    assert_eq!(spans[5]["args"]["planned"], "20 ns");
    let text = chrome_trace(&route_events(&route, &e.spans, TraceKind::Measured, Time(1_234)));
    assert!(text.contains("\"ts\":1.284,\"dur\":0.020"), "{text}");
}

#[test]
fn any_text_and_any_time_is_valid_json() {
    let event = TraceEvent {
        lane: "cpu>\u{1}\"gpu\\\u{7f}é".into(),
        kind: TraceKind::Measured,
        name: "\t\u{0}".into(),
        category: "run",
        start: Time(u64::MAX),
        duration: Nanos(u64::MAX),
        facts: vec![("k\"".into(), "\u{1f}v".into())],
    };
    let events = parsed(&[event]);
    assert_eq!(events[1]["args"]["name"], "cpu>\u{1}\"gpu\\\u{7f}é (measured)");
    assert_eq!(events[3]["args"]["k\""], "\u{1f}v");
    assert_eq!(parsed(&[]).len(), 1);
}
