//! Replicas that a datanode shall delete.
//!
//! A deletion is ordered on a heartbeat, confirmed by an incremental report, and ordered again a few
//! times if no confirmation comes. As long as a block is here, reports of its replica (with the same
//! stamp or an older one) are not believed, and the datanode is no target for a copy of the block.
//!
//! Replicas of deleted files wait a moment before that: who deletes many files is served by the same disks and processors
//! that would be busy freeing the first ones meanwhile, and `rm -r` of a usual tree is over when its replicas begin to go. A
//! datanode that is short of room does not wait.

use std::collections::{BTreeMap, VecDeque};

use dfs_proto::{BlockId, GenerationStamp, v1};

/// Orders of one datanode that may be unconfirmed at a time: some heartbeats' worth, so that a slow
/// datanode is not buried and memory stays bounded.
const UNCONFIRMED_MAX: usize = 10_000;

/// How often a deletion is ordered. After that the next full report shows whether the replica is there.
const ATTEMPTS_MAX: u8 = 3;

#[derive(Clone, Copy, Debug)]
struct Sent {
    stamp: GenerationStamp,
    attempts: u8,
    retry_at: u64,
}

/// Deletions of one datanode.
#[derive(Debug, Default)]
pub(super) struct Invalidates {
    /// Not ordered yet: block -> the highest stamp to delete.
    waiting: BTreeMap<BlockId, GenerationStamp>,
    /// Those to be ordered next. Here and below, one that is not `waiting` any more is passed over.
    next: VecDeque<BlockId>,
    /// Those of deleted files that came since the last heartbeat.
    added: Vec<BlockId>,
    /// The others of deleted files, and since when they are here.
    ripening: VecDeque<(u64, BlockId)>,
    /// Ordered and not confirmed.
    sent: BTreeMap<BlockId, Sent>,
}

impl Invalidates {
    /// Plans to delete the replica of `id` with `stamp` or an older one.
    pub(super) fn add(&mut self, id: BlockId, stamp: GenerationStamp) {
        if self.plan(id, stamp) {
            self.next.push_back(id);
        }
    }

    /// The same for a replica of a deleted file.
    pub(super) fn add_deleted(&mut self, id: BlockId, stamp: GenerationStamp) {
        if self.plan(id, stamp) {
            self.added.push(id);
        }
    }

    /// Answers whether it has to be ordered.
    fn plan(&mut self, id: BlockId, stamp: GenerationStamp) -> bool {
        if self.sent.get(&id).is_some_and(|sent| sent.stamp >= stamp) {
            return false;
        }
        self.sent.remove(&id);
        let planned = self.waiting.entry(id).or_insert(stamp);
        *planned = stamp.max(*planned);
        true
    }

    /// Stamp up to which the replica of `id` is to be deleted.
    pub(super) fn stamp_of(&self, id: BlockId) -> Option<GenerationStamp> {
        self.waiting.get(&id).copied().or_else(|| self.sent.get(&id).map(|sent| sent.stamp))
    }

    /// The replica is gone, a newer one has taken its place, or it shall be kept after all. Answers
    /// whether it was to be deleted.
    pub(super) fn forget(&mut self, id: BlockId) -> bool {
        let waiting = self.waiting.remove(&id).is_some();
        self.sent.remove(&id).is_some() || waiting
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.sent.len()
    }

    /// Up to `max` deletions to order now. Those of deleted files wait `delay_ms`; what was not confirmed for `retry_ms` is repeated.
    pub(super) fn take(&mut self, now: u64, delay_ms: u64, retry_ms: u64, max: usize) -> Vec<v1::Block> {
        self.ripening.extend(self.added.drain(..).map(|id| (now, id)));
        let retry_at = now.saturating_add(retry_ms);
        let mut blocks = Vec::new();
        let overdue: Vec<BlockId> =
            self.sent.iter().filter(|(_, sent)| sent.retry_at <= now).map(|(id, _)| *id).take(max).collect();
        for id in overdue {
            let Some(sent) = self.sent.get_mut(&id) else { continue };
            if sent.attempts >= ATTEMPTS_MAX {
                self.sent.remove(&id);
            } else {
                sent.attempts += 1;
                sent.retry_at = retry_at;
                blocks.push(order(id, sent.stamp));
            }
        }
        while blocks.len() < max && self.sent.len() < UNCONFIRMED_MAX {
            let Some(id) = self.next(now, delay_ms) else { break };
            let Some(stamp) = self.waiting.remove(&id) else { continue };
            self.sent.insert(id, Sent { stamp, attempts: 1, retry_at });
            blocks.push(order(id, stamp));
        }
        blocks
    }

