//! Replicas that are kept although the namespace does not know them: after it was restored from a backup, they may be all
//! that is left of what was written since.

use std::collections::BTreeSet;

use dfs_proto::BlockId;

use super::block_manager::BlockManager;

/// Blocks that are counted at most: some MB. More are kept all the same.
const COUNTED_MAX: usize = 1_000_000;

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Nothing unknown is deleted.
    pub(super) is_on: bool,
    blocks: BTreeSet<BlockId>,
}

impl Kept {
    /// Notes that a replica of a block would have been deleted.
    pub(super) fn note(&mut self, id: BlockId) {
        if self.blocks.len() < COUNTED_MAX {
            self.blocks.insert(id);
        }
    }
}

impl BlockManager {
    /// Has replicas kept that the namespace does not know, or ends that: then they are deleted with the next full
    /// reports.
    pub fn keep_unknown(&mut self, on: bool) {
        self.kept = Kept { is_on: on, ..Kept::default() };
    }

    /// Blocks, unknown or newer than the namespace knows, of which replicas are kept; `None` if none are.
    pub fn kept_blocks(&self) -> Option<u64> {
        self.kept.is_on.then_some(self.kept.blocks.len() as u64)
    }
}
