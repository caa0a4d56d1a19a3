//! Everything that is known of the replicas of one block, for administrators.

use dfs_proto::v1;

use super::block_manager::BlockManager;
use super::replica_set::Mark;
use crate::namesystem::StoredBlock;

impl BlockManager {
    /// The replicas of a block, the bad ones too, and those that only the namespace remembers.
    pub fn describe(&self, block: &StoredBlock) -> Vec<v1::KnownReplica> {
        let mut known = Vec::new();
        let mut met = Vec::new();
        for replica in self.blocks.get(block.id).iter().flat_map(|entry| entry.replicas.iter()) {
            let worth = match replica.mark() {
                Mark::Good => v1::ReplicaWorth::Good,
                Mark::Writing => v1::ReplicaWorth::Writing,
                Mark::Corrupt => v1::ReplicaWorth::Corrupt,
                Mark::Outdated => v1::ReplicaWorth::Outdated,
            };
            met.push(replica.storage());
            let location = Some(self.datanodes.location(replica.storage()));
            known.push(v1::KnownReplica { location, worth: worth.into() });
        }
        for storage in block.hints.iter().filter_map(|id| self.datanodes.find_storage(id)) {
            if !met.contains(&storage) && !self.is_going(block.id, storage, block.stamp) {
                let location = Some(self.datanodes.location(storage));
                known.push(v1::KnownReplica { location, worth: v1::ReplicaWorth::Remembered.into() });
            }
        }
        known
    }
}
