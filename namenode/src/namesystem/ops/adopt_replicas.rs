//! After a restore from a backup: a block that was written again since the backup has replicas which are newer than the
//! namespace knows it, and none that are as it knows. An operator has the namespace take over what they are.

use dfs_proto::BlockId;

use super::check;
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::error::{InvalidReason, NamesystemError};
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::Tables;

/// Gives a block stamp and length of its newer replicas, and its file the size that follows. Blocks that were added after it
/// are not known to any file, and stay lost. A file whose writer is gone is closed when this was its last open block.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::AdoptReplicasOp,
) -> Result<Reply, NamesystemError> {
    check::storage_ids(&op.storage_ids)?;
    let block = op.block.unwrap_or_default();
    let id = BlockId(block.id);
    let Some(record) = tables.block_record(id)? else {
        return Err(NamesystemError::BlockNotFound { block: id });
    };
    if !record.is_open() && record.stamp == block.stamp() {
        // Told before.
        return Ok(Reply::Empty(Default::default()));
    }
    if block.stamp() <= record.stamp || block.stamp() <= record.issued {
        // It was written again since the restore.
        return Err(NamesystemError::StaleGenerationStamp {
            block: id,
            given: block.stamp(),
            recorded: record.issued,
        });
    }
    let mut file = tables.existing_inode(record.inode)?;
    if block.length > file.block_size {
        return Err(check::invalid(block.to_string(), InvalidReason::BlockLength));
    }
    if op.storage_ids.is_empty() {
        return Err(NamesystemError::NotYetReplicated { block: id });
    }
    let start = record.index * file.block_size;
    let end = start + block.length;
    let is_last = file.size == start + record.covered();
    file.size = if is_last { end } else { file.size.max(end) };
    tables.record_storages(&op.storage_ids)?;
    tables.commit_block(context, &mut file, &record, &block, &op.storage_ids)?;
    if file.holder.is_some() && tables.open_blocks(&file)?.is_empty() {
        tables.close(context, &mut file)?;
    }
    file.touch_content(context.now_ns);
    tables.put_inode(&file);
    Ok(Reply::Empty(Default::default()))
}
