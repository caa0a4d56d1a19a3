//! The state machine as openraft sees it: requests to the apply thread.

use openraft::storage::RaftStateMachine;
use openraft::{AnyError, OptionalSend, Raft, RaftSnapshotBuilder, Snapshot, StorageIOError};
use tokio::sync::{mpsc, oneshot, watch};

use super::apply_thread::{self, ApplyRequest};
use super::error::ConsensusError;
use super::raft_types::{Entry, LogId, SnapshotMeta, StorageError, StoredMembership, TypeConfig};
use super::snapshot::{ReceivedSnapshot, SnapshotSource};
use super::state_store::Position;

/// See the module. Owned by openraft's task.
pub struct StateMachine {
    requests: mpsc::Sender<ApplyRequest>,
    checkpointed: watch::Receiver<Position>,
}

impl StateMachine {
    /// A front of the apply thread.
    pub const fn new(requests: mpsc::Sender<ApplyRequest>, checkpointed: watch::Receiver<Position>) -> Self {
        Self { requests, checkpointed }
    }

    async fn send(&self, request: ApplyRequest) -> Result<(), StorageError> {
        Ok(self.requests.send(request).await.map_err(|_| stopped())?)
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> ApplyRequest,
    ) -> Result<T, StorageError> {
        let (answer, received) = oneshot::channel();
        self.send(request(answer)).await?;
        Ok(received.await.map_err(|_| stopped())?)
    }
}

fn stopped() -> StorageIOError<u64> {
    StorageIOError::write_state_machine(AnyError::new(&ConsensusError::Stopped))
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = CheckpointNamer;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let position = self.ask(ApplyRequest::Position).await?;
        Ok((position.last, position.membership))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let replies = vec![(); entries.len()];
        self.send(ApplyRequest::Apply(entries)).await?;
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> CheckpointNamer {
        CheckpointNamer(self.checkpointed.clone())
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotSource>, StorageError> {
        // Our own transport receives snapshots and never asks.
        let refused = ConsensusError::WrongSnapshot { snapshot_id: String::new() };
        Err(StorageIOError::write_snapshot(None, AnyError::new(&refused)).into())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotSource>,
    ) -> Result<(), StorageError> {
        match *snapshot {
            SnapshotSource::Received(path) => {
                let received = ReceivedSnapshot { path, meta: meta.clone() };
                self.ask(|done| ApplyRequest::Install(received, done)).await
            }
            SnapshotSource::Checkpoint | SnapshotSource::Current(_) => {
                let refused = ConsensusError::WrongSnapshot { snapshot_id: meta.snapshot_id.clone() };
                Err(StorageIOError::write_snapshot(None, AnyError::new(&refused)).into())
            }
        }
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let current = self.ask(ApplyRequest::Snapshot).await?;
        Ok(current.map(|(meta, source)| Snapshot { meta, snapshot: Box::new(source) }))
    }
}

/// What openraft calls building a snapshot is our checkpoint: asked for one, we name the last checkpoint,
/// up to which openraft may then purge the log.
pub struct CheckpointNamer(watch::Receiver<Position>);

impl RaftSnapshotBuilder<TypeConfig> for CheckpointNamer {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let meta = apply_thread::snapshot_meta(&self.0.borrow());
        Ok(Snapshot { meta, snapshot: Box::new(SnapshotSource::Checkpoint) })
    }
}

/// Tells openraft of every checkpoint, so that the log is purged behind it. Runs until the apply thread
/// or openraft ends.
pub async fn purge_behind_checkpoints(raft: Raft<TypeConfig>, mut checkpoints: watch::Receiver<Position>) {
    while checkpoints.changed().await.is_ok() {
        if raft.trigger().snapshot().await.is_err() {
            return;
        }
    }
}
