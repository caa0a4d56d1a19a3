//! The life of a write pipeline: lengths that reached disks, members that were lost.

use super::check;
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::error::NamesystemError;
use crate::namesystem::tables::Tables;

/// Records a length that is on disk on all members.
pub(super) fn fsync(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::FsyncOp,
) -> Result<Reply, NamesystemError> {
    let mut file = check::written_by(tables, op.inode, &op.holder)?;
    let block = op.block.unwrap_or_default();
    let before = check::block_of(tables, &file, &block)?;
    check::writable(&before, &block)?;
    check::length(&before, &file, &block)?;
    if block.length > before.length || block.stamp() != before.stamp {
        tables.advance_block(context, &mut file, &before, &block, &[])?;
        if block.length > before.length {
            file.size = file.size.max(before.index * file.block_size + block.length);
            file.touch_content(context.now_ns);
        }
        tables.put_inode(&file);
    }
    Ok(Reply::Empty(Default::default()))
}

/// Gives a stamp for a new pipeline. The recorded stamp stays until the pipeline stands, so that the
/// replicas of the old one remain valid if it never does.
pub(super) fn update_block(
    tables: &mut Tables<'_>,
    _context: &mut Context<'_>,
    op: &log::UpdateBlockForPipelineOp,
) -> Result<Reply, NamesystemError> {
    let file = check::written_by(tables, op.inode, &op.holder)?;
    let block = op.block.unwrap_or_default();
    let mut record = check::block_of(tables, &file, &block)?;
    check::writable(&record, &block)?;
    record.issued = tables.counters.take_stamp();
    tables.put_block(&record);
    Ok(Reply::NewGenerationStamp(record.issued.get()))
}

/// Records the pipeline that stands now. Replicas with the old stamp are stale from here on.
pub(super) fn update_pipeline(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::UpdatePipelineOp,
) -> Result<Reply, NamesystemError> {
    check::storage_ids(&op.storage_ids)?;
    let mut file = check::written_by(tables, op.inode, &op.holder)?;
    let old = op.old_block.unwrap_or_default();
    let new = op.new_block.unwrap_or_default();
    let before = check::block_of(tables, &file, &old)?;
    let stale =
        |given| NamesystemError::StaleGenerationStamp { block: before.id, given, recorded: before.stamp };
    check::writable(&before, &old)?;
    if new.block_id() != before.id {
        return Err(NamesystemError::BlockNotFound { block: new.block_id() });
    }
    if new.stamp() != before.issued {
        return Err(stale(new.stamp()));
    }
    check::length(&before, &file, &new)?;
    if op.storage_ids.is_empty() {
        return Err(NamesystemError::NotYetReplicated { block: before.id });
    }

    tables.advance_block(context, &mut file, &before, &new, &op.storage_ids)?;
    if new.length > before.length {
        file.size = file.size.max(before.index * file.block_size + new.length);
        file.touch_content(context.now_ns);
    }
    tables.put_inode(&file);
    Ok(Reply::Empty(Default::default()))
}
