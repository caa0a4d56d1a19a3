//! Reads a range of one replica.
//!
//! Owned by one task. Invariants: no byte is handed out before its checksum was verified; packets arrive without gaps, and start on
//! checksum chunk boundaries; a connection goes back to the cache only after the last packet came and the read
//! status was sent.

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
use crate::connection::DataConnection;

/// Bytes read between two verifications: they are verified while they are still in the core's cache.
const VERIFY_STEP_BYTES: usize = 256 << 10;

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
    /// Offset at which the next packet must start.
    packet_start: u64,
    /// Checksums of the packet at hand; reused.
    sums: Vec<u8>,
}

impl BlockReader {
    /// Asks for a range and reads the response.
    pub(crate) async fn open(
        mut connection: DataConnection,
        block: ExtendedBlockProto,
        client_name: &str,
        range: BlockRange,
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
        let packet_start = info.chunk_offset;
        Ok(Self { connection, checksum, next: range.offset, end, packet_start, sums: Vec::new() })
    }

    /// Offset in the block of the next byte.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    /// Whether the whole range was handed out.
    pub(crate) fn is_done(&self) -> bool {
        self.next >= self.end
    }

    /// The next verified bytes, up to a packet; `None` at the end of the range.
    pub(crate) async fn next_bytes(
        &mut self,
        pool: &Arc<BufferPool>,
    ) -> Result<Option<Bytes>, TransferFault> {
        while self.next < self.end {
            let (header, lead, wanted) = self.next_packet().await?;
            let mut buffer = pool.take(header.data_len as usize);
            read_verified(&mut self.connection, &mut buffer, &self.sums, self.checksum).await?;
            self.next += wanted as u64;
            if wanted > 0 {
                return Ok(Some(buffer.freeze().slice(lead..lead + wanted)));
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
            let (header, lead, wanted) = self.next_packet().await?;
            let free = &mut into[filled..];
            let len = header.data_len as usize;
            if wanted > free.len() {
                return Err(TransferFault::Unexpected { field: "packet length" });
            }
            if lead == 0 && len <= free.len() {
                read_verified(&mut self.connection, &mut free[..len], &self.sums, self.checksum).await?;
            } else {
                // The packet has bytes around the range: to the chunk boundaries, as a rule.
                let mut buffer = pool.take(len);
                read_verified(&mut self.connection, &mut buffer, &self.sums, self.checksum).await?;
                free[..wanted].copy_from_slice(&buffer[lead..lead + wanted]);
            }
            self.next += wanted as u64;
            filled += wanted;
        }
        Ok(())
    }

    /// Reads header and checksums of the next packet. Tells how many of its data bytes lie before the next byte
    /// wanted, and how many from there on are wanted.
    async fn next_packet(&mut self) -> Result<(PacketHeader, usize, usize), TransferFault> {
        let raw = self.connection.read_array::<PACKET_LENGTHS_BYTES>().await?;
        let lengths = PacketLengths::decode(raw)?;
        let raw_header = self.connection.read_buffered(lengths.header_len).await?;
        let (header, sums_len) = lengths.decode_header(raw_header)?;
        let len = u64::from(header.data_len);
        if len == 0 || header.offset_in_block != self.packet_start {
            return Err(TransferFault::Unexpected { field: "packet offset" });
        }
        if sums_len != self.checksum.checksums_len(header.data_len as usize) {
            return Err(TransferFault::Unexpected { field: "checksum length" });
        }
        self.sums.resize(sums_len, 0);
        self.connection.read_exact(&mut self.sums).await?;
        let packet_end = self.packet_start + len;
        let lead = (self.next - self.packet_start).min(len);
        let wanted = packet_end.min(self.end).saturating_sub(self.packet_start + lead);
        let at_boundary = packet_end.is_multiple_of(self.checksum.bytes_per_checksum() as u64);
        if !at_boundary && packet_end < self.end {
            return Err(TransferFault::Unexpected { field: "packet length" });
        }
        self.packet_start = packet_end;
        Ok((header, lead as usize, wanted as usize))
    }

    /// Ends a read whose range was read whole: takes the empty last packet, sends the read status, and returns the
    /// connection for the next operation.
    pub(crate) async fn finish(mut self) -> Result<DataConnection, TransferFault> {
        let raw = self.connection.read_array::<PACKET_LENGTHS_BYTES>().await?;
        let lengths = PacketLengths::decode(raw)?;
        let raw_header = self.connection.read_buffered(lengths.header_len).await?;
        let (header, _) = lengths.decode_header(raw_header)?;
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
        let step = (filled + VERIFY_STEP_BYTES).min(into.len());
        filled += connection.read_some(&mut into[filled..step]).await?;
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
