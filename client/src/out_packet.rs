//! Cuts a file's bytes into packets.
//!
//! Pure: no sockets, no tasks. Invariants: a packet lies in one block; it starts on a checksum chunk
//! boundary, or else holds at most the rest of that chunk (after an append or a flush in mid-chunk);
//! sequence numbers rise by one; every block that got data (or was reopened) ends with one empty last packet,
//! made when the next block begins or the file is closed, so that an `hsync` in between still reaches the block.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use dfs_proto::checksum::Checksum;
use dfs_proto::packet::{HEARTBEAT_SEQNO, PacketHeader};

use crate::buffer_pool::{BufferPool, PooledBuffer};

/// Room for PLEN, HLEN and our header.
const HEADER_ROOM: usize = 48;

/// A packet ready to be sent, and kept until it is acknowledged.
#[derive(Clone, Debug)]
pub(crate) struct OutPacket {
    pub seqno: i64,
    /// Offset of its data in the block.
    pub offset: u64,
    /// Lengths, header and checksums as they are sent.
    pub head: Bytes,
    pub data: Bytes,
    /// Ends the block.
    pub last: bool,
    /// Acknowledged only once it is on disk.
    pub sync: bool,
}

impl OutPacket {
    /// Data at any offset of a block, with a checksum for each chunk it touches (random access).
    pub(crate) fn anywhere(checksum: Checksum, seqno: i64, offset: u64, data: Bytes, sync: bool) -> Self {
        let chunk = checksum.bytes_per_checksum();
        let first = (chunk - (offset % chunk as u64) as usize).min(data.len());
        let (head, rest) = data.split_at(first);
        let sums_len = checksum.checksums_len(head.len()) + checksum.checksums_len(rest.len());
        let mut out = Vec::with_capacity(HEADER_ROOM + sums_len);
        let header = PacketHeader {
            offset_in_block: offset,
            seqno,
            last_packet_in_block: false,
            data_len: data.len() as u32,
            sync_block: sync,
            zero_len: 0,
        };
        header.encode(sums_len, &mut out);
        checksum.append_checksums(head, &mut out);
        checksum.append_checksums(rest, &mut out);
        Self { seqno, offset, head: out.into(), data, last: false, sync }
    }

    /// Makes a range of the block zeros (random access).
    pub(crate) fn zeros(seqno: i64, offset: u64, zero_len: u64) -> Self {
        let header = PacketHeader {
            offset_in_block: offset,
            seqno,
            last_packet_in_block: false,
            data_len: 0,
            sync_block: false,
            zero_len,
        };
        let mut out = Vec::with_capacity(HEADER_ROOM);
        header.encode(0, &mut out);
        Self { seqno, offset, head: out.into(), data: Bytes::new(), last: false, sync: false }
    }

    /// A packet without data at the block's end: ends the block, or (`last` unset) only asks for a sync.
    pub(crate) fn empty(checksum: Checksum, seqno: i64, offset: u64, last: bool, sync: bool) -> Self {
        Self::new(checksum, seqno, offset, Bytes::new(), last, sync)
    }

    fn new(checksum: Checksum, seqno: i64, offset: u64, data: Bytes, last: bool, sync: bool) -> Self {
        let sums_len = checksum.checksums_len(data.len());
        let mut head = Vec::with_capacity(HEADER_ROOM + sums_len);
        let header = PacketHeader {
            offset_in_block: offset,
            seqno,
            last_packet_in_block: last,
            data_len: data.len() as u32,
            sync_block: sync,
            zero_len: 0,
        };
        header.encode(sums_len, &mut head);
        checksum.append_checksums(&data, &mut head);
        Self { seqno, offset, head: head.into(), data, last, sync }
    }

    /// Offset in the block of the byte after its data.
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.data.len() as u64
    }
}

/// Keeps an idle pipeline open; carries nothing.
pub(crate) fn heartbeat() -> Bytes {
    let header = PacketHeader {
        offset_in_block: 0,
        seqno: HEARTBEAT_SEQNO,
        last_packet_in_block: false,
        data_len: 0,
        sync_block: false,
        zero_len: 0,
    };
    let mut out = Vec::with_capacity(HEADER_ROOM);
    header.encode(0, &mut out);
    out.into()
}

/// The packet being filled and its place in the file.
pub(crate) struct Packetizer {
    checksum: Checksum,
    packet_bytes: usize,
    block_size: u64,
    pool: Arc<BufferPool>,
    next_seqno: i64,
    /// Bytes of the block that are in packets already.
    packed: u64,
    /// The block has to be ended by a last packet.
    block_open: bool,
    /// Last packets are to be synced: an `hsync` was asked for, and its promise covers earlier blocks too.
    sync_ends: bool,
    buffer: Option<PooledBuffer>,
    filled: usize,
}

impl Packetizer {
    /// `reopened`: bytes in the block that an append goes on with.
    pub(crate) fn new(
        checksum: Checksum,
        packet_bytes: usize,
        block_size: u64,
        reopened: Option<u64>,
        pool: Arc<BufferPool>,
    ) -> Self {
        let chunk = checksum.bytes_per_checksum();
        Self {
            checksum,
            packet_bytes: (packet_bytes / chunk * chunk).max(chunk),
            block_size,
            pool,
            next_seqno: 0,
            packed: reopened.unwrap_or(0),
            block_open: reopened.is_some(),
            sync_ends: false,
            buffer: None,
            filled: 0,
        }
    }

