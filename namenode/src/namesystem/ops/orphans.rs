//! Unlinked nodes that were open: freed when nobody has them open any longer.

use dfs_proto::InodeId;

use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::error::NamesystemError;
use crate::namesystem::keys;
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::{Table, Tables};

/// Frees orphans; what is none (any more) is passed over.
pub(super) fn release(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::ReleaseOrphansOp,
) -> Result<Reply, NamesystemError> {
    for id in &op.inodes {
        let id = InodeId(*id);
        if tables.is_orphan(id)? {
            tables.remove(Table::Orphans, &keys::inode(id));
            let inode = tables.existing_inode(id)?;
            tables.free(context, inode)?;
        }
    }
    Ok(Reply::Empty(Default::default()))
}
