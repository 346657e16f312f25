//! One derived route: positions, order, where values are when they are read, memory, and the prediction played again.

use std::collections::{BTreeMap, HashSet};

use super::Collect;
use crate::arena;
use crate::limits::{ROUTE_LANES_MAX, SEGMENTS_MAX, STEPS_MAX};
use crate::machine::{HOST, Machine};
use crate::order::Order;
use crate::plan::{Action, AuthoredRoute, Route};
use crate::units::{Bytes, Nanos, Time};

/// Checks one route; `authored` is the one it comes from, where there is one; `rebuild` the command that derives it again.
pub(super) fn check_route(
    route: &Route,
    authored: Option<&AuthoredRoute>,
    machine: &Machine,
    rebuild: &str,
    out: &mut Collect<'_>,
) {
    let before = out.findings.len();
    segments(route, authored, machine, out);
    for step in 0..route.steps.len() {
        step_positions(route, step, machine, &mut out.inside(&format!("step[{step}]")));
    }
    for t in route.inputs.iter().chain(&route.outputs) {
        let count = route.tensors.len();
        out.expect(*t < count, || format!("expected one of {count} values as input or output, found number {t}"));
    }
    out.expect(route.memory.len() == machine.devices.len(), || {
        format!("expected memory of {} devices, found {}", machine.devices.len(), route.memory.len())
    });
    out.expect(route.work.len() == machine.devices.len(), || {
        format!("expected the work of {} devices, found {}", machine.devices.len(), route.work.len())
    });
    let bounds = [("steps", STEPS_MAX, route.steps.len()), ("lanes", ROUTE_LANES_MAX, route.lane_names.len())];
    for (what, max, found) in bounds {
        out.expect(found <= max, || format!("expected at most {max} {what}, found {found}"));
    }
    // What follows indexes by position, and would only repeat in other words what is wrong with them.
    if out.findings[before..].iter().any(|f| f.severity == super::Severity::Error) {
        return;
    }
    let structured = out.findings.len();
    values(route, &Order::of(route), out);
    // Values that come or go where they must not have no lives to lay out.
    if out.findings.len() == structured {
        needed(route, machine, rebuild, out);
    }
    timing(route, out);
    fits(route, machine, out);
    work(route, machine, out);
}

fn segments(route: &Route, authored: Option<&AuthoredRoute>, machine: &Machine, out: &mut Collect<'_>) {
    let names: Vec<&str> = route.tensors.iter().map(|t| t.name.as_str()).collect();
    let mut seen = HashSet::new();
    for name in names.iter().filter(|n| !seen.insert(**n)) {
        out.error(format!("expected each value once, found \"{name}\" again"));
    }
    if route.segments.len() > SEGMENTS_MAX {
        out.warning(format!("{} segments, where {SEGMENTS_MAX} are usual", route.segments.len()));
    }
    let mut nodes = HashSet::new();
    for (s, segment) in route.segments.iter().enumerate() {
        let mut at = out.inside(&format!("segment[{s}]"));
        at.expect(segment.device < machine.devices.len(), || {
            format!("expected a device, found number {}", segment.device)
        });
        at.expect(!segment.nodes.is_empty(), || "expected nodes, found none".into());
        for node in segment.nodes.iter().filter(|n| !nodes.insert(n.as_str())) {
            at.error(format!("expected each node in one segment, found \"{node}\" again"));
        }
        for t in segment.inputs.iter().chain(&segment.outputs) {
            at.expect(*t < names.len(), || format!("expected one of {} values, found number {t}", names.len()));
        }
        if let Some(authored) = authored {
            match authored.parts.get(segment.part) {
                None => {
                    at.error(format!("expected one of {} parts, found number {}", authored.parts.len(), segment.part))
                }
                Some(part) => at.expect(machine.device_index(&part.device) == Some(segment.device), || {
                    format!("expected the device of its part, \"{}\", found another", part.device)
                }),
            }
        }
    }
    let mut runs = vec![0usize; route.segments.len()];
    for step in &route.steps {
        if let Action::Run(s) = step.action
            && let Some(count) = runs.get_mut(s)
        {
            *count += 1;
        }
    }
    for (s, count) in runs.iter().enumerate().filter(|(_, c)| **c != 1) {
        out.inside(&format!("segment[{s}]")).error(format!("expected one step that runs it, found {count}"));
    }
}

