//! Typed reads over the tables, the same for a transaction and for a snapshot.

use std::ops::Bound;

use dfs_proto::{BlockId, InodeId};

use super::block_record::BlockRecord;
use super::entry::Entry;
use super::error::{RecordFault, StoreError};
use super::inode::Inode;
use super::keys;
pub(super) use super::row_range::{Row, RowRange, Value};
use super::stored_block::StoredBlock;
use super::tables::Table;

/// Rows of the tables.
pub(super) trait Rows {
    /// Value of a key.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Value>, StoreError>;

    /// Rows in key order, or in the opposite one.
    fn scan(
        &self,
        table: Table,
        bounds: (Bound<&[u8]>, Bound<&[u8]>),
        backward: bool,
    ) -> Result<RowRange<'_>, StoreError>;

    /// Rows in key order.
    fn range(&self, table: Table, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<RowRange<'_>, StoreError> {
        self.scan(table, (from, to), false)
    }

    /// Inode by id.
    fn inode(&self, id: InodeId) -> Result<Option<Inode>, StoreError> {
        match self.get(Table::Inodes, &keys::inode(id))? {
            Some(raw) => Inode::decode(id, raw.value()).map(Some),
            None => Ok(None),
        }
    }

    /// Inode by id, if it has a name or is open somewhere, and does not just wait to be freed.
    fn live_inode(&self, id: InodeId) -> Result<Option<Inode>, StoreError> {
        Ok(match self.inode(id)? {
            Some(inode) if inode.nlink > 0 || self.is_orphan(id)? => Some(inode),
            _ => None,
        })
    }

    /// Whether an inode is unlinked but open somewhere.
    fn is_orphan(&self, id: InodeId) -> Result<bool, StoreError> {
        Ok(self.get(Table::Orphans, &keys::inode(id))?.is_some())
    }

    /// Inode that an entry or a block refers to.
    fn existing_inode(&self, id: InodeId) -> Result<Inode, StoreError> {
        self.inode(id)?.ok_or_else(|| StoreError::Dangling {
            table: Table::Inodes.name(),
            key: keys::inode(id).to_vec(),
        })
    }

    /// Entry of a directory.
    fn entry(&self, parent: InodeId, name: &[u8]) -> Result<Option<Entry>, StoreError> {
        let key = keys::entry(parent, name);
        match self.get(Table::Entries, &key)? {
            Some(raw) => Entry::decode(&key, raw.value()).map(Some),
            None => Ok(None),
        }
    }

    /// Entries of a directory after a name, in bytewise order.
    fn entries_after(
        &self,
        parent: InodeId,
        name: &[u8],
    ) -> Result<impl Iterator<Item = Result<(Vec<u8>, Entry), StoreError>>, StoreError> {
        let from = keys::entry(parent, name);
        let to = keys::entry(InodeId(parent.get() + 1), b"");
        let rows = self.range(Table::Entries, Bound::Excluded(&from), Bound::Excluded(&to))?;
        Ok(rows.map(|row: Row| {
            let (key, value) = row?;
            let entry = Entry::decode(key.value(), value.value())?;
            Ok((key.value().get(8..).unwrap_or_default().to_vec(), entry))
        }))
    }

    /// Whether a directory has entries.
    fn has_entries(&self, directory: InodeId) -> Result<bool, StoreError> {
        Ok(self.entries_after(directory, b"")?.next().transpose()?.is_some())
    }

    /// Block by id.
    fn block_record(&self, id: BlockId) -> Result<Option<BlockRecord>, StoreError> {
        match self.get(Table::Blocks, &keys::block(id))? {
            Some(raw) => BlockRecord::decode(id, raw.value()).map(Some),
            None => Ok(None),
        }
    }

    /// Block that a file refers to.
    fn existing_block(&self, id: BlockId) -> Result<BlockRecord, StoreError> {
        self.block_record(id)?.ok_or_else(|| StoreError::Dangling {
            table: Table::Blocks.name(),
            key: keys::block(id).to_vec(),
        })
    }

    /// Indexes and ids of a file's blocks from an index on.
    fn file_blocks_from(
        &self,
        inode: InodeId,
        index: u64,
    ) -> Result<impl Iterator<Item = Result<(u64, BlockId), StoreError>>, StoreError> {
        let from = keys::file_block(inode, index);
        let to = keys::file_block(inode, u64::MAX);
        let rows = self.range(Table::FileBlocks, Bound::Included(&from), Bound::Included(&to))?;
        Ok(rows.map(decode_file_block_row))
    }

