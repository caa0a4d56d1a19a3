//! Format of a volume's redo journal: two segment files, `journal/0` and `journal/1`.
//!
//! A segment starts with a header block:
//!
//! | offset | size | field     | rule                                                                             |
//! |--------|------|-----------|----------------------------------------------------------------------------------|
//! | 0      | 8    | magic     | `DFSJRNL1`                                                                       |
//! | 8      | 8    | first     | big-endian; number of the first record, 0: the segment holds nothing             |
//! | 16     | 64   | boot      | the kernel's boot id in text, zeros after it                                     |
//! | 80     | 4    | CRC       | big-endian; CRC-32C of bytes 0 to 79                                             |
//! | 84     | 4012 | padding   | zeros                                                                            |
//!
//! Records follow from offset 4096 on. Those written together follow each other; then zeros up to the next multiple of
//! 4096, so that no block is written twice. Numbers rise by one from `first` on: what an earlier pass over the file left
//! has lower ones, and ends the segment as a torn or missing record does.
//!
//! | offset   | size | field     | rule                                                                           |
//! |----------|------|-----------|--------------------------------------------------------------------------------|
//! | 0        | 4    | magic     | `DJR1`                                                                         |
//! | 4        | 4    | length    | big-endian; of the whole record, CRC included                                  |
//! | 8        | 8    | number    | big-endian                                                                     |
//! | 16       | 1    | kind      | 1 write, 2 intent, 3 settled, 4 created                                        |
//! | 17       | 1    | checksum  | type as in `.meta` files; 0 if the kind is not write                           |
//! | 18       | 2    | padding   | zeros                                                                          |
//! | 20       | 4    | chunk     | big-endian; bytes a checksum, 0 if the kind is not write                       |
//! | 24       | 8    | block     | big-endian; block id                                                           |
//! | 32       | 8    | stamp     | big-endian; generation stamp                                                   |
//! | 40       | 8    | offset    | big-endian; first byte; of a write on a chunk boundary. Settled: a number.     |
//! |          |      |           | Created: 1 if the replica was closed, else 0                                   |
//! | 48       | 8    | bytes     | big-endian; length of the range. Settled, created: 0                           |
//! | 56       | 4 n  | checksums | of a write: one for each chunk, big-endian                                     |
//! | 56 + 4 n | bytes| data      | of a write: whole chunks, the last one up to the replica's end                 |
//! | at end   | 4    | CRC       | big-endian; CRC-32C of all before                                              |
//!
//! - *Write*: these chunks have this content and these checksums.
//! - *Intent*: a replica was about to be overwritten, this range first, for the first time since it was reopened.
//! - *Settled*: everything that records up to the number in `offset` say of the block is on disk in its files, or the block
//!   is gone.
//! - *Created*: the replica is a new one, and everything in it up to the next commit is in records: its files may be missing.

use dfs_proto::checksum::{CHECKSUM_BYTES, Checksum};
use dfs_proto::transfer::ChecksumProto;
use dfs_proto::{BlockId, GenerationStamp};

use crate::replica::BlockRef;

/// Unit in which segments are written.
pub const BLOCK_BYTES: usize = 4096;

/// Most data of one record. Larger overwrites are not worth writing twice.
pub const MAX_DATA_BYTES: usize = 192 << 10;

/// Bytes of a boot id; the kernel's have 36.
const BOOT_BYTES: usize = 64;

const SEGMENT_MAGIC: &[u8; 8] = b"DFSJRNL1";
const RECORD_MAGIC: &[u8; 4] = b"DJR1";
const SEGMENT_CRC_AT: usize = 16 + BOOT_BYTES;
const HEAD_BYTES: usize = 56;
const CRC_BYTES: usize = 4;

/// Header of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Number of its first record; 0: it holds nothing.
    pub first: u64,
    /// Boot of the machine during which it was written.
    pub boot: String,
}

