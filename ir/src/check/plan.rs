//! A plan by itself: whether its authored and its derived part are sound and fit together. Models are not looked at.

use super::route::check_route;
use super::{Collect, Finding, machine_in, repeated};
use crate::format::plan::{authored_digest, rebuild_command};
use crate::format::scalar::Rate;
use crate::limits::{BATCH_MAX, MILLIRATE_MAX, TENANTS_MAX};
use crate::plan::{Application, Authored, AuthoredRoute, Derived, Plan, Policy, Route, Serving, Tenant};
use crate::units::Bytes;

/// Checks a plan's internal consistency; `file` is its name in the command that mends it. See [`super::check_plan_against`] for
/// the models.
pub fn check_plan(plan: &Plan, file: &str) -> Vec<Finding> {
    let mut findings = vec![];
    let out = &mut Collect::new(&mut findings, "");
    authored(plan, out);
    machine_in(&plan.derived.machine, &mut out.inside("derived.machine"));
    let expected = authored_digest(&plan.authored);
    out.inside("derived.authored").expect(plan.derived.authored == expected, || {
        format!("the authored part was edited: rebuild with `{}`", rebuild_command(file))
    });
    graphs(&plan.authored, &plan.derived, out);
    routes(plan, &rebuild_command(file), out);
    rates(plan, out);
    threads(plan, out);
    memory(&plan.derived, out);
    findings
}

/// Checks a serving section for tenants whose largest batch is `largest`.
pub fn check_serving(serving: &Serving, largest: u64) -> Vec<Finding> {
    let mut findings = vec![];
    serving_in(serving, largest, &mut Collect::new(&mut findings, "serving"));
    findings
}

fn serving_in(serving: &Serving, largest: u64, at: &mut Collect<'_>) {
    at.expect(serving.queue_max != Some(0), || "queue_max: expected room for at least one request, found 0".into());
    let Policy::Fixed { preferred, .. } = &serving.policy else { return };
    let mut at = at.inside("preferred");
    at.expect(!preferred.contains(&0), || "expected sizes of at least 1, found 0".into());
    at.expect(preferred.is_sorted_by(|a, b| a < b), || format!("expected ascending sizes, found {preferred:?}"));
    for size in preferred.iter().filter(|size| **size > largest) {
        at.error(format!("expected sizes of at most {largest}, the tenants' largest batch, found {size}"));
    }
}

fn authored(plan: &Plan, out: &mut Collect<'_>) {
    let applications = &plan.authored.applications;
    out.expect(!applications.is_empty(), || "expected at least one application, found none".into());
    let names: Vec<&str> = applications.iter().map(|a| a.name.as_str()).collect();
    for i in repeated(&names) {
        out.error(format!("expected unique application names, found \"{}\" again", names[i]));
    }
    let tenants: Vec<&str> = plan.authored.tenants().map(|t| t.name.as_str()).collect();
    for i in repeated(&tenants) {
        out.error(format!("expected unique tenant names, found \"{}\" again", tenants[i]));
    }
    out.expect(tenants.len() <= TENANTS_MAX, || {
        format!("expected at most {TENANTS_MAX} tenants, found {}", tenants.len())
    });
    let largest = plan.authored.tenants().flat_map(|t| &t.batches).max().copied().unwrap_or(0);
    serving_in(&plan.authored.serving, largest, &mut out.inside("serving"));
    for application in applications {
        let at = &mut out.inside(&format!("application \"{}\"", application.name));
        application_in(application, at);
        for tenant in &application.tenants {
            tenant_in(plan, tenant, &mut at.inside(&format!("tenant \"{}\"", tenant.name)));
        }
    }
}

