//! A plan against its models: whether names, placement and the values at boundaries are those of the graphs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::plan::route_name;
use super::{Collect, Finding};
use crate::graph::{Fact, Graph, NodeId, Origin, TensorId};
use crate::machine::Machine;
use crate::placement::expand_parts;
use crate::plan::{AuthoredRoute, DeviceWork, Plan, Route, Tenant};
use crate::segment;
use crate::work::device_work;

/// Checks a plan against the graphs of its tenants, given by the tenant's name. Run after [`super::check_plan`]: what is wrong
/// with positions is its business and is skipped here.
pub fn check_plan_against(plan: &Plan, graphs: &[(&str, &Graph)]) -> Vec<Finding> {
    let mut findings = vec![];
    let out = &mut Collect::new(&mut findings, "");
    let find = |tenant: &str| graphs.iter().find(|(name, _)| *name == tenant).map(|(_, graph)| *graph);
    // Every name of a plan is foreign to another model: to list them would hide the one line that matters.
    let mut foreign = BTreeSet::new();
    for planned in &plan.derived.graphs {
        let mut at = out.inside(&format!("tenant \"{}\"", planned.tenant));
        match find(&planned.tenant) {
            None => at.error("expected its model, found none"),
            Some(graph) if graph.fingerprint != planned.fingerprint => {
                let (expected, found) = (planned.fingerprint.short(), graph.fingerprint.short());
                at.error(format!(
                    "the plan was made for another model: expected fingerprint {expected}, found {found}"
                ));
                foreign.insert(planned.tenant.as_str());
            }
            Some(_) => {}
        }
    }
    let find = |tenant: &str| find(tenant).filter(|_| !foreign.contains(tenant));
    let authored: Vec<(&Tenant, &AuthoredRoute)> =
        plan.authored.tenants().flat_map(|t| t.routes.iter().map(move |r| (t, r))).collect();
    for tenant in plan.authored.tenants() {
        let mut at = out.inside(&format!("tenant \"{}\"", tenant.name));
        if let Some(graph) = find(&tenant.name) {
            shapes(tenant, graph, &mut at);
            pins(tenant, graph, &mut at);
        }
    }
    for (i, route) in plan.derived.routes.iter().enumerate() {
        let Some(graph) = find(&route.tenant) else { continue };
        let mut at = out.inside(&route_name(i, route));
        let Some(names) = Names::of(route, graph, &mut at) else { continue };
        let tenant = authored.get(i).filter(|(t, _)| t.name == route.tenant);
        placement(route, graph, &names, tenant.map(|(_, r)| *r), &mut at);
        if let Some((tenant, _)) = tenant {
            pinned(route, graph, &names, tenant, &plan.derived.machine, &mut at);
        }
        boundaries(route, graph, &names, &mut at);
        unsupported(route, graph, &names, &plan.derived.machine, &mut at);
        work(route, graph, &names, &plan.derived.machine, &mut at);
    }
    findings
}

fn shapes(tenant: &Tenant, graph: &Graph, at: &mut Collect<'_>) {
    let inputs: Vec<&str> = graph.inputs.iter().map(|t| graph.tensor(*t).name.as_str()).collect();
    for (name, dims) in &tenant.shapes {
        let Some(i) = inputs.iter().position(|n| n == name) else {
            at.error(format!("shapes: expected an input of the model, found \"{name}\""));
            continue;
        };
        if let Some(shape) = &graph.tensor(graph.inputs[i]).fact.shape {
            at.expect(shape.len() == dims.len(), || {
                format!("shapes: expected {} dimensions of \"{name}\", found {}", shape.len(), dims.len())
            });
        }
    }
}

fn pins(tenant: &Tenant, graph: &Graph, at: &mut Collect<'_>) {
    for finding in expand_parts(graph, &tenant.pins, "pins").err().into_iter().flatten() {
        at.inside(&finding.component).error(finding.message);
    }
}

/// What the route's names mean in the graph.
struct Names {
    /// Segment of each node.
    segment_of: Vec<Option<usize>>,
    tensors: Vec<TensorId>,
}

