//! A namenode that is alone: log and state without Raft's rounds.
//!
//! Nobody else has a say, so what is in the log is committed. A proposal is carried out by the task that makes it:
//!
//! ```text
//! propose -> queue -> whoever gets the core: write(2) to the log, apply, answer (Written)
//!                       |
//!                       +-> thread raft-log: one fdatasync for all that wait -> answer (Durable)
//! ```
//!
//! That saves a lone caller every change of threads; openraft with its tasks and the threads of log and state cost
//! several. Proposals that are made at the same time share an entry, a transaction and a sync: the task that has the
//! core takes whatever is queued. Files and records are those of `member`, which takes over when there
//! are other namenodes; a new term begins with each start.
//!
//! Locking: `core` before `log`; `queue` and `wanted` are held for moments, with nothing locked inside. Tasks only
//! try to lock the core: while a checkpoint holds it, they leave their proposals in the queue and wait without
//! keeping a thread. What a task does with the core is in memory and in the page cache; only when changes come faster
//! than `flusher` brings them into redb, one waits for it.
//!
//! Invariants: log and state have the same order (both change under `core`); the state is never durable beyond the log;
//! a proposal in the queue is seen by whoever holds the core, who looks again after letting go of it; after a
//! failure nothing is carried out any more.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;
use std::{mem, task::Poll};

use openraft::{CommittedLeaderId, EntryPayload};
use tokio::sync::{Semaphore, oneshot};

use super::acks::Acks;
use super::applier::Applier;
use super::apply_thread::answers;
use super::batch::{Batch, Level, Outcome, Waiter};
use super::batcher::{ENTRY_BYTES_MAX, ENTRY_COMMANDS_MAX, PROPOSALS_MAX, Proposal};
use super::dir_lock::DirLock;
use super::error::{ConsensusError, ProposeError};
use super::health::Health;
use super::raft_types::{self, Entry, LogId, Membership, Vote};
use super::record;
use super::segmented_log::SegmentedLog;
use super::vote_file::VoteFile;
use crate::log;

/// What was only written is on disk after this time: relaxed callers are promised a second.
const SYNC_INTERVAL: Duration = Duration::from_millis(250);

/// Entries that one task carries out for others before the thread goes on in its place.
const ENTRIES_A_TASK_MAX: usize = 8;

/// Bytes of log read at once when it is replayed.
const REPLAY_BYTES: usize = 1 << 20;

/// Bytes that a record has beside its commands, at most, and those that each of them adds.
const RECORD_OVERHEAD: usize = record::HEADER_BYTES + 64;
const COMMAND_OVERHEAD: usize = 16;

/// How the thread ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With everything on disk and a checkpoint.
    Saved,
    /// At once, as by a crash.
    Abandoned,
}

/// What the thread is to do.
#[derive(Debug, Default)]
struct Wanted {
    /// Put on disk what was written.
    sync: bool,
    /// Look at queue and checkpoint.
    work: bool,
    end: Option<End>,
}

#[derive(Default)]
struct Queue {
    /// At most [`PROPOSALS_MAX`].
    proposals: Vec<Proposal>,
    closed: bool,
}

struct Core {
    applier: Applier,
    leader: CommittedLeaderId<u64>,
    failed: bool,
    /// Kept as long as log and state are in use.
    _lock: Arc<DirLock>,
}

/// See the module.
pub struct Alone {
    places: Semaphore,
    queue: Mutex<Queue>,
    core: Mutex<Core>,
    log: Mutex<SegmentedLog>,
    wanted: Mutex<Wanted>,
    wake: Condvar,
    acks: Acks,
    health: Health,
    /// How often the thread looks by itself.
    tick: Duration,
}

/// What [`Alone::open`] starts from.
pub struct Parts {
    /// This node.
    pub node_id: u64,
    /// Log.
    pub log: SegmentedLog,
    /// Vote file and vote.
    pub votes: (VoteFile, Vote),
    /// State.
    pub applier: Applier,
    /// First membership, if the log is new.
    pub first: Option<Membership>,
    /// Lock of the directory.
    pub lock: Arc<DirLock>,
    /// Told what is on disk.
    pub acks: Acks,
    /// Told of a failure.
    pub health: Health,
    /// How old changes become before a checkpoint.
    pub checkpoint_interval: Duration,
}

