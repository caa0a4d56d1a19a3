//! Locks of fcntl(2) and flock(2), which other mounts see.
//!
//! The namenode keeps them, and refuses to let two wait for each other; those of a file that this mount uses alone are decided about here. A
//! process that waits can be interrupted.

use std::sync::Arc;

use dfs_client::fs::{FileLock, InodeId, LOCK_END, LockSpace, LockType};
use fuser::{FileHandle, INodeNo, ReplyEmpty, ReplyLock};

use crate::caller::{Asker, Who};
use crate::errno::Refusal;
use crate::mount::Mount;

/// A lock as the kernel describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Of flock(2), not fcntl(2).
    pub flock: bool,
    /// Process or open file.
    pub owner: u64,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub kind: i32,
    /// Process, for people.
    pub pid: u32,
}

impl Wanted {
    /// Every lock of `owner`.
    fn none_of(owner: u64, flock: bool) -> Self {
        Self { flock, owner, start: 0, end: LOCK_END, kind: libc::F_UNLCK, pid: 0 }
    }

    fn lock(self, inode: InodeId) -> Result<FileLock, Refusal> {
        let kind = match self.kind {
            libc::F_RDLCK => LockType::Read,
            libc::F_WRLCK => LockType::Write,
            libc::F_UNLCK => LockType::Unlock,
            _ => return Err(Refusal::InvalidArgument),
        };
        let mut lock = FileLock {
            inode: inode.get(),
            owner: self.owner,
            start: self.start,
            end: self.end.min(LOCK_END),
            pid: self.pid,
            ..FileLock::default()
        };
        lock.set_type(kind);
        lock.set_space(if self.flock { LockSpace::Flock } else { LockSpace::Posix });
        Ok(lock)
    }
}

/// `setlk` and `setlkw`.
pub fn set(
    mount: &Arc<Mount>,
    who: Who,
    (ino, handle): (INodeNo, FileHandle),
    wanted: Wanted,
    wait: bool,
    reply: ReplyEmpty,
) {
    let lock = match mount.prepare(mount.inode(ino), handle, wanted) {
        Ok(lock) => lock,
        Err(refusal) => return Mount::refuse(reply, &refusal),
    };
    match mount.fs.set_lock_here(lock, wait) {
        Some(Ok(true)) => return reply.ok(),
        Some(Ok(false)) => return Mount::refuse(reply, &Refusal::Locked),
        // An error comes again.
        Some(Err(_)) | None => {}
    }
    let shared = mount.clone();
    let work = async move {
        let asker = Asker::new(who, &shared.owners);
        let granted = shared.fs.set_lock(asker.caller(), lock, wait).await?;
        if granted { Ok(()) } else { Err(Refusal::Locked) }
    };
    mount.answer(who, reply, work, |reply, ()| reply.ok());
}

/// `getlk`.
pub fn get(mount: &Arc<Mount>, who: Who, ino: INodeNo, wanted: Wanted, reply: ReplyLock) {
    let (inode, shared) = (mount.inode(ino), mount.clone());
    let work = async move {
        let asker = Asker::new(who, &shared.owners);
        Ok(shared.fs.get_lock(asker.caller(), wanted.lock(inode)?).await?)
    };
    mount.answer(who, reply, work, |reply, found| match found {
        None => reply.locked(0, 0, libc::F_UNLCK, 0),
        Some(lock) => {
            let kind = match lock.r#type() {
                LockType::Read => libc::F_RDLCK,
                LockType::Write => libc::F_WRLCK,
                LockType::Unlock => libc::F_UNLCK,
            };
            reply.locked(lock.start, lock.end, kind, lock.pid);
        }
    });
}

impl Mount {
    /// Before a lock is set: closing the file must drop it.
    fn prepare(&self, inode: InodeId, handle: FileHandle, wanted: Wanted) -> Result<FileLock, Refusal> {
        let lock = wanted.lock(inode)?;
        if !wanted.flock && wanted.kind != libc::F_UNLCK {
            self.locks.taking(inode, wanted.owner);
            self.files.get(handle)?.locking(wanted.owner);
        }
        Ok(lock)
    }

    /// Drops all locks of `owner` in a file.
    pub async fn unlock_all(&self, who: Who, inode: InodeId, owner: u64, flock: bool) -> Result<(), Refusal> {
        let asker = Asker::new(who, &self.owners);
        let none = Wanted::none_of(owner, flock).lock(inode)?;
        self.fs.set_lock(asker.caller(), none, false).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_end_is_the_clusters() {
        let wanted = Wanted { flock: false, owner: 7, start: 5, end: u64::MAX, kind: libc::F_WRLCK, pid: 9 };
        let lock = wanted.lock(InodeId(3)).unwrap();
        assert_eq!((lock.start, lock.end, lock.r#type()), (5, LOCK_END, LockType::Write));
        assert_eq!((lock.inode, lock.owner, lock.space()), (3, 7, LockSpace::Posix));
        assert!(Wanted { kind: 99, ..wanted }.lock(InodeId(3)).is_err());
        assert_eq!(Wanted::none_of(7, true).lock(InodeId(3)).unwrap().space(), LockSpace::Flock);
    }
}
