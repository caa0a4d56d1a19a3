//! Positions in a directory that is being read.
//!
//! The kernel names a position by a 64-bit number that it got with the entry before it. Names are what is stable: the entries after a
//! name are the same however the directory changes before it. So an open directory remembers the names that it has
//! given out, and number `n` stands for "after the `n`th of them":
//!
//! ```text
//! 0            the start: "." and ".." come first
//! 1, 2         after ".", after ".."
//! 2 + n        after the nth name
//! ```
//!
//! An entry that exists all the time therefore appears exactly once, and a position stays right as long as the
//! directory is open. Of a directory whose names take more than [`MAX_NAMES_BYTES`], the oldest positions are given up but for one
//! in [`KEPT_OF_OLD`]; a program that goes back to one of the others starts at the nearest before it.

use std::collections::VecDeque;
use std::sync::Arc;

use dfs_client::fs::InodeId;

/// Memory for names of one open directory: half a million of 30 bytes.
const MAX_NAMES_BYTES: usize = 16 << 20;
/// One of so many old positions stays.
const KEPT_OF_OLD: u64 = 1_024;
/// Positions of "." and "..".
pub const DOTS: u64 = 2;
/// Bytes of the kernel's `fuse_dirent` before the name.
const DIRENT_BYTES: usize = 24;
/// Bytes of its `fuse_entry_out`, the attributes.
const ENTRY_BYTES: usize = 128;
/// Each entry is filled up to a multiple of this.
const ALIGNMENT: usize = 8;

/// An open directory.
#[derive(Debug)]
pub struct DirectoryHandle {
    /// The directory.
    pub dir: InodeId,
    /// Where readers of this handle are.
    pub positions: tokio::sync::Mutex<Positions>,
    /// Held by who fetches names, those that come next included.
    pub fetching: Arc<tokio::sync::Mutex<()>>,
}

impl DirectoryHandle {
    /// Nothing was read yet.
    pub fn new(dir: InodeId) -> Self {
        Self { dir, positions: tokio::sync::Mutex::default(), fetching: Arc::default() }
    }
}

/// Room for entries in an answer.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    bytes: usize,
    entries: usize,
    attributes: bool,
}

impl Room {
    /// The kernel takes so many bytes, and the mount gives so many entries at most.
    pub fn new(bytes: usize, entries: usize, attributes: bool) -> Self {
        Self { bytes, entries, attributes }
    }

    /// Takes room for an entry with this name; false if there is none.
    pub fn take(&mut self, name: &[u8]) -> bool {
        let head = if self.attributes { DIRENT_BYTES + ENTRY_BYTES } else { DIRENT_BYTES };
        let bytes = (head + name.len()).next_multiple_of(ALIGNMENT);
        let fits = self.entries > 0 && bytes <= self.bytes;
        if fits {
            self.entries -= 1;
            self.bytes -= bytes;
        }
        fits
    }
}

/// Names given out, by position.
#[derive(Debug)]
pub struct Positions {
    /// Lengths of the names at positions `first ..`, and their bytes one after another.
    ends: VecDeque<u64>,
    bytes: VecDeque<u8>,
    /// Position of the first name kept in full.
    first: u64,
    /// Bytes dropped from the front so far: `ends` count from the very start.
    dropped: u64,
    /// Some positions before `first`, in order.
    old: Vec<(u64, Box<[u8]>)>,
    max_bytes: usize,
}

impl Default for Positions {
    fn default() -> Self {
        Self::with_bound(MAX_NAMES_BYTES)
    }
}

impl Positions {
    fn with_bound(max_bytes: usize) -> Self {
        Self {
            ends: VecDeque::new(),
            bytes: VecDeque::new(),
            first: DOTS + 1,
            dropped: 0,
            old: Vec::new(),
            max_bytes,
        }
    }

    /// The name after which position `position` goes on, and the position that it really is; `None` for one that was never given out.
    /// The start and the dots go on after the empty name.
    pub fn name(&self, position: u64) -> Option<(u64, Vec<u8>)> {
        if position <= DOTS {
            return Some((DOTS, Vec::new()));
        }
        if position < self.first {
            let before = self.old.partition_point(|(at, _)| *at <= position);
            return Some(match before.checked_sub(1).and_then(|index| self.old.get(index)) {
                Some((at, name)) => (*at, name.to_vec()),
                None => (DOTS, Vec::new()),
            });
        }
        let index = usize::try_from(position - self.first).ok()?;
        let end = *self.ends.get(index)?;
        let start =
            index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(self.dropped);
        let range = usize::try_from(start - self.dropped).ok()?..usize::try_from(end - self.dropped).ok()?;
        Some((position, self.bytes.range(range).copied().collect()))
    }

