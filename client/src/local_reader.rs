//! Reads a range of a local replica, piece by piece, on the runtime's blocking threads: the next piece is read and
//! verified while the caller works on the one before.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::TransferFault;
use crate::block_reader::{BlockRange, READ_PIECE_BYTES};
use crate::buffer_pool::{BufferPool, PooledBuffer};
use crate::local_replica::LocalReplica;

/// A read in progress.
pub(crate) struct LocalReader {
    replica: Arc<LocalReplica>,
    /// Valid length of the block.
    length: u64,
    /// Next byte to hand out, in the block.
    next: u64,
    /// End of the range, in the block.
    end: u64,
    ahead: Option<JoinHandle<Result<Piece, TransferFault>>>,
}

/// Bytes that were read and verified.
struct Piece {
    buffer: PooledBuffer,
    /// Place in the block of the buffer's first byte.
    start: u64,
}

impl LocalReader {
    /// Reads `range` of a block with `length` valid bytes. Nothing is read yet.
    pub(crate) fn new(replica: Arc<LocalReplica>, length: u64, range: BlockRange) -> Self {
        Self { replica, length, next: range.offset, end: range.offset + range.len, ahead: None }
    }

    /// Offset in the block of the next byte.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    /// Whether the whole range was handed out.
    pub(crate) fn is_done(&self) -> bool {
        self.next >= self.end
    }

    /// The next verified bytes, up to a piece; `None` at the end of the range.
    pub(crate) async fn next_bytes(
        &mut self,
        pool: &Arc<BufferPool>,
    ) -> Result<Option<Bytes>, TransferFault> {
        if self.is_done() {
            return Ok(None);
        }
        let task = self.ahead.take().unwrap_or_else(|| self.start(self.next, pool));
        let piece = joined(task.await)?;
        let piece_end = piece.start + piece.buffer.len() as u64;
        let (from, to) = (self.next - piece.start, piece_end.min(self.end) - piece.start);
        self.next = piece.start + to;
        if !self.is_done() {
            self.ahead = Some(self.start(self.next, pool));
        }
        Ok(Some(piece.buffer.freeze().slice(from as usize..to as usize)))
    }

    /// Fills `into`, which is at most what is left of the range.
    pub(crate) async fn fill(
        &mut self,
        into: &mut [u8],
        pool: &Arc<BufferPool>,
    ) -> Result<(), TransferFault> {
        let mut filled = 0;
        while filled < into.len() {
            let Some(bytes) = self.next_bytes(pool).await? else {
                return Err(TransferFault::Unexpected { field: "range" });
            };
            let part = bytes.len().min(into.len() - filled);
            into[filled..filled + part].copy_from_slice(&bytes[..part]);
            filled += part;
        }
        Ok(())
    }

    /// Starts reading the piece that begins with the chunk of `offset`.
    fn start(&self, offset: u64, pool: &Arc<BufferPool>) -> JoinHandle<Result<Piece, TransferFault>> {
        let until = (offset - offset % READ_PIECE_BYTES as u64 + READ_PIECE_BYTES as u64).min(self.end);
        let (start, end) = self.replica.chunk_range(offset, until, self.length);
        let (replica, pool) = (Arc::clone(&self.replica), Arc::clone(pool));
        tokio::task::spawn_blocking(move || {
            let mut buffer = pool.take((end - start) as usize);
            replica.read_chunks(&mut buffer, start, &mut Vec::new())?;
            Ok(Piece { buffer, start })
        })
    }
}

fn joined(
    result: Result<Result<Piece, TransferFault>, tokio::task::JoinError>,
) -> Result<Piece, TransferFault> {
    result.unwrap_or_else(|error| Err(std::io::Error::other(error).into()))
}
