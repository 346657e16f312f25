//! The graph of a route as a picture.

use std::fmt::Write as _;

use tandem_ir::units::{Bytes, Nanos};

use super::super::Explanation;
use super::boxes::{Boxes, What};
use super::layout::{self, Sketch};
use super::limits::NAMES_MAX;
use super::markup::{clipped, escaped};

/// What pictures of the page refer to: an arrow's head, and the hatching of copies.
pub(super) const DEFINITIONS: &str = "<svg class=\"definitions\" width=\"0\" height=\"0\" aria-hidden=\"true\"><defs>\
    <marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" markerUnits=\"userSpaceOnUse\" orient=\"auto\">\
    <path d=\"M0,0L8,4L0,8z\"/></marker>\
    <pattern id=\"hatch\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
    <rect width=\"6\" height=\"6\"/><line y2=\"6\"/></pattern></defs></svg>\n";

/// Devices have as many colours as there are classes `d0`, `d1`, ... in the style; further ones begin anew, and letters tell.
const COLOURS: usize = 6;

const ATOM: (f64, f64) = (148.0, 40.0);
const COPY: (f64, f64) = (148.0, 34.0);
const END: (f64, f64) = (148.0, 22.0);
/// Fits the page beside a scroll bar.
pub(super) const WIDTH: f64 = 1150.0;
/// A graph that is wider is drawn smaller, down to so much of its size.
const SCALE: f64 = 0.75;
/// Characters that fit a box, beside the letter and without.
const LINES: (usize, usize) = (16, 24);

/// The class that gives a device its colour.
pub(super) fn colour(device: Option<usize>) -> String {
    device.map_or("copy".into(), |d| format!("d{}", d % COLOURS))
}

/// The letter that says which device it is where colours do not: A, B, ...
pub(super) fn letter(device: usize) -> String {
    let letter = u8::try_from(device % 26).map_or('?', |d| char::from(b'A' + d));
    if device < 26 { letter.to_string() } else { format!("{letter}{}", device / 26) }
}

/// What a box shows: its class, two lines, what is told at the pointer, and which other pictures show the same.
struct Face {
    class: String,
    lines: (String, String),
    corner: String,
    tip: String,
    same: String,
}

/// The picture, and the box of each atom. `position`: of the route in the page.
pub(super) fn draw(route: &Explanation, position: usize) -> (String, Vec<usize>) {
    let Boxes { boxes, edges } = Boxes::of(route);
    let size = |what: &What| match what {
        What::Atoms(_) => ATOM,
        What::Copies(_) => COPY,
        What::Inputs(_) | What::Outputs(_) => END,
    };
    let sketch = Sketch { sizes: boxes.iter().map(size).collect(), edges };
    let drawing = layout::draw(&sketch, WIDTH);
    let (width, height) = drawing.size;
    let scale = (WIDTH / width.max(1.0)).clamp(SCALE, 1.0);
    let mut out = format!(
        "<div class=\"scroll\"><svg class=\"graph\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{:.0}\" \
         height=\"{:.0}\" role=\"group\" aria-label=\"Graph of operators\">\n",
        width * scale,
        height * scale
    );
    for (path, from, to) in &drawing.paths {
        let copies = |b: &usize| matches!(boxes[*b], What::Copies(_));
        let moved = if copies(from) || to.as_ref().is_some_and(copies) { " moved" } else { "" };
        let head = if to.is_some() { " marker-end=\"url(#arrow)\"" } else { "" };
        let _ = writeln!(out, "<path class=\"edge{moved}\" d=\"{path}\"{head}/>");
    }
    let mut box_of = vec![0; route.atoms.len()];
    for (b, what) in boxes.iter().enumerate() {
        if let What::Atoms(atoms) = what {
            atoms.iter().for_each(|a| box_of[*a] = b);
        }
        let face = face(route, what, position);
        out.push_str(&drawn(&face, &format!("r{position}b{b}"), drawing.places[b], sketch.sizes[b]));
    }
    (out + "</svg></div>\n", box_of)
}

fn drawn(face: &Face, id: &str, (x, y): (f64, f64), (width, height): (f64, f64)) -> String {
    let Face { class, lines, corner, tip, same } = face;
    let same = if same.is_empty() { String::new() } else { format!(" data-same=\"{same}\"") };
    let radius = if class == "end" { height / 2.0 } else { 5.0 };
    let (tip, label) = (escaped(tip), escaped(tip.lines().next().unwrap_or_default()));
    let mut out = format!(
        "<g class=\"box {class}\" id=\"{id}\" tabindex=\"0\" role=\"img\" aria-label=\"{label}\" data-tip=\"{tip}\"{same} \
         transform=\"translate({x:.1} {y:.1})\"><rect width=\"{width}\" height=\"{height}\" rx=\"{radius}\"/>"
    );
    let first = if lines.1.is_empty() { height / 2.0 + 4.0 } else { height / 2.0 - 3.0 };
    let (above, below) = (escaped(&clipped(&lines.0, LINES.0)), escaped(&clipped(&lines.1, LINES.1)));
    let _ = write!(out, "<text x=\"8\" y=\"{first:.1}\">{above}</text>");
    if !corner.is_empty() {
        let _ = write!(out, "<text class=\"letter\" x=\"{}\" y=\"{first:.1}\">{corner}</text>", width - 8.0);
    }
    if !below.is_empty() {
        let _ = write!(out, "<text class=\"small\" x=\"8\" y=\"{:.1}\">{below}</text>", height / 2.0 + 12.0);
    }
    out + "</g>\n"
}

