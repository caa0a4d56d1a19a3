//! Why a mount cannot be had or ends badly.

use std::io;
use std::path::PathBuf;

use dfs_client::DfsError;

use crate::options::OptionError;

/// The error of everything around the operations.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// An option makes no sense.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The cluster refuses, or cannot be reached.
    #[error(transparent)]
    Cluster(#[from] DfsError),
    /// What is to be mounted is no directory.
    #[error("{path}: Not a directory in the cluster")]
    NotADirectory {
        /// Path in the cluster.
        path: String,
    },
    /// The mount point cannot be used.
    #[error("{path}: {source}")]
    Mountpoint {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A mount of dfs serves there already.
    #[error("{path}: {mounted} is mounted there already")]
    Busy {
        /// Where.
        path: PathBuf,
        /// Its source.
        mounted: String,
    },
    /// The kernel does not mount.
    #[error("{path}: cannot mount: {source}")]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection to the kernel broke.
    #[error("{path}: {source}")]
    Session {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The log cannot be written.
    #[error("{path}: {source}")]
    Log {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Threads or processes cannot be started.
    #[error("cannot start {what}: {source}")]
    Start {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The background process ended before it served.
    #[error("{reason}")]
    NotServing {
        /// What it said.
        reason: String,
    },
    /// Neither a log file was named nor an environment that tells a place for one.
    #[error("no place for the log: give --log, or set HOME or XDG_STATE_HOME")]
    NoLogPlace,
}
