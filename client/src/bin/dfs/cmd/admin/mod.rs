//! `dfs admin`: the state of the cluster, and what an administrator asks of it. A verb a file.

mod node_row;
mod nodes;
mod report;
mod safemode;

use clap::{Args, Subcommand};

use crate::output::Out;
use crate::session::Session;

/// `dfs admin`.
#[derive(Debug, Args)]
pub struct AdminArgs {
    /// What to do.
    #[command(subcommand)]
    command: AdminCommand,
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Capacity and health of the cluster and of each datanode
    Report(JsonFlag),
    /// Show, enter, leave or await the end of safe mode
    Safemode(safemode::SafeModeArgs),
    /// One line a datanode
    Nodes(JsonFlag),
}

/// The only flag of verbs that only tell.
#[derive(Debug, Args)]
struct JsonFlag {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Does what the arguments say.
pub async fn run(session: &Session, out: &mut Out, args: &AdminArgs) -> anyhow::Result<()> {
    match &args.command {
        AdminCommand::Report(flag) => report::run(session, out, flag.json).await,
        AdminCommand::Safemode(args) => safemode::run(session, out, args).await,
        AdminCommand::Nodes(flag) => nodes::run(session, out, flag.json).await,
    }
}
