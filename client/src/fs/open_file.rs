//! An open file: one for each inode and session, shared by all its handles.
//!
//! Writes go into a dirty buffer and from there, in the background, through one pipeline a block; reads see the buffer, what is on
//! its way, and below that the replicas. The parts: `open_file_state` (what is known), `write_*` (the way out), `read_*` (the way
//! in), `open_file_resize` (sizes and holes).
//!
//! Order of locks: [`LeaseTurn`](super::open_files::LeaseTurn), `shape`, `sync_turn`, `commit_turn`, `state`; the last is never
//! held across an await.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dfs_proto::checksum::Checksum;
use dfs_proto::v1::{FileStatus, LocatedBlock, LocatedBlocks};
use dfs_proto::{ErrorKind, InodeId, RpcError};
use tokio::sync::{Notify, RwLock};

use super::file_system::FsInner;
use super::files_ahead::Arrival;
use super::open_file_state::{FileState, Fresh};
use super::read_ahead::ReadStreams;
use super::subject::Subject;
use super::unbroken::unbroken;
use super::write_limits::{Pipelines, Reserved};
use super::write_sync::SyncRound;
use crate::DfsError;
use crate::open_block::WriteTarget;

/// Largest part of a write that is taken at once, less if the session's memory is small: appends up to this size are not torn
/// apart by others.
const MAX_WRITE_PART: usize = 4 << 20;

/// Longest file: offsets are signed in most programs.
const MAX_FILE_BYTES: u64 = i64::MAX as u64;

/// The namenode's limit of a file's blocks: a write behind them is refused at once, not when it is written back.
const MAX_FILE_BLOCKS: u64 = 1 << 20;

/// An open file. [`FileSystem::open`](super::FileSystem::open) and [`FileSystem::create`](super::FileSystem::create) count a handle up,
/// [`Self::release`] counts it down.
pub struct OpenFile {
    core: Arc<FileCore>,
}

/// The inside of an open file, shared with the tasks that work on it.
pub(super) struct FileCore {
    pub(super) fs: Arc<FsInner>,
    pub(super) inode: InodeId,
    pub(super) block_size: u64,
    pub(super) replication: usize,
    /// For messages.
    pub(super) subject: String,
    state: Mutex<FileState>,
    /// Something was acknowledged or ended, or has failed.
    pub(super) progress: Notify,
    /// Held shared while something is written or handed to the writers, alone while the size is set or holes are made.
    pub(super) shape: RwLock<()>,
    pub(super) commit_turn: tokio::sync::Mutex<()>,
    pub(super) sync_turn: tokio::sync::Mutex<SyncRound>,
    pub(super) streams: ReadStreams,
}

impl FileCore {
    pub(super) fn state(&self) -> MutexGuard<'_, FileState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the calls about a block of this file need.
    pub(super) fn write_target(&self) -> WriteTarget {
        WriteTarget {
            client: Arc::clone(&self.fs.client),
            path: self.subject.clone(),
            inode: self.inode.get(),
            replication: self.replication,
            checksum: Checksum::default(),
            random_access: true,
        }
    }

    pub(super) fn pipelines(&self) -> &Pipelines {
        &self.fs.pipelines
    }

    /// Writes at `at`, or at the end; tells where that was.
    async fn write(self: &Arc<Self>, at: Option<u64>, mut data: Bytes) -> Result<u64, DfsError> {
        let mut next = at;
        let mut begin = None;
        while begin.is_none() || !data.is_empty() {
            self.state().take_failure()?;
            self.take_lease().await?;
            let part = data.len().min(MAX_WRITE_PART).min((self.fs.budget.total() / 2).max(1));
            let reserved = self.reserve(part).await;
            let _shape = self.shape.read().await;
            let mut state = self.state();
            let offset = next.unwrap_or(state.size);
            let end = offset.saturating_add(part as u64);
            if end > self.max_bytes() {
                return Err(self.refused(ErrorKind::TooLarge));
            }
            if !state.lease {
                // It was given back a moment ago.
                continue;
            }
            let part = data.split_to(part);
            reserved.used();
            if !part.is_empty() {
                self.take_write(&mut state, offset, part);
            }
            begin.get_or_insert(offset);
            next = Some(end);
        }
        Ok(begin.unwrap_or(0))
    }

    /// Most bytes that this file can have.
    pub(super) fn max_bytes(&self) -> u64 {
        MAX_FILE_BYTES.min(MAX_FILE_BLOCKS.saturating_mul(self.block_size))
    }

