//! Reads of the namespace as it was at one moment.
//!
//! A snapshot is cheap to make, never blocks a writer, and sees all commands applied before it and none after. It may
//! be shared between threads; long holding keeps old pages of the store from being reused.

use std::ops::{Bound, RangeBounds};

use dfs_proto::{BlockId, InodeId};
use prost::Message;

use super::block_record::BlockRecord;
use super::counters::Counters;
use super::error::{NamesystemError, RecordFault, StoreError};
use super::keys;
use super::ops::{IDENTITY_KEY, RECORD_VERSION, REPAIR_BANDWIDTH_KEY};
use super::rows::{self, Row, RowRange, Rows, Value};
use super::store::{Store, View};
use super::stored_block::StoredBlock;
use super::tables::Table;
use crate::log;

/// See the module head.
pub struct Snapshot {
    view: View,
}

impl Snapshot {
    /// The namespace as it is now.
    pub fn open(store: &Store) -> Self {
        Self { view: store.view() }
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
        for row in rows.take(limit) {
            let (key, value) = row?;
            let id = BlockId(keys::trailing_u64(Table::Blocks, key.value())?);
            let record = BlockRecord::decode(id, value.value())?;
            out.push(names.stored_block(self, &record)?);
        }
        Ok(out)
    }

    /// Datanodes that ever registered.
    pub fn datanodes(&self) -> Result<Vec<log::DatanodeRecord>, NamesystemError> {
        let rows = self.range(Table::Datanodes, Bound::Unbounded, Bound::Unbounded)?;
        let mut out = Vec::new();
        for row in rows {
            let (key, value) = row?;
            out.push(decode_message(Table::Datanodes, key.value(), value.value())?);
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

    /// Bytes a second that each datanode may spend on repair; 0: as it sees fit.
    pub fn repair_bandwidth(&self) -> Result<u64, NamesystemError> {
        let key = REPAIR_BANDWIDTH_KEY.as_bytes();
        let Some(raw) = self.get(Table::Meta, key)? else { return Ok(0) };
        let op: log::SetRepairBandwidthOp = decode_message(Table::Meta, key, raw.value())?;
        Ok(op.bytes_per_second)
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
        let mut rows = self.range(Table::Reclaim, Bound::Unbounded, Bound::Unbounded)?;
        Ok(rows.next().transpose()?.is_some())
    }

    /// Unlinked inodes that somebody had open, after `after`, at most `limit`.
    pub fn orphans(&self, after: InodeId, limit: usize) -> Result<Vec<InodeId>, NamesystemError> {
        let from = keys::inode(after);
        let rows = self.range(Table::Orphans, Bound::Excluded(&from), Bound::Unbounded)?;
        let ids =
            rows.take(limit).map(|row: Row| keys::trailing_u64(Table::Orphans, row?.0.value()).map(InodeId));
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
        let leases = rows.map(|row: Row| keys::parse_lease(row?.0.value()));
        Ok(leases.collect::<Result<_, StoreError>>()?)
    }
}

impl Rows for Snapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, StoreError> {
        self.view.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
        backward: bool,
    ) -> Result<RowRange<'_>, StoreError> {
        self.view.range(None, table, bounds, backward)
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

/// Decodes a message behind its version.
pub(super) fn decode_message<M: Message + Default>(
    table: Table,
    key: &[u8],
    raw: &[u8],
) -> Result<M, StoreError> {
    let corrupt = |fault| StoreError::Corrupt { table: table.name(), key: key.to_vec(), fault };
    match raw {
        [RECORD_VERSION, message @ ..] => {
            M::decode(message).map_err(|_| corrupt(RecordFault::Field("message")))
        }
        [version, ..] => Err(corrupt(RecordFault::Version(*version))),
        [] => Err(corrupt(RecordFault::Length(0))),
    }
}
