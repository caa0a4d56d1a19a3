//! Sessions as calls see them: keeping them alive, open files, recalls, and the end of a session.
//!
//! Locking: the session table's mutex is held for moments and never together with another one.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_proto::v1::{CallContext, KeepSessionRequest, KeepSessionResponse};
use dfs_proto::{ErrorKind, RpcError};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::context::{SoftState, client_id, seed};
use super::delegations::{Asker, Delegations};
use super::grace::Grace;
use super::locks::Locks;
use super::session_table::{Opening, SessionTable, SessionTableFull};

/// Longest time that KeepSession waits for events.
const KEEP_WAIT_MAX: Duration = Duration::from_secs(10);

/// Longest name of a session, as of any lease holder.
const NAME_BYTES_MAX: usize = 255;

/// Names of mounts' sessions begin so: after a restart of the namenode leases of such a holder are those of a session
/// that has to come back soon.
pub const NAME_PREFIX: &str = "mount-";

/// How long an opener waits to hear whether the file's last name is gone: a change takes milliseconds.
const GOING_PATIENCE: Duration = Duration::from_secs(10);

/// All sessions of a namenode.
#[derive(Debug)]
pub struct Sessions {
    table: Mutex<SessionTable>,
    /// Locks of files.
    pub locks: Locks,
    /// Directories that sessions have delegated.
    pub delegations: Delegations,
    /// Sessions from before the start that are waited for.
    pub grace: Grace,
    /// Woken when the removal of a name is decided.
    decided: Notify,
    /// Woken when a lease was given back.
    pub lease_released: Notify,
    /// Orphans that nobody has open. Bounded by the files that were open.
    unwanted: Mutex<Vec<u64>>,
    /// Woken when there are such.
    pub unwanted_added: Notify,
}

/// The removal of a name that is under way; see [`Sessions::unlinking`].
pub struct Unlinking<'a> {
    sessions: &'a Sessions,
    /// The inode that the name stands for.
    pub inode: u64,
    /// A session has the inode open.
    pub opened: bool,
}

impl Drop for Unlinking<'_> {
    fn drop(&mut self) {
        if !self.opened {
            self.sessions.table().unlinked(self.inode);
            self.sessions.decided.notify_waiters();
        }
    }
}

impl Sessions {
    /// No sessions; one that is silent for `timeout_ms` ends.
    pub fn new(timeout_ms: u64) -> Self {
        Self {
            table: Mutex::new(SessionTable::new(timeout_ms)),
            locks: Locks::default(),
            delegations: Delegations::default(),
            grace: Grace::default(),
            decided: Notify::new(),
            lease_released: Notify::new(),
            unwanted: Mutex::default(),
            unwanted_added: Notify::new(),
        }
    }