fn step_positions(route: &Route, index: usize, machine: &Machine, at: &mut Collect<'_>) {
    let step = &route.steps[index];
    let (tensors, devices) = (route.tensors.len(), machine.devices.len());
    for after in step.after.iter().filter(|a| **a >= index) {
        at.error(format!("expected to wait for earlier steps, found step {after}"));
    }
    for (t, d) in step.frees.iter().filter(|(t, d)| *t >= tensors || *d >= devices) {
        at.error(format!("expected to free one of {tensors} values on one of {devices} devices, found {t} on {d}"));
    }
    let lane = route.lane_names.get(step.lane).map(String::as_str);
    let Some(lane) = lane else {
        return at.error(format!("expected one of {} lanes, found number {}", route.lane_names.len(), step.lane));
    };
    let device_lane = |d: usize| machine.devices.get(d).map(|d| d.name.as_str());
    match step.action {
        Action::Run(s) => match route.segments.get(s) {
            None => at.error(format!("expected one of {} segments, found number {s}", route.segments.len())),
            Some(segment) => at.expect(device_lane(segment.device) == Some(base(lane)), || {
                format!("expected a lane of its segment's device, found \"{lane}\"")
            }),
        },
        Action::Copy { tensor, from, to } => {
            at.expect(tensor < tensors, || format!("expected one of {tensors} values, found number {tensor}"));
            let link = device_lane(from).zip(device_lane(to)).and_then(|(a, b)| machine.link(a, b));
            match link {
                None => at.error("expected a copy over a link of the machine, found one between other devices"),
                Some(link) => at.expect(base(lane) == link.lane(), || {
                    format!("expected the link's lane, \"{}\", found \"{lane}\"", link.lane())
                }),
            }
        }
        Action::Barrier => {
            let link = machine.links.iter().any(|l| l.lane() == base(lane));
            at.expect(link || machine.device(base(lane)).is_some(), || {
                format!("expected a lane of the machine, found \"{lane}\"")
            });
        }
    }
}

/// A lane's device or link: several lanes of one device are told apart by `#N` behind its name.
fn base(lane: &str) -> &str {
    lane.split_once('#').map_or(lane, |(base, _)| base)
}

/// A value on a device.
type Place = (usize, usize);

/// Where a value comes to be on a device: before the first step, or by a step.
#[derive(Clone, Copy)]
enum Source {
    Fed,
    Made(usize),
}

/// Every value is on the device that reads it, from a step known to be done; outputs end on the host; nothing is freed before
/// its last reader or twice.
fn values(route: &Route, order: &Order, out: &mut Collect<'_>) {
    let mut sources: BTreeMap<Place, Source> = route.inputs.iter().map(|t| ((*t, HOST), Source::Fed)).collect();
    let mut reads: BTreeMap<Place, Vec<usize>> = BTreeMap::new();
    let name = |t: usize| route.tensors[t].name.as_str();
    for (i, step) in route.steps.iter().enumerate() {
        let (read, made): (Vec<Place>, Vec<Place>) = match step.action {
            Action::Run(s) => {
                let segment = &route.segments[s];
                let at = |list: &[usize]| list.iter().map(|t| (*t, segment.device)).collect();
                (at(&segment.inputs), at(&segment.outputs))
            }
            Action::Copy { tensor, from, to } => (vec![(tensor, from)], vec![(tensor, to)]),
            Action::Barrier => (vec![], vec![]),
        };
        let mut at = out.inside(&format!("step[{i}]"));
        for (t, d) in read {
            reads.entry((t, d)).or_default().push(i);
            match sources.get(&(t, d)) {
                None => at.error(format!("reads \"{}\" on device {d}, where no earlier step brings it", name(t))),
                Some(Source::Made(p)) if !order.before(*p, i) => {
                    at.error(format!("reads \"{}\", and does not wait for step {p}, which brings it", name(t)));
                }
                Some(_) => {}
            }
        }
        for (t, d) in made {
            if sources.insert((t, d), Source::Made(i)).is_some() {
                at.error(format!("brings \"{}\" to device {d}, where it is already", name(t)));
            }
        }
    }
    for t in &route.outputs {
        out.expect(sources.contains_key(&(*t, HOST)), || {
            format!("expected output \"{}\" on the host, found it elsewhere", name(*t))
        });
    }
    frees(route, order, &sources, &reads, out);
}

