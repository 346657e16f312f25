//! The `tandem` command: the composition root, and the only place that reads arguments, environment, paths and clocks.

mod cli;
mod output;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    println!("{cli:?}");
    ExitCode::SUCCESS
}
