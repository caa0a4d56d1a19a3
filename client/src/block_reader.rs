//! Reads a range of one replica.
//!
//! Owned by one task. Data is read in pieces of at most [`READ_PIECE_BYTES`], whatever the size of the packets: a piece is
//! still in the core's cache when it is verified and when the caller looks at it, and the next one goes into the same
//! memory. Invariants: no byte is handed out before its checksum was verified; packets arrive without gaps, and start on
//! checksum chunk boundaries; a connection goes back to the cache only after the last packet came and the read
//! status was sent.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use dfs_proto::checksum::{Checksum, ChecksumMismatch};
use dfs_proto::data_transfer::{Op, encode_delimited, encode_op};
use dfs_proto::packet::{PACKET_LENGTHS_BYTES, PacketHeader, PacketLengths};
use dfs_proto::transfer::{
    BaseHeaderProto, BlockOpResponseProto, ClientOperationHeaderProto, ClientReadStatusProto,
    ExtendedBlockProto, OpReadBlockProto, Status,
};

use crate::TransferFault;
use crate::buffer_pool::BufferPool;
use crate::connection::{BUFFER_BYTES, DataConnection};

/// Bytes read, verified and handed out at once. Buffers that rotate through more than a core's second-level cache, 1 to
/// 2 MiB, cost a trip to memory for each byte; with this size a reader whose caller holds a piece or two fits well. Smaller
/// pieces would cost more system calls.
pub(crate) const READ_PIECE_BYTES: usize = 256 << 10;

/// A range of a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockRange {
    /// First byte wanted, in the block.
    pub offset: u64,
    /// Bytes wanted, at least one.
    pub len: u64,
}

/// A read in progress.
pub(crate) struct BlockReader {
    connection: DataConnection,
    checksum: Checksum,
    /// Next byte to hand out, in the block.
    next: u64,
    /// End of the range, in the block.
    end: u64,
    /// Place in the block of the next byte on the connection.
    at: u64,
    /// Data bytes of the packet at hand that were not read yet.
    left: usize,
    /// Checksums of the packet at hand; reused.
    sums: Vec<u8>,
    /// Where those of the next byte begin.
    sums_at: usize,
    /// Bytes of lengths, header and checksums expected in front of the next packet's data.
    expected_head: usize,
}

/// What is read next.
struct Piece {
    /// Its data bytes.
    len: usize,
    /// How many of them lie before the next byte wanted.
    lead: usize,
    /// How many from there on are wanted.
    wanted: usize,
    /// Its checksums.
    sums: Range<usize>,
}

impl BlockReader {
    /// Asks for a range and reads the response.
    pub(crate) async fn open(
        connection: DataConnection,
        block: ExtendedBlockProto,
        client_name: &str,
        range: BlockRange,
    ) -> Result<Self, TransferFault> {
        Self::open_as(connection, block, client_name, range, false).await
    }

    /// The same; `raw`: the bytes as they are on the disk, good or bad.
    pub(crate) async fn open_as(
        mut connection: DataConnection,
        block: ExtendedBlockProto,
        client_name: &str,
        range: BlockRange,
        raw: bool,
    ) -> Result<Self, TransferFault> {
        let header = OpReadBlockProto {
            header: ClientOperationHeaderProto {
                base_header: BaseHeaderProto { block, token: None },
                client_name: client_name.to_owned(),
            },
            offset: range.offset,
            len: range.len,
            send_checksums: None,
            caching_strategy: None,
            raw: raw.then_some(true),
        };
        connection.send(&encode_op(Op::ReadBlock, &header)).await?;
        let response: BlockOpResponseProto = connection.read_message().await?;
        if response.status() != Status::Success {
            return Err(TransferFault::Refused {
                status: response.status,
                message: response.message.unwrap_or_default(),
            });
        }
        let info = response.read_op_checksum_info.ok_or(TransferFault::Unexpected { field: "response" })?;
        let checksum = Checksum::from_proto(&info.checksum)?;
        let chunk = checksum.bytes_per_checksum() as u64;
        if info.chunk_offset > range.offset
            || range.offset - info.chunk_offset >= chunk
            || !info.chunk_offset.is_multiple_of(chunk)
        {
            return Err(TransferFault::Unexpected { field: "chunk offset" });
        }
        let end = range.offset + range.len;
        Ok(Self {
            connection,
            checksum,
            next: range.offset,
            end,
            at: info.chunk_offset,
            left: 0,
            sums: Vec::new(),
            sums_at: 0,
            expected_head: BUFFER_BYTES,
        })
    }

    /// Offset in the block of the next byte.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    /// Whether the whole range was handed out.
    pub(crate) fn is_done(&self) -> bool {
        self.next >= self.end
    }

    /// The next verified bytes, up to a piece; `None` at the end of the range. The buffer of `pool` is the only memory that
    /// they take.
    pub(crate) async fn next_bytes(
        &mut self,
        pool: &Arc<BufferPool>,
    ) -> Result<Option<Bytes>, TransferFault> {
        while self.next < self.end {
            let piece = self.next_piece().await?;
            let mut buffer = pool.take(piece.len);
            self.read_piece(&piece, &mut buffer).await?;
            if piece.wanted > 0 {
                return Ok(Some(buffer.freeze().slice(piece.lead..piece.lead + piece.wanted)));
            }
        }
        Ok(None)
    }

