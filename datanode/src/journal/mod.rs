//! The redo journal of a volume: what makes an overwrite durable with one flush that all writers of the volume share.
//!
//! An overwrite changes data and checksums, two places in two files. It is applied in place at once, which costs nothing but
//! memory, and noted here in memory; [`Journal::commit`] writes what is noted in one piece, past the page cache. Whoever
//! commits while another commit runs waits for it, and one of those who wait writes for all of them. A small new replica
//! is put on disk in the same way: its records are all that is flushed, and a start makes the files of them. The files
//! themselves are put on disk when a segment is full, by a thread of the journal, and the segment is dropped.
//!
//! Invariants:
//!
//! - Records of a block are in the order in which they were applied, and what is on disk of all records is a prefix.
//! - What is in a segment is dropped only after every file that its records are about has been put on disk.
//! - The page cache is never behind the journal: after the end of this process alone nothing needs to be redone; only after
//!   a stop of the machine are records applied again ([`replay`]).
//! - A failed write is never repeated: the journal fails for good, and its volume with it. Space is taken before anything is
//!   written; a disk that is full refuses a commit, and nothing is lost.
//! - The kernel keeps pages of replicas that it could not write, and takes them for written. So a volume that failed, and one with a replica that
//!   a start could not sync, have their records applied by the next start ([`forget_boot`]).
//!
//! Beside it a file tells what each writer has in hand ([`in_hand`]): that is for the end of the process alone.
//!
//! Bounds: two segments of `SEGMENT_BYTES`, `MAX_DIRTY` replicas a segment, two buffers of `STAGE_BYTES`; replicas that were given
//! up have their records in a buffer.

pub mod in_hand;
pub mod record;
pub mod replay;
mod replica_files;
mod segment;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use dfs_proto::BlockId;

use self::in_hand::{InHand, Slot};
use self::record::{BLOCK_BYTES, Change, Record, SegmentHeader};
use self::segment::SegmentFile;

pub use self::replica_files::ReplicaFiles;
use crate::dataset::version_file::sync_dir;
use crate::error::{DatanodeError, disk};
use crate::piece::Piece;
use crate::replica::BlockRef;
use crate::sync::lock;

/// Directory of the segments in a volume.
pub const DIR_NAME: &str = "journal";

/// Size of a segment: some seconds of the fastest load of small overwrites, and a moment to read at start.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Replicas that one segment's records are about at most: their files are kept open until it is dropped, two for each. Many new
/// replicas share the file system's commits then, and short-lived ones are deleted before anything is done for them.
const MAX_DIRTY: usize = 1024;

/// Memory for records that wait to be written: a few of the largest, hundreds of the usual ones.
const STAGE_BYTES: usize = 1 << 20;

/// Replicas whose files are put on disk at once when a segment is dropped: flushes are shared, and the disk has something to
/// do while other work gets its turn.
const SYNCS_AT_ONCE: usize = 8;

type Dirty = HashMap<BlockId, Arc<ReplicaFiles>>;

/// Records in memory.
#[derive(Debug)]
struct Stage {
    buffer: Piece,
    len: usize,
    first: u64,
    dirty: Dirty,
}

impl Stage {
    fn new() -> Self {
        Self { buffer: Piece::new(STAGE_BYTES), len: 0, first: 0, dirty: Dirty::new() }
    }
}

/// What a segment holds.
#[derive(Debug, Default)]
struct Holding {
    /// Number of its last record.
    last: u64,
    dirty: Dirty,
}

#[derive(Debug)]
struct State {
    filling: Stage,
    spare: Option<Stage>,
    /// Somebody writes.
    committing: bool,
    /// Number of the next record.
    next: u64,
    /// Number of the last record that is on disk.
    durable: u64,
    active: usize,
    position: u64,
    holdings: [Holding; 2],
    /// The segment that is not active waits to be dropped.
    full: bool,
    /// The active segment has no header yet.
    header_due: bool,
    /// Blocks with records that are not dropped, with the number of the last one.
    live: HashMap<BlockId, u64>,
    /// Blocks that were given up, with the number of the record of that, which is not on disk.
    abandoned: HashMap<BlockId, u64>,
    failed: bool,
    closing: bool,
}

#[derive(Debug)]
struct Inner {
    segments: [SegmentFile; 2],
    boot: String,
    state: Mutex<State>,
    /// For those who commit: it happens after each commit, which the thread below has no part in.
    changed: Condvar,
    /// For the thread that drops segments.
    due: Condvar,
}

