//! The locks that a session holds, as the namenode has granted them.
//!
//! Pure. Needed to take them again from a namenode that was started anew, and to restore what an abandoned call may have
//! changed. Invariant: the ranges of one owner, sorted by their start, do not overlap.

use std::collections::HashMap;

use dfs_proto::v1::{FileLock, LockSpace, LockType};

/// An owner in a file: those of the two spaces are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Owner {
    space: i32,
    number: u64,
}

/// A locked range; `end` is included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
    exclusive: bool,
    pid: u32,
}

/// Locks of one file.
type Owners = HashMap<Owner, Vec<Range>>;

/// All locks of a session.
#[derive(Debug, Default)]
pub(super) struct LockTable {
    files: HashMap<u64, Owners>,
    ranges: usize,
}

impl LockTable {
    /// Ranges that are locked.
    pub(super) fn len(&self) -> usize {
        self.ranges
    }

    /// Ranges of the file and space of `lock`.
    pub(super) fn len_beside(&self, lock: &FileLock) -> usize {
        let owners = self.files.get(&lock.inode).into_iter().flatten();
        owners.filter(|(owner, _)| owner.space == lock.space).map(|(_, ranges)| ranges.len()).sum()
    }

    fn ranges_of(&self, lock: &FileLock) -> &[Range] {
        let ranges = self.files.get(&lock.inode).and_then(|owners| owners.get(&owner(lock)));
        ranges.map_or(&[][..], Vec::as_slice)
    }

    /// Whether the owner of `lock` holds any part of its range.
    pub(super) fn overlaps(&self, lock: &FileLock) -> bool {
        self.ranges_of(lock).iter().any(|range| range.overlaps(lock))
    }

    /// The first lock of another owner that is in the way of `lock`.
    pub(super) fn blocker(&self, lock: &FileLock) -> Option<FileLock> {
        if lock.r#type() == LockType::Unlock {
            return None;
        }
        let me = owner(lock);
        let others = self.files.get(&lock.inode)?.iter();
        let ranges = others
            .filter(|(other, _)| other.space == me.space && other.number != me.number)
            .flat_map(|(other, ranges)| ranges.iter().map(move |range| (other, range)));
        let write = lock.r#type() == LockType::Write;
        let in_the_way = ranges.filter(|(_, range)| range.overlaps(lock) && (range.exclusive || write));
        let (other, range) = in_the_way.min_by_key(|(_, range)| range.start)?;
        Some(rendered(lock.inode, other, range))
    }

    /// Takes over what was granted: `lock` replaces whatever its owner had in its range.
    pub(super) fn apply(&mut self, lock: &FileLock) {
        let owners = self.files.entry(lock.inode).or_default();
        let ranges = owners.entry(owner(lock)).or_default();
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
        if !kept.is_empty() {
            *ranges = kept;
            return;
        }
        owners.remove(&owner(lock));
        if owners.is_empty() {
            self.files.remove(&lock.inode);
        }
    }

    /// Forgets the locks of files that are open no longer.
    pub(super) fn drop_files(&mut self, inodes: &[u64]) {
        for inode in inodes {
            if let Some(owners) = self.files.remove(inode) {
                self.ranges -= owners.values().map(Vec::len).sum::<usize>();
            }
        }
    }

    /// What the owner of `lock` holds in its range, and unlocks for the rest of it: setting these makes the
    /// namenode agree with this table.
    pub(super) fn state_of(&self, lock: &FileLock) -> Vec<FileLock> {
        let unlocked = |start, end| FileLock { start, end, r#type: LockType::Unlock.into(), ..*lock };
        let mut pieces = Vec::new();
        let mut next = Some(lock.start);
        for range in self.ranges_of(lock) {
            let Some(from) = next else { break };
            if range.end < from || range.start > lock.end {
                continue;
            }
            if range.start > from {
                pieces.push(unlocked(from, range.start - 1));
            }
            let (start, end) = (range.start.max(from), range.end.min(lock.end));
            pieces.push(FileLock { start, end, ..rendered(lock.inode, &owner(lock), range) });
            next = end.checked_add(1);
        }
        if let Some(from) = next.filter(|from| *from <= lock.end) {
            pieces.push(unlocked(from, lock.end));
        }
        pieces
    }

    /// All locks in a file.
    pub(super) fn of_file(&self, inode: u64) -> Vec<FileLock> {
        let owners = self.files.get(&inode).into_iter().flatten();
        owners
            .flat_map(|(owner, ranges)| ranges.iter().map(move |range| rendered(inode, owner, range)))
            .collect()
    }

    /// All locks.
    pub(super) fn all(&self) -> Vec<FileLock> {
        self.files.keys().flat_map(|inode| self.of_file(*inode)).collect()
    }
}

impl Range {
    fn overlaps(&self, lock: &FileLock) -> bool {
        self.start <= lock.end && lock.start <= self.end
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

fn owner(lock: &FileLock) -> Owner {
    Owner { space: lock.space, number: lock.owner }
}

fn rendered(inode: u64, owner: &Owner, range: &Range) -> FileLock {
    let kind = if range.exclusive { LockType::Write } else { LockType::Read };
    let space = LockSpace::try_from(owner.space).unwrap_or(LockSpace::Posix);
    FileLock {
        inode,
        space: space.into(),
        owner: owner.number,
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
    fn the_first_lock_in_the_way_is_found() {
        let mut table = LockTable::default();
        let mine = lock(0, 9, LockType::Write);
        table.apply(&mine);
        table.apply(&FileLock { owner: 2, pid: 5, ..lock(20, 29, LockType::Read) });
        table.apply(&FileLock { owner: 2, pid: 6, ..lock(10, 19, LockType::Write) });
        table.apply(&FileLock { inode: 8, owner: 2, ..lock(0, 99, LockType::Write) });
        assert_eq!(table.blocker(&lock(0, 9, LockType::Write)), None);
        assert_eq!(table.blocker(&lock(20, 99, LockType::Read)), None);
        let found = table.blocker(&lock(0, 99, LockType::Write)).map(|lock| (lock.start, lock.pid));
        assert_eq!(found, Some((10, 6)));
        assert_eq!(table.blocker(&lock(20, 99, LockType::Write)).map(|lock| lock.pid), Some(5));
        assert_eq!(table.blocker(&lock(0, 99, LockType::Unlock)), None);
        assert_eq!(
            table.blocker(&FileLock { owner: 3, ..lock(5, 5, LockType::Read) }).map(|l| l.owner),
            Some(1)
        );
        let flock = FileLock { owner: 3, space: LockSpace::Flock.into(), ..mine };
        assert_eq!(table.blocker(&flock), None);
        assert_eq!((table.len_beside(&mine), table.len_beside(&flock), table.of_file(7).len()), (3, 0, 3));
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
