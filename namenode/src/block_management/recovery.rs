//! Block recovery: the replicas of a block whose writer is gone (or that is being truncated) are brought
//! to one length and stamp by one of their datanodes, the primary.
//!
//! A recovery that does not finish in time is not repeated as it is: the service proposes it again, which
//! gives it a new stamp, and of two recoveries the higher stamp wins.

use std::collections::BTreeSet;

use dfs_proto::v1::datanode_command::Command;
use dfs_proto::{BlockId, GenerationStamp, InodeId, v1};
use smallvec::SmallVec;

use super::block_manager::BlockManager;
use super::datanode_manager::{Liveness, NodeIndex, StorageIndex};
use super::liveness::command;
use super::replica_set::Mark;
use crate::namesystem::StoredBlock;

/// Pause before a recovery that its primary could not make is begun anew; doubled with each attempt, up to the time that one
/// may take. What is missing is often back in a second; what is not must not fill the log.
const FAILED_PAUSE_MS: u64 = 1_000;

/// Doublings at most: the time that a recovery may take is reached before.
const DOUBLINGS_MAX: usize = 16;

/// Attempts that are told of replicas which cannot be reached now. With the pauses between them they last some four minutes: a datanode that
/// restarts, or whose network is mended, is back by then. After them a file is closed with what there is.
const PATIENT_ATTEMPTS: usize = 20;

/// One recovery.
#[derive(Clone, Debug)]
pub(super) struct Recovery {
    inode: InodeId,
    /// Block as the recovery found it.
    block: v1::Block,
    new_stamp: GenerationStamp,
    truncate_length: Option<u64>,
    storages: SmallVec<[StorageIndex; 4]>,
    /// Storages that had a replica and are not known, as long as their datanodes have not registered since a start.
    unknown: usize,
    /// Datanodes that may be primary: the first of them that asks for orders is, so that one that stands still cannot be.
    offered: SmallVec<[NodeIndex; 4]>,
    primary: Option<NodeIndex>,
    /// It had a primary, which may still be at it: nobody else gets the same stamp.
    lost: bool,
    /// Primary of the attempt before: another one is tried, if there is one.
    tried: Option<NodeIndex>,
    deadline: u64,
    /// How often the recovery was started.
    attempt: usize,
}

impl Recovery {
    /// It has no datanodes.
    pub(super) fn is_nobodys(&self) -> bool {
        self.storages.is_empty()
    }

    /// Its primary does not do it.
    fn lose_primary(&mut self) {
        self.tried = self.primary.take();
        self.lost = true;
    }
}

impl BlockManager {
    pub(super) fn recovery_started(
        &mut self,
        now: u64,
        block: &StoredBlock,
        storage_ids: &[String],
        new_stamp: GenerationStamp,
        truncate_length: Option<u64>,
    ) {
        self.cancel_pending(block.id);
        let replicas = self.take_stored(block);
        let remembered: SmallVec<[StorageIndex; 4]> =
            storage_ids.iter().filter_map(|id| self.datanodes.find_storage(id)).collect();
        let mark_on = |storage| self.blocks.get(block.id).and_then(|entry| entry.replicas.mark_on(storage));
        let mut storages = remembered.clone();
        storages.retain(|storage| match mark_on(*storage) {
            Some(Mark::Good | Mark::Writing) => true,
            Some(Mark::Corrupt) => false,
            Some(Mark::Outdated) | None => !self.is_going(block.id, *storage, block.stamp),
        });
        for storage in replicas {
            if matches!(mark_on(storage), Some(Mark::Good | Mark::Writing)) && !storages.contains(&storage) {
                storages.push(storage);
            }
        }
        if storages.is_empty() {
            // Nothing else is left: the datanodes say whether anything is there.
            storages = remembered;
        }
        let unknown = storage_ids.iter().filter(|id| self.datanodes.find_storage(id).is_none()).count();
        let before = self.recoveries.get(&block.id);
        let attempt = before.map_or(0, |before| before.attempt + 1);
        let tried = before.and_then(|before| before.primary.or(before.tried));
        self.end_recovery(block.id);
        let deadline = now.saturating_add(self.config.recovery_timeout_ms);
        let recovery = Recovery {
            inode: block.inode,
            block: block.to_proto(),
            new_stamp,
            truncate_length,
            storages,
            unknown,
            offered: SmallVec::new(),
            primary: None,
            lost: false,
            tried,
            deadline,
            attempt,
        };
        self.recoveries.insert(block.id, recovery);
        self.set_level(block.id, None);
        self.offer(block.id);
    }

    /// The recovery of a block is over, or about to be started anew.
    pub(super) fn end_recovery(&mut self, id: BlockId) {
        self.overdue_recoveries.remove(&id);
        self.interrupted.forget(id);
        for node in self.recoveries.remove(&id).map(|recovery| recovery.offered).unwrap_or_default() {
            self.datanodes.node_mut(node).recoveries.retain(|queued| *queued != id);
        }
    }

