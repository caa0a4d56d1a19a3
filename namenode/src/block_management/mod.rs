//! Blocks, replicas and datanodes: the namenode's soft state.
//!
//! Pure: events come in with `now`, milliseconds of a monotonic clock; commands to datanodes go out in
//! the answers to heartbeats. There is no clock, no random source, no I/O and no task in here; random
//! choices come from seeds. The service holds the [`BlockManager`] in one mutex and calls it from any
//! thread; no call does anything slow, and large work (a dead datanode's replicas, for instance) is done
//! in slices by [`BlockManager::tick`].
//!
//! Nothing here is durable. After a start the state is rebuilt from full block reports; until then
//! blocks are found by the hints that the namespace keeps ([`StoredBlock::hints`]).
//!
//! Reading order: [`block_map`](self) entries and [`replica_set`](self), then `block_manager` (the state and
//! its primitive changes), `liveness` (registration, heartbeats, tick), `effects`, `report`, `redundancy`
//! (what a block needs), `administration` (what a replica is worth), `suspects` (when corrupt replicas go), `repair` (planning copies), `failed_copies`, `placement`, `locate`, `recovery`, `balancer`.
//!
//! Invariants, checked by `BlockManager::check_invariants` in tests:
//! 1. A block has at most one replica on a datanode, and a replica only on a storage that is known.
//! 2. A complete block has no replica marked as being written.
//! 3. Replica counts of storages, loads of datanodes and the queues agree with the block map.
//! 4. A good replica is never ordered to be deleted while no more than the wanted number of good
//!    replicas on datanodes that are not stale are known.
//! 5. A corrupt replica is ordered to be deleted only after the good ones were verified (`suspects`), and while a
//!    block has one, no good replica goes.
//! 6. A replica on a datanode that leaves is a source and nothing more: it does not count, and is not deleted for
//!    being one too many. See `administration` for what a replica is worth.
//! 7. A replica that is ordered to be deleted is no location: not for readers, appends, copies or recovery.
//!
//! [`StoredBlock::hints`]: crate::namesystem::StoredBlock::hints

mod administration;
mod balancer;
mod block_manager;
mod block_map;
mod config;
mod datanode_manager;
mod describe;
mod drain;
mod effects;
mod failed_copies;
mod finalizations;
mod interrupted;
mod invalidate;
mod kept;
mod lease_manager;
mod liveness;
mod locate;
mod low_redundancy;
mod move_safety;
mod moves;
mod pacing;
mod pending;
mod placement;
mod random;
mod recent;
mod recovery;
mod redundancy;
mod repair;
mod repair_meter;
mod replica_set;
mod report;
mod report_slice;
mod stats;
mod suspects;
mod sweep;
mod topology;
mod utilization;

#[cfg(test)]
mod tests;

pub use balancer::BANDWIDTH_MIN;
pub use block_manager::BlockManager;
pub use config::{BlockManagementConfig, ConfigError};
pub use lease_manager::{LeaseConfig, LeaseManager};
pub use locate::Located;
pub use placement::PlacementRequest;
pub use report_slice::{ReportSliceError, ReportedReplica};
