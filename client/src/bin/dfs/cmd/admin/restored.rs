//! `dfs admin restored`: what a namenode that was restored from a backup keeps.

use clap::{Args, ValueEnum};

use crate::output::Out;
use crate::session::Session;
use crate::times;

/// `dfs admin restored`.
#[derive(Debug, Args)]
pub struct RestoredArgs {
    #[arg(value_enum, default_value = "get")]
    action: RestoredVerb,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RestoredVerb {
    /// Only tell
    Get,
    /// Let replicas that the namespace does not know be deleted
    Finish,
}

/// Tells, after doing what the arguments say.
pub async fn run(session: &Session, out: &mut Out, args: &RestoredArgs) -> anyhow::Result<()> {
    let answer = session.client.restored(args.action == RestoredVerb::Finish).await?;
    if args.json {
        out.json(&serde_json::json!({
            "restored": answer.restored,
            "backup_ms": times::millis(answer.backup_ns),
            "kept_blocks": answer.kept_blocks,
        }))?;
    } else if answer.restored {
        let made = times::utc_seconds(answer.backup_ns);
        out.line(format_args!("Restored from a backup of {made} (UTC)"))?;
        out.line(format_args!("Replicas of {} blocks that it does not know are kept", answer.kept_blocks))?;
    } else {
        out.line(format_args!("Nothing is kept that the namespace does not know"))?;
    }
    Ok(())
}
