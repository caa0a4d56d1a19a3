//! Client library of dfs, a distributed block file system.
//!
//! ```no_run
//! use dfs_client::{CreateOptions, DfsClient};
//!
//! # async fn example() -> Result<(), dfs_client::DfsError> {
//! let client = DfsClient::connect("127.0.0.1:9820").await?;
//!
//! let mut writer = client.create("/hello", CreateOptions { overwrite: true, ..Default::default() }).await?;
//! writer.write_bytes("hello, world\n".into()).await?;
//! writer.close().await?;
//!
//! let mut reader = client.open("/hello").await?;
//! while let Some(bytes) = reader.chunk().await? {
//!     print!("{}", String::from_utf8_lossy(&bytes));
//! }
//! # Ok(())
//! # }
//! ```

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
mod file_checksum;
mod file_reader;
mod file_writer;
mod lease_renewer;
mod namenode;
mod open_block;
mod options;
mod out_packet;
mod path;
mod peer_cache;
mod pipeline;
mod replica_reads;
mod retry;
mod status;
mod streamer;
mod writer_core;

pub use config::{ClientBuilder, MAX_PACKETS_IN_FLIGHT, PACKET_BYTES_RANGE};
pub use dfs_client::{DfsClient, LIST_PAGE_ENTRIES};
pub use dfs_proto::ErrorKind;
pub use dfs_proto::checksum::ChecksumKind;
pub use dfs_proto::v1::{
    Block, ClusterStats, ContentSummary, DatanodeInfo, DatanodeReport, DatanodeState, LocatedBlock,
    ReplicaLocation, SafeModeAction, ServerDefaults, StorageReport,
};
pub use error::{DfsError, ReplicaFault, TransferFault};
pub use file_checksum::FileChecksum;
pub use file_reader::FileReader;
pub use file_writer::FileWriter;
pub use options::{CreateOptions, MkdirOptions, RenameOptions};
pub use retry::RetryPolicy;
pub use status::{FileKind, FileStatus, ListPage, LocatedStatus};
