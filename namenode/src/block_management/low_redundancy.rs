//! Queues of blocks that need attention, the most endangered first.
//!
//! Invariant: a block is in the queue of `BlockEntry::level` and in no other; the block manager changes
//! both together (`BlockManager::set_level`).

use std::collections::BTreeSet;
use std::ops::Bound;

use dfs_proto::BlockId;

/// Why a block needs attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// One good replica is left of several wanted.
    OneLeft,
    /// Fewer than a third of the replicas wanted.
    Badly,
    /// Fewer replicas than wanted.
    Under,
    /// Enough replicas, on too few racks.
    Misplaced,
    /// Fewer replicas than wanted, and copies to make up for it are under way.
    Pending,
    /// As many replicas as wanted, and others to delete that cannot safely be deleted now.
    Excess,
    /// No good replica, but corrupt ones.
    Corrupt,
    /// No replica at all.
    Missing,
}

const LEVELS: usize = 8;

/// Levels that repair takes blocks from, in its order.
pub(super) const REPAIRED: [Level; 4] = [Level::OneLeft, Level::Badly, Level::Under, Level::Misplaced];

/// Levels of blocks that lack replicas and have some.
pub(super) const LACKING: [Level; 4] = [Level::OneLeft, Level::Badly, Level::Under, Level::Pending];

#[derive(Debug, Default)]
struct Queue {
    blocks: BTreeSet<BlockId>,
    /// Last block handed out: the next batch starts after it, so that blocks which cannot be helped
    /// now do not hide the ones behind them.
    cursor: BlockId,
}

/// The queues.
#[derive(Debug, Default)]
pub(super) struct LowRedundancy {
    queues: [Queue; LEVELS],
}

impl LowRedundancy {
    /// Moves a block between queues.
    pub(super) fn moved(&mut self, id: BlockId, from: Option<Level>, to: Option<Level>) {
        if from == to {
            return;
        }
        if let Some(level) = from {
            self.queues[level as usize].blocks.remove(&id);
        }
        if let Some(level) = to {
            self.queues[level as usize].blocks.insert(id);
        }
    }

    pub(super) fn count(&self, level: Level) -> usize {
        self.queues[level as usize].blocks.len()
    }

    /// Up to `max` blocks of a queue, going round; they stay in it.
    pub(super) fn batch(&mut self, level: Level, max: usize) -> Vec<BlockId> {
        let queue = &mut self.queues[level as usize];
        let after = (Bound::Excluded(queue.cursor), Bound::Unbounded);
        let up_to = (Bound::Unbounded, Bound::Included(queue.cursor));
        let batch: Vec<BlockId> =
            queue.blocks.range(after).chain(queue.blocks.range(up_to)).take(max).copied().collect();
        if let Some(last) = batch.last() {
            queue.cursor = *last;
        }
        batch
    }

    /// Up to `max` blocks of a queue behind `after`, ascending.
    pub(super) fn after(
        &self,
        level: Level,
        after: Option<BlockId>,
        max: usize,
    ) -> impl Iterator<Item = BlockId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.queues[level as usize].blocks.range((from, Bound::Unbounded)).take(max).copied()
    }

    #[cfg(test)]
    pub(super) fn level_of(&self, id: BlockId) -> Vec<usize> {
        (0..LEVELS).filter(|level| self.queues[*level].blocks.contains(&id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_go_round_the_queue() {
        let mut queues = LowRedundancy::default();
        for id in 1..=5 {
            queues.moved(BlockId(id), None, Some(Level::Under));
        }
        let mut batch = |max| {
            let ids: Vec<u64> = queues.batch(Level::Under, max).iter().map(|id| id.get()).collect();
            ids
        };
        assert_eq!(batch(2), [1, 2]);
        assert_eq!(batch(2), [3, 4]);
        assert_eq!(batch(2), [5, 1]);
        assert_eq!(batch(9), [2, 3, 4, 5, 1]);
        queues.moved(BlockId(2), Some(Level::Under), Some(Level::OneLeft));
        assert_eq!(queues.level_of(BlockId(2)), [Level::OneLeft as usize]);
        assert_eq!((queues.count(Level::Under), queues.count(Level::OneLeft)), (4, 1));
    }
}
