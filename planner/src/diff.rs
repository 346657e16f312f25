//! What changed from one plan to another, in words.

use std::collections::{BTreeMap, BTreeSet};

use tandem_ir::format::scalar::Rate;
use tandem_ir::plan::{Objective, Plan, Route, Tenant};
use tandem_ir::units::{Bytes, Nanos};

/// Nodes that are named before the rest is counted.
const NODES_SHOWN: usize = 4;

/// Changes, a line each; empty where the two plans say the same.
pub fn diff(a: &Plan, b: &Plan) -> Vec<String> {
    let mut out = vec![];
    let mut change = |what: &str, from: String, to: String| {
        if from != to {
            out.push(format!("{what}: {from} -> {to}"));
        }
    };
    let objective = |p: &Plan| match p.authored.objective {
        Objective::Latency => "latency".to_owned(),
        Objective::Throughput => "throughput".to_owned(),
    };
    change("objective", objective(a), objective(b));
    change("search", a.authored.search.clone(), b.authored.search.clone());
    change("serving", a.authored.serving.to_string(), b.authored.serving.to_string());
    change("machine", a.derived.machine.name.clone(), b.derived.machine.name.clone());
    change("tandem", a.derived.tandem.clone(), b.derived.tandem.clone());
    change("profile", a.derived.profile.short(), b.derived.profile.short());
    machine(a, b, &mut out);
    applications(a, b, &mut out);
    let tenants = |p: &Plan| p.authored.tenants().map(|t| (t.name.clone(), t.clone())).collect::<BTreeMap<_, _>>();
    let (before, after) = (tenants(a), tenants(b));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        match (before.get(name), after.get(name)) {
            (Some(_), None) => out.push(format!("tenant \"{name}\" is gone")),
            (None, Some(_)) => out.push(format!("tenant \"{name}\" is new")),
            (Some(x), Some(y)) => tenant(a, b, x, y, &mut out),
            (None, None) => {}
        }
    }
    if out.is_empty() && a != b {
        out.push("the plans differ in details of their derived parts only".into());
    }
    out
}

fn machine(a: &Plan, b: &Plan, out: &mut Vec<String>) {
    let devices = |p: &Plan| {
        let each = p.derived.machine.devices.iter();
        each.map(|d| (d.name.clone(), format!("{} ({} cores, {})", d.model, d.cores, d.memory)))
            .collect::<BTreeMap<_, _>>()
    };
    let (before, after) = (devices(a), devices(b));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        match (before.get(name), after.get(name)) {
            (Some(_), None) => out.push(format!("device {name} is gone")),
            (None, Some(d)) => out.push(format!("device {name} is new: {d}")),
            (Some(x), Some(y)) if x != y => out.push(format!("device {name}: {x} -> {y}")),
            _ => {}
        }
    }
}

fn applications(a: &Plan, b: &Plan, out: &mut Vec<String>) {
    let slo = |p: &Plan| {
        let each = p.authored.applications.iter();
        each.map(|x| (x.name.clone(), (x.slo, x.percentile_permille))).collect::<BTreeMap<_, _>>()
    };
    let before = slo(a);
    let words = |(slo, p): &(Option<Nanos>, u64)| match slo {
        Some(slo) => format!("{slo} at p{}", *p as f64 / 10.0),
        None => "none".into(),
    };
    for (name, new) in slo(b) {
        if let Some(old) = before.get(&name).filter(|old| **old != new) {
            out.push(format!("\"{name}\": latency objective {} -> {}", words(old), words(&new)));
        }
    }
}

