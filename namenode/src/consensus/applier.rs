//! Applying entries to the state, one transaction for all that are given at once.
//!
//! Owned by one thread at a time. The owner sees to the order of log and state: a checkpoint is made only when the log
//! is on disk as far as it was applied.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use openraft::EntryPayload;
use tokio::sync::watch;

use super::batch::Batch;
use super::error::ConsensusError;
use super::flusher::Flusher;
use super::raft_types::{self, Entry, LogId, StoredMembership};
use super::room::DiskRoom;
use super::snapshot::ReceivedSnapshot;
use super::state_store::{Position, StateStore};
use super::terms::Terms;
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
    /// A copy of the position's for others, who look at it when they have looked at `applied`.
    terms: Arc<RwLock<Terms>>,
    dirty: Dirty,
    flusher: Flusher,
    disk: DiskRoom,
}

/// Log id of a batch, the batch, and what became of its commands.
type AppliedBatch<'a> = (LogId, &'a Batch, Vec<Applied>);

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
        let terms = Arc::new(RwLock::new(position.terms.clone()));
        let dirty = Dirty::default();
        Self { store, position, on_effects, policy, applied, terms, dirty, flusher, disk }
    }

    /// How far the log is applied, as it goes on.
    pub fn watch(&self) -> watch::Receiver<Option<LogId>> {
        self.applied.subscribe()
    }

    /// Who made the entries that were applied; at least of those that [`Self::watch`] has told of.
    pub fn terms(&self) -> Arc<RwLock<Terms>> {
        Arc::clone(&self.terms)
    }

    fn publish_terms(&self) {
        self.terms.write().unwrap_or_else(PoisonError::into_inner).clone_from(&self.position.terms);
    }

    /// Applies entries in one transaction. Answers for each batch what became of its commands.
    pub fn apply<'a>(&mut self, entries: &'a [Entry]) -> Result<Vec<AppliedBatch<'a>>, ConsensusError> {
        self.make_room()?;
        let rows = self.store.rows();
        let mut effects = Vec::new();
        let mut outcomes = Vec::with_capacity(entries.len());
        let (mut membership_changed, mut terms_changed) = (false, false);
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
                    outcomes.push((entry.log_id, batch, replies));
                }
            }
            terms_changed |= self.position.terms.applied(raft_types::entry_id(&entry.log_id));
            self.position.last = Some(entry.log_id);
        }
        self.position.store(&mut tables, membership_changed, terms_changed);
        tables.commit();
        self.dirty.since.get_or_insert_with(Instant::now);
        if !effects.is_empty() {
            (self.on_effects)(effects);
        }
        if terms_changed {
            self.publish_terms();
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
        self.publish_terms();
        self.dirty = Dirty::default();
        self.applied.send_replace(self.position.last);
        Ok(())
    }
}
