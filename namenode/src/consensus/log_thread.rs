//! The thread `raft-log`: the only writer of the log and of the vote.
//!
//! It takes what waits in its channel, writes all of it, syncs once (group commit), and reports how far
//! the log is on disk. It never waits for more to come, so a single caller pays one sync, and while it
//! syncs, the next group gathers.
//!
//! The order of requests is kept. A failed write or sync is final: nothing is acknowledged after it and
//! the thread ends.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::EntryPayload;
use openraft::storage::LogFlushed;
use tokio::sync::{mpsc, oneshot};

use super::acks::Acks;
use super::batch::Batch;
use super::dir_lock::DirLock;
use super::error::ConsensusError;
use super::health::Health;
use super::log_cache::LogCache;
use super::raft_types::{self, Entry, LogId, TypeConfig, Vote};
use super::segmented_log::SegmentedLog;
use super::vote_file::VoteFile;

/// Requests that may wait. openraft has one append under way at a time, so this is reached only while a
/// sync takes long; then it holds openraft back.
pub const REQUESTS_MAX: usize = 64;

/// Most requests written before a sync: bounds the time to the first answer.
const GROUP_MAX: usize = 64;

/// Who hears when a group is on disk.
#[derive(Default)]
struct Group {
    callbacks: Vec<LogFlushed<TypeConfig>>,
    batches: Vec<Batch>,
}

/// What the thread does for openraft.
pub enum LogRequest {
    /// Appends entries.
    Append {
        /// The entries.
        entries: Vec<Entry>,
        /// Called when they are on disk; absent if openraft was told before.
        flushed: Option<LogFlushed<TypeConfig>>,
    },
    /// Saves the vote; answered when it is on disk.
    SaveVote {
        /// The vote.
        vote: Vote,
        /// Takes the answer; it is dropped if saving failed.
        done: oneshot::Sender<()>,
    },
    /// Removes the entries from `index` on; answered when that is on disk, with the last entry left.
    Truncate {
        /// First entry to remove.
        index: u64,
        /// Takes the answer; it is dropped if that failed.
        done: oneshot::Sender<Option<LogId>>,
    },
    /// Deletes entries up to this one.
    Purge {
        /// Last entry that may go.
        upto: LogId,
        /// Takes the answer; it is dropped if that failed.
        done: oneshot::Sender<()>,
    },
}

/// What the thread works with.
pub struct LogThread {
    /// The log.
    pub log: SegmentedLog,
    /// The vote.
    pub votes: VoteFile,
    /// Told what was written.
    pub cache: Arc<Mutex<LogCache>>,
    /// Told what is on disk.
    pub acks: Arc<Acks>,
    /// Told of a failure.
    pub health: Health,
    /// Kept as long as the thread runs.
    pub lock: Arc<DirLock>,
}

impl LogThread {
    /// Runs until all senders are gone.
    pub fn run(mut self, mut requests: mpsc::Receiver<LogRequest>) {
        if let Err(error) = self.serve(&mut requests) {
            self.health.fail(error);
        }
        // Either nobody proposes any more or nothing more can be stored.
        self.acks.fail();
        requests.close();
        while let Ok(request) = requests.try_recv() {
            if let LogRequest::Append { entries, .. } = request {
                for entry in entries {
                    if let EntryPayload::Normal(batch) = entry.payload {
                        batch.arrived();
                    }
                }
            }
        }
        drop(self.lock);
    }

    fn serve(&mut self, requests: &mut mpsc::Receiver<LogRequest>) -> Result<(), ConsensusError> {
        let mut group = Group::default();
        while let Some(first) = requests.blocking_recv() {
            let mut request = Some(first);
            let mut taken = 0;
            while let Some(next) = request {
                match next {
                    LogRequest::Append { entries, flushed } => {
                        for entry in entries {
                            self.log.stage(&entry);
                            if let EntryPayload::Normal(batch) = entry.payload {
                                group.batches.push(batch);
                            }
                        }
                        group.callbacks.extend(flushed);
                    }
                    other => {
                        self.flush(&mut group)?;
                        self.other(other)?;
                    }
                }
                taken += 1;
                request = if taken < GROUP_MAX { requests.try_recv().ok() } else { None };
            }
            self.flush(&mut group)?;
            if requests.is_empty() {
                self.log.mark()?;
            }
        }
        self.log.sync()
    }

    /// Writes and syncs what is staged, then reports it.
    fn flush(&mut self, group: &mut Group) -> Result<(), ConsensusError> {
        let next = self.log.last().map_or(0, |id| id.index + 1);
        let written = self.log.write();
        if written.is_ok() {
            self.acks.written(next);
        }
        let result = written.and_then(|()| self.log.sync());
        for callback in group.callbacks.drain(..) {
            callback.log_io_completed(match &result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::other(error.to_string())),
            });
        }
        if result.is_ok() {
            self.acks.synced(self.log.synced());
        }
        // After the acknowledgements, so that callers who go on at once share the next entry.
        group.batches.drain(..).for_each(|batch| batch.arrived());
        result?;
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).written(next);
        Ok(())
    }

    fn other(&mut self, request: LogRequest) -> Result<(), ConsensusError> {
        match request {
            LogRequest::Append { .. } => {}
            LogRequest::SaveVote { vote, done } => {
                self.votes.save(&vote)?;
                let _ = done.send(());
            }
            LogRequest::Truncate { index, done } => {
                self.log.truncate(index)?;
                self.acks.cut(self.log.synced());
                let _ = done.send(self.log.last());
            }
            LogRequest::Purge { upto, done } => {
                self.log.purge(raft_types::entry_id(&upto))?;
                self.acks.synced(self.log.synced());
                let _ = done.send(());
            }
        }
        Ok(())
    }
}
