//! Tests through the client library against a mini cluster: one module a subject.

mod administration;
mod append;
mod bad_input;
mod balancing;
mod dead_writers;
mod failed_copies;
mod failed_volumes;
mod failing_disk;
mod failing_volume;
mod files_ahead;
mod full_disk;
mod hanging_disk;
mod hflush;
mod identity;
mod large_delete;
mod leases;
mod local_reads;
mod lone_replica;
mod namespace;
mod open_files;
mod open_files_model;
mod permissions;
mod pipeline;
mod random_operations;
mod replicas;
mod restart;
mod restore;
mod rolling_restart;
mod scrub;
mod seek;
mod sessions;
mod sizes;
mod synced_writes;
mod tidy;
mod trash;

use anyhow::{Result, bail};
use dfs_client::DfsError;
use dfs_proto::ErrorKind;

/// Checks that a call failed, and with which kind; its text must be one line that names `subject`.
fn ensure_error<T>(outcome: Result<T, DfsError>, kind: ErrorKind, subject: &str) -> Result<()> {
    let Err(error) = outcome else { bail!("{subject}: wanted {kind:?}, but the call succeeded") };
    let text = error.to_string();
    if error.kind() != kind || !text.contains(subject) || text.contains('\n') {
        bail!("wanted {kind:?} naming {subject}, got {:?}: {text}", error.kind());
    }
    Ok(())
}
