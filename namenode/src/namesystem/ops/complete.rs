//! Closing a file.

use dfs_proto::InodeId;

use super::check;
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::block_record::BlockRecord;
use crate::namesystem::error::{InvalidReason, NamesystemError};
use crate::namesystem::inode::Inode;
use crate::namesystem::rows::Rows;
use crate::namesystem::stored_block::BlockState;
use crate::namesystem::tables::Tables;

/// What happens to the last block.
enum Last {
    /// Nothing: there is none, or it is complete.
    Keep,
    /// It was allocated but holds nothing.
    Drop(BlockRecord),
    /// Its writer finished it.
    Commit(BlockRecord),
}

/// Commits the last block and ends the lease. A file that is closed just as the request wants it was
/// closed by an earlier sending of the same call.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::CompleteOp,
) -> Result<Reply, NamesystemError> {
    let mut file = check::live_file(tables, op.inode)?;
    let last = tables.last_block(file.id)?;
    if !check::holds(&file, &op.holder) {
        return if file.holder.is_none() && closed_as_wanted(&file, last.as_ref(), op) {
            Ok(Reply::Status(file.status(bytes::Bytes::new())))
        } else {
            Err(NamesystemError::LeaseExpired { inode: InodeId(op.inode), holder: op.holder.clone() })
        };
    }
    let block = op.last.as_ref().and_then(|l| l.block).unwrap_or_default();
    let storage_ids = op.last.as_ref().map(|l| l.storage_ids.as_slice()).unwrap_or_default();
    let last = match (last, &op.last) {
        (None, None) => Last::Keep,
        (Some(record), None) if record.state == BlockState::Complete => Last::Keep,
        (Some(record), None) if record.length == 0 => Last::Drop(record),
        (Some(record), None) => {
            return Err(check::invalid(record.id.to_string(), InvalidReason::BlockHoldsData));
        }
        (Some(record), Some(committed)) if record.id == block.block_id() => {
            match check::commit(&record, &file, committed)? {
                false => Last::Keep,
                true if block.length == 0 => Last::Drop(record),
                true => Last::Commit(record),
            }
        }
        (_, Some(_)) => return Err(check::invalid(block.to_string(), InvalidReason::NotLastBlock)),
    };

    check_no_other_open(tables, &file, &last)?;

    match last {
        Last::Keep => {}
        Last::Drop(record) => tables.remove_block(context, &mut file, &record),
        Last::Commit(record) => {
            file.size = file.size.max(record.index * file.block_size + block.length);
            tables.commit_block(context, &mut file, &record, &block, storage_ids)?;
        }
    }
    tables.close(context, &mut file)?;
    file.touch_content(context.now_ns);
    tables.put_inode(&file);
    Ok(Reply::Status(file.status(bytes::Bytes::new())))
}

/// A writer that had more than the last block open has to finish those first.
fn check_no_other_open(tables: &Tables<'_>, file: &Inode, last: &Last) -> Result<(), NamesystemError> {
    let finished = match last {
        Last::Keep => None,
        Last::Drop(record) | Last::Commit(record) => Some(record.id),
    };
    if file.open_blocks <= u32::from(finished.is_some()) {
        return Ok(());
    }
    match tables.open_blocks(file)?.into_iter().find(|open| Some(open.id) != finished) {
        Some(open) => Err(check::invalid(open.id.to_string(), InvalidReason::BlockOpen)),
        None => Ok(()),
    }
}

fn closed_as_wanted(file: &Inode, last: Option<&BlockRecord>, op: &log::CompleteOp) -> bool {
    match (last, &op.last) {
        (None, None) => file.size == 0,
        (Some(record), Some(committed)) => {
            let block = committed.block.unwrap_or_default();
            record.id == block.block_id()
                && record.state == BlockState::Complete
                && record.stamp == block.stamp()
                && record.length == block.length
        }
        _ => false,
    }
}
