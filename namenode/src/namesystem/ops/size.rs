//! Length of a file, without its datanodes: rows behind the new end go, the one that it cuts through gets
//! shorter, and what lies beyond the rows is a hole. Replicas stay as long as they are: readers do not look
//! behind the row's end, and the next writer of the block has its datanodes cut them.

use super::check;
use crate::namesystem::apply::Context;
use crate::namesystem::effect::Effect;
use crate::namesystem::error::{InvalidReason, NamesystemError, StoreError};
use crate::namesystem::inode::Inode;
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::Tables;

/// Checks that a file can be so long. A block under construction cannot be cut shorter than what is recorded of
/// it: its writer has to finish it first.
pub(super) fn check(tables: &Tables<'_>, file: &Inode, bytes: u64) -> Result<(), NamesystemError> {
    within_limit(file, bytes)?;
    match cut_through(tables, file, bytes)? {
        Some((record, _)) if record.is_open() => {
            Err(check::invalid(record.id.to_string(), InvalidReason::BlockOpen))
        }
        _ => Ok(()),
    }
}

/// Checks that a file may grow to this length at all.
pub(super) fn within_limit(file: &Inode, bytes: u64) -> Result<(), NamesystemError> {
    if bytes > check::BLOCKS_PER_FILE_MAX.saturating_mul(file.block_size) {
        return Err(NamesystemError::TooLarge { subject: file.id.to_string() });
    }
    Ok(())
}

/// Sets the length of a file, which the caller writes afterwards.
pub(super) fn set(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    file: &mut Inode,
    bytes: u64,
) -> Result<(), StoreError> {
    if bytes < file.size || file.open_blocks > 0 {
        tables.remove_blocks(context, file, bytes.div_ceil(file.block_size), usize::MAX)?;
    }
    if let Some((before, length)) = cut_through(tables, file, bytes)? {
        let mut record = before.clone();
        record.length = length;
        tables.change_block(file, &before, &record);
        context.effects.push(Effect::BlockCut { block: tables.stored_block(&record)? });
    }
    file.size = bytes;
    Ok(())
}

/// The block with data behind a new end within it, and what is left of it.
fn cut_through(
    tables: &Tables<'_>,
    file: &Inode,
    bytes: u64,
) -> Result<Option<(crate::namesystem::block_record::BlockRecord, u64)>, StoreError> {
    let length = bytes % file.block_size;
    if bytes >= file.size || length == 0 {
        return Ok(None);
    }
    let record = tables.block_at(file.id, bytes / file.block_size)?;
    Ok(record.filter(|record| record.length > length).map(|record| (record, length)))
}
