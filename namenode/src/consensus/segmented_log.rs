//! The files of the Raft log: opening, writing, syncing and cutting them.
//!
//! [`SegmentedLog`] belongs to the log thread, the only writer. What it has written it notes in the
//! [`Catalog`], from which another thread reads old entries back.
//!
//! Invariants: segments are consecutive; all but the last one are synced; the catalog describes only
//! bytes that were written; an error leaves the log unusable, since a failed write or sync tells nothing
//! about what is on disk (the caller stops the namenode and never tries again).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalog::{Catalog, Segment};
use super::durable_file;
use super::error::ConsensusError;
use super::found_log::{Found, list, read_files, remove_asides};
use super::raft_types::{self, Entry, LogId, Membership};
use super::record::{self, Kind};
use super::room::RoomAhead;
use super::segment::{self, EntryId};

/// What [`SegmentedLog::open`] found.
#[derive(Debug)]
pub struct Recovered {
    /// Entry before the first one of the log.
    pub previous: Option<LogId>,
    /// Last entry, or `previous`.
    pub last: Option<LogId>,
    /// The last entries, as many as fit the given bound.
    pub tail: Vec<Entry>,
    /// The last membership in the log.
    pub membership: Option<Membership>,
}

/// The log's files, for their writer.
#[derive(Debug)]
pub struct SegmentedLog {
    dir: PathBuf,
    segment_bytes: u64,
    catalog: Arc<Catalog>,
    /// The last segment. Shared with a sync that is under way.
    file: Arc<File>,
    path: PathBuf,
    /// Bytes of it that were written.
    bytes: u64,
    /// Last entry staged or written.
    last: Option<EntryId>,
    /// Entries below this index are on disk.
    synced: u64,
    /// Something was written since the last sync.
    dirty: bool,
    staged: Vec<u8>,
    /// Offsets in `staged` of its entries.
    staged_entries: Vec<usize>,
    room: RoomAhead,
}

/// A sync of what was written before it began.
#[derive(Debug)]
pub struct Sync {
    file: Arc<File>,
    path: PathBuf,
    /// Entries below this index are on disk when it has ended.
    pub next: u64,
    bytes: u64,
}

impl Sync {
    /// Makes what was written durable.
    pub fn run(&self) -> Result<(), ConsensusError> {
        self.file.sync_data().map_err(|error| ConsensusError::io(&self.path, "sync", error))
    }
}

