//! Format of a segment file of the Raft log.
//!
//! A segment is named by its first index (`00000000000000000017.log`) and holds a header and records
//! (see [`super::record`]), little endian. Only the last segment is appended to.
//!
//! | offset | size | field        | rule                                                              |
//! |--------|------|--------------|-------------------------------------------------------------------|
//! | 0      | 8    | magic        | "dfs-rlog"                                                        |
//! | 8      | 4    | layout       | 1                                                                 |
//! | 12     | 4    | has previous | 0: the log begins here; 1: there was an entry before              |
//! | 16     | 8    | first index  | index of the first record                                         |
//! | 24     | 8    | term         | of the entry before; 0 without                                    |
//! | 32     | 8    | node id      | of the entry before; 0 without                                    |
//! | 40     | 4    | crc          | CRC-32C of bytes 0..40                                            |
//! | 44     | 4    | reserved     | zero                                                              |
//! | 48     |      | records      |                                                                   |
//!
//! A segment is written aside, synced and renamed, so that a header is never torn; the segment before
//! was synced then. What may be torn is the end of the last segment: see [`scan`].

use super::error::Damage;
use super::record::{self, Kind, u32_at, u64_at};

/// Version of this layout and of the record layout.
pub const LAYOUT: u32 = 1;

/// Bytes before the first record.
pub const HEADER_BYTES: usize = 48;

const MAGIC: &[u8; 8] = b"dfs-rlog";

/// Identity of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryId {
    /// Term of its leader.
    pub term: u64,
    /// Its leader.
    pub node_id: u64,
    /// Its index.
    pub index: u64,
}

/// Header of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The entry before the first one; `None` if the log begins here (with index 0).
    pub previous: Option<EntryId>,
}

impl Header {
    /// Index of the first record.
    pub fn first_index(&self) -> u64 {
        self.previous.map_or(0, |id| id.index + 1)
    }

    /// The header as it stands in a file.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&LAYOUT.to_le_bytes());
        bytes[12..16].copy_from_slice(&u32::from(self.previous.is_some()).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_index().to_le_bytes());
        if let Some(id) = self.previous {
            bytes[24..32].copy_from_slice(&id.term.to_le_bytes());
            bytes[32..40].copy_from_slice(&id.node_id.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes[..40]);
        bytes[40..44].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes the header of a segment whose name says `first_index`.
    pub fn decode(bytes: &[u8], first_index: u64) -> Result<Self, Damage> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else { return Err(Damage::Short) };
        if &bytes[0..8] != MAGIC {
            return Err(Damage::Magic);
        }
        let layout = u32_at(bytes, 8);
        if layout != LAYOUT {
            return Err(Damage::Layout(layout));
        }
        if crc32c::crc32c(&bytes[..40]) != u32_at(bytes, 40) {
            return Err(Damage::Checksum);
        }
        if u32_at(bytes, 44) != 0 {
            return Err(Damage::Reserved);
        }
        let found = u64_at(bytes, 16);
        let previous = match (u32_at(bytes, 12), found.checked_sub(1)) {
            (0, None) => None,
            (1, Some(index)) => Some(EntryId { term: u64_at(bytes, 24), node_id: u64_at(bytes, 32), index }),
            _ => return Err(Damage::Reserved),
        };
        if found != first_index {
            return Err(Damage::Index { expected: first_index, found });
        }
        Ok(Self { previous })
    }
}

/// Name of the segment that begins with `first_index`.
pub fn file_name(first_index: u64) -> String {
    format!("{first_index:020}.log")
}

/// First index of a segment by its file name; `None` for a file that is no segment.
pub fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    if digits.len() != 20 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// An entry found by [`scan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Offset of its record in the segment.
    pub offset: usize,
    /// Its identity.
    pub id: EntryId,
    /// What it is.
    pub kind: Kind,
}

/// Result of [`scan`].
#[derive(Debug, PartialEq, Eq)]
pub struct Scan {
    /// The entries, in order.
    pub entries: Vec<Found>,
    /// Where the valid records end.
    pub end: usize,
    /// What was found there, unless the segment ends there.
    pub tail: Option<Damage>,
}

/// Why [`scan`] refuses a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Offset of the damage.
    pub offset: usize,
    /// What is wrong there.
    pub reason: Damage,
}

/// Finds the records of a segment. Bytes after the last valid record are reported as a torn tail,
/// unless they were acknowledged: then the segment is refused.
pub fn scan(bytes: &[u8], header: &Header) -> Result<Scan, Refused> {
    let mut scan = Scan { entries: Vec::new(), end: HEADER_BYTES, tail: None };
    let mut next = header.first_index();
    while scan.end < bytes.len() {
        let record = match record::decode(&bytes[scan.end..]) {
            Ok(record) => record,
            Err(reason) => {
                if is_acknowledged(&bytes[scan.end..], next) {
                    return Err(Refused { offset: scan.end, reason: Damage::Acknowledged });
                }
                scan.tail = Some(reason);
                return Ok(scan);
            }
        };
        let found = record.header;
        if found.index != next {
            let reason = Damage::Index { expected: next, found: found.index };
            return Err(Refused { offset: scan.end, reason });
        }
        if found.kind != Kind::SyncMark {
            let id = EntryId { term: found.term, node_id: found.node_id, index: found.index };
            scan.entries.push(Found { offset: scan.end, id, kind: found.kind });
            next += 1;
        }
        scan.end += record.size();
    }
    Ok(scan)
}

