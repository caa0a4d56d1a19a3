//! Inode numbers that a session may give to nodes that it makes.
//!
//! A session that answers changes before the namenode has heard of them needs numbers for new nodes at once. It reserves
//! ranges; a number is used by making a node with it, which uses up those below it in its range too. Rows of the table
//! `reservations`, one a range with numbers left. Integers are little-endian.
//!
//! | offset | size | field                              |
//! |--------|------|------------------------------------|
//! | 0      | 1    | version, 1                         |
//! | 1      | 8    | next number that may be used       |
//! | 9      | 8    | end: one more than the last        |

use std::ops::Bound;

use dfs_proto::InodeId;

use super::error::{NamesystemError, RecordFault, StoreError};
use super::keys;
use super::rows::{Row, Rows};
use super::snapshot::Snapshot;
use super::tables::{Table, Tables};

const VERSION: u8 = 1;
const BYTES: usize = 17;

/// Ranges of one session: one in use, one asked for in time, and two that a lost answer left behind.
pub(super) const RANGES_MAX: usize = 4;

/// A range with numbers left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reservation {
    /// Number that the range began with: part of its key.
    pub(super) first: u64,
    /// Next one that may be used.
    pub(super) next: u64,
    /// One more than the last.
    pub(super) end: u64,
}

impl Reservation {
    /// The range of a session that the number can be taken from.
    pub(super) fn of(rows: &impl Rows, session: &str, number: InodeId) -> Result<Self, NamesystemError> {
        let (from, to) = (keys::reservation(session, 0), keys::reservation(session, number.get()));
        let bounds = (Bound::Included(from.as_slice()), Bound::Included(to.as_slice()));
        let found = rows.scan(Table::Reservations, bounds, true)?.next().map(decode_row).transpose()?;
        found
            .filter(|range| (range.next..range.end).contains(&number.get()))
            .ok_or_else(|| NamesystemError::NotReserved { inode: number, session: session.to_owned() })
    }

    pub(super) fn encode(&self) -> [u8; BYTES] {
        let mut out = [VERSION; BYTES];
        out[1..9].copy_from_slice(&self.next.to_le_bytes());
        out[9..].copy_from_slice(&self.end.to_le_bytes());
        out
    }

    pub(super) fn decode(key: &[u8], raw: &[u8]) -> Result<Self, StoreError> {
        let corrupt =
            |fault| StoreError::Corrupt { table: Table::Reservations.name(), key: key.to_vec(), fault };
        let first = keys::trailing_u64(Table::Reservations, key)?;
        let raw: &[u8; BYTES] = raw.try_into().map_err(|_| corrupt(RecordFault::Length(raw.len())))?;
        if raw[0] != VERSION {
            return Err(corrupt(RecordFault::Version(raw[0])));
        }
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&raw[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let (next, end) = (word(1), word(9));
        if first > next || next >= end {
            return Err(corrupt(RecordFault::Field("range")));
        }
        Ok(Self { first, next, end })
    }
}

fn decode_row(row: Row) -> Result<Reservation, StoreError> {
    let (key, value) = row?;
    Reservation::decode(key.value(), value.value())
}

/// Ranges of a session, the oldest first.
pub(super) fn ranges(rows: &impl Rows, session: &str) -> Result<Vec<Reservation>, StoreError> {
    let (from, to) = (keys::reservation(session, 0), keys::reservation(session, u64::MAX));
    let rows = rows.range(Table::Reservations, Bound::Included(&from), Bound::Included(&to))?;
    rows.map(decode_row).collect()
}

impl Tables<'_> {
    /// Writes a range.
    pub(super) fn put_reservation(&mut self, session: &str, range: &Reservation) {
        self.insert(Table::Reservations, &keys::reservation(session, range.first), &range.encode());
    }

    /// Takes a number from its range, and those below it.
    pub(super) fn use_reserved(&mut self, session: &str, range: &Reservation, number: InodeId) {
        let next = number.get() + 1;
        if next == range.end {
            self.drop_reservation(session, range);
        } else {
            self.put_reservation(session, &Reservation { next, ..*range });
        }
    }

    /// Nobody will use the rest of a range.
    pub(super) fn drop_reservation(&mut self, session: &str, range: &Reservation) {
        self.remove(Table::Reservations, &keys::reservation(session, range.first));
    }
}

impl Snapshot {
    /// Sessions that have numbers reserved, sorted.
    pub fn reserving_sessions(&self) -> Result<Vec<String>, NamesystemError> {
        let mut sessions: Vec<String> = Vec::new();
        for row in self.range(Table::Reservations, Bound::Unbounded, Bound::Unbounded)? {
            let (session, _) = keys::parse_holder(Table::Reservations, row?.0.value())?;
            if sessions.last() != Some(&session) {
                sessions.push(session);
            }
        }
        Ok(sessions)
    }

    /// Whether a session has numbers reserved.
    pub fn has_reservations(&self, session: &str) -> Result<bool, NamesystemError> {
        Ok(!ranges(self, session)?.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let key = keys::reservation("s", 3);
        let range = Reservation { first: 3, next: 0x0102, end: 0x0103 };
        let golden = [1, 2, 1, 0, 0, 0, 0, 0, 0, 3, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(key, [b's', 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(range.encode(), golden);
        assert_eq!(Reservation::decode(&key, &golden).expect("decodes"), range);
        for end in 0..golden.len() {
            assert!(Reservation::decode(&key, &golden[..end]).is_err());
        }
        // Another version; nothing left; next before first.
        for (at, value) in [(0, 2), (9, 2), (2, 0)] {
            let mut bad = golden;
            bad[at] = value;
            assert!(Reservation::decode(&key, &bad).is_err(), "{at}");
        }
    }
}
