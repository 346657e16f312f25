//! What the page says of one route.

use std::fmt::Write as _;

use tandem_ir::units::Bytes;

use super::super::{DeviceShare, Explanation};
use super::graph::{colour, draw, legend, letter};
use super::markup::{bar, bar_of, escaped, table};
use super::timeline;

/// A route, folded away unless `open`. `position`: of the route in the page.
pub(super) fn route(e: &Explanation, position: usize, open: bool) -> String {
    let (lanes, threads) = e.lanes;
    let share = match e.terms.share_permille {
        0 => "kept for smaller queues".to_owned(),
        share => format!("{} % of the batches", share as f64 / 10.0),
    };
    let open = if open { " open" } else { "" };
    let mut out = format!(
        "<details class=\"route\" id=\"route{position}\"{open}><summary><h3>Batch {}: {lanes} lanes of {threads} threads, \
         {share}</h3></summary>\n",
        e.batch
    );
    let application = match e.terms.application == e.tenant {
        true => String::new(),
        false => format!(" of application {}", escaped(&e.terms.application)),
    };
    let _ = writeln!(
        out,
        "<p>Model {}{application}; batches are {}.</p>",
        escaped(&e.terms.model),
        escaped(&e.terms.batching)
    );
    for line in e.head() {
        let _ = writeln!(out, "<p>{}</p>", escaped(&line));
    }
    let (picture, box_of) = draw(e, position);
    let _ = write!(out, "<h4>Where operators run</h4>\n{}{picture}", legend(e));
    let _ = write!(out, "<h4>One batch in time</h4>\n{}", timeline::draw(e, position));
    out + &loads(e)
        + &devices(e)
        + &segments(e)
        + &boundaries(e)
        + &tail(e)
        + &operators(e, position, &box_of)
        + "</details>\n"
}

fn loads(e: &Explanation) -> String {
    let row = |l: &super::super::LaneLoad| {
        let binds = if l.lane == e.bottleneck.1 { " <b>binds</b>" } else { "" };
        let what = if l.link { "link" } else { "lane" };
        vec![format!("{what} {}{binds}", escaped(&l.lane)), l.busy.to_string(), bar(l.share_permille)]
    };
    let head = ["Lane", "Busy a batch", "Of the time, at this throughput"];
    format!("<h4>Lanes and links</h4>\n{}", table("loads", &head, e.loads.iter().map(row)))
}

fn devices(e: &Explanation) -> String {
    let row = |(d, share): (usize, &DeviceShare)| {
        let DeviceShare { device, work, memory, held, capacity, busy } = share;
        vec![
            format!("<span class=\"key {}\"><b>{}</b> {}</span>", colour(Some(d)), letter(d), escaped(device)),
            format!("{} ({})", work.operators, escaped(&work.to_string())),
            busy.to_string(),
            memory.weights.to_string(),
            escaped(&share.holds(e.batches_in_flight)),
            bar_of(*held, *capacity),
        ]
    };
    let head = ["Device", "Operators", "Busy a batch", "Weights", "Memory", "Of its memory"];
    format!("<h4>Devices</h4>\n{}", table("devices", &head, e.devices.iter().enumerate().map(row)))
}

fn segments(e: &Explanation) -> String {
    let row = |(i, s): (usize, &super::super::SegmentView)| {
        vec![
            i.to_string(),
            escaped(&s.device),
            tandem_ir::Nanos(s.start.0).to_string(),
            s.duration.to_string(),
            s.launch.to_string(),
            escaped(&super::super::text::operators(s)),
            format!("<q>{}</q> .. <q>{}</q>", escaped(&s.ends.0), escaped(&s.ends.1)),
        ]
    };
    let head = ["Segment", "Device", "Starts", "Takes", "Launch", "Operators", "From, to"];
    format!("<h4>Segments</h4>\n{}", table("segments", &head, e.segments.iter().enumerate().map(row)))
}

