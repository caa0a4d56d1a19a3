//! What changes of the namespace mean for block management.

use dfs_proto::{BlockId, GenerationStamp};
use smallvec::SmallVec;

use super::block_manager::BlockManager;
use super::block_map::BlockEntry;
use super::datanode_manager::StorageIndex;
use super::replica_set::Mark;
use crate::namesystem::{BlockState, Effect, StoredBlock};

impl BlockManager {
    /// Takes over a change of the namespace; to be called for every effect, in order.
    pub fn effect(&mut self, now: u64, effect: &Effect) {
        match effect {
            Effect::BlockAllocated { block, targets } => self.block_allocated(now, block, targets),
            Effect::BlockCommitted { block, storage_ids } => self.block_committed(now, block, storage_ids),
            Effect::BlockRemoved { id, stamp } => self.block_removed(now, *id, *stamp),
            Effect::ReplicationChanged { block } => {
                if self.removed.contains(block.id) {
                    return;
                }
                self.entry_of(block).replication = block.replication;
                self.evaluate(now, block.id);
            }
            Effect::BlockCut { block } => {
                if let Some(entry) = self.blocks.get_mut(block.id) {
                    entry.length = block.length;
                }
            }
            Effect::RecoveryStarted { block, storage_ids, new_stamp, truncate_length } => {
                self.recovery_started(now, block, storage_ids, *new_stamp, *truncate_length);
            }
            Effect::DatanodeRecorded { info, storage_ids } => self.load_datanode(info.clone(), storage_ids),
            Effect::DatanodeAdminSet { uuid, state, remaining_ms } => {
                self.set_admin(now, uuid, *state, *remaining_ms);
            }
            Effect::DatanodeRemoved { uuid } => self.remove_datanode(uuid),
            Effect::RepairBandwidthSet { bytes_per_second } => self.set_repair_bandwidth(*bytes_per_second),
            // The lease manager's business.
            Effect::LeaseTaken { .. } | Effect::LeaseReleased { .. } => {}
        }
    }

    /// A pipeline writes the block: what it had elsewhere is out of date.
    fn block_allocated(&mut self, now: u64, block: &StoredBlock, targets: &[String]) {
        let closed = |entry: &BlockEntry| entry.state == BlockState::Complete && entry.stamp == block.stamp;
        if self.blocks.get(block.id).is_some_and(closed) {
            return self.block_reopened(now, block, targets);
        }
        self.cancel_pending(block.id);
        self.end_recovery(block.id);
        let known = self.take_stored(block);
        for storage in known {
            self.attach(now, block.id, storage, Mark::Outdated);
        }
        for storage in self.usable_storages(targets) {
            self.attach(now, block.id, storage, Mark::Writing);
            let node = self.datanodes.node_of(storage);
            self.datanodes.node_mut(node).invalidates.forget(block.id);
        }
        self.evaluate(now, block.id);
    }

    /// An append begins. Its writer shall go on with the replicas that are good now: `hints` is only what
    /// the namespace remembers, and may name replicas that were deleted since, are about to be, or are corrupt.
    /// It counts where reports are still coming in, or nothing good is known.
    fn block_reopened(&mut self, now: u64, block: &StoredBlock, hints: &[String]) {
        self.cancel_pending(block.id);
        self.end_recovery(block.id);
        let mut members = 0;
        for storage in self.take_stored(block) {
            let mark = self.blocks.get(block.id).and_then(|entry| entry.replicas.mark_on(storage));
            match mark {
                Some(Mark::Good) if self.datanodes.usable(storage) => {
                    self.attach(now, block.id, storage, Mark::Writing);
                    members += 1;
                }
                Some(Mark::Good) => {
                    self.attach(now, block.id, storage, Mark::Outdated);
                }
                Some(Mark::Writing | Mark::Corrupt | Mark::Outdated) | None => {}
            }
        }
        if members == 0 || !self.startup.over {
            for storage in self.usable_storages(hints) {
                let known = self.has_replica_on(block.id, self.datanodes.node_of(storage));
                if !known && !self.is_going(block.id, storage, block.stamp) {
                    self.attach(now, block.id, storage, Mark::Writing);
                }
            }
        }
        self.evaluate(now, block.id);
    }

