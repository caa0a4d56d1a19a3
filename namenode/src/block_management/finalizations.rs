//! Replicas that a datanode shall close.
//!
//! A datanode that lost power between the last acknowledgement of a block and the moment when the disk had the
//! replica's new name finds it unfinished (RWR), with all of its bytes and checksums. If the namespace has
//! the block as complete with exactly this stamp and length, the replica is good: it counts, readers are sent to
//! it, and the datanode is ordered to close it, so that it can be copied and appended to again. Without this
//! a file that was acknowledged as complete would be lost if all its datanodes lost power at once.
//!
//! An order is repeated a few times until the replica is reported finalized; after that the next full report
//! shows how it stands. Each block in here has an entry in the block map anyway, which bounds the memory.

use std::collections::BTreeMap;

use dfs_proto::BlockId;

/// How often a replica is ordered to be closed.
const ATTEMPTS_MAX: u8 = 3;

#[derive(Clone, Copy, Debug, Default)]
struct Order {
    attempts: u8,
    due: u64,
}

/// Replicas of one datanode.
#[derive(Debug, Default)]
pub(super) struct Finalizations {
    orders: BTreeMap<BlockId, Order>,
}

impl Finalizations {
    /// Plans to close the replica of `id`.
    pub(super) fn add(&mut self, id: BlockId) {
        self.orders.entry(id).or_default();
    }

    /// The replica is closed, or shall not be.
    pub(super) fn forget(&mut self, id: BlockId) {
        self.orders.remove(&id);
    }

    pub(super) fn clear(&mut self) {
        self.orders.clear();
    }

    /// Up to `max` blocks whose replicas are to be closed now.
    pub(super) fn take(&mut self, now: u64, retry_ms: u64, max: usize) -> Vec<BlockId> {
        let due: Vec<BlockId> =
            self.orders.iter().filter(|(_, order)| order.due <= now).map(|(id, _)| *id).take(max).collect();
        let mut ordered = Vec::with_capacity(due.len());
        for id in due {
            let Some(order) = self.orders.get_mut(&id) else { continue };
            if order.attempts >= ATTEMPTS_MAX {
                self.orders.remove(&id);
            } else {
                order.attempts += 1;
                order.due = now.saturating_add(retry_ms);
                ordered.push(id);
            }
        }
        ordered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_are_ordered_closed_until_they_are() {
        let mut queue = Finalizations::default();
        for id in 1..=3 {
            queue.add(BlockId(id));
        }
        assert_eq!(queue.take(0, 100, 2), [BlockId(1), BlockId(2)]);
        queue.add(BlockId(1));
        assert_eq!(queue.take(50, 100, 2), [BlockId(3)], "adding again changes nothing");
        queue.forget(BlockId(2));
        for now in [150, 250] {
            assert_eq!(queue.take(now, 100, 9), [BlockId(1), BlockId(3)]);
        }
        assert_eq!(queue.take(350, 100, 9), []);
        queue.add(BlockId(1));
        assert_eq!(queue.take(351, 100, 9), [BlockId(1)], "a later report starts anew");
    }
}
