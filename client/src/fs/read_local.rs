//! Reads of replicas on this machine, from their files.
//!
//! A small block that is wanted whole comes in one answer of its datanode; of others the files are kept open for more reads.
//!
//! Only settled blocks are read this way: of one that is being written here, the pipeline knows more. A replica that cannot be
//! read or does not verify is read over the network from then on.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use dfs_proto::v1::{Block, LocatedBlock};

use super::open_file::FileCore;
use crate::buffer_pool::BufferPool;
use crate::local_exchange::MAX_CONTENT_BYTES;
use crate::local_replica::LocalReplica;
use crate::local_replicas::Local;
use crate::{TransferFault, datanode};

/// Bytes of a buffer: the largest read of a kernel with the chunks at its edges, so that it is used again.
pub(super) const LOCAL_BUFFER_BYTES: usize = (1 << 20) + (8 << 10);

/// A range of one settled block.
struct Settled {
    row: Arc<LocatedBlock>,
    block: Block,
    /// In the block.
    range: Range<u64>,
}

impl FileCore {
    /// Reads a range if one settled block has all of it and a replica is on this machine.
    pub(super) async fn read_local(&self, range: &Range<u64>) -> Option<Bytes> {
        let settled = self.settled(range.start, (range.end - range.start) as usize)?;
        let client = &self.fs.client;
        let location = settled.row.locations.first()?;
        let named = datanode::extended(&client.defaults.block_pool_id, settled.block);
        let whole = settled.range == (0..settled.block.length);
        let content_up_to = if whole { MAX_CONTENT_BYTES } else { 0 };
        let local = client.local.get_up_to(datanode::uuid(location), &settled.block, named, content_up_to);
        let replica = match local.await? {
            Local::Replica(replica) => replica,
            // A replica may be longer than its block.
            Local::Content(bytes) if bytes.len() as u64 >= settled.range.end => {
                return Some(bytes.slice(..settled.range.end as usize));
            }
            Local::Content(_) => return None,
        };
        let (block, range, pool) = (settled.block, settled.range, Arc::clone(&self.fs.local_buffers));
        let task = tokio::task::spawn_blocking(move || read(&replica, &block, &range, &pool));
        let outcome = task.await.unwrap_or_else(|error| Err(std::io::Error::other(error).into()));
        self.local_outcome(&block, outcome)
    }

    /// The replica on this machine of the settled block that has all of a range; of several, the `nth`, counted from the one
    /// that is read usually.
    pub(super) async fn local_replica(
        &self,
        range: &Range<u64>,
        nth: usize,
    ) -> Option<(Block, Arc<LocalReplica>)> {
        let settled = self.settled(range.start, (range.end - range.start) as usize)?;
        if nth > 0 {
            // Not the one that is kept.
            self.fs.client.local.forget(&settled.block);
        }
        let client = &self.fs.client;
        let location = settled.row.locations.get(nth)?;
        let named = datanode::extended(&client.defaults.block_pool_id, settled.block);
        let replica = client.local.get(datanode::uuid(location), &settled.block, named).await?;
        Some((settled.block, replica))
    }

    /// The settled block that has all of a range, if that is known without asking.
    fn settled(&self, offset: u64, len: usize) -> Option<Settled> {
        if !self.fs.client.config.local_reads {
            return None;
        }
        let state = self.state();
        let end = offset.saturating_add(len as u64).min(state.size);
        let index = offset / self.block_size;
        let start = index * self.block_size;
        if offset >= end || state.write.writers.contains_key(&index) {
            return None;
        }
        let row = state.table.row(index)?;
        let block = row.block?;
        let fits = end - start <= block.length;
        if !fits
            || row.under_construction
            || state.table.is_network_only(block.id)
            || !state.write.overlay(offset..end).is_empty()
        {
            return None;
        }
        Some(Settled { row: Arc::clone(row), block, range: offset - start..end - start })
    }

    fn local_outcome(&self, block: &Block, outcome: Result<Bytes, TransferFault>) -> Option<Bytes> {
        match outcome {
            Ok(bytes) => Some(bytes),
            Err(fault) => {
                self.not_local(block, &fault);
                None
            }
        }
    }

    /// The replica here cannot be read or does not verify.
    pub(super) fn not_local(&self, block: &Block, fault: &TransferFault) {
        tracing::debug!(file = %self.subject, %block, %fault, "local read failed, the network is next");
        self.fs.client.local.forget(block);
        self.state().table.note_network_only(block.id);
    }
}

/// Reads and verifies a range of a replica.
fn read(
    replica: &LocalReplica,
    block: &Block,
    range: &Range<u64>,
    pool: &Arc<BufferPool>,
) -> Result<Bytes, TransferFault> {
    let (start, end) = replica.chunk_range(range.start, range.end, block.length);
    let mut buffer = pool.take((end - start) as usize);
    replica.read_chunks(&mut buffer, start, &mut Vec::new())?;
    Ok(buffer.freeze().slice((range.start - start) as usize..(range.end - start) as usize))
}
