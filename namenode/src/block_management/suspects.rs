//! Blocks with corrupt replicas, and when those may be deleted.
//!
//! Damage is found one replica at a time, so "the others are good" means little right after the first
//! report: a damaged copy is still better than none, and is what somebody would rescue data from. So
//! nothing is assumed. Every datanode with another replica is asked to read that one from its disk and verify
//! it; a copy that arrived on the namenode's order counts as verified, too, since its target checked every
//! checksum (the source does not check what it sends). Corrupt replicas may be deleted when enough replicas have
//! been verified since the last report of damage (`BlockManager::drop_bad` says how many are enough):
//! * as many as are wanted: then all corrupt ones go;
//! * fewer, on a cluster in which every datanode has a replica, so that a copy needs the room that a corrupt
//!   one takes: then one goes, and the next waits for the copy.
//!
//! Orders that a datanode has not confirmed are called back as soon as another replica turns out bad, and
//! their replicas are marked corrupt again: a full report alone would make them good ones.

use std::collections::BTreeMap;

use dfs_proto::{BlockId, v1};
use smallvec::SmallVec;

use super::block_manager::BlockManager;
use super::datanode_manager::{NodeIndex, StorageIndex};
use super::redundancy::Tally;
use super::replica_set::Mark;

/// Blocks remembered at most (some 30 MiB), far more than are damaged in a cluster worth repairing.
/// Corrupt replicas of further blocks are kept until others are dealt with.
const SUSPECTS_MAX: usize = 262_144;

/// Replicas that one heartbeat asks a datanode to verify: a second or two of reading if they are large.
const VERIFICATIONS_PER_HEARTBEAT: usize = 64;

/// Replicas of one datanode that wait to be asked for at most; the rest is asked for later.
const VERIFICATIONS_MAX: usize = 4_096;

/// A block that has a corrupt replica, or had one whose deletion is not confirmed.
#[derive(Debug, Default)]
struct Suspect {
    /// Replicas verified since the last report of damage.
    verified: SmallVec<[StorageIndex; 3]>,
    /// Replicas whose datanodes were asked to verify them, and when.
    asked: SmallVec<[(StorageIndex, u64); 3]>,
    /// Corrupt replicas ordered to be deleted.
    condemned: SmallVec<[StorageIndex; 2]>,
}

impl Suspect {
    /// Whether the replica is neither verified nor being verified.
    fn is_unasked(&self, now: u64, storage: StorageIndex, retry_ms: u64) -> bool {
        !self.verified.contains(&storage)
            && !self.asked.iter().any(|(known, at)| *known == storage && now.saturating_sub(*at) < retry_ms)
    }
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
    fn get_or_begin(&mut self, id: BlockId) -> Option<&mut Suspect> {
        if self.blocks.len() >= SUSPECTS_MAX && !self.contains(id) {
            return None;
        }
        Some(self.blocks.entry(id).or_default())
    }
}

impl BlockManager {
    /// Marks a replica as corrupt. If that is news, what was believed of the others is in doubt again.
    pub(super) fn found_corrupt(&mut self, now: u64, id: BlockId, storage: StorageIndex) {
        if self.attach(now, id, storage, Mark::Corrupt) == Some(Mark::Corrupt) {
            return;
        }
        self.recall_condemned(now, id);
        if let Some(suspect) = self.suspects.get_or_begin(id) {
            suspect.verified.clear();
            suspect.asked.clear();
        }
    }

    /// A copy that was ordered has arrived: its target has checked it.
    pub(super) fn copy_verified(&mut self, now: u64, id: BlockId, storage: StorageIndex) {
        if let Some(suspect) = self.suspects.blocks.get_mut(&id) {
            if !suspect.verified.contains(&storage) {
                suspect.verified.push(storage);
            }
            self.evaluate(now, id);
        }
    }

    /// A datanode has read a replica from its disk, as it was asked to, and found it good.
    pub fn report_verified(&mut self, now: u64, block: &v1::Block, storage_id: &str) {
        let id = block.block_id();
        let Some(storage) = self.datanodes.find_storage(storage_id) else { return };
        let Some(entry) = self.blocks.get(id) else { return };
        if block.stamp() == entry.stamp && entry.replicas.mark_on(storage) == Some(Mark::Good) {
            self.copy_verified(now, id, storage);
        }
    }

    /// Has the good replicas of a block verified that are not verified or being verified.
    pub(super) fn verify_others(&mut self, now: u64, id: BlockId, tally: &Tally) {
        let retry_ms = self.config.verify_retry_ms;
        let Some(suspect) = self.suspects.get_or_begin(id) else { return };
        for storage in &tally.good {
            let node = self.datanodes.node_of(*storage);
            if !self.datanodes.fresh(*storage) || !suspect.is_unasked(now, *storage, retry_ms) {
                continue;
            }
            let waiting = &mut self.datanodes.node_mut(node).verifications;
            if waiting.len() < VERIFICATIONS_MAX {
                waiting.insert(id);
                suspect.asked.retain(|(known, _)| known != storage);
                suspect.asked.push((*storage, now));
            }
        }
    }

    /// Replicas that a datanode is to verify now.
    pub(super) fn take_verifications(&mut self, node: NodeIndex) -> Vec<v1::Block> {
        let waiting = &mut self.datanodes.node_mut(node).verifications;
        let mut ids = Vec::new();
        while ids.len() < VERIFICATIONS_PER_HEARTBEAT
            && let Some(id) = waiting.pop_first()
        {
            ids.push(id);
        }
        let entries = ids.into_iter().filter_map(|id| self.blocks.get(id));
        entries
            .map(|entry| v1::Block {
                id: entry.id.get(),
                generation_stamp: entry.stamp.get(),
                length: entry.length,
            })
            .collect()
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

    /// Orders the deletion of those corrupt replicas that may go. `enough` good ones are needed for it.
    pub(super) fn condemn_corrupt(&mut self, id: BlockId, tally: &Tally, enough: usize) {
        let Some(entry) = self.blocks.get(id).filter(|_| !tally.corrupt.is_empty()) else { return };
        let (stamp, wanted) = (entry.stamp, usize::from(entry.replication));
        let Some(suspect) = self.suspects.get_or_begin(id) else { return };
        let is_sure =
            |storage: &&StorageIndex| suspect.verified.contains(storage) && self.datanodes.fresh(**storage);
        let sure = tally.good.iter().filter(is_sure).count();
        if sure < enough {
            return;
        }
        let going = if sure >= wanted { &tally.corrupt[..] } else { &tally.corrupt[..1] };
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
