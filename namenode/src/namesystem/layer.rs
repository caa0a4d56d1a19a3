//! Changed rows in memory, in versions.
//!
//! A transaction gathers its [`Changes`] for itself and publishes them at once. A [`Layer`] holds what was published:
//! of each row the newest version, and those before that an open snapshot may still want to see.
//!
//! Invariants: the versions of a row have rising sequences; a version is replaced only if no snapshot was ever opened
//! at its sequence or later; a layer that is frozen does not change.
//!
//! Any thread; the lock is held for one row, or a few dozen of a scan.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use smallvec::{SmallVec, smallvec};

use super::tables::Table;

/// Keys of most tables fit without a place on the heap.
pub(super) type Key = SmallVec<[u8; 32]>;

/// A value; `None`: the row was removed.
pub(super) type Change = Option<Arc<[u8]>>;

/// What a transaction has changed so far.
pub(super) type Changes = [BTreeMap<Key, Change>; Table::ALL.len()];

/// About what a version takes beside its key and its value.
const VERSION_BYTES: usize = 96;

/// Rows of a scan that are looked up at first, and at most, under one lock: short scans are the rule.
const SCAN_ROWS_MIN: usize = 1;
const SCAN_ROWS_MAX: usize = 64;

/// Versions of a row, the newest one last, each with its sequence.
type Versions = SmallVec<[(u64, Change); 1]>;

#[derive(Default)]
struct Rows {
    tables: [BTreeMap<Key, Versions>; Table::ALL.len()],
    /// Transactions published.
    sequence: u64,
    /// About what all of it takes.
    bytes: usize,
}

/// See the module head.
#[derive(Default)]
pub(super) struct Layer {
    rows: RwLock<Rows>,
    /// Highest sequence at which a snapshot was opened.
    seen: AtomicU64,
}

impl Layer {
    /// Adds a transaction. Answers about how many bytes the layer takes now.
    pub(super) fn publish(&self, changes: Changes) -> usize {
        let mut rows = self.write();
        let rows = &mut *rows;
        rows.sequence += 1;
        let seen = self.seen.load(Ordering::Relaxed);
        for (table, changed) in rows.tables.iter_mut().zip(changes) {
            for (key, change) in changed {
                rows.bytes += key.len() + change.as_ref().map_or(0, |value| value.len()) + VERSION_BYTES;
                let versions = table.entry(key).or_default();
                match versions.last_mut() {
                    Some(last) if last.0 > seen => {
                        let replaced = last.1.as_ref().map_or(0, |value| value.len());
                        rows.bytes = rows.bytes.saturating_sub(replaced + VERSION_BYTES);
                        *last = (rows.sequence, change);
                    }
                    Some(_) => versions.push((rows.sequence, change)),
                    None => *versions = smallvec![(rows.sequence, change)],
                }
            }
        }
        rows.bytes
    }

    /// Opens a snapshot of what is published now: answers its sequence.
    pub(super) fn open_snapshot(&self) -> u64 {
        let rows = self.read();
        // Under the lock, so that no version that this snapshot sees is replaced.
        self.seen.fetch_max(rows.sequence, Ordering::Relaxed);
        rows.sequence
    }

    /// Whether nothing was published.
    pub(super) fn is_empty(&self) -> bool {
        self.read().sequence == 0
    }

    /// A row at a sequence; `None` if it had not changed by then.
    pub(super) fn get(&self, sequence: u64, table: Table, key: &[u8]) -> Option<Change> {
        visible(self.read().tables[table as usize].get(key)?, sequence).cloned()
    }

    /// Calls `each` with the newest version of every row of a table, in key order.
    pub(super) fn newest<E>(
        &self,
        table: Table,
        mut each: impl FnMut(&[u8], Option<&[u8]>) -> Result<(), E>,
    ) -> Result<(), E> {
        for (key, versions) in &self.read().tables[table as usize] {
            if let Some(change) = visible(versions, u64::MAX) {
                each(key, change.as_deref())?;
            }
        }
        Ok(())
    }

    /// Whether a table has no changed row.
    pub(super) fn is_table_empty(&self, table: Table) -> bool {
        self.read().tables[table as usize].is_empty()
    }

    fn read(&self) -> RwLockReadGuard<'_, Rows> {
        self.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rows> {
        self.rows.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a snapshot at `sequence` sees of a row.
fn visible(versions: &Versions, sequence: u64) -> Option<&Change> {
    let newer = match versions.last() {
        Some(last) if last.0 <= sequence => versions.len(),
        _ => versions.partition_point(|(at, _)| *at <= sequence),
    };
    versions.get(newer.checked_sub(1)?).map(|(_, change)| change)
}

/// Goes through rows of a table of a layer, in one direction.
pub(super) struct Cursor {
    layer: Arc<Layer>,
    sequence: u64,
    table: Table,
    from: Bound<Key>,
    to: Bound<Key>,
    backward: bool,
    fetched: VecDeque<(Key, Change)>,
    next_rows: usize,
}

impl Cursor {
    /// The rows between two keys, of which the first is not behind the second.
    pub(super) fn new(
        (layer, sequence): (&Arc<Layer>, u64),
        table: Table,
        (from, to): (Bound<&[u8]>, Bound<&[u8]>),
        backward: bool,
    ) -> Self {
        Self {
            layer: Arc::clone(layer),
            sequence,
            table,
            from: from.map(Key::from_slice),
            to: to.map(Key::from_slice),
            backward,
            fetched: VecDeque::new(),
            next_rows: SCAN_ROWS_MIN,
        }
    }

    fn fetch(&mut self) {
        let layer = self.layer.read();
        let bounds = (as_slice(&self.from), as_slice(&self.to));
        let mut rows = layer.tables[self.table as usize].range::<[u8], _>(bounds);
        let mut passed = None;
        for _ in 0..self.next_rows {
            // Rows that the snapshot does not see count too: they are what the lock is held for.
            let next = if self.backward { rows.next_back() } else { rows.next() };
            let Some((key, versions)) = next else {
                self.next_rows = 0;
                return;
            };
            if let Some(change) = visible(versions, self.sequence) {
                self.fetched.push_back((key.clone(), change.clone()));
            }
            passed = Some(key);
        }
        if let Some(key) = passed {
            *(if self.backward { &mut self.to } else { &mut self.from }) = Bound::Excluded(key.clone());
        }
        self.next_rows = (self.next_rows * 4).min(SCAN_ROWS_MAX);
    }
}

impl Iterator for Cursor {
    type Item = (Key, Change);

    fn next(&mut self) -> Option<(Key, Change)> {
        while self.fetched.is_empty() && self.next_rows > 0 {
            self.fetch();
        }
        self.fetched.pop_front()
    }
}

fn as_slice(bound: &Bound<Key>) -> Bound<&[u8]> {
    bound.as_ref().map(SmallVec::as_slice)
}
