//! Reopening a file for writing at its end.

use super::{block_spec, check};
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::effect::Effect;
use crate::namesystem::error::NamesystemError;
use crate::namesystem::path::Path;
use crate::namesystem::permission::Access;
use crate::namesystem::resolve::{self, Spot};
use crate::namesystem::rows::Rows;
use crate::namesystem::stored_block::BlockState;
use crate::namesystem::tables::Tables;

/// Gives the lease to the holder. A last block that is not full is under construction again, with a
/// stamp for the append pipeline; the recorded one stays until that pipeline reports.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::AppendOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    check::holder(&op.holder)?;
    let mut file = resolve::node(tables, context.caller, &path)?;
    check::regular(&file, &path)?;
    resolve::check_access(context.caller, &file, Access::WRITE, &path, Spot::Node)?;
    check::closed(&file, &path)?;
    let partial = tables.last_block(file.id)?.filter(|last| last.length < file.block_size);

    let mut opened = log::OpenedForWrite::default();
    if let Some(mut record) = partial {
        record.state = BlockState::UnderConstruction;
        record.issued = tables.counters.take_stamp();
        tables.put_block(&record)?;
        let block = tables.stored_block(&record)?;
        opened.block = Some(block_spec(&record, file.block_size, block.hints.clone()));
        opened.new_generation_stamp = record.issued.get();
        let targets = block.hints.clone();
        context.effects.push(Effect::BlockAllocated { block, targets });
    }
    tables.take_lease(context, &mut file, &op.holder)?;
    file.touch_attributes(context.now_ns);
    tables.put_inode(&file)?;
    opened.status = Some(file.status(bytes::Bytes::new()));
    Ok(Reply::Opened(opened))
}
