//! Cutting a closed file to a shorter length.

use super::{NAMENODE_HOLDER, check, recovery};
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::error::{InvalidReason, NamesystemError};
use crate::namesystem::path::Path;
use crate::namesystem::permission::Access;
use crate::namesystem::resolve::{self, Spot};
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::Tables;

/// Cuts at a block's end at once. Elsewhere the block that is cut through goes through recovery, and
/// the namenode holds the file's lease until that ends.
pub(super) fn run(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::TruncateOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    check::holder(&op.holder)?;
    let mut file = resolve::node(tables, context.caller, &path)?;
    check::regular(&file, &path)?;
    resolve::check_access(context.caller, &file, Access::WRITE, &path, Spot::Node)?;
    check::closed(&file, &path)?;
    if op.length > file.size {
        return Err(check::invalid(path.subject(), InvalidReason::LongerThanFile));
    }
    let done = log::LeaseRecovery { closed: true, inode: file.id.get(), ..Default::default() };
    if op.length == file.size {
        return Ok(Reply::Recovery(done));
    }

    let kept_blocks = op.length.div_ceil(file.block_size);
    tables.remove_blocks(context, &mut file, kept_blocks, usize::MAX)?;
    file.size = op.length;
    file.touch_content(context.now_ns);
    // The block that is cut through, unless the cut is at its end (or in a hole).
    let cut = tables.last_block(file.id)?.and_then(|last| {
        let start = last.index * file.block_size;
        (start + last.length > op.length).then(|| (op.length - start, last))
    });
    let reply = match cut {
        Some((length, record)) => {
            tables.take_lease(context, &mut file, NAMENODE_HOLDER)?;
            recovery::start(tables, context, &mut file, &record, Some(length))?
        }
        None => done,
    };
    tables.put_inode(&file);
    Ok(Reply::Recovery(reply))
}
