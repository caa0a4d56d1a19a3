//! Blocks with corrupt replicas, and when those may be deleted.
//!
//! Damage is found one replica at a time, so "the others are good" means little right after the first
//! report: a damaged copy is still better than none, and is what somebody would rescue data from. Two
//! things allow a deletion, and both need enough replicas that count as good
//! (`BlockManager::drop_bad`):
//! * A copy made on the namenode's order arrived after the last report of damage. Its target checked every
//!   checksum, so that replica is good beyond doubt. (The source does not check what it sends.)
//! * Nothing else turned out bad for `BlockManagementConfig::corrupt_wait_ms`. This is for clusters
//!   in which every datanode has a replica: the copy needs the room that the corrupt one takes. Then one
//!   replica goes; the next one waits for the copy, or for the same time again.
//!
//! Orders that a datanode has not confirmed are called back as soon as another replica turns out bad, and
//! their replicas are marked corrupt again: a full report alone would make them good ones.

use std::collections::BTreeMap;

use dfs_proto::BlockId;
use smallvec::SmallVec;

use super::block_manager::BlockManager;
use super::datanode_manager::StorageIndex;
use super::redundancy::Tally;
use super::replica_set::Mark;

/// Blocks remembered at most (some 20 MiB), far more than are damaged in a cluster worth repairing.
/// Corrupt replicas of further blocks are kept until others are dealt with.
const SUSPECTS_MAX: usize = 262_144;

/// A block that has a corrupt replica, or had one whose deletion is not confirmed.
#[derive(Debug, Default)]
struct Suspect {
    /// When a replica was last found corrupt, or deleted because of the time passed.
    since: u64,
    /// A replica copied since then.
    verified: Option<StorageIndex>,
    /// Corrupt replicas ordered to be deleted.
    condemned: SmallVec<[StorageIndex; 2]>,
}

/// All such blocks.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    blocks: BTreeMap<BlockId, Suspect>,
}

impl Suspects {
    pub(super) fn contains(&self, id: BlockId) -> bool {
        self.blocks.contains_key(&id)
    }

    pub(super) fn forget(&mut self, id: BlockId) {
        self.blocks.remove(&id);
    }

    /// The record of a block, begun now if there is none; `None` if there are too many.
    fn get_or_begin(&mut self, now: u64, id: BlockId) -> Option<&mut Suspect> {
        if self.blocks.len() >= SUSPECTS_MAX && !self.contains(id) {
            return None;
        }
        Some(self.blocks.entry(id).or_insert_with(|| Suspect { since: now, ..Suspect::default() }))
    }
}

impl BlockManager {
    /// Marks a replica as corrupt. If that is news, what was believed of the others is in doubt again.
    pub(super) fn found_corrupt(&mut self, now: u64, id: BlockId, storage: StorageIndex) {
        if self.attach(now, id, storage, Mark::Corrupt) == Some(Mark::Corrupt) {
            return;
        }
        self.recall_condemned(now, id);
        if let Some(suspect) = self.suspects.get_or_begin(now, id) {
            suspect.since = now;
            suspect.verified = None;
        }
    }

    /// A copy that was ordered has arrived: its target has checked it.
    pub(super) fn copy_verified(&mut self, now: u64, id: BlockId, storage: StorageIndex) {
        if let Some(suspect) = self.suspects.blocks.get_mut(&id) {
            suspect.verified = Some(storage);
            self.evaluate(now, id);
        }
    }

    /// Calls back deletions of corrupt replicas that are not confirmed. One that was carried out all the
    /// same is reported as such; should that report be lost, a full report shows what is there.
    pub(super) fn recall_condemned(&mut self, now: u64, id: BlockId) {
        let Some(suspect) = self.suspects.blocks.get_mut(&id) else { return };
        for storage in std::mem::take(&mut suspect.condemned) {
            let node = self.datanodes.node_of(storage);
            let datanode = self.datanodes.node_mut(node);
            if !datanode.invalidates.forget(id) {
                continue;
            }
            datanode.report_wanted = true;
            if !self.has_replica_on(id, node) {
                self.attach(now, id, storage, Mark::Corrupt);
            }
        }
    }

    /// Orders the deletion of those corrupt replicas that may go. There are enough good ones.
    pub(super) fn condemn_corrupt(&mut self, now: u64, id: BlockId, tally: &Tally) {
        let wait_ms = self.config.corrupt_wait_ms;
        let Some(entry) = self.blocks.get(id).filter(|_| !tally.corrupt.is_empty()) else { return };
        let stamp = entry.stamp;
        let Some(suspect) = self.suspects.get_or_begin(now, id) else { return };
        let verified = suspect
            .verified
            .is_some_and(|storage| tally.good.contains(&storage) && self.datanodes.fresh(storage));
        let going = if verified {
            &tally.corrupt[..]
        } else if now.saturating_sub(suspect.since) >= wait_ms {
            suspect.since = now;
            &tally.corrupt[..1]
        } else {
            return;
        };
        suspect.condemned.extend_from_slice(going);
        for storage in going {
            self.invalidate(id, *storage, stamp);
        }
    }

    /// Whether deletions of corrupt replicas are unconfirmed. Forgets a block that has neither those nor
    /// corrupt replicas.
    pub(super) fn settle_suspect(&mut self, id: BlockId, corrupt: bool) -> bool {
        let Some(suspect) = self.suspects.blocks.get_mut(&id) else { return false };
        let datanodes = &self.datanodes;
        suspect
            .condemned
            .retain(|storage| datanodes.node(datanodes.node_of(*storage)).invalidates.stamp_of(id).is_some());
        let unconfirmed = !suspect.condemned.is_empty();
        if !unconfirmed && !corrupt {
            self.suspects.forget(id);
        }
        unconfirmed
    }
}
