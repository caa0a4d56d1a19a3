//! Where the replicas of a block are, for readers and writers.

use std::net::IpAddr;

use dfs_proto::v1;
use smallvec::SmallVec;

use super::administration::Admin;
use super::block_manager::BlockManager;
use super::datanode_manager::{Liveness, StorageIndex};
use super::random::Random;
use super::replica_set::Mark;
use super::topology;
use crate::namesystem::StoredBlock;

/// Answer to [`BlockManager::locate`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Located {
    /// Replicas to read from, the best first.
    pub locations: Vec<v1::ReplicaLocation>,
    /// Replicas known to be corrupt.
    pub corrupt_replicas: u32,
    /// Replicas are known and all of them are corrupt; then `locations` holds those.
    pub corrupt: bool,
}

impl BlockManager {
    /// Where a block can be read: nearest to the reader first, in random order among equally near ones,
    /// those that are to leave or may go down later, stale ones last. Replicas that the namespace only remembers (hints) are named while reports
    /// are coming in after a start, and when no replica is known, unless they are ordered to be deleted.
    pub fn locate(&self, block: &StoredBlock, reader_ip: Option<IpAddr>, seed: u64) -> Located {
        let mut found: SmallVec<[StorageIndex; 4]> = SmallVec::new();
        let mut bad: SmallVec<[StorageIndex; 4]> = SmallVec::new();
        if let Some(entry) = self.blocks.get(block.id) {
            for replica in entry.replicas.iter() {
                let storage = replica.storage();
                match replica.mark() {
                    Mark::Good | Mark::Writing if self.datanodes.usable(storage) => found.push(storage),
                    Mark::Corrupt => bad.push(storage),
                    Mark::Good | Mark::Writing | Mark::Outdated => {}
                }
            }
        }
        let corrupt = found.is_empty() && !bad.is_empty();
        if corrupt {
            found.clone_from(&bad);
        } else if !self.startup.over || found.is_empty() {
            for id in &block.hints {
                if let Some(storage) = self.datanodes.find_storage(id)
                    && !found.contains(&storage)
                    && !bad.contains(&storage)
                    && !self.is_going(block.id, storage, block.stamp)
                {
                    found.push(storage);
                }
            }
        }
        self.sort_by_distance(&mut found, reader_ip, seed);
        Located {
            locations: found.iter().map(|storage| self.datanodes.location(*storage)).collect(),
            corrupt_replicas: u32::try_from(bad.len()).unwrap_or(u32::MAX),
            corrupt,
        }
    }

    /// Where a storage is, if it is known.
    pub fn location_of(&self, storage_id: &str) -> Option<v1::ReplicaLocation> {
        self.datanodes.find_storage(storage_id).map(|storage| self.datanodes.location(storage))
    }

    fn sort_by_distance(&self, storages: &mut [StorageIndex], reader_ip: Option<IpAddr>, seed: u64) {
        Random::new(seed).shuffle(storages);
        // The reader's rack is that of a datanode on its machine.
        let reader_rack = reader_ip
            .and_then(|ip| self.datanodes.at_ip(ip).first())
            .map(|node| self.datanodes.node(*node).rack);
        storages.sort_by_cached_key(|storage| {
            let node = self.datanodes.node(self.datanodes.node_of(*storage));
            let rank = match node.liveness {
                _ if self.datanodes.storage(*storage).failed => 4,
                Liveness::Live if node.admin == Admin::Normal => 0,
                Liveness::Live => 1,
                Liveness::Stale | Liveness::Expected => 2,
                Liveness::Dead => 3,
            };
            let distance = match reader_rack {
                _ if reader_ip.is_some() && node.ip == reader_ip => topology::SAME_NODE,
                Some(rack) if rack == node.rack => 2,
                Some(rack) => {
                    topology::distance(self.datanodes.rack_name(rack), self.datanodes.rack_name(node.rack))
                }
                None => topology::UNKNOWN,
            };
            (rank, distance)
        });
    }
}
