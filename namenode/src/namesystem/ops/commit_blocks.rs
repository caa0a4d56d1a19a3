//! Recording what a mount has written.

use std::collections::BTreeSet;

use dfs_proto::{BlockId, v1};

use super::{check, size};
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::block_record::BlockRecord;
use crate::namesystem::error::{InvalidReason, NamesystemError};
use crate::namesystem::inode::Inode;
use crate::namesystem::tables::Tables;

/// What becomes of a block.
enum Fate {
    /// It is recorded as named already.
    Keep,
    /// It goes on, with this length and the stamp of its pipeline.
    Record,
    /// Its writer finished it.
    Commit,
    /// It holds nothing.
    Drop,
}

/// Records lengths, finished blocks and the size, and may end the lease. The times change if anything was
/// written, or if the writer names another time. Blocks that were allocated and never written go when the lease ends.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::CommitBlocksOp,
) -> Result<Reply, NamesystemError> {
    let mut file = check::written_by(tables, op.inode, &op.holder)?;
    let mut end = file.size.max(op.size.unwrap_or_default());
    let mut named = BTreeSet::new();
    let mut fates = Vec::with_capacity(op.blocks.len());
    for written in &op.blocks {
        let block = written.block.unwrap_or_default();
        let before = check::block_of(tables, &file, &block)?;
        if !named.insert(before.id) {
            return Err(check::invalid(block.to_string(), InvalidReason::BlockTwice));
        }
        if block.length > 0 {
            end = end.max(before.index * file.block_size + block.length);
        }
        let fate = fate(&file, &before, &block, written)?;
        fates.push((fate, before, block, &written.storage_ids));
    }
    size::within_limit(&file, end)?;
    let unwritten = if op.close { unwritten(tables, &file, &fates)? } else { Vec::new() };

    // A writer that tells its time of writing has written since then or not: finishing what was recorded before is no
    // change, or the times of a file would move after its close.
    let written = match op.mtime_ns {
        Some(mtime_ns) => mtime_ns != file.mtime_ns,
        None => fates.iter().any(|(fate, ..)| !matches!(fate, Fate::Keep)),
    };
    let changed = end != file.size || written;
    for (fate, before, block, storage_ids) in fates {
        match fate {
            Fate::Keep => {}
            Fate::Record => tables.advance_block(context, &mut file, &before, &block, storage_ids)?,
            Fate::Commit => tables.commit_block(context, &mut file, &before, &block, storage_ids)?,
            Fate::Drop => tables.remove_block(context, &mut file, &before),
        }
    }
    file.size = end;
    if changed {
        file.touch_content(context.now_ns);
        file.mtime_ns = op.mtime_ns.unwrap_or(context.now_ns);
    }
    if op.close {
        for record in &unwritten {
            tables.remove_block(context, &mut file, record);
        }
        tables.close(context, &mut file)?;
    }
    tables.put_inode(&file);
    Ok(Reply::Status(file.status(bytes::Bytes::new())))
}

fn fate(
    file: &Inode,
    before: &BlockRecord,
    block: &v1::Block,
    written: &v1::WrittenBlock,
) -> Result<Fate, NamesystemError> {
    check::storage_ids(&written.storage_ids)?;
    if written.finished {
        return Ok(match check::commit_on(before, file, block, &written.storage_ids)? {
            false => Fate::Keep,
            true if block.length == 0 => Fate::Drop,
            true => Fate::Commit,
        });
    }
    check::writable(before, block)?;
    check::length(before, file, block)?;
    let same = block.stamp() == before.stamp && block.length == before.length;
    Ok(if same { Fate::Keep } else { Fate::Record })
}

/// Blocks that were never written, and go with the lease. Any other open block has to be finished before.
fn unwritten(
    tables: &Tables<'_>,
    file: &Inode,
    fates: &[(Fate, BlockRecord, v1::Block, &Vec<String>)],
) -> Result<Vec<BlockRecord>, NamesystemError> {
    let finished: BTreeSet<BlockId> = fates
        .iter()
        .filter(|(fate, before, ..)| before.is_open() && matches!(fate, Fate::Commit | Fate::Drop))
        .map(|(_, before, ..)| before.id)
        .collect();
    if finished.len() as u64 == u64::from(file.open_blocks) {
        return Ok(Vec::new());
    }
    let recorded =
        |id| fates.iter().any(|(fate, before, ..)| before.id == id && matches!(fate, Fate::Record));
    let mut unwritten = Vec::new();
    for open in tables.open_blocks(file)? {
        if finished.contains(&open.id) {
            continue;
        }
        if open.length > 0 || recorded(open.id) {
            return Err(check::invalid(open.id.to_string(), InvalidReason::BlockOpen));
        }
        unwritten.push(open);
    }
    Ok(unwritten)
}