fn tenant(a: &Plan, b: &Plan, x: &Tenant, y: &Tenant, out: &mut Vec<String>) {
    let name = &x.name;
    let fingerprint = |p: &Plan| p.derived.graphs.iter().find(|g| g.tenant == *name).map(|g| g.fingerprint.short());
    if fingerprint(a) != fingerprint(b) {
        out.push(format!("\"{name}\": another model (fingerprint {:?} -> {:?})", fingerprint(a), fingerprint(b)));
    }
    let rate = |t: &Tenant| t.millirate.map_or("none".to_owned(), |r| format!("{} requests/s", Rate(r)));
    for (what, old, new) in [
        ("rate", rate(x), rate(y)),
        ("model", x.model.clone(), y.model.clone()),
        ("shapes", format!("{:?}", x.shapes), format!("{:?}", y.shapes)),
        ("batching", format!("{:?}", x.batching), format!("{:?}", y.batching)),
        ("batches to choose from", format!("{:?}", x.batches), format!("{:?}", y.batches)),
        ("pins", format!("{:?}", x.pins), format!("{:?}", y.pins)),
    ] {
        if old != new {
            out.push(format!("\"{name}\": {what} {old} -> {new}"));
        }
    }
    let routes = |p: &Plan| {
        let mine = p.derived.routes.iter().filter(|r| r.tenant == *name);
        let mut by: BTreeMap<(u64, usize), Route> = BTreeMap::new();
        for r in mine {
            let nth = by.keys().filter(|k| k.0 == r.batch).count();
            by.insert((r.batch, nth), r.clone());
        }
        by
    };
    let (before, after) = (routes(a), routes(b));
    let keys: BTreeSet<&(u64, usize)> = before.keys().chain(after.keys()).collect();
    for key in keys {
        let head = format!("\"{name}\" batch {}", key.0);
        match (before.get(key), after.get(key)) {
            (Some(_), None) => out.push(format!("{head}: the route is gone")),
            (None, Some(r)) => out.push(format!("{head}: a new route, makespan {}", r.prediction.makespan)),
            (Some(r), Some(s)) => route(a, b, r, s, &head, out),
            (None, None) => {}
        }
    }
}

fn route(a: &Plan, b: &Plan, r: &Route, s: &Route, head: &str, out: &mut Vec<String>) {
    let device = |p: &Plan, d: usize| p.derived.machine.devices.get(d).map_or("?".to_owned(), |d| d.name.clone());
    let lanes = |r: &Route| format!("{} x {} threads", r.lanes, r.threads);
    let copied = |r: &Route| -> Bytes {
        let tensor = |s: &tandem_ir::Step| match s.action {
            tandem_ir::plan::Action::Copy { tensor, .. } => r.tensors.get(tensor).map(|t| t.bytes),
            _ => None,
        };
        r.steps.iter().filter_map(tensor).sum()
    };
    for (what, old, new) in [
        ("lanes", lanes(r), lanes(s)),
        ("share", format!("{} permille", r.share_permille), format!("{} permille", s.share_permille)),
        ("segments", r.segments.len().to_string(), s.segments.len().to_string()),
        ("makespan", r.prediction.makespan.to_string(), s.prediction.makespan.to_string()),
        ("latency bound", r.prediction.latency_bound.to_string(), s.prediction.latency_bound.to_string()),
        ("copied a batch", copied(r).to_string(), copied(s).to_string()),
    ] {
        if old != new {
            out.push(format!("{head}: {what} {old} -> {new}"));
        }
    }
    let work = |p: &Plan, r: &Route| {
        let each = r.work.iter().enumerate();
        each.map(|(d, w)| (device(p, d), format!("{} operators, {w}", w.operators))).collect::<BTreeMap<_, _>>()
    };
    let after = work(b, s);
    for (on, old) in work(a, r) {
        // A device that is gone or new is told of elsewhere.
        if let Some(new) = after.get(&on).filter(|new| **new != old) {
            out.push(format!("{head}: work on {on} {old} -> {new}"));
        }
    }
    let memory = |p: &Plan, r: &Route| {
        (0..r.memory.len()).map(|d| (device(p, d), r.memory_bytes(d))).collect::<BTreeMap<_, _>>()
    };
    let after = memory(b, s);
    for (on, old) in memory(a, r) {
        if let Some(new) = after.get(&on).filter(|new| **new != old) {
            out.push(format!("{head}: memory on {on} {old} -> {new}"));
        }
    }
    let places = |p: &Plan, r: &Route| {
        let each = r.segments.iter().flat_map(|s| s.nodes.iter().map(move |n| (n.clone(), s.device)));
        each.map(|(n, d)| (n, device(p, d))).collect::<Vec<_>>()
    };
    let after: BTreeMap<String, String> = places(b, s).into_iter().collect();
    let mut moved: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for (node, from) in places(a, r) {
        if let Some(to) = after.get(&node).filter(|to| **to != from) {
            moved.entry((from, to.clone())).or_default().push(node);
        }
    }
    for ((from, to), nodes) in moved {
        let shown: Vec<String> = nodes.iter().take(NODES_SHOWN).map(|n| format!("\"{n}\"")).collect();
        let more = if nodes.len() > NODES_SHOWN { ", .." } else { "" };
        out.push(format!("{head}: {} operators move from {from} to {to} ({}{more})", nodes.len(), shown.join(", ")));
    }
}
