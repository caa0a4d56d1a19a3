//! Changes of a file's blocks that several operations share. As in [`super::edit`], nothing is checked here. The
//! file's record counts the bytes in its blocks and the open ones: every change of a block goes through here
//! with the file, which the caller writes afterwards.

use super::apply::Context;
use super::block_record::{BlockRecord, Hints};
use super::effect::Effect;
use super::error::StoreError;
use super::inode::Inode;
use super::keys;
use super::rows::{self, Rows, STORAGE_VERSION};
use super::stored_block::BlockState;
use super::tables::{Table, Tables};

impl Tables<'_> {
    /// Writes a block.
    pub(super) fn put_block(&mut self, record: &BlockRecord) {
        self.insert(Table::Blocks, &keys::block(record.id), &record.encode());
    }

    /// Removes blocks of a file from an index on, at most `limit`; the caller writes the file afterwards.
    /// Answers how many, and whether none is left.
    pub(super) fn remove_blocks(
        &mut self,
        context: &mut Context<'_>,
        file: &mut Inode,
        from_index: u64,
        limit: usize,
    ) -> Result<(usize, bool), StoreError> {
        let mut ids = Vec::new();
        let mut all = true;
        for row in self.file_blocks_from(file.id, from_index)? {
            if ids.len() == limit {
                all = false;
                break;
            }
            ids.push(row?.1);
        }
        let removed = ids.len();
        for id in ids {
            let record = self.existing_block(id)?;
            self.remove_block(context, file, &record);
        }
        Ok((removed, all))
    }

    /// Removes one block; the caller writes the file afterwards.
    pub(super) fn remove_block(&mut self, context: &mut Context<'_>, file: &mut Inode, record: &BlockRecord) {
        self.remove(Table::FileBlocks, &keys::file_block(record.inode, record.index));
        self.remove(Table::Blocks, &keys::block(record.id));
        self.counters.blocks = self.counters.blocks.saturating_sub(1);
        file.allocated = file.allocated.saturating_sub(record.covered());
        file.open_blocks = file.open_blocks.saturating_sub(u32::from(record.is_open()));
        context.effects.push(Effect::BlockRemoved { id: record.id, stamp: record.issued.max(record.stamp) });
    }

    /// Adds a block to a file, which the caller writes afterwards.
    pub(super) fn allocate_block(
        &mut self,
        context: &mut Context<'_>,
        file: &mut Inode,
        index: u64,
        targets: &[String],
    ) -> Result<BlockRecord, StoreError> {
        let stamp = self.counters.take_stamp();
        let record = BlockRecord {
            id: self.counters.take_block(),
            state: BlockState::UnderConstruction,
            replication: file.replication,
            stamp,
            length: 0,
            inode: file.id,
            index,
            issued: stamp,
            settled_length: None,
            hints: self.record_storages(targets)?,
        };
        self.put_block(&record);
        let file_block = rows::encode_file_block(record.id);
        self.insert(Table::FileBlocks, &keys::file_block(file.id, index), &file_block);
        self.counters.blocks += 1;
        file.open_blocks += 1;
        let block = rows::stored_block_with(&record, targets.to_vec());
        context.effects.push(Effect::BlockAllocated { block, targets: targets.to_vec() });
        Ok(record)
    }

    /// Writes a block whose record was `before`, and takes the difference over into the file, which the
    /// caller writes afterwards.
    pub(super) fn change_block(&mut self, file: &mut Inode, before: &BlockRecord, record: &BlockRecord) {
        file.allocated = file.allocated.saturating_sub(before.covered()) + record.covered();
        file.open_blocks =
            file.open_blocks.saturating_sub(u32::from(before.is_open())) + u32::from(record.is_open());
        self.put_block(record);
    }

    /// Makes a complete block writable again, under a stamp that its pipeline shall set: the recorded one
    /// stays until that pipeline reports. The caller writes the file afterwards.
    pub(super) fn reopen_block(
        &mut self,
        context: &mut Context<'_>,
        file: &mut Inode,
        before: &BlockRecord,
    ) -> Result<(BlockRecord, Vec<String>), StoreError> {
        let mut record = before.clone();
        record.state = BlockState::UnderConstruction;
        record.issued = self.counters.take_stamp();
        record.settled_length = Some(record.length);
        self.change_block(file, before, &record);
        let block = self.stored_block(&record)?;
        let targets = block.hints.clone();
        context.effects.push(Effect::BlockAllocated { block, targets: targets.clone() });
        Ok((record, targets))
    }

    /// Takes over how far the writer of an open block is. With the issued stamp also that the pipeline with that
    /// stamp stands: replicas with the old one are stale from here on. The caller writes the file afterwards.
    pub(super) fn advance_block(
        &mut self,
        context: &mut Context<'_>,
        file: &mut Inode,
        before: &BlockRecord,
        block: &dfs_proto::v1::Block,
        storage_ids: &[String],
    ) -> Result<(), StoreError> {
        let mut record = before.clone();
        record.length = block.length;
        if block.stamp() == before.stamp {
            record.settled_length = before.settled_length.map(|_| block.length);
            self.change_block(file, before, &record);
            return Ok(());
        }
        record.stamp = block.stamp();
        record.settled_length = None;
        let targets =
            if storage_ids.is_empty() { self.stored_block(before)?.hints } else { storage_ids.to_vec() };
        record.hints = self.known_storages(&targets)?;
        self.change_block(file, before, &record);
        let block = rows::stored_block_with(&record, targets.clone());
        context.effects.push(Effect::BlockAllocated { block, targets });
        Ok(())
    }

    /// Makes a block complete with the length and stamp that its writer or its recovery names. The caller
    /// writes the file afterwards.
    pub(super) fn commit_block(
        &mut self,
        context: &mut Context<'_>,
        file: &mut Inode,
        before: &BlockRecord,
        committed: &dfs_proto::v1::Block,
        storage_ids: &[String],
    ) -> Result<(), StoreError> {
        let mut record = before.clone();
        record.state = BlockState::Complete;
        record.stamp = committed.stamp();
        record.issued = record.stamp;
        record.length = committed.length;
        record.settled_length = None;
        record.hints = self.known_storages(storage_ids)?;
        self.change_block(file, before, &record);
        context.effects.push(Effect::BlockCommitted {
            block: rows::stored_block_with(&record, storage_ids.to_vec()),
            storage_ids: storage_ids.to_vec(),
        });
        Ok(())
    }

    /// Blocks of a file that are not complete, the last one first. Looks at the last blocks of the file
    /// until it has seen as many as there are.
    pub(super) fn open_blocks(&self, file: &Inode) -> Result<Vec<BlockRecord>, StoreError> {
        let mut open = Vec::new();
        if file.open_blocks == 0 {
            return Ok(open);
        }
        for row in self.file_blocks_backward(file.id)? {
            let record = self.existing_block(row?.1)?;
            if record.is_open() {
                open.push(record);
            }
            if open.len() as u64 == u64::from(file.open_blocks) {
                break;
            }
        }
        Ok(open)
    }

    /// Numbers of storages that the namenode chose or that datanodes reported; new ones get a number.
    pub(super) fn record_storages(&mut self, storage_ids: &[String]) -> Result<Hints, StoreError> {
        let mut hints = Hints::new();
        for storage_id in storage_ids {
            let number = match self.storage_number(storage_id)? {
                Some(number) => number,
                None => {
                    let number = self.counters.take_storage();
                    let mut row = [STORAGE_VERSION; 5];
                    row[1..].copy_from_slice(&number.to_le_bytes());
                    self.insert(Table::Storages, storage_id.as_bytes(), &row);
                    let mut name = vec![STORAGE_VERSION];
                    name.extend_from_slice(storage_id.as_bytes());
                    self.insert(Table::StorageNames, &number.to_be_bytes(), &name);
                    number
                }
            };
            hints.push(number);
        }
        Ok(hints)
    }

    /// Numbers of storages that a client named. Ones never seen are left out: a client cannot make the
    /// table grow.
    pub(super) fn known_storages(&self, storage_ids: &[String]) -> Result<Hints, StoreError> {
        let mut hints = Hints::new();
        for storage_id in storage_ids {
            hints.extend(self.storage_number(storage_id)?);
        }
        Ok(hints)
    }
}