    /// Bytes that the packet at hand may have.
    fn capacity(&self) -> usize {
        let chunk = self.checksum.bytes_per_checksum() as u64;
        let in_chunk = self.packed % chunk;
        let by_chunk = if in_chunk == 0 { self.packet_bytes as u64 } else { chunk - in_chunk };
        by_chunk.min(self.block_size.saturating_sub(self.packed)) as usize
    }

    /// Takes bytes until a packet is full; `out` then has it. Tells how many were taken.
    pub(crate) fn push(&mut self, data: &[u8], out: &mut VecDeque<OutPacket>) -> usize {
        if data.is_empty() {
            return 0;
        }
        self.leave_full_block(out);
        let capacity = self.capacity();
        let n = data.len().min(capacity - self.filled);
        let buffer = self.buffer.get_or_insert_with(|| self.pool.take(self.packet_bytes));
        buffer[self.filled..self.filled + n].copy_from_slice(&data[..n]);
        self.filled += n;
        if self.filled == capacity {
            self.seal(false, out);
        }
        n
    }

    /// Like [`Self::push`]; what makes up whole packets is not copied.
    pub(crate) fn push_bytes(&mut self, data: &mut Bytes, out: &mut VecDeque<OutPacket>) {
        if data.is_empty() {
            return;
        }
        self.leave_full_block(out);
        let capacity = self.capacity();
        if self.filled == 0 && data.len() >= capacity {
            let packet = data.split_to(capacity);
            self.emit(packet, false, out);
        } else {
            let taken = self.push(data, out);
            let _ = data.split_to(taken);
        }
    }

    /// Makes a packet of what is there, if anything; with `sync`, also of nothing if the block is open.
    pub(crate) fn flush(&mut self, sync: bool, out: &mut VecDeque<OutPacket>) {
        self.sync_ends |= sync;
        if self.filled > 0 {
            self.seal(sync, out);
        } else if sync && self.block_open {
            self.emit(Bytes::new(), true, out);
        }
    }

    /// Ends the file.
    pub(crate) fn finish(&mut self, out: &mut VecDeque<OutPacket>) {
        self.flush(false, out);
        self.end_block(out);
    }

    fn leave_full_block(&mut self, out: &mut VecDeque<OutPacket>) {
        if self.filled == 0 && self.packed >= self.block_size {
            self.end_block(out);
        }
    }

    fn end_block(&mut self, out: &mut VecDeque<OutPacket>) {
        if self.block_open {
            let (seqno, offset) = (self.next_seqno, self.packed);
            self.next_seqno += 1;
            out.push_back(OutPacket::new(self.checksum, seqno, offset, Bytes::new(), true, self.sync_ends));
            self.block_open = false;
            self.packed = 0;
        }
    }

    fn seal(&mut self, sync: bool, out: &mut VecDeque<OutPacket>) {
        if let Some(mut buffer) = self.buffer.take() {
            buffer.truncate(self.filled);
            self.filled = 0;
            self.emit(buffer.freeze(), sync, out);
        }
    }

