//! Block id -> what block management knows about the block.
//!
//! Block ids come from a counter, so they are dense. The map is a B-tree of pages, one for each 256
//! consecutive ids, each a sorted vector of entries: 48 bytes a block at three replicas, ordered walks
//! for merge joins and sweeps, and no moment at which the whole map is rehashed. A hash map would need
//! up to 130 bytes a block right after it doubled, and pause to do so.
//!
//! Invariants: entries of a page are sorted by id and share the page number; no page is empty.

use std::collections::BTreeMap;

use dfs_proto::{BlockId, GenerationStamp};

use super::low_redundancy::Level;
use super::replica_set::ReplicaSet;
use crate::namesystem::{BlockState, StoredBlock};

/// One block.
#[derive(Clone, Debug)]
pub(super) struct BlockEntry {
    pub(super) id: BlockId,
    pub(super) stamp: GenerationStamp,
    pub(super) length: u64,
    pub(super) replicas: ReplicaSet,
    /// Second in which a replica was last added, by the caller's monotonic clock.
    pub(super) changed_s: u32,
    pub(super) replication: u16,
    pub(super) state: BlockState,
    /// Queue that the block is in, see `low_redundancy`.
    pub(super) level: Option<Level>,
}

impl BlockEntry {
    pub(super) fn new(stored: &StoredBlock) -> Self {
        Self {
            id: stored.id,
            stamp: stored.stamp,
            length: stored.length,
            replicas: ReplicaSet::default(),
            changed_s: 0,
            replication: stored.replication,
            state: stored.state,
            level: None,
        }
    }
}

const PAGE_BITS: u32 = 8;

/// All blocks known.
#[derive(Debug, Default)]
pub(super) struct BlockMap {
    pages: BTreeMap<u64, Vec<BlockEntry>>,
    len: usize,
}

impl BlockMap {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, id: BlockId) -> Option<&BlockEntry> {
        let page = self.pages.get(&page_of(id))?;
        page.binary_search_by_key(&id, |entry| entry.id).ok().map(|at| &page[at])
    }

    pub(super) fn get_mut(&mut self, id: BlockId) -> Option<&mut BlockEntry> {
        let page = self.pages.get_mut(&page_of(id))?;
        page.binary_search_by_key(&id, |entry| entry.id).ok().map(|at| &mut page[at])
    }

    /// The entry of `stored.id`, made from `stored` if there is none.
    pub(super) fn get_or_insert(&mut self, stored: &StoredBlock) -> &mut BlockEntry {
        let page = self.pages.entry(page_of(stored.id)).or_default();
        let at = match page.binary_search_by_key(&stored.id, |entry| entry.id) {
            Ok(at) => at,
            Err(at) => {
                page.insert(at, BlockEntry::new(stored));
                self.len += 1;
                at
            }
        };
        &mut page[at]
    }

    pub(super) fn remove(&mut self, id: BlockId) -> Option<BlockEntry> {
        let number = page_of(id);
        let page = self.pages.get_mut(&number)?;
        let at = page.binary_search_by_key(&id, |entry| entry.id).ok()?;
        let entry = page.remove(at);
        if page.is_empty() {
            self.pages.remove(&number);
        } else if page.len() < page.capacity() / 4 {
            page.shrink_to(page.len() * 2);
        }
        self.len -= 1;
        Some(entry)
    }

    /// Entries with `from <= id <= to`, ascending.
    pub(super) fn range(&self, from: BlockId, to: BlockId) -> impl Iterator<Item = &BlockEntry> {
        // `BTreeMap::range` panics on a start above its end; the filter makes such a range empty.
        self.pages
            .range(page_of(from)..=page_of(to.max(from)))
            .flat_map(|(_, page)| page.iter())
            .filter(move |entry| (from..=to).contains(&entry.id))
    }
}

fn page_of(id: BlockId) -> u64 {
    id.get() >> PAGE_BITS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dfs_proto::InodeId;

    use super::super::random::Random;
    use super::*;

    #[test]
    fn an_entry_takes_forty_eight_bytes() {
        assert_eq!(size_of::<BlockEntry>(), 48);
    }

    #[test]
    fn the_map_agrees_with_a_plain_ordered_map() {
        let stored = |id: u64| StoredBlock {
            id: BlockId(id),
            stamp: GenerationStamp(id + 1),
            length: id,
            replication: 3,
            state: BlockState::Complete,
            inode: InodeId(2),
            index: 0,
            hints: Vec::new(),
        };
        let mut random = Random::new(5);
        let mut map = BlockMap::default();
        let mut model: BTreeMap<u64, u64> = BTreeMap::new();
        for _ in 0..20_000 {
            let id = random.below(2_000);
            match random.index(5) {
                0 | 1 => {
                    map.get_or_insert(&stored(id));
                    model.insert(id, id + 1);
                }
                2 | 3 => {
                    let removed = map.remove(BlockId(id)).map(|entry| entry.stamp.get());
                    assert_eq!(removed, model.remove(&id));
                }
                _ => {
                    let to = id + random.below(600);
                    let found: Vec<u64> =
                        map.range(BlockId(id), BlockId(to)).map(|entry| entry.id.get()).collect();
                    let expected: Vec<u64> = model.range(id..=to).map(|(id, _)| *id).collect();
                    assert_eq!(found, expected);
                }
            }
            assert_eq!(map.len(), model.len());
            assert_eq!(map.get(BlockId(id)).map(|e| e.stamp.get()), model.get(&id).copied());
        }
        assert_eq!(map.range(BlockId(9), BlockId(3)).count(), 0);
    }
}
