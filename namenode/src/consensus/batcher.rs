//! Gathers proposals into log entries.
//!
//! One entry is on its way to the log at a time; what is proposed meanwhile becomes the next one. So a
//! lone caller waits for nobody, and many callers share the cost of an entry. The order of proposals is
//! the order of commands in the log.

use std::sync::Arc;

use openraft::Raft;
use prost::Message;
use tokio::sync::{Semaphore, mpsc};

use super::batch::{Batch, Waiter};
use super::raft_types::TypeConfig;
use crate::log;

/// Proposals that may wait to become part of an entry; more callers wait before the queue.
pub const PROPOSALS_MAX: usize = 4_096;

/// Largest command.
pub const COMMAND_BYTES_MAX: usize = 12 << 20;

/// An entry is closed when it has so many commands ...
const ENTRY_COMMANDS_MAX: usize = 512;

/// ... or bytes: a group of entries is written between two syncs, and followers get entries whole.
const ENTRY_BYTES_MAX: usize = 512 << 10;

/// A command and who waits for its reply.
pub struct Proposal {
    /// The command.
    pub command: log::Command,
    /// Who waits.
    pub waiter: Waiter,
}

/// Runs until nobody can propose any more, or Raft stops.
pub async fn run(raft: Raft<TypeConfig>, mut proposals: mpsc::Receiver<Proposal>) {
    let on_the_way = Arc::new(Semaphore::new(1));
    while let Some(first) = proposals.recv().await {
        let Ok(permit) = Arc::clone(&on_the_way).acquire_owned().await else { return };
        let mut bytes = first.command.encoded_len();
        let mut commands = vec![first.command];
        let mut waiters = vec![first.waiter];
        while commands.len() < ENTRY_COMMANDS_MAX && bytes < ENTRY_BYTES_MAX {
            let Ok(next) = proposals.try_recv() else { break };
            bytes += next.command.encoded_len();
            commands.push(next.command);
            waiters.push(next.waiter);
        }
        // If Raft has stopped, the responder in the message has told the waiters.
        if raft.client_write_ff(Batch::proposed(commands, waiters, permit)).await.is_err() {
            return;
        }
    }
}