fn face(route: &Explanation, what: &What, position: usize) -> Face {
    match what {
        What::Atoms(atoms) => atoms_face(route, atoms, position),
        What::Copies(steps) => copies_face(route, steps, position),
        What::Inputs(flows) => end_face(route, flows, ("input", "inputs")),
        What::Outputs(flows) => end_face(route, flows, ("output", "outputs")),
    }
}

fn atoms_face(route: &Explanation, atoms: &[usize], position: usize) -> Face {
    let segment = route.atoms[atoms[0]].segment;
    let device = route.device_of(segment);
    let duration: Nanos = atoms.iter().map(|a| route.atoms[*a].duration).sum();
    let operators: Vec<&(String, String)> = atoms.iter().flat_map(|a| &route.atoms[*a].operators).collect();
    let outside = |f: &&super::super::Flow| {
        f.from.is_some_and(|a| atoms.binary_search(&a).is_ok())
            && (f.output || f.to.iter().any(|t| atoms.binary_search(t).is_err()))
    };
    let made: Vec<&super::super::Flow> = route.flows.iter().filter(outside).collect();
    let bytes: Bytes = made.iter().map(|f| f.bytes).sum();
    let title = match atoms {
        [_] => operators.iter().map(|o| o.1.as_str()).collect::<Vec<_>>().join("+"),
        _ => format!("{} operators", operators.len()),
    };
    let on = device.map_or("", |d| route.devices[d].device.as_str());
    let mut tip = format!("{title} on {on}, segment {segment}\ntakes {duration}, hands on {bytes}");
    named(&mut tip, operators.iter().map(|(name, op)| format!("{op} \"{name}\"")));
    Face {
        class: colour(device),
        lines: (title, format!("{duration} · {bytes}")),
        corner: device.map(|d| format!("{}{segment}", letter(d))).unwrap_or_default(),
        tip,
        same: format!("r{position}s{segment}"),
    }
}

fn copies_face(route: &Explanation, steps: &[usize], position: usize) -> Face {
    let copies = steps.iter().filter_map(|s| Some((&route.steps[*s], route.steps[*s].copy.as_ref()?)));
    let flows: Vec<&super::super::Flow> = copies.clone().map(|(_, c)| &route.flows[c.flow]).collect();
    let bytes: Bytes = flows.iter().map(|f| f.bytes).sum();
    let duration: Nanos = copies.clone().map(|(step, _)| step.duration).sum();
    let lane = &route.steps[steps[0]].lane;
    let what = if steps.len() == 1 { "copy".into() } else { format!("{} copies", steps.len()) };
    let mut tip = format!("{what} over {lane}\n{bytes} in {duration}");
    named(&mut tip, flows.iter().map(|f| format!("\"{}\", {}", f.name, f.bytes)));
    Face {
        class: "copy".into(),
        lines: (format!("{what} {lane}"), format!("{bytes} · {duration}")),
        corner: String::new(),
        tip,
        same: format!("r{position}t{}", steps[0]),
    }
}

fn end_face(route: &Explanation, flows: &[usize], (one, many): (&str, &str)) -> Face {
    let flows: Vec<&super::super::Flow> = flows.iter().map(|f| &route.flows[*f]).collect();
    let bytes: Bytes = flows.iter().map(|f| f.bytes).sum();
    let title = match flows.as_slice() {
        [only] => format!("{one}: {}", only.name),
        _ => format!("{} {many}", flows.len()),
    };
    let mut tip = format!("{title}\n{bytes} in the host's memory");
    if flows.len() > 1 {
        named(&mut tip, flows.iter().map(|f| format!("\"{}\", {}", f.name, f.bytes)));
    }
    Face { class: "end".into(), lines: (title, String::new()), corner: String::new(), tip, same: String::new() }
}

/// Adds a line each, as many as are told.
fn named(tip: &mut String, lines: impl ExactSizeIterator<Item = String>) {
    let more = lines.len().saturating_sub(NAMES_MAX);
    // A name is one line, whatever it holds.
    for line in lines.take(NAMES_MAX) {
        let _ = write!(tip, "\n{}", line.replace('\n', "\\n"));
    }
    if more > 0 {
        let _ = write!(tip, "\nand {more} more");
    }
}

/// Which colour and letter is which device, and which segments are on it.
pub(super) fn legend(route: &Explanation) -> String {
    let mut out = String::from("<p class=\"legend\">");
    for (d, device) in route.devices.iter().enumerate() {
        let mine = (0..route.segments.len()).filter(|s| route.device_of(*s) == Some(d));
        let mine: Vec<String> = mine.map(|s| s.to_string()).collect();
        let segments = match mine.as_slice() {
            [] => "no segment".to_owned(),
            [one] => format!("segment {one}"),
            more => format!("segments {}", more.join(", ")),
        };
        let _ = write!(
            out,
            "<span class=\"key {}\"><b>{}</b> {}: {segments}</span> ",
            colour(Some(d)),
            letter(d),
            escaped(&device.device)
        );
    }
    out + "<span class=\"key copy\"><b>&#8646;</b> copied between devices</span> \
           <span class=\"key end\">of the caller</span></p>\n"
}
