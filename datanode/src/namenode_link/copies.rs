//! Copies that the namenode ordered and that have not begun.
//!
//! An order waits in the queue of the copy workers. When the namenode withdraws it, because it is not needed any longer or will
//! be ordered elsewhere, its entry goes from here, and the worker that comes to it passes it over.

use std::collections::HashMap;
use std::sync::Mutex;

use dfs_proto::BlockId;

use crate::sync::lock;

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    /// Number of the order by block: an order that replaces a withdrawn one is told from it.
    orders: HashMap<BlockId, u64>,
}

/// The orders. There are no more than places in the queue of the copy workers.
#[derive(Debug, Default)]
pub struct CopyOrders {
    waiting: Mutex<Waiting>,
}

impl CopyOrders {
    /// Takes an order; answers its number.
    pub fn add(&self, block: BlockId) -> u64 {
        let mut waiting = lock(&self.waiting);
        waiting.last += 1;
        let number = waiting.last;
        waiting.orders.insert(block, number);
        number
    }

    /// Whether order `number` is still wanted.
    pub fn wants(&self, block: BlockId, number: u64) -> bool {
        lock(&self.waiting).orders.get(&block) == Some(&number)
    }

    /// Begins order `number`; answers whether it is still wanted.
    pub fn begin(&self, block: BlockId, number: u64) -> bool {
        let mut waiting = lock(&self.waiting);
        let wanted = waiting.orders.get(&block) == Some(&number);
        if wanted {
            waiting.orders.remove(&block);
        }
        wanted
    }

    /// Forgets the order for a block; answers whether there was one.
    pub fn withdraw(&self, block: BlockId) -> bool {
        lock(&self.waiting).orders.remove(&block).is_some()
    }

    /// Forgets all orders: the namenode does not know of them any longer.
    pub fn clear(&self) {
        lock(&self.waiting).orders.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn withdrawn_orders_are_passed_over_and_later_ones_are_not() {
        let orders = CopyOrders::default();
        let first = orders.add(BlockId(1));
        let other = orders.add(BlockId(2));
        assert!(orders.withdraw(BlockId(1)) && !orders.withdraw(BlockId(1)));
        let again = orders.add(BlockId(1));
        assert!(!orders.begin(BlockId(1), first));
        assert!(orders.begin(BlockId(1), again) && !orders.begin(BlockId(1), again));
        orders.clear();
        assert!(!orders.begin(BlockId(2), other));
    }
}
