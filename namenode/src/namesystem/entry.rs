//! Directory entries.
//!
//! | offset | size | field                                                              |
//! |--------|------|--------------------------------------------------------------------|
//! | 0      | 1    | version, 1                                                         |
//! | 1      | 1    | type of the inode, a number of `FileType`: saves reading the inode |
//! | 2      | 8    | inode, little-endian                                               |

use dfs_proto::{InodeId, v1::FileType};

use super::error::{RecordFault, StoreError};
use super::tables::Table;

const VERSION: u8 = 1;
const BYTES: usize = 10;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) inode: InodeId,
    pub(super) kind: FileType,
}

impl Entry {
    pub(super) fn encode(self) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        out[0] = VERSION;
        out[1] = u8::try_from(i32::from(self.kind)).expect("few file types");
        out[2..].copy_from_slice(&self.inode.get().to_le_bytes());
        out
    }

    pub(super) fn decode(key: &[u8], raw: &[u8]) -> Result<Self, StoreError> {
        let corrupt = |fault| StoreError::Corrupt { table: Table::Entries.name(), key: key.to_vec(), fault };
        let raw: &[u8; BYTES] = raw.try_into().map_err(|_| corrupt(RecordFault::Length(raw.len())))?;
        let [version, kind, inode @ ..] = raw;
        if *version != VERSION {
            return Err(corrupt(RecordFault::Version(*version)));
        }
        match FileType::try_from(i32::from(*kind)) {
            Ok(FileType::Unspecified) | Err(_) => Err(corrupt(RecordFault::Field("type"))),
            Ok(kind) => Ok(Self { inode: InodeId(u64::from_le_bytes(*inode)), kind }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let entry = Entry { inode: InodeId(0x0102), kind: FileType::Directory };
        let golden = [1, 2, 2, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(entry.encode(), golden);
        assert_eq!(Entry::decode(b"k", &golden).expect("decodes"), entry);
        for length in 0..golden.len() {
            assert!(Entry::decode(b"k", &golden[..length]).is_err());
        }
        for (at, value) in [(0, 2), (1, 0), (1, 77)] {
            let mut bad = golden;
            bad[at] = value;
            assert!(Entry::decode(b"k", &bad).is_err());
        }
    }
}
