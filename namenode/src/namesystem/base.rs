//! The rows that redb has, as they were at one moment.
//!
//! One read transaction, shared by everybody who reads between two flushes (see [`super::store`]): a table is opened
//! when somebody first needs it, once for all of them.

use std::ops::Bound;
use std::sync::OnceLock;

use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase};

use super::error::StoreError;
use super::tables::Table;

type OpenTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// Bytes lent by redb.
pub(super) type Stored = redb::AccessGuard<'static, &'static [u8]>;

/// Iterates rows of redb.
pub(super) type StoredRange = redb::Range<'static, &'static [u8], &'static [u8]>;

/// See the module head.
pub(super) struct Base {
    txn: ReadTransaction,
    /// `None` inside: the table was never written.
    open: [OnceLock<Option<OpenTable>>; Table::ALL.len()],
}

impl Base {
    /// What is committed now.
    pub(super) fn open(db: &Database) -> Result<Self, StoreError> {
        Ok(Self { txn: db.begin_read()?, open: std::array::from_fn(|_| OnceLock::new()) })
    }

    /// Value of a key.
    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        match self.table(table)? {
            Some(open) => Ok(open.get(key)?),
            None => Ok(None),
        }
    }

    /// Rows in key order; `None` if the table was never written.
    pub(super) fn range(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Result<Option<StoredRange>, StoreError> {
        match self.table(table)? {
            Some(open) => Ok(Some(open.range::<&[u8]>((from, to))?)),
            None => Ok(None),
        }
    }

    fn table(&self, table: Table) -> Result<Option<&OpenTable>, StoreError> {
        let cell = &self.open[table as usize];
        if let Some(open) = cell.get() {
            return Ok(open.as_ref());
        }
        let opened = match self.txn.open_table(table.definition()) {
            Ok(opened) => Some(opened),
            Err(redb::TableError::TableDoesNotExist(_)) => None,
            Err(error) => return Err(error.into()),
        };
        Ok(cell.get_or_init(|| opened).as_ref())
    }
}
