//! Explanations as lines of text, as a tree, and the summary that `plan` and `run` begin with.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tandem_ir::graph::Graph;
use tandem_ir::plan::{Action, MemoryUse, Objective, Plan, Route};
use tandem_ir::units::{Bytes, Nanos};

use super::{Alternative, Boundary, DeviceShare, Explanation, LaneLoad, Moved, SegmentView};

/// Values of a boundary that are named before the rest is counted.
const VALUES_SHOWN: usize = 4;

/// Operator types of a segment that are named.
const TYPES_SHOWN: usize = 5;

fn signed(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "+" };
    format!("{sign}{}", Nanos(ns.unsigned_abs()))
}

/// How many operators, and of which types.
pub(super) fn operators(segment: &SegmentView) -> String {
    let total: usize = segment.operators.iter().map(|o| o.1).sum();
    let mut shown: Vec<String> =
        segment.operators.iter().take(TYPES_SHOWN).map(|(op, n)| format!("{n} {op}")).collect();
    if segment.operators.len() > TYPES_SHOWN {
        shown.push("..".into());
    }
    format!("{total} operators ({})", shown.join(", "))
}

/// Thousandths as a decimal number.
pub(super) fn thousandths(n: u64) -> String {
    format!("{:.3}", n as f64 / 1e3)
}

impl LaneLoad {
    /// Busy time, and its share of the time of lanes that are never idle.
    pub(super) fn words(&self) -> String {
        let what = if self.link { "link" } else { "lane" };
        format!("{what} {}: busy {} a batch, {:.1} %", self.lane, self.busy, self.share_permille as f64 / 10.0)
    }
}

impl DeviceShare {
    /// What its memory holds.
    pub(super) fn holds(&self, batches: usize) -> String {
        let MemoryUse { arena, owned, workspace, .. } = &self.memory;
        let owned = if *owned > Bytes::ZERO { format!(" and {owned} of the engine's") } else { String::new() };
        let (held, capacity) = (self.held, self.capacity);
        format!(
            "memory {held} of {capacity} with {batches} batches in flight: {arena}{owned} each, {workspace} more while \
             one computes"
        )
    }
}

impl Alternative {
    /// What moving it does, in words.
    pub(super) fn words(&self, objective: Objective) -> String {
        let what = match objective {
            Objective::Latency => "makespan",
            Objective::Throughput => "busiest lane",
        };
        let head = format!("\"{}\" ({}) to segment {}", self.node, self.operators, self.to);
        match &self.moved {
            Moved::Impossible(why) => format!("{head}: not possible, {why}"),
            Moved::By(ns) => {
                let times = match self.times {
                    (Some(here), Some(there)) if here != there => format!(" (takes {here} here, {there} there)"),
                    _ => String::new(),
                };
                match ns {
                    0 => format!("{head}: {what} as it is{times}"),
                    ns => format!("{head}: {what} {}{times}", signed(*ns)),
                }
            }
        }
    }
}

impl Boundary {
    /// What crosses it, in words.
    pub(super) fn crossing(&self) -> String {
        let bytes: Bytes = self.values.iter().map(|v| v.1).sum();
        let copies: Nanos = self.values.iter().map(|v| v.2).sum();
        let mut names: Vec<String> = self.values.iter().take(VALUES_SHOWN).map(|v| format!("\"{}\"", v.0)).collect();
        if self.values.len() > VALUES_SHOWN {
            names.push(format!("and {} more", self.values.len() - VALUES_SHOWN));
        }
        let copied = if copies == Nanos::ZERO { "stays in place".to_owned() } else { format!("copied in {copies}") };
        format!("{} ({bytes}), {copied}", names.join(", "))
    }
}

impl Explanation {
    /// What the route promises, a line each.
    pub(super) fn head(&self) -> Vec<String> {
        let p = &self.prediction;
        let (lanes, threads) = self.lanes;
        let modelled = if p.modelled { "; costs are modelled, not measured" } else { "" };
        vec![
            format!("{} at batch {}, {lanes} lanes of {threads} threads{modelled}", self.tenant, self.batch),
            format!(
                "makespan {}, latency at most {} ({} collecting behind {}){}",
                p.makespan,
                p.latency_bound,
                self.bottleneck.0,
                self.bottleneck.1,
                self.asked().map(|asked| format!("; {asked}")).unwrap_or_default()
            ),
            format!("{} requests/s{}; {}", thousandths(p.millirequests_per_s), self.planned_for(), self.floor()),
        ]
    }

    /// The latency objective, and whether it is kept.
    pub(super) fn asked(&self) -> Option<String> {
        let kept = if self.within_slo()? { "" } else { ", which it misses" };
        let percentile = self.terms.percentile_permille as f64 / 10.0;
        Some(format!("the objective is {} at p{percentile}{kept}", self.terms.slo?))
    }

