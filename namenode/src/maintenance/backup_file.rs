//! Format of a backup of the namespace.
//!
//! A backup is the whole state after one entry of the log: a header and frames, little endian, packed without gaps.
//!
//! | offset | size | field    | rule                                                     |
//! |--------|------|----------|----------------------------------------------------------|
//! | 0      | 8    | magic    | "dfs-nnbk"                                               |
//! | 8      | 4    | layout   | 1                                                        |
//! | 12     | 4    | reserved | zero                                                     |
//! | 16     | 8    | created  | wall clock, ns since the epoch                           |
//! | 24     | 8    | term     | of the last entry that the state contains                |
//! | 32     | 8    | node id  | of that entry's leader                                   |
//! | 40     | 8    | index    | of that entry                                            |
//! | 48     | 4    | crc      | CRC-32C of bytes 0..48                                   |
//! | 52     | 4    | reserved | zero                                                     |
//!
//! A frame:
//!
//! | offset | size | field   | rule                                                                             |
//! |--------|------|---------|----------------------------------------------------------------------------------|
//! | 0      | 4    | length  | of the payload, at most [`FRAME_BYTES_MAX`]                                      |
//! | 4      | 4    | crc     | CRC-32C of the payload, going on from the crc of the frame before (or the header) |
//! | 8      | n    | payload | `RaftSnapshotPart`: rows of a table, or the end with the count of all rows       |
//!
//! The end is the last frame, and nothing follows it. As each frame's crc goes on from the one before, frames that are
//! missing, twice there or in another order are noticed as well as flipped bytes.

use std::io::{self, ErrorKind, Read};

use prost::Message;

use crate::consensus::{Damage, Position};
use crate::log::{RaftSnapshotPart, raft_snapshot_part::Part};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 56;

/// Bytes before a frame's payload.
const FRAME_HEADER_BYTES: usize = 8;

/// Longest payload: a part of a snapshot is much shorter, even with the largest row.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

const MAGIC: &[u8; 8] = b"dfs-nnbk";
const LAYOUT: u32 = 1;
const CRC_AT: usize = 48;

/// Which state a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupHeader {
    /// When it was made, ns since the epoch.
    pub created_ns: i64,
    /// Term of the last entry.
    pub term: u64,
    /// Leader of that term.
    pub node_id: u64,
    /// Index of the last entry.
    pub index: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl BackupHeader {
    /// Of the state at a position.
    pub fn of(position: &Position, created_ns: i64) -> Self {
        let (term, node_id, index) = position.last_entry();
        Self { created_ns, term, node_id, index }
    }

    /// The header as it stands in a file.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&LAYOUT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.created_ns.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.term.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.node_id.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.index.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, Damage> {
        if &bytes[0..8] != MAGIC {
            return Err(Damage::Magic);
        }
        if u32_at(bytes, 8) != LAYOUT {
            return Err(Damage::Layout(u32_at(bytes, 8)));
        }
        if crc32c::crc32c(&bytes[..CRC_AT]) != u32_at(bytes, CRC_AT) {
            return Err(Damage::Checksum);
        }
        if u32_at(bytes, 12) != 0 || u32_at(bytes, CRC_AT + 4) != 0 {
            return Err(Damage::Reserved);
        }
        Ok(Self {
            created_ns: u64_at(bytes, 16).cast_signed(),
            term: u64_at(bytes, 24),
            node_id: u64_at(bytes, 32),
            index: u64_at(bytes, 40),
        })
    }

    /// Where the crc of the first frame goes on from.
    fn crc(&self) -> u32 {
        u32_at(&self.encode(), CRC_AT)
    }
}

/// Makes frames, in order.
pub struct FrameEncoder {
    crc: u32,
}

impl FrameEncoder {
    /// For the frames after `header`.
    pub fn new(header: &BackupHeader) -> Self {
        Self { crc: header.crc() }
    }

    /// The next frame.
    pub fn frame(&mut self, part: &RaftSnapshotPart) -> Vec<u8> {
        let payload = part.encode_to_vec();
        self.crc = crc32c::crc32c_append(self.crc, &payload);
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        [&length.to_le_bytes()[..], &self.crc.to_le_bytes(), &payload].concat()
    }
}

/// Why a backup cannot be read.
#[derive(Debug)]
pub enum ReadError {
    /// The file fails.
    Io(io::Error),
    /// It holds what was never written.
    Damaged {
        /// Where.
        offset: u64,
        /// What is wrong.
        reason: Damage,
    },
}

/// Reads a backup and verifies it.
pub struct BackupReader<R> {
    file: R,
    header: BackupHeader,
    crc: u32,
    offset: u64,
    rows: u64,
    ended: bool,
}

impl<R: Read> BackupReader<R> {
    /// Reads the header.
    pub fn open(mut file: R) -> Result<Self, ReadError> {
        let mut bytes = [0; HEADER_BYTES];
        read_exact(&mut file, &mut bytes, 0)?;
        let header =
            BackupHeader::decode(&bytes).map_err(|reason| ReadError::Damaged { offset: 0, reason })?;
        let crc = header.crc();
        Ok(Self { file, header, crc, offset: HEADER_BYTES as u64, rows: 0, ended: false })
    }

    /// Which state it is.
    pub const fn header(&self) -> BackupHeader {
        self.header
    }

