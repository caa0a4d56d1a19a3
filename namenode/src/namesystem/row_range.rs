//! Goes through the rows of a table that are spread over redb and the layers before it.

use std::cmp::Ordering;
use std::collections::btree_map;
use std::ops::Bound;

use smallvec::SmallVec;

use super::base::{Stored, StoredRange};
use super::error::StoreError;
use super::layer::{Change, Cursor, Key};

/// Bytes lent by the store: a value, or a key met while iterating.
pub(super) enum Value {
    /// By redb.
    Stored(Stored),
    /// A value of a layer.
    Recent(std::sync::Arc<[u8]>),
    /// A key of a layer.
    RecentKey(Key),
}

impl Value {
    /// The bytes.
    pub(super) fn value(&self) -> &[u8] {
        match self {
            Self::Stored(guard) => guard.value(),
            Self::Recent(bytes) => bytes,
            Self::RecentKey(key) => key,
        }
    }
}

/// A row as the store iterates it: key and value.
pub(super) type Row = Result<(Value, Value), StoreError>;

/// Where rows come from.
pub(super) enum Source<'a> {
    /// Changes of the transaction itself.
    Own(btree_map::Range<'a, Key, Change>),
    /// A layer.
    Layer(Cursor),
    /// redb.
    Base(StoredRange),
}

/// A row of a source; without a value it hides those of the sources after it.
type Found = (Value, Option<Value>);

impl Source<'_> {
    fn next(&mut self, backward: bool) -> Result<Option<Found>, StoreError> {
        let recent = |(key, change): (Key, Change)| (Value::RecentKey(key), change.map(Value::Recent));
        match self {
            Self::Own(rows) => {
                let row = if backward { rows.next_back() } else { rows.next() };
                Ok(row.map(|(key, change)| recent((key.clone(), change.clone()))))
            }
            Self::Layer(rows) => Ok(rows.next().map(recent)),
            Self::Base(rows) => {
                let row = if backward { rows.next_back() } else { rows.next() };
                match row.transpose()? {
                    Some((key, value)) => Ok(Some((Value::Stored(key), Some(Value::Stored(value))))),
                    None => Ok(None),
                }
            }
        }
    }
}

/// A source and the row that is next in it.
struct Head<'a> {
    source: Source<'a>,
    next: Option<Found>,
}

/// Iterates rows: of rows with one key the first source's counts. Ends after an error.
pub(super) struct RowRange<'a> {
    heads: SmallVec<[Head<'a>; 4]>,
    backward: bool,
    begun: bool,
}

impl<'a> RowRange<'a> {
    /// Merges sources, the newest first, all of which go in the same direction.
    pub(super) fn new(sources: impl Iterator<Item = Source<'a>>, backward: bool) -> Self {
        let heads = sources.map(|source| Head { source, next: None }).collect();
        Self { heads, backward, begun: false }
    }

    /// The head that is next: the first of those with the least key, or the greatest.
    fn best(&self) -> Option<usize> {
        if let [head] = self.heads.as_slice() {
            return head.next.as_ref().map(|_| 0);
        }
        let sooner = if self.backward { Ordering::Greater } else { Ordering::Less };
        let mut best: Option<(usize, &[u8])> = None;
        for (at, head) in self.heads.iter().enumerate() {
            let Some((key, _)) = &head.next else { continue };
            if best.is_none_or(|(_, other)| key.value().cmp(other) == sooner) {
                best = Some((at, key.value()));
            }
        }
        best.map(|(at, _)| at)
    }

    fn step(&mut self) -> Result<Option<(Value, Value)>, StoreError> {
        if !self.begun {
            self.begun = true;
            for head in &mut self.heads {
                head.next = head.source.next(self.backward)?;
            }
        }
        while let Some(best) = self.best() {
            let head = &mut self.heads[best];
            let following = head.source.next(self.backward)?;
            let Some((key, value)) = std::mem::replace(&mut head.next, following) else { return Ok(None) };
            for head in &mut self.heads[best + 1..] {
                if head.next.as_ref().is_some_and(|(other, _)| other.value() == key.value()) {
                    head.next = head.source.next(self.backward)?;
                }
            }
            if let Some(value) = value {
                return Ok(Some((key, value)));
            }
        }
        Ok(None)
    }
}

impl Iterator for RowRange<'_> {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        let row = self.step();
        if row.is_err() {
            self.heads.clear();
        }
        row.transpose()
    }
}

/// Whether no key lies between two bounds.
pub(super) fn is_empty(from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
            from >= to
        }
    }
}
