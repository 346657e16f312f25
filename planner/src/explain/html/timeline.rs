//! Lanes over time as a picture.

use std::fmt::Write as _;

use tandem_ir::units::Nanos;

use super::super::{Explanation, StepView};
use super::graph::{WIDTH, colour, letter};
use super::markup::{clipped, escaped};

/// Room of lanes' names.
const GUTTER: f64 = 120.0;
const RIGHT: f64 = 40.0;
const ROW: f64 = 38.0;
/// Room of the scale.
const SCALE: f64 = 22.0;
const MARKS: u64 = 5;
/// Characters of a lane's name that fit the gutter.
const NAME: usize = 16;

/// The picture. `position`: of the route in the page.
pub(super) fn draw(route: &Explanation, position: usize) -> String {
    let last = route.steps.iter().map(|s| s.start.0.saturating_add(s.duration.0)).max().unwrap_or(0).max(1);
    let room = WIDTH - GUTTER - RIGHT;
    let x = |ns: u64| GUTTER + room * (ns as f64 / last as f64);
    let bottom = ROW * route.loads.len() as f64;
    let height = bottom + SCALE;
    let mut out = format!(
        "<div class=\"scroll\"><svg class=\"timeline\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" role=\"group\" aria-label=\"Timeline of one batch\">\n"
    );
    for mark in 0..=MARKS {
        let at = (u128::from(last) * u128::from(mark) / u128::from(MARKS)) as u64;
        let _ = writeln!(
            out,
            "<line class=\"mark\" x1=\"{0:.1}\" x2=\"{0:.1}\" y2=\"{bottom:.0}\"/><text class=\"mark\" x=\"{0:.1}\" \
             y=\"{1:.0}\">{2}</text>",
            x(at),
            bottom + 15.0,
            Nanos(at)
        );
    }
    for (row, load) in route.loads.iter().enumerate() {
        let y = ROW * row as f64;
        let tag = route.devices.iter().position(|d| !load.link && d.device == load.lane);
        let tag = tag.map(|d| format!("{} ", letter(d))).unwrap_or_default();
        let name = escaped(&clipped(&format!("{tag}{}", load.lane), NAME));
        let _ = writeln!(out, "<text x=\"4\" y=\"{:.0}\">{name}</text>", y + ROW / 2.0 + 4.0);
        for (s, step) in route.steps.iter().enumerate().filter(|(_, s)| s.lane == load.lane) {
            let left = x(step.start.0);
            // A hair wide at least, so that a short copy is seen.
            let width = (x(step.start.0.saturating_add(step.duration.0)) - left).max(2.0);
            out.push_str(&drawn(route, position, (s, step), (left, y + 5.0, width)));
        }
    }
    out + "</svg></div>\n"
}

fn drawn(
    route: &Explanation,
    position: usize,
    (s, step): (usize, &StepView),
    (left, top, width): (f64, f64, f64),
) -> String {
    let height = ROW - 10.0;
    let device = step.segment.and_then(|s| route.device_of(s));
    let same = step.segment.map_or(format!("r{position}t{s}"), |s| format!("r{position}s{s}"));
    let (tip, label) = (escaped(&tip(route, step)), escaped(&format!("{} on {}", step.label, step.lane)));
    let mut out = format!(
        "<g class=\"step {}\" tabindex=\"0\" role=\"img\" aria-label=\"{label}\" data-tip=\"{tip}\" data-same=\"{same}\">\
         <rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"3\"/>",
        colour(device)
    );
    if width > 8.0 * step.label.chars().count() as f64 {
        let (x, y) = (left + width / 2.0, top + height / 2.0 + 4.0);
        let _ = write!(out, "<text class=\"inside\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escaped(&step.label));
    }
    out + "</g>\n"
}

/// What is told of a step: what it does, when, and with what.
fn tip(route: &Explanation, step: &StepView) -> String {
    let (from, to) = (Nanos(step.start.0), Nanos(step.start.0.saturating_add(step.duration.0)));
    let when = format!("from {from} to {to}: {}", step.duration);
    match (step.segment.and_then(|s| route.segments.get(s)), &step.copy) {
        (Some(segment), _) => format!(
            "{} on {}\n{when}, launch {}\n{}\n\"{}\" .. \"{}\"",
            step.label,
            step.lane,
            segment.launch,
            super::super::text::operators(segment),
            segment.ends.0,
            segment.ends.1
        ),
        (None, Some(copy)) => {
            format!("copy of \"{}\" over {}\n{when}, {}", step.label, step.lane, route.flows[copy.flow].bytes)
        }
        (None, None) => format!("{} on {}\n{when}", step.label, step.lane),
    }
}