    /// Rows so far.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// The next part; `None` after the end, when everything has been verified.
    pub fn next_part(&mut self) -> Result<Option<Part>, ReadError> {
        let offset = self.offset;
        let damaged = |reason| ReadError::Damaged { offset, reason };
        if self.ended {
            return match self.file.read(&mut [0]) {
                Ok(0) => Ok(None),
                Ok(_) => Err(damaged(Damage::Payload)),
                Err(error) => Err(ReadError::Io(error)),
            };
        }
        let mut head = [0; FRAME_HEADER_BYTES];
        read_exact(&mut self.file, &mut head, offset)?;
        let length = u32_at(&head, 0) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(damaged(Damage::Length(u32_at(&head, 0))));
        }
        // Room grows with what is there, not with what the length promises.
        let mut payload = Vec::new();
        let read = self.file.by_ref().take(length as u64).read_to_end(&mut payload);
        if read.map_err(ReadError::Io)? < length {
            return Err(damaged(Damage::Short));
        }
        self.crc = crc32c::crc32c_append(self.crc, &payload);
        if self.crc != u32_at(&head, 4) {
            return Err(damaged(Damage::Checksum));
        }
        let part = RaftSnapshotPart::decode(payload.as_slice()).ok().and_then(|part| part.part);
        match &part {
            Some(Part::Rows(rows)) if rows.keys.len() == rows.values.len() => {
                self.rows += rows.keys.len() as u64;
            }
            Some(Part::End(end)) if end.rows == self.rows => self.ended = true,
            _ => return Err(damaged(Damage::Payload)),
        }
        self.offset += (FRAME_HEADER_BYTES + length) as u64;
        Ok(part)
    }
}

fn read_exact(file: &mut impl Read, out: &mut [u8], offset: u64) -> Result<(), ReadError> {
    file.read_exact(out).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => ReadError::Damaged { offset, reason: Damage::Short },
        _ => ReadError::Io(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::fuzz_repaired;
    use crate::log::{RaftSnapshotEnd, RaftSnapshotRows};

    const HEADER: BackupHeader = BackupHeader { created_ns: 0x0102, term: 2, node_id: 3, index: 4 };

    fn rows(key: u8) -> RaftSnapshotPart {
        let rows = RaftSnapshotRows { table: "t".into(), keys: vec![vec![key]], values: vec![vec![9]] };
        RaftSnapshotPart { part: Some(Part::Rows(rows)) }
    }

    fn backup() -> Vec<u8> {
        let mut encoder = FrameEncoder::new(&HEADER);
        let mut bytes = HEADER.encode().to_vec();
        bytes.extend(encoder.frame(&rows(7)));
        bytes.extend(encoder.frame(&rows(8)));
        let end = RaftSnapshotEnd { rows: 2 };
        bytes.extend(encoder.frame(&RaftSnapshotPart { part: Some(Part::End(end)) }));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<u64, ReadError> {
        let mut reader = BackupReader::open(bytes)?;
        while reader.next_part()?.is_some() {}
        Ok(reader.rows())
    }

    #[test]
    fn golden_bytes() {
        let mut expected = Vec::new();
        expected.extend_from_slice(b"dfs-nnbk"); // magic
        expected.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]); // layout, reserved
        expected.extend_from_slice(&[2, 1, 0, 0, 0, 0, 0, 0]); // created
        expected.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]); // term
        expected.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]); // node id
        expected.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0]); // index
        let mut crc = crc32c::crc32c(&expected);
        expected.extend_from_slice(&crc.to_le_bytes());
        expected.extend_from_slice(&[0; 4]); // reserved
        for key in [7, 8] {
            let payload = [0x12, 9, 0x0a, 1, b't', 0x12, 1, key, 0x1a, 1, 9]; // rows of table t
            crc = crc32c::crc32c_append(crc, &payload);
            expected.extend_from_slice(&[11, 0, 0, 0]);
            expected.extend_from_slice(&crc.to_le_bytes());
            expected.extend_from_slice(&payload);
        }
        let payload = [0x1a, 2, 8, 2]; // the end, 2 rows
        crc = crc32c::crc32c_append(crc, &payload);
        expected.extend_from_slice(&[4, 0, 0, 0]);
        expected.extend_from_slice(&crc.to_le_bytes());
        expected.extend_from_slice(&payload);
        assert_eq!(backup(), expected);
        assert_eq!(BackupReader::open(expected.as_slice()).ok().map(|reader| reader.header()), Some(HEADER));
        assert_eq!(read(&expected).expect("sound"), 2);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut bytes = backup();
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "cut at {end}");
        }
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        bytes.push(0);
        assert!(read(&bytes).is_err(), "something follows");
    }

    #[test]
    fn frames_in_another_order_are_noticed() {
        let bytes = backup();
        let frame = FRAME_HEADER_BYTES + 11;
        let mut swapped = bytes[..HEADER_BYTES].to_vec();
        swapped.extend_from_slice(&bytes[HEADER_BYTES + frame..HEADER_BYTES + 2 * frame]);
        swapped.extend_from_slice(&bytes[HEADER_BYTES..HEADER_BYTES + frame]);
        swapped.extend_from_slice(&bytes[HEADER_BYTES + 2 * frame..]);
        assert!(read(&swapped).is_err());
    }

    /// Makes the checksums of header and frames right again, as far as lengths lead.
    fn repair(bytes: &mut [u8]) {
        let Some((header, mut rest)) = bytes.split_first_chunk_mut::<HEADER_BYTES>() else { return };
        let mut crc = crc32c::crc32c(&header[..CRC_AT]);
        header[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        while let Some((head, payload)) = rest.split_first_chunk_mut::<FRAME_HEADER_BYTES>() {
            let length = (u32_at(head, 0) as usize).min(payload.len());
            let (payload, after) = payload.split_at_mut(length);
            crc = crc32c::crc32c_append(crc, payload);
            head[4..8].copy_from_slice(&crc.to_le_bytes());
            rest = after;
        }
    }

    #[test]
    fn fuzzed_backups() {
        fuzz_repaired("backup file", &[backup()], |raw| repair(raw), |input| read(input).is_ok());
    }
}
