//! Blocks removed a moment ago.
//!
//! A caller looks blocks up in the namespace and then calls the block manager; a block removed between
//! the two must not come back to life. The namespace never uses a block id again.

use std::collections::{HashSet, VecDeque};

use dfs_proto::BlockId;

/// How long a removal is remembered: far longer than a caller holds what it looked up.
const REMEMBERED_MS: u64 = 30_000;

/// Removals remembered at most, the latest ones (about 32 MiB): deleting a million blocks within the time
/// above is faster than the namespace frees them.
const REMOVED_MAX: usize = 1 << 20;

/// The removals.
#[derive(Debug, Default)]
pub(super) struct RemovedBlocks {
    order: VecDeque<(u64, BlockId)>,
    ids: HashSet<BlockId>,
}

impl RemovedBlocks {
    pub(super) fn add(&mut self, now: u64, id: BlockId) {
        if self.ids.insert(id) {
            self.order.push_back((now, id));
        }
        while self.order.len() > REMOVED_MAX {
            self.pop();
        }
    }

    pub(super) fn contains(&self, id: BlockId) -> bool {
        self.ids.contains(&id)
    }

    pub(super) fn expire(&mut self, now: u64) {
        while self.order.front().is_some_and(|(at, _)| at.saturating_add(REMEMBERED_MS) <= now) {
            self.pop();
        }
        if self.order.is_empty() {
            // Gives back what a large deletion took.
            *self = Self::default();
        }
    }

    fn pop(&mut self) {
        if let Some((_, id)) = self.order.pop_front() {
            self.ids.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_are_remembered_for_a_while_and_bounded() {
        let mut removed = RemovedBlocks::default();
        removed.add(0, BlockId(1));
        removed.add(10_000, BlockId(2));
        removed.expire(29_999);
        assert!(removed.contains(BlockId(1)));
        removed.expire(30_000);
        assert!(!removed.contains(BlockId(1)) && removed.contains(BlockId(2)));
        for id in 0..(REMOVED_MAX as u64 + 10) {
            removed.add(50_000, BlockId(1_000 + id));
        }
        assert!(!removed.contains(BlockId(2)) && removed.contains(BlockId(1_000 + 10)));
        assert_eq!(removed.ids.len(), REMOVED_MAX);
    }
}
