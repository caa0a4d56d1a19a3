//! `dfs admin report`: the whole cluster at length.

use dfs_client::ClusterStats;
use serde::Serialize;

use super::bandwidth;
use super::health::{Diagnosis, Health};
use super::node_row::{NodeRow, admin_words, node_rows, seconds};
use super::safemode::DISK_FULL;
use crate::human;
use crate::output::Out;
use crate::session::Session;
use crate::times;

/// The cluster, as `report --json` tells it.
#[derive(Debug, Serialize)]
struct ReportRow {
    capacity: u64,
    used: u64,
    remaining: u64,
    under_replicated_blocks: u64,
    corrupt_blocks: u64,
    missing_blocks: u64,
    pending_replication_blocks: u64,
    pending_deletion_blocks: u64,
    inodes: u64,
    blocks: u64,
    live_datanodes: u32,
    stale_datanodes: u32,
    dead_datanodes: u32,
    safe_mode: bool,
    disk_full: bool,
    restored: bool,
    kept_blocks: u64,
    starting: bool,
    health: Health,
    problems: Vec<String>,
    last_replica_blocks: u64,
    misplaced_blocks: u64,
    excess_blocks: u64,
    repair_queue_blocks: u64,
    repair_blocks_per_second: f64,
    repair_bytes_per_second: u64,
    repaired_blocks: u64,
    repaired_bytes: u64,
    failed_copies: u64,
    repair_bandwidth: Option<u64>,
    decommissioning_datanodes: u32,
    decommissioned_datanodes: u32,
    maintenance_datanodes: u32,
    expected_dead_datanodes: u32,
    failed_volumes: u32,
    datanodes: Vec<NodeRow>,
}

impl ReportRow {
    fn new(stats: &ClusterStats, datanodes: Vec<NodeRow>) -> Self {
        let diagnosis = Diagnosis::of(stats);
        Self {
            capacity: stats.capacity,
            used: stats.used,
            remaining: stats.remaining,
            under_replicated_blocks: stats.under_replicated_blocks,
            corrupt_blocks: stats.corrupt_blocks,
            missing_blocks: stats.missing_blocks,
            pending_replication_blocks: stats.pending_replication_blocks,
            pending_deletion_blocks: stats.pending_deletion_blocks,
            inodes: stats.inodes,
            blocks: stats.blocks,
            live_datanodes: stats.live_datanodes,
            stale_datanodes: stats.stale_datanodes,
            dead_datanodes: stats.dead_datanodes,
            safe_mode: stats.safe_mode,
            disk_full: stats.disk_full,
            restored: stats.restored,
            kept_blocks: stats.kept_blocks,
            starting: stats.starting,
            health: diagnosis.health,
            problems: diagnosis.reasons,
            last_replica_blocks: stats.last_replica_blocks,
            misplaced_blocks: stats.misplaced_blocks,
            excess_blocks: stats.excess_blocks,
            repair_queue_blocks: stats.repair_queue_blocks,
            repair_blocks_per_second: stats.copied_blocks_rate_milli as f64 / 1_000.0,
            repair_bytes_per_second: stats.copied_bytes_rate,
            repaired_blocks: stats.copied_blocks,
            repaired_bytes: stats.copied_bytes,
            failed_copies: stats.failed_copies,
            repair_bandwidth: Some(stats.repair_bandwidth).filter(|bytes| *bytes > 0),
            decommissioning_datanodes: stats.decommissioning_datanodes,
            decommissioned_datanodes: stats.decommissioned_datanodes,
            maintenance_datanodes: stats.maintenance_datanodes,
            expected_dead_datanodes: stats.expected_dead_datanodes,
            failed_volumes: stats.failed_volumes,
            datanodes,
        }
    }
}

/// Prints the report.
pub async fn run(session: &Session, out: &mut Out, json: bool) -> anyhow::Result<()> {
    let stats = session.client.stats().await?;
    let row = ReportRow::new(&stats, node_rows(session).await?);
    if json {
        out.json(&row)?;
        return Ok(());
    }
    for line in report_lines(&row) {
        out.line(format_args!("{line}"))?;
    }
    Ok(())
}

