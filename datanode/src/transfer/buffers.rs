//! Memory of the data path: page-aligned pieces, reused.

use std::sync::Mutex;

use crate::piece::Piece;
use crate::sync::lock;

/// Data handled at a time: small enough to stay in a core's cache from receive over forwarding and checksum
/// to the write, large enough that system calls do not count.
pub const PIECE_BYTES: usize = 256 << 10;

/// Buffers kept for reuse. More are allocated when needed and freed afterwards.
const MAX_KEPT: usize = 16;

/// What one operation works in.
#[derive(Debug)]
pub struct Scratch {
    /// Packet head: lengths, header, checksums.
    pub head: Vec<u8>,
    /// Packet data, a piece at a time.
    pub piece: Piece,
}

impl Scratch {
    fn new(piece_bytes: usize) -> Self {
        Self { head: Vec::new(), piece: Piece::new(piece_bytes) }
    }
}

/// Buffers between operations.
#[derive(Debug, Default)]
pub struct ScratchPool {
    free: Mutex<Vec<Scratch>>,
}

impl ScratchPool {
    /// Buffers whose piece is a multiple of `chunk` bytes that suits it.
    pub fn take(&self, chunk: usize) -> Scratch {
        if chunk > PIECE_BYTES {
            return Scratch::new(chunk);
        }
        lock(&self.free).pop().unwrap_or_else(|| Scratch::new(PIECE_BYTES))
    }

    /// Gives buffers back.
    pub fn give(&self, scratch: Scratch) {
        let mut free = lock(&self.free);
        if scratch.piece.len() == PIECE_BYTES && free.len() < MAX_KEPT {
            free.push(scratch);
        }
    }
}