/// The journal.
#[derive(Debug)]
pub struct Journal {
    inner: Arc<Inner>,
    in_hand: Arc<InHand>,
    checkpoints: Mutex<Option<JoinHandle<()>>>,
}

/// Path of a segment.
fn segment_path(volume: &Path, index: usize) -> PathBuf {
    volume.join(DIR_NAME).join(index.to_string())
}

/// The kernel's id of this boot; empty if it does not tell, which equals no recorded one.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// The page cache of a volume is not to be relied upon: a write that failed is still in it, for as long as the kernel likes. So the next
/// start applies the records of the journal, as after a stop of the machine. Nobody uses the journal.
pub fn forget_boot(volume: &Path) {
    for index in 0..2 {
        let path = segment_path(volume, index);
        if path.exists() {
            note_failure(&path, SegmentFile::open(&path).and_then(|segment| segment.forget_boot()));
        }
    }
}

/// Without it, a start during this boot takes what the page cache has for what the disk has.
fn note_failure(path: &Path, forgotten: Result<(), DatanodeError>) {
    if let Err(error) = forgotten {
        tracing::warn!(path = %path.display(), %error, "journal cannot say that its records have to be applied");
    }
}

impl Journal {
    /// Starts an empty journal in a volume; what is in its files has been taken care of. Records are numbered from `first`.
    pub fn start(volume: &Path, first: u64) -> Result<Self, DatanodeError> {
        let dir = volume.join(DIR_NAME);
        fs::create_dir_all(&dir).map_err(disk(&dir))?;
        let segments =
            [SegmentFile::open(&segment_path(volume, 0))?, SegmentFile::open(&segment_path(volume, 1))?];
        let boot = boot_id();
        segments[1].write_header(&SegmentHeader { first: 0, boot: boot.clone() })?;
        segments[0].write_header(&SegmentHeader { first, boot: boot.clone() })?;
        let in_hand = Arc::new(InHand::start(volume)?);
        sync_dir(&dir)?;
        sync_dir(volume)?;
        let state = State {
            filling: Stage::new(),
            spare: Some(Stage::new()),
            committing: false,
            next: first,
            durable: first - 1,
            active: 0,
            position: BLOCK_BYTES as u64,
            holdings: Default::default(),
            full: false,
            header_due: false,
            live: HashMap::new(),
            abandoned: HashMap::new(),
            failed: false,
            closing: false,
        };
        let inner = Arc::new(Inner {
            segments,
            boot,
            state: Mutex::new(state),
            changed: Condvar::new(),
            due: Condvar::new(),
        });
        let shared = Arc::clone(&inner);
        let checkpoints = thread::Builder::new()
            .name("journal".into())
            .spawn(move || shared.checkpoint())
            .map_err(DatanodeError::Thread)?;
        Ok(Self { inner, in_hand, checkpoints: Mutex::new(Some(checkpoints)) })
    }

    /// Where a writer at any offset tells which chunks it is about to change.
    pub fn slot(&self) -> Slot {
        self.in_hand.slot()
    }

    /// Notes a change of a replica whose files are `files`. Returns its number.
    pub fn append(
        &self,
        block: BlockRef,
        change: Change<'_>,
        files: &Arc<ReplicaFiles>,
    ) -> Result<u64, DatanodeError> {
        self.inner.append(block, change, Some(files))
    }

    /// Number of the last record noted.
    pub fn last(&self) -> u64 {
        lock(&self.inner.state).next - 1
    }

    /// Whether there are records of a block.
    pub fn is_live(&self, id: BlockId) -> bool {
        lock(&self.inner.state).live.contains_key(&id)
    }

    /// Puts all records up to `number` on disk.
    pub fn commit(&self, number: u64) -> Result<(), DatanodeError> {
        self.inner.commit(number)
    }

    /// Everything that records up to `up_to` say of a block is on disk in its files: they will not be applied again. That is on
    /// disk on return.
    pub fn settle(&self, block: BlockRef, up_to: u64) -> Result<(), DatanodeError> {
        if !self.is_live(block.id) {
            return Ok(());
        }
        let number = self.inner.append(block, Change::Settled { up_to }, None)?;
        self.inner.commit(number)
    }

