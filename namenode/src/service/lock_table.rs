//! Locks of files: `fcntl` ranges and `flock`, of owners in many sessions.
//!
//! Pure soft state. An owner is (session, number). The two spaces do not see each other. In one space an owner has at
//! most one lock on a byte; a new one replaces what it covers, which splits, shortens, upgrades or downgrades
//! older ones. Locks of different owners overlap only if all are shared.
//!
//! After a restart of the namenode the sessions tell their locks anew. A lock that somebody took meanwhile wins over
//! one that is told late.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use dfs_proto::v1::{FileLock, LockSpace, LockType};

/// Locks on one file: each attempt looks through them. Sessions that decide about delegated locks keep to it, too.
const LOCKS_PER_FILE_MAX: usize = 10_000;

/// Locks in all: about 80 bytes each.
const LOCKS_MAX: usize = 1 << 20;

/// Attempts that wait at once; more are told at once that a lock is in the way.
const WAITS_MAX: usize = 100_000;

/// Owners looked at in search of a deadlock: longer chains of waits are not found, and their waits end by time.
const DEADLOCK_STEPS_MAX: usize = 1_000;

/// Who holds a lock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Owner {
    session: Arc<str>,
    number: u64,
}

impl Owner {
    fn is(&self, session: &str, number: u64) -> bool {
        self.number == number && *self.session == *session
    }
}

/// A lock on a range; `end` is included.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    owner: Owner,
    start: u64,
    end: u64,
    exclusive: bool,
    pid: u32,
}

