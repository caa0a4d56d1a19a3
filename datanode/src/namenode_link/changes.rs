//! Replica changes on their way to the namenode.
//!
//! Data threads push, the report task pops. Invariants: changes of one block leave in the order in which they
//! came, except that `Receiving` is dropped when `Received` or `Deleted` overtakes it; the queue is bounded,
//! and an overflow asks for a full report, which says everything again.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use dfs_proto::v1::{BadReplica, ReplicaChange, ReplicaEvent};
use tokio::sync::Notify;

use crate::dataset::damaged::Damaged;
use crate::replica::BlockRef;
use crate::sync::lock;

/// Changes waiting at most: a few seconds of the fastest small-file load; 16 MiB.
const MAX_CHANGES: usize = 100_000;

/// Bad replicas waiting at most. More than this and the disk is gone; the scan finds the rest again.
const MAX_BAD: usize = 10_000;

/// Waiting bad replicas that a new one is compared with, so that readers who meet one together report it once.
const MAX_COMPARED: usize = 64;

/// How long finished changes wait for company.
pub const BATCH_DELAY: Duration = Duration::from_millis(5);

/// Least time between two batches: under load a call carries many changes, which costs both sides less, and
/// nobody waits for them, since writers themselves tell the namenode who has their blocks.
pub const BATCH_SPACING: Duration = Duration::from_millis(40);

/// How long the news that a replica is being written waits. It only matters for writers that take longer.
pub const RECEIVING_DELAY: Duration = Duration::from_millis(500);

/// What is waiting.
#[derive(Debug, Default)]
struct Pending {
    changes: VecDeque<ReplicaChange>,
    receiving: HashMap<u64, (ReplicaChange, Instant)>,
    bad: VecDeque<BadReplica>,
    verified: VecDeque<BadReplica>,
    since: Option<Instant>,
    last_taken: Option<Instant>,
    full_report: bool,
    registration: bool,
}

/// The queue.
#[derive(Debug, Default)]
pub struct ChangeQueue {
    pending: Mutex<Pending>,
    woken: Notify,
}

impl ChangeQueue {
    /// Adds a change.
    pub fn push(&self, event: ReplicaEvent, block: BlockRef, length: u64, storage_id: &str) {
        let change = ReplicaChange {
            event: event.into(),
            block: Some(block.to_proto(length)),
            storage_id: storage_id.to_owned(),
            unsendable: false,
        };
        self.push_change(event, change);
    }

    /// Adds a copy that the namenode ordered and that was not made: `unsendable` if the replica here is the reason.
    pub fn push_failed_copy(&self, block: BlockRef, storage_id: &str, unsendable: bool) {
        let event = ReplicaEvent::CopyFailed;
        let change = ReplicaChange {
            event: event.into(),
            block: Some(block.to_proto(0)),
            storage_id: storage_id.to_owned(),
            unsendable,
        };
        self.push_change(event, change);
    }

    fn push_change(&self, event: ReplicaEvent, change: ReplicaChange) {
        let id = change.block.map_or(0, |block| block.id);
        let wake = {
            let mut pending = lock(&self.pending);
            if pending.changes.len() + pending.receiving.len() >= MAX_CHANGES {
                pending.full_report = true;
                pending.changes.clear();
                pending.receiving.clear();
                true
            } else if event == ReplicaEvent::Receiving {
                // Nobody is woken for it: most writers are done before it is due.
                pending.receiving.insert(id, (change, Instant::now()));
                false
            } else {
                if event != ReplicaEvent::CopyFailed {
                    pending.receiving.remove(&id);
                }
                pending.changes.push_back(change);
                let first = pending.since.is_none();
                pending.since.get_or_insert_with(Instant::now);
                first
            }
        };
        if wake {
            self.woken.notify_one();
        }
    }

    /// Adds a replica that is damaged.
    pub fn push_bad(&self, damaged: &Damaged) {
        let replica = BadReplica {
            block: Some(damaged.block.to_proto(damaged.length)),
            storage_id: damaged.storage_id.clone(),
            reason: damaged.reason.clone(),
        };
        {
            let mut pending = lock(&self.pending);
            // Few wait at a time; after a registration many may, and those are no duplicates.
            let known = pending.bad.iter().take(MAX_COMPARED).any(|waiting| waiting.block == replica.block);
            if pending.bad.len() < MAX_BAD && !known {
                pending.bad.push_back(replica);
            }
        }
        self.woken.notify_one();
    }

    /// Adds a replica that was verified on the namenode's order.
    pub fn push_verified(&self, block: BlockRef, length: u64, storage_id: &str) {
        let replica = BadReplica {
            block: Some(block.to_proto(length)),
            storage_id: storage_id.to_owned(),
            reason: String::new(),
        };
        {
            let mut pending = lock(&self.pending);
            if pending.verified.len() < MAX_BAD {
                pending.verified.push_back(replica);
            }
        }
        self.woken.notify_one();
    }

    /// Asks for a full report.
    pub fn want_full_report(&self) {
        lock(&self.pending).full_report = true;
        self.woken.notify_one();
    }