    /// A replica is about to be deleted: nothing that was noted of it will be applied again. That goes to disk with the next
    /// commit; a stop of the machine before it may bring the replica back.
    pub fn abandon(&self, block: BlockRef) -> Result<(), DatanodeError> {
        if !self.is_live(block.id) {
            return Ok(());
        }
        let up_to = self.last();
        let number = self.inner.append(block, Change::Settled { up_to }, None)?;
        let mut state = lock(&self.inner.state);
        if state.durable < number {
            state.abandoned.insert(block.id, number);
        }
        Ok(())
    }

    /// The volume has failed: what is noted is put on disk if possible, then nothing any more, and see [`forget_boot`].
    pub fn give_up(&self) {
        // Who waits for it is told.
        let _ = self.commit(self.last());
        let mut state = lock(&self.inner.state);
        while state.committing {
            state = self.inner.wait(state);
        }
        state.failed = true;
        drop(state);
        self.inner.changed.notify_all();
        self.inner.forget_boot();
    }

    /// A replica of a block is about to be made: one that was deleted before will not come back, nor its records be applied to
    /// the new one.
    pub fn bury(&self, id: BlockId) -> Result<(), DatanodeError> {
        let abandoned = lock(&self.inner.state).abandoned.get(&id).copied();
        abandoned.map_or(Ok(()), |number| self.inner.commit(number))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let last = self.last();
        if let Err(error) = self.commit(last) {
            tracing::warn!(%error, "journal ends with records that are not on disk");
        }
        lock(&self.inner.state).closing = true;
        self.inner.due.notify_all();
        let thread = lock(&self.checkpoints).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("journal thread panicked");
        }
    }
}

impl Inner {
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self, state: &State) -> Result<(), DatanodeError> {
        if state.failed { Err(self.segments[state.active].failed_before()) } else { Ok(()) }
    }

    fn append(
        &self,
        block: BlockRef,
        change: Change<'_>,
        files: Option<&Arc<ReplicaFiles>>,
    ) -> Result<u64, DatanodeError> {
        let mut record = Record { number: 0, block, change };
        let length = record.encoded_len();
        let mut state = lock(&self.state);
        while state.filling.len + length > STAGE_BYTES {
            let last = state.next - 1;
            drop(state);
            self.commit(last)?;
            state = lock(&self.state);
        }
        self.failure(&state)?;
        record.number = state.next;
        state.next += 1;
        let stage = &mut state.filling;
        if stage.len == 0 {
            stage.first = record.number;
        }
        let at = stage.len;
        stage.len += record.encode(&mut stage.buffer.bytes()[at..]);
        match (files, change) {
            (Some(files), _) => {
                stage.dirty.insert(block.id, Arc::clone(files));
                state.live.insert(block.id, record.number);
            }
            (None, Change::Settled { up_to }) => state.forget(block.id, up_to),
            (None, Change::Write { .. } | Change::Intent { .. } | Change::Created { .. }) => {}
        }
        Ok(record.number)
    }

    fn commit(&self, number: u64) -> Result<(), DatanodeError> {
        let mut state = lock(&self.state);
        while state.durable < number {
            self.failure(&state)?;
            state = if state.committing { self.wait(state) } else { self.write_stage(state)? };
        }
        Ok(())
    }

    /// Writes what is noted. The caller's thread does it for all who wait.
    fn write_stage<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>, DatanodeError> {
        state.committing = true;
        state = match self.make_room(state) {
            Ok(state) => state,
            Err(error) => {
                // Nothing was written: whoever comes next may try again.
                lock(&self.state).committing = false;
                self.changed.notify_all();
                return Err(error);
            }
        };
        let last = state.next - 1;
        let empty = state.spare.take().unwrap_or_else(Stage::new);
        let mut stage = std::mem::replace(&mut state.filling, empty);
        let (active, position) = (state.active, state.position);
        let header = state.header_due.then(|| SegmentHeader { first: stage.first, boot: self.boot.clone() });
        let padded = stage.len.next_multiple_of(BLOCK_BYTES);
        drop(state);

        let segment = &self.segments[active];
        stage.buffer.bytes()[stage.len..padded].fill(0);
        let written = header
            .map_or(Ok(()), |header| segment.write_header(&header))
            .and_then(|()| segment.write(&stage.buffer.bytes()[..padded], position));

        let mut state = lock(&self.state);
        state.committing = false;
        if written.is_ok() {
            state.header_due = false;
            state.position = position + padded as u64;
            state.durable = last;
            state.abandoned.retain(|_, number| *number > last);
            let holding = &mut state.holdings[active];
            holding.last = last;
            for (id, files) in stage.dirty.drain() {
                holding.dirty.insert(id, files);
            }
        } else {
            state.failed = true;
        }
        stage.len = 0;
        state.spare = Some(stage);
        self.changed.notify_all();
        written.map(|()| state)
    }

    /// Goes on to the other segment if what is noted does not fit this one, and prepares what will be written.
    fn make_room<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>, DatanodeError> {
        loop {
            self.failure(&state)?;
            if !state.fits() {
                if state.full {
                    // The other segment's files are still on their way to the disk.
                    state = self.wait(state);
                    continue;
                }
                state.active = 1 - state.active;
                state.position = BLOCK_BYTES as u64;
                (state.full, state.header_due) = (true, true);
                self.due.notify_all();
            }
            let segment = &self.segments[state.active];
            let end = state.position + state.filling.len.next_multiple_of(BLOCK_BYTES) as u64;
            if segment.is_prepared(end) {
                return Ok(state);
            }
            drop(state);
            segment.prepare(end)?;
            state = lock(&self.state);
        }
    }

    /// The thread that puts files on disk and drops segments.
    fn checkpoint(&self) {
        let mut state = lock(&self.state);
        loop {
            while !state.closing && (!state.full || state.failed) {
                state = self.due.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.closing {
                return;
            }
            let dropped = 1 - state.active;
            let holding = std::mem::take(&mut state.holdings[dropped]);
            drop(state);
            let outcome = self.drop_segment(dropped, &holding.dirty);
            state = lock(&self.state);
            match outcome {
                Ok(()) => {
                    state.full = false;
                    state.live.retain(|_, last| *last > holding.last);
                }
                Err(error) => {
                    tracing::error!(%error, "journal failed");
                    state.failed = true;
                    drop(state);
                    // Before somebody starts anew who syncs the same files: he is not told.
                    self.forget_boot();
                    state = lock(&self.state);
                }
            }
            self.changed.notify_all();
        }
    }

    fn forget_boot(&self) {
        self.segments.iter().for_each(|segment| note_failure(segment.path(), segment.forget_boot()));
    }

    fn drop_segment(&self, index: usize, dirty: &Dirty) -> Result<(), DatanodeError> {
        sync_all(dirty)?;
        // New replicas, and those that were reopened: the name under which they are marked as such. One that has moved on since
        // is found under the old name or the new one.
        let dirs: HashSet<&Path> = dirty.values().filter_map(|files| files.data_path.parent()).collect();
        dirs.into_iter().try_for_each(sync_dir)?;
        self.segments[index].write_header(&SegmentHeader { first: 0, boot: self.boot.clone() })
    }
}