impl SegmentedLog {
    /// Opens the log in `dir`, drops a torn end, and syncs what it found. A log that ends before
    /// `state_next` (the first entry that the state machine lacks) is continued there by Raft; one that
    /// begins after it is refused.
    pub fn open(
        dir: PathBuf,
        segment_bytes: u64,
        tail_bytes: usize,
        state_next: u64,
    ) -> Result<(Self, Recovered), ConsensusError> {
        durable_file::make_dir(&dir)?;
        remove_asides(&dir)?;
        if list(&dir)?.is_empty() {
            if state_next > 0 {
                return Err(ConsensusError::LogMissing { dir, state_ends: state_next });
            }
            drop(durable_file::replace(&dir.join(segment::file_name(0)), &header_bytes(None))?);
        }
        let Found { segments, stale, torn_bytes, last, membership, tail } =
            read_files(&dir, tail_bytes, state_next)?;
        let (Some(begin), Some(end)) = (segments.first(), segments.last()) else {
            return Err(ConsensusError::LogMissing { dir, state_ends: state_next });
        };
        for segment in stale {
            durable_file::remove(&segment.path)?;
        }
        let previous = begin.previous.map(raft_types::log_id);
        let path = end.path.clone();
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| ConsensusError::io(&path, "open", error))?;
        if torn_bytes > 0 {
            tracing::warn!(path = %path.display(), offset = end.bytes, bytes = torn_bytes,
                "dropped the torn end of the log, which was never acknowledged");
            file.set_len(end.bytes).map_err(|error| ConsensusError::io(&path, "cut", error))?;
        }
        // What a killed process had written is in the page cache only.
        file.sync_all().map_err(|error| ConsensusError::io(&path, "sync", error))?;
        let (bytes, next) = (end.bytes, end.next);
        let room = RoomAhead::default();
        let log = Self {
            dir,
            segment_bytes,
            catalog: Arc::new(Catalog::new(segments)),
            file: Arc::new(file),
            path,
            bytes,
            last,
            synced: next,
            dirty: false,
            staged: Vec::new(),
            staged_entries: Vec::new(),
            room,
        };
        Ok((log, Recovered { previous, last: last.map(raft_types::log_id), tail, membership }))
    }

    /// The segments, for readers.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog)
    }

    /// The last entry staged or written.
    pub fn last(&self) -> Option<LogId> {
        self.last.map(raft_types::log_id)
    }

    /// Refuses a log that ends before entry `state_next`, the first one that the state lacks: a node that is alone saves
    /// its state only when the log is on disk.
    pub fn check_reaches(&self, state_next: u64) -> Result<(), ConsensusError> {
        let log_ends = self.next();
        if log_ends < state_next {
            return Err(ConsensusError::LogEnds {
                path: self.path.clone(),
                log_ends,
                state_ends: state_next,
            });
        }
        Ok(())
    }

    /// Entries below this index are on disk.
    pub const fn synced(&self) -> u64 {
        self.synced
    }

    /// Encodes an entry, to be written by [`Self::write`].
    pub fn stage(&mut self, entry: &Entry) {
        let id = raft_types::entry_id(&entry.log_id);
        let header = record::Header {
            kind: raft_types::payload_kind(&entry.payload),
            index: id.index,
            term: id.term,
            node_id: id.node_id,
            synced: self.synced,
        };
        self.staged_entries.push(self.staged.len());
        record::encode(&mut self.staged, &header, |out| raft_types::encode_payload(&entry.payload, out));
        self.last = Some(id);
    }

    /// Writes what was staged. Not durable before [`Self::sync`].
    pub fn write(&mut self) -> Result<(), ConsensusError> {
        if self.staged.is_empty() {
            return Ok(());
        }
        self.file
            .write_all_at(&self.staged, self.bytes)
            .map_err(|error| ConsensusError::io(&self.path, "write", error))?;
        let base = self.bytes;
        self.bytes += self.staged.len() as u64;
        self.dirty = true;
        self.catalog.extend_last(self.staged_entries.iter().map(|offset| base + *offset as u64), self.bytes);
        self.staged.clear();
        self.staged_entries.clear();
        Ok(())
    }

    /// Sees to it that `bytes` can be written, sync marks too. False, and nothing has changed, if the disk has no room.
    pub fn has_room(&mut self, bytes: usize) -> Result<bool, ConsensusError> {
        let room = self.room.ensure(&self.file, self.bytes, bytes as u64);
        room.map_err(|error| ConsensusError::io(&self.path, "reserve room in", error))
    }

    /// Makes all that was written durable; begins a new segment if the last one is full.
    pub fn sync(&mut self) -> Result<(), ConsensusError> {
        if self.dirty {
            self.file.sync_data().map_err(|error| ConsensusError::io(&self.path, "sync", error))?;
            self.dirty = false;
        }
        self.synced = self.next();
        if self.bytes >= self.segment_bytes {
            match self.begin_segment() {
                // This one grows on until there is room for the next.
                Err(error) if error.is_no_room(&durable_file::aside(&self.next_path())) => {}
                begun => return begun,
            }
        }
        Ok(())
    }

    /// Begins a sync that another thread does while more is written. Nothing if all is on disk.
    pub fn begin_sync(&self) -> Option<Sync> {
        self.dirty.then(|| Sync {
            file: Arc::clone(&self.file),
            path: self.path.clone(),
            next: self.next(),
            bytes: self.bytes,
        })
    }

    /// Notes that a sync has ended well; no segment was begun meanwhile. Begins one if this is full.
    pub fn end_sync(&mut self, sync: &Sync) -> Result<(), ConsensusError> {
        self.synced = self.synced.max(sync.next);
        self.dirty = self.bytes > sync.bytes;
        if self.is_full() { self.sync() } else { Ok(()) }
    }

    /// Whether the next sync begins a new segment.
    pub const fn is_full(&self) -> bool {
        self.bytes >= self.segment_bytes
    }

    /// Writes a sync mark (see [`super::record`]); it is durable with the next sync.
    pub fn mark(&mut self) -> Result<(), ConsensusError> {
        let header = record::Header {
            kind: Kind::SyncMark,
            index: self.next(),
            term: 0,
            node_id: 0,
            synced: self.synced,
        };
        record::encode(&mut self.staged, &header, |_| ());
        self.write()
    }

    /// Removes the entries from `index` on; durable on return. They were never committed.
    pub fn truncate(&mut self, index: u64) -> Result<(), ConsensusError> {
        // The last segment goes first, so that a crash leaves no gap.
        while let Some(segment) = self.catalog.pop_from(index) {
            durable_file::remove(&segment.path)?;
            durable_file::sync_parent(&segment.path)?;
        }
        let Some(mut segment) = self.catalog.last() else { return Ok(()) };
        let bytes =
            fs::read(&segment.path).map_err(|error| ConsensusError::io(&segment.path, "read", error))?;
        let damaged = |offset: usize, reason| ConsensusError::Damaged {
            path: segment.path.clone(),
            offset: offset as u64,
            reason,
        };
        let header = segment::Header::decode(&bytes, segment.first).map_err(|reason| damaged(0, reason))?;
        let scan =
            segment::scan(&bytes, &header).map_err(|refused| damaged(refused.offset, refused.reason))?;
        let cut = scan.entries.iter().find(|found| found.id.index >= index);
        segment.bytes = cut.map_or(scan.end, |found| found.offset) as u64;
        segment.next = segment.first;
        segment.offsets.clear();
        self.last = header.previous;
        for found in scan.entries.iter().take_while(|found| found.id.index < index) {
            segment.note(found.offset as u64);
            self.last = Some(found.id);
        }
        self.path.clone_from(&segment.path);
        let file = File::options()
            .read(true)
            .write(true)
            .open(&self.path)
            .map_err(|error| ConsensusError::io(&self.path, "open", error))?;
        self.file = Arc::new(file);
        self.file.set_len(segment.bytes).map_err(|error| ConsensusError::io(&self.path, "cut", error))?;
        self.file.sync_all().map_err(|error| ConsensusError::io(&self.path, "sync", error))?;
        self.bytes = segment.bytes;
        self.room = RoomAhead::default();
        self.dirty = false;
        self.catalog.replace_last(segment);
        self.synced = self.next();
        Ok(())
    }

    /// Deletes the segments that hold only entries up to `upto`. If that is beyond the end of the log,
    /// the log goes on after `upto` (a snapshot replaced it).
    pub fn purge(&mut self, upto: EntryId) -> Result<(), ConsensusError> {
        if upto.index >= self.next() {
            return self.restart(Some(upto));
        }
        while let Some(segment) = self.catalog.pop_up_to(upto.index) {
            durable_file::remove(&segment.path)?;
        }
        durable_file::sync_parent(&self.path)
    }

    /// Makes the log in `dir` that goes on after `previous`.
    pub fn create(dir: &Path, previous: EntryId) -> Result<(), ConsensusError> {
        durable_file::make_dir(dir)?;
        let path = dir.join(segment::file_name(previous.index + 1));
        durable_file::replace(&path, &header_bytes(Some(previous))).map(drop)
    }

    /// Begins an empty log after `previous`. The new segment is durable before the old ones are deleted:
    /// a crash between leaves both, and [`Self::open`] takes the new one.
    fn restart(&mut self, previous: Option<EntryId>) -> Result<(), ConsensusError> {
        let old = self.catalog.take();
        self.last = previous;
        self.begin_segment()?;
        for segment in old.iter().filter(|segment| segment.path != self.path) {
            durable_file::remove(&segment.path)?;
        }
        durable_file::sync_parent(&self.path)
    }

    /// Begins a segment after the last entry.
    fn begin_segment(&mut self) -> Result<(), ConsensusError> {
        let (first, path) = (self.next(), self.next_path());
        let file = Arc::new(durable_file::replace(&path, &header_bytes(self.last))?);
        self.room.give_back(&self.file, self.bytes);
        (self.file, self.path) = (file, path);
        self.bytes = segment::HEADER_BYTES as u64;
        self.synced = first;
        self.dirty = false;
        self.catalog.push(Segment {
            path: self.path.clone(),
            previous: self.last,
            first,
            next: first,
            offsets: Vec::new(),
            bytes: self.bytes,
        });
        Ok(())
    }

    /// File of the segment that begins with the next entry.
    fn next_path(&self) -> PathBuf {
        self.dir.join(segment::file_name(self.next()))
    }

    /// Index of the next entry.
    fn next(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1)
    }
}

fn header_bytes(previous: Option<EntryId>) -> [u8; segment::HEADER_BYTES] {
    segment::Header { previous }.encode()
}
