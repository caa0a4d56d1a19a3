//! Delegated directories as calls see them: waiting until nobody else has what a call has to do with.
//!
//! What is delegated to a session alone is in the way of everybody else; what is delegated for reading, only of changes.
//! A directory is delegated in one of these ways at a time.
//!
//! Locking: the tables' mutex is held for moments, never together with another one nor across an await.
//!
//! While nobody has anything delegated alone, a read pays one atomic load for all this; while nothing is delegated at all, a change
//! a few.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dfs_proto::{ErrorKind, RpcError};
use metrics::{counter, histogram};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::context::SoftState;
use super::delegation_table::{ClientId, Granting};
use super::delegation_tables::{Purpose, Tables};
use super::session_table::SessionTable;
use super::status::rpc_error;
use super::touched::Touched;
use super::turnstile::{Turn, Turnstile};
use crate::namesystem::Snapshot;

/// Rounds of recalls of one call. A path has at most 1,000 names, and each round may reveal one more.
const ROUNDS_MAX: usize = 1_000;

/// How often a waiting call looks whether a holder has had all its time.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What a holder gets beside the time after which its session ends, in parts of that: until then the end of a session that is gone is noticed, and what it
/// wrote is recovered (`monitor.rs`). Only one that lives and keeps what it was asked for loses it by this.
const GONE_SHARE: u64 = 4;

/// A look that comes so late: the process was stopped, and holders could not answer.
const STOPPED_MS: u64 = 5_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Delegations {
    tables: Mutex<Tables>,
    /// Directories in the tables.
    held: AtomicUsize,
    /// Of these, those that one session has alone.
    held_alone: AtomicUsize,
    changes: Turnstile,
    /// Woken when a directory was given back.
    returned: Notify,
    /// Calls about subtrees that wait: meanwhile nothing new is delegated, or they would wait for ever.
    tree_calls: AtomicUsize,
}

/// Who asks, and where holders are told.
pub struct Asker<'a> {
    /// Sessions.
    pub sessions: &'a Mutex<SessionTable>,
    /// Clock.
    pub soft: &'a SoftState,
    /// Client id of the call; `None`: the namenode itself.
    pub client: Option<&'a [u8]>,
}

/// A delegation that is being given; dropped without [`Giving::keep`], it is withdrawn, or recalled if the session had it
/// before.
pub struct Giving<'a> {
    delegations: &'a Delegations,
    soft: &'a SoftState,
    session: &'a str,
    directory: u64,
    /// The session had it before.
    known: bool,
    kept: bool,
}

impl Giving<'_> {
    /// Nothing was in the way. False: meanwhile somebody wants the directory, and it is withdrawn.
    pub fn keep(mut self) -> bool {
        self.kept = self.delegations.tables().has(self.session, self.directory);
        self.kept
    }

    /// Whether it is for reading.
    pub fn is_shared(&self) -> bool {
        self.delegations.tables().shared.has(self.session, self.directory)
    }
}

impl Drop for Giving<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if self.known {
            // Told with the next answer: nobody waits.
            self.delegations.tables().recall_from(self.soft.now_ms(), self.directory, self.session);
        } else {
            self.delegations.give_back(self.soft, self.session, &[self.directory]);
        }
    }
}

/// A call about a subtree that waits.
struct TreeCall<'a>(&'a AtomicUsize);

impl<'a> TreeCall<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::SeqCst);
        Self(waiting)
    }
}

