//! `scrub.record`: how far the verification of a volume's replicas has come, and which are known to be bad. A file in the
//! volume's directory, all integers big-endian:
//!
//! | offset      | size | field           | rule                                                         |
//! |-------------|------|-----------------|--------------------------------------------------------------|
//! | 0           | 8    | magic           | `DFSSCRUB`                                                   |
//! | 8           | 4    | version         | 1                                                            |
//! | 12          | 4    | bad replicas, n | at most 10,000                                               |
//! | 16          | 8    | pass began      | seconds since the epoch                                      |
//! | 24          | 8    | pass ended      | the last whole one, seconds since the epoch; 0: none         |
//! | 32          | 8    | cursor          | replicas up to this block id are verified; 0: none           |
//! | 40          | 8    | work            | bytes read in this pass, and 262,144 for each replica        |
//! | 48 + 24 * i | 24   | bad replica i   | block id, generation stamp, length, 8 bytes each             |
//! | 48 + 24 * n | 4    | checksum        | CRC-32C of everything before                                 |
//!
//! Written aside, synced and renamed, so a crash leaves the old record or the new one; what was verified in between is
//! verified again. A record that cannot be used costs a pass from the beginning, nothing else.

use std::fs;
use std::io;
use std::path::Path;

use dfs_proto::BlockId;

use crate::dataset::damaged::DAMAGED_MAX;
use crate::dataset::version_file::write_aside;
use crate::error::{DatanodeError, disk};
use crate::replica::BlockRef;

/// Name of the file.
pub const FILE_NAME: &str = "scrub.record";

const MAGIC: &[u8; 8] = b"DFSSCRUB";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 48;
const BAD_BYTES: usize = 24;
const CHECKSUM_BYTES: usize = 4;
const FILE_BYTES_MAX: usize = HEADER_BYTES + DAMAGED_MAX * BAD_BYTES + CHECKSUM_BYTES;

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubRecord {
    /// When this pass began, in seconds since the epoch.
    pub began_s: u64,
    /// When the last whole pass ended, in seconds since the epoch; 0: none has.
    pub ended_s: u64,
    /// Replicas up to this block are verified in this pass.
    pub cursor: Option<BlockId>,
    /// Bytes read in this pass, and a fixed number for each replica.
    pub work: u64,
    /// Replicas known to be bad, with the lengths that they should have.
    pub bad: Vec<(BlockRef, u64)>,
}

/// Why a record cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It has another length than it says, or a senseless one.
    #[error("scrub record of {0} bytes")]
    Length(usize),
    /// It is something else.
    #[error("not a scrub record")]
    Magic,
    /// Another version.
    #[error("scrub record of version {0}")]
    Version(u32),
    /// Its checksum does not fit.
    #[error("scrub record with a wrong checksum")]
    Checksum,
}

impl ScrubRecord {
    /// The file's bytes. Of more bad replicas than there is room for, the first ones.
    pub fn encode(&self) -> Vec<u8> {
        let bad = &self.bad[..self.bad.len().min(DAMAGED_MAX)];
        let mut raw = Vec::with_capacity(HEADER_BYTES + bad.len() * BAD_BYTES + CHECKSUM_BYTES);
        raw.extend_from_slice(MAGIC);
        raw.extend_from_slice(&VERSION.to_be_bytes());
        raw.extend_from_slice(&(bad.len() as u32).to_be_bytes());
        let cursor = self.cursor.map_or(0, BlockId::get);
        for word in [self.began_s, self.ended_s, cursor, self.work] {
            raw.extend_from_slice(&word.to_be_bytes());
        }
        for (block, length) in bad {
            for word in [block.id.get(), block.stamp.get(), *length] {
                raw.extend_from_slice(&word.to_be_bytes());
            }
        }
        raw.extend_from_slice(&crc32c::crc32c(&raw).to_be_bytes());
        raw
    }

