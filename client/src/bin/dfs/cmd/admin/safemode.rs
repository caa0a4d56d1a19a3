//! `dfs admin safemode`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use dfs_client::SafeModeAction;

use crate::output::Out;
use crate::session::Session;

/// What people are told while the namenode is read-only by itself.
pub const DISK_FULL: &str = "The namenode's disk is full: nothing is changed until it has room";

/// How long `safemode wait` waits between looks.
const SAFE_MODE_POLL: Duration = Duration::from_millis(500);

/// `dfs admin safemode`.
#[derive(Debug, Args)]
pub struct SafeModeArgs {
    #[arg(value_enum)]
    action: SafeModeVerb,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SafeModeVerb {
    /// Only tell
    Get,
    /// Take no changes
    Enter,
    /// Take changes again
    Leave,
    /// Return when it is off
    Wait,
}

/// Does what the arguments say.
pub async fn run(session: &Session, out: &mut Out, args: &SafeModeArgs) -> anyhow::Result<()> {
    let action = match args.action {
        SafeModeVerb::Get | SafeModeVerb::Wait => SafeModeAction::Get,
        SafeModeVerb::Enter => SafeModeAction::Enter,
        SafeModeVerb::Leave => SafeModeAction::Leave,
    };
    let mut on = session.client.safe_mode(action).await?;
    while on && args.action == SafeModeVerb::Wait {
        tokio::time::sleep(SAFE_MODE_POLL).await;
        on = session.client.safe_mode(action).await?;
    }
    let disk_full = session.client.is_disk_full().await?;
    if args.json {
        out.json(&serde_json::json!({ "safe_mode": on, "disk_full": disk_full }))?;
        return Ok(());
    }
    out.line(format_args!("Safe mode is {}", if on { "ON" } else { "OFF" }))?;
    if disk_full {
        out.line(format_args!("{DISK_FULL}"))?;
    }
    Ok(())
}
