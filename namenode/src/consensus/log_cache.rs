//! The last entries of the log in memory.
//!
//! openraft reads an entry back right after appending it, to apply it and to send it to followers; the
//! cache serves that without touching files. Older entries come from the segments.
//!
//! Invariants: the cached entries are consecutive and end with the last entry of the log; an entry that
//! was not written to its segment yet is cached.

use std::collections::VecDeque;

use super::raft_types::{self, Entry, LogId};

/// Most bytes of encoded entries kept once they are written. A follower that is further behind reads
/// files; in memory the entries take a few times as much.
pub const CACHE_BYTES_MAX: usize = 4 << 20;

/// Most entries kept once they are written: bounds the overhead of many small ones.
const CACHE_ENTRIES_MAX: usize = 8_192;

/// See the module.
#[derive(Debug)]
pub struct LogCache {
    entries: VecDeque<(Entry, usize)>,
    bytes: usize,
    /// Index of the next entry to append.
    next: u64,
    last: Option<LogId>,
    purged: Option<LogId>,
    /// Entries below this index are in segment files.
    written: u64,
}

impl LogCache {
    /// A cache for a log that ends with `last` (or, if it is empty, goes on after `purged`) and whose
    /// last entries are `tail`.
    pub fn new(purged: Option<LogId>, last: Option<LogId>, tail: Vec<Entry>) -> Self {
        let next = last.map_or(0, |id| id.index + 1);
        let mut cache = Self { entries: VecDeque::new(), bytes: 0, next, last, purged, written: next };
        for entry in tail {
            let bytes = raft_types::entry_bytes(&entry);
            cache.bytes += bytes;
            cache.entries.push_back((entry, bytes));
        }
        cache.evict();
        cache
    }

    /// Last entry, or the last purged one.
    pub const fn last(&self) -> Option<LogId> {
        self.last
    }

    /// Last purged entry.
    pub const fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// Index of the first cached entry; the next index if there is none.
    fn first(&self) -> u64 {
        self.next - self.entries.len() as u64
    }

    /// Appends an entry. An entry that does not follow the last one is refused with its index.
    pub fn append(&mut self, entry: Entry) -> Result<(), u64> {
        if entry.log_id.index != self.next {
            return Err(entry.log_id.index);
        }
        let bytes = raft_types::entry_bytes(&entry);
        self.last = Some(entry.log_id);
        self.next += 1;
        self.bytes += bytes;
        self.entries.push_back((entry, bytes));
        Ok(())
    }

    /// Notes that entries below `next` are in segment files.
    pub fn written(&mut self, next: u64) {
        self.written = self.written.max(next);
        self.evict();
    }

    fn evict(&mut self) {
        while self.first() < self.written
            && (self.bytes > CACHE_BYTES_MAX || self.entries.len() > CACHE_ENTRIES_MAX)
        {
            let Some((_, bytes)) = self.entries.pop_front() else { return };
            self.bytes -= bytes;
        }
    }

    /// Removes the entries after `last`.
    pub fn truncate(&mut self, last: Option<LogId>) {
        let next = last.map_or(0, |id| id.index + 1);
        while self.next > next {
            let Some((_, bytes)) = self.entries.pop_back() else { break };
            self.bytes -= bytes;
            self.next -= 1;
        }
        self.next = next;
        self.written = self.written.min(next);
        self.last = last;
    }

    /// Notes that the entries up to `upto` are gone.
    pub fn purge(&mut self, upto: LogId) {
        self.purged = self.purged.max(Some(upto));
        while self.first() <= upto.index {
            let Some((_, bytes)) = self.entries.pop_front() else { break };
            self.bytes -= bytes;
        }
        if self.next <= upto.index {
            self.next = upto.index + 1;
            self.written = self.next;
            self.last = Some(upto);
        }
    }

    /// The entries from `start` to before `end`, at most `bytes_max` but at least one if there is one.
    /// The second value is the index before which the missing ones must be read from files; it is `start`
    /// if none are missing.
    pub fn read(&self, start: u64, end: u64, bytes_max: usize) -> (Vec<Entry>, u64) {
        let end = end.min(self.next);
        let first = self.first();
        if start >= end {
            return (Vec::new(), start);
        }
        let from = start.max(first);
        let skip = usize::try_from(from - first).unwrap_or(usize::MAX);
        let count = usize::try_from(end.saturating_sub(from)).unwrap_or(usize::MAX);
        let mut bytes_left = bytes_max;
        let mut found = Vec::with_capacity(count.min(self.entries.len()));
        for (entry, bytes) in self.entries.iter().skip(skip).take(count) {
            if bytes_left == 0 {
                break;
            }
            bytes_left = bytes_left.saturating_sub(*bytes);
            found.push(entry.clone());
        }
        (found, from.min(end))
    }
}

#[cfg(test)]
mod tests {
    use openraft::{CommittedLeaderId, EntryPayload};

    use super::*;

    fn id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(1, 1), index)
    }

    fn entry(index: u64) -> Entry {
        Entry { log_id: id(index), payload: EntryPayload::Blank }
    }

    fn cache(indexes: std::ops::Range<u64>) -> LogCache {
        let mut cache = LogCache::new(None, None, Vec::new());
        for index in indexes {
            cache.append(entry(index)).expect("consecutive");
        }
        cache
    }

    fn indexes(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.log_id.index).collect()
    }

    #[test]
    fn entries_are_read_back_and_limited() {
        let cache = cache(0..10);
        let (found, from) = cache.read(3, 6, usize::MAX);
        assert_eq!((indexes(&found), from), (vec![3, 4, 5], 3));
        assert_eq!(indexes(&cache.read(8, 99, usize::MAX).0), [8, 9]);
        assert_eq!(indexes(&cache.read(3, 6, 1).0), [3]);
        assert_eq!(cache.read(10, 12, usize::MAX).0.len(), 0);
    }

    #[test]
    fn only_written_entries_are_evicted() {
        let count = CACHE_ENTRIES_MAX as u64 + 10;
        let mut cache = cache(0..count);
        assert_eq!(cache.first(), 0);
        cache.written(4);
        assert_eq!(cache.first(), 4);
        cache.written(count);
        assert_eq!(cache.first(), 10);
        let (found, from) = cache.read(0, 12, usize::MAX);
        assert_eq!((indexes(&found), from), (vec![10, 11], 10), "0..10 must come from files");
    }

    #[test]
    fn a_cut_log_goes_on_before_the_cut() {
        let mut cache = cache(0..5);
        cache.truncate(Some(id(2)));
        assert_eq!(cache.last(), Some(id(2)));
        assert_eq!(cache.append(entry(4)), Err(4));
        assert_eq!(cache.append(entry(3)), Ok(()));
    }

    #[test]
    fn purging_beyond_the_end_moves_the_end() {
        let mut cache = cache(0..5);
        cache.purge(id(2));
        assert_eq!((cache.purged(), cache.last(), cache.first()), (Some(id(2)), Some(id(4)), 3));
        cache.purge(id(20));
        assert_eq!((cache.purged(), cache.last()), (Some(id(20)), Some(id(20))));
        assert_eq!(cache.append(entry(21)), Ok(()));
    }
}
