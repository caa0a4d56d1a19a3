//! Locks on ranges of files that other mounts see.
//!
//! The namenode decides, or this session where the locks of a file are delegated to it ([`LockDelegations`]); [`LockTable`] has all that
//! was granted. Waiting is done in portions at the namenode. When a call is given up, its present portion goes on in the
//! background; if the lock is granted then, what its owner holds in the range is set anew from the table.
//!
//! One mutex for all of it, never held across an await, and no other one is taken under it but that of the open files, for a look.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use dfs_proto::v1::{self, FileLock, LockSpace, LockType, SetLockResponse};
use dfs_proto::{ErrorKind, InodeId, RpcError};
use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::file_system::FsInner;
use super::lock_delegations::{LockDelegationCounts, LockDelegations, Next};
use super::lock_table::LockTable;
use super::subject::Subject;
use super::unbroken::unbroken;
use super::{Caller, FileSystem};
use crate::DfsError;

/// Last byte of a lock that reaches to the end of the file, whatever that is.
pub const LOCK_END: u64 = i64::MAX as u64;

/// How long one call waits at the namenode, in milliseconds: as long, a lock that was given up may stand in line.
const WAIT_MS: u32 = 2_000;

/// Ranges that one session may have locked: all of them must fit one message, with which a namenode
/// that was started anew learns them.
const MAX_SESSION_LOCKS: usize = 100_000;

/// Ranges in one space of a file: the namenode's own limit.
const MAX_FILE_LOCKS: usize = 10_000;

/// The session's locks.
#[derive(Default)]
pub(super) struct SessionLocks {
    shared: Mutex<SharedLocks>,
    /// A call about locks has ended, or locks were given back.
    progress: Notify,
}

/// What is under the mutex.
#[derive(Default)]
pub(super) struct SharedLocks {
    pub(super) table: LockTable,
    pub(super) delegations: LockDelegations,
}

/// How a lock is set.
enum Way {
    Here(Result<bool, DfsError>),
    Call(Calling),
}

/// A call that sets a lock is under way, until this is dropped.
struct Calling {
    fs: Arc<FsInner>,
    inode: u64,
    asks: bool,
}

impl Drop for Calling {
    fn drop(&mut self) {
        self.fs.locks.lock().delegations.ended(self.inode, self.asks);
        self.fs.locks.progress.notify_waiters();
    }
}

impl SessionLocks {
    /// Not to be held for long.
    pub(super) fn lock(&self) -> MutexGuard<'_, SharedLocks> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What calls wait for has happened.
    pub(super) fn progressed(&self) {
        self.progress.notify_waiters();
    }

    /// Waits until `look` finds something.
    pub(super) async fn when<T>(&self, mut look: impl FnMut(&mut SharedLocks) -> Option<T>) -> T {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if let Some(found) = look(&mut self.lock()) {
                return found;
            }
            progress.await;
        }
    }
}

impl SharedLocks {
    /// Sets a lock if that needs nobody else; nothing: the namenode, or something before it.
    fn set_here(&mut self, lock: &FileLock, wait: bool, at: Instant) -> Option<Result<bool, DfsError>> {
        let unlock = lock.r#type() == LockType::Unlock;
        if unlock && !self.table.overlaps(lock) {
            return Some(Ok(true));
        }
        if !unlock && self.table.len() >= MAX_SESSION_LOCKS {
            return Some(Err(too_many(lock, "too many in one session")));
        }
        if !self.delegations.has(lock.inode, at) {
            return None;
        }
        let free = self.table.blocker(lock).is_none();
        if !free && wait {
            return None;
        }
        // A new lock may split an old one: two more.
        if free && !unlock && self.table.len_beside(lock) + 2 > MAX_FILE_LOCKS {
            return Some(Err(too_many(lock, "too many in one file")));
        }
        if free {
            self.table.apply(lock);
        }
        self.delegations.answered();
        Some(Ok(free))
    }

    /// Files are open no longer: their locks go.
    pub(super) fn drop_files(&mut self, inodes: &[u64]) {
        self.table.drop_files(inodes);
        self.delegations.drop_files(inodes);
    }

