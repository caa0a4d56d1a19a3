//! Blocks of a file being written: adding the next, giving back the last.

use super::{block_spec, check};
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::block_record::BlockRecord;
use crate::namesystem::error::{InvalidReason, NamesystemError};
use crate::namesystem::inode::Inode;
use crate::namesystem::rows::Rows;
use crate::namesystem::stored_block::BlockState;
use crate::namesystem::tables::Tables;

/// Blocks of one file at most: 128 TiB with the default block size.
const BLOCKS_PER_FILE_MAX: u64 = 1 << 20;

/// Commits the previous block and adds one. If the file already has an untouched block behind
/// `previous`, that one is answered again: the call was repeated under another call id (HDFS's rule).
pub(super) fn add(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::AddBlockOp,
) -> Result<Reply, NamesystemError> {
    check::storage_ids(&op.targets)?;
    let mut file = check::written_by(tables, op.inode, &op.holder)?;
    let last = tables.last_block(file.id)?;
    if let Some(last) = &last
        && is_untouched_successor(tables, last, op)?
    {
        let targets = tables.stored_block(last)?.hints;
        return Ok(Reply::Block(block_spec(last, file.block_size, targets)));
    }
    let to_commit = match (&last, &op.previous) {
        (None, None) => None,
        (Some(last), Some(previous)) => {
            let block = previous.block.unwrap_or_default();
            if last.id != block.block_id() {
                return Err(check::invalid(block.to_string(), InvalidReason::NotLastBlock));
            }
            if block.length != file.block_size {
                return Err(check::invalid(block.to_string(), InvalidReason::BlockNotFull));
            }
            check::commit(last, &file, previous)?.then_some((last, previous, block))
        }
        (Some(last), None) if is_full(last, &file) => None,
        (Some(last), None) => {
            return Err(check::invalid(last.id.to_string(), InvalidReason::Incomplete));
        }
        (None, Some(previous)) => {
            let block = previous.block.unwrap_or_default();
            return Err(check::invalid(block.to_string(), InvalidReason::NotLastBlock));
        }
    };
    let index = last.as_ref().map_or(0, |last| last.index + 1);
    if index >= BLOCKS_PER_FILE_MAX {
        return Err(NamesystemError::TooLarge { subject: file.id.to_string() });
    }
    if op.targets.is_empty() {
        return Err(NamesystemError::NoUsableDatanode { inode: file.id });
    }

    if let Some((record, previous, block)) = to_commit {
        tables.commit_block(context, record.clone(), &block, &previous.storage_ids)?;
        file.size = index * file.block_size;
        file.touch_content(context.now_ns);
        tables.put_inode(&file)?;
    }
    let record = tables.allocate_block(context, &file, index, &op.targets)?;
    Ok(Reply::Block(block_spec(&record, file.block_size, op.targets.clone())))
}

/// Whether `last` is the block that this very request added before, still as it was then.
fn is_untouched_successor(
    tables: &Tables<'_>,
    last: &BlockRecord,
    op: &log::AddBlockOp,
) -> Result<bool, NamesystemError> {
    if last.state != BlockState::UnderConstruction || last.length != 0 || last.stamp != last.issued {
        return Ok(false);
    }
    let Some(previous) = &op.previous else {
        return Ok(last.index == 0);
    };
    let block = previous.block.unwrap_or_default();
    match tables.block_record(block.block_id())? {
        Some(record) => Ok(record.inode == last.inode
            && record.index + 1 == last.index
            && record.stamp == block.stamp()
            && record.length == block.length),
        None => Ok(false),
    }
}

fn is_full(last: &BlockRecord, file: &Inode) -> bool {
    last.state == BlockState::Complete && last.length == file.block_size
}

/// Gives back the last block, which must not hold data that the namenode knows of. A block that is gone
/// was given back before.
pub(super) fn abandon(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::AbandonBlockOp,
) -> Result<Reply, NamesystemError> {
    let mut file = check::written_by(tables, op.inode, &op.holder)?;
    let block = op.block.unwrap_or_default();
    if tables.block_record(block.block_id())?.is_none() {
        return Ok(Reply::Empty(Default::default()));
    }
    let record = check::last_block(tables, &file, &block)?;
    check::writable(&record, &block)?;
    if record.length > 0 {
        return Err(check::invalid(block.to_string(), InvalidReason::BlockHoldsData));
    }
    tables.remove_block(context, &record)?;
    file.touch_attributes(context.now_ns);
    tables.put_inode(&file)?;
    Ok(Reply::Empty(Default::default()))
}
