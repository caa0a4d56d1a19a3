//! The thread `raft-apply`: applies committed entries to the state.
//!
//! It takes what waits in its channel and applies all of it in one transaction, hands the effects
//! to the block manager, and then lets the callers be answered. openraft is not kept waiting: to it,
//! an entry is applied when it is in the channel. That is sound because everything that depends on
//! the state (snapshots, the position, checkpoints, purging) goes through the same channel.
//!
//! Invariant: the store is never durable beyond what is on disk of the log: a checkpoint first waits for
//! the log.

use std::sync::Arc;

use openraft::EntryPayload;
use tokio::sync::{mpsc, oneshot, watch};

use super::acks::Acks;
use super::applier::{Applied, Applier};
use super::batch::{Outcome, Waiter};
use super::dir_lock::DirLock;
use super::error::{ConsensusError, ProposeError};
use super::health::Health;
use super::raft_types::{Entry, LogId, SnapshotMeta};
use super::snapshot::{ReceivedSnapshot, SnapshotSource};
use super::state_store::Position;

/// Requests that may wait: when the thread falls behind, openraft waits, and through it the callers.
pub const REQUESTS_MAX: usize = 256;

/// Most commands applied in one transaction: bounds the memory of its changes and the time to the first
/// answer; more at once make it hardly faster.
const TRANSACTION_COMMANDS_MAX: usize = 1_024;

/// What the thread does.
pub enum ApplyRequest {
    /// Applies entries.
    Apply(Vec<Entry>),
    /// Answers how far the log is applied.
    Position(oneshot::Sender<Position>),
    /// Answers the state as it is; nothing if it is empty.
    Snapshot(oneshot::Sender<Option<(SnapshotMeta, SnapshotSource)>>),
    /// Replaces the state by a received one; answered when that is durable.
    Install(ReceivedSnapshot, oneshot::Sender<()>),
    /// Makes a checkpoint if one is due by time.
    Tick,
    /// Makes a checkpoint if there is anything to save, and ends the thread.
    Finish(oneshot::Sender<()>),
}

/// What the thread works with.
pub struct ApplyThread {
    /// The state.
    pub applier: Applier,
    /// Takes the outcomes.
    pub acks: Arc<Acks>,
    /// Told of a failure.
    pub health: Health,
    /// Told the position of the last checkpoint.
    pub checkpointed: watch::Sender<Position>,
    /// Kept as long as the thread runs.
    pub lock: Arc<DirLock>,
}

impl ApplyThread {
    /// Runs until all senders are gone, or the store fails.
    pub fn run(mut self, mut requests: mpsc::Receiver<ApplyRequest>) {
        if let Err(error) = self.serve(&mut requests) {
            self.health.fail(error);
        }
        // What is left will never be applied here.
        requests.close();
        while let Ok(request) = requests.try_recv() {
            if let ApplyRequest::Apply(entries) = request {
                refuse(&entries);
            }
        }
        drop(self.lock);
    }

    fn serve(&mut self, requests: &mut mpsc::Receiver<ApplyRequest>) -> Result<(), ConsensusError> {
        while let Some(request) = requests.blocking_recv() {
            let mut entries = Vec::new();
            let mut other = None;
            let mut commands = 0;
            let mut next = Some(request);
            while let Some(request) = next.take() {
                match request {
                    ApplyRequest::Apply(more) => {
                        commands += more.iter().map(command_count).sum::<usize>();
                        entries.extend(more);
                        if commands < TRANSACTION_COMMANDS_MAX {
                            next = requests.try_recv().ok();
                        }
                    }
                    request => other = Some(request),
                }
            }
            if !entries.is_empty() {
                let outcomes = self.applier.apply(&entries).inspect_err(|_| refuse(&entries))?;
                for (id, batch, replies) in outcomes {
                    self.acks.applied(id.index, answers(id, batch.take_waiters(), replies));
                }
            }
            match other {
                Some(ApplyRequest::Finish(done)) => {
                    if self.applier.is_dirty() {
                        // openraft has stopped and purges nothing any more.
                        self.save()?;
                    }
                    let _ = done.send(());
                    return Ok(());
                }
                Some(request) => self.other(request)?,
                None => {}
            }
            if self.applier.is_checkpoint_due() {
                self.checkpoint()?;
            }
        }
        Ok(())
    }

    fn other(&mut self, request: ApplyRequest) -> Result<(), ConsensusError> {
        match request {
            ApplyRequest::Apply(_) | ApplyRequest::Finish(_) => {}
            ApplyRequest::Position(answer) => {
                let _ = answer.send(self.applier.position.clone());
            }
            ApplyRequest::Snapshot(answer) => {
                let meta = snapshot_meta(&self.applier.position);
                let snapshot = match self.applier.position.last {
                    Some(_) => {
                        Some((meta, SnapshotSource::Current(Box::new(self.applier.store.begin_read()?))))
                    }
                    None => None,
                };
                let _ = answer.send(snapshot);
            }
            ApplyRequest::Install(received, done) => {
                self.applier.install(&received)?;
                self.checkpointed.send_replace(self.applier.position.clone());
                let _ = done.send(());
            }
            ApplyRequest::Tick => {
                if self.applier.is_checkpoint_due_by_time() {
                    self.checkpoint()?;
                }
            }
        }
        Ok(())
    }

    /// Makes a checkpoint and has the log purged behind it.
    fn checkpoint(&mut self) -> Result<(), ConsensusError> {
        self.save()?;
        self.checkpointed.send_replace(self.applier.position.clone());
        Ok(())
    }

    /// Makes the state durable, after the log.
    fn save(&mut self) -> Result<(), ConsensusError> {
        if !self.acks.wait_synced(self.applier.position.next_index()) {
            return Err(ConsensusError::Stopped);
        }
        self.applier.save()
    }
}

/// Meta data of a snapshot of the state at `position`.
pub fn snapshot_meta(position: &Position) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: position.last,
        last_membership: position.membership.clone(),
        snapshot_id: position.last.map_or_else(|| "empty".to_owned(), |id| id.to_string()),
    }
}

fn command_count(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(batch) => batch.commands().len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

/// Pairs the waiters of a batch, if it was proposed here, with the outcomes of its commands.
pub fn answers(
    id: LogId,
    waiters: Vec<Waiter>,
    replies: Vec<Applied>,
) -> impl Iterator<Item = (Waiter, Outcome)> {
    let outcomes = replies.into_iter().map(move |reply| match reply {
        Ok(reply) => Ok((reply, id)),
        Err(refused) => Err(ProposeError::Refused(refused)),
    });
    waiters.into_iter().zip(outcomes)
}

/// Tells the callers of entries that will not be applied.
fn refuse(entries: &[Entry]) {
    for entry in entries {
        if let EntryPayload::Normal(batch) = &entry.payload {
            batch.take_waiters().into_iter().for_each(|waiter| waiter.answer(Err(ProposeError::Stopped)));
        }
    }
}
