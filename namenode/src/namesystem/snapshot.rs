//! Reads of the namespace as it was at one moment.
//!
//! A snapshot is one redb read transaction: cheap to make, never blocks a writer, sees all commands
//! applied before it and none after. Tables are opened when a query first needs them. It may be shared
//! between threads; long holding keeps old pages of the store from being reused.

use std::ops::{Bound, RangeBounds};
use std::sync::OnceLock;

use dfs_proto::{BlockId, InodeId, v1};
use prost::Message;
use redb::{ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable};

use super::block_record::BlockRecord;
use super::counters::Counters;
use super::error::{NamesystemError, RecordFault, StoreError};
use super::keys;
use super::ops::{IDENTITY_KEY, RECORD_VERSION};
use super::rows::{self, Row, RowRange, Rows, Value};
use super::stored_block::StoredBlock;
use super::tables::Table;
use crate::log;

type OpenTable = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// See the module head.
pub struct Snapshot {
    txn: ReadTransaction,
    /// `None` inside: the table was never written.
    open: [OnceLock<Option<OpenTable>>; Table::ALL.len()],
}

impl Snapshot {
    /// The namespace as it is now.
    pub fn open(db: &redb::Database) -> Result<Self, NamesystemError> {
        let txn = db.begin_read().map_err(StoreError::from)?;
        Ok(Self { txn, open: std::array::from_fn(|_| OnceLock::new()) })
    }

    /// A block by id.
    pub fn block(&self, id: BlockId) -> Result<Option<StoredBlock>, NamesystemError> {
        match self.block_record(id)? {
            Some(record) => Ok(Some(self.stored_block(&record)?)),
            None => Ok(None),
        }
    }

    /// Blocks whose ids are in `range`, ascending, at most `limit`.
    pub fn blocks_in(
        &self,
        range: impl RangeBounds<BlockId>,
        limit: usize,
    ) -> Result<Vec<StoredBlock>, NamesystemError> {
        let from = range.start_bound().map(|id| keys::block(*id));
        let to = range.end_bound().map(|id| keys::block(*id));
        let rows = self.range(
            Table::Blocks,
            from.as_ref().map(<[u8; 8]>::as_slice),
            to.as_ref().map(<[u8; 8]>::as_slice),
        )?;
        let mut names = StorageNames::default();
        let mut out = Vec::new();
        for row in rows.into_iter().flatten().take(limit) {
            let (key, value) = row.map_err(StoreError::from)?;
            let id = BlockId(keys::trailing_u64(Table::Blocks, key.value())?);
            let record = BlockRecord::decode(id, value.value())?;
            out.push(names.stored_block(self, &record)?);
        }
        Ok(out)
    }

    /// Datanodes that ever registered, with their storages.
    pub fn datanodes(&self) -> Result<Vec<(v1::DatanodeInfo, Vec<String>)>, NamesystemError> {
        let rows = self.range(Table::Datanodes, Bound::Unbounded, Bound::Unbounded)?;
        let mut out = Vec::new();
        for row in rows.into_iter().flatten() {
            let (key, value) = row.map_err(StoreError::from)?;
            let op: log::RegisterDatanodeOp = decode_message(Table::Datanodes, key.value(), value.value())?;
            out.push((op.info.unwrap_or_default(), op.storage_ids));
        }
        Ok(out)
    }

    /// All files open for writing, by holder.
    pub fn leases(&self) -> Result<Vec<(String, InodeId)>, NamesystemError> {
        self.leases_between(Bound::Unbounded, Bound::Unbounded)
    }

    /// Files that a holder has open for writing.
    pub fn leases_of(&self, holder: &str) -> Result<Vec<InodeId>, NamesystemError> {
        let from = keys::lease(holder, InodeId(0));
        let to = keys::lease(holder, InodeId(u64::MAX));
        let leases = self.leases_between(Bound::Included(&from), Bound::Included(&to))?;
        Ok(leases.into_iter().map(|(_, inode)| inode).collect())
    }

