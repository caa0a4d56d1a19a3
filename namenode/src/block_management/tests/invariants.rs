//! The invariants of the module, by recomputing what is kept incrementally.

use std::collections::{BTreeMap, BTreeSet};

use dfs_proto::BlockId;

use crate::block_management::BlockManager;
use crate::block_management::balancer::Phase;
use crate::block_management::datanode_manager::CopyLoad;
use crate::block_management::replica_set::Mark;
use crate::namesystem::BlockState;

impl BlockManager {
    /// Moves and the accounts of datanodes agree.
    fn check_balancer(&self) {
        let (mut sending, mut receiving) = (BTreeMap::new(), BTreeMap::new());
        for (id, moved) in &self.balancer.moves {
            let (from, to) = (moved.from, moved.to);
            assert_ne!(from, to, "{id} moved to where it is");
            let queued = self.balancer.outbox.get(&from).is_some_and(|queue| queue.contains(id));
            if moved.phase == Phase::Planned {
                assert!(queued, "{id} will never be ordered");
            }
            if moved.phase != Phase::Leaving {
                for (side, node) in [(&mut sending, from), (&mut receiving, to)] {
                    let load: &mut CopyLoad = side.entry(node).or_default();
                    load.add(moved.bytes);
                }
            }
        }
        let accounts = &self.balancer.accounts;
        for (side, expected) in [(&accounts.sending, sending), (&accounts.receiving, receiving)] {
            for (node, account) in side {
                assert_eq!(account.load, expected.get(node).copied().unwrap_or_default(), "{node:?}");
            }
            assert!(expected.keys().all(|node| side.contains_key(node)));
        }
    }

    /// Panics if one does not hold.
    pub(crate) fn check_invariants(&self) {
        let mut replicas = BTreeMap::new();
        let mut writing = BTreeMap::new();
        for entry in self.blocks.range(BlockId(0), BlockId(u64::MAX)) {
            let mut nodes = BTreeSet::new();
            for replica in entry.replicas.iter() {
                let storage = replica.storage();
                let node = self.datanodes.node_of(storage);
                assert!(nodes.insert(node), "{}: two replicas on one datanode", entry.id);
                if replica.mark() == Mark::Writing {
                    assert_ne!(entry.state, BlockState::Complete, "{} complete and being written", entry.id);
                    *writing.entry(storage).or_insert(0) += 1;
                } else {
                    *replicas.entry(storage).or_insert(0) += 1;
                }
                let deleting = self.datanodes.node(node).invalidates.stamp_of(entry.id);
                let counts = matches!(replica.mark(), Mark::Good | Mark::Writing);
                if counts && deleting.is_some_and(|stamp| stamp >= entry.stamp) {
                    panic!("{}: a replica that is being deleted counts as {:?}", entry.id, replica.mark());
                }
            }
            let queues: Vec<usize> = entry.level.iter().map(|level| *level as usize).collect();
            assert_eq!(self.queues.level_of(entry.id), queues, "{} is in other queues", entry.id);
        }
        self.check_balancer();
        let (mut outgoing, mut incoming) = (BTreeMap::new(), BTreeMap::new());
        for (id, order) in self.pending.iter() {
            assert!(!order.targets.is_empty(), "{id}: an order without a target");
            assert_eq!(self.blocks.get(id).map(|entry| entry.state), Some(BlockState::Complete));
            assert!(self.datanodes.node(order.source).serves(), "{id}: ordered from a dead datanode");
            let load = outgoing.entry(order.source).or_insert((0, 0));
            *load = (load.0 + 1, load.1 + order.bytes);
            for target in &order.targets {
                let load = incoming.entry(self.datanodes.node_of(*target)).or_insert((0, 0));
                *load = (load.0 + 1, load.1 + order.bytes);
            }
            let queued = self.datanodes.node(order.source).transfers.contains(&id);
            assert_eq!(queued, !order.sent, "{id}: queued at its source or sent");
        }
        for index in self.datanodes.indices() {
            let node = self.datanodes.node(index);
            let live = self.datanodes.live().contains(&index);
            assert_eq!(live, node.takes(), "{} in the list of those that take", node.info.uuid);
            let out = outgoing.get(&index).copied().unwrap_or_default();
            assert_eq!((node.outgoing.count, node.outgoing.bytes), out, "{} sends", node.info.uuid);
            let inn = incoming.get(&index).copied().unwrap_or_default();
            assert_eq!((node.incoming.count, node.incoming.bytes), inn, "{} receives", node.info.uuid);
            let mut sum = 0;
            for storage in &node.storages {
                let held = self.datanodes.storage(*storage);
                assert_eq!(held.node, index);
                assert_eq!(held.replicas, replicas.get(storage).copied().unwrap_or(0), "{}", held.id);
                assert_eq!(held.writing, writing.get(storage).copied().unwrap_or(0), "{}", held.id);
                sum += held.writing;
            }
            assert_eq!(node.writing, sum);
        }
    }
}
