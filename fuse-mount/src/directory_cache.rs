//! Entries of directories, kept for the cache's time to live.
//!
//! What is known of a directory is a set of [`Page`]s. A page knows *all* names in its range, so that it also answers which
//! names are not there:
//!
//! ```text
//! names   a . . b . . . . . c . . . . . . . . d . . . . . . . . . . . .
//! pages     (a ----------- c]                  (d -------------- the end)
//! known       b, c are there; all else in (a, c] is not   unknown: (c, d]
//! ```
//!
//! Invariants:
//! - Pages of a directory do not overlap ([`Directory`]).
//! - A page counts for the time to live from the moment when the cluster was asked.
//! - A change made through this mount shows at once, also when a listing that was asked for before arrives after it: changes
//!   are remembered while listings are under way and done again on what arrives.
//! - At most `capacity` names are kept, apart from a listing that just arrived.
//!
//! The attributes behind the names are in the [`AttrCache`](crate::attr_cache::AttrCache). Called from event loop threads and tasks; the
//! lock is held for map operations only.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_client::fs::InodeId;

use crate::directory_page::{Entries, Entry, Page};
use crate::known_directory::{Directory, UnderWay};

/// Look-ups in one directory that miss before a whole page is fetched instead of one name: programs that touch a single file of a
/// large directory shall not pay for a page (1.2 ms of the namenode).
const MISSES_BEFORE_PREFETCH: u32 = 3;
/// Time without a miss after which counting starts anew.
const MISSES_FORGOTTEN: Duration = Duration::from_secs(5);
/// Most changes remembered for one listing under way; one that takes longer is not kept.
const MAX_CHANGES_MEANWHILE: usize = 10_000;
/// What a known directory costs, in names, for the bound.
const DIRECTORY_COST: usize = 4;

/// What is known about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is there, and how long that counts.
    Present(Entry, Duration),
    /// It is not there, and how long that counts.
    Absent(Duration),
    /// Ask.
    Unknown,
}

/// What is known behind a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Following {
    /// Entries in order; none at the end of the directory.
    pub entries: Entries,
    /// What is known ends behind this name, and the directory does not.
    pub unknown_after: Option<Bytes>,
}

/// A listing under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing(u64);

/// The cache.
#[derive(Debug)]
pub struct DirectoryCache {
    ttl: Duration,
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    directories: HashMap<InodeId, Directory>,
    /// Names in all pages.
    names: usize,
    last_listing: u64,
}

impl DirectoryCache {
    /// Keeps `capacity` names for `ttl`.
    pub fn new(ttl: Duration, capacity: usize) -> Self {
        Self { ttl, capacity, inner: Mutex::default() }
    }

    /// What is known about `name` in `dir`.
    pub fn find(&self, dir: InodeId, name: &[u8], now: Instant) -> Known {
        let inner = self.lock();
        let Some(directory) = inner.directories.get(&dir) else { return Known::Unknown };
        let Some((_, page)) = directory.covering(name) else { return Known::Unknown };
        match (page.left(self.ttl, now), page.entries.get(name)) {
            (None, _) => Known::Unknown,
            (Some(left), Some(entry)) => Known::Present(*entry, left),
            (Some(left), None) => Known::Absent(left),
        }
    }

    /// Entries after the name `after` as far as pages know them and each of them `fits`; `None` if the first is not known.
    pub fn after(
        &self,
        dir: InodeId,
        after: &[u8],
        mut fits: impl FnMut(&[u8]) -> bool,
        now: Instant,
    ) -> Option<Following> {
        let inner = self.lock();
        let directory = inner.directories.get(&dir)?;
        let fresh = |page: &&Page| page.left(self.ttl, now).is_some();
        let mut entries = Entries::new();
        let mut page = directory.page_from(after).filter(fresh).filter(|page| page.reaches_beyond(after))?;
        loop {
            let mut following = page.following(after);
            let room_left = following.all(|(name, entry)| {
                let fits = fits(name);
                if fits {
                    entries.push((name.clone(), *entry));
                }
                fits
            });
            let Some(end) = &page.end else { return Some(Following { entries, unknown_after: None }) };
            match directory.pages.get(&**end).filter(fresh) {
                Some(next) if room_left => page = next,
                Some(_) => return Some(Following { entries, unknown_after: None }),
                None if room_left && entries.is_empty() => return None,
                None => return Some(Following { entries, unknown_after: Some(end.clone()) }),
            }
        }
    }

