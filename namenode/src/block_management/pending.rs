//! Copies ordered and not yet arrived.
//!
//! A block has at most one order at a time; it names one source and one or more targets. The loads that
//! orders put on datanodes are kept in [`super::datanode_manager::Datanode`] and change together with
//! the orders (`BlockManager::add_pending` and `settle_pending`). The number of orders is bounded by the
//! per-node limits of the configuration.

use std::collections::HashMap;

use dfs_proto::BlockId;
use smallvec::SmallVec;

use super::datanode_manager::{NodeIndex, StorageIndex};

/// Pace that a copy is granted beyond the fixed timeout, in bytes a millisecond (4 MB/s): a source may
/// have to send everything it was ordered over one slow disk.
const SLOW_PACE: u64 = 4_000;

/// One order.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) source: NodeIndex,
    /// Storages that have not confirmed their copy.
    pub(super) targets: SmallVec<[StorageIndex; 2]>,
    /// Length of the block when the copy was ordered.
    pub(super) bytes: u64,
    /// When the order is given up.
    pub(super) deadline: u64,
    /// The source has been told.
    pub(super) sent: bool,
}

/// All orders.
#[derive(Debug, Default)]
pub(super) struct PendingTransfers {
    orders: HashMap<BlockId, Pending>,
}

impl PendingTransfers {
    pub(super) fn get(&self, id: BlockId) -> Option<&Pending> {
        self.orders.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: BlockId) -> Option<&mut Pending> {
        self.orders.get_mut(&id)
    }

    pub(super) fn insert(&mut self, id: BlockId, order: Pending) {
        let before = self.orders.insert(id, order);
        debug_assert!(before.is_none(), "{id} ordered twice");
    }

    pub(super) fn remove(&mut self, id: BlockId) -> Option<Pending> {
        self.orders.remove(&id)
    }

    /// Copies expected of a block.
    pub(super) fn targets_of(&self, id: BlockId) -> usize {
        self.orders.get(&id).map_or(0, |order| order.targets.len())
    }

    /// Copies expected of all blocks.
    pub(super) fn targets(&self) -> usize {
        self.orders.values().map(|order| order.targets.len()).sum()
    }

    /// Orders to give up, in the order of their block ids.
    pub(super) fn overdue(&self, now: u64) -> Vec<BlockId> {
        self.matching(|order| order.deadline <= now)
    }

    /// Orders that `matches` picks, in the order of their block ids.
    pub(super) fn matching(&self, matches: impl Fn(&Pending) -> bool) -> Vec<BlockId> {
        let mut ids: Vec<BlockId> =
            self.orders.iter().filter(|(_, order)| matches(order)).map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (BlockId, &Pending)> {
        self.orders.iter().map(|(id, order)| (*id, order))
    }
}

/// When a copy of `bytes`, behind `queued_bytes` at its source, is given up. `bandwidth` is what the source may spend
/// in bytes a second, 0: as it sees fit; it may be slower than that by half.
pub(super) fn deadline(now: u64, timeout_ms: u64, bytes: u64, queued_bytes: u64, bandwidth: u64) -> u64 {
    let pace = if bandwidth == 0 { SLOW_PACE } else { (bandwidth / 2_000).clamp(1, SLOW_PACE) };
    now.saturating_add(timeout_ms).saturating_add(bytes.saturating_add(queued_bytes) / pace)
}
