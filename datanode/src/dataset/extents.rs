//! Where a replica has data and where holes, as its file system tells.

use std::fs::File;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::Dataset;
use crate::error::DatanodeError;
use crate::replica::BlockRef;

/// Ranges told of at most in one answer: 64 KiB of message.
const MAX_EXTENTS: usize = 4096;

/// Ranges with data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents {
    /// First byte and length, ascending.
    pub data: Vec<(u64, u64)>,
    /// What is before this byte has been told of.
    pub end: u64,
    /// Length of the replica.
    pub length: u64,
}

impl Dataset {
    /// Up to `limit` ranges with data from `offset` on, of a replica with at least the stamp of `asked`.
    pub fn extents(&self, asked: BlockRef, offset: u64, limit: usize) -> Result<Extents, DatanodeError> {
        let handle = self.open_read(asked, 0)?;
        let length = handle.length();
        let limit = limit.clamp(1, MAX_EXTENTS);
        let mut found = Extents { data: Vec::new(), end: offset.min(length), length };
        while found.end < length && found.data.len() < limit {
            let seek = |at, whence| seek(handle.data(), at, whence).map_err(|e| handle.failed(e.into()));
            let Some(start) = seek(found.end, Whence::SeekData)?.filter(|start| *start < length) else {
                found.end = length;
                break;
            };
            let end = seek(start, Whence::SeekHole)?.unwrap_or(length).min(length);
            found.data.push((start, end - start));
            found.end = end;
        }
        Ok(found)
    }
}

/// `None`: nothing of that kind up to the file's end.
fn seek(file: &File, at: u64, whence: Whence) -> Result<Option<u64>, Errno> {
    match lseek(file.as_fd(), at as i64, whence) {
        Ok(found) => Ok(u64::try_from(found).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}
