//! A batch of commands: the content of a log entry.
//!
//! On the leader a batch also carries the callers that wait for its replies. They travel with it through
//! openraft and the log's cache to the apply thread, so that no table from log index to caller is
//! needed. Each waiter is answered exactly once: by the apply thread, by [`BatchResponder`] when openraft
//! refuses or forgets the entry, or by nobody, in which case the caller sees its channel closed.
//!
//! Any thread.

use std::sync::{Mutex, PoisonError};
use std::{mem, sync::Arc};

use openraft::error::ClientWriteError;
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;
use prost::Message;
use tokio::sync::oneshot;

use super::batcher::OnTheWay;
use super::error::ProposeError;
use super::raft_types::{LogId, TypeConfig};
use crate::log;

/// A reply and the log id of the entry that held its command.
pub type Outcome = Result<(log::Reply, LogId), ProposeError>;

/// When a proposal is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// When it is applied and its entry is on disk.
    Durable,
    /// When it is applied and its entry is written to the log file: the end of the process loses nothing.
    Written,
}

/// A caller that waits for the reply to a command.
#[derive(Debug)]
pub struct Waiter {
    /// Takes the outcome.
    pub reply: oneshot::Sender<Outcome>,
    /// When to answer.
    pub level: Level,
}

impl Waiter {
    /// Answers; a caller that went away is no error.
    pub fn answer(self, outcome: Outcome) {
        let _ = self.reply.send(outcome);
    }
}

/// Commands that form one log entry. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Batch(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    message: log::CommandBatch,
    encoded_bytes: usize,
    /// Of this node's callers, one a command, or empty.
    waiters: Mutex<Vec<Waiter>>,
    /// Held until the entry is on disk: bounds what is on the way to it.
    on_the_way: Mutex<Option<OnTheWay>>,
}

impl Batch {
    /// A batch read from the log or received from the leader.
    pub fn stored(message: log::CommandBatch) -> Self {
        let encoded_bytes = message.encoded_len();
        let (waiters, on_the_way) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { message, encoded_bytes, waiters, on_the_way }))
    }

    /// A batch proposed here, with one waiter a command.
    pub fn proposed(commands: Vec<log::Command>, waiters: Vec<Waiter>, on_the_way: OnTheWay) -> Self {
        assert_eq!(commands.len(), waiters.len());
        let message = log::CommandBatch { commands };
        let encoded_bytes = message.encoded_len();
        let (waiters, on_the_way) = (Mutex::new(waiters), Mutex::new(Some(on_the_way)));
        Self(Arc::new(Inner { message, encoded_bytes, waiters, on_the_way }))
    }

    /// The commands, in order.
    pub fn commands(&self) -> &[log::Command] {
        &self.0.message.commands
    }

    /// Size of the encoded batch.
    pub fn encoded_bytes(&self) -> usize {
        self.0.encoded_bytes
    }

    /// Appends the encoded batch.
    pub fn encode(&self, out: &mut Vec<u8>) {
        // Encoding into a Vec cannot run out of room.
        let _ = self.0.message.encode(out);
    }

    /// Notes that the entry is on disk, or will never be.
    pub fn arrived(&self) {
        let on_the_way = self.0.on_the_way.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(on_the_way);
    }

    /// Takes the waiters; later calls get none.
    pub fn take_waiters(&self) -> Vec<Waiter> {
        mem::take(&mut *self.0.waiters.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Answers all waiters that are left with an error.
    fn refuse(&self, error: impl Fn() -> ProposeError) {
        self.arrived();
        for waiter in self.take_waiters() {
            waiter.answer(Err(error()));
        }
    }
}

/// Hears from openraft what became of a batch.
pub struct BatchResponder(Option<Batch>);

impl Responder<TypeConfig> for BatchResponder {
    type Receiver = ();

    fn from_app_data(batch: Batch) -> (Batch, Self, ()) {
        (batch.clone(), Self(Some(batch)), ())
    }

    fn send(mut self, result: ClientWriteResult<TypeConfig>) {
        let Some(batch) = self.0.take() else { return };
        match result {
            // The entry is on the apply thread, which answers.
            Ok(_) => {}
            Err(ClientWriteError::ForwardToLeader(forward)) => {
                let leader = forward.leader_node.map(|node| node.addr);
                batch.refuse(|| ProposeError::NotLeader { leader: leader.clone() });
            }
            // Only for changes of the membership, which no batch is.
            Err(ClientWriteError::ChangeMembershipError(_)) => batch.refuse(|| ProposeError::Stopped),
        }
    }
}

impl Drop for BatchResponder {
    /// openraft stopped before it knew what becomes of the batch.
    fn drop(&mut self) {
        if let Some(batch) = self.0.take() {
            batch.refuse(|| ProposeError::Stopped);
        }
    }
}