    /// Reads the file's bytes.
    pub fn decode(raw: &[u8]) -> Result<Self, RecordError> {
        let length = RecordError::Length(raw.len());
        if raw.len() < HEADER_BYTES + CHECKSUM_BYTES {
            return Err(length);
        }
        if &raw[..8] != MAGIC {
            return Err(RecordError::Magic);
        }
        let version = word32(raw, 8);
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let count = word32(raw, 12) as usize;
        if count > DAMAGED_MAX || raw.len() != HEADER_BYTES + count * BAD_BYTES + CHECKSUM_BYTES {
            return Err(length);
        }
        let end = raw.len() - CHECKSUM_BYTES;
        if crc32c::crc32c(&raw[..end]) != word32(raw, end) {
            return Err(RecordError::Checksum);
        }
        let bad = raw[HEADER_BYTES..end].chunks_exact(BAD_BYTES);
        let cursor = word64(raw, 32);
        Ok(Self {
            began_s: word64(raw, 16),
            ended_s: word64(raw, 24),
            cursor: (cursor > 0).then_some(BlockId(cursor)),
            work: word64(raw, 40),
            bad: bad.map(|b| (BlockRef::new(word64(b, 0), word64(b, 8)), word64(b, 16))).collect(),
        })
    }

    /// Reads a volume's record; a new one if there is none that can be used.
    pub fn read(volume: &Path) -> Self {
        let path = volume.join(FILE_NAME);
        let raw = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX as u64 => {
                Err(io::Error::from(io::ErrorKind::FileTooLarge))
            }
            Ok(_) => fs::read(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(error) => Err(error),
        };
        let decoded =
            raw.map_err(|e| e.to_string()).and_then(|r| Self::decode(&r).map_err(|e| e.to_string()));
        decoded.unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), error, "all replicas of the volume are verified anew");
            Self::default()
        })
    }

    /// Puts the record in place; it is on disk on return.
    pub fn write(&self, volume: &Path) -> Result<(), DatanodeError> {
        // A volume that is gone is not made anew by its record.
        fs::metadata(volume).map_err(disk(volume))?;
        write_aside(&volume.join(FILE_NAME), &self.encode())
    }
}

fn word32(raw: &[u8], at: usize) -> u32 {
    raw.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn word64(raw: &[u8], at: usize) -> u64 {
    raw.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> ScrubRecord {
        ScrubRecord {
            began_s: 0x0102,
            ended_s: 3,
            cursor: Some(BlockId(0x4000_0001)),
            work: 1 << 32,
            bad: vec![(BlockRef::new(7, 8), 9)],
        }
    }

    #[test]
    fn the_format_is_as_specified() {
        let mut golden = b"DFSSCRUB".to_vec();
        golden.extend_from_slice(&[0, 0, 0, 1]); // version
        golden.extend_from_slice(&[0, 0, 0, 1]); // bad replicas
        golden.extend_from_slice(&[0, 0, 0, 0, 0, 0, 1, 2]); // pass began
        golden.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 3]); // pass ended
        golden.extend_from_slice(&[0, 0, 0, 0, 0x40, 0, 0, 1]); // cursor
        golden.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]); // work
        golden.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 7]); // block id
        golden.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 8]); // stamp
        golden.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 9]); // length
        golden.extend_from_slice(&crc32c::crc32c(&golden).to_be_bytes());
        assert_eq!(record().encode(), golden);
        assert_eq!(ScrubRecord::decode(&golden), Ok(record()));
    }

    #[test]
    fn what_is_cut_or_damaged_is_refused() {
        let raw = record().encode();
        for cut in 0..raw.len() {
            assert!(ScrubRecord::decode(&raw[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..raw.len() {
            let mut bad = raw.clone();
            bad[at] ^= 1;
            assert!(ScrubRecord::decode(&bad).is_err(), "byte {at}");
        }
        let mut long = raw;
        long.push(0);
        assert!(ScrubRecord::decode(&long).is_err());
    }

    #[test]
    fn a_volume_keeps_its_record() {
        let dir = tempfile::tempdir().expect("temporary directory");
        assert_eq!(ScrubRecord::read(dir.path()), ScrubRecord::default());
        record().write(dir.path()).expect("written");
        assert_eq!(ScrubRecord::read(dir.path()), record());
        fs::write(dir.path().join(FILE_NAME), b"something else").expect("written");
        assert_eq!(ScrubRecord::read(dir.path()), ScrubRecord::default());
    }
}
