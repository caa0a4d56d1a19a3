//! Counts changes that are under way, so that somebody can wait for those that began before a certain moment.
//!
//! A directory is delegated only when no change is under way that began before the namenode knew of the delegation: such a
//! change looked for delegations when there was none. Changes begin and end with one atomic operation each; who waits
//! has newcomers counted apart and waits for the old count to become zero.
//!
//! Invariant: whoever enters after [`Turnstile::drain`] was called sees everything that was written before that call (all is
//! sequentially consistent); whoever entered before is waited for.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, timeout_at};

/// How long old changes are waited for. They take milliseconds; if the disk is stuck, a delegation is refused.
const PATIENCE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub struct Turnstile {
    /// Which of the two counts newcomers.
    side: AtomicUsize,
    inside: [AtomicUsize; 2],
    /// Somebody waits for a count to become zero.
    awaited: AtomicBool,
    left: Notify,
    /// One waits at a time, so that a count that became zero stays so.
    draining: Mutex<()>,
}

/// A change under way.
#[derive(Debug)]
pub struct Turn<'a> {
    turnstile: &'a Turnstile,
    side: usize,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let before = self.turnstile.inside[self.side].fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.turnstile.awaited.load(Ordering::SeqCst) {
            self.turnstile.left.notify_waiters();
        }
    }
}

impl Turnstile {
    /// A change begins.
    pub fn enter(&self) -> Turn<'_> {
        let side = self.side.load(Ordering::SeqCst) & 1;
        self.inside[side].fetch_add(1, Ordering::SeqCst);
        Turn { turnstile: self, side }
    }

    /// Waits until every change that began before is over. False: that took too long.
    pub async fn drain(&self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let Ok(_turn) = timeout_at(deadline, self.draining.lock()).await else { return false };
        self.awaited.store(true, Ordering::SeqCst);
        let old = self.side.load(Ordering::SeqCst) & 1;
        // What an earlier call did not live to see, then what is old now.
        let mut drained = self.is_empty(1 - old, deadline).await;
        if drained {
            self.side.store(1 - old, Ordering::SeqCst);
            drained = self.is_empty(old, deadline).await;
        }
        self.awaited.store(false, Ordering::SeqCst);
        drained
    }

    async fn is_empty(&self, side: usize, deadline: Instant) -> bool {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.inside[side].load(Ordering::SeqCst) == 0 {
                return true;
            }
            if timeout_at(deadline, left).await.is_err() {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn old_changes_are_waited_for_and_new_ones_are_not() {
        let turnstile = Arc::new(Turnstile::default());
        assert!(turnstile.drain().await, "nobody is inside");
        for _ in 0..3 {
            let (old, also_old) = (turnstile.enter(), turnstile.enter());
            let draining = tokio::spawn({
                let turnstile = turnstile.clone();
                async move { turnstile.drain().await }
            });
            while !turnstile.awaited.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
            let new = turnstile.enter();
            drop(old);
            tokio::task::yield_now().await;
            assert!(!draining.is_finished());
            drop(also_old);
            assert!(draining.await.expect("no panic"));
            drop(new);
        }
    }

    #[tokio::test]
    async fn a_change_that_does_not_end_is_given_up_and_not_forgotten() {
        let turnstile = Turnstile::default();
        let stuck = turnstile.enter();
        assert!(!turnstile.drain().await);
        assert!(!turnstile.drain().await, "it is still inside");
        drop(stuck);
        assert!(turnstile.drain().await);
    }
}
