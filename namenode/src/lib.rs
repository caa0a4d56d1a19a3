//! The namenode.

pub mod block_management;
pub mod consensus;
pub mod namesystem;

/// Messages of the replicated log and of Raft, generated from `proto/dfs/*.proto`.
pub mod log {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("dfs.namenode");
}
