//! Attributes of nodes, kept for the cache's time to live.
//!
//! Invariants:
//! - An answer is never older than the time to live, counted from the moment when the cluster was asked.
//! - A change made through this mount shows at once: an answer to a question that was asked before the change
//!   was done is not kept, and among two answers the one with the higher change counter counts.
//! - At most `capacity` nodes are kept. When half of that have come, those not used since the last time go.
//!
//! Called from event loop threads and tasks; the lock is held for a map operation only.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use dfs_client::fs::{FileStatus, InodeId};

use crate::attributes::Node;

/// The cache.
#[derive(Debug)]
pub struct AttrCache {
    ttl: Duration,
    capacity: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    young: HashMap<InodeId, Entry>,
    old: HashMap<InodeId, Entry>,
}

#[derive(Debug)]
struct Entry {
    node: Option<Node>,
    /// When the cluster was asked.
    fetched: Instant,
    /// Answers to questions asked before this are out of date.
    not_before: Instant,
}

impl AttrCache {
    /// Keeps `capacity` nodes for `ttl`.
    pub fn new(ttl: Duration, capacity: usize) -> Self {
        Self { ttl, capacity, kept: Mutex::default() }
    }

    /// The node, and how long it still counts.
    pub fn get(&self, inode: InodeId, now: Instant) -> Option<(Node, Duration)> {
        let mut kept = self.lock();
        let entry = kept.entry(inode)?;
        let left = self.ttl.checked_sub(now.saturating_duration_since(entry.fetched))?;
        if left.is_zero() {
            return None;
        }
        Some((entry.node.clone()?, left))
    }

    /// Keeps the answer to a question asked at `asked`.
    pub fn put(&self, inode: InodeId, node: Node, asked: Instant) {
        let mut kept = self.lock();
        match kept.entry(inode) {
            Some(entry) if entry.not_before > asked => {}
            Some(entry) => {
                if entry.node.as_ref().is_none_or(|known| known.change <= node.change) {
                    entry.node = Some(node);
                    entry.fetched = entry.fetched.max(asked);
                }
            }
            None => {
                let entry = Entry { node: Some(node), fetched: asked, not_before: asked };
                self.insert(&mut kept, inode, entry);
            }
        }
    }

    /// Keeps what a change made through this mount has answered.
    pub fn changed(&self, inode: InodeId, node: Node) {
        let now = Instant::now();
        let mut kept = self.lock();
        let node = match kept.entry(inode) {
            Some(Entry { node: Some(known), .. }) if known.change > node.change => known.clone(),
            _ => node,
        };
        self.insert(&mut kept, inode, Entry { node: Some(node), fetched: now, not_before: now });
    }

    /// An entry was made in or removed from directory `dir` through this mount at `at`, the time that the cluster gave the change.
    pub fn entry_changed(&self, dir: InodeId, at: SystemTime, links: i32) {
        let now = Instant::now();
        let mut kept = self.lock();
        let entry = match kept.entry(dir) {
            Some(entry) => entry,
            None => return self.insert(&mut kept, dir, Entry { node: None, fetched: now, not_before: now }),
        };
        entry.not_before = now;
        if let Some(node) = &mut entry.node {
            node.attr.mtime = node.attr.mtime.max(at);
            node.attr.ctime = node.attr.ctime.max(at);
            node.attr.nlink = node.attr.nlink.saturating_add_signed(links);
            node.change += 1;
        }
    }

    /// What was written through this mount is recorded at the cluster: `written` is newer in what writing changes, unless the handle it
    /// is from was released so late that a newer one has written already.
    pub fn overlay(&self, inode: InodeId, written: &FileStatus) {
        let now = Instant::now();
        let mut kept = self.lock();
        if let Some(entry) = kept.entry(inode) {
            entry.not_before = now;
            if let Some(node) = entry.node.as_mut().filter(|node| node.change <= written.change) {
                node.overlay(written);
            }
        }
    }

    /// What is known of the node is out of date.
    pub fn expire(&self, inode: InodeId) {
        let now = Instant::now();
        let mut kept = self.lock();
        self.insert(&mut kept, inode, Entry { node: None, fetched: now, not_before: now });
    }

    /// Drops what no longer counts.
    pub fn sweep(&self, now: Instant) {
        let mut kept = self.lock();
        let counts =
            |entry: &Entry| now.saturating_duration_since(entry.fetched.max(entry.not_before)) < self.ttl;
        let Kept { young, old } = &mut *kept;
        for entries in [young, old] {
            entries.retain(|_, entry| counts(entry));
            entries.shrink_to(entries.len() * 2);
        }
    }

