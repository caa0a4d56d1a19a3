//! `dfs-namenode restore`: a directory from a backup.
//!
//! The restored namespace is an old one: files that were made since the backup are missing in it, and their blocks lie on
//! the datanodes, perhaps as the only copy that there is. So it
//!
//! * gives no id and no generation stamp that the lost namespace may have given: counters are set far ahead;
//! * remembers that it was restored. Until an operator says otherwise, replicas of blocks that it does not know, or
//!   that are newer than it knows, are kept where they are (see `block_management::kept`).
//!
//! A directory is a namenode's when it has a vote file, which is written last: one that was restored halfway is refused.

use std::path::Path;

use super::backup::{open, unreadable, verify};
use super::backup_file::BackupHeader;
use super::error::MaintenanceError;
use crate::consensus::NewDirectory;
use crate::log::raft_snapshot_part::Part;
use crate::namesystem::{Snapshot, Table};

/// A directory that was made from a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The state in it.
    pub header: BackupHeader,
    /// Rows.
    pub rows: u64,
    /// Inodes and blocks.
    pub counts: (u64, u64),
    /// Cluster id.
    pub cluster_id: Option<String>,
}

/// Makes the empty or missing directory `dir` a namenode's with the namespace of the backup `from`, as node `node_id`.
pub fn restore(from: &Path, dir: &Path, node_id: u64) -> Result<Restored, MaintenanceError> {
    let (header, rows) = verify(from)?;
    let directory = NewDirectory::begin(dir, node_id)?;
    let mut reader = open(from)?;
    while let Some(part) = reader.next_part().map_err(|error| unreadable(from, error))? {
        let Part::Rows(part) = part else { continue };
        let Some(table) = Table::ALL.into_iter().find(|table| table.name() == part.table) else {
            return Err(MaintenanceError::UnknownTable { path: from.to_owned(), table: part.table });
        };
        let pairs: Vec<(&[u8], &[u8])> =
            part.keys.iter().map(Vec::as_slice).zip(part.values.iter().map(Vec::as_slice)).collect();
        directory.insert(table, &pairs)?;
    }
    let directory = directory.filled(header.created_ns)?;
    let snapshot = Snapshot::open(&directory.rows());
    if let Some(first) = snapshot.check_invariants()?.into_iter().next() {
        return Err(MaintenanceError::Unsound { path: from.to_owned(), first });
    }
    let counts = snapshot.counts()?;
    let cluster_id = snapshot.identity()?.map(|(cluster_id, _)| cluster_id);
    drop(snapshot);
    directory.finish()?;
    Ok(Restored { header, rows, counts, cluster_id })
}
