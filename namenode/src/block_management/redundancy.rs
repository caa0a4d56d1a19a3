//! What a block needs: more replicas, fewer, others, or nothing.
//!
//! [`BlockManager::evaluate`] is called after every event that may change the answer. It puts the block
//! into the right queue and orders deletions that are safe; copies are planned by `repair`.

use dfs_proto::{BlockId, GenerationStamp};
use smallvec::SmallVec;

use super::block_manager::BlockManager;
use super::block_map::BlockEntry;
use super::datanode_manager::{NodeIndex, RackIndex, StorageIndex};
use super::low_redundancy::Level;
use super::replica_set::Mark;
use crate::namesystem::BlockState;

/// Blocks with replicas to delete that one tick looks at again: a bound on the time under the lock.
const EXCESS_PER_TICK: usize = 1_024;

/// Racks that a block's replicas are spread over if there are as many (HDFS's rule).
const RACKS_WANTED: usize = 2;

/// Replicas of one block by what they are worth. Storages that do not serve are not in it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Good replicas.
    pub(super) good: SmallVec<[StorageIndex; 4]>,
    /// Those of `good` whose datanode is not stale.
    pub(super) fresh: usize,
    pub(super) corrupt: SmallVec<[StorageIndex; 2]>,
    pub(super) outdated: SmallVec<[StorageIndex; 2]>,
}

impl BlockManager {
    pub(super) fn tally(&self, entry: &BlockEntry) -> Tally {
        let mut tally = Tally::default();
        for replica in entry.replicas.iter() {
            let storage = replica.storage();
            if !self.datanodes.usable(storage) {
                continue;
            }
            match replica.mark() {
                Mark::Good => {
                    tally.good.push(storage);
                    tally.fresh += usize::from(self.datanodes.fresh(storage));
                }
                Mark::Corrupt => tally.corrupt.push(storage),
                Mark::Outdated => tally.outdated.push(storage),
                Mark::Writing => {}
            }
        }
        tally
    }

    /// Judges a block anew.
    pub(super) fn evaluate(&mut self, now: u64, id: BlockId) {
        if !self.startup.over {
            return;
        }
        let Some(entry) = self.blocks.get(id) else { return };
        if entry.state != BlockState::Complete {
            self.cancel_pending(id);
            self.set_level(id, None);
            return;
        }
        if self.suspects.contains(id) && self.tally(entry).good.is_empty() {
            self.recall_condemned(now, id);
        }
        let Some(entry) = self.blocks.get(id) else { return };
        let tally = self.tally(entry);
        let (good, wanted, entry_level) = (tally.good.len(), usize::from(entry.replication), entry.level);
        if good == 0 || good >= wanted && !self.is_misplaced(entry) {
            // Nothing to copy, or nothing to copy it from. What was sent already goes its way.
            self.cancel_pending(id);
        }
        let level = self.level(id, &tally);
        if good == 0 && entry_level != level {
            self.rescue(id);
        }
        self.set_level(id, level);
        if good > wanted {
            if self.suspects.contains(id) {
                // Any of the good ones may turn out bad; the corrupt ones are dealt with first.
                self.set_level(id, Some(Level::Excess));
            } else {
                self.trim_excess(now, id, &tally);
            }
        }
        self.drop_bad(now, id, &tally);
        self.wait_to_drop(id);
    }

    /// No good replica is left: deletions that were ordered while there was one, and are not confirmed,
    /// must not be carried out. Full reports tell which replicas are there after all.
    fn rescue(&mut self, id: BlockId) {
        for node in self.datanodes.indices() {
            let datanode = self.datanodes.node_mut(node);
            if datanode.invalidates.forget(id) {
                datanode.report_wanted = true;
            }
        }
    }

    /// A block that lacks nothing but still has a replica to delete is looked at again.
    fn wait_to_drop(&mut self, id: BlockId) {
        let Some(entry) = self.blocks.get(id) else { return };
        let (tally, level) = (self.tally(entry), entry.level);
        let corrupt = !tally.corrupt.is_empty();
        let unconfirmed = self.settle_suspect(id, corrupt);
        if level.is_none() && (corrupt || unconfirmed || !tally.outdated.is_empty()) {
            self.set_level(id, Some(Level::Excess));
        }
    }

    fn level(&self, id: BlockId, tally: &Tally) -> Option<Level> {
        let entry = self.blocks.get(id)?;
        let (good, wanted) = (tally.good.len(), usize::from(entry.replication));
        let coming = self.pending.targets_of(id);
        match good {
            0 if tally.corrupt.is_empty() => Some(Level::Missing),
            0 => Some(Level::Corrupt),
            _ if good < wanted && good + coming >= wanted => Some(Level::Pending),
            1 if wanted > 1 => Some(Level::OneLeft),
            _ if good * 3 < wanted => Some(Level::Badly),
            _ if good < wanted => Some(Level::Under),
            _ if self.is_misplaced(entry) => Some(if coming > 0 { Level::Pending } else { Level::Misplaced }),
            _ => None,
        }
    }

