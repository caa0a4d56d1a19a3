//! The log as openraft sees it.
//!
//! **When an entry counts as stored.** A node that is alone (sole voter, no learners) tells openraft at
//! once that an entry is stored, and the entry is applied while it is being synced: nobody but its own
//! callers can act on it, and they are answered after the sync (see [`super::acks`]). openraft waits for
//! each append before it takes the next one, so without this there would be no group commit either. With
//! other nodes, an entry counts only when it is on disk, as Raft demands: a follower could otherwise
//! apply an entry that no quorum keeps.

use std::fmt::Debug;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, EntryPayload, LogState, OptionalSend, RaftLogReader, StorageIOError};
use tokio::sync::{mpsc, oneshot};

use super::error::ConsensusError;
use super::log_cache::LogCache;
use super::log_reader::LogReader;
use super::log_thread::LogRequest;
use super::raft_types::{self, Entry, LogId, StorageError, TypeConfig, Vote};

/// See the module. Owned by openraft's task.
pub struct LogStore {
    node_id: u64,
    cache: Arc<Mutex<LogCache>>,
    requests: mpsc::Sender<LogRequest>,
    reader: LogReader,
    vote: Vote,
    /// This node is alone under the last membership in the log.
    alone: bool,
}

impl LogStore {
    /// The log of `node_id`, whose vote is `vote`.
    pub const fn new(
        node_id: u64,
        cache: Arc<Mutex<LogCache>>,
        requests: mpsc::Sender<LogRequest>,
        reader: LogReader,
        vote: Vote,
        alone: bool,
    ) -> Self {
        Self { node_id, cache, requests, reader, vote, alone }
    }

    fn cache(&self) -> MutexGuard<'_, LogCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the log thread do something and waits for it.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> LogRequest,
    ) -> Result<T, StorageError> {
        let (done, answer) = oneshot::channel();
        self.requests.send(request(done)).await.map_err(|_| stopped())?;
        Ok(answer.await.map_err(|_| stopped())?)
    }
}

fn stopped() -> StorageIOError<u64> {
    StorageIOError::write_logs(AnyError::new(&ConsensusError::Stopped))
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.reader.try_get_log_entries(range).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let cache = self.cache();
        Ok(LogState { last_purged_log_id: cache.purged(), last_log_id: cache.last() })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.reader.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.ask(|done| LogRequest::SaveVote { vote: *vote, done }).await?;
        self.vote = *vote;
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(Some(self.vote))
    }

    /// What a node that is alone has in its log is committed.
    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(if self.alone { self.cache().last() } else { None })
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            for entry in &entries {
                if let EntryPayload::Membership(membership) = &entry.payload {
                    self.alone = raft_types::is_alone(membership, self.node_id);
                }
                cache.append(entry.clone()).map_err(|index| {
                    let gap = ConsensusError::OutOfOrder { index };
                    StorageIOError::write_logs(AnyError::new(&gap))
                })?;
            }
        }
        let (early, late) = if self.alone { (Some(callback), None) } else { (None, Some(callback)) };
        let request = LogRequest::Append { entries, flushed: late };
        self.requests.send(request).await.map_err(|_| stopped())?;
        if let Some(callback) = early {
            callback.log_io_completed(Ok(()));
        }
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let last = self.ask(|done| LogRequest::Truncate { index: log_id.index, done }).await?;
        self.cache().truncate(last);
        // The membership in force may have been cut off; until the next one, be strict.
        self.alone = false;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.ask(|done| LogRequest::Purge { upto: log_id, done }).await?;
        self.cache().purge(log_id);
        Ok(())
    }
}