    /// Takes room in the session's memory; if there is none, what is dirty here makes some.
    async fn reserve(self: &Arc<Self>, bytes: usize) -> Reserved<'_> {
        let budget = &self.fs.budget;
        if !budget.try_take(bytes) {
            {
                let _shape = self.shape.read().await;
                self.write_back_all(&mut self.state(), false);
            }
            budget.take(bytes).await;
        }
        Reserved::new(budget, bytes)
    }

    /// Does something to its end, whether or not the caller waits for that: what was half done at the namenode would be
    /// misunderstood here.
    pub(super) async fn to_the_end<W, F>(self: &Arc<Self>, work: W) -> Result<(), DfsError>
    where
        W: FnOnce(Arc<Self>) -> F,
        F: Future<Output = Result<(), DfsError>> + Send + 'static,
    {
        // A failure that nobody waits for is remembered where it happened.
        unbroken(&self.fs, work(Arc::clone(self)), |_| async {}).await
    }

    pub(super) fn refused(&self, kind: ErrorKind) -> DfsError {
        DfsError::refused(&self.subject, RpcError::new(kind, "", ""))
    }
}

impl OpenFile {
    /// A file that was opened, with its first handle. `first_block` is writable already.
    pub(crate) fn new(
        fs: Arc<FsInner>,
        located: LocatedBlocks,
        first_block: Option<LocatedBlock>,
        writable: bool,
    ) -> Arc<Self> {
        let status = located.status.clone().unwrap_or_default();
        let inode = InodeId(status.inode);
        let mut state = FileState::new(located, writable);
        state.write.prepared = first_block.filter(|block| !block.locations.is_empty());
        let core = FileCore {
            fs,
            inode,
            block_size: status.block_size.max(1),
            replication: status.replication as usize,
            subject: Subject::Inode(inode).to_string(),
            state: Mutex::new(state),
            progress: Notify::new(),
            shape: RwLock::default(),
            commit_turn: tokio::sync::Mutex::default(),
            sync_turn: tokio::sync::Mutex::default(),
            streams: ReadStreams::default(),
        };
        Arc::new(Self { core: Arc::new(core) })
    }

    /// One more handle was opened, with a fresh answer of the namenode.
    pub(crate) fn opened(&self, located: LocatedBlocks, writable: bool) {
        let mut state = self.core.state();
        // Another client may overwrite what was read ahead.
        let unsettled = located.status.as_ref().is_some_and(|s| s.under_construction) && !state.lease;
        if state.adopt(located, self.core.block_size) || unsettled {
            self.core.streams.clear();
        }
        if writable {
            state.writable += 1;
            state.lease = true;
            state.recalled = false;
        }
    }

    /// Its content was fetched before it was opened. It counts if nothing has happened since.
    pub(super) fn fetched_ahead(&self, whole: Arrival) {
        // Under this lock nobody writes, and who writes later ends what is read ahead.
        let state = self.core.state();
        if !state.knows_best() && state.write.is_idle() && state.is_at(whole.change(), whole.length()) {
            self.core.streams.set_whole(whole);
        }
    }

    /// All bytes of the file, if they were fetched before it was opened and are here.
    pub fn content_ahead(&self) -> Option<Bytes> {
        self.core.streams.whole()?.now()
    }

    /// It was just made, with or without its lease.
    pub(crate) fn created(&self, lease: bool) {
        let mut state = self.core.state();
        state.created = true;
        state.fresh = Fresh::Unsynced;
        state.lease = lease;
    }

    /// The namenode has made it, with a first block.
    pub(super) fn first_block(&self, block: LocatedBlock) {
        let mut state = self.core.state();
        // A writer that is there waits for just this.
        let has_block = state.write.writers.values().any(|writer| writer.block.is_some());
        if state.lease && !block.locations.is_empty() && !has_block {
            state.write.prepared = Some(block);
        }
    }

    /// It was opened before the namenode had made it, or closed before the namenode had recorded it, which it does not.
    pub(super) fn was_refused(&self, error: DfsError) {
        self.core.failed(error);
    }

    /// Whether a handle is open for writing, or what was written is not recorded yet: the session needs the lease.
    pub(crate) fn is_writable(&self) -> bool {
        let state = self.core.state();
        state.writable > 0 || !state.write.is_idle() || !state.write.finished.is_empty()
    }

    /// Whether something is, or may be, written here that the namenode does not know: it is asked about the file.
    pub(super) fn is_written(&self) -> bool {
        self.core.state().knows_best() || self.is_writable()
    }

    /// Puts what this file knows better than the namenode (size, times) into an answer of the namenode.
    pub(crate) fn overlay(&self, status: &mut FileStatus) {
        let mut state = self.core.state();
        if state.noticed(status) {
            self.core.streams.clear();
        }
        state.overlay(status);
    }