impl Alone {
    /// Begins a term and brings the state up to date with the log. Blocks on the disk.
    pub fn open(parts: Parts) -> Result<Arc<Self>, ConsensusError> {
        let Parts { node_id, mut log, votes: (votes, vote), mut applier, first, lock, acks, health, .. } =
            parts;
        let term = vote.leader_id.term + 1;
        votes.save(&Vote::new_committed(term, node_id))?;
        if let Some(membership) = first {
            let entry = Entry { log_id: LogId::default(), payload: EntryPayload::Membership(membership) };
            log.stage(&entry);
            log.write()?;
            log.sync()?;
            acks.synced(log.synced());
        }
        let catalog = log.catalog();
        loop {
            let entries = catalog.read(applier.position.next_index(), u64::MAX, REPLAY_BYTES)?;
            if entries.is_empty() {
                break;
            }
            applier.apply(&entries)?;
        }
        let core =
            Core { applier, leader: CommittedLeaderId::new(term, node_id), failed: false, _lock: lock };
        Ok(Arc::new(Self {
            places: Semaphore::new(PROPOSALS_MAX),
            queue: Mutex::default(),
            core: Mutex::new(core),
            log: Mutex::new(log),
            wanted: Mutex::default(),
            wake: Condvar::new(),
            acks,
            health,
            tick: SYNC_INTERVAL.min(parts.checkpoint_interval / 4).max(Duration::from_millis(1)),
        }))
    }