    /// Asks for a registration, which tells the namenode of all volumes; a full report follows it.
    pub fn want_registration(&self) {
        lock(&self.pending).registration = true;
        self.woken.notify_one();
    }

    /// Whether a registration was asked for; asks no longer.
    pub fn take_registration(&self) -> bool {
        std::mem::take(&mut lock(&self.pending).registration)
    }

    /// Whether a full report was asked for; asks no longer.
    pub fn take_full_report(&self) -> bool {
        std::mem::take(&mut lock(&self.pending).full_report)
    }

    /// Waits until something is pushed, or until it is time to look at what nobody is woken for.
    pub async fn woken(&self) {
        // The outcome does not matter: the caller looks either way.
        let _ = tokio::time::timeout(RECEIVING_DELAY, self.woken.notified()).await;
    }

    /// When the next batch is due; `None`: nothing waits.
    pub fn due(&self) -> Option<Instant> {
        let pending = lock(&self.pending);
        if !pending.bad.is_empty()
            || !pending.verified.is_empty()
            || pending.full_report
            || pending.registration
        {
            return Some(Instant::now());
        }
        let spaced = pending.last_taken.map(|t| t + BATCH_SPACING);
        let finished = pending.since.map(|t| (t + BATCH_DELAY).max(spaced.unwrap_or(t)));
        let receiving = pending.receiving.values().map(|(_, t)| *t + RECEIVING_DELAY).min();
        finished.into_iter().chain(receiving).min()
    }

    /// Takes up to `max` changes that are due.
    pub fn take(&self, max: usize) -> Vec<ReplicaChange> {
        let mut pending = lock(&self.pending);
        let count = pending.changes.len().min(max);
        let mut batch: Vec<ReplicaChange> = pending.changes.drain(..count).collect();
        if pending.changes.is_empty() {
            pending.since = None;
        }
        let now = Instant::now();
        if count > 0 {
            pending.last_taken = Some(now);
        }
        let ripe: Vec<u64> = pending
            .receiving
            .iter()
            .filter(|(_, (_, since))| *since + RECEIVING_DELAY <= now)
            .map(|(id, _)| *id)
            .take(max - count)
            .collect();
        batch.extend(ripe.iter().filter_map(|id| pending.receiving.remove(id)).map(|(change, _)| change));
        batch
    }

    /// Puts a batch that could not be sent back in front.
    pub fn put_back(&self, batch: Vec<ReplicaChange>) {
        let mut pending = lock(&self.pending);
        if pending.changes.len() + batch.len() > MAX_CHANGES {
            pending.full_report = true;
            pending.changes.clear();
            return;
        }
        for change in batch.into_iter().rev() {
            pending.changes.push_front(change);
        }
        pending.since.get_or_insert_with(Instant::now);
    }

    /// Takes the damaged replicas, and those that were verified.
    pub fn take_bad(&self) -> (Vec<BadReplica>, Vec<BadReplica>) {
        let mut pending = lock(&self.pending);
        (pending.bad.drain(..).collect(), pending.verified.drain(..).collect())
    }

    /// Puts damaged replicas back that could not be reported.
    pub fn put_back_bad(&self, batch: Vec<BadReplica>) {
        let mut pending = lock(&self.pending);
        let room = MAX_BAD.saturating_sub(pending.bad.len());
        pending.bad.extend(batch.into_iter().take(room));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receiving_is_dropped_when_received_overtakes_it() {
        let (queue, begun) = (ChangeQueue::default(), Instant::now());
        queue.push(ReplicaEvent::Receiving, BlockRef::new(1, 1), 0, "s");
        queue.push(ReplicaEvent::Receiving, BlockRef::new(2, 1), 0, "s");
        queue.push(ReplicaEvent::Received, BlockRef::new(1, 1), 10, "s");
        queue.push(ReplicaEvent::Deleted, BlockRef::new(1, 1), 10, "s");
        let events: Vec<_> = queue.take(2).iter().map(ReplicaChange::event).collect();
        assert_eq!(events, [ReplicaEvent::Received, ReplicaEvent::Deleted]);
        assert!(queue.due().is_some_and(|t| t >= begun + RECEIVING_DELAY), "block 2 waits for its time");
    }

    #[test]
    fn an_overflow_asks_for_a_full_report() {
        let queue = ChangeQueue::default();
        for id in 0..=MAX_CHANGES as u64 {
            queue.push(ReplicaEvent::Received, BlockRef::new(id, 1), 0, "s");
        }
        assert!(queue.take_full_report() && !queue.take_full_report());
        assert!(queue.take(usize::MAX / 2).is_empty());
    }

    #[test]
    fn what_could_not_be_sent_keeps_its_place() {
        let queue = ChangeQueue::default();
        for id in 0..4 {
            queue.push(ReplicaEvent::Received, BlockRef::new(id, 1), 0, "s");
        }
        let batch = queue.take(2);
        queue.put_back(batch);
        let ids: Vec<u64> = queue.take(4).iter().filter_map(|c| c.block).map(|b| b.id).collect();
        assert_eq!(ids, [0, 1, 2, 3]);
    }
}