    /// A look-up in `dir` was not answered from here; says whether a page should be fetched now.
    pub fn missed(&self, dir: InodeId, now: Instant) -> bool {
        if self.ttl.is_zero() {
            return false;
        }
        let mut inner = self.lock();
        let directory = inner.directories.entry(dir).or_default();
        if directory.last_miss.is_some_and(|at| now.saturating_duration_since(at) > MISSES_FORGOTTEN) {
            directory.misses = 0;
        }
        directory.last_miss = Some(now);
        directory.misses = directory.misses.saturating_add(1);
        directory.misses >= MISSES_BEFORE_PREFETCH
    }

    /// Held by who fetches a page of `dir` for look-ups.
    pub fn gate(&self, dir: InodeId) -> Arc<tokio::sync::Mutex<()>> {
        self.lock().directories.entry(dir).or_default().gate.clone()
    }

    /// A listing of `dir` is about to be asked for. To be followed by [`Self::listed`] or [`Self::listing_failed`].
    pub fn listing(&self, dir: InodeId) -> Listing {
        let mut inner = self.lock();
        inner.last_listing += 1;
        let listing = inner.last_listing;
        let under_way = UnderWay { listing, changes: Vec::new(), overrun: false };
        inner.directories.entry(dir).or_default().under_way.push(under_way);
        Listing(listing)
    }

    /// Nothing came of a listing.
    pub fn listing_failed(&self, dir: InodeId, listing: Listing) {
        if let Some(directory) = self.lock().directories.get_mut(&dir) {
            directory.take(listing.0);
        }
    }

    /// A listing that was asked for at `page.fetched` has arrived: what follows the name `start`.
    pub fn listed(&self, dir: InodeId, listing: Listing, start: &[u8], mut page: Page) {
        let mut inner = self.lock();
        let Some(directory) = inner.directories.get_mut(&dir) else { return };
        let Some(meanwhile) = directory.take(listing.0) else { return };
        if meanwhile.overrun || self.ttl.is_zero() {
            return;
        }
        for (name, entry) in meanwhile.changes {
            page.set(start, &name, entry);
        }
        let before = directory.names();
        directory.cover(start, page);
        let after = directory.names();
        inner.names = (inner.names + after).saturating_sub(before);
        if inner.cost() > self.capacity {
            let now = Instant::now();
            inner.retain(|page| page.left(self.ttl, now).is_some());
            if inner.cost() > self.capacity {
                inner.retain(|_| false);
            }
        }
    }

    /// A name was made (`Some`) or removed through this mount.
    pub fn changed(&self, dir: InodeId, name: &[u8], entry: Option<Entry>) {
        let mut inner = self.lock();
        let Some(directory) = inner.directories.get_mut(&dir) else { return };
        for under_way in &mut directory.under_way {
            if under_way.changes.len() >= MAX_CHANGES_MEANWHILE {
                under_way.overrun = true;
                under_way.changes.clear();
            }
            if !under_way.overrun {
                under_way.changes.push((name.into(), entry));
            }
        }
        let Some((start, _)) = directory.covering(name) else { return };
        let start: Box<[u8]> = start.into();
        let Some(page) = directory.pages.get_mut(&start) else { return };
        let before = page.entries.len();
        page.set(&start, name, entry);
        let after = page.entries.len();
        inner.names = (inner.names + after).saturating_sub(before);
    }

    /// A directory was made through this mount: it is empty, and that is all there is to know.
    pub fn made(&self, dir: InodeId, at: Instant) {
        let listing = self.listing(dir);
        self.listed(dir, listing, b"", Page::new(Vec::new(), None, at));
    }

    /// The directory is gone, or what is known about it may be wrong.
    pub fn forget(&self, dir: InodeId) {
        let mut inner = self.lock();
        let Some(directory) = inner.directories.get_mut(&dir) else { return };
        let names = directory.names();
        directory.pages.clear();
        directory.under_way.iter_mut().for_each(|under_way| under_way.overrun = true);
        inner.names = inner.names.saturating_sub(names);
    }

    /// Drops what no longer counts.
    pub fn sweep(&self, now: Instant) {
        let mut inner = self.lock();
        inner.retain(|page| page.left(self.ttl, now).is_some());
        inner.directories.retain(|_, directory| {
            let recent = |at: Instant| now.saturating_duration_since(at) <= MISSES_FORGOTTEN;
            !directory.pages.is_empty()
                || !directory.under_way.is_empty()
                || Arc::strong_count(&directory.gate) > 1
                || directory.last_miss.is_some_and(recent)
        });
        let wanted = inner.directories.len() * 2;
        inner.directories.shrink_to(wanted);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn cost(&self) -> usize {
        self.names + self.directories.len() * DIRECTORY_COST
    }

    fn retain(&mut self, keep: impl Fn(&Page) -> bool) {
        self.names = 0;
        for directory in self.directories.values_mut() {
            directory.pages.retain(|_, page| keep(page));
            self.names += directory.names();
        }
    }
}

#[cfg(test)]
mod tests {
    use fuser::FileType;
    use proptest::prelude::*;

