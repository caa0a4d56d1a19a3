//! Which files' locks are delegated to this session, and what else is going on with their locks.
//!
//! Pure. A file whose locks are used several times within a moment is asked for with one of these calls. While the session has its locks, and
//! surely lives, it answers itself.
//!
//! Invariants:
//! - A file is asked for only while no other call about its locks is under way, and no other one begins before the answer: who has
//!   the delegation knows all locks of the session in the file.
//! - Locks are given back only when no call about them is under way, and none begins before they are.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use dfs_proto::v1::LockDelegation;

/// Calls within [`WINDOW`], the last of which asks: a program that locks and unlocks once is left alone.
const CALLS: u32 = 3;
/// See [`CALLS`].
const WINDOW: Duration = Duration::from_secs(1);
/// Time for which locks that others wanted are not asked for again: longer than the namenode would refuse it in any case.
const REST: Duration = Duration::from_secs(5);
/// Files that are remembered without anything going on; beyond that they are forgotten.
const MAX_REMEMBERED: usize = 1_024;
/// Part of the time after which a silent session ends that is kept as a margin: for clocks, and for an answer on its way to who asked.
const MARGIN: u32 = 6;

/// What a session has delegated of locks, and what it made of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LockDelegationCounts {
    /// Files whose locks are delegated to it now.
    pub files: u64,
    /// Times that locks of a file were delegated to it.
    pub granted: u64,
    /// Calls that it answered itself.
    pub answered: u64,
    /// Delegations that others wanted back.
    pub recalled: u64,
}

/// What a call about locks does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is answered here.
    Here,
    /// The namenode is asked; with `asks` for the delegation, too. [`LockDelegations::ended`] follows.
    Call {
        /// See above.
        asks: bool,
    },
    /// It waits for others.
    Wait,
    /// It waits for this to be given back, which begins now. [`LockDelegations::returned`] follows.
    Return(LockDelegation),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The namenode decides.
    #[default]
    Direct,
    /// A call asks for the delegation; somebody else may want it already.
    Asking { wanted: bool },
    /// Delegated, under this number.
    Held(u64),
    /// It is being given back.
    Returning,
}

#[derive(Debug)]
struct File {
    phase: Phase,
    /// Calls under way that do not ask.
    calls: u32,
    /// Granted calls since then.
    granted: u32,
    since: Instant,
    rests_until: Option<Instant>,
}

impl File {
    fn new(at: Instant) -> Self {
        Self { phase: Phase::Direct, calls: 0, granted: 0, since: at, rests_until: None }
    }

    fn is_idle(&self) -> bool {
        self.phase == Phase::Direct && self.calls == 0
    }

