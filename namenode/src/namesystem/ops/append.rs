//! Reopening a file for writing at its end.

use super::{block_spec, check};
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::error::{InvalidReason, NamesystemError};
use crate::namesystem::path::Path;
use crate::namesystem::permission::Access;
use crate::namesystem::resolve::{self, Spot};
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::Tables;

/// Gives the lease to the holder. A last block that is not full is under construction again, with a
/// stamp for the append pipeline; the recorded one stays until that pipeline reports.
///
/// A file that ends in a hole within a block is refused: the pipeline would go on at the end of the block's
/// data, which is not the file's end. Only a mount can write there.
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
    let in_last = file.size % file.block_size;
    let partial = match in_last {
        0 => None,
        _ => match tables.block_at(file.id, file.size / file.block_size)? {
            Some(record) if record.length == in_last => Some(record),
            _ => return Err(check::invalid(path.subject(), InvalidReason::EndsInHole)),
        },
    };

    let mut opened = log::OpenedForWrite::default();
    if let Some(before) = partial {
        let (record, targets) = tables.reopen_block(context, &mut file, &before)?;
        opened.block = Some(block_spec(&record, file.block_size, targets));
        opened.new_generation_stamp = record.issued.get();
    }
    tables.take_lease(context, &mut file, &op.holder)?;
    file.touch_attributes(context.now_ns);
    tables.put_inode(&file);
    opened.status = Some(file.status(bytes::Bytes::new()));
    Ok(Reply::Opened(opened))
}
