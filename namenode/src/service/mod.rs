//! The gRPC services: the only place with tonic's types. Requests are checked and turned into commands
//! and reads; errors become statuses in `status`.

mod acl_numbers;
mod administration;
mod backup_protocol;
mod balance;
pub mod changed;
mod changes;
mod client_protocol;
mod context;
mod datanode_protocol;
mod delegated_locks;
mod delegating;
mod delegation_table;
mod delegation_tables;
mod delegations;
mod filesystem_protocol;
#[cfg(test)]
mod fuzz_tests;
mod grace;
mod lock_table;
mod locks;
mod read_path;
mod resting;
mod restored;
mod session_files;
mod session_names;
mod session_table;
mod sessions;
mod shared_delegations;
mod status;
mod touched;
mod turnstile;
mod write_path;

pub use backup_protocol::BackupService;
pub use client_protocol::ClientService;
pub use context::{Context, SoftState, seed, wall_clock_ns};
pub use datanode_protocol::DatanodeService;
pub use filesystem_protocol::FileSystemService;
pub use sessions::{NAME_PREFIX, Sessions};
pub use status::{rpc_error, rpc_error_of_proposal};