impl Drop for TreeCall<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Delegations {
    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delegated directories.
    pub fn len(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// Notes how many there are, and tells those who wait.
    fn changed(&self, tables: &Tables) {
        self.held.store(tables.len(), Ordering::SeqCst);
        self.held_alone.store(tables.alone.len(), Ordering::SeqCst);
        self.returned.notify_waiters();
    }

    /// Gives a directory to a session, alone or for reading. Everybody else is kept from it, or from changing it, from now on; what they
    /// began before is to be waited for with [`Self::drain`].
    pub fn give<'a>(
        &'a self,
        soft: &'a SoftState,
        session: &'a str,
        client: ClientId,
        (directory, shared): (u64, bool),
    ) -> Option<Giving<'a>> {
        if self.tree_calls.load(Ordering::SeqCst) > 0 {
            return None;
        }
        let granting = {
            let mut tables = self.tables();
            let granting = tables.grant(soft.now_ms(), (session, client), directory, shared);
            self.changed(&tables);
            granting
        };
        let known = match granting {
            Granting::New => false,
            Granting::Known => true,
            Granting::Refused => return None,
        };
        Some(Giving { delegations: self, soft, session, directory, known, kept: false })
    }

    /// Waits until the changes are over that began before this call. False: that took too long.
    pub async fn drain(&self) -> bool {
        self.changes.drain().await
    }

    /// Whether a session has a directory alone, and nobody wants it back.
    pub fn has_alone(&self, session: &str, directory: u64) -> bool {
        self.tables().alone.has(session, directory)
    }

    /// Whether nobody has anything alone, so that nothing is in the way of a look.
    pub fn are_all_shared(&self) -> bool {
        self.held_alone.load(Ordering::SeqCst) == 0
    }

    /// Whether one of these directories is delegated to somebody else alone.
    pub fn is_any_others(&self, client: Option<&[u8]>, directories: &[u64]) -> bool {
        let tables = self.tables();
        directories.iter().any(|directory| tables.is_others(client, *directory, Purpose::Look))
    }

    /// A session gives directories back.
    pub fn give_back(&self, soft: &SoftState, session: &str, directories: &[u64]) {
        let mut tables = self.tables();
        for directory in directories {
            tables.give_back(soft.now_ms(), session, *directory);
        }
        self.changed(&tables);
    }

    /// A directory is gone.
    pub fn forget(&self, soft: &SoftState, directory: u64) {
        if self.len() > 0 {
            let mut tables = self.tables();
            tables.alone.forget(soft.now_ms(), directory);
            tables.shared.forget(soft.now_ms(), directory);
            self.changed(&tables);
        }
    }

    /// A session has nothing any longer.
    pub fn end(&self, session: &str) {
        if self.len() > 0 {
            let mut tables = self.tables();
            let count = tables.alone.end(session).len() + tables.shared.end(session);
            self.changed(&tables);
            if count > 0 {
                tracing::info!(session, count, "delegated directories of a session that ended are free");
            }
        }
    }

    /// Directories that are wanted back from a session, and whether it has not heard of some yet.
    pub fn take_recalled(&self, session: &str) -> (Vec<u64>, bool) {
        if self.len() == 0 { (Vec::new(), false) } else { self.tables().take_recalled(session) }
    }

    /// Waits until nobody else has what a read has to do with.
    pub async fn settle(
        &self,
        asker: &Asker<'_>,
        touched: &Touched,
        snapshot: impl Fn() -> Result<Snapshot, RpcError>,
    ) -> Result<(), RpcError> {
        if self.are_all_shared() {
            return Ok(());
        }
        self.rounds(asker, Purpose::Look, std::slice::from_ref(touched), &snapshot, || ()).await
    }

    /// The same for changes, which begin with it: nothing that they have to do with is delegated until the answer is dropped.
    /// The namenode's own changes recall, but wait for nobody.
    pub async fn begin_changes(
        &self,
        asker: &Asker<'_>,
        touched: impl FnOnce() -> Vec<Touched>,
        snapshot: impl Fn() -> Result<Snapshot, RpcError>,
    ) -> Result<Turn<'_>, RpcError> {
        let turn = self.changes.enter();
        if self.len() == 0 {
            return Ok(turn);
        }
        drop(turn);
        self.rounds(asker, Purpose::Change, &touched(), &snapshot, || self.changes.enter()).await
    }

    /// Recalls what is in the way until nothing is. Answers what `enter` gave before the last look.
    async fn rounds<T>(
        &self,
        asker: &Asker<'_>,
        purpose: Purpose,
        touched: &[Touched],
        snapshot: &impl Fn() -> Result<Snapshot, RpcError>,
        enter: impl Fn() -> T,
    ) -> Result<T, RpcError> {
        let begun = Instant::now();
        let mut tree_call = None;
        for round in 0..ROUNDS_MAX {
            let entered = enter();
            let mut blockers = Vec::new();
            // Whoever a link is made by, its own delegations are in its way, too.
            let also_own = touched.iter().any(|touched| touched.also_own);
            let spared = asker.client.filter(|_| !also_own);
            if also_own || !self.tables().are_all_of(asker.client, purpose) {
                let snapshot = snapshot()?;
                for touched in touched {
                    let who = (asker.client, purpose);
                    let found = touched.blockers(&snapshot, who, || self.tables(), &mut blockers);
                    found.map_err(|e| rpc_error(&e))?;
                }
            }
            if blockers.is_empty() {
                if round > 0 {
                    histogram!("dfs_delegation_recall_seconds").record(begun.elapsed().as_secs_f64());
                }
                return Ok(entered);
            }
            self.recall(asker, spared, &blockers);
            if asker.client.is_none() {
                return Ok(entered);
            }
            drop(entered);
            if touched.iter().any(Touched::is_tree) {
                tree_call.get_or_insert_with(|| TreeCall::begin(&self.tree_calls));
            }
            self.wait_for(asker, spared, &blockers).await;
        }
        let reason = "other sessions go on having delegated what it needs";
        Err(RpcError::new(ErrorKind::Unavailable, "", reason))
    }

    /// Wants directories back from all but `spared`.
    fn recall(&self, asker: &Asker<'_>, spared: Option<&[u8]>, directories: &[u64]) {
        let now = asker.soft.now_ms();
        for directory in directories {
            let holders = self.tables().recall(now, *directory, spared);
            if holders.is_empty() {
                continue;
            }
            counter!("dfs_delegations_recalled_total").increment(holders.len() as u64);
            let sessions = asker.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            for holder in holders {
                if let Some(events) = sessions.events(&holder) {
                    events.notify_waiters();
                }
            }
        }
    }

    /// Waits until directories were given back by all but `spared`, or their holders had their time.
    async fn wait_for(&self, asker: &Asker<'_>, spared: Option<&[u8]>, directories: &[u64]) {
        let patience_ms = {
            let sessions = asker.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.timeout_ms() + sessions.timeout_ms() / GONE_SHARE
        };
        let mut looked = asker.soft.now_ms();
        loop {
            let returned = self.returned.notified();
            tokio::pin!(returned);
            returned.as_mut().enable();
            let now = asker.soft.now_ms();
            let gap = now.saturating_sub(looked);
            looked = now;
            let mut waits = false;
            {
                let mut tables = self.tables();
                if gap > STOPPED_MS {
                    // More than one of those who wait may say so; the holders get a little more time then.
                    tables.alone.postpone(gap);
                    tables.shared.postpone(gap);
                }
                for directory in directories {
                    let (revoked, awaited) = tables.revoke(now, *directory, patience_ms, spared);
                    waits |= awaited;
                    if revoked > 0 {
                        tracing::warn!(directory, "a delegated directory was not given back in time");
                        counter!("dfs_delegations_revoked_total").increment(revoked as u64);
                        self.changed(&tables);
                    }
                }
            }
            if !waits {
                return;
            }
            // Woken or not, the next look tells.
            let _ = timeout(LOOK_INTERVAL, returned).await;
        }
    }
}
