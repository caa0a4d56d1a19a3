//! Locks as calls see them: attempts that wait, for a lock or for a session that decides about the locks of a file.
//!
//! Locking: the mutex is held for moments, never together with another one nor across an await.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_proto::v1::{FileLock, GetLockResponse, LockDelegation, LockType, SetLockResponse};
use dfs_proto::{ErrorKind, RpcError};
use metrics::counter;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::context::seed;
use super::delegated_locks::{Away, DelegatedLocks, Recall};
use super::delegations::Asker;
use super::lock_table::{self, Attempt, WaitId};

/// How often a call that waits for delegated locks looks whether their holder has had all its time.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A look that comes so late: the process was stopped, and holders could not answer.
const STOPPED_MS: u64 = 5_000;

/// Locks in one return: as many as a file may have in both spaces.
const RETURNED_MAX: usize = 20_000;

/// Waiting attempts are woken in so many groups, by inode.
const GROUPS: u64 = 64;

/// The locks of all files.
#[derive(Debug)]
pub struct Locks {
    table: Mutex<DelegatedLocks>,
    /// Woken when locks of a group's files were dropped or returned.
    dropped: Vec<Notify>,
}

/// An attempt that waits; it ends with this.
struct Waiting<'a> {
    locks: &'a Locks,
    id: WaitId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.locks.table().table.end_wait(self.id);
    }
}

impl Default for Locks {
    fn default() -> Self {
        Self {
            table: Mutex::new(DelegatedLocks::new(seed())),
            dropped: (0..GROUPS).map(|_| Notify::new()).collect(),
        }
    }
}

