//! `tandem explain`: what runs where, and why each boundary is where it is.

use anyhow::{Context as _, Result};
use tandem_ir::Graph;
use tandem_onnx::import::Model;
use tandem_planner::explain;

use crate::cli::{BindArgs, ExplainArgs, ExplainFormat};
use crate::commands::profile::{Wish, gather};
use crate::commands::run::{choose, load_plan, refuse};
use crate::context::Context;
use crate::output::write_out;
use crate::prepare;

/// Explains one route of a plan. What moving a boundary would cost is priced as the plan was: with the profile given, or
/// what the cache holds (or this machine measures now), or the described machine's rates.
pub fn run(context: &Context, args: &ExplainArgs) -> Result<()> {
    let plan = load_plan(&args.plan)?;
    let mut models = prepare::plan_models(context, &plan.authored, &plan.derived.graphs, &args.plan, &args.overrides)?;
    let graphs: Vec<(&str, &Graph)> = models.iter().map(|(n, m)| (n.as_str(), &m.graph)).collect();
    refuse(&args.plan.display().to_string(), tandem_ir::check::check_plan_against(&plan, &graphs))?;
    let route = choose(&plan, args.tenant.as_deref(), args.batch)?;
    let tenant = models.iter().position(|(n, _)| *n == route.tenant).context("the route's tenant has no model")?;
    let given = args.profile.as_deref().map(|p| context.profile(p)).transpose()?;
    let bind = BindArgs::default();
    let wish = Wish {
        batches: plan.derived.routes.iter().filter(|r| r.tenant == route.tenant).map(|r| r.batch).collect(),
        threads: vec![route.threads],
        segments: false,
        links: false,
        insist: false,
        bind: &bind,
    };
    // The other tenants' costs say nothing of this one's boundaries.
    let (name, model) = &mut models[tenant];
    let mut named: [(&str, &mut Model); 1] = [(name, model)];
    let gathered = gather(context, &plan.derived.machine, &mut named, given, &wish)?;
    let graphs: Vec<&Graph> = models.iter().map(|(_, m)| &m.graph).collect();
    let told = explain::explain(&plan, &graphs, gathered.profile.as_ref(), tenant, Some(route.batch))?;
    let text = match args.format {
        ExplainFormat::Text => {
            explain::summary(&plan, &route.tenant, graphs[tenant], Some(route.batch)) + "\n" + &told.text()
        }
        ExplainFormat::Tree => told.tree(),
        ExplainFormat::Dot => told.dot(),
        ExplainFormat::Svg => told.svg(),
        ExplainFormat::Json => told.json(),
    };
    write_out(args.output.as_deref(), &(text.trim_end().to_owned() + "\n"))
}