    fn table(&self) -> MutexGuard<'_, SessionTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sign of life of a session, which begins with it if need be.
    pub fn touch(&self, soft: &SoftState, name: &str) -> Result<u64, RpcError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
            let reason = "a name of 1 to 255 bytes is needed";
            return Err(RpcError::new(ErrorKind::InvalidArgument, "session", reason));
        }
        self.table().touch(soft.now_ms(), name, new_epoch()).map_err(|full| too_many(&full))
    }

    /// Keeps a session and its leases alive, and waits for events.
    pub async fn keep(
        &self,
        soft: &SoftState,
        request: KeepSessionRequest,
    ) -> Result<KeepSessionResponse, RpcError> {
        let name = request.session.as_str();
        let client = client_id(request.context.as_ref().unwrap_or(&CallContext::default()))?;
        let epoch = self.touch(soft, name)?;
        soft.leases().renew(soft.now_ms(), name);
        if request.full {
            let unwanted = self.table().replace_open(name, &request.open_inodes);
            self.free(unwanted.map_err(|full| too_many(&full))?);
            self.locks.replace(&self.asker(soft, None), name, &request.locks).await;
            self.grace.came_back(name, client);
        }
        if !request.queued {
            self.grace.carried_out(name);
        }
        let patience = Duration::from_millis(u64::from(request.wait_ms)).min(KEEP_WAIT_MAX);
        let deadline = Instant::now() + patience;
        let (recalled, recalled_directories, recalled_locks) = loop {
            let Some(events) = self.table().events(name) else { break Default::default() };
            let event = events.notified();
            tokio::pin!(event);
            event.as_mut().enable();
            let recalled = self.table().take_recalled(name);
            let (directories, untold) = self.delegations.take_recalled(name);
            let (locks, untold_locks) = self.locks.take_recalled(name);
            let is_told = untold || untold_locks || !recalled.is_empty() || request.epoch != epoch;
            if is_told || Instant::now() >= deadline {
                break (recalled, directories, locks);
            }
            // Woken or not, the next look tells.
            let _ = timeout_at(deadline, event).await;
        };
        let epoch = self.touch(soft, name)?;
        soft.leases().renew(soft.now_ms(), name);
        let timeout_ms = self.table().timeout_ms();
        Ok(KeepSessionResponse { epoch, recalled, timeout_ms, recalled_directories, recalled_locks })
    }

    /// The session has the file open. If its last name may be going at this moment, waits until that is decided.
    /// Answers whether it is new to the session.
    pub async fn open(&self, name: &str, inode: u64) -> Result<bool, RpcError> {
        let opening = self.table().open(name, inode).map_err(|full| too_many(&full))?;
        if opening != Opening::Going {
            return Ok(opening == Opening::New);
        }
        let deadline = Instant::now() + GOING_PATIENCE;
        loop {
            let decided = self.decided.notified();
            tokio::pin!(decided);
            decided.as_mut().enable();
            if !self.table().is_going(inode) {
                return Ok(true);
            }
            if timeout_at(deadline, decided).await.is_err() {
                let reason = "its name is being removed";
                return Err(RpcError::new(ErrorKind::Unavailable, format!("inode {inode}"), reason));
            }
        }
    }

    /// The session has opened these files by itself. A name of one that is going at this moment is not waited for: that was
    /// begun when the session could not open the file in this way.
    pub fn note_opens(&self, name: &str, inodes: &[u64]) -> Result<(), RpcError> {
        let mut table = self.table();
        for inode in inodes {
            table.open(name, *inode).map_err(|full| too_many(&full))?;
        }
        Ok(())
    }

    /// The session has these files open no longer; their locks go.
    pub fn release(&self, soft: &SoftState, name: &str, inodes: &[u64]) {
        for inode in inodes {
            self.locks.drop_file(soft.now_ms(), name, *inode);
        }
        let unwanted = self.table().close(name, inodes);
        self.free(unwanted);
    }

    /// The session is over: locks and open files are forgotten. Its leases are the caller's to recover. False if there
    /// was no such session.
    pub fn end(&self, name: &str) -> bool {
        let ended = self.table().end(name);
        self.grace.ended(name);
        // After the session: one that begins meanwhile gets nothing for it.
        self.delegations.end(name);
        let Some(unwanted) = ended else { return false };
        self.locks.drop_session(name);
        self.free(unwanted);
        self.lease_released.notify_waiters();
        true
    }

    /// Sessions that were silent for too long.
    pub fn expired(&self, now_ms: u64) -> Vec<std::sync::Arc<str>> {
        self.table().expired(now_ms)
    }

    /// Whether a session is alive.
    pub fn is_served(&self, name: &str) -> bool {
        self.table().epoch(name).is_some()
    }

    /// Whether a session is alive, and still the one with this epoch.
    pub fn is_alive(&self, name: &str, epoch: u64) -> bool {
        self.table().epoch(name) == Some(epoch)
    }

    /// A call by `client`, as delegations see it.
    pub fn asker<'a>(&'a self, soft: &'a SoftState, client: Option<&'a [u8]>) -> Asker<'a> {
        Asker { sessions: &self.table, soft, client }
    }

    /// Wants the lease of a file back from `name`. False if that is no session.
    pub fn recall(&self, name: &str, inode: u64) -> bool {
        self.table().recall(name, inode)
    }

    /// A name of the inode is about to be removed; the answer is to be kept until that is decided.
    pub fn unlinking(&self, inode: u64) -> Unlinking<'_> {
        Unlinking { sessions: self, inode, opened: self.table().unlinking(inode) }
    }

    /// The inode lost its last name and was kept for its openers.
    pub fn orphaned(&self, inode: u64) {
        if !self.table().orphaned(inode) {
            self.free(vec![inode]);
        }
    }

    /// What the namespace knows from before a start.
    pub fn expect(&self, now_ms: u64, sessions: &[String], orphans: &[u64]) {
        self.table().expect(now_ms, sessions, orphans, new_epoch());
        // One that is not served does not end.
        let served = sessions.iter().filter(|name| self.is_served(name));
        self.grace.begin(now_ms, served.cloned());
    }

    /// Frees the orphans whose openers did not come back after a restart.
    pub fn free_unclaimed(&self, now_ms: u64) {
        let unwanted = self.table().unclaimed_orphans(now_ms);
        self.free(unwanted);
    }

    fn free(&self, inodes: Vec<u64>) {
        if !inodes.is_empty() {
            self.unwanted.lock().unwrap_or_else(PoisonError::into_inner).extend(inodes);
            self.unwanted_added.notify_one();
        }
    }

    /// Takes at most `limit` orphans that nobody has open.
    pub fn take_unwanted(&self, limit: usize) -> Vec<u64> {
        let mut unwanted = self.unwanted.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = unwanted.len().saturating_sub(limit);
        unwanted.split_off(kept)
    }

    /// Puts back what [`Self::take_unwanted`] answered and could not be freed.
    pub fn put_back_unwanted(&self, inodes: Vec<u64>) {
        self.unwanted.lock().unwrap_or_else(PoisonError::into_inner).extend(inodes);
    }

    /// Sessions, files that they have open, and locks.
    pub fn counts(&self) -> (usize, usize, usize) {
        let (sessions, open_files) = self.table().counts();
        (sessions, open_files, self.locks.len())
    }
}

/// A session's epoch: never 0, and another one with every start of the namenode or the session.
fn new_epoch() -> u64 {
    seed() | 1
}

fn too_many(full: &SessionTableFull) -> RpcError {
    RpcError::new(ErrorKind::NoSpace, "session", full.to_string())
}