    /// The primary could not bring the replicas together.
    pub fn recovery_failed(&mut self, now: u64, id: BlockId, new_stamp: GenerationStamp) {
        let timeout_ms = self.config.recovery_timeout_ms;
        let told = self.recoveries.get_mut(&id).filter(|recovery| recovery.new_stamp == new_stamp);
        if let Some(recovery) = told {
            let pause = (FAILED_PAUSE_MS << recovery.attempt.min(DOUBLINGS_MAX)).min(timeout_ms);
            recovery.deadline = recovery.deadline.min(now.saturating_add(pause));
        }
    }

    /// A datanode has started: it knows nothing of the recoveries that were its own, which are begun anew.
    pub(super) fn recoveries_lost_with(&mut self, now: u64, node: NodeIndex) {
        let deadline = now.saturating_add(self.config.recovery_timeout_ms);
        for (id, recovery) in &mut self.recoveries {
            recovery.offered.retain(|offered| *offered != node);
            if recovery.primary == Some(node) {
                recovery.lose_primary();
                recovery.deadline = deadline;
                self.overdue_recoveries.insert(*id, recovery.inode);
            }
        }
    }

    /// Whether a recovery of a block of this file is under way and still has time. Proposing another one would
    /// give a new stamp and so defeat it.
    pub fn recovers(&self, now: u64, inode: InodeId) -> bool {
        self.recoveries.values().any(|recovery| recovery.inode == inode && recovery.deadline > now)
    }

    /// Recoveries that must be proposed again: the file, and a block in it. A file is named once, however many
    /// of its blocks are overdue: proposing it starts all of them anew.
    pub fn take_overdue_recoveries(&mut self) -> Vec<(InodeId, BlockId)> {
        let overdue = std::mem::take(&mut self.overdue_recoveries);
        let mut named = BTreeSet::new();
        overdue.into_iter().map(|(id, inode)| (inode, id)).filter(|(inode, _)| named.insert(*inode)).collect()
    }

    /// Finds recoveries that take too long, lost their primary, or never had one. One whose primary has fallen silent is begun
    /// anew at once if another datanode could be primary: the callers who wait for it should not wait for the silence to end.
    pub(super) fn check_recoveries(&mut self, now: u64) {
        self.resume_interrupted();
        let datanodes = &self.datanodes;
        let timeout_ms = self.config.recovery_timeout_ms;
        let mut waiting = Vec::new();
        for (id, recovery) in &mut self.recoveries {
            let others = || recovery.storages.iter().any(|storage| datanodes.fresh(*storage));
            let lost = recovery.primary.is_some_and(|primary| match datanodes.node(primary).liveness {
                Liveness::Live => false,
                Liveness::Stale => others(),
                Liveness::Expected | Liveness::Dead => true,
            });
            if recovery.deadline <= now || lost {
                self.overdue_recoveries.insert(*id, recovery.inode);
                // Should the proposal fail, it is asked for again.
                recovery.deadline = now.saturating_add(timeout_ms);
                if lost {
                    recovery.lose_primary();
                }
            } else if recovery.primary.is_none() && !recovery.lost {
                waiting.push(*id);
            }
        }
        for id in waiting {
            self.offer(id);
        }
    }

    /// Offers the recovery to the live datanodes of the block, but for the one that was tried last.
    fn offer(&mut self, id: BlockId) {
        let datanodes = &mut self.datanodes;
        let Some(recovery) = self.recoveries.get_mut(&id) else { return };
        let able = |usable: &dyn Fn(StorageIndex) -> bool| -> SmallVec<[NodeIndex; 4]> {
            let storages = recovery.storages.iter().copied().filter(|storage| usable(*storage));
            storages.map(|storage| datanodes.node_of(storage)).collect()
        };
        let mut nodes = able(&|storage| datanodes.fresh(storage));
        if nodes.is_empty() {
            nodes = able(&|storage| datanodes.usable(storage));
        }
        if nodes.iter().any(|node| Some(*node) != recovery.tried) {
            nodes.retain(|node| Some(*node) != recovery.tried);
        }
        for node in nodes {
            if !recovery.offered.contains(&node) {
                recovery.offered.push(node);
                datanodes.node_mut(node).recoveries.push(id);
            }
        }
    }

    pub(super) fn take_recovery_commands(
        &mut self,
        now: u64,
        node: NodeIndex,
        commands: &mut Vec<v1::DatanodeCommand>,
    ) {
        for id in std::mem::take(&mut self.datanodes.node_mut(node).recoveries) {
            let untaken = self.recoveries.get_mut(&id).filter(|r| r.primary.is_none() && !r.lost);
            let Some(recovery) = untaken else { continue };
            recovery.primary = Some(node);
            recovery.deadline = now.saturating_add(self.config.recovery_timeout_ms);
            let usable = recovery.storages.iter().filter(|storage| self.datanodes.usable(**storage));
            let locations: Vec<_> = usable.map(|storage| self.datanodes.location(*storage)).collect();
            let away = recovery.unknown + recovery.storages.len() - locations.len();
            let away = if recovery.attempt < PATIENT_ATTEMPTS { away } else { 0 };
            commands.push(command(Command::RecoverBlock(v1::RecoverBlockCommand {
                block: Some(recovery.block),
                locations,
                new_generation_stamp: recovery.new_stamp.get(),
                truncate_length: recovery.truncate_length,
                away: u32::try_from(away).unwrap_or(u32::MAX),
            })));
        }
    }
}
