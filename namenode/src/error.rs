//! What can go wrong in a namenode outside of the namespace's own refusals.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::block_management::ConfigError;
use crate::consensus::ConsensusError;
use crate::namesystem::NamesystemError;

/// A namenode that cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum NamenodeError {
    /// A setting is out of its bounds.
    #[error("setting {setting}: must be {rule}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// Its bounds.
        rule: &'static str,
    },
    /// A setting of block management is out of its bounds.
    #[error(transparent)]
    BlockManagement(#[from] ConfigError),
    /// A port cannot be listened on.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// Address wanted.
        addr: SocketAddr,
        /// Cause.
        source: std::io::Error,
    },
    /// The directory cannot be made.
    #[error("cannot use directory {}: {source}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The name of the starting user is unknown and no superuser was given.
    #[error("cannot tell which user starts the namenode: set the superuser")]
    UnknownUser,
    /// Log, store or Raft.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// Log or store failed while serving.
    #[error("cannot go on: {0}")]
    Failed(Arc<ConsensusError>),
    /// The namespace cannot be read.
    #[error(transparent)]
    Namesystem(#[from] NamesystemError),
    /// The first command of a new cluster was not accepted in time.
    #[error("the namespace cannot be initialised: {0}")]
    Initialise(dfs_proto::RpcError),
    /// The store has no identity though it was initialised.
    #[error("the namespace in {} has no cluster id", dir.display())]
    NoIdentity {
        /// The directory.
        dir: PathBuf,
    },
}
