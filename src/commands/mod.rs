//! One module a subcommand.

pub mod check;
pub mod diff;
pub mod explain;
pub mod import;
pub mod machines;
pub mod models;
pub mod plan;
pub mod profile;
pub mod run;
pub mod serve;
pub mod simulate;
