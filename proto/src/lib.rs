//! Everything that crosses a wire in dfs.
//!
//! * [`v1`]: the gRPC services `ClientProtocol`, `DatanodeProtocol` (namenode) and `DatanodeControl`
//!   (datanode), generated from `proto/dfs/*.proto`.
//! * [`transfer`]: headers of the data transfer protocol (HDFS's, version 28); [`data_transfer`]
//!   frames operations and [`packet`] frames block data.
//! * [`framing`]: how clients' calls to a namenode go over a connection without HTTP/2.
//! * [`ids`]: typed ids; raw integers exist only in messages and file formats.
//! * [`error`]: the error kinds that travel in gRPC status details, and what each maps to.
//! * [`checksum`]: chunk checksums of block data.
//!
//! This crate knows nobody; clients and servers know it.

pub mod checksum;
pub mod data_transfer;
pub mod error;
pub mod framing;
#[cfg(test)]
mod fuzz_messages;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod fuzzing;
pub mod ids;
pub mod packet;

/// Messages and services of the control plane (gRPC).
pub mod v1 {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("dfs.v1");
}

/// Headers of the data transfer protocol.
pub mod transfer {
    #![allow(clippy::all, missing_docs)]
    include!(concat!(env!("OUT_DIR"), "/dfs.transfer.rs"));
}

pub use error::{ErrorKind, RpcError};
pub use ids::{BlockId, GenerationStamp, InodeId};

/// Version of `ClientProtocol`; client and namenode must agree.
pub const CLIENT_PROTOCOL_VERSION: u32 = 1;

/// Version of `DatanodeProtocol`; datanode and namenode must agree.
pub const DATANODE_PROTOCOL_VERSION: u32 = 1;

/// Longest name of a directory entry in bytes (as HDFS and Linux).
pub const MAX_NAME_BYTES: usize = 255;

/// Longest path in bytes and deepest path in names (as HDFS).
pub const MAX_PATH_BYTES: usize = 8000;
/// See [`MAX_PATH_BYTES`].
pub const MAX_PATH_DEPTH: usize = 1000;

/// Largest gRPC message that either side accepts. A listing page of 1,000 entries with 255-byte names
/// and the located blocks of 1,000 blocks stay well below it.
pub const MAX_RPC_BYTES: usize = 8 << 20;

/// Default ports, HDFS's own numbers.
pub mod ports {
    /// Namenode gRPC.
    pub const NAMENODE_RPC: u16 = 9820;
    /// Namenode HTTP.
    pub const NAMENODE_HTTP: u16 = 9870;
    /// Datanode data transfer.
    pub const DATANODE_XFER: u16 = 9866;
    /// Datanode gRPC.
    pub const DATANODE_IPC: u16 = 9867;
    /// Datanode HTTP.
    pub const DATANODE_HTTP: u16 = 9864;
}
