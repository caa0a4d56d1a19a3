//! The blocks that a writer has finished and that may not be on the disks of their datanodes yet.
//!
//! Shared by a writer, which syncs all of them in `hsync`, and its streamer, which adds what it finishes. No lock is held
//! across an await. Invariants:
//!
//! * A finished block is in here until a sync of it succeeded, unless its last packet asked for a sync already.
//! * At most [`MAX_UNSYNCED_BLOCKS`] wait here between two blocks; the oldest are synced to make room.
//! * A failure is kept and told to every later `hsync`: after a failed sync a kernel may have dropped what was to be
//!   written, so that a second one that succeeds proves nothing.
//! * A sync succeeds when every replica is on disk, or is a replica no longer: the namenode has been told that it is bad, and a block
//!   that is committed later is committed without it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_proto::v1::{Block, CommittedBlock, LocatedBlock, ReplicaLocation, ReportBadBlocksRequest};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::time::timeout;

use crate::dfs_client::Inner;
use crate::pipeline_watch::{SUSPECT_AFTER, silent_members};
use crate::{DfsError, ReplicaFault, TransferFault, datanode};

/// Blocks remembered: some 200 KB, and what an `hsync` may have to wait for. When more blocks were finished, the
/// oldest have as a rule been written back by their datanodes' systems, so that their syncs cost little.
const MAX_UNSYNCED_BLOCKS: usize = 256;

/// Replicas remembered as left out: a block is committed when the next one begins, so that the last few matter.
const MAX_LEFT_OUT: usize = 64;

/// Blocks synced at once: enough to keep the disks of several datanodes busy.
const SYNCS_AT_ONCE: usize = 8;

/// Replicas of one block synced at once: all of an ordinary block, and few connections for an extraordinary one.
const REPLICAS_AT_ONCE: usize = 16;

/// A block that is complete.
#[derive(Clone, Debug)]
pub(crate) struct FinishedBlock {
    pub block: Block,
    /// Where it is: at least one.
    pub members: Vec<ReplicaLocation>,
}

/// The blocks, oldest first.
#[derive(Debug, Default)]
pub(crate) struct UnsyncedBlocks {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    blocks: VecDeque<Arc<FinishedBlock>>,
    failed: Option<DfsError>,
    /// Replicas (block, storage) that could not be synced, of blocks that may not be committed yet.
    left_out: VecDeque<(u64, String)>,
}

impl UnsyncedBlocks {
    /// A block was finished without a sync.
    pub(crate) fn add(&self, finished: FinishedBlock) {
        let mut state = self.lock();
        if state.failed.is_none() {
            state.blocks.push_back(Arc::new(finished));
        }
    }

    /// Syncs all.
    pub(crate) async fn sync_all(&self, client: &Arc<Inner>, path: &str) -> Result<(), DfsError> {
        self.sync_oldest(0, client, path).await
    }

    /// A block as it is to be committed: without the replicas that could not be synced.
    pub(crate) fn without_left_out(&self, committed: &CommittedBlock) -> CommittedBlock {
        let mut committed = committed.clone();
        let state = self.lock();
        let id = committed.block.map_or(0, |block| block.id);
        let left_out =
            |storage: &String| state.left_out.iter().any(|(block, bad)| *block == id && bad == storage);
        committed.storage_ids.retain(|storage| !left_out(storage));
        committed
    }

    fn leave_out(&self, block: u64, replicas: &[ReplicaLocation]) {
        let mut state = self.lock();
        for replica in replicas {
            if state.left_out.len() == MAX_LEFT_OUT {
                state.left_out.pop_front();
            }
            state.left_out.push_back((block, replica.storage_id.clone()));
        }
    }

    /// Syncs the oldest if there are too many. Who never calls `hsync` need not hear of a failure: it is kept.
    pub(crate) async fn make_room(&self, client: &Arc<Inner>, path: &str) {
        if self.lock().blocks.len() > MAX_UNSYNCED_BLOCKS
            && let Err(error) = self.sync_oldest(MAX_UNSYNCED_BLOCKS, client, path).await
        {
            tracing::warn!(%error, "a finished block is not on disk; hsync will fail");
        }
    }