    fn emit(&mut self, data: Bytes, sync: bool, out: &mut VecDeque<OutPacket>) {
        let (seqno, offset) = (self.next_seqno, self.packed);
        self.next_seqno += 1;
        self.packed += data.len() as u64;
        self.block_open = true;
        out.push_back(OutPacket::new(self.checksum, seqno, offset, data, false, sync));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::checksum::ChecksumKind;
    use dfs_proto::packet::{PACKET_LENGTHS_BYTES, PacketLengths};

    const CHUNK: u32 = 16;

    fn packetizer(block_size: u64, reopened: Option<u64>) -> Packetizer {
        let checksum = Checksum::new(ChecksumKind::Crc32, CHUNK).expect("valid");
        Packetizer::new(checksum, 40, block_size, reopened, BufferPool::new(64))
    }

    fn write(packetizer: &mut Packetizer, mut data: &[u8], out: &mut VecDeque<OutPacket>) {
        while !data.is_empty() {
            data = &data[packetizer.push(data, out)..];
        }
    }

    /// Offset, length and "last" of each packet; checks what is on the wire on the way.
    fn shape(out: &VecDeque<OutPacket>) -> Vec<(u64, usize, bool)> {
        let checksum = Checksum::new(ChecksumKind::Crc32, CHUNK).expect("valid");
        let mut shapes = Vec::new();
        for (i, packet) in out.iter().enumerate() {
            let raw: [u8; PACKET_LENGTHS_BYTES] = packet.head[..6].try_into().expect("six bytes");
            let lengths = PacketLengths::decode(raw).expect("valid");
            let sums_at = PACKET_LENGTHS_BYTES + lengths.header_len;
            let (header, sums_len) = lengths.decode_header(&packet.head[6..sums_at]).expect("valid");
            assert_eq!((header.seqno, packet.seqno), (i as i64, i as i64));
            assert_eq!(header.offset_in_block, packet.offset);
            assert_eq!(header.last_packet_in_block, packet.last);
            assert_eq!(packet.head.len(), sums_at + sums_len);
            assert_eq!(checksum.verify(&packet.data, &packet.head[sums_at..]), Ok(()));
            shapes.push((packet.offset, packet.data.len(), packet.last));
        }
        shapes
    }

    #[test]
    fn packets_are_whole_chunks_within_blocks() {
        // 40 bytes round down to packets of two chunks; blocks have 80 bytes.
        let (mut p, mut out) = (packetizer(80, None), VecDeque::new());
        write(&mut p, &[7; 100], &mut out);
        p.finish(&mut out);
        assert_eq!(
            shape(&out),
            [(0, 32, false), (32, 32, false), (64, 16, false), (80, 0, true), (0, 20, false), (20, 0, true)]
        );
    }

    #[test]
    fn a_packet_anywhere_has_a_checksum_for_each_chunk_it_touches() {
        let checksum = Checksum::new(ChecksumKind::Crc32, CHUNK).expect("valid");
        // Offset, length, and where the data is cut by chunks of 16 bytes.
        let cases: [(u64, usize, &[usize]); 4] =
            [(5, 3, &[3]), (5, 30, &[11, 16, 3]), (32, 32, &[16, 16]), (31, 1, &[1])];
        for (offset, len, cuts) in cases {
            let data: Vec<u8> = (0..len as u8).collect();
            let packet = OutPacket::anywhere(checksum, 7, offset, data.clone().into(), true);
            let lengths =
                PacketLengths::decode(packet.head[..6].try_into().expect("six bytes")).expect("valid");
            let sums_at = PACKET_LENGTHS_BYTES + lengths.header_len;
            let (header, sums_len) = lengths.decode_header(&packet.head[6..sums_at]).expect("valid");
            assert_eq!(
                (header.offset_in_block, header.data_len, header.sync_block),
                (offset, len as u32, true)
            );
            assert_eq!(sums_len, 4 * cuts.len());
            let (mut at, mut sums) = (0, packet.head[sums_at..].chunks(4));
            for cut in cuts {
                let sum = checksum.of(&data[at..at + cut]).to_be_bytes();
                assert_eq!(sums.next(), Some(&sum[..]), "{offset} {len}");
                at += cut;
            }
            assert_eq!((packet.end(), packet.head.len()), (offset + len as u64, sums_at + sums_len));
        }
        let zeros = OutPacket::zeros(8, 100, 5000);
        let lengths = PacketLengths::decode(zeros.head[..6].try_into().expect("six bytes")).expect("valid");
        let (header, sums_len) = lengths.decode_header(&zeros.head[6..]).expect("valid");
        assert_eq!((header.zero_len, header.data_len, sums_len, zeros.end()), (5000, 0, 0, 100));
    }

    #[test]
    fn a_full_block_is_ended_only_when_the_next_begins() {
        let (mut p, mut out) = (packetizer(32, None), VecDeque::new());
        write(&mut p, &[7; 32], &mut out);
        p.flush(true, &mut out);
        assert_eq!(shape(&out), [(0, 32, false), (32, 0, false)], "the sync still reaches the block");
        write(&mut p, &[7; 1], &mut out);
        p.finish(&mut out);
        assert_eq!(shape(&out)[2..], [(32, 0, true), (0, 1, false), (1, 0, true)]);
    }

    #[test]
    fn a_packet_in_mid_chunk_holds_the_rest_of_the_chunk() {
        for (reopened, first) in [(None, 5), (Some(21), 0)] {
            let (mut p, mut out) = (packetizer(80, reopened), VecDeque::new());
            write(&mut p, &vec![7; first], &mut out);
            p.flush(false, &mut out);
            let start = reopened.unwrap_or(0) + first as u64;
            let made = out.len();
            let mut data = Bytes::from(vec![7u8; 40]);
            while !data.is_empty() {
                p.push_bytes(&mut data, &mut out);
            }
            p.finish(&mut out);
            let rest = (16 - start % 16) as usize;
            let expected =
                [(start, rest, false), (start + rest as u64, 40 - rest, false), (start + 40, 0, true)];
            assert_eq!(shape(&out)[made..], expected);
        }
    }

    #[test]
    fn nothing_written_makes_no_packet_except_after_an_append() {
        let mut out = VecDeque::new();
        let mut p = packetizer(80, None);
        p.flush(true, &mut out);
        p.finish(&mut out);
        assert!(out.is_empty());
        packetizer(80, Some(7)).finish(&mut out);
        assert_eq!(shape(&out), [(7, 0, true)]);
    }

    #[test]
    fn whole_packets_of_bytes_are_not_copied() {
        let (mut p, mut out) = (packetizer(80, None), VecDeque::new());
        let data = Bytes::from(vec![7u8; 40]);
        let mut rest = data.clone();
        p.push_bytes(&mut rest, &mut out);
        assert_eq!(out[0].data.as_ptr(), data.as_ptr());
        assert_eq!(rest.len(), 8);
    }
}
