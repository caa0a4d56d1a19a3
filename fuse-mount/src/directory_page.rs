//! A piece of a directory of which all names are known.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dfs_client::fs::InodeId;
use fuser::FileType;

/// Longest name in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node.
    pub inode: InodeId,
    /// Its type.
    pub kind: FileType,
}

/// Names in order, with what they stand for. Names of one answer of the cluster are parts of its bytes.
pub type Entries = Vec<(Bytes, Entry)>;

/// All names after a start, which who keeps the page knows, up to an end.
#[derive(Debug)]
pub struct Page {
    /// Names known to be there.
    pub entries: BTreeMap<Bytes, Entry>,
    /// Last name in the range; `None`: everything that follows is in it.
    pub end: Option<Bytes>,
    /// When the cluster was asked.
    pub fetched: Instant,
}

impl Page {
    /// A page with these entries, asked for at `fetched`.
    pub fn new(entries: Entries, end: Option<Bytes>, fetched: Instant) -> Self {
        Self { entries: entries.into_iter().collect(), end, fetched }
    }

    /// How long the page still counts; `None` if it does not.
    pub fn left(&self, ttl: Duration, now: Instant) -> Option<Duration> {
        let left = ttl.checked_sub(now.saturating_duration_since(self.fetched))?;
        (!left.is_zero()).then_some(left)
    }

    /// Whether the range includes `name`, which is after its start.
    pub fn reaches(&self, name: &[u8]) -> bool {
        self.end.as_deref().is_none_or(|end| name <= end)
    }

    /// Whether the range includes names after `name`.
    pub fn reaches_beyond(&self, name: &[u8]) -> bool {
        self.end.as_deref().is_none_or(|end| name < end)
    }

    /// Entries after the name `after`.
    pub fn following(&self, after: &[u8]) -> impl Iterator<Item = (&Bytes, &Entry)> {
        self.entries.range::<[u8], _>((Bound::Excluded(after), Bound::Unbounded))
    }

    /// Makes or removes a name, if it is in the range that begins after `start`.
    pub fn set(&mut self, start: &[u8], name: &[u8], entry: Option<Entry>) {
        if name <= start || !self.reaches(name) {
            return;
        }
        match entry {
            Some(entry) => self.entries.insert(Bytes::copy_from_slice(name), entry),
            None => self.entries.remove(name),
        };
    }

    /// Cuts the range after `last` and answers what was behind.
    pub fn split_off(&mut self, last: &[u8]) -> Self {
        let mut behind = self.entries.split_off(last);
        if let Some((name, entry)) = behind.remove_entry(last) {
            self.entries.insert(name, entry);
        }
        let end = self.end.replace(Bytes::copy_from_slice(last));
        Self { entries: behind, end, fetched: self.fetched }
    }
}

/// A name such that none lies between it and `name`: a page that starts after it starts with `name`. (There are names between the two
/// only if they are longer than names can be.)
pub fn just_before(name: &[u8]) -> Vec<u8> {
    let mut before = name.to_vec();
    match before.pop() {
        None => {}
        // A name ends with NUL never; without it, the prefix is what comes before.
        Some(0) => {}
        Some(last) => {
            before.push(last - 1);
            before.resize(MAX_NAME_BYTES, 0xff);
        }
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry { inode: InodeId(1), kind: FileType::RegularFile }
    }

    #[test]
    fn a_split_page_knows_what_it_knew() {
        let names = ["b", "c", "d"].map(|name| (Bytes::from_static(name.as_bytes()), entry()));
        let mut page = Page::new(names.into(), None, Instant::now());
        let behind = page.split_off(b"c");
        assert_eq!((page.entries.len(), page.end.as_deref()), (2, Some(&b"c"[..])));
        assert_eq!((behind.entries.len(), behind.end), (1, None));
        assert!(page.reaches(b"c") && !page.reaches_beyond(b"c"));
    }

    #[test]
    fn nothing_lies_just_before_a_name() {
        for name in [&b"a"[..], b"abc", b"\x01", &[0xff; 255]] {
            let before = just_before(name);
            assert!(before.as_slice() < name && before.len() <= MAX_NAME_BYTES, "{name:?}");
        }
        assert!(just_before(b"abc").as_slice() > &b"abb~~~~"[..]);
        assert!(just_before(b"ab").as_slice() > &b"aa\xff\xff"[..]);
    }
}
