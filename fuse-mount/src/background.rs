//! Work that goes on after its caller was answered, such as giving a lease back; a clean unmount waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts what is under way.
#[derive(Clone, Debug, Default)]
pub struct Background {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    running: AtomicUsize,
    done: Notify,
}

/// Work under way, until it is dropped.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
}

impl Background {
    /// Work begins.
    pub fn begin(&self) -> Running {
        self.shared.running.fetch_add(1, Ordering::AcqRel);
        Running { shared: self.shared.clone() }
    }

    /// Returns when no work is under way.
    pub async fn finished(&self) {
        loop {
            let mut done = std::pin::pin!(self.shared.done.notified());
            done.as_mut().enable();
            if self.shared.running.load(Ordering::Acquire) == 0 {
                return;
            }
            done.await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.shared.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.done.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_end_of_all_work_is_waited_for() {
        let background = Background::default();
        background.finished().await;
        let (first, second) = (background.begin(), background.begin());
        let waiting = tokio::spawn({
            let background = background.clone();
            async move { background.finished().await }
        });
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        tokio::time::timeout(Duration::from_secs(20), waiting).await.expect("in time").expect("no panic");
    }
}
