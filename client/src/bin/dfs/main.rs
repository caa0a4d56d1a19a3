//! The `dfs` command.
//!
//! Data goes to standard output, messages to standard error. Exit codes: 0 success, 1 something
//! failed, 2 bad usage (see [`exit`]). Verbs, flags and output formats follow `hdfs dfs` where it has
//! the same verb; [`argv`] accepts its single-dash spellings.

mod argv;
mod bench;
mod cli;
mod config;
mod exit;
mod globals;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = argv::normalise(std::env::args_os().collect());
    let cli = cli::Cli::parse_from(args);
    exit::finish(run(cli))
}

fn run(cli: cli::Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        cli::Command::Completion(args) => cli::completion(&args),
        cli::Command::Bench(args) => bench::run(args, &globals::Globals::resolve(cli.global)?),
    }
}
