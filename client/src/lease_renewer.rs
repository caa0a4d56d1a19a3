//! Keeps the leases of a client alive while it has files open for writing.
//!
//! One background task a client, started by the first writer; it ends when an interval passes without an
//! open writer, or with the client. A writer that is dropped without being closed is no longer counted.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use dfs_proto::v1::RenewLeaseRequest;
use tokio::task::JoinHandle;

use crate::dfs_client::Inner;

/// State of the renewer.
#[derive(Default)]
pub(crate) struct LeaseRenewer {
    open: AtomicUsize,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Counts one open writer until it is dropped.
pub(crate) struct OpenWriter {
    client: Arc<Inner>,
}

impl OpenWriter {
    /// Counts a writer and sees to it that the task runs.
    pub(crate) fn register(client: &Arc<Inner>) -> Self {
        let renewer = &client.leases;
        let mut task = renewer.task.lock().unwrap_or_else(PoisonError::into_inner);
        renewer.open.fetch_add(1, Ordering::SeqCst);
        // The task may have ended with the runtime it was started on.
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            let interval = client.config.lease_renewal;
            *task = Some(tokio::spawn(renew_while_open(Arc::downgrade(client), interval)));
        }
        Self { client: Arc::clone(client) }
    }
}

impl Drop for OpenWriter {
    fn drop(&mut self) {
        self.client.leases.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn renew_while_open(client: Weak<Inner>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let Some(client) = client.upgrade() else { return };
        {
            let mut task = client.leases.task.lock().unwrap_or_else(PoisonError::into_inner);
            if client.leases.open.load(Ordering::SeqCst) == 0 {
                // Decided under the lock that `register` takes: it starts a new task if it comes later.
                *task = None;
                return;
            }
        }
        let request = RenewLeaseRequest { context: client.namenode.context(), holder: client.holder.clone() };
        let renewed = client.namenode.call("", request, |mut s, r| async move { s.renew_lease(r).await });
        if let Err(error) = renewed.await {
            tracing::warn!(holder = %client.holder, %error, "leases could not be renewed");
        }
    }
}
