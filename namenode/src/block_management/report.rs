//! What datanodes tell about their replicas.
//!
//! Reports cross with changes of the namespace and with deletions, so each statement is weighed against
//! what is known: the stamp decides which of two incarnations is meant, a deletion ordered here makes
//! the replica not count, and absence from a full report is believed only for replicas that were not
//! added a moment ago (the datanode may have put the report together before).

use std::ops::Bound;

use dfs_proto::v1::{self, ReplicaEvent, ReplicaState};
use dfs_proto::{BlockId, GenerationStamp};

use super::administration::Worth;
use super::block_manager::{BlockManager, seconds};
use super::block_map::BlockEntry;
use super::datanode_manager::{NodeIndex, StorageIndex};
use super::replica_set::Mark;
use super::report_slice::ReportedReplica;
use crate::namesystem::{BlockState, StoredBlock};

/// A replica added this recently stays although a full report lacks it: longer than it takes a datanode
/// to put a report together and send it.
const RECENT_S: u32 = 60;

impl BlockManager {
    /// A full report of a storage begins.
    pub fn begin_full_report(&mut self, now: u64, storage_id: &str) {
        if let Some(storage) = self.datanodes.find_storage(storage_id) {
            let node = self.datanodes.node_of(storage);
            self.datanodes.node_mut(node).report_asked = now;
        }
    }

    /// Takes one slice of a full report: `slice` holds the replicas of the storage within `range`, ascending,
    /// and `stored` the blocks of the namespace that they belong to, ascending (blocks that the slice
    /// does not name may be among them, or not). What the slice names and `stored` lacks is an orphan. The
    /// ranges of the slices of a report must cover all ids.
    #[allow(clippy::too_many_arguments)]
    pub fn full_report_slice(
        &mut self,
        now: u64,
        uuid: &str,
        storage_id: &str,
        slice: &[ReportedReplica],
        stored: &[StoredBlock],
        range: (Bound<BlockId>, Bound<BlockId>),
        last: bool,
    ) {
        let Some((node, storage)) = self.reporting(uuid, storage_id) else { return };
        self.drop_unreported(now, storage, slice, range);
        let mut blocks = stored.iter().peekable();
        for replica in slice {
            while blocks.next_if(|block| block.id < replica.id).is_some() {}
            if self.deleted.contains((node, replica.id)) {
                // The report is older than the deletion.
                continue;
            }
            let block = blocks.peek().copied().filter(|block| block.id == replica.id);
            self.take_replica(now, storage, replica, block);
        }
        if last {
            self.datanodes.storage_mut(storage).reported = true;
        }
    }

    /// Takes one change. `stored` may be `None` if [`BlockManager::knows`] the block.
    pub fn incremental(
        &mut self,
        now: u64,
        uuid: &str,
        change: &v1::ReplicaChange,
        stored: Option<&StoredBlock>,
    ) {
        if change.event() == ReplicaEvent::CopyFailed {
            let source = self.datanodes.find_node(uuid).filter(|node| self.datanodes.node(*node).serves());
            if let Some(source) = source {
                self.copy_failed(now, source, change);
            }
            return;
        }
        let Some((node, storage)) = self.reporting(uuid, &change.storage_id) else { return };
        let Some(block) = &change.block else { return };
        let state = match change.event() {
            ReplicaEvent::Receiving => ReplicaState::Rbw,
            ReplicaEvent::Received => ReplicaState::Finalized,
            ReplicaEvent::CopyFailed => return,
            ReplicaEvent::Deleted => return self.replica_deleted(now, node, storage, block),
        };
        let (id, stamp, length) = (block.block_id(), block.stamp(), block.length);
        if state == ReplicaState::Rbw && self.is_complete(id, stored) {
            // A copy is on its way in.
            return;
        }
        self.deleted.forget((node, id));
        let replica = ReportedReplica { id, stamp, length, state };
        if self.take_replica(now, storage, &replica, stored) {
            self.copy_verified(now, id, storage);
        }
    }

