//! A block as the namespace knows it.

use dfs_proto::{BlockId, GenerationStamp, InodeId, v1};

/// Whether a block's content is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// A client writes it.
    UnderConstruction,
    /// Its datanodes are agreeing on length and stamp.
    UnderRecovery,
    /// Length and stamp are final. (HDFS's "committed" is part of it: a block is complete once its
    /// writer names the storages that acknowledged everything.)
    Complete,
}

/// Row of the blocks table, with all that block management needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    /// Block id.
    pub id: BlockId,
    /// Stamp that valid replicas have at least.
    pub stamp: GenerationStamp,
    /// Length in bytes; of a block that is not complete, what is recorded so far.
    pub length: u64,
    /// Replicas wanted.
    pub replication: u16,
    /// State.
    pub state: BlockState,
    /// File it belongs to.
    pub inode: InodeId,
    /// Position in the file: the block starts at this times the file's block size.
    pub index: u64,
    /// Storages where replicas were last known to be; of a block under construction, its pipeline.
    pub hints: Vec<String>,
}

impl StoredBlock {
    /// The block as messages name it.
    pub const fn to_proto(&self) -> v1::Block {
        v1::Block { id: self.id.get(), generation_stamp: self.stamp.get(), length: self.length }
    }
}
