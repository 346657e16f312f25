//! `tandem explain`: what runs where, and why.

use anyhow::{Context as _, Result};

use crate::cli::ExplainArgs;
use crate::context::Context;

/// Explains one route of a plan.
pub fn run(_context: &Context, _args: &ExplainArgs) -> Result<()> {
    None.context("being written")
}

pub fn summary(_plan: &tandem_ir::Plan, _graph: &tandem_ir::Graph) -> String {
    String::new()
}
