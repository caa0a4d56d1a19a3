//! Starting the named threads that do blocking work.

use std::thread;

use tokio::sync::oneshot;

use super::error::ConsensusError;
use super::health::Health;

/// Notes a thread that ends by a panic, which is a defect: consensus stops.
struct PanicGuard {
    name: &'static str,
    health: Health,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if thread::panicking() {
            self.health.fail(ConsensusError::Panicked { thread: self.name });
        }
    }
}

/// Starts a named thread; the receiver closes when it ends.
pub fn spawn(
    name: &'static str,
    health: &Health,
    body: impl FnOnce() + Send + 'static,
) -> Result<oneshot::Receiver<()>, ConsensusError> {
    let (running, ended) = oneshot::channel::<()>();
    let guard = PanicGuard { name, health: health.clone() };
    thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            let _guard = guard;
            body();
            drop(running);
        })
        .map_err(|source| ConsensusError::Thread { name, source })?;
    Ok(ended)
}
