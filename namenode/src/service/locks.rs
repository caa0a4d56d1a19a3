//! Locks as calls see them: attempts that wait.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_proto::v1::{FileLock, GetLockResponse, LockType};
use dfs_proto::{ErrorKind, RpcError};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::lock_table::{self, Attempt, LockTable, WaitId};

/// Waiting attempts are woken in so many groups, by inode.
const GROUPS: u64 = 64;

/// The locks of all files.
#[derive(Debug)]
pub struct Locks {
    table: Mutex<LockTable>,
    /// Woken when locks of a group's files were dropped.
    dropped: Vec<Notify>,
}

/// An attempt that waits; it ends with this.
struct Waiting<'a> {
    locks: &'a Locks,
    id: WaitId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.locks.table().end_wait(self.id);
    }
}

impl Default for Locks {
    fn default() -> Self {
        Self { table: Mutex::default(), dropped: (0..GROUPS).map(|_| Notify::new()).collect() }
    }
}

impl Locks {
    fn table(&self) -> MutexGuard<'_, LockTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn group(&self, inode: u64) -> &Notify {
        &self.dropped[(inode % GROUPS) as usize]
    }

    /// Takes, changes or drops a lock; waits for those in the way for at most `patience`. False: one still is. A
    /// caller that goes away while it waits may have got the lock in the same moment, and drops it to be sure.
    pub async fn set(&self, session: &str, lock: &FileLock, patience: Duration) -> Result<bool, RpcError> {
        lock_table::check(lock).map_err(|e| refused(ErrorKind::InvalidArgument, lock, &e.to_string()))?;
        let deadline = Instant::now() + patience;
        let group = self.group(lock.inode);
        let mut waiting = None;
        loop {
            let dropped = group.notified();
            tokio::pin!(dropped);
            // From here on nothing is missed.
            dropped.as_mut().enable();
            let attempt = self.table().set(session, lock);
            match attempt {
                Attempt::Done => {
                    if lock.r#type() != LockType::Write {
                        group.notify_waiters();
                    }
                    return Ok(true);
                }
                Attempt::Full => return Err(refused(ErrorKind::NoLocks, lock, "the lock table is full")),
                Attempt::Blocked if Instant::now() >= deadline => return Ok(false),
                Attempt::Blocked => {}
            }
            if waiting.is_none() {
                let mut table = self.table();
                if table.would_deadlock(session, lock) {
                    return Err(refused(ErrorKind::Deadlock, lock, "its holder waits for this owner"));
                }
                let Some(id) = table.wait(session, lock) else { return Ok(false) };
                drop(table);
                waiting = Some(Waiting { locks: self, id });
            }
            // Woken or not, the next attempt tells.
            let _ = timeout_at(deadline, dropped).await;
        }
    }

    /// The lock in the way of `lock`.
    pub fn get(&self, session: &str, lock: &FileLock) -> Result<GetLockResponse, RpcError> {
        lock_table::check(lock).map_err(|e| refused(ErrorKind::InvalidArgument, lock, &e.to_string()))?;
        let found = self.table().blocker(session, lock).map(|(found, same_session)| {
            // A process of another host means nothing to the caller.
            if same_session { found } else { FileLock { pid: 0, ..found } }
        });
        Ok(GetLockResponse { lock: found })
    }

    /// Takes over the locks that a session says it has. One that another session has taken meanwhile stays there.
    pub fn replace(&self, session: &str, locks: &[FileLock]) {
        let dropped = self.table().drop_session(session);
        for lock in locks.iter().filter(|lock| lock_table::check(lock).is_ok()) {
            if self.table().set(session, lock) != Attempt::Done {
                tracing::warn!(session, inode = lock.inode, "a lock from before the restart is lost");
            }
        }
        self.wake(&dropped);
    }

    /// The session has the file open no longer.
    pub fn drop_file(&self, session: &str, inode: u64) {
        if self.table().drop_file(session, inode) {
            self.group(inode).notify_waiters();
        }
    }

    /// The session is over.
    pub fn drop_session(&self, session: &str) {
        let dropped = self.table().drop_session(session);
        self.wake(&dropped);
    }

    fn wake(&self, inodes: &[u64]) {
        inodes.iter().for_each(|inode| self.group(*inode).notify_waiters());
    }

    /// Locks held.
    pub fn len(&self) -> usize {
        self.table().len()
    }
}

