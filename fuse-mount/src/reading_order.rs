//! In which order files are read, and which come next.
//!
//! Programs that read whole trees (grep, tar, cp, compilers) read the files of a directory in the order of its listing, which is that of
//! names, or of inode numbers. What listings told of small files is remembered here; each open for reading is compared
//! with what was expected, in both orders, and when some have come as expected those that follow are named, to be fetched
//! before they are asked for.
//!
//! ```text
//! opened            f1  f2  f3 | f4 f5 f6 f7 ...    expected next
//! as expected        0   1   2 | times: from 2 on they are named
//! expected           4   8  16 | 32 files ahead at most
//! ```
//!
//! Invariants:
//! - What is remembered is bounded by [`MAX_FILES`]; a file is in one directory.
//! - Nothing is named before some opens came as expected, and nothing twice as long as an order goes on.
//! - A directory is expected to be read as soon as it has been listed only while the ones before were.
//!
//! Only guesses come from here: what is remembered may be out of date.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dfs_client::fs::InodeId;

/// Small files remembered, with some 250 bytes each: 4 MiB. When there are more, all are forgotten.
const MAX_FILES: usize = 16_384;
/// Opens as expected, one after the other, before anything is fetched: two neighbours are often opened by accident.
const LEAST_RUN: u32 = 2;
/// Files expected at first; twice as many with each open that came as expected.
const FIRST_WINDOW: usize = 4;
/// Files expected at most: with 4 KiB each their bytes are what a disk delivers while some are read.
const LAST_WINDOW: usize = 32;
/// Files fetched when a directory was listed.
const LISTED_WINDOW: usize = 16;
/// Readers of one directory, or one with several threads, overtake each other by so many files.
const SLACK: usize = 16;
/// Trust needed to fetch files of a directory that was only listed.
const ENOUGH_TRUST: u32 = 600;
/// Most trust that there can be.
const FULL_TRUST: u32 = 1_000;
/// Each open as expected adds such a part of what is missing; others, and directories fetched from, take such a part away.
const TRUST_STEP: u32 = 16;

/// An order of the files in a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Order {
    #[default]
    Name,
    Inode,
}

const ORDERS: [Order; 2] = [Order::Name, Order::Inode];

/// What is remembered.
#[derive(Debug, Default)]
pub struct ReadingOrder {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    directories: HashMap<InodeId, Directory>,
    homes: HashMap<InodeId, Home>,
    trust: Trust,
}

/// Where a file is.
#[derive(Clone, Debug)]
struct Home {
    dir: InodeId,
    name: Arc<[u8]>,
}

#[derive(Debug, Default)]
struct Directory {
    names: BTreeMap<Arc<[u8]>, InodeId>,
    inodes: BTreeMap<InodeId, Arc<[u8]>>,
    walks: [Walk; ORDERS.len()],
}

/// A file, with what tells its place in both orders.
type File = (Arc<[u8]>, InodeId);

/// A reader that goes through a directory in one order.
#[derive(Debug, Default)]
struct Walk {
    /// Expected next, and whether they were named.
    expected: VecDeque<(InodeId, bool)>,
    /// Behind which file more is expected.
    last: Option<File>,
    /// Opens that came as expected, less those that did not.
    run: u32,
}

/// How far it is believed that directories are read as they are listed.
#[derive(Debug, Default)]
struct Trust {
    level: u32,
    /// The order that was right last.
    order: Order,
}

impl Trust {
    fn more(&mut self) {
        self.level += (FULL_TRUST - self.level).div_ceil(TRUST_STEP);
    }

    fn less(&mut self) {
        self.level -= self.level.div_ceil(TRUST_STEP);
    }

    fn is_enough(&self) -> bool {
        self.level >= ENOUGH_TRUST
    }
}

impl ReadingOrder {
    /// A listing of `dir` told of these small files; a `full` one of all. Answers which should be fetched at once.
    pub fn listed<'n>(
        &self,
        dir: InodeId,
        full: bool,
        files: impl Iterator<Item = (&'n [u8], InodeId)>,
    ) -> Vec<InodeId> {
        let mut inner = self.lock();
        if inner.homes.len() >= MAX_FILES {
            inner.homes.clear();
            inner.directories.clear();
        }
        let is_new = !inner.directories.contains_key(&dir);
        let room = MAX_FILES - inner.homes.len();
        for (name, inode) in files.take(room) {
            inner.remember(dir, name, inode);
        }
        if !full || !is_new || !inner.trust.is_enough() {
            return Vec::new();
        }
        let order = inner.trust.order;
        let Some(directory) = inner.directories.get_mut(&dir) else { return Vec::new() };
        let named = directory.begin(order);
        // When they are opened, it comes back.
        inner.trust.less();
        named
    }

