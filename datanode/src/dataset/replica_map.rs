//! All replicas of a datanode by block id.
//!
//! A closed replica is a few words; one that is being written, recovered or deleted has an
//! [`OpenReplica`] with a lock of its own. Invariants: one entry a block; the map's lock is never held during
//! disk work, and an open replica's lock is never waited for while the map's is held.

use std::collections::{BTreeMap, btree_map};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

use dfs_proto::{BlockId, GenerationStamp};

use super::open_replica::{Home, OpenReplica};
use crate::sync::lock;

/// A closed replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Generation stamp.
    pub stamp: GenerationStamp,
    /// Length in bytes.
    pub length: u64,
    /// Index of its volume.
    pub volume: u16,
    /// It has been overwritten since the datanode started, and may be again: readers must not be given its pages, but
    /// copies of them.
    pub rewritten: bool,
    /// It is where small blocks are that came whole.
    pub small: bool,
}

impl Closed {
    /// Where its files are.
    pub const fn home(&self) -> Home {
        if self.small { Home::Small } else { Home::Finalized }
    }
}

/// One entry.
#[derive(Clone, Debug)]
pub enum Entry {
    /// Closed.
    Closed(Closed),
    /// Anything else.
    Open(Arc<OpenReplica>),
}

/// The map.
#[derive(Debug, Default)]
pub struct ReplicaMap {
    entries: Mutex<BTreeMap<BlockId, Entry>>,
}

impl ReplicaMap {
    /// A map of what the scan found.
    pub fn new(entries: BTreeMap<BlockId, Entry>) -> Self {
        Self { entries: Mutex::new(entries) }
    }

    /// Looks a block up.
    pub fn get(&self, id: BlockId) -> Option<Entry> {
        lock(&self.entries).get(&id).cloned()
    }

    /// Locks the map for a look-up and a change in one step. No disk work, no other lock.
    pub fn lock(&self) -> MutexGuard<'_, BTreeMap<BlockId, Entry>> {
        lock(&self.entries)
    }

    /// Puts a new open replica in place, or returns what is there.
    pub fn insert_open(&self, id: BlockId, replica: &Arc<OpenReplica>) -> Option<Entry> {
        match lock(&self.entries).entry(id) {
            btree_map::Entry::Occupied(present) => Some(present.get().clone()),
            btree_map::Entry::Vacant(place) => {
                place.insert(Entry::Open(Arc::clone(replica)));
                None
            }
        }
    }

    /// Puts an entry in place, or returns what is there.
    pub fn insert(&self, id: BlockId, entry: Entry) -> Option<Entry> {
        match lock(&self.entries).entry(id) {
            btree_map::Entry::Occupied(present) => Some(present.get().clone()),
            btree_map::Entry::Vacant(place) => {
                place.insert(entry);
                None
            }
        }
    }

    /// Removes exactly this closed replica. Answers whether it was there.
    pub fn remove_closed(&self, id: BlockId, closed: Closed) -> bool {
        match lock(&self.entries).entry(id) {
            btree_map::Entry::Occupied(present) if matches!(present.get(), Entry::Closed(here) if *here == closed) =>
            {
                present.remove();
                true
            }
            _ => false,
        }
    }

    /// Replaces exactly this open replica by `with`, or removes it.
    pub fn replace_open(&self, id: BlockId, replica: &Arc<OpenReplica>, with: Option<Closed>) {
        let mut entries = lock(&self.entries);
        if let btree_map::Entry::Occupied(mut place) = entries.entry(id)
            && matches!(place.get(), Entry::Open(present) if Arc::ptr_eq(present, replica))
        {
            match with {
                Some(closed) => {
                    place.insert(Entry::Closed(closed));
                }
                None => {
                    place.remove();
                }
            }
        }
    }

    /// Up to `max` entries after `after`, ascending.
    pub fn slice(&self, after: Option<BlockId>, max: usize) -> Vec<(BlockId, Entry)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = lock(&self.entries);
        entries.range((from, Bound::Unbounded)).take(max).map(|(id, entry)| (*id, entry.clone())).collect()
    }

    /// Number of replicas.
    pub fn count(&self) -> usize {
        lock(&self.entries).len()
    }
}
