//! Block records.
//!
//! | offset | size | field                                                             |
//! |--------|------|-------------------------------------------------------------------|
//! | 0      | 1    | version, 1                                                        |
//! | 1      | 1    | state: 0 under construction, 1 under recovery, 2 complete         |
//! | 2      | 2    | replication                                                       |
//! | 4      | 2    | number of hints                                                   |
//! | 6      | 2    | reserved, 0                                                       |
//! | 8      | 8    | generation stamp                                                  |
//! | 16     | 8    | length in bytes                                                   |
//! | 24     | 8    | inode                                                             |
//! | 32     | 8    | index in the file                                                 |
//! | 40     | 8    | issued stamp; not there if complete                               |
//! | 48     | 8    | settled length, 2^64 - 1 for none; not there if complete          |
//! |        | 4    | a hint, as often as there are hints: number of a storage          |
//!
//! Integers are little-endian. The issued stamp is the latest one given to the writer or the recovery:
//! the recorded stamp stays until one of them reports success, so that replicas with the recorded stamp
//! stay valid if it never does.
//!
//! The settled length is how much of a replica with the recorded stamp counts, if that is known: of a block that
//! was complete and is open again, its length (its replicas may be longer, if a mount cut the file), until
//! a pipeline with the issued stamp stands; of a block that is being cut by its datanodes, what is to be
//! left. A recovery gives the block this length.

use dfs_proto::{BlockId, GenerationStamp, InodeId};
use smallvec::SmallVec;

use super::error::{RecordFault, StoreError};
use super::keys;
use super::stored_block::BlockState;
use super::tables::Table;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 40;
const OPEN_BYTES: usize = 16;
const NOT_SETTLED: u64 = u64::MAX;

/// Numbers of storages; three is the usual replication.
pub(super) type Hints = SmallVec<[u32; 4]>;

/// A row of the blocks table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockRecord {
    pub(super) id: BlockId,
    pub(super) state: BlockState,
    pub(super) replication: u16,
    pub(super) stamp: GenerationStamp,
    pub(super) length: u64,
    pub(super) inode: InodeId,
    pub(super) index: u64,
    /// Latest stamp given for this block; equals `stamp` if complete.
    pub(super) issued: GenerationStamp,
    /// The settled length, see the module head.
    pub(super) settled_length: Option<u64>,
    pub(super) hints: Hints,
}

impl BlockRecord {
    /// Bytes of the file that the row covers from the block's start on.
    pub(super) fn covered(&self) -> u64 {
        self.settled_length.unwrap_or(self.length)
    }

    /// Whether nothing is known to be in it: it was allocated, and no pipeline has reported since.
    pub(super) fn is_untouched(&self) -> bool {
        self.state == BlockState::UnderConstruction && self.length == 0 && self.stamp == self.issued
    }

    /// Whether its writer has not finished it, or its recovery.
    pub(super) fn is_open(&self) -> bool {
        self.state != BlockState::Complete
    }

