//! Reading entries back: from the cache, and what it no longer holds from the segments, which the thread
//! `raft-log-reader` reads so that no async task waits for the disk.

use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, PoisonError};

use openraft::{AnyError, OptionalSend, RaftLogReader, StorageIOError};
use tokio::sync::{mpsc, oneshot};

use super::catalog::Catalog;
use super::error::ConsensusError;
use super::health::Health;
use super::log_cache::LogCache;
use super::raft_types::{Entry, StorageError, TypeConfig};

/// Reads that may wait: one a follower, and openraft itself.
pub const REQUESTS_MAX: usize = 16;

/// Most bytes of entries sent to a follower at once: a fraction of what a message may hold, and short
/// enough to cross a slow network between two heartbeats.
const REPLICATION_BYTES_MAX: usize = 1 << 20;

/// A read of entries from files.
pub struct ReadRequest {
    start: u64,
    end: u64,
    bytes_max: usize,
    entries: oneshot::Sender<Vec<Entry>>,
}

/// The body of the thread; runs until all readers are gone or reading fails.
pub fn run(catalog: &Catalog, health: &Health, mut requests: mpsc::Receiver<ReadRequest>) {
    while let Some(request) = requests.blocking_recv() {
        match catalog.read(request.start, request.end, request.bytes_max) {
            Ok(entries) => {
                let _ = request.entries.send(entries);
            }
            Err(error) => {
                health.fail(error);
                return;
            }
        }
    }
}

/// openraft's reader of the log.
#[derive(Clone)]
pub struct LogReader {
    cache: Arc<Mutex<LogCache>>,
    requests: mpsc::Sender<ReadRequest>,
}

impl LogReader {
    /// A reader.
    pub const fn new(cache: Arc<Mutex<LogCache>>, requests: mpsc::Sender<ReadRequest>) -> Self {
        Self { cache, requests }
    }

    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, StorageError> {
        let (cached, from) =
            self.cache.lock().unwrap_or_else(PoisonError::into_inner).read(start, end, bytes_max);
        if from <= start {
            return Ok(cached);
        }
        let (answer, entries) = oneshot::channel();
        let request = ReadRequest { start, end: from, bytes_max, entries: answer };
        let stopped = || StorageIOError::read_logs(AnyError::new(&ConsensusError::Stopped));
        self.requests.send(request).await.map_err(|_| stopped())?;
        let mut entries = entries.await.map_err(|_| stopped())?;
        let complete = entries.last().is_none_or(|last| last.log_id.index + 1 == from);
        if complete && (entries.is_empty() || bytes_max == usize::MAX) {
            entries.extend(cached);
        }
        Ok(entries)
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let (start, end) = half_open(&range);
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        self.read(start, end, REPLICATION_BYTES_MAX).await
    }
}

/// Any range as first index and index after the last one.
pub fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}
