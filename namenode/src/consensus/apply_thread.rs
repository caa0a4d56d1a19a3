//! The thread `raft-apply`: applies committed entries to the state.
//!
//! It takes what waits in its channel and applies all of it in one redb transaction, hands the effects
//! to the block manager, and then lets the callers be answered. openraft is not kept waiting: to it,
//! an entry is applied when it is in the channel. That is sound because everything that depends on
//! the state (snapshots, the position, checkpoints, purging) goes through the same channel.
//!
//! Invariant: the store is never durable beyond what is on disk of the log: a checkpoint first waits for
//! the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::EntryPayload;
use tokio::sync::{mpsc, oneshot, watch};

use super::acks::Acks;
use super::batch::{Batch, Outcome, Waiter};
use super::dir_lock::DirLock;
use super::error::{ConsensusError, ProposeError};
use super::health::Health;
use super::raft_types::{Entry, LogId, SnapshotMeta, StoredMembership};
use super::snapshot::{ReceivedSnapshot, SnapshotSource};
use super::state_store::{Position, StateStore};
use crate::namesystem::{self, Effect, Tables};

/// Called with the effects of committed transactions, in order.
pub type OnEffects = Arc<dyn Fn(Vec<Effect>) + Send + Sync>;

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

/// When checkpoints are due.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointPolicy {
    /// After so many commands.
    pub commands: u64,
    /// After so many bytes of log.
    pub bytes: u64,
    /// When changes are older than this.
    pub interval: Duration,
}

/// What changed since the last checkpoint.
#[derive(Debug, Default)]
struct Dirty {
    commands: u64,
    bytes: u64,
    since: Option<Instant>,
}

/// What the thread works with.
pub struct ApplyThread {
    /// The state.
    pub store: StateStore,
    /// How far the log is applied in it.
    pub position: Position,
    /// Takes the outcomes.
    pub acks: Arc<Acks>,
    /// Told of a failure.
    pub health: Health,
    /// Takes the effects.
    pub on_effects: OnEffects,
    /// When to make checkpoints.
    pub policy: CheckpointPolicy,
    /// Told how far the log is applied.
    pub applied: watch::Sender<Option<LogId>>,
    /// Told the position of the last checkpoint.
    pub checkpointed: watch::Sender<Position>,
    /// Kept as long as the thread runs.
    pub lock: Arc<DirLock>,
}

impl ApplyThread {
    /// Runs until all senders are gone, or the store fails.
    pub fn run(mut self, mut requests: mpsc::Receiver<ApplyRequest>) {
        let mut dirty = Dirty::default();
        if let Err(error) = self.serve(&mut requests, &mut dirty) {
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

    fn serve(
        &mut self,
        requests: &mut mpsc::Receiver<ApplyRequest>,
        dirty: &mut Dirty,
    ) -> Result<(), ConsensusError> {
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
                self.apply(&entries, dirty).inspect_err(|_| refuse(&entries))?;
            }
            match other {
                Some(ApplyRequest::Finish(done)) => {
                    if dirty.since.is_some() {
                        // openraft has stopped and purges nothing any more.
                        self.save(dirty)?;
                    }
                    let _ = done.send(());
                    return Ok(());
                }
                Some(request) => self.other(request, dirty)?,
                None => {}
            }
            if dirty.commands >= self.policy.commands || dirty.bytes >= self.policy.bytes {
                self.checkpoint(dirty)?;
            }
        }
        Ok(())
    }

