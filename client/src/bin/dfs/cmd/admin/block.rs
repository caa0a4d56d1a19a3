//! `dfs admin block BLOCK`: a block, its file, and every replica with the files that it is stored in, so that somebody can rescue
//! what is left of a corrupt one. Exit code 1 when no good replica is known, or one that was verified is bad.

use std::str::FromStr;

use clap::Args;
use dfs_client::{
    BlockCondition, BlockDescription, KnownReplica, ReplicaDescription, ReplicaState, ReplicaWorth,
};
use serde::Serialize;

use crate::output::Out;
use crate::session::Session;

/// `dfs admin block`.
#[derive(Debug, Args)]
pub struct BlockArgs {
    /// Block, such as blk_1073741825, blk_1073741825_1001 or 1073741825
    #[arg(value_name = "BLOCK")]
    block: BlockArg,
    /// Have every datanode reread and verify its replica
    #[arg(long)]
    verify: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A block id in one of its spellings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BlockArg(u64);

/// Not a block.
#[derive(Debug, thiserror::Error)]
#[error("not a block: blk_ID, blk_ID_STAMP or ID is wanted")]
struct NotABlock;

impl FromStr for BlockArg {
    type Err = NotABlock;

    fn from_str(text: &str) -> Result<Self, NotABlock> {
        let rest = text.strip_prefix("blk_").unwrap_or(text);
        let rest = rest.strip_suffix(".meta").unwrap_or(rest);
        let id = rest.split_once('_').map_or(rest, |(id, _)| id);
        id.parse().map(Self).map_err(|_| NotABlock)
    }
}

/// A block, as `--json` tells it.
#[derive(Debug, Serialize)]
struct BlockRow {
    block: String,
    file: Option<String>,
    inode: u64,
    offset: u64,
    state: &'static str,
    length: u64,
    generation_stamp: u64,
    replication: u32,
    replicas: Vec<ReplicaRow>,
}

/// A replica.
#[derive(Debug, Serialize)]
struct ReplicaRow {
    datanode: String,
    hostname: String,
    storage_id: String,
    worth: &'static str,
    /// What the datanode says; absent if it cannot be asked or has none.
    stored: Option<StoredRow>,
    /// Why the datanode said nothing.
    unknown: Option<String>,
}

/// What a datanode says of its replica.
#[derive(Debug, Serialize)]
struct StoredRow {
    state: &'static str,
    length: u64,
    generation_stamp: u64,
    volume: String,
    data: String,
    data_length: Option<u64>,
    checksums: String,
    checksums_length: Option<u64>,
    verified: bool,
    damage: Option<String>,
}

/// Prints the block.
pub async fn run(session: &Session, out: &mut Out, args: &BlockArgs) -> anyhow::Result<()> {
    let described = session.client.describe_block(args.block.0).await?;
    let mut replicas = Vec::new();
    for known in &described.replicas {
        replicas.push(replica_row(session, &described, known, args.verify).await);
    }
    let row = block_row(&described, replicas);
    let good = row.replicas.iter().any(|replica| replica.worth == "good");
    let bad =
        row.replicas.iter().any(|r| r.stored.as_ref().is_some_and(|s| s.verified && s.damage.is_some()));
    if !good || bad {
        session.set_failed();
    }
    if args.json {
        out.json(&row)?;
        return Ok(());
    }
    lines(&row).iter().try_for_each(|line| out.line(format_args!("{line}")))?;
    Ok(())
}

fn block_row(described: &BlockDescription, replicas: Vec<ReplicaRow>) -> BlockRow {
    let block = described.block.unwrap_or_default();
    let path = &described.path;
    BlockRow {
        block: block.to_string(),
        file: (!path.is_empty()).then(|| dfs_client::escape_name(path)),
        inode: described.inode,
        offset: described.offset,
        state: match described.condition() {
            BlockCondition::Complete => "complete",
            BlockCondition::UnderConstruction => "under construction",
            BlockCondition::UnderRecovery => "under recovery",
        },
        length: block.length,
        generation_stamp: block.generation_stamp,
        replication: described.replication,
        replicas,
    }
}

async fn replica_row(
    session: &Session,
    described: &BlockDescription,
    known: &KnownReplica,
    verify: bool,
) -> ReplicaRow {
    let location = known.location.clone().unwrap_or_default();
    let info = location.datanode.unwrap_or_default();
    let asked = session.client.describe_replica(&info, described.block.unwrap_or_default(), verify).await;
    let (stored, unknown) = match asked {
        Ok(replica) if replica.exists => (Some(StoredRow::new(replica)), None),
        Ok(_) => (None, Some("the datanode has no such replica".to_owned())),
        Err(error) => (None, Some(error.to_string())),
    };
    ReplicaRow {
        datanode: format!("{}:{}", info.ip, info.xfer_port),
        hostname: info.hostname,
        storage_id: location.storage_id,
        worth: match known.worth() {
            ReplicaWorth::Good => "good",
            ReplicaWorth::Writing => "being written",
            ReplicaWorth::Corrupt => "corrupt",
            ReplicaWorth::Outdated => "outdated",
            ReplicaWorth::Remembered => "not reported",
        },
        stored,
        unknown,
    }
}

impl StoredRow {
    fn new(replica: ReplicaDescription) -> Self {
        let block = replica.block.unwrap_or_default();
        Self {
            state: match replica.state() {
                ReplicaState::Finalized => "finalized",
                ReplicaState::Rbw => "being written",
                ReplicaState::Rwr => "waiting to be recovered",
                ReplicaState::Rur => "under recovery",
                ReplicaState::Temporary => "being copied in",
            },
            length: block.length,
            generation_stamp: block.generation_stamp,
            volume: replica.volume,
            data: replica.data_path,
            data_length: replica.data_length,
            checksums: replica.meta_path,
            checksums_length: replica.meta_length,
            verified: replica.verified,
            damage: (!replica.damage.is_empty()).then_some(replica.damage),
        }
    }

