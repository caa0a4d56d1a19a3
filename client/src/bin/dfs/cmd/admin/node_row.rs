//! What `dfs admin` tells of one datanode.

use dfs_client::{AdminProgress, AdminState, DatanodeReport, DatanodeState};
use serde::Serialize;

use crate::session::Session;

/// A datanode, as `report` and `nodes` tell it.
#[derive(Debug, Serialize)]
pub struct NodeRow {
    pub name: String,
    pub hostname: String,
    pub uuid: String,
    pub rack: String,
    pub state: &'static str,
    pub capacity: u64,
    pub used: u64,
    pub remaining: u64,
    pub blocks: u64,
    pub xceivers: u32,
    pub last_heartbeat_ms: u64,
    pub software_version: String,
    pub ipc_port: u32,
    pub http_port: u32,
    pub failed_volumes: usize,
    pub volumes: usize,
    pub admin_state: &'static str,
    pub admin_done: bool,
    pub blocks_left: u64,
    pub blocks_stuck: u64,
    pub blocks_open: u64,
    pub maintenance_remaining_ms: u64,
    pub flaps: u32,
    #[serde(skip)]
    pub progress: AdminProgress,
    pub storages: Vec<VolumeRow>,
}

/// A volume of a datanode.
#[derive(Debug, Serialize)]
pub struct VolumeRow {
    pub storage_id: String,
    pub path: String,
    pub capacity: u64,
    pub used: u64,
    pub remaining: u64,
    pub failed: bool,
    /// Why it failed.
    pub failure: String,
    /// When all of its replicas had last been verified, in seconds since the epoch; 0: not yet.
    pub scrubbed_s: u64,
    /// Share of the present pass that is verified, in thousandths; 1,000 between two passes.
    pub scrub_done_milli: u32,
    /// Bad replicas found since the datanode started.
    pub scrub_bad: u64,
}

impl VolumeRow {
    fn new(storage: &dfs_client::StorageReport) -> Self {
        Self {
            storage_id: storage.storage_id.clone(),
            path: storage.path.clone(),
            capacity: storage.capacity,
            used: storage.used,
            remaining: storage.remaining,
            failed: storage.failed,
            failure: storage.failure.clone(),
            scrubbed_s: storage.scrubbed_s,
            scrub_done_milli: storage.scrub_done_milli,
            scrub_bad: storage.scrub_bad,
        }
    }
}

impl NodeRow {
    /// What the namenode told of a datanode.
    pub fn new(report: DatanodeReport) -> Self {
        let info = report.info.unwrap_or_default();
        let progress = report.admin.unwrap_or_default();
        let sum = |field: fn(&dfs_client::StorageReport) -> u64| report.storages.iter().map(field).sum();
        Self {
            name: format!("{}:{}", info.ip, info.xfer_port),
            state: state_word(info.state()),
            hostname: info.hostname,
            uuid: info.uuid,
            rack: info.rack,
            capacity: sum(|storage| storage.capacity),
            used: sum(|storage| storage.used),
            remaining: sum(|storage| storage.remaining),
            blocks: report.blocks,
            xceivers: report.xceivers,
            last_heartbeat_ms: report.last_heartbeat_ms,
            software_version: report.software_version,
            ipc_port: info.ipc_port,
            http_port: info.http_port,
            failed_volumes: report.storages.iter().filter(|storage| storage.failed).count(),
            volumes: report.storages.len(),
            admin_state: admin_word(progress.state(), progress.done),
            admin_done: progress.done,
            blocks_left: progress.blocks_left,
            blocks_stuck: progress.blocks_stuck,
            blocks_open: progress.blocks_open,
            maintenance_remaining_ms: progress.remaining_ms,
            flaps: report.flaps,
            progress,
            storages: report.storages.iter().map(VolumeRow::new).collect(),
        }
    }
}

fn state_word(state: DatanodeState) -> &'static str {
    match state {
        DatanodeState::Unspecified => "unknown",
        DatanodeState::Live => "live",
        DatanodeState::Stale => "stale",
        DatanodeState::Dead => "dead",
    }
}

/// All datanodes the namenode knows.
pub async fn node_rows(session: &Session) -> anyhow::Result<Vec<NodeRow>> {
    Ok(session.client.datanodes().await?.into_iter().map(NodeRow::new).collect())
}

fn admin_word(state: AdminState, done: bool) -> &'static str {
    match (state, done) {
        (AdminState::Normal, _) => "normal",
        (AdminState::Decommission, false) => "decommissioning",
        (AdminState::Decommission, true) => "decommissioned",
        (AdminState::Maintenance, false) => "entering-maintenance",
        (AdminState::Maintenance, true) => "in-maintenance",
    }
}

/// How far an order about a datanode is, in words.
pub fn admin_words(progress: &AdminProgress) -> String {
    let mut words = admin_word(progress.state(), progress.done).to_owned();
    if progress.state() == AdminState::Normal {
        return words;
    }
    if progress.state() == AdminState::Maintenance {
        words.push_str(&format!(", ends in {}", seconds(progress.remaining_ms)));
    }
    if progress.counting {
        words.push_str(", counting its blocks");
    } else if progress.done {
        words.push_str(", may be stopped");
    } else {
        words.push_str(&format!(", {} blocks lack replicas elsewhere", progress.blocks_left));
        if progress.blocks_open > 0 {
            words.push_str(&format!(", {} are being written", progress.blocks_open));
        }
        if progress.blocks_stuck > 0 {
            words.push_str(&format!(
                "; {} of them have nowhere to go: too few other datanodes take replicas, so add one or lower the \
                 replication",
                progress.blocks_stuck
            ));
        }
    }
    words
}

/// Milliseconds as seconds with one decimal.
pub fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}
