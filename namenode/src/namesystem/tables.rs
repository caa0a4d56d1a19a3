//! The tables of the namespace, and a transaction on them.
//!
//! All keys and values are bytes, so that one loop can stream, compare or digest every table. Integers
//! in keys are big-endian, hence ordered. Every value but the empty one starts with its version.
//!
//! | table         | key                          | value                                             |
//! |---------------|------------------------------|---------------------------------------------------|
//! | inodes        | inode (8)                    | [`super::inode`]                                  |
//! | entries       | parent inode (8), name       | [`super::entry`]                                  |
//! | blocks        | block (8)                    | [`super::block_record`]                           |
//! | file_blocks   | inode (8), index (8)         | version 1 (1), block (8)                          |
//! | leases        | holder, 0 (1), inode (8)     | empty                                             |
//! | retries       | client id (16), call id (8)  | [`super::retry_cache`]                            |
//! | retry_order   | log index (8)                | version 1 (1), time ns (8), client id, call id    |
//! | reclaim       | inode (8)                    | empty                                             |
//! | orphans       | inode (8)                    | empty                                             |
//! | storages      | storage id                   | version 1 (1), number (4)                         |
//! | storage_names | number (4)                   | version 1 (1), storage id                         |
//! | datanodes     | datanode uuid                | version 1 (1), `DatanodeRecord`                   |
//! | reservations  | session, 0 (1), first (8)    | [`super::reservation`]                            |
//! | trash         | checkpoint inode (8)         | [`super::trash`]                                  |
//! | meta          | text                         | `counters`: [`super::counters`]; `trash`: [`super::trash`]; `restored`: [`super::restored`]; `identity`: version 1 (1), `InitializeOp`; `repair_bandwidth`: version 1 (1), `SetRepairBandwidthOp`; others: their owner's |
//!
//! Integers in values are little-endian.

use std::ops::Bound;

use redb::TableDefinition;

use super::counters::Counters;
use super::error::StoreError;
use super::hints::Hints;
use super::layer::{Changes, Key};
use super::rows::{RowRange, Rows, Value};
use super::store::{Store, View};

/// What redb calls a table of ours.
pub type Definition = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Names a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Inodes by id.
    Inodes,
    /// Directory entries by parent and name.
    Entries,
    /// Blocks by id.
    Blocks,
    /// Blocks of a file by index.
    FileBlocks,
    /// Files open for writing by holder.
    Leases,
    /// Replies by call.
    Retries,
    /// Calls by log index: the order in which replies are forgotten.
    RetryOrder,
    /// Unlinked inodes that still have something to free.
    Reclaim,
    /// Unlinked inodes that somebody has open.
    Orphans,
    /// Numbers of storages.
    Storages,
    /// Storages by number.
    StorageNames,
    /// Datanodes by uuid.
    Datanodes,
    /// Checkpoints of users' trash.
    Trash,
    /// Inode numbers that sessions may give.
    Reservations,
    /// Counters, identity, and what consensus keeps here.
    Meta,
}

impl Table {
    /// All tables. A copy of all of them is a copy of the namespace.
    pub const ALL: [Table; 15] = [
        Table::Inodes,
        Table::Entries,
        Table::Blocks,
        Table::FileBlocks,
        Table::Leases,
        Table::Retries,
        Table::RetryOrder,
        Table::Reclaim,
        Table::Orphans,
        Table::Storages,
        Table::StorageNames,
        Table::Datanodes,
        Table::Trash,
        Table::Reservations,
        Table::Meta,
    ];

    /// Name in the store.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inodes => "inodes",
            Self::Entries => "entries",
            Self::Blocks => "blocks",
            Self::FileBlocks => "file_blocks",
            Self::Leases => "leases",
            Self::Retries => "retries",
            Self::RetryOrder => "retry_order",
            Self::Reclaim => "reclaim",
            Self::Orphans => "orphans",
            Self::Storages => "storages",
            Self::StorageNames => "storage_names",
            Self::Datanodes => "datanodes",
            Self::Trash => "trash",
            Self::Reservations => "reservations",
            Self::Meta => "meta",
        }
    }

    /// Definition in the store.
    pub const fn definition(self) -> Definition {
        TableDefinition::new(self.name())
    }
}

/// All tables as one transaction sees and changes them. Nobody else sees the changes before [`Tables::commit`]; dropped
/// without it, they are undone.
pub struct Tables<'store> {
    store: &'store Store,
    before: View,
    changes: Changes,
    pub(super) hints: Hints,
    /// The counters as of the last applied command.
    pub(super) counters: Counters,
    /// The counters as they are in the store.
    stored_counters: Counters,
}

impl<'store> Tables<'store> {
    /// Begins a transaction. There must be no other one.
    pub fn open(store: &'store Store) -> Result<Self, StoreError> {
        let before = store.newest();
        let counters = match before.get(Table::Meta, Counters::KEY.as_bytes())? {
            Some(value) => Counters::decode(value.value())?,
            None => Counters::default(),
        };
        let changes = Changes::default();
        let hints = store.take_hints();
        Ok(Self { store, before, changes, hints, stored_counters: counters.clone(), counters })
    }

    /// Has others see the changes.
    pub fn commit(self) {
        self.store.publish(self.changes, self.hints);
    }

    /// Value of a key of the meta table that belongs to the caller, such as consensus.
    pub fn meta_get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.get(Table::Meta, key.as_bytes())?.map(|v| v.value().to_vec()))
    }

    /// Sets a key of the meta table that belongs to the caller. `counters`, `trash` and `identity` are taken.
    pub fn meta_put(&mut self, key: &str, value: &[u8]) {
        self.insert(Table::Meta, key.as_bytes(), value);
    }

    /// Writes the counters if a command changed them.
    pub(super) fn store_counters(&mut self) {
        if self.counters_changed() {
            let record = self.counters.encode();
            self.insert(Table::Meta, Counters::KEY.as_bytes(), &record);
            self.stored_counters = self.counters.clone();
        }
    }

    /// Whether the counters differ from the stored ones.
    pub(super) fn counters_changed(&self) -> bool {
        self.counters != self.stored_counters
    }

    /// Inserts or replaces a row.
    pub(super) fn insert(&mut self, table: Table, key: &[u8], value: &[u8]) {
        self.changes[table as usize].insert(Key::from_slice(key), Some(value.into()));
    }

    /// Removes a row, if it exists.
    pub(super) fn remove(&mut self, table: Table, key: &[u8]) {
        self.changes[table as usize].insert(Key::from_slice(key), None);
    }
}

impl Rows for Tables<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, StoreError> {
        match self.changes[table as usize].get(key) {
            Some(change) => Ok(change.clone().map(Value::Recent)),
            None => self.before.get(table, key),
        }
    }

    fn scan(
        &self,
        table: Table,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
        backward: bool,
    ) -> Result<RowRange<'_>, StoreError> {
        self.before.range(Some(&self.changes), table, bounds, backward)
    }
}