    /// Attributes were set at the namenode, `status` is its answer: an explicit modification time must survive the flush of older
    /// writes, and a size that was set while no handle is writable is the size.
    pub(crate) fn attributes_set(&self, status: &FileStatus) {
        let mut state = self.core.state();
        state.attributes_set(status);
        self.core.streams.clear();
    }

    /// Another client wants the lease: once nothing was written for a second, or the file is closed, writes back and gives
    /// the lease back. Returns when that is done or failed.
    pub(crate) async fn recall(&self) {
        self.core.recall().await;
    }

    /// The session ends: writes back and gives the lease back.
    pub(crate) async fn shut(&self) -> Result<(), DfsError> {
        if self.core.state().lease { self.core.close().await } else { Ok(()) }
    }

    /// The inside.
    pub(super) fn core(&self) -> &Arc<FileCore> {
        &self.core
    }

    /// Attributes, if the session knows them better than the namenode.
    pub(super) fn written(&self) -> Option<FileStatus> {
        let state = self.core.state();
        state.knows_best().then(|| state.status())
    }

    /// Attributes, with the current size.
    pub fn status(&self) -> FileStatus {
        self.core.state().status()
    }

    /// Up to `len` bytes from `offset`; fewer only at the end of the file. Sees every write that returned before.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DfsError> {
        self.core.read(offset, len).await
    }

    /// Writes at `offset`. Bytes are with the library; a failed write-back is answered here, at flush and at sync.
    pub async fn write_at(&self, offset: u64, data: Bytes) -> Result<(), DfsError> {
        self.core.write(Some(offset), data).await.map(drop)
    }

    /// Writes at the end; tells where that was.
    pub async fn append(&self, data: Bytes) -> Result<u64, DfsError> {
        self.core.write(None, data).await
    }

    /// Every byte is acknowledged by all replicas and recorded at the namenode: the next open elsewhere sees it.
    pub async fn flush(&self) -> Result<(), DfsError> {
        self.core.to_the_end(|core| async move { core.flush_handle().await }).await
    }

    /// Every byte is on disk on all replicas, the namespace's changes in the namenode's log (of `data_only`: what is needed to
    /// read it).
    pub async fn sync(&self, _data_only: bool) -> Result<(), DfsError> {
        self.core.sync().await
    }

    /// Cuts the file, or lets it grow with a hole.
    pub async fn set_len(&self, size: u64) -> Result<(), DfsError> {
        self.core.to_the_end(move |core| async move { core.set_len(size).await }).await
    }

    /// Makes a range zeros, keeping its space; the file grows unless `keep_size`.
    pub async fn zero_range(&self, offset: u64, len: u64, keep_size: bool) -> Result<(), DfsError> {
        self.core.to_the_end(move |core| async move { core.zero(offset, len, keep_size).await }).await
    }

    /// Makes a range zeros that take no space; the size stays.
    pub async fn punch_hole(&self, offset: u64, len: u64) -> Result<(), DfsError> {
        self.core.to_the_end(move |core| async move { core.zero(offset, len, true).await }).await
    }

    /// Makes room for a range; the file grows unless `keep_size`.
    pub async fn allocate(&self, offset: u64, len: u64, keep_size: bool) -> Result<(), DfsError> {
        self.core.allocate(offset, len, keep_size).await
    }

    /// First offset from `offset` on that has data; none: there is only a hole up to the end.
    pub async fn seek_data(&self, offset: u64) -> Result<Option<u64>, DfsError> {
        self.core.seek_data(offset).await
    }

    /// First offset from `offset` on that is in a hole; the end of the file counts as one.
    pub async fn seek_hole(&self, offset: u64) -> Result<u64, DfsError> {
        self.core.seek_hole(offset).await
    }

    /// A handle is gone. The last writable one writes back and gives the lease back; the last one reports the release.
    pub async fn release(&self, writable: bool) -> Result<(), DfsError> {
        let close = {
            let mut state = self.core.state();
            if writable {
                state.writable = state.writable.saturating_sub(1);
            }
            if writable && state.writable == 0 && std::mem::take(&mut state.fresh) == Fresh::Synced {
                self.core.fs.close_habit.closed();
            }
            if writable && state.writable == 0 && std::mem::take(&mut state.created) {
                self.core.fs.create_habit.left_empty();
            }
            writable && state.writable == 0 && state.lease
        };
        if !close {
            self.core.fs.handle_gone(self.core.inode);
            return Ok(());
        }
        let release = async |core: Arc<FileCore>| {
            let outcome = core.close().await;
            core.fs.handle_gone(core.inode);
            outcome
        };
        self.core.to_the_end(release).await
    }
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenFile").field("inode", &self.core.inode).finish_non_exhaustive()
    }
}