    /// A reader or a datanode found a replica corrupt.
    pub fn report_bad(
        &mut self,
        now: u64,
        block: &v1::Block,
        storage_id: &str,
        stored: Option<&StoredBlock>,
    ) {
        let id = block.block_id();
        let Some(storage) = self.datanodes.find_storage(storage_id) else { return };
        let usable = self.datanodes.usable(storage);
        if !usable || !self.is_complete(id, stored) || !self.ensure_entry(id, stored) {
            // A block that is being written is its writer's business.
            return;
        }
        let node = self.datanodes.node_of(storage);
        let Some(entry) = self.blocks.get(id) else { return };
        let deleting = self.datanodes.node(node).invalidates.stamp_of(id).is_some();
        if block.stamp() == entry.stamp && !deleting {
            self.found_corrupt(now, id, storage);
            self.evaluate(now, id);
        }
    }

    /// Background check of the namespace against what is known, in ascending slices from the lowest block to
    /// the highest, over and over: finds blocks that no datanode has reported, recoveries that nobody
    /// runs, and entries of blocks that do not exist. Does nothing while reports are still coming in.
    pub fn check_slice(&mut self, now: u64, stored: &[StoredBlock]) {
        let (Some(first), Some(last)) = (stored.first(), stored.last()) else {
            self.check_cursor = None;
            return;
        };
        if !self.startup.over {
            return;
        }
        let from = match self.check_cursor {
            Some(previous) if previous < first.id => BlockId(previous.get() + 1),
            Some(_) | None => first.id,
        };
        self.check_cursor = Some(last.id);
        let unknown: Vec<(BlockId, GenerationStamp)> = self
            .blocks
            .range(from, last.id)
            .filter(|entry| stored.binary_search_by_key(&entry.id, |block| block.id).is_err())
            .map(|entry| (entry.id, entry.stamp))
            .collect();
        for (id, stamp) in unknown {
            self.forget_block(id, stamp);
        }
        for block in stored {
            if self.removed.contains(block.id) {
                continue;
            }
            match block.state {
                BlockState::Complete if !self.knows(block.id) => {
                    self.entry_of(block);
                    self.evaluate(now, block.id);
                }
                BlockState::UnderRecovery if !self.is_recovered(block.id) => {
                    self.overdue_recoveries.insert(block.id, block.inode);
                }
                BlockState::Complete | BlockState::UnderRecovery | BlockState::UnderConstruction => {}
            }
        }
    }

    /// The datanode, if it is registered, and its storage.
    fn reporting(&mut self, uuid: &str, storage_id: &str) -> Option<(NodeIndex, StorageIndex)> {
        let node = self.datanodes.find_node(uuid)?;
        if !self.datanodes.node(node).serves() {
            return None;
        }
        let storage = self.adopt_storage(node, storage_id)?;
        (!self.datanodes.storage(storage).failed).then_some((node, storage))
    }

    /// Forgets replicas on a storage whose full report does not name them.
    fn drop_unreported(
        &mut self,
        now: u64,
        storage: StorageIndex,
        slice: &[ReportedReplica],
        range: (Bound<BlockId>, Bound<BlockId>),
    ) {
        let held = self.datanodes.storage(storage);
        if held.replicas + held.writing == 0 {
            return;
        }
        let from = match range.0 {
            Bound::Included(id) => id,
            Bound::Excluded(id) => BlockId(id.get().saturating_add(1)),
            Bound::Unbounded => BlockId(0),
        };
        let to = match range.1 {
            Bound::Included(id) => id,
            Bound::Excluded(id) => BlockId(id.get().saturating_sub(1)),
            Bound::Unbounded => BlockId(u64::MAX),
        };
        let mut reported = slice.iter().peekable();
        let now_s = seconds(now);
        let mut lost = Vec::new();
        for entry in self.blocks.range(from, to) {
            while reported.next_if(|replica| replica.id < entry.id).is_some() {}
            let named = reported.peek().is_some_and(|replica| replica.id == entry.id);
            if named || now_s.saturating_sub(entry.changed_s) < RECENT_S {
                continue;
            }
            match entry.replicas.mark_on(storage) {
                Some(Mark::Good | Mark::Corrupt | Mark::Outdated) => lost.push(entry.id),
                // The pipeline may not have reached it yet.
                Some(Mark::Writing) | None => {}
            }
        }
        for id in lost {
            self.detach(id, storage);
            self.evaluate(now, id);
        }
    }

