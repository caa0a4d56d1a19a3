//! The dfs datanode: keeps replicas of blocks on local disks and serves them.
//!
//! ```text
//! clients, datanodes --data transfer--> transfer  (threads)  -+
//! tools, datanodes ------gRPC---------> control   (tasks)    -+--> dataset --> volumes
//! namenode <-------------gRPC---------- namenode_link (tasks) +
//! ```
//!
//! * [`replica`]: states of a replica and legal transitions; pure.
//! * [`dataset`]: replicas on disk; blocking.
//! * [`journal`]: what makes overwrites durable; blocking.
//! * [`transfer`]: the data transfer protocol; blocking threads, no async.
//! * [`namenode_link`]: registration, heartbeats, reports, commands, block recovery.
//! * [`scrub`]: rereads and verifies replicas.
//! * [`server`]: puts them together.
//!
//! Durability: a packet is acknowledged once it is in this machine's page cache and in that of every
//! member after it; with `sync_block`, once it is on disk. A replica is closed (renamed) before its last packet is
//! acknowledged. What a crash leaves unfinished is cut back to its last good checksum at start; of replicas written at any
//! offset nothing is cut: overwrites are redone from the volume's journal.

pub mod config;
pub mod control;
pub mod dataset;
pub mod disk_balancer;
pub mod error;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
#[path = "../../proto/src/fuzzing.rs"]
mod fuzzing;
mod guard;
mod http;
pub mod journal;
mod metrics;
pub mod namenode_link;
mod piece;
mod repair_pace;
pub mod replica;
pub mod scrub;
pub mod server;
mod sync;
pub mod throttle;
pub mod transfer;
pub mod volume_keeper;
mod workers;

pub use config::DatanodeConfig;
pub use error::DatanodeError;
pub use server::Datanode;
