//! One segment file: written in whole blocks, past the page cache where the file system can, and on disk on return.
//!
//! Blocks are filled with zeros before their first use, some megabytes at a time, so that later writes change no metadata
//! of the file system and cost the disk a single flush.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::libc::{O_DIRECT, O_DSYNC};

use super::record::{BLOCK_BYTES, SegmentHeader};
use crate::error::{DatanodeError, disk};
use crate::piece::Piece;

/// Bytes prepared at a time: a few hundred small commits, and no more than tests and small disks can spare.
const PREPARE_BYTES: usize = 4 << 20;

/// One segment file.
#[derive(Debug)]
pub struct SegmentFile {
    file: File,
    path: PathBuf,
    /// Bytes that have been written before.
    prepared: AtomicU64,
}

impl SegmentFile {
    /// Opens the file, creating it if need be.
    pub fn open(path: &Path) -> Result<Self, DatanodeError> {
        let open = |flags| {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false).custom_flags(flags);
            options.open(path)
        };
        let direct = open(O_DIRECT | O_DSYNC);
        let file = match direct {
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => open(O_DSYNC),
            other => other,
        };
        let file = file.map_err(disk(path))?;
        let blocks = file.metadata().map_err(disk(path))?.len() / BLOCK_BYTES as u64;
        let prepared = AtomicU64::new(blocks * BLOCK_BYTES as u64);
        Ok(Self { file, path: path.to_owned(), prepared })
    }

    /// Writes the header; what was in the segment before is dropped by it.
    pub fn write_header(&self, header: &SegmentHeader) -> Result<(), DatanodeError> {
        let mut block = Piece::new(BLOCK_BYTES);
        block.bytes().copy_from_slice(&header.encode());
        self.write(block.bytes(), 0)
    }

    /// Has the header no longer tell during which boot the segment was written, if there is something in it.
    pub fn forget_boot(&self) -> Result<(), DatanodeError> {
        let mut block = Piece::new(BLOCK_BYTES);
        let have = self.file.read_at(block.bytes(), 0).map_err(disk(&self.path))?;
        match SegmentHeader::decode(&block.bytes()[..have]) {
            Some(header) if header.first > 0 => {
                self.write_header(&SegmentHeader { boot: String::new(), ..header })
            }
            _ => Ok(()),
        }
    }

    /// Writes whole blocks of aligned memory. They are on disk on return.
    pub fn write(&self, blocks: &[u8], at: u64) -> Result<(), DatanodeError> {
        self.file.write_all_at(blocks, at).map_err(disk(&self.path))
    }

    /// Whether everything before `end` was written before.
    pub fn is_prepared(&self, end: u64) -> bool {
        end <= self.prepared.load(Ordering::Relaxed)
    }

    /// Fills everything before `end` that was not written before, and a bit more, with zeros.
    pub fn prepare(&self, end: u64) -> Result<(), DatanodeError> {
        let mut zeros = Piece::new(PREPARE_BYTES);
        let mut from = self.prepared.load(Ordering::Relaxed).max(BLOCK_BYTES as u64);
        while from < end {
            self.file.write_all_at(zeros.bytes(), from).map_err(disk(&self.path))?;
            from += PREPARE_BYTES as u64;
            self.prepared.store(from, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The failure that the journal failed before.
    pub fn failed_before(&self) -> DatanodeError {
        disk(&self.path)(io::Error::from(Errno::EIO))
    }
}
