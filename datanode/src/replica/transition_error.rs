//! Transitions that are refused.

use dfs_proto::GenerationStamp;

use super::{BlockRef, ReplicaState};

/// A transition that is not legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransitionError {
    /// The replica's state does not allow it.
    #[error("{block} is {state:?}")]
    State {
        /// Replica.
        block: BlockRef,
        /// Its state.
        state: ReplicaState,
    },
    /// Stamp out of the range that the transition accepts.
    #[error("{block} does not accept generation stamp {asked}")]
    Stamp {
        /// Replica.
        block: BlockRef,
        /// Stamp in the request.
        asked: GenerationStamp,
    },
    /// Length out of the range that the transition accepts.
    #[error("{block} has {length} bytes ({acked} acknowledged), wanted {least} to {most}")]
    Length {
        /// Replica.
        block: BlockRef,
        /// Bytes on disk.
        length: u64,
        /// Bytes acknowledged.
        acked: u64,
        /// Least length accepted.
        least: u64,
        /// Greatest length accepted.
        most: u64,
    },
    /// Another recovery with a higher id runs.
    #[error("{block} is being recovered to generation stamp {running}")]
    RecoveryRuns {
        /// Replica.
        block: BlockRef,
        /// Id of the running recovery.
        running: GenerationStamp,
    },
}
