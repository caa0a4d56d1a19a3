//! The locks that a session holds, as the namenode has granted them.
//!
//! Pure. Needed to take them again from a namenode that was started anew, and to restore what an abandoned call may have
//! changed. Invariant: the ranges of one owner, sorted by their start, do not overlap.

use std::collections::{HashMap, HashSet};

use dfs_proto::v1::{FileLock, LockSpace, LockType};

/// Whose locks: owners of the two spaces are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    inode: u64,
    space: i32,
    owner: u64,
}

/// A locked range; `end` is included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
    exclusive: bool,
    pid: u32,
}

/// All locks of a session.
#[derive(Debug, Default)]
pub(super) struct LockTable {
    owners: HashMap<Key, Vec<Range>>,
    ranges: usize,
}

impl LockTable {
    /// Ranges that are locked.
    pub(super) fn len(&self) -> usize {
        self.ranges
    }

    /// Whether the owner of `lock` holds any part of its range.
    pub(super) fn overlaps(&self, lock: &FileLock) -> bool {
        let ranges = self.owners.get(&key(lock)).map_or(&[][..], Vec::as_slice);
        ranges.iter().any(|range| range.start <= lock.end && lock.start <= range.end)
    }

    /// Takes over what was granted: `lock` replaces whatever its owner had in its range.
    pub(super) fn apply(&mut self, lock: &FileLock) {
        let key = key(lock);
        let ranges = self.owners.entry(key).or_default();
        self.ranges -= ranges.len();
        let mut kept: Vec<Range> = Vec::with_capacity(ranges.len() + 2);
        for range in ranges.iter() {
            if range.start < lock.start {
                kept.push(Range { end: range.end.min(lock.start - 1), ..*range });
            }
            if range.end > lock.end {
                kept.push(Range { start: range.start.max(lock.end + 1), ..*range });
            }
        }
        let exclusive = match lock.r#type() {
            LockType::Unlock => None,
            LockType::Read => Some(false),
            LockType::Write => Some(true),
        };
        if let Some(exclusive) = exclusive {
            kept.push(Range { start: lock.start, end: lock.end, exclusive, pid: lock.pid });
        }
        kept.sort_unstable_by_key(|range| range.start);
        merge_neighbours(&mut kept);
        self.ranges += kept.len();
        if kept.is_empty() {
            self.owners.remove(&key);
        } else {
            *ranges = kept;
        }
    }

    /// Forgets the locks of files that are open no longer.
    pub(super) fn drop_files(&mut self, inodes: &[u64]) {
        if self.owners.is_empty() {
            return;
        }
        let inodes: HashSet<u64> = inodes.iter().copied().collect();
        self.owners.retain(|key, ranges| {
            let kept = !inodes.contains(&key.inode);
            if !kept {
                self.ranges -= ranges.len();
            }
            kept
        });
    }

    /// What the owner of `lock` holds in its range, and unlocks for the rest of it: setting these makes the
    /// namenode agree with this table.
    pub(super) fn state_of(&self, lock: &FileLock) -> Vec<FileLock> {
        let unlocked = |start, end| FileLock { start, end, r#type: LockType::Unlock.into(), ..*lock };
        let mut pieces = Vec::new();
        let mut next = Some(lock.start);
        for range in self.owners.get(&key(lock)).map_or(&[][..], Vec::as_slice) {
            let Some(from) = next else { break };
            if range.end < from || range.start > lock.end {
                continue;
            }
            if range.start > from {
                pieces.push(unlocked(from, range.start - 1));
            }
            let (start, end) = (range.start.max(from), range.end.min(lock.end));
            pieces.push(FileLock { start, end, ..rendered(&key(lock), range) });
            next = end.checked_add(1);
        }
        if let Some(from) = next.filter(|from| *from <= lock.end) {
            pieces.push(unlocked(from, lock.end));
        }
        pieces
    }

    /// All locks.
    pub(super) fn all(&self) -> Vec<FileLock> {
        let owners = self.owners.iter();
        owners.flat_map(|(key, ranges)| ranges.iter().map(|range| rendered(key, range))).collect()
    }
}

