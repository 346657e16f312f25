//! Explanations for Graphviz.

use std::fmt::Write as _;

use tandem_ir::units::{Bytes, Nanos};

use super::Explanation;

impl Explanation {
    /// The graph of segments: a cluster a device, a box a segment, edges with what they carry.
    pub fn dot(&self) -> String {
        let mut out = String::from(
            "digraph route {\n  rankdir=TB;\n  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n",
        );
        for (d, device) in self.devices.iter().enumerate() {
            let _ = writeln!(out, "  subgraph cluster_{d} {{\n    label={};", quoted(&device.device));
            for (s, view) in self.segments.iter().enumerate().filter(|(_, s)| s.device == device.device) {
                let operators: usize = view.operators.iter().map(|o| o.1).sum();
                let label = format!("segment {s}\n{operators} operators\n{}", view.duration);
                let _ = writeln!(out, "    s{s} [label={}];", quoted(&label));
            }
            out.push_str("  }\n");
        }
        for b in &self.boundaries {
            let bytes: Bytes = b.values.iter().map(|v| v.1).sum();
            let copies: Nanos = b.values.iter().map(|v| v.2).sum();
            let copied = if copies == Nanos::ZERO { String::new() } else { format!("\n{copies}") };
            let _ = writeln!(out, "  s{} -> s{} [label={}];", b.from, b.to, quoted(&format!("{bytes}{copied}")));
        }
        out.push_str("}\n");
        out
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}