    /// The content is settled, and these storages hold it.
    fn block_committed(&mut self, now: u64, block: &StoredBlock, storage_ids: &[String]) {
        self.kept.forget(block.id);
        self.cancel_pending(block.id);
        self.end_recovery(block.id);
        let same_stamp = self.blocks.get(block.id).is_some_and(|entry| entry.stamp == block.stamp);
        let known = self.take_stored(block);
        let mut holders = self.usable_storages(storage_ids);
        if same_stamp {
            // An append that wrote nothing: what was corrupt or about to be deleted before still is.
            holders.retain(|storage| {
                let mark = self.blocks.get(block.id).and_then(|entry| entry.replicas.mark_on(*storage));
                let node = self.datanodes.node_of(*storage);
                let going = self.datanodes.node(node).invalidates.stamp_of(block.id);
                mark != Some(Mark::Corrupt) && going.is_none_or(|up_to| up_to < block.stamp)
            });
        }
        for storage in known {
            if holders.contains(&storage) {
                continue;
            }
            let mark = self.blocks.get(block.id).and_then(|entry| entry.replicas.mark_on(storage));
            match mark {
                // Left the pipeline without acknowledging everything. If a whole replica is there after
                // all, the datanode reports it; if a partial one, it is found by that report, too.
                Some(Mark::Writing | Mark::Good) => {
                    self.detach(block.id, storage);
                }
                Some(Mark::Corrupt | Mark::Outdated) | None => {}
            }
        }
        for storage in &holders {
            self.attach(now, block.id, *storage, Mark::Good);
            let node = self.datanodes.node_of(*storage);
            self.datanodes.node_mut(node).invalidates.forget(block.id);
        }
        self.evaluate(now, block.id);
    }

    /// The block is gone; so shall be its replicas.
    fn block_removed(&mut self, now: u64, id: BlockId, stamp: GenerationStamp) {
        self.removed.add(now, id);
        self.forget_block(id, stamp);
    }

    /// Drops everything known about a block and orders the deletion of its replicas.
    pub(super) fn forget_block(&mut self, id: BlockId, stamp: GenerationStamp) {
        self.kept.forget(id);
        self.cancel_pending(id);
        self.end_recovery(id);
        self.outdated_hints.remove(&id);
        self.suspects.forget(id);
        self.failed_copies.forget(id);
        self.set_level(id, None);
        let Some(entry) = self.blocks.remove(id) else { return };
        for replica in entry.replicas.iter() {
            let storage = replica.storage();
            self.uncount(storage, Some(replica.mark()));
            if self.datanodes.usable(storage) {
                let node = self.datanodes.node_of(storage);
                let datanode = self.datanodes.node_mut(node);
                if datanode.serves() {
                    datanode.invalidates.add_deleted(id, stamp.max(entry.stamp));
                }
            }
        }
    }

    /// Brings the entry of a block up to date with the namespace; answers where it has replicas.
    pub(super) fn take_stored(&mut self, block: &StoredBlock) -> SmallVec<[StorageIndex; 4]> {
        let entry = self.blocks.get_or_insert(block);
        entry.stamp = block.stamp;
        entry.length = block.length;
        entry.replication = block.replication;
        entry.state = block.state;
        let known = entry.replicas.iter().map(|replica| replica.storage()).collect();
        if block.state != BlockState::Complete {
            self.outdated_hints.remove(&block.id);
        }
        known
    }

    /// Storages that are known and serve. Others tell what they hold when they come back.
    fn usable_storages(&self, ids: &[String]) -> SmallVec<[StorageIndex; 4]> {
        ids.iter()
            .filter_map(|id| self.datanodes.find_storage(id))
            .filter(|storage| self.datanodes.usable(*storage))
            .collect()
    }
}
