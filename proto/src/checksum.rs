//! Checksums over fixed-size chunks of block data.
//!
//! A checksum covers `bytes_per_checksum` bytes, the last chunk of a block may be shorter, and a
//! checksum is stored and sent as four bytes, big-endian, as HDFS does.

use crate::transfer::{ChecksumProto, ChecksumTypeProto};

/// Size of one stored checksum in bytes.
pub const CHECKSUM_BYTES: usize = 4;

/// Chunk size of blocks that our clients write: one page, so that a 4 KiB overwrite rewrites one
/// checksum, at 0.1 % of space. (Measured: CRC runs at the same speed over 4 KiB and 64 KiB chunks.)
pub const DEFAULT_BYTES_PER_CHECKSUM: u32 = 4096;

/// Largest chunk size accepted from a peer or a file; bounds a reader's alignment buffer.
pub const MAX_BYTES_PER_CHECKSUM: u32 = 1 << 20;

/// Checksum algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumKind {
    /// No checksums; nothing is verified.
    Null,
    /// CRC-32, ours.
    Crc32,
    /// CRC-32C, Hadoop's default.
    Crc32c,
}

/// How a block is checksummed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    kind: ChecksumKind,
    bytes_per_checksum: u32,
}

/// Data did not match its checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("checksum mismatch at chunk {chunk}")]
pub struct ChecksumMismatch {
    /// Index of the first chunk that differs.
    pub chunk: usize,
}

/// A checksum description that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid checksum: type {kind}, {bytes_per_checksum} bytes a checksum")]
pub struct InvalidChecksum {
    /// Type as received.
    pub kind: i32,
    /// Chunk size as received.
    pub bytes_per_checksum: u32,
}

impl Default for Checksum {
    fn default() -> Self {
        Self { kind: ChecksumKind::Crc32, bytes_per_checksum: DEFAULT_BYTES_PER_CHECKSUM }
    }
}

impl Checksum {
    /// Checks the chunk size: 1 to [`MAX_BYTES_PER_CHECKSUM`].
    pub const fn new(kind: ChecksumKind, bytes_per_checksum: u32) -> Result<Self, InvalidChecksum> {
        if bytes_per_checksum == 0 || bytes_per_checksum > MAX_BYTES_PER_CHECKSUM {
            return Err(InvalidChecksum { kind: kind as i32, bytes_per_checksum });
        }
        Ok(Self { kind, bytes_per_checksum })
    }

    /// Algorithm.
    pub const fn kind(&self) -> ChecksumKind {
        self.kind
    }

    /// Chunk size in bytes.
    pub const fn bytes_per_checksum(&self) -> usize {
        self.bytes_per_checksum as usize
    }

    /// Bytes of one stored checksum: 4, or 0 for `Null`.
    pub const fn checksum_size(&self) -> usize {
        match self.kind {
            ChecksumKind::Null => 0,
            ChecksumKind::Crc32 | ChecksumKind::Crc32c => CHECKSUM_BYTES,
        }
    }

    /// Bytes of the checksums of `data_len` bytes that start on a chunk boundary.
    pub const fn checksums_len(&self, data_len: usize) -> usize {
        data_len.div_ceil(self.bytes_per_checksum()) * self.checksum_size()
    }

    /// Checksum of one chunk.
    pub fn of(&self, chunk: &[u8]) -> u32 {
        match self.kind {
            ChecksumKind::Null => 0,
            ChecksumKind::Crc32 => crc32fast::hash(chunk),
            ChecksumKind::Crc32c => crc32c::crc32c(chunk),
        }
    }

    /// Appends the checksums of `data`, which starts on a chunk boundary, to `out`.
    pub fn append_checksums(&self, data: &[u8], out: &mut Vec<u8>) {
        let chunks = data.chunks(self.bytes_per_checksum());
        match self.kind {
            ChecksumKind::Null => {}
            ChecksumKind::Crc32 => {
                chunks.for_each(|c| out.extend_from_slice(&crc32fast::hash(c).to_be_bytes()));
            }
            ChecksumKind::Crc32c => {
                chunks.for_each(|c| out.extend_from_slice(&crc32c::crc32c(c).to_be_bytes()));
            }
        }
    }

