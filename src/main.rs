//! The `tandem` command: the composition root, and the only place that reads arguments, environment, paths and clocks.

mod bench;
mod binding;
mod cli;
mod clock;
mod commands;
mod context;
mod output;
mod prepare;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::context::Context;
use crate::output::Negative;

fn main() -> ExitCode {
    let cli = Cli::parse();
    logs(cli.common.verbose);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let negative = error.downcast_ref::<Negative>().is_some();
            eprintln!("{}{error:#}", if negative { "" } else { "error: " });
            ExitCode::from(if negative { 1 } else { 2 })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let context = Context::new(cli.common)?;
    match cli.command {
        Command::Import(args) => commands::import::run(&context, &args),
        Command::Machines(args) => commands::machines::run(&context, &args),
        Command::Profile(args) => commands::profile::run(&context, &args),
        Command::Plan(args) => commands::plan::run(&context, &args),
        Command::Explain(args) => commands::explain::run(&context, &args),
        Command::Check(args) => commands::check::run(&context, &args),
        Command::Diff(args) => commands::diff::run(&args),
        Command::Run(args) => commands::run::run(&context, &args),
        Command::Bench(args) => bench::run(&context, &args),
        Command::Models(args) => commands::models::run(&context, &args),
    }
}

fn logs(verbose: u8) {
    let default = ["tandem=warn,tandem_runtime=warn", "info", "debug"][usize::from(verbose.min(2))];
    let filter = tracing_subscriber::EnvFilter::try_from_env("TANDEM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
}