/// Joins ranges that touch and are locked in the same way.
fn merge_neighbours(ranges: &mut Vec<Range>) {
    ranges.dedup_by(|later, earlier| {
        let joined = earlier.exclusive == later.exclusive
            && earlier.pid == later.pid
            && earlier.end.checked_add(1) == Some(later.start);
        if joined {
            earlier.end = later.end;
        }
        joined
    });
}

fn key(lock: &FileLock) -> Key {
    Key { inode: lock.inode, space: lock.space, owner: lock.owner }
}

fn rendered(key: &Key, range: &Range) -> FileLock {
    let kind = if range.exclusive { LockType::Write } else { LockType::Read };
    let space = LockSpace::try_from(key.space).unwrap_or(LockSpace::Posix);
    FileLock {
        inode: key.inode,
        space: space.into(),
        owner: key.owner,
        start: range.start,
        end: range.end,
        r#type: kind.into(),
        pid: range.pid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(start: u64, end: u64, kind: LockType) -> FileLock {
        FileLock { inode: 7, owner: 1, start, end, r#type: kind.into(), ..Default::default() }
    }

    fn ranges(locks: &[FileLock]) -> Vec<(u64, u64, LockType)> {
        locks.iter().map(|lock| (lock.start, lock.end, lock.r#type())).collect()
    }

    fn all(table: &LockTable) -> Vec<(u64, u64, LockType)> {
        let mut all = ranges(&table.all());
        all.sort_by_key(|range| range.0);
        all
    }

    #[test]
    fn a_lock_replaces_what_its_owner_had_in_the_range() {
        let mut table = LockTable::default();
        table.apply(&lock(0, 99, LockType::Write));
        table.apply(&lock(40, 59, LockType::Read));
        assert_eq!(
            all(&table),
            [(0, 39, LockType::Write), (40, 59, LockType::Read), (60, 99, LockType::Write)]
        );
        table.apply(&lock(40, 59, LockType::Write));
        assert_eq!(all(&table), [(0, 99, LockType::Write)]);
        table.apply(&lock(10, u64::MAX, LockType::Unlock));
        assert_eq!(all(&table), [(0, 9, LockType::Write)]);
        table.apply(&lock(0, u64::MAX, LockType::Unlock));
        assert_eq!((all(&table), table.len()), (Vec::new(), 0));
    }

    #[test]
    fn owners_and_spaces_are_told_apart() {
        let mut table = LockTable::default();
        let first = lock(0, 9, LockType::Write);
        table.apply(&first);
        table.apply(&FileLock { owner: 2, ..first });
        table.apply(&FileLock { space: LockSpace::Flock.into(), ..first });
        assert_eq!(table.len(), 3);
        table.apply(&lock(0, 9, LockType::Unlock));
        assert_eq!(table.len(), 2);
        assert!(!table.overlaps(&first));
        assert!(table.overlaps(&FileLock { owner: 2, start: 9, ..first }));
        table.drop_files(&[6]);
        assert_eq!(table.len(), 2);
        table.drop_files(&[6, 7]);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn the_state_of_a_range_has_its_gaps_unlocked() {
        let mut table = LockTable::default();
        table.apply(&lock(10, 19, LockType::Read));
        table.apply(&lock(30, 39, LockType::Write));
        let state = table.state_of(&lock(15, 50, LockType::Write));
        assert_eq!(
            ranges(&state),
            [
                (15, 19, LockType::Read),
                (20, 29, LockType::Unlock),
                (30, 39, LockType::Write),
                (40, 50, LockType::Unlock)
            ]
        );
        let state = table.state_of(&lock(32, 35, LockType::Write));
        assert_eq!(ranges(&state), [(32, 35, LockType::Write)]);
        let state = table.state_of(&lock(0, u64::MAX, LockType::Write));
        assert_eq!(state.len(), 5);
    }
}
