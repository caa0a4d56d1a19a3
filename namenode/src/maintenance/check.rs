//! `dfs-namenode check`: everything in a directory is read and verified.

use std::path::Path;

use super::error::MaintenanceError;
use crate::consensus::{LogSummary, Offline};
use crate::namesystem::invariants::{TableDigest, Violation};

/// What a directory holds. It is sound if there are no violations.
#[derive(Debug)]
pub struct CheckReport {
    /// Cluster id; none before the first start came so far.
    pub cluster_id: Option<String>,
    /// The log.
    pub log: LogSummary,
    /// Inodes and blocks.
    pub counts: (u64, u64),
    /// Rows and checksum of each table.
    pub tables: Vec<TableDigest>,
    /// Invariants of the namespace that do not hold.
    pub violations: Vec<Violation>,
}

/// Verifies vote, log, pages of the store, rows, and the invariants of the namespace after the last entry of the log.
/// Damage that keeps a namenode from starting is the error, which names the file.
pub fn check(dir: &Path) -> Result<CheckReport, MaintenanceError> {
    let (offline, log) = Offline::open(dir, true)?;
    let snapshot = offline.snapshot();
    Ok(CheckReport {
        cluster_id: snapshot.identity()?.map(|(cluster_id, _)| cluster_id),
        log,
        counts: snapshot.counts()?,
        tables: snapshot.digest()?,
        violations: snapshot.check_invariants()?,
    })
}
