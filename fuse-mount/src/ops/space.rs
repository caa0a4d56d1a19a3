//! `statfs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_client::ClusterStats;
use fuser::ReplyStatfs;

use crate::caller::Who;
use crate::directory_page::MAX_NAME_BYTES;
use crate::errno::Refusal;
use crate::mount::Mount;

/// Unit of the figures.
const UNIT_BYTES: u32 = 4_096;
/// How long figures count: programs that copy ask again and again.
const KEEP: Duration = Duration::from_secs(1);
/// Inodes are made as they are needed; programs want to see that there are some.
const FREE_INODES: u64 = 1 << 32;

/// `statfs`: bytes of the datanodes' disks. A file takes its size times its replication.
pub fn statfs(mount: &Arc<Mount>, who: Who, reply: ReplyStatfs) {
    let shared = mount.clone();
    let work = async move {
        let mut known = shared.stats.lock().await;
        if let Some((stats, since)) = known.as_ref()
            && since.elapsed() < KEEP
        {
            return Ok(*stats);
        }
        let stats = shared.fs.stats().await?;
        *known = Some((stats, Instant::now()));
        Ok::<_, Refusal>(stats)
    };
    mount.answer(who, reply, work, give);
}

fn give(reply: ReplyStatfs, stats: ClusterStats) {
    let blocks = |bytes: u64| bytes / u64::from(UNIT_BYTES);
    reply.statfs(
        blocks(stats.capacity),
        blocks(stats.remaining),
        blocks(stats.remaining),
        stats.inodes.saturating_add(FREE_INODES),
        FREE_INODES,
        UNIT_BYTES,
        MAX_NAME_BYTES as u32,
        UNIT_BYTES,
    );
}
