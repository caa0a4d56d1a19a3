//! Where the blocks of one open file are.
//!
//! Pure: no locks, no tasks. Part of a file's state, under its lock. A row that is missing in a known range is a hole, and so is
//! what a row does not cover. Invariants: `known` has disjoint ranges of block indexes; every row lies in one of them.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use dfs_proto::v1::{Block, LocatedBlock, LocatedBlocks, ReplicaLocation};

/// Rows kept of a file that is not being written here: a row with three locations has about 700 bytes. A file being written
/// keeps all.
const MAX_ROWS: usize = 4096;

/// The rows of a file.
#[derive(Debug, Default)]
pub(super) struct BlockTable {
    rows: BTreeMap<u64, Arc<LocatedBlock>>,
    /// Ranges of indexes, by their starts.
    known: BTreeMap<u64, u64>,
    /// Replicas (block id, datanode uuid) with bad data.
    corrupt: HashSet<(u64, String)>,
    /// Blocks (id) whose files on this machine could not be read.
    network_only: HashSet<u64>,
}

impl BlockTable {
    /// Whether it is known if block `index` exists.
    pub(super) fn is_known(&self, index: u64) -> bool {
        self.known.range(..=index).next_back().is_some_and(|(_, end)| *end > index)
    }

    /// End of the known range that block `index` is in; `index` itself if it is not known.
    pub(super) fn known_until(&self, index: u64) -> u64 {
        self.known.range(..=index).next_back().map_or(index, |(_, end)| (*end).max(index))
    }

    /// The block, if it exists and is known.
    pub(super) fn row(&self, index: u64) -> Option<&Arc<LocatedBlock>> {
        self.rows.get(&index)
    }

    /// Valid bytes of the block.
    pub(super) fn length(&self, index: u64) -> u64 {
        self.rows.get(&index).map_or(0, |row| length(row))
    }

    /// Known rows in a range of indexes.
    pub(super) fn rows(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &Arc<LocatedBlock>)> {
        self.rows.range(range).map(|(index, row)| (*index, row))
    }

    /// Takes an answer over for the blocks from `first` to `until` (none: to the end of all), except those of `keep`.
    pub(super) fn learn(
        &mut self,
        first: u64,
        until: Option<u64>,
        answer: LocatedBlocks,
        block_size: u64,
        keep: impl Fn(u64) -> bool,
    ) {
        let answered = answer.blocks.last().map_or(first, |last| last.offset / block_size + 1);
        let end = if answer.complete { until.unwrap_or(u64::MAX) } else { answered };
        if end <= first {
            return;
        }
        let old: Vec<u64> = self.rows.range(first..end).map(|(index, _)| *index).collect();
        for index in old.into_iter().filter(|index| !keep(*index)) {
            self.rows.remove(&index);
        }
        for block in answer.blocks {
            let index = block.offset / block_size;
            if !keep(index) {
                self.rows.insert(index, Arc::new(block));
            }
        }
        self.note_known(first, end);
    }

    fn note_known(&mut self, mut first: u64, mut end: u64) {
        let touching: Vec<(u64, u64)> = self
            .known
            .range(..=end)
            .rev()
            .map(|(from, until)| (*from, *until))
            .take_while(|(_, until)| *until >= first)
            .collect();
        for (from, until) in touching {
            self.known.remove(&from);
            (first, end) = (first.min(from), end.max(until));
        }
        self.known.insert(first, end);
    }

    /// The block is not read from files on this machine any more.
    pub(super) fn note_network_only(&mut self, id: u64) {
        self.network_only.insert(id);
    }

    /// Whether the block is read over the network only.
    pub(super) fn is_network_only(&self, id: u64) -> bool {
        self.network_only.contains(&id)
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets everything if there is too much.
    pub(super) fn shed(&mut self) {
        if self.rows.len() > MAX_ROWS {
            self.clear();
        }
    }

    /// Forgets what is known of a block.
    pub(super) fn forget(&mut self, index: u64) {
        self.rows.remove(&index);
    }

    /// A block is, or will be, at these places.
    pub(super) fn set(&mut self, index: u64, block: Block, locations: &[ReplicaLocation], block_size: u64) {
        let row = LocatedBlock {
            block: Some(block),
            offset: index * block_size,
            locations: locations.to_vec(),
            ..Default::default()
        };
        self.rows.insert(index, Arc::new(row));
        self.note_known(index, index + 1);
    }

    /// A block has this length now.
    pub(super) fn set_length(&mut self, index: u64, length: u64) {
        if let Some(row) = self.rows.get_mut(&index)
            && let Some(block) = &mut Arc::make_mut(row).block
        {
            block.length = length;
        }
    }

    /// The file ends at `size` now.
    pub(super) fn cut(&mut self, size: u64, block_size: u64) {
        let kept = size.div_ceil(block_size);
        drop(self.rows.split_off(&kept));
        if let Some(last) = kept.checked_sub(1) {
            let most = size - last * block_size;
            if self.length(last) > most {
                self.set_length(last, most);
            }
        }
    }

    /// Remembers a replica with bad data.
    pub(super) fn note_corrupt(&mut self, block: u64, uuid: &str) {
        self.corrupt.insert((block, uuid.to_owned()));
    }

    /// Whether the replica is known to have bad data.
    pub(super) fn is_corrupt(&self, block: u64, uuid: &str) -> bool {
        !self.corrupt.is_empty() && self.corrupt.contains(&(block, uuid.to_owned()))
    }
}

/// Valid bytes of a block.
pub(super) fn length(block: &LocatedBlock) -> u64 {
    block.block.as_ref().map_or(0, |b| b.length)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 100;

    fn answer(indexes: &[u64], complete: bool) -> LocatedBlocks {
        let block = |index: &u64| LocatedBlock {
            block: Some(Block { id: *index, generation_stamp: 1, length: SIZE }),
            offset: index * SIZE,
            ..Default::default()
        };
        LocatedBlocks { status: None, blocks: indexes.iter().map(block).collect(), complete }
    }

    #[test]
    fn what_was_not_answered_is_not_known_and_what_is_missing_in_an_answer_is_a_hole() {
        let mut table = BlockTable::default();
        table.learn(0, None, answer(&[1, 4], false), SIZE, |_| false);
        assert!(table.is_known(0) && table.is_known(4) && !table.is_known(5));
        assert!(table.row(0).is_none() && table.row(1).is_some());
        table.learn(7, Some(9), answer(&[8], true), SIZE, |_| false);
        assert!(!table.is_known(6) && table.is_known(8) && !table.is_known(9));
        table.learn(5, Some(7), answer(&[], true), SIZE, |_| false);
        assert_eq!(table.known, BTreeMap::from([(0, 9)]));
        table.learn(0, None, answer(&[2], true), SIZE, |index| index == 8);
        assert_eq!(table.rows(0..100).map(|(index, _)| index).collect::<Vec<_>>(), [2, 8]);
        assert!(table.is_known(u64::MAX - 1));
    }

    #[test]
    fn a_cut_shortens_the_last_block_and_forgets_those_behind() {
        let mut table = BlockTable::default();
        table.learn(0, None, answer(&[0, 1, 2], true), SIZE, |_| false);
        table.cut(150, SIZE);
        assert_eq!((table.length(0), table.length(1), table.length(2)), (100, 50, 0));
        table.cut(500, SIZE);
        assert_eq!((table.length(0), table.length(1), table.length(2)), (100, 50, 0));
        table.cut(0, SIZE);
        assert_eq!(table.rows(0..9).count(), 0);
    }
}