fn boundaries(e: &Explanation) -> String {
    if e.boundaries.is_empty() {
        return String::new();
    }
    let row = |b: &super::super::Boundary| {
        let moves = b.alternatives.iter().map(|a| format!("<li>{}</li>", escaped(&a.words(e.objective))));
        let device = |s: usize| e.segments.get(s).map(|s| escaped(&s.device)).unwrap_or_default();
        vec![
            format!("{} ({}) &#8594; {} ({})", b.from, device(b.from), b.to, device(b.to)),
            escaped(&b.crossing()),
            format!("<ul>{}</ul>", moves.collect::<String>()),
        ]
    };
    let head = ["Boundary", "What crosses", "What moving it by one atom would do"];
    format!("<h4>Boundaries</h4>\n{}", table("boundaries", &head, e.boundaries.iter().map(row)))
}

/// Pins, and what the search did.
fn tail(e: &Explanation) -> String {
    let mut out = String::new();
    if !e.pins.is_empty() {
        let row = |p: &super::super::Pin| {
            let left: Vec<String> = p.devices.iter().map(|d| escaped(d)).collect();
            vec![p.operators.to_string(), escaped(&p.first), left.join(", "), escaped(&p.reason)]
        };
        let head = ["Operators", "The first", "Only on", "For"];
        let _ = write!(out, "<h4>Pinned</h4>\n{}", table("pins", &head, e.pins.iter().map(row)));
    }
    let Some(report) = &e.report else { return out };
    let tried = report.tried.iter().map(|(name, makespan, scored)| {
        let chosen = if *name == report.chosen { " <b>chosen</b>" } else { "" };
        vec![format!("{}{chosen}", escaped(name)), makespan.to_string(), scored.to_string()]
    });
    let head = ["Method", "Makespan", "Candidates scored"];
    let _ =
        write!(out, "<h4>Search</h4>\n{}<p>Stopped: {}.</p>\n", table("tried", &head, tried), escaped(&report.stopped));
    let passes = report.passes.iter().map(|(name, before, after)| format!("{}: {before} to {after}", escaped(name)));
    let passes: Vec<String> = passes.collect();
    if !passes.is_empty() {
        let _ = writeln!(out, "<p>Operators grouped before the search: {}.</p>", passes.join("; "));
    }
    for note in &report.notes {
        let _ = writeln!(out, "<p>Note: {}</p>", escaped(note));
    }
    out
}

/// A row an operator, with the atom it is part of.
fn operators(e: &Explanation, position: usize, box_of: &[usize]) -> String {
    let mut made = vec![Bytes::ZERO; e.atoms.len()];
    e.flows.iter().filter_map(|f| Some((f.from?, f.bytes))).for_each(|(atom, bytes)| made[atom] += bytes);
    let total: usize = e.atoms.iter().map(|a| a.operators.len()).sum();
    let mut out = format!(
        "<details class=\"operators\"><summary><h4>All {total} operators</h4></summary>\n\
         <p><label>Find <input type=\"search\" class=\"find\" data-route=\"r{position}\"></label> \
         Operators of one atom run as one: duration and bytes are the atom's.</p>\n\
         <div class=\"scroll\"><table><thead><tr><th scope=\"col\">Operator</th><th scope=\"col\">Type</th>\
         <th scope=\"col\">Atom</th><th scope=\"col\">Segment</th><th scope=\"col\">Device</th><th scope=\"col\">Takes</th>\
         <th scope=\"col\">Hands on</th></tr></thead><tbody>\n"
    );
    for (a, atom) in e.atoms.iter().enumerate() {
        let device = e.segments.get(atom.segment).map(|s| escaped(&s.device)).unwrap_or_default();
        for (name, op) in &atom.operators {
            let _ = writeln!(
                out,
                "<tr data-box=\"r{position}b{}\"><td class=\"name\">{}</td><td>{}</td><td>{a}</td><td>{}</td><td>{device}</td>\
                 <td>{}</td><td>{}</td></tr>",
                box_of[a],
                escaped(name),
                escaped(op),
                atom.segment,
                atom.duration,
                made[a]
            );
        }
    }
    out + "</tbody></table></div></details>\n"
}