fn report_lines(row: &ReportRow) -> Vec<String> {
    let mut lines = Vec::new();
    if row.safe_mode {
        lines.push("Safe mode is ON".to_owned());
    }
    if row.disk_full {
        lines.push(DISK_FULL.to_owned());
    }
    if row.restored {
        let kept = row.kept_blocks;
        lines.push(format!(
            "Restored from a backup: replicas of {kept} unknown blocks are kept (see dfs admin restored)"
        ));
    }
    if row.starting {
        lines.push("The namenode has started, and datanodes are still reporting".to_owned());
    }
    let present = row.used + row.remaining;
    lines.extend([
        format!("Configured Capacity: {}", both(row.capacity)),
        format!("Present Capacity: {}", both(present)),
        format!("DFS Remaining: {}", both(row.remaining)),
        format!("DFS Used: {}", both(row.used)),
        format!("DFS Used%: {}", human::percent(row.used, present, 2)),
        "Replicated Blocks:".to_owned(),
        format!("\tUnder replicated blocks: {}", row.under_replicated_blocks),
        format!("\tBlocks with corrupt replicas: {}", row.corrupt_blocks),
        format!("\tMissing blocks: {}", row.missing_blocks),
        format!("\tPending replication blocks: {}", row.pending_replication_blocks),
        format!("\tPending deletion blocks: {}", row.pending_deletion_blocks),
        format!("\tBlocks with one replica left: {}", row.last_replica_blocks),
        format!("\tBlocks on too few racks: {}", row.misplaced_blocks),
        format!("\tBlocks with excess replicas: {}", row.excess_blocks),
        "Repair:".to_owned(),
        format!("\tBlocks that wait: {}", row.repair_queue_blocks),
        format!("\tCopies under way: {}", row.pending_replication_blocks),
        format!(
            "\tRate: {:.1} blocks/s, {}/s",
            row.repair_blocks_per_second,
            human::size(row.repair_bytes_per_second)
        ),
        format!("\tCopied since start: {} blocks, {}", row.repaired_blocks, both(row.repaired_bytes)),
        format!("\tFailed since start, and tried again: {}", row.failed_copies),
        format!("\tBandwidth of each datanode: {}", bandwidth::words(row.repair_bandwidth)),
        format!(
            "Datanodes: {} decommissioning, {} decommissioned, {} in maintenance, {} failed volumes",
            row.decommissioning_datanodes,
            row.decommissioned_datanodes,
            row.maintenance_datanodes,
            row.failed_volumes
        ),
        format!("Files and directories: {}", row.inodes),
        format!("Blocks: {}", row.blocks),
        String::new(),
        "-".repeat(49),
    ]);
    for (state, title) in [("live", "Live"), ("stale", "Stale"), ("dead", "Dead"), ("unknown", "Unknown")] {
        let group: Vec<&NodeRow> = row.datanodes.iter().filter(|node| node.state == state).collect();
        if group.is_empty() && state != "live" {
            continue;
        }
        lines.push(format!("{title} datanodes ({}):", group.len()));
        lines.push(String::new());
        group.into_iter().for_each(|node| node_lines(node, &mut lines));
    }
    lines
}

fn node_lines(node: &NodeRow, lines: &mut Vec<String>) {
    lines.extend([
        format!("Name: {} ({})", node.name, node.hostname),
        format!("Hostname: {}", node.hostname),
        format!("Rack: {}", node.rack),
        format!("Decommission Status: {}", admin_words(&node.progress)),
        format!("Configured Capacity: {}", both(node.capacity)),
        format!("DFS Used: {}", both(node.used)),
        format!("DFS Remaining: {}", both(node.remaining)),
        format!("DFS Used%: {}", human::percent(node.used, node.capacity, 2)),
        format!("DFS Remaining%: {}", human::percent(node.remaining, node.capacity, 2)),
        format!("Volumes: {} ({} failed)", node.volumes, node.failed_volumes),
    ]);
    for volume in node.storages.iter().filter(|volume| volume.failed) {
        lines.push(format!("Failed volume: {}: {}", volume.path, volume.failure));
    }
    let verified = node.storages.iter().filter(|volume| !volume.failed).map(|volume| volume.scrubbed_s).min();
    lines.push(match verified.filter(|at| *at > 0) {
        Some(at) => format!(
            "All replicas verified since: {}",
            times::utc_seconds(i64::try_from(at).unwrap_or(0).saturating_mul(1_000_000_000))
        ),
        None => "All replicas verified since: not yet".to_owned(),
    });
    for volume in node.storages.iter().filter(|volume| !volume.failed) {
        let state = match volume.scrub_done_milli {
            1_000.. => "waits for the next pass".to_owned(),
            done => format!("{} % of the present pass", f64::from(done) / 10.0),
        };
        lines.push(format!("Verification of {}: {state}, {} bad found", volume.path, volume.scrub_bad));
    }
    lines.extend([
        format!("Xceivers: {}", node.xceivers),
        format!("Last contact: {} ago", seconds(node.last_heartbeat_ms)),
        format!("Num of Blocks: {}", node.blocks),
        format!("Version: {}", node.software_version),
        String::new(),
    ]);
}

fn both(bytes: u64) -> String {
    format!("{bytes} ({})", human::size(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_client::{DatanodeInfo, DatanodeReport, DatanodeState, StorageReport};

    #[test]
    fn a_report_has_totals_and_nodes_by_state() {
        let storage = |failed| StorageReport {
            capacity: 100,
            used: 20,
            remaining: 70,
            failed,
            ..StorageReport::default()
        };
        let info = DatanodeInfo {
            ip: "10.0.0.1".into(),
            xfer_port: 9866,
            state: DatanodeState::Dead.into(),
            ..DatanodeInfo::default()
        };
        let node = DatanodeReport {
            info: Some(info),
            storages: vec![storage(false), storage(true)],
            last_heartbeat_ms: 31_450,
            ..DatanodeReport::default()
        };
        let stats = ClusterStats { capacity: 2048, used: 512, remaining: 1536, ..ClusterStats::default() };
        let lines = report_lines(&ReportRow::new(&stats, vec![NodeRow::new(node)]));
        for expected in [
            "Configured Capacity: 2048 (2 K)",
            "DFS Used%: 25.00%",
            "Live datanodes (0):",
            "Dead datanodes (1):",
            "Name: 10.0.0.1:9866 ()",
            "DFS Used: 40 (40)",
            "Volumes: 2 (1 failed)",
            "Last contact: 31.4 s ago",
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected} missing in {lines:#?}");
        }
    }
}
