//! What all files of a session share: memory for what is not written back yet and for reading ahead, and leave to have a
//! pipeline.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::{Instant, sleep_until};

/// Pipelines of a session: each costs every member a thread and a connection.
const MAX_SESSION_PIPELINES: usize = 64;

/// Pressure is felt again after this time by those who could not help at first.
const PRESSURE_INTERVAL: Duration = Duration::from_millis(50);

/// Bytes that a session may hold.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: Semaphore,
    total: usize,
    waiting: AtomicUsize,
    pressed: Notify,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        let total = bytes.min(Semaphore::MAX_PERMITS);
        Self { bytes: Semaphore::new(total), total, waiting: AtomicUsize::new(0), pressed: Notify::new() }
    }

    /// Most that can be taken at once.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Takes `bytes`, at most [`Self::total`], if they are free.
    pub(crate) fn try_take(&self, bytes: usize) -> bool {
        match u32::try_from(bytes).map(|n| self.bytes.try_acquire_many(n)) {
            Ok(Ok(permit)) => {
                permit.forget();
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Takes `bytes`, at most [`Self::total`]; waits until they are free.
    pub(crate) async fn take(&self, bytes: usize) {
        if self.try_take(bytes) {
            return;
        }
        let _waiting = Waiting::begin(&self.waiting);
        self.pressed.notify_waiters();
        // Never closed, so that this does not fail.
        if let Ok(permit) = self.bytes.acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX)).await {
            permit.forget();
        }
    }

    /// Gives `bytes` back.
    pub(crate) fn give(&self, bytes: usize) {
        self.bytes.add_permits(bytes);
    }

    /// Waits until somebody waits for bytes.
    pub(crate) async fn wait_until_pressed(&self) {
        wait_for_pressure(&self.waiting, &self.pressed, Instant::now()).await;
    }
}

/// Bytes taken, given back when this is dropped unless they were put to use.
pub(super) struct Reserved<'a> {
    budget: &'a Budget,
    bytes: usize,
}

impl<'a> Reserved<'a> {
    /// `bytes` have been taken.
    pub(super) fn new(budget: &'a Budget, bytes: usize) -> Self {
        Self { budget, bytes }
    }

    /// They are in use: whoever frees them gives them back.
    pub(super) fn used(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.give(self.bytes);
        }
    }
}

/// Leave to have a pipeline.
#[derive(Debug)]
pub(crate) struct Pipelines {
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    pressed: Notify,
}

impl Default for Pipelines {
    fn default() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(MAX_SESSION_PIPELINES)),
            waiting: AtomicUsize::new(0),
            pressed: Notify::new(),
        }
    }
}

impl Pipelines {
    /// Leave for one; waits until there is one to spare.
    pub(crate) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => return Some(permit),
            Err(TryAcquireError::Closed) => return None,
            Err(TryAcquireError::NoPermits) => {}
        }
        let _waiting = Waiting::begin(&self.waiting);
        self.pressed.notify_waiters();
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Waits until somebody waits for a pipeline, `from` some time on.
    pub(crate) async fn wait_until_pressed(&self, from: Instant) {
        wait_for_pressure(&self.waiting, &self.pressed, from).await;
    }
}

async fn wait_for_pressure(waiting: &AtomicUsize, pressed: &Notify, from: Instant) {
    let mut from = from;
    loop {
        let notified = pressed.notified();
        if waiting.load(Ordering::SeqCst) > 0 {
            sleep_until(from).await;
            if waiting.load(Ordering::SeqCst) > 0 {
                return;
            }
            from = Instant::now() + PRESSURE_INTERVAL;
            continue;
        }
        notified.await;
    }
}

/// Counts one who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
