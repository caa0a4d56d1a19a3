//! The locks of all files, and which session decides about those of a file.
//!
//! Pure soft state: time comes as an argument. The locks of a file that one session alone uses may be *delegated* to it; then only the
//! session knows what its owners have locked there. Others' calls recall the delegation and come back when it was returned.
//!
//! Invariants:
//! * While the locks of a file are delegated, no other session has any there, nor gets any.
//! * A returned delegation replaces everything that the session had in the file; one that is not (or no longer) the present one, by its
//!   number, changes nothing, so that a late repetition does no harm.
//! * `numbers` names the delegated files' delegations.

use std::collections::HashMap;
use std::sync::Arc;

use dfs_proto::v1::{FileLock, LockDelegation};

use super::delegation_table::{ClientId, DelegationTable, Granting};
use super::lock_table::{Attempt, LockTable};

/// Sessions share no client here: a session is its own.
const CLIENT: ClientId = [0; 16];

/// Another session decides about the locks; it was asked to return them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Away {
    /// The session that decides, if it is to be woken to hear of this.
    pub holder: Option<Arc<str>>,
}

/// How a recall stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recall {
    /// The holder has some time left.
    Awaited,
    /// It had its time, and has lost the delegation.
    Overdue,
    /// There is none.
    Over,
}

/// See the module.
#[derive(Debug, Default)]
pub struct DelegatedLocks {
    /// Locks as far as they are known here.
    pub table: LockTable,
    delegations: DelegationTable,
    numbers: HashMap<u64, u64>,
    last_number: u64,
}

impl DelegatedLocks {
    /// Nothing locked. Numbers begin after `number`, another one with every start.
    pub fn new(number: u64) -> Self {
        Self { last_number: number, ..Self::default() }
    }

    /// Takes, changes or drops a lock. With `delegate`, answers the number of the delegation if there is one now, else 0.
    pub fn set(
        &mut self,
        now_ms: u64,
        session: &str,
        lock: &FileLock,
        delegate: bool,
    ) -> Result<(Attempt, u64), Away> {
        self.recall(now_ms, session, lock.inode)?;
        let attempt = self.table.set(session, lock);
        let number = match attempt {
            Attempt::Done if delegate => self.delegate(now_ms, session, lock.inode),
            Attempt::Done | Attempt::Blocked | Attempt::Full => 0,
        };
        Ok((attempt, number))
    }

    /// The first lock in the way of `lock`, and whether it is the same session's.
    pub fn blocker(
        &mut self,
        now_ms: u64,
        session: &str,
        lock: &FileLock,
    ) -> Result<Option<(FileLock, bool)>, Away> {
        self.recall(now_ms, session, lock.inode)?;
        Ok(self.table.blocker(session, lock))
    }

    /// Wants the locks of a file back if another session than `session` decides about them.
    pub fn recall(&mut self, now_ms: u64, session: &str, inode: u64) -> Result<(), Away> {
        match self.delegations.holder(inode) {
            Some(holder) if **holder != *session => {
                Err(Away { holder: self.delegations.recall(now_ms, inode) })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn delegate(&mut self, now_ms: u64, session: &str, inode: u64) -> u64 {
        if !self.table.is_used_only_by(session, inode) {
            return 0;
        }
        match self.delegations.grant(now_ms, session, CLIENT, inode) {
            Granting::New => {
                // Never 0, which stands for none.
                self.last_number = self.last_number.wrapping_add(1).max(1);
                self.numbers.insert(inode, self.last_number);
                self.last_number
            }
            Granting::Known => self.numbers.get(&inode).copied().unwrap_or(0),
            Granting::Refused => 0,
        }
    }

    /// A session gives locks back: `locks` are all that it has in the file. False: they are not delegated to it under this number.
    pub fn give_back(
        &mut self,
        now_ms: u64,
        session: &str,
        delegation: LockDelegation,
        locks: &[FileLock],
    ) -> bool {
        let LockDelegation { inode, number } = delegation;
        let present = self.numbers.get(&inode) == Some(&number);
        if !present || !self.delegations.give_back(now_ms, session, inode) {
            return false;
        }
        self.numbers.remove(&inode);
        self.table.restore(session, inode, locks);
        true
    }

    /// Delegations that are wanted back from a session, and whether it has not heard of some yet. Now it has.
    pub fn take_recalled(&mut self, session: &str) -> (Vec<LockDelegation>, bool) {
        let (inodes, untold) = self.delegations.take_recalled(session);
        let number = |inode| self.numbers.get(&inode).copied().unwrap_or(0);
        (inodes.into_iter().map(|inode| LockDelegation { inode, number: number(inode) }).collect(), untold)
    }

    /// How a recall stands. A holder that had `patience_ms` since then loses the delegation, and what it had locked, as with the end of a
    /// session: nobody else knows what of it still is.
    pub fn recall_stands(&mut self, now_ms: u64, inode: u64, patience_ms: u64) -> Recall {
        let Some(since) = self.delegations.recalled_ms(inode) else { return Recall::Over };
        if now_ms.saturating_sub(since) < patience_ms {
            return Recall::Awaited;
        }
        if let Some(holder) = self.delegations.holder(inode).cloned() {
            self.drop_file(now_ms, &holder, inode);
        }
        Recall::Overdue
    }

    /// Time that passed while nobody could answer does not count against holders.
    pub fn postpone(&mut self, gap_ms: u64) {
        self.delegations.postpone(gap_ms);
    }

    /// A session has a file open no longer. Answers whether that may let others go on.
    pub fn drop_file(&mut self, now_ms: u64, session: &str, inode: u64) -> bool {
        let delegated = self.delegations.give_back(now_ms, session, inode);
        if delegated {
            self.numbers.remove(&inode);
        }
        self.table.drop_file(session, inode) || delegated
    }

    /// A session has no locks, nor anything delegated. Answers the files that had any.
    pub fn drop_session(&mut self, session: &str) -> Vec<u64> {
        let mut inodes = self.delegations.end(session);
        for inode in &inodes {
            self.numbers.remove(inode);
        }
        inodes.extend(self.table.drop_session(session));
        inodes
    }

    /// Files whose locks are delegated.
    pub fn delegated(&self) -> usize {
        self.delegations.len()
    }
}

#[cfg(test)]
#[path = "delegated_locks_tests.rs"]
mod tests;
