//! `dfs bench`.

use std::process::ExitCode;

use clap::Args;

use crate::exit::UsageError;
use crate::globals::Globals;

/// `dfs bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the benchmark that `args` name.
pub fn run(args: BenchArgs, globals: &Globals) -> anyhow::Result<ExitCode> {
    let BenchArgs { json } = args;
    let format = if json { "JSON" } else { "table" };
    Err(UsageError {
        verb: "bench",
        problem: format!("no benchmark named ({format}, namenode {})", globals.namenode),
    }
    .into())
}