    /// The name `name` was given out after position `position`: its own position. What was given out behind it
    /// before, on an earlier pass, counts no longer.
    pub fn push(&mut self, position: u64, name: &[u8]) -> u64 {
        let next = position.max(DOTS) + 1;
        if next < self.first {
            // Going back behind what is kept starts anew from there.
            self.old.retain(|(at, _)| *at < next);
            self.ends.clear();
            self.bytes.clear();
            self.first = next;
            self.dropped = 0;
        }
        let keep = usize::try_from(next - self.first).unwrap_or(usize::MAX);
        // The same name at the same place: later positions stay right.
        if let Some((_, known)) = self.name(next)
            && known == name
        {
            return next;
        }
        if keep < self.ends.len() {
            let end =
                keep.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(self.dropped);
            self.ends.truncate(keep);
            self.bytes.truncate(usize::try_from(end - self.dropped).unwrap_or(0));
        }
        self.bytes.extend(name);
        self.ends.push_back(self.dropped + self.bytes.len() as u64);
        while self.bytes.len() > self.max_bytes && self.ends.len() > 1 {
            self.drop_first();
        }
        next
    }

    fn drop_first(&mut self) {
        let Some(end) = self.ends.pop_front() else { return };
        let length = usize::try_from(end - self.dropped).unwrap_or(0).min(self.bytes.len());
        let name: Vec<u8> = self.bytes.drain(..length).collect();
        if self.first.is_multiple_of(KEPT_OF_OLD) {
            self.old.push((self.first, name.into()));
        }
        self.dropped = end;
        self.first += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn name(n: u64) -> Vec<u8> {
        format!("name-{n:07}").into_bytes()
    }

    #[test]
    fn entries_take_the_room_that_the_kernel_gives_them() {
        let fitting = |mut room: Room, name: &[u8]| (0..1_000).take_while(|_| room.take(name)).count();
        assert_eq!(fitting(Room::new(4_096, 1_000, false), b"12345678"), 4_096 / 32);
        assert_eq!(fitting(Room::new(4_096, 1_000, false), b"123456789"), 4_096 / 40);
        assert_eq!(fitting(Room::new(4_096, 1_000, true), b"12345678"), 4_096 / 160);
        assert_eq!(fitting(Room::new(4_096, 7, false), b"a"), 7);
    }

    #[test]
    fn a_position_stands_for_the_name_before_it() {
        let mut positions = Positions::default();
        assert_eq!(positions.name(0), Some((DOTS, vec![])));
        assert_eq!(positions.name(DOTS), Some((DOTS, vec![])));
        assert_eq!(positions.name(DOTS + 1), None, "never given out");
        let first = positions.push(DOTS, b"a");
        let second = positions.push(first, b"bb");
        assert_eq!((first, second), (DOTS + 1, DOTS + 2));
        assert_eq!(positions.name(first), Some((first, b"a".to_vec())));
        assert_eq!(positions.name(second), Some((second, b"bb".to_vec())));
    }

    #[test]
    fn a_second_pass_over_a_changed_directory_starts_its_own_positions() {
        let mut positions = Positions::default();
        let first = positions.push(DOTS, b"a");
        let second = positions.push(first, b"b");
        assert_eq!(positions.push(DOTS, b"a"), first);
        assert_eq!(positions.name(second), Some((second, b"b".to_vec())), "still right");
        assert_eq!(positions.push(DOTS, b"aa"), first);
        assert_eq!(positions.name(second), None);
    }

    #[test]
    fn the_memory_of_a_huge_directory_is_bounded() {
        let mut positions = Positions::with_bound(10_000);
        let mut at = DOTS;
        for n in 0..100_000 {
            at = positions.push(at, &name(n));
        }
        assert!(positions.bytes.len() <= 10_000 && positions.old.len() < 100);
        assert_eq!(positions.name(at), Some((at, name(99_999))));
        assert_eq!(positions.name(at - 500), Some((at - 500, name(99_499))));
        let (near, found) = positions.name(50_000).expect("an old position");
        assert!(near <= 50_000 && near > 50_000 - KEPT_OF_OLD);
        assert_eq!(found, name(near - DOTS - 1));
        assert_eq!(positions.name(DOTS + 5), Some((DOTS, vec![])), "before the first that was kept");
        let again = positions.push(50_000, b"x");
        assert_eq!((again, positions.name(again)), (50_001, Some((50_001, b"x".to_vec()))));
    }

    proptest! {
        /// A directory is read in portions while names come and go: what is there all the time appears exactly once.
        #[test]
        fn entries_that_stay_appear_exactly_once(
            stay in prop::collection::btree_set(0u8..200, 1..60),
            changes in prop::collection::vec((0u8..200, any::<bool>()), 0..60),
            portion in 1usize..10,
        ) {
            let mut there: BTreeSet<u8> = stay.clone();
            let mut positions = Positions::default();
            let (mut at, mut seen, mut changes) = (0, Vec::new(), changes.into_iter());
            loop {
                let (mut position, after) = positions.name(at).expect("given out");
                let next: Vec<u8> =
                    there.iter().copied().filter(|n| after.is_empty() || *n > after[0]).take(portion).collect();
                if next.is_empty() {
                    break;
                }
                for n in next {
                    position = positions.push(position, &[n]);
                    seen.push(n);
                }
                at = position;
                for (n, come) in changes.by_ref().take(3) {
                    if come {
                        there.insert(n);
                    } else if !stay.contains(&n) {
                        there.remove(&n);
                    }
                }
            }
            for n in &stay {
                prop_assert_eq!(seen.iter().filter(|one| *one == n).count(), 1, "{}", n);
            }
        }
    }
}