    pub(super) fn encode(&self) -> SmallVec<[u8; 80]> {
        let mut out = SmallVec::new();
        let state = match self.state {
            BlockState::UnderConstruction => 0,
            BlockState::UnderRecovery => 1,
            BlockState::Complete => 2,
        };
        out.extend_from_slice(&[VERSION, state]);
        out.extend_from_slice(&self.replication.to_le_bytes());
        let hints = u16::try_from(self.hints.len()).expect("as many hints as replicas at most");
        out.extend_from_slice(&hints.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        for word in [self.stamp.get(), self.length, self.inode.get(), self.index] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        if self.state != BlockState::Complete {
            out.extend_from_slice(&self.issued.get().to_le_bytes());
            out.extend_from_slice(&self.settled_length.unwrap_or(NOT_SETTLED).to_le_bytes());
        }
        for hint in &self.hints {
            out.extend_from_slice(&hint.to_le_bytes());
        }
        out
    }

    pub(super) fn decode(id: BlockId, raw: &[u8]) -> Result<Self, StoreError> {
        let corrupt =
            |fault| StoreError::Corrupt { table: Table::Blocks.name(), key: keys::block(id).to_vec(), fault };
        if raw.first().is_some_and(|version| *version != VERSION) {
            return Err(corrupt(RecordFault::Version(raw[0])));
        }
        if raw.len() < HEADER_BYTES {
            return Err(corrupt(RecordFault::Length(raw.len())));
        }
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&raw[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let state = match raw[1] {
            0 => BlockState::UnderConstruction,
            1 => BlockState::UnderRecovery,
            2 => BlockState::Complete,
            _ => return Err(corrupt(RecordFault::Field("state"))),
        };
        if raw[6..8] != [0, 0] {
            return Err(corrupt(RecordFault::Field("reserved")));
        }
        let hints_at = if state == BlockState::Complete { HEADER_BYTES } else { HEADER_BYTES + OPEN_BYTES };
        let hint_count = usize::from(u16::from_le_bytes([raw[4], raw[5]]));
        if raw.len() != hints_at + 4 * hint_count {
            return Err(corrupt(RecordFault::Length(raw.len())));
        }
        let stamp = GenerationStamp(word(8));
        let (issued, settled_length) = if state == BlockState::Complete {
            (stamp, None)
        } else {
            let length = word(48);
            (GenerationStamp(word(40)), (length != NOT_SETTLED).then_some(length))
        };
        Ok(Self {
            id,
            state,
            replication: u16::from_le_bytes([raw[2], raw[3]]),
            stamp,
            length: word(16),
            inode: InodeId(word(24)),
            index: word(32),
            issued,
            settled_length,
            hints: raw[hints_at..]
                .chunks_exact(4)
                .map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]))
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(state: BlockState) -> BlockRecord {
        BlockRecord {
            id: BlockId(1),
            state,
            replication: 3,
            stamp: GenerationStamp(0x0102),
            length: 4,
            inode: InodeId(5),
            index: 6,
            issued: GenerationStamp(if state == BlockState::Complete { 0x0102 } else { 7 }),
            settled_length: (state == BlockState::UnderRecovery).then_some(8),
            hints: Hints::from_slice(&[9, 10]),
        }
    }

    #[test]
    fn golden_bytes() {
        #[rustfmt::skip]
        let complete = [
            1, 2, 3, 0, 2, 0, 0, 0,     // version, state, replication, number of hints, reserved
            2, 1, 0, 0, 0, 0, 0, 0,     // stamp
            4, 0, 0, 0, 0, 0, 0, 0,     // length
            5, 0, 0, 0, 0, 0, 0, 0,     // inode
            6, 0, 0, 0, 0, 0, 0, 0,     // index
            9, 0, 0, 0, 10, 0, 0, 0,    // hints
        ];
        let record = sample(BlockState::Complete);
        assert_eq!(record.encode().as_slice(), complete);
        assert_eq!(BlockRecord::decode(BlockId(1), &complete).expect("decodes"), record);

        let record = sample(BlockState::UnderRecovery);
        let raw = record.encode();
        assert_eq!(raw[1], 1);
        assert_eq!(raw[40..56], [7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(BlockRecord::decode(BlockId(1), &raw).expect("decodes"), record);

        let record = sample(BlockState::UnderConstruction);
        let raw = record.encode();
        assert_eq!(raw[48..56], [0xff; 8]);
        assert_eq!(BlockRecord::decode(BlockId(1), &raw).expect("decodes"), record);
    }

    #[test]
    fn every_truncation_and_bad_field_is_refused() {
        for state in [BlockState::UnderConstruction, BlockState::UnderRecovery, BlockState::Complete] {
            let raw = sample(state).encode();
            for length in 0..raw.len() {
                assert!(BlockRecord::decode(BlockId(1), &raw[..length]).is_err(), "{length} bytes");
            }
            for (at, value) in [(0, 2), (1, 3), (4, 9), (6, 1)] {
                let mut bad = raw.clone();
                bad[at] = value;
                assert!(BlockRecord::decode(BlockId(1), &bad).is_err(), "byte {at} = {value}");
            }
        }
    }
}
