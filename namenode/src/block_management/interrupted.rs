//! Recoveries that a restart of the namenode interrupted.
//!
//! Reports name the replicas of blocks under recovery. Such a block is recovered anew as soon as every datanode that is known to have had a
//! replica is back, or counts as dead. Before that one that is on its way might have the better replica; and whoever cuts or closes the
//! file should not wait until all other datanodes have reported. What no report names is found by the background check later.

use std::collections::BTreeMap;

use dfs_proto::{BlockId, InodeId};
use smallvec::SmallVec;

use super::block_manager::BlockManager;
use super::datanode_manager::Liveness;
use crate::namesystem::{BlockState, StoredBlock};

/// Such blocks remembered at most: more files than are closed at a time. Others are found by the background check.
const INTERRUPTED_MAX: usize = 65_536;

/// The blocks, their files, and the storages to wait for, by their ids: some may not be known yet.
#[derive(Debug, Default)]
pub(super) struct Interrupted(BTreeMap<BlockId, (InodeId, SmallVec<[String; 4]>)>);

impl Interrupted {
    pub(super) fn forget(&mut self, id: BlockId) {
        self.0.remove(&id);
    }
}

impl BlockManager {
    /// A report names a replica of this block.
    pub(super) fn note_interrupted(&mut self, block: &StoredBlock) {
        let is_news = block.state == BlockState::UnderRecovery
            && !self.startup.over
            && !self.removed.contains(block.id)
            && !self.is_recovered(block.id)
            && self.interrupted.0.len() < INTERRUPTED_MAX;
        if is_news {
            let hints = block.hints.iter().cloned().collect();
            self.interrupted.0.insert(block.id, (block.inode, hints));
        }
    }

    /// Whether somebody is at it. A recovery that was replayed from the log at a start is nobody's: no datanode was known then.
    pub(super) fn is_recovered(&self, id: BlockId) -> bool {
        self.recoveries.get(&id).is_some_and(|recovery| !recovery.is_nobodys())
    }

    /// Has those recovered whose datanodes are there.
    pub(super) fn resume_interrupted(&mut self) {
        // When startup is over, those that are away are not waited for any more.
        let starting = !self.startup.over;
        let awaited = |storage: &String| {
            let node = self.datanodes.find_storage(storage).map(|found| self.datanodes.node_of(found));
            starting && node.is_none_or(|node| self.datanodes.node(node).liveness == Liveness::Expected)
        };
        let ready = self.interrupted.0.extract_if(.., |_, (_, storages)| !storages.iter().any(awaited));
        self.overdue_recoveries.extend(ready.map(|(id, (inode, _))| (id, inode)));
    }
}
