//! `dfs-fuse`: a cluster mounted like a local disk.
//!
//! The kernel sends its requests through `/dev/fuse`; `filesystem` hands them to the operations in `ops`, which ask the cluster through
//! `dfs_client::fs`. What is promised to programs is written in `SEMANTICS.md` beside this crate.
//!
//! ```text
//! kernel -> event loops (calls) -> operations -> caches -> dfs_client::fs -> namenode, datanodes
//! ```
//!
//! Invariants:
//! - Event loop threads wait for the cluster for milliseconds only, and one of them never does: outages and locks do not stop the
//!   mount.
//! - Names and attributes are believed for the time to live at most, counted from the question; changes
//!   through this mount show at once.
//! - Memory is bounded by the option `memory`: half of it buffers of the client library, the rest caches of
//!   names and attributes and requests under way.

mod attr_cache;
mod attributes;
mod background;
mod caller;
mod calls;
mod contents;
pub mod daemon;
mod directory_cache;
mod directory_page;
mod directory_stream;
mod errno;
mod error;
mod event_loops;
mod executed;
mod filesystem;
mod handles;
mod held_locks;
mod kernel_features;
mod known_directory;
mod log_target;
mod metrics;
mod mount;
mod ops;
mod option_list;
pub mod options;
mod owners;
mod passthrough;
mod raw_request;
mod reading_order;
mod remount;
mod serve;
pub mod takeover;
mod wait;

pub use error::MountError;
pub use options::Options;
pub use remount::remount;
pub use serve::serve;
