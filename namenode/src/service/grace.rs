//! The grace period after a start, in which sessions from before it come back.
//!
//! With a restart the namenode forgets what sessions had delegated, and their locks. A session that comes back tells its locks, and sends
//! the changes that it had answered and that were not carried out yet. Nobody else is to see the namespace without these, nor to get a
//! lock that is held: calls about the namespace wait until every other such session has said that its changes are carried out, or
//! for [`GRACE_MS`]; calls about locks until every other one has told its locks, or has ended.
//!
//! Which sessions those are, the log knows: holders of leases and of reserved inode numbers. Who gets locks or a directory has some reserved.
//!
//! Locking: the mutex is held for moments, never together with another one nor across an await.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::context::SoftState;
use super::delegation_table::ClientId;

/// How long calls about the namespace wait for sessions that do not come back: one that lives notices a restart within two polls (3 s), and
/// what is dead cannot be told from what is cut off.
const GRACE_MS: u64 = 5_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Grace {
    awaited: Mutex<Awaited>,
    /// Sessions in it: read without the lock once they are all back.
    left: AtomicUsize,
    /// Woken when a session came back, or ended.
    changed: Notify,
}

/// Sessions that are waited for.
#[derive(Debug, Default)]
struct Awaited {
    /// With its client once it has told its locks, as long as it has not said that its changes are carried out.
    sessions: HashMap<String, Option<ClientId>>,
    /// Until when calls about the namespace wait.
    until_ms: u64,
}

impl Awaited {
    /// For how long, at most, a call of `client` about the namespace has to wait now.
    fn left_ms(&self, now_ms: u64, client: &[u8]) -> Option<u64> {
        let others = self.sessions.values().any(|awaited| awaited.is_none_or(|back| back != client));
        self.until_ms.checked_sub(now_ms).filter(|left| *left > 0 && others)
    }

    /// Whether a session has to wait for the locks of another one.
    fn misses_locks(&self, session: &str) -> bool {
        self.sessions.iter().any(|(name, back)| back.is_none() && name != session)
    }
}

impl Grace {
    fn awaited(&self) -> MutexGuard<'_, Awaited> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The namenode starts, and these sessions are from before.
    pub fn begin(&self, now_ms: u64, sessions: impl Iterator<Item = String>) {
        let mut awaited = self.awaited();
        awaited.until_ms = now_ms.saturating_add(GRACE_MS);
        awaited.sessions = sessions.map(|name| (name, None)).collect();
        let count = awaited.sessions.len();
        self.left.store(count, Ordering::SeqCst);
        if count > 0 {
            tracing::info!(count, "sessions from before the start are waited for");
        }
    }

    /// Whether nobody is waited for.
    fn is_over(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    /// A session has told all its locks.
    pub fn came_back(&self, session: &str, client: ClientId) {
        if self.is_over() {
            return;
        }
        if let Some(back) = self.awaited().sessions.get_mut(session) {
            *back = Some(client);
        }
        self.changed.notify_waiters();
    }

    /// What a session had answered before the start is carried out. Of one that has not come back yet this says nothing.
    pub fn carried_out(&self, session: &str) {
        if !self.is_over() && self.awaited().sessions.get(session).is_some_and(Option::is_some) {
            self.ended(session);
        }
    }

    /// A session is over.
    pub fn ended(&self, session: &str) {
        if self.is_over() {
            return;
        }
        let mut awaited = self.awaited();
        if awaited.sessions.remove(session).is_some() {
            self.left.store(awaited.sessions.len(), Ordering::SeqCst);
            if awaited.sessions.is_empty() {
                tracing::info!("no session from before the start is waited for any longer");
            }
        }
        drop(awaited);
        self.changed.notify_waiters();
    }

    /// Waits until a call of `client` about the namespace can be answered.
    pub async fn wait_for_changes(&self, soft: &SoftState, client: &[u8]) {
        self.wait(|awaited| awaited.left_ms(soft.now_ms(), client).map(Duration::from_millis)).await;
    }

    /// Waits until a call of a session about locks can be answered. Sessions that are silent end.
    pub async fn wait_for_locks(&self, session: &str) {
        self.wait(|awaited| awaited.misses_locks(session).then_some(Duration::MAX)).await;
    }

    /// Waits as long as `look` says that there is something to wait for, and for how long at most.
    async fn wait(&self, look: impl Fn(&Awaited) -> Option<Duration>) {
        if self.is_over() {
            return;
        }
        let mut counted = false;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Some(left) = look(&self.awaited()) else { return };
            if !std::mem::replace(&mut counted, true) {
                counter!("dfs_grace_waits_total").increment(1);
            }
            // Woken or not, the next look tells.
            let _ = timeout(left, changed).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: ClientId = [1; 16];
    const BEN: ClientId = [2; 16];

    fn grace() -> Grace {
        let grace = Grace::default();
        grace.begin(100, ["a", "b"].map(str::to_owned).into_iter());
        grace
    }

    #[test]
    fn calls_about_the_namespace_wait_for_what_others_had_answered() {
        let grace = grace();
        let left = |now, client: &[u8]| grace.awaited().left_ms(now, client);
        assert_eq!(left(100, &ANN), Some(GRACE_MS));
        grace.carried_out("a");
        grace.came_back("a", ANN);
        grace.came_back("c", BEN);
        assert_eq!(left(200, &ANN), Some(GRACE_MS - 100), "for the other one");
        grace.came_back("b", BEN);
        grace.carried_out("b");
        assert_eq!((left(300, &ANN), left(300, &BEN)), (None, Some(GRACE_MS - 200)), "not for itself");
        assert_eq!(left(100 + GRACE_MS, &BEN), None, "not for ever");
        grace.ended("a");
        assert!(left(300, &BEN).is_none() && grace.is_over());
    }

    #[test]
    fn calls_about_locks_wait_for_those_of_others() {
        let grace = grace();
        let misses = |session: &str| grace.awaited().misses_locks(session);
        assert!(misses("a") && misses("b") && misses("c"));
        grace.came_back("a", ANN);
        assert!(misses("a") && !misses("b") && misses("c"));
        grace.ended("b");
        assert!(!misses("a") && !misses("c") && !grace.is_over(), "changes are still to come");
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_the_last_one_is_back() {
        let grace = grace();
        let back = async {
            for (session, client) in [("a", ANN), ("b", BEN)] {
                tokio::task::yield_now().await;
                grace.came_back(session, client);
            }
        };
        tokio::join!(grace.wait_for_locks("c"), back);
        assert!(!grace.awaited().misses_locks("c"));
    }
}
