//! Delegated directories: what this session may answer itself.
//!
//! A directory that the session changes a lot is asked for ([`habit`]); while the session has it, nobody else sees or changes it without the
//! namenode asking for it back. One that it reads a lot is asked for *for reading*, as others may at the same time: nobody else changes it without
//! that. In both, names and attributes are answered from here and files opened for reading ([`opening`]); of the first, files that were written are closed
//! from here ([`closing`]). Changes of it are checked against what is known of it ([`nodes`], [`node_changes`]), answered, queued
//! ([`queue`]) and sent in batches ([`sender`]). What others want, or what has not changed for long, is given back ([`keeper`]).
//!
//! Invariants:
//! - The namenode hears of changes in the order in which they were answered.
//! - A call of this session that a queued change could matter to waits until that is carried out ([`Delegations::settled`], [`calls`]).
//! - A change that [`nodes`] does not cover is made by the namenode, after everything queued for its directories, which are given
//!   back before.
//! - A directory is given back only when no queued change touches it.
//!
//! One lock for all of it, never held across an await, and no other lock than that of the open files' table is taken under it.

mod calls;
mod changes;
mod clock;
mod closing;
mod gates;
mod habit;
mod keeper;
mod listing;
mod node_changes;
mod nodes;
#[cfg(test)]
mod nodes_tests;
mod numbers;
mod opening;
mod queue;
mod sender;
mod walk;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dfs_proto::v1::{Change, FileStatus};
use tokio::sync::Notify;

pub(super) use calls::{Changing, Touched, Way};
pub(super) use keeper::keep;
pub(super) use nodes::Verdict;
pub(super) use opening::Opening;
pub(super) use sender::send;

use self::clock::Clock;
use self::gates::Gates;
use self::habit::Habit;
use self::node_changes::Moment;
use self::nodes::Nodes;
use self::numbers::Numbers;
use self::queue::{MAX_QUEUED, Queue};
use self::walk::Walk;
use crate::DfsError;
use crate::fs::FileSystem;

/// A queued change that waits longer stands for a namenode that is away or busy: then callers wait for it, and hear of errors
/// themselves.
const STALLED_AFTER: Duration = Duration::from_secs(1);

/// A directory that was changed within this time is being worked on.
const WORKED_ON: Duration = Duration::from_secs(1);

/// How long a directory that is delegated for reading is believed after a question was sent whose answer did not want it back. The
/// namenode waits a little longer (`SHARED_PATIENCE_MS`) before it gives up a session that is silent.
const SHARED_TRUST: Duration = Duration::from_secs(4);

/// What was told while directories are asked for is kept up to here; beyond it, what is granted is given back.
const MAX_HEARD: usize = 10_000;

/// See the module.
pub(super) struct Delegations {
    shared: Mutex<Shared>,
    /// Queued changes: read without the lock where there are none most of the time.
    queued: AtomicUsize,
    /// Changes were carried out, a directory was granted, or a call that changes one has ended.
    progress: Notify,
    /// There is something to send.
    work: Notify,
}

/// What is under the lock.
pub(super) struct Shared {
    /// Whether directories are asked for at all.
    enabled: bool,
    nodes: Nodes,
    queue: Queue<Change>,
    numbers: Numbers,
    habit: Habit,
    reading: Habit,
    walk: Walk,
    gates: Gates,
    /// Once the namenode has told its time.
    clock: Option<Clock>,
    /// Calls under way that change nodes, by node.
    direct: HashMap<u64, u32>,
    /// What was told of nodes while directories are asked for; none: they are doubtful.
    heard: HashMap<u64, Option<FileStatus>>,
    /// Epoch of the session.
    epoch: u64,
    /// Until when the session surely lives, if the namenode does.
    lives_until: Option<Instant>,
    /// When the newest poll was sent that was answered.
    polled: Option<Instant>,
    /// A poll failed: the namenode may be gone, and with it what is delegated.
    doubted: bool,
    /// The sender works.
    sending: bool,
    /// A change that was answered and then refused, which nobody heard of.
    lost: Option<DfsError>,
    counts: DelegationCounts,
}