impl Names {
    /// `None` where a name means nothing: what follows would only repeat that.
    fn of(route: &Route, graph: &Graph, at: &mut Collect<'_>) -> Option<Names> {
        let (nodes, tensors) = (graph.node_index(), graph.tensor_index());
        let mut segment_of = vec![None; graph.nodes.len()];
        let mut sound = true;
        for (s, segment) in route.segments.iter().enumerate() {
            let mut at = at.inside(&format!("segment[{s}]"));
            let mut last = None;
            for name in &segment.nodes {
                match nodes.get(name) {
                    None => (_, sound) = (at.error(format!("expected a node of the model, found \"{name}\"")), false),
                    Some(id) if graph.node(*id).folded => {
                        at.error(format!("expected nodes that have a place, found \"{name}\", which engines fold"));
                    }
                    Some(id) => {
                        segment_of[id.index()] = Some(s);
                        at.expect(last < Some(*id), || format!("expected the graph's order, found \"{name}\" late"));
                        last = Some(*id);
                    }
                }
            }
        }
        let mut ids = vec![];
        for tensor in &route.tensors {
            match tensors.get(tensor.name.as_str()) {
                Some(id) => ids.push(*id),
                None => {
                    (_, sound) = (at.error(format!("expected a value of the model, found \"{}\"", tensor.name)), false)
                }
            }
        }
        sound.then_some(Names { segment_of, tensors: ids })
    }
}

/// Every placeable node is in one segment, where the authored parts put it; the segments wait for each other in their order.
fn placement(route: &Route, graph: &Graph, names: &Names, authored: Option<&AuthoredRoute>, at: &mut Collect<'_>) {
    for id in graph.placeable().filter(|id| names.segment_of[id.index()].is_none()) {
        at.error(format!("expected node \"{}\" in a segment, found it in none", graph.node_name(id)));
    }
    match authored.map(|a| expand_parts(graph, &a.parts, "parts")) {
        None => {}
        Some(Err(findings)) => {
            findings.into_iter().for_each(|f| at.inside("authored").inside(&f.component).error(f.message));
        }
        Some(Ok(parts)) => {
            for id in graph.placeable() {
                let found = names.segment_of[id.index()].map(|s| route.segments[s].part);
                let (name, part) = (|| graph.node_name(id), parts[id.index()]);
                at.expect(part.is_some(), || {
                    format!("authored: expected node \"{}\" in a part, found it in none", name())
                });
                at.expect(found.is_none() || part.is_none() || found == part, || {
                    format!("expected node \"{}\" in part {part:?} as authored, found it in {found:?}", name())
                });
            }
        }
    }
    // An edge against the segments' order: either the order is wrong or there is a cycle.
    let before = segment::predecessors(graph);
    let mut backwards = BTreeSet::new();
    for id in graph.placeable() {
        let later = names.segment_of[id.index()];
        let from = before[id.index()].iter().map(|p| names.segment_of[p.index()]);
        backwards.extend(from.filter(|p| p.is_some() && later.is_some() && *p > later).map(|p| (p, later)));
    }
    for (from, to) in backwards {
        let (from, to) = (from.unwrap_or(0), to.unwrap_or(0));
        at.error(format!("segment[{to}] reads from segment[{from}], which comes later: no topological order"));
    }
}

/// A value's fact; where the graph was not observed, with the type that planning saw and the route states.
fn stated(graph: &Graph, id: TensorId, route: &Route, names: &Names) -> Fact {
    let mut fact = graph.tensor(id).fact.clone();
    let place = names.tensors.iter().position(|t| *t == id);
    fact.dtype = fact.dtype.or(place.and_then(|i| route.tensors[i].dtype));
    fact
}

fn pinned(route: &Route, graph: &Graph, names: &Names, tenant: &Tenant, machine: &Machine, at: &mut Collect<'_>) {
    let Ok(pins) = expand_parts(graph, &tenant.pins, "pins") else { return };
    for (i, pin) in pins.iter().enumerate() {
        let (Some(pin), Some(s)) = (pin, names.segment_of[i]) else { continue };
        let wanted = &tenant.pins[*pin].device;
        at.expect(machine.device_index(wanted) == Some(route.segments[s].device), || {
            let name = graph.node_name(NodeId(i as u32));
            format!("expected node \"{name}\" on \"{wanted}\", where it is pinned, found it elsewhere")
        });
    }
}

