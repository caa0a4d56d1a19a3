//! Totals and the table of datanodes.

use dfs_proto::v1;

use super::administration::Admin;
use super::block_manager::BlockManager;
use super::datanode_manager::Liveness;
use super::low_redundancy::{Level, REPAIRED};

impl BlockManager {
    /// Capacity and health. The caller fills in what the namespace counts, and safe mode.
    pub fn stats(&self, now: u64) -> v1::ClusterStats {
        let count = |level| self.queues.count(level) as u64;
        let mut stats = v1::ClusterStats {
            under_replicated_blocks: count(Level::OneLeft)
                + count(Level::Badly)
                + count(Level::Under)
                + count(Level::Pending),
            corrupt_blocks: count(Level::Corrupt),
            missing_blocks: count(Level::Missing),
            pending_replication_blocks: self.pending.targets() as u64,
            last_replica_blocks: count(Level::OneLeft),
            misplaced_blocks: count(Level::Misplaced),
            excess_blocks: count(Level::Excess),
            repair_queue_blocks: REPAIRED.into_iter().map(count).sum(),
            repair_bandwidth: self.repair_bandwidth,
            starting: !self.startup.over,
            failed_copies: self.failed_copies.total(),
            ..Default::default()
        };
        (stats.copied_blocks, stats.copied_bytes) = self.meter.totals();
        (stats.copied_blocks_rate_milli, stats.copied_bytes_rate) = self.meter.rates(now);
        for index in self.datanodes.indices() {
            let node = self.datanodes.node(index);
            if node.removed {
                continue;
            }
            match node.liveness {
                Liveness::Live => stats.live_datanodes += 1,
                Liveness::Stale => stats.stale_datanodes += 1,
                Liveness::Expected | Liveness::Dead => {
                    stats.dead_datanodes += 1;
                    stats.expected_dead_datanodes += u32::from(node.admin != Admin::Normal);
                }
            }
            match node.admin {
                Admin::Normal => {}
                Admin::Leaving if self.admin_progress(now, index).done => stats.decommissioned_datanodes += 1,
                Admin::Leaving => stats.decommissioning_datanodes += 1,
                Admin::Maintenance { .. } => stats.maintenance_datanodes += 1,
            }
            stats.pending_deletion_blocks += node.invalidates.len() as u64;
        }
        for storage in self.datanodes.storages() {
            stats.failed_volumes += u32::from(storage.failed && self.datanodes.node(storage.node).serves());
            if self.datanodes.node(storage.node).serves() && !storage.failed {
                stats.capacity = stats.capacity.saturating_add(storage.capacity);
                stats.used = stats.used.saturating_add(storage.used);
                stats.remaining = stats.remaining.saturating_add(storage.remaining);
            }
        }
        stats
    }

    /// One row a datanode, by host name and port.
    pub fn datanode_report(&self, now: u64) -> Vec<v1::DatanodeReport> {
        let mut rows: Vec<v1::DatanodeReport> = self
            .datanodes
            .indices()
            .filter(|index| !self.datanodes.node(*index).removed)
            .map(|index| {
                let node = self.datanodes.node(index);
                let mut info = node.info.clone();
                info.set_state(match node.liveness {
                    Liveness::Live => v1::DatanodeState::Live,
                    Liveness::Stale => v1::DatanodeState::Stale,
                    Liveness::Expected | Liveness::Dead => v1::DatanodeState::Dead,
                });
                info.set_admin_state(self.datanodes.admin_state_of(index));
                let storages = node.storages.iter().map(|storage| self.datanodes.storage(*storage));
                let storages = storages.filter(|storage| storage.listed);
                v1::DatanodeReport {
                    info: Some(info),
                    storages: storages
                        .clone()
                        .map(|storage| v1::StorageReport {
                            storage_id: storage.id.clone(),
                            capacity: storage.capacity,
                            used: storage.used,
                            remaining: storage.remaining,
                            failed: storage.failed,
                            path: storage.path.clone(),
                            failure: storage.failure.clone(),
                            scrubbed_s: storage.scrubbed_s,
                            scrub_done_milli: storage.scrub_done_milli,
                            scrub_bad: storage.scrub_bad,
                        })
                        .collect(),
                    last_heartbeat_ms: now.saturating_sub(node.last_heartbeat),
                    blocks: storages.map(|storage| storage.replicas).sum(),
                    xceivers: node.xceivers,
                    software_version: node.software_version.clone(),
                    admin: Some(self.admin_progress(now, index)),
                    flaps: node.flaps.count(now),
                }
            })
            .collect();
        rows.sort_by(|a, b| {
            let key = |row: &v1::DatanodeReport| {
                row.info.as_ref().map(|info| (info.hostname.clone(), info.xfer_port, info.uuid.clone()))
            };
            key(a).cmp(&key(b))
        });
        rows
    }
}
