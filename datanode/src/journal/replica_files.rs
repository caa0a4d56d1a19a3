//! The two files of a replica, open for as long as the journal has records of it.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{DatanodeError, disk};

/// Files of a replica that records are about.
#[derive(Debug)]
pub struct ReplicaFiles {
    /// Data.
    pub data: Arc<File>,
    /// Its path when it was opened.
    pub data_path: PathBuf,
    /// Checksums.
    pub meta: Arc<File>,
    /// Their path when they were opened.
    pub meta_path: PathBuf,
}

impl ReplicaFiles {
    /// Puts both on disk.
    pub fn sync(&self) -> Result<(), DatanodeError> {
        self.data.sync_data().map_err(disk(&self.data_path))?;
        self.meta.sync_data().map_err(disk(&self.meta_path))
    }
}
