//! Client library of dfs, a distributed block file system.
//!
//! [`DfsClient`] is a connection to a cluster: it makes directories, lists, renames, deletes, and opens files.
//! [`FileWriter`] writes a file from its start or, after [`DfsClient::append`], from its end; [`FileReader`]
//! reads one, in sequence or anywhere. All calls are `async` and run on the caller's tokio runtime.
//!
//! ```no_run
//! use dfs_client::{CreateOptions, DfsClient, ErrorKind, MkdirOptions};
//!
//! # async fn example() -> Result<(), dfs_client::DfsError> {
//! let client = DfsClient::connect("127.0.0.1:9820").await?;
//! client.mkdir("/data/new", MkdirOptions { parents: true, ..Default::default() }).await?;
//!
//! let mut writer = client.create("/data/new/hello", CreateOptions::default()).await?;
//! writer.write_bytes("hello, world\n".into()).await?;
//! writer.close().await?;
//!
//! let mut reader = client.open("/data/new/hello").await?;
//! while let Some(bytes) = reader.chunk().await? {
//!     print!("{}", String::from_utf8_lossy(&bytes));
//! }
//!
//! for entry in client.list("/data/new").await? {
//!     println!("{} {} bytes, {} replicas", entry.path, entry.size, entry.replication);
//! }
//!
//! match client.stat("/data/missing").await {
//!     Err(error) if error.kind() == ErrorKind::NotFound => println!("{error}"),
//!     other => println!("{other:?}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! * A call that changed the namespace and succeeded is on disk at the namenode. A call that is sent again after a lost
//!   answer acts once; retries are bounded by [`RetryPolicy`].
//! * [`FileWriter::hflush`]: what was written is with every datanode of the pipeline, and readers that open the file from now on
//!   see it. [`FileWriter::hsync`]: it is on disk there, as are all blocks before. [`FileWriter::close`]: the file has its final length, and every
//!   replica of the pipeline was acknowledged.
//! * A file has one writer at a time, by a lease that is renewed in the background while the client has files open.
//! * No byte is handed out by a reader before its checksum was verified. A replica that is corrupt is reported,
//!   and another one is read.
//! * A writer survives the loss of all but one of its datanodes, and has others added when too few are left.
//! * Whatever the size of a file, a reader holds 256 KiB and a writer the packets in flight.
//!
//! # Paths
//!
//! Paths are absolute text such as `/data/new`. Names are bytes, and a mount can make some that are no UTF-8: in paths, each
//! byte that belongs to no character is written `\xNN`, both in listings and in arguments ([`escape_name`] tells
//! the rule, by which every name has a path). A literal backslash is written as it is, but `\x5c` before `x` and two hexadecimal
//! digits.
//!
//! # Settings
//!
//! [`DfsClient::builder`] sets the user, retries, timeouts, packet size and defaults for new files.
//!
//! # Errors
//!
//! There is one type, [`DfsError`]. Decide by its [`kind`](DfsError::kind); its text is one line that names the path and the
//! cause. As an [`std::io::Error`] (from `AsyncRead` and `AsyncWrite`) it has the nearest `io::ErrorKind` and
//! keeps the `DfsError` inside.
//!
//! The programs under `examples/` copy a file and keep a journal.

mod admin;
mod administration;
mod block_map;
mod block_reader;
mod block_recovery;
mod block_start;
mod buffer_pool;
mod config;
mod connection;
mod datanode;
mod dfs_client;
mod error;
mod exclusions;
mod file_checksum;
mod file_reader;
mod file_writer;
pub mod fs;
mod hedge;
mod hedged_reads;
mod lease_renewer;
mod local_exchange;
mod local_reader;
mod local_replica;
mod local_replicas;
mod name_text;
mod namenode;
mod namenode_link;
mod namenode_reader;
mod open_block;
mod options;
mod out_packet;
mod outage;
mod own_links;
mod path;
mod peer_cache;
mod pipeline;
mod pipeline_events;
mod pipeline_members;
mod pipeline_watch;
mod read_times;
mod replica_reads;
mod rescue;
mod retry;
mod slow_nodes;
mod status;
mod streamer;
mod told_positions;
mod transport;
mod trash;
mod unsynced_blocks;
mod waiting_thread;
mod writer_core;

pub use admin::Scrub;
pub use config::{ClientBuilder, MAX_PACKETS_IN_FLIGHT, PACKET_BYTES_RANGE};
pub use dfs_client::{DfsClient, LIST_PAGE_ENTRIES, LIST_PAGE_NAMES};
pub use dfs_proto::ErrorKind;
pub use dfs_proto::checksum::ChecksumKind;
pub use dfs_proto::v1::{
    AdminProgress, AdminState, BalanceAction, BalanceDisksAction, BalanceDisksRequest, BalanceDisksStatus,
    BalanceRequest, BalanceState, BalanceStatus, Block, BlockCondition, BlockDescription, ClusterStats,
    ContentSummary, DatanodeInfo, DatanodeReport, DatanodeState, KnownReplica, LocatedBlock,
    ReplicaDescription, ReplicaLocation, ReplicaState, ReplicaWorth, RestoredResponse, SafeModeAction,
    ScrubProgress, ServerDefaults, StorageReport,
};
pub use error::{DfsError, ReplicaFault, TransferFault};
pub use file_checksum::FileChecksum;
pub use file_reader::FileReader;
pub use file_writer::FileWriter;
pub use name_text::{escape_name, unescape_name};
pub use options::{CreateOptions, MkdirOptions, RenameOptions};
pub use read_times::HedgeCounts;
pub use rescue::{RescueReader, Rescued, Trust};
pub use retry::RetryPolicy;
pub use status::{FileKind, FileStatus, ListPage, LocatedStatus};
pub use trash::{Expunged, Trashed};
