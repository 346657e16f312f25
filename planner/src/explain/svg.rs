//! Explanations as a picture: a chart of lanes over time, and below it the graph of segments.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tandem_ir::units::{Bytes, Nanos};

use super::Explanation;

const WIDTH: f64 = 1100.0;
const MARGIN: f64 = 16.0;
/// Room for lanes' names.
const GUTTER: f64 = 110.0;
const ROW: f64 = 34.0;
const BOX: (f64, f64) = (184.0, 46.0);
const GAP: (f64, f64) = (24.0, 40.0);

/// Fill and line of each device in turn; copies are grey.
const COLOURS: [(&str, &str); 5] = [
    ("#cfe3f5", "#2b6ca3"),
    ("#d8efcf", "#3f7d2a"),
    ("#fbe3c3", "#a8691a"),
    ("#ecd6f0", "#7d3a8a"),
    ("#f6d2d2", "#a33a3a"),
];
const COPY: (&str, &str) = ("#e4e4e4", "#6b6b6b");

impl Explanation {
    /// Stands alone, no scripts, no fonts but the viewer's.
    pub fn svg(&self) -> String {
        let mut lanes: Vec<&str> = vec![];
        let devices = self.devices.iter().map(|d| d.device.as_str());
        let used: Vec<&str> = self.steps.iter().map(|s| s.lane.as_str()).collect();
        lanes.extend(devices.filter(|d| used.contains(d)));
        for lane in used {
            if !lanes.contains(&lane) {
                lanes.push(lane);
            }
        }
        let mut body = String::new();
        let mut y = MARGIN + 18.0;
        for line in [format!("{} at batch {}", self.tenant, self.batch), self.caption()] {
            let _ = writeln!(body, "<text x=\"{MARGIN}\" y=\"{y:.0}\">{}</text>", escaped(&line));
            y += 18.0;
        }
        y = self.chart(&mut body, &lanes, y + 6.0);
        y = self.graph(&mut body, y + 30.0);
        let height = y + MARGIN;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" width=\"{WIDTH:.0}\" \
             height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
             orient=\"auto\"><path d=\"M0,0 L8,4 L0,8 z\" fill=\"#555\"/></marker></defs>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
        )
    }

    fn caption(&self) -> String {
        let p = &self.prediction;
        let (latency, busiest) = (p.latency_bound, &self.bottleneck);
        format!("makespan {}, latency at most {latency}, busiest lane {} ({})", p.makespan, busiest.1, busiest.0)
    }

    fn colour(&self, device: &str) -> (&'static str, &'static str) {
        let at = self.devices.iter().position(|d| d.device == device);
        at.map_or(COPY, |d| COLOURS[d % COLOURS.len()])
    }

    /// A row a lane, a box a step, a scale of five marks. Returns the y below it.
    fn chart(&self, out: &mut String, lanes: &[&str], top: f64) -> f64 {
        let whole = self.prediction.makespan.0.max(1) as f64;
        let room = WIDTH - 2.0 * MARGIN - GUTTER;
        let x = |ns: u64| MARGIN + GUTTER + room * ns as f64 / whole;
        let bottom = top + ROW * lanes.len() as f64;
        for mark in 0..=5u64 {
            let at = (u128::from(self.prediction.makespan.0) * u128::from(mark) / 5) as u64;
            let anchor = if mark == 5 { "end" } else { "middle" };
            let _ = writeln!(
                out,
                "<line x1=\"{0:.1}\" x2=\"{0:.1}\" y1=\"{top:.0}\" y2=\"{bottom:.0}\" stroke=\"#ddd\"/>\
                 <text x=\"{0:.1}\" y=\"{1:.0}\" text-anchor=\"{anchor}\" fill=\"#555\">{2}</text>",
                x(at),
                bottom + 14.0,
                Nanos(at)
            );
        }
        for (i, lane) in lanes.iter().enumerate() {
            let y = top + ROW * i as f64;
            let _ = writeln!(out, "<text x=\"{MARGIN}\" y=\"{:.0}\">{}</text>", y + ROW / 2.0 + 4.0, escaped(lane));
            for step in self.steps.iter().filter(|s| s.lane == *lane) {
                let (fill, line) = if step.segment.is_some() { self.colour(lane) } else { COPY };
                // A hair wide at least, so that a short copy is seen.
                let (left, width) = (x(step.start.0), (room * step.duration.0 as f64 / whole).max(1.0));
                let _ = writeln!(
                    out,
                    "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"3\" fill=\"{fill}\" \
                     stroke=\"{line}\"><title>{}: {}</title></rect>",
                    y + 4.0,
                    ROW - 8.0,
                    escaped(&step.label),
                    step.duration
                );
                if width > 7.0 * step.label.len() as f64 {
                    let middle = left + width / 2.0;
                    let _ = writeln!(
                        out,
                        "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" pointer-events=\"none\">{}</text>",
                        y + ROW / 2.0 + 4.0,
                        escaped(&step.label)
                    );
                }
            }
        }
        bottom + 16.0
    }

    /// Segments in rows by their depth, edges with bytes. Returns the y below it.
    fn graph(&self, out: &mut String, top: f64) -> f64 {
        let mut depth = vec![0usize; self.segments.len()];
        // Segments are in a topological order, so each edge meets a settled depth.
        let mut edges: Vec<(usize, usize)> = self.boundaries.iter().map(|b| (b.from, b.to)).collect();
        edges.sort_unstable();
        edges.iter().for_each(|(a, b)| depth[*b] = depth[*b].max(depth[*a] + 1));
        let place = self.places(&depth, top);
        for b in &self.boundaries {
            let (from, to) = (place[b.from], place[b.to]);
            let (x1, y1, x2, y2) = (from.0 + BOX.0 / 2.0, from.1 + BOX.1, to.0 + BOX.0 / 2.0, to.1 - 1.0);
            // A long edge swings out to the left, so that it does not run through the boxes between.
            let long = depth[b.to] > depth[b.from] + 1 && x1 == x2;
            // A cubic curve reaches three quarters of the way to its controls.
            let out_by = if long { -(BOX.0 / 2.0 + GAP.0) / 0.75 } else { 0.0 };
            let bytes: Bytes = b.values.iter().map(|v| v.1).sum();
            let _ = writeln!(
                out,
                "<path d=\"M{x1:.1},{y1:.1} C{:.1},{:.1} {:.1},{:.1} {x2:.1},{y2:.1}\" fill=\"none\" stroke=\"#555\" \
                 marker-end=\"url(#arrow)\"/><text x=\"{:.1}\" y=\"{:.1}\" fill=\"#555\">{bytes}</text>",
                x1 + out_by,
                y1 + GAP.1 / 2.0,
                x2 + out_by,
                y2 - GAP.1 / 2.0,
                (x1 + x2) / 2.0 + out_by * 0.75 + 6.0,
                (y1 + y2) / 2.0 + 4.0
            );
        }
        for (s, view) in self.segments.iter().enumerate() {
            let (x, y) = place[s];
            let (fill, line) = self.colour(&view.device);
            let operators: usize = view.operators.iter().map(|o| o.1).sum();
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.0}\" height=\"{:.0}\" rx=\"5\" fill=\"{fill}\" stroke=\"{line}\">\
                 <title>{} .. {}</title></rect>\
                 <text x=\"{2:.1}\" y=\"{3:.1}\">segment {s} on {4}</text>\
                 <text x=\"{2:.1}\" y=\"{5:.1}\" fill=\"#333\">{operators} operators, {6}</text>",
                BOX.0,
                BOX.1,
                x + 8.0,
                y + 19.0,
                escaped(&view.device),
                y + 36.0,
                view.duration,
            );
        }
        let deepest = depth.iter().max().map_or(0, |d| d + 1);
        top + deepest as f64 * (BOX.1 + GAP.1) - GAP.1
    }

    /// A column a device (several where a depth has several of its segments), a row a depth.
    fn places(&self, depth: &[usize], top: f64) -> Vec<(f64, f64)> {
        let mut used: BTreeMap<(&str, usize), usize> = BTreeMap::new();
        let mut slot = vec![0usize; self.segments.len()];
        let mut wide: BTreeMap<&str, usize> = BTreeMap::new();
        for (s, view) in self.segments.iter().enumerate() {
            let next = used.entry((view.device.as_str(), depth[s])).or_default();
            slot[s] = *next;
            *next += 1;
            let most = wide.entry(view.device.as_str()).or_default();
            *most = (*most).max(*next);
        }
        let (mut start, mut left) = (BTreeMap::new(), 0usize);
        for device in &self.devices {
            start.insert(device.device.as_str(), left);
            left += wide.get(device.device.as_str()).copied().unwrap_or(0);
        }
        // Many side by side: boxes overlap rather than leave the picture.
        let room = WIDTH - 2.0 * MARGIN - GAP.0 - BOX.0;
        let pitch = if left > 1 { (room / (left - 1) as f64).min(BOX.0 + 3.0 * GAP.0) } else { 0.0 };
        let at = |(s, view): (usize, &super::SegmentView)| {
            let column = start.get(view.device.as_str()).copied().unwrap_or(0) + slot[s];
            (MARGIN + GAP.0 + column as f64 * pitch, top + depth[s] as f64 * (BOX.1 + GAP.1))
        };
        self.segments.iter().enumerate().map(at).collect()
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