    fn counts(&self, at: Instant) -> bool {
        let recent = at.saturating_duration_since(self.since) <= WINDOW;
        recent && self.granted > 0 || self.rests_until.is_some_and(|until| at < until)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct LockDelegations {
    files: HashMap<u64, File>,
    /// Until when the session surely lives.
    lives_until: Option<Instant>,
    counts: LockDelegationCounts,
}

/// Until when a session surely lives that ends after `timeout` of silence, and sent at `sent` what was answered.
pub(super) fn lives_until(sent: Instant, timeout: Duration) -> Instant {
    sent + (timeout - timeout / MARGIN)
}

impl LockDelegations {
    /// Whether the session may answer about the locks of a file.
    pub(super) fn has(&self, inode: u64, at: Instant) -> bool {
        let held = self.files.get(&inode).is_some_and(|file| matches!(file.phase, Phase::Held(_)));
        held && self.lives(at)
    }

    fn lives(&self, at: Instant) -> bool {
        self.lives_until.is_some_and(|until| at < until)
    }

    /// What a call does that sets a lock and was not answered here.
    pub(super) fn set(&mut self, inode: u64, at: Instant) -> Next {
        let lives = self.lives(at);
        let file = self.file(inode, at);
        match file.phase {
            Phase::Held(number) => {
                file.phase = Phase::Returning;
                if lives {
                    // It waits for another owner.
                    file.rests_until = Some(at + REST);
                }
                Next::Return(LockDelegation { inode, number })
            }
            Phase::Asking { .. } | Phase::Returning => Next::Wait,
            Phase::Direct => {
                let rests = file.rests_until.is_some_and(|until| at < until);
                let recent = at.saturating_duration_since(file.since) <= WINDOW;
                let asks = lives && file.calls == 0 && !rests && recent && file.granted + 1 >= CALLS;
                if asks {
                    file.phase = Phase::Asking { wanted: false };
                } else {
                    file.calls += 1;
                }
                Next::Call { asks }
            }
        }
    }

    /// What a call does that only looks: a [`Next::Call`] of it does not count, nor end.
    pub(super) fn get(&mut self, inode: u64, at: Instant) -> Next {
        let lives = self.lives(at);
        let Some(file) = self.files.get_mut(&inode) else { return Next::Call { asks: false } };
        match file.phase {
            Phase::Held(_) if lives => Next::Here,
            Phase::Held(number) => {
                file.phase = Phase::Returning;
                Next::Return(LockDelegation { inode, number })
            }
            Phase::Returning => Next::Wait,
            Phase::Direct | Phase::Asking { .. } => Next::Call { asks: false },
        }
    }

    /// A call was granted; `number` is not 0 if the locks were delegated with it. Answers what is to be given back at once.
    pub(super) fn granted(&mut self, inode: u64, number: u64, at: Instant) -> Option<LockDelegation> {
        let file = self.file(inode, at);
        if at.saturating_duration_since(file.since) > WINDOW {
            (file.since, file.granted) = (at, 0);
        }
        file.granted = file.granted.saturating_add(1);
        let Phase::Asking { wanted } = file.phase else { return None };
        // Whoever was refused counts anew.
        file.granted = 0;
        if number == 0 {
            return None;
        }
        file.phase = if wanted { Phase::Returning } else { Phase::Held(number) };
        if wanted {
            file.rests_until = Some(at + REST);
        }
        self.counts.granted += 1;
        wanted.then_some(LockDelegation { inode, number })
    }

    /// The caller of a call that was granted the delegation has gone: it is to be given back.
    pub(super) fn abandoned(&mut self, inode: u64, at: Instant) {
        self.file(inode, at).phase = Phase::Returning;
    }

    /// A call has ended, whatever came of it.
    pub(super) fn ended(&mut self, inode: u64, asked: bool) {
        let Some(file) = self.files.get_mut(&inode) else { return };
        if !asked {
            file.calls = file.calls.saturating_sub(1);
        } else if let Phase::Asking { .. } = file.phase {
            file.phase = Phase::Direct;
            file.granted = 0;
        }
    }

    /// Whether no call is under way that a return must wait for.
    pub(super) fn is_quiet(&self, inode: u64) -> bool {
        self.files.get(&inode).is_none_or(|file| file.calls == 0)
    }

    /// Somebody else wants locks back. Answers whether their return is to begin.
    pub(super) fn recalled(&mut self, delegation: LockDelegation, at: Instant) -> bool {
        let file = self.file(delegation.inode, at);
        match &mut file.phase {
            Phase::Held(number) if *number == delegation.number => {}
            // Granted by an answer that was lost.
            Phase::Direct => {}
            Phase::Asking { wanted } => {
                *wanted = true;
                return false;
            }
            Phase::Held(_) | Phase::Returning => return false,
        }
        file.phase = Phase::Returning;
        file.rests_until = Some(at + REST);
        self.counts.recalled += 1;
        true
    }

    /// Locks were given back.
    pub(super) fn returned(&mut self, inode: u64) {
        if let Some(file) = self.files.get_mut(&inode)
            && file.phase == Phase::Returning
        {
            file.phase = Phase::Direct;
        }
    }

    /// Files are open no longer: the namenode drops what is delegated of them.
    pub(super) fn drop_files(&mut self, inodes: &[u64]) {
        for inode in inodes {
            if self.files.get(inode).is_some_and(|file| matches!(file.phase, Phase::Held(_))) {
                self.files.remove(inode);
            }
        }
    }

    /// The namenode answered a call that was sent at `sent`, and has not forgotten the session: it lives for `timeout` from then on.
    pub(super) fn lives_since(&mut self, sent: Instant, timeout: Duration) {
        self.lives_until = Some(lives_until(sent, timeout));
    }

    /// The namenode may be gone, and with it the session.
    pub(super) fn doubt(&mut self) {
        self.lives_until = None;
    }

    /// The namenode has forgotten the session, or is about to hear anew what it has: nothing is delegated.
    pub(super) fn forget(&mut self) {
        for file in self.files.values_mut() {
            if let Phase::Held(_) = file.phase {
                file.phase = Phase::Direct;
            }
        }
    }

    /// A call was answered here.
    pub(super) fn answered(&mut self) {
        self.counts.answered += 1;
    }

    /// For people.
    pub(super) fn counts(&self) -> LockDelegationCounts {
        let held = self.files.values().filter(|file| matches!(file.phase, Phase::Held(_)));
        LockDelegationCounts { files: held.count() as u64, ..self.counts }
    }

    fn file(&mut self, inode: u64, at: Instant) -> &mut File {
        if self.files.len() >= MAX_REMEMBERED && !self.files.contains_key(&inode) {
            self.files.retain(|_, file| !file.is_idle() || file.counts(at));
            if self.files.len() >= MAX_REMEMBERED {
                // The others are bounded by the calls under way, and by what the namenode delegates to a session.
                self.files.retain(|_, file| !file.is_idle());
            }
        }
        self.files.entry(inode).or_insert_with(|| File::new(at))
    }
}

#[cfg(test)]
#[path = "lock_delegations_tests.rs"]
mod tests;
