//! `tandem explain`: what runs where, and why each boundary is where it is.

use anyhow::{Context as _, Result, bail};
use tandem_ir::plan::Route;
use tandem_ir::{Graph, Plan, Profile};
use tandem_onnx::import::Model;
use tandem_planner::explain::{self, Explanation, Overview, html};

use crate::cli::{BindArgs, ExplainArgs, ExplainFormat};
use crate::commands::profile::{Wish, gather};
use crate::commands::run::{choose, load_plan, refuse};
use crate::context::Context;
use crate::output::write_out;
use crate::prepare;

/// Explains one route of a plan, or as a page all that are asked for. What moving a boundary would cost is priced as the
/// plan was: with the profile given, or what the cache holds (or this machine measures now), or the described machine's
/// rates.
pub fn run(context: &Context, args: &ExplainArgs) -> Result<()> {
    let plan = load_plan(&args.plan)?;
    let mut models = prepare::plan_models(context, &plan.authored, &plan.derived.graphs, &args.plan, &args.overrides)?;
    let graphs: Vec<(&str, &Graph)> = models.iter().map(|(n, m)| (n.as_str(), &m.graph)).collect();
    refuse(&args.plan.display().to_string(), tandem_ir::check::check_plan_against(&plan, &graphs))?;
    let given = args.profile.as_deref().map(|p| context.profile(p)).transpose()?;
    if args.format == ExplainFormat::Html {
        let told = explained(context, &plan, &mut models, given.as_ref(), &asked(&plan, args)?)?;
        return write_out(args.output.as_deref(), &html::page(&Overview::of(&plan), &told));
    }
    let route = choose(&plan, args.tenant.as_deref(), args.batch)?;
    let told = explained(context, &plan, &mut models, given.as_ref(), &[route])?;
    let told = told.first().context("one route is explained")?;
    let text = match args.format {
        ExplainFormat::Tree => told.tree(),
        ExplainFormat::Dot => told.dot(),
        ExplainFormat::Svg => told.svg(),
        ExplainFormat::Json => told.json(),
        ExplainFormat::Text | ExplainFormat::Html => {
            let (_, model) = models.iter().find(|(n, _)| *n == route.tenant).context(NO_MODEL)?;
            let together: String = explain::together(&plan).iter().map(|line| format!("{line}\n")).collect();
            together + &explain::summary(&plan, &route.tenant, &model.graph, Some(route.batch)) + "\n" + &told.text()
        }
    };
    write_out(args.output.as_deref(), &(text.trim_end().to_owned() + "\n"))
}

const NO_MODEL: &str = "the route's tenant has no model";

/// The routes a page is about: all, or those of a tenant, or of a batch.
fn asked<'p>(plan: &'p Plan, args: &ExplainArgs) -> Result<Vec<&'p Route>> {
    if args.tenant.is_some() {
        // Says what there is where there is none.
        choose(plan, args.tenant.as_deref(), args.batch)?;
    }
    let fits = |r: &&Route| {
        args.tenant.as_ref().is_none_or(|t| *t == r.tenant) && args.batch.is_none_or(|batch| batch == r.batch)
    };
    let routes: Vec<&Route> = plan.derived.routes.iter().filter(fits).collect();
    match args.batch {
        Some(batch) if routes.is_empty() => bail!("no route of batch {batch}"),
        _ => Ok(routes),
    }
}

/// Explains routes of the plan, each tenant's in a row.
fn explained(
    context: &Context,
    plan: &Plan,
    models: &mut [(String, Model)],
    given: Option<&Profile>,
    routes: &[&Route],
) -> Result<Vec<Explanation>> {
    let mut told = vec![];
    for mine in routes.chunk_by(|a, b| a.tenant == b.tenant) {
        let name = &mine[0].tenant;
        let (_, model) = models.iter_mut().find(|(n, _)| n == name).context(NO_MODEL)?;
        let bind = BindArgs::default();
        let mut threads: Vec<u32> = mine.iter().map(|r| r.threads).collect();
        threads.sort_unstable();
        threads.dedup();
        let wish = Wish {
            batches: plan.derived.routes.iter().filter(|r| r.tenant == *name).map(|r| r.batch).collect(),
            threads,
            segments: false,
            links: false,
            insist: false,
            bind: &bind,
        };
        // The other tenants' costs say nothing of this one's boundaries.
        let mut named: [(&str, &mut Model); 1] = [(name, model)];
        let gathered = gather(context, &plan.derived.machine, &mut named, given.cloned(), &wish)?;
        let graphs: Vec<&Graph> = models.iter().map(|(_, m)| &m.graph).collect();
        for (position, _) in
            plan.derived.routes.iter().enumerate().filter(|(_, r)| mine.iter().any(|m| std::ptr::eq(*m, *r)))
        {
            told.push(explain::explain_route(plan, &graphs, gathered.profile.as_ref(), position)?);
        }
    }
    Ok(told)
}
