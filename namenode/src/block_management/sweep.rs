//! Walks over the whole block map, a slice at a time.
//!
//! A datanode's death changes what its blocks need. An index of blocks by storage would cost as much
//! memory as the replicas themselves; walking the map costs a few nanoseconds a block, and is cut into
//! slices so that nobody waits for it.

use std::ops::ControlFlow;

use dfs_proto::BlockId;

use super::administration::Worth;
use super::block_manager::BlockManager;
use super::block_map::BlockEntry;
use super::replica_set::Mark;
use crate::namesystem::BlockState;

/// Entries that one tick looks at: about 5 ms under the lock.
const ENTRIES_PER_TICK: usize = 262_144;

/// Blocks that one tick judges anew: about 10 ms under the lock.
const EVALUATIONS_PER_TICK: usize = 16_384;

/// Progress of a walk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sweep {
    /// Next block to look at, while a walk is on.
    next: Option<BlockId>,
    /// Something happened since the walk began: walk again.
    again: bool,
}

impl Sweep {
    /// Asks for a walk over all blocks that are known now.
    pub(super) fn request(&mut self) {
        match self.next {
            None => self.next = Some(BlockId(0)),
            Some(BlockId(0)) => {}
            Some(_) => self.again = true,
        }
    }
}

impl BlockManager {
    /// A walk over all blocks is not finished; calling [`BlockManager::tick`] soon speeds it up.
    pub fn is_sweeping(&self) -> bool {
        self.sweep.next.is_some()
    }

    pub(super) fn run_sweep(&mut self, now: u64) {
        let Some(from) = self.sweep.next else { return };
        let mut looked_at = 0;
        let mut found = Vec::new();
        let walk = self.blocks.range(from, BlockId(u64::MAX)).try_for_each(|entry| {
            if looked_at == ENTRIES_PER_TICK || found.len() == EVALUATIONS_PER_TICK {
                return ControlFlow::Break(entry.id);
            }
            looked_at += 1;
            if self.needs_judging(entry) {
                found.push(entry.id);
            }
            ControlFlow::Continue(())
        });
        self.sweep.next = match walk {
            ControlFlow::Break(next) => Some(next),
            ControlFlow::Continue(()) if std::mem::take(&mut self.sweep.again) => Some(BlockId(0)),
            ControlFlow::Continue(()) => None,
        };
        for id in found {
            self.drop_gone(id);
            self.evaluate(now, id);
        }
    }

    /// Quick test that lets the usual block pass: exactly the wanted number of good replicas, all of
    /// them on datanodes that stay, and no queue.
    fn needs_judging(&self, entry: &BlockEntry) -> bool {
        if entry.replicas.iter().any(|replica| self.datanodes.worth(replica.storage()) != Worth::Stays) {
            return true;
        }
        self.startup.over
            && entry.state == BlockState::Complete
            && (entry.level.is_some()
                || entry.replicas.as_slice().len() != usize::from(entry.replication)
                || entry.replicas.iter().any(|replica| replica.mark() != Mark::Good)
                || self.is_misplaced(entry))
    }

    /// Forgets replicas on dead datanodes that nobody waits for, and on failed storages.
    pub(super) fn drop_gone(&mut self, id: BlockId) {
        let Some(entry) = self.blocks.get(id) else { return };
        let gone: Vec<_> = entry
            .replicas
            .iter()
            .map(|replica| replica.storage())
            .filter(|storage| self.datanodes.worth(*storage) == Worth::Gone)
            .collect();
        for storage in gone {
            self.detach(id, storage);
        }
    }
}
