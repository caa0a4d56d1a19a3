//! Counters of the namespace, one record.
//!
//! | offset | size | field                                                    |
//! |--------|------|----------------------------------------------------------|
//! | 0      | 1    | version, 1                                               |
//! | 1      | 7    | reserved, 0                                              |
//! | 8      | 8    | next inode id                                            |
//! | 16     | 8    | next block id                                            |
//! | 24     | 8    | last generation stamp given                              |
//! | 32     | 8    | inodes that exist, unlinked ones waiting for reclaim too |
//! | 40     | 8    | blocks that exist                                        |
//! | 48     | 8    | replies in the retry cache                               |
//! | 56     | 4    | next storage number                                      |
//! | 60     | 4    | reserved, 0                                              |
//!
//! Integers are little-endian. Ids and stamps are given by `apply` from here, so that every replica of
//! the state machine gives the same.

use dfs_proto::{BlockId, GenerationStamp, InodeId};

use super::error::{RecordFault, StoreError};
use super::tables::Table;

const VERSION: u8 = 1;
const BYTES: usize = 64;

/// First inode id given: lower ones are the root and room for special nodes. HDFS starts here too.
const FIRST_INODE: u64 = 16_385;
/// First block id given. HDFS starts here too (2^30 + 1).
const FIRST_BLOCK: u64 = 1_073_741_825;
/// Stamp before the first one given; HDFS reserves the numbers up to 1,000.
const LAST_RESERVED_STAMP: u64 = 1_000;

/// See the module head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    next_inode: u64,
    next_block: u64,
    last_stamp: u64,
    pub(super) inodes: u64,
    pub(super) blocks: u64,
    pub(super) retries: u64,
    next_storage: u32,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            next_inode: FIRST_INODE,
            next_block: FIRST_BLOCK,
            last_stamp: LAST_RESERVED_STAMP,
            inodes: 0,
            blocks: 0,
            retries: 0,
            next_storage: 1,
        }
    }
}

impl Counters {
    /// Key in the meta table.
    pub(super) const KEY: &'static str = "counters";

    /// A new inode id.
    pub(super) fn take_inode(&mut self) -> InodeId {
        let id = InodeId(self.next_inode);
        self.next_inode += 1;
        id
    }

    /// So many inode ids in a row, for somebody who gives them later. Answers the first.
    pub(super) fn take_inodes(&mut self, count: u32) -> InodeId {
        let first = InodeId(self.next_inode);
        self.next_inode += u64::from(count);
        first
    }

    /// A new block id.
    pub(super) fn take_block(&mut self) -> BlockId {
        let id = BlockId(self.next_block);
        self.next_block += 1;
        id
    }

    /// A new generation stamp.
    pub(super) fn take_stamp(&mut self) -> GenerationStamp {
        self.last_stamp += 1;
        GenerationStamp(self.last_stamp)
    }

    /// A new storage number.
    pub(super) fn take_storage(&mut self) -> u32 {
        let number = self.next_storage;
        self.next_storage += 1;
        number
    }

    /// Has so many ids and stamps of each kind never given.
    pub(super) fn pass_over(&mut self, count: u64) {
        self.next_inode = self.next_inode.saturating_add(count);
        self.next_block = self.next_block.saturating_add(count);
        self.last_stamp = self.last_stamp.saturating_add(count);
    }

    /// Whether this inode id was given.
    pub(super) const fn gave_inode(&self, id: InodeId) -> bool {
        id.get() < self.next_inode
    }

    /// Whether this block id was given.
    pub(super) const fn gave_block(&self, id: BlockId) -> bool {
        id.get() < self.next_block
    }

    /// Whether this stamp was given.
    pub(super) const fn gave_stamp(&self, stamp: GenerationStamp) -> bool {
        stamp.get() <= self.last_stamp
    }

    pub(super) fn encode(&self) -> [u8; BYTES] {
        let mut out = [0; BYTES];
        out[0] = VERSION;
        let words =
            [self.next_inode, self.next_block, self.last_stamp, self.inodes, self.blocks, self.retries];
        for (slot, word) in out[8..56].chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        out[56..60].copy_from_slice(&self.next_storage.to_le_bytes());
        out
    }

    pub(super) fn decode(raw: &[u8]) -> Result<Self, StoreError> {
        let corrupt = |fault| StoreError::Corrupt {
            table: Table::Meta.name(),
            key: Self::KEY.as_bytes().to_vec(),
            fault,
        };
        let raw: &[u8; BYTES] = raw.try_into().map_err(|_| corrupt(RecordFault::Length(raw.len())))?;
        if raw[0] != VERSION {
            return Err(corrupt(RecordFault::Version(raw[0])));
        }
        if raw[1..8].iter().chain(&raw[60..64]).any(|b| *b != 0) {
            return Err(corrupt(RecordFault::Field("reserved")));
        }
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&raw[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        Ok(Self {
            next_inode: word(8),
            next_block: word(16),
            last_stamp: word(24),
            inodes: word(32),
            blocks: word(40),
            retries: word(48),
            next_storage: u32::from_le_bytes([raw[56], raw[57], raw[58], raw[59]]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let counters = Counters {
            next_inode: 0x0102,
            next_block: 3,
            last_stamp: 4,
            inodes: 5,
            blocks: 6,
            retries: 7,
            next_storage: 8,
        };
        #[rustfmt::skip]
        let golden = [
            1, 0, 0, 0, 0, 0, 0, 0,    // version, reserved
            2, 1, 0, 0, 0, 0, 0, 0,    // next inode
            3, 0, 0, 0, 0, 0, 0, 0,    // next block
            4, 0, 0, 0, 0, 0, 0, 0,    // last stamp
            5, 0, 0, 0, 0, 0, 0, 0,    // inodes
            6, 0, 0, 0, 0, 0, 0, 0,    // blocks
            7, 0, 0, 0, 0, 0, 0, 0,    // retries
            8, 0, 0, 0, 0, 0, 0, 0,    // next storage, reserved
        ];
        assert_eq!(counters.encode(), golden);
        assert_eq!(Counters::decode(&golden).expect("decodes"), counters);
        for length in 0..golden.len() {
            assert!(Counters::decode(&golden[..length]).is_err());
        }
        for (at, value) in [(0, 2), (1, 1), (63, 1)] {
            let mut bad = golden;
            bad[at] = value;
            assert!(Counters::decode(&bad).is_err());
        }
    }
}