/// Whether a valid record in `bytes`, after the first byte, says that entry `index` had been synced.
fn is_acknowledged(bytes: &[u8], index: u64) -> bool {
    let magic = record::MAGIC.to_le_bytes();
    let mut from = 1;
    while let Some(rest) = bytes.get(from..) {
        let Some(at) = rest.windows(magic.len()).position(|window| window == magic) else { return false };
        match record::decode(&rest[at..]) {
            Ok(record) if record.header.synced > index => return true,
            Ok(record) => from += at + record.size(),
            Err(_) => from += at + 1,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREVIOUS: EntryId = EntryId { term: 2, node_id: 1, index: 9 };
    const HEADER: Header = Header { previous: Some(PREVIOUS) };

    fn entry(out: &mut Vec<u8>, index: u64, synced: u64) {
        let header = record::Header { kind: Kind::Batch, index, term: 2, node_id: 1, synced };
        record::encode(out, &header, |out| out.extend_from_slice(&index.to_le_bytes()));
    }

    fn mark(out: &mut Vec<u8>, next: u64) {
        let header = record::Header { kind: Kind::SyncMark, index: next, term: 0, node_id: 0, synced: next };
        record::encode(out, &header, |_| ());
    }

    /// Three entries; the first two are acknowledged if `marked`.
    fn segment(marked: bool) -> Vec<u8> {
        let mut bytes = HEADER.encode().to_vec();
        entry(&mut bytes, 10, 10);
        entry(&mut bytes, 11, 10);
        if marked {
            mark(&mut bytes, 12);
        }
        entry(&mut bytes, 12, if marked { 12 } else { 10 });
        bytes
    }

    #[test]
    fn golden_header() {
        let mut expected = Vec::new();
        expected.extend_from_slice(b"dfs-rlog"); // magic
        expected.extend_from_slice(&[1, 0, 0, 0]); // layout
        expected.extend_from_slice(&[1, 0, 0, 0]); // has previous
        expected.extend_from_slice(&[10, 0, 0, 0, 0, 0, 0, 0]); // first index
        expected.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]); // term
        expected.extend_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]); // node id
        expected.extend_from_slice(&crc32c::crc32c(&expected).to_le_bytes());
        expected.extend_from_slice(&[0; 4]); // reserved
        assert_eq!(HEADER.encode().as_slice(), expected);
        assert_eq!(Header::decode(&expected, 10), Ok(HEADER));
        assert_eq!(Header::decode(&expected, 11), Err(Damage::Index { expected: 11, found: 10 }));
    }

    #[test]
    fn damaged_headers_are_refused() {
        let bytes = HEADER.encode();
        for end in 0..bytes.len() {
            assert_eq!(Header::decode(&bytes[..end], 10), Err(Damage::Short), "cut at {end}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&damaged, 10).is_err(), "bit {bit}");
        }
        let mut newer = bytes;
        newer[8] = 2;
        assert_eq!(Header::decode(&newer, 10), Err(Damage::Layout(2)));
    }

    #[test]
    fn names_are_parsed_strictly() {
        assert_eq!(parse_file_name(&file_name(17)), Some(17));
        for name in
            ["17.log", "00000000000000000017.tmp", "0000000000000000001x.log", "+0000000000000000017.log"]
        {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_whole_segment_is_scanned() {
        let bytes = segment(true);
        let scan = scan(&bytes, &HEADER).expect("valid");
        assert_eq!(scan.entries.iter().map(|found| found.id.index).collect::<Vec<_>>(), [10, 11, 12]);
        assert_eq!((scan.end, scan.tail), (bytes.len(), None));
    }

    #[test]
    fn a_tail_cut_anywhere_is_dropped() {
        let bytes = segment(false);
        for end in HEADER_BYTES..bytes.len() {
            let scan = scan(&bytes[..end], &HEADER).expect("only torn");
            assert_eq!(scan.tail.is_some(), scan.end < end, "cut at {end}");
        }
    }

    #[test]
    fn damage_in_what_was_acknowledged_is_refused() {
        let bytes = segment(true);
        let marks_end = bytes.len() - (record::HEADER_BYTES + 8);
        let mark_begins = marks_end - record::HEADER_BYTES;
        for at in HEADER_BYTES..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x40;
            match scan(&damaged, &HEADER) {
                Ok(scan) => {
                    assert!(at >= mark_begins, "flipped byte {at} was taken for a torn tail");
                    assert!(scan.tail.is_some());
                }
                Err(refused) => {
                    assert!(at < mark_begins);
                    assert_eq!(refused.reason, Damage::Acknowledged);
                    assert!(refused.offset <= at);
                }
            }
        }
    }

    #[test]
    fn a_gap_between_entries_is_refused() {
        let mut bytes = HEADER.encode().to_vec();
        entry(&mut bytes, 10, 10);
        let offset = bytes.len();
        entry(&mut bytes, 12, 10);
        let reason = Damage::Index { expected: 11, found: 12 };
        assert_eq!(scan(&bytes, &HEADER), Err(Refused { offset, reason }));
    }
}
