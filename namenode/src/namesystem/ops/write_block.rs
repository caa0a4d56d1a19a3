//! What a mount does to write anywhere in a file: it takes the lease and makes blocks writable, any number of
//! them at once.

use super::{block_spec, check, size};
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::error::NamesystemError;
use crate::namesystem::path::Path;
use crate::namesystem::permission::{self, Access};
use crate::namesystem::resolve::{self, Spot};
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::Tables;

/// Takes the lease of a file; whoever holds it already goes on. Opening changes nothing that a caller of stat
/// could see, unless it cuts the file.
pub(super) fn acquire_lease(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::AcquireLeaseOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    check::holder(&op.holder)?;
    let mut file = resolve::node(tables, context.caller, &path)?;
    check::regular(&file, &path)?;
    if !op.reopen {
        resolve::check_access(context.caller, &file, Access::WRITE, &path, Spot::Node)?;
    }
    check::closed_or_held_by(&file, &op.holder, &path)?;

    if file.holder.is_none() {
        tables.take_lease(context, &mut file, &op.holder)?;
    } else if !op.truncate {
        return Ok(opened(&file, None, 0));
    }
    if op.truncate {
        size::set(tables, context, &mut file, 0)?;
        if context.caller.is_some_and(|c| !c.superuser) {
            file.mode = permission::without_set_id(file.mode, false);
        }
        file.touch_content(context.now_ns);
    }
    tables.put_inode(&file);
    Ok(opened(&file, None, 0))
}

/// Makes the block at an index writable.
///
/// * None there: a new one, with these targets.
/// * A new one that nothing is known to be written to: the same again.
/// * Complete, or being written: a stamp for the pipeline that is to be set up on its replicas. The recorded
///   stamp stays until that pipeline reports.
pub(super) fn write_block(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::WriteBlockOp,
) -> Result<Reply, NamesystemError> {
    check::storage_ids(&op.targets)?;
    let mut file = check::written_by(tables, op.inode, &op.holder)?;
    if op.index >= check::BLOCKS_PER_FILE_MAX {
        return Err(NamesystemError::TooLarge { subject: file.id.to_string() });
    }
    let Some(before) = tables.block_at(file.id, op.index)? else {
        if op.targets.is_empty() {
            return Err(NamesystemError::NoUsableDatanode { inode: file.id });
        }
        let record = tables.allocate_block(context, &mut file, op.index, &op.targets)?;
        tables.put_inode(&file);
        return Ok(opened(&file, Some(block_spec(&record, file.block_size, op.targets.clone())), 0));
    };
    if before.is_untouched() {
        let targets = tables.stored_block(&before)?.hints;
        return Ok(opened(&file, Some(block_spec(&before, file.block_size, targets)), 0));
    }
    let (record, targets) = if before.is_open() {
        let mut record = before.clone();
        record.issued = tables.counters.take_stamp();
        tables.put_block(&record);
        let targets = tables.stored_block(&record)?.hints;
        (record, targets)
    } else {
        let reopened = tables.reopen_block(context, &mut file, &before)?;
        tables.put_inode(&file);
        reopened
    };
    let spec = block_spec(&record, file.block_size, targets);
    Ok(opened(&file, Some(spec), record.issued.get()))
}

fn opened(
    file: &crate::namesystem::inode::Inode,
    block: Option<log::BlockSpec>,
    new_generation_stamp: u64,
) -> Reply {
    let status = Some(file.status(bytes::Bytes::new()));
    Reply::Opened(log::OpenedForWrite { status, block, new_generation_stamp })
}
