//! The thread `state-flush`: brings what was applied from memory into redb.
//!
//! The applier goes on meanwhile, in another layer of the store. The thread keeps nothing open between two flushes
//! and ends with the applier.

use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};

use super::error::ConsensusError;
use super::health::Health;
use super::state_store::StateStore;
use super::threads::spawn;
use crate::namesystem::Fill;

/// Flushes that may be asked for beside the one under way: each takes all that there is.
const REQUESTS_MAX: usize = 1;

/// Has stores flushed.
pub struct Flusher(SyncSender<StateStore>);

impl Flusher {
    /// Starts the thread.
    pub fn start(health: &Health) -> Result<Self, ConsensusError> {
        let (requests, queue) = mpsc::sync_channel(REQUESTS_MAX);
        let failing = health.clone();
        spawn("state-flush", health, move || run(&queue, &failing))?;
        Ok(Self(requests))
    }

    /// Has what was applied flushed soon. False if that will not happen.
    pub fn begin(&self, store: &StateStore) -> bool {
        match self.0.try_send(store.clone()) {
            // The one that waits takes this too.
            Ok(()) | Err(TrySendError::Full(_)) => true,
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

fn run(queue: &Receiver<StateStore>, health: &Health) {
    while let Ok(store) = queue.recv() {
        if store.rows().fill() == Fill::Room {
            // The flush before took all that there was.
            continue;
        }
        if let Err(error) = store.flush() {
            health.fail(error);
            return;
        }
    }
}
