//! Format of the file with the checksums of a store's pages.
//!
//! redb verifies its pages only when it repairs a file. What it reads in between goes unchecked, so a flipped byte could
//! become a wrong answer; therefore each page of `state.redb` has a checksum in `state.sums`, which is verified whenever
//! the page is read (see [`super::checked_file`]). Little endian.
//!
//! | offset       | size | field    | rule                                                                   |
//! |--------------|------|----------|------------------------------------------------------------------------|
//! | 0            | 8    | magic    | "dfs-sums"                                                             |
//! | 8            | 4    | layout   | 1                                                                      |
//! | 12           | 4    | page     | bytes of a page, 4096                                                  |
//! | 16           | 4    | head     | CRC-32C of page 0                                                      |
//! | 20           | 4    | new head | CRC-32C of page 0 if it has been replaced                              |
//! | 24           | 4    | crc      | CRC-32C of bytes 0..24                                                 |
//! | 28           | 4068 | reserved | zero                                                                   |
//! | 4096 + 4 * n | 4    | sum      | CRC-32C of page n; that of page 0 is not used                          |
//!
//! **What a crash can tear.** redb never overwrites a page that its last durable state refers to, so a page and its sum
//! may disagree only where nobody looks, as long as both are synced before the state is. Page 0 is the exception: it is
//! overwritten to switch from one state to the next. So the sum that it will have is made durable before: then it is
//! intact if it has either. The header is smaller than a sector, and not torn.

use super::error::Damage;
use super::record::u32_at;

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;

/// Bytes before the first sum.
pub const HEADER_BYTES: usize = 4096;

/// Bytes of a sum.
pub const SUM_BYTES: usize = 4;

const MAGIC: &[u8; 8] = b"dfs-sums";
const LAYOUT: u32 = 1;
const CRC_AT: usize = 24;

/// Sums that page 0 may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// As it was.
    pub head: u32,
    /// If it has been replaced.
    pub new_head: u32,
}

impl Header {
    /// The header as it stands in a file.
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&LAYOUT.to_le_bytes());
        bytes[12..16].copy_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
        bytes[16..20].copy_from_slice(&self.head.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.new_head.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..CRC_AT]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Decodes the beginning of a file.
    pub fn decode(bytes: &[u8]) -> Result<Self, Damage> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else { return Err(Damage::Short) };
        if &bytes[0..8] != MAGIC {
            return Err(Damage::Magic);
        }
        if u32_at(bytes, 8) != LAYOUT {
            return Err(Damage::Layout(u32_at(bytes, 8)));
        }
        if crc32c::crc32c(&bytes[..CRC_AT]) != u32_at(bytes, CRC_AT) {
            return Err(Damage::Checksum);
        }
        if u32_at(bytes, 12) as usize != PAGE_BYTES || bytes[CRC_AT + 4..].iter().any(|byte| *byte != 0) {
            return Err(Damage::Reserved);
        }
        Ok(Self { head: u32_at(bytes, 16), new_head: u32_at(bytes, 20) })
    }
}

/// The sums behind the header of a file; what is left of a torn one at the end does not count.
pub fn decode_sums(bytes: &[u8]) -> Vec<u32> {
    let sums = bytes.get(HEADER_BYTES..).unwrap_or_default();
    sums.chunks_exact(SUM_BYTES).map(|sum| u32_at(sum, 0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let header = Header { head: 0x0102_0304, new_head: 5 };
        let mut expected = Vec::new();
        expected.extend_from_slice(b"dfs-sums"); // magic
        expected.extend_from_slice(&[1, 0, 0, 0]); // layout
        expected.extend_from_slice(&[0, 16, 0, 0]); // page
        expected.extend_from_slice(&[4, 3, 2, 1]); // head
        expected.extend_from_slice(&[5, 0, 0, 0]); // new head
        expected.extend_from_slice(&crc32c::crc32c(&expected).to_le_bytes());
        expected.resize(HEADER_BYTES, 0); // reserved
        assert_eq!(header.encode(), expected);
        assert_eq!(Header::decode(&expected), Ok(header));
        for end in [0, 27, HEADER_BYTES - 1] {
            assert_eq!(Header::decode(&expected[..end]), Err(Damage::Short));
        }
        for bit in 0..HEADER_BYTES * 8 {
            expected[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::decode(&expected).is_err(), "bit {bit}");
            expected[bit / 8] ^= 1 << (bit % 8);
        }
        expected.extend_from_slice(&[1, 0, 0, 0, 0, 2, 0, 0, 9]);
        assert_eq!(decode_sums(&expected), [1, 0x0200], "an incomplete sum does not count");
    }
}