    use super::*;

    const TTL: Duration = Duration::from_secs(1);
    const DIR: InodeId = InodeId(5);

    fn entry(inode: u64) -> Entry {
        Entry { inode: InodeId(inode), kind: FileType::RegularFile }
    }

    fn page(names: &[&str], end: Option<&str>, at: Instant) -> Page {
        let bytes = |name: &str| Bytes::copy_from_slice(name.as_bytes());
        let entries = names.iter().map(|name| (bytes(name), entry(1))).collect();
        Page::new(entries, end.map(bytes), at)
    }

    fn list(cache: &DirectoryCache, start: &str, names: &[&str], end: Option<&str>, at: Instant) {
        let listing = cache.listing(DIR);
        cache.listed(DIR, listing, start.as_bytes(), page(names, end, at));
    }

    fn known(cache: &DirectoryCache, name: &str, now: Instant) -> Option<bool> {
        match cache.find(DIR, name.as_bytes(), now) {
            Known::Present(..) => Some(true),
            Known::Absent(_) => Some(false),
            Known::Unknown => None,
        }
    }

    #[test]
    fn a_page_knows_its_range_and_nothing_else() {
        let (cache, now) = (DirectoryCache::new(TTL, 100), Instant::now());
        list(&cache, "b", &["c", "d"], Some("d"), now);
        let all: Vec<_> = ["a", "b", "bb", "c", "cc", "d", "dd"].map(|name| known(&cache, name, now)).into();
        assert_eq!(all, [None, None, Some(false), Some(true), Some(false), Some(true), None]);
        assert_eq!(known(&cache, "c", now + TTL), None);
    }

    #[test]
    fn pages_are_read_in_order_across_their_ends() {
        let (cache, now) = (DirectoryCache::new(TTL, 100), Instant::now());
        list(&cache, "", &["a", "b"], Some("b"), now);
        list(&cache, "b", &["c"], None, now);
        let names = |after: &str, limit| {
            let mut left = limit;
            let fits = |_: &[u8]| {
                left -= 1;
                left >= 0
            };
            let Following { entries, unknown_after } = cache.after(DIR, after.as_bytes(), fits, now)?;
            let text = |name: &Bytes| String::from_utf8_lossy(name).into_owned();
            let names: Vec<String> = entries.iter().map(|(name, _)| text(name)).collect();
            Some((names.join(" "), unknown_after.map(|end| text(&end)).unwrap_or_default()))
        };
        let found = |names: &str, end: &str| Some((names.to_owned(), end.to_owned()));
        assert_eq!(names("", 1), found("a", ""));
        assert_eq!(names("", 9), found("a b c", ""));
        assert_eq!(names("b", 9), found("c", ""));
        assert_eq!(names("zz", 9), found("", ""));
        cache.forget(DIR);
        list(&cache, "", &["a", "b"], Some("b"), now);
        list(&cache, "b", &["c"], Some("d"), now);
        list(&cache, "e", &["f"], None, now);
        assert_eq!(names("", 1), found("a", ""), "the next page is known");
        assert_eq!(names("", 3), found("a b c", "d"), "what is between d and e is not known");
        assert_eq!(names("b", 1), found("c", "d"));
        assert_eq!(names("c", 9), None);
        assert_eq!(names("d", 9), None);
        assert_eq!(names("e", 9), found("f", ""));
        cache.changed(DIR, b"c", None);
        assert_eq!(names("", 9), found("a b", "d"));
        assert_eq!(names("b", 9), None, "an empty page does not tell what follows");
        let old = now.checked_sub(TTL).expect("long after the start of the machine");
        list(&cache, "b", &["c"], None, old);
        assert_eq!(names("", 9), found("a b", "b"), "it counts no longer");
    }

    #[test]
    fn the_third_miss_asks_for_a_page() {
        let (cache, now) = (DirectoryCache::new(TTL, 100), Instant::now());
        assert_eq!([0; 3].map(|_| cache.missed(DIR, now)), [false, false, true]);
        assert!(cache.missed(DIR, now + MISSES_FORGOTTEN));
        assert!(!cache.missed(DIR, now + MISSES_FORGOTTEN * 3));
        assert!(!DirectoryCache::new(Duration::ZERO, 100).missed(DIR, now));
    }

