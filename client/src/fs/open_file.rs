//! An open file: one for each inode and session, shared by all its handles.

use std::sync::Arc;

use bytes::Bytes;
use dfs_proto::v1::{FileStatus, LocatedBlock, LocatedBlocks};
use dfs_proto::{ErrorKind, InodeId, RpcError};

use super::file_system::FsInner;
use crate::DfsError;

/// An open file. [`FileSystem::open`](super::FileSystem::open) and [`FileSystem::create`](super::FileSystem::create) count a handle up,
/// [`Self::release`] counts it down.
pub struct OpenFile {
    fs: Arc<FsInner>,
    status: FileStatus,
}

impl OpenFile {
    /// A file that was opened, with its first handle. `first_block` is writable already.
    pub(crate) fn new(
        fs: Arc<FsInner>,
        located: LocatedBlocks,
        _first_block: Option<LocatedBlock>,
        _writable: bool,
    ) -> Arc<Self> {
        Arc::new(Self { fs, status: located.status.unwrap_or_default() })
    }

    /// One more handle was opened, with a fresh answer of the namenode.
    pub(crate) fn opened(&self, _located: LocatedBlocks, _writable: bool) {}

    /// Whether a handle is open for writing, or what was written is not recorded yet: the session needs the lease.
    pub(crate) fn is_writable(&self) -> bool {
        false
    }

    /// Puts what this file knows better than the namenode (size, times) into an answer of the namenode.
    pub(crate) fn overlay(&self, _status: &mut FileStatus) {}

    /// Attributes were set at the namenode, `status` is its answer: an explicit modification time must survive the flush of older
    /// writes, and a size that was set while no handle is writable is the size.
    pub(crate) fn attributes_set(&self, _status: &FileStatus) {}

    /// Another client wants the lease: once nothing was written for a second, or the file is closed, writes back and gives
    /// the lease back. Returns when that is done or failed.
    pub(crate) async fn recall(&self) {}

    /// The session ends: writes back and gives the lease back.
    pub(crate) async fn shut(&self) -> Result<(), DfsError> {
        Ok(())
    }

    /// Attributes, with the current size.
    pub fn status(&self) -> FileStatus {
        self.status.clone()
    }

    /// Up to `len` bytes from `offset`; fewer only at the end of the file. Sees every write that returned before.
    pub async fn read_at(&self, _offset: u64, _len: usize) -> Result<Bytes, DfsError> {
        Err(self.unsupported())
    }

    /// Writes at `offset`. Bytes are with the library; a failed write-back is answered here, at flush and at sync.
    pub async fn write_at(&self, _offset: u64, _data: Bytes) -> Result<(), DfsError> {
        Err(self.unsupported())
    }

    /// Writes at the end; tells where that was.
    pub async fn append(&self, _data: Bytes) -> Result<u64, DfsError> {
        Err(self.unsupported())
    }

    /// Every byte is acknowledged by all replicas and recorded at the namenode: the next open elsewhere sees it.
    pub async fn flush(&self) -> Result<(), DfsError> {
        Ok(())
    }

    /// Every byte is on disk on all replicas, the namespace's changes in the namenode's log (of `data_only`: what is needed to
    /// read it).
    pub async fn sync(&self, _data_only: bool) -> Result<(), DfsError> {
        self.fs.sync_namespace().await
    }

    /// Cuts the file, or lets it grow with a hole.
    pub async fn set_len(&self, _size: u64) -> Result<(), DfsError> {
        Err(self.unsupported())
    }

    /// Makes a range zeros, keeping its space; the file grows unless `keep_size`.
    pub async fn zero_range(&self, _offset: u64, _len: u64, _keep_size: bool) -> Result<(), DfsError> {
        Err(self.unsupported())
    }

    /// Makes a range zeros that take no space; the size stays.
    pub async fn punch_hole(&self, _offset: u64, _len: u64) -> Result<(), DfsError> {
        Err(self.unsupported())
    }

    /// Makes room for a range; the file grows unless `keep_size`.
    pub async fn allocate(&self, _offset: u64, _len: u64, _keep_size: bool) -> Result<(), DfsError> {
        Err(self.unsupported())
    }

    /// First offset from `offset` on that has data; none: there is only a hole up to the end.
    pub async fn seek_data(&self, _offset: u64) -> Result<Option<u64>, DfsError> {
        Err(self.unsupported())
    }

    /// First offset from `offset` on that is in a hole; the end of the file counts as one.
    pub async fn seek_hole(&self, _offset: u64) -> Result<u64, DfsError> {
        Err(self.unsupported())
    }

    /// A handle is gone. The last writable one writes back and gives the lease back; the last one reports the release.
    pub async fn release(&self, _writable: bool) -> Result<(), DfsError> {
        self.fs.handle_gone(InodeId(self.status.inode));
        Ok(())
    }

    fn unsupported(&self) -> DfsError {
        let subject = InodeId(self.status.inode).to_string();
        DfsError::refused(&subject, RpcError::new(ErrorKind::Unsupported, "", ""))
    }
}
