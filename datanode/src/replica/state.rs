//! States of a replica.

use dfs_proto::v1;

/// State of a replica, HDFS's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReplicaState {
    /// Complete and closed.
    Finalized,
    /// Replica being written.
    Rbw,
    /// Replica waiting to be recovered: its datanode stopped while it was written.
    Rwr,
    /// Replica under recovery.
    Rur,
    /// Being copied in; invisible.
    Temporary,
}

impl ReplicaState {
    /// The message form.
    pub const fn to_proto(self) -> v1::ReplicaState {
        match self {
            Self::Finalized => v1::ReplicaState::Finalized,
            Self::Rbw => v1::ReplicaState::Rbw,
            Self::Rwr => v1::ReplicaState::Rwr,
            Self::Rur => v1::ReplicaState::Rur,
            Self::Temporary => v1::ReplicaState::Temporary,
        }
    }

    /// From the message form.
    pub const fn from_proto(state: v1::ReplicaState) -> Self {
        match state {
            v1::ReplicaState::Finalized => Self::Finalized,
            v1::ReplicaState::Rbw => Self::Rbw,
            v1::ReplicaState::Rwr => Self::Rwr,
            v1::ReplicaState::Rur => Self::Rur,
            v1::ReplicaState::Temporary => Self::Temporary,
        }
    }
}
