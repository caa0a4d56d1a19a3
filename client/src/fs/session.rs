//! Keeps the session alive and hears what concerns it.
//!
//! One background task: it asks the namenode in long polls. When the namenode has forgotten the session (it was started
//! anew), everything that the session has is registered again. A lease that another client wants is given back by
//! the file once it is idle.

use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use dfs_proto::v1::{self, KeepSessionRequest, KeepSessionResponse};
use dfs_proto::{ErrorKind, InodeId};

use super::file_calls::Safety;
use super::file_system::FsInner;
use super::lock_delegations::lives_until;
use crate::DfsError;
use crate::namenode::FilesStub;
use crate::retry::RetryPolicy;

/// How long one poll waits at the namenode, in milliseconds: two of them take less time than directories are believed that are delegated for
/// reading (4 s). A thousand idle mounts cost the namenode some 700 calls a second.
const MAX_POLL_MS: u64 = 1_500;

/// A poll waits for at most this part of the time after which a silent session ends.
const POLLS_PER_TIMEOUT: u64 = 3;

/// Longest pause between two attempts of a poll: while a namenode that was started anew has not heard of this session, others wait for it.
const MAX_POLL_RETRY_DELAY: Duration = Duration::from_millis(500);

/// Pause after a poll that failed although it was retried.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(500);

/// Pause after directories or locks were wanted back, which is told again until they are given back.
const PAUSE_AFTER_RECALL: Duration = Duration::from_millis(5);

/// Keeps the session alive from its first answer on until it ends.
pub(super) async fn keep(fs: Weak<FsInner>, started: KeepSessionResponse) {
    let KeepSessionResponse { mut epoch, mut timeout_ms, .. } = started;
    let mut failing = false;
    loop {
        // The session must be able to end while this waits.
        let Some(poll) = fs.upgrade().map(|fs| fs.poll(epoch, timeout_ms)) else { return };
        let answer = poll.await;
        let Some(fs) = fs.upgrade() else { return };
        match answer {
            Ok((answer, sent)) => {
                failing = false;
                timeout_ms = answer.timeout_ms;
                for dir in &answer.recalled_directories {
                    fs.directory_recalled(*dir);
                }
                if answer.epoch == epoch {
                    fs.locks_recalled(&answer.recalled_locks);
                    fs.lives_since(sent, timeout_ms);
                } else {
                    // What was delegated before is not any longer.
                    fs.epoch_is(answer.epoch);
                    match fs.register().await {
                        Ok(registered) => {
                            epoch = registered.epoch;
                            fs.epoch_is(epoch);
                            fs.check_told();
                        }
                        Err(error) => {
                            tracing::warn!(session = fs.session(), %error, "could not register again");
                            tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                        }
                    }
                }
                for inode in answer.recalled {
                    fs.recalled(InodeId(inode));
                }
                fs.tell_opens_soon();
                if !answer.recalled_directories.is_empty() || !answer.recalled_locks.is_empty() {
                    drop(fs);
                    tokio::time::sleep(PAUSE_AFTER_RECALL).await;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(session = fs.session(), %error, "the session cannot be kept alive");
                }
                drop(fs);
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}

impl FsInner {
    /// Starts the session, or registers everything it has at a namenode that does not know it.
    pub(super) async fn register(&self) -> Result<KeepSessionResponse, DfsError> {
        let mut registration = self.files.register();
        let sent = Instant::now();
        let request = KeepSessionRequest {
            context: self.own_context(),
            session: self.session().to_owned(),
            epoch: 0,
            open_inodes: std::mem::take(&mut registration.inodes),
            full: true,
            // A lock that is granted from now on is not among them: who asked for it asks again.
            locks: self.locks.lock().register(),
            wait_ms: 0,
            queued: self.has_queued(),
        };
        let namenode = &self.client.namenode;
        let call = namenode.call_files("", request, |mut s, r| async move { s.keep_session(r).await });
        let answer = call.await?;
        registration.done();
        self.lives_since(sent, answer.timeout_ms);
        Ok(answer)
    }

    /// Has the namenode told how far the files are that are being written here: a log that lost its end does not say so any more.
    pub(super) fn tell_again(&self) {
        for file in self.files.all() {
            let core = Arc::clone(file.core());
            if core.forget_told() {
                self.spawn(async move {
                    if let Err(error) = core.commit(false).await {
                        core.failed(error);
                    }
                });
            }
        }
    }

    /// The namenode answered a call that was sent then, and knows the session.
    fn lives_since(&self, sent: Instant, timeout_ms: u64) {
        let timeout = Duration::from_millis(timeout_ms);
        self.locks.lock().delegations.lives_since(sent, timeout);
        self.lives_until(sent, lives_until(sent, timeout));
    }

    /// Waits for events. Answers when the namenode was asked, too.
    fn poll(
        self: &Arc<Self>,
        epoch: u64,
        timeout_ms: u64,
    ) -> impl Future<Output = Result<(KeepSessionResponse, Instant), DfsError>> + use<> {
        let (client, fs) = (Arc::clone(&self.client), Arc::downgrade(self));
        let request = KeepSessionRequest {
            context: self.own_context(),
            session: self.session().to_owned(),
            epoch,
            wait_ms: (timeout_ms / POLLS_PER_TIMEOUT).min(MAX_POLL_MS) as u32,
            queued: self.has_queued(),
            ..Default::default()
        };
        async move {
            let attempt = |mut stub: FilesStub, request| {
                let fs = fs.clone();
                async move {
                    let sent = Instant::now();
                    match stub.keep_session(request).await {
                        Ok(answer) => Ok(answer.map(|answer| (answer, sent))),
                        Err(status) => {
                            // It is tried again, but the namenode may have been started anew.
                            if let Some(fs) = fs.upgrade() {
                                fs.locks.lock().delegations.doubt();
                                fs.doubt();
                            }
                            Err(status)
                        }
                    }
                }
            };
            let policy = RetryPolicy { max_delay: MAX_POLL_RETRY_DELAY, ..RetryPolicy::default() };
            client.namenode.call_files_with(policy, "", request, attempt).await
        }
    }

    /// Another client wants the lease of a file.
    fn recalled(self: &Arc<Self>, inode: InodeId) {
        let first = self.recalling.lock().unwrap_or_else(PoisonError::into_inner).insert(inode.get());
        if !first {
            return;
        }
        let fs = Arc::clone(self);
        self.spawn(async move {
            match fs.files.get(inode) {
                Some(file) => file.recall().await,
                None => fs.give_back(inode).await,
            }
            fs.recalling.lock().unwrap_or_else(PoisonError::into_inner).remove(&inode.get());
        });
    }

    /// Gives back the lease of a file that nothing here writes.
    pub(super) async fn give_back(self: &Arc<Self>, inode: InodeId) {
        let _turn = self.files.lease_turn(inode).await;
        if self.files.get(inode).is_some_and(|file| file.is_writable()) {
            return;
        }
        let request = v1::CommitBlocksRequest { close: true, ..Default::default() };
        match self.commit_blocks(inode, request, Safety::Relaxed).await {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::LeaseExpired | ErrorKind::NotFound) => {}
            // The namenode has lost that its blocks were ended.
            Err(error) if error.kind() == ErrorKind::InvalidArgument => {
                tracing::warn!(%inode, %error, "a file that was closed is open again, to be recovered");
                if let Err(error) = self.recover_lease(inode).await {
                    tracing::warn!(%inode, %error, "the lease could not be given to recovery");
                }
            }
            Err(error) => tracing::warn!(%inode, %error, "a lease could not be given back"),
        }
    }
}