fn application_in(application: &Application, at: &mut Collect<'_>) {
    let percentile = application.percentile_permille;
    at.expect((1..=1000).contains(&percentile), || {
        format!("expected a percentile of p0.1 to p100, found {percentile}")
    });
    at.expect(application.slo.is_none_or(|s| s.0 > 0), || "expected an SLO above 0, found 0".into());
    let count = application.tenants.len();
    at.expect(count > 0, || "expected at least one tenant, found none".into());
    for (from, to) in &application.edges {
        at.expect(*from < count && *to < count, || {
            format!("expected edges between {count} tenants, found {from} to {to}")
        });
    }
    let mut waits = vec![0; count];
    let edges: Vec<&(usize, usize)> = application.edges.iter().filter(|(a, b)| *a < count && *b < count).collect();
    edges.iter().for_each(|(_, to)| waits[*to] += 1);
    let mut ready: Vec<usize> = (0..count).filter(|t| waits[*t] == 0).collect();
    let mut done = 0;
    while let Some(t) = ready.pop() {
        done += 1;
        for (_, to) in edges.iter().filter(|(from, _)| *from == t) {
            waits[*to] -= 1;
            if waits[*to] == 0 {
                ready.push(*to);
            }
        }
    }
    at.expect(done == count, || "expected edges without a cycle, found one".into());
}

fn tenant_in(plan: &Plan, tenant: &Tenant, at: &mut Collect<'_>) {
    at.expect(!tenant.model.is_empty(), || "expected a model, found none".into());
    at.expect(tenant.millirate.is_none_or(|r| (1..=MILLIRATE_MAX).contains(&r)), || {
        let millirate = tenant.millirate.unwrap_or(0);
        format!("expected a rate of 0.001 to {} requests/s, found {}", MILLIRATE_MAX / 1000, Rate(millirate))
    });
    at.expect(!tenant.batches.is_empty(), || "expected at least one batch size, found none".into());
    for batch in &tenant.batches {
        at.expect((1..=BATCH_MAX).contains(batch), || format!("expected batches of 1 to {BATCH_MAX}, found {batch}"));
    }
    at.expect(!tenant.routes.is_empty(), || "expected at least one route, found none".into());
    let shares: u64 = tenant.routes.iter().map(|r| r.share_permille).fold(0, u64::saturating_add);
    at.expect(shares == 1000, || format!("expected shares of its routes that sum to 1000, found {shares}"));
    for (i, pin) in tenant.pins.iter().enumerate() {
        at.expect(plan.derived.machine.device(&pin.device).is_some(), || {
            format!("pins[{i}]: expected a device of the machine, found \"{}\"", pin.device)
        });
    }
    for (i, route) in tenant.routes.iter().enumerate() {
        authored_route(plan, tenant, route, &mut at.inside(&format!("route[{i}]")));
    }
}

fn authored_route(plan: &Plan, tenant: &Tenant, route: &AuthoredRoute, at: &mut Collect<'_>) {
    at.expect((1..=BATCH_MAX).contains(&route.batch), || {
        format!("expected a batch of 1 to {BATCH_MAX}, found {}", route.batch)
    });
    if !tenant.batches.contains(&route.batch) {
        at.warning(format!("its batch {} is not among the tenant's batches", route.batch));
    }
    at.expect(route.lanes > 0 && route.threads > 0, || "expected at least one lane and one thread, found 0".into());
    let machine = &plan.derived.machine;
    if let Some(host) = machine.devices.first() {
        let threads = u64::from(route.lanes) * u64::from(route.threads);
        if threads > u64::from(host.cores) {
            at.warning(format!("{} lanes x {} threads on {} cores", route.lanes, route.threads, host.cores));
        }
        at.expect(route.lanes <= host.lanes_max, || {
            format!("expected at most {} lanes on \"{}\", found {}", host.lanes_max, host.name, route.lanes)
        });
    }
    for (i, part) in route.parts.iter().enumerate() {
        at.expect(machine.device(&part.device).is_some(), || {
            format!("parts[{i}]: expected a device of the machine, found \"{}\"", part.device)
        });
    }
}

fn graphs(authored: &Authored, derived: &Derived, out: &mut Collect<'_>) {
    for tenant in authored.tenants() {
        let count = derived.graphs.iter().filter(|g| g.tenant == tenant.name).count();
        out.inside("derived.graphs")
            .expect(count == 1, || format!("expected one fingerprint for tenant \"{}\", found {count}", tenant.name));
    }
    for graph in &derived.graphs {
        let known = authored.tenants().any(|t| t.name == graph.tenant);
        out.inside("derived.graphs").expect(known, || format!("expected a tenant, found \"{}\"", graph.tenant));
    }
}

