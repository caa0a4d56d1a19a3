//! Locks on ranges of files that other mounts see.
//!
//! The namenode decides; [`LockTable`] is a copy of what it has granted to this session. Waiting is done in
//! portions at the namenode. When a call is given up, its present portion goes on in the background; if the lock is granted then, what
//! its owner holds in the range is set anew from the copy.

use std::sync::{Arc, PoisonError};

use dfs_proto::v1::{self, FileLock, LockSpace, LockType};
use dfs_proto::{ErrorKind, InodeId, RpcError};

use super::file_system::FsInner;
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

impl FileSystem {
    /// Takes, changes or drops a lock. False: another owner's is in the way. With `wait`, waits until it is granted;
    /// dropping the future gives up.
    pub async fn set_lock(&self, caller: &Caller, lock: FileLock, wait: bool) -> Result<bool, DfsError> {
        let fs = self.inner();
        let lock = normalised(lock);
        let unlock = lock.r#type() == LockType::Unlock;
        {
            let held = fs.locks();
            if unlock && !held.overlaps(&lock) {
                return Ok(true);
            }
            if !unlock && held.len() >= MAX_SESSION_LOCKS {
                let error = RpcError::new(ErrorKind::NoLocks, "", "too many in one session");
                return Err(DfsError::refused(&Subject::Inode(InodeId(lock.inode)).to_string(), error));
            }
        }
        fs.settled(&[InodeId(lock.inode)]).await?;
        let granted = loop {
            let wait_ms = if wait && !unlock { WAIT_MS } else { 0 };
            let registrations = fs.files.not_registering().await;
            let request = fs.set_lock_request(self.context(caller), lock, wait_ms);
            let (calling, undoing) = (Arc::clone(fs), Arc::clone(fs));
            let call = async move { calling.set_lock_call(request).await };
            let undo = move |answer: Result<bool, DfsError>| async move {
                if may_be_granted(&answer) {
                    undoing.settle_lock(lock).await;
                }
            };
            let answer = unbroken(fs, call, undo).await;
            if answer.is_err() && may_be_granted(&answer) {
                let undoing = Arc::clone(fs);
                fs.spawn(async move { undoing.settle_lock(lock).await });
            }
            let granted = answer?;
            if granted {
                let mut held = fs.locks();
                if fs.files.registrations() != registrations {
                    // The namenode was started anew meanwhile, and may have forgotten this one.
                    continue;
                }
                held.apply(&lock);
            }
            if granted || !wait {
                break granted;
            }
        };
        Ok(granted)
    }

    /// The lock that would be in the way of `lock`, if there is one; its pid is 0 if it belongs to another session.
    pub async fn get_lock(&self, caller: &Caller, lock: FileLock) -> Result<Option<FileLock>, DfsError> {
        let lock = normalised(lock);
        self.inner().settled(&[InodeId(lock.inode)]).await?;
        let request = v1::GetLockRequest {
            context: self.context(caller),
            session: self.inner().session().to_owned(),
            lock: Some(lock),
        };
        let subject = Subject::Inode(InodeId(lock.inode));
        let send =
            self.namenode().call_files(&subject, request, |mut s, r| async move { s.get_lock(r).await });
        Ok(send.await?.lock)
    }
}

impl FsInner {
    /// The locks that are held.
    pub(super) fn locks(&self) -> std::sync::MutexGuard<'_, LockTable> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_lock_request(
        &self,
        context: Option<v1::CallContext>,
        lock: FileLock,
        wait_ms: u32,
    ) -> v1::SetLockRequest {
        v1::SetLockRequest { context, session: self.session().to_owned(), lock: Some(lock), wait_ms }
    }

    async fn set_lock_call(&self, request: v1::SetLockRequest) -> Result<bool, DfsError> {
        let inode = request.lock.map_or(0, |lock| lock.inode);
        let subject = Subject::Inode(InodeId(inode));
        let send =
            self.client.namenode.call_files(&subject, request, |mut s, r| async move { s.set_lock(r).await });
        Ok(send.await?.granted)
    }

    /// Makes the namenode agree with the copy about the range of `lock`.
    async fn settle_lock(&self, lock: FileLock) {
        self.files.not_registering().await;
        let pieces = self.locks().state_of(&lock);
        for piece in pieces {
            let request = self.set_lock_request(self.own_context(), piece, 0);
            if let Err(error) = self.set_lock_call(request).await {
                tracing::warn!(inode = lock.inode, %error, "an abandoned lock could not be settled");
            }
        }
    }
}

/// Whether the lock may have been granted. A refusal changes nothing, but without an answer it is not known.
fn may_be_granted(answer: &Result<bool, DfsError>) -> bool {
    match answer {
        Ok(granted) => *granted,
        Err(error) => error.kind() == ErrorKind::Unavailable,
    }
}

/// flock has no ranges: its locks cover the file.
fn normalised(lock: FileLock) -> FileLock {
    match lock.space() {
        LockSpace::Posix => lock,
        LockSpace::Flock => FileLock { start: 0, end: LOCK_END, ..lock },
    }
}
