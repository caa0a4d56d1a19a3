//! A namenode's directory that no namenode uses: reading and verifying all of it, as a start would, but changing nothing
//! that a start would not, and saving nothing.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::ReadTransaction;
use tokio::sync::mpsc;

use super::applier::{Applier, CheckpointPolicy};
use super::catalog::Catalog;
use super::dir_lock::DirLock;
use super::error::ConsensusError;
use super::flusher::Flusher;
use super::found_log;
use super::health::Health;
use super::page_cache;
use super::raft_types::Vote;
use super::room::DiskRoom;
use super::snapshot;
use super::state_store::{Position, StateStore};
use super::vote_file;
use crate::log::RaftSnapshotPart;
use crate::namesystem::Snapshot;

/// Memory for the store's pages.
const CACHE_BYTES: usize = 64 << 20;

/// Memory for what the log adds.
const LAYER_BYTES: usize = 8 << 20;

/// Bytes of log read at once.
const REPLAY_BYTES: usize = 1 << 20;

/// What a log was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSummary {
    /// Node that the directory belongs to.
    pub node_id: u64,
    /// Its term.
    pub term: u64,
    /// Segments.
    pub segments: usize,
    /// First entry.
    pub first: u64,
    /// Entry after the last one.
    pub next: u64,
    /// Entries that the store lacks.
    pub replayed: u64,
    /// Where a torn end begins that a start will drop, and its bytes.
    pub torn: Option<(PathBuf, u64, u64)>,
}

/// See the module.
pub struct Offline {
    applier: Applier,
    health: Health,
    _lock: DirLock,
}

impl Offline {
    /// Reads the directory and applies the log to the store in memory. With `verify`, redb goes through its whole file
    /// first.
    pub fn open(dir: &Path, verify: bool) -> Result<(Self, LogSummary), ConsensusError> {
        // What is no namenode's directory gets no lock in it.
        vote_file::read(dir)?;
        let lock = DirLock::take(dir)?;
        page_cache::renew(dir)?;
        let (node_id, vote): (u64, Vote) = vote_file::read(dir)?;
        if verify {
            StateStore::verify(dir, CACHE_BYTES)?;
        }
        let (store, position) = StateStore::open(dir, CACHE_BYTES, LAYER_BYTES)?;
        let state_next = position.next_index();
        let log_dir = dir.join("log");
        let found = found_log::read_files(&log_dir, 0, state_next)?;
        let (Some(begin), Some(end)) = (found.segments.first(), found.segments.last()) else {
            return Err(ConsensusError::LogMissing { dir: log_dir, state_ends: state_next });
        };
        let torn = (found.torn_bytes > 0).then(|| (end.path.clone(), end.bytes, found.torn_bytes));
        let (first, next, segments) = (begin.first, end.next, found.segments.len());
        if next < state_next {
            let path = end.path.clone();
            return Err(ConsensusError::LogEnds { path, log_ends: next, state_ends: state_next });
        }
        // What a killed process had written is in the page cache only, and the state must not get ahead of it.
        File::open(&end.path)
            .and_then(|file| file.sync_all())
            .map_err(|error| ConsensusError::io(&end.path, "sync", error))?;
        let health = Health::new();
        // Everything stays in memory and in the part of the store that the next start does not see.
        let never =
            CheckpointPolicy { commands: u64::MAX, bytes: u64::MAX, interval: Duration::from_secs(u64::MAX) };
        let flusher = Flusher::start(&health)?;
        let mut applier =
            Applier::new(store, position, Arc::new(|_| ()), never, flusher, DiskRoom::new(dir, 0));
        let catalog = Catalog::new(found.segments);
        loop {
            let entries = catalog.read(applier.position.next_index(), u64::MAX, REPLAY_BYTES)?;
            if entries.is_empty() {
                break;
            }
            applier.apply(&entries)?;
        }
        let summary = LogSummary {
            node_id,
            term: vote.leader_id.term,
            segments,
            first,
            next,
            replayed: next - state_next,
            torn,
        };
        Ok((Self { applier, health, _lock: lock }, summary))
    }

    /// The namespace.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::open(&self.applier.store.rows())
    }

    /// The state, and how far the log is applied in it.
    pub fn begin_backup(&self) -> Result<(ReadTransaction, Position), ConsensusError> {
        self.applier.store.begin_backup()
    }

    /// Starts a thread that streams the rows of a state.
    pub fn stream_rows(
        &self,
        txn: ReadTransaction,
    ) -> Result<mpsc::Receiver<RaftSnapshotPart>, ConsensusError> {
        snapshot::send(txn, self.applier.store.path().to_owned(), self.health.clone())
    }

    /// Why rows could not be streamed to their end.
    pub fn failure(&self) -> Option<Arc<ConsensusError>> {
        self.health.failure()
    }
}
