//! The state of an open file, and what it tells about itself.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use dfs_proto::ErrorKind;
use dfs_proto::v1::{FileStatus, LocatedBlocks};

use super::namespace_sync::{forgotten, is_of_loss};
use super::read_table::BlockTable;
use super::write_state::WriteState;
use crate::DfsError;
use crate::status::to_ns;

/// Everything about an open file that changes; under one lock, which is never held across an await.
pub(super) struct FileState {
    /// The namenode's last word. Size and modification time are the fields below.
    status: FileStatus,
    /// Bytes of the file with everything written here.
    pub size: u64,
    /// What the namenode knows of it, or will never know better.
    pub recorded_size: u64,
    /// Modification time with everything written here.
    mtime_ns: i64,
    /// The session has the lease, for all that is known.
    pub lease: bool,
    /// The lease is being given back with what was written, which an answer of the namenode may not have yet.
    pub returning: bool,
    /// Handles open for writing.
    pub writable: u32,
    /// It was made here and has not been written yet.
    pub created: bool,
    /// What became of it since it was made here.
    pub fresh: Fresh,
    /// When something was last written.
    pub written: Option<Instant>,
    /// The lease was taken again after a flush had given it back: flushes in mid-file are this writer's habit.
    pub rewritten: bool,
    /// Something was answered by the namenode before it was on its disk.
    pub namespace_changed: bool,
    /// A sync left it to a recovery to find how long it is, and to this file to tell the namenode again should that forget it: it has to
    /// have it on its disk before the file is forgotten here.
    pub found: bool,
    /// How often the namenode has lost changes of it.
    pub losses: u32,
    /// The background task runs.
    pub tended: bool,
    /// The recall that was answered last asked for it: the next flush gives the lease back.
    pub recalled: bool,
    /// A failed write-back, and how many handles are to hear of it.
    failed: Option<(DfsError, u32)>,
    pub table: BlockTable,
    pub write: WriteState,
}

/// How far a new file has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fresh {
    /// It is not new any more.
    #[default]
    No,
    /// It was made here, and nobody has asked for a sync.
    Unsynced,
    /// It was synced once, and not written since.
    Synced,
}

impl FileState {
    pub(super) fn new(located: LocatedBlocks, writable: bool) -> Self {
        let status = located.status.clone().unwrap_or_default();
        let mut table = BlockTable::default();
        let block_size = status.block_size.max(1);
        let (size, mtime_ns) = (status.size, status.mtime_ns);
        table.learn(0, None, located, block_size, |_| false);
        Self {
            status,
            size,
            recorded_size: size,
            mtime_ns,
            lease: writable,
            returning: false,
            writable: u32::from(writable),
            created: false,
            fresh: Fresh::No,
            written: None,
            rewritten: false,
            namespace_changed: true,
            found: false,
            losses: 0,
            tended: false,
            recalled: false,
            failed: None,
            table,
            write: WriteState::default(),
        }
    }

    /// Takes a fresh answer of the namenode over. True if the content may be another one.
    pub(super) fn adopt(&mut self, located: LocatedBlocks, block_size: u64) -> bool {
        let Some(status) = located.status.clone() else { return false };
        if self.returning {
            return false;
        }
        let changed = status.change != self.status.change && !self.lease;
        if changed {
            self.table.clear();
        }
        if !self.lease {
            self.size = status.size;
            self.recorded_size = status.size;
            self.mtime_ns = status.mtime_ns;
        }
        self.status = status;
        let write = &self.write;
        let keep = |index| write.writers.contains_key(&index) || write.finished.contains_key(&index);
        self.table.learn(0, None, located, block_size, keep);
        changed
    }

    /// Whether the file has this change counter and size, for all that is known.
    pub(super) fn is_at(&self, change: u64, size: u64) -> bool {
        self.status.change == change && self.size == size
    }

    /// The namenode's answer to a commit.
    pub(super) fn committed(&mut self, status: FileStatus) {
        self.recorded_size = self.recorded_size.max(status.size);
        self.status = status;
        self.namespace_changed = true;
    }

    /// The namenode has forgotten some of what it was told: it is told again of what it may not know.
    pub(super) fn tell_again(&mut self) {
        self.losses += 1;
        self.namespace_changed = true;
        // That the lease was given back may be lost, too; giving it back twice is harmless.
        self.lease |= !self.write.told.is_empty();
        if !self.lease {
            return;
        }
        self.recorded_size = 0;
        let WriteState { writers, finished, told, .. } = &mut self.write;
        writers.values_mut().for_each(|writer| (writer.recorded, writer.kept) = (None, None));
        for (index, block) in std::mem::take(told) {
            // One that is being written again is told of by its writer.
            if !writers.contains_key(&index) {
                finished.entry(index).or_insert(block);
            }
        }
    }

