//! A small block that came with the request to write it: two packets, of which the second ends it, in one buffer.
//!
//! It needs no receiver: the members after us have their bytes already, its files are made in one go, and what is left is
//! to put the answers together. The writer sees what it would see otherwise.

use std::ops::Range;
use std::sync::Arc;

use dfs_proto::checksum::{Checksum, ChecksumKind};
use dfs_proto::packet::{PACKET_LENGTHS_BYTES, PacketHeader, PacketLengths};
use dfs_proto::transfer::{BlockOpResponseProto, Status};

use super::acks::{AckWriter, Outstanding, OutstandingPackets, all_succeeded};
use super::net::{BUFFER_BYTES, Connection};
use crate::dataset::Dataset;
use crate::dataset::whole::Whole;
use crate::error::DatanodeError;
use crate::replica::BlockRef;

/// Largest block that is put on disk by way of the journal: a larger one is not worth writing twice.
const MAX_DURABLE_BYTES: usize = 64 << 10;

/// Where the parts of a small block are in what was received.
#[derive(Debug, PartialEq, Eq)]
pub struct WholeBlock {
    sums: Range<usize>,
    data: Range<usize>,
    /// Bytes of both packets.
    pub length: usize,
    seqnos: [i64; 2],
    checksum: Checksum,
    /// It is acknowledged when it is on disk.
    durable: bool,
}

impl WholeBlock {
    /// Looks for one, and nothing more, in what came behind a request. Anything else, also what makes no sense, is for the receiver.
    pub fn find(received: &[u8], checksum: Checksum) -> Option<Self> {
        Self::find_first(received, checksum).filter(|whole| whole.length == received.len())
    }

    /// The same if something may follow: a sender of copies does not wait for the answer to one before it sends the next.
    pub fn find_first(received: &[u8], checksum: Checksum) -> Option<Self> {
        let (first, sums, data) = packet(received, 0)?;
        let (last, none, length) = packet(received, data.end)?;
        let durable = first.sync_block || last.sync_block;
        let whole = first.zero_len == 0
            && last.zero_len == 0
            && !(durable && data.len() > MAX_DURABLE_BYTES)
            && !first.last_packet_in_block
            && first.offset_in_block == 0
            && !data.is_empty()
            && checksum.kind() != ChecksumKind::Null
            && sums.len() == checksum.checksums_len(data.len())
            && last.last_packet_in_block
            && last.offset_in_block == data.len() as u64
            && none.is_empty()
            && length.is_empty();
        let seqnos = [first.seqno, last.seqno];
        whole.then_some(Self { sums, data, length: length.end, seqnos, checksum, durable })
    }

    /// Bytes that must have come before [`Self::find_first`] can tell; `None`: it can, or two packets do not fit the buffer. Who
    /// sends a copy sends all of it without an answer, so that they can be waited for.
    pub fn awaits(received: &[u8]) -> Option<usize> {
        let mut end = 0;
        for _ in 0..2 {
            let lengths_end = end + PACKET_LENGTHS_BYTES;
            let Some(raw) = received.get(end..lengths_end) else { return Some(lengths_end) };
            let lengths = PacketLengths::decode(*raw.first_chunk::<PACKET_LENGTHS_BYTES>()?).ok()?;
            end = lengths_end + lengths.header_len + lengths.payload_len;
            if end + PACKET_LENGTHS_BYTES > BUFFER_BYTES {
                return None;
            }
            if received.len() < end {
                return Some(end);
            }
            let head = received.get(lengths_end..lengths_end + lengths.header_len)?;
            if lengths.decode_header(head).ok()?.0.last_packet_in_block {
                return None;
            }
        }
        None
    }

    /// Verifies it and makes the replica. `false`: something of this block is here already.
    pub fn store(
        &self,
        dataset: &Arc<Dataset>,
        block: BlockRef,
        received: &[u8],
        storage_id: Option<&str>,
    ) -> Result<bool, DatanodeError> {
        let (data, sums) = (&received[self.data.clone()], &received[self.sums.clone()]);
        self.checksum.verify(data, sums).map_err(|bad| DatanodeError::Checksum {
            block,
            offset: (bad.chunk * self.checksum.bytes_per_checksum()) as u64,
        })?;
        let whole = Whole { data, sums, checksum: self.checksum, durable: self.durable };
        dataset.create_whole(block, whole, storage_id)
    }

    /// Bytes of data.
    pub fn data_len(&self) -> usize {
        self.data.len()
    }

    /// Sends the answer to the request with the acknowledgements, for which the member after us is waited for. Returns its
    /// connection if it can carry another operation.
    pub fn acknowledge(
        &self,
        upstream: &Connection,
        downstream: Option<Connection>,
        ready: &BlockOpResponseProto,
    ) -> Result<Option<Connection>, DatanodeError> {
        let mut acks = AckWriter::default();
        acks.add_message(ready);
        let Some(mut downstream) = downstream else {
            self.seqnos.iter().for_each(|seqno| acks.add(*seqno, Status::Success, &[]));
            acks.flush(upstream)?;
            return Ok(None);
        };
        let mut outstanding = OutstandingPackets::default();
        for seqno in self.seqnos {
            outstanding.push(Outstanding { seqno, end: self.data.len() as u64 })?;
        }
        let relayed = relay(&mut downstream, &mut outstanding, &mut acks);
        if let Err(error) = &relayed {
            tracing::info!(peer = %downstream.peer(), %error, "downstream member failed");
            for packet in outstanding.drain() {
                acks.add(packet.seqno, Status::Success, &[Status::Error.into()]);
            }
        }
        acks.flush(upstream)?;
        Ok(Some(downstream).filter(|_| relayed.is_ok()))
    }
}

