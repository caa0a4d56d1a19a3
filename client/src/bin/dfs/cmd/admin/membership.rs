//! `dfs admin decommission|recommission|maintenance|remove`: a datanode shall leave, be taken back, be down for a while, or be
//! forgotten.
//!
//! The order is recorded by the namenode and carried out without this command. `--wait` follows it and ends with
//! success when the datanode may be stopped; it fails when that cannot come to pass, because too few other datanodes are
//! there.

use std::time::Duration;

use clap::Args;
use dfs_client::{AdminProgress, AdminState, DatanodeReport};

use super::node_row::{NodeRow, admin_words};
use crate::exit;
use crate::output::Out;
use crate::session::Session;

/// Pause between two looks with `--wait`.
const POLL: Duration = Duration::from_millis(500);

/// A datanode that is stuck for so many looks in a row stays so: figures of a moment may be of a cluster that is just
/// changing.
const STUCK_LOOKS: u32 = 6;

/// `dfs admin decommission` and `recommission`.
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// Host name, address, address:port or uuid of the datanode
    #[arg(value_name = "NODE")]
    node: String,
    /// Return when the datanode may be stopped (decommission)
    #[arg(short = 'w', long)]
    wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `dfs admin maintenance`.
#[derive(Debug, Args)]
pub struct MaintenanceArgs {
    /// Host name, address, address:port or uuid of the datanode
    #[arg(value_name = "NODE")]
    node: String,
    /// How long: 90s, 30m, 2h or 1d. After that the datanode counts as dead if it is down
    #[arg(long = "for", value_name = "TIME", default_value = "2h", value_parser = duration)]
    duration: Duration,
    /// Return when the datanode may be stopped
    #[arg(short = 'w', long)]
    wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `dfs admin remove`.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// Host name, address, address:port or uuid of the datanode
    #[arg(value_name = "NODE")]
    node: String,
}

/// A length of time that is not understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a length of time such as 90s, 30m, 2h or 1d")]
pub struct DurationError;

fn duration(text: &str) -> Result<Duration, DurationError> {
    let unit = text.chars().next_back().ok_or(DurationError)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(DurationError),
    };
    let count: u64 = text[..text.len() - 1].parse().map_err(|_| DurationError)?;
    count.checked_mul(seconds).map(Duration::from_secs).ok_or(DurationError)
}

/// Orders a datanode to leave.
pub async fn decommission(session: &Session, out: &mut Out, args: &NodeArgs) -> anyhow::Result<()> {
    let state = AdminState::Decommission;
    let row = session.client.set_datanode_admin(&args.node, state, Duration::ZERO).await?;
    follow(session, out, row, args.wait, args.json).await
}

/// Takes a datanode back.
pub async fn recommission(session: &Session, out: &mut Out, args: &NodeArgs) -> anyhow::Result<()> {
    let row = session.client.set_datanode_admin(&args.node, AdminState::Normal, Duration::ZERO).await?;
    follow(session, out, row, false, args.json).await
}

/// Gives a datanode time to be down.
pub async fn maintenance(session: &Session, out: &mut Out, args: &MaintenanceArgs) -> anyhow::Result<()> {
    let row = session.client.set_datanode_admin(&args.node, AdminState::Maintenance, args.duration).await?;
    follow(session, out, row, args.wait, args.json).await
}

/// Forgets a dead datanode.
pub async fn remove(session: &Session, out: &mut Out, args: &RemoveArgs) -> anyhow::Result<()> {
    session.client.remove_datanode(&args.node).await?;
    out.line(format_args!("{}: removed", args.node))?;
    Ok(())
}

async fn follow(
    session: &Session,
    out: &mut Out,
    mut row: DatanodeReport,
    wait: bool,
    json: bool,
) -> anyhow::Result<()> {
    let uuid = row.info.as_ref().map(|info| info.uuid.clone()).unwrap_or_default();
    let (mut told, mut stuck) = (String::new(), 0);
    loop {
        let progress = row.admin.unwrap_or_default();
        if !wait || progress.done || progress.state() == AdminState::Normal {
            break;
        }
        stuck = if is_stuck(&progress) { stuck + 1 } else { 0 };
        let words = admin_words(&progress);
        if words != told && !json {
            exit::message(format_args!("{words}"));
            told = words;
        }
        if stuck >= STUCK_LOOKS {
            session.set_failed();
            break;
        }
        tokio::time::sleep(POLL).await;
        let rows = session.client.datanodes().await?;
        let found = rows.into_iter().find(|row| row.info.as_ref().is_some_and(|info| info.uuid == uuid));
        row = found.ok_or_else(|| anyhow::anyhow!("{uuid}: the namenode does not know it any longer"))?;
    }
    let progress = row.admin.unwrap_or_default();
    let row = NodeRow::new(row);
    if json {
        out.json(&row)?;
    } else {
        out.line(format_args!("{} ({}): {}", row.name, row.hostname, admin_words(&progress)))?;
    }
    Ok(())
}

/// All that is left cannot go anywhere.
fn is_stuck(progress: &AdminProgress) -> bool {
    !progress.counting && progress.blocks_left > 0 && progress.blocks_stuck == progress.blocks_left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7_200)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        for text in ["", "2", "h", "-1h", "1.5h", "2w", "2µ", "99999999999999999999h"] {
            assert_eq!(duration(text), Err(DurationError), "{text}");
        }
    }
}
