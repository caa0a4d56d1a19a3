//! What can go wrong with check, backup and restore.

use std::path::PathBuf;

use crate::consensus::{ConsensusError, Damage};
use crate::namesystem::{NamesystemError, StoreError};

/// Why a directory or a backup cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// The directory cannot be read, or is damaged.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// Rows of the namespace cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The namespace cannot be read.
    #[error(transparent)]
    Namesystem(#[from] NamesystemError),
    /// A file cannot be read or written.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A backup holds what this program never wrote.
    #[error("{}: damaged at offset {offset}: {reason}", path.display())]
    Damaged {
        /// The backup.
        path: PathBuf,
        /// Offset of the damage in bytes.
        offset: u64,
        /// What is wrong there.
        reason: Damage,
    },
    /// A backup must not replace another file.
    #[error("{}: exists", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A backup names a table that this version does not know.
    #[error("{}: unknown table {table}", path.display())]
    UnknownTable {
        /// The backup.
        path: PathBuf,
        /// The table.
        table: String,
    },
    /// A restored namespace does not hold together.
    #[error("{}: the namespace does not hold together: {first}", path.display())]
    Unsound {
        /// The backup.
        path: PathBuf,
        /// The first violation.
        first: crate::namesystem::invariants::Violation,
    },
    /// The running namenode did not answer as it should.
    #[error("namenode {address}: {reason}")]
    Namenode {
        /// Its address.
        address: String,
        /// What it said.
        reason: String,
    },
}

impl MaintenanceError {
    /// An I/O error of `action` on `path`.
    pub(super) fn io(path: impl Into<PathBuf>, action: &'static str, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), action, source }
    }
}
