//! Giving nodes more names and taking names away, by POSIX's rules.

use dfs_proto::InodeId;

use super::check;
use crate::log::{self, reply::Reply};
use crate::namesystem::apply::Context;
use crate::namesystem::error::{InvalidReason, NamesystemError};
use crate::namesystem::path::Path;
use crate::namesystem::permission::Access;
use crate::namesystem::resolve::{self, Spot};
use crate::namesystem::rows::Rows;
use crate::namesystem::tables::Tables;

/// Most names of one node, as on ext4.
pub(in crate::namesystem) const LINKS_MAX: u32 = 65_000;

/// Gives a node that is not a directory one more name.
pub(super) fn link(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::LinkOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    let id = InodeId(op.inode);
    // A node without a name does not get one again.
    let mut node = match tables.inode(id)? {
        Some(node) if node.nlink > 0 => node,
        _ => return Err(NamesystemError::InodeNotFound { inode: id }),
    };
    let exists = || NamesystemError::AlreadyExists { path: path.subject() };
    let place = resolve::place(tables, context.caller, &path)?.ok_or_else(exists)?;
    if place.child.is_some() {
        return Err(exists());
    }
    let mut directory = place.directory;
    resolve::check_access(context.caller, &directory, Access::WRITE_EXECUTE, &path, Spot::Directory)?;
    if node.is_directory() {
        let user = context.caller.map(|c| c.user.clone()).unwrap_or_default();
        return Err(NamesystemError::NotPermitted { path: path.subject(), user });
    }
    if node.nlink >= LINKS_MAX {
        return Err(NamesystemError::TooManyLinks { path: path.subject() });
    }

    tables.link(&mut directory, place.name, &node, context.now_ns);
    tables.put_inode(&directory);
    node.nlink += 1;
    node.touch_attributes(context.now_ns);
    tables.put_inode(&node);
    Ok(Reply::Status(node.status(bytes::Bytes::new())))
}

/// Removes a name, of an empty directory or of anything else. Answers the node as it is afterwards.
pub(super) fn unlink(
    tables: &mut Tables<'_>,
    context: &mut Context<'_>,
    op: &log::UnlinkOp,
) -> Result<Reply, NamesystemError> {
    let path = Path::parse(op.node.as_ref())?;
    let mut place = resolve::place(tables, context.caller, &path)?
        .ok_or_else(|| check::invalid(path.subject(), InvalidReason::BaseItself))?;
    let Some(entry) = place.child else {
        return Err(NamesystemError::NotFound { path: path.subject() });
    };
    check::expected(op.inode, Some(entry.inode), &path)?;
    let node = tables.existing_inode(entry.inode)?;
    resolve::check_remove(context.caller, &place.directory, &node, &path, Spot::Directory)?;
    match (op.directory, node.is_directory()) {
        (true, false) => return Err(NamesystemError::NotADirectory { path: path.subject() }),
        (false, true) => return Err(NamesystemError::IsADirectory { path: path.subject() }),
        (true, true) if tables.has_entries(node.id)? => {
            return Err(NamesystemError::DirectoryNotEmpty { path: path.subject() });
        }
        (true, true) | (false, false) => {}
    }

    tables.unlink(&mut place.directory, place.name, &node, context.now_ns);
    tables.put_inode(&place.directory);
    let node = tables.drop_name(context, node, op.opened)?;
    Ok(Reply::Status(node.status(bytes::Bytes::new())))
}