    fn replica_deleted(&mut self, now: u64, node: NodeIndex, storage: StorageIndex, block: &v1::Block) {
        let id = block.block_id();
        let invalidates = &mut self.datanodes.node_mut(node).invalidates;
        if invalidates.stamp_of(id).is_some_and(|stamp| block.stamp() <= stamp) {
            invalidates.forget(id);
        }
        let Some(entry) = self.blocks.get(id) else { return };
        self.deleted.add(now, (node, id));
        let current = block.stamp() >= entry.stamp;
        match entry.replicas.mark_on(storage) {
            // An older incarnation went; the one that counts is still there.
            Some(Mark::Good | Mark::Writing) if !current => {}
            Some(Mark::Good | Mark::Writing | Mark::Corrupt | Mark::Outdated) => {
                self.detach(id, storage);
                self.evaluate(now, id);
            }
            None => {}
        }
    }

    /// The block has an entry afterwards, unless it is not in the namespace.
    fn ensure_entry(&mut self, id: BlockId, stored: Option<&StoredBlock>) -> bool {
        if self.knows(id) {
            return true;
        }
        match stored.filter(|_| !self.removed.contains(id)) {
            Some(block) => {
                self.entry_of(block);
                true
            }
            None => false,
        }
    }

    /// The entry of a block. A new one begins with the replicas that the namespace remembers on datanodes in
    /// maintenance: those do not report after a restart of the namenode, and are not to be replaced all the same.
    pub(super) fn entry_of(&mut self, block: &StoredBlock) -> &mut BlockEntry {
        if block.state == BlockState::Complete && !self.knows(block.id) {
            let absent: Vec<StorageIndex> = block
                .hints
                .iter()
                .filter_map(|id| self.datanodes.find_storage(id))
                .filter(|storage| !self.datanodes.usable(*storage))
                .filter(|storage| matches!(self.datanodes.worth(*storage), Worth::Absent { .. }))
                .collect();
            self.blocks.get_or_insert(block);
            for storage in absent {
                // The time of the entry's last change stays: a report that lacks the replica is to be believed.
                if self.has_replica_on(block.id, self.datanodes.node_of(storage)) {
                    continue;
                }
                self.blocks.get_or_insert(block).replicas.set(storage, Mark::Good);
                self.count(storage, Mark::Good);
            }
        }
        self.blocks.get_or_insert(block)
    }

    fn is_complete(&self, id: BlockId, stored: Option<&StoredBlock>) -> bool {
        let known = self.blocks.get(id).map(|entry| entry.state);
        known.or(stored.map(|block| block.state)) == Some(BlockState::Complete)
    }

    /// Answers whether this is a copy that was ordered.
    fn take_replica(
        &mut self,
        now: u64,
        storage: StorageIndex,
        replica: &ReportedReplica,
        stored: Option<&StoredBlock>,
    ) -> bool {
        let id = replica.id;
        let node = self.datanodes.node_of(storage);
        if let Some(block) = stored {
            self.note_interrupted(block);
        }
        if let Some(deleting) = self.datanodes.node(node).invalidates.stamp_of(id) {
            if replica.stamp <= deleting {
                return false;
            }
            self.datanodes.node_mut(node).invalidates.forget(id);
        }
        if !self.ensure_entry(id, stored) {
            if replica.state != ReplicaState::Temporary {
                if self.kept.is_on && !self.removed.contains(id) {
                    self.kept.note(id);
                } else {
                    self.order_deletion(id, node, replica.stamp);
                }
            }
            return false;
        }
        let Some(entry) = self.blocks.get(id) else { return false };
        if self.kept.is_on && replica.stamp > entry.stamp {
            self.kept.note_newer(storage, replica);
            return false;
        }
        let known = entry.replicas.mark_on(storage);
        let mark = if entry.state == BlockState::Complete {
            judge_complete(replica, entry.stamp, entry.length)
        } else {
            judge_open(replica, entry.stamp, known)
        };
        let Some(mark) = mark else { return false };
        if known == Some(Mark::Corrupt) && matches!(mark, Mark::Good | Mark::Writing) {
            // It is still there, and still corrupt: the news of its arrival may be late. A new replica
            // takes its place only after its deletion was ordered, and then it is not known any more.
            return false;
        }
        if mark == Mark::Good {
            let finalizations = &mut self.datanodes.node_mut(node).finalizations;
            match replica.state {
                ReplicaState::Rwr => finalizations.add(id),
                _ => finalizations.forget(id),
            }
        }
        let arrived = mark == Mark::Good && self.settle_pending(id, node);
        if arrived {
            self.meter.add(now, replica.length);
            self.datanodes.node_mut(node).shunned_until = 0;
        }
        if mark == Mark::Corrupt {
            self.found_corrupt(now, id, storage);
        } else if known != Some(mark) {
            self.attach(now, id, storage, mark);
        }
        if mark == Mark::Good {
            self.copy_arrived(now, id, node);
        }
        if mark == Mark::Good && (arrived || self.differs_from_hints(storage, stored)) {
            self.hint_outdated(id);
        }
        if known != Some(mark) || arrived {
            self.evaluate(now, id);
        }
        arrived
    }