impl SegmentHeader {
    /// The header block.
    pub fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut raw = [0; BLOCK_BYTES];
        raw[..8].copy_from_slice(SEGMENT_MAGIC);
        raw[8..16].copy_from_slice(&self.first.to_be_bytes());
        let boot = &self.boot.as_bytes()[..self.boot.len().min(BOOT_BYTES)];
        raw[16..16 + boot.len()].copy_from_slice(boot);
        let crc = crc32c::crc32c(&raw[..SEGMENT_CRC_AT]);
        raw[SEGMENT_CRC_AT..SEGMENT_CRC_AT + CRC_BYTES].copy_from_slice(&crc.to_be_bytes());
        raw
    }

    /// Reads a header; `None`: this is none, or a torn one.
    pub fn decode(raw: &[u8]) -> Option<Self> {
        let head = raw.get(..SEGMENT_CRC_AT)?;
        let crc = raw.get(SEGMENT_CRC_AT..SEGMENT_CRC_AT + CRC_BYTES)?;
        if head[..8] != *SEGMENT_MAGIC || crc32c::crc32c(head).to_be_bytes() != *crc {
            return None;
        }
        let boot = &head[16..];
        let end = boot.iter().position(|byte| *byte == 0).unwrap_or(boot.len());
        Some(Self { first: number(head, 8)?, boot: String::from_utf8_lossy(&boot[..end]).into_owned() })
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Chunks have this content.
    Write {
        /// How the replica is checksummed.
        checksum: Checksum,
        /// First byte, on a chunk boundary.
        offset: u64,
        /// Checksums of the chunks.
        sums: &'a [u8],
        /// Whole chunks, the last one up to the replica's end.
        data: &'a [u8],
    },
    /// A replica is about to be overwritten, here first.
    Intent {
        /// First byte.
        offset: u64,
        /// Its length.
        len: u64,
    },
    /// What earlier records say is in the files.
    Settled {
        /// Number of the last record that this holds for.
        up_to: u64,
    },
    /// A new replica of which nothing but records is on disk.
    Created {
        /// It was closed.
        closed: bool,
    },
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number.
    pub number: u64,
    /// Replica.
    pub block: BlockRef,
    /// What it says.
    pub change: Change<'a>,
}

impl<'a> Record<'a> {
    /// Bytes that [`Self::encode`] appends.
    pub const fn encoded_len(&self) -> usize {
        let payload = match &self.change {
            Change::Write { sums, data, .. } => sums.len() + data.len(),
            Change::Intent { .. } | Change::Settled { .. } | Change::Created { .. } => 0,
        };
        HEAD_BYTES + payload + CRC_BYTES
    }

    /// Writes the record to the start of `out`, which is long enough.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let length = self.encoded_len();
        let (kind, checksum, offset, bytes) = match self.change {
            Change::Write { checksum, offset, data, .. } => {
                (1, Some(checksum.to_proto()), offset, data.len() as u64)
            }
            Change::Intent { offset, len } => (2, None, offset, len),
            Change::Settled { up_to } => (3, None, up_to, 0),
            Change::Created { closed } => (4, None, u64::from(closed), 0),
        };
        out[..4].copy_from_slice(RECORD_MAGIC);
        out[4..8].copy_from_slice(&(length as u32).to_be_bytes());
        out[8..16].copy_from_slice(&self.number.to_be_bytes());
        out[16] = kind;
        out[17] = checksum.map_or(0, |c| c.r#type as u8);
        out[18..20].fill(0);
        out[20..24].copy_from_slice(&checksum.map_or(0, |c| c.bytes_per_checksum).to_be_bytes());
        out[24..32].copy_from_slice(&self.block.id.get().to_be_bytes());
        out[32..40].copy_from_slice(&self.block.stamp.get().to_be_bytes());
        out[40..48].copy_from_slice(&offset.to_be_bytes());
        out[48..56].copy_from_slice(&bytes.to_be_bytes());
        if let Change::Write { sums, data, .. } = self.change {
            out[HEAD_BYTES..HEAD_BYTES + sums.len()].copy_from_slice(sums);
            out[HEAD_BYTES + sums.len()..length - CRC_BYTES].copy_from_slice(data);
        }
        let crc = crc32c::crc32c(&out[..length - CRC_BYTES]);
        out[length - CRC_BYTES..length].copy_from_slice(&crc.to_be_bytes());
        length
    }