impl Held {
    fn is_in_the_way(&self, session: &str, wanted: &FileLock) -> bool {
        !self.owner.is(session, wanted.owner)
            && self.start <= wanted.end
            && wanted.start <= self.end
            && (self.exclusive || wanted.r#type() == LockType::Write)
    }
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Done.
    Done,
    /// Another owner's lock is in the way.
    Blocked,
    /// There are too many locks.
    Full,
}

/// A lock that nobody can take or drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lock needs an inode, a type, a space, and an end that is not before its start")]
pub struct InvalidLock;

/// Names an attempt that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WaitId(u64);

/// One space of one file, in no order.
type Space = Vec<Held>;

/// See the module.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Clone))]
pub struct LockTable {
    files: HashMap<(u64, bool), Space>,
    count: usize,
    /// Files in which a session has locks, or had.
    sessions: HashMap<Arc<str>, HashSet<u64>>,
    waits: HashMap<WaitId, (Owner, FileLock)>,
    /// Waits of an owner.
    waiting: HashMap<Owner, Vec<WaitId>>,
    next_wait: u64,
}

/// Checks what came from the network.
pub fn check(lock: &FileLock) -> Result<(), InvalidLock> {
    let known = LockType::try_from(lock.r#type).is_ok() && LockSpace::try_from(lock.space).is_ok();
    if known && lock.inode != 0 && lock.start <= lock.end { Ok(()) } else { Err(InvalidLock) }
}

/// Key of the locks that a lock sees.
fn space_of(lock: &FileLock) -> (u64, bool) {
    (lock.inode, lock.space() == LockSpace::Flock)
}

/// The range of a lock; `flock` locks the whole file whatever is said.
fn normal(lock: &FileLock) -> FileLock {
    match lock.space() {
        LockSpace::Posix => *lock,
        LockSpace::Flock => FileLock { start: 0, end: u64::MAX, ..*lock },
    }
}

impl LockTable {
    /// Takes, changes or drops a lock, at once or not at all.
    pub fn set(&mut self, session: &str, lock: &FileLock) -> Attempt {
        let lock = normal(lock);
        let key = space_of(&lock);
        let unlock = lock.r#type() == LockType::Unlock;
        let held = self.files.get(&key).map_or(&[][..], Vec::as_slice);
        if unlock && held.is_empty() {
            return Attempt::Done;
        }
        if !unlock && held.iter().any(|other| other.is_in_the_way(session, &lock)) {
            return Attempt::Blocked;
        }
        // A new lock may split an old one: two more.
        if !unlock && (held.len() + 2 > LOCKS_PER_FILE_MAX || self.count + 2 > LOCKS_MAX) {
            return Attempt::Full;
        }
        self.put(session, &lock);
        Attempt::Done
    }

    /// Does what was found to be possible.
    fn put(&mut self, session: &str, lock: &FileLock) {
        let key = space_of(lock);
        let unlock = lock.r#type() == LockType::Unlock;
        let session = self.intern(session, lock.inode, unlock);
        let owner = Owner { session, number: lock.owner };
        let held = self.files.entry(key).or_default();
        let before = held.len();
        replace(held, &owner, lock, unlock);
        self.count = self.count - before + held.len();
        if held.is_empty() {
            self.files.remove(&key);
        }
    }

    /// `locks` are all that a session has in a file in which no other session has any. They were granted by somebody who may: the table
    /// takes them even if it is full.
    pub fn restore(&mut self, session: &str, inode: u64, locks: &[FileLock]) {
        self.drop_file(session, inode);
        for lock in locks {
            self.put(session, &normal(lock));
        }
    }

    /// Whether nobody but `session` has locks in a file, and nobody waits for one there.
    pub fn is_used_only_by(&self, session: &str, inode: u64) -> bool {
        let held = [false, true].into_iter().filter_map(|flock| self.files.get(&(inode, flock))).flatten();
        let mut waits = self.waits.values();
        held.into_iter().all(|held| *held.owner.session == *session)
            && waits.all(|(_, wanted)| wanted.inode != inode)
    }

    fn intern(&mut self, session: &str, inode: u64, unlock: bool) -> Arc<str> {
        if let Some((name, _)) = self.sessions.get_key_value(session) {
            let name = name.clone();
            if !unlock && let Some(inodes) = self.sessions.get_mut(session) {
                inodes.insert(inode);
            }
            return name;
        }
        let name: Arc<str> = session.into();
        if !unlock {
            self.sessions.insert(name.clone(), HashSet::from([inode]));
        }
        name
    }

    /// The first lock that is in the way of `lock`, and whether it is the same session's.
    pub fn blocker(&self, session: &str, lock: &FileLock) -> Option<(FileLock, bool)> {
        let lock = normal(lock);
        if lock.r#type() == LockType::Unlock {
            return None;
        }
        let held = self.files.get(&space_of(&lock))?;
        let in_the_way = held.iter().filter(|held| held.is_in_the_way(session, &lock));
        let found = in_the_way.min_by_key(|held| held.start)?;
        let kind = if found.exclusive { LockType::Write } else { LockType::Read };
        let answer = FileLock {
            inode: lock.inode,
            space: lock.space,
            owner: found.owner.number,
            start: found.start,
            end: found.end,
            r#type: kind.into(),
            pid: found.pid,
        };
        Some((answer, *found.owner.session == *session))
    }

    /// Drops all locks of a session on a file. Answers whether there were any.
    pub fn drop_file(&mut self, session: &str, inode: u64) -> bool {
        if !self.sessions.get_mut(session).is_some_and(|inodes| inodes.remove(&inode)) {
            return false;
        }
        let mut dropped = false;
        for flock in [false, true] {
            if let Some(held) = self.files.get_mut(&(inode, flock)) {
                let before = held.len();
                held.retain(|held| *held.owner.session != *session);
                dropped |= held.len() < before;
                self.count -= before - held.len();
                if held.is_empty() {
                    self.files.remove(&(inode, flock));
                }
            }
        }
        dropped
    }

    /// Drops all locks of a session. Answers the files that had any.
    pub fn drop_session(&mut self, session: &str) -> Vec<u64> {
        let inodes: Vec<u64> = self.sessions.get(session).into_iter().flatten().copied().collect();
        let dropped = inodes.into_iter().filter(|inode| self.drop_file(session, *inode)).collect();
        self.sessions.remove(session);
        dropped
    }

    /// An attempt waits from now on. Answers nothing if too many wait.
    pub fn wait(&mut self, session: &str, lock: &FileLock) -> Option<WaitId> {
        if self.waits.len() >= WAITS_MAX {
            return None;
        }
        let owner = Owner { session: session.into(), number: lock.owner };
        let id = WaitId(self.next_wait);
        self.next_wait += 1;
        self.waiting.entry(owner.clone()).or_default().push(id);
        self.waits.insert(id, (owner, normal(lock)));
        Some(id)
    }

    /// An attempt waits no longer.
    pub fn end_wait(&mut self, id: WaitId) {
        let Some((owner, _)) = self.waits.remove(&id) else { return };
        if let Some(ids) = self.waiting.get_mut(&owner) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.waiting.remove(&owner);
            }
        }
    }

    /// Whether an attempt would wait for itself, through owners that wait for each other (`fcntl` only).
    pub fn would_deadlock(&self, session: &str, lock: &FileLock) -> bool {
        if lock.space() != LockSpace::Posix {
            return false;
        }
        let mut seen: HashSet<&Owner> = HashSet::new();
        let mut next: Vec<&Owner> = self.in_the_way(session, lock).collect();
        while let Some(owner) = next.pop() {
            if owner.is(session, lock.owner) {
                return true;
            }
            if !seen.insert(owner) || seen.len() > DEADLOCK_STEPS_MAX {
                continue;
            }
            for id in self.waiting.get(owner).into_iter().flatten() {
                if let Some((waiter, wanted)) = self.waits.get(id)
                    && wanted.space() == LockSpace::Posix
                {
                    next.extend(self.in_the_way(&waiter.session, wanted));
                }
            }
        }
        false
    }

    fn in_the_way<'a>(&'a self, session: &'a str, lock: &FileLock) -> impl Iterator<Item = &'a Owner> {
        let lock = *lock;
        let held = self.files.get(&space_of(&lock)).into_iter().flatten();
        held.filter(move |held| held.is_in_the_way(session, &lock)).map(|held| &held.owner)
    }

    /// Locks held.
    pub const fn len(&self) -> usize {
        self.count
    }
}

/// Makes `lock` the only lock of `owner` on its range, joined with its neighbours of the same type.
fn replace(held: &mut Space, owner: &Owner, lock: &FileLock, unlock: bool) {
    let exclusive = lock.r#type() == LockType::Write;
    let mut new = Held { owner: owner.clone(), start: lock.start, end: lock.end, exclusive, pid: lock.pid };
    let mut rests = Vec::new();
    held.retain(|old| {
        if old.owner != *owner {
            return true;
        }
        let overlaps = old.start <= lock.end && lock.start <= old.end;
        let touches =
            old.end.checked_add(1) == Some(lock.start) || lock.end.checked_add(1) == Some(old.start);
        if !unlock && old.exclusive == exclusive && (overlaps || touches) {
            new.start = new.start.min(old.start);
            new.end = new.end.max(old.end);
            return false;
        }
        if !overlaps {
            return true;
        }
        if old.start < lock.start {
            rests.push(Held { end: lock.start - 1, ..old.clone() });
        }
        if lock.end < old.end {
            rests.push(Held { start: lock.end + 1, ..old.clone() });
        }
        false
    });
    held.append(&mut rests);
    if !unlock {
        held.push(new);
    }
}

#[cfg(test)]
#[path = "lock_table_tests.rs"]
mod tests;
