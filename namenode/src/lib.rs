//! The namenode: keeps the namespace and the places of blocks.
//!
//! A change travels `service` -> [`consensus`] (log, group commit) -> [`namesystem`] (apply, one store
//! transaction a batch) -> reply, and its effects go to [`block_management`]. Reads are transactions of
//! the store. [`namesystem`] and [`block_management`] are pure: no clock, no randomness, no network; only
//! `service` knows gRPC, only `monitor` and `service` read a clock.

pub mod block_management;
pub mod config;
pub mod consensus;
pub mod error;
mod framed_call;
mod framed_connection;
#[cfg(test)]
#[path = "../../proto/src/fuzzing.rs"]
mod fuzzing;
pub mod groups;
mod http;
mod listener;
pub mod maintenance;
mod monitor;
pub mod namesystem;
mod rpc_threads;
mod server;
pub mod service;
mod trash_emptier;
mod unary_services;

pub use config::NamenodeConfig;
pub use error::NamenodeError;
pub use server::{NODE_ID, Namenode};

/// Messages of the replicated log and of Raft, generated from `proto/dfs/*.proto`.
pub mod log {
    #![allow(clippy::all, missing_docs)]
    tonic::include_proto!("dfs.namenode");
}
