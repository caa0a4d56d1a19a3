//! The command line as clap sees it: global options and one variant a verb.
//!
//! Everything that can be checked without a server is checked here while parsing, so that bad usage
//! ends with code 2 before anything is done.

use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::bench;

/// A distributed block file system: files, cluster and benchmarks.
#[derive(Debug, Parser)]
#[command(name = "dfs", version, disable_help_flag = true, disable_help_subcommand = false)]
pub struct Cli {
    /// Options that every verb takes.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every verb takes.
#[derive(Clone, Debug, Default, Args)]
pub struct GlobalArgs {
    /// Address of the namenode (default: dfs.toml, then 127.0.0.1:9820)
    #[arg(long, global = true, value_name = "HOST:PORT", env = "DFS_NAMENODE")]
    pub namenode: Option<String>,
    /// User to act as (default: dfs.toml, then the operating system's user)
    #[arg(long, global = true, value_name = "NAME", env = "DFS_USER")]
    pub user: Option<String>,
    /// Print help
    #[arg(long, global = true, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// One variant a verb.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Measure the cluster beside the machine's limits
    Bench(bench::BenchArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
}

/// `dfs completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// Shell to complete for
    shell: Shell,
}

/// Writes the completion script to standard output.
pub fn completion(args: &CompletionArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dfs", &mut script);
    crate::exit::write_stdout(&script)?;
    Ok(ExitCode::SUCCESS)
}
