//! Which content of a file the kernel's page cache holds, so that it can be kept across opens.
//!
//! The kernel drops a file's pages at open unless told otherwise. They may stay if the file has not changed since they were
//! filled but through this mount, whose writes go through those pages. The file's change counter tells:
//! the number remembered for an inode is the counter at which the pages were right.
//!
//! Invariant: a remembered counter never stands for a content that differs from the kernel's pages; when in doubt, nothing is remembered.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dfs_client::fs::InodeId;

/// Most files remembered; the kernel keeps pages of fewer in common amounts of memory. When half of that have come, those
/// not opened since the last time are forgotten.
const MAX_REMEMBERED: usize = 200_000;

/// Remembers change counters.
#[derive(Debug, Default)]
pub struct Contents {
    counters: Mutex<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    young: HashMap<InodeId, u64>,
    old: HashMap<InodeId, u64>,
}

impl Contents {
    /// The file is being opened and its counter is `change`: whether the kernel's pages are right. They will be.
    pub fn opened(&self, inode: InodeId, change: u64) -> bool {
        let mut counters = self.lock();
        let known = counters.get(inode);
        counters.set(inode, change);
        known == Some(change)
    }

    /// Whether the kernel may have pages of the file.
    pub fn is_remembered(&self, inode: InodeId) -> bool {
        let counters = self.lock();
        counters.young.contains_key(&inode) || counters.old.contains_key(&inode)
    }

    /// What a writer of this mount wrote is recorded at `change`; nobody else has written since it opened the file.
    pub fn written(&self, inode: InodeId, change: u64) {
        let mut counters = self.lock();
        if counters.get(inode).is_some() {
            counters.set(inode, change);
        }
    }

    /// A single change through this mount, which left the kernel's pages right, has made the counter `change`.
    pub fn changed_once(&self, inode: InodeId, change: u64) {
        let mut counters = self.lock();
        match counters.get(inode) {
            Some(known) if known.checked_add(1) == Some(change) => counters.set(inode, change),
            _ => {}
        }
    }

    /// The kernel's pages may be wrong.
    pub fn forget(&self, inode: InodeId) {
        let mut counters = self.lock();
        counters.young.remove(&inode);
        counters.old.remove(&inode);
    }

    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters {
    fn get(&self, inode: InodeId) -> Option<u64> {
        self.young.get(&inode).or_else(|| self.old.get(&inode)).copied()
    }

    fn set(&mut self, inode: InodeId, change: u64) {
        self.old.remove(&inode);
        if self.young.len() >= MAX_REMEMBERED / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(inode, change);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: InodeId = InodeId(3);

    #[test]
    fn pages_stay_while_nobody_else_changes_the_file() {
        let contents = Contents::default();
        assert!(!contents.opened(FILE, 5), "never seen");
        assert!(contents.opened(FILE, 5));
        contents.written(FILE, 9);
        assert!(contents.opened(FILE, 9));
        assert!(!contents.opened(FILE, 10), "another mount");
        assert!(contents.opened(FILE, 10));
    }

    #[test]
    fn one_own_change_of_attributes_does_not_cost_the_pages() {
        let contents = Contents::default();
        contents.changed_once(FILE, 1);
        assert!(!contents.opened(FILE, 5));
        contents.changed_once(FILE, 6);
        assert!(contents.opened(FILE, 6));
        contents.changed_once(FILE, 8);
        assert!(!contents.opened(FILE, 8), "somebody else changed it too");
    }

    #[test]
    fn what_is_forgotten_is_not_remembered_by_writing() {
        let contents = Contents::default();
        contents.opened(FILE, 5);
        contents.forget(FILE);
        contents.written(FILE, 6);
        assert!(!contents.opened(FILE, 6));
    }

    #[test]
    fn the_memory_is_bounded() {
        let contents = Contents::default();
        for inode in 0..MAX_REMEMBERED as u64 * 2 {
            contents.opened(InodeId(inode), 1);
        }
        let counters = contents.lock();
        assert!(counters.young.len() + counters.old.len() <= MAX_REMEMBERED);
    }
}