    #[test]
    fn own_changes_show_at_once() {
        let (cache, now) = (DirectoryCache::new(TTL, 100), Instant::now());
        list(&cache, "", &["a"], None, now);
        cache.changed(DIR, b"b", Some(entry(2)));
        cache.changed(DIR, b"a", None);
        assert_eq!((known(&cache, "a", now), known(&cache, "b", now)), (Some(false), Some(true)));
    }

    #[test]
    fn own_changes_survive_a_listing_that_was_asked_for_before() {
        let (cache, now) = (DirectoryCache::new(TTL, 100), Instant::now());
        let listing = cache.listing(DIR);
        cache.changed(DIR, b"new", Some(entry(2)));
        cache.changed(DIR, b"old", None);
        cache.changed(DIR, b"zz", Some(entry(3)));
        cache.listed(DIR, listing, b"a", page(&["b", "old"], Some("x"), now));
        assert_eq!(known(&cache, "new", now), Some(true));
        assert_eq!((known(&cache, "old", now), known(&cache, "b", now)), (Some(false), Some(true)));
        assert_eq!(known(&cache, "zz", now), None, "not in the page's range");
    }

    #[test]
    fn a_listing_that_takes_too_many_changes_is_not_kept() {
        let (cache, now) = (DirectoryCache::new(TTL, 100), Instant::now());
        let listing = cache.listing(DIR);
        for _ in 0..=MAX_CHANGES_MEANWHILE {
            cache.changed(DIR, b"a", None);
        }
        cache.listed(DIR, listing, b"", page(&["a"], None, now));
        assert_eq!(known(&cache, "a", now), None);
        let listing = cache.listing(DIR);
        cache.listing_failed(DIR, listing);
        assert!(cache.lock().directories[&DIR].under_way.is_empty());
    }

    #[test]
    fn a_new_directory_is_known_to_be_empty() {
        let (cache, now) = (DirectoryCache::new(TTL, 100), Instant::now());
        cache.made(DIR, now);
        assert_eq!(known(&cache, "a", now), Some(false));
        cache.forget(DIR);
        assert_eq!(known(&cache, "a", now), None);
    }

    #[test]
    fn the_number_of_names_is_bounded() {
        let (cache, now) = (DirectoryCache::new(TTL, 50), Instant::now());
        let names: Vec<String> = (0..40).map(|n| format!("{n:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for dir in 0..10 {
            let listing = cache.listing(InodeId(dir));
            cache.listed(InodeId(dir), listing, b"", page(&names, None, now));
            assert!(cache.lock().names <= 50);
        }
        cache.sweep(now + TTL + MISSES_FORGOTTEN);
        assert!(cache.lock().directories.is_empty());
    }

    proptest! {
        /// Pages of any ranges in any order: what is answered is what the latest page that covers a name says, and pages
        /// do not overlap.
        #[test]
        fn the_latest_page_counts(pages in prop::collection::vec((0u8..30, 0u8..31, any::<u32>()), 1..20)) {
            let (cache, now) = (DirectoryCache::new(TTL, 10_000), Instant::now());
            let mut expected = [None; 30];
            for (start, end, bits) in pages {
                let end = (end > start && end < 30).then_some(end);
                let within = |n: &u8| *n > start && end.is_none_or(|end| *n <= end);
                let entries = (0..30u8)
                    .filter(within)
                    .filter(|n| bits >> n & 1 == 1)
                    .map(|n| (Bytes::copy_from_slice(&[n]), entry(1)))
                    .collect();
                for n in (0..30u8).filter(within) {
                    expected[usize::from(n)] = Some(bits >> n & 1 == 1);
                }
                let listing = cache.listing(DIR);
                let end = end.map(|end| Bytes::copy_from_slice(&[end]));
                cache.listed(DIR, listing, &[start], Page::new(entries, end, now));
            }
            for n in 0..30u8 {
                let found = match cache.find(DIR, &[n], now) {
                    Known::Present(..) => Some(true),
                    Known::Absent(_) => Some(false),
                    Known::Unknown => None,
                };
                prop_assert_eq!(found, expected[usize::from(n)], "name {}", n);
            }
            let inner = cache.lock();
            prop_assert_eq!(inner.names, inner.directories[&DIR].names());
            let pages: Vec<_> = inner.directories[&DIR].pages.iter().collect();
            for pair in pages.windows(2) {
                prop_assert!(pair[0].1.end.as_ref().is_some_and(|end| **end <= **pair[1].0));
            }
        }
    }
}