    /// Cluster id and block pool id; `None` before the first command.
    pub fn identity(&self) -> Result<Option<(String, String)>, NamesystemError> {
        let key = IDENTITY_KEY.as_bytes();
        match self.get(Table::Meta, key)? {
            Some(raw) => {
                let op: log::InitializeOp = decode_message(Table::Meta, key, raw.value())?;
                Ok(Some((op.cluster_id, op.block_pool_id)))
            }
            None => Ok(None),
        }
    }

    /// Inodes and blocks that exist.
    pub fn counts(&self) -> Result<(u64, u64), NamesystemError> {
        match self.get(Table::Meta, Counters::KEY.as_bytes())? {
            Some(raw) => {
                let counters = Counters::decode(raw.value())?;
                Ok((counters.inodes, counters.blocks))
            }
            None => Ok((0, 0)),
        }
    }

    /// Whether deletions have left something to free.
    pub fn needs_reclaim(&self) -> Result<bool, NamesystemError> {
        let rows = self.range(Table::Reclaim, Bound::Unbounded, Bound::Unbounded)?;
        Ok(rows.into_iter().flatten().next().transpose().map_err(StoreError::from)?.is_some())
    }

    /// Unlinked inodes that somebody had open, after `after`, at most `limit`.
    pub fn orphans(&self, after: InodeId, limit: usize) -> Result<Vec<InodeId>, NamesystemError> {
        let from = keys::inode(after);
        let rows = self.range(Table::Orphans, Bound::Excluded(&from), Bound::Unbounded)?;
        let ids = rows
            .into_iter()
            .flatten()
            .take(limit)
            .map(|row: Row<'_>| keys::trailing_u64(Table::Orphans, row?.0.value()).map(InodeId));
        Ok(ids.collect::<Result<_, StoreError>>()?)
    }

    /// Value of a key of the meta table that belongs to the caller, such as consensus.
    pub fn meta_get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.get(Table::Meta, key.as_bytes())?.map(|v| v.value().to_vec()))
    }

    fn leases_between(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Result<Vec<(String, InodeId)>, NamesystemError> {
        let rows = self.range(Table::Leases, from, to)?;
        let leases = rows.into_iter().flatten().map(|row: Row<'_>| keys::parse_lease(row?.0.value()));
        Ok(leases.collect::<Result<_, StoreError>>()?)
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

impl Rows for Snapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value<'_>>, StoreError> {
        match self.table(table)? {
            Some(open) => Ok(ReadableTable::get(open, key)?),
            None => Ok(None),
        }
    }

    fn range(
        &self,
        table: Table,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Result<Option<RowRange<'_>>, StoreError> {
        match self.table(table)? {
            Some(open) => Ok(Some(ReadableTable::range::<&[u8]>(open, (from, to))?)),
            None => Ok(None),
        }
    }
}

/// Storage names met in one scan, so that a scan of a million blocks reads each once.
#[derive(Default)]
struct StorageNames {
    known: std::collections::HashMap<u32, String>,
}

impl StorageNames {
    fn stored_block(&mut self, rows: &Snapshot, record: &BlockRecord) -> Result<StoredBlock, StoreError> {
        let mut hints = Vec::with_capacity(record.hints.len());
        for number in &record.hints {
            let name = match self.known.get(number) {
                Some(name) => name.clone(),
                None => {
                    let name = rows.storage_name(*number)?;
                    self.known.insert(*number, name.clone());
                    name
                }
            };
            hints.push(name);
        }
        Ok(rows::stored_block_with(record, hints))
    }
}

fn decode_message<M: Message + Default>(table: Table, key: &[u8], raw: &[u8]) -> Result<M, StoreError> {
    let corrupt = |fault| StoreError::Corrupt { table: table.name(), key: key.to_vec(), fault };
    match raw {
        [RECORD_VERSION, message @ ..] => {
            M::decode(message).map_err(|_| corrupt(RecordFault::Field("message")))
        }
        [version, ..] => Err(corrupt(RecordFault::Version(*version))),
        [] => Err(corrupt(RecordFault::Length(0))),
    }
}
