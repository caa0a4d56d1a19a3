//! That a namespace was restored from a backup.
//!
//! Record `restored` of the table `meta`, until an operator says that what the namespace does not know may go. Integers are
//! little-endian.
//!
//! | offset | size | field                                           |
//! |--------|------|-------------------------------------------------|
//! | 0      | 1    | version, 1                                      |
//! | 1      | 8    | when the backup was made, ns since the epoch    |

use std::ops::Bound;

use super::error::{RecordFault, StoreError};
use super::rows::Rows;
use super::snapshot::Snapshot;
use super::tables::{Table, Tables};

const KEY: &[u8] = b"restored";
const VERSION: u8 = 1;

/// Ids and stamps that are passed over: more than the lost namespace can have given since the backup (a million a second
/// for twelve days), and few enough for millions of restores.
pub(super) const IDS_PASSED_OVER: u64 = 1 << 40;

fn encode(created_ns: i64) -> [u8; 9] {
    let mut out = [VERSION; 9];
    out[1..].copy_from_slice(&created_ns.to_le_bytes());
    out
}

fn decode(raw: &[u8]) -> Result<i64, StoreError> {
    let fault = match raw {
        [VERSION, a, b, c, d, e, f, g, h] => {
            return Ok(i64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]));
        }
        [VERSION, ..] | [] => RecordFault::Length(raw.len()),
        [version, ..] => RecordFault::Version(*version),
    };
    Err(StoreError::Corrupt { table: Table::Meta.name(), key: KEY.to_vec(), fault })
}

impl Tables<'_> {
    /// Makes this a namespace that was restored from a backup of `created_ns`. Not a command: there is no log yet.
    /// Inode numbers that were reserved then have been used since, so nobody has any now.
    pub fn mark_restored(&mut self, created_ns: i64) -> Result<(), StoreError> {
        let reserved = self.range(Table::Reservations, Bound::Unbounded, Bound::Unbounded)?;
        let reserved = reserved.map(|row| Ok(row?.0.value().to_vec()));
        for key in reserved.collect::<Result<Vec<_>, StoreError>>()? {
            self.remove(Table::Reservations, &key);
        }
        self.counters.pass_over(IDS_PASSED_OVER);
        self.store_counters();
        self.insert(Table::Meta, KEY, &encode(created_ns));
        Ok(())
    }

    /// Makes it one like any other.
    pub(super) fn forget_restore(&mut self) {
        self.remove(Table::Meta, KEY);
    }
}

impl Snapshot {
    /// When the backup was made that this namespace was restored from, unless an operator has ended that.
    pub fn restored_from(&self) -> Result<Option<i64>, StoreError> {
        self.get(Table::Meta, KEY)?.map(|raw| decode(raw.value())).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let golden = [1, 2, 1, 0, 0, 0, 0, 0, 0];
        assert_eq!(encode(0x0102), golden);
        assert_eq!(decode(&golden).expect("decodes"), 0x0102);
        for end in 0..golden.len() {
            assert!(decode(&golden[..end]).is_err());
        }
        assert!(decode(&[2; 9]).is_err());
    }
}
