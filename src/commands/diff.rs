//! `tandem diff`: what changed from one plan to another, in words.

use std::path::Path;

use anyhow::Result;
use tandem_ir::Plan;

use crate::cli::DiffArgs;
use crate::context::{negative, read_document};
use crate::output::print;

/// Prints the changes; a negative answer where there are any.
pub fn run(args: &DiffArgs) -> Result<()> {
    let read = |path: &Path| -> Result<Plan> {
        Ok(tandem_ir::format::plan::from_yaml(&read_document(path)?, &path.display().to_string())?)
    };
    let changes = tandem_planner::diff::diff(&read(&args.a)?, &read(&args.b)?);
    if changes.is_empty() {
        return print("no change\n");
    }
    print(&(changes.join("\n") + "\n"))?;
    negative(format!("{} change(s)", changes.len()))
}
