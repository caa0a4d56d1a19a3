//! When a block may be moved, where to, and when its replica at the source may go: see `balancer` for the invariants.

use dfs_proto::BlockId;
use smallvec::SmallVec;

use super::balancer::Move;
use super::block_manager::BlockManager;
use super::block_map::BlockEntry;
use super::datanode_manager::{NodeIndex, RackIndex, StorageIndex};
use super::replica_set::Mark;
use super::topology;
use crate::namesystem::BlockState;

impl BlockManager {
    /// Complete, in no queue, exactly the replicas wanted, all good and on datanodes that are there.
    pub(super) fn lacks_nothing(&self, entry: &BlockEntry) -> bool {
        let sound = |storage| self.stays_fresh(storage);
        entry.state == BlockState::Complete
            && entry.level.is_none()
            && entry.replicas.as_slice().len() == usize::from(entry.replication)
            && entry.replicas.iter().all(|replica| replica.mark() == Mark::Good && sound(replica.storage()))
            && !self.balancer.moves.contains_key(&entry.id)
            && self.pending.get(entry.id).is_none()
            && !self.suspects.contains(entry.id)
            && !self.recoveries.contains_key(&entry.id)
    }

    /// A replica there counts in full, and its datanode is not even stale.
    pub(super) fn stays_fresh(&self, storage: StorageIndex) -> bool {
        self.datanodes.fresh(storage) && self.datanodes.node(self.datanodes.node_of(storage)).takes()
    }

    /// The datanode has no replica of the block, none that is about to be deleted either, and a replica there instead of
    /// the one at `source` is as safe.
    pub(super) fn may_receive(&self, entry: &BlockEntry, source: StorageIndex, node: NodeIndex) -> bool {
        !self.has_replica_on(entry.id, node)
            && self.datanodes.node(node).invalidates.stamp_of(entry.id).is_none()
            && self.keeps_spread(entry, source, node)
    }

    /// Whether as many racks and data centres have a replica when the one at `source` is replaced by one on `node`, and no
    /// rack gets more than its part.
    fn keeps_spread(&self, entry: &BlockEntry, source: StorageIndex, node: NodeIndex) -> bool {
        let to = self.datanodes.node(node).rack;
        let mut before: SmallVec<[RackIndex; 4]> = SmallVec::new();
        let mut after: SmallVec<[RackIndex; 4]> = SmallVec::new();
        for replica in entry.replicas.iter().filter(|replica| replica.mark() == Mark::Good) {
            let rack = self.datanodes.rack_of(replica.storage());
            before.push(rack);
            after.push(if replica.storage() == source { to } else { rack });
        }
        let there = |racks: &[RackIndex]| racks.iter().filter(|rack| **rack == to).count();
        let cap =
            usize::from(entry.replication).saturating_sub(1) / self.datanodes.serving_racks().max(1) + 2;
        let crowded = self.datanodes.serving_racks() > 1 && there(&after) > there(&before).max(cap);
        let centres = |racks: &[RackIndex]| {
            distinct(racks.iter().map(|rack| topology::site(self.datanodes.rack_name(*rack))))
        };
        !crowded && distinct(after.iter()) >= distinct(before.iter()) && centres(&after) >= centres(&before)
    }

    /// The block is what it was when the move was planned, and both datanodes are there.
    pub(super) fn makes_sense(&self, id: BlockId, moved: &Move) -> bool {
        self.blocks.get(id).is_some_and(|entry| {
            entry.state == BlockState::Complete
                && entry.stamp == moved.stamp
                && self.datanodes.node_of(moved.source) == moved.from
                && self.datanodes.node_of(moved.target) == moved.to
                && entry.replicas.mark_on(moved.source) == Some(Mark::Good)
                && self.stays_fresh(moved.source)
                && self.stays_fresh(moved.target)
        })
    }

    /// Whether the block is as safe without the replica at the source as it was before the move.
    pub(super) fn may_leave(&self, now: u64, id: BlockId, moved: &Move) -> bool {
        let Some(entry) = self.blocks.get(id) else { return false };
        let here = |storage: StorageIndex| self.datanodes.node_of(storage) == moved.to;
        let (mut fresh, mut before, mut after): (usize, SmallVec<[RackIndex; 4]>, SmallVec<[RackIndex; 4]>) =
            Default::default();
        for replica in entry.replicas.iter().filter(|replica| replica.mark() == Mark::Good) {
            let storage = replica.storage();
            if !self.stays_fresh(storage) {
                continue;
            }
            let rack = self.datanodes.rack_of(storage);
            if !here(storage) {
                before.push(rack);
            }
            if storage != moved.source {
                after.push(rack);
                fresh += 1;
            }
        }
        let centres = |racks: &[RackIndex]| {
            distinct(racks.iter().map(|rack| topology::site(self.datanodes.rack_name(*rack))))
        };
        self.makes_sense(id, moved)
            && self.may_trim(now)
            && !self.suspects.contains(id)
            && fresh >= usize::from(entry.replication)
            && distinct(after.iter()) >= distinct(before.iter())
            && centres(&after) >= centres(&before)
    }
}

/// Number of different items; there are few.
fn distinct<T: PartialEq>(items: impl Iterator<Item = T>) -> usize {
    let mut seen: SmallVec<[T; 4]> = SmallVec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen.len()
}
