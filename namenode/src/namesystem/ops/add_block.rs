//! Blocks of a file being written: adding the next at its end, giving one back.

use super::{block_spec, check};
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::block_record::BlockRecord;
use crate::namesystem::error::{InvalidReason, NamesystemError};
use crate::namesystem::inode::Inode;
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::Tables;

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
        && is_untouched_successor(tables, &file, last, op)?
    {
        let targets = tables.stored_block(last)?.hints;
        return Ok(Reply::Block(block_spec(last, file.block_size, targets)));
    }
    let to_commit = match (&last, &op.previous) {
        // The end may be behind a hole, so the last row says nothing.
        (_, None)
            if file.size.is_multiple_of(file.block_size)
                && !last.as_ref().is_some_and(BlockRecord::is_open) =>
        {
            None
        }
        (Some(last), Some(previous)) => {
            let block = previous.block.unwrap_or_default();
            if last.id != block.block_id() {
                return Err(check::invalid(block.to_string(), InvalidReason::NotLastBlock));
            }
            if block.length != file.block_size {
                return Err(check::invalid(block.to_string(), InvalidReason::BlockNotFull));
            }
            if (last.index + 1) * file.block_size < file.size {
                return Err(check::invalid(block.to_string(), InvalidReason::NotLastBlock));
            }
            check::commit(last, &file, previous)?.then_some((last, previous, block))
        }
        (_, None) => return Err(check::invalid(file.id.to_string(), InvalidReason::Incomplete)),
        (None, Some(previous)) => {
            let block = previous.block.unwrap_or_default();
            return Err(check::invalid(block.to_string(), InvalidReason::NotLastBlock));
        }
    };
    let index = match (&last, &op.previous) {
        (Some(last), Some(_)) => last.index + 1,
        _ => file.size / file.block_size,
    };
    if index >= check::BLOCKS_PER_FILE_MAX {
        return Err(NamesystemError::TooLarge { subject: file.id.to_string() });
    }
    if op.targets.is_empty() {
        return Err(NamesystemError::NoUsableDatanode { inode: file.id });
    }

    if let Some((record, previous, block)) = to_commit {
        tables.commit_block(context, &mut file, record, &block, &previous.storage_ids)?;
        file.size = index * file.block_size;
        file.touch_content(context.now_ns);
    }
    let record = tables.allocate_block(context, &mut file, index, &op.targets)?;
    tables.put_inode(&file);
    Ok(Reply::Block(block_spec(&record, file.block_size, op.targets.clone())))
}

/// Whether `last` is the block that this very request added before, still as it was then.
fn is_untouched_successor(
    tables: &Tables<'_>,
    file: &Inode,
    last: &BlockRecord,
    op: &log::AddBlockOp,
) -> Result<bool, NamesystemError> {
    if !last.is_untouched() {
        return Ok(false);
    }
    let Some(previous) = &op.previous else {
        return Ok(last.index * file.block_size == file.size);
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

/// Gives back a block under construction, which must not hold data that the namenode knows of. A block that is gone
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
    let record = check::block_of(tables, &file, &block)?;
    check::writable(&record, &block)?;
    if record.length > 0 {
        return Err(check::invalid(block.to_string(), InvalidReason::BlockHoldsData));
    }
    tables.remove_block(context, &mut file, &record);
    tables.put_inode(&file);
    Ok(Reply::Empty(Default::default()))
}
