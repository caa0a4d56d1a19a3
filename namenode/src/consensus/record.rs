//! Format of one record of the Raft log.
//!
//! A record is a header and a payload, little endian, packed without gaps. A segment (see
//! [`super::segment`]) is a sequence of records with consecutive indexes, between which sync marks may
//! stand.
//!
//! | offset | size | field          | rule                                                         |
//! |--------|------|----------------|--------------------------------------------------------------|
//! | 0      | 4    | magic          | `0x4C46_4452` ("RDFL")                                       |
//! | 4      | 4    | crc            | CRC-32C of bytes 8..48 and the payload                       |
//! | 8      | 4    | payload length | at most [`PAYLOAD_BYTES_MAX`]                                |
//! | 12     | 1    | kind           | see [`Kind`]                                                 |
//! | 13     | 3    | reserved       | zero                                                         |
//! | 16     | 8    | index          | of the entry; of a sync mark: the next entry's               |
//! | 24     | 8    | term           | of the leader that made the entry; sync mark: zero           |
//! | 32     | 8    | node id        | of that leader; sync mark: zero                              |
//! | 40     | 8    | synced         | all entries below were on disk when this record was written  |
//! | 48     | n    | payload        | batch: `CommandBatch`; membership: `RaftMembership`; else empty |
//!
//! **What a crash can tear.** Records are written at the end and synced in groups, so the end of the
//! last segment may hold anything after the last sync. `synced` tells such a tail from damage: if a
//! valid record anywhere after a bad one says that the bad one had been synced, the bad one is damage.
//! A sync mark is written after each sync that is followed by a pause, so that this works for the last
//! entry too.
//!
//! Version history: this is layout 1 (the version stands in the segment's header).

use super::error::Damage;

/// First bytes of a record.
pub const MAGIC: u32 = u32::from_le_bytes(*b"RDFL");

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 48;

/// Longest payload: twice the largest gRPC message that a client may send, so that every accepted
/// command fits, and small enough to allocate for any record found on disk.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An entry without payload.
    Blank = 0,
    /// An entry with commands.
    Batch = 1,
    /// An entry with a membership.
    Membership = 2,
    /// Not an entry: says how far the log was synced.
    SyncMark = 3,
}

impl Kind {
    const fn from_byte(byte: u8) -> Result<Self, Damage> {
        match byte {
            0 => Ok(Self::Blank),
            1 => Ok(Self::Batch),
            2 => Ok(Self::Membership),
            3 => Ok(Self::SyncMark),
            other => Err(Damage::Kind(other)),
        }
    }
}

/// Fields of a record's header, but for magic, length and checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the record is.
    pub kind: Kind,
    /// Index of the entry.
    pub index: u64,
    /// Term of its leader.
    pub term: u64,
    /// Its leader.
    pub node_id: u64,
    /// Entries below this index are on disk.
    pub synced: u64,
}

/// A decoded record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its header.
    pub header: Header,
    /// Its payload.
    pub payload: &'a [u8],
}

impl Record<'_> {
    /// Bytes of the whole record.
    pub const fn size(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }
}

/// Appends a record to `out`; `payload` appends the payload. The caller has checked that the payload is
/// not longer than [`PAYLOAD_BYTES_MAX`].
pub fn encode(out: &mut Vec<u8>, header: &Header, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    payload(out);
    let length = out.len() - start - HEADER_BYTES;
    assert!(length <= PAYLOAD_BYTES_MAX, "payload of {length} bytes");
    let record = &mut out[start..];
    record[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    record[8..12].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
    record[12] = header.kind as u8;
    record[16..24].copy_from_slice(&header.index.to_le_bytes());
    record[24..32].copy_from_slice(&header.term.to_le_bytes());
    record[32..40].copy_from_slice(&header.node_id.to_le_bytes());
    record[40..48].copy_from_slice(&header.synced.to_le_bytes());
    let crc = crc32c::crc32c(&record[8..]);
    record[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Decodes the record at the beginning of `bytes`.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, Damage> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Err(Damage::Short) };
    if u32_at(header, 0) != MAGIC {
        return Err(Damage::Magic);
    }
    let length = u32_at(header, 8);
    let payload_bytes = length as usize;
    if payload_bytes > PAYLOAD_BYTES_MAX {
        return Err(Damage::Length(length));
    }
    let Some(record) = bytes.get(..HEADER_BYTES + payload_bytes) else { return Err(Damage::Short) };
    if crc32c::crc32c(&record[8..]) != u32_at(header, 4) {
        return Err(Damage::Checksum);
    }
    if header[13..16] != [0; 3] {
        return Err(Damage::Reserved);
    }
    let header = Header {
        kind: Kind::from_byte(header[12])?,
        index: u64_at(header, 16),
        term: u64_at(header, 24),
        node_id: u64_at(header, 32),
        synced: u64_at(header, 40),
    };
    Ok(Record { header, payload: &record[HEADER_BYTES..] })
}

/// The little-endian integer at `offset`, which the caller knows to be inside.
pub(super) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(raw)
}

/// See [`u32_at`].
pub(super) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Header = Header { kind: Kind::Batch, index: 0x0102, term: 3, node_id: 4, synced: 5 };

    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&mut bytes, &SAMPLE, |out| out.extend_from_slice(b"abc"));
        bytes
    }

    #[test]
    fn golden_bytes() {
        let mut expected = Vec::new();
        expected.extend_from_slice(b"RDFL"); // magic
        expected.extend_from_slice(&[0; 4]); // crc, set below
        expected.extend_from_slice(&[3, 0, 0, 0]); // payload length
        expected.extend_from_slice(&[1, 0, 0, 0]); // kind, reserved
        expected.extend_from_slice(&[2, 1, 0, 0, 0, 0, 0, 0]); // index
        expected.extend_from_slice(&[3, 0, 0, 0, 0, 0, 0, 0]); // term
        expected.extend_from_slice(&[4, 0, 0, 0, 0, 0, 0, 0]); // node id
        expected.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0]); // synced
        expected.extend_from_slice(b"abc");
        let crc = crc32c::crc32c(&expected[8..]);
        expected[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(sample(), expected);
    }

    #[test]
    fn a_record_survives_the_round_trip() {
        let bytes = sample();
        let record = decode(&bytes).expect("valid");
        assert_eq!(record, Record { header: SAMPLE, payload: b"abc" });
        assert_eq!(record.size(), bytes.len());
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = sample();
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), Err(Damage::Short), "cut at {end}");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = sample();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_unknown_kind_and_reserved_bytes_are_refused() {
        for (offset, value, expected) in [(12, 9, Damage::Kind(9)), (14, 1, Damage::Reserved)] {
            let mut bytes = sample();
            bytes[offset] = value;
            let crc = crc32c::crc32c(&bytes[8..]);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(decode(&bytes), Err(expected));
        }
    }
}
