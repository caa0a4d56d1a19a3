//! The data transfer protocol: blocking threads, one a connection, and the connections between datanodes.
//!
//! [`server`] accepts and dispatches; [`write_op`], [`receiver`] and, for small blocks, [`whole_op`] are the write pipeline, [`read_op`] and
//! [`sender`] the read path, [`local`] serves readers on the same machine, [`copy`] sends replicas to other datanodes. Nothing here is async, and nothing
//! allocates a packet: pieces and heads are reused.

pub mod acks;
pub mod buffers;
pub mod checksum_op;
pub mod copy;
pub mod copy_batch;
pub mod local;
pub mod net;
pub mod peers;
pub mod read_op;
pub mod receiver;
pub mod sender;
pub mod server;
pub mod whole_op;
pub mod write_op;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use dfs_proto::transfer::{BaseHeaderProto, BlockOpResponseProto, ExtendedBlockProto};

use self::buffers::ScratchPool;
use self::peers::PeerPool;
use crate::config::DatanodeConfig;
use crate::dataset::Dataset;
use crate::error::DatanodeError;
use crate::metrics::Metrics;
use crate::repair_pace::RepairPace;
use crate::replica::BlockRef;
use crate::throttle::Throttle;

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    /// Settings.
    pub config: DatanodeConfig,
    /// Replicas.
    pub dataset: Arc<Dataset>,
    /// Connections to other datanodes.
    pub peers: PeerPool,
    /// Buffers.
    pub scratch: ScratchPool,
    /// Counters.
    pub metrics: Metrics,
    /// Data connections open.
    pub xceivers: AtomicUsize,
    /// Copies in progress.
    pub transfers: AtomicUsize,
    /// Bandwidth of the copies that balance datanodes.
    pub balance_pace: Throttle,
    /// Pace of the copies that the namenode orders.
    pub repair_pace: RepairPace,
}

impl Shared {
    /// Checks a request's header and names its replica.
    fn block_of(&self, header: &BaseHeaderProto) -> Result<BlockRef, DatanodeError> {
        self.dataset.check_pool(&header.block.pool_id)?;
        Ok(BlockRef::new(header.block.block_id, header.block.generation_stamp))
    }

    /// Header of a request of ours.
    fn header_for(&self, block: BlockRef, length: u64) -> BaseHeaderProto {
        BaseHeaderProto {
            block: ExtendedBlockProto {
                pool_id: self.dataset.identity().map(|i| i.pool_id).unwrap_or_default(),
                block_id: block.id.get(),
                generation_stamp: block.stamp.get(),
                num_bytes: Some(length),
            },
            token: None,
        }
    }
}

/// The answer that an operation failed.
fn failure(error: &DatanodeError, first_bad_link: String) -> BlockOpResponseProto {
    BlockOpResponseProto {
        status: error.transfer_status().into(),
        first_bad_link: Some(first_bad_link),
        message: Some(error.to_string()),
        ..Default::default()
    }
}
