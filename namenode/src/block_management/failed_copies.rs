//! Copies that failed: planned again at once with another source or target, and with growing pauses when they go on failing.
//!
//! A datanode tells when a copy that was ordered of it was not made. The first failure of a block has it planned again in the
//! same moment; from the second on it waits, twice as long each time. Whoever took part in the last failure is passed over
//! as long as another datanode can do it. A datanode that did not take a copy is the last choice for all blocks for a while, so
//! that thousands of orders do not find out one by one that it is cut off or full.
//!
//! Only what is remembered is planned again early: a failure that does not fit is left to the timeout of its order.

use std::collections::HashMap;

use dfs_proto::{BlockId, v1};

use super::block_manager::BlockManager;
use super::datanode_manager::NodeIndex;
use super::low_redundancy::REPAIRED;

/// Blocks remembered at most: as many as some hundred datanodes may be copying at a time; 4 MiB.
const FAILURES_MAX: usize = 65_536;

/// Pause after the second failure of a block; it doubles with each that follows.
const FIRST_PAUSE_MS: u64 = 1_000;

/// Longest pause: what an order that nobody hears of takes to be given up.
const LONGEST_PAUSE_MS: u64 = 30_000;

/// A block is forgotten when its pause has been over for so long: by then it was tried again.
const FORGOTTEN_AFTER_MS: u64 = 60_000;

/// Time in which a datanode that did not take a copy is the last choice.
pub(super) const SHUNNED_MS: u64 = 5_000;

/// Time between two looks for what can be forgotten.
const EXPIRY_INTERVAL_MS: u64 = 1_000;

/// A block whose last copy failed.
#[derive(Clone, Copy, Debug)]
struct Failure {
    count: u32,
    /// Not planned before.
    not_before: u64,
    /// The source, if it was the reason.
    source: Option<NodeIndex>,
    target: NodeIndex,
}

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct FailedCopies {
    blocks: HashMap<BlockId, Failure>,
    /// Failures since the start.
    total: u64,
    last_expiry: u64,
}

impl FailedCopies {
    /// Notes one; answers whether the block may be planned again in this moment, or `None` if there is no room for it.
    fn note(&mut self, now: u64, id: BlockId, source: Option<NodeIndex>, target: NodeIndex) -> Option<bool> {
        self.total += 1;
        if self.blocks.len() >= FAILURES_MAX && !self.blocks.contains_key(&id) {
            return None;
        }
        let count = self.blocks.get(&id).map_or(0, |failure| failure.count).saturating_add(1);
        let not_before = now.saturating_add(pause_ms(count));
        self.blocks.insert(id, Failure { count, not_before, source, target });
        Some(not_before <= now)
    }

    /// The block waits after failures.
    pub(super) fn waits(&self, now: u64, id: BlockId) -> bool {
        self.blocks.get(&id).is_some_and(|failure| failure.not_before > now)
    }

    /// The datanode was the reason why the block's last copy could not be sent.
    pub(super) fn is_bad_source(&self, id: BlockId, node: NodeIndex) -> bool {
        self.blocks.get(&id).is_some_and(|failure| failure.source == Some(node))
    }

    /// The datanode that the block's last copy was to go to.
    pub(super) fn bad_target(&self, id: BlockId) -> Option<NodeIndex> {
        self.blocks.get(&id).map(|failure| failure.target)
    }

    /// The block lacks nothing any longer, or is gone.
    pub(super) fn forget(&mut self, id: BlockId) {
        if !self.blocks.is_empty() {
            self.blocks.remove(&id);
        }
    }

    /// Failures since the start.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Forgets what is long past.
    pub(super) fn expire(&mut self, now: u64) {
        if now.saturating_sub(self.last_expiry) >= EXPIRY_INTERVAL_MS {
            self.last_expiry = now;
            self.blocks.retain(|_, failure| now < failure.not_before.saturating_add(FORGOTTEN_AFTER_MS));
        }
    }
}

/// How long a block waits after so many failures.
fn pause_ms(failures: u32) -> u64 {
    match failures.checked_sub(2) {
        None => 0,
        Some(doublings) => {
            FIRST_PAUSE_MS.checked_shl(doublings.min(16)).unwrap_or(u64::MAX).min(LONGEST_PAUSE_MS)
        }
    }
}

impl BlockManager {
    /// Datanode `source` has not made a copy that it was told to make.
    pub(super) fn copy_failed(&mut self, now: u64, source: NodeIndex, change: &v1::ReplicaChange) {
        let (Some(block), Some(storage)) = (&change.block, self.datanodes.find_storage(&change.storage_id))
        else {
            return;
        };
        let (id, target) = (block.block_id(), self.datanodes.node_of(storage));
        if self.move_failed(now, id, source, storage) {
            return;
        }
        let ordered = self
            .pending
            .get(id)
            .is_some_and(|order| order.source == source && order.sent && order.targets.contains(&storage));
        if !ordered {
            // It was given up before, or has arrived after all.
            return;
        }
        if !change.unsendable {
            self.datanodes.node_mut(target).shunned_until = now.saturating_add(SHUNNED_MS);
        }
        let Some(at_once) = self.failed_copies.note(now, id, change.unsendable.then_some(source), target)
        else {
            return;
        };
        self.settle_pending(id, target);
        self.evaluate(now, id);
        let level = self.blocks.get(id).and_then(|entry| entry.level);
        if let Some(level) = level.filter(|level| at_once && REPAIRED.contains(level)) {
            self.plan_copy(now, id, level);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_begin_with_the_second_failure_and_grow_to_a_bound() {
        let pauses: Vec<u64> = (1..=8).map(pause_ms).collect();
        assert_eq!(pauses, [0, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert_eq!(pause_ms(u32::MAX), LONGEST_PAUSE_MS);
    }
}