    /// The directory of a small file, if a listing told of it.
    pub fn directory_of(&self, inode: InodeId) -> Option<InodeId> {
        self.lock().homes.get(&inode).map(|home| home.dir)
    }

    /// The file is being opened for reading. Answers which should be fetched, in the order in which they will be opened.
    pub fn opened(&self, inode: InodeId) -> Vec<InodeId> {
        let mut inner = self.lock();
        let Inner { directories, homes, trust } = &mut *inner;
        let Some(home) = homes.get(&inode) else { return Vec::new() };
        let Some(directory) = directories.get_mut(&home.dir) else { return Vec::new() };
        let expected = ORDERS.map(|order| directory.opened(order, inode, &home.name));
        let run = |order: Order| directory.walks[order as usize].run;
        let other = if trust.order == Order::Name { Order::Inode } else { Order::Name };
        let best = if run(other) > run(trust.order) { other } else { trust.order };
        if expected[best as usize] {
            trust.more();
            trust.order = best;
        } else {
            trust.less();
        }
        directory.walks[best as usize].next()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remember(&mut self, dir: InodeId, name: &[u8], inode: InodeId) {
        if let Some(home) = self.homes.get(&inode) {
            if home.dir == dir && *home.name == *name {
                return;
            }
            // It was moved, or has several names.
            if let Some(directory) = self.directories.get_mut(&home.dir) {
                directory.names.remove(&home.name);
                directory.inodes.remove(&inode);
            }
        }
        let name: Arc<[u8]> = name.into();
        let directory = self.directories.entry(dir).or_default();
        if let Some(replaced) = directory.names.insert(name.clone(), inode) {
            directory.inodes.remove(&replaced);
            self.homes.remove(&replaced);
        }
        directory.inodes.insert(inode, name.clone());
        self.homes.insert(inode, Home { dir, name });
    }
}

impl Directory {
    /// Expects all to be read from the beginning.
    fn begin(&mut self, order: Order) -> Vec<InodeId> {
        self.walks[order as usize] = Walk { run: LEAST_RUN, ..Walk::default() };
        self.expect(order, LISTED_WINDOW);
        self.walks[order as usize].next()
    }

    /// Compares an open with what was expected in `order`; true if it was.
    fn opened(&mut self, order: Order, inode: InodeId, name: &Arc<[u8]>) -> bool {
        let walk = &mut self.walks[order as usize];
        let expected = walk.came(inode);
        if walk.run == 0 {
            // Perhaps a reader begins here.
            walk.expected.clear();
            walk.last = Some((name.clone(), inode));
        }
        let window = FIRST_WINDOW << walk.run.min(LAST_WINDOW.ilog2());
        self.expect(order, window.min(LAST_WINDOW));
        expected
    }

    /// Expects `window` files in all.
    fn expect(&mut self, order: Order, window: usize) {
        let walk = &mut self.walks[order as usize];
        let missing = window.saturating_sub(walk.expected.len());
        let after: Vec<File> = match (order, &walk.last) {
            (Order::Name, None) => files(self.names.iter(), missing),
            (Order::Name, Some((name, _))) => {
                files(self.names.range::<[u8], _>((Excluded(&**name), Unbounded)), missing)
            }
            (Order::Inode, None) => files(self.inodes.iter().map(|(i, n)| (n, i)), missing),
            (Order::Inode, Some((_, inode))) => {
                let range = self.inodes.range((Excluded(*inode), Unbounded));
                files(range.map(|(inode, name)| (name, inode)), missing)
            }
        };
        walk.expected.extend(after.iter().map(|(_, inode)| (*inode, false)));
        walk.last = after.last().cloned().or(walk.last.take());
    }
}

fn files<'f>(files: impl Iterator<Item = (&'f Arc<[u8]>, &'f InodeId)>, most: usize) -> Vec<File> {
    files.take(most).map(|(name, inode)| (name.clone(), *inode)).collect()
}

impl Walk {
    /// A file is opened; true if it was expected.
    fn came(&mut self, inode: InodeId) -> bool {
        let Some(at) = self.expected.iter().position(|(expected, _)| *expected == inode) else {
            self.run /= 2;
            return false;
        };
        self.expected.remove(at);
        // Readers that are so far behind do not exist.
        self.expected.drain(..at.saturating_sub(SLACK));
        self.run = self.run.saturating_add(1);
        true
    }