/// How a derived route is called in findings.
pub(super) fn route_name(position: usize, route: &Route) -> String {
    format!("derived.route[{position}] \"{}\" batch {}", route.tenant, route.batch)
}

fn routes(plan: &Plan, rebuild: &str, out: &mut Collect<'_>) {
    let authored: Vec<(&Tenant, &AuthoredRoute)> =
        plan.authored.tenants().flat_map(|t| t.routes.iter().map(move |r| (t, r))).collect();
    let routes = &plan.derived.routes;
    out.inside("derived.routes").expect(authored.len() == routes.len(), || {
        format!("expected one for each of {} authored routes, found {}", authored.len(), routes.len())
    });
    for (i, route) in routes.iter().enumerate() {
        let mut at = out.inside(&route_name(i, route));
        let origin = authored.get(i).copied();
        if let Some((tenant, wanted)) = origin {
            let of =
                |t: &str, b: u64, l: u32, n: u32, s: u64| format!("\"{t}\" batch {b}, {l} x {n} threads, share {s}");
            let expected = of(&tenant.name, wanted.batch, wanted.lanes, wanted.threads, wanted.share_permille);
            let found = of(&route.tenant, route.batch, route.lanes, route.threads, route.share_permille);
            at.expect(expected == found, || format!("expected what is authored, {expected}, found {found}"));
        }
        check_route(route, origin.map(|(_, r)| r), &plan.derived.machine, rebuild, &mut at);
    }
}

/// A rate that no route can carry: each route's requests a second bound the whole by its share of them.
fn rates(plan: &Plan, out: &mut Collect<'_>) {
    for tenant in plan.authored.tenants() {
        let Some(wanted) = tenant.millirate else { continue };
        let serving = plan.derived.routes.iter().filter(|r| r.tenant == tenant.name && r.share_permille > 0);
        let most = |r: &Route| u128::from(r.prediction.millirequests_per_s) * 1000 / u128::from(r.share_permille);
        let carried = serving.map(most).min().filter(|carried| *carried < u128::from(wanted));
        if let Some(carried) = carried.and_then(|c| u64::try_from(c).ok()) {
            out.inside(&format!("tenant \"{}\"", tenant.name)).warning(format!(
                "its routes carry at most {} of the {} requests/s it is planned for",
                Rate(carried),
                Rate(wanted)
            ));
        }
    }
}

/// Tenants that run at once on more threads than there are cores: each was planned as though its cores were its own. Where
/// all routes have lanes of one size, tenants take turns on them.
fn threads(plan: &Plan, out: &mut Collect<'_>) {
    let Some(host) = plan.derived.machine.devices.first() else { return };
    let most = |t: &Tenant| t.routes.iter().map(|r| u64::from(r.lanes).saturating_mul(r.threads.into())).max();
    let each: Vec<u64> = plan.authored.tenants().filter_map(most).collect();
    let total = each.iter().fold(0, |sum: u64, threads| sum.saturating_add(*threads));
    let config = |r: &AuthoredRoute| (r.lanes, r.threads);
    let mut configs = plan.authored.tenants().flat_map(|t| &t.routes).map(config);
    let takes_turns = configs.next().is_some_and(|first| configs.all(|other| other == first));
    if each.len() > 1 && !takes_turns && total > u64::from(host.cores) {
        let (tenants, cores) = (each.len(), host.cores);
        out.inside("tenants").warning(format!("{total} threads of {tenants} tenants on {cores} cores"));
    }
}

/// Routes kept resident together: a warning, for weights may be shared between routes of one tenant.
fn memory(derived: &Derived, out: &mut Collect<'_>) {
    for (d, device) in derived.machine.devices.iter().enumerate() {
        let total: Bytes = derived.routes.iter().map(|r| r.memory_bytes(d)).sum();
        if derived.routes.len() > 1 && total > device.memory {
            let component = format!("derived.routes on \"{}\"", device.name);
            out.inside(&component)
                .warning(format!("all routes at once may need {total}, and the device has {}", device.memory));
        }
    }
}