    /// Applies entries in one transaction.
    fn apply(&mut self, entries: &[Entry], dirty: &mut Dirty) -> Result<(), ConsensusError> {
        let txn = self.store.begin()?;
        let mut effects = Vec::new();
        let mut outcomes = Vec::new();
        let mut membership_changed = false;
        let failed = |index| move |source| ConsensusError::Apply { index, source };
        let mut index = self.position.next_index();
        {
            let mut tables = Tables::open(&txn).map_err(failed(index))?;
            for entry in entries {
                index = entry.log_id.index;
                match &entry.payload {
                    EntryPayload::Blank => {}
                    EntryPayload::Membership(membership) => {
                        self.position.membership =
                            StoredMembership::new(Some(entry.log_id), membership.clone());
                        membership_changed = true;
                    }
                    EntryPayload::Normal(batch) => {
                        let mut replies = Vec::with_capacity(batch.commands().len());
                        for command in batch.commands() {
                            self.position.sequence += 1;
                            let applied = namesystem::apply(&mut tables, self.position.sequence, command)
                                .map_err(failed(index))?;
                            effects.extend(applied.effects);
                            replies.push(applied.outcome);
                        }
                        dirty.commands += replies.len() as u64;
                        dirty.bytes += batch.encoded_bytes() as u64;
                        outcomes.push((index, batch, replies));
                    }
                }
                self.position.last = Some(entry.log_id);
            }
            self.position.store(&mut tables, membership_changed).map_err(failed(index))?;
        }
        self.store.commit(txn)?;
        dirty.since.get_or_insert_with(Instant::now);
        if !effects.is_empty() {
            (self.on_effects)(effects);
        }
        self.applied.send_replace(self.position.last);
        for (index, batch, replies) in outcomes {
            self.acks.applied(index, answers(index, batch, replies));
        }
        Ok(())
    }

    fn other(&mut self, request: ApplyRequest, dirty: &mut Dirty) -> Result<(), ConsensusError> {
        match request {
            ApplyRequest::Apply(_) | ApplyRequest::Finish(_) => {}
            ApplyRequest::Position(answer) => {
                let _ = answer.send(self.position.clone());
            }
            ApplyRequest::Snapshot(answer) => {
                let meta = snapshot_meta(&self.position);
                let snapshot = match self.position.last {
                    Some(_) => Some((meta, SnapshotSource::Current(Box::new(self.store.begin_read()?)))),
                    None => None,
                };
                let _ = answer.send(snapshot);
            }
            ApplyRequest::Install(received, done) => {
                let position = self.store.install(&received.path)?;
                if position.last != received.meta.last_log_id {
                    return Err(ConsensusError::WrongSnapshot { snapshot_id: received.meta.snapshot_id });
                }
                self.position = position;
                *dirty = Dirty::default();
                self.applied.send_replace(self.position.last);
                self.checkpointed.send_replace(self.position.clone());
                let _ = done.send(());
            }
            ApplyRequest::Tick => {
                if dirty.since.is_some_and(|since| since.elapsed() >= self.policy.interval) {
                    self.checkpoint(dirty)?;
                }
            }
        }
        Ok(())
    }

    /// Makes a checkpoint and has the log purged behind it.
    fn checkpoint(&mut self, dirty: &mut Dirty) -> Result<(), ConsensusError> {
        self.save(dirty)?;
        self.checkpointed.send_replace(self.position.clone());
        Ok(())
    }

    /// Makes the state durable, after the log.
    fn save(&mut self, dirty: &mut Dirty) -> Result<(), ConsensusError> {
        if !self.acks.wait_synced(self.position.next_index()) {
            return Err(ConsensusError::Stopped);
        }
        let begun = Instant::now();
        self.store.checkpoint()?;
        tracing::debug!(
            commands = dirty.commands,
            log_bytes = dirty.bytes,
            index = self.position.next_index().saturating_sub(1),
            took_ms = begun.elapsed().as_millis(),
            "checkpoint"
        );
        *dirty = Dirty::default();
        Ok(())
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
fn answers(
    index: u64,
    batch: &Batch,
    replies: Vec<Result<crate::log::Reply, namesystem::NamesystemError>>,
) -> impl Iterator<Item = (Waiter, Outcome)> {
    let outcomes = replies.into_iter().map(move |reply| match reply {
        Ok(reply) => Ok((reply, index)),
        Err(refused) => Err(ProposeError::Refused(refused)),
    });
    batch.take_waiters().into_iter().zip(outcomes)
}

/// Tells the callers of entries that will not be applied.
fn refuse(entries: &[Entry]) {
    for entry in entries {
        if let EntryPayload::Normal(batch) = &entry.payload {
            batch.take_waiters().into_iter().for_each(|waiter| waiter.answer(Err(ProposeError::Stopped)));
        }
    }
}
