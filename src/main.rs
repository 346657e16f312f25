//! The `tandem` command: the composition root, and the only place that reads arguments, environment, paths and clocks.

mod bench;
mod binding;
mod cli;
mod clock;
mod commands;
mod context;
mod output;
mod prepare;
mod verify;

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
            eprintln!("{}{}", if negative { "" } else { "error: " }, said_once(&error));
            ExitCode::from(if negative { 1 } else { 2 })
        }
    }
}

/// An error and its causes. Some types say their cause in their own words; it is not said again.
fn said_once(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        match text.is_empty() {
            true => text = cause,
            false if text.contains(&cause) => {}
            false => text = format!("{text}: {cause}"),
        }
    }
    text
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
        Command::Serve(args) => commands::serve::run(&context, &args),
        Command::Simulate(args) => commands::simulate::run(&context, &args),
        Command::Bench(args) => bench::run(&context, &args),
        Command::Models(args) => commands::models::run(&context, &args),
    }
}

fn logs(verbose: u8) {
    let default = ["tandem=warn,tandem_runtime=warn", "info", "debug"][usize::from(verbose.min(2))];
    let filter = tracing_subscriber::EnvFilter::try_from_env("TANDEM_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    // Colours are for people: a log file must not hold escape codes.
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    logs.with_ansi(ansi).without_time().init();
}
