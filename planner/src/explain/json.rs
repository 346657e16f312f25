//! Explanations as JSON (RFC 8259), durations in whole nanoseconds and sizes in whole bytes.

use super::{Alternative, AtomView, Boundary, Explanation, Flow, LaneLoad, Moved};

/// A JSON value on its way out.
enum Json {
    Number(i128),
    Text(String),
    Bool(bool),
    List(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl Json {
    fn write(&self, out: &mut String, depth: usize) {
        let line = |out: &mut String, depth: usize| {
            out.push('\n');
            out.push_str(&"  ".repeat(depth));
        };
        match self {
            Json::Number(n) => out.push_str(&n.to_string()),
            Json::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
            Json::Text(text) => quote(text, out),
            Json::List(items) if items.is_empty() => out.push_str("[]"),
            Json::List(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    line(out, depth + 1);
                    item.write(out, depth + 1);
                }
                line(out, depth);
                out.push(']');
            }
            Json::Object(fields) => {
                out.push('{');
                for (i, (name, value)) in fields.iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    line(out, depth + 1);
                    quote(name, out);
                    out.push_str(": ");
                    value.write(out, depth + 1);
                }
                line(out, depth);
                out.push('}');
            }
        }
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

fn number(n: u64) -> Json {
    Json::Number(i128::from(n))
}

fn text(t: &str) -> Json {
    Json::Text(t.to_owned())
}

fn list<T>(items: &[T], of: impl Fn(&T) -> Json) -> Json {
    Json::List(items.iter().map(of).collect())
}

fn alternative(a: &Alternative) -> Json {
    let mut fields = vec![("node", text(&a.node)), ("operators", text(&a.operators)), ("to", number(a.to as u64))];
    fields.extend(a.times.0.map(|t| ("here_ns", number(t.0))));
    fields.extend(a.times.1.map(|t| ("there_ns", number(t.0))));
    fields.push(match &a.moved {
        Moved::By(ns) => ("change_ns", Json::Number(i128::from(*ns))),
        Moved::Impossible(why) => ("impossible", text(why)),
    });
    Json::Object(fields)
}

fn boundary(b: &Boundary) -> Json {
    let value = |(name, bytes, copy): &(String, tandem_ir::Bytes, tandem_ir::Nanos)| {
        Json::Object(vec![("name", text(name)), ("bytes", number(bytes.0)), ("copy_ns", number(copy.0))])
    };
    Json::Object(vec![
        ("from", number(b.from as u64)),
        ("to", number(b.to as u64)),
        ("values", list(&b.values, value)),
        ("alternatives", list(&b.alternatives, alternative)),
    ])
}

fn atom(a: &AtomView) -> Json {
    let operator = |(name, op): &(String, String)| Json::Object(vec![("name", text(name)), ("op", text(op))]);
    Json::Object(vec![
        ("segment", number(a.segment as u64)),
        ("duration_ns", number(a.duration.0)),
        ("operators", list(&a.operators, operator)),
    ])
}

/// Without a `from`, the caller makes it.
fn flow(f: &Flow) -> Json {
    let mut fields = vec![("name", text(&f.name)), ("bytes", number(f.bytes.0))];
    fields.extend(f.from.map(|atom| ("from", number(atom as u64))));
    fields.extend([("to", list(&f.to, |atom| number(*atom as u64))), ("output", Json::Bool(f.output))]);
    Json::Object(fields)
}

fn load(l: &LaneLoad) -> Json {
    Json::Object(vec![
        ("lane", text(&l.lane)),
        ("busy_ns", number(l.busy.0)),
        ("share_permille", number(l.share_permille)),
        ("link", Json::Bool(l.link)),
    ])
}

impl Explanation {
    /// Everything, for programs.
    pub fn json(&self) -> String {
        let p = &self.prediction;
        let prediction = Json::Object(vec![
            ("makespan_ns", number(p.makespan.0)),
            ("latency_bound_ns", number(p.latency_bound.0)),
            ("millirequests_per_s", number(p.millirequests_per_s)),
            ("lower_bound_ns", number(p.lower_bound.0)),
            ("gap_ppm", number(p.gap_ppm)),
            ("modelled", Json::Bool(p.modelled)),
        ]);
        let whole = Json::Object(vec![
            ("tenant", text(&self.tenant)),
            ("batch", number(self.batch)),
            ("lanes", number(u64::from(self.lanes.0))),
            ("threads", number(u64::from(self.lanes.1))),
            ("terms", self.terms_json()),
            ("prediction", prediction),
            ("batches_in_flight", number(self.batches_in_flight as u64)),
            ("bottleneck", text(&self.bottleneck.1)),
            ("bottleneck_ns", number(self.bottleneck.0.0)),
            ("devices", self.devices_json()),
            ("segments", self.segments_json()),
            ("boundaries", list(&self.boundaries, boundary)),
            ("atoms", list(&self.atoms, atom)),
            ("values", list(&self.flows, flow)),
            ("steps", self.steps_json()),
            ("loads", list(&self.loads, load)),
            ("pins", self.pins_json()),
            ("report", self.report_json()),
        ]);
        let mut out = String::new();
        whole.write(&mut out, 0);
        out.push('\n');
        out
    }

    fn terms_json(&self) -> Json {
        let t = &self.terms;
        let mut fields = vec![("application", text(&t.application)), ("model", text(&t.model))];
        fields.extend(t.slo.map(|slo| ("slo_ns", number(slo.0))));
        fields.push(("percentile_permille", number(t.percentile_permille)));
        fields.extend(t.millirate.map(|rate| ("millirequests_per_s", number(rate))));
        fields.push(("share_permille", number(t.share_permille)));
        fields.push(("batching", text(&t.batching)));
        Json::Object(fields)
    }

    fn devices_json(&self) -> Json {
        list(&self.devices, |d| {
            let mut fields = vec![("name", text(&d.device)), ("operators", number(d.work.operators))];
            fields.extend(d.work.flops.map(|f| ("flops", number(f.0))));
            fields.extend(d.work.moved.map(|b| ("moved_bytes", number(b.0))));
            fields.push(("unknown_operators", number(d.work.unknown)));
            let memory = [
                ("weight_bytes", d.memory.weights),
                ("arena_bytes", d.memory.arena),
                ("owned_bytes", d.memory.owned),
                ("workspace_bytes", d.memory.workspace),
                ("memory_bytes", d.held),
                ("capacity_bytes", d.capacity),
            ];
            fields.extend(memory.map(|(name, bytes)| (name, number(bytes.0))));
            fields.push(("busy_ns", number(d.busy.0)));
            Json::Object(fields)
        })
    }

    fn segments_json(&self) -> Json {
        let operator = |(op, n): &(String, usize)| Json::Object(vec![("op", text(op)), ("count", number(*n as u64))]);
        list(&self.segments, |s| {
            Json::Object(vec![
                ("device", text(&s.device)),
                ("start_ns", number(s.start.0)),
                ("duration_ns", number(s.duration.0)),
                ("launch_ns", number(s.launch.0)),
                ("first", text(&s.ends.0)),
                ("last", text(&s.ends.1)),
                ("operators", list(&s.operators, operator)),
            ])
        })
    }

    fn steps_json(&self) -> Json {
        list(&self.steps, |s| {
            let mut fields = vec![("lane", text(&s.lane)), ("label", text(&s.label))];
            fields.extend(s.segment.map(|s| ("segment", number(s as u64))));
            if let Some(copy) = &s.copy {
                fields.extend(
                    [("value", copy.flow), ("from", copy.from), ("to", copy.to)].map(|(k, n)| (k, number(n as u64))),
                );
            }
            fields.extend([("start_ns", number(s.start.0)), ("duration_ns", number(s.duration.0))]);
            Json::Object(fields)
        })
    }

    fn pins_json(&self) -> Json {
        list(&self.pins, |p| {
            Json::Object(vec![
                ("reason", text(&p.reason)),
                ("devices", list(&p.devices, |d| text(d))),
                ("operators", number(p.operators as u64)),
                ("first", text(&p.first)),
            ])
        })
    }

    fn report_json(&self) -> Json {
        let Some(report) = &self.report else { return Json::Object(vec![]) };
        let tried = list(&report.tried, |(name, makespan, scored)| {
            let fields = vec![("method", text(name)), ("makespan_ns", number(makespan.0)), ("scored", number(*scored))];
            Json::Object(fields)
        });
        let passes = list(&report.passes, |(name, before, after)| {
            Json::Object(vec![("name", text(name)), ("before", number(*before)), ("after", number(*after))])
        });
        Json::Object(vec![
            ("chosen", text(&report.chosen)),
            ("stopped", text(&report.stopped)),
            ("tried", tried),
            ("passes", passes),
            ("notes", list(&report.notes, |n| text(n))),
        ])
    }
}
