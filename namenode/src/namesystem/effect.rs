//! What a command means to the soft state around the namespace.

use dfs_proto::{BlockId, GenerationStamp, v1};

use super::stored_block::StoredBlock;

/// One consequence of an applied command, for block management and the lease manager. Effects are not
/// part of the replicated state: after a restart that state is rebuilt from the tables and from reports.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// A block has a (new) pipeline: after allocation, append, or a rebuilt pipeline.
    BlockAllocated {
        /// The block, under construction.
        block: StoredBlock,
        /// Storages of the pipeline, in order.
        targets: Vec<String>,
    },
    /// Length and stamp of a block are final.
    BlockCommitted {
        /// The block, complete.
        block: StoredBlock,
        /// Storages that hold all of it.
        storage_ids: Vec<String>,
    },
    /// A complete block is shorter now: its replicas may stay as long as they are.
    BlockCut {
        /// The block with its new length.
        block: StoredBlock,
    },
    /// The block is gone: forget it and delete its replicas.
    BlockRemoved {
        /// Block.
        id: BlockId,
        /// Its last stamp.
        stamp: GenerationStamp,
    },
    /// The number of replicas wanted changed.
    ReplicationChanged {
        /// The block with its new replication.
        block: StoredBlock,
    },
    /// A holder has one more file open for writing.
    LeaseTaken {
        /// Holder.
        holder: String,
    },
    /// A holder has no file open for writing any more.
    LeaseReleased {
        /// Holder.
        holder: String,
    },
    /// Datanodes must agree on a block.
    RecoveryStarted {
        /// The block with its old stamp and recorded length.
        block: StoredBlock,
        /// Storages that may have a replica.
        storage_ids: Vec<String>,
        /// Stamp that the recovery gives.
        new_stamp: GenerationStamp,
        /// Length to cut the block to; `None`: the replicas decide.
        truncate_length: Option<u64>,
    },
    /// A datanode's address and storages were recorded.
    DatanodeRecorded {
        /// Address and identity.
        info: v1::DatanodeInfo,
        /// Storages.
        storage_ids: Vec<String>,
    },
    /// An administrator ordered what is to become of a datanode.
    DatanodeAdminSet {
        /// Datanode.
        uuid: String,
        /// What it shall do.
        state: v1::AdminState,
        /// Maintenance: milliseconds from the command until it ends.
        remaining_ms: u64,
    },
    /// An administrator had a datanode forgotten.
    DatanodeRemoved {
        /// Datanode.
        uuid: String,
    },
    /// An administrator set what each datanode may spend on repair.
    RepairBandwidthSet {
        /// Bytes a second; 0: as the datanode sees fit.
        bytes_per_second: u64,
    },
}