    /// Indexes and ids of a file's blocks, the last one first.
    fn file_blocks_backward(
        &self,
        inode: InodeId,
    ) -> Result<impl Iterator<Item = Result<(u64, BlockId), StoreError>>, StoreError> {
        let from = keys::file_block(inode, 0);
        let to = keys::file_block(inode, u64::MAX);
        let bounds = (Bound::Included(from.as_slice()), Bound::Included(to.as_slice()));
        Ok(self.scan(Table::FileBlocks, bounds, true)?.map(decode_file_block_row))
    }

    /// Block of a file by index.
    fn block_at(&self, inode: InodeId, index: u64) -> Result<Option<BlockRecord>, StoreError> {
        let key = keys::file_block(inode, index);
        match self.get(Table::FileBlocks, &key)? {
            Some(raw) => self.existing_block(decode_file_block(&key, raw.value())?).map(Some),
            None => Ok(None),
        }
    }

    /// Last block of a file.
    fn last_block(&self, inode: InodeId) -> Result<Option<BlockRecord>, StoreError> {
        let last = self.file_blocks_backward(inode)?.next().transpose()?;
        last.map(|(_, id)| self.existing_block(id)).transpose()
    }

    /// Files that a holder has open for writing.
    fn count_leases(&self, holder: &str) -> Result<u64, StoreError> {
        let from = keys::lease(holder, InodeId(0));
        let to = keys::lease(holder, InodeId(u64::MAX));
        let mut count = 0;
        for row in self.range(Table::Leases, Bound::Included(&from), Bound::Included(&to))? {
            row?;
            count += 1;
        }
        Ok(count)
    }

    /// Number of a storage, if it was ever recorded.
    fn storage_number(&self, storage_id: &str) -> Result<Option<u32>, StoreError> {
        let key = storage_id.as_bytes();
        match self.get(Table::Storages, key)? {
            Some(raw) => match *raw.value() {
                [STORAGE_VERSION, a, b, c, d] => Ok(Some(u32::from_le_bytes([a, b, c, d]))),
                ref other => Err(StoreError::Corrupt {
                    table: Table::Storages.name(),
                    key: key.to_vec(),
                    fault: RecordFault::Length(other.len()),
                }),
            },
            None => Ok(None),
        }
    }

    /// Storage by number.
    fn storage_name(&self, number: u32) -> Result<String, StoreError> {
        let key = number.to_be_bytes();
        let table = Table::StorageNames.name();
        let raw = self
            .get(Table::StorageNames, &key)?
            .ok_or_else(|| StoreError::Dangling { table, key: key.to_vec() })?;
        let text = match raw.value() {
            [STORAGE_VERSION, text @ ..] => std::str::from_utf8(text).ok(),
            _ => None,
        };
        text.map(str::to_owned).ok_or_else(|| StoreError::Corrupt {
            table,
            key: key.to_vec(),
            fault: RecordFault::Field("storage id"),
        })
    }

    /// The public form of a block record, its hints spelled out.
    fn stored_block(&self, record: &BlockRecord) -> Result<StoredBlock, StoreError> {
        let hints = record.hints.iter().map(|n| self.storage_name(*n)).collect::<Result<_, _>>()?;
        Ok(stored_block_with(record, hints))
    }
}

/// Version of rows of the tables `storages` and `storage_names`.
pub(super) const STORAGE_VERSION: u8 = 1;

const FILE_BLOCK_VERSION: u8 = 1;

/// Value of a row of `file_blocks`.
pub(super) fn encode_file_block(id: BlockId) -> [u8; 9] {
    let mut out = [FILE_BLOCK_VERSION; 9];
    out[1..].copy_from_slice(&id.get().to_le_bytes());
    out
}

fn decode_file_block_row(row: Row) -> Result<(u64, BlockId), StoreError> {
    let (key, value) = row?;
    let index = keys::trailing_u64(Table::FileBlocks, key.value())?;
    Ok((index, decode_file_block(key.value(), value.value())?))
}

fn decode_file_block(key: &[u8], raw: &[u8]) -> Result<BlockId, StoreError> {
    match raw {
        [FILE_BLOCK_VERSION, a, b, c, d, e, f, g, h] => {
            Ok(BlockId(u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h])))
        }
        other => Err(StoreError::Corrupt {
            table: Table::FileBlocks.name(),
            key: key.to_vec(),
            fault: RecordFault::Length(other.len()),
        }),
    }
}

/// The public form of a block record.
pub(super) fn stored_block_with(record: &BlockRecord, hints: Vec<String>) -> StoredBlock {
    StoredBlock {
        id: record.id,
        stamp: record.stamp,
        length: record.length,
        replication: record.replication,
        state: record.state,
        inode: record.inode,
        index: record.index,
        hints,
    }
}