    fn insert(&self, kept: &mut Kept, inode: InodeId, entry: Entry) {
        kept.old.remove(&inode);
        if kept.young.len() >= (self.capacity / 2).max(1) {
            kept.old = std::mem::take(&mut kept.young);
        }
        kept.young.insert(inode, entry);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn entry(&mut self, inode: InodeId) -> Option<&mut Entry> {
        if let Some(entry) = self.old.remove(&inode) {
            self.young.insert(inode, entry);
        }
        self.young.get_mut(&inode)
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use fuser::INodeNo;

    use super::*;
    use crate::owners::Owners;

    const TTL: Duration = Duration::from_secs(1);
    const FILE: InodeId = InodeId(9);

    fn node(change: u64) -> Node {
        let status = FileStatus { change, size: change, nlink: 2, ..FileStatus::default() };
        Node::new(&status, INodeNo(9), &Owners::default())
    }

    fn change(cache: &AttrCache, now: Instant) -> Option<u64> {
        cache.get(FILE, now).map(|(node, _)| node.change)
    }

    #[test]
    fn answers_count_for_their_time_from_the_question_on() {
        let (cache, asked) = (AttrCache::new(TTL, 10), Instant::now());
        cache.put(FILE, node(1), asked);
        let (_, left) = cache.get(FILE, asked + Duration::from_millis(300)).unwrap();
        assert_eq!(left, Duration::from_millis(700));
        assert_eq!(change(&cache, asked + TTL), None);
    }

    #[test]
    fn an_older_answer_does_not_replace_a_newer() {
        let (cache, asked) = (AttrCache::new(TTL, 10), Instant::now());
        cache.put(FILE, node(5), asked);
        cache.put(FILE, node(4), asked + Duration::from_millis(1));
        assert_eq!(change(&cache, asked), Some(5));
        cache.put(FILE, node(6), asked);
        assert_eq!(change(&cache, asked), Some(6));
    }

    #[test]
    fn answers_from_before_a_change_are_not_kept() {
        let (cache, asked) = (AttrCache::new(TTL, 10), Instant::now());
        cache.changed(FILE, node(5));
        cache.put(FILE, node(5), asked);
        assert_eq!(change(&cache, Instant::now()), Some(5));
        cache.expire(FILE);
        cache.put(FILE, node(9), asked);
        assert_eq!(change(&cache, Instant::now()), None);
        let now = Instant::now();
        cache.put(FILE, node(9), now);
        assert_eq!(change(&cache, now), Some(9));
    }

    #[test]
    fn what_a_handle_wrote_does_not_replace_what_a_later_one_wrote() {
        let (cache, asked) = (AttrCache::new(TTL, 10), Instant::now());
        cache.put(FILE, node(5), asked);
        let written = |change, size| FileStatus { change, size, ..FileStatus::default() };
        cache.overlay(FILE, &written(6, 60));
        cache.overlay(FILE, &written(5, 50));
        assert_eq!(cache.get(FILE, asked).unwrap().0.attr.size, 60);
    }

    #[test]
    fn a_directory_with_a_new_entry_shows_it_at_once() {
        let (cache, asked) = (AttrCache::new(TTL, 10), Instant::now());
        cache.put(FILE, node(5), asked);
        let at = UNIX_EPOCH + Duration::from_secs(77);
        cache.entry_changed(FILE, at, 1);
        let (known, left) = cache.get(FILE, asked).unwrap();
        assert_eq!((known.attr.mtime, known.attr.nlink, left), (at, 3, TTL));
        cache.put(FILE, node(5), asked);
        assert_eq!(cache.get(FILE, asked).unwrap().0.attr.mtime, at, "a listing under way is older");
    }

    #[test]
    fn the_number_of_nodes_is_bounded_and_used_ones_stay() {
        let (cache, asked) = (AttrCache::new(TTL, 100), Instant::now());
        cache.put(FILE, node(1), asked);
        for inode in 1_000..2_000 {
            cache.put(InodeId(inode), node(1), asked);
            assert_eq!(change(&cache, asked), Some(1), "used all the time");
        }
        let kept = cache.lock();
        assert!(kept.young.len() + kept.old.len() <= 101);
    }

    #[test]
    fn a_sweep_drops_what_is_too_old() {
        let (cache, asked) = (AttrCache::new(TTL, 100), Instant::now());
        cache.put(FILE, node(1), asked);
        cache.sweep(asked + TTL / 2);
        assert_eq!(change(&cache, asked), Some(1));
        cache.sweep(asked + TTL * 2);
        assert!(cache.lock().young.is_empty());
    }
}
