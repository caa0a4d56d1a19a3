//! The receiver's way with packets at any offset.

use dfs_proto::checksum::CHECKSUM_BYTES;
use dfs_proto::packet::PacketHeader;

use super::BlockReceiver;
use crate::dataset::writer::random::{chunks_touched, verify_carried};
use crate::error::DatanodeError;

/// Packets that wait for one sync at most: more gain nothing, and the first one waits for the last.
const MAX_HELD: usize = 64;

impl BlockReceiver<'_> {
    /// Receives, forwards, verifies and writes one packet whose head has been received.
    pub(super) fn receive_anywhere(
        &mut self,
        header: &PacketHeader,
        checksums_len: usize,
    ) -> Result<(), DatanodeError> {
        let writer = self.writer()?;
        writer.check_place(header.offset_in_block, header.data_len, header.zero_len, checksums_len)?;
        let (block, carried) = (writer.block(), writer.carried());
        let chunk = carried.bytes_per_checksum();
        let step = self.scratch.piece.bytes().len() / chunk * chunk;
        let mut left = header.data_len as usize;
        let mut offset = header.offset_in_block;
        let mut sums_at = self.scratch.head.len() - checksums_len;
        let mut first = true;
        while left > 0 || first {
            // All pieces but the first start on a chunk boundary.
            let length = left.min(step - (offset % chunk as u64) as usize);
            self.flush_before_waiting(length)?;
            self.upstream.read_exact(&mut self.scratch.piece.bytes()[..length])?;
            self.progress.note_received(length as u64);
            self.forward(length, first)?;
            let piece = &self.scratch.piece.bytes()[..length];
            let chunks = chunks_touched(chunk as u64, offset, length as u64) as usize;
            let sums = &self.scratch.head[sums_at..sums_at + chunks * CHECKSUM_BYTES];
            verify_carried(carried, piece, offset, sums)
                .map_err(|offset| DatanodeError::Checksum { block, offset })?;
            if let Some(writer) = &mut self.writer {
                writer.write_anywhere(offset, piece, sums, header.sync_block)?;
            }
            left -= length;
            offset += length as u64;
            sums_at += chunks * CHECKSUM_BYTES;
            first = false;
        }
        self.metrics.bytes_written.increment(u64::from(header.data_len));
        self.metrics.count_client(u64::from(header.data_len));
        if let Some(writer) = &mut self.writer {
            if header.zero_len > 0 {
                writer.zero_anywhere(header.offset_in_block, header.zero_len)?;
            }
            self.end = writer.length();
        }
        if header.last_packet_in_block {
            self.release_held()?;
            self.close(header.sync_block)?;
            return self.acknowledge(header);
        }
        if !header.sync_block && self.held.is_empty() {
            return self.acknowledge(header);
        }
        // Those that have come already are written first and share the sync.
        self.held.push(*header);
        if self.held.len() >= MAX_HELD || !self.more_has_come() { self.release_held() } else { Ok(()) }
    }

    fn more_has_come(&mut self) -> bool {
        // A connection that ended says so again when it is read from.
        !self.upstream.buffered().is_empty() || self.upstream.try_fill(self.expected_head).unwrap_or(false)
    }

    /// Syncs what is held and acknowledges it.
    pub(super) fn release_held(&mut self) -> Result<(), DatanodeError> {
        if self.held.is_empty() {
            return Ok(());
        }
        if !self.alone {
            // The members before us shall sync at the same time, not after us.
            self.acks.flush(self.upstream)?;
        }
        if let Some(writer) = &mut self.writer {
            writer.sync()?;
        }
        // Who waits for its disk is not one who waits for bytes.
        self.progress.note_stored();
        for header in std::mem::take(&mut self.held) {
            self.acknowledge(&header)?;
        }
        Ok(())
    }
}
