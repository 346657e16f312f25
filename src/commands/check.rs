//! `tandem check`: every finding about a plan.

use anyhow::Result;
use serde_json::json;
use tandem_ir::check::{self, Finding, Severity};

use crate::cli::CheckArgs;
use crate::context::{Context, negative, read_document};
use crate::output::print_as;
use crate::prepare;

/// Checks a plan file alone and, unless told otherwise, against its models.
pub fn run(context: &Context, args: &CheckArgs) -> Result<()> {
    let file = args.plan.display().to_string();
    let plan = tandem_ir::format::plan::from_yaml(&read_document(&args.plan)?, &file)?;
    let mut findings = check::check_plan(&plan, &file);
    if !args.no_models {
        let models = prepare::plan_models(context, &plan.authored, &plan.derived.graphs, &args.plan, &args.overrides)?;
        let graphs: Vec<(&str, &tandem_ir::Graph)> =
            models.iter().map(|(name, model)| (name.as_str(), &model.graph)).collect();
        findings.extend(check::check_plan_against(&plan, &graphs));
    }
    let errors = findings.iter().filter(|f| f.severity == Severity::Error).count();
    let data: Vec<_> = findings
        .iter()
        .map(|f| json!({"severity": f.severity.to_string(), "component": f.component, "message": f.message}))
        .collect();
    let lines = |findings: &[Finding]| findings.iter().map(|f| format!("{f}\n")).collect::<String>();
    print_as(args.format, &data, || match findings.is_empty() {
        true => format!("{file}: no findings\n"),
        false => lines(&findings),
    })?;
    if errors > 0 {
        return negative(format!("{file}: {errors} error(s)"));
    }
    Ok(())
}