    /// Fills `into`, which is at most what is left of the range.
    pub(crate) async fn fill(
        &mut self,
        into: &mut [u8],
        pool: &Arc<BufferPool>,
    ) -> Result<(), TransferFault> {
        let mut filled = 0;
        while filled < into.len() {
            let piece = self.next_piece().await?;
            let free = &mut into[filled..];
            if piece.wanted > free.len() {
                return Err(TransferFault::Unexpected { field: "packet length" });
            }
            if piece.lead == 0 && piece.len <= free.len() {
                self.read_piece(&piece, &mut free[..piece.len]).await?;
            } else {
                // The piece has bytes around the range: to the chunk boundaries, as a rule.
                let mut buffer = pool.take(piece.len);
                self.read_piece(&piece, &mut buffer).await?;
                free[..piece.wanted].copy_from_slice(&buffer[piece.lead..piece.lead + piece.wanted]);
            }
            filled += piece.wanted;
        }
        Ok(())
    }

    /// What comes next: a part of the packet at hand, or of the next one, whose header and checksums are read then.
    async fn next_piece(&mut self) -> Result<Piece, TransferFault> {
        if self.left == 0 {
            self.next_packet().await?;
        }
        let chunk = self.checksum.bytes_per_checksum();
        let len = self.left.min((READ_PIECE_BYTES / chunk).max(1) * chunk);
        let lead = (self.next - self.at).min(len as u64);
        let wanted = (self.at + len as u64).min(self.end).saturating_sub(self.at + lead);
        let sums = self.sums_at..self.sums_at + self.checksum.checksums_len(len);
        Ok(Piece { len, lead: lead as usize, wanted: wanted as usize, sums })
    }

    /// Reads and verifies a piece into `into`, which has its length.
    async fn read_piece(&mut self, piece: &Piece, into: &mut [u8]) -> Result<(), TransferFault> {
        read_verified(&mut self.connection, into, &self.sums[piece.sums.clone()], self.checksum).await?;
        self.at += piece.len as u64;
        self.left -= piece.len;
        self.sums_at = piece.sums.end;
        self.next += piece.wanted as u64;
        Ok(())
    }

    /// Reads header and checksums of the next packet.
    async fn next_packet(&mut self) -> Result<(), TransferFault> {
        let (header, sums_len, head_len) = self.packet_header(self.expected_head).await?;
        let len = header.data_len as usize;
        if len == 0 || header.offset_in_block != self.at {
            return Err(TransferFault::Unexpected { field: "packet offset" });
        }
        if sums_len != self.checksum.checksums_len(len) {
            return Err(TransferFault::Unexpected { field: "checksum length" });
        }
        let packet_end = self.at + len as u64;
        let at_boundary = packet_end.is_multiple_of(self.checksum.bytes_per_checksum() as u64);
        if !at_boundary && packet_end < self.end {
            return Err(TransferFault::Unexpected { field: "packet length" });
        }
        self.sums.resize(sums_len, 0);
        self.connection.read_exact(&mut self.sums).await?;
        (self.left, self.sums_at) = (len, 0);
        // Small packets come in one call with their data; the data of large ones is not copied.
        self.expected_head =
            if len > BUFFER_BYTES { (head_len + sums_len).min(BUFFER_BYTES) } else { BUFFER_BYTES };
        Ok(())
    }

    /// Reads lengths and header of a packet; with them come the bytes of its checksums, and its own length.
    async fn packet_header(
        &mut self,
        expected: usize,
    ) -> Result<(PacketHeader, usize, usize), TransferFault> {
        let raw = self.connection.read_array::<PACKET_LENGTHS_BYTES>(expected).await?;
        let lengths = PacketLengths::decode(raw)?;
        let raw_header = self.connection.read_buffered(lengths.header_len, lengths.header_len).await?;
        let (header, sums_len) = lengths.decode_header(raw_header)?;
        Ok((header, sums_len, PACKET_LENGTHS_BYTES + lengths.header_len))
    }

    /// Ends a read whose range was read whole: takes the empty last packet, sends the read status, and returns the
    /// connection for the next operation.
    pub(crate) async fn finish(mut self) -> Result<DataConnection, TransferFault> {
        if self.left > 0 {
            return Err(TransferFault::Unexpected { field: "data behind the range" });
        }
        let (header, ..) = self.packet_header(BUFFER_BYTES).await?;
        if header.data_len != 0 || !header.last_packet_in_block {
            return Err(TransferFault::Unexpected { field: "last packet" });
        }
        let status = ClientReadStatusProto { status: Status::ChecksumOk.into() };
        let mut out = Vec::new();
        encode_delimited(&status, &mut out);
        self.connection.send(&out).await?;
        Ok(self.connection)
    }
}

/// Fills `into` from the connection, verifying complete chunks as they arrive.
async fn read_verified(
    connection: &mut DataConnection,
    into: &mut [u8],
    sums: &[u8],
    checksum: Checksum,
) -> Result<(), TransferFault> {
    let chunk = checksum.bytes_per_checksum();
    let (mut filled, mut verified) = (0, 0);
    while filled < into.len() {
        filled += connection.read_some(&mut into[filled..]).await?;
        let complete = if filled == into.len() { filled } else { filled - filled % chunk };
        if complete > verified {
            let first = verified / chunk;
            let last = complete.div_ceil(chunk);
            let sums = &sums[first * checksum.checksum_size()..last * checksum.checksum_size()];
            checksum
                .verify(&into[verified..complete], sums)
                .map_err(|bad| ChecksumMismatch { chunk: first + bad.chunk })?;
            verified = complete;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
