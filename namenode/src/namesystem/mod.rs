//! The namespace: a deterministic state machine over redb tables.
//!
//! [`apply`] carries out one [`crate::log::Command`] inside a transaction of the caller's on the [`Store`];
//! [`Snapshot`] answers queries. Nothing here has a clock, randomness, threads or I/O but redb's, and
//! nothing here knows tonic or tokio.
//!
//! Invariants, checked by [`invariants`]:
//!
//! * Every entry names an inode that exists, and every linked inode has as many entries as links; directories have one.
//! * Every block belongs to a file and has the index in it that the file's block list says.
//! * A file has at most one block an index; a block is at most as long as the block size and ends within the
//!   file. What no block covers is a hole: a block may be missing, or short, anywhere.
//! * Blocks are incomplete only while their file has a lease holder, several of them if a mount is writing.
//! * A node without a name waits to be freed, or is an orphan: open somewhere.
//! * A file has a lease holder if and only if there is a row for it in the leases table.
//! * The counters count what is there, and no id or stamp in use is above them.
//! * No node has a number that a session has reserved and not used yet, and no number is reserved twice.

pub mod acl;
mod apply;
mod base;
mod block_record;
mod counters;
mod delegable;
mod edit;
mod edit_blocks;
mod effect;
mod entry;
mod error;
mod hints;
mod inode;
pub mod invariants;
mod keys;
mod layer;
mod ops;
mod path;
mod path_of;
mod permission;
mod query;
mod reservation;
mod resolve;
mod restored;
mod retry_cache;
mod row_range;
mod rows;
mod snapshot;
mod store;
mod stored_block;
mod tables;
#[cfg(test)]
mod tests;
mod trash;
mod trash_work;
mod xattrs;

pub use apply::{Applied, apply};
pub use delegable::{Directories, trash_of};
pub use effect::Effect;
pub use error::{InvalidReason, NamesystemError, RecordFault, StoreError};
pub use ops::NAMENODE_HOLDER;
pub use permission::Access;
pub use query::{LIST_LIMIT_MAX, LIST_NAMES_MAX};
pub use retry_cache::{RETRIES_MAX, RETRY_AGE_MAX_NS};
pub use snapshot::Snapshot;
pub use store::{Fill, Store};
pub use stored_block::{BlockState, StoredBlock};
pub use tables::{Definition, Table, Tables};
pub use trash_work::TrashWork;
