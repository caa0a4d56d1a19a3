//! The block manager's state and its primitive changes; the other files of this module add the events.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::{BlockId, GenerationStamp, InodeId};

use super::balancer::Balancer;
use super::block_map::BlockMap;
use super::config::BlockManagementConfig;
use super::datanode_manager::{DatanodeManager, NodeIndex, StorageIndex};
use super::drain::DrainScan;
use super::failed_copies::FailedCopies;
use super::interrupted::Interrupted;
use super::kept::Kept;
use super::low_redundancy::{Level, LowRedundancy};
use super::pending::{Pending, PendingTransfers};
use super::random::Random;
use super::recent::RecentDeletions;
use super::recovery::Recovery;
use super::repair_meter::RepairMeter;
use super::replica_set::Mark;
use super::suspects::Suspects;
use super::sweep::Sweep;

/// Blocks whose hints in the namespace are out of date, remembered at most. Beyond that hints stay as
/// they are until the next change or full report: they only matter right after a restart.
const HINT_UPDATES_MAX: usize = 262_144;

/// What the namenode knows about blocks, replicas and datanodes. See the module for who calls it and
/// for the invariants.
#[derive(Debug)]
pub struct BlockManager {
    pub(super) config: BlockManagementConfig,
    pub(super) datanodes: DatanodeManager,
    pub(super) blocks: BlockMap,
    pub(super) queues: LowRedundancy,
    pub(super) pending: PendingTransfers,
    pub(super) recoveries: BTreeMap<BlockId, Recovery>,
    pub(super) overdue_recoveries: BTreeMap<BlockId, InodeId>,
    pub(super) interrupted: Interrupted,
    /// Blocks that the namespace removed a moment ago.
    pub(super) removed: RecentDeletions<BlockId>,
    /// Replicas of blocks that still exist, deleted a moment ago.
    pub(super) deleted: RecentDeletions<(NodeIndex, BlockId)>,
    /// Replicas that are kept after a restore.
    pub(super) kept: Kept,
    pub(super) suspects: Suspects,
    pub(super) outdated_hints: BTreeSet<BlockId>,
    pub(super) sweep: Sweep,
    pub(super) balancer: Balancer,
    pub(super) startup: Startup,
    pub(super) last_tick: Option<u64>,
    /// Last block of the previous slice of the background check.
    pub(super) check_cursor: Option<BlockId>,
    pub(super) drain_scan: DrainScan,
    pub(super) failed_copies: FailedCopies,
    pub(super) meter: RepairMeter,
    /// Bytes a second that each datanode may spend on repair; 0: as it sees fit.
    pub(super) repair_bandwidth: u64,
    pub(super) random: Random,
}

/// The time after a start in which reports are still coming in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Startup {
    /// Time of the first event.
    pub(super) began: Option<u64>,
    /// All known datanodes have reported, or the grace is over: redundancy is judged from now on.
    pub(super) over: bool,
    /// Datanodes were known before this namenode started: this is a restart. Those that are recorded
    /// before the first tick, when a new cluster starts, do not make it one.
    pub(super) restarted: bool,
}

impl BlockManager {
    /// Knows nothing yet.
    pub fn new(config: BlockManagementConfig) -> Self {
        let random = Random::new(config.seed);
        Self {
            config,
            datanodes: DatanodeManager::default(),
            blocks: BlockMap::default(),
            queues: LowRedundancy::default(),
            pending: PendingTransfers::default(),
            recoveries: BTreeMap::new(),
            overdue_recoveries: BTreeMap::new(),
            interrupted: Interrupted::default(),
            removed: RecentDeletions::default(),
            deleted: RecentDeletions::default(),
            kept: Kept::default(),
            suspects: Suspects::default(),
            outdated_hints: BTreeSet::new(),
            sweep: Sweep::default(),
            balancer: Balancer::default(),
            startup: Startup::default(),
            last_tick: None,
            check_cursor: None,
            drain_scan: DrainScan::default(),
            failed_copies: FailedCopies::default(),
            meter: RepairMeter::default(),
            repair_bandwidth: 0,
            random,
        }
    }

    /// The block manager has an entry for the block: then the `stored` argument of
    /// [`BlockManager::incremental`] may be `None`, which saves a look into the namespace.
    pub fn knows(&self, id: BlockId) -> bool {
        self.blocks.get(id).is_some()
    }

    /// Reports are still coming in after a start: nothing is repaired, deleted for being in excess, or
    /// called missing yet.
    pub fn is_starting(&self) -> bool {
        !self.startup.over
    }

    /// Records a replica of a block that has an entry. A replica on another storage of the same
    /// datanode gives way: a datanode has one replica of a block, and it moved.
    ///
    /// Answers the mark that the replica had.
    pub(super) fn attach(
        &mut self,
        now: u64,
        id: BlockId,
        storage: StorageIndex,
        mark: Mark,
    ) -> Option<Mark> {
        let node = self.datanodes.node_of(storage);
        let elsewhere = self.blocks.get(id).and_then(|entry| {
            entry
                .replicas
                .iter()
                .map(|replica| replica.storage())
                .find(|other| *other != storage && self.datanodes.node_of(*other) == node)
        });
        if let Some(other) = elsewhere {
            self.detach(id, other);
        }
        let entry = self.blocks.get_mut(id)?;
        let before = entry.replicas.set(storage, mark);
        if before != Some(mark) {
            entry.changed_s = seconds(now);
            self.uncount(storage, before);
            self.count(storage, mark);
        }
        before
    }