    fn verification(&self) -> String {
        match (&self.damage, self.verified) {
            (Some(damage), true) => format!("bad, reread now: {damage}"),
            (Some(damage), false) => format!("known to be bad: {damage}"),
            (None, true) => "good, reread now".to_owned(),
            (None, false) => "nothing bad known".to_owned(),
        }
    }
}

fn lines(row: &BlockRow) -> Vec<String> {
    let file = row.file.as_deref().unwrap_or("none (deleted)");
    let mut lines = vec![
        format!("Block: {}", row.block),
        format!("File: {file}"),
        format!("Offset in the file: {}", row.offset),
        format!("State: {}", row.state),
        format!("Length: {}", row.length),
        format!("Generation stamp: {}", row.generation_stamp),
        format!("Replicas: {} known, {} wanted", row.replicas.len(), row.replication),
    ];
    for replica in &row.replicas {
        lines.push(String::new());
        lines.push(format!("Replica on {} ({}): {}", replica.datanode, replica.hostname, replica.worth));
        lines.push(format!("\tStorage: {}", replica.storage_id));
        if let Some(unknown) = &replica.unknown {
            lines.push(format!("\tUnknown: {unknown}"));
        }
        let Some(stored) = &replica.stored else { continue };
        let size =
            |length: Option<u64>| length.map_or("missing".to_owned(), |bytes| format!("{bytes} bytes"));
        lines.extend([
            format!("\tVolume: {}", stored.volume),
            format!("\tData: {} ({})", stored.data, size(stored.data_length)),
            format!("\tChecksums: {} ({})", stored.checksums, size(stored.checksums_length)),
            format!(
                "\tState: {}, {} bytes, generation stamp {}",
                stored.state, stored.length, stored.generation_stamp
            ),
            format!("\tVerification: {}", stored.verification()),
        ]);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_named_in_several_ways() {
        for text in ["blk_7", "blk_7_1001", "7", "blk_7_1001.meta"] {
            assert_eq!(text.parse::<BlockArg>().ok(), Some(BlockArg(7)), "{text}");
        }
        for text in ["", "blk_", "blk_x", "-1", "/file"] {
            assert!(text.parse::<BlockArg>().is_err(), "{text}");
        }
    }
}