fn refused(kind: ErrorKind, lock: &FileLock, reason: &str) -> RpcError {
    RpcError::new(kind, format!("inode {}", lock.inode), reason)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn lock(owner: u64, start: u64, kind: LockType) -> FileLock {
        FileLock { inode: 7, owner, start, end: start, r#type: kind.into(), pid: 4, ..FileLock::default() }
    }

    #[tokio::test]
    async fn an_attempt_waits_until_the_lock_is_dropped_or_its_time_is_over() {
        let locks = Arc::new(Locks::default());
        assert_eq!(locks.set("a", &lock(1, 0, LockType::Write), Duration::ZERO).await, Ok(true));
        assert_eq!(locks.set("b", &lock(1, 0, LockType::Read), Duration::ZERO).await, Ok(false));
        assert_eq!(locks.set("b", &lock(1, 0, LockType::Read), Duration::from_millis(5)).await, Ok(false));
        let waits = tokio::spawn({
            let locks = locks.clone();
            async move { locks.set("b", &lock(1, 0, LockType::Read), LONG).await }
        });
        while !is_waiting(&locks) {
            tokio::task::yield_now().await;
        }
        locks.drop_session("a");
        assert_eq!(waits.await.expect("no panic"), Ok(true));
        assert_eq!(locks.get("b", &lock(2, 0, LockType::Write)).expect("asked").lock.map(|l| l.pid), Some(4));
        assert_eq!(locks.get("a", &lock(2, 0, LockType::Write)).expect("asked").lock.map(|l| l.pid), Some(0));
        locks.drop_file("b", 7);
        assert_eq!(locks.len(), 0);
    }

    /// Whether somebody waits for byte 0: then a holder of what that one would need waits for it.
    fn is_waiting(locks: &Locks) -> bool {
        let mut table = locks.table();
        let probe = FileLock { start: 1, end: 1, ..lock(1, 1, LockType::Write) };
        assert_eq!(table.set("b", &probe), Attempt::Done);
        let waits = table.would_deadlock("a", &FileLock { start: 1, end: 1, ..lock(1, 1, LockType::Read) });
        assert_eq!(table.set("b", &FileLock { r#type: LockType::Unlock.into(), ..probe }), Attempt::Done);
        waits
    }

    #[tokio::test]
    async fn a_deadlock_is_refused_and_the_other_goes_on() {
        let locks = Arc::new(Locks::default());
        assert_eq!(locks.set("a", &lock(1, 1, LockType::Write), LONG).await, Ok(true));
        assert_eq!(locks.set("b", &lock(1, 0, LockType::Write), LONG).await, Ok(true));
        let waits = tokio::spawn({
            let locks = locks.clone();
            async move { locks.set("a", &lock(1, 0, LockType::Write), LONG).await }
        });
        loop {
            let waits_for_b = locks.table().would_deadlock("b", &lock(1, 1, LockType::Write));
            if waits_for_b {
                break;
            }
            tokio::task::yield_now().await;
        }
        let refused = locks.set("b", &lock(1, 1, LockType::Write), LONG).await.expect_err("refused");
        assert_eq!(refused.kind, ErrorKind::Deadlock);
        let unlock = lock(1, 0, LockType::Unlock);
        assert_eq!(locks.set("b", &unlock, Duration::ZERO).await, Ok(true));
        assert_eq!(waits.await.expect("no panic"), Ok(true));
    }

    #[tokio::test]
    async fn a_session_that_comes_back_has_its_locks_unless_another_took_them() {
        let locks = Locks::default();
        let both = [lock(1, 0, LockType::Write), lock(1, 1, LockType::Write)];
        assert_eq!(locks.set("b", &lock(5, 1, LockType::Write), Duration::ZERO).await, Ok(true));
        locks.replace("a", &both);
        assert_eq!(locks.set("b", &lock(5, 0, LockType::Read), Duration::ZERO).await, Ok(false));
        assert_eq!(locks.len(), 2);
        locks.replace("a", &[]);
        assert_eq!(locks.set("b", &lock(5, 0, LockType::Read), Duration::ZERO).await, Ok(true));
    }
}
