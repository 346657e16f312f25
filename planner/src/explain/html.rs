//! Explanations as one HTML page that needs nothing beside it: no network, no fonts, a little script of its own.
//!
//! Names come from models, and whoever made a model may have meant harm: every text goes through `markup::escaped`, the
//! page's policy lets no script run but ours (by its hash) and nothing be loaded. Without scripts all facts are there still,
//! for what is shown at the pointer stands in tables too.

mod boxes;
mod graph;
mod layout;
mod limits;
mod markup;
mod sections;
mod timeline;

#[cfg(test)]
mod tests;

use tandem_ir::Fingerprint;
use tandem_ir::plan::Objective;

use super::{Explanation, Overview};
use markup::{bar_of, base64, escaped, table};

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");

/// The page about these routes of a plan, tenants in a row with their routes in a row. The same routes give the same bytes.
pub fn page(plan: &Overview, routes: &[Explanation]) -> String {
    let tenants: Vec<&[Explanation]> = routes.chunk_by(|a, b| a.tenant == b.tenant).collect();
    let who = match tenants.as_slice() {
        [only] => only[0].tenant.clone(),
        _ => format!("{} tenants", tenants.len()),
    };
    let title = escaped(&format!("{who} on {}", plan.machine));
    let hash = |text: &str| base64(&Fingerprint::of(text.as_bytes()).0);
    let mut body = format!("<header><h1>{title}</h1>{}</header>\n<main>\n", about(plan, tenants.len()));
    body += &format!("<section><h2>Overview</h2>\n{}{}</section>\n", promises(routes), memory(plan));
    let mut position = 0;
    for tenant in tenants {
        body += &format!("<section class=\"tenant\"><h2>{}</h2>\n", escaped(&tenant[0].tenant));
        // The route that most batches take is what people come for.
        let most = tenant.iter().map(|r| r.terms.share_permille).max();
        let preferred = tenant.iter().position(|r| Some(r.terms.share_permille) == most);
        for (i, route) in tenant.iter().enumerate() {
            body += &sections::route(route, position, Some(i) == preferred);
            position += 1;
        }
        body += "</section>\n";
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'sha256-{}'; \
         script-src 'sha256-{}'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{}{body}</main>\n\
         <div id=\"tip\" role=\"status\" hidden></div>\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        hash(STYLE),
        hash(SCRIPT),
        graph::DEFINITIONS,
    )
}

fn about(plan: &Overview, shown: usize) -> String {
    let aim = match plan.objective {
        Objective::Latency => "least latency",
        Objective::Throughput => "most throughput within the latency objectives",
    };
    let part =
        if shown == plan.tenants { String::new() } else { format!(" Shown: {shown} of {} tenants.", plan.tenants) };
    let together: String = plan.together.iter().map(|line| format!("<p>{}</p>", escaped(line))).collect();
    format!(
        "<p>{}</p><p>Planned for {aim}, searched by {}; batches are closed by {}. tandem {}.{part}</p>{together}",
        escaped(&plan.description),
        escaped(&plan.search),
        escaped(&plan.serving),
        escaped(&plan.tandem),
    )
}

/// A row a route: what is asked, what is promised, how good that is, what binds.
fn promises(routes: &[Explanation]) -> String {
    let row = |(position, e): (usize, &Explanation)| {
        let (p, t) = (&e.prediction, &e.terms);
        let asked = t.slo.map_or("none".into(), |slo| format!("{slo} at p{}", t.percentile_permille as f64 / 10.0));
        let kept = match e.within_slo() {
            Some(true) => " <span class=\"good\">&#10003; kept</span>",
            Some(false) => " <span class=\"bad\">&#10007; missed</span>",
            None => "",
        };
        let each = if e.objective == Objective::Latency { "" } else { " an item" };
        let planned = t.millirate.map_or(String::new(), |r| format!(", planned for {}", super::text::thousandths(r)));
        vec![
            format!("<a href=\"#route{position}\">{} at batch {}</a>", escaped(&e.tenant), e.batch),
            asked,
            format!("{}{kept}", p.latency_bound),
            p.makespan.to_string(),
            format!("{} requests/s{planned}", super::text::thousandths(p.millirequests_per_s)),
            format!("{}{each}", p.lower_bound),
            e.gap(),
            format!("{}: {} a batch", escaped(&e.bottleneck.1), e.bottleneck.0),
        ]
    };
    let head = [
        "Route",
        "Latency objective",
        "Latency at most",
        "Makespan",
        "Throughput",
        "No plan below",
        "Gap",
        "What binds",
    ];
    table("promises", &head, routes.iter().enumerate().map(row))
}

/// A row a device: what all routes of the plan hold of its memory.
fn memory(plan: &Overview) -> String {
    let row = |(name, capacity, held): &(String, tandem_ir::Bytes, tandem_ir::Bytes)| {
        vec![escaped(name), format!("{held} of {capacity}"), bar_of(*held, *capacity)]
    };
    table("memory", &["Memory of", "Held by all routes of the plan", "Share"], plan.memory.iter().map(row))
}
