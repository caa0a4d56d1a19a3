//! `dfs admin`: the state of the cluster, and what an administrator asks of it. A verb a file.

mod bandwidth;
mod block;
mod health;
mod membership;
pub mod node_arg;
mod node_row;
mod nodes;
mod report;
mod restored;
mod safemode;
mod scrub;

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
    /// Is all well? Exit code 0: yes; 3: data is safe, but something is to be repaired; 1: no
    Health(health::HealthArgs),
    /// Have a datanode leave: copy what it holds elsewhere, put nothing new there
    Decommission(membership::NodeArgs),
    /// Take a datanode back that was to leave or is in maintenance
    Recommission(membership::NodeArgs),
    /// Let a datanode be down for a while without its replicas being replaced
    Maintenance(membership::MaintenanceArgs),
    /// Forget a dead datanode that will not come back
    Remove(membership::RemoveArgs),
    /// After a restore of the namenode: show, or end, that replicas which it does not know are kept
    Restored(restored::RestoredArgs),
    /// Show or set what each datanode may spend on repair, in bytes a second
    Bandwidth(bandwidth::BandwidthArgs),
    /// Have a datanode reread and verify all its replicas now
    Scrub(scrub::ScrubArgs),
    /// A block, its file, and where every replica is stored
    Block(block::BlockArgs),
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
        AdminCommand::Health(args) => health::run(session, out, args).await,
        AdminCommand::Decommission(args) => membership::decommission(session, out, args).await,
        AdminCommand::Recommission(args) => membership::recommission(session, out, args).await,
        AdminCommand::Maintenance(args) => membership::maintenance(session, out, args).await,
        AdminCommand::Remove(args) => membership::remove(session, out, args).await,
        AdminCommand::Restored(args) => restored::run(session, out, args).await,
        AdminCommand::Bandwidth(args) => bandwidth::run(session, out, args).await,
        AdminCommand::Scrub(args) => scrub::run(session, out, args).await,
        AdminCommand::Block(args) => block::run(session, out, args).await,
    }
}