    async fn sync_oldest(&self, keep: usize, client: &Arc<Inner>, path: &str) -> Result<(), DfsError> {
        let batch: Vec<Arc<FinishedBlock>> = {
            let state = self.lock();
            if let Some(error) = &state.failed {
                return Err(error.clone());
            }
            let count = state.blocks.len().saturating_sub(keep);
            state.blocks.iter().take(count).cloned().collect()
        };
        let mut waiting = batch.into_iter();
        let mut syncs = FuturesUnordered::new();
        loop {
            while syncs.len() < SYNCS_AT_ONCE
                && let Some(finished) = waiting.next()
            {
                syncs.push(sync_block(client, path, finished));
            }
            let Some((finished, outcome)) = syncs.next().await else { return Ok(()) };
            let outcome = match outcome {
                Ok(unsynced) if unsynced.is_empty() => Ok(()),
                Ok(unsynced) => {
                    self.leave_out(finished.block.id, &unsynced);
                    report_bad(client, path, finished.block, unsynced).await
                }
                Err(error) => Err(error),
            };
            let mut state = self.lock();
            match outcome {
                Ok(()) => state.blocks.retain(|block| !Arc::ptr_eq(block, &finished)),
                Err(error) => {
                    state.blocks.clear();
                    state.failed = Some(error.clone());
                    return Err(error);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the replicas of a block put on disk; tells which could not be, as long as there is one that is. Datanodes that were
/// silent lately are asked only if there is no other.
async fn sync_block(
    client: &Arc<Inner>,
    path: &str,
    finished: Arc<FinishedBlock>,
) -> (Arc<FinishedBlock>, Result<Vec<ReplicaLocation>, DfsError>) {
    let block = finished.block;
    let is_slow = |member: &&ReplicaLocation| client.slow.is_silent(datanode::uuid(member));
    let (slow, mut asked): (Vec<_>, Vec<_>) = finished.members.iter().partition(is_slow);
    let mut unsynced: Vec<ReplicaLocation> = Vec::new();
    if asked.is_empty() {
        asked = slow;
    } else if !slow.is_empty() {
        tracing::warn!(path, %block, replicas = slow.len(), "replicas of silent datanodes not synced");
        unsynced.extend(slow.into_iter().cloned());
    }
    let (mut last, mut synced) = (None, false);
    for group in asked.chunks(REPLICAS_AT_ONCE) {
        let outcomes = join_all(group.iter().map(|member| sync_watched(client, block, member))).await;
        for (member, outcome) in group.iter().zip(outcomes) {
            match outcome {
                Ok(()) => synced = true,
                Err(fault) => {
                    let fault = ReplicaFault { datanode: datanode::name(member), fault };
                    tracing::warn!(path, %block, %fault, "replica not synced");
                    unsynced.push((*member).clone());
                    last = Some(fault);
                }
            }
        }
    }
    let outcome = match last {
        Some(last) if !synced => {
            Err(DfsError::NotSynced { path: path.to_owned(), block: block.to_string(), last: Box::new(last) })
        }
        Some(_) | None => Ok(unsynced),
    };
    (finished, outcome)
}

/// Tells the namenode that replicas may not be on disk: they are replicas no longer, and are replaced.
async fn report_bad(
    client: &Arc<Inner>,
    path: &str,
    block: Block,
    replicas: Vec<ReplicaLocation>,
) -> Result<(), DfsError> {
    let bad = LocatedBlock { block: Some(block), locations: replicas, ..Default::default() };
    let request = ReportBadBlocksRequest { context: client.namenode.context(), blocks: vec![bad] };
    client
        .namenode
        .call(path, request, |mut s, r| async move { s.report_bad_blocks(r).await })
        .await
        .map(drop)
}

/// Syncs one replica. A sync may take long, so a datanode that does not answer is asked whether it lives.
pub(crate) async fn sync_watched(
    client: &Arc<Inner>,
    block: Block,
    member: &ReplicaLocation,
) -> Result<(), TransferFault> {
    let mut syncing = std::pin::pin!(datanode::sync_replica(member, block, &client.config));
    loop {
        if let Ok(outcome) = timeout(SUSPECT_AFTER, &mut syncing).await {
            return outcome;
        }
        if !silent_members(client, block, std::slice::from_ref(member)).await.is_empty() {
            client.slow.note(datanode::uuid(member));
            return Err(TransferFault::Timeout);
        }
    }
}