/// Puts the files of many replicas on disk, several at once: the file system then shares its flushes among them.
fn sync_all(dirty: &Dirty) -> Result<(), DatanodeError> {
    let files: Vec<&ReplicaFiles> = dirty.values().map(Arc::as_ref).collect();
    // First of all, so that blocks are allocated for all of them in as few of the file system's transactions as possible.
    files.iter().for_each(|files| files.begin_sync());
    let share = files.len().div_ceil(SYNCS_AT_ONCE).max(1);
    thread::scope(|scope| {
        let sync = |some: &[&ReplicaFiles]| some.iter().try_for_each(|files| files.sync());
        let mut shares = files.chunks(share);
        let own = shares.next().unwrap_or_default();
        let others: Vec<_> = shares
            .map(|some| {
                let thread = thread::Builder::new().name("journal-sync".into());
                thread.spawn_scoped(scope, move || sync(some)).map_err(DatanodeError::Thread)
            })
            .collect();
        sync(own)?;
        others.into_iter().try_for_each(|t| t?.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
    })
}

impl State {
    /// Whether what is noted fits the active segment.
    fn fits(&self) -> bool {
        let padded = self.filling.len.next_multiple_of(BLOCK_BYTES) as u64;
        let holding = &self.holdings[self.active].dirty;
        let new = self.filling.dirty.keys().filter(|id| !holding.contains_key(id)).count();
        self.position + padded <= SEGMENT_BYTES && (holding.is_empty() || holding.len() + new <= MAX_DIRTY)
    }

    /// No record of the block up to this number matters any more.
    fn forget(&mut self, id: BlockId, up_to: u64) {
        if self.live.get(&id).is_some_and(|last| *last <= up_to) {
            self.live.remove(&id);
            self.filling.dirty.remove(&id);
            self.holdings.iter_mut().for_each(|holding| drop(holding.dirty.remove(&id)));
        }
    }
}

#[cfg(test)]
mod tests;