/// Passes acknowledgements on until all have come.
fn relay(
    downstream: &mut Connection,
    outstanding: &mut OutstandingPackets,
    acks: &mut AckWriter,
) -> Result<(), DatanodeError> {
    while !outstanding.is_empty() {
        match outstanding.next_ack(downstream)? {
            Some((packet, replies)) => {
                acks.add(packet.seqno, Status::Success, replies);
                if !all_succeeded(replies) {
                    let message = format!("{replies:?}");
                    return Err(DatanodeError::PeerStatus {
                        peer: downstream.peer(),
                        status: Status::Error,
                        message,
                    });
                }
            }
            None => {
                let have = downstream.buffered().len();
                downstream.fill(have + 1, BUFFER_BYTES)?;
            }
        }
    }
    Ok(())
}

/// The packet at `at`, if all of it is there: its header, and where its checksums and data are.
fn packet(received: &[u8], at: usize) -> Option<(PacketHeader, Range<usize>, Range<usize>)> {
    let raw = received.get(at..)?;
    let lengths = PacketLengths::decode(*raw.first_chunk::<PACKET_LENGTHS_BYTES>()?).ok()?;
    let head = raw.get(PACKET_LENGTHS_BYTES..PACKET_LENGTHS_BYTES + lengths.header_len)?;
    let (header, sums_len) = lengths.decode_header(head).ok()?;
    let sums = at + PACKET_LENGTHS_BYTES + lengths.header_len;
    let data = sums + sums_len;
    let end = data + header.data_len as usize;
    (end <= received.len()).then_some((header, sums..data, data..end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(offset: u64, seqno: i64, data: &[u8], last: bool, sync: bool, out: &mut Vec<u8>) {
        let mut sums = Vec::new();
        Checksum::default().append_checksums(data, &mut sums);
        let header = PacketHeader {
            offset_in_block: offset,
            seqno,
            last_packet_in_block: last,
            data_len: data.len() as u32,
            sync_block: sync,
            zero_len: 0,
        };
        header.encode(sums.len(), out);
        out.extend_from_slice(&sums);
        out.extend_from_slice(data);
    }

    #[test]
    fn only_two_complete_packets_are_a_whole_block() {
        let data = [7; 5000];
        let mut raw = Vec::new();
        encode(0, 0, &data, false, false, &mut raw);
        let first = raw.len();
        encode(5000, 1, &[], true, false, &mut raw);
        let end = raw.len();
        let found = WholeBlock::find(&raw, Checksum::default()).expect("found");
        assert_eq!((found.data_len(), found.length, found.seqnos), (5000, end, [0, 1]));
        assert_eq!(raw[found.data.clone()], data);
        for cut in 0..end {
            assert_eq!(WholeBlock::find(&raw[..cut], Checksum::default()), None, "{cut}");
        }
        let mut longer = raw.clone();
        longer.extend_from_slice(b"the next request");
        assert_eq!(WholeBlock::find(&longer, Checksum::default()), None, "something follows");
        let followed = WholeBlock::find_first(&longer, Checksum::default()).expect("found");
        assert_eq!((followed.length, WholeBlock::awaits(&longer)), (end, None));
        for cut in 0..end {
            let wanted = WholeBlock::awaits(&raw[..cut]).expect("more is to come");
            assert!(wanted > cut && wanted <= end, "{cut}: {wanted}");
        }
        let mut large = Vec::new();
        encode(0, 0, &[7; BUFFER_BYTES], false, false, &mut large);
        assert_eq!(WholeBlock::awaits(&large[..100]), None, "it does not fit the buffer");
        let mut empty = Vec::new();
        encode(0, 0, &[], true, false, &mut empty);
        assert_eq!(WholeBlock::awaits(&empty), None);
        let variants = [
            (0, true, false, 5000, false),
            (4096, false, false, 9096, false),
            (0, false, false, 4999, false),
        ];
        for (offset, last, sync, end, end_sync) in variants {
            let mut raw = Vec::new();
            encode(offset, 0, &data, last, sync, &mut raw);
            encode(end, 1, &[], true, end_sync, &mut raw);
            assert_eq!(WholeBlock::find(&raw, Checksum::default()), None, "{offset} {last} {sync} {end}");
        }
        for (sync, end_sync) in [(true, true), (false, true), (true, false)] {
            let mut raw = Vec::new();
            encode(0, 0, &data, false, sync, &mut raw);
            encode(5000, 1, &[], true, end_sync, &mut raw);
            assert!(WholeBlock::find(&raw, Checksum::default()).is_some_and(|whole| whole.durable));
        }
        let large = vec![7; MAX_DURABLE_BYTES + 1];
        for sync in [false, true] {
            let mut raw = Vec::new();
            encode(0, 0, &large, false, sync, &mut raw);
            encode(large.len() as u64, 1, &[], true, sync, &mut raw);
            assert_eq!(WholeBlock::find(&raw, Checksum::default()).is_some(), !sync);
        }
        let mut endless = raw[..first].to_vec();
        encode(5000, 1, &[], false, false, &mut endless);
        assert_eq!(WholeBlock::find(&endless, Checksum::default()), None, "it does not end");
    }
}