    /// All locks, to be told to a namenode that does not know the session: nothing is delegated from now on.
    pub(super) fn register(&mut self) -> Vec<FileLock> {
        self.delegations.doubt();
        self.delegations.forget();
        self.table.all()
    }
}

impl FileSystem {
    /// Sets a lock as [`Self::set_lock`] does, if that can be answered at once: the locks of the file are delegated to this session, or
    /// there is nothing to be unlocked.
    pub fn set_lock_here(&self, lock: FileLock, wait: bool) -> Option<Result<bool, DfsError>> {
        self.inner().locks.lock().set_here(&normalised(lock), wait, Instant::now())
    }

    /// Takes, changes or drops a lock. False: another owner's is in the way. With `wait`, waits until it is granted;
    /// dropping the future gives up.
    pub async fn set_lock(&self, caller: &Caller, lock: FileLock, wait: bool) -> Result<bool, DfsError> {
        let fs = self.inner();
        let lock = normalised(lock);
        if let Some(answer) = self.set_lock_here(lock, wait) {
            return answer;
        }
        fs.settled(&[InodeId(lock.inode)]).await?;
        loop {
            let calling = match fs.way_to_set(&lock, wait).await? {
                Way::Here(answer) => return answer,
                Way::Call(calling) => calling,
            };
            let asks = calling.asks;
            // Who asks keeps others of this session waiting, perhaps the one that it would wait for.
            let waits = wait && !asks && lock.r#type() != LockType::Unlock;
            let registrations = fs.files.not_registering().await;
            let request = v1::SetLockRequest {
                delegate: asks,
                ..fs.set_lock_request(self.context(caller), lock, if waits { WAIT_MS } else { 0 })
            };
            let sending = Arc::clone(fs);
            let call = async move { (sending.set_lock_call(request).await, calling) };
            let undo = move |(answer, calling): (Result<SetLockResponse, DfsError>, Calling)| async move {
                calling.undo(lock, &answer).await;
            };
            let (answer, calling) = unbroken(fs, call, undo).await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    let unknown = Err(error.clone());
                    fs.spawn(async move { calling.undo(lock, &unknown).await });
                    return Err(error);
                }
            };
            if answer.granted && fs.take_over(&lock, registrations, answer.delegation)
                || !answer.granted && !wait
            {
                return Ok(answer.granted);
            }
        }
    }

    /// The lock that would be in the way of `lock`, if there is one; its pid is 0 if it belongs to another session.
    pub async fn get_lock(&self, caller: &Caller, lock: FileLock) -> Result<Option<FileLock>, DfsError> {
        let (fs, lock) = (self.inner(), normalised(lock));
        fs.settled(&[InodeId(lock.inode)]).await?;
        let look = |shared: &mut SharedLocks| match shared.delegations.get(lock.inode, Instant::now()) {
            Next::Here => {
                shared.delegations.answered();
                Some(Some(shared.table.blocker(&lock)))
            }
            Next::Call { .. } => Some(None),
            Next::Wait => None,
            Next::Return(delegation) => {
                fs.return_locks(delegation);
                None
            }
        };
        if let Some(answer) = fs.when_locks(&lock, look).await? {
            return Ok(answer);
        }
        let request = v1::GetLockRequest {
            context: self.context(caller),
            session: fs.session().to_owned(),
            lock: Some(lock),
        };
        let subject = Subject::Inode(InodeId(lock.inode));
        let send =
            self.namenode().call_files(&subject, request, |mut s, r| async move { s.get_lock(r).await });
        Ok(send.await?.lock)
    }

    /// What is delegated to the session of locks.
    pub fn lock_delegation_counts(&self) -> LockDelegationCounts {
        self.inner().locks.lock().delegations.counts()
    }
}

