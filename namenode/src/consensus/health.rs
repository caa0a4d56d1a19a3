//! Whether consensus works, and if not, why.

use std::sync::Arc;

use tokio::sync::watch;

use super::error::ConsensusError;

/// Shared by the threads: the first failure counts, and is final.
#[derive(Clone, Debug)]
pub struct Health(Arc<watch::Sender<Option<Arc<ConsensusError>>>>);

impl Health {
    /// Works.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Notes a failure; later ones are logged only.
    pub fn fail(&self, error: ConsensusError) -> Arc<ConsensusError> {
        let error = Arc::new(error);
        tracing::error!(%error, "consensus failed");
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| Arc::clone(&error));
            is_first
        });
        error
    }

    /// The failure, if there was one.
    pub fn failure(&self) -> Option<Arc<ConsensusError>> {
        self.0.borrow().clone()
    }

    /// Hears of a failure.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<ConsensusError>>> {
        self.0.subscribe()
    }
}
