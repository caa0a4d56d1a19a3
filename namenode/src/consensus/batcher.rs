//! Gathers proposals into log entries.
//!
//! While an entry is on its way to the disk, what is proposed meanwhile becomes the next one: its sync
//! could not begin earlier anyway, and an entry costs openraft the same whether it holds one command or
//! hundreds. A lone caller waits for nobody. Relaxed proposals do not wait for the disk, so neither does
//! an entry with one of them. The order of proposals is the order of commands in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use openraft::Raft;
use prost::Message;
use tokio::sync::{Notify, mpsc};

use super::batch::{Batch, Level, Waiter};
use super::raft_types::TypeConfig;
use crate::log;

/// Proposals that may wait to become part of an entry; more callers wait before the queue.
pub const PROPOSALS_MAX: usize = 4_096;

/// Largest command.
pub const COMMAND_BYTES_MAX: usize = 12 << 20;

/// An entry is closed when it has so many commands ...
pub const ENTRY_COMMANDS_MAX: usize = 512;

/// ... or bytes: a group of entries is written between two syncs, and followers get entries whole.
pub const ENTRY_BYTES_MAX: usize = 512 << 10;

/// Entries that may be on their way to the disk when callers do not wait for it.
const ENTRIES_ON_THE_WAY_MAX: usize = 32;

/// A command and who waits for its reply.
pub struct Proposal {
    /// The command.
    pub command: log::Command,
    /// Who waits.
    pub waiter: Waiter,
}

impl Proposal {
    /// About how many bytes of the log it takes.
    pub fn bytes(&self) -> usize {
        self.command.encoded_len()
    }
}

/// Counts the entries that are not on disk yet.
#[derive(Debug, Default)]
struct Way {
    entries: AtomicUsize,
    arrived: Notify,
}

/// Held by an entry until it is on disk or refused.
#[derive(Debug)]
pub struct OnTheWay(Arc<Way>);

impl OnTheWay {
    fn begin(way: &Arc<Way>) -> Self {
        way.entries.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(way))
    }
}

impl Drop for OnTheWay {
    fn drop(&mut self) {
        self.0.entries.fetch_sub(1, Ordering::AcqRel);
        self.0.arrived.notify_one();
    }
}

/// An entry that gathers.
#[derive(Default)]
struct Gathering {
    commands: Vec<log::Command>,
    waiters: Vec<Waiter>,
    bytes: usize,
    relaxed: bool,
}

impl Gathering {
    fn add(&mut self, proposal: Proposal) {
        self.bytes += proposal.bytes();
        self.relaxed |= proposal.waiter.level == Level::Written;
        self.commands.push(proposal.command);
        self.waiters.push(proposal.waiter);
    }

    fn is_full(&self) -> bool {
        self.commands.len() >= ENTRY_COMMANDS_MAX || self.bytes >= ENTRY_BYTES_MAX
    }

    /// Whether it may go while `on_the_way` entries are not on disk yet.
    const fn may_go(&self, on_the_way: usize) -> bool {
        on_the_way == 0 || (self.relaxed && on_the_way < ENTRIES_ON_THE_WAY_MAX)
    }
}

/// Runs until nobody can propose any more, or Raft stops.
pub async fn run(raft: Raft<TypeConfig>, mut proposals: mpsc::Receiver<Proposal>) {
    let way = Arc::new(Way::default());
    while let Some(first) = proposals.recv().await {
        let mut gathering = Gathering::default();
        gathering.add(first);
        loop {
            while !gathering.is_full() {
                let Ok(next) = proposals.try_recv() else { break };
                gathering.add(next);
            }
            if gathering.may_go(way.entries.load(Ordering::Acquire)) {
                break;
            }
            tokio::select! {
                () = way.arrived.notified() => {}
                Some(next) = proposals.recv(), if !gathering.is_full() => gathering.add(next),
            }
        }
        // If Raft has stopped, the responder in the message has told the waiters.
        let batch = Batch::proposed(gathering.commands, gathering.waiters, OnTheWay::begin(&way));
        if raft.client_write_ff(batch).await.is_err() {
            return;
        }
    }
}