    /// Carries out a command.
    pub async fn propose(&self, command: log::Command, level: Level) -> Outcome {
        let _place = self.places.acquire().await.map_err(|_| ProposeError::Stopped)?;
        let (reply, outcome) = oneshot::channel();
        {
            let mut queue = lock(&self.queue);
            if queue.closed {
                return Err(ProposeError::Stopped);
            }
            queue.proposals.push(Proposal { command, waiter: Waiter { reply, level } });
        }
        let_others_in().await;
        self.work();
        outcome.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// Carries out commands in their order, which nothing comes in between of but the end of an entry.
    pub async fn propose_all(&self, commands: Vec<log::Command>, level: Level) -> Vec<Outcome> {
        let stopped = |count| (0..count).map(|_| Err(ProposeError::Stopped)).collect();
        let count = commands.len();
        // More than there are places would wait for ever.
        let places = u32::try_from(count.min(PROPOSALS_MAX)).unwrap_or(u32::MAX);
        let Ok(_places) = self.places.acquire_many(places).await else { return stopped(count) };
        let mut outcomes = Vec::with_capacity(count);
        {
            let mut queue = lock(&self.queue);
            if queue.closed {
                return stopped(count);
            }
            for command in commands {
                let (reply, outcome) = oneshot::channel();
                queue.proposals.push(Proposal { command, waiter: Waiter { reply, level } });
                outcomes.push(outcome);
            }
        }
        let_others_in().await;
        self.work();
        let mut answers = Vec::with_capacity(count);
        for outcome in outcomes {
            answers.push(outcome.await.unwrap_or(Err(ProposeError::Stopped)));
        }
        answers
    }

    /// Has what was written put on disk now.
    pub fn want_sync(&self) {
        self.want(|wanted| wanted.sync = true);
    }

    /// Has the thread end: with everything on disk, or at once.
    pub fn end(&self, saved: bool) {
        lock(&self.queue).closed = true;
        self.want(|wanted| wanted.end = Some(if saved { End::Saved } else { End::Abandoned }));
    }

    /// Whether proposals are carried out.
    pub fn serves(&self) -> bool {
        !lock(&self.queue).closed
    }

    fn want(&self, what: impl FnOnce(&mut Wanted)) {
        what(&mut lock(&self.wanted));
        self.wake.notify_one();
    }

    /// Carries out what is queued, unless somebody else has the core, who then does it.
    fn work(&self) {
        for _ in 0..ENTRIES_A_TASK_MAX {
            let mut core = match self.core.try_lock() {
                Ok(core) => core,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let proposals = self.take_queued();
            if proposals.is_empty() {
                drop(core);
                if lock(&self.queue).proposals.is_empty() {
                    return;
                }
                continue;
            }
            self.carry_out_or_fail(&mut core, proposals);
        }
        self.want(|wanted| wanted.work = true);
    }

    /// Takes what fits an entry.
    fn take_queued(&self) -> Vec<Proposal> {
        let mut queue = lock(&self.queue);
        let mut bytes = 0;
        let fits = |proposal: &Proposal| {
            let begins = bytes == 0;
            bytes += proposal.bytes();
            begins || bytes <= ENTRY_BYTES_MAX
        };
        let count =
            queue.proposals.iter().take(ENTRY_COMMANDS_MAX).map(fits).take_while(|fits| *fits).count();
        if count == queue.proposals.len() {
            return mem::take(&mut queue.proposals);
        }
        queue.proposals.drain(..count).collect()
    }

    fn carry_out_or_fail(&self, core: &mut Core, proposals: Vec<Proposal>) {
        if core.failed {
            // Their callers see their channels closed.
            return;
        }
        if let Err(error) = self.carry_out(core, proposals) {
            core.failed = true;
            self.fail(error);
        }
    }

    /// Makes one entry: log, state, answers.
    fn carry_out(&self, core: &mut Core, proposals: Vec<Proposal>) -> Result<(), ConsensusError> {
        let bytes: usize = proposals.iter().map(|proposal| proposal.bytes() + COMMAND_OVERHEAD).sum();
        if !lock(&self.log).has_room(bytes + RECORD_OVERHEAD)? {
            // What comes after it might be smaller, but must not overtake it.
            let rest = mem::take(&mut lock(&self.queue).proposals);
            let refused = proposals.into_iter().chain(rest);
            refused.for_each(|proposal| proposal.waiter.answer(Err(ProposeError::NoRoom)));
            return Ok(());
        }
        let durable = proposals.iter().any(|proposal| proposal.waiter.level == Level::Durable);
        let (commands, waiters): (Vec<_>, Vec<_>) =
            proposals.into_iter().map(|proposal| (proposal.command, proposal.waiter)).unzip();
        let index = core.applier.position.next_index();
        let batch = Batch::stored(log::CommandBatch { commands });
        let entry = Entry { log_id: LogId::new(core.leader, index), payload: EntryPayload::Normal(batch) };
        let is_full = {
            let mut log = lock(&self.log);
            log.stage(&entry);
            log.write()?;
            log.is_full()
        };
        self.acks.written(index + 1);
        if durable || is_full {
            // While this is applied.
            self.want_sync();
        }
        let mut applied = core.applier.apply(std::slice::from_ref(&entry))?;
        if let Some((id, _, replies)) = applied.pop() {
            self.acks.applied(id.index, answers(id, waiters, replies));
        }
        if core.applier.is_checkpoint_due() && core.applier.has_room() {
            self.want(|wanted| wanted.work = true);
        }
        Ok(())
    }

    fn fail(&self, error: ConsensusError) {
        self.health.fail(error);
        self.acks.fail();
        let rest = {
            let mut queue = lock(&self.queue);
            queue.closed = true;
            mem::take(&mut queue.proposals)
        };
        drop(rest);
        self.want(|wanted| wanted.end = Some(End::Abandoned));
    }

    /// The thread `raft-log`: syncs, checkpoints, and what tasks leave to it.
    pub fn run(&self) {
        if let Err(error) = self.serve() {
            self.core().failed = true;
            self.fail(error);
        }
        lock(&self.queue).closed = true;
        self.acks.fail();
        let rest = mem::take(&mut lock(&self.queue).proposals);
        drop(rest);
    }

    fn serve(&self) -> Result<(), ConsensusError> {
        loop {
            match self.wait() {
                Some(End::Abandoned) => return Ok(()),
                Some(End::Saved) => return self.save_all(),
                None => {
                    self.sync()?;
                    self.work();
                    self.checkpoint_if_due()?;
                }
            }
        }
    }

    /// Waits until there is something to do.
    fn wait(&self) -> Option<End> {
        let wanted = lock(&self.wanted);
        let idle = |wanted: &mut Wanted| !wanted.sync && !wanted.work && wanted.end.is_none();
        let waited = self.wake.wait_timeout_while(wanted, self.tick, idle);
        let (mut wanted, _) = waited.unwrap_or_else(PoisonError::into_inner);
        wanted.sync = false;
        wanted.work = false;
        wanted.end
    }

    /// Puts on disk what is written now. More is written and applied meanwhile.
    fn sync(&self) -> Result<(), ConsensusError> {
        let Some(sync) = lock(&self.log).begin_sync() else { return Ok(()) };
        sync.run()?;
        self.acks.synced(sync.next);
        let synced = {
            let mut log = lock(&self.log);
            log.end_sync(&sync)?;
            if log.last().is_some_and(|last| last.index + 1 == log.synced()) {
                log.mark()?;
            }
            log.synced()
        };
        if synced > sync.next {
            self.acks.synced(synced);
        }
        Ok(())
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        lock(&self.core)
    }

    fn checkpoint_if_due(&self) -> Result<(), ConsensusError> {
        {
            let mut core = self.core();
            let is_due = core.applier.is_checkpoint_due() || core.applier.is_checkpoint_due_by_time();
            if !is_due || !core.applier.has_room() {
                return Ok(());
            }
            self.checkpoint(&mut core)?;
        }
        // Of those who found the core taken.
        self.want(|wanted| wanted.work = true);
        Ok(())
    }

    /// Makes the state durable, after the log, and deletes the log behind it.
    fn checkpoint(&self, core: &mut Core) -> Result<(), ConsensusError> {
        self.sync()?;
        core.applier.save()?;
        if let Some(last) = core.applier.position.last {
            lock(&self.log).purge(raft_types::entry_id(&last))?;
        }
        Ok(())
    }

    /// Finishes what was proposed before the queue was closed, and saves everything.
    fn save_all(&self) -> Result<(), ConsensusError> {
        let mut core = self.core();
        loop {
            let proposals = self.take_queued();
            if proposals.is_empty() {
                break;
            }
            self.carry_out_or_fail(&mut core, proposals);
        }
        if core.failed {
            return Ok(());
        }
        self.sync()?;
        if core.applier.is_dirty() && core.applier.has_room() {
            core.applier.save()?;
        }
        lock(&self.log).sync()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets tasks that are ready run first, so that what they propose shares an entry with this one's. Unlike tokio's
/// `yield_now` this does not look for events of sockets in between, which costs a system call.
async fn let_others_in() {
    let mut yielded = false;
    std::future::poll_fn(|context| {
        if mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
