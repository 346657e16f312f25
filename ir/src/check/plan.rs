//! A plan by itself: whether its authored and its derived part are sound and fit together. Models are not looked at.

use super::route::check_route;
use super::{Collect, Finding, machine_in, repeated};
use crate::format::plan::{authored_digest, rebuild_command};
use crate::limits::BATCH_MAX;
use crate::plan::{Application, Authored, AuthoredRoute, Derived, Plan, Route, Tenant};

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
    routes(plan, out);
    memory(&plan.derived, out);
    findings
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

fn routes(plan: &Plan, out: &mut Collect<'_>) {
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
        check_route(route, origin.map(|(_, r)| r), &plan.derived.machine, &mut at);
    }
}

/// Routes kept resident together: a warning, for weights may be shared between routes of one tenant.
fn memory(derived: &Derived, out: &mut Collect<'_>) {
    for (d, device) in derived.machine.devices.iter().enumerate() {
        let held = |r: &Route| {
            let memory = r.memory.get(d).cloned().unwrap_or_default();
            memory.weights.0.saturating_add(memory.peak.0.saturating_mul(u64::from(r.lanes)))
        };
        let total: u64 = derived.routes.iter().map(held).fold(0, u64::saturating_add);
        if derived.routes.len() > 1 && total > device.memory.0 {
            let component = format!("derived.routes on \"{}\"", device.name);
            out.inside(&component).warning(format!(
                "all routes at once may need {}, and the device has {}",
                crate::Bytes(total),
                device.memory
            ));
        }
    }
}
