//! `dfs balancer --disks NODE`: has one datanode even out its volumes, and follows it.

use std::time::{Duration, Instant};

use anyhow::bail;
use dfs_client::{BalanceDisksAction, BalanceDisksRequest, BalanceDisksStatus};

use super::admin::node_arg;
use crate::human;
use crate::output::Out;
use crate::session::Session;

/// Time between two looks.
const POLL: Duration = Duration::from_millis(500);

/// Time between two lines.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Starts it, or looks at it, or ends it. Ctrl-C ends it too: nothing is left half moved.
pub async fn run(
    session: &Session,
    out: &mut Out,
    node: &str,
    bandwidth: Option<u64>,
    only_look: bool,
    stop: bool,
) -> anyhow::Result<()> {
    let datanode = node_arg::find(session, node).await?;
    let ask = async |action: BalanceDisksAction| {
        let request = BalanceDisksRequest { action: action.into(), bandwidth, context: None };
        session.client.balance_disks(datanode.clone(), request).await
    };
    if only_look || stop {
        let action = if stop { BalanceDisksAction::Stop } else { BalanceDisksAction::Get };
        let status = ask(action).await?;
        return Ok(out.line(format_args!("{}", line(&status)))?);
    }
    let watched = async {
        let mut status = ask(BalanceDisksAction::Start).await?;
        let before = status;
        let mut shown: Option<Instant> = None;
        while status.running {
            if shown.is_none_or(|at| at.elapsed() >= LINE_INTERVAL) {
                out.line(format_args!("{}", line(&status)))?;
                out.flush()?;
                shown = Some(Instant::now());
            }
            tokio::time::sleep(POLL).await;
            status = ask(BalanceDisksAction::Get).await?;
        }
        out.line(format_args!(
            "Done: {} in {} replicas moved; volumes differ by {}.{:02}%",
            human::size(status.bytes_moved - before.bytes_moved),
            status.replicas_moved - before.replicas_moved,
            status.difference / 100,
            status.difference % 100,
        ))?;
        let failures = status.failures - before.failures;
        if failures > 0 {
            bail!("{failures} replicas could not be moved: see the datanode's log");
        }
        Ok(())
    };
    tokio::select! {
        outcome = watched => outcome,
        _ = tokio::signal::ctrl_c() => {
            let status = ask(BalanceDisksAction::Stop).await?;
            bail!("stopped; {}", line(&status));
        }
    }
}

fn line(status: &BalanceDisksStatus) -> String {
    format!(
        "{}: {} in {} replicas moved since the datanode started, {} failures; volumes differ by {}.{:02}%",
        if status.running { "Running" } else { "Not running" },
        human::size(status.bytes_moved),
        status.replicas_moved,
        status.failures,
        status.difference / 100,
        status.difference % 100,
    )
}