impl Locks {
    fn table(&self) -> MutexGuard<'_, DelegatedLocks> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn group(&self, inode: u64) -> &Notify {
        &self.dropped[(inode % GROUPS) as usize]
    }

    /// Takes, changes or drops a lock; waits for those in the way for at most `patience`. Not granted: one still is. A
    /// caller that goes away while it waits may have got the lock in the same moment, and drops it to be sure. With `delegate`, the
    /// session gets the locks of the file delegated if it can have them. While another session has them, this waits
    /// for them, whatever `patience` says.
    pub async fn set(
        &self,
        asker: &Asker<'_>,
        session: &str,
        lock: &FileLock,
        patience: Duration,
        delegate: bool,
    ) -> Result<SetLockResponse, RpcError> {
        lock_table::check(lock).map_err(|e| refused(ErrorKind::InvalidArgument, lock, &e.to_string()))?;
        let deadline = Instant::now() + patience;
        let group = self.group(lock.inode);
        let mut waiting = None;
        loop {
            let dropped = group.notified();
            tokio::pin!(dropped);
            // From here on nothing is missed.
            dropped.as_mut().enable();
            let attempt = self.table().set(asker.soft.now_ms(), session, lock, delegate);
            match attempt {
                Ok((Attempt::Done, delegation)) => {
                    if lock.r#type() != LockType::Write {
                        group.notify_waiters();
                    }
                    if delegation != 0 {
                        counter!("dfs_lock_delegations_granted_total").increment(1);
                    }
                    return Ok(SetLockResponse { granted: true, delegation });
                }
                Ok((Attempt::Full, _)) => {
                    return Err(refused(ErrorKind::NoLocks, lock, "the lock table is full"));
                }
                Ok((Attempt::Blocked, _)) if Instant::now() >= deadline => {
                    return Ok(SetLockResponse::default());
                }
                Ok((Attempt::Blocked, _)) => {}
                Err(away) => {
                    self.wait_for_return(asker, lock.inode, &away).await;
                    continue;
                }
            }
            if waiting.is_none() {
                let mut locks = self.table();
                if locks.table.would_deadlock(session, lock) {
                    return Err(refused(ErrorKind::Deadlock, lock, "its holder waits for this owner"));
                }
                let Some(id) = locks.table.wait(session, lock) else { return Ok(SetLockResponse::default()) };
                drop(locks);
                waiting = Some(Waiting { locks: self, id });
            }
            // Woken or not, the next attempt tells.
            let _ = timeout_at(deadline, dropped).await;
        }
    }

    /// The lock in the way of `lock`.
    pub async fn get(
        &self,
        asker: &Asker<'_>,
        session: &str,
        lock: &FileLock,
    ) -> Result<GetLockResponse, RpcError> {
        lock_table::check(lock).map_err(|e| refused(ErrorKind::InvalidArgument, lock, &e.to_string()))?;
        let found = loop {
            let found = self.table().blocker(asker.soft.now_ms(), session, lock);
            match found {
                Ok(found) => break found,
                Err(away) => self.wait_for_return(asker, lock.inode, &away).await,
            }
        };
        let lock = found.map(|(found, same_session)| {
            // A process of another host means nothing to the caller.
            if same_session { found } else { FileLock { pid: 0, ..found } }
        });
        Ok(GetLockResponse { lock })
    }

    /// Waits until the locks of a file that were recalled are back, or their holder had its time.
    async fn wait_for_return(&self, asker: &Asker<'_>, inode: u64, away: &Away) {
        let patience_ms = {
            let sessions = asker.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(holder) = &away.holder {
                counter!("dfs_lock_delegations_recalled_total").increment(1);
                if let Some(events) = sessions.events(holder) {
                    events.notify_waiters();
                }
            }
            sessions.timeout_ms()
        };
        let mut looked = asker.soft.now_ms();
        loop {
            let returned = self.group(inode).notified();
            tokio::pin!(returned);
            returned.as_mut().enable();
            let now = asker.soft.now_ms();
            let gap = now.saturating_sub(looked);
            looked = now;
            let recall = {
                let mut locks = self.table();
                if gap > STOPPED_MS {
                    locks.postpone(gap);
                }
                locks.recall_stands(now, inode, patience_ms)
            };
            match recall {
                Recall::Awaited => {}
                Recall::Over => return,
                Recall::Overdue => {
                    tracing::warn!(inode, "delegated locks were not given back in time");
                    counter!("dfs_lock_delegations_revoked_total").increment(1);
                    self.group(inode).notify_waiters();
                    return;
                }
            }
            // Woken or not, the next look tells.
            let _ = timeout(LOOK_INTERVAL, returned).await;
        }
    }

    /// A session gives delegated locks back: `locks` are all that it has in the file.
    pub fn give_back(
        &self,
        asker: &Asker<'_>,
        session: &str,
        delegation: LockDelegation,
        locks: &[FileLock],
    ) -> Result<(), RpcError> {
        let subject = || format!("inode {}", delegation.inode);
        let fits = |lock: &FileLock| lock.inode == delegation.inode && lock_table::check(lock).is_ok();
        if locks.len() > RETURNED_MAX || !locks.iter().all(fits) {
            let reason = format!("at most {RETURNED_MAX} locks of the file");
            return Err(RpcError::new(ErrorKind::InvalidArgument, subject(), reason));
        }
        if !self.table().give_back(asker.soft.now_ms(), session, delegation, locks) {
            let reason = "its locks are not delegated under this number";
            return Err(RpcError::new(ErrorKind::NotFound, subject(), reason));
        }
        self.group(delegation.inode).notify_waiters();
        Ok(())
    }

    /// Delegated locks that are wanted back from a session, and whether it has not heard of some yet.
    pub fn take_recalled(&self, session: &str) -> (Vec<LockDelegation>, bool) {
        self.table().take_recalled(session)
    }

    /// Takes over the locks that a session says it has. One that another session has taken meanwhile stays there; sessions
    /// that have such locks delegated are asked first.
    pub async fn replace(&self, asker: &Asker<'_>, session: &str, locks: &[FileLock]) {
        let dropped = self.table().drop_session(session);
        self.wake(&dropped);
        for lock in locks.iter().filter(|lock| lock_table::check(lock).is_ok()) {
            let attempt = loop {
                let attempt = self.table().set(asker.soft.now_ms(), session, lock, false);
                match attempt {
                    Ok((attempt, _)) => break attempt,
                    Err(away) => self.wait_for_return(asker, lock.inode, &away).await,
                }
            };
            if attempt != Attempt::Done {
                tracing::warn!(session, inode = lock.inode, "a lock from before the restart is lost");
            }
        }
    }

    /// The session has the file open no longer.
    pub fn drop_file(&self, now_ms: u64, session: &str, inode: u64) {
        if self.table().drop_file(now_ms, session, inode) {
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

    /// Locks held, as far as they are known here.
    pub fn len(&self) -> usize {
        self.table().table.len()
    }

    /// Files whose locks are delegated.
    pub fn delegated(&self) -> usize {
        self.table().delegated()
    }
}

fn refused(kind: ErrorKind, lock: &FileLock, reason: &str) -> RpcError {
    RpcError::new(kind, format!("inode {}", lock.inode), reason)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::block_management::{BlockManagementConfig, BlockManager, LeaseConfig, LeaseManager};
    use crate::service::context::SoftState;
    use crate::service::session_table::SessionTable;

    const TIMEOUT_MS: u64 = 100;

    /// Locks, and what calls bring along.
    struct Place {
        locks: Locks,
        sessions: Mutex<SessionTable>,
        soft: SoftState,
    }

    impl Place {
        fn new() -> Arc<Self> {
            let leases = LeaseManager::new(LeaseConfig { soft_limit_ms: 60, hard_limit_ms: 200 });
            let soft = SoftState::new(BlockManager::new(BlockManagementConfig::default()), leases);
            let sessions = Mutex::new(SessionTable::new(TIMEOUT_MS));
            Arc::new(Self { locks: Locks::default(), sessions, soft })
        }

        fn asker(&self) -> Asker<'_> {
            Asker { sessions: &self.sessions, soft: &self.soft, client: None }
        }

        async fn set(&self, session: &str, lock: &FileLock, patience: Duration) -> Result<bool, RpcError> {
            let answer = self.locks.set(&self.asker(), session, lock, patience, false).await;
            answer.map(|answer| answer.granted)
        }

        async fn pid_of(&self, session: &str, lock: &FileLock) -> Option<u32> {
            let answer = self.locks.get(&self.asker(), session, lock).await.expect("asked");
            answer.lock.map(|lock| lock.pid)
        }
    }

    const LONG: Duration = Duration::from_secs(30);

    fn lock(owner: u64, start: u64, kind: LockType) -> FileLock {
        FileLock { inode: 7, owner, start, end: start, r#type: kind.into(), pid: 4, ..FileLock::default() }
    }

    #[tokio::test]
    async fn an_attempt_waits_until_the_lock_is_dropped_or_its_time_is_over() {
        let place = Place::new();
        assert_eq!(place.set("a", &lock(1, 0, LockType::Write), Duration::ZERO).await, Ok(true));
        assert_eq!(place.set("b", &lock(1, 0, LockType::Read), Duration::ZERO).await, Ok(false));
        assert_eq!(place.set("b", &lock(1, 0, LockType::Read), Duration::from_millis(5)).await, Ok(false));
        let waits = tokio::spawn({
            let place = place.clone();
            async move { place.set("b", &lock(1, 0, LockType::Read), LONG).await }
        });
        while !is_waiting(&place.locks) {
            tokio::task::yield_now().await;
        }
        place.locks.drop_session("a");
        assert_eq!(waits.await.expect("no panic"), Ok(true));
        assert_eq!(place.pid_of("b", &lock(2, 0, LockType::Write)).await, Some(4));
        assert_eq!(place.pid_of("a", &lock(2, 0, LockType::Write)).await, Some(0));
        place.locks.drop_file(0, "b", 7);
        assert_eq!(place.locks.len(), 0);
    }

    /// Whether somebody waits for byte 0: then a holder of what that one would need waits for it.
    fn is_waiting(locks: &Locks) -> bool {
        let table = &mut locks.table().table;
        let probe = FileLock { start: 1, end: 1, ..lock(1, 1, LockType::Write) };
        assert_eq!(table.set("b", &probe), Attempt::Done);
        let waits = table.would_deadlock("a", &FileLock { start: 1, end: 1, ..lock(1, 1, LockType::Read) });
        assert_eq!(table.set("b", &FileLock { r#type: LockType::Unlock.into(), ..probe }), Attempt::Done);
        waits
    }

    #[tokio::test]
    async fn a_deadlock_is_refused_and_the_other_goes_on() {
        let place = Place::new();
        assert_eq!(place.set("a", &lock(1, 1, LockType::Write), LONG).await, Ok(true));
        assert_eq!(place.set("b", &lock(1, 0, LockType::Write), LONG).await, Ok(true));
        let waits = tokio::spawn({
            let place = place.clone();
            async move { place.set("a", &lock(1, 0, LockType::Write), LONG).await }
        });
        loop {
            let waits_for_b = place.locks.table().table.would_deadlock("b", &lock(1, 1, LockType::Write));
            if waits_for_b {
                break;
            }
            tokio::task::yield_now().await;
        }
        let refused = place.set("b", &lock(1, 1, LockType::Write), LONG).await.expect_err("refused");
        assert_eq!(refused.kind, ErrorKind::Deadlock);
        let unlock = lock(1, 0, LockType::Unlock);
        assert_eq!(place.set("b", &unlock, Duration::ZERO).await, Ok(true));
        assert_eq!(waits.await.expect("no panic"), Ok(true));
    }

    #[tokio::test]
    async fn a_session_that_comes_back_has_its_locks_unless_another_took_them() {
        let place = Place::new();
        let both = [lock(1, 0, LockType::Write), lock(1, 1, LockType::Write)];
        assert_eq!(place.set("b", &lock(5, 1, LockType::Write), Duration::ZERO).await, Ok(true));
        place.locks.replace(&place.asker(), "a", &both).await;
        assert_eq!(place.set("b", &lock(5, 0, LockType::Read), Duration::ZERO).await, Ok(false));
        assert_eq!(place.locks.len(), 2);
        place.locks.replace(&place.asker(), "a", &[]).await;
        assert_eq!(place.set("b", &lock(5, 0, LockType::Read), Duration::ZERO).await, Ok(true));
    }

    #[tokio::test]
    async fn delegated_locks_are_waited_for_even_by_who_does_not_wait() {
        let place = Place::new();
        let wanted = lock(1, 0, LockType::Write);
        let first = place.locks.set(&place.asker(), "a", &wanted, Duration::ZERO, true).await;
        let number = first.expect("granted").delegation;
        let asks = tokio::spawn({
            let place = place.clone();
            async move { place.set("b", &wanted, Duration::ZERO).await }
        });
        let recalled = loop {
            match place.locks.take_recalled("a") {
                (recalled, true) => break recalled,
                (_, false) => tokio::task::yield_now().await,
            }
        };
        assert_eq!(recalled, [LockDelegation { inode: 7, number }]);
        let strange = FileLock { inode: 8, ..wanted };
        let refused = place.locks.give_back(&place.asker(), "a", recalled[0], &[strange]);
        assert_eq!(refused.map_err(|error| error.kind), Err(ErrorKind::InvalidArgument));
        assert_eq!(place.locks.give_back(&place.asker(), "a", recalled[0], &[wanted]), Ok(()));
        assert_eq!(asks.await.expect("no panic"), Ok(false), "its holder has it");
        let again = place.locks.give_back(&place.asker(), "a", recalled[0], &[]);
        assert_eq!(again.map_err(|error| error.kind), Err(ErrorKind::NotFound));
        assert_eq!(place.locks.len(), 1);
    }

    #[tokio::test]
    async fn a_holder_that_does_not_answer_has_its_time() {
        let place = Place::new();
        let wanted = lock(1, 0, LockType::Write);
        let first = place.locks.set(&place.asker(), "a", &wanted, Duration::ZERO, true).await;
        assert_ne!(first.expect("granted").delegation, 0);
        assert_eq!(place.pid_of("b", &wanted).await, None, "as with the end of its session");
        assert!(place.soft.now_ms() >= TIMEOUT_MS);
        assert_eq!(place.locks.delegated(), 0);
    }
}