    /// All good replicas are on one rack although there are others and more than one replica is wanted.
    pub(super) fn is_misplaced(&self, entry: &BlockEntry) -> bool {
        if self.datanodes.serving_racks() < RACKS_WANTED || usize::from(entry.replication) < RACKS_WANTED {
            return false;
        }
        let mut racks = entry
            .replicas
            .iter()
            .filter(|replica| replica.mark() == Mark::Good && self.datanodes.usable(replica.storage()))
            .map(|replica| self.datanodes.rack_of(replica.storage()));
        match racks.next() {
            Some(first) => racks.all(|rack| rack == first),
            None => false,
        }
    }

    /// Deletes replicas beyond the wanted number, as long as that number of good ones on datanodes that
    /// are not stale stays.
    fn trim_excess(&mut self, now: u64, id: BlockId, tally: &Tally) {
        let Some(entry) = self.blocks.get(id) else { return };
        let (stamp, wanted) = (entry.stamp, usize::from(entry.replication));
        if self.is_misplaced(entry) {
            // First it gets a replica on another rack.
            return;
        }
        if !self.may_trim(now) {
            self.set_level(id, Some(Level::Excess));
            return;
        }
        let mut kept: SmallVec<[StorageIndex; 8]> =
            tally.good.iter().copied().filter(|storage| self.datanodes.fresh(*storage)).collect();
        while kept.len() > wanted {
            let at = self.most_dispensable(&kept);
            let storage = kept.swap_remove(at);
            self.invalidate(id, storage, stamp);
        }
        // Replicas on stale datanodes neither count nor go: the datanode may be dead, or come back.
        let stale = tally.good.len() > tally.fresh;
        self.set_level(id, if stale { Some(Level::Excess) } else { None });
    }

    /// After a restart an earlier leader's deletions may still be on their way to the datanodes, and
    /// their replicas among those counted; trimming waits for the end of the grace.
    fn may_trim(&self, now: u64) -> bool {
        let began = self.startup.began.unwrap_or(now);
        !self.startup.restarted || now.saturating_sub(began) >= self.config.startup_grace_ms
    }

    /// Position of the replica whose rack has the most of them, and among those with the least free
    /// space. A rack with several replicas loses one first, so the number of racks goes down last.
    fn most_dispensable(&self, replicas: &[StorageIndex]) -> usize {
        let mut racks: SmallVec<[(RackIndex, usize); 8]> = SmallVec::new();
        for storage in replicas {
            let rack = self.datanodes.rack_of(*storage);
            match racks.iter_mut().find(|(known, _)| *known == rack) {
                Some((_, count)) => *count += 1,
                None => racks.push((rack, 1)),
            }
        }
        let crowd = |storage: StorageIndex| {
            let rack = self.datanodes.rack_of(storage);
            racks.iter().find(|(known, _)| *known == rack).map_or(0, |(_, count)| *count)
        };
        let key = |storage: StorageIndex| {
            let free = self.datanodes.storage(storage).remaining;
            (std::cmp::Reverse(crowd(storage)), free, storage)
        };
        let dispensable = replicas.iter().enumerate().min_by_key(|(_, storage)| key(**storage));
        dispensable.map_or(0, |(at, _)| at)
    }

    /// Deletes replicas that are worth nothing, once enough good ones exist.
    pub(super) fn drop_bad(&mut self, now: u64, id: BlockId, tally: &Tally) {
        let Some(entry) = self.blocks.get(id) else { return };
        let (stamp, wanted) = (entry.stamp, usize::from(entry.replication));
        if tally.fresh >= 1 {
            for storage in &tally.outdated {
                // What is deleted is older than the block's stamp: should the storage have got a new
                // replica in the meantime, that one stays.
                self.invalidate(id, *storage, GenerationStamp(stamp.get().saturating_sub(1)));
            }
        }
        // A corrupt replica occupies its datanode: on a small cluster no other one may be left for the
        // copy. So enough means: every datanode without a corrupt replica has a good one, if fewer of
        // them than wanted are there.
        let nodes = self.datanodes.live().len();
        let enough = wanted.min(nodes.saturating_sub(tally.corrupt.len())).max(1);
        if tally.fresh >= enough {
            self.condemn_corrupt(now, id, tally);
        }
    }

    /// Forgets a replica and orders its deletion, up to `stamp`.
    pub(super) fn invalidate(&mut self, id: BlockId, storage: StorageIndex, stamp: GenerationStamp) {
        self.detach(id, storage);
        self.order_deletion(id, self.datanodes.node_of(storage), stamp);
    }

    pub(super) fn order_deletion(&mut self, id: BlockId, node: NodeIndex, stamp: GenerationStamp) {
        let datanode = self.datanodes.node_mut(node);
        if datanode.serves() {
            datanode.invalidates.add(id, stamp);
        }
    }

    /// Looks again at blocks with replicas that could not safely be deleted before.
    pub(super) fn retry_excess(&mut self, now: u64) {
        if self.startup.over {
            for id in self.queues.batch(Level::Excess, EXCESS_PER_TICK) {
                self.evaluate(now, id);
            }
        }
    }
}
