//! The file system as a mount sees it: nodes named by inode, POSIX's rules, files written at any offset.
//!
//! [`FileSystem`] is a *session* at the namenode: it holds the leases of the files it writes, its locks, and unlinked files
//! that are still open. [`OpenFile`] is an open file, one for each inode and session, shared by all its handles.
//!
//! Calls say in whose name they are made ([`Caller`]); nothing is cached here but what is open for writing and what is delegated to the
//! session, which nobody else sees or changes meanwhile (`delegation`), so that a caller decides itself how old its answers may be.
//!
//! While the namenode cannot be reached, calls wait and go on when it is back, up to [`FileSystemConfig::wait`]; then they
//! fail with [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable). Dropping the future of a call gives it up: a change may
//! have been made or not, but nothing stays behind that only the answer would have told of (locks, opens).

mod attributes;
mod caller;
mod close_habit;
mod config;
mod create_habit;
mod delegation;
mod dirty;
mod file_calls;
mod file_system;
mod files_ahead;
mod listing;
mod local_file;
mod lock_delegations;
mod lock_returns;
mod lock_table;
mod locks;
mod namespace;
mod namespace_sync;
mod open_file;
mod open_file_resize;
mod open_file_state;
mod open_files;
mod opens;
mod read_ahead;
mod read_at;
mod read_block;
mod read_extents;
mod read_local;
mod read_table;
mod releases;
mod session;
mod subject;
mod unbroken;
mod unsynced;
mod write_again;
mod write_back;
mod write_block;
mod write_commit;
mod write_form;
mod write_limits;
mod write_recovery;
mod write_setup;
mod write_state;
mod write_sync;
mod write_tender;

pub use attributes::{NewNode, OpenOptions, SetAttributes, SetTime};
pub use caller::Caller;
pub use config::FileSystemConfig;
pub use delegation::DelegationCounts;
pub use dfs_proto::InodeId;
pub use dfs_proto::v1::{
    FileLock, FileStatus, FileType, ListedName, LockSpace, LockType, MoveMode, MoveResponse, XattrMode,
};
pub use file_system::FileSystem;
pub use files_ahead::{AheadCounts, MAX_AHEAD_BYTES, MAX_FETCHED_AT_ONCE, MAX_GUESSES};
pub use local_file::LocalFile;
pub use lock_delegations::LockDelegationCounts;
pub use locks::LOCK_END;
pub use open_file::OpenFile;

pub use crate::waiting_thread::{may_wait, must_not_wait};