/// Each segment's inputs and outputs are exactly what its nodes read from and make for the outside; sizes are those of the
/// graph's facts.
fn boundaries(route: &Route, graph: &Graph, names: &Names, at: &mut Collect<'_>) {
    let outputs: BTreeSet<TensorId> = graph.outputs.iter().copied().collect();
    let mut reads: Vec<BTreeSet<TensorId>> = vec![BTreeSet::new(); route.segments.len()];
    let mut makes: Vec<BTreeSet<TensorId>> = reads.clone();
    for id in graph.placeable() {
        let Some(s) = names.segment_of[id.index()] else { continue };
        for t in graph.node(id).reads().into_iter().filter(|t| !graph.is_constant(*t)) {
            let home = graph.tensor(t).producer.and_then(|p| names.segment_of[p.index()]);
            if home == Some(s) {
                continue;
            }
            reads[s].insert(t);
            if let Some(home) = home {
                makes[home].insert(t);
                let (name, fact) = (&graph.tensor(t).name, stated(graph, t, route, names));
                at.expect(fact.crosses_devices(), || {
                    format!("\"{name}\" ({fact}) is no dense tensor of numbers and cannot leave its segment")
                });
            }
        }
        makes[s].extend(graph.node(id).writes().filter(|t| outputs.contains(t)));
    }
    for (s, segment) in route.segments.iter().enumerate() {
        let mut at = at.inside(&format!("segment[{s}]"));
        compare("input", &segment.inputs, &reads[s], graph, names, &mut at);
        compare("output", &segment.outputs, &makes[s], graph, names, &mut at);
    }
    let fed = reads.iter().flatten().filter(|t| graph.tensor(**t).producer.is_none()).copied().collect();
    compare("route input", &route.inputs, &fed, graph, names, at);
    let made = makes.iter().flatten().filter(|t| outputs.contains(t)).copied().collect();
    compare("route output", &route.outputs, &made, graph, names, at);
    let sizes: HashMap<TensorId, usize> = names.tensors.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    for (id, i) in sizes.into_iter().collect::<BTreeMap<_, _>>() {
        let (fact, tensor) = (&graph.tensor(id).fact, &route.tensors[i]);
        if let (Some(dims), Some(found)) = (fact.dims_at(route.batch), &tensor.dims) {
            at.expect(dims == *found, || format!("expected \"{}\" as {dims:?}, found {found:?}", tensor.name));
        }
        if let Some(bytes) = fact.bytes_at(route.batch) {
            at.expect(tensor.bytes.0 >= bytes, || {
                format!("expected {bytes} bytes for \"{}\", found {}", tensor.name, tensor.bytes.0)
            });
        }
    }
}

fn compare(
    what: &str,
    found: &[usize],
    expected: &BTreeSet<TensorId>,
    graph: &Graph,
    names: &Names,
    at: &mut Collect<'_>,
) {
    let found: BTreeSet<TensorId> = found.iter().filter_map(|t| names.tensors.get(*t).copied()).collect();
    for t in expected.difference(&found) {
        at.error(format!("expected {what} \"{}\", found none", graph.tensor(*t).name));
    }
    for t in found.difference(expected) {
        at.error(format!("expected no {what} \"{}\", found it", graph.tensor(*t).name));
    }
}

/// Operators that no engine of their device runs.
fn unsupported(route: &Route, graph: &Graph, names: &Names, machine: &Machine, at: &mut Collect<'_>) {
    for id in graph.placeable() {
        let Some(s) = names.segment_of[id.index()] else { continue };
        let Some(device) = machine.devices.get(route.segments[s].device) else { continue };
        let op = graph.node(id).op.to_string();
        at.expect(!device.unsupported.contains(&op), || {
            format!(
                "expected node \"{}\" on a device that runs {op}, found it on \"{}\"",
                graph.node_name(id),
                device.name
            )
        });
    }
}

/// The work that the graph's shapes give. A graph that was not observed knows less of it than the plan does: no more than
/// that much must be stated. What a file declares may be wrong, and only warns.
fn work(route: &Route, graph: &Graph, names: &Names, machine: &Machine, at: &mut Collect<'_>) {
    for (d, (stated, device)) in route.work.iter().zip(&machine.devices).enumerate() {
        let here = |id: &NodeId| names.segment_of[id.index()].is_some_and(|s| route.segments[s].device == d);
        let nodes: Vec<NodeId> = graph.placeable().filter(here).collect();
        let found = device_work(graph, &nodes, route.batch);
        let sound = match found.unknown {
            0 => *stated == found,
            n => stated.unknown <= n && stated.flops >= found.flops && stated.moved >= found.moved,
        };
        if sound {
            continue;
        }
        let text = |w: &DeviceWork| {
            let known = |n: Option<u64>| n.map_or("?".to_owned(), |n| n.to_string());
            let (flops, moved) = (known(w.flops.map(|f| f.0)), known(w.moved.map(|b| b.0)));
            format!("{flops} flop, {moved} bytes moved, {} unknown", w.unknown)
        };
        let mut values = nodes.iter().flat_map(|n| graph.node(*n).reads().into_iter().chain(graph.node(*n).writes()));
        let declared = values.any(|t| graph.tensor(t).fact.origin == Origin::Declared);
        let shapes = if declared { "declared shapes" } else { "shapes" };
        let least = if found.unknown > 0 { "at least " } else { "" };
        let message = format!("expected what the {shapes} give, {least}{}, found {}", text(&found), text(stated));
        let mut at = at.inside(&format!("work on \"{}\"", device.name));
        match declared {
            true => at.warning(message),
            false => at.error(message),
        }
    }
}