    fn next(&mut self, now: u64, delay_ms: u64) -> Option<BlockId> {
        if let Some(id) = self.next.pop_front() {
            return Some(id);
        }
        let ripe = |(since, _): &mut (u64, BlockId)| since.saturating_add(delay_ms) <= now;
        self.ripening.pop_front_if(ripe).map(|(_, id)| id)
    }

    /// The datanode restarted: what it was told is lost.
    pub(super) fn restart(&mut self) {
        for (id, sent) in std::mem::take(&mut self.sent) {
            self.add(id, sent.stamp);
        }
    }
}

fn order(id: BlockId, stamp: GenerationStamp) -> v1::Block {
    v1::Block { id: id.get(), generation_stamp: stamp.get(), length: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(blocks: &[v1::Block]) -> Vec<(u64, u64)> {
        blocks.iter().map(|block| (block.id, block.generation_stamp)).collect()
    }

    #[test]
    fn deletions_are_ordered_confirmed_and_repeated() {
        let mut queue = Invalidates::default();
        for id in 1..=3 {
            queue.add(BlockId(id), GenerationStamp(10));
        }
        queue.add(BlockId(2), GenerationStamp(8));
        assert_eq!(ids(&queue.take(0, 0, 100, 2)), [(1, 10), (2, 10)]);
        assert_eq!(ids(&queue.take(0, 0, 100, 2)), [(3, 10)]);
        assert_eq!(ids(&queue.take(50, 0, 100, 2)), []);
        queue.forget(BlockId(1));
        assert_eq!(ids(&queue.take(100, 0, 100, 9)), [(2, 10), (3, 10)]);
        assert_eq!(ids(&queue.take(200, 0, 100, 9)), [(2, 10), (3, 10)]);
        assert_eq!(queue.len(), 2);
        assert_eq!(ids(&queue.take(300, 0, 100, 9)), []);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn replicas_of_deleted_files_wait_unless_there_is_no_time() {
        let mut queue = Invalidates::default();
        let stamp = GenerationStamp(10);
        queue.add_deleted(BlockId(1), stamp);
        assert_eq!(ids(&queue.take(1_000, 5_000, 60_000, 9)), []);
        queue.add_deleted(BlockId(2), stamp);
        queue.add_deleted(BlockId(3), stamp);
        assert!(queue.forget(BlockId(3)));
        queue.add(BlockId(4), stamp);
        assert_eq!(ids(&queue.take(2_000, 5_000, 60_000, 9)), [(4, 10)]);
        assert_eq!(ids(&queue.take(6_000, 5_000, 60_000, 9)), [(1, 10)]);
        queue.add_deleted(BlockId(5), stamp);
        assert_eq!(ids(&queue.take(6_050, 0, 60_000, 9)), [(2, 10), (5, 10)]);
        assert_eq!(queue.len(), 4, "ordered and not confirmed");
    }

    #[test]
    fn a_newer_stamp_replaces_an_order_and_a_restart_repeats_it() {
        let mut queue = Invalidates::default();
        queue.add(BlockId(1), GenerationStamp(10));
        assert_eq!(ids(&queue.take(0, 0, 100, 9)), [(1, 10)]);
        queue.add(BlockId(1), GenerationStamp(9));
        assert_eq!(ids(&queue.take(0, 0, 100, 9)), []);
        queue.add(BlockId(1), GenerationStamp(12));
        assert_eq!(queue.stamp_of(BlockId(1)), Some(GenerationStamp(12)));
        assert_eq!(ids(&queue.take(0, 0, 100, 9)), [(1, 12)]);
        queue.restart();
        assert_eq!(ids(&queue.take(1, 0, 100, 9)), [(1, 12)]);
    }

    #[test]
    fn unconfirmed_orders_are_bounded() {
        let mut queue = Invalidates::default();
        for id in 0..20_000 {
            queue.add(BlockId(id), GenerationStamp(1));
        }
        let ordered: usize = (0..30).map(|_| queue.take(0, 0, 100, 1_000).len()).sum();
        assert_eq!(ordered, UNCONFIRMED_MAX);
        assert_eq!(queue.len(), 20_000);
    }
}