fn frees(
    route: &Route,
    order: &Order,
    sources: &BTreeMap<Place, Source>,
    reads: &BTreeMap<Place, Vec<usize>>,
    out: &mut Collect<'_>,
) {
    let mut freed = HashSet::new();
    for (i, step) in route.steps.iter().enumerate() {
        let mut at = out.inside(&format!("step[{i}]"));
        for key @ (t, d) in &step.frees {
            let name = &route.tensors[*t].name;
            let known = |p: usize| p == i || order.before(p, i);
            at.expect(freed.insert(*key), || format!("frees \"{name}\" on device {d} again"));
            match sources.get(key) {
                None => at.error(format!("frees \"{name}\" on device {d}, where it never is")),
                Some(Source::Made(p)) if !known(*p) => {
                    at.error(format!("frees \"{name}\" before step {p} has made it"))
                }
                Some(_) => {}
            }
            for reader in reads.get(key).into_iter().flatten().filter(|r| !known(**r)) {
                at.error(format!("frees \"{name}\" on device {d}, and step {reader} may still read it"));
            }
            at.expect(!(*d == HOST && route.outputs.contains(t)), || format!("frees output \"{name}\" on the host"));
        }
    }
}

/// Plays the steps' durations: a step starts when its lane is free and what it waits for is done.
fn timing(route: &Route, out: &mut Collect<'_>) {
    let mut free = vec![Time::ZERO; route.lane_names.len()];
    let mut busy = vec![Nanos::ZERO; route.lane_names.len()];
    let mut ends: Vec<Time> = Vec::with_capacity(route.steps.len());
    for step in &route.steps {
        let ready = step.after.iter().map(|a| ends[*a]).max().unwrap_or_default();
        let end = ready.max(free[step.lane]) + step.duration;
        free[step.lane] = end;
        busy[step.lane] += step.duration;
        ends.push(end);
    }
    let makespan = ends.into_iter().max().unwrap_or_default() - Time::ZERO;
    let mut at = out.inside("prediction");
    let predicted = &route.prediction;
    at.expect(predicted.makespan == makespan, || {
        format!("expected the makespan that its steps give, {} ns, found {} ns", makespan.0, predicted.makespan.0)
    });
    let text = |b: &[Nanos]| b.iter().map(|n| n.0.to_string()).collect::<Vec<_>>().join(", ");
    at.expect(predicted.busy == busy, || {
        format!(
            "expected the lanes' busy times that its steps give, [{}], found [{}]",
            text(&busy),
            text(&predicted.busy)
        )
    });
}

/// No number of the route's memory is below what its segments hold and its values need, whatever the interleaving.
fn needed(route: &Route, machine: &Machine, rebuild: &str, out: &mut Collect<'_>) {
    let needed = match arena::memory(route) {
        Ok(needed) => needed,
        Err(why) => return out.error(why.to_string()),
    };
    for ((found, needed), device) in route.memory.iter().zip(needed).zip(&machine.devices) {
        let mut at = out.inside(&format!("memory on \"{}\"", device.name));
        let mut least = |what: &str, found: Bytes, needed: Bytes| {
            at.expect(found >= needed, || {
                format!("expected {what} of at least {} bytes, found {}: rebuild with `{rebuild}`", needed.0, found.0)
            });
        };
        least("weights", found.weights, needed.weights);
        least("an arena", found.arena, needed.arena);
        least("engine-owned values", found.owned, needed.owned);
        least("a workspace", found.workspace, needed.workspace);
    }
}

/// What the route says it needs fits into the devices.
fn fits(route: &Route, machine: &Machine, out: &mut Collect<'_>) {
    for (d, device) in machine.devices.iter().enumerate() {
        let total = route.memory_bytes(d);
        out.inside(&format!("memory on \"{}\"", device.name)).expect(total <= device.memory, || {
            let batches = route.batches_in_flight();
            format!("expected at most {}, found {total} with {batches} batches in flight", device.memory)
        });
    }
}

/// Operators are counted again; their arithmetic is the graph's to say.
fn work(route: &Route, machine: &Machine, out: &mut Collect<'_>) {
    for (d, (work, device)) in route.work.iter().zip(&machine.devices).enumerate() {
        let mut at = out.inside(&format!("work on \"{}\"", device.name));
        let placed: usize = route.segments.iter().filter(|s| s.device == d).map(|s| s.nodes.len()).sum();
        at.expect(work.operators == placed as u64, || {
            format!("expected the {placed} operators of its segments, found {}", work.operators)
        });
        at.expect(work.unknown <= work.operators, || {
            format!("expected unknown work of at most {} operators, found {}", work.operators, work.unknown)
        });
    }
}