    fn differs_from_hints(&self, storage: StorageIndex, stored: Option<&StoredBlock>) -> bool {
        let id = &self.datanodes.storage(storage).id;
        stored.is_some_and(|block| block.state == BlockState::Complete && !block.hints.contains(id))
    }

    /// Blocks whose replicas are elsewhere than the namespace remembers, to be recorded there at leisure.
    pub fn take_hint_updates(&mut self, max: usize) -> Vec<v1::CommittedBlock> {
        let mut updates = Vec::new();
        let mut cursor = BlockId(0);
        while updates.len() < max {
            let Some(id) = self.outdated_hints.range(cursor..).next().copied() else { break };
            cursor = BlockId(id.get().saturating_add(1));
            if self.pending.get(id).is_some() {
                // About to change again.
                continue;
            }
            self.outdated_hints.remove(&id);
            let Some(entry) = self.blocks.get(id).filter(|entry| entry.state == BlockState::Complete) else {
                continue;
            };
            let storage_ids: Vec<String> = self
                .tally(entry)
                .good
                .iter()
                .map(|storage| self.datanodes.storage(*storage).id.clone())
                .collect();
            if !storage_ids.is_empty() {
                let block =
                    v1::Block { id: id.get(), generation_stamp: entry.stamp.get(), length: entry.length };
                updates.push(v1::CommittedBlock { block: Some(block), storage_ids });
            }
        }
        updates
    }
}

/// What a replica of a complete block is worth; `None` if it says nothing.
fn judge_complete(replica: &ReportedReplica, stamp: GenerationStamp, length: u64) -> Option<Mark> {
    match replica.state {
        // An unfinished one that is whole lacks nothing but its name; see `finalizations`.
        // A longer one was there before the block was cut: what is behind its end is never read.
        ReplicaState::Finalized | ReplicaState::Rwr if replica.stamp == stamp && replica.length >= length => {
            Some(Mark::Good)
        }
        // It stopped before the block was closed elsewhere, or belongs to an attempt that was given up.
        _ if replica.stamp < stamp => Some(Mark::Outdated),
        ReplicaState::Finalized | ReplicaState::Rwr => Some(Mark::Corrupt),
        // Its finalization is about to be reported, or it is being copied in or recovered.
        ReplicaState::Rbw | ReplicaState::Rur | ReplicaState::Temporary => None,
    }
}

/// What a replica of a block under construction or recovery is worth; `None` if it says nothing.
fn judge_open(replica: &ReportedReplica, stamp: GenerationStamp, known: Option<Mark>) -> Option<Mark> {
    match replica.state {
        ReplicaState::Temporary | ReplicaState::Rur => None,
        // The pipeline is about to raise its stamp, or left it behind; the end of the write decides.
        _ if replica.stamp < stamp => known.is_none().then_some(Mark::Outdated),
        // A recovery's or a rebuilt pipeline's stamp, which the namespace learns of soon.
        _ if replica.stamp > stamp => None,
        ReplicaState::Finalized | ReplicaState::Rbw | ReplicaState::Rwr => Some(Mark::Writing),
    }
}
