//! What was deleted a moment ago, to recognise late news of it.
//!
//! Two races need a memory of deletions:
//! * A caller looks blocks up in the namespace and then calls the block manager; a block removed between
//!   the two must not come back to life. (The namespace never uses a block id again.)
//! * A datanode puts a full report together, deletes a replica, and confirms the deletion before the
//!   report has arrived. Believing the report would count a replica that does not exist, and the next
//!   thing to happen might be the deletion of a real one for being in excess.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// How long a deletion is remembered: far longer than such news is on its way.
const REMEMBERED_MS: u64 = 60_000;

/// Deletions remembered at most, the latest ones (some 64 MiB): deleting a million blocks within the time
/// above is faster than the namespace frees them.
const REMEMBERED_MAX: usize = 1 << 20;

/// Deletions of things named by `K`.
#[derive(Debug)]
pub(super) struct RecentDeletions<K> {
    /// In the order in which they happened; may name what was forgotten or deleted again since.
    order: VecDeque<(u64, K)>,
    at: HashMap<K, u64>,
}

impl<K> Default for RecentDeletions<K> {
    fn default() -> Self {
        Self { order: VecDeque::new(), at: HashMap::new() }
    }
}

impl<K: Copy + Eq + Hash> RecentDeletions<K> {
    pub(super) fn add(&mut self, now: u64, key: K) {
        self.at.insert(key, now);
        self.order.push_back((now, key));
        while self.order.len() > REMEMBERED_MAX {
            self.pop();
        }
    }

    pub(super) fn contains(&self, key: K) -> bool {
        self.at.contains_key(&key)
    }

    /// It exists again.
    pub(super) fn forget(&mut self, key: K) {
        self.at.remove(&key);
    }

    pub(super) fn expire(&mut self, now: u64) {
        while self.order.front().is_some_and(|(at, _)| at.saturating_add(REMEMBERED_MS) <= now) {
            self.pop();
        }
        if self.order.is_empty() && self.order.capacity() > 0 {
            // Gives back what a large deletion took.
            *self = Self::default();
        }
    }

    fn pop(&mut self) {
        if let Some((at, key)) = self.order.pop_front()
            && self.at.get(&key) == Some(&at)
        {
            self.at.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletions_are_remembered_for_a_while_and_bounded() {
        let mut recent = RecentDeletions::default();
        recent.add(0, 1);
        recent.add(10_000, 2);
        recent.add(10_000, 3);
        recent.forget(3);
        assert!(!recent.contains(3));
        recent.add(20_000, 1);
        recent.expire(69_999);
        assert!(recent.contains(1) && recent.contains(2), "deleted again later");
        recent.expire(70_000);
        assert!(recent.contains(1) && !recent.contains(2));
        for key in 0..(REMEMBERED_MAX as u64 + 10) {
            recent.add(75_000, 1_000 + key);
        }
        assert!(!recent.contains(1_000 + 9) && recent.contains(1_000 + 10));
        assert_eq!((recent.order.len(), recent.at.len()), (REMEMBERED_MAX, REMEMBERED_MAX));
        recent.expire(1_000_000);
        assert_eq!((recent.order.capacity(), recent.at.len()), (0, 0));
    }
}
