//! Giving delegated locks back.
//!
//! In the background, each file once at a time; callers about its locks wait meanwhile. If the namenode knows nothing of the delegation
//! (it was started anew, or has not waited any longer), the locks are set again one by one.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use dfs_proto::v1::{LockDelegation, ReturnLocksRequest};
use dfs_proto::{ErrorKind, InodeId};

use super::file_system::FsInner;
use super::subject::Subject;

/// Pause before locks are given back again, when that failed although it was retried.
const RETURN_PAUSE: Duration = Duration::from_secs(1);

impl FsInner {
    /// Gives locks back; from now on nothing is answered from them ([`super::lock_delegations`] says so).
    pub(super) fn return_locks(self: &Arc<Self>, delegation: LockDelegation) {
        self.spawn(give_back(Arc::downgrade(self), delegation));
    }

    /// Somebody else wants locks back.
    pub(super) fn locks_recalled(self: &Arc<Self>, delegations: &[LockDelegation]) {
        let at = Instant::now();
        for delegation in delegations {
            if self.locks.lock().delegations.recalled(*delegation, at) {
                self.return_locks(*delegation);
            }
        }
    }

    /// Sets all locks of a file again.
    async fn set_locks_again(&self, inode: u64) {
        let locks = self.locks.lock().table.of_file(inode);
        for lock in locks {
            match self.set_lock_call(self.set_lock_request(self.own_context(), lock, 0)).await {
                Ok(answer) if answer.granted => {}
                Ok(_) => tracing::warn!(inode, "a lock is lost: another session has taken it"),
                Err(error) => tracing::warn!(inode, %error, "a lock is lost"),
            }
        }
    }
}

async fn give_back(fs: Weak<FsInner>, delegation: LockDelegation) {
    let inode = delegation.inode;
    loop {
        let Some(fs) = fs.upgrade() else { return };
        fs.locks.when(|shared| shared.delegations.is_quiet(inode).then_some(())).await;
        fs.files.not_registering().await;
        let request = ReturnLocksRequest {
            context: fs.own_context(),
            session: fs.session().to_owned(),
            delegation: Some(delegation),
            locks: fs.locks.lock().table.of_file(inode),
        };
        let (namenode, subject) = (&fs.client.namenode, Subject::Inode(InodeId(inode)));
        let call = namenode.call_files(&subject, request, |mut s, r| async move { s.return_locks(r).await });
        match call.await {
            Ok(_) => {}
            Err(error) if error.kind().is_retriable() => {
                drop(fs);
                tokio::time::sleep(RETURN_PAUSE).await;
                continue;
            }
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::warn!(inode, %error, "locks could not be given back");
                }
                fs.set_locks_again(inode).await;
            }
        }
        fs.locks.lock().delegations.returned(inode);
        fs.locks.progressed();
        return;
    }
}