    /// Checks `data`, which starts on a chunk boundary, against `checksums`.
    ///
    /// # Panics
    /// If `checksums` is not [`Self::checksums_len`] long: decoders reject such packets before.
    pub fn verify(&self, data: &[u8], checksums: &[u8]) -> Result<(), ChecksumMismatch> {
        assert_eq!(checksums.len(), self.checksums_len(data.len()), "checksums of {} bytes", data.len());
        let pairs = data.chunks(self.bytes_per_checksum()).zip(checksums.chunks_exact(CHECKSUM_BYTES));
        let bad = match self.kind {
            ChecksumKind::Null => None,
            ChecksumKind::Crc32 => {
                pairs.enumerate().find(|(_, (data, sum))| crc32fast::hash(data).to_be_bytes() != **sum)
            }
            ChecksumKind::Crc32c => {
                pairs.enumerate().find(|(_, (data, sum))| crc32c::crc32c(data).to_be_bytes() != **sum)
            }
        };
        bad.map_or(Ok(()), |(chunk, _)| Err(ChecksumMismatch { chunk }))
    }

    /// The wire form.
    pub fn to_proto(self) -> ChecksumProto {
        let kind = match self.kind {
            ChecksumKind::Null => ChecksumTypeProto::ChecksumNull,
            ChecksumKind::Crc32 => ChecksumTypeProto::ChecksumCrc32,
            ChecksumKind::Crc32c => ChecksumTypeProto::ChecksumCrc32c,
        };
        ChecksumProto { r#type: kind.into(), bytes_per_checksum: self.bytes_per_checksum }
    }

    /// Checks and converts the wire form.
    pub fn from_proto(proto: &ChecksumProto) -> Result<Self, InvalidChecksum> {
        let kind = match ChecksumTypeProto::try_from(proto.r#type) {
            Ok(ChecksumTypeProto::ChecksumNull) => ChecksumKind::Null,
            Ok(ChecksumTypeProto::ChecksumCrc32) => ChecksumKind::Crc32,
            Ok(ChecksumTypeProto::ChecksumCrc32c) => ChecksumKind::Crc32c,
            Err(_) => {
                return Err(InvalidChecksum {
                    kind: proto.r#type,
                    bytes_per_checksum: proto.bytes_per_checksum,
                });
            }
        };
        Self::new(kind, proto.bytes_per_checksum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHECK: &[u8] = b"123456789";

    #[test]
    fn known_answers() {
        let sums = |kind| {
            let mut out = Vec::new();
            Checksum::new(kind, 512).expect("valid").append_checksums(CHECK, &mut out);
            out
        };
        // Check values of the CRC catalogue (CRC-32/ISO-HDLC and CRC-32/ISCSI).
        assert_eq!(sums(ChecksumKind::Crc32), 0xcbf4_3926u32.to_be_bytes());
        assert_eq!(sums(ChecksumKind::Crc32c), 0xe306_9283u32.to_be_bytes());
        assert!(sums(ChecksumKind::Null).is_empty());
    }

    #[test]
    fn the_first_bad_chunk_is_named() {
        for kind in [ChecksumKind::Crc32, ChecksumKind::Crc32c] {
            let checksum = Checksum::new(kind, 16).expect("valid");
            let mut data: Vec<u8> = (0..100).collect();
            let mut sums = Vec::new();
            checksum.append_checksums(&data, &mut sums);
            assert_eq!(sums.len(), checksum.checksums_len(data.len()));
            assert_eq!(checksum.verify(&data, &sums), Ok(()));
            data[40] ^= 1;
            assert_eq!(checksum.verify(&data, &sums), Err(ChecksumMismatch { chunk: 2 }));
        }
    }

    #[test]
    fn senseless_descriptions_are_refused() {
        for (kind, bytes_per_checksum) in [(1, 0), (1, MAX_BYTES_PER_CHECKSUM + 1), (9, 512)] {
            let proto = ChecksumProto { r#type: kind, bytes_per_checksum };
            assert!(Checksum::from_proto(&proto).is_err());
        }
        let checksum = Checksum::default();
        assert_eq!(Checksum::from_proto(&checksum.to_proto()), Ok(checksum));
    }
}
