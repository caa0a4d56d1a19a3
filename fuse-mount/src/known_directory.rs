//! What is known of one directory: pages that do not overlap, and the listings under way.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;
use std::time::Instant;

use crate::directory_page::{Entry, Page};

/// What is known of one directory. Its pages do not overlap.
#[derive(Debug, Default)]
pub struct Directory {
    /// By what their ranges follow.
    pub pages: BTreeMap<Box<[u8]>, Page>,
    /// Look-ups in a row that no page answered.
    pub misses: u32,
    /// When the last one was.
    pub last_miss: Option<Instant>,
    /// Listings that were asked for and have not arrived.
    pub under_way: Vec<UnderWay>,
    /// One page at a time is fetched.
    pub gate: Arc<tokio::sync::Mutex<()>>,
}

/// A listing under way, and what was changed since it was asked for.
#[derive(Debug)]
pub struct UnderWay {
    /// Its number.
    pub listing: u64,
    /// In order.
    pub changes: Vec<(Box<[u8]>, Option<Entry>)>,
    /// There were too many of them.
    pub overrun: bool,
}

impl Directory {
    /// Names in all pages.
    pub fn names(&self) -> usize {
        self.pages.values().map(|page| page.entries.len()).sum()
    }

    /// The last page that starts at or before `name`.
    pub fn page_from(&self, name: &[u8]) -> Option<&Page> {
        let upto = self.pages.range::<[u8], _>((Unbounded, Included(name)));
        upto.map(|(_, page)| page).next_back()
    }

    /// The page that knows whether `name` is there.
    pub fn covering(&self, name: &[u8]) -> Option<(&[u8], &Page)> {
        let (start, page) = self.pages.range::<[u8], _>((Unbounded, Excluded(name))).next_back()?;
        page.reaches(name).then_some((&**start, page))
    }

    /// Takes out a listing under way.
    pub fn take(&mut self, listing: u64) -> Option<UnderWay> {
        let at = self.under_way.iter().position(|one| one.listing == listing)?;
        Some(self.under_way.swap_remove(at))
    }

    /// Puts a page in the place of what was known about its range.
    pub fn cover(&mut self, start: &[u8], page: Page) {
        // The page in whose range this one starts keeps what is before, and what is behind if it reaches further.
        let before = self.pages.range::<[u8], _>((Unbounded, Excluded(start))).next_back();
        if let Some(before_start) = before.map(|(start, _)| start.clone())
            && let Some(earlier) = self.pages.get_mut(&before_start)
            && earlier.reaches_beyond(start)
        {
            let behind = earlier.split_off(start);
            self.pages.insert(start.into(), behind);
        }
        let end = page.end.clone();
        let within: Vec<Box<[u8]>> = self
            .pages
            .range::<[u8], _>((Included(start), Unbounded))
            .map(|(start, _)| start.clone())
            .take_while(|other| end.as_deref().is_none_or(|end| **other < *end))
            .collect();
        for other in within {
            if let (Some(mut covered), Some(end)) = (self.pages.remove(&other), end.as_deref())
                && covered.reaches_beyond(end)
            {
                self.pages.insert(end.into(), covered.split_off(end));
            }
        }
        self.pages.insert(start.into(), page);
    }
}