    fn planned_for(&self) -> String {
        self.terms.millirate.map(|rate| format!(", planned for {}", thousandths(rate))).unwrap_or_default()
    }

    /// What no plan can do better than, and how far this one is from it.
    fn floor(&self) -> String {
        let (floor, gap) = (self.prediction.lower_bound, self.gap());
        match self.objective {
            Objective::Latency => format!("no placement is below {floor} (gap {gap})"),
            Objective::Throughput => format!("no plan takes less than {floor} an item (gap {gap})"),
        }
    }

    /// How far the plan is from the proven floor.
    pub(super) fn gap(&self) -> String {
        match self.prediction.gap_ppm {
            u64::MAX => "?".into(),
            ppm => format!("{:.2} %", ppm as f64 / 1e4),
        }
    }

    /// Lines for people.
    pub fn text(&self) -> String {
        let mut out = self.head().join("\n") + "\n\ndevices\n";
        for d in &self.devices {
            let DeviceShare { device, work, memory, busy, .. } = d;
            let (operators, weights) = (work.operators, memory.weights);
            let _ = writeln!(out, "  {device}: {operators} operators, {work}, {weights} of weights, busy {busy}");
            let _ = writeln!(out, "    {}", d.holds(self.batches_in_flight));
        }
        if !self.loads.is_empty() {
            out.push_str("\nlanes, and how much of the time they are busy at this throughput\n");
        }
        self.loads.iter().for_each(|l| {
            let _ = writeln!(out, "  {}", l.words());
        });
        out.push_str("\nsegments\n");
        for (i, s) in self.segments.iter().enumerate() {
            let _ = writeln!(
                out,
                "  {i} on {}: at {} for {} (launch {}), {}",
                s.device,
                Nanos(s.start.0),
                s.duration,
                s.launch,
                operators(s)
            );
            let _ = writeln!(out, "    \"{}\" .. \"{}\"", s.ends.0, s.ends.1);
        }
        if !self.boundaries.is_empty() {
            out.push_str("\nboundaries, and what moving each by one atom would do\n");
        }
        for b in &self.boundaries {
            let _ = writeln!(out, "  {} -> {}: {}", b.from, b.to, b.crossing());
            b.alternatives.iter().for_each(|a| {
                let _ = writeln!(out, "    {}", a.words(self.objective));
            });
        }
        self.tail(&mut out);
        out
    }

    fn tail(&self, out: &mut String) {
        if !self.pins.is_empty() {
            out.push_str("\npinned\n");
        }
        for pin in &self.pins {
            let left = pin.devices.join(", ");
            let _ = writeln!(out, "  {} operators from \"{}\" to {left}: {}", pin.operators, pin.first, pin.reason);
        }
        let Some(report) = &self.report else { return };
        out.push_str("\nsearch\n");
        for (name, makespan, scored) in &report.tried {
            let chosen = if *name == report.chosen { ", chosen" } else { "" };
            let _ = writeln!(out, "  {name}: {makespan} ({scored} scored{chosen})");
        }
        let _ = writeln!(out, "  stopped: {}", report.stopped);
        for (name, before, after) in &report.passes {
            let _ = writeln!(out, "  {name}: {before} -> {after}");
        }
        report.notes.iter().for_each(|note| {
            let _ = writeln!(out, "  note: {note}");
        });
    }

    /// The same as a tree: route, devices, segments, what goes where from each.
    pub fn tree(&self) -> String {
        let mut out = self.head().remove(0) + "\n";
        for (i, device) in self.devices.iter().enumerate() {
            let last = i + 1 == self.devices.len();
            let (stem, bar) = if last { ("`-- ", "    ") } else { ("|-- ", "|   ") };
            let _ = writeln!(
                out,
                "{stem}{}: {} operators, {}, busy {}",
                device.device, device.work.operators, device.work, device.busy
            );
            let mine: Vec<usize> =
                (0..self.segments.len()).filter(|s| self.segments[*s].device == device.device).collect();
            for s in &mine {
                let end = Some(s) == mine.last();
                let (stem, inner) = if end { ("`-- ", "    ") } else { ("|-- ", "|   ") };
                let view = &self.segments[*s];
                let at = Nanos(view.start.0);
                let _ = writeln!(out, "{bar}{stem}segment {s} at {at} for {}: {}", view.duration, operators(view));
                for b in self.boundaries.iter().filter(|b| b.from == *s) {
                    let to = &self.segments[b.to].device;
                    let _ = writeln!(out, "{bar}{inner}-> segment {} on {to}: {}", b.to, b.crossing());
                }
            }
        }
        out
    }
}