    /// Reads the record at the start of `raw`, with its length; `None`: there is none, or a torn or damaged one.
    pub fn decode(raw: &'a [u8]) -> Option<(Self, usize)> {
        let head = raw.get(..HEAD_BYTES)?;
        if head[..4] != *RECORD_MAGIC {
            return None;
        }
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let body_end = length.checked_sub(CRC_BYTES).filter(|end| *end >= HEAD_BYTES)?;
        let crc = raw.get(body_end..length)?;
        if crc32c::crc32c(&raw[..body_end]).to_be_bytes() != *crc {
            return None;
        }
        let payload = &raw[HEAD_BYTES..body_end];
        let (offset, bytes) = (number(head, 40)?, number(head, 48)?);
        let change = match head[16] {
            1 => {
                let bytes_per_checksum = u32::from_be_bytes([head[20], head[21], head[22], head[23]]);
                let proto = ChecksumProto { r#type: i32::from(head[17]), bytes_per_checksum };
                let checksum = Checksum::from_proto(&proto).ok()?;
                let len = usize::try_from(bytes).ok().filter(|len| *len <= MAX_DATA_BYTES)?;
                let sums_len = checksum.checksums_len(len);
                if payload.len() != sums_len + len || checksum.checksum_size() != CHECKSUM_BYTES {
                    return None;
                }
                let (sums, data) = payload.split_at(sums_len);
                Change::Write { checksum, offset, sums, data }
            }
            2 if payload.is_empty() => Change::Intent { offset, len: bytes },
            3 if payload.is_empty() => Change::Settled { up_to: offset },
            4 if payload.is_empty() && offset <= 1 => Change::Created { closed: offset == 1 },
            _ => return None,
        };
        let block = BlockRef { id: BlockId(number(head, 24)?), stamp: GenerationStamp(number(head, 32)?) };
        Some((Self { number: number(head, 8)?, block, change }, length))
    }
}

fn number(raw: &[u8], at: usize) -> Option<u64> {
    raw.get(at..at + 8)?.first_chunk().copied().map(u64::from_be_bytes)
}

/// The records of a segment's bytes, header included, up to the first that is not one, with their offsets.
pub fn records(raw: &[u8], first: u64) -> impl Iterator<Item = (usize, Record<'_>)> {
    let (mut at, mut expected) = (BLOCK_BYTES, first);
    std::iter::from_fn(move || {
        let next = |at: usize| {
            let (record, length) = Record::decode(raw.get(at..)?)?;
            (record.number == expected).then_some((at, record, at + length))
        };
        let (start, record, end) = next(at).or_else(|| next(at.next_multiple_of(BLOCK_BYTES)))?;
        at = end;
        expected += 1;
        Some((start, record))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_proto::checksum::ChecksumKind;
    use proptest::prelude::*;

    fn encoded(record: &Record<'_>) -> Vec<u8> {
        let mut raw = vec![0xee; record.encoded_len()];
        assert_eq!(record.encode(&mut raw), raw.len());
        raw
    }

    fn small_write<'a>(sums: &'a [u8], data: &'a [u8]) -> Record<'a> {
        let checksum = Checksum::new(ChecksumKind::Crc32, 512).expect("valid");
        let change = Change::Write { checksum, offset: 0x400, sums, data };
        Record { number: 7, block: BlockRef::new(0x1122, 0x33), change }
    }

    #[test]
    fn golden_bytes() {
        #[rustfmt::skip]
        let expected = [
            b'D', b'J', b'R', b'1',
            0, 0, 0, 67,                       // length
            0, 0, 0, 0, 0, 0, 0, 7,            // number
            1,                                 // write
            1,                                 // CRC-32
            0, 0,
            0, 0, 2, 0,                        // 512 bytes a checksum
            0, 0, 0, 0, 0, 0, 0x11, 0x22,      // block
            0, 0, 0, 0, 0, 0, 0, 0x33,         // stamp
            0, 0, 0, 0, 0, 0, 4, 0,            // offset
            0, 0, 0, 0, 0, 0, 0, 3,            // bytes
            0xa, 0xb, 0xc, 0xd,                // checksum
            b'a', b'b', b'c',
        ];
        let record = small_write(&[0xa, 0xb, 0xc, 0xd], b"abc");
        let raw = encoded(&record);
        assert_eq!(raw[..63], expected);
        assert_eq!(raw[63..], crc32c::crc32c(&expected).to_be_bytes());
        assert_eq!(Record::decode(&raw), Some((record, 67)));

        let created = Record { change: Change::Created { closed: true }, ..record };
        let raw = encoded(&created);
        #[rustfmt::skip]
        let expected = [
            b'D', b'J', b'R', b'1', 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, 7, 4, 0, 0, 0, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0x11, 0x22, 0, 0, 0, 0, 0, 0, 0, 0x33, 0, 0, 0, 0, 0, 0, 0, 1,
            0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(raw[..56], expected);

        let header = SegmentHeader { first: 0x0102, boot: "b-1".into() };
        let raw = header.encode();
        assert_eq!(raw[..20], *b"DFSJRNL1\0\0\0\0\0\0\x01\x02b-1\0");
        assert_eq!(raw[80..84], crc32c::crc32c(&raw[..80]).to_be_bytes());
        assert_eq!(SegmentHeader::decode(&raw), Some(header));
    }

    #[test]
    fn the_short_kinds_are_read_back() {
        let created = Change::Created { closed: false };
        for change in [Change::Intent { offset: 5, len: 1 << 30 }, Change::Settled { up_to: 99 }, created] {
            let record = Record { number: 1, block: BlockRef::new(1, 2), change };
            let raw = encoded(&record);
            assert_eq!((raw.len(), Record::decode(&raw)), (60, Some((record, 60))));
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_noticed() {
        let raw = encoded(&small_write(&[1, 2, 3, 4, 5, 6, 7, 8], &[9; 700]));
        for cut in 0..raw.len() {
            assert_eq!(Record::decode(&raw[..cut]), None, "cut at {cut}");
        }
        for bit in 0..raw.len() * 8 {
            let mut bad = raw.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&bad), None, "bit {bit}");
        }
        let header = SegmentHeader { first: 1, boot: "x".into() }.encode();
        for bit in 0..84 * 8 {
            let mut bad = header;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&bad), None, "bit {bit}");
        }
    }

    #[test]
    fn a_segment_ends_where_its_records_do_at_every_cut() {
        let mut raw = SegmentHeader { first: 5, boot: String::new() }.encode().to_vec();
        let mut ends = Vec::new();
        // Two written together, then two more; then what an earlier pass left.
        for (number, pad) in [(5, false), (6, true), (7, false), (8, true), (3, false)] {
            let data = [number as u8; 300];
            let record = Record { number, ..small_write(&[0; 4], &data) };
            raw.extend(encoded(&record));
            ends.push(raw.len());
            if pad {
                raw.resize(raw.len().next_multiple_of(BLOCK_BYTES), 0);
            }
        }
        for cut in 0..=raw.len() {
            let found: Vec<u64> = records(&raw[..cut], 5).map(|(_, record)| record.number).collect();
            let whole = ends[..4].iter().filter(|end| **end <= cut).count() as u64;
            assert_eq!(found, (5..5 + whole).collect::<Vec<_>>(), "cut at {cut}");
        }
        assert_eq!(records(&raw, 6).count(), 0);
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (Record::decode(&raw), SegmentHeader::decode(&raw), records(&raw, 1).count());
            let mut framed = raw.clone();
            if framed.len() > 16 {
                framed[..4].copy_from_slice(b"DJR1");
                framed[4..8].copy_from_slice(&60u32.to_be_bytes());
                let _ = Record::decode(&framed);
            }
        }
    }
}