impl FsInner {
    /// Waits, no longer than the session's patience, until `look` finds something.
    async fn when_locks<T>(
        &self,
        lock: &FileLock,
        look: impl FnMut(&mut SharedLocks) -> Option<T>,
    ) -> Result<T, DfsError> {
        let deadline = tokio::time::Instant::now() + self.wait;
        timeout_at(deadline, self.locks.when(look)).await.map_err(|_| {
            let error = RpcError::new(ErrorKind::Unavailable, "", "its locks cannot be given back");
            DfsError::refused(&Subject::Inode(InodeId(lock.inode)).to_string(), error)
        })
    }

    /// Sets a lock here, or says that the namenode is to be called.
    async fn way_to_set(self: &Arc<Self>, lock: &FileLock, wait: bool) -> Result<Way, DfsError> {
        let look = |shared: &mut SharedLocks| {
            let at = Instant::now();
            if let Some(answer) = shared.set_here(lock, wait, at) {
                return Some(Way::Here(answer));
            }
            match shared.delegations.set(lock.inode, at) {
                Next::Call { asks } => {
                    Some(Way::Call(Calling { fs: Arc::clone(self), inode: lock.inode, asks }))
                }
                Next::Return(delegation) => {
                    self.return_locks(delegation);
                    None
                }
                Next::Here | Next::Wait => None,
            }
        };
        self.when_locks(lock, look).await
    }

    /// A lock was granted. False: the namenode was started anew meanwhile, and may have forgotten it.
    fn take_over(self: &Arc<Self>, lock: &FileLock, registrations: u64, number: u64) -> bool {
        let mut shared = self.locks.lock();
        if self.files.registrations() != registrations {
            return false;
        }
        shared.table.apply(lock);
        if let Some(wanted) = shared.delegations.granted(lock.inode, number, Instant::now()) {
            self.return_locks(wanted);
        }
        true
    }

    pub(super) fn set_lock_request(
        &self,
        context: Option<v1::CallContext>,
        lock: FileLock,
        wait_ms: u32,
    ) -> v1::SetLockRequest {
        let session = self.session().to_owned();
        v1::SetLockRequest { context, session, lock: Some(lock), wait_ms, delegate: false }
    }

    pub(super) async fn set_lock_call(
        &self,
        request: v1::SetLockRequest,
    ) -> Result<SetLockResponse, DfsError> {
        let inode = request.lock.map_or(0, |lock| lock.inode);
        // The release drops what was not unlocked.
        self.files.used(InodeId(inode));
        let subject = Subject::Inode(InodeId(inode));
        let namenode = &self.client.namenode;
        namenode.call_files(&subject, request, |mut s, r| async move { s.set_lock(r).await }).await
    }
}

impl Calling {
    /// The answer was not heard: makes the namenode agree with the table about the range of `lock`, if it may not.
    async fn undo(self, lock: FileLock, answer: &Result<SetLockResponse, DfsError>) {
        let fs = &self.fs;
        match answer {
            Ok(SetLockResponse { delegation: 0, granted: true }) => {}
            Ok(SetLockResponse { granted: false, .. }) => return,
            Ok(SetLockResponse { delegation, granted: true }) => {
                // What is given back replaces everything there.
                fs.locks.lock().delegations.abandoned(lock.inode, Instant::now());
                fs.return_locks(v1::LockDelegation { inode: lock.inode, number: *delegation });
                return;
            }
            // A refusal changes nothing, but without an answer it is not known.
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            Err(_) => return,
        }
        fs.files.not_registering().await;
        let pieces = fs.locks.lock().table.state_of(&lock);
        for piece in pieces {
            let request = fs.set_lock_request(fs.own_context(), piece, 0);
            if let Err(error) = fs.set_lock_call(request).await {
                tracing::warn!(inode = lock.inode, %error, "an abandoned lock could not be settled");
            }
        }
    }
}

fn too_many(lock: &FileLock, reason: &str) -> DfsError {
    let error = RpcError::new(ErrorKind::NoLocks, "", reason);
    DfsError::refused(&Subject::Inode(InodeId(lock.inode)).to_string(), error)
}

/// flock has no ranges: its locks cover the file.
fn normalised(lock: FileLock) -> FileLock {
    match lock.space() {
        LockSpace::Posix => lock,
        LockSpace::Flock => FileLock { start: 0, end: LOCK_END, ..lock },
    }
}