    /// The namenode's answer to a change of attributes.
    pub(super) fn attributes_set(&mut self, status: &FileStatus) {
        if !self.knows_best() && status.size != self.size {
            // The blocks may be others, too: they are asked for again.
            self.table.clear();
            self.size = status.size;
            self.recorded_size = status.size;
        }
        if status.mtime_ns != self.status.mtime_ns {
            self.mtime_ns = status.mtime_ns;
        }
        self.status = status.clone();
        self.namespace_changed = true;
    }

    /// The namenode told of the file when it was asked for something else. True if others have changed the content since this was
    /// last told: what is known of the blocks is forgotten, so that open readers see a file grow.
    pub(super) fn noticed(&mut self, status: &FileStatus) -> bool {
        let known = &self.status;
        if self.knows_best() || status.change <= known.change {
            return false;
        }
        let changed = (status.size, status.mtime_ns) != (known.size, known.mtime_ns);
        if changed {
            self.table.clear();
            self.size = status.size;
            self.recorded_size = status.size;
            self.mtime_ns = status.mtime_ns;
        }
        self.status = FileStatus { name: Bytes::new(), ..status.clone() };
        changed
    }

    /// The size was set at the namenode.
    pub(super) fn resized(&mut self, status: FileStatus, block_size: u64) {
        self.size = status.size;
        self.recorded_size = status.size;
        self.mtime_ns = status.mtime_ns;
        self.table.cut(status.size, block_size);
        self.write.cut(status.size.div_ceil(block_size));
        self.status = status;
        self.namespace_changed = true;
    }

    /// Something was written; the file has at least `end` bytes.
    pub(super) fn touched(&mut self, end: u64) {
        self.size = self.size.max(end);
        self.written = Some(Instant::now());
        self.mtime_ns = to_ns(SystemTime::now());
    }

    /// Modification time with everything written here.
    pub(super) fn mtime_ns(&self) -> i64 {
        self.mtime_ns
    }

    /// Whether the namenode does not know the modification time.
    pub(super) fn mtime_changed(&self) -> bool {
        self.mtime_ns != self.status.mtime_ns
    }

    /// Whether the namenode does not know how long the file or one of its blocks is.
    pub(super) fn is_unrecorded(&self) -> bool {
        let write = &self.write;
        self.size > self.recorded_size
            || !write.finished.is_empty()
            || write.writers.values().any(|writer| writer.block != writer.recorded)
    }

    /// Whether a recovery of the lease would find everything that the namenode does not know of the content: it knows, on its disk,
    /// which blocks are being written and under which stamps, and these have only become longer.
    ///
    /// What is on the disks of all replicas then needs no sync of the namenode's log. A recovery takes the length that all members of the
    /// pipeline have, and of members with that stamp none has less than what it put on disk. If the namenode loses what it was told of
    /// the length, nothing else can have happened to the block that it still knows: a new stamp, the end of the block and a cut are
    /// later changes, which the next sync waits for.
    pub(super) fn only_grows(&self, block_size: u64) -> bool {
        self.write.only_grows() && self.size <= self.recorded_size.max(self.write.end_of_writers(block_size))
    }

    /// Whether nothing was written for `time`.
    pub(super) fn quiet_for(&self, time: Duration) -> bool {
        self.written.is_none_or(|written| written.elapsed() >= time)
    }

    /// Whether the size, the times and the blocks are known better here than at the namenode.
    pub(super) fn knows_best(&self) -> bool {
        self.lease || self.returning
    }

    /// Attributes as this session knows them.
    pub(super) fn status(&self) -> FileStatus {
        let mut status = self.status.clone();
        self.overlay(&mut status);
        status
    }

    /// Puts what is known better here into an answer of the namenode.
    pub(super) fn overlay(&self, status: &mut FileStatus) {
        if !self.knows_best() {
            return;
        }
        status.size = self.size;
        if self.mtime_changed() {
            status.mtime_ns = self.mtime_ns;
            status.ctime_ns = status.ctime_ns.max(self.mtime_ns);
        }
    }

    /// Writing failed for good.
    pub(super) fn fail(&mut self, error: DfsError) {
        if error.kind() == ErrorKind::LeaseExpired {
            // The namenode has brought the file to an end without this session: the next write opens it anew.
            self.lease = false;
            self.forget_ended();
        }
        // What is open is there, unless the namenode has lost it; that may not be noticed yet.
        let is_lost = error.kind() == ErrorKind::NotFound || self.losses > 0 && is_of_loss(error.kind());
        let error = if is_lost { forgotten("", &error) } else { error };
        self.failed = Some((error, self.writable.max(1)));
    }

    /// What was ended is not known to the namenode and never will be.
    pub(super) fn forget_ended(&mut self) {
        let WriteState { finished, unsynced, told, .. } = &mut self.write;
        [finished, unsynced, told].into_iter().for_each(BTreeMap::clear);
    }

    /// A failure that somebody has to hear of.
    pub(super) fn take_failure(&mut self) -> Result<(), DfsError> {
        match &mut self.failed {
            None => Ok(()),
            Some((error, left)) => {
                let error = error.clone();
                *left -= 1;
                if *left == 0 {
                    self.failed = None;
                }
                Err(error)
            }
        }
    }
}