    /// What is to be fetched now: some at a time, or all up to the end of the directory.
    fn next(&mut self) -> Vec<InodeId> {
        let unnamed = self.expected.iter().filter(|(_, named)| !named).count();
        let few = unnamed < self.expected.len() / 2 && self.expected.len() == LAST_WINDOW;
        if self.run < LEAST_RUN || few {
            return Vec::new();
        }
        let unnamed = self.expected.iter_mut().filter(|(_, named)| !named);
        unnamed.map(|(inode, named)| (*inode, *named = true).0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIR: InodeId = InodeId(1);

    /// Names and inode numbers go opposite ways.
    fn listing(dir: u64, files: u64) -> Vec<(String, InodeId)> {
        (0..files).map(|n| (format!("f{n:04}"), InodeId(dir * 10_000 + files - n))).collect()
    }

    fn list(order: &ReadingOrder, dir: u64, files: &[(String, InodeId)]) -> Vec<InodeId> {
        order.listed(InodeId(dir), true, files.iter().map(|(name, inode)| (name.as_bytes(), *inode)))
    }

    #[test]
    fn readers_in_either_order_are_seen_after_some_opens_and_every_file_is_named_once() {
        for reversed in [false, true] {
            let order = ReadingOrder::default();
            let mut files = listing(1, 200);
            assert!(list(&order, 1, &files).is_empty(), "nothing was opened yet");
            if reversed {
                files.reverse();
            }
            let mut named = Vec::new();
            for (at, (_, inode)) in files.iter().enumerate() {
                let now = order.opened(*inode);
                assert!(at as u32 >= LEAST_RUN || now.is_empty());
                named.extend(now);
                assert!(named.len() <= at + LAST_WINDOW + 1);
            }
            let expected: Vec<InodeId> = files[3..].iter().map(|(_, inode)| *inode).collect();
            assert_eq!(named, expected);
        }
    }

    #[test]
    fn several_threads_that_share_a_directory_are_one_reader() {
        let order = ReadingOrder::default();
        let files = listing(1, 400);
        list(&order, 1, &files);
        let mut named = BTreeMap::new();
        // Four threads with every fourth file each, overtaking each other.
        for round in files.chunks(8) {
            for at in [1, 0, 2, 3, 6, 4, 7, 5] {
                named.extend(order.opened(round[at].1).into_iter().map(|inode| (inode, ())));
            }
        }
        assert!(named.len() > 370, "{}", named.len());
    }

    #[test]
    fn opens_without_order_name_nothing() {
        let order = ReadingOrder::default();
        let files = listing(1, 1_000);
        list(&order, 1, &files);
        let named: usize = (0..1_000).map(|n| order.opened(files[n * 617 % 1_000].1).len()).sum();
        assert_eq!(named, 0);
        assert!(order.opened(InodeId(77)).is_empty(), "not known");
    }

    #[test]
    fn directories_are_begun_with_their_listing_only_as_long_as_they_are_read() {
        let order = ReadingOrder::default();
        for dir in 2..20 {
            let files = listing(dir, 12);
            list(&order, dir, &files);
            files.iter().for_each(|(_, inode)| drop(order.opened(*inode)));
        }
        let files = listing(20, 40);
        let named = list(&order, 20, &files);
        assert_eq!(named, files[..LISTED_WINDOW].iter().map(|(_, inode)| *inode).collect::<Vec<_>>());
        assert!(list(&order, 20, &files).is_empty(), "known already");
        let wasted: usize = (21..200).map(|dir| list(&order, dir, &listing(dir, 40)).len()).sum();
        assert!(wasted <= 12 * LISTED_WINDOW, "{wasted}");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let order = ReadingOrder::default();
        for dir in 1..100 {
            list(&order, dir, &listing(dir, 1_000));
            assert!(order.lock().homes.len() <= MAX_FILES);
        }
        let remembered =
            order.lock().directories.values().map(|directory| directory.names.len()).sum::<usize>();
        assert!(remembered <= MAX_FILES);
    }

    #[test]
    fn a_file_that_was_moved_or_replaced_is_in_one_place() {
        let order = ReadingOrder::default();
        list(&order, 1, &[("a".into(), InodeId(5)), ("b".into(), InodeId(6))]);
        list(&order, 2, &[("c".into(), InodeId(5))]);
        list(&order, 1, &[("b".into(), InodeId(7))]);
        let inner = order.lock();
        assert_eq!(inner.homes.len(), 2);
        assert_eq!(inner.directories[&DIR].inodes.keys().copied().collect::<Vec<_>>(), [InodeId(7)]);
    }
}