    /// Forgets a replica; answers the mark it had.
    pub(super) fn detach(&mut self, id: BlockId, storage: StorageIndex) -> Option<Mark> {
        let mark = self.blocks.get_mut(id)?.replicas.remove(storage);
        self.uncount(storage, mark);
        mark
    }

    /// Whether a replica of the block is known on the datanode, whatever it is worth.
    pub(super) fn has_replica_on(&self, id: BlockId, node: NodeIndex) -> bool {
        self.blocks.get(id).is_some_and(|entry| {
            entry.replicas.iter().any(|replica| self.datanodes.node_of(replica.storage()) == node)
        })
    }

    /// The replica with this stamp is ordered to be deleted, or its datanode deleted it a moment ago.
    pub(super) fn is_going(&self, id: BlockId, storage: StorageIndex, stamp: GenerationStamp) -> bool {
        let node = self.datanodes.node_of(storage);
        let ordered = self.datanodes.node(node).invalidates.stamp_of(id);
        ordered.is_some_and(|up_to| up_to >= stamp) || self.deleted.contains((node, id))
    }

    pub(super) fn count(&mut self, storage: StorageIndex, mark: Mark) {
        let node = self.datanodes.node_of(storage);
        let counted = self.datanodes.storage_mut(storage);
        if mark == Mark::Writing {
            counted.writing += 1;
            self.datanodes.node_mut(node).writing += 1;
        } else {
            counted.replicas += 1;
        }
    }

    pub(super) fn uncount(&mut self, storage: StorageIndex, mark: Option<Mark>) {
        let node = self.datanodes.node_of(storage);
        let counted = self.datanodes.storage_mut(storage);
        match mark {
            Some(Mark::Writing) => {
                counted.writing -= 1;
                self.datanodes.node_mut(node).writing -= 1;
            }
            Some(Mark::Good | Mark::Corrupt | Mark::Outdated) => counted.replicas -= 1,
            None => {}
        }
    }

    pub(super) fn set_level(&mut self, id: BlockId, level: Option<Level>) {
        if let Some(entry) = self.blocks.get_mut(id) {
            self.queues.moved(id, entry.level, level);
            entry.level = level;
        }
    }

    pub(super) fn add_pending(&mut self, id: BlockId, order: Pending) {
        let source = self.datanodes.node_mut(order.source);
        source.outgoing.add(order.bytes);
        source.transfers.push(id);
        for target in &order.targets {
            let node = self.datanodes.node_of(*target);
            self.datanodes.node_mut(node).incoming.add(order.bytes);
        }
        self.pending.insert(id, order);
    }

    /// Gives up what is left of the order for a block; its source is told, in case it has not begun.
    pub(super) fn cancel_pending(&mut self, id: BlockId) {
        let Some(order) = self.pending.get(id) else { return };
        let (source, sent) = (order.source, order.sent);
        self.end_pending(id);
        let source = self.datanodes.node_mut(source);
        if sent && source.serves() {
            source.withdrawals.push(id);
        }
    }

    /// Nothing is left of the order for a block.
    fn end_pending(&mut self, id: BlockId) {
        let Some(order) = self.pending.remove(id) else { return };
        for target in &order.targets {
            let node = self.datanodes.node_of(*target);
            self.datanodes.node_mut(node).incoming.sub(order.bytes);
        }
        self.datanodes.node_mut(order.source).outgoing.sub(order.bytes);
        if !order.sent {
            self.datanodes.node_mut(order.source).transfers.retain(|queued| *queued != id);
        }
    }

    /// The copy that was ordered to datanode `node` has arrived or will not: answers whether there was one.
    pub(super) fn settle_pending(&mut self, id: BlockId, node: NodeIndex) -> bool {
        let datanodes = &self.datanodes;
        let Some(order) = self.pending.get_mut(id) else { return false };
        let Some(at) = order.targets.iter().position(|target| datanodes.node_of(*target) == node) else {
            return false;
        };
        if order.targets.len() == 1 {
            self.end_pending(id);
            return true;
        }
        order.targets.remove(at);
        let bytes = order.bytes;
        self.datanodes.node_mut(node).incoming.sub(bytes);
        true
    }

    /// The locations of a block differ from the hints that the namespace has for it.
    pub(super) fn hint_outdated(&mut self, id: BlockId) {
        if self.outdated_hints.len() < HINT_UPDATES_MAX {
            self.outdated_hints.insert(id);
        }
    }
}

/// Seconds of the monotonic clock, as block map entries keep them: enough for 136 years of running.
pub(super) fn seconds(now: u64) -> u32 {
    u32::try_from(now / 1_000).unwrap_or(u32::MAX)
}
