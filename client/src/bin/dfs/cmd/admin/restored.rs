//! `dfs admin restored`: what a namenode that was restored from a backup keeps, and what becomes of it.

use clap::{Args, ValueEnum};
use dfs_client::RestoredResponse;

use crate::output::Out;
use crate::session::Session;
use crate::times;

/// `dfs admin restored`.
#[derive(Debug, Args)]
pub struct RestoredArgs {
    #[arg(value_enum, default_value = "get")]
    action: RestoredVerb,
    /// With finish: newer replicas of blocks that the namespace knows may be deleted, too
    #[arg(long)]
    discard: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RestoredVerb {
    /// Only tell
    Get,
    /// Take over blocks as their newer replicas are: what was appended or changed after the backup
    Adopt,
    /// Let replicas that the namespace does not know be deleted
    Finish,
}

/// Tells, after doing what the arguments say.
pub async fn run(session: &Session, out: &mut Out, args: &RestoredArgs) -> anyhow::Result<()> {
    let client = &session.client;
    let mut adopted = 0;
    let answer = match args.action {
        RestoredVerb::Get => client.restored(false).await?,
        RestoredVerb::Adopt => loop {
            let answer = client.adopt_newer_replicas().await?;
            adopted += answer.adopted;
            if answer.adopted == 0 || answer.newer_blocks == 0 {
                break answer;
            }
        },
        RestoredVerb::Finish if args.discard => client.discard_newer_replicas().await?,
        RestoredVerb::Finish => client.restored(true).await?,
    };
    if args.json {
        out.json(&serde_json::json!({
            "restored": answer.restored,
            "backup_ms": times::millis(answer.backup_ns),
            "kept_blocks": answer.kept_blocks,
            "newer_blocks": answer.newer_blocks,
            "adopted": adopted,
        }))?;
        return Ok(());
    }
    if args.action == RestoredVerb::Adopt {
        out.line(format_args!("Blocks taken over as their newer replicas are: {adopted}"))?;
    }
    tell(out, &answer)
}

fn tell(out: &mut Out, answer: &RestoredResponse) -> anyhow::Result<()> {
    if !answer.restored {
        out.line(format_args!("Nothing is kept that the namespace does not know"))?;
        return Ok(());
    }
    let made = times::utc_seconds(answer.backup_ns);
    out.line(format_args!("Restored from a backup of {made} (UTC)"))?;
    let unknown = answer.kept_blocks.saturating_sub(answer.newer_blocks);
    out.line(format_args!("Replicas of {unknown} blocks that it does not know are kept"))?;
    if answer.newer_blocks > 0 {
        out.line(format_args!(
            "Blocks written again after the backup, missing until they are adopted: {}",
            answer.newer_blocks
        ))?;
    }
    for block in &answer.newer {
        let (known, found) = (block.known.unwrap_or_default(), block.found.unwrap_or_default());
        out.line(format_args!(
            "{}: {found} of {} bytes in {} replicas, known as {known} of {} bytes",
            String::from_utf8_lossy(&block.path),
            found.length,
            block.replicas,
            known.length,
        ))?;
    }
    Ok(())
}
