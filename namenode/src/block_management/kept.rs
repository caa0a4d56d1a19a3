//! Replicas that are kept although the namespace does not know them: after it was restored from a backup, they may be all
//! that is left of what was written since.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};

use dfs_proto::v1::{self, ReplicaState};
use dfs_proto::{BlockId, GenerationStamp};
use smallvec::{SmallVec, smallvec};

use super::block_manager::BlockManager;
use super::datanode_manager::StorageIndex;
use super::report_slice::ReportedReplica;

/// Blocks that are counted at most: some MB. More are kept all the same.
const COUNTED_MAX: usize = 1_000_000;

/// Blocks of which newer replicas are remembered at most: some MB. More are kept all the same, and remembered with
/// the next full reports when others have been adopted.
const NEWER_MAX: usize = 100_000;

/// Closed replicas that are newer than the namespace knows their block.
#[derive(Debug)]
struct Newer {
    stamp: GenerationStamp,
    length: u64,
    storages: SmallVec<[StorageIndex; 4]>,
}

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Nothing unknown is deleted.
    pub(super) is_on: bool,
    blocks: BTreeSet<BlockId>,
    newer: BTreeMap<BlockId, Newer>,
}

impl Kept {
    /// Notes that a replica of a block would have been deleted.
    pub(super) fn note(&mut self, id: BlockId) {
        if self.blocks.len() < COUNTED_MAX {
            self.blocks.insert(id);
        }
    }

    /// Notes a replica that is newer than the namespace knows the block. Of several generations the newest counts.
    pub(super) fn note_newer(&mut self, storage: StorageIndex, replica: &ReportedReplica) {
        self.note(replica.id);
        if replica.state != ReplicaState::Finalized {
            return;
        }
        let is_full = self.newer.len() >= NEWER_MAX;
        let ReportedReplica { stamp, length, .. } = *replica;
        match self.newer.entry(replica.id) {
            Entry::Vacant(_) if is_full => {}
            Entry::Vacant(vacant) => {
                vacant.insert(Newer { stamp, length, storages: smallvec![storage] });
            }
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                if (stamp, length) > (known.stamp, known.length) {
                    *known = Newer { stamp, length, storages: smallvec![storage] };
                } else if (stamp, length) == (known.stamp, known.length) && !known.storages.contains(&storage)
                {
                    known.storages.push(storage);
                }
            }
        }
    }

    /// The block is as its newest replicas are, or gone.
    pub(super) fn forget(&mut self, id: BlockId) {
        if self.newer.remove(&id).is_some() {
            self.blocks.remove(&id);
        }
    }
}

impl BlockManager {
    /// Has replicas kept that the namespace does not know, or ends that: then they are deleted with the next full
    /// reports.
    pub fn keep_unknown(&mut self, on: bool) {
        self.kept = Kept { is_on: on, ..Kept::default() };
    }

    /// Blocks, unknown or newer than the namespace knows, of which replicas are kept; `None` if none are.
    pub fn kept_blocks(&self) -> Option<u64> {
        self.kept.is_on.then_some(self.kept.blocks.len() as u64)
    }

    /// Number of blocks with closed replicas that are newer than the namespace knows.
    pub fn newer_blocks(&self) -> usize {
        self.kept.newer.len()
    }

    /// The first `limit` of them after `after`, each as its newest replicas are, and the storages of these.
    pub fn newer_replicas(&self, after: BlockId, limit: usize) -> Vec<(v1::Block, Vec<String>)> {
        let all = self.kept.newer.range(BlockId(after.get().saturating_add(1))..);
        let named = |storage: &StorageIndex| self.datanodes.storage(*storage).id.clone();
        all.take(limit)
            .map(|(id, newer)| {
                let block =
                    v1::Block { id: id.get(), generation_stamp: newer.stamp.get(), length: newer.length };
                (block, newer.storages.iter().map(named).collect())
            })
            .collect()
    }
}
