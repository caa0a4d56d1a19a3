//! The replicated log, the state it is applied to, and the transport between namenodes.
//!
//! A namenode that is alone keeps both without Raft (`alone`); one of several is a `member`:
//!
//! ```text
//! propose -> batcher -> openraft -> log thread (write, one fdatasync for all that wait) --+
//!               |           |                                                            +-> reply
//!               |           +-----> apply thread (one transaction for all that wait) ------+
//!               |                      +-> effects
//!               +-- one entry on its way at a time, the rest gathers
//! ```
//!
//! * [`Consensus`] is what the rest of the namenode sees.
//! * Formats, one module each: `record`, `segment`, `vote_file`, `state_store`, `page_sums`.
//! * Threads of a member: `log_thread` (the only writer of log and vote), `log_reader`, `apply_thread` (the only
//!   writer of the state), `snapshot` (two while one is under way). Both roles apply with `applier`, behind which
//!   `flusher` brings what was applied into redb.
//! * openraft's view: `log_store`, `state_machine`, `network`, `raft_service`, `raft_types`.
//!
//! Invariants:
//!
//! * An acknowledgement at the durable level comes after the entry is applied *and* on disk; a relaxed one after it is
//!   applied and written to the log file.
//! * What is durable is always a prefix of the log; the state is never durable beyond it.
//! * A disk without room is a refusal before anything is written (`room`); checkpoints wait until there is some.
//! * A failed write or sync is final: nothing is acknowledged after it (see [`Consensus::failed`]), and a start reads what is on the disk,
//!   whatever the kernel still keeps (`page_cache`).
//! * No async task waits for the disk (one of a node alone writes to the page cache); no lock is held across an await.
//! * Every queue is bounded; when one is full, its senders wait, in the end the callers.

mod acks;
mod alone;
mod applier;
mod apply_thread;
mod batch;
mod batcher;
mod catalog;
mod checked_file;
mod config;
mod dir_lock;
mod durable_file;
mod error;
mod flusher;
mod found_log;
mod health;
mod log_cache;
mod log_reader;
mod log_store;
mod log_thread;
mod member;
mod network;
mod new_directory;
mod node;
mod offline;
mod page_cache;
mod page_sums;
mod raft_service;
mod raft_types;
mod record;
mod room;
mod segment;
mod segmented_log;
mod snapshot;
mod state_machine;
mod state_store;
mod terms;
mod threads;
mod vote_file;

#[cfg(test)]
mod tests;

pub use applier::OnEffects;
pub use config::ConsensusConfig;
pub use error::{ConsensusError, Damage, ProposeError};
pub use new_directory::{FilledDirectory, NewDirectory};
pub use node::Consensus;
pub use offline::{LogSummary, Offline};
pub use raft_service::RaftService;
pub use state_store::Position;
