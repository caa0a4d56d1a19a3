//! Applying entries to the state, one transaction for all that are given at once.
//!
//! Owned by one thread at a time. The owner sees to the order of log and state: a checkpoint is made only when the log
//! is on disk as far as it was applied.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::EntryPayload;
use tokio::sync::watch;

use super::batch::Batch;
use super::error::ConsensusError;
use super::flusher::Flusher;
use super::raft_types::{Entry, LogId, StoredMembership};
use super::room::DiskRoom;
use super::snapshot::ReceivedSnapshot;
use super::state_store::{Position, StateStore};
use crate::log;
use crate::namesystem::{self, Effect, Fill, NamesystemError, Tables};

/// Called with the effects of committed transactions, in order.
pub type OnEffects = Arc<dyn Fn(Vec<Effect>) + Send + Sync>;

/// What became of a command.
pub type Applied = Result<log::Reply, NamesystemError>;

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

/// See the module.
pub struct Applier {
    /// The state.
    pub store: StateStore,
    /// How far the log is applied in it.
    pub position: Position,
    on_effects: OnEffects,
    policy: CheckpointPolicy,
    applied: watch::Sender<Option<LogId>>,
    dirty: Dirty,
    flusher: Flusher,
    disk: DiskRoom,
}

/// Log index of a batch, the batch, and what became of its commands.
type AppliedBatch<'a> = (u64, &'a Batch, Vec<Applied>);

impl Applier {
    /// Applies to `store`, which stands at `position`; tells effects to `on_effects`.
    pub fn new(
        store: StateStore,
        position: Position,
        on_effects: OnEffects,
        policy: CheckpointPolicy,
        flusher: Flusher,
        disk: DiskRoom,
    ) -> Self {
        let applied = watch::Sender::new(position.last);
        Self { store, position, on_effects, policy, applied, dirty: Dirty::default(), flusher, disk }
    }

    /// How far the log is applied, as it goes on.
    pub fn watch(&self) -> watch::Receiver<Option<LogId>> {
        self.applied.subscribe()
    }

    /// Applies entries in one transaction. Answers for each batch what became of its commands.
    pub fn apply<'a>(&mut self, entries: &'a [Entry]) -> Result<Vec<AppliedBatch<'a>>, ConsensusError> {
        self.make_room()?;
        let rows = self.store.rows();
        let mut effects = Vec::new();
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut membership_changed = false;
        let failed = |index| move |source| ConsensusError::Apply { index, source };
        let mut index = self.position.next_index();
        let mut tables = Tables::open(&rows).map_err(failed(index))?;
        for entry in entries {
            index = entry.log_id.index;
            match &entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(membership) => {
                    self.position.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
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
                    self.dirty.commands += replies.len() as u64;
                    self.dirty.bytes += batch.encoded_bytes() as u64;
                    outcomes.push((index, batch, replies));
                }
            }
            self.position.last = Some(entry.log_id);
        }
        self.position.store(&mut tables, membership_changed);
        tables.commit();
        self.dirty.since.get_or_insert_with(Instant::now);
        if !effects.is_empty() {
            (self.on_effects)(effects);
        }
        self.applied.send_replace(self.position.last);
        Ok(outcomes)
    }

    /// Sees to it that what was applied does not gather in memory without end.
    fn make_room(&self) -> Result<(), ConsensusError> {
        match self.store.rows().fill() {
            Fill::Room => Ok(()),
            // Clients are refused meanwhile, so little more is going to gather.
            Fill::Full if !self.disk.is_there() => Ok(()),
            Fill::Full if self.flusher.begin(&self.store) => Ok(()),
            // The thread is behind, or has ended.
            Fill::Full | Fill::Overfull => self.store.flush(),
        }
    }

    /// Whether there is something to save.
    pub const fn is_dirty(&self) -> bool {
        self.dirty.since.is_some()
    }

    /// Whether so much has changed that a checkpoint is due.
    pub const fn is_checkpoint_due(&self) -> bool {
        self.dirty.commands >= self.policy.commands || self.dirty.bytes >= self.policy.bytes
    }

    /// Whether changes are so old that a checkpoint is due.
    pub fn is_checkpoint_due_by_time(&self) -> bool {
        self.dirty.since.is_some_and(|since| since.elapsed() >= self.policy.interval)
    }

    /// Whether the disk has the room that a checkpoint may take. Without it, checkpoints have to wait.
    pub fn has_room(&self) -> bool {
        self.disk.is_there()
    }

    /// Makes the state durable. The log must be on disk as far as it was applied.
    pub fn save(&mut self) -> Result<(), ConsensusError> {
        let begun = Instant::now();
        self.store.checkpoint()?;
        tracing::debug!(
            commands = self.dirty.commands,
            log_bytes = self.dirty.bytes,
            index = self.position.next_index().saturating_sub(1),
            took_ms = begun.elapsed().as_millis(),
            "checkpoint"
        );
        self.dirty = Dirty::default();
        Ok(())
    }

    /// Replaces the state by a received one; durable on return.
    pub fn install(&mut self, received: &ReceivedSnapshot) -> Result<(), ConsensusError> {
        let position = self.store.install(&received.path)?;
        if position.last != received.meta.last_log_id {
            return Err(ConsensusError::WrongSnapshot { snapshot_id: received.meta.snapshot_id.clone() });
        }
        self.position = position;
        self.dirty = Dirty::default();
        self.applied.send_replace(self.position.last);
        Ok(())
    }
}
