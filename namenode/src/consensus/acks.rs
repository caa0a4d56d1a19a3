//! Joins "applied" and "written" or "on disk": a proposal is acknowledged when both are true.
//!
//! The apply thread reports what was applied, the log thread what was written and synced; whoever comes second sends
//! the reply, so that a caller is woken once.
//!
//! Invariants: `synced <= written`; they fall only when the log is cut; an answer is sent only when its entry's index
//! is below `synced` ([`Level::Durable`]) or `written` ([`Level::Written`]); after a failure nothing is acknowledged
//! any more.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::batch::{Level, Outcome, Waiter};
use super::error::ProposeError;

/// See the module.
#[derive(Debug)]
pub struct Acks {
    state: Mutex<State>,
    /// Signalled when `synced` rises and when the log fails.
    progress: Condvar,
    synced: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Entries below this index are in the log file.
    written: u64,
    /// Entries below this index are on disk.
    synced: u64,
    failed: bool,
    /// Applied, not yet in the log file as far as they want, by index. Bounded by the proposals in flight.
    waiting: VecDeque<(u64, Waiter, Outcome)>,
}

impl State {
    /// Whether an entry has come as far as its caller wants.
    const fn is_safe(&self, index: u64, level: Level) -> bool {
        match level {
            Level::Written => index < self.written,
            Level::Durable => index < self.synced,
        }
    }
}

impl Acks {
    /// Starts with all entries below `synced` on disk.
    pub fn new(synced: u64) -> Self {
        let state = State { written: synced, synced, ..State::default() };
        Self { state: Mutex::new(state), progress: Condvar::new(), synced: watch::Sender::new(synced) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports that the entry `index` was applied with these outcomes.
    pub fn applied(&self, index: u64, outcomes: impl Iterator<Item = (Waiter, Outcome)>) {
        let mut state = self.lock();
        for (waiter, outcome) in outcomes {
            if state.is_safe(index, waiter.level) {
                waiter.answer(outcome);
            } else if state.failed {
                waiter.answer(Err(ProposeError::Stopped));
            } else {
                state.waiting.push_back((index, waiter, outcome));
            }
        }
    }

    /// Reports that all entries below `next` are in the log file.
    pub fn written(&self, next: u64) {
        let mut ready = Vec::new();
        {
            let mut state = self.lock();
            state.written = state.written.max(next);
            let mut position = 0;
            while let Some((index, waiter, _)) =
                state.waiting.get(position).filter(|(index, ..)| *index < next)
            {
                if state.is_safe(*index, waiter.level) {
                    ready.extend(state.waiting.remove(position));
                } else {
                    position += 1;
                }
            }
        }
        for (_, waiter, outcome) in ready {
            waiter.answer(outcome);
        }
    }

    /// Reports that all entries below `next` are on disk.
    pub fn synced(&self, next: u64) {
        let mut ready = Vec::new();
        {
            let mut state = self.lock();
            state.synced = state.synced.max(next);
            state.written = state.written.max(next);
            while state.waiting.front().is_some_and(|(index, ..)| *index < next) {
                ready.extend(state.waiting.pop_front());
            }
        }
        self.progress.notify_all();
        for (_, waiter, outcome) in ready {
            waiter.answer(outcome);
        }
        self.synced.send_replace(next);
    }

    /// Reports that the log was cut and now ends before `next`.
    pub fn cut(&self, next: u64) {
        let synced = {
            let mut state = self.lock();
            state.synced = state.synced.min(next);
            state.written = state.written.min(next);
            state.synced
        };
        self.synced.send_replace(synced);
    }

    /// Reports that the log failed: what is not on disk now never will be.
    pub fn fail(&self) {
        let waiting = {
            let mut state = self.lock();
            state.failed = true;
            std::mem::take(&mut state.waiting)
        };
        self.progress.notify_all();
        for (_, waiter, _) in waiting {
            waiter.answer(Err(ProposeError::Stopped));
        }
    }

    /// Blocks until all entries below `next` are on disk; false if that will not happen.
    pub fn wait_synced(&self, next: u64) -> bool {
        let mut state = self.lock();
        while state.synced < next && !state.failed {
            state = self.progress.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.synced >= next
    }

    /// The index below which all entries are on disk, as it rises.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.synced.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::raft_types::log_id;
    use super::super::segment::EntryId;
    use super::*;
    use crate::log::Reply;

    fn waiter(level: Level) -> (Waiter, oneshot::Receiver<Outcome>) {
        let (reply, receiver) = oneshot::channel();
        (Waiter { reply, level }, receiver)
    }

    fn applied(acks: &Acks, index: u64, level: Level) -> oneshot::Receiver<Outcome> {
        let (waiter, receiver) = waiter(level);
        let id = log_id(EntryId { term: 1, node_id: 1, index });
        acks.applied(index, std::iter::once((waiter, Ok((Reply::default(), id)))));
        receiver
    }

    #[test]
    fn a_durable_reply_waits_for_the_sync_and_a_relaxed_one_for_the_write() {
        let acks = Acks::new(5);
        assert!(applied(&acks, 4, Level::Durable).try_recv().is_ok(), "already on disk");
        let mut durable = applied(&acks, 5, Level::Durable);
        let mut relaxed = applied(&acks, 6, Level::Written);
        let mut later = applied(&acks, 7, Level::Durable);
        assert!(relaxed.try_recv().is_err());
        acks.written(7);
        assert!(durable.try_recv().is_err());
        assert!(relaxed.try_recv().is_ok());
        assert!(applied(&acks, 6, Level::Written).try_recv().is_ok(), "already written");
        acks.synced(6);
        assert!(durable.try_recv().is_ok());
        assert!(later.try_recv().is_err());
        acks.synced(8);
        assert!(later.try_recv().is_ok());
        assert_eq!(*acks.watch().borrow(), 8);
    }

    #[test]
    fn after_a_cut_the_same_index_waits_again() {
        let acks = Acks::new(8);
        acks.cut(5);
        let mut again = applied(&acks, 5, Level::Durable);
        assert!(again.try_recv().is_err());
        acks.synced(6);
        assert!(again.try_recv().is_ok());
    }

    #[test]
    fn a_failed_log_acknowledges_nothing_more() {
        let acks = Acks::new(0);
        let mut before = applied(&acks, 0, Level::Durable);
        acks.fail();
        let mut after = applied(&acks, 1, Level::Durable);
        assert!(matches!(before.try_recv(), Ok(Err(ProposeError::Stopped))));
        assert!(matches!(after.try_recv(), Ok(Err(ProposeError::Stopped))));
        assert!(!acks.wait_synced(1));
    }
}
