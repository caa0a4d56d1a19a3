//! What `dfs admin` tells of one datanode.

use dfs_client::{DatanodeReport, DatanodeState};
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
}

impl NodeRow {
    /// What the namenode told of a datanode.
    pub fn new(report: DatanodeReport) -> Self {
        let info = report.info.unwrap_or_default();
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

/// Milliseconds as seconds with one decimal.
pub fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}
