//! The two files of a replica, open for as long as the journal has records of it.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use nix::libc::{SYNC_FILE_RANGE_WRITE, sync_file_range};

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
    /// Has the kernel begin to write both, and does not wait.
    pub fn begin_sync(&self) {
        begin_writing(&self.data, 0..0);
        begin_writing(&self.meta, 0..0);
    }

    /// Has the kernel begin to write a range of the data, and does not wait.
    pub fn begin_data_sync(&self, range: Range<u64>) {
        begin_writing(&self.data, range);
    }

    /// Puts both on disk.
    pub fn sync(&self) -> Result<(), DatanodeError> {
        self.data.sync_data().map_err(disk(&self.data_path))?;
        self.meta.sync_data().map_err(disk(&self.meta_path))
    }
}

/// The empty range at 0 is the whole file.
fn begin_writing(file: &File, range: Range<u64>) {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let (offset, len) = (number(range.start), number(range.end - range.start));
    // SAFETY: the descriptor is open as long as `file` is borrowed; no memory is handed over.
    // What comes of it is told to whoever syncs the file; a file system that cannot do this writes when it is synced.
    let _ = unsafe { sync_file_range(file.as_raw_fd(), offset, len, SYNC_FILE_RANGE_WRITE) };
}
