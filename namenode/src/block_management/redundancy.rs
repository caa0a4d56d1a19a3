//! What a block needs: more replicas, fewer, others, or nothing.
//!
//! [`BlockManager::evaluate`] is called after every event that may change the answer. It puts the block
//! into the right queue and orders deletions that are safe; copies are planned by `repair`.

use dfs_proto::{BlockId, GenerationStamp};
use smallvec::SmallVec;

use super::administration::Worth;
use super::block_manager::BlockManager;
use super::block_map::BlockEntry;
use super::datanode_manager::{NodeIndex, RackIndex, StorageIndex};
use super::low_redundancy::Level;
use super::replica_set::Mark;
use crate::namesystem::BlockState;

/// Blocks with replicas to delete that one tick looks at again: a bound on the time under the lock.
const EXCESS_PER_TICK: usize = 1_024;

/// Racks, and data centres, that a block's replicas are spread over if there are as many (HDFS's rule).
const RACKS_WANTED: usize = 2;

/// Replicas of one block by what they are worth. Storages that do not serve are in `absent` at most.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Good replicas: what can be read and copied.
    pub(super) good: SmallVec<[StorageIndex; 4]>,
    /// Those of `good` whose datanode is not stale.
    pub(super) fresh: usize,
    /// Those of `good` that count in full.
    pub(super) staying: SmallVec<[StorageIndex; 4]>,
    /// Good ones that count as long as `floor` others stay. Those on datanodes that are up are in `good`, too.
    pub(super) absent: SmallVec<[StorageIndex; 2]>,
    floor: usize,
    pub(super) corrupt: SmallVec<[StorageIndex; 2]>,
    pub(super) outdated: SmallVec<[StorageIndex; 2]>,
}

impl Tally {
    /// Replicas that have to stay for a block of which `wanted` are wanted.
    pub(super) fn need(&self, wanted: usize) -> usize {
        wanted.saturating_sub(self.absent.len()).max(self.floor.min(wanted))
    }
}

impl BlockManager {
    pub(super) fn tally(&self, entry: &BlockEntry) -> Tally {
        let mut tally = Tally::default();
        for replica in entry.replicas.iter() {
            let storage = replica.storage();
            let worth = self.datanodes.worth(storage);
            if replica.mark() == Mark::Good {
                match worth {
                    Worth::Stays => tally.staying.push(storage),
                    Worth::Absent { floor } => {
                        tally.absent.push(storage);
                        tally.floor = tally.floor.max(floor);
                    }
                    Worth::Leaves | Worth::Gone => {}
                }
            }
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
        let staying = tally.staying.len();
        if good == 0 || staying >= tally.need(wanted) && !self.is_misplaced(entry) {
            // Nothing to copy, or nothing to copy it from. What was sent already goes its way.
            self.cancel_pending(id);
        }
        let level = self.level(id, &tally);
        if good == 0 && entry_level != level {
            self.rescue(id);
        }
        self.set_level(id, level);
        if level.is_none() {
            self.failed_copies.forget(id);
        }
        if staying > wanted {
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
        let (staying, need) = (tally.staying.len(), tally.need(wanted));
        let coming = self.pending.targets_of(id);
        match good {
            0 if tally.corrupt.is_empty() => Some(Level::Missing),
            0 => Some(Level::Corrupt),
            _ if staying < need && staying + coming >= need => Some(Level::Pending),
            // What is in danger is judged by what is there, whatever it counts.
            1 if staying < need && wanted > 1 => Some(Level::OneLeft),
            _ if staying < need && good * 3 < wanted => Some(Level::Badly),
            _ if staying < need => Some(Level::Under),
            _ if self.is_misplaced(entry) => Some(if coming > 0 { Level::Pending } else { Level::Misplaced }),
            _ => None,
        }
    }

    /// The replicas that count are all on one rack, or in one data centre, although there are others and more than
    /// one replica is wanted.
    pub(super) fn is_misplaced(&self, entry: &BlockEntry) -> bool {
        let one_rack = self.datanodes.serving_racks() < RACKS_WANTED;
        if one_rack || usize::from(entry.replication) < RACKS_WANTED {
            return false;
        }
        let counts = |worth| matches!(worth, Worth::Stays | Worth::Absent { .. });
        let counting: SmallVec<[StorageIndex; 4]> = entry
            .replicas
            .iter()
            .filter(|replica| replica.mark() == Mark::Good && counts(self.datanodes.worth(replica.storage())))
            .map(|replica| replica.storage())
            .collect();
        self.crowded(&counting)
    }

    /// Replicas on these storages would be on one rack, or in one data centre, although there are others.
    fn crowded(&self, storages: &[StorageIndex]) -> bool {
        let Some((first, rest)) = storages.split_first() else { return false };
        let first = self.datanodes.rack_of(*first);
        let site = self.datanodes.site_of(first);
        let one_rack = rest.iter().all(|storage| self.datanodes.rack_of(*storage) == first);
        let one_site =
            rest.iter().all(|storage| self.datanodes.site_of(self.datanodes.rack_of(*storage)) == site);
        one_rack && self.datanodes.serving_racks() >= RACKS_WANTED
            || one_site && self.datanodes.serving_sites() >= RACKS_WANTED
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
            tally.staying.iter().copied().filter(|storage| self.datanodes.fresh(*storage)).collect();
        // Replicas on stale datanodes neither count nor go: the datanode may be dead, or come back.
        let stale = tally.staying.len() > kept.len();
        while kept.len() > wanted {
            let at = self.most_dispensable(now, &kept);
            let storage = kept.swap_remove(at);
            self.invalidate(id, storage, stamp);
        }
        self.set_level(id, if stale { Some(Level::Excess) } else { None });
    }

    /// After a restart an earlier leader's deletions may still be on their way to the datanodes, and
    /// their replicas among those counted; trimming waits for the end of the grace.
    pub(super) fn may_trim(&self, now: u64) -> bool {
        let began = self.startup.began.unwrap_or(now);
        !self.startup.restarted || now.saturating_sub(began) >= self.config.startup_grace_ms
    }

    /// Position of the replica whose rack has the most of them, then one on a datanode that comes and goes, and among
    /// those the one with the least free space. A rack with several replicas loses one first, so the number of racks
    /// goes down last; none goes without which the others would be misplaced.
    fn most_dispensable(&self, now: u64, replicas: &[StorageIndex]) -> usize {
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
            let others: SmallVec<[StorageIndex; 8]> =
                replicas.iter().copied().filter(|other| *other != storage).collect();
            let free = self.datanodes.storage(storage).remaining;
            let reliable = !self.datanodes.node(self.datanodes.node_of(storage)).unreliable(now);
            (self.crowded(&others), std::cmp::Reverse(crowd(storage)), reliable, free, storage)
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
        if !tally.corrupt.is_empty() {
            self.verify_others(now, id, tally);
        }
        if tally.fresh >= enough {
            self.condemn_corrupt(id, tally, enough);
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
