//! Lease recovery: closing a file whose writer is gone, with blocks that their datanodes agree on.

use dfs_proto::{BlockId, GenerationStamp, v1};

use super::{NAMENODE_HOLDER, block_spec, check};
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::block_record::BlockRecord;
use crate::namesystem::effect::Effect;
use crate::namesystem::error::{InvalidReason, NamesystemError, StoreError};
use crate::namesystem::inode::Inode;
use crate::namesystem::path::Path;
use crate::namesystem::permission::Access;
use crate::namesystem::resolve::{self, Spot};
use crate::namesystem::rows::Rows;
use crate::namesystem::stored_block::BlockState;
use crate::namesystem::tables::Tables;

/// Takes the lease for the namenode. Closes the file at once if no block of it may hold data that is not
/// settled; else starts a recovery of each such block, again with a higher stamp if one runs already.
pub(super) fn recover_lease(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::RecoverLeaseOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    let mut file = resolve::node(tables, context.caller, &path)?;
    check::regular(&file, &path)?;
    resolve::check_access(context.caller, &file, Access::WRITE, &path, Spot::Node)?;
    let closed = log::LeaseRecovery { closed: true, inode: file.id.get(), ..Default::default() };
    if file.holder.is_none() {
        return Ok(Reply::Recovery(closed));
    }
    let mut open = tables.open_blocks(&file)?;
    // From the file's start on.
    open.reverse();
    let (written, unwritten): (Vec<_>, Vec<_>) =
        open.into_iter().partition(|record| record.length > 0 || !record.hints.is_empty());

    for record in &unwritten {
        tables.remove_block(context, &mut file, record);
    }
    if written.is_empty() {
        tables.close(context, &mut file)?;
        file.touch_content(context.now_ns);
        tables.put_inode(&file);
        return Ok(Reply::Recovery(closed));
    }
    if file.holder.as_deref() != Some(NAMENODE_HOLDER) {
        tables.take_lease(context, &mut file, NAMENODE_HOLDER)?;
        file.touch_attributes(context.now_ns);
    }
    let mut first = None;
    for record in &written {
        let started = start(tables, context, &mut file, record, record.settled_length)?;
        first.get_or_insert(started);
    }
    tables.put_inode(&file);
    Ok(Reply::Recovery(first.unwrap_or(closed)))
}

/// Puts a block under recovery with a new stamp; the caller writes the file afterwards.
pub(super) fn start(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    file: &mut Inode,
    before: &BlockRecord,
    truncate_length: Option<u64>,
) -> Result<log::LeaseRecovery, StoreError> {
    let mut record = before.clone();
    record.state = BlockState::UnderRecovery;
    record.issued = tables.counters.take_stamp();
    record.settled_length = truncate_length;
    tables.change_block(file, before, &record);
    let block = tables.stored_block(&record)?;
    let reply = log::LeaseRecovery {
        closed: false,
        block: Some(block_spec(&record, file.block_size, block.hints.clone())),
        new_generation_stamp: record.issued.get(),
        truncate_length: record.settled_length,
        inode: record.inode.get(),
    };
    context.effects.push(Effect::RecoveryStarted {
        storage_ids: block.hints.clone(),
        block,
        new_stamp: record.issued,
        truncate_length: record.settled_length,
    });
    Ok(reply)
}

/// Takes the outcome of the recovery of a block, and closes the file when that was its last one. Only the
/// latest recovery counts.
pub(super) fn commit_block_synchronization(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::CommitBlockSynchronizationOp,
) -> Result<Reply, NamesystemError> {
    check::storage_ids(&op.storage_ids)?;
    let id = BlockId(op.block.unwrap_or_default().id);
    let new_stamp = GenerationStamp(op.new_generation_stamp);
    let Some(record) = tables.block_record(id)? else {
        return Err(NamesystemError::BlockNotFound { block: id });
    };
    if record.state == BlockState::Complete && record.stamp == new_stamp {
        // Told before.
        return Ok(Reply::Empty(Default::default()));
    }
    if record.state != BlockState::UnderRecovery || record.issued != new_stamp {
        return Err(NamesystemError::StaleGenerationStamp {
            block: id,
            given: new_stamp,
            recorded: record.issued,
        });
    }
    let mut file = tables.existing_inode(record.inode)?;
    let block = v1::Block { id: id.get(), generation_stamp: new_stamp.get(), length: op.new_length };
    let drop_block = op.delete_block || op.new_length == 0;
    if drop_block {
        // Data that was acknowledged as being on disk is not given up because no replica can be
        // reached now: recovery is tried again when they are back.
        if record.length > 0 {
            return Err(NamesystemError::NotYetReplicated { block: id });
        }
    } else {
        let length_fits = match record.settled_length {
            Some(length) => op.new_length == length,
            None => op.new_length <= file.block_size,
        };
        if !length_fits {
            return Err(check::invalid(block.to_string(), InvalidReason::BlockLength));
        }
        if op.storage_ids.is_empty() {
            return Err(NamesystemError::NotYetReplicated { block: id });
        }
    }

    if drop_block {
        tables.remove_block(context, &mut file, &record);
    } else {
        let start = record.index * file.block_size;
        let end = start + op.new_length;
        // If the file ends with this block, its replicas say where.
        let is_last = file.size == start + record.covered();
        file.size = if is_last { end } else { file.size.max(end) };
        tables.record_storages(&op.storage_ids)?;
        tables.commit_block(context, &mut file, &record, &block, &op.storage_ids)?;
    }
    if tables.open_blocks(&file)?.is_empty() {
        tables.close(context, &mut file)?;
    }
    file.touch_content(context.now_ns);
    tables.put_inode(&file);
    Ok(Reply::Empty(Default::default()))
}