/// What a session has delegated to it, and what it made of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DelegationCounts {
    /// Directories that it has now.
    pub directories: u64,
    /// Of these, those that it has for reading.
    pub shared: u64,
    /// Changes that the namenode has not carried out yet.
    pub queued: u64,
    /// Directories that it was granted.
    pub granted: u64,
    /// Directories that others wanted.
    pub recalled: u64,
    /// Files that were opened without a call.
    pub opened: u64,
    /// Batches of changes that were sent.
    pub batches: u64,
    /// Changes that were answered before the namenode knew of them.
    pub answered: u64,
    /// Of these, those that the namenode carried out with other attributes than were shown.
    pub corrected: u64,
    /// Of these, those that the namenode refused.
    pub refused: u64,
}

impl Delegations {
    pub(super) fn new(enabled: bool) -> Self {
        let shared = Shared {
            enabled,
            nodes: Nodes::default(),
            queue: Queue::default(),
            numbers: Numbers::default(),
            habit: Habit::of_changes(),
            reading: Habit::of_reads(),
            walk: Walk::default(),
            gates: Gates::default(),
            clock: None,
            direct: HashMap::new(),
            heard: HashMap::new(),
            epoch: 0,
            lives_until: None,
            polled: None,
            doubted: false,
            sending: false,
            lost: None,
            counts: DelegationCounts::default(),
        };
        Self {
            shared: Mutex::new(shared),
            queued: AtomicUsize::new(0),
            progress: Notify::new(),
            work: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is queued.
    fn is_idle(&self) -> bool {
        self.queued.load(Ordering::Acquire) == 0
    }

    /// Notes the length of the queue, before the lock is let go.
    fn note_queued(&self, shared: &Shared) {
        self.queued.store(shared.queue.len(), Ordering::Release);
    }
}

impl FileSystem {
    /// What is delegated to the session.
    pub fn delegation_counts(&self) -> DelegationCounts {
        let shared = self.inner().delegations.lock();
        let (directories, queued) = (shared.nodes.directories.len() as u64, shared.queue.len() as u64);
        let for_reading =
            shared.nodes.directories.values().filter(|directory| directory.shared).count() as u64;
        DelegationCounts { directories, shared: for_reading, queued, ..shared.counts }
    }
}

impl Shared {
    /// Time of a change that is made now; none: the namenode's clock is not known.
    fn moment(&self, at: Instant) -> Option<Moment> {
        Some(Moment { at, now_ns: self.clock?.now_ns(at) })
    }

    /// Whether changes are to wait for the queue.
    fn is_stalled(&self, at: Instant) -> bool {
        self.queue.len() >= MAX_QUEUED
            || self.queue.oldest().is_some_and(|since| at.saturating_duration_since(since) > STALLED_AFTER)
    }

    /// Whether what is known of a directory counts. A session that may have ended has nothing delegated.
    fn may_read(&self, dir: u64, at: Instant) -> bool {
        self.nodes.directories.get(&dir).is_some_and(|directory| {
            let lives = self.lives_until.is_some_and(|until| at < until);
            let told = self.polled.map_or(directory.asked, |polled| polled.max(directory.asked));
            lives && (!directory.shared || (!self.doubted && at < told + SHARED_TRUST))
        })
    }

    /// A directory is not asked for for a while, in neither way.
    fn rest(&mut self, dir: u64, at: Instant) {
        self.habit.rest(dir, at);
        self.reading.rest(dir, at);
    }

    /// Whether attributes of a node are being changed by a call.
    fn is_direct(&self, inode: u64) -> bool {
        self.direct.contains_key(&inode)
    }

    /// A node's attributes were told by a call that changed it (`status`), or are doubtful from now on.
    fn heard(&mut self, inode: u64, status: Option<&FileStatus>) {
        if self.gates.is_quiet() {
            return;
        }
        if self.heard.len() >= MAX_HEARD {
            self.gates.spoil_all();
            return;
        }
        // A doubt stays until the question is answered.
        let newest = |known: &Option<FileStatus>| match (known, status) {
            (Some(known), Some(status)) => known.change <= status.change,
            (None, _) => false,
            (Some(_), None) => true,
        };
        if self.heard.get(&inode).is_none_or(newest) {
            self.heard.insert(inode, status.cloned());
        }
    }
}