/// The first lines of `plan` and `run`: how much of a tenant runs where, what crosses, and what stayed on the CPU and why.
/// `graph` is its model. Of its route of this batch, else of the one with the largest share; empty where there is none.
pub fn summary(plan: &Plan, tenant: &str, graph: &Graph, batch: Option<u64>) -> String {
    let routes = plan.derived.routes.iter().enumerate().filter(|(_, r)| r.tenant == tenant);
    let routes = routes.filter(|(_, r)| batch.is_none_or(|batch| r.batch == batch));
    let Some((position, route)) = routes.max_by_key(|(i, r)| (r.share_permille, std::cmp::Reverse(*i))) else {
        return String::new();
    };
    let mut out = placed(plan, route) + "\n";
    let copies: Vec<Bytes> = route
        .steps
        .iter()
        .filter_map(|s| match s.action {
            Action::Copy { tensor, .. } => Some(route.tensors[tensor].bytes),
            Action::Run(_) | Action::Barrier => None,
        })
        .collect();
    let bytes: Bytes = copies.iter().copied().sum();
    let mut kept = stayed(plan, graph, route);
    let notes = plan.derived.reports.get(position).map(|r| r.notes.clone()).unwrap_or_default();
    let _ = writeln!(
        out,
        "{}, {} between devices, {}, {bytes} copied a batch; makespan {}{}",
        counted(route.segments.len(), "segment", "segments"),
        counted(device_boundaries(route), "boundary", "boundaries"),
        counted(copies.len(), "copy", "copies"),
        route.prediction.makespan,
        if route.prediction.modelled { " (modelled)" } else { "" }
    );
    let _ = writeln!(out, "{}", held(plan, route));
    kept.extend(notes.iter().map(|n| format!("note: {n}")));
    kept.iter().for_each(|line| {
        let _ = writeln!(out, "{line}");
    });
    out
}

/// `1 copy`, `2 copies`.
fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Operators, arithmetic and traffic by device, those that have nothing to do left out.
fn placed(plan: &Plan, route: &Route) -> String {
    let total: u64 = route.work.iter().map(|w| w.operators).sum();
    let used = plan.derived.machine.devices.iter().zip(&route.work).filter(|(_, w)| w.operators > 0);
    let each: Vec<String> = used.map(|(d, w)| format!("{} on {} ({w})", w.operators, d.name)).collect();
    format!("{} at batch {}: {total} operators: {}", route.tenant, route.batch, each.join(", "))
}

/// Memory by device, those that need none left out.
fn held(plan: &Plan, route: &Route) -> String {
    let each = plan.derived.machine.devices.iter().enumerate().map(|(d, device)| (device, route.memory_bytes(d)));
    let used = each.filter(|(_, held)| *held > Bytes::ZERO);
    let each: Vec<String> =
        used.map(|(device, held)| format!("{held} of {} on {}", device.memory, device.name)).collect();
    format!("memory with {} batches in flight: {}", route.batches_in_flight(), each.join(", "))
}

/// Values that one device's segment makes and another's reads, counted once a pair of segments.
fn device_boundaries(route: &Route) -> usize {
    let mut pairs = std::collections::BTreeSet::new();
    for (a, from) in route.segments.iter().enumerate() {
        for (b, to) in route.segments.iter().enumerate().filter(|(_, s)| s.device != from.device) {
            if from.outputs.iter().any(|t| to.inputs.contains(t)) {
                pairs.insert((a, b));
            }
        }
    }
    pairs.len()
}

/// What stayed on the CPU although there is an accelerator, by reason.
fn stayed(plan: &Plan, graph: &Graph, route: &Route) -> Vec<String> {
    let machine = &plan.derived.machine;
    if machine.devices.len() < 2 {
        return vec![];
    }
    let index = graph.node_index();
    let mut reasons: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let host = route.segments.iter().filter(|s| s.device == 0);
    for node in host.flat_map(|s| &s.nodes).filter_map(|n| index.get(n)) {
        let op = graph.node(*node).op.to_string();
        let cannot = machine.devices[1..].iter().all(|d| d.unsupported.contains(&op));
        let reason = if cannot { "no accelerator here runs them" } else { "the search found it better" };
        *reasons.entry(reason.to_owned()).or_default().entry(op).or_default() += 1;
    }
    let line = |(reason, ops): (String, BTreeMap<String, usize>)| {
        let total: usize = ops.values().sum();
        let mut ops: Vec<(String, usize)> = ops.into_iter().collect();
        ops.sort_by_key(|o| std::cmp::Reverse(o.1));
        let more = if ops.len() > TYPES_SHOWN { ", .." } else { "" };
        let named: Vec<String> = ops.iter().take(TYPES_SHOWN).map(|(op, n)| format!("{n} {op}")).collect();
        format!("on the CPU, for {reason}: {total} operators ({}{more})", named.join(", "))
    };
    reasons.into_iter().map(line).collect()
}
