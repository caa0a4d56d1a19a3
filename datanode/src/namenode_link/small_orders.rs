//! Puts orders to copy small replicas together by the datanode that they go to.

use std::collections::BTreeMap;

use dfs_proto::transfer::DatanodeInfoProto;
use dfs_proto::v1::TransferCommand;

use crate::replica::BlockRef;
use crate::transfer::copy_batch::{BATCH_BYTES_EACH, BATCH_REPLICAS, SmallCopy};

/// Copies for one datanode; [`BATCH_REPLICAS`] at most.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) target: DatanodeInfoProto,
    pub(super) copies: Vec<SmallCopy>,
    /// Bytes of all.
    pub(super) bytes: u64,
}

/// Orders of one heartbeat, by the uuid of their target.
#[derive(Debug, Default)]
pub(super) struct SmallOrders {
    batches: BTreeMap<String, Batch>,
}

impl SmallOrders {
    /// Whether an order is of the kind that goes together: one small replica for repair, to one datanode.
    pub(super) fn takes(order: &TransferCommand) -> bool {
        let small = order.block.is_some_and(|block| block.length <= BATCH_BYTES_EACH);
        let to_one = matches!(&order.targets[..], [only] if only.datanode.is_some());
        small && to_one && !order.balancing
    }

    /// Adds an order that [`Self::takes`]; answers a batch that is full.
    pub(super) fn add(&mut self, order: TransferCommand) -> Option<Batch> {
        let block = order.block?;
        let target = order.targets.into_iter().next()?;
        let datanode = target.datanode?;
        let uuid = datanode.uuid.clone();
        let batch = self.batches.entry(uuid.clone()).or_insert_with(|| Batch {
            target: (&datanode).into(),
            copies: Vec::new(),
            bytes: 0,
        });
        let storage_id = Some(target.storage_id).filter(|id| !id.is_empty());
        batch.copies.push(SmallCopy { block: BlockRef::from(&block), storage_id });
        batch.bytes += block.length;
        if batch.copies.len() < BATCH_REPLICAS { None } else { self.batches.remove(&uuid) }
    }

    /// What is left.
    pub(super) fn rest(self) -> impl Iterator<Item = Batch> {
        self.batches.into_values()
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::v1::{Block, DatanodeInfo, ReplicaLocation};

    use super::*;

    fn order(id: u64, length: u64, targets: &[&str]) -> TransferCommand {
        let location = |uuid: &&str| ReplicaLocation {
            datanode: Some(DatanodeInfo { uuid: (*uuid).to_owned(), ..Default::default() }),
            storage_id: format!("{uuid}-s"),
        };
        TransferCommand {
            block: Some(Block { id, generation_stamp: 1, length }),
            targets: targets.iter().map(location).collect(),
            balancing: false,
        }
    }

    #[test]
    fn small_orders_for_one_datanode_go_together() {
        assert!(SmallOrders::takes(&order(1, BATCH_BYTES_EACH, &["a"])));
        assert!(!SmallOrders::takes(&order(1, BATCH_BYTES_EACH + 1, &["a"])));
        assert!(!SmallOrders::takes(&order(1, 1, &["a", "b"])));
        assert!(!SmallOrders::takes(&order(1, 1, &[])));
        assert!(!SmallOrders::takes(&TransferCommand { balancing: true, ..order(1, 1, &["a"]) }));
        let mut orders = SmallOrders::default();
        assert!(orders.add(order(1, 5, &["b"])).is_none());
        let full: Vec<Batch> =
            (2..2 + 2 * BATCH_REPLICAS as u64).filter_map(|id| orders.add(order(id, 10, &["a"]))).collect();
        assert_eq!(full.len(), 2);
        assert_eq!(full[0].copies.len(), BATCH_REPLICAS);
        assert_eq!(full[1].bytes, 10 * BATCH_REPLICAS as u64);
        let rest: Vec<Batch> = orders.rest().collect();
        assert_eq!((rest.len(), rest[0].copies[0].storage_id.as_deref()), (1, Some("b-s")));
    }
}
