//! Pauses of a writer that has lost all members of a pipeline.

use std::time::{Duration, Instant};

/// First pause before lost members are tried again; doubled each time.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// Longest pause: how late their return may be noticed.
const MAX_DELAY: Duration = Duration::from_secs(1);

/// An outage of all members.
#[derive(Debug)]
pub(crate) struct Outage {
    gives_up: Instant,
    pause: Duration,
}

impl Outage {
    /// One that is waited for so long.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { gives_up: Instant::now() + patience, pause: FIRST_DELAY }
    }

    /// Waits before the next attempt. False: it has lasted too long.
    pub(crate) async fn wait(&mut self) -> bool {
        if Instant::now() + self.pause >= self.gives_up {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(MAX_DELAY);
        true
    }
}
